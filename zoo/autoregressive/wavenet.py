"""WaveNet: series by stacks of dilated causal convolutions, which see far back at few layers.

Source: van den Oord, Dieleman, Zen, Simonyan, Vinyals, Graves, Kalchbrenner, Senior, Kavukcuoglu, "WaveNet: A
Generative Model for Raw Audio", 2016; the sampler: Le Paine, Khorrami, Chang, Zhang, Ramachandran, Hasegawa-Johnson,
Huang, "Fast Wavenet Generation Algorithm", 2016. Where the first leaves it open: the first convolution has a kernel of
one step, the step before; and a step's values are a mixture of logistics, of all channels together, in place of classes
of companded amplitudes (as in van den Oord et al., "Parallel WaveNet", 2018).
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modalities import Modality
from zoo.autoregressive.model import Autoregressive
from zoo.autoregressive.samplers import Incremental
from zoo.checks import check_count
from zoo.conditions import Classes
from zoo.nn.convolution import channels_last
from zoo.nn.likelihood import ChainLikelihood


class WaveNet(Autoregressive):
    """p(x) over the steps of a series, every step from the `receptive_field` steps before it.

    Arguments:
        modality: series [channels, time].
        width: channels of the residual path, and of either half of a gate.
        layers: layers of a cycle, with dilations 1, 2, 4, ..., 2^(layers - 1).
        cycles: how often the dilations start anew.
        skip: channels of the sum of skip connections, and of the head.
        condition: `Classes`, if samples shall be conditioned on one.
        likelihood, components: see `ChainHead`. Series of more than one channel take the mixture alone.
    """

    def __init__(
        self,
        modality: Modality,
        width: int = 32,
        layers: int = 7,
        cycles: int = 2,
        skip: int = 64,
        condition: Classes | None = None,
        likelihood: ChainLikelihood | None = None,
        components: int = 10,
    ):
        super().__init__()
        self.describe(modality, likelihood, components, axes=2, width=width, skip=skip)
        check_count(layers, "layers", most=30)  # dilations up to 2^29
        check_count(cycles, "cycles", most=1000)
        head = self.likelihood_head
        if head.groups > 1:
            raise ValueError(
                f"the channels of a step are drawn together, by the logistic-mixture; the likelihood {head.name!r} "
                f"draws {head.groups} channels in turn"
            )
        self.condition = condition
        classes = None if condition is None else len(condition)
        dilations = [2**layer for layer in range(layers)] * cycles
        self.receptive_field = sum(dilations) + 1
        """How many steps before its own a step's distribution sees."""
        # A series is an image of one row, channels last: the fastest of the equal forms.
        self.first = nn.Conv2d(head.channels, width, 1)
        stack = nn.ModuleList(
            DilatedLayer(width, dilation, classes, len(dilations), last=index == len(dilations) - 1)
            for index, dilation in enumerate(dilations)
        )
        self.layers = cast(Sequence[DilatedLayer], stack)
        self.skip = nn.Conv2d(width * len(dilations), skip, 1)
        self.hidden = nn.Conv2d(skip, skip, 1)
        self.last = nn.Conv2d(skip, head.size, 1)
        channels_last(self)

    def outputs(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        before = F.pad(x.to(self.dtype)[:, :, None, :-1], (1, 0))
        h = self.first(before.contiguous(memory_format=torch.channels_last))
        activations = []
        for layer in self.layers:
            h, activation = layer(h, condition)
            activations.append(activation)
        # The sum of the layers' 1 x 1 skip convolutions is one convolution of all their activations side by side.
        h = self.skip(torch.cat(activations, 1))
        return self.last(F.relu(self.hidden(F.relu(h))))[:, :, 0]

    def incremental(self, n: int, condition: Tensor | None = None) -> Incremental:
        return _Steps(self, n, condition)


class DilatedLayer(nn.Module):
    """The gated activation tanh(a) sigmoid(b), a and b from a step and the one `dilation` earlier, and a residual.

    The weights of the residual's 1 x 1 convolution start smaller by the square root of the number of layers, so that
    the sum of all keeps the size of its input. The last layer of a network has none: nothing comes after it but the
    skip connections.
    """

    def __init__(self, width: int, dilation: int, classes: int | None, depth: int, last: bool):
        super().__init__()
        self.dilation = dilation
        self.dilated = nn.Conv2d(width, 2 * width, (1, 2), dilation=(1, dilation))
        self.classes = nn.Embedding(classes, 2 * width) if classes else None
        self.residual = None if last else nn.Conv2d(width, width, 1)
        if self.residual is not None:
            self.residual.weight.data /= math.sqrt(depth)

    def forward(self, h: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """The residual path, shape [batch, width, 1, time], in and out; and the activation, of the same shape."""
        both = self.dilated(F.pad(h, (self.dilation, 0)))
        if self.classes is not None:
            both = both + self.classes(condition)[:, :, None, None]
        a, b = both.chunk(2, 1)
        activation = torch.tanh(a) * torch.sigmoid(b)
        return h if self.residual is None else h + self.residual(activation), activation


class _Steps(Incremental):
    """Every layer keeps its inputs of the last `dilation` steps in a ring, and what they will give to the next ones.

    As soon as a ring is full, the products with the earlier tap are made for all its steps at once, so that a layer's
    step is two matrix products and the activation. All views are made once: one costs as much as the activation.
    """

    def __init__(self, model: WaveNet, n: int, condition: Tensor | None):
        self.first, shift = _matrix(model.first)
        skip, bias = _matrix(model.skip)
        self.head = [(skip / 2, bias), _matrix(model.hidden), _matrix(model.last)]
        self.before = shift.new_zeros(n, model.likelihood_head.channels)
        self.activations = shift.new_zeros(n, len(skip))
        self.rings: list[_Ring] = []
        for layer, activation in zip(model.layers, self.activations.chunk(len(model.layers), 1), strict=True):
            self.rings.append(_Ring(layer, n, activation, shift, condition))
            if layer.residual is not None:
                shift = shift + _matrix(layer.residual)[1]
        # One turn of the longest ring, so that a column's places in all rings are the same in every row.
        self.width = max(ring.dilation for ring in self.rings)
        self.links = list(zip(self.rings, [*self.rings[1:], None], strict=True))
        self.state = [self.before, *(tensor for ring in self.rings for tensor in (ring.inputs, ring.base))]

    def begin(self, phase: int) -> None:
        pass

    def step(self, column: int, group: int) -> Tensor:
        torch.mm(self.before, self.first, out=self.rings[0].at(column))
        for ring, after in self.links:
            ring.step(column, None if after is None else after.at(column))
        h = self.activations
        for weight, bias in self.head[:-1]:
            h = torch.addmm(bias, h, weight).relu_()
        weight, bias = self.head[-1]
        return torch.addmm(bias, h, weight)

    def write(self, column: int, group: int, value: Tensor) -> None:
        self.before.copy_(value)


class _Ring:
    """A `DilatedLayer` step by step.

    The residual path runs without its biases. The sum of those that a layer's input lacks is its `shift`, and the
    layer's own bias makes up for it. As sigmoid(b) = (1 + tanh(b / 2)) / 2, one tanh serves both factors of the gated
    activation; `activation` receives twice its value, and the matrices that it enters are halved.
    """

    def __init__(self, layer: DilatedLayer, n: int, activation: Tensor, shift: Tensor, condition: Tensor | None):
        self.dilation, self.activation = layer.dilation, activation
        width = len(shift)
        halved = torch.cat([torch.ones_like(shift), torch.full_like(shift, 0.5)])
        earlier, present = layer.dilated.weight.detach()[:, :, 0].unbind(2)
        bias = _bias(layer.dilated).expand(n, -1)
        if layer.classes is not None:
            bias = bias + layer.classes(condition)
        self.earlier, self.present = (earlier.T * halved).contiguous(), (present.T * halved).contiguous()
        # The steps before the first give nothing, not even the shift.
        self.base = (bias * halved + (shift[:, None] * self.present).sum(0)).repeat(layer.dilation, 1)
        self.bias = self.base + (shift[:, None] * self.earlier).sum(0)
        self.residual = None if layer.residual is None else _matrix(layer.residual)[0] / 2
        self.inputs = self.base.new_zeros(layer.dilation * n, width)
        self.slots, self.bases = self.inputs.chunk(layer.dilation), self.base.chunk(layer.dilation)
        self.both = self.base.new_zeros(n, 2 * width)
        self.halves = self.both.chunk(2, 1)

    def at(self, column: int) -> Tensor:
        """Where the input of a step belongs, shape [n, width]."""
        return self.slots[column % self.dilation]

    def step(self, column: int, output: Tensor | None) -> None:
        """Take the step's input from its place; write the activation, and the residual path to `output`."""
        place = column % self.dilation
        torch.addmm(self.bases[place], self.slots[place], self.present, out=self.both).tanh_()
        a, b = self.halves
        torch.addcmul(a, a, b, out=self.activation)
        if place == self.dilation - 1:
            torch.addmm(self.bias, self.inputs, self.earlier, out=self.base)
        if output is not None and self.residual is not None:
            torch.addmm(self.slots[place], self.activation, self.residual, out=output)


def _matrix(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """A 1 x 1 convolution as a matrix [inputs, outputs] and a vector."""
    return conv.weight.detach()[:, :, 0, 0].T.contiguous(), _bias(conv)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias.detach()
