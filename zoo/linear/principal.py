"""Principal axes: the leading eigenvectors of a covariance, by the route that costs least."""

import dataclasses
import logging
import numbers
import time
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from zoo.distributed import all_max, all_sum, process_count
from zoo.linear.exact import covariance, gram_matrix, svd
from zoo.linear.krylov import randomized
from zoo.linear.passes import Passes
from zoo.linear.stream import Data, RowReader
from zoo.moments import Moments

Solver = Literal["auto", "svd", "covariance", "gram", "randomized"]

SMALL = 500  # up to this many items or dimensions an exact route is fast enough
WIDEST = 4096  # up to this many dimensions the covariance of a stream is kept: 134 MB
UNKNOWN = 10**9  # a stream of unknown length is taken for so many items
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PrincipalAxes:
    """What a fit finds, for d dimensions and k components."""

    mean: Tensor
    """The mean of the items, shape [d]."""
    basis: Tensor
    """Orthonormal rows by falling variance, shape [k, d]; the entry of largest magnitude in each is positive."""
    variance: Tensor
    """The variance along each row, divided by n - 1, shape [k]."""
    total: float
    """The variance of all d dimensions together, divided by n - 1."""
    count: int
    """n, the number of items."""
    seconds: float = 0.0
    """What the fit took, with what a checkpoint tells of the time before an interruption."""

    @classmethod
    def of_scatter(cls, moments: Moments, values: Tensor, basis: Tensor, like: Tensor) -> "PrincipalAxes":
        """Of eigenvalues of the scatter, falling, and their vectors as rows, in the type of `like`."""
        free = moments.count - 1
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        basis = basis.to(like).contiguous().mul_(torch.where(largest < 0, -1.0, 1.0).to(like))
        variance = (values.clamp(min=0) / free).to(like)
        return cls(moments.mean.to(like), basis, variance, moments.total / free, moments.count)


def principal_axes(
    data: Data,
    shape: tuple[int, ...],
    components: int | float,
    solver: Solver = "auto",
    seed: int = 0,
    *,
    checkpoint: str | Path | None = None,
    held: int = 2**29,
    block: int = 2**22,
    oversampling: int = 16,
    restart: int = 6,
) -> PrincipalAxes:
    """The mean and the directions of largest variance.

    A stream (anything but a tensor or an array in memory) is read in one pass for its covariance, or in three to six by
    the randomized solver, in the memory of the covariance, or of ten times the result. Where processes fit together
    (torchrun, with a group initialised), every one brings its own share, and all get the axes of all items.

    Arguments:
        data: floating-point items of `shape`: a tensor or an array [n, ...], also memory-mapped; a map-style data set;
            an iterable of items or of batches; a function that returns one. An iterator can be visited but once, which
            is enough for a covariance and for what can be held.
        components: how many, at most min(n - 1, d); or the fraction of variance in (0, 1) that the fewest shall exceed.
        solver: "covariance" (n >> d), and in the memory of one process "svd" and "gram" (n < d), are exact up to
            rounding; "randomized" nearly so, for large n and d. "auto" picks by `choose`.
        seed: of the randomized solver, and of the noise of a data set that has some.
        checkpoint: a folder for the state after every pass, from which a killed fit goes on. A finished one reads no
            more than the first items again.
        held: a stream of up to so many bytes is held in memory where that saves passes.
        block: about how many numbers are read and multiplied at once.
        oversampling: how many directions the randomized solver looks for beside those asked for.
        restart: how many times both it keeps before it begins anew from the best.

    Raises `MediaError` for items of another shape, for NaN and for another number of items in a later pass; ValueError
    for too few items and for other arguments; `CheckpointError` for the checkpoint of another fit.
    """
    k = int(components) if isinstance(components, numbers.Integral) else None
    if not (0 < components < 1 if k is None else k > 0):
        raise ValueError(f"components is a whole number, or a fraction of variance in (0, 1); got {components!r}")
    if solver not in get_args(Solver):
        raise ValueError(f"solver is auto, svd, covariance, gram or randomized, got {solver!r}")
    rows = RowReader(data, shape, seed, block)
    route, rows, count = _route(rows, solver, k, held)
    plan = "about 5 passes" if route == "randomized" else "1 pass", "in memory" if rows.in_memory else "streamed"
    _log.info("PCA of %s items of %d numbers: %s, %s, %s", count or "an unknown number of", rows.width, route, *plan)
    arguments = {"shape": shape, "components": k or components, "solver": route, "seed": seed, "items": count}
    arguments |= {"oversampling": oversampling, "restart": restart}
    passes = Passes(rows, k or 0, checkpoint, arguments)
    if route == "randomized":
        moments, values, basis = randomized(passes, seed, oversampling, restart)
    else:
        moments, values, basis = {"svd": svd, "covariance": covariance, "gram": gram_matrix}[route](passes)
    kept = k or int((values.cumsum(0) <= components * moments.total).sum()) + 1  # the fewest that exceed a fraction
    axes = PrincipalAxes.of_scatter(moments, values[:kept], basis[:kept], passes.like)
    return dataclasses.replace(axes, seconds=time.monotonic() - passes.started)


def _route(rows: RowReader, solver: Solver, k: int | None, held: int) -> tuple[str, RowReader, int | None]:
    """The solver, the rows for it, held in memory where that serves it, and the count of all processes' if known."""
    unknown, alone = all_max(rows.count is None), process_count() == 1
    count = None if unknown else int(all_sum(torch.tensor(rows.count)))
    could_hold = alone and not rows.in_memory and (count is None or 4 * count * rows.width <= held)

    def pick(in_memory: bool) -> str:
        n = UNKNOWN if count is None else count
        return choose(n, rows.width, k, in_memory) if solver == "auto" else solver

    route = pick(alone and rows.in_memory or could_hold and count is not None)
    if route != "covariance" and could_hold:
        whole = rows.hold(held)
        if whole is not None:
            rows, count = whole, whole.count
        route = pick(whole is not None)
    if route in ("svd", "gram") and not (rows.in_memory and alone):
        raise ValueError(
            f"{route} needs the data in memory, as a tensor, in one process; take covariance or randomized"
        )
    if route == "randomized" and k is None:
        raise ValueError(
            "the randomized solver cannot tell how many components reach a fraction; give their number, or take "
            f"the solver covariance, which needs {8 * rows.width**2 / 1e9:.2g} GB"
        )
    if route == "randomized" and rows.once:
        raise ValueError(
            f"the randomized solver reads the data several times, but a {type(rows.data).__name__} can be visited once "
            "only; hand in a function that returns a new one, another iterable, or take the model's partial_fit"
        )
    return route, rows, count


def choose(n: int, d: int, components: int | None, in_memory: bool) -> Solver:
    """The cheapest solver for n items of d dimensions, by counting multiplications and additions.

    A covariance costs n d^2 (half a product: it is symmetric) and its eigenvectors 10 d^3; a Gram matrix d n^2, 10 n^3,
    and 2 n d k to turn its eigenvectors into axes. The randomized solver costs 4 n d for each of its directions, about
    3.5 k of them; since it is not exact, it must cost less than half. What is small in both directions takes the SVD,
    the most accurate. A stream has no Gram matrix, and no covariance of more than 4,096 dimensions.
    """
    if not in_memory and d > WIDEST:
        return "randomized"
    if in_memory and max(n, d) <= SMALL:
        return "svd"
    k = min(n, d) if components is None else components
    exact: dict[Solver, float] = {"covariance": n * d**2 + 10 * d**3}
    if in_memory:
        exact["gram"] = d * n**2 + 10 * n**3 + 2 * n * d * k
    best = min(exact, key=lambda name: exact[name])
    large = (d if best == "covariance" else n) > SMALL
    if components is not None and large and 14 * n * d * k < exact[best] / 2:
        return "randomized"
    return best
