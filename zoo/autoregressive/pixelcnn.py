"""PixelCNN: one stack of masked convolutions in residual blocks.

Source: van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel Recurrent Neural Networks", 2016. Where the paper leaves it
open: a block's ReLUs come before its convolutions, and a pixel's colours are blocks of channels.

Whatever its depth, its receptive field has a blind spot: every step to the right costs a step up, so that d rows above
a pixel nothing beyond d columns to the right is seen, but for what the first, larger kernel adds. `GatedPixelCNN` has
two stacks in order to see the rest.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modalities import Modality
from zoo.autoregressive.model import Autoregressive
from zoo.autoregressive.samplers import Incremental
from zoo.nn.convolution import channels_last
from zoo.nn.likelihood import ChainLikelihood
from zoo.nn.masked import MaskedConv2d, PointConv2d, PointHead, RowConv2d


class PixelCNN(Autoregressive):
    """p(x) over the pixels in raster order, every conditional from one pass of masked convolutions.

    Arguments:
        modality: images, or other grids [channels, height, width].
        width: feature maps inside a block, half of those between blocks; for colours drawn in turn a multiple of their
            number.
        blocks: residual blocks, each with one 3 x 3 convolution, after a first one of 7 x 7.
        head: feature maps between the two last convolutions.
        likelihood, components: see `ChainHead`.
    """

    def __init__(
        self,
        modality: Modality,
        width: int = 32,
        blocks: int = 15,
        head: int = 32,
        likelihood: ChainLikelihood | None = None,
        components: int = 10,
    ):
        super().__init__()
        self.describe(modality, likelihood, components, axes=3, width=width, blocks=blocks, head=head)
        groups = self.likelihood_head.groups
        self.first = MaskedConv2d(self.likelihood_head.channels, 2 * width, 3, 3, "A", groups)
        self.blocks = cast(Sequence[Block], nn.ModuleList(Block(width, groups) for _ in range(blocks)))
        self.hidden = MaskedConv2d(2 * width, head, 0, 0, "B", groups)
        self.last = MaskedConv2d(head, self.likelihood_head.size, 0, 0, "B", groups)
        channels_last(self)

    def outputs(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        h = self.first(x.to(self.dtype).contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            h = block(h)
        return self.last(F.relu(self.hidden(F.relu(h))))

    def incremental(self, n: int, condition: Tensor | None = None) -> Incremental:
        return _Rows(self, n)


class Block(nn.Module):
    """A residual block: 1 x 1 to half the feature maps, masked 3 x 3, 1 x 1 back, each after a ReLU."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        self.reduce = MaskedConv2d(2 * width, width, 0, 0, "B", groups)
        self.spread = MaskedConv2d(width, width, 1, 1, "B", groups)
        self.restore = MaskedConv2d(width, 2 * width, 0, 0, "B", groups)

    def forward(self, h: Tensor) -> Tensor:
        """Shape [batch, 2 * width, height, width], in and out."""
        return h + self.restore(F.relu(self.spread(F.relu(self.reduce(F.relu(h))))))


class _Rows(Incremental):
    """At the start of a row what the rows above give to every convolution; then pixels through all of them."""

    def __init__(self, model: PixelCNN, n: int):
        self.model, self.width = model, model.positions[1]
        self.first = RowConv2d(model.first, n, self.width)
        self.blocks = [
            (PointConv2d(block.reduce, n), RowConv2d(block.spread, n, self.width), PointConv2d(block.restore, n))
            for block in model.blocks
        ]
        self.head = PointHead(model.hidden, model.last, n)
        convolutions = [self.first, *(spread for _, spread, _ in self.blocks)]
        self.state = [tensor for conv in convolutions for tensor in conv.state]

    def begin(self, phase: int) -> None:
        self.first.begin()
        for _, spread, _ in self.blocks:
            spread.begin()

    def step(self, column: int, group: int) -> Tensor:
        h = self.first.step(column, group)
        for reduce, spread, restore in self.blocks:
            reduce(F.relu(h), group, out=spread.slot(column, group)).relu_()
            h = h + restore(F.relu(spread.step(column, group)), group)
        return self.head(h, group)

    def write(self, column: int, group: int, value: Tensor) -> None:
        self.first.write(column, value.to(self.model.dtype), group)
