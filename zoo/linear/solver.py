"""Principal axes: four routes to the leading eigenvectors of a covariance, and the rule that picks one by its cost.

Everything that is summed over items is summed in `zoo.linear.passes`, a block of rows at a time: that is what a fit
over several machines has to add up. Blocks are centred before they are multiplied, so that a mean far from zero costs
no digits, and the centred data are never held whole.
"""

import dataclasses
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from zoo.linear import streaming
from zoo.linear.dense import Room, gram, numpy_threads, orthonormal, product, top_eigenvectors
from zoo.linear.krylov import randomized
from zoo.linear.passes import Fit, Moments, refuse_constant
from zoo.linear.streaming import Data, Processes, Report, Rows, Saved

Solver = Literal["auto", "svd", "covariance", "gram", "randomized"]

SMALL = 500
"""Up to this many items or dimensions an exact route is fast enough."""
WIDEST = 4096
"""Up to this many dimensions the covariance of a stream is kept: 134 MB."""
PASSES = 5
"""What the randomized route usually takes over a stream."""
UNKNOWN = 10**9
"""A stream of unknown length is taken for so many items."""


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
    """What the fit took, pieces before an interruption included as far as a checkpoint tells of them."""


def principal_axes(
    data: Data,
    shape: tuple[int, ...],
    components: int | float,
    solver: Solver = "auto",
    seed: int = 0,
    *,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> PrincipalAxes:
    """The mean and the directions of largest variance.

    A stream (anything but a tensor or an array in memory) is read in one pass for its covariance, or in three to six by
    the randomized solver; one of up to `streaming.HELD` bytes is read once and held where that serves better. Memory
    is that of the result, some ten times over, or of the covariance, and of a few blocks; it does not grow with the
    items. Where processes fit together (torchrun, with a group initialised), every one brings its own share, of any
    size, and all get the axes of all items, whichever way these are shared out.

    Arguments:
        data: floating-point items of `shape`: a tensor or an array [n, ...], also memory-mapped; a map-style data set;
            an iterable of items or of batches, of any length; a function that returns one. An iterator can be
            visited but once, which is enough for a covariance and for what can be held.
        components: how many directions, at most min(n - 1, d); or the fraction of the variance to exceed, in (0, 1),
            which takes the fewest directions that do.
        solver: "svd", "covariance" (n >> d) and "gram" (n < d) are exact up to rounding; "randomized" ends with the
            first pass that lowers the squared error by less than 0.3 percent. "auto" picks by `choose`. "svd" and
            "gram" are for data in the memory of one process.
        seed: of the randomized solver, and of the noise of a data set that has some.
        checkpoint: a folder for the state after every pass over a stream; a fit that was killed goes on from there, and
            one that was finished reads nothing but the first items.
        progress: show a progress bar on the terminal.

    Raises `MediaError` for items of another shape, for NaN and for a stream that gives another number of items in a
    later pass; ValueError for too few items and for other arguments; `CheckpointError` for a checkpoint of another fit.
    """
    rows = Rows(data, shape, seed)
    fraction = not isinstance(components, int)
    if fraction and not 0 < components < 1:
        raise ValueError(f"components is a whole number, or a fraction of variance in (0, 1); got {components!r}")
    if solver not in get_args(Solver):
        raise ValueError(f"solver is auto, svd, covariance, gram or randomized, got {solver!r}")
    together = Processes()
    with Report(progress and together.main) as report:
        solver, rows, count = _route(rows, together, solver, components, report)
        rows.advance = report.advance
        arguments = {"shape": shape, "components": components, "solver": solver, "seed": seed, "items": count}
        fit = Fit(rows, components, together, report, Saved(checkpoint, arguments))
        found = {"svd": _svd, "covariance": _covariance, "gram": _gram_route}.get(solver)
        moments, values, basis = found(fit) if found is not None else randomized(fit, seed)
    k = _enough(values, moments.squares, components) if fraction else int(components)
    return dataclasses.replace(finish(moments, values[:k], basis[:k]), seconds=fit.seconds)


def finish(moments: Moments, values: Tensor, basis: Tensor) -> PrincipalAxes:
    """The axes in the type of the data, of summed squares along directions, falling."""
    free = moments.count - 1
    variance = values.clamp(min=0) / free
    mean, basis, variance = (part.to(moments.like) for part in (moments.mean, _fix_signs(basis), variance))
    return PrincipalAxes(mean, basis, variance, moments.squares / free, moments.count)


def _route(
    rows: Rows, together: Processes, solver: Solver, components: int | float, report: Report
) -> tuple[Solver, Rows, int | None]:
    """The solver, the rows to give it, held in memory where that serves it, and how many there are, where that is
    known before they are read."""
    k = components if isinstance(components, int) else None
    [unknown] = together.largest(rows.count is None)
    count = None if unknown else int(together.sum(torch.tensor(float(rows.count or 0), dtype=torch.float64)).item())
    if count is not None and count < 2:
        raise ValueError(f"principal components need at least 2 items, got {count}")
    asked, alone = solver, together.count == 1
    fits = alone and (rows.in_memory or count is None or 4 * count * rows.width <= streaming.HELD)
    if solver == "auto":
        solver = choose(UNKNOWN if count is None else count, rows.width, k, fits and count is not None)
    if solver != "covariance" and fits and not rows.in_memory:
        report.begin(1, count)
        rows.advance = report.advance
        held = rows.hold()
        if held is not None:
            rows, count = held, held.count or 0
            if count < 2:
                raise ValueError(f"principal components need at least 2 items, got {count}")
            solver = choose(count, rows.width, k, True) if asked == "auto" else asked
        elif asked == "auto":
            solver = choose(UNKNOWN, rows.width, k, False)
    if solver in ("svd", "gram") and not (rows.in_memory and alone):
        raise ValueError(
            f"the solver {solver!r} needs the data in memory, as a tensor, in one process; "
            "take covariance or randomized"
        )
    if solver == "randomized" and k is None:
        raise ValueError(
            "the randomized solver cannot tell how many components reach a fraction; give their number, or take "
            f"the solver covariance, which needs {8 * rows.width**2 / 1e9:.2g} GB"
        )
    if solver == "randomized" and rows.once:
        raise ValueError(
            f"the randomized solver reads the data several times, but a {type(rows.data).__name__} can be visited once "
            "only; hand in a function that returns a new one, another iterable, or take the model's partial_fit"
        )
    report.plan(rows, count, solver, components, PASSES if solver == "randomized" else 1)
    return solver, rows, count


def choose(n: int, d: int, components: int | None, in_memory: bool) -> Solver:
    """The cheapest route for n items of d dimensions, by counting multiplications and additions.

    A covariance costs n d^2 (half a product: it is symmetric) and its eigenvectors 10 d^3; a Gram matrix d n^2, 10 n^3,
    and 2 n d k to turn its eigenvectors into axes. The randomized route costs 4 n d for each of its directions, about
    3.5 k of them; since it is not exact, it must cost less than half, and the matrix must be larger than `SMALL`. Data
    that are small in both directions take the SVD, the most accurate. A stream has no Gram matrix, and no covariance of
    more than `WIDEST` dimensions.
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


def _svd(fit: Fit) -> tuple[Moments, Tensor, Tensor]:
    moments, matrix = fit.gather("svd"), fit.rows.matrix()
    _, singular, basis = torch.linalg.svd(matrix - moments.mean.to(matrix), full_matrices=False)
    k = fit.number(moments)
    return moments, singular.double().square()[:k], basis[:k]


def _covariance(fit: Fit) -> tuple[Moments, Tensor, Tensor]:
    restored = fit.restore()
    if restored is None:
        moments = fit.gather("covariance")
        scatter: Tensor = moments.scatter  # type: ignore[assignment]
        fit.together.run(lambda: fit.save(moments, 1, {"scatter": scatter}) if fit.together.main else None)
    else:
        moments, _, _, tensors = restored
        empty = moments.mean.new_empty(fit.rows.width, fit.rows.width) if not tensors else tensors["scatter"]
        moments.scatter = fit.together.from_main(empty).to(moments.mean)
    return moments, *scatter_axes(moments, fit.number(moments))


def scatter_axes(moments: Moments, k: int) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues of the scatter, and their vectors as rows."""
    with numpy_threads():
        values, vectors = top_eigenvectors(moments.scatter, k)  # type: ignore[arg-type]
    return values, vectors.T


def _gram_route(fit: Fit) -> tuple[Moments, Tensor, Tensor]:
    """The eigenvectors v of X X^T, n x n, give the axes X^T v, orthogonal but for rounding."""
    moments, matrix = fit.gather("gram"), fit.rows.matrix()
    mean, k = moments.mean.to(matrix), fit.number(moments)
    columns, room = range(0, fit.rows.width, max(16, streaming.BLOCK // len(matrix))), Room()

    def centred(start: int) -> Tensor:
        return room.centred(matrix[:, start : start + columns.step], mean[start : start + columns.step])

    products = torch.zeros(len(matrix), len(matrix), dtype=torch.float64, device=matrix.device)
    with numpy_threads():
        for start in columns:
            products += gram(centred(start))
        products -= products.mean(0)  # the mean may be off by a rounding error; here it is taken off once more
        products -= products.mean(1, keepdim=True)
        moments.squares = products.trace().item()
        refuse_constant(moments)
        values, vectors = top_eigenvectors(products, k)
        vectors = vectors.T.to(matrix).contiguous()
        axes = matrix.new_empty(k, fit.rows.width)
        for start in columns:
            axes[:, start : start + columns.step] = product(vectors, centred(start))
        return moments, values, orthonormal(axes)


def _enough(values: Tensor, total: float, fraction: float) -> int:
    """The fewest leading values whose share of the total exceeds the fraction."""
    shares = values.cumsum(0) / total
    return min(int(torch.searchsorted(shares, fraction, right=True)) + 1, len(values))


def _fix_signs(basis: Tensor) -> Tensor:
    """Turn every row so that its entry of largest magnitude is positive: an eigenvector's own sign is arbitrary."""
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return basis.contiguous().mul_(torch.where(largest < 0, -1.0, 1.0).to(basis))
