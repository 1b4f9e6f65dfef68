"""Gated PixelCNN: two stacks of convolutions, whose receptive field is a rectangle without a blind spot.

Source: van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu, "Conditional Image Generation with PixelCNN
Decoders", 2016. Where the paper leaves it open: the residual of the first layer is left out, the head is two 1 x 1
convolutions after ReLUs, and a pixel's colours are blocks of channels.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modalities import Modality
from zoo.autoregressive.model import Autoregressive
from zoo.autoregressive.samplers import Incremental
from zoo.conditions import Classes
from zoo.nn.convolution import channels_last
from zoo.nn.likelihood import ChainLikelihood
from zoo.nn.masked import MaskedConv2d, PointConv2d, PointHead, RowConv2d


class GatedPixelCNN(Autoregressive):
    """p(x) over the pixels in raster order, every conditional from one pass of gated convolutions.

    Arguments:
        modality: images, or other grids [channels, height, width].
        width: feature maps of a layer; for colours drawn in turn a multiple of their number.
        layers: gated layers.
        kernel, first_kernel: sizes of the (square, before halving) kernels of the later layers and of the first; odd.
        head: feature maps between the two last convolutions.
        condition: `Classes`, if samples shall be conditioned on one.
        likelihood, components: see `ChainHead`.
        embedding: the length of a learned vector for every level that enters the network in place of the value; for
            codes, whose levels have no order. None feeds the values as they are.
    """

    def __init__(
        self,
        modality: Modality,
        width: int = 64,
        layers: int = 10,
        kernel: int = 3,
        first_kernel: int = 7,
        head: int = 64,
        condition: Classes | None = None,
        likelihood: ChainLikelihood | None = None,
        components: int = 10,
        embedding: int | None = None,
    ):
        super().__init__()
        counts = dict(width=width, layers=layers, kernel=kernel, first_kernel=first_kernel, head=head)
        counts |= {} if embedding is None else {"embedding": embedding}
        self.describe(modality, likelihood, components, axes=3, **counts)
        if kernel % 2 == 0 or first_kernel % 2 == 0:
            raise ValueError(f"expected odd kernels, got {kernel} and {first_kernel}")
        if embedding is not None and not self.discrete:
            raise ValueError("embedding is for values of levels: real numbers have no vectors to look up")
        self.condition, groups = condition, self.likelihood_head.groups
        classes = None if condition is None else len(condition)
        self.embedding = None if embedding is None else nn.Embedding(modality.levels or 0, embedding)
        inputs = self.likelihood_head.channels * (embedding or 1)
        first = GatedLayer(inputs, width, first_kernel // 2, True, groups, classes)
        others = (GatedLayer(width, width, kernel // 2, False, groups, classes) for _ in range(layers - 1))
        self.layers = cast(Sequence[GatedLayer], nn.ModuleList([first, *others]))
        self.hidden = MaskedConv2d(width, head, 0, 0, "B", groups)
        self.last = MaskedConv2d(head, self.likelihood_head.size, 0, 0, "B", groups)
        channels_last(self)

    def embed(self, x: Tensor) -> Tensor:
        """Values [batch, channels, ...] as the network's input, [batch, channels * embedding, ...]."""
        if self.embedding is None:
            return x.to(self.dtype)
        levels = self.embedding.num_embeddings
        index = ((x + 1) * (levels - 1) / 2).round().long()
        return self.embedding(index).movedim(-1, 2).flatten(1, 2)

    def outputs(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        vertical = horizontal = self.embed(x).contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal, condition)
        return self.last(F.relu(self.hidden(F.relu(horizontal))))

    def incremental(self, n: int, condition: Tensor | None = None) -> Incremental:
        return _Rows(self, n, condition)


class GatedLayer(nn.Module):
    """One layer: a vertical stack of the rows above, and a horizontal one of the row's own left, which it feeds.

    The first layer's vertical convolution ends one row above its own, and its horizontal one leaves out the pixel
    itself; all later layers include both, since what they see has been shifted already.
    """

    def __init__(self, inputs: int, width: int, reach: int, first: bool, groups: int, classes: int | None):
        super().__init__()
        self.first, self.reach = first, reach
        self.vertical = nn.Conv2d(inputs, 2 * width, (reach + 1, 2 * reach + 1))
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.horizontal = MaskedConv2d(inputs, 2 * width, 0, reach, "A" if first else "B", groups, parts=2)
        self.residual = MaskedConv2d(width, width, 0, 0, "B", groups)
        self.classes = nn.Embedding(classes, 4 * width) if classes else None

    def conditions(self, condition: Tensor | None) -> tuple[Tensor | float, Tensor | float]:
        """What a class adds to the vertical and to the horizontal gates, shape [batch, 2 * width, 1, 1]."""
        if self.classes is None:
            return 0.0, 0.0
        vertical, horizontal = self.classes(condition)[:, :, None, None].chunk(2, 1)
        return vertical, horizontal

    def forward(self, vertical: Tensor, horizontal: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both stacks, shape [batch, channels, height, width], in and out."""
        down, across = self.conditions(condition)
        top, rows = self.reach + self.first, vertical.shape[2]
        above = vertical[:, :, : rows - 1] if self.first else vertical
        v = self.vertical(F.pad(above, (self.reach, self.reach, top, 0)))
        h = self.horizontal(horizontal) + self.link(v) + across
        y = self.residual(gated_tanh(h))
        return gated_tanh(v + down), y if self.first else horizontal + y


def gated_tanh(h: Tensor) -> Tensor:
    """The gated activation tanh(a) sigmoid(b) of the two halves of the channels."""
    a, b = h.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class _Rows(Incremental):
    """At the start of a row the vertical stack of all layers, for the whole row; then pixels through the horizontal."""

    def __init__(self, model: GatedPixelCNN, n: int, condition: Tensor | None):
        self.model, self.width = model, model.positions[1]
        self.layers = layers = model.layers
        self.conditions = [layer.conditions(condition) for layer in layers]
        self.horizontal = [RowConv2d(layer.horizontal, n, self.width) for layer in layers]
        self.residual = [PointConv2d(layer.residual, n) for layer in layers]
        self.head = PointHead(model.hidden, model.last, n)
        # The rows that each vertical convolution sees, its own the last one.
        self.rows = [
            layer.vertical.weight.new_zeros(
                n, layer.vertical.in_channels, layer.reach + 1, self.width + 2 * layer.reach
            )
            for layer in layers
        ]
        self.state = self.rows + [tensor for conv in self.horizontal for tensor in conv.state]

    def begin(self, phase: int) -> None:
        row = self.horizontal[0].inputs()  # the last row's pixels
        for layer, rows, (down, across), horizontal in zip(
            self.layers, self.rows, self.conditions, self.horizontal, strict=True
        ):
            rows[:, :, :-1] = rows[:, :, 1:].clone()
            rows[:, :, -1, layer.reach : layer.reach + self.width] = row
            v = layer.vertical(rows)
            horizontal.begin(layer.link(v) + across)
            row = gated_tanh(v + down)[:, :, 0]

    def step(self, column: int, group: int) -> Tensor:
        h = None
        for index, (horizontal, residual) in enumerate(zip(self.horizontal, self.residual, strict=True)):
            out = self.horizontal[index + 1].slot(column, group) if index + 1 < len(self.horizontal) else None
            h = residual(gated_tanh(horizontal.step(column, group)), group, h, out)
        return self.head(cast(Tensor, h), group)

    def write(self, column: int, group: int, value: Tensor) -> None:
        self.horizontal[0].write(column, self.model.embed(value), group)
