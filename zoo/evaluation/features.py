"""Distances of samples from real items in the features of a network: Frechet distance, kernel distance, and how much
of one set lies where the other does."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.card import Figure
from zoo.distributions import full_precision
from zoo.evaluation.samples import BATCH, check_finite, pair_up
from zoo.model import check_count

SUBSET, SUBSETS = 1000, 100
"""The kernel distance of larger sets is the mean over so many random subsets of so many items."""
NEIGHBOURS = 5
"""The balls of precision, recall, density and coverage reach to this neighbour."""
BLOCK = 2**22
"""How many distances are held at once."""


class FeatureNetwork(NamedTuple):
    """A network that turns items into the features that are compared, and what tells it from all others."""

    name: str
    """Stands beside every figure: figures of different networks cannot be compared."""
    function: Callable[[Tensor], Tensor]
    """Items [batch, ...] to features [batch, d]."""

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The features of items of any number, in batches, shape [n, d], float64."""
        return torch.cat([full_precision(self.function(part)).double().cpu() for part in x.split(BATCH)])


def inception(weights: str | Path | None = None, device: str = "cpu") -> FeatureNetwork:
    """The Inception network of the Frechet Inception Distance, features of its last pooling layer.

    Its weights are downloaded by torch-fidelity, or read from the file `weights`; that package comes with
    `pip install latent-zoo[inception]`. Images in [-1, 1] of any size, grey ones as colours, are rounded to 8 bits and
    resized to 299 x 299 pixels with antialiasing, as torchmetrics does by default and the original did not.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    path = None if weights is None else str(weights)
    try:
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=path).to(device)
    except ModuleNotFoundError as error:
        raise ValueError(
            "the Inception network needs the package torch-fidelity: pip install latent-zoo[inception]"
        ) from error

    def features(x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"Inception takes images, shape [batch, 1 or 3, height, width], got {list(x.shape)}")
        pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return network(pixels.expand(-1, 3, -1, -1).to(device))

    return FeatureNetwork("Inception v3 of torch-fidelity, 299 x 299 antialiased", features)


def measure(
    real: Tensor, generated: Tensor, training: Tensor, network: FeatureNetwork, name: str, *, seed: int = 0
) -> list[Figure]:
    """All figures of this module, each followed by what training items reach: the mark to come near.

    Arguments:
        real: held-out items, shape [n, ...]. Distances shrink as n grows; only figures of one n can be compared.
        generated: as many samples.
        training: as many training items.
        network: of the user's choice; its name stands beside every figure.
        name: of the real items.
    """
    sets, base = pair_up(real, generated, training, name), network(real)
    found = [(label, statistics(base, network(x), seed)) for label, x in sets]
    metrics = found[0][1]
    return [Figure(metric, values[metric], label, kind=network.name) for metric in metrics for label, values in found]


def statistics(real: Tensor, other: Tensor, seed: int = 0) -> dict[str, float]:
    """All metrics of features [n, d] beside those of real items, by their names.

    Warns where n is too small for the Frechet distance.
    """
    if len(real) <= real.shape[1]:
        warnings.warn(
            f"{len(real)} items are too few for the covariance of {real.shape[1]} features: "
            "the Frechet distance is too large",
            stacklevel=2,
        )
    frechet, kernel = frechet_distance(real, other), kernel_distance(real, other, seed=seed)
    return {"Frechet distance": frechet, "kernel distance": kernel, **coverage(real, other)._asdict()}


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """|mean difference|^2 + tr(C + D - 2 (C D)^(1/2)) of the means and covariances C, D of features [n, d] and [m, d].

    The squared Frechet distance of the two normal distributions. It is too large by an amount that falls as 1/n and
    differs from model to model.

    Source: Dowson, Landau, "The Frechet Distance between Multivariate Normal Distributions", 1982.
    """
    _check(x, y)
    x, y = x.double(), y.double()
    c, d = torch.cov(x.T), torch.cov(y.T)
    # The trace of the root is the sum of the roots of the eigenvalues of C D, which are not negative.
    root = torch.linalg.eigvals(c @ d).real.clamp(min=0).sqrt().sum()
    return max(0.0, ((x.mean(0) - y.mean(0)).square().sum() + c.trace() + d.trace() - 2 * root).item())


def kernel_distance(x: Tensor, y: Tensor, *, seed: int = 0) -> float:
    """The squared maximum mean discrepancy of features [n, d] and [m, d] under the kernel (x y / d + 1)^3.

    Unbiased, and therefore negative at times: of all items, or of more than 1,000 the mean over 100 random subsets of
    1,000.

    Source: Binkowski, Sutherland, Arbel, Gretton, "Demystifying MMD GANs", 2018.
    """
    from torchmetrics.image.kid import poly_mmd

    _check(x, y)
    size = min(SUBSET, len(x), len(y))
    times = 1 if size == len(x) == len(y) else SUBSETS  # one of all is as good as a hundred of all
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(times):
        some, others = (z[torch.randperm(len(z), generator=generator)[:size]].double() for z in (x, y))
        found.append(poly_mmd(some, others).item())
    return sum(found) / times


class Coverage(NamedTuple):
    """How far the samples lie where real items do, and the other way round."""

    precision: float
    """The share of samples within a ball of a real item: realism."""
    recall: float
    """The share of real items within a ball of a sample: variety."""
    density: float
    """In how many balls of real items a sample lies, over k: realism, less moved by outliers; may exceed 1."""
    coverage: float
    """The share of balls of real items that a sample lies in: variety."""


def coverage(real: Tensor, generated: Tensor, k: int = NEIGHBOURS) -> Coverage:
    """Precision, recall, density and coverage of features [n, d] and [m, d]; a ball reaches to the k-th neighbour.

    For equal distributions and n = m, density is 1 and coverage 1 - 2^-k on average. Precision and recall depend on d.

    Sources: Kynkaanniemi, Karras, Laine, Lehtinen, Aila, "Improved Precision and Recall Metric for Assessing Generative
    Models", 2019; Naeem, Oh, Uh, Choi, Yoo, "Reliable Fidelity and Diversity Metrics for Generative Models", 2020.
    """
    check_count(k, "k")
    _check(real, generated)
    if min(len(real), len(generated)) <= k:
        raise ValueError(f"{k} neighbours need more items than that, got {len(real)} and {len(generated)}")
    real, generated = real.double(), generated.double()
    # The distance of every item from its k-th neighbour, itself not counted.
    radius, reach = (
        torch.cat([torch.cdist(part, x).kthvalue(k + 1, dim=1).values for part in x.split(max(1, BLOCK // len(x)))])
        for x in (real, generated)
    )
    inside = hits = 0
    recalled, covered = torch.zeros(2, len(real), dtype=torch.bool)
    at_once = max(1, BLOCK // len(real))
    for part, theirs in zip(generated.split(at_once), reach.split(at_once), strict=True):
        distance = torch.cdist(real, part)
        within = distance < radius[:, None]
        inside += int(within.any(0).sum())
        hits += int(within.sum())
        recalled |= (distance < theirs).any(1)
        covered |= within.any(1)
    m, shares = len(generated), [found.double().mean().item() for found in (recalled, covered)]
    return Coverage(inside / m, shares[0], hits / (k * m), shares[1])


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"expected two sets of at least two features, [n, d] and [m, d], got {list(x.shape)} and {list(y.shape)}"
        )
    check_finite(x, "feature vectors of the first set")
    check_finite(y, "feature vectors of the second set")
