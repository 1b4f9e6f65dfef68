"""PixelCNN++: two streams of shifted convolutions at three resolutions, and a mixture of logistics for each pixel.

Source: Salimans, Karpathy, Chen, Kingma, "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
Likelihood and Other Modifications", 2017. Where this departs from it: weights are normalised as there, but their
initial lengths are computed for inputs of unit variance in place of being measured on a first batch.
"""

from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from modalities import Modality
from zoo.autoregressive.chain import Autoregressive, Incremental
from zoo.conditions import Classes

Conv = TypeVar("Conv", nn.Conv2d, nn.ConvTranspose2d)

LEVELS = 3
"""Resolutions, each half as high and wide as the one before it."""
UNIT = 1.25
"""The length of a filter over `concat_elu` of unit normals whose output has unit variance: 0.645 ** -0.5."""


class PixelCNNPlusPlus(Autoregressive):
    """p(x) over the pixels in raster order, a pixel's colours drawn together.

    The stream u sees the rows above a pixel; the stream ul sees those and what is to the left, and takes in u. Both
    halve their resolution twice on the way down, and take what they were on the way down back in on the way up.

    No pixel is hidden for good, but far ones need depth: the coarse features are those of even rows, so a pixel of an
    odd row sees its own row and the one above only up to 4 * blocks + 2 columns away.

    Arguments:
        modality: images, or other grids [channels, height, width], with height and width divisible by 4. Values of 3
            or more levels and real numbers are a mixture of logistics; 2 levels need a single channel.
        width: feature maps of a stream; the paper's code has 160.
        blocks: gated residual blocks at a resolution, in both streams and either way; the paper has 5.
        dropout: the fraction of features that training drops in every block; the paper has 0.5.
        components: of the mixture.
        condition: `Classes`, if samples shall be conditioned on one.
    """

    def __init__(
        self,
        modality: Modality,
        width: int = 64,
        blocks: int = 2,
        dropout: float = 0.0,
        components: int = 10,
        condition: Classes | None = None,
    ):
        super().__init__()
        self.describe(modality, None, components)
        step = 2 ** (LEVELS - 1)
        if len(self.positions) != 2 or any(size % step for size in self.positions):
            raise ValueError(
                f"modality must give items [channels, height, width], height and width divisible by {step} since both "
                f"are halved {LEVELS - 1} times, got {list(modality.shape)}"
            )
        if self.output.turns > 1:
            raise ValueError(
                f"modality has {self.output.channels} channels of 2 levels: PixelCNN++ draws a pixel's channels "
                "together, by a mixture that takes 3 or more levels; use GatedPixelCNN"
            )
        if width < 1 or blocks < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"expected width and blocks of at least 1 and dropout in [0, 1), got {width}, {blocks}, {dropout}"
            )
        self.condition = condition
        classes = None if condition is None else len(condition)
        inputs = self.output.channels + 1
        # No biases here: the channel of ones has that place, and gives exact zeros where a shift leaves nothing.
        self.first_u = normed(nn.Conv2d(inputs, width, (2, 3), bias=False))
        self.first_above = normed(nn.Conv2d(inputs, width, (1, 3), bias=False))
        self.first_left = normed(nn.Conv2d(inputs, width, (2, 1), bias=False))

        self.finest = Level(width, blocks, LEVELS - 1, dropout, classes)
        self.last = normed(nn.Conv2d(width, self.output.size, 1), UNIT)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def outputs(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        x = F.pad(x.to(self.dtype), (0, 0, 0, 0, 0, 1), value=1.0)  # ones tell the image from the zeros around it
        x = x.contiguous(memory_format=torch.channels_last)
        u = self.first_u(F.pad(x, (1, 1, 2, -1)))
        ul = self.first_above(F.pad(x, (1, 1, 1, -1))) + self.first_left(F.pad(x, (1, -1, 1, 0)))
        _, ul = self.finest(u, ul, condition)
        return self.last(F.elu(ul))

    def incremental(self, n: int, condition: Tensor | None = None) -> Incremental:
        return _Rows(self, n, condition)


def concat_elu(x: Tensor) -> Tensor:
    """ELU of x and of -x, twice the channels."""
    return F.elu(torch.cat([x, -x], 1))


def normed(conv: Conv, length: float = 1.0) -> Conv:
    """Weight normalisation: a filter is a direction times a length, which starts as given.

    Source: Salimans, Kingma, "Weight Normalization", 2016.
    """
    nn.init.normal_(conv.weight, std=0.05)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    weight_norm(conv, dim=1 if isinstance(conv, nn.ConvTranspose2d) else 0)
    nn.init.constant_(conv.parametrizations.weight.original0, length)  # type: ignore[union-attr,arg-type]
    return conv


class ShiftedConv2d(nn.Conv2d):
    """A convolution that ends at its own row (kernel 2 x 3, for u) or at its own position (kernel 2 x 2, for ul)."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape [batch, channels, height, width], in and out, the sizes divided by the stride."""
        return super().forward(F.pad(x, (1, self.kernel_size[1] - 2, 1, 0)))


class GatedResnet(nn.Module):
    """x + a sigmoid(b), of two shifted convolutions after `concat_elu`, the first of which takes in other features too.

    Arguments: `columns` of the kernel, 3 for u and 2 for ul; `others`, how many maps of `width` are taken in.
    """

    def __init__(self, width: int, columns: int, others: int, dropout: float, classes: int | None):
        super().__init__()
        self.dropout = dropout
        self.inner = normed(ShiftedConv2d(2 * width, width, (2, columns)), UNIT)
        self.link = normed(nn.Conv2d(2 * width * others, width, 1, bias=False), UNIT) if others else None
        # Blocks start close to the identity.
        self.outer = normed(ShiftedConv2d(2 * width, 2 * width, (2, columns)), 0.1 * UNIT)
        self.classes = nn.Embedding(classes, 2 * width) if classes else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=0.05)

    def bias(self, condition: Tensor | None) -> Tensor | float:
        """What a class adds to the gate, shape [batch, 2 * width, 1, 1]."""
        return 0.0 if self.classes is None else self.classes(condition)[:, :, None, None]

    def forward(self, x: Tensor, others: list[Tensor], condition: Tensor | None) -> Tensor:
        """Shape [batch, width, height, width of the grid], in and out."""
        h = self.inner(concat_elu(x))
        if self.link is not None:
            h = h + self.link(torch.cat([concat_elu(other) for other in others], 1))
        h = F.dropout(concat_elu(h), self.dropout, self.training)
        return x + gate(self.outer(h) + self.bias(condition))


def gate(h: Tensor) -> Tensor:
    """a sigmoid(b), of the two halves of the channels."""
    a, b = h.chunk(2, 1)
    return a * torch.sigmoid(b)


class Pair(nn.Module):
    """A gated residual block of either stream; with `skip` they take in what the streams were on the way down."""

    def __init__(self, width: int, dropout: float, classes: int | None, skip: bool):
        super().__init__()
        self.u = GatedResnet(width, 3, 1 if skip else 0, dropout, classes)
        self.ul = GatedResnet(width, 2, 2 if skip else 1, dropout, classes)

    def forward(
        self, u: Tensor, ul: Tensor, skip: tuple[Tensor, Tensor] | None, condition: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Both streams, shape [batch, width, height, width of the grid], in and out."""
        skip_u, skip_ul = ([], []) if skip is None else ([skip[0]], [skip[1]])
        u = self.u(u, skip_u, condition)
        return u, self.ul(ul, [u, *skip_ul], condition)


class Shrink(nn.Module):
    """Both streams at half the resolution: a coarse feature sees what its block's first pixel may see."""

    def __init__(self, width: int):
        super().__init__()
        self.u = normed(ShiftedConv2d(width, width, (2, 3), stride=2))
        self.ul = normed(ShiftedConv2d(width, width, (2, 2), stride=2))

    def forward(self, u: Tensor, ul: Tensor) -> tuple[Tensor, Tensor]:
        return self.u(u), self.ul(ul)


class Grow(nn.Module):
    """Both streams at twice the resolution: a coarse feature serves its block, and in u the pixels beside it."""

    def __init__(self, width: int):
        super().__init__()
        # Of a filter's taps only a quarter falls on a pixel, hence the length of 2.
        self.u = normed(nn.ConvTranspose2d(width, width, (2, 3), stride=2), 2.0)
        self.ul = normed(nn.ConvTranspose2d(width, width, (2, 2), stride=2), 2.0)

    def forward(self, u: Tensor, ul: Tensor) -> tuple[Tensor, Tensor]:
        return self.u(u)[..., 1:], self.ul(ul)


class Level(nn.Module):
    """One resolution: blocks on the way down, then the `coarser` resolutions below it, then blocks on the way up.

    Every feature of the way down is taken in once on the way up, the last first. The coarsest level starts its way up
    with its own last features, so it has one fewer to take in.
    """

    def __init__(self, width: int, blocks: int, coarser: int, dropout: float, classes: int | None):
        super().__init__()
        self.down = nn.ModuleList(Pair(width, dropout, classes, skip=False) for _ in range(blocks))
        self.shrink = Shrink(width) if coarser else None
        self.coarser = Level(width, blocks, coarser - 1, dropout, classes) if coarser else None
        self.grow = Grow(width) if coarser else None
        self.up = nn.ModuleList(Pair(width, dropout, classes, skip=True) for _ in range(blocks + (coarser > 0)))

    def forward(self, u: Tensor, ul: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both streams, shape [batch, width, height, width of the grid], in and out."""
        skips = [(u, ul)]
        for pair in self.down:
            u, ul = pair(u, ul, None, condition)
            skips.append((u, ul))
        if self.shrink is not None and self.coarser is not None and self.grow is not None:
            u, ul = self.grow(*self.coarser(*self.shrink(u, ul), condition))
        else:
            skips.pop()
        for pair in self.up:
            u, ul = pair(u, ul, skips.pop(), condition)
        return u, ul


class _Rows(Incremental):
    """At the start of a row the stream u, for the whole row, and what ul takes from it and from the row above; then
    ul pixel by pixel. A coarse feature is computed at the first pixel of its block, and kept for the others.
    """

    period = 2 ** (LEVELS - 1)

    def __init__(self, model: PixelCNNPlusPlus, n: int, condition: Tensor | None):
        self.width = width = model.positions[1]
        channels = model.output.channels
        weight = model.first_left.weight
        # A row of pixels, with a column of zeros on either side, and a channel of ones.
        self.pixels = weight.new_zeros(n, width + 2, channels + 1)
        self.first_u = _RowConv(model.first_u, n, width)
        self.first_above = model.first_above.weight.detach()
        self.first_left = weight[:, :, :1].detach()
        self.left = weight[:, :, 1, 0].detach().T.contiguous()
        self.base = weight.new_zeros(width, n, weight.shape[0])
        self.finest = _Level(model.finest, n, width, condition)
        weight, bias = model.last.weight.detach(), cast(Tensor, model.last.bias).detach()
        self.last = weight.flatten(1).T.contiguous(), bias
        self.ones = self.pixels[:, 1:-1, -1]
        self.slots = [self.pixels[:, column + 1, :-1] for column in range(width)]
        self.seen = [self.pixels[:, column] for column in range(width)]
        self.columns = list(self.base)
        self.phase = 0

    def state(self) -> list[Tensor]:
        return [self.pixels, *self.first_u.state(), *self.finest.state()]

    def begin(self, phase: int) -> None:
        row = self.pixels.transpose(1, 2).unsqueeze(2)  # the last row's pixels
        u = self.first_u(row[..., 1:-1])
        above = F.conv2d(row, self.first_above) + F.conv2d(row[..., :-2], self.first_left)
        _to_columns(above, self.base)
        self.ones.fill_(1.0)
        self.finest.begin(phase, u)

    def step(self, column: int, turn: int) -> Tensor:
        ul = torch.addmm(self.columns[column], self.seen[column], self.left)
        weight, bias = self.last
        return torch.addmm(bias, F.elu(self.finest.step(column, ul)), weight)

    def write(self, column: int, turn: int, value: Tensor) -> None:
        self.slots[column].copy_(value)


class _Level:
    """A `Level`, to be run along rows of `width` features: every other row and column goes on to the coarser one."""

    def __init__(self, level: Level, n: int, width: int, condition: Tensor | None):
        def run(pairs: nn.ModuleList) -> list[tuple[_RowResnet, _PointResnet]]:
            typed: list[Pair] = list(pairs)  # type: ignore[arg-type]
            return [(_RowResnet(p.u, n, width, condition), _PointResnet(p.ul, n, width, condition)) for p in typed]

        self.down, self.up = run(level.down), run(level.up)
        self.coarser: _Coarser | None = None
        if level.shrink is not None and level.coarser is not None and level.grow is not None:
            self.coarser = _Coarser(level.shrink, level.coarser, level.grow, n, width, condition)

    def state(self) -> list[Tensor]:
        blocks = [tensor for pair in self.down + self.up for block in pair for tensor in block.state()]
        return blocks if self.coarser is None else blocks + self.coarser.state()

    def begin(self, phase: int, u: Tensor) -> Tensor:
        """The whole row of u, and for ul what is known before its first column; `phase` counts this level's rows."""
        skips = [u]
        for u_block, ul_block in self.down:
            u = u_block(u)
            ul_block.begin(u)
            skips.append(u)
        if self.coarser is None:
            skips.pop()
        else:
            u = self.coarser.begin(phase, u)
        for u_block, ul_block in self.up:
            u = u_block(u, skips.pop())
            ul_block.begin(u)
        return u

    def step(self, column: int, ul: Tensor) -> Tensor:
        """The features of ul at a column, shape [n, channels], in and out."""
        skips = [ul]
        for _, ul_block in self.down:
            ul = ul_block.step(column, ul)
            skips.append(ul)
        if self.coarser is None:
            skips.pop()
        else:
            ul = self.coarser.step(column, ul)
        for _, ul_block in self.up:
            ul = ul_block.step(column, ul, skips.pop())
        return ul


class _Coarser:
    """Down to a coarser `_Level`, run at the first pixel of every block of four, and up again."""

    def __init__(self, shrink: Shrink, level: Level, grow: Grow, n: int, width: int, condition: Tensor | None):
        self.shrink_u, self.shrink_ul = _RowConv(shrink.u, n, width), _PointConv(shrink.ul, n, width)
        self.level = _Level(level, n, width // 2, condition)
        self.grow_u, self.grow_ul = _GrowRow(grow.u, n, width), _GrowPoints(grow.ul, n, width)
        self.odd = 0

    def state(self) -> list[Tensor]:
        parts = (self.shrink_u, self.shrink_ul, self.level, self.grow_u, self.grow_ul)
        return [tensor for part in parts for tensor in part.state()]

    def begin(self, phase: int, u: Tensor) -> Tensor:
        self.odd = phase % 2
        self.shrink_u.take(u)
        if not self.odd:
            self.shrink_ul.begin()
            self.grow_u.write(self.level.begin(phase // 2, self.shrink_u.convolve()))
        return self.grow_u.rows[self.odd]

    def step(self, column: int, ul: Tensor) -> Tensor:
        self.shrink_ul.own[column].copy_(ul)
        if not self.odd and column % 2 == 0:
            self.grow_ul.write(column // 2, self.level.step(column // 2, self.shrink_ul.step(column // 2)))
        return self.grow_ul.pixels[self.odd][column]


def _to_columns(row: Tensor, columns: Tensor) -> None:
    """Copy features [n, channels, 1, width] to a tensor [width, n, channels] that stays where it is."""
    columns.copy_(row.squeeze(2).permute(2, 0, 1))


class _RowConv:
    """A 2 x 3 convolution along rows: keeps the row above and the present one, zeros on either side."""

    def __init__(self, conv: nn.Conv2d, n: int, width: int):
        self.weight, self.stride = conv.weight.detach(), conv.stride
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.rows = self.weight.new_zeros(n, 2, width + 2, conv.in_channels).permute(0, 3, 1, 2)
        self.above, self.present = self.rows[:, :, 0], self.rows[:, :, 1]
        self.inside = self.rows[:, :, 1:, 1:-1]

    def state(self) -> list[Tensor]:
        return [self.rows]

    def take(self, row: Tensor) -> None:
        """Take in the next row, shape [n, channels, 1, width]."""
        self.above.copy_(self.present)
        self.inside.copy_(row)

    def convolve(self) -> Tensor:
        """The outputs of the present row, shape [n, outputs, 1, width / stride]."""
        return F.conv2d(self.rows, self.weight, self.bias, self.stride)

    def __call__(self, row: Tensor) -> Tensor:
        self.take(row)
        return self.convolve()


class _RowResnet:
    """A `GatedResnet` of u, row by row."""

    def __init__(self, block: GatedResnet, n: int, width: int, condition: Tensor | None):
        self.inner, self.outer = _RowConv(block.inner, n, width), _RowConv(block.outer, n, width)
        self.link = None if block.link is None else block.link.weight.detach()
        self.bias = block.bias(condition)

    def state(self) -> list[Tensor]:
        return self.inner.state() + self.outer.state()

    def __call__(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        h = self.inner(concat_elu(x))
        if skip is not None and self.link is not None:
            h = h + F.conv2d(concat_elu(skip), self.link)
        return x + gate(self.outer(concat_elu(h)) + self.bias)


class _PointConv:
    """A 2 x 2 convolution along rows: first what the row above gives, all columns at once, then column by column.

    `extra` channels of other features, with weights [outputs, extra], are taken in at the position itself.
    """

    def __init__(self, conv: nn.Conv2d, n: int, width: int, extra: Tensor | None = None):
        weight, self.stride = conv.weight.detach(), conv.stride[1]
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.above = weight[:, :, :1].contiguous(memory_format=torch.channels_last)
        others = weight.new_zeros(len(weight), 0) if extra is None else extra
        left, own = weight[:, :, 1].unbind(2)
        # A column is the other features, then its own: so those of the column before end next to this one's.
        self.weight = torch.cat([left, others, own], 1).T.contiguous()
        inputs, size = conv.in_channels, others.shape[1] + conv.in_channels
        self.row = weight.new_zeros(n, (width + 1) * size)
        self.inputs = self.row.unflatten(1, (width + 1, size))[:, :, -inputs:].transpose(1, 2).unsqueeze(2)
        self.base = weight.new_zeros(width // self.stride, n, len(weight))
        # Slices of tensors that stay are made once: making them costs as much as the product.
        ends = [(column + 2) * size for column in range(width)]
        self.own = [self.row[:, end - inputs : end] for end in ends]
        self.others = [self.row[:, end - size : end - inputs] for end in ends]
        self.seen = [self.row[:, end - size - inputs : end] for end in ends[:: self.stride]]
        self.columns = list(self.base)

    def state(self) -> list[Tensor]:
        return [self.row]

    def begin(self, addition: Tensor | float = 0.0) -> None:
        """Start a row; the addition, broadcast to [n, outputs, 1, width], is added to its outputs."""
        above = F.conv2d(self.inputs, self.above, self.bias, (1, self.stride))
        _to_columns(above + addition, self.base)

    def step(self, column: int, out: Tensor | None = None) -> Tensor:
        """The outputs at a column, shape [n, outputs]."""
        return torch.addmm(self.columns[column], self.seen[column], self.weight, out=out)


class _PointResnet:
    """A `GatedResnet` of ul: at the start of a row what u and the row above give, then column by column."""

    def __init__(self, block: GatedResnet, n: int, width: int, condition: Tensor | None):
        assert block.link is not None  # ul takes in u, always
        link = block.link.weight.detach()
        mine = block.inner.in_channels
        skip = link[:, mine:, 0, 0] if link.shape[1] > mine else None
        self.link = link[:, :mine]
        self.inner, self.outer = _PointConv(block.inner, n, width, skip), _PointConv(block.outer, n, width)
        self.bias = block.bias(condition)
        # Where `concat_elu` of the input, of the skip and of what lies between goes: the halves, and both.
        self.input, self.skip, self.hidden = (
            [(*slot.chunk(2, 1), slot) for slot in slots]
            for slots in (self.inner.own, self.inner.others if skip is not None else [], self.outer.own)
        )
        self.gate = link.new_zeros(n, mine)
        self.a, self.b = self.gate.chunk(2, 1)

    def state(self) -> list[Tensor]:
        return self.inner.state() + self.outer.state()

    def begin(self, u: Tensor) -> None:
        self.inner.begin(F.conv2d(concat_elu(u), self.link))
        self.outer.begin(self.bias)

    def step(self, column: int, x: Tensor, skip: Tensor | None = None) -> Tensor:
        plus, minus, both = self.input[column]
        plus.copy_(x)
        torch.neg(x, out=minus)
        F.elu_(both)
        if skip is not None:
            plus, minus, both = self.skip[column]
            plus.copy_(skip)
            torch.neg(skip, out=minus)
            F.elu_(both)
        plus, minus, both = self.hidden[column]
        self.inner.step(column, out=plus)
        torch.neg(plus, out=minus)
        F.elu_(both)
        self.outer.step(column, out=self.gate)
        return torch.addcmul(x, self.a, self.b.sigmoid_())


class _GrowRow:
    """The transposed convolution of u: a coarse row gives two, which are kept until the next one."""

    def __init__(self, conv: nn.ConvTranspose2d, n: int, width: int):
        self.weight, self.bias = conv.weight.detach(), conv.bias
        self.kept = self.weight.new_zeros(n, conv.out_channels, 2, width)
        self.rows = self.kept.split(1, 2)

    def state(self) -> list[Tensor]:
        return [self.kept]

    def write(self, row: Tensor) -> None:
        """Take in a coarse row, shape [n, channels, 1, width / 2]."""
        self.kept.copy_(F.conv_transpose2d(row, self.weight, self.bias, stride=2)[..., 1:])


class _GrowPoints:
    """The transposed convolution of ul: a coarse feature gives a block of four, kept for two rows."""

    def __init__(self, conv: nn.ConvTranspose2d, n: int, width: int):
        weight = conv.weight.detach()
        self.weight = weight.permute(0, 2, 3, 1).flatten(1).contiguous()
        self.bias = conv.bias.detach().repeat(4)  # type: ignore[union-attr]
        self.kept = weight.new_zeros(width // 2, n, 4 * conv.out_channels)
        self.blocks = list(self.kept)
        fine = self.kept.unflatten(2, (2, 2, -1))
        self.pixels = [[fine[column // 2, :, row, column % 2] for column in range(width)] for row in range(2)]

    def state(self) -> list[Tensor]:
        return [self.kept]

    def write(self, column: int, x: Tensor) -> None:
        """Take in a coarse feature, shape [n, channels]."""
        torch.addmm(self.bias, x, self.weight, out=self.blocks[column])
