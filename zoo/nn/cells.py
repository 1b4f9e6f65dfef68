"""Residual cells of NVAE's two networks, over series, images and clips.

Sources: Vahdat, Kautz, "NVAE: A Deep Hierarchical Variational Autoencoder", 2020; without batch normalisation the
initialisation of Child, "Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images", 2021.
"""

import itertools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.convolution import Convolution, Grid

Normalisation = Literal["none", "batch"]


def normalise(channels: int, grid: Grid, normalisation: Normalisation) -> nn.Module:
    """Batch normalisation over a grid, or nothing."""
    if normalisation == "none":
        return nn.Identity()
    return (nn.BatchNorm2d if len(grid) == 2 else nn.BatchNorm3d)(channels, eps=1e-5, momentum=0.05)


class SqueezeExcite(nn.Module):
    """Scale every channel by what the means of all channels say (Hu, Shen, Sun, "Squeeze-and-Excitation Networks",
    2018). Its hidden units are Swish: of four with ReLU, all may be silent for all items from the start."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(channels // 16, 4)
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Shape [batch, channels, *grid], in and out."""
        scale = torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean(tuple(range(2, x.ndim)))))))
        return x * scale.reshape(*scale.shape, *[1] * (x.ndim - 2))


class Downsample(nn.Module):
    """The skip path of a cell that halves the grid: Swish, then a 1 x 1 convolution for every phase of the grid, side
    by side."""

    def __init__(self, inputs: int, outputs: int, grid: Grid, stride: Grid, normalised: bool):
        super().__init__()
        self.phases = list(itertools.product(*[range(step) for step in stride]))
        self.stride = stride
        shares = [outputs // len(self.phases) + (i < outputs % len(self.phases)) for i in range(len(self.phases))]
        self.convolutions = nn.ModuleList(Convolution(inputs, share, 1, grid, normalised) for share in shares)

    def forward(self, x: Tensor) -> Tensor:
        """Shape [batch, channels, *grid]."""
        x = F.silu(x)
        parts = []
        for phase, convolution in zip(self.phases, self.convolutions, strict=True):
            every = [slice(start, None, by) for start, by in zip(phase, self.stride, strict=True)]
            parts.append(convolution(x[(slice(None), slice(None), *every)]))
        return torch.cat(parts, 1)


class Upsample(nn.Module):
    """The skip path of a cell that doubles the grid: linear interpolation and a 1 x 1 convolution."""

    def __init__(self, inputs: int, outputs: int, grid: Grid, normalised: bool):
        super().__init__()
        self.grid = grid
        self.convolution = Convolution(inputs, outputs, 1, grid, normalised)

    def forward(self, x: Tensor) -> Tensor:
        """Shape [batch, channels, *half the grid] to [batch, channels, *grid]."""
        mode = "bilinear" if len(self.grid) == 2 else "trilinear"
        # The convolution commutes with the interpolation and is cheaper before it.
        return F.interpolate(self.convolution(x), size=self.grid, mode=mode, align_corners=True)


class Cell(nn.Module):
    """A residual cell, skip + scale * squeeze-and-excite(branch).

    With batch normalisation the scale is 0.1, as published. Without, it is 1, and the last convolution starts smaller
    by the square root of the number of cells on the path, so that the sum of all branches keeps the size of its input.

    Arguments: `inputs` and `outputs`, channels; `grid`, the larger one where the cell changes it; `step`, the factor of
    every axis in a cell that changes it; `depth`, the number of cells on the path.
    """

    def __init__(self, outputs: int, normalisation: Normalisation, depth: int):
        super().__init__()
        self.scale = 0.1 if normalisation == "batch" else 1.0
        self.shrink = 1.0 if normalisation == "batch" else 1 / math.sqrt(depth)
        self.skip: nn.Module = nn.Identity()
        self.branch = nn.Sequential()
        self.excite = SqueezeExcite(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Shape [batch, channels, *grid]."""
        return self.skip(x) + self.scale * self.excite(self.branch(x))


class EncoderCell(Cell):
    """Twice normalise, Swish, 3 x 3 convolution; the first one halves the grid where a step is given."""

    def __init__(
        self, inputs: int, outputs: int, grid: Grid, normalisation: Normalisation, depth: int, step: Grid | None = None
    ):
        super().__init__(outputs, normalisation, depth)
        after = grid if step is None else divide(grid, step)
        normalised = normalisation == "batch"
        if step is not None:
            self.skip = Downsample(inputs, outputs, grid, step, normalised)
        last = Convolution(outputs, outputs, 3, after, normalised)
        self.branch = nn.Sequential(
            normalise(inputs, grid, normalisation),
            nn.SiLU(),
            Convolution(inputs, outputs, 3, grid, normalised, step),
            normalise(outputs, grid, normalisation),
            nn.SiLU(),
            last,
        )
        with torch.no_grad():
            last.weight *= self.shrink


class DecoderCell(Cell):
    """A depthwise 5 x 5 convolution between 1 x 1 convolutions to and from a wider space, each normalised; the grid is
    doubled first where a step is given."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        grid: Grid,
        normalisation: Normalisation,
        depth: int,
        expansion: int,
        step: Grid | None = None,
    ):
        super().__init__(outputs, normalisation, depth)
        wide = expansion * outputs
        last = Convolution(wide, outputs, 1, grid)
        if step is not None:
            self.skip = Upsample(inputs, outputs, grid, normalisation == "batch")
        self.branch = nn.Sequential(
            nn.Identity() if step is None else nn.Upsample(size=grid, mode="nearest"),
            normalise(inputs, grid, normalisation),
            Convolution(inputs, wide, 1, grid),
            normalise(wide, grid, normalisation),
            nn.SiLU(),
            Convolution(wide, wide, 5, grid, depthwise=True),
            normalise(wide, grid, normalisation),
            nn.SiLU(),
            last,
            normalise(outputs, grid, normalisation),
        )
        with torch.no_grad():
            last.weight *= self.shrink


def divide(grid: Grid, step: Grid) -> Grid:
    """The grid after a step."""
    return tuple(size // by for size, by in zip(grid, step, strict=True))
