"""The contract: every model is a distribution over a medium.

`GenerativeModel` samples; `Explicit` also scores; `Latent` also encodes and decodes; `Variational` does all of it, its
score a lower bound.
"""

import abc
import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path as FilePath
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from modalities import Modality
from zoo import __version__
from zoo.checkpoint import (
    CONFIG,
    WEIGHTS,
    CheckpointError,
    build,
    encode,
    family_name,
    load_weights,
    read_config,
    write_files,
)
from zoo.distributions import DiagonalGaussian, Path, uniform_noise

Latents = Tensor | tuple[Tensor, ...]
"""One tensor, or one a group in a hierarchy; the batch comes first."""
AT_ONCE = 128
"""How many items are encoded at once where any number may come."""


class GenerativeModel(
    nn.Module,
    PyTorchModelHubMixin,
    abc.ABC,
    library_name="latent-zoo",
    tags=["latent-zoo"],
):
    """A distribution that can be sampled and trained.

    The constructor's arguments are the configuration: JSON values, a `Modality` or another model. They are recorded
    when an instance is made and written to config.json by `save_pretrained`.
    """

    modality: Modality
    classes: int | None = None
    """The number of classes of a class-conditional model; None for an unconditional one."""
    precise: ClassVar[tuple[str, ...]] = ()
    """The class's own tensors that keep their precision in a checkpoint of half precision: they are small, and rounding
    them would show."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        instance = super().__new__(cls, *args, **kwargs)
        if args or kwargs:
            bound = inspect.signature(cls.__init__).bind(instance, *args, **kwargs)
            bound.apply_defaults()
            arguments = {name: encode(name, value) for name, value in list(bound.arguments.items())[1:]}
            # The mixin's own record turns dataclasses into plain fields and leaves out what it cannot write.
            instance.__dict__["_hub_mixin_config"] = {
                "family": family_name(cls),
                "arguments": arguments,
                "version": __version__,
            }
        return instance

    def forward(self, batch: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The same as `loss`, so that data-parallel and autocast wrappers see the training step."""
        return self.loss(batch, **kwargs)

    @abc.abstractmethod
    def loss(
        self, batch: Any, *, player: str = "model", progress: float = 1.0, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The training objective on a batch, `x` or `(x, condition)`: its value under "loss", and named terms to log.

        `progress` in [0, 1] is the trained fraction and drives schedules; 1 is the true objective. `player` is the one
        of `players` whose turn it is.
        """

    @abc.abstractmethod
    def sample(
        self,
        n: int,
        *,
        condition: Any = None,
        temperature: float = 1.0,
        mean: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw n items, a tensor of shape [n, ...] in the medium's units.

        Temperature 0 gives the mean or the mode; `mean=True` ends with the likelihood's mean instead of a draw.
        """

    def scored_by(self) -> "Explicit | None":
        """The model whose likelihood stands for this one: itself, another one of the same parameters, or none."""
        return self if isinstance(self, Explicit) else None

    def players(self) -> dict[str, list[nn.Module]]:
        """The modules that take turns in training; all but "model" belong to training alone and are not saved."""
        return {"model": [self]}

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

    def prepare_condition(self, condition: Any, n: int, generator: torch.Generator | None = None) -> Any:
        """Check one condition or n, and return n; a class-conditional model draws a missing one uniformly."""
        if self.classes is None:
            if condition is not None:
                raise ValueError(f"{type(self).__name__} is unconditional: it takes no condition, got {condition!r}")
            return None
        if condition is None:
            u = uniform_noise((n,), torch.empty(0, device=self.device), generator)
            return (u * self.classes).long().clamp(max=self.classes - 1)
        labels = torch.as_tensor(condition, device=self.device)
        if labels.is_floating_point() or labels.ndim > 1 or (labels.ndim == 1 and len(labels) not in (1, n)):
            raise ValueError(f"a condition is one class or {n} of them, whole numbers, got {condition!r}")
        if ((labels < 0) | (labels >= self.classes)).any():
            raise ValueError(f"classes run from 0 to {self.classes - 1}, got {condition!r}")
        return labels.long().expand(n)

    def checkpoint(self) -> dict[str, Tensor]:
        """The tensors that are saved and loaded: all but those of the other players of an adversarial model."""
        others = {id(m) for name, modules in self.players().items() if name != "model" for m in modules}
        prefixes = tuple(f"{name}." for name, module in self.named_modules() if id(module) in others)
        state = self.state_dict()
        return {name: tensor for name, tensor in state.items() if not (prefixes and name.startswith(prefixes))}

    def _save_pretrained(self, save_directory: FilePath) -> None:
        if self._hub_mixin_config is None:
            raise CheckpointError(f"{type(self).__name__} was built without arguments that could be recorded")
        write_files(FilePath(save_directory), self._hub_mixin_config, self.checkpoint())

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | FilePath | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        map_location: str = "cpu",
        strict: bool = True,
        **arguments: Any,
    ) -> Self:
        if arguments or not strict:
            given = ", ".join([*arguments, *([] if strict else ["strict=False"])])
            raise TypeError(f"the arguments of a checkpoint stand in its {CONFIG} and loading is strict; got {given}")
        folder = FilePath(model_id)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = FilePath(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                    allow_patterns=[CONFIG, WEIGHTS, "README.md"],
                )
            )
        model = build(read_config(folder), expected=cls)
        load_weights(model.checkpoint(), folder / WEIGHTS)
        return cast(Self, model.to(map_location).eval())


class Explicit(GenerativeModel):
    """A model with a density, or with a lower bound of it."""

    exact: ClassVar[bool] = True
    """True where `log_prob` is tractable, False where it is a lower bound."""
    discrete: bool = False
    """True where `log_prob` is a probability mass, False where it is a density."""

    @abc.abstractmethod
    def log_prob(
        self, x: Tensor, *, condition: Any = None, samples: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """Log-probability in nats an item, shape [batch]. A bound takes `samples` draws an item, an exact one none."""

    def loss(
        self, batch: Any, *, player: str = "model", progress: float = 1.0, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The negative log-likelihood in nats an item, averaged over the batch."""
        x, condition = unpack(batch)
        return {"loss": -self.log_prob(x, condition=condition, generator=generator).mean()}

    def bits_per_dim(
        self, x: Tensor, *, condition: Any = None, samples: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """Negative log-likelihood in bits an element, shape [batch], where the medium has levels.

        A density is first given the noise that makes levels continuous, uniform over a level's bin, and the bin's
        width is added: the expectation bounds the mass from below (Theis, van den Oord, Bethge, "A note on the
        evaluation of generative models", 2016).
        """
        levels = self.modality.levels
        if levels is None:
            raise ValueError(f"{self.modality.kind} have no levels, so bits per dimension mean nothing; use log_prob")
        elements = math.prod(self.modality.shape)
        log_width = 0.0
        if not self.discrete:
            width = 2 / (levels - 1)
            x = x + width * (uniform_noise(tuple(x.shape), x, generator) - 0.5)
            log_width = elements * math.log(width)
        log_prob = self.log_prob(x, condition=condition, samples=samples, generator=generator)
        return -(log_prob + log_width) / (elements * math.log(2))


class Latent(GenerativeModel):
    """A model with a latent space: `prior`, `encode` and `decode` give all the rest."""

    @abc.abstractmethod
    def prior(self, condition: Any = None, *, n: int = 1, temperature: float = 1.0) -> DiagonalGaussian | Path:
        """p(z) for n items; the temperature scales its standard deviations."""

    @abc.abstractmethod
    def encode(self, x: Tensor, *, condition: Any = None) -> Any:
        """q(z given x), or a point (a tensor) where the model has none."""

    @abc.abstractmethod
    def decode(self, z: Any, *, condition: Any = None) -> Any:
        """p(x given z); its `.mean` is the reconstruction."""

    def loss(
        self, batch: Any, *, player: str = "model", progress: float = 1.0, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Fitted models have no loss: they are made by `fit`. Models that train override this."""
        raise TypeError(f"{type(self).__name__} is fitted with {type(self).__name__}.fit, not trained")

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        condition: Any = None,
        temperature: float = 1.0,
        mean: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw z from the prior and x from p(x given z)."""
        check_count(n)
        check_temperature(temperature)
        condition = self.prepare_condition(condition, n, generator)
        z = self.prior(condition, n=n, temperature=temperature).sample(generator=generator)
        likelihood = self.decode(z, condition=condition)
        return likelihood.mean if mean or temperature == 0 else likelihood.sample(generator=generator)

    def _noise(self, x: Tensor, condition: Any) -> Latents:
        """Where x lies in the latent space, in the coordinates in which the prior is a standard normal."""
        prior: Any = self.prior(condition, n=len(x))
        return prior.noise(point(self.encode(x, condition=condition)))

    def _decode_noise(self, noise: Latents, condition: Any) -> Tensor:
        n = len(noise) if isinstance(noise, Tensor) else len(noise[0])
        z = self.prior(condition, n=n).from_noise(noise)  # type: ignore[arg-type]
        return self.decode(z, condition=condition).mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *, condition: Any = None) -> Tensor:
        """The mean of p(x given z) at the mean of q(z given x), shape of x."""
        condition = self.prepare_condition(condition, len(x))
        return self.decode(point(self.encode(x, condition=condition)), condition=condition).mean

    @torch.no_grad()
    def interpolate(
        self,
        a: Tensor,
        b: Tensor,
        steps: int = 8,
        *,
        method: Literal["spherical", "linear"] = "spherical",
        condition: Any = None,
    ) -> Tensor:
        """Walk from the items a to the items b, shape [batch, steps, ...]; the ends are their reconstructions.

        Spherical interpolation keeps the norm that a standard normal's draws have (White, "Sampling Generative
        Networks", 2016); linear mid-points are too near the mean. In a hierarchy the noise of every group moves.
        """
        if a.shape != b.shape:
            raise ValueError(f"the two ends must have one shape, got {list(a.shape)} and {list(b.shape)}")
        check_count(steps, "steps")
        if method not in ("spherical", "linear"):
            raise ValueError(f"method is spherical or linear, got {method!r}")
        condition = self.prepare_condition(condition, len(a))
        start, end = self._noise(a, condition), self._noise(b, condition)
        mix = _spherical if method == "spherical" else torch.lerp
        fractions = torch.linspace(0, 1, steps).tolist()
        frames = [self._decode_noise(_map(lambda s, e, t=t: mix(s, e, t), start, end), condition) for t in fractions]
        return torch.stack(frames, 1)

    @torch.no_grad()
    def traverse(
        self,
        x: Tensor | None = None,
        *,
        along: Sequence[int | Latents] | None = None,
        values: Sequence[float] = (-3, -2, -1, 0, 1, 2, 3),
        condition: Any = None,
    ) -> Tensor:
        """Move through the latent space and decode, shape [batch, directions, values, ...].

        Arguments:
            x: the items to start from; None starts from the prior's mean.
            along: what to move: an index of the flattened latent, which is set to each value (in standard deviations of
                the prior), or a direction from `attribute_direction`, which is added, times the value. None takes the
                eight dimensions that carry most information about x, or the first eight.
            values: where to stop along each.
        """
        n = 1 if x is None else len(x)
        condition = self.prepare_condition(condition, n)
        prior = self.prior(condition, n=n)
        posterior = None if x is None else self.encode(x, condition=condition)
        noise = prior.noise(prior.mean if posterior is None else point(posterior))  # type: ignore[arg-type]
        groups = (noise,) if isinstance(noise, Tensor) else noise
        sizes = [group[0].numel() for group in groups]
        if along is None:
            along = list(range(min(8, sum(sizes))))
            if isinstance(posterior, DiagonalGaussian) and isinstance(prior, DiagonalGaussian):
                information = posterior.elementwise_kl(prior).mean(0).flatten()
                along = information.argsort(descending=True)[:8].tolist()
        rows = []
        for direction in along:
            row = []
            for value in values:
                moved = [group.clone() for group in groups]
                if isinstance(direction, int):
                    if not 0 <= direction < sum(sizes):
                        raise ValueError(f"the latent has {sum(sizes)} dimensions, numbered from 0; got {direction}")
                    index, group = direction, 0
                    while index >= sizes[group]:
                        index, group = index - sizes[group], group + 1
                    moved[group].flatten(1)[:, index] = value
                else:
                    steps = (direction,) if isinstance(direction, Tensor) else direction
                    moved = [m + value * step.to(m) for m, step in zip(moved, steps, strict=True)]
                row.append(self._decode_noise(moved[0] if isinstance(noise, Tensor) else tuple(moved), condition))
            rows.append(torch.stack(row, 1))
        return torch.stack(rows, 1)

    @torch.no_grad()
    def attribute_direction(self, x: Tensor, labels: Tensor, *, condition: Any = None) -> Latents:
        """The change of the latent for a label that is larger by one, without the batch dimension.

        The least-squares slope of every latent dimension on the label; for labels 0 and 1 it is the difference of the
        two groups' means. Take some hundred items a group, and balance what else differs between the groups.

        Source: Larsen, Sonderby, Larochelle, Winther, "Autoencoding beyond pixels", 2016, for binary labels.
        """
        values = torch.as_tensor(labels, dtype=torch.float64)
        if values.shape != (len(x),):
            raise ValueError(f"expected one label an item, shape [{len(x)}], got {list(values.shape)}")
        values = values - values.mean()
        if not values.square().sum() > 0:
            raise ValueError("all labels are equal: an attribute that never changes has no direction")
        condition = self.prepare_condition(condition, len(x))
        weights = values / values.square().sum()
        slope: Latents | None = None
        for start in range(0, len(x), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            noise = self._noise(x[part], None if condition is None else condition[part])
            more = _map(lambda group, w=weights[part]: torch.tensordot(w.to(group), group, dims=([0], [0])), noise)
            slope = more if slope is None else _map(torch.add, slope, more)
        assert slope is not None
        return slope


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


class Variational(Latent, Explicit):
    """A latent-variable model trained by a variational bound: `prior`, `encode` and `decode` are distributions.

    Source: Kingma, Welling, "Auto-Encoding Variational Bayes", 2014.
    """

    exact: ClassVar[bool] = False

    def elbo(self, x: Tensor, *, condition: Any = None, generator: torch.Generator | None = None) -> ELBO:
        """The evidence lower bound by one draw of z, the KL in closed form along it."""
        condition = self.prepare_condition(condition, len(x), generator)
        posterior = self.encode(x, condition=condition)
        z = posterior.rsample(generator=generator)
        kl = posterior.kl(self.prior(condition, n=len(x)), z)
        return ELBO(self.decode(z, condition=condition).log_prob(x), kl)

    def loss(
        self, batch: Any, *, player: str = "model", progress: float = 1.0, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The negative evidence lower bound, nats an item, averaged over the batch."""
        x, condition = unpack(batch)
        elbo = self.elbo(x, condition=condition, generator=generator)
        terms = {"reconstruction": -elbo.reconstruction.mean(), "kl": elbo.kl.sum(1).mean()}
        return {"loss": -elbo.total.mean()} | {name: term.detach() for name, term in terms.items()}

    def log_prob(
        self, x: Tensor, *, condition: Any = None, samples: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """The importance-weighted bound with `samples` draws, nats an item, shape [batch], float64.

        log (1/k) sum_j p(x, z_j) / q(z_j given x): one draw estimates the evidence lower bound, more draws tighten it.
        Under `torch.no_grad()` memory does not grow with the draws: they are taken in chunks under a running logsumexp.

        Source: Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", 2016.
        """
        check_count(samples, "samples")
        n = len(x)
        condition = self.prepare_condition(condition, n, generator)
        posterior: Any = self.encode(x, condition=condition)
        prior: Any = self.prior(condition, n=n)
        # Small batches are decoded several draws at a time. The groups of a hierarchy depend on each other.
        chunk = 1 if isinstance(posterior, Path) else max(1, 256 // n)
        total = torch.full((n,), -math.inf, dtype=torch.float64, device=x.device)
        for start in range(0, samples, chunk):
            draws = min(chunk, samples - start)
            if isinstance(posterior, Path):
                z = posterior.rsample(generator=generator)
                log_ratio = (prior.log_prob(z) - posterior.log_prob(z))[None]
            else:
                z = posterior.rsample((draws,), generator=generator)
                log_ratio = prior.log_prob(z) - posterior.log_prob(z)
                z = z.flatten(0, 1)
            repeated = condition if condition is None or draws == 1 else _repeat(condition, draws)
            likelihood = self.decode(z, condition=repeated)
            log_likelihood = likelihood.log_prob(x.repeat(draws, *[1] * (x.ndim - 1))).reshape(draws, n)
            log_weight = log_likelihood.double() + log_ratio.double()
            total = torch.logaddexp(total, torch.logsumexp(log_weight, 0))
        return total - math.log(samples)


def unpack(batch: Any) -> tuple[Tensor, Any]:
    """The items and the condition of a batch, which is `x` or `(x, condition)`."""
    if isinstance(batch, (tuple, list)):
        x, condition = batch
        return x, condition
    return batch, None


def point(posterior: Any) -> Latents:
    """A point as it is, a distribution's mean."""
    return posterior if isinstance(posterior, (Tensor, tuple)) else posterior.mean


def check_count(n: Any, name: str = "n") -> None:
    """Refuse what is not a positive whole number."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"{name} must be a positive whole number, got {n!r}")


def check_temperature(temperature: float) -> None:
    """Refuse what is not a number of at least 0."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature must be a number of at least 0, got {temperature!r}")


def _map(function: Callable[..., Tensor], *latents: Latents) -> Latents:
    """Apply a function to every group."""
    if isinstance(latents[0], Tensor):
        return function(*latents)
    return tuple(function(*groups) for groups in zip(*latents, strict=True))


def _repeat(condition: Any, times: int) -> Any:
    if isinstance(condition, Tensor):
        return condition.repeat(times, *[1] * (condition.ndim - 1))
    return list(condition) * times


def _spherical(a: Tensor, b: Tensor, fraction: float) -> Tensor:
    """Spherical interpolation of every item; linear where the two are nearly parallel."""
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=1).clamp(-1, 1)
    angle = torch.acos(cosine)[:, None]
    sine = torch.sin(angle)
    curved = (torch.sin((1 - fraction) * angle) * flat_a + torch.sin(fraction * angle) * flat_b) / sine
    mixed = torch.where(sine > 1e-4, curved, torch.lerp(flat_a, flat_b, fraction))
    return mixed.reshape(a.shape).to(a.dtype)
