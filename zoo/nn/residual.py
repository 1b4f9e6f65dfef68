"""Residual encoders and decoders for vectors, series and images, one code for all three."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + conv(SiLU(conv(SiLU(x)))), with no normalisation.

    The last convolution starts smaller by the square root of the number of blocks on the path, so that the sum of
    all blocks keeps the size of its input (Child, "Very Deep VAEs", 2021).
    """

    def __init__(self, channels: int, kernel: tuple[int, int], depth: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel, padding="same")
        self.second = nn.Conv2d(channels, channels, kernel, padding="same")
        with torch.no_grad():
            self.second.weight /= math.sqrt(depth)

    def forward(self, x: Tensor) -> Tensor:
        """Shape [batch, channels, height, width], in and out."""
        return x + self.second(F.silu(self.first(F.silu(x))))


class _Plan:
    """The grid, the kernel and the stages that a network takes from the shape of its items.

    Everything runs as two-dimensional convolution, which is the fast path: a series of length T is an image of 1 x T, a
    vector a single pixel with one channel an element. An axis is halved until it is at most 8 long; channels double at
    every stage up to four times the width.
    """

    def __init__(self, shape: tuple[int, ...], width: int):
        if not 1 <= len(shape) <= 3:
            raise ValueError(f"items must be vectors, series or images, got the shape {list(shape)}")
        self.shape, self.channels = shape, shape[0]
        grid = {1: (1, 1), 2: (1, shape[-1]), 3: shape[1:]}[len(shape)]
        self.kernel = (3 if grid[0] > 1 else 1, 3 if grid[1] > 1 else 1)
        self.grids: list[tuple[int, int]] = [(grid[0], grid[1])]
        while max(self.grids[-1]) > 8:
            height, width_now = self.grids[-1]
            self.grids.append((-(-height // 2), -(-width_now // 2)))
        self.widths = [min(2**stage, 4) * width for stage in range(max(1, len(self.grids) - 1))]
        # A grid that is never halved has one stage of its own size.
        self.stages = list(zip(self.grids[1:] or self.grids, self.widths, strict=True))
        self.flat = self.stages[-1][1] * math.prod(self.stages[-1][0])

    def stride(self, stage: int) -> tuple[int, int]:
        """The step that leads into a stage."""
        if len(self.grids) == 1:
            return (1, 1)
        before, after = self.grids[stage], self.grids[stage + 1]
        return (1 if before[0] == after[0] else 2, 1 if before[1] == after[1] else 2)

    def padding(self) -> tuple[int, int]:
        return (self.kernel[0] // 2, self.kernel[1] // 2)


class Encoder(nn.Module):
    """Items to vectors: a stride into every stage, residual blocks, two linear layers.

    Arguments: `shape` of an item ([elements], [channels, time] or [channels, height, width]); `outputs`, the length of
    the result; `width`, the channels of the first stage; `blocks` a stage; `hidden`, the width of the linear layer;
    `classes`, the number of classes of a conditional network.
    """

    def __init__(
        self, shape: tuple[int, ...], outputs: int, width: int, blocks: int, hidden: int, classes: int | None = None
    ):
        super().__init__()
        self.plan = plan = _Plan(shape, width)
        depth = blocks * len(plan.stages)
        layers: list[nn.Module] = []
        channels = plan.channels
        for stage, (_, wide) in enumerate(plan.stages):
            layers.append(nn.Conv2d(channels, wide, plan.kernel, stride=plan.stride(stage), padding=plan.padding()))
            layers += [ResidualBlock(wide, plan.kernel, depth) for _ in range(blocks)]
            channels = wide
        self.stages = nn.Sequential(*layers)
        self.hidden = nn.Linear(plan.flat, hidden)
        self.classes = nn.Embedding(classes, hidden) if classes else None
        self.output = nn.Linear(hidden, outputs)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The last hidden layer, shape [batch, hidden]."""
        grid = x.reshape(len(x), self.plan.channels, *self.plan.grids[0])
        h = self.stages(grid.to(self.output.weight.dtype).contiguous(memory_format=torch.channels_last))
        h = self.hidden(F.silu(h).flatten(1))
        return F.silu(h if self.classes is None else h + self.classes(condition))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Items [batch, ...] to vectors [batch, outputs]."""
        return self.output(self.features(x, condition))


class Decoder(nn.Module):
    """Vectors to `outputs` numbers for every position of an item: the encoder's mirror, nearest-neighbour upsampling.

    Arguments: as for `Encoder`, with `inputs`, the length of the vectors, and `outputs`, the numbers wanted at a
    position, for all its channels together (a vector is one position with a channel an element).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        inputs: int,
        outputs: int,
        width: int,
        blocks: int,
        hidden: int,
        classes: int | None = None,
    ):
        super().__init__()
        self.plan = plan = _Plan(shape, width)
        self.outputs = outputs
        depth = blocks * len(plan.stages)
        self.classes = nn.Embedding(classes, hidden) if classes else None
        self.hidden = nn.Linear(inputs, hidden)
        self.expand = nn.Linear(hidden, plan.flat)
        self.stages = nn.ModuleList()
        channels = plan.stages[-1][1]
        for _, wide in reversed(plan.stages):
            blocks_here = [ResidualBlock(wide, plan.kernel, depth) for _ in range(blocks)]
            self.stages.append(nn.Sequential(nn.Conv2d(channels, wide, plan.kernel, padding="same"), *blocks_here))
            channels = wide
        fine = max(16, channels // 2)
        self.refine = nn.Conv2d(channels, fine, plan.kernel, padding="same")
        self.output = nn.Conv2d(fine, outputs, plan.kernel, padding="same")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Vectors [batch, inputs] to [batch, outputs, ...], the positions of an item last; for vectors [batch,
        outputs].
        """
        h = self.hidden(z.to(self.hidden.weight.dtype))
        h = F.silu(h if self.classes is None else h + self.classes(condition))
        (grid, wide), *_ = reversed(self.plan.stages)
        h = self.expand(h).reshape(len(z), wide, *grid).contiguous(memory_format=torch.channels_last)
        for (grid, _), stage in zip(reversed(self.plan.stages), self.stages, strict=True):
            h = stage(_resize(h, grid))
        h = self.output(F.silu(self.refine(_resize(F.silu(h), self.plan.grids[0]))))
        return h.reshape(len(z), self.outputs, *self.plan.shape[1:])


def _resize(h: Tensor, grid: tuple[int, int]) -> Tensor:
    return h if tuple(h.shape[2:]) == tuple(grid) else F.interpolate(h, size=grid, mode="nearest")


class Standardise(nn.Module):
    """The mean and the standard deviation of every channel of real-valued data, as buffers: fitted once, saved with the
    model. Before `fit` it changes nothing."""

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        size = (shape[0], *[1] * (len(shape) - 1))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, x: Tensor) -> None:
        """Measure items of shape [items, ...]; a channel that never varies keeps a standard deviation of 1."""
        dims = [0, *range(2, x.ndim)]
        std, mean = torch.std_mean(x.double(), dims, correction=0, keepdim=True)
        self.mean.copy_(mean[0])
        self.std.copy_(torch.where(std[0] > 0, std[0], 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Data to standardised data."""
        return (x - self.mean) / self.std

    def inverse(self, y: Tensor) -> Tensor:
        """Standardised data to data."""
        return y * self.std + self.mean
