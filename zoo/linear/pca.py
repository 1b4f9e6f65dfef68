"""Principal component analysis and its probabilistic form, for any medium."""

import abc
import math
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from modalities import Modality
from zoo.checkpoint import check_not_negative
from zoo.distributions import DiagonalGaussian, Point, normal_noise
from zoo.linear.incremental import IncrementalPCA
from zoo.linear.principal import PrincipalAxes, Solver, principal_axes
from zoo.linear.stream import Data, RowReader
from zoo.model import Explicit, Fitted, Latent, Rng, check_count, check_temperature

CHUNK = 1024
"""How many items are scored at once: in double precision they take twice their memory."""


class LinearLatent(Latent, Fitted):
    """What both models share: a mean, k = `components` orthonormal directions of the d elements of an item, and a
    standard normal prior on whitened scores."""

    mean: Tensor
    """The mean of the data, shape of an item."""
    basis: Tensor
    """Orthonormal rows by falling variance, shape [k, d]; the entry of largest magnitude in each is positive."""
    variance: Tensor
    """The variance of the data along each row, shape [k]."""
    count: Tensor
    """The number of items that the model was fitted to, a whole number."""

    def __init__(self, modality: Modality, components: int):
        super().__init__()
        check_count(components, "components")
        self.modality = modality
        self._incremental: IncrementalPCA | None = None
        d = math.prod(modality.shape)
        if components > d:
            raise ValueError(f"{d} dimensions have at most {d} components, got {components}")
        self.register_buffer("mean", torch.zeros(modality.shape))
        self.register_buffer("basis", torch.eye(components, d))
        self.register_buffer("variance", torch.ones(components))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def check_weights(self) -> None:
        """Raise ValueError for a variance below 0."""
        check_not_negative(variance=self.variance, noise=getattr(self, "noise", None))

    @classmethod
    def fit(
        cls,
        data: Data,
        modality: Modality,
        *,
        components: int | float = 0.95,
        solver: Solver = "auto",
        seed: int = 0,
        checkpoint: str | Path | None = None,
    ) -> Self:
        """Fit to a tensor [n, ...], to a data set, or to anything that gives items or batches as often as it is asked.

        See `zoo.linear.principal.principal_axes`, of which this is the model, for arguments, streams and processes.
        """
        axes = principal_axes(data, modality.shape, components, solver, seed, checkpoint=checkpoint)
        return cls.from_axes(modality, axes)

    @classmethod
    def from_axes(cls, modality: Modality, axes: PrincipalAxes) -> Self:
        """The model of axes that were found before: PCA and its probabilistic form can share one fit."""
        return cls(modality, len(axes.basis))._take(axes)

    def partial_fit(self, batch: Tensor) -> Self:
        """Go on fitting with more items, shape [batch, ...], of data that come once; returns the model itself.

        The model, PCA(medium, components=64) at first, is that of all items so far as soon as they are more than the
        components; `count` tells. Up to rounding it is the one that `fit` gives where an item has up to 1,024 numbers.
        It is approximate where they are more, and where it was fitted by `fit` or loaded, since of earlier items it
        then knows the directions alone. Under torchrun it fits to the batches of its own process.

        Raises `MediaError` for items of another shape and for NaN; the model is then as it was.
        """
        rows = RowReader(self.modality.check(batch), self.modality.shape).matrix()
        if self._incremental is None:
            known = self.axes() if self.count > 1 else None
            self._incremental = IncrementalPCA(rows[:0], len(self.variance), known)
        self._incremental.add(rows)
        axes = self._incremental.axes()
        return self if axes is None else self._take(axes)

    @abc.abstractmethod
    def axes(self) -> PrincipalAxes:
        """What the model was made of, for another model's `from_axes`."""

    def _take(self, axes: PrincipalAxes) -> Self:
        self.to(axes.mean)
        self.mean.copy_(axes.mean.reshape(self.modality.shape))
        self.basis.copy_(axes.basis)
        self.variance.copy_(axes.variance)
        self.count.fill_(axes.count)
        return self.eval()

    def project(self, x: Tensor) -> Tensor:
        """The coordinates of the items along the directions, in the medium's units, shape [batch, k]."""
        return (self.check_items(x).to(self.mean) - self.mean).flatten(1) @ self.basis.T

    def _items(self, scores: Tensor) -> Tensor:
        """The items that have these scores and no part outside the directions."""
        return self.mean + (scores.to(self.basis) @ self.basis).unflatten(1, self.modality.shape)

    def prior(self, condition: object = None, *, n: int = 1, temperature: float = 1.0) -> DiagonalGaussian:
        zeros = self.mean.new_zeros(n, len(self.variance))
        return DiagonalGaussian(zeros, torch.full_like(zeros, temperature))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        condition: object = None,
        temperature: float = 1.0,
        mean: bool = False,
        generator: Rng = None,
        truncation: float | None = None,
    ) -> Tensor:
        """Draw n items; with `truncation`, as if every coordinate of z were drawn again until it lies within so many
        standard deviations of the prior."""
        if truncation is None:
            return super().sample(n, condition=condition, temperature=temperature, mean=mean, generator=generator)
        check_count(n)
        check_temperature(temperature)
        if not truncation > 0:
            raise ValueError(f"truncation must be above 0 standard deviations, got {truncation!r}")
        prior = self.prior(self.prepare_condition(condition, n, generator), n=n, temperature=temperature)
        noise = torch.empty_like(prior.mean, device=None if generator is None else generator.device)
        torch.nn.init.trunc_normal_(noise, a=-truncation, b=truncation, generator=generator)
        likelihood = self.decode(prior.reparameterise(noise.to(prior.mean)))
        return likelihood.mean if mean or temperature == 0 else likelihood.sample(generator=generator)


class PCA(LinearLatent):
    """Principal component analysis: the k directions that lose least squared error, with whitened scores as latent.

    z = (x - mean) basis^T / sqrt(variance), variance with n - 1 in the denominator. A direction whose variance is but a
    rounding error has z = 0.

        model = PCA.fit(x, Images(1, 28, 28), components=64)
        model.reconstruct(x)

    Source: Hotelling, "Analysis of a Complex of Statistical Variables into Principal Components", 1933.
    """

    has_likelihood: ClassVar[bool] = False
    total: Tensor
    """The variance of all d dimensions together, a scalar."""

    def __init__(self, modality: Modality, components: int):
        super().__init__(modality, components)
        self.register_buffer("total", torch.tensor(float(math.prod(modality.shape))))

    def axes(self) -> PrincipalAxes:
        return PrincipalAxes(self.mean.flatten(), self.basis, self.variance, self.total.item(), int(self.count))

    def _take(self, axes: PrincipalAxes) -> Self:
        self.total.fill_(axes.total)
        return super()._take(axes)

    @property
    def explained(self) -> Tensor:
        """The share of the total variance along each direction, shape [k]."""
        return self.variance / self.total

    def scored_by(self) -> "ProbabilisticPCA | None":
        """Probabilistic PCA on the same axes, where they are fewer than the dimensions."""
        if len(self.variance) == self.mean.numel():
            return None
        return ProbabilisticPCA.from_axes(self.modality, self.axes()).to(self.device)

    def complete(
        self, x: Tensor, known: Tensor, *, condition: object = None, temperature: float = 1.0, generator: Rng = None
    ) -> Tensor:
        """As `ProbabilisticPCA.complete` on the same axes, without the noise of single elements.

        Raises ValueError where there are as many directions as dimensions: then nothing tells what is noise.
        """
        noisy = self.scored_by()
        if noisy is None:
            raise ValueError("a model with as many directions as dimensions leaves no noise, and completes nothing")
        return noisy.complete(x, known, condition=condition, temperature=temperature, mean=True, generator=generator)

    def encode(self, x: Tensor, *, condition: object = None) -> Point:
        """The whitened scores, shape [batch, k]: points, since they have no spread."""
        floor = torch.finfo(self.variance.dtype).eps * self.variance.max()
        inverse = torch.where(self.variance > floor, self.variance.rsqrt(), 0.0)
        return Point(self.project(x) * inverse)

    def decode(self, z: Tensor, *, condition: object = None) -> Point:
        """The item with these whitened scores."""
        return Point(self._items(z * self.variance.sqrt()))


class ProbabilisticPCA(LinearLatent, Explicit):
    """x = W z + mean + noise, z ~ N(0, I), noise ~ N(0, s2 I): a normal distribution with an exact score.

    W = basis^T diag(variance - s2)^(1/2), of maximal likelihood if s2 is the mean variance in the d - k directions left
    out. Variances have n in the denominator. W^T W is diagonal, and so is the posterior's covariance. s2 is at least
    1e-6 of the mean variance of a dimension, so that a density exists.

    Source: Tipping, Bishop, "Probabilistic Principal Component Analysis", 1999.
    """

    exact: ClassVar[bool] = True
    noise: Tensor
    """s2, a scalar."""

    def __init__(self, modality: Modality, components: int):
        super().__init__(modality, components)
        d = math.prod(modality.shape)
        if components == d:
            raise ValueError(f"{d} dimensions leave room for at most {d - 1} components beside noise, got {components}")
        self.register_buffer("noise", torch.tensor(0.5))

    def axes(self) -> PrincipalAxes:
        count, (k, d) = int(self.count), self.basis.shape
        variance = self.variance.double() * count / (count - 1)
        total = variance.sum().item() + (d - k) * self.noise.item() * count / (count - 1)
        return PrincipalAxes(self.mean.flatten(), self.basis, variance.to(self.variance), total, count)

    def _take(self, axes: PrincipalAxes) -> Self:
        super()._take(axes)
        k, d = axes.basis.shape
        likeliest = (axes.count - 1) / axes.count
        left_out = axes.total - axes.variance.double().sum().item()
        self.noise.fill_(likeliest * max(left_out / (d - k), 1e-6 * axes.total / d))
        self.variance.mul_(likeliest).clamp_(min=self.noise)
        return self

    @property
    def gain(self) -> Tensor:
        """The length of each column of W, shape [k]."""
        return (self.variance - self.noise).clamp(min=0).sqrt()

    def encode(self, x: Tensor, *, condition: object = None) -> DiagonalGaussian:
        """The exact posterior q(z given x) = N(M^-1 W^T (x - mean), s2 M^-1), M = W^T W + s2 I = diag(variance)."""
        mean = self.project(x) * self.gain / self.variance
        return DiagonalGaussian(mean, (self.noise / self.variance).sqrt().expand_as(mean))

    def decode(self, z: Tensor, *, condition: object = None) -> DiagonalGaussian:
        """The likelihood N(W z + mean, s2 I)."""
        return DiagonalGaussian(self._items(z * self.gain), self.noise.sqrt())

    @torch.no_grad()
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        *,
        condition: object = None,
        temperature: float = 1.0,
        mean: bool = False,
        generator: Rng = None,
    ) -> Tensor:
        """Draw what is not known of items given what is known, whichever part of them that is.

        z given the known elements is N(M^-1 W^T (x - mean) / s2, M^-1) with M = I + W^T W / s2, W and x cut to them.

        Arguments:
            x: items, shape [batch, ...]; values that are not known do not matter.
            known: booleans that broadcast to one item: the same part of all.
            temperature: scales the deviations of z; 0 gives the mean.
            mean: end with the likelihood's mean instead of a draw.

        Returns items with the known values as they were.
        """
        self.prepare_condition(condition, len(x))
        check_temperature(temperature)
        mask = known.to(self.device).expand(self.modality.shape)
        x = self.check_items(torch.where(mask, x.to(self.mean), self.mean))
        chosen = mask.flatten()
        rows = (self.basis * self.gain[:, None])[:, chosen].double()
        noise = self.noise.double().clamp(min=torch.finfo(torch.float32).tiny)
        root = torch.linalg.cholesky(torch.eye(len(rows)).to(rows) + rows @ rows.T / noise)
        values = (x - self.mean).flatten(1)[:, chosen].double()
        z = torch.cholesky_solve(rows @ values.T / noise, root)
        random = normal_noise((len(x), len(rows)), self.mean, generator).double() * temperature
        z = (z + torch.linalg.solve_triangular(root.T, random.T, upper=True)).T.to(self.mean)
        likelihood = self.decode(z)
        made = likelihood.mean if mean or temperature == 0 else likelihood.sample(generator=generator)
        return torch.where(mask, x, made)

    def log_prob(self, x: Tensor, *, condition: object = None, samples: int = 1, generator: Rng = None) -> Tensor:
        """The exact log-density in nats an item, shape [batch], float64, in O(d k) an item.

        The covariance W W^T + s2 I has the eigenvalue `variance` along each direction and s2 across all of them.
        """
        self.prepare_condition(condition, len(x), generator)
        return torch.cat([self._log_prob(part) for part in self.check_items(x).split(CHUNK)])

    def _log_prob(self, x: Tensor) -> Tensor:
        centred = (x - self.mean.double()).flatten(1)
        variance, noise = self.variance.double(), self.noise.double()
        scores, across = centred.new_zeros(len(x), len(variance)), centred.new_zeros(len(x))
        # A large basis is never in double precision as a whole.
        pieces = list(zip(centred.split(4096, 1), self.basis.split(4096, 1), strict=True))
        for part, basis in pieces:
            scores += part @ basis.double().T
        for part, basis in pieces:
            across += (part - scores @ basis.double()).square().sum(1)
        d = centred.shape[1]
        log_determinant = variance.log().sum() + (d - len(variance)) * noise.log()
        distance = (scores.square() / variance).sum(1) + across / noise
        return -0.5 * (d * math.log(2 * math.pi) + log_determinant + distance)
