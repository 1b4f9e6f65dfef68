"""Two-dimensional LSTMs computed wavefront by wavefront: rows of an image, or diagonals from its upper right.

All feature maps lie in the order of the wavefronts, shape [pixels, batch, channels].
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, FunctionCtx


class Front(NamedTuple):
    """A wavefront: pixels whose states need those of the last wavefront alone."""

    pixels: int
    """How many it has."""
    start: int
    """Its first pixel, in the order of the wavefronts."""
    block: int
    """Where the block of states that it reads starts."""
    place: int
    """Where its own states go."""


class Wavefronts(nn.Module):
    """The order in which the pixels of an image are computed, and where states lie.

    A wavefront of `kind` "row" is a row; one of "diagonal" is a diagonal from the upper right to the lower left, which
    is a column of the paper's skewed map without the cells outside of the image. States are kept as blocks: block t is
    what wavefront t reads, its pixels' neighbours side by side, with the initial state where they lie outside of the
    image; wavefront t writes its states into block t + 1.
    """

    order: Tensor
    back: Tensor
    reverse: Tensor
    reverse_back: Tensor
    places: Tensor
    neighbours: Tensor
    outside: Tensor
    reverse_readers: Tensor
    reverse_places: Tensor

    def __init__(self, height: int, width: int, kind: str):
        super().__init__()
        self.height, self.width = height, width
        if kind == "row":
            taps = 3
            fronts = [[(i, j) for j in range(width)] for i in range(height)]
            blocks = [[(i - 1, j) for j in range(-1, width + 1)] for i in range(height)]
        else:
            taps, fronts, blocks = 2, [], []
            for d in range(height + width - 1):
                low, high = max(0, d - width + 1), min(height - 1, d)
                fronts.append([(i, d - i) for i in range(low, high + 1)])
                blocks.append([(i, d - 1 - i) for i in range(low - 1, high + 1)])
        cells = [cell for front in fronts for cell in front]
        slots = [cell for block in [*blocks, fronts[-1]] for cell in block]
        inside = {cell: index for index, cell in enumerate(cells)}
        place = {cell: index for index, cell in enumerate(slots) if cell in inside}
        self.slots = len(slots)
        self.fronts: list[Front] = []
        start = block_start = 0
        for front, block in zip(fronts, blocks, strict=True):
            self.fronts.append(Front(len(front), start, block_start, place[front[0]]))
            start, block_start = start + len(front), block_start + len(block)
        indices = {
            "order": [i * width + j for i, j in cells],
            "reverse": [inside[i, width - 1 - j] for i, j in cells],
            "places": [place[cell] for cell in cells],
            "neighbours": [[f.block + tap + k for f in self.fronts for k in range(f.pixels)] for tap in range(taps)],
            "outside": [index for index, cell in enumerate(slots) if cell not in inside],
            # A pixel reads the right-to-left half's state of the row above, which lies mirrored.
            "reverse_readers": [index for index, (i, _) in enumerate(cells) if i > 0],
            "reverse_places": [place[i - 1, width - 1 - j] for i, j in cells if i > 0],
        }
        for name, index in indices.items():
            self.register_buffer(name, torch.tensor(index, dtype=torch.long), persistent=False)
        self.register_buffer("back", self.order.argsort(), persistent=False)
        self.register_buffer("reverse_back", self.reverse.argsort(), persistent=False)

    def lay_out(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width] to [pixels, batch, channels] in the order of the wavefronts."""
        return _permute(x.flatten(2).permute(2, 0, 1), self.order, self.back)

    def lay_back(self, x: Tensor) -> Tensor:
        """The inverse of `lay_out`."""
        return _permute(x, self.back, self.order).permute(1, 2, 0).unflatten(2, (self.height, self.width))

    def mirror(self, x: Tensor) -> Tensor:
        """Features [pixels, batch, channels] of the image with left and right exchanged."""
        return _permute(x, self.reverse, self.reverse_back)

    def sweep(self, x: Tensor, weight: Tensor, bias: Tensor, states: Tensor, h0: Tensor, c0: Tensor) -> Tensor:
        """The states of an LSTM, of all directions at once, shape [pixels, batch, h].

        Those of a second direction, which runs from right to left over the mirrored image, are added a row down.

        Arguments:
            x: what the directions read, shape [directions, pixels, batch, inputs].
            weight, bias: input-to-state, shape [directions, inputs, 4 * h] and [directions, 4 * h]. The four gates are,
                in this order, output, forget, input and candidate.
            states: state-to-state, shape [directions, taps, h, 4 * h]: the last row's three nearest pixels, or the
                pixels above and to the left.
            h0, c0: state and cell outside of the image, shape [directions, h].
        """
        result: Tensor = _Sweep.apply(self, x, weight, bias, states, h0, c0)
        return result


def _permute(x: Tensor, order: Tensor, back: Tensor) -> Tensor:
    """`x[order]`, where `back` is the inverse permutation."""
    result: Tensor = _Permute.apply(x, order, back)
    return result


class _Permute(torch.autograd.Function):
    """The gradient of a permutation is its inverse: faster than the scattered sum that any index gets."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: BackwardCFunction, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, *ctx.saved_tensors), None, None


class _Sweep(torch.autograd.Function):
    """`Wavefronts.sweep` with its gradient written out.

    Almost all time of training goes here. Written out, a step is a handful of operations in place on slices of a few
    large tensors, and everything that needs no order (the weights' gradients, the derivatives of the gates) is done for
    all pixels at once.

    tanh(a) is 2 sigmoid(2 a) - 1, so that one function, over contiguous memory, serves for all four gates. A cell
    follows that of its neighbour with tap 1: of a row the pixel above, of a diagonal the pixel to the left.
    """

    @staticmethod
    def forward(
        ctx: Any,
        wavefronts: Wavefronts,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        states: Tensor,
        h0: Tensor,
        c0: Tensor,
    ) -> Tensor:
        directions, _, n, _ = x.shape
        width = h0.shape[1]
        scale = torch.ones_like(bias[0])
        scale[3 * width :] = 2
        gates = torch.baddbmm((bias * scale)[:, None], x.flatten(1, 2), weight * scale)
        h = h0[:, None].expand(-1, wavefronts.slots * n, -1).contiguous()
        c = c0[:, None].expand(-1, wavefronts.slots * n, -1).contiguous()
        taps = (states * scale).unbind(1)
        for front in wavefronts.fronts:
            size, place = front.pixels * n, front.place * n
            gate = gates[:, front.start * n : front.start * n + size]
            for tap, kernel in enumerate(taps):
                seen = (front.block + tap) * n
                torch.baddbmm(gate, h[:, seen : seen + size], kernel, out=gate)
            output_gate, forget_gate, input_gate, candidate = gate.sigmoid_().chunk(4, -1)
            before, cell = (front.block + 1) * n, c[:, place : place + size]
            torch.mul(forget_gate, c[:, before : before + size], out=cell)
            cell.addcmul_(input_gate, candidate, value=2).sub_(input_gate)
            torch.mul(output_gate, _tanh(cell), out=h[:, place : place + size])
        h, c = h.unflatten(1, (-1, n)), c.unflatten(1, (-1, n))
        result = h[0].index_select(0, wavefronts.places)
        if directions == 2:
            result.index_add_(0, wavefronts.reverse_readers, h[1].index_select(0, wavefronts.reverse_places))
        ctx.wavefronts = wavefronts
        ctx.save_for_backward(x, weight, states, gates, h, c)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wavefronts: Wavefronts = ctx.wavefronts
        x, weight, states, gates, h, c = ctx.saved_tensors
        directions, _, n, _ = x.shape
        width = states.shape[2]
        output_gate, forget_gate, input_gate, candidate = gates.chunk(4, -1)
        squashed = _tanh(c.index_select(1, wavefronts.places)).flatten(1, 2)
        # How the new cell, and for the output gate the state, moves with the sum of a gate.
        slopes = torch.addcmul(gates, gates, gates, value=-1)
        last_cell = c.index_select(1, wavefronts.neighbours[1]).flatten(1, 2)
        factors = (squashed, last_cell, 2 * candidate - 1, 4 * input_gate)
        for slope, factor in zip(slopes.chunk(4, -1), factors, strict=True):
            slope.mul_(factor)
        to_cell = torch.addcmul(output_gate, output_gate * squashed, squashed, value=-1)
        dh, dc = torch.zeros_like(h), torch.zeros_like(c).flatten(1, 2)
        dh[0].index_copy_(0, wavefronts.places, grad)
        if directions == 2:
            dh[1].index_copy_(0, wavefronts.reverse_places, grad.index_select(0, wavefronts.reverse_readers))
        dh = dh.flatten(1, 2)
        taps = [kernel.transpose(1, 2) for kernel in states.unbind(1)]
        for front in reversed(wavefronts.fronts):
            size, place, start = front.pixels * n, front.place * n, front.start * n
            slope = slopes[:, start : start + size]
            dh_now, dc_now = dh[:, place : place + size], dc[:, place : place + size]
            dc_now.addcmul_(dh_now, to_cell[:, start : start + size])
            slope[..., :width].mul_(dh_now)
            slope[..., width:].unflatten(-1, (3, width)).mul_(dc_now[:, :, None])
            before = (front.block + 1) * n
            torch.mul(dc_now, forget_gate[:, start : start + size], out=dc[:, before : before + size])
            for tap, kernel in enumerate(taps):
                seen = dh[:, (front.block + tap) * n : (front.block + tap) * n + size]
                torch.baddbmm(seen, slope, kernel, out=seen)
        d_states = [h.index_select(1, i).flatten(1, 2).transpose(1, 2) @ slopes for i in wavefronts.neighbours]
        dx = (slopes @ weight.transpose(1, 2)).view_as(x)
        d_weight = x.flatten(1, 2).transpose(1, 2) @ slopes
        dh0, dc0 = (d.unflatten(1, (-1, n)).index_select(1, wavefronts.outside).sum((1, 2)) for d in (dh, dc))
        return None, dx, d_weight, slopes.sum(1), torch.stack(d_states, 1), dh0, dc0


def _tanh(x: Tensor) -> Tensor:
    """On a processor by way of the sigmoid, which takes a sixth of the time there."""
    return torch.tanh(x) if x.is_cuda else torch.sigmoid(2 * x).mul_(2).sub_(1)
