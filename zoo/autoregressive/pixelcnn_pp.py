"""PixelCNN++: two streams of shifted convolutions at three resolutions, and a mixture of logistics for each pixel.

Source: Salimans, Karpathy, Chen, Kingma, "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
Likelihood and Other Modifications", 2017. Where this departs from it: weights are normalised as there, but their
initial lengths are computed for inputs of unit variance in place of being measured on a first batch.
"""

import math
from collections.abc import Sequence
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from modalities import Modality
from zoo.autoregressive.model import Autoregressive
from zoo.autoregressive.samplers import Incremental
from zoo.autoregressive.shifted import (
    ShiftedConv2d,
    ShiftedPoint,
    ShiftedRow,
    UpsampledPoint,
    UpsampledRow,
    copy_columns,
)
from zoo.checks import check_numbers
from zoo.conditions import Classes
from zoo.nn.convolution import channels_last

Conv = TypeVar("Conv", nn.Conv2d, nn.ConvTranspose2d)

LEVELS = 3
"""Resolutions, each half as high and wide as the one before it."""
UNIT = 1.25
"""How long a filter over `concat_elu` of standard normals is, for an output of unit variance: 0.645 ** -0.5."""


class PixelCNNPlusPlus(Autoregressive):
    """p(x) over the pixels in raster order, a pixel's colours drawn together.

    The stream u ("upper") sees the rows above a pixel; the stream ul ("upper left") sees those and what is to the left,
    and takes in u. Both halve their resolution twice on the way down; on the way up they double it, and take in the
    features of the way down (skip connections).

    The receptive field grows with depth: coarse features are those of even rows, so that a pixel of an odd row sees its
    own row, and the row above it to the right, only up to 4 * blocks + 2 columns away. All else before a pixel is seen.

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
        self.describe(modality, None, components, axes=3, width=width, blocks=blocks)
        check_numbers(0, math.nextafter(1, 0), dropout=dropout)
        step = 2 ** (LEVELS - 1)
        if any(size % step for size in self.positions):
            raise ValueError(
                f"height and width must be divisible by {step} since both are halved {LEVELS - 1} times, got "
                f"{list(modality.shape)}"
            )
        head = self.likelihood_head
        if head.groups > 1:
            raise ValueError(
                f"modality has {head.channels} channels of 2 levels: PixelCNN++ draws a pixel's channels "
                "together, by a mixture that takes 3 or more levels; use GatedPixelCNN"
            )
        self.condition = condition
        classes = None if condition is None else len(condition)
        inputs = head.channels + 1
        # No biases here: the channel of ones has that place, and gives exact zeros where a shift leaves nothing.
        self.first_u = normed(nn.Conv2d(inputs, width, (2, 3), bias=False))
        self.first_above = normed(nn.Conv2d(inputs, width, (1, 3), bias=False))
        self.first_left = normed(nn.Conv2d(inputs, width, (2, 1), bias=False))

        self.finest = Level(width, blocks, LEVELS - 1, dropout, classes)
        self.last = normed(nn.Conv2d(width, head.size, 1), UNIT)
        channels_last(self)

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
    nn.init.constant_(conv.get_parameter("parametrizations.weight.original0"), length)
    return conv


class GatedResnet(nn.Module):
    """x + a sigmoid(b), a gated linear unit of two shifted convolutions after `concat_elu`, the first of which takes in
    other features too.

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
        """What a class adds to a and b, shape [batch, 2 * width, 1, 1]."""
        return 0.0 if self.classes is None else self.classes(condition)[:, :, None, None]

    def forward(self, x: Tensor, others: list[Tensor], condition: Tensor | None) -> Tensor:
        """Shape [batch, width, height, width of the grid], in and out."""
        h = self.inner(concat_elu(x))
        if self.link is not None:
            h = h + self.link(torch.cat([concat_elu(other) for other in others], 1))
        h = F.dropout(concat_elu(h), self.dropout, self.training)
        return x + F.glu(self.outer(h) + self.bias(condition), 1)


class Pair(nn.Module):
    """A gated residual block of either stream; with `skip` they take in the features of the way down."""

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


class Downsample(nn.Module):
    """Both streams at half the resolution: a coarse feature sees what the first of its four pixels may see."""

    def __init__(self, width: int):
        super().__init__()
        self.u = normed(ShiftedConv2d(width, width, (2, 3), stride=2))
        self.ul = normed(ShiftedConv2d(width, width, (2, 2), stride=2))

    def forward(self, u: Tensor, ul: Tensor) -> tuple[Tensor, Tensor]:
        return self.u(u), self.ul(ul)


class Upsample(nn.Module):
    """Both streams at twice the resolution: a coarse feature goes to its four pixels, and in u to those beside them."""

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
        pairs = [Pair(width, dropout, classes, skip=False) for _ in range(blocks)]
        self.down = cast(Sequence[Pair], nn.ModuleList(pairs))
        self.shrink = Downsample(width) if coarser else None
        self.coarser = Level(width, blocks, coarser - 1, dropout, classes) if coarser else None
        self.grow = Upsample(width) if coarser else None
        pairs = [Pair(width, dropout, classes, skip=True) for _ in range(blocks + (coarser > 0))]
        self.up = cast(Sequence[Pair], nn.ModuleList(pairs))

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
    ul pixel by pixel. A coarse feature is computed at the first of its four pixels, and kept for the others.
    """

    period = 2 ** (LEVELS - 1)

    def __init__(self, model: PixelCNNPlusPlus, n: int, condition: Tensor | None):
        self.width = width = model.positions[1]
        weight = model.first_left.weight
        # A row of pixels, with a column of zeros on either side, and a channel of ones.
        self.pixels = weight.new_zeros(n, width + 2, model.likelihood_head.channels + 1)
        self.first_u = ShiftedRow(model.first_u, n, width)
        self.first_above = model.first_above.weight.detach()
        self.first_left = weight[:, :, :1].detach()
        self.left = weight[:, :, 1, 0].detach().T.contiguous()
        self.base = weight.new_zeros(width, n, weight.shape[0])
        self.finest = _Level(model.finest, n, width, condition)
        assert model.last.bias is not None
        self.last = model.last.weight.detach().flatten(1).T.contiguous(), model.last.bias.detach()
        self.ones = self.pixels[:, 1:-1, -1]
        self.slots = [self.pixels[:, column + 1, :-1] for column in range(width)]
        self.seen = [self.pixels[:, column] for column in range(width)]
        self.columns = list(self.base)
        self.state = [self.pixels, *self.first_u.state, *self.finest.state]

    def begin(self, phase: int) -> None:
        row = self.pixels.transpose(1, 2).unsqueeze(2)  # the last row's pixels
        u = self.first_u(row[..., 1:-1])
        above = F.conv2d(row, self.first_above) + F.conv2d(row[..., :-2], self.first_left)
        copy_columns(above, self.base)
        self.ones.fill_(1.0)
        self.finest.begin(phase, u)

    def step(self, column: int, group: int) -> Tensor:
        ul = torch.addmm(self.columns[column], self.seen[column], self.left)
        weight, bias = self.last
        return torch.addmm(bias, F.elu(self.finest.step(column, ul)), weight)

    def write(self, column: int, group: int, value: Tensor) -> None:
        self.slots[column].copy_(value)


class _Level:
    """A `Level`, to be run along rows of `width` features: every other row and column goes on to the coarser one."""

    def __init__(self, level: Level, n: int, width: int, condition: Tensor | None):
        def run(pairs: Sequence[Pair]) -> list[tuple[_RowResnet, _PointResnet]]:
            return [(_RowResnet(p.u, n, width, condition), _PointResnet(p.ul, n, width, condition)) for p in pairs]

        self.down, self.up = run(level.down), run(level.up)
        self.coarser: _Coarser | None = None
        if level.shrink is not None and level.coarser is not None and level.grow is not None:
            self.coarser = _Coarser(level.shrink, level.coarser, level.grow, n, width, condition)
        self.state = [tensor for pair in self.down + self.up for block in pair for tensor in block.state]
        self.state += [] if self.coarser is None else self.coarser.state

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
    """Down to a coarser `_Level`, run at the first of every four pixels, and up again."""

    def __init__(self, down: Downsample, level: Level, up: Upsample, n: int, width: int, condition: Tensor | None):
        self.down_u, self.down_ul = ShiftedRow(down.u, n, width), ShiftedPoint(down.ul, n, width)
        self.level = _Level(level, n, width // 2, condition)
        self.up_u, self.up_ul = UpsampledRow(up.u, n, width), UpsampledPoint(up.ul, n, width)
        parts = (self.down_u, self.down_ul, self.level, self.up_u, self.up_ul)
        self.state = [tensor for part in parts for tensor in part.state]
        self.odd = 0

    def begin(self, phase: int, u: Tensor) -> Tensor:
        self.odd = phase % 2
        self.down_u.write(u)
        if not self.odd:
            self.down_ul.begin()
            self.up_u.write(self.level.begin(phase // 2, self.down_u.convolve()))
        return self.up_u.rows[self.odd]

    def step(self, column: int, ul: Tensor) -> Tensor:
        self.down_ul.own[column].copy_(ul)
        if not self.odd and column % 2 == 0:
            self.up_ul.write(column // 2, self.level.step(column // 2, self.down_ul.step(column // 2)))
        return self.up_ul.pixels[self.odd][column]


class _RowResnet:
    """A `GatedResnet` of u, row by row."""

    def __init__(self, block: GatedResnet, n: int, width: int, condition: Tensor | None):
        self.inner, self.outer = ShiftedRow(block.inner, n, width), ShiftedRow(block.outer, n, width)
        self.link = None if block.link is None else block.link.weight.detach()
        self.bias = block.bias(condition)
        self.state = self.inner.state + self.outer.state

    def __call__(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        h = self.inner(concat_elu(x))
        if skip is not None and self.link is not None:
            h = h + F.conv2d(concat_elu(skip), self.link)
        return x + F.glu(self.outer(concat_elu(h)) + self.bias, 1)


class _PointResnet:
    """A `GatedResnet` of ul: at the start of a row what u and the row above give, then column by column."""

    def __init__(self, block: GatedResnet, n: int, width: int, condition: Tensor | None):
        assert block.link is not None  # ul takes in u, always
        link = block.link.weight.detach()
        mine = block.inner.in_channels
        skip = link[:, mine:, 0, 0] if link.shape[1] > mine else None
        self.link = link[:, :mine]
        self.inner, self.outer = ShiftedPoint(block.inner, n, width, skip), ShiftedPoint(block.outer, n, width)
        self.bias = block.bias(condition)
        # Where `concat_elu` of the input, of the skip and of what lies between goes: the halves, and both.
        self.input, self.skip, self.hidden = (
            [(*slot.chunk(2, 1), slot) for slot in slots]
            for slots in (self.inner.own, self.inner.others if skip is not None else [], self.outer.own)
        )
        self.halves = link.new_zeros(n, mine)
        self.a, self.b = self.halves.chunk(2, 1)
        self.state = self.inner.state + self.outer.state

    def begin(self, u: Tensor) -> None:
        self.inner.begin(F.conv2d(concat_elu(u), self.link))
        self.outer.begin(self.bias)

    def step(self, column: int, x: Tensor, skip: Tensor | None = None) -> Tensor:
        _concat_elu_into(self.input[column], x)
        if skip is not None:
            _concat_elu_into(self.skip[column], skip)
        plus, minus, both = self.hidden[column]
        self.inner.step(column, out=plus)
        torch.neg(plus, out=minus)
        F.elu_(both)
        self.outer.step(column, out=self.halves)
        return torch.addcmul(x, self.a, self.b.sigmoid_())


def _concat_elu_into(slot: tuple[Tensor, ...], x: Tensor) -> None:
    """Write `concat_elu` of x to its halves and both together."""
    plus, minus, both = slot
    plus.copy_(x)
    torch.neg(x, out=minus)
    F.elu_(both)
