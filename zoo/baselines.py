"""Baselines for densities of few dimensions, fitted by scikit-learn: Gaussian mixture, kernel density, and K-means.

The mixture and the kernel density are models like all others. K-means is not: it has neither a density nor samples, so
it is a function. Its probabilistic form is the mixture, which becomes K-means when all components share one spherical
covariance that shrinks to zero.
"""

import abc
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from modalities import Modality
from modalities.data import batches
from modalities.modality import MediaError
from zoo.checkpoint import check_not_negative
from zoo.distributions import full_precision, normal_noise, uniform_noise
from zoo.model import Explicit, Fitted, Rng, check_count, check_temperature

if TYPE_CHECKING:
    from modalities.data import Items

CHUNK = 1024
"""How many items are scored at once, so that the table of items and components stays small."""

BANDWIDTHS = 16
"""How many bandwidths are tried, evenly spaced in their logarithm between 1/50 of Scott's rule and the rule itself."""


class _Mixture(Explicit, Fitted):
    """Gaussian components around centres: what both models share."""

    centres: Tensor
    """Shape [components, d], d the number of elements of an item."""

    def log_prob(self, x: Tensor, *, condition: object = None, samples: int = 1, generator: Rng = None) -> Tensor:
        """The exact log-density in nats an item, shape [batch], float64."""
        self.prepare_condition(condition, len(x), generator)
        parts = self.check_items(x).split(CHUNK)
        return torch.cat([torch.logsumexp(self._log_joint(part.double().flatten(1)), 1) for part in parts])

    @torch.no_grad()
    def sample(
        self, n: int, *, condition: object = None, temperature: float = 1.0, mean: bool = False, generator: Rng = None
    ) -> Tensor:
        """Draw a component and an item from it.

        The temperature scales the standard deviations of the components; 0 gives the centre of highest density. With
        `mean` every item is a centre, for a kernel density a training item.
        """
        check_count(n)
        check_temperature(temperature)
        self.prepare_condition(condition, n, generator)
        centres = full_precision(self.centres).unflatten(1, self.modality.shape)
        if temperature == 0:
            return centres[self.log_prob(centres).argmax()].repeat(n, *[1] * len(self.modality.shape))
        component = self._draw_component(n, generator)
        x = centres[component]
        if mean:
            return x
        noise = normal_noise((n, self.centres.shape[1]), centres, generator)
        return x + temperature * self._spread(component, noise).view_as(x)

    @abc.abstractmethod
    def _log_joint(self, x: Tensor) -> Tensor:
        """log p(component) p(x given component) of items [batch, d], float64 of shape [batch, components]."""

    @abc.abstractmethod
    def _draw_component(self, n: int, generator: Rng) -> Tensor:
        """The indices of n components, drawn by their weights."""

    @abc.abstractmethod
    def _spread(self, component: Tensor, noise: Tensor) -> Tensor:
        """Standard normal noise [n, d] turned into deviations from the centres."""


class GaussianMixture(_Mixture):
    """sum_k w_k N(x; m_k, C_k), with a full covariance for every component, fitted by expectation-maximisation.

        model = GaussianMixture.fit(x, Points(dimensions=2), components=8)
        model.log_prob(x)

    Arguments:
        modality: the medium; its `shape` has d elements.
        components: the number of Gaussians.

    Source: Dempster, Laird, Rubin, "Maximum Likelihood from Incomplete Data via the EM Algorithm", 1977.
    """

    precise = ("weights", "centres", "scale")

    weights: Tensor
    """w, which sum to 1, shape [components]."""
    scale: Tensor
    """The lower Cholesky factors of the covariances, shape [components, d, d]."""

    def __init__(self, modality: Modality, components: int):
        super().__init__()
        check_count(components, "components")
        self.modality = modality
        d = math.prod(modality.shape)
        self.register_buffer("weights", torch.full((components,), 1 / components))
        self.register_buffer("centres", torch.zeros(components, d))
        self.register_buffer("scale", torch.eye(d).repeat(components, 1, 1))

    def check_weights(self) -> None:
        """Raise ValueError for weights that do not sum to 1 and factors that are of no covariance."""
        check_not_negative(weights=self.weights)
        if abs(self.weights.sum() - 1) > 1e-3 or not (self.scale.diagonal(dim1=1, dim2=2) > 0).all():
            raise ValueError("the weights must sum to 1, and the diagonals of scale must be above 0")

    @classmethod
    def fit(cls, data: "Tensor | Items", modality: Modality, *, components: int = 8, seed: int = 0) -> Self:
        """Fit to items [n, ...] or to a data set: the best of three starts from K-means, drawn from the seed.

        Every element counts in its standard deviations, so that units change nothing but the unit of the density; 1e-6
        of its variance is added to the diagonals of the covariances. An element that never varies has a warning and the
        largest deviation of the others.
        """
        from sklearn import mixture

        check_count(components, "components")
        x = _gather(data, modality, max(2, components))
        flat = x.double().flatten(1)
        mean, std = flat.mean(0), _deviations(flat)
        best = mixture.GaussianMixture(components, n_init=3, random_state=seed).fit(((flat - mean) / std).numpy())
        model = cls(modality, components).to(x.dtype)
        model.weights.copy_(torch.from_numpy(best.weights_))
        model.centres.copy_(mean + std * torch.from_numpy(best.means_))
        model.scale.copy_(std[:, None] * torch.linalg.cholesky(torch.from_numpy(best.covariances_)))
        return model.eval()

    @classmethod
    def fit_likeliest(cls, data: "Tensor | Items", modality: Modality, *, sizes: Sequence[int], seed: int = 0) -> Self:
        """Fit as many components as are likeliest on every fifth item, where the others are fitted to.

        `sizes` are the numbers to choose from; those that leave less than ten items a component are left out.
        """
        x = _gather(data, modality, 10 * min(sizes))
        held_out = torch.arange(len(x)) % 5 == 0

        def score(size: int) -> float:
            mixture = cls.fit(x[~held_out], modality, components=size, seed=seed)
            return mixture.log_prob(x[held_out]).mean().item()

        best = max((size for size in sizes if 10 * size <= len(x)), key=score)
        return cls.fit(x, modality, components=best, seed=seed)

    def _log_joint(self, x: Tensor) -> Tensor:
        parts = MultivariateNormal(self.centres.double(), scale_tril=self.scale.double(), validate_args=False)
        return self.weights.double().log() + parts.log_prob(x[:, None])

    def _draw_component(self, n: int, generator: Rng) -> Tensor:
        share = self.weights.double().cumsum(0)
        return torch.searchsorted(share, share[-1] * uniform_noise((n,), share, generator))

    def _spread(self, component: Tensor, noise: Tensor) -> Tensor:
        return (self.scale[component].to(noise) @ noise.unsqueeze(-1)).squeeze(-1)


class KernelDensity(_Mixture):
    """1/n sum_i N(x; x_i, diag(h)^2): a Gaussian of the same bandwidths h around each of n training items.

        model = KernelDensity.fit(x, Points(dimensions=2))
        model.log_prob(x)

    Arguments:
        modality: the medium; its `shape` has d elements.
        items: n, the number of training items, which are the model.

    Source: Parzen, "On Estimation of a Probability Density Function and Mode", 1962.
    """

    bandwidth: Tensor
    """h of every element, in the medium's units, shape [d]."""

    def __init__(self, modality: Modality, items: int):
        super().__init__()
        check_count(items, "items")
        self.modality = modality
        self.register_buffer("centres", torch.zeros(items, math.prod(modality.shape)))
        self.register_buffer("bandwidth", torch.ones(math.prod(modality.shape)))

    def check_weights(self) -> None:
        """Raise ValueError for a bandwidth that is not above 0."""
        if not (self.bandwidth > 0).all():
            raise ValueError(f"a bandwidth must be above 0, got {self.bandwidth.min():.4g}")

    @classmethod
    def fit(cls, data: "Tensor | Items", modality: Modality, *, bandwidth: float | None = None, seed: int = 0) -> Self:
        """Keep the items [n, ...] of a tensor or of a data set.

        `bandwidth` is in standard deviations of each element, so that the units of a table's columns do not matter.
        Without one, that of highest likelihood in five-fold cross-validation is taken, the folds drawn from the seed.
        """
        if bandwidth is not None and not 0 < bandwidth < math.inf:
            raise ValueError(f"bandwidth must be above 0, in standard deviations of the data, got {bandwidth!r}")
        x = _gather(data, modality, 10)
        flat = x.double().flatten(1)
        std = _deviations(flat)
        model = cls(modality, len(x)).to(x.dtype)
        model.centres.copy_(flat)
        model.bandwidth.copy_(std * (bandwidth or _likeliest_bandwidth(flat / std, seed)))
        return model.eval()

    def _log_joint(self, x: Tensor) -> Tensor:
        bandwidth = self.bandwidth.double()
        n, d = self.centres.shape
        # The default mode loses the digits of near items to cancellation.
        distance = torch.cdist(
            x / bandwidth, self.centres.double() / bandwidth, compute_mode="donot_use_mm_for_euclid_dist"
        )
        constant = bandwidth.log().sum() + 0.5 * d * math.log(2 * math.pi) + math.log(n)
        return -0.5 * distance.square() - constant

    def _draw_component(self, n: int, generator: Rng) -> Tensor:
        u = uniform_noise((n,), self.centres.new_empty(0, dtype=torch.double), generator)
        return (u * len(self.centres)).long()

    def _spread(self, component: Tensor, noise: Tensor) -> Tensor:
        return self.bandwidth.to(noise) * noise


class Clusters(NamedTuple):
    """What `k_means` finds."""

    centres: Tensor
    """Shape [clusters, ...], in the units of the items."""
    assignment: Tensor
    """The index of the nearest centre of every item, shape [n]."""


def k_means(x: Tensor, clusters: int, seed: int = 0) -> Clusters:
    """Split items [n, ...] into clusters so that their squared distances to their cluster's mean are small.

    The best of ten starts by k-means++, drawn from the seed. Raises ValueError for fewer items than clusters.

    Sources: Lloyd, "Least Squares Quantization in PCM", 1982; Arthur, Vassilvitskii, "k-means++: The Advantages of
    Careful Seeding", 2007.
    """
    from sklearn.cluster import KMeans

    check_count(clusters, "clusters")
    if len(x) < clusters:
        raise ValueError(f"{clusters} clusters need at least as many items, got {len(x)}")
    fitted = KMeans(clusters, n_init=10, random_state=seed).fit(x.double().flatten(1).cpu().numpy())
    centres = torch.from_numpy(fitted.cluster_centers_).to(x).unflatten(1, x.shape[1:])
    return Clusters(centres, torch.from_numpy(fitted.labels_).long().to(x.device))


def _gather(data: "Tensor | Items", modality: Modality, least: int) -> Tensor:
    """All items in memory, shape [n, ...], on the CPU; `MediaError` for fewer than `least`."""
    x = data if isinstance(data, Tensor) else torch.cat([batch.x for batch in batches(data, CHUNK)])
    if len(x) < least:
        raise MediaError(f"expected at least {least} items to fit to, got {len(x)}")
    return modality.check(x).detach().cpu()


def _deviations(flat: Tensor) -> Tensor:
    """The standard deviation of every element of items [n, d], the largest one for those that never vary."""
    std = flat.std(0)
    if not std.max() > 0:
        raise MediaError("all items are equal, which leaves a density no scale")
    if not (std > 0).all():
        warnings.warn(
            f"{int((std == 0).sum())} of {len(std)} elements never vary: the density along these is a guess",
            stacklevel=3,
        )
    return torch.where(std > 0, std, std.max())


def _likeliest_bandwidth(x: Tensor, seed: int) -> float:
    """The bandwidth of highest held-out likelihood for standardised items [n, d]."""
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.neighbors import KernelDensity as Estimator

    n, d = x.shape
    scott = math.log10(n ** (-1 / (d + 4)))
    grid = torch.logspace(scott - math.log10(50), scott, BANDWIDTHS, dtype=torch.double).tolist()
    # The tolerance lets the tree skip far items; it moves a log-density by at most a thousandth of a nat.
    folds = KFold(5, shuffle=True, random_state=seed)
    search = GridSearchCV(Estimator(rtol=1e-3), {"bandwidth": grid}, cv=folds).fit(x.numpy())
    return search.best_params_["bandwidth"]
