"""Convolutions over grids of two and three axes, and the size of what they can do to their input."""

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.distributions import full_precision
from zoo.nn.depthwise import depthwise as convolve_depthwise

Grid = tuple[int, ...]
"""The positions of a feature map: [height, width] or [frames, height, width]; a series of length T is 1 x T."""
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
"""Channels that lie next to each other, for grids of so many axes: the quick layout."""
LAYERS: dict[int, Callable[..., nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
FUNCTIONS: dict[int, Callable[..., Tensor]] = {2: F.conv2d, 3: F.conv3d}


def channels_last(module: nn.Module, axes: int = 2) -> None:
    """Lay the weights of convolutions out with their channels last, the fast form where features lie so too."""
    module.to(memory_format=FORMATS[axes])  # type: ignore[call-overload]


class Convolution(nn.Module):
    """A convolution over the axes of a grid that are longer than 1; with a stride it halves those that are even.

    `normalised` writes every filter as a direction and a learned length, w = exp(log_norm) v / |v| (Salimans, Kingma,
    "Weight Normalization", 2016).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        grid: Grid,
        normalised: bool = False,
        stride: Grid | None = None,
        depthwise: bool = False,
    ):
        super().__init__()
        sizes = tuple(kernel if axis > 1 else 1 for axis in grid)
        self.groups = outputs if depthwise else 1
        self.stride, self.padding = stride or (1,) * len(grid), tuple(size // 2 for size in sizes)
        self.function = FUNCTIONS[len(grid)]
        layer = LAYERS[len(grid)](inputs, outputs, sizes, groups=self.groups)  # its initialisation is what is taken
        channels_last(layer, len(grid))
        self.weight, self.bias = layer.weight, layer.bias
        self.log_norm = nn.Parameter(_lengths(layer.weight.detach()).log()) if normalised else None

    @property
    def filters(self) -> Tensor:
        """The weight that multiplies."""
        return self.weight if self.log_norm is None else self.weight * (self.log_norm.exp() / _lengths(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        """Shape [batch, channels, *grid]."""
        if self.groups > 1:
            return convolve_depthwise(x, self.filters, self.bias)
        return self.function(x, self.filters, self.bias, self.stride, self.padding)


def _lengths(weight: Tensor) -> Tensor:
    """The norm of every filter, broadcast to the weight."""
    return torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True)


class SpectralPenalty(nn.Module):
    """The sum of the largest singular values of all convolutions, which bounds how far the network can stretch.

    Estimated by power iteration on matrices [outputs, inputs * kernel], those of one shape at once; the vectors stay
    from step to step, so that few iterations follow the weights.

    Source: Yoshida, Miyato, "Spectral Norm Regularization for Improving the Generalizability of Deep Learning", 2017.
    """

    warm: Tensor

    def __init__(self, convolutions: Sequence[Convolution]):
        super().__init__()
        self.groups: list[list[Convolution]] = []
        by_shape = sorted(convolutions, key=lambda layer: layer.weight.flatten(1).shape)
        for index, (shape, layers) in enumerate(itertools.groupby(by_shape, lambda x: x.weight.flatten(1).shape)):
            self.groups.append(list(layers))
            start = torch.randn(len(self.groups[-1]), shape[1])
            self.register_buffer(f"right{index}", F.normalize(start, dim=1))
        self.register_buffer("warm", torch.zeros((), dtype=torch.bool))

    def forward(self) -> Tensor:
        """The largest singular value of every convolution, shape [convolutions], in full precision."""
        with torch.autocast(self.warm.device.type, enabled=False):
            return self._largest()

    def _largest(self) -> Tensor:
        iterations = 4 if self.warm else 40
        self.warm.fill_(True)
        found = []
        for index, layers in enumerate(self.groups):
            # Columns in the order of memory: another order has the same singular values, and takes a copy.
            matrices = torch.stack([full_precision(layer.filters).movedim(1, -1).flatten(1) for layer in layers])
            right = getattr(self, f"right{index}")
            with torch.no_grad():  # products and sums: for matrices with one vector each, quicker than the library's
                for _ in range(iterations):
                    left = F.normalize((matrices * right.to(matrices)[:, None]).sum(2), dim=1)
                    right.copy_(F.normalize((matrices * left[:, :, None]).sum(1), dim=1))
                direction = left[:, :, None] * right.to(matrices)[:, None]
            found.append((matrices * direction).sum((1, 2)))
        return torch.cat(found)
