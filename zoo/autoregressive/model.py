"""The chain rule: p(x) = prod_t p(x_t | x_1, ..., x_{t-1}).

A family gives two forms of one network: `outputs`, all conditionals of known items in one pass, for training and
scoring; and `incremental`, the same conditionals position by position, for sampling. Positions run in raster order; the
channels of a position follow each other or are drawn together.
"""

import abc
import math
from typing import ClassVar, cast

import torch
from torch import Tensor

from modalities import Modality
from modalities.data import Batch, Items, Tree
from zoo.autoregressive.samplers import SAMPLERS, Draws, Incremental, Sampler
from zoo.checks import check_count, check_counts, check_temperature
from zoo.distributions import Rng, full_precision, uniform_noise
from zoo.model import Explicit, Notes, Trainable
from zoo.nn.likelihood import ChainHead, ChainLikelihood
from zoo.nn.normalisation import Standardise
from zoo.showcase import Exhibit, completion_exhibit


class Autoregressive(Explicit, Trainable):
    """A model of items as sequences of positions, trained on exact likelihood.

    `__init__` of a family calls `describe`, and the family gives `outputs` and `incremental`. Real-valued data are
    standardised.
    """

    exact: ClassVar[bool] = True
    likelihood_head: ChainHead
    positions: tuple[int, ...]
    """The sizes of the grid of positions."""
    draws: int
    """How many draws make an item: one a position, or one for each of its channels."""

    def describe(
        self, modality: Modality, likelihood: ChainLikelihood | None, components: int, axes: int, **counts: int
    ) -> None:
        """Take channels, positions and the likelihood from the medium. A vector is a row of its coordinates.

        Raises ValueError for a medium of other than so many axes, and for counts that are not positive whole numbers.
        """
        check_counts(components=components, **counts)
        self.modality = modality
        shape = modality.shape
        if len(shape) != axes or len(modality.grid) != axes - 1 or None in shape:  # vertices have no order
            items = {1: "[elements]", 2: "[channels, time]", 3: "[channels, height, width]"}[axes]
            raise ValueError(f"{type(self).__name__} takes items {items}; {modality.kind} have the shape {list(shape)}")
        self.positions = shape if len(shape) == 1 else shape[1:]
        self.likelihood_head = ChainHead(1 if len(shape) == 1 else shape[0], modality.levels, likelihood, components)
        self.draws = math.prod(self.positions) * self.likelihood_head.groups
        self.discrete = modality.levels is not None
        if not self.discrete:
            self.standardise = Standardise(shape)

    def adapt(self, data: Items) -> None:
        """Measure the mean and the deviation of real-valued data."""
        if not self.discrete:
            self.standardise.measure(data, self.modality)

    def exhibits(self) -> list[Exhibit]:
        """Samples, and samples of which the first half is kept and the rest drawn again."""
        return [*super().exhibits(), completion_exhibit(self)]

    @abc.abstractmethod
    def outputs(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The numbers of `likelihood_head` at every position, shape [batch, size, *positions].

        `x` has shape [batch, channels, *positions]. Numbers at a position depend on the positions before it, and on
        the channels of earlier groups at it, alone.
        """

    @abc.abstractmethod
    def incremental(self, n: int, condition: Tensor | None = None) -> Incremental:
        """The same network, to be run position by position on n items."""

    def log_prob(self, x: Tensor, *, condition: object = None, samples: int = 1, generator: Rng = None) -> Tensor:
        """Exact log-probability in nats an item, shape [batch]; a mass where the medium has levels, else a density.

        Raises `MediaError` where values are not levels of the medium.
        """
        x = self.check_items(x, levels=True)
        return self.in_parts(self._log_prob, x, self.prepare_condition(condition, len(x), generator))

    def loss(
        self, batch: Batch, *, player: str = "model", progress: float = 1.0, shared: Notes = None, generator: Rng = None
    ) -> dict[str, Tensor]:
        """The negative log-likelihood in nats an item, averaged over the batch."""
        condition = self.prepare_condition(batch.condition, len(batch.x), generator)
        return {"loss": -self._log_prob(batch.x, condition).mean()}

    def _log_prob(self, x: Tensor, labels: Tree) -> Tensor:
        x, log_volume = self.to_unit(x)
        return self.likelihood_head(self.outputs(x, cast(Tensor | None, labels))).log_prob(x) - log_volume

    def to_unit(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        """Items u as the network sees them, [batch, channels, *positions], and log |dx / du|: log p(x) is log p(u) less
        that.
        """
        shape = (len(x), self.likelihood_head.channels, *self.positions)
        if self.discrete:
            return full_precision(x).reshape(shape), 0.0
        scale = self.standardise.std.expand(self.modality.shape).log().sum()
        return self.standardise(full_precision(x)).reshape(shape), scale

    def from_unit(self, x: Tensor) -> Tensor:
        """The inverse of `to_unit`: items of the medium."""
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
        generator: Rng = None,
        sampler: Sampler = "incremental",
    ) -> Tensor:
        """Draw n items, shape [n, ...]. The draws themselves are the items, so `mean` changes nothing.

        `sampler` is "incremental", which computes every feature once; "fixed-point", which guesses the whole item and
        repeats full passes until nothing changes; or "naive", a full pass for every draw. All three give the same items
        from the same generator, but for rounding.
        """
        check_count(n)
        return self._sample(n, condition, temperature, generator, sampler)

    @torch.no_grad()
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        *,
        condition: object = None,
        temperature: float = 1.0,
        generator: Rng = None,
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
        if not isinstance(x, Tensor) or not isinstance(known, Tensor):
            raise ValueError(f"x and known are tensors, got {type(x).__name__} and {type(known).__name__}")
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
        by_position = mask.reshape(len(x), self.likelihood_head.channels, *self.positions)
        self._check_prefix(by_position)
        values, _ = self.to_unit(torch.where(mask, x, 0.0))
        drawn = self._sample(len(x), condition, temperature, generator, sampler, (by_position, values))
        return torch.where(mask, x.to(drawn.dtype), drawn)

    def _check_prefix(self, known: Tensor) -> None:
        """Refuse a mask [batch, channels, *positions] of other draws than the first ones."""
        order = known.flatten(2).movedim(1, 2)
        if self.likelihood_head.groups == 1 and (order.any(2) != order.all(2)).any():
            raise ValueError("this model draws the channels of a position together: know all of them or none")
        order = order.flatten(1)
        if (order[:, 1:] & ~order[:, :-1]).any():
            raise ValueError(
                "what is known must be a prefix in raster order: known values that follow unknown ones cannot be "
                "conditioned on by ancestral sampling"
            )

    def _sample(
        self,
        n: int,
        condition: object,
        temperature: float,
        generator: Rng,
        sampler: Sampler,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        check_temperature(temperature)
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler is one of {', '.join(SAMPLERS)}; got {sampler!r}")
        labels = cast(Tensor | None, self.prepare_condition(condition, n, generator))
        like = full_precision(torch.empty(0, device=self.device, dtype=self.dtype))
        noise = uniform_noise((n, self.likelihood_head.noise, *self.positions), like, generator)
        if known is not None:
            known = known[0], known[1].to(like)
        return self.from_unit(SAMPLERS[sampler](self, Draws(noise, labels, temperature, known)))
