"""Small autoregressive models of every family, output and medium: what the tests of this folder ask their questions to.

A new family is one more name here. Weights are random and biases far from zero, so that a leak or a hole shows.
"""

import dataclasses

import torch

from modalities import Modality
from modalities.images import Images
from modalities.points import Points
from modalities.signals import Signals
from tests.toys import generator
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.autoregressive.made import MADE
from zoo.autoregressive.pixelcnn import PixelCNN
from zoo.autoregressive.pixelcnn_pp import PixelCNNPlusPlus
from zoo.autoregressive.pixelrnn import PixelRNN
from zoo.autoregressive.wavenet import WaveNet
from zoo.conditions import Classes


def binary(height, width, channels=1):
    return Images(channels, height, width, 2)


def _gated(medium, **arguments):
    return GatedPixelCNN(medium, **dict(width=6, layers=3, head=6, first_kernel=5, components=3) | arguments)


def _plain(medium, **arguments):
    return PixelCNN(medium, **dict(width=6, blocks=2, head=6, components=3) | arguments)


def _wavenet(medium, **arguments):
    return WaveNet(medium, **dict(width=5, layers=3, cycles=2, skip=6, components=3) | arguments)


def _made(medium, **arguments):
    return MADE(medium, **dict(width=5, layers=2, components=3) | arguments)


@dataclasses.dataclass(frozen=True)
class Steps(Modality):
    """Series [channels, time], or a vector [time] for no channels, of values with levels."""

    channels: int
    length: int
    values: int
    kind = "steps"

    @property
    def shape(self):
        return (self.channels, self.length) if self.channels else (self.length,)

    @property
    def levels(self):
        return self.values


def _recurrent(medium, kind, **arguments):
    return PixelRNN(medium, kind, **dict(width=6, layers=2, head=6, components=3) | arguments)


def _pp(medium, **arguments):
    return PixelCNNPlusPlus(medium, **dict(width=4, blocks=1, components=3) | arguments)


MODELS = {
    "gated": lambda: _gated(binary(5, 7)),
    "gated-classes": lambda: _gated(binary(5, 7), condition=Classes.numbered(3)),
    "gated-colours": lambda: _gated(binary(4, 5, 3)),
    "gated-mixture": lambda: _gated(Images(3, 4, 5, 32)),
    "gated-categorical": lambda: _gated(Images(3, 3, 4, 32), likelihood="categorical"),
    "gated-codes": lambda: _gated(Images(1, 4, 5, 32), likelihood="categorical", embedding=3),
    "plain": lambda: _plain(binary(5, 7)),
    "plain-colours": lambda: _plain(binary(4, 5, 3)),
    "plain-mixture": lambda: _plain(Images(3, 4, 5, 32)),
    "plain-categorical": lambda: _plain(Images(3, 3, 4, 32), likelihood="categorical"),
    "wavenet": lambda: _wavenet(Signals(channels=2, length=11)),
    "wavenet-classes": lambda: _wavenet(Signals(channels=1, length=8), condition=Classes.numbered(3)),
    "wavenet-mixture": lambda: _wavenet(Steps(2, 10, 32)),
    "wavenet-categorical": lambda: _wavenet(Steps(1, 9, 32), likelihood="categorical", layers=2),
    "made": lambda: _made(Points(2)),
    "made-classes": lambda: _made(Points(2), condition=Classes.numbered(3)),
    "made-binary": lambda: _made(Steps(0, 9, 2), condition=Classes.numbered(3)),
    "row": lambda: _recurrent(binary(5, 7), "row"),
    "row-colours": lambda: _recurrent(binary(4, 3, 3), "row"),
    "row-mixture": lambda: _recurrent(Images(3, 4, 5, 32), "row"),
    "diagonal": lambda: _recurrent(binary(5, 7), "diagonal"),
    "diagonal-colours": lambda: _recurrent(binary(4, 3, 3), "diagonal"),
    "diagonal-mixture": lambda: _recurrent(Images(3, 4, 5, 32), "diagonal"),
    "pp-mixture": lambda: _pp(Images(3, 8, 4, 32)),
    "pp-grey": lambda: _pp(Images(1, 4, 8, 32)),
    "pp-binary": lambda: _pp(binary(4, 8), dropout=0.5),
    "pp-classes": lambda: _pp(Images(1, 8, 4, 32), condition=Classes.numbered(3)),
}
"""Height and width differ, so that a swap of the two cannot pass."""

REAL = ["wavenet", "wavenet-classes", "made", "made-classes"]
"""Those of real numbers; the others have levels."""

ENUMERABLE = {
    "gated": lambda: _gated(binary(3, 3)),
    "gated-colours": lambda: _gated(binary(2, 2, 3)),
    "plain": lambda: _plain(binary(3, 3)),
    "plain-colours": lambda: _plain(binary(2, 2, 3)),
    "wavenet": lambda: _wavenet(Steps(1, 9, 2), layers=2),
    "made": lambda: _made(Steps(0, 8, 2)),
    "row": lambda: _recurrent(binary(3, 3), "row"),
    "diagonal": lambda: _recurrent(binary(3, 3), "diagonal"),
    "diagonal-colours": lambda: _recurrent(binary(2, 2, 3), "diagonal"),
}
"""Binary models with at most 12 elements: all items can be listed."""


def make(build, seed=0):
    """The model in float64, random everywhere."""
    torch.manual_seed(seed)
    model = build().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        if not model.discrete:
            model.standardise.fit(3 * torch.randn(50, *model.modality.shape) + 1)
    return model


def items(model, n, seed=1):
    """Random items on the medium's grid of levels, shape [n, ...]."""
    levels, shape = model.modality.levels, (n, *model.modality.shape)
    if levels is None:
        return 3 * torch.randn(shape, generator=generator(seed), dtype=torch.float64) + 1
    return torch.randint(levels, shape, generator=generator(seed)).double() * 2 / (levels - 1) - 1


def condition(model):
    return None if model.condition is None else 1
