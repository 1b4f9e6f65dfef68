"""PixelRNN: long short-term memories that sweep over an image, row by row or diagonal by diagonal.

Source: van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel Recurrent Neural Networks", 2016. Where the paper leaves it
open: states outside the image are the learned initial state, forget gates start with a bias of 1, a pixel's colours are
blocks of channels, and no layer skips to the head. In one place this departs from it. Built to the letter, the
right-to-left half of the Diagonal BiLSTM reads features that lack their own pixel, so that no pixel's receptive field
has the last pixel of the row above, unless the first convolution reaches it. But the states of that half are added to
those of the row below, for which nothing of the half's own row is in the future: here its input-to-state convolutions
are not masked, and the first of them reads a convolution that includes the pixel. So every pixel sees all before it.
"""

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modalities import Modality
from zoo.autoregressive.model import Autoregressive
from zoo.autoregressive.samplers import Incremental
from zoo.autoregressive.wavefront import Wavefronts
from zoo.distributions import full_precision
from zoo.nn.likelihood import ChainLikelihood
from zoo.nn.masked import MaskedConv2d, PointConv2d, PointHead, RowConv2d

REACH = 3
"""The first convolution is 7 x 7."""
MOST_PIXELS = 2**20
"""Of an item: their order is worked out beforehand."""


class PixelRNN(Autoregressive):
    """p(x) over the pixels in raster order, every conditional from stacked two-dimensional LSTMs.

    Arguments:
        modality: images, or other grids [channels, height, width].
        kind: "row", whose states come from the three nearest pixels of the row above: height steps a layer, and a
            receptive field that is a triangle; or "diagonal", whose states come from the left and from above, from
            both sides of the image: height + width - 1 steps, and a receptive field of everything before the pixel.
        width: the length h of a state; residual maps are twice as wide. For colours drawn in group a multiple of their
            number.
        layers: LSTM layers.
        head: feature maps between the two last convolutions.
        likelihood, components: see `ChainHead`.
    """

    def __init__(
        self,
        modality: Modality,
        kind: Literal["row", "diagonal"] = "diagonal",
        width: int = 16,
        layers: int = 7,
        head: int = 32,
        likelihood: ChainLikelihood | None = None,
        components: int = 10,
    ):
        super().__init__()
        self.describe(modality, likelihood, components, axes=3, width=width, layers=layers, head=head)
        if math.prod(self.positions) > MOST_PIXELS:
            raise ValueError(f"expected at most {MOST_PIXELS:,} pixels, of which each is a step, got {self.positions}")
        self.kind, self.groups, channels = kind, self.likelihood_head.groups, self.likelihood_head.channels
        height, columns = self.positions
        self.wavefronts = Wavefronts(height, columns, kind)
        self.first = MaskedConv2d(channels, 2 * width, REACH, REACH, "A", self.groups)
        self.first_reverse = MaskedConv2d(channels, 2 * width, REACH, REACH, "B") if kind == "diagonal" else None
        stack = nn.ModuleList(LSTMLayer(width, kind, self.groups) for _ in range(layers))
        self.layers = cast(Sequence[LSTMLayer], stack)
        self.hidden = MaskedConv2d(2 * width, head, 0, 0, "B", self.groups)
        self.last = MaskedConv2d(head, self.likelihood_head.size, 0, 0, "B", self.groups)

    def outputs(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        x, fronts = x.to(self.dtype), self.wavefronts
        features = fronts.lay_out(self.first(x))
        reverse = None
        if self.first_reverse is not None:
            reverse = fronts.mirror(fronts.lay_out(self.first_reverse(x)))
        for layer in self.layers:
            features = layer(features, fronts, reverse)
            reverse = None
        return fronts.lay_back(self.last.pointwise(F.relu(self.hidden.pointwise(F.relu(features)))))

    def incremental(self, n: int, condition: Tensor | None = None) -> Incremental:
        return _Rows(self, n) if self.kind == "row" else _Diagonals(self, n)


class LSTMLayer(nn.Module):
    """One residual block: an LSTM over the wavefronts, in one direction or two, and a 1 x 1 convolution of its states.

    The four gates are, in this order, output, forget, input and candidate. The state-to-state convolution reads pixels
    before the present one alone, so it may read all their colours.
    """

    def __init__(self, width: int, kind: str, groups: int):
        super().__init__()
        self.kind, self.width = kind, width
        if kind == "row":
            inputs = [MaskedConv2d(2 * width, 4 * width, 0, 1, "B", groups, parts=4)]
        else:
            inputs = [MaskedConv2d(2 * width, 4 * width, 0, 0, "B", part, parts=4) for part in (groups, 1)]
        self.inputs = cast(Sequence[MaskedConv2d], nn.ModuleList(inputs))
        taps, bound = (3 if kind == "row" else 2), 1 / math.sqrt(width)
        self.states = nn.Parameter(torch.empty(len(inputs), taps, width, 4 * width).uniform_(-bound, bound))
        self.initial = nn.Parameter(torch.zeros(2, len(inputs), width))
        """State and cell outside the image."""
        self.residual = MaskedConv2d(width, 2 * width, 0, 0, "B", groups)
        with torch.no_grad():
            for conv in inputs:
                conv.bias[width : 2 * width] += 1

    def forward(self, x: Tensor, fronts: Wavefronts, reverse: Tensor | None = None) -> Tensor:
        """Features [pixels, batch, 2 * width] in the order of the wavefronts, in and out.

        `reverse` is what the right-to-left half reads in place of the mirrored features.
        """
        if self.kind == "row":
            rows = x.unflatten(0, (fronts.height, fronts.width))
            left = F.pad(rows[:, :-1], (0, 0, 0, 0, 1, 0))
            read = torch.cat([left, rows], -1).flatten(0, 1)[None]
        else:
            read = torch.stack([x, fronts.mirror(x) if reverse is None else reverse])
        weight, bias = self.input_weights()
        with torch.autocast(x.device.type, enabled=False):
            h = fronts.sweep(*map(full_precision, (read, weight, bias, self.states, *self.initial)))
        return x + self.residual.pointwise(h.to(x.dtype))

    def input_weights(self) -> tuple[Tensor, Tensor]:
        """The input-to-state convolutions, [directions, columns * 2 * width, 4 * width] and [directions, 4 * width]."""
        weights = [conv.masked()[:, :, 0].permute(2, 1, 0).flatten(0, 1) for conv in self.inputs]
        return torch.stack(weights), torch.stack([conv.bias for conv in self.inputs])


class _Rows(Incremental):
    """The Row LSTM: at the start of a row what the row above gives to all its pixels, then pixel by pixel."""

    def __init__(self, model: PixelRNN, n: int):
        self.width, self.groups, layers = model.positions[1], model.groups, model.layers
        self.first = RowConv2d(model.first, n, self.width)
        self.inputs = [RowConv2d(layer.inputs[0], n, self.width) for layer in layers]
        self.residual = [PointConv2d(layer.residual, n) for layer in layers]
        self.head = PointHead(model.hidden, model.last, n)
        self.kernels = _grouped(torch.stack([layer.states[0].flatten(0, 1) for layer in layers]), self.groups)
        self.initial = torch.stack([layer.initial[:, 0] for layer in layers], 1).detach()[:, :, None, None]
        self.begun = self.initial.new_zeros((), dtype=torch.bool)
        # Columns of the last row, and of this one as far as it is done.
        self.h, self.c = self.initial.new_zeros(2, len(layers), self.width, n, self.initial.shape[-1])
        self.h_blocks, self.c_blocks = (_blocks(tensor, self.groups) for tensor in (self.h, self.c))
        self.above: list[list[tuple[Tensor, ...]]] = []
        convs = [self.first, *self.inputs]
        self.state = [self.begun, self.h, self.c] + [tensor for conv in convs for tensor in conv.state]

    def begin(self, phase: int) -> None:
        for tensor, initial in zip((self.h, self.c), self.initial, strict=True):
            tensor.copy_(torch.where(self.begun, tensor, initial))
        edge = self.initial[0].expand(-1, 1, self.h.shape[2], -1)
        h = torch.cat([edge, self.h, edge], 1)
        seen = torch.cat([h[:, :-2], h[:, 1:-1], h[:, 2:]], -1)
        above = torch.bmm(seen.flatten(1, 2), self.kernels).unflatten(1, (self.width, -1))
        self.above = _blocks(above, self.groups)
        for conv in [self.first, *self.inputs]:
            conv.begin()
        self.begun.fill_(True)

    def step(self, column: int, group: int) -> Tensor:
        x = self.first.step(column, group)
        for layer, (conv, residual) in enumerate(zip(self.inputs, self.residual, strict=True)):
            conv.write(column, x, group)
            sums = self.above[layer][column][group] + conv.step(column, group)
            h = _cell(sums, self.h_blocks[layer][column][group], self.c_blocks[layer][column][group])
            x = x + residual(h, group)
        return self.head(x, group)

    def write(self, column: int, group: int, value: Tensor) -> None:
        self.first.write(column, value, group)


class _Diagonals(Incremental):
    """The Diagonal BiLSTM, pixel by pixel: the left-to-right half as it comes; the right-to-left half of all layers
    together when a row is complete, since the next row is the first that reads its states.
    """

    def __init__(self, model: PixelRNN, n: int):
        assert model.first_reverse is not None
        self.width, self.groups, self.n, layers = model.positions[1], model.groups, n, model.layers
        self.first = RowConv2d(model.first, n, self.width)
        self.inputs = [PointConv2d(layer.inputs[0], n) for layer in layers]
        self.residual = [PointConv2d(layer.residual, n) for layer in layers]
        self.head = PointHead(model.hidden, model.last, n)
        states = torch.stack([layer.states for layer in layers], 2).detach()  # [directions, taps, layers, h, 4 h]
        self.from_above, self.from_left = _grouped(states[0], self.groups)
        self.reverse_from_above, self.reverse_from_left = states[1]
        weights = [[part[1] for part in layer.input_weights()] for layer in layers]
        self.reverse_weight, self.reverse_bias = (torch.stack(parts).detach() for parts in zip(*weights, strict=True))
        conv = model.first_reverse
        self.reverse_first = conv.masked().detach(), conv.bias.detach()
        initial = torch.stack([layer.initial for layer in layers], 2).detach()
        (self.h0, self.reverse_h0), (self.c0, self.reverse_c0) = initial  # each [layers, h]
        # The pixels that the reverse's first convolution sees, its own row the last one.
        self.rows = states.new_zeros(n, conv.inputs, REACH + 1, self.width + 2 * REACH)
        self.begun = states.new_zeros((), dtype=torch.bool)
        width = self.h0.shape[-1]
        # Columns of the last row, and of this one as far as it is done; states and inputs of every layer.
        self.h, self.reverse_h = states.new_zeros(2, len(layers), self.width, n, width)
        self.x = states.new_zeros(len(layers), self.width, n, 2 * width)
        self.left, self.c = states.new_zeros(2, len(layers), 1, n, width)
        self.x_blocks, self.h_blocks, self.left_blocks, self.c_blocks = (
            _blocks(tensor, self.groups) for tensor in (self.x, self.h, self.left, self.c)
        )
        self.above = self.h
        self.from_reverse: list[list[tuple[Tensor, ...]]] = []
        self.sums: list[list[tuple[Tensor, ...]]] = []
        self.state = [self.begun, self.rows, self.h, self.reverse_h, self.x, self.left, self.c, *self.first.state]

    def begin(self, phase: int) -> None:
        self._sweep_back()
        self.from_reverse = _blocks(torch.where(self.begun, self.reverse_h, 0.0), self.groups)
        for tensor, initial in ((self.h, self.h0), (self.reverse_h, self.reverse_h0)):
            tensor.copy_(torch.where(self.begun, tensor, initial[:, None, None]))
        self.above = torch.bmm(self.h.flatten(1, 2), self.from_above).unflatten(1, (self.width, -1))
        self.left.copy_(self.h0[:, None, None].expand_as(self.left))
        self.c.copy_(self.c0[:, None, None].expand_as(self.c))
        self.first.begin()
        self.begun.fill_(True)

    def _sweep_back(self) -> None:
        """The right-to-left half over the row that is complete; before the first row what comes of it is not used."""
        self.rows[:, :, :-1] = self.rows[:, :, 1:].clone()
        self.rows[:, :, -1, REACH : REACH + self.width] = self.first.inputs()
        self.x[0] = F.conv2d(self.rows, *self.reverse_first)[:, :, 0].permute(2, 0, 1)
        sums = torch.baddbmm(self.reverse_bias[:, None], self.x.flatten(1, 2), self.reverse_weight)
        sums = torch.baddbmm(sums, self.reverse_h.flatten(1, 2), self.reverse_from_above)
        columns = sums.unflatten(1, (self.width, -1)).unbind(1)
        h = self.reverse_h0[:, None].expand(-1, self.n, -1)
        c = self.reverse_c0[:, None].expand(-1, self.n, -1).clone()
        for column in range(self.width - 1, -1, -1):
            h = _cell(torch.baddbmm(columns[column], h, self.reverse_from_left), self.reverse_h[:, column], c)

    def step(self, column: int, group: int) -> Tensor:
        if group == 0:
            sums = torch.baddbmm(self.above[:, column], self.left[:, 0], self.from_left)
            self.sums = _blocks(sums[:, None], self.groups)
        x = self.first.step(column, group)
        for layer, (inputs, residual) in enumerate(zip(self.inputs, self.residual, strict=True)):
            self.x_blocks[layer][column][group].copy_(x)
            sums = self.sums[layer][0][group] + inputs(x, group)
            h = _cell(sums, self.left_blocks[layer][0][group], self.c_blocks[layer][0][group])
            self.h_blocks[layer][column][group].copy_(h)
            x = x + residual(h + self.from_reverse[layer][column][group], group)
        return self.head(x, group)

    def write(self, column: int, group: int, value: Tensor) -> None:
        self.first.write(column, value, group)


def _cell(sums: Tensor, h: Tensor, c: Tensor) -> Tensor:
    """Write a state into `h` and the cell into `c`, given the gates' sums [..., 4 h] and the last cell in `c`."""
    output_gate, forget_gate, input_gate, candidate = sums.chunk(4, -1)
    c.mul_(torch.sigmoid(forget_gate)).addcmul_(torch.sigmoid(input_gate), torch.tanh(candidate))
    return torch.mul(torch.sigmoid(output_gate), torch.tanh(c), out=h)


def _grouped(kernels: Tensor, groups: int) -> Tensor:
    """Kernels [..., 4 h] with the gates of one colour side by side."""
    return kernels.unflatten(-1, (4, groups, -1)).transpose(-3, -2).flatten(-3).detach()


def _blocks(x: Tensor, groups: int) -> list[list[tuple[Tensor, ...]]]:
    """Slices of a tensor [layers, columns, n, channels]: by layer, column and colour."""
    return [[column.chunk(groups, -1) for column in layer.unbind(0)] for layer in x.unbind(0)]
