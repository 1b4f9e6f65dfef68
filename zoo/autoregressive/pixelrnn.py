"""PixelRNN: long short-term memories that sweep over an image, row by row or diagonal by diagonal.

Source: van den Oord, Kalchbrenner, Kavukcuoglu, "Pixel Recurrent Neural Networks", 2016. Where the paper leaves it
open: states outside the image are the learned initial state, forget gates start with a bias of 1, a pixel's colours are
blocks of channels, and no layer skips to the head. In one place this departs from it. Built to the letter, the
right-to-left half of the Diagonal BiLSTM reads features that lack their own pixel, and so no pixel would see the last
one of the row above, unless the first convolution reaches it. But that half is heard a row further down only, from
where nothing of its own row is hidden: here its input-to-state convolutions are not masked, and the first of them reads
a convolution that includes the pixel. So every pixel sees all before it.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modalities import Modality
from zoo.autoregressive.chain import Autoregressive, Incremental, Likelihood
from zoo.distributions import full_precision
from zoo.nn.masked import MaskedConv2d, PointConv2d, RowConv2d

REACH = 3
"""The first convolution is 7 x 7."""
MOST_PIXELS = 2**20
"""Of an item: their order is worked out beforehand."""


class PixelRNN(Autoregressive):
    """p(x) over the pixels in raster order, every conditional from stacked two-dimensional LSTMs.

    Arguments:
        modality: images, or other grids [channels, height, width].
        kind: "row", whose states come from the three nearest pixels of the row above: height steps a layer, and a
            view that is a triangle; or "diagonal", whose states come from the left and from above, from both sides of
            the image: height + width - 1 steps, and a view of everything before the pixel.
        width: the length h of a state; residual maps are twice as wide. For colours drawn in turn a multiple of their
            number.
        layers: LSTM layers.
        head: feature maps between the two last convolutions.
        likelihood, components: see `Output`.
    """

    def __init__(
        self,
        modality: Modality,
        kind: Literal["row", "diagonal"] = "diagonal",
        width: int = 16,
        layers: int = 7,
        head: int = 32,
        likelihood: Likelihood | None = None,
        components: int = 10,
    ):
        super().__init__()
        self.describe(modality, likelihood, components)
        if len(self.positions) != 2 or layers < 1:
            raise ValueError(
                f"expected items [channels, height, width] and at least 1 layer, got {modality.shape}, {layers}"
            )
        if math.prod(self.positions) > MOST_PIXELS:
            raise ValueError(f"expected at most {MOST_PIXELS:,} pixels, of which each is a step, got {self.positions}")
        if kind not in ("row", "diagonal"):
            raise ValueError(f"kind is row or diagonal, got {kind!r}")
        self.kind, self.groups, channels = kind, self.output.turns, self.output.channels
        self.fronts = Fronts(*self.positions, kind)
        self.first = MaskedConv2d(channels, 2 * width, REACH, REACH, "A", self.groups)
        self.first_reverse = MaskedConv2d(channels, 2 * width, REACH, REACH, "B") if kind == "diagonal" else None
        self.layers = nn.ModuleList(LSTMLayer(width, kind, self.groups) for _ in range(layers))
        self.hidden = MaskedConv2d(2 * width, head, 0, 0, "B", self.groups)
        self.last = MaskedConv2d(head, self.output.size, 0, 0, "B", self.groups)

    def outputs(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        x, fronts = x.to(self.dtype), self.fronts
        features = fronts.lay_out(self.first(x))
        reverse = None
        if self.first_reverse is not None:
            reverse = permute(fronts.lay_out(self.first_reverse(x)), fronts.reverse, fronts.reverse_back)
        for layer in self.layers:
            features = layer(features, fronts, reverse)
            reverse = None
        return fronts.lay_back(point(self.last, F.relu(point(self.hidden, F.relu(features)))))

    def incremental(self, n: int, condition: Tensor | None = None) -> Incremental:
        return _Rows(self, n) if self.kind == "row" else _Diagonals(self, n)


class Fronts(nn.Module):
    """The order in which a layer computes the pixels: fronts of pixels whose states need those of the last front alone.

    A front is a row, or a diagonal from the upper right to the lower left: a column of the paper's skewed map, without
    the cells that lie outside the image. All feature maps of the network lie in that order, shape [pixels, batch,
    channels]. The states are kept as blocks: block t is what front t reads, its pixels' neighbours side by side, with
    the initial state where they lie outside the image; front t writes its states into block t + 1.
    """

    order: Tensor
    back: Tensor
    reverse: Tensor
    reverse_back: Tensor
    places: Tensor
    before: Tensor
    neighbours: Tensor
    outside: Tensor
    shown: Tensor
    shown_from: Tensor

    def __init__(self, height: int, width: int, kind: str):
        super().__init__()
        self.height, self.width = height, width
        if kind == "row":
            self.taps = 3
            fronts = [[(i, j) for j in range(width)] for i in range(height)]
            blocks = [[(i - 1, j) for j in range(-1, width + 1)] for i in range(height)]
        else:
            self.taps = 2
            fronts, blocks = [], []
            for d in range(height + width - 1):
                low, high = max(0, d - width + 1), min(height - 1, d)
                fronts.append([(i, d - i) for i in range(low, high + 1)])
                blocks.append([(i, d - 1 - i) for i in range(low - 1, high + 1)])
        cells = [cell for front in fronts for cell in front]
        slots = [cell for block in [*blocks, fronts[-1]] for cell in block]
        inside = {cell: index for index, cell in enumerate(cells)}
        place = {cell: index for index, cell in enumerate(slots) if cell in inside}
        # Of every front: its pixels, its first one, where its block starts, and where its states go.
        self.steps, start, block_start = [], 0, 0
        for front, block in zip(fronts, blocks, strict=True):
            self.steps.append((len(front), start, block_start, place[front[0]]))
            start, block_start = start + len(front), block_start + len(block)
        self.slots = len(slots)
        mirrored = [(i, width - 1 - j) for i, j in cells]
        indices = {
            "order": [i * width + j for i, j in cells],
            "reverse": [inside[cell] for cell in mirrored],
            "places": [place[cell] for cell in cells],
            "neighbours": [
                [block_start + tap + k for n, _, block_start, _ in self.steps for k in range(n)]
                for tap in range(self.taps)
            ],
            "outside": [index for index, cell in enumerate(slots) if cell not in inside],
            # What the right-to-left half gives to a pixel: the state of the mirrored pixel a row up.
            "shown": [place[i - 1, width - 1 - j] for i, j in cells if i > 0],
            "shown_from": [index for index, (i, _) in enumerate(cells) if i > 0],
        }
        for name, index in indices.items():
            self.register_buffer(name, torch.tensor(index, dtype=torch.long), persistent=False)
        self.register_buffer("back", self.order.argsort(), persistent=False)
        self.register_buffer("reverse_back", self.reverse.argsort(), persistent=False)

    def lay_out(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] to [pixels, batch, channels] in the fronts' order."""
        return permute(x.flatten(2).permute(2, 0, 1), self.order, self.back)

    def lay_back(self, x: Tensor) -> Tensor:
        """The inverse of `lay_out`."""
        x = permute(x, self.back, self.order).permute(1, 2, 0)
        return x.unflatten(2, (self.height, self.width))


class LSTMLayer(nn.Module):
    """One residual block: an LSTM over the fronts, in one direction or in two, and a 1 x 1 convolution of its states.

    The gates are, in this order, output, forget, input and content. The state-to-state convolution reads pixels before
    the present one alone, so all colours of them.
    """

    def __init__(self, width: int, kind: str, groups: int):
        super().__init__()
        self.kind, self.width = kind, width
        if kind == "row":
            inputs = [MaskedConv2d(2 * width, 4 * width, 0, 1, "B", groups, parts=4)]
        else:
            inputs = [MaskedConv2d(2 * width, 4 * width, 0, 0, "B", part, parts=4) for part in (groups, 1)]
        self.inputs = nn.ModuleList(inputs)
        taps, bound = (3 if kind == "row" else 2), 1 / math.sqrt(width)
        self.states = nn.Parameter(torch.empty(len(inputs), taps, width, 4 * width).uniform_(-bound, bound))
        self.initial = nn.Parameter(torch.zeros(2, len(inputs), width))
        """State and cell outside the image."""
        self.residual = MaskedConv2d(width, 2 * width, 0, 0, "B", groups)
        with torch.no_grad():
            for conv in inputs:
                conv.bias[width : 2 * width] += 1

    def forward(self, x: Tensor, fronts: Fronts, reverse: Tensor | None = None) -> Tensor:
        """Features [pixels, batch, 2 * width] in the order of the fronts, in and out.

        `reverse` is what the right-to-left half reads in place of the mirrored features.
        """
        if self.kind == "row":
            rows = x.unflatten(0, (fronts.height, fronts.width))
            left = F.pad(rows[:, :-1], (0, 0, 0, 0, 1, 0))
            read = torch.cat([left, rows], -1).flatten(0, 1)[None]
        else:
            read = torch.stack([x, permute(x, fronts.reverse, fronts.reverse_back) if reverse is None else reverse])
        weight, bias = self.input_weights()
        with torch.autocast(x.device.type, enabled=False):
            arguments = (read, weight, bias, self.states, *self.initial)
            h: Tensor = _Sweep.apply(fronts, *map(full_precision, arguments))
        return x + point(self.residual, h.to(x.dtype))

    def input_weights(self) -> tuple[Tensor, Tensor]:
        """The input-to-state convolutions, [directions, columns * 2 * width, 4 * width] and [directions, 4 * width]."""
        convs: list[MaskedConv2d] = list(self.inputs)  # type: ignore[arg-type]
        weight = torch.stack([(conv.weight * conv.mask)[:, :, 0].permute(2, 1, 0).flatten(0, 1) for conv in convs])
        return weight, torch.stack([conv.bias for conv in convs])


def point(conv: MaskedConv2d, x: Tensor) -> Tensor:
    """A 1 x 1 convolution of features whose channels come last."""
    return F.linear(x, (conv.weight * conv.mask).flatten(1), conv.bias)


def permute(x: Tensor, order: Tensor, back: Tensor) -> Tensor:
    """`x[order]`, where `back` is the inverse permutation."""
    result: Tensor = _Permute.apply(x, order, back)
    return result


class _Permute(torch.autograd.Function):
    """The gradient of a permutation is its inverse: faster than the scattered sum that any index gets."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, *ctx.saved_tensors), None, None


class _Sweep(torch.autograd.Function):
    """The LSTM over all fronts, both directions at once, with its gradient written out.

    Almost all time of training goes here. Written out, a step is a handful of operations in place on slices of a few
    large tensors, and everything that needs no order (the weights' gradients, the derivatives of the gates) is done for
    all pixels at once.

    With pixels p in the order of the fronts: x [directions, p, batch, inputs], weight [directions, inputs, 4 h], bias
    [directions, 4 h], states [directions, taps, h, 4 h], the initial h and c [directions, h]. Returns [p, batch, h]:
    the first direction's states and, a row down and mirrored, the second's.

    tanh(a) is 2 sigmoid(2 a) - 1, so that one function, over contiguous memory, serves for all four gates.
    """

    @staticmethod
    def forward(
        ctx: Any, fronts: Fronts, x: Tensor, weight: Tensor, bias: Tensor, states: Tensor, h0: Tensor, c0: Tensor
    ) -> Tensor:
        directions, pixels, n, _ = x.shape
        width = h0.shape[1]
        scale = torch.ones_like(bias[0])
        scale[3 * width :] = 2
        gates = torch.baddbmm((bias * scale)[:, None], x.flatten(1, 2), weight * scale)
        h = h0[:, None].expand(-1, fronts.slots * n, -1).contiguous()
        c = c0[:, None].expand(-1, fronts.slots * n, -1).contiguous()
        taps = (states * scale).unbind(1)
        for count, start, block, place in fronts.steps:
            size, at = count * n, place * n
            gate = gates[:, start * n : start * n + size]
            for tap, kernel in enumerate(taps):
                seen = (block + tap) * n
                torch.baddbmm(gate, h[:, seen : seen + size], kernel, out=gate)
            out, forget, let, content = gate.sigmoid_().chunk(4, -1)
            own, memory = (block + 1) * n, c[:, at : at + size]
            torch.mul(forget, c[:, own : own + size], out=memory)
            memory.addcmul_(let, content, value=2).sub_(let)
            torch.mul(out, _tanh(memory), out=h[:, at : at + size])
        h, c = h.unflatten(1, (-1, n)), c.unflatten(1, (-1, n))
        result = h[0].index_select(0, fronts.places)
        if directions == 2:
            result.index_add_(0, fronts.shown_from, h[1].index_select(0, fronts.shown))
        ctx.fronts = fronts
        ctx.save_for_backward(x, weight, states, gates, h, c)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        fronts: Fronts = ctx.fronts
        x, weight, states, gates, h, c = ctx.saved_tensors
        directions, pixels, n, _ = x.shape
        width = states.shape[2]
        out, forget, let, content = gates.chunk(4, -1)
        squashed = _tanh(c.index_select(1, fronts.places)).flatten(1, 2)
        # How the new cell, and for the first gate the state, moves with the sum of a gate.
        slopes = torch.addcmul(gates, gates, gates, value=-1)
        for slope, factor in zip(
            slopes.chunk(4, -1),
            (squashed, c.index_select(1, fronts.neighbours[1]).flatten(1, 2), 2 * content - 1, 4 * let),
            strict=True,
        ):
            slope.mul_(factor)
        to_cell = torch.addcmul(out, out * squashed, squashed, value=-1)
        dh, dc = torch.zeros_like(h), torch.zeros_like(c).flatten(1, 2)
        dh[0].index_copy_(0, fronts.places, grad)
        if directions == 2:
            dh[1].index_copy_(0, fronts.shown, grad.index_select(0, fronts.shown_from))
        dh = dh.flatten(1, 2)
        taps = [kernel.transpose(1, 2) for kernel in states.unbind(1)]
        for count, start, block, place in reversed(fronts.steps):
            size, at, first = count * n, place * n, start * n
            slope = slopes[:, first : first + size]
            dh_now, dc_now = dh[:, at : at + size], dc[:, at : at + size]
            dc_now.addcmul_(dh_now, to_cell[:, first : first + size])
            slope[..., :width].mul_(dh_now)
            slope[..., width:].unflatten(-1, (3, width)).mul_(dc_now[:, :, None])
            own = (block + 1) * n
            torch.mul(dc_now, forget[:, first : first + size], out=dc[:, own : own + size])
            for tap, kernel in enumerate(taps):
                seen = dh[:, (block + tap) * n : (block + tap) * n + size]
                torch.baddbmm(seen, slope, kernel, out=seen)
        d_states = torch.stack(
            [h.index_select(1, index).flatten(1, 2).transpose(1, 2) @ slopes for index in fronts.neighbours], 1
        )
        dx = (slopes @ weight.transpose(1, 2)).view_as(x)
        d_weight = x.flatten(1, 2).transpose(1, 2) @ slopes
        dh0, dc0 = (d.unflatten(1, (-1, n)).index_select(1, fronts.outside).sum((1, 2)) for d in (dh, dc))
        return None, dx, d_weight, slopes.sum(1), d_states, dh0, dc0


def _tanh(x: Tensor) -> Tensor:
    """On a processor by way of the sigmoid, which takes a sixth of the time there."""
    return torch.tanh(x) if x.is_cuda else torch.sigmoid(2 * x).mul_(2).sub_(1)


class _Rows(Incremental):
    """The Row LSTM: at the start of a row what the row above gives to all its pixels, then pixel by pixel."""

    def __init__(self, model: PixelRNN, n: int):
        self.width, self.groups = model.positions[1], model.groups
        layers: list[LSTMLayer] = list(model.layers)  # type: ignore[arg-type]
        self.first = RowConv2d(model.first, n, self.width)
        self.inputs = [RowConv2d(layer.inputs[0], n, self.width) for layer in layers]  # type: ignore[arg-type]
        self.residual = [PointConv2d(layer.residual, n) for layer in layers]
        self.head = _Head(model, n)
        self.kernels = _grouped(torch.stack([layer.states[0].flatten(0, 1) for layer in layers]), self.groups)
        self.initial = torch.stack([layer.initial[:, 0] for layer in layers], 1).detach()[:, :, None, None]
        self.begun = self.initial.new_zeros((), dtype=torch.bool)
        # Columns of the last row, and of this one as far as it is done.
        self.h, self.c = self.initial.new_zeros(2, len(layers), self.width, n, self.initial.shape[-1])
        self.h_blocks, self.c_blocks = (_blocks(tensor, self.groups) for tensor in (self.h, self.c))
        self.above: list[list[tuple[Tensor, ...]]] = []

    def state(self) -> list[Tensor]:
        convs = [self.first, *self.inputs]
        return [self.begun, self.h, self.c] + [tensor for conv in convs for tensor in conv.state()]

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

    def step(self, column: int, turn: int) -> Tensor:
        x = self.first.step(column, turn)
        for layer, (conv, residual) in enumerate(zip(self.inputs, self.residual, strict=True)):
            conv.write(column, x, turn)
            sums = self.above[layer][column][turn] + conv.step(column, turn)
            h = _cell(sums, self.h_blocks[layer][column][turn], self.c_blocks[layer][column][turn])
            x = x + residual(h, turn)
        return self.head(x, turn)

    def write(self, column: int, turn: int, value: Tensor) -> None:
        self.first.write(column, value, turn)


class _Diagonals(Incremental):
    """The Diagonal BiLSTM, pixel by pixel: the left-to-right half as it comes; the right-to-left half of all layers
    together when a row is complete, since the next row is the first that hears of it.
    """

    def __init__(self, model: PixelRNN, n: int):
        assert model.first_reverse is not None
        self.width, self.groups, self.n = model.positions[1], model.groups, n
        layers: list[LSTMLayer] = list(model.layers)  # type: ignore[arg-type]
        self.first = RowConv2d(model.first, n, self.width)
        self.inputs = [PointConv2d(layer.inputs[0], n) for layer in layers]  # type: ignore[arg-type]
        self.residual = [PointConv2d(layer.residual, n) for layer in layers]
        self.head = _Head(model, n)
        states = torch.stack([layer.states for layer in layers], 2).detach()  # [directions, taps, layers, h, 4 h]
        self.from_above, self.from_left = _grouped(states[0], self.groups)
        self.reverse_from_above, self.reverse_from_left = states[1]
        weights = [[part[1] for part in layer.input_weights()] for layer in layers]
        self.reverse_weight, self.reverse_bias = (torch.stack(parts).detach() for parts in zip(*weights, strict=True))
        conv = model.first_reverse
        self.reverse_first = (conv.weight * conv.mask).detach(), conv.bias.detach()
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
        self.shown: list[list[tuple[Tensor, ...]]] = []
        self.sums: list[list[tuple[Tensor, ...]]] = []

    def state(self) -> list[Tensor]:
        return [self.begun, self.rows, self.h, self.reverse_h, self.x, self.left, self.c, *self.first.state()]

    def begin(self, phase: int) -> None:
        self._sweep_back()
        shown = torch.where(self.begun, self.reverse_h, 0.0)
        self.shown = _blocks(shown, self.groups)
        for tensor, initial in ((self.h, self.h0), (self.reverse_h, self.reverse_h0)):
            tensor.copy_(torch.where(self.begun, tensor, initial[:, None, None]))
        self.above = torch.bmm(self.h.flatten(1, 2), self.from_above).unflatten(1, (self.width, -1))
        self.left.copy_(self.h0[:, None, None].expand_as(self.left))
        self.c.copy_(self.c0[:, None, None].expand_as(self.c))
        self.first.begin()
        self.begun.fill_(True)

    def _sweep_back(self) -> None:
        """The right-to-left half over the row that is complete; before the first row, of nothing."""
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

    def step(self, column: int, turn: int) -> Tensor:
        if turn == 0:
            sums = torch.baddbmm(self.above[:, column], self.left[:, 0], self.from_left)
            self.sums = _blocks(sums[:, None], self.groups)
        x = self.first.step(column, turn)
        for layer, (inputs, residual) in enumerate(zip(self.inputs, self.residual, strict=True)):
            self.x_blocks[layer][column][turn].copy_(x)
            sums = self.sums[layer][0][turn] + inputs(x, turn)
            h = _cell(sums, self.left_blocks[layer][0][turn], self.c_blocks[layer][0][turn])
            self.h_blocks[layer][column][turn].copy_(h)
            x = x + residual(h + self.shown[layer][column][turn], turn)
        return self.head(x, turn)

    def write(self, column: int, turn: int, value: Tensor) -> None:
        self.first.write(column, value, turn)


class _Head:
    """The two last convolutions at a pixel."""

    def __init__(self, model: PixelRNN, n: int):
        self.hidden, self.last = PointConv2d(model.hidden, n), PointConv2d(model.last, n)

    def __call__(self, x: Tensor, turn: int) -> Tensor:
        return self.last(F.relu(self.hidden(F.relu(x), turn)), turn)


def _cell(sums: Tensor, h: Tensor, c: Tensor) -> Tensor:
    """Write a state into `h` and the cell into `c`, given the gates' sums [..., 4 h] and the last cell in `c`."""
    out, forget, let, content = sums.chunk(4, -1)
    c.mul_(torch.sigmoid(forget)).addcmul_(torch.sigmoid(let), torch.tanh(content))
    return torch.mul(torch.sigmoid(out), torch.tanh(c), out=h)


def _grouped(kernels: Tensor, groups: int) -> Tensor:
    """Kernels [..., 4 h] with the gates of one colour side by side."""
    return kernels.unflatten(-1, (4, groups, -1)).transpose(-3, -2).flatten(-3).detach()


def _blocks(x: Tensor, groups: int) -> list[list[tuple[Tensor, ...]]]:
    """Slices of a tensor [layers, columns, n, channels]: by layer, column and colour."""
    return [[column.chunk(groups, -1) for column in layer.unbind(0)] for layer in x.unbind(0)]
