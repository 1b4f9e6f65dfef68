"""Distances of two sets of vectors or series as they are, without a feature network."""

import torch
from torch import Tensor

from zoo.card import Figure
from zoo.distributions import normal_noise
from zoo.evaluation.samples import check_finite, evenly_spaced, pair_up
from zoo.model import check_count

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The kernels' widths as multiples of the median distance."""
MOST = 1000
"""How many items of each set `measure` takes for the kernels: their matrices grow with the square."""


def measure(real: Tensor, generated: Tensor, training: Tensor, name: str, *, seed: int = 0) -> list[Figure]:
    """All distances of this module, each followed by what training items reach.

    The maximum mean discrepancy is that of 1,000 items at most, evenly spaced over each set.

    Arguments:
        real: held-out items, shape [n, ...].
        generated: as many samples.
        training: as many training items.
        name: of the real items.
    """
    pairs = pair_up(real, generated, training, name)
    # Data sets are often sorted: the first items may be of one class.
    some = evenly_spaced(len(real), min(MOST, len(real)))
    few = pair_up(real[some], generated[some], training[some], name)
    tests = [(label, *mmd(real[some], x, seed=seed)) for label, x in few]
    return [
        *(Figure("sliced Wasserstein distance", sliced_wasserstein(real, x, seed=seed), label) for label, x in pairs),
        *(Figure("squared MMD", value, label) for label, value, _ in tests),
        *(Figure("p-value of the MMD", p, label) for label, _, p in tests),
    ]


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 256, *, seed: int = 0) -> float:
    """The Wasserstein distance of order 1 of projections on random directions, averaged over them, in the items' units.

    In one dimension it is the Wasserstein distance itself: the mean difference of the sorted numbers. x and y are of
    shape [n, ...] both; the directions are uniform on the sphere, and the same for the same seed.

    Source: Bonneel, Rabin, Peyre, Pfister, "Sliced and Radon Wasserstein Barycenters of Measures", 2015.
    """
    check_count(directions, "directions")
    x, y = _vectors(x, y)
    if len(x) != len(y):
        raise ValueError(f"the two sets must be as large as each other, got {len(x)} and {len(y)}")
    # Drawn on the processor, so that every device sees the same ones.
    axes = normal_noise((x.shape[1], directions), x.new_empty(0, device="cpu"), torch.Generator().manual_seed(seed))
    parts = (axes / axes.norm(dim=0)).to(x.device).split(32, dim=1)
    return torch.cat([((x @ a).sort(0).values - (y @ a).sort(0).values).abs().mean(0) for a in parts]).mean().item()


def mmd(x: Tensor, y: Tensor, permutations: int = 1000, *, seed: int = 0) -> tuple[float, float]:
    """The squared maximum mean discrepancy, and its p-value: how likely sets of one distribution differ as much.

    The kernel is a sum of Gaussian ones whose widths are 1/4, 1/2, 1, 2 and 4 times the median distance of all items.
    The estimate is unbiased and can therefore be negative. The p-value counts the random divisions of all items in two
    that differ as much or more, itself among them: at least 1 / (permutations + 1).

    x [n, ...] and y [m, ...]; memory grows with (n + m)^2.

    Source: Gretton, Borgwardt, Rasch, Schoelkopf, Smola, "A Kernel Two-Sample Test", 2012.
    """
    check_count(permutations, "permutations")
    x, y = _vectors(x, y)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"the estimate needs two items of each set at least, got {n} and {m}")
    both = torch.cat([x, y])
    squared = torch.cdist(both, both).square_()
    median = squared[torch.ones_like(squared, dtype=torch.bool).triu(1)].median()
    if not median > 0:
        raise ValueError("more than half of all pairs of items are equal: their median distance gives no width")
    kernel = torch.zeros_like(squared)
    for width in WIDTHS:
        kernel += torch.exp(squared / (-2 * width**2 * median))
    kernel.fill_diagonal_(0)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for start in range(0, permutations + 1, 100):
        member = torch.zeros(min(100, permutations + 1 - start), n + m, dtype=torch.float64)
        for i, row in enumerate(member):
            row[torch.arange(n) if start + i == 0 else torch.randperm(n + m, generator=generator)[:n]] = 1
        member = member.to(kernel)
        rows = member @ kernel
        within = (rows * member).sum(1)
        across = rows.sum(1) - within
        rest = kernel.sum() - within - 2 * across
        found.append(within / (n * (n - 1)) + rest / (m * (m - 1)) - 2 * across / (n * m))
    values = torch.cat(found)
    # The observed division again, its items in another order, differs by rounding alone.
    as_large = values >= values[0] - 1e-12 * kernel.max()
    return values[0].item(), as_large.double().mean().item()


def _vectors(*sets: Tensor) -> list[Tensor]:
    x, y = sets
    if x.shape[1:] != y.shape[1:] or x.ndim < 2 or 0 in (*x.shape, *y.shape):
        raise ValueError(f"expected two sets of items of one shape, [n, ...], got {list(x.shape)} and {list(y.shape)}")
    check_finite(x, "items of the first set")
    check_finite(y, "items of the second set")
    return [x.detach().flatten(1).double() for x in sets]
