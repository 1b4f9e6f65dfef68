"""Residual encoders and decoders for vectors, series, images and clips, one code for all."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.convolution import FORMATS, LAYERS, channels_last


class ResidualBlock(nn.Module):
    """x + conv(SiLU(conv(SiLU(x)))), with no normalisation.

    The last convolution starts smaller by the square root of the number of blocks on the path, so that the sum of
    all blocks keeps the size of its input (Child, "Very Deep VAEs", 2021).
    """

    def __init__(self, channels: int, kernel: tuple[int, ...], depth: int):
        super().__init__()
        convolution = LAYERS[len(kernel)]
        self.first = convolution(channels, channels, kernel, padding="same")
        self.second = convolution(channels, channels, kernel, padding="same")
        with torch.no_grad():
            self.second.weight /= math.sqrt(depth)

    def forward(self, x: Tensor) -> Tensor:
        """Shape [batch, channels, *grid], in and out."""
        return x + self.second(F.silu(self.first(F.silu(x))))


class _Plan:
    """The grid, the kernel and the stages that a network takes from the shape of its items.

    Up to images, everything runs as two-dimensional convolution, which is the fast path: a series of length T is an
    image of 1 x T, a vector a single pixel with one channel an element. Clips take three dimensions. All axes are
    halved until they are at most 8 long; channels double at every stage up to four times the width.
    """

    def __init__(self, shape: tuple[int, ...], width: int):
        if not 1 <= len(shape) <= 4 or None in shape:
            raise ValueError(f"items must be vectors, series, images or clips of one size, got the shape {list(shape)}")
        self.shape, self.channels = shape, shape[0]
        grid = (1,) * (3 - len(shape)) + tuple(shape[1:])
        self.kernel = tuple(3 if size > 1 else 1 for size in grid)
        self.grids: list[tuple[int, ...]] = [grid]
        while max(self.grids[-1]) > 8:
            self.grids.append(tuple(-(-size // 2) for size in self.grids[-1]))
        self.widths = [min(2**stage, 4) * width for stage in range(max(1, len(self.grids) - 1))]
        self.axes = len(self.kernel)
        self.convolution, self.memory_format = LAYERS[self.axes], FORMATS[self.axes]
        # A grid that is never halved has one stage of its own size.
        self.stages = list(zip(self.grids[1:] or self.grids, self.widths, strict=True))
        self.flat = self.stages[-1][1] * math.prod(self.stages[-1][0])

    def stride(self, stage: int) -> tuple[int, ...]:
        """The step that leads into a stage."""
        if len(self.grids) == 1:
            return (1,) * len(self.kernel)
        pairs = zip(self.grids[stage], self.grids[stage + 1], strict=True)
        return tuple(1 if before == after else 2 for before, after in pairs)


class Encoder(nn.Module):
    """Items to vectors: a stride into every stage, residual blocks, two linear layers.

    Arguments: `shape` of an item ([elements], [channels, time], [channels, height, width] or
    [channels, frames, height, width]); `outputs`, the length of
    the result; `width`, the channels of the first stage; `blocks` a stage; `hidden`, the width of the linear layer;
    `classes`, the number of classes of a conditional network.
    """

    def __init__(
        self, shape: tuple[int, ...], outputs: int, width: int, blocks: int, hidden: int, classes: int | None = None
    ):
        super().__init__()
        self.plan = plan = _Plan(shape, width)
        depth, padding = blocks * len(plan.stages), tuple(size // 2 for size in plan.kernel)
        layers: list[nn.Module] = []
        channels = plan.channels
        for stage, (_, wide) in enumerate(plan.stages):
            layers.append(plan.convolution(channels, wide, plan.kernel, stride=plan.stride(stage), padding=padding))
            layers += [ResidualBlock(wide, plan.kernel, depth) for _ in range(blocks)]
            channels = wide
        self.stages = nn.Sequential(*layers)
        self.hidden = nn.Linear(plan.flat, hidden)
        self.classes = nn.Embedding(classes, hidden) if classes else None
        self.output = nn.Linear(hidden, outputs)
        channels_last(self, plan.axes)

    def features(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The last hidden layer, shape [batch, hidden]."""
        grid = x.reshape(x.shape[0], self.plan.channels, *self.plan.grids[0])
        h = self.stages(grid.to(self.output.weight.dtype).contiguous(memory_format=self.plan.memory_format))
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
            self.stages.append(
                nn.Sequential(plan.convolution(channels, wide, plan.kernel, padding="same"), *blocks_here)
            )
            channels = wide
        fine = max(16, channels // 2)
        self.refine = plan.convolution(channels, fine, plan.kernel, padding="same")
        self.output = plan.convolution(fine, outputs, plan.kernel, padding="same")
        channels_last(self, plan.axes)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Vectors [batch, inputs] to [batch, outputs, ...], the positions of an item last; for vectors [batch,
        outputs].
        """
        h = self.hidden(z.to(self.hidden.weight.dtype))
        h = F.silu(h if self.classes is None else h + self.classes(condition))
        (grid, wide), *_ = reversed(self.plan.stages)
        h = self.expand(h).reshape(z.shape[0], wide, *grid).contiguous(memory_format=self.plan.memory_format)
        for (grid, _), stage in zip(reversed(self.plan.stages), self.stages, strict=True):
            h = stage(_resize(h, grid))
        h = self.output(F.silu(self.refine(_resize(F.silu(h), self.plan.grids[0]))))
        return h.reshape(z.shape[0], self.outputs, *self.plan.shape[1:])


def _resize(h: Tensor, grid: tuple[int, ...]) -> Tensor:
    return h if tuple(h.shape[2:]) == tuple(grid) else F.interpolate(h, size=grid, mode="nearest")
