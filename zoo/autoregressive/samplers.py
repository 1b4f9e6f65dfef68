"""Three samplers of the chain rule, which give the same items from the same noise.

Ancestral sampling draws position after position from a network that computes every feature once, when all that it reads
has been drawn (Ramachandran et al., "Fast Generation for Convolutional Autoregressive Models", 2017). The fixed-point
sampler guesses the whole item and repeats full passes until nothing changes (Song, Meng, Liao, Ermon, "Accelerating
Feedforward Computation via Parallel Nonlinear Equation Solving", 2021). The naive one makes a full pass for every draw.
"""

import abc
import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from zoo.nn.likelihood import ChainHead
from zoo.progress import track

if TYPE_CHECKING:
    from zoo.autoregressive.model import Autoregressive

Sampler = Literal["incremental", "fixed-point", "naive"]


class Draws(NamedTuple):
    """All that decides what is drawn."""

    noise: Tensor
    """Uniform numbers, shape [n, noise, *positions]."""
    condition: Tensor | None
    temperature: float
    known: tuple[Tensor, Tensor] | None = None
    """Which values are known, and the values: booleans and numbers, both [n, channels, *positions]."""


class Incremental(abc.ABC):
    """A network that runs along the positions of `n` items and computes every feature once.

    Positions are visited in rows of `width`: `begin` at the start of a row does what needs only the rows before it;
    then for every column, and for every group of channels at it, `step` gives the likelihood head's numbers, and
    `write` takes in the values that were drawn. What is done does not depend on values, and all state is in tensors
    that stay where they are and are changed in place: a row can be recorded as a CUDA graph and replayed.
    """

    state: list[Tensor]
    """Every tensor that is carried from one position to another."""
    width: int
    """Positions a row."""
    period: int = 1
    """After how many rows the same operations come again."""

    @abc.abstractmethod
    def begin(self, phase: int) -> None:
        """Start a row; `phase` is its number modulo `period`."""

    @abc.abstractmethod
    def step(self, column: int, group: int) -> Tensor:
        """The head's numbers for a group of channels at a position, shape [n, size / groups]."""

    @abc.abstractmethod
    def write(self, column: int, group: int, value: Tensor) -> None:
        """Take in the values of a group, shape [n, channels / groups]."""


def ancestral(model: "Autoregressive", draws: Draws) -> Tensor:
    """Items [n, channels, *positions], position after position."""
    n, channels, total = len(draws.noise), model.likelihood_head.channels, math.prod(model.positions)
    network = model.incremental(n, draws.condition)
    inputs = [part.flatten(2).permute(2, 0, 1) for part in (draws.noise, *(draws.known or ()))]
    rows = _RowSampler(network, model.likelihood_head, draws.temperature, inputs)
    x = draws.noise.new_empty(total, n, channels)
    for start in track(range(0, total, network.width), "drawing rows"):
        stop = min(start + network.width, total)
        x[start:stop] = rows.draw(start // network.width % network.period, [part[start:stop] for part in inputs])
    return x.permute(1, 2, 0).reshape(n, channels, *model.positions)


class _RowSampler:
    """Draws row after row with an `Incremental`; on a CUDA device every phase is recorded once and replayed.

    `inputs` are, by position, the noise and what is known; of a row they are copied to where the recording reads them.
    """

    def __init__(self, network: Incremental, head: ChainHead, temperature: float, inputs: list[Tensor]):
        self.network, self.head, self.temperature = network, head, temperature
        self.inputs = [part.new_empty(network.width, *part.shape[1:]) for part in inputs]
        self.x = inputs[0].new_empty(network.width, inputs[0].shape[1], head.channels)
        # Every group's noise, what is known of it, and its place in x, as views that are made once: each takes time.
        self.views = [
            [[part[column, :, channels] for part in (*self.inputs, self.x)] for channels in head.slices]
            for column in range(network.width)
        ]
        self.graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}

    def draw(self, phase: int, inputs: list[Tensor]) -> Tensor:
        """The values of one row, shape [columns, n, channels]."""
        columns = len(inputs[0])
        for mine, theirs in zip(self.inputs, inputs, strict=True):
            mine[:columns] = theirs
        if self.x.is_cuda:
            self._graph(phase, columns).replay()
        else:
            self._fill(phase, columns)
        return self.x[:columns]

    def _fill(self, phase: int, columns: int) -> None:
        self.network.begin(phase)
        for column, groups in enumerate(self.views[:columns]):
            for group, (noise, *known, place) in enumerate(groups):
                value = self.head.draw(self.network.step(column, group), noise, self.temperature)
                if known:
                    value = torch.where(known[0], known[1], value)
                place.copy_(value)
                self.network.write(column, group, value)

    def _graph(self, phase: int, columns: int) -> torch.cuda.CUDAGraph:
        """The recorded work of a row. Recording needs a run before it, whose traces in the state are undone."""
        if (phase, columns) not in self.graphs:
            before = [tensor.clone() for tensor in self.network.state]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._fill(phase, columns)
            torch.cuda.current_stream().wait_stream(stream)
            for tensor, old in zip(self.network.state, before, strict=True):
                tensor.copy_(old)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._fill(phase, columns)
            self.graphs[phase, columns] = graph
        return self.graphs[phase, columns]


def fixed_point(model: "Autoregressive", draws: Draws) -> Tensor:
    """Items [n, channels, *positions]: the fixed point of drawing all positions from one guess with the same noise.

    Every pass makes at least one more draw final, since each depends on those before it alone.
    """
    x = _blank(model, draws)
    for _ in range(model.draws):
        guess, x = x, _draw_everywhere(model, x, draws)
        if torch.equal(guess, x):
            break
    return x


def naive(model: "Autoregressive", draws: Draws) -> Tensor:
    """Items [n, channels, *positions], a full pass for every draw."""
    x = _blank(model, draws)
    for position in track(range(math.prod(model.positions)), "drawing positions"):
        for group in model.likelihood_head.slices:
            drawn = _draw_everywhere(model, x, draws)
            x.flatten(2)[:, group, position] = drawn.flatten(2)[:, group, position]
    return x


SAMPLERS = {"incremental": ancestral, "fixed-point": fixed_point, "naive": naive}


def _blank(model: "Autoregressive", draws: Draws) -> Tensor:
    return draws.noise.new_zeros(len(draws.noise), model.likelihood_head.channels, *model.positions)


def _draw_everywhere(model: "Autoregressive", x: Tensor, draws: Draws) -> Tensor:
    """Every position drawn as if those before it were as in x."""
    drawn = model.likelihood_head.draw(model.outputs(x, draws.condition), draws.noise, draws.temperature)
    return drawn if draws.known is None else torch.where(*draws.known, drawn)
