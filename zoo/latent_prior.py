"""A learned prior: a model of another model's latents, in the place of the one that it was trained with.

Sources: van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", 2017, for grids of codes; for
vectors the second stage of Dai, Wipf, "Diagnosing and Enhancing VAE Models", 2019, its model of the latents any
explicit one instead of a VAE.
"""

import functools
from collections.abc import Sequence
from typing import ClassVar, Self, cast

import torch
from torch import Tensor

from modalities.data import Batch, Items, Tree, as_dataset, fetch, randomise
from modalities.latents import Latents
from zoo.checks import check_count
from zoo.distributions import Event, Point, Posterior, Rng
from zoo.model import ELBO, Explicit, Latent, Notes, Trainable, log_mean_exp


class LearnedPrior:
    """p(z) as a model of latents has it: a distribution over the z of another model.

    Its coordinates, in which a walk moves, are those of the other model's own prior.
    """

    def __init__(self, whole: "LatentPrior", n: int, temperature: float, condition: object):
        self.model, self.learned, self.n, self.temperature = whole.model, whole.learned, n, temperature
        self.condition = whole.above(condition)
        self.stand_in = whole.model.prior(whole.below(condition), n=n)

    @property
    def mean(self) -> Tensor:
        """The likeliest latents, as temperature 0 gives them."""
        return self._draw(0.0, None)

    def sample(self, *, generator: Rng = None) -> Tensor:
        """A draw an item."""
        return self._draw(self.temperature, generator)

    def _draw(self, temperature: float, generator: Rng) -> Tensor:
        drawn = self.learned.sample(self.n, condition=self.condition, temperature=temperature, generator=generator)
        return self.model.from_latents(cast(Tensor, drawn))

    def standardise(self, z: Tensor) -> Tensor:
        """z in the coordinates of the other model's prior."""
        return self.stand_in.standardise(z)

    def reparameterise(self, noise: Tensor) -> Tensor:
        """z from these coordinates."""
        return self.stand_in.reparameterise(noise)


class LatentPrior(Explicit, Latent[Tensor], Trainable):
    """p(x) = E_{p(z)} p(x given z), with p(z) a model that is trained on the latents of data.

    The stand-in prior of an autoencoder or of a VQ-VAE's codes, and the N(0, I) of a VAE, leave gaps in their spaces
    that no data come from; samples from there look like none. A prior of the latents as they lie avoids the gaps, and
    may be conditioned on classes that the model below it never saw. `encode` and `decode` are those of that model.

    It scores where both models allow, by a lower bound: codes that are a function of the item give log p(codes) + log
    p(x given codes), a posterior the importance-weighted bound. On an autoencoder, which has no likelihood, `scores` is
    False.

    Arguments:
        model: a trained model, whose parameters are frozen from here on.
        prior: a model of the medium `model.latents()`; its condition is that of the whole.
    """

    exact: ClassVar[bool] = False
    former_names: ClassVar[dict[str, str]] = {"learned": "prior"}

    def __init__(self, model: Latent[Tensor], prior: Explicit):
        super().__init__()
        medium = model.latents()
        if prior.modality != medium:
            raise ValueError(f"the prior must be of {medium}, got one of {prior.modality}")
        if not isinstance(prior, Trainable):
            raise ValueError(f"the prior is trained, and a {type(prior).__name__} is fitted")
        if model.condition is not None and prior.condition not in (None, model.condition):
            raise ValueError(f"the model is told {model.condition}, the prior {prior.condition}")
        self.modality, self.condition = model.modality, prior.condition or model.condition
        self.model, self.learned = model.requires_grad_(False).eval(), prior
        self.scores, self.discrete = model.has_likelihood, model.discrete

    def train(self, mode: bool = True) -> Self:
        """Switch the prior to training; the model below it stays as it is."""
        super().train(mode)
        self.model.eval()
        return self

    def adapt(self, data: Items) -> None:
        """Have the prior measure the latents of the data."""
        self.learned.adapt(_Encoded(self, as_dataset(data)))

    def prior(self, condition: object = None, *, n: int = 1, temperature: float = 1.0) -> LearnedPrior:
        """The learned p(z)."""
        return LearnedPrior(self, n, temperature, condition)

    def encode(self, x: Tensor, *, condition: object = None) -> Posterior[Tensor]:
        """q(z given x) of the model below."""
        return self.model.encode(x, condition=self.below(condition))

    def decode(self, z: Tensor, *, condition: object = None) -> Event:
        """p(x given z) of the model below."""
        return self.model.decode(z, condition=self.below(condition))

    @torch.no_grad()
    def encode_latents(self, x: Tensor, *, condition: object = None, generator: Rng = None) -> Tensor:
        """What the prior models: codes, or a draw from q(z given x); the condition is prepared."""
        with torch.autocast(x.device.type, enabled=False):
            return self.model.to_latents(self.encode(x, condition=condition), generator)

    def loss(
        self, batch: Batch, *, player: str = "model", progress: float = 1.0, shared: Notes = None, generator: Rng = None
    ) -> dict[str, Tensor] | None:
        """The prior's loss on a batch's latents, its negative log-likelihood: a mass for codes, else a density."""
        condition = self.prepare_condition(batch.condition, len(batch.x), generator)
        z = self.encode_latents(batch.x, condition=condition, generator=generator)
        told = Batch(z, None if self.learned.condition is None else condition)
        return self.learned(told, player=player, progress=progress, shared=shared, generator=generator)

    def log_prob(self, x: Tensor, *, condition: object = None, samples: int = 1, generator: Rng = None) -> Tensor:
        """A lower bound in nats an item, shape [batch], float64; more `samples` tighten it where latents have a spread.

        Raises TypeError where the model below has no likelihood.
        """
        check_count(samples, "samples")
        x, condition = self._observe(x, condition, generator)
        return self.in_parts(functools.partial(self._bound, samples=samples, generator=generator), x, condition)

    def _bound(self, x: Tensor, condition: Tree, samples: int, generator: Rng) -> Tensor:
        posterior = self.encode(x, condition=condition)
        draws = 1 if isinstance(posterior, Point) else samples
        return log_mean_exp((self._terms(x, posterior, condition, generator).total[None] for _ in range(draws)), draws)

    def elbo(self, x: Tensor, *, condition: object = None, generator: Rng = None) -> ELBO:
        """The bound by one draw of the latents: log p(x given z), and as the rate log q(z given x) - log p(z), which of
        codes is -log p(codes).

        Raises TypeError where the model below has no likelihood.
        """
        x, condition = self._observe(x, condition, generator)
        return self._terms(x, self.encode(x, condition=condition), condition, generator)

    def _observe(self, x: Tensor, condition: object, generator: Rng) -> tuple[Tensor, Tree]:
        """The items checked, and the condition prepared."""
        if not self.scores:
            raise TypeError(f"{type(self.model).__name__} has no likelihood, so a prior of its latents scores nothing")
        x = self.check_items(x, levels=self.discrete)
        return x, self.prepare_condition(condition, len(x), generator)

    def _terms(self, x: Tensor, posterior: Posterior[Tensor], condition: Tree, generator: Rng) -> ELBO:
        items = self.model.to_latents(posterior, generator)
        z = self.model.from_latents(items)
        kl = -self.learned.log_prob(items, condition=self.above(condition), generator=generator).double()
        if isinstance(posterior, Event) and not isinstance(posterior, Point):
            kl = kl + posterior.log_prob(z).double()
        return ELBO(self.decode(z, condition=condition).log_prob(x).double(), kl[:, None])

    def latents(self) -> Latents:
        """The medium that the prior is of."""
        return self.model.latents()

    def to_latents(self, posterior: Posterior[Tensor], generator: Rng = None) -> Tensor:
        """As that of the model below."""
        return self.model.to_latents(posterior, generator)

    def from_latents(self, items: Tensor) -> Tensor:
        """As that of the model below."""
        return self.model.from_latents(items)

    def below(self, condition: object) -> object:
        """What the model below is told of a condition that is prepared."""
        return None if self.model.condition is None else condition

    def above(self, condition: object) -> object:
        """What the prior is told of it."""
        return None if self.learned.condition is None else condition


class _Encoded:
    """The latents of a data set, encoded when they are asked for: a data set for the prior to measure."""

    def __init__(self, whole: LatentPrior, data: Items):
        self.whole, self.data = whole, data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        return self.take([index])[0]

    def take(self, indices: Sequence[int]) -> Tensor:
        """The latents of these items."""
        whole, generator = self.whole, torch.Generator().manual_seed(indices[0])
        batch, errors = fetch(self.data, indices, whole.modality, whole.condition)
        if batch is None:
            raise errors[0]
        batch = randomise(self.data, batch, generator)
        condition = whole.prepare_condition(batch.condition, len(batch.x), generator)
        return whole.encode_latents(batch.x.to(whole.device), condition=condition, generator=generator)
