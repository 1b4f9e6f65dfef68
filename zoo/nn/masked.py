"""Masked convolutions over images, whole or row by row."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskedConv2d(nn.Module):
    """A convolution that sees rows above, and in its own row what is to the left.

    Its kernel reaches `above` rows up, `reach` columns left and, in the rows above, right: the half of a square kernel
    that raster order allows. At the position itself, "A" sees earlier groups of channels alone, "B" its own group too.

    Arguments:
        inputs, outputs: channels.
        above, reach: the kernel's size; a k x k kernel reaches k // 2 both ways, a 1 x 1 kernel 0.
        mask: "A" in a network's first layer, "B" in all others.
        groups: how many equal blocks of channels follow each other, in that order: one a colour, or 1.
        parts: the outputs are this many maps side by side, each with the blocks of all groups (the two halves of a
            gated activation, the four gates of an LSTM).

    Source: van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel Recurrent Neural Networks", 2016.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, above: int, reach: int, mask: str, groups: int = 1, parts: int = 1):
        super().__init__()
        if inputs % groups or outputs % (groups * parts):
            raise ValueError(
                f"{inputs} and {outputs} channels do not divide into {groups} groups of {parts} parts, one a colour"
            )
        self.inputs, self.outputs, self.above, self.reach = inputs, outputs, above, reach
        self.groups, self.parts = groups, parts
        self.own = 1 if mask == "B" else 0
        right = reach if above else 0
        drawn = nn.Conv2d(inputs, outputs, (above + 1, reach + 1 + right))  # for its initialisation
        assert drawn.bias is not None
        self.weight, self.bias = drawn.weight, drawn.bias
        last = torch.zeros(outputs, inputs, 1, reach + 1 + right)
        last[..., :reach] = 1
        into = torch.arange(outputs) % (outputs // parts) // (outputs // parts // groups)
        of = torch.arange(inputs) // (inputs // groups)
        last[:, :, 0, reach] = (of[None] < into[:, None] + self.own).float()
        allowed = torch.cat([torch.ones(outputs, inputs, above, reach + 1 + right), last], 2)
        self.register_buffer("mask", allowed, persistent=False)
        with torch.no_grad():
            # What the mask leaves shall start with the variance that all inputs would have given.
            self.weight *= (allowed[0].numel() / allowed.mean(0).sum().clamp(min=1)).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        """Shape [batch, channels, height, width], in and out."""
        right = self.reach if self.above else 0
        x = F.pad(x, (self.reach, right, self.above, 0)) if self.above or self.reach else x
        return F.conv2d(x, self.masked(), self.bias)

    def pointwise(self, x: Tensor) -> Tensor:
        """A 1 x 1 kernel over features [..., channels], which is faster as a matrix product."""
        return F.linear(x, self.masked().flatten(1), self.bias)

    def masked(self) -> Tensor:
        """The weights that are left, shape [outputs, inputs, height, width]."""
        return self.weight * self.mask


class RowConv2d:
    """A `MaskedConv2d` run along the rows of n images: for each row first what the rows above give, all columns at
    once, then column by column and group by group what is to the left.

    `write` fills in the row's inputs, at a column before the group that may see them is asked for by `step`.
    """

    def __init__(self, conv: MaskedConv2d, n: int, width: int):
        self.conv, self.n, self.width = conv, n, width
        weight = conv.masked().detach()
        reach, groups, own = conv.reach, conv.groups, conv.inputs // conv.groups
        self.upper = weight[:, :, : conv.above].contiguous()
        self.bias = conv.bias.detach()
        self.rows = weight.new_zeros(n, conv.inputs, conv.above, width + 2 * reach) if conv.above else None
        self.row = weight.new_zeros(n, (reach + width) * conv.inputs)
        self.base = weight.new_zeros(width, groups, n, conv.outputs // groups)
        # [columns and channels, outputs] of every group; its own column ends with the last block that it may see.
        left = weight[:, :, conv.above, : reach + 1].permute(2, 1, 0).flatten(0, 1)
        by_group = left.unflatten(1, (conv.parts, groups, -1)).permute(2, 0, 1, 3).flatten(2)
        sizes = [reach * conv.inputs + (group + conv.own) * own for group in range(groups)]
        self.left = [by_group[group, :size].contiguous() if size else None for group, size in enumerate(sizes)]
        # Slices of tensors that stay are made once: making them costs as much as the product.
        starts = [column * conv.inputs for column in range(width)]
        self.seen = [[self.row[:, start : start + size] for size in sizes] for start in starts]
        at = [reach * conv.inputs + start for start in starts]
        self.slots = [[self.row[:, a + g * own : a + (g + 1) * own] for g in range(groups)] for a in at]
        self.above_columns = [list(column.unbind(0)) for column in self.base.unbind(0)]
        self.state = [self.row] if self.rows is None else [self.row, self.rows]
        """What is carried on, zero at the start."""

    def inputs(self) -> Tensor:
        """The inputs of the present row, shape [n, inputs, width]."""
        return self.row.view(self.n, -1, self.conv.inputs)[:, self.conv.reach :].transpose(1, 2)

    def begin(self, extra: Tensor | None = None) -> None:
        """Start a row; `extra`, broadcast to [n, outputs, 1, width], is added to the row's outputs."""
        conv, n = self.conv, self.n
        if self.rows is not None:
            reach = conv.reach
            self.rows[:, :, :-1] = self.rows[:, :, 1:].clone()
            self.rows[:, :, -1, reach : reach + self.width] = self.inputs()
            above = F.conv2d(self.rows, self.upper, self.bias)
        else:
            above = self.bias[None, :, None, None]
        if extra is not None:
            above = above + extra
        above = above.expand(n, conv.outputs, 1, self.width)[:, :, 0]
        grouped = above.unflatten(1, (conv.parts, conv.groups, -1)).permute(4, 2, 0, 1, 3)
        self.base.unflatten(3, (conv.parts, -1)).copy_(grouped)

    def slot(self, column: int, group: int = 0) -> Tensor:
        """Where the inputs of one group at a column are kept, for what computes them to write to."""
        return self.slots[column][group]

    def step(self, column: int, group: int = 0) -> Tensor:
        """The outputs of one group at a column, shape [n, outputs / groups]: the group's block of every part."""
        base = self.above_columns[column][group]
        left = self.left[group]
        return base if left is None else torch.addmm(base, self.seen[column][group], left)

    def write(self, column: int, value: Tensor, group: int = 0) -> None:
        """Take in the inputs of one group at a column, shape [n, inputs / groups]."""
        self.slots[column][group].copy_(value)


class PointConv2d:
    """A 1 x 1 `MaskedConv2d` run group by group at a single position."""

    def __init__(self, conv: MaskedConv2d, n: int):
        groups, own = conv.groups, conv.inputs // conv.groups
        weight = conv.masked().detach().flatten(1).unflatten(0, (conv.parts, groups, -1))
        sizes = [(group + conv.own) * own for group in range(groups)]
        self.weights = [weight[:, group, :, :size].flatten(0, 1).T.contiguous() for group, size in enumerate(sizes)]
        self.biases = list(conv.bias.detach().unflatten(0, (conv.parts, groups, -1)).transpose(0, 1).flatten(1))
        self.inputs = weight.new_zeros(n, conv.inputs)
        self.seen = [self.inputs[:, :size] for size in sizes]
        self.slots = self.inputs.chunk(groups, 1)

    def __call__(
        self, value: Tensor, group: int = 0, residual: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """The outputs of a group, given its inputs [n, inputs / groups]; those of earlier groups are remembered.

        `residual` is added; `out` is where the outputs go.
        """
        if len(self.weights) > 1:
            self.slots[group].copy_(value)
            value = self.seen[group]
        base = self.biases[group] if residual is None else residual + self.biases[group]
        return torch.addmm(base, value, self.weights[group], out=out)


class PointHead:
    """Two 1 x 1 `MaskedConv2d`, each after a ReLU, run group by group at a single position."""

    def __init__(self, hidden: MaskedConv2d, last: MaskedConv2d, n: int):
        self.hidden, self.last = PointConv2d(hidden, n), PointConv2d(last, n)

    def __call__(self, h: Tensor, group: int) -> Tensor:
        """The outputs of a group, given its inputs [n, inputs / groups]."""
        return self.last(F.relu(self.hidden(F.relu(h), group)), group)
