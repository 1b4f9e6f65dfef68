"""The LSTMs against slow loops over pixels, their gradients, and what each kind of network sees."""

import pytest
import torch

from modalities.data import Batch
from modalities.images import Images
from tests.zoo.autoregressive.models import binary, generator, items, make
from zoo.autoregressive.pixelrnn import LSTMLayer, PixelRNN
from zoo.autoregressive.wavefront import Wavefronts

HEIGHT, WIDTH = 4, 6
SHAPES = [(4, 6), (6, 4), (1, 5), (5, 1), (3, 3)]


def sees(model):
    """[height, width] of the output by [height, width] of the input: whether the one moves with the other."""
    height, width = model.positions
    x = items(model, 1).requires_grad_()
    numbers = model.outputs(x).sum(1).flatten()
    gradients = [torch.autograd.grad(number, x, retain_graph=True)[0] for number in numbers]
    return (torch.stack(gradients).abs().amax((1, 2)) > 0).reshape(height, width, height, width)


@pytest.mark.parametrize("kind", ["row", "diagonal"])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_laying_pixels_out_and_back_is_a_round_trip(kind, height, width):
    fronts = Wavefronts(height, width, kind)
    x = torch.arange(2.0 * 3 * height * width).reshape(2, 3, height, width)
    laid = fronts.lay_out(x)
    assert laid.shape == (height * width, 2, 3)
    assert torch.equal(fronts.lay_back(laid), x)
    assert torch.equal(fronts.lay_back(fronts.mirror(laid)), x.flip(3))
    if kind == "diagonal":
        column = laid[:, 0, 0].long() % width
        front = laid[:, 0, 0].long() // width + column
        assert torch.equal(front, front.sort().values)


def cell(sums, c):
    output_gate, forget_gate, input_gate, candidate = sums.chunk(4, -1)
    c = forget_gate.sigmoid() * c + input_gate.sigmoid() * candidate.tanh()
    return output_gate.sigmoid() * c.tanh(), c


def slow_row(layer, x):
    """A Row LSTM layer's states by two loops; x [height, width, batch, channels]."""
    (conv,), (h0, c0) = layer.inputs, layer.initial[:, 0]
    h, c = {}, {}
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            sums = conv.bias + x[i, j] @ conv.weight[:, :, 0, 1].T
            if j > 0:
                sums = sums + x[i, j - 1] @ conv.weight[:, :, 0, 0].T
            for tap, column in enumerate((j - 1, j, j + 1)):
                sums = sums + h.get((i - 1, column), h0.expand(x.shape[2], -1)) @ layer.states[0, tap]
            h[i, j], c[i, j] = cell(sums, c.get((i - 1, j), c0))
    return torch.stack([torch.stack([h[i, j] for j in range(x.shape[1])]) for i in range(x.shape[0])])


def slow_diagonal(layer, x):
    """The same of a Diagonal BiLSTM layer, one direction after the other."""
    height, width, n, _ = x.shape
    total = torch.zeros(height, width, n, layer.width, dtype=x.dtype)
    for direction, (conv, h0, c0) in enumerate(zip(layer.inputs, *layer.initial, strict=True)):
        h, c = {}, {}
        columns = range(width) if direction == 0 else range(width - 1, -1, -1)
        for i in range(height):
            for j in columns:
                beside = (i, j - 1) if direction == 0 else (i, j + 1)
                above, left = layer.states[direction]
                outside = h0.expand(n, -1)
                sums = conv.bias + x[i, j] @ conv.weight[:, :, 0, 0].T
                sums = sums + h.get((i - 1, j), outside) @ above + h.get(beside, outside) @ left
                h[i, j], c[i, j] = cell(sums, c.get(beside, c0))
        for i in range(height):
            for j in range(width):
                if direction == 0:
                    total[i, j] += h[i, j]
                elif i > 0:
                    total[i, j] += h[i - 1, j]
    return total


@pytest.mark.parametrize(("kind", "slow"), [("row", slow_row), ("diagonal", slow_diagonal)])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_a_layer_and_its_gradients_are_those_of_loops_over_pixels(kind, slow, height, width):
    fronts = Wavefronts(height, width, kind)
    layer = make(lambda: LayerAlone(LSTMLayer(3, kind, 1))).layer
    x = torch.randn(2, 6, height, width, generator=generator(), dtype=torch.float64, requires_grad=True)
    up = layer.residual
    states = slow(layer, x.permute(2, 3, 0, 1))
    expected = x + (states @ up.weight[:, :, 0, 0].T + up.bias).permute(2, 3, 0, 1)
    found = fronts.lay_back(layer(fronts.lay_out(x), fronts))
    assert torch.allclose(found, expected, atol=1e-12)
    weights = torch.randn(expected.shape, generator=generator(1), dtype=torch.float64)
    leaves = [x, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), leaves),
        torch.autograd.grad((expected * weights).sum(), leaves, allow_unused=True),
        strict=True,
    ):
        assert torch.allclose(one, torch.zeros_like(one) if other is None else other, atol=1e-10)


class LayerAlone(torch.nn.Module):
    """What `make` expects of a model, around a layer."""

    discrete = True

    def __init__(self, layer):
        super().__init__()
        self.layer = layer


def test_a_diagonal_network_sees_every_pixel_before_its_own():
    found = sees(make(lambda: PixelRNN(binary(5, 12), "diagonal", 4, 1, 32)))
    flat = found.reshape(60, 60)
    assert torch.equal(flat, torch.ones(60, 60).tril(-1).bool())


@pytest.mark.parametrize("layers", [1, 2])
def test_a_row_network_sees_a_triangle(layers):
    """d rows up it reaches d + 2 columns to the right, and in its own row 3 + layers to the left."""
    height, width = 6, 14
    found = sees(make(lambda: PixelRNN(binary(height, width), "row", 4, layers, 32)))
    i, j = 5, 6
    for up in range(1, height):
        assert found[i, j, i - up].nonzero().max() == min(j + max(up + 2, 3), width - 1)
        assert not found[i, j, i - up, j + max(up + 2, 3) + 1 :].any()
    assert found[i, j, i].nonzero().flatten().tolist() == list(range(max(j - 3 - layers, 0), j))


def test_reduced_precision_keeps_the_states_in_full():
    model = PixelRNN(binary(HEIGHT, WIDTH), "diagonal", 4, 2, 4)
    x = items(model, 2).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(Batch(x))["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(model.loss(Batch(x))["loss"].item(), rel=1e-2)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_unsuitable_arguments_are_refused():
    for arguments, message in (
        ({"kind": "column"}, "kind is one of row, diagonal; got 'column'"),
        ({"layers": 0}, "layers must be a positive whole number, at most 1,000,000, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            PixelRNN(binary(4, 4), **arguments)
    with pytest.raises(ValueError, match="groups"):
        PixelRNN(Images(3, 4, 4, 2), width=16)
