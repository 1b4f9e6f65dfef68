"""MADE for real vectors: one masked residual network gives every coordinate's density given those before it.

Source: Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution Estimation", 2015; a mixture a
coordinate as in Uria, Murray, Larochelle, "RNADE: The Real-valued Neural Autoregressive Density-estimator", 2013.
Where this departs from them: hidden units do not draw how many coordinates they see, but every coordinate has `width`
units, which see those before it; the coordinates keep one order; and the hidden layers are residual blocks, in which a
unit is added to one that sees the same coordinates.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from modalities import Modality
from zoo.autoregressive.model import Autoregressive
from zoo.autoregressive.samplers import Incremental
from zoo.conditions import Classes
from zoo.nn.masked import MaskedConv2d, PointConv2d, RowConv2d


class MADE(Autoregressive):
    """p(x) over the coordinates of a vector in their order, every conditional a mixture of logistics.

    Arguments:
        modality: vectors [d], real or with levels (of 2, a conditional is a Bernoulli distribution).
        width: hidden units a coordinate; those of coordinate k see the coordinates before it.
        layers: residual blocks, each of two masked layers.
        components: logistics of a conditional.
        condition: `Classes`, if samples shall be conditioned on one.
    """

    def __init__(
        self,
        modality: Modality,
        width: int = 64,
        layers: int = 3,
        components: int = 10,
        condition: Classes | None = None,
    ):
        super().__init__()
        self.describe(modality, None, components, axes=1, width=width, layers=layers)
        d = modality.shape[0]
        self.condition, hidden = condition, d * width
        # A vector is an image of one pixel, a coordinate a group of its channels.
        self.first = MaskedConv2d(d, hidden, 0, 0, "A", groups=d)
        self.layers = cast(Sequence[MaskedBlock], nn.ModuleList(MaskedBlock(hidden, d, layers) for _ in range(layers)))
        self.last = MaskedConv2d(hidden, d * self.likelihood_head.size, 0, 0, "B", groups=d)
        self.labels = None if condition is None else nn.Embedding(len(condition), hidden)

    def outputs(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        h = self.first.pointwise(x[:, 0].to(self.dtype))
        if self.labels is not None:
            h = h + self.labels(condition)
        for layer in self.layers:
            h = layer(h)
        return self.last.pointwise(F.silu(h)).unflatten(1, (-1, self.likelihood_head.size)).transpose(1, 2)

    def incremental(self, n: int, condition: Tensor | None = None) -> Incremental:
        return _Coordinates(self, n, condition)


class MaskedBlock(nn.Module):
    """h + linear(SiLU(linear(SiLU(h)))), where a coordinate's units see those of the coordinates up to it.

    The last layer starts smaller by the square root of the number of blocks, so that the sum of all keeps its size.
    """

    def __init__(self, hidden: int, groups: int, depth: int):
        super().__init__()
        self.first = MaskedConv2d(hidden, hidden, 0, 0, "B", groups)
        self.second = MaskedConv2d(hidden, hidden, 0, 0, "B", groups)
        self.second.weight.data /= math.sqrt(depth)

    def forward(self, h: Tensor) -> Tensor:
        """Shape [batch, hidden], in and out."""
        return h + self.second.pointwise(F.silu(self.first.pointwise(F.silu(h))))


class _Coordinates(Incremental):
    """One row of all coordinates; a step computes the units of its own coordinate."""

    def __init__(self, model: MADE, n: int, condition: Tensor | None):
        self.width = model.positions[0]
        self.extra = None if model.labels is None else model.labels(condition)[:, :, None, None]
        self.first = RowConv2d(model.first, n, 1)
        self.layers = [(PointConv2d(layer.first, n), PointConv2d(layer.second, n)) for layer in model.layers]
        self.last = PointConv2d(model.last, n)
        points = [point for layer in self.layers for point in layer]
        self.state = [*self.first.state, *(point.inputs for point in [*points, self.last])]

    def begin(self, phase: int) -> None:
        self.first.begin(self.extra)

    def step(self, column: int, group: int) -> Tensor:
        h = self.first.step(0, column)
        for first, second in self.layers:
            h = h + second(F.silu(first(F.silu(h), column)), column)
        return self.last(F.silu(h), column)

    def write(self, column: int, group: int, value: Tensor) -> None:
        self.first.write(0, value, column)
