"""The chain rule: p(x) = prod_t p(x_t | x_1, ..., x_{t-1}), and the three ways to sample it.

A model gives two forms of one network: `outputs`, all conditionals of known items in one pass, for training and
scoring; and `incremental`, the same conditionals position by position, every feature computed exactly once, for
sampling. Positions run in raster order; the channels of a position follow each other or are drawn together.
"""

import abc
import math
import sys
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modalities import Modality
from modalities.data import Batch
from zoo.distributions import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    LogisticMixture,
    full_precision,
    uniform_noise,
)
from zoo.model import Explicit, Trainable, check_count, check_temperature
from zoo.nn.normalisation import Standardise
from zoo.showcase import Exhibit, completion_exhibit

Likelihood = Literal["bernoulli", "categorical", "logistic-mixture"]
Sampler = Literal["incremental", "fixed-point", "naive"]


class Output:
    """How the numbers that a network gives at a position become the distribution of the position's values.

    Arguments: `channels` of a position; `levels` of a value, None for real numbers; `likelihood`, None for the first
    that suits: "bernoulli" for 2 levels, "logistic-mixture" for more and for real numbers; `components` of a mixture.

    "bernoulli" and "categorical" draw the channels in turn, each given those before it, so that the network must be
    causal over channels as well. A mixture draws them together: its components couple them.
    """

    def __init__(self, channels: int, levels: int | None, likelihood: Likelihood | None = None, components: int = 10):
        suitable = {
            "bernoulli": levels == 2,
            "categorical": levels is not None,
            "logistic-mixture": levels is None or levels > 2,
        }
        self.likelihood: str = likelihood or ("bernoulli" if levels == 2 else "logistic-mixture")
        if not suitable.get(self.likelihood, False):
            names = ", ".join(name for name, fits in suitable.items() if fits)
            of = f"values of {levels} levels" if levels else "real numbers"
            raise ValueError(f"the likelihood of {of} is one of {names}; got {likelihood!r}")
        self.channels, self.levels, self.components = channels, levels, components
        self.turns = 1 if self.likelihood == "logistic-mixture" else channels
        """Draws at a position: one for all channels together, or one a channel."""
        mixture = components * (1 + 2 * channels + channels * (channels - 1) // 2)
        self.size = {"bernoulli": channels, "categorical": channels * (levels or 0), "logistic-mixture": mixture}[
            self.likelihood
        ]
        """Numbers at a position, those of the first turn first."""
        self.noise = 1 + channels if self.likelihood == "logistic-mixture" else channels
        """Uniform numbers that a position's draws take, those of the first turn first."""

    def distribution(self, numbers: Tensor, temperature: float = 1.0) -> Any:
        """Of the values [batch, channels, *positions], given numbers [batch, size, *positions]; or those of one turn.

        The temperature divides logits and multiplies the scales of logistics.
        """
        numbers = full_precision(numbers)
        if self.likelihood == "bernoulli":
            return Bernoulli(numbers / temperature)
        if self.likelihood == "categorical":
            return Categorical(numbers.unflatten(1, (-1, self.levels)) / temperature)
        k, c = self.components, self.channels
        logits, rest = numbers[:, :k] / temperature, numbers[:, k:].unflatten(1, (k, -1))
        mean, log_scale, coefficients = rest.split([c, c, c * (c - 1) // 2], 2)
        log_scale = log_scale.clamp(min=-7) + math.log(temperature)
        coupled = torch.tanh(coefficients) if c > 1 else None
        if self.levels is None:
            return LogisticMixture(logits, mean, log_scale, coupled)
        return DiscretizedLogisticMixture(logits, mean, log_scale, coupled, self.levels)

    def draw(self, numbers: Tensor, noise: Tensor, temperature: float) -> Tensor:
        """The values that uniform noise [batch, noise, *positions] leads to; at temperature 0 the mode."""
        if temperature == 0:
            return self.distribution(numbers).mode
        return self.distribution(numbers, temperature).from_noise(noise)


class Incremental(abc.ABC):
    """A network that runs along the positions of `n` items and computes every feature once.

    Positions are visited in rows of `width`: `begin` at the start of a row does what needs only the rows before it;
    then for every column, and for every turn at it, `step` gives the numbers of the output, and `write` takes in the
    values that were drawn. All state is in tensors that stay where they are and are changed in place, and what is done
    does not depend on their values: a row can be recorded as a CUDA graph and replayed.
    """

    width: int
    """Positions a row."""
    period: int = 1
    """After how many rows the same operations come again."""

    @abc.abstractmethod
    def state(self) -> list[Tensor]:
        """Every tensor that is carried from one position to another."""

    @abc.abstractmethod
    def begin(self, phase: int) -> None:
        """Start a row; `phase` is its number modulo `period`."""

    @abc.abstractmethod
    def step(self, column: int, turn: int) -> Tensor:
        """The output's numbers for one turn at a position, shape [n, numbers of the turn]."""

    @abc.abstractmethod
    def write(self, column: int, turn: int, value: Tensor) -> None:
        """Take in the values of a turn, shape [n, channels of the turn]."""


class Autoregressive(Explicit, Trainable):
    """A model of items as sequences of positions, trained on exact likelihood.

    `__init__` of a family calls `describe`, and the family gives `outputs` and `incremental`. Real-valued data are
    standardised.
    """

    exact: ClassVar[bool] = True
    output: Output

    def describe(self, modality: Modality, likelihood: Likelihood | None, components: int) -> None:
        """Take channels, positions and the likelihood from the medium. A vector is a row of its coordinates."""
        self.modality = modality
        shape = modality.shape
        self.positions = shape if len(shape) == 1 else shape[1:]
        self.output = Output(1 if len(shape) == 1 else shape[0], modality.levels, likelihood, components)
        self.discrete = modality.levels is not None
        if not self.discrete:
            self.standardise = Standardise(shape)

    def adapt(self, data: Any) -> None:
        """Measure the mean and the deviation of real-valued data."""
        if not self.discrete:
            self.standardise.measure(data, self.modality)

    def exhibits(self) -> list[Exhibit]:
        """Samples, and samples of which the first half is kept and the rest drawn again."""
        return [*super().exhibits(), completion_exhibit(self)]

    @abc.abstractmethod
    def outputs(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The numbers of `output` at every position, shape [batch, size, *positions].

        `x` has shape [batch, channels, *positions]. Numbers at a position depend on the positions before it, and on
        the channels of earlier turns at it, alone.
        """

    @abc.abstractmethod
    def incremental(self, n: int, condition: Tensor | None = None) -> Incremental:
        """The same network, to be run position by position on n items."""

    def log_prob(
        self, x: Tensor, *, condition: object = None, samples: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """Exact log-probability in nats an item, shape [batch]; a mass where the medium has levels, else a density.

        Raises `MediaError` where values are not levels of the medium.
        """
        x = self.check_items(x, levels=True)
        return self._log_prob(x, self.prepare_condition(condition, len(x), generator))

    def loss(
        self,
        batch: Batch,
        *,
        player: str = "model",
        progress: float = 1.0,
        shared: dict[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The negative log-likelihood in nats an item, averaged over the batch."""
        condition = self.prepare_condition(batch.condition, len(batch.x), generator)
        return {"loss": -self._log_prob(batch.x, condition).mean()}

    def _log_prob(self, x: Tensor, condition: Tensor | None) -> Tensor:
        x, log_volume = self.to_unit(x)
        return self.output.distribution(self.outputs(x, condition)).log_prob(x) - log_volume

    def to_unit(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        """Items as the network sees them, [batch, channels, *positions], and the log of what a unit volume became."""
        if self.discrete:
            return full_precision(x).reshape(len(x), self.output.channels, *self.positions), 0.0
        scale = self.standardise.std.expand(self.modality.shape).log().sum()
        return self.standardise(full_precision(x)).reshape(len(x), self.output.channels, *self.positions), scale

    def from_unit(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), *self.modality.shape)
        return x if self.discrete else self.standardise.inverse(x)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        condition: object = None,
        temperature: float = 1.0,
        mean: bool = False,
        generator: torch.Generator | None = None,
        sampler: Sampler = "incremental",
    ) -> Tensor:
        """Draw n items, shape [n, ...]. The draws themselves are the items, so `mean` changes nothing.

        `sampler` is "incremental", which computes every feature once; "fixed-point", which guesses the whole item and
        repeats full passes until nothing changes (Song, Meng, Liao, Ermon, "Accelerating Feedforward Computation via
        Parallel Nonlinear Equation Solving", 2021); or "naive", a full pass for every draw. All three give the same
        items from the same generator, but for rounding.
        """
        check_count(n)
        return self._sample(n, condition, temperature, generator, sampler, None, None)

    @torch.no_grad()
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        *,
        condition: object = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        sampler: Sampler = "incremental",
    ) -> Tensor:
        """Draw what is not known of items from its exact distribution given what is known.

        Arguments:
            x: items, shape [batch, ...]; values that are not known do not matter.
            known: booleans that broadcast to the items. What is known must be the first positions in raster order
                (rows from the top, in the last of them columns from the left): the chain rule conditions on those
                alone, and ValueError says so for any other mask.

        Returns items with the known values as they were.
        """
        if known.dtype != torch.bool:
            raise ValueError(f"known is a mask of booleans, got {known.dtype}")
        try:
            mask = known.to(self.device).expand(len(x), *self.modality.shape)
        except RuntimeError as error:
            raise ValueError(
                f"known has shape {list(known.shape)}, which does not broadcast to the items' {list(x.shape)}"
            ) from error
        x = x.to(self.device)
        self.modality.check_levels(torch.where(mask, x, 1.0))
        mask = mask.reshape(len(x), self.output.channels, *self.positions)
        order = mask.flatten(2).movedim(1, 2)
        if self.output.turns == 1 and (order.any(2) != order.all(2)).any():
            raise ValueError("this model draws the channels of a position together: know all of them or none")
        order = order.flatten(1)
        if (order[:, 1:] & ~order[:, :-1]).any():
            raise ValueError(
                "what is known must be a prefix in raster order: known values that follow unknown ones cannot be "
                "conditioned on by ancestral sampling"
            )
        given, _ = self.to_unit(torch.where(mask.reshape(x.shape), x, 0.0))
        drawn = self._sample(len(x), condition, temperature, generator, sampler, given, mask)
        return torch.where(mask.reshape(x.shape), x.to(drawn.dtype), drawn)

    def _sample(
        self,
        n: int,
        condition: object,
        temperature: float,
        generator: torch.Generator | None,
        sampler: Sampler,
        given: Tensor | None,
        known: Tensor | None,
    ) -> Tensor:
        check_temperature(temperature)
        samplers = {"incremental": self._ancestral, "fixed-point": self._fixed_point, "naive": self._naive}
        if sampler not in samplers:
            raise ValueError(f"sampler is one of {', '.join(samplers)}; got {sampler!r}")
        condition = self.prepare_condition(condition, n, generator)
        like = full_precision(torch.empty(0, device=self.device, dtype=self.dtype))
        noise = uniform_noise((n, self.output.noise, *self.positions), like, generator)
        return self.from_unit(samplers[sampler](noise, condition, temperature, given, known))

    def _ancestral(
        self, noise: Tensor, condition: Tensor | None, temperature: float, given: Tensor | None, known: Tensor | None
    ) -> Tensor:
        n, channels, total = len(noise), self.output.channels, math.prod(self.positions)
        run = self.incremental(n, condition)
        rows = _Rows(run, self.output, n, temperature, noise, known is not None)
        x = noise.new_empty(total, n, channels)
        first = [noise.flatten(2).permute(2, 0, 1)]
        if given is not None and known is not None:
            first += [given.to(noise).flatten(2).permute(2, 0, 1), known.flatten(2).permute(2, 0, 1)]
        for start in _bar(range(0, total, run.width), "drawing rows"):
            stop = min(start + run.width, total)
            x[start:stop] = rows.fill(start // run.width % run.period, [part[start:stop] for part in first])
        return x.permute(1, 2, 0).reshape(n, channels, *self.positions)

    def _fixed_point(self, *arguments: Any) -> Tensor:
        return self._solve(*arguments)[0]

    def _solve(
        self, noise: Tensor, condition: Tensor | None, temperature: float, given: Tensor | None, known: Tensor | None
    ) -> tuple[Tensor, int]:
        """The fixed point of drawing all positions from one guess with the same noise, and the passes it took.

        Every pass makes at least one more position final, since each depends on those before it alone.
        """
        x = noise.new_zeros(len(noise), self.output.channels, *self.positions)
        draws = math.prod(self.positions) * self.output.turns
        for done in range(1, draws + 1):
            guess, x = x, _overwrite(self.output.draw(self.outputs(x, condition), noise, temperature), given, known)
            if torch.equal(guess, x):
                return x, done
        return x, draws

    def _naive(
        self, noise: Tensor, condition: Tensor | None, temperature: float, given: Tensor | None, known: Tensor | None
    ) -> Tensor:
        x = noise.new_zeros(len(noise), self.output.channels, *self.positions)
        for position in _bar(range(math.prod(self.positions)), "drawing positions"):
            for turn in range(self.output.turns):
                drawn = self.output.draw(self.outputs(x, condition), noise, temperature)
                drawn = _overwrite(drawn, given, known)
                channels = slice(turn, turn + 1) if self.output.turns > 1 else slice(None)
                x.flatten(2)[:, channels, position] = drawn.flatten(2)[:, channels, position]
        return x


class _Rows:
    """Draws row after row with an `Incremental`; on a CUDA device every phase is recorded once and replayed."""

    def __init__(self, run: Incremental, output: Output, n: int, temperature: float, like: Tensor, completes: bool):
        self.run, self.output, self.temperature = run, output, temperature
        self.x = like.new_empty(run.width, n, output.channels)
        self.inputs = [like.new_empty(run.width, n, output.noise)]
        if completes:
            self.inputs += [torch.empty_like(self.x), torch.empty_like(self.x, dtype=torch.bool)]
        self.graphs: dict[tuple[int, int], Any] = {}

    def fill(self, phase: int, inputs: list[Tensor]) -> Tensor:
        """Draw one row from its noise, and from what is given and known of it: tensors [columns, n, ...]."""
        columns = len(inputs[0])
        for mine, theirs in zip(self.inputs, inputs, strict=True):
            mine[:columns] = theirs
        if self.x.device.type == "cuda":
            self._graph(phase, columns).replay()
        else:
            self._draw(phase, columns)
        return self.x[:columns]

    def _draw(self, phase: int, columns: int) -> None:
        run, output = self.run, self.output
        run.begin(phase)
        per_turn = output.noise if output.turns == 1 else 1
        for column in range(columns):
            for turn in range(output.turns):
                noise = self.inputs[0][column]
                if output.turns > 1:
                    noise = noise[:, turn * per_turn : (turn + 1) * per_turn]
                channels = slice(turn, turn + 1) if output.turns > 1 else slice(None)
                value = output.draw(run.step(column, turn), noise, self.temperature)
                if len(self.inputs) > 1:
                    given, known = self.inputs[1][column, :, channels], self.inputs[2][column, :, channels]
                    value = torch.where(known, given, value)
                self.x[column, :, channels] = value
                run.write(column, turn, value)

    def _graph(self, phase: int, columns: int) -> Any:
        """The recorded work of a row. Recording needs a run before it, whose traces in the state are undone."""
        if (phase, columns) not in self.graphs:
            before = [tensor.clone() for tensor in self.run.state()]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._draw(phase, columns)
            torch.cuda.current_stream().wait_stream(stream)
            for tensor, old in zip(self.run.state(), before, strict=True):
                tensor.copy_(old)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._draw(phase, columns)
            self.graphs[phase, columns] = graph
        return self.graphs[phase, columns]


def _overwrite(drawn: Tensor, given: Tensor | None, known: Tensor | None) -> Tensor:
    return drawn if given is None or known is None else torch.where(known, given.to(drawn), drawn)


def _bar(steps: range, what: str) -> Iterator[int]:
    """The steps, with a progress bar where a person watches."""
    if not sys.stderr.isatty():
        yield from steps
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(steps, what, console=Console(stderr=True), transient=True)
