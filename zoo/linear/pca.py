"""Principal component analysis and its probabilistic form, for any medium, and the items nearest to a sample."""

import abc
import dataclasses
import math
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from modalities import Modality
from zoo.checkpoint import check_not_negative
from zoo.distributions import DiagonalGaussian, Point, full_precision, uniform_noise
from zoo.linear import streaming
from zoo.linear.dense import numpy_threads, product
from zoo.linear.incremental import Incremental
from zoo.linear.solver import PrincipalAxes, Solver, principal_axes
from zoo.linear.streaming import Data, Rows
from zoo.model import Explicit, Fitted, Latent, check_count, check_temperature


class LinearLatent(Latent, Fitted):
    """What both models share: a mean, k orthonormal directions, and a standard normal prior on whitened scores.

    Arguments:
        modality: the medium; its `shape` has d elements.
        components: k, the number of directions.
    """

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
        self._stream: Incremental | None = None
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
        components: int | float,
        solver: Solver = "auto",
        seed: int = 0,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> Self:
        """Fit to a tensor [n, ...], to a data set, or to anything that gives items or batches as often as it is asked.

        What is no tensor is streamed in bounded memory. Under torchrun every process brings its own share of the items,
        and gets the model of all.

        Arguments:
            components: their number, at most min(n - 1, d), or the fraction of variance in (0, 1) that the fewest
                possible shall exceed.
            checkpoint: a folder for the state after every pass, from which a killed fit goes on.
            progress: show a progress bar on the terminal.

        See `zoo.linear.solver.principal_axes` for the solvers and for what is refused.
        """
        axes = principal_axes(data, modality.shape, components, solver, seed, checkpoint=checkpoint, progress=progress)
        return cls.from_axes(modality, axes)

    @classmethod
    def from_axes(cls, modality: Modality, axes: PrincipalAxes) -> Self:
        """The model of axes that were found before: PCA and its probabilistic form can share one fit."""
        return cls(modality, len(axes.basis))._take(axes)

    def partial_fit(self, batch: Tensor) -> Self:
        """Go on fitting with more items, shape [batch, ...], of data that come once; returns the model itself.

            model = PCA(medium, components=64)
            for batch in source:
                model.partial_fit(batch)

        The model is that of all items so far as soon as they are more than the components; `count` tells. It is the one
        that `fit` gives, up to rounding, where an item has up to 1,024 numbers; with more it is approximate, as it is
        where the model was fitted by `fit` or loaded: of earlier items it then knows the directions that it kept. Under
        torchrun it fits to the batches of its own process.

        Raises `MediaError` for items of another shape and for NaN; the model is then as it was.
        """
        if self._stream is None:
            self._stream = Incremental(len(self.variance), self._axes() if self.count > 1 else None)
        self._stream.add(Rows(self.modality.check(batch), self.modality.shape, seed=0).matrix())
        axes = self._stream.axes()
        return self if axes is None else self._take(axes)

    def _take(self, axes: PrincipalAxes) -> Self:
        self.to(axes.mean)
        self.mean.copy_(axes.mean.reshape(self.modality.shape))
        self.basis.copy_(axes.basis)
        self.count.fill_(axes.count)
        self._take_variances(axes)
        return self.eval()

    def _axes(self) -> PrincipalAxes:
        """What the model was made of."""
        variance, total = self._variances()
        return PrincipalAxes(self.mean.flatten(), self.basis, variance, total, int(self.count))

    @abc.abstractmethod
    def _take_variances(self, axes: PrincipalAxes) -> None:
        """Copy what a fit found out about variances."""

    @abc.abstractmethod
    def _variances(self) -> tuple[Tensor, float]:
        """The variances along the directions and in total, with n - 1 in the denominator."""

    def scores(self, x: Tensor) -> Tensor:
        """The coordinates of the items along the directions, in the medium's units, shape [batch, k]."""
        return (self.modality.check(x).to(self.mean) - self.mean).flatten(1) @ self.basis.T

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
        generator: torch.Generator | None = None,
        truncation: float | None = None,
    ) -> Tensor:
        """Draw n items.

        With `truncation`, no coordinate of z leaves [-truncation, truncation], in standard deviations of the prior: z
        follows the normal distribution cut off there, as it would if every coordinate outside were drawn again.
        """
        if truncation is None:
            return super().sample(n, condition=condition, temperature=temperature, mean=mean, generator=generator)
        check_count(n)
        check_temperature(temperature)
        if not truncation > 0:
            raise ValueError(f"truncation must be a positive number of standard deviations, got {truncation!r}")
        condition = self.prepare_condition(condition, n, generator)
        prior = self.prior(condition, n=n, temperature=temperature)
        likelihood = self.decode(prior.reparameterise(_truncated_normal(prior.mean, truncation, generator)))
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

    def _take_variances(self, axes: PrincipalAxes) -> None:
        self.variance.copy_(axes.variance)
        self.total.fill_(axes.total)

    def _variances(self) -> tuple[Tensor, float]:
        return self.variance, self.total.item()

    @property
    def explained(self) -> Tensor:
        """The share of the total variance along each direction, shape [k]."""
        return self.variance / self.total

    def scored_by(self) -> "ProbabilisticPCA | None":
        """Probabilistic PCA on the same axes, where they are fewer than the dimensions."""
        if len(self.variance) == self.mean.numel():
            return None
        return ProbabilisticPCA.from_axes(self.modality, self._axes()).to(self.device)

    def encode(self, x: Tensor, *, condition: object = None) -> Point:
        """The whitened scores, event [k]: points, since they have no spread."""
        floor = torch.finfo(self.variance.dtype).eps * self.variance.max()
        inverse = torch.where(self.variance > floor, self.variance.rsqrt(), 0.0)
        return Point(self.scores(x) * inverse)

    def decode(self, z: Tensor, *, condition: object = None) -> Point:
        """The item with these whitened scores."""
        return Point(self._items(z * self.variance.sqrt()))


class ProbabilisticPCA(LinearLatent, Explicit):
    """x = W z + mean + noise, z ~ N(0, I), noise ~ N(0, s2 I): a normal distribution with an exact score.

    W = basis^T diag(variance - s2)^(1/2), of maximal likelihood if s2 is the mean variance in the d - k directions left
    out. Variances have n in the denominator, as likelihood asks for. W^T W is diagonal, and so is the posterior's
    covariance. s2 is at least 1e-6 of the mean variance of a dimension, so that a density exists.

    Source: Tipping, Bishop, "Probabilistic Principal Component Analysis", 1999.
    """

    exact: ClassVar[bool] = True
    noise: Tensor
    """s2, a scalar."""

    def __init__(self, modality: Modality, components: int):
        super().__init__(modality, components)
        d = math.prod(modality.shape)
        if components == d:
            raise ValueError(
                f"{d} dimensions leave room for at most {d - 1} components beside the noise, got {components}"
            )
        self.register_buffer("noise", torch.tensor(0.5))

    def _take_variances(self, axes: PrincipalAxes) -> None:
        d = axes.basis.shape[1]
        likeliest = (axes.count - 1) / axes.count
        left_out = axes.total - axes.variance.double().sum().item()
        noise = likeliest * max(left_out / (d - len(axes.basis)), 1e-6 * axes.total / d)
        self.noise.fill_(noise)
        self.variance.copy_((likeliest * axes.variance).clamp(min=noise))

    def _variances(self) -> tuple[Tensor, float]:
        count, (k, d) = self.count.item(), self.basis.shape
        variance = self.variance.double() * count / (count - 1)
        noise = self.noise.item() * count / (count - 1)
        return variance.to(self.variance), variance.sum().item() + (d - k) * noise

    @property
    def gain(self) -> Tensor:
        """The length of each column of W, shape [k]."""
        return (self.variance - self.noise).clamp(min=0).sqrt()

    def encode(self, x: Tensor, *, condition: object = None) -> DiagonalGaussian:
        """The exact posterior q(z given x) = N(M^-1 W^T (x - mean), s2 M^-1), M = W^T W + s2 I = diag(variance)."""
        mean = self.scores(x) * self.gain / self.variance
        return DiagonalGaussian(mean, (self.noise / self.variance).sqrt().expand_as(mean))

    def decode(self, z: Tensor, *, condition: object = None) -> DiagonalGaussian:
        """The likelihood N(W z + mean, s2 I)."""
        return DiagonalGaussian(self._items(z * self.gain), self.noise.sqrt())

    @torch.no_grad()
    def log_prob(
        self, x: Tensor, *, condition: object = None, samples: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """The exact log-density in nats an item, shape [batch], float64, in O(d k) an item.

        The covariance W W^T + s2 I has the eigenvalue `variance` along each direction and s2 across all of them.
        """
        self.prepare_condition(condition, len(x), generator)
        centred = (self.modality.check(x) - self.mean.double()).flatten(1)
        variance, noise = self.variance.double(), self.noise.double()
        scores, across = centred.new_zeros(len(x), len(variance)), centred.new_zeros(len(x))
        pieces = _pieces(centred.shape[1], len(variance))
        for columns in pieces:  # the basis is large, and never there in double precision as a whole
            scores += centred[:, columns] @ self.basis[:, columns].double().T
        for columns in pieces:
            across += (centred[:, columns] - scores @ self.basis[:, columns].double()).square().sum(1)
        d = centred.shape[1]
        log_determinant = variance.log().sum() + (d - len(variance)) * noise.log()
        distance = (scores.square() / variance).sum(1) + across / noise
        return -0.5 * (d * math.log(2 * math.pi) + log_determinant + distance)


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The item of a data set that lies closest to each of m samples."""

    index: Tensor
    """Its place in the data set, shape [m]; broken files do not count."""
    distance: Tensor
    """The Euclidean distance over all elements, in the medium's units, shape [m]."""
    items: Tensor
    """The item itself, shape [m, ...], or of as many samples as were asked for."""


@torch.no_grad()
def nearest(samples: Tensor, data: Data, *, leave_out: Tensor | None = None, items: int | None = None) -> Neighbours:
    """Find the item closest to each sample, in one pass over the data. Memory is that of the neighbours and a few
    blocks.

    With `leave_out`, shape [m], a sample is not compared with the item of that index. Samples that are themselves items
    then give the distances between neighbours in the data; a generated sample that lies nearer than nearly all of these
    is a copy. With `items`, the neighbours of the first samples alone are handed back themselves, so many of them.
    """
    if leave_out is not None and leave_out.shape != (len(samples),):
        raise ValueError(f"leave_out holds one index a sample, shape [{len(samples)}], got {list(leave_out.shape)}")
    flat = full_precision(samples.detach()).flatten(1)
    kept = len(flat) if items is None else min(items, len(flat))
    centre = flat.mean(0)
    lengths = _squared_lengths(flat, centre)
    index = torch.full((len(flat),), -1, device=flat.device)
    best = lengths.new_full((len(flat),), math.inf)
    distance = flat.new_full((len(flat),), math.inf)
    rows = flat.new_empty(kept, flat.shape[1])
    start = 0
    for batch in Rows(data, tuple(samples.shape[1:]), seed=0):
        block = batch.to(flat)
        squared = lengths[:, None] + _squared_lengths(block, centre) - 2 * _products(flat, block, centre)
        if leave_out is not None:
            own = leave_out.to(flat.device)[:, None] == start + torch.arange(len(block), device=flat.device)
            squared = squared.masked_fill(own, math.inf)
        closest, place = squared.min(1)
        for row in (closest < best).nonzero()[:, 0].tolist():
            item = block[place[row]]
            best[row], index[row] = closest[row], start + place[row]
            # The difference of squares loses digits where a sample is nearly a copy.
            distance[row] = torch.linalg.vector_norm(flat[row] - item)
            if row < kept:
                rows[row] = item
        start += len(block)
    return Neighbours(index, distance, rows.unflatten(1, samples.shape[1:]))


def _pieces(width: int, rows: int) -> list[slice]:
    """The columns of a matrix, so many at once that a copy of them takes little memory."""
    at_once = max(16, streaming.BLOCK // max(1, rows))
    return [slice(start, start + at_once) for start in range(0, width, at_once)]


def _squared_lengths(x: Tensor, centre: Tensor) -> Tensor:
    """Squared distances of rows from a centre, float64."""
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for columns in _pieces(x.shape[1], len(x)):
        total += (x[:, columns] - centre[columns]).square().sum(1)
    return total


def _products(a: Tensor, b: Tensor, centre: Tensor) -> Tensor:
    """The products of rows less a centre, shape [rows of a, rows of b], float64."""
    total = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    with numpy_threads():
        for columns in _pieces(a.shape[1], len(a)):
            total += product(a[:, columns] - centre[columns], (b[:, columns] - centre[columns]).T)
    return total


def _truncated_normal(like: Tensor, limit: float, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers given that none leaves [-limit, limit], by the inverse of the distribution function."""
    lowest = torch.special.ndtr(torch.tensor(-limit, dtype=torch.float64)).item()
    u = lowest + (1 - 2 * lowest) * uniform_noise(tuple(like.shape), like, generator)
    return torch.special.ndtri(u).clamp(-limit, limit)
