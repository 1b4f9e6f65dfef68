"""The contract: every model is a distribution over a medium.

`GenerativeModel` can be sampled. `Trainable` models are made by training, `Fitted` ones by a fit; `Explicit` ones score
data; `Latent` ones encode and decode; a `Variational` model is trained by a bound, which is its score.
"""

import abc
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

import zoo
from modalities import MediaError, Modality
from modalities.data import Batch, Items, Tree, cut, move, repeat
from modalities.latents import Latents
from zoo import walks
from zoo.checks import check_count, check_temperature
from zoo.conditions import Condition
from zoo.configuration import CheckpointError, family_name, record_arguments
from zoo.distributions import Event, Inference, LatentT, Posterior, Prior, Rng, full_precision, uniform_noise
from zoo.showcase import Exhibit, latent_exhibits, samples_exhibit
from zoo.walks import map_latents

ELEMENTS_AT_ONCE, MOST_AT_ONCE = 2**17, 4096
"""How many elements, and items, are scored or encoded at a time: 167 pictures of 28 x 28."""
FAR = 12.0
"""Values of a medium in [-1, 1] that are larger are of another scale."""
Notes = dict[str, Tensor] | None
"""What the players of one training step leave for each other; None where there is one player."""


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """How a player is optimised."""

    learning_rate: float = 1e-3
    """The peak, reached after the warm-up."""
    kind: Literal["adamw", "adamax"] = "adamw"
    """AdamW, or Adamax with an epsilon of 0.001, as NVAE was published with."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the two moments."""
    weight_decay: float = 0.0
    """Decoupled from the gradient with AdamW."""
    clip_norm: float = 100.0
    """Gradients with a larger norm are scaled down to it."""
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    """How the rate goes from its peak to a hundredth of it at the end of the run, or stays."""
    warmup_steps: int = 100
    """Steps over which the rate rises from 0."""


class Player(NamedTuple):
    """What takes turns in training: the modules that a turn changes, and how, if not as the run is configured."""

    modules: Sequence[nn.Module]
    optimiser: Optimiser | None = None


class GenerativeModel(nn.Module, abc.ABC):
    """A distribution that can be sampled.

    The constructor's arguments are the configuration: JSON values, a `Modality`, a `Condition` or another model. They
    are recorded when an instance is made and written to config.json by `save_pretrained`.
    """

    modality: Modality
    condition: Condition | None = None
    """What the model can be told; None for an unconditional one."""
    precise: ClassVar[tuple[str, ...]] = ()
    """The class's own buffers that are never shorter than float32, in memory and in a checkpoint of half precision:
    they are small, and rounding them would show."""

    caveat: ClassVar[str] = ""
    """What must be known when samples of the family are looked at; empty where nothing is."""

    _arguments: ClassVar[dict[str, object]] = {}
    """The arguments of the constructor; every instance whose constructor has any notes its own."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        record_arguments(cls)

    @abc.abstractmethod
    def sample(
        self, n: int, *, condition: object = None, temperature: float = 1.0, mean: bool = False, generator: Rng = None
    ) -> Tensor | list[Tensor]:
        """Draw n items, a tensor of shape [n, ...] in the medium's units; of a ragged medium a list of items.

        Temperature 0 gives the mean or the mode; `mean=True` ends with the likelihood's mean instead of a draw.
        """

    def scored_by(self) -> "Explicit | None":
        """The model whose likelihood stands for this one: itself, another one of the same parameters, or none."""
        return self if isinstance(self, Explicit) and self.scores else None

    def exhibits(self) -> list[Exhibit]:
        """What can be shown of the model, with the code that makes it; `zoo.showcase.draw` runs it."""
        return [samples_exhibit(self)]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self._reference().device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return self._reference().dtype

    def _reference(self) -> Tensor:
        for tensor in itertools.chain(self.parameters(), self.buffers()):
            if tensor.is_floating_point():
                return tensor
        return torch.empty(0)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What moves and converts a module: `precise` buffers take the device, and no type shorter than float32."""
        before = {name: getattr(self, name) for name in self.precise}
        super()._apply(fn, recurse)
        for name, tensor in before.items():
            moved = getattr(self, name)
            if moved.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, tensor.to(moved.device, torch.float32))
        return self

    def prepare_condition(self, given: object, n: int, generator: Rng = None) -> Tree:
        """n conditions as tensors on the model's device, out of one, n, or None; see `Condition.prepare`.

        Raises ValueError for any but None where the model is unconditional.
        """
        if self.condition is not None:
            return cast(Tree, move(self.condition.prepare(given, n, generator), self.device))
        if given is not None:
            raise ValueError(f"{type(self).__name__} is unconditional: it takes no condition, got {given!r:.60}")
        return None

    def told(self, condition: object, n: int) -> Tree:
        """The condition of `encode` and `decode`: what was prepared as it is, else as `prepare_condition` answers.

        Raises ValueError for None where the model is told something, since these draw no condition.
        """
        if self.condition is not None and condition is None:
            raise ValueError(
                f"{type(self).__name__} is told a {self.condition.noun}: give the condition of these items"
            )
        tensors = condition if isinstance(condition, tuple) else (condition,)
        if self.condition is not None and all(isinstance(tensor, Tensor) for tensor in tensors):
            return cast(Tree, condition)
        return self.prepare_condition(condition, n)

    def check_items(self, x: Tensor, *, levels: bool = False) -> Tensor:
        """Return x if it is a batch of the medium; with `levels`, if its values are levels of the medium too.

        In training nothing is looked at: the trainer has looked at the first batch, and looking waits for the device.
        Raises `MediaError` for other shapes, NaN and infinities, an empty batch, and values far beyond the medium's
        range, but not for a little beyond, where samples of real numbers may lie; warns where they look like those of
        another range.
        """
        if self.training or torch.compiler.is_exporting():  # an exported program does not look at values
            return x
        self.modality.check(x)
        if not len(x):
            raise MediaError(f"expected at least one item, got an empty batch of {self.modality.kind}")
        if not levels:
            return self.modality.check_range(x, FAR)
        for part in x.split(self.at_once(x)):
            self.modality.check_levels(part)
        return x

    def in_parts(self, function: Callable[..., Tensor], x: Tensor, *others: Tree) -> Tensor:
        """`function(x, *others)`, a number or more an item, for so many items at a time that memory does not grow with
        their number, and without a graph.

        Unless a gradient is asked for: see `takes_whole`.
        """
        if self.takes_whole(x):
            return function(x, *others)
        size = self.at_once(x)
        with torch.no_grad():
            if len(x) <= size:
                return function(x, *others)
            slices = [slice(start, start + size) for start in range(0, len(x), size)]
            return torch.cat([function(*(cut(tree, part) for tree in (x, *others))) for part in slices])

    def takes_whole(self, x: Tensor) -> bool:
        """Whether items are computed as one batch with its graph: in training, for an `x` that requires a gradient, and
        for a program that is exported."""
        return self.training or (torch.is_grad_enabled() and x.requires_grad) or torch.compiler.is_exporting()

    def at_once(self, x: Tensor) -> int:
        """How many items are scored or encoded at a time, so that memory does not grow with their number."""
        return min(MOST_AT_ONCE, max(1, ELEMENTS_AT_ONCE // max(1, x[:1].numel())))

    def checkpoint(self) -> dict[str, Tensor]:
        """The tensors that are saved and loaded: all but those of the other players of an adversarial model."""
        players = self.players() if isinstance(self, Trainable) else {}
        others = {id(m) for name, player in players.items() if name != "model" for m in player.modules}
        prefixes = tuple(f"{name}." for name, module in self.named_modules() if id(module) in others)
        state = self.state_dict()
        return {name: tensor for name, tensor in state.items() if not (prefixes and name.startswith(prefixes))}

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """`zoo.save`."""
        return zoo.save(self, folder, **options)

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Self:
        """`zoo.load`, for a checkpoint of this class, which need not be registered."""
        family = family_name(cls)
        if ":" in family:
            zoo.register(family, cls)
        model = zoo.load(name, **options)
        if not isinstance(model, cls):
            raise CheckpointError(f"{name} holds the family {family_name(type(model))!r}, not a {cls.__name__}")
        return model

    def push_to_hub(self, repo_id: str, *, private: bool | None = None) -> str:
        """`zoo.push`."""
        return zoo.push(self, repo_id, private=private)


class Trainable(GenerativeModel):
    """A model that is made by training: `zoo.training.train` calls `adapt` once and then steps on `loss`."""

    def adapt(self, data: Items) -> None:  # noqa: B027
        """Prepare for a data set before the first step: measure its mean and deviation, start a codebook.

        Nothing here; what a model overrides this with must give the same in every process that has the same data.
        """

    def players(self) -> dict[str, Player]:
        """What takes turns in training; all but "model" belong to training alone and are not saved."""
        return {"model": Player([self])}

    @abc.abstractmethod
    def loss(
        self, batch: Batch, *, player: str = "model", progress: float = 1.0, shared: Notes = None, generator: Rng = None
    ) -> dict[str, Tensor] | None:
        """The training objective on a batch: its value under "loss", and named terms to log. None sits the turn out.

        Arguments:
            player: whose turn it is, a name of `players`.
            progress: the trained fraction in [0, 1], which drives schedules; 1 is the true objective.
            shared: what the turns before this one left in the same step (a generated batch, detached), for this one to
                use and to add to. None where there is one player.
        """

    def forward(self, batch: Batch, **kwargs: Any) -> dict[str, Tensor] | None:
        """The same as `loss`, so that data-parallel and autocast wrappers see the training step."""
        return self.loss(batch, **kwargs)


class Fitted(GenerativeModel):
    """A model that its class makes in one go, by `Class.fit(data, modality, ...)`. It has no loss."""


class Explicit(GenerativeModel):
    """A model with a density, or with a lower bound of it."""

    exact: ClassVar[bool] = True
    """True where `log_prob` is tractable, False where it is a lower bound."""
    discrete: bool = False
    """True where `log_prob` is a probability mass, False where it is a density."""
    scores: bool = True
    """False for the instance that has no density after all, since a model inside of it has none."""

    @abc.abstractmethod
    def log_prob(self, x: Tensor, *, condition: object = None, samples: int = 1, generator: Rng = None) -> Tensor:
        """Log-probability in nats an item, shape [batch]. A bound takes `samples` draws an item, an exact one none.

        Raises `MediaError` for what are no items of the medium, and where it is a mass, for values that are no levels.
        """

    def bits_per_dim(self, x: Tensor, *, condition: object = None, samples: int = 1, generator: Rng = None) -> Tensor:
        """Negative log-likelihood in bits an element, shape [batch], where the medium has levels.

        A density is first given the noise that makes levels continuous, uniform over a level's bin, and the bin's
        width is added: the expectation bounds the mass from below (Theis, van den Oord, Bethge, "A note on the
        evaluation of generative models", 2016).
        """
        levels = self.modality.levels
        if levels is None:
            raise ValueError(f"{self.modality.kind} have no levels, so bits per dimension mean nothing; use log_prob")
        log_width = 0.0
        if not self.discrete:
            self.check_items(x, levels=True)
            width = 2 / (levels - 1)
            x = x + width * (uniform_noise(tuple(x.shape), x, generator) - 0.5)
            log_width = self.modality.elements * math.log(width)
        log_prob = self.log_prob(x, condition=condition, samples=samples, generator=generator)
        return -(log_prob + log_width) / (self.modality.elements * math.log(2))


class Latent(GenerativeModel, Generic[LatentT]):
    """A model with a latent space: `prior`, `encode` and `decode` give all the rest.

    z, the type that the class is subscribed with, is a tensor, or a tuple of them: one a group in a hierarchy, a
    NamedTuple where parts have names.
    """

    has_likelihood: ClassVar[bool] = True
    """False where `decode` answers a point, since no likelihood was learned."""
    discrete: bool = False
    """True where p(x given z) is a mass, False where it is a density."""
    interpolate = walks.interpolate
    traverse = walks.traverse
    attribute_direction = walks.attribute_direction

    @abc.abstractmethod
    def prior(self, condition: object = None, *, n: int = 1, temperature: float = 1.0) -> Prior[LatentT]:
        """p(z) for n items; the temperature scales its standard deviations."""

    @abc.abstractmethod
    def encode(self, x: Tensor, *, condition: object = None) -> Posterior[LatentT]:
        """q(z given x); a `zoo.distributions.Point` where there is no spread. Raises `MediaError` for bad items."""

    @abc.abstractmethod
    def decode(self, z: LatentT, *, condition: object = None) -> Event:
        """p(x given z); its `.mean` is the reconstruction."""

    def latents(self) -> Latents:
        """The medium of z, for a prior over it: vectors or grids of real numbers, or of codes.

        Raises ValueError where z is a tuple.
        """
        z = self.prior(self.prepare_condition(None, 1), n=1).mean
        if not isinstance(z, Tensor):
            raise ValueError(f"the latents of {type(self).__name__} are {len(z)} tensors, and a prior is of one")
        return Latents(tuple(z.shape[1:]))

    def to_latents(self, posterior: Posterior[LatentT], generator: Rng = None) -> Tensor:
        """Items of `latents()` out of what `encode` answers: a draw."""
        return cast(Tensor, posterior.rsample(generator=generator))

    def from_latents(self, items: Tensor) -> LatentT:
        """z, as `decode` takes it, out of items of `latents()`."""
        return cast(LatentT, full_precision(items))

    def exhibits(self) -> list[Exhibit]:
        """Samples, the same at several temperatures, walks between them, and single latent dimensions."""
        return [*super().exhibits(), *latent_exhibits(self)]

    @torch.no_grad()
    def sample(
        self, n: int, *, condition: object = None, temperature: float = 1.0, mean: bool = False, generator: Rng = None
    ) -> Tensor:
        """Draw z from the prior and x from p(x given z), shape [n, ...]."""
        check_count(n)
        check_temperature(temperature)
        condition = self.prepare_condition(condition, n, generator)
        z = self.prior(condition, n=n, temperature=temperature).sample(generator=generator)
        likelihood = self.decode(z, condition=condition)
        return likelihood.mean if mean or temperature == 0 else likelihood.sample(generator=generator)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *, condition: object = None) -> Tensor:
        """The mean of p(x given z) at the mean of q(z given x), shape of x."""
        x = self.check_items(x)

        def restore(x: Tensor, condition: Tree) -> Tensor:
            return self.decode(self.encode(x, condition=condition).mean, condition=condition).mean

        return self.in_parts(restore, x, self.prepare_condition(condition, len(x)))


class ELBO(NamedTuple):
    """The two terms of the evidence lower bound."""

    reconstruction: Tensor
    """log p(x given z), nats an item, shape [batch]."""
    kl: Tensor
    """KL(q || p) of every group of latents, nats an item, shape [batch, groups]."""

    @property
    def total(self) -> Tensor:
        """The bound: reconstruction less the sum of the KL, shape [batch]."""
        return self.reconstruction - self.kl.sum(1)


class Variational(Explicit, Latent[LatentT], Trainable):
    """A latent-variable model trained by a variational bound: `prior`, `encode` and `decode` are distributions.

    Source: Kingma, Welling, "Auto-Encoding Variational Bayes", 2014.
    """

    exact: ClassVar[bool] = False

    @abc.abstractmethod
    def prior(self, condition: object = None, *, n: int = 1, temperature: float = 1.0) -> Inference[LatentT]:
        """p(z) for n items; the temperature scales its standard deviations."""

    @abc.abstractmethod
    def encode(self, x: Tensor, *, condition: object = None) -> Inference[LatentT]:
        """q(z given x). Raises `MediaError` for bad items."""

    def elbo(self, x: Tensor, *, condition: object = None, generator: Rng = None) -> ELBO:
        """The evidence lower bound by one reparameterised draw of z, the KL in closed form given it."""
        x = self.check_items(x, levels=self.discrete)
        condition = self.prepare_condition(condition, len(x), generator)
        posterior = self.encode(x, condition=condition)
        z = posterior.rsample(generator=generator)
        kl = posterior.kl(self.prior(condition, n=len(x)), z)
        return ELBO(self.decode(z, condition=condition).log_prob(x), kl)

    def loss(
        self, batch: Batch, *, player: str = "model", progress: float = 1.0, shared: Notes = None, generator: Rng = None
    ) -> dict[str, Tensor]:
        """The negative evidence lower bound, nats an item, averaged over the batch."""
        elbo = self.elbo(batch.x, condition=batch.condition, generator=generator)
        terms = {"reconstruction": -elbo.reconstruction.mean(), "kl": elbo.kl.sum(1).mean()}
        return {"loss": -elbo.total.mean()} | {name: term.detach() for name, term in terms.items()}

    def log_prob(self, x: Tensor, *, condition: object = None, samples: int = 1, generator: Rng = None) -> Tensor:
        """The importance-weighted bound with `samples` draws, nats an item, shape [batch], float64.

        log (1/k) sum_j p(x, z_j) / q(z_j given x): one draw estimates the evidence lower bound, more draws tighten it.
        Memory does not grow with the draws, which are taken in chunks under a running logsumexp, nor with the items:
        see `in_parts`.

        Source: Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", 2016.
        """
        check_count(samples, "samples")
        x = self.check_items(x, levels=self.discrete)
        bound = functools.partial(self._bound, samples=samples, generator=generator)
        return self.in_parts(bound, x, self.prepare_condition(condition, len(x), generator))

    def _bound(self, x: Tensor, condition: Tree, samples: int, generator: Rng) -> Tensor:
        n = len(x)
        posterior, prior = self.encode(x, condition=condition), self.prior(condition, n=n)

        def log_weights() -> Iterator[Tensor]:
            chunk = max(1, 256 // n)  # small batches are decoded several draws at a time
            for start in range(0, samples, chunk):
                draws = min(chunk, samples - start)
                z = posterior.rsample((draws,), generator=generator)
                log_ratio = prior.log_prob(z) - posterior.log_prob(z)
                z = map_latents(lambda group: group.flatten(0, 1), z)
                likelihood = self.decode(z, condition=repeat(condition, draws))
                yield likelihood.log_prob(repeat(x, draws)).reshape(draws, n).double() + log_ratio.double()

        return log_mean_exp(log_weights(), samples)


def log_mean_exp(terms: Iterable[Tensor], draws: int) -> Tensor:
    """The logarithm of the mean of exp over draws, by a running logsumexp; terms [some draws, batch] come in turn."""
    return functools.reduce(torch.logaddexp, (torch.logsumexp(some, 0) for some in terms)) - math.log(draws)
