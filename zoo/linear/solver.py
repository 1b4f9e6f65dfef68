"""Principal axes: four routes to the leading eigenvectors of a covariance, and the rule that picks one by its cost.

Everything that is summed over items lives in `Moments` and in `_scatter_times`, a block of rows at a time: that is
what a fit over several machines has to add up. Blocks are centred before they are multiplied, so that a mean far from
zero costs no digits, and the centred data are never held whole.
"""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from modalities import MediaError
from modalities.modality import Arrays, batches
from zoo.distributions import full_precision, normal_noise

Solver = Literal["auto", "svd", "covariance", "gram", "randomized"]

BLOCK = 2**22
"""How many numbers are centred at once."""
STREAM_ROWS = 512
"""How many items of a data set are read at once."""
SMALL = 500
"""Up to this many items or dimensions an exact route is fast enough."""


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


class Rows:
    """The items of a tensor or of a data set as rows of numbers, visited block by block as often as it takes.

    A data set is read again at every visit and never held; noise that belongs to it is the same at each. Half precision
    is computed in single.
    """

    def __init__(self, data: Tensor | Dataset | Arrays, shape: tuple[int, ...], seed: int):
        if isinstance(data, Arrays) and data.noise is None:
            data = data.x
        self.data, self.shape, self.seed = data, shape, seed
        self.in_memory = isinstance(data, Tensor)
        self.count = len(data)  # type: ignore[arg-type]
        self.width = math.prod(shape)

    def __iter__(self) -> Iterator[Tensor]:
        if isinstance(self.data, Tensor):
            yield from self.matrix().split(max(16, BLOCK // self.width))
            return
        for batch in batches(self.data, STREAM_ROWS, torch.Generator().manual_seed(self.seed)):  # type: ignore[arg-type]
            yield self._flat(batch[0] if isinstance(batch, (tuple, list)) else batch)

    def matrix(self) -> Tensor:
        """All items of a tensor, shape [n, d]; `flatten` copies nothing where the items are contiguous."""
        return self._flat(self.data)  # type: ignore[arg-type]

    def _flat(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape or not x.is_floating_point():
            expected = ", ".join(["n", *map(str, self.shape)])
            raise MediaError(f"expected floating-point items of shape [{expected}], got {x.dtype} {list(x.shape)}")
        return full_precision(x.detach()).flatten(1)


class Room:
    """Memory for one centred block, used again for the next: fresh memory costs more than the subtraction."""

    def __init__(self) -> None:
        self.memory = torch.empty(0)

    def centred(self, block: Tensor, mean: Tensor) -> Tensor:
        """The rows less the mean; it stands until the next call."""
        if self.memory.numel() < block.numel() or self.memory.dtype != block.dtype:
            self.memory = block.new_empty(block.numel())
        return torch.sub(block, mean, out=self.memory[: block.numel()].view(block.shape))


@dataclasses.dataclass
class Moments:
    """The count, the mean and the summed squares of deviations of some rows; those of two sets of rows merge.

    Source: Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
    """

    count: int
    mean: Tensor
    """Shape [d], float64."""
    squares: float
    """The squared deviations summed over items and dimensions: the trace of the scatter."""
    scatter: Tensor | None
    """The sum of (x - mean)(x - mean)^T, shape [d, d], float64, where it is wanted."""
    like: Tensor
    """An empty tensor with the type and the device of the rows."""

    @classmethod
    def of(cls, block: Tensor, solver: str, room: "Room") -> "Moments":
        """What a solver needs of a block of rows, shape [rows, d]; the Gram matrix will tell the squares by itself."""
        mean = torch.from_numpy(block.numpy().mean(0)) if block.device.type == "cpu" else block.mean(0)
        if not torch.isfinite(mean).all():
            raise MediaError("the data hold NaN or infinite values; remove or replace them first")
        scatter, squares = None, 0.0
        if solver == "covariance":
            scatter = _gram(room.centred(block, mean).T).double()
            squares = scatter.trace().item()
        elif solver != "gram":
            squares = torch.linalg.vector_norm(room.centred(block, mean), dim=1).double().square().sum().item()
        return cls(len(block), mean.double(), squares, scatter, block.new_empty(0))

    def merge(self, other: "Moments") -> None:
        """Take in the moments of other rows."""
        count = self.count + other.count
        step = other.mean - self.mean
        weight = self.count * other.count / count
        if self.scatter is not None and other.scatter is not None:
            self.scatter.add_(other.scatter).addr_(step, step, alpha=weight)
        self.squares += other.squares + weight * step.square().sum().item()
        self.mean = self.mean + step * (other.count / count)
        self.count = count


def principal_axes(
    data: Tensor | Dataset | Arrays,
    shape: tuple[int, ...],
    components: int | float,
    solver: Solver = "auto",
    seed: int = 0,
) -> PrincipalAxes:
    """The mean and the directions of largest variance.

    Arguments:
        data: items of `shape`, a floating-point tensor [n, ...] or a map-style data set, which is read several times.
        components: how many directions, at most min(n - 1, d); or the fraction of the variance to exceed, in (0, 1),
            which takes the fewest directions that do.
        solver: "svd", "covariance" (n >> d) and "gram" (n < d) are exact up to rounding; "randomized" ends with the
            first pass that lowers the squared error by less than 0.3 percent. "auto" picks by `choose`. A data set is
            never held in memory, which leaves "covariance" and "randomized".
        seed: of the randomized solver, and of the noise of a data set that has some.

    Raises `MediaError` for items of another shape and for NaN, ValueError for too few items and for other arguments.
    """
    rows = Rows(data, shape, seed)
    if rows.count < 2:
        raise ValueError(f"principal components need at least 2 items, got {rows.count}")
    fraction = not isinstance(components, int)
    if fraction and not 0 < components < 1:
        raise ValueError(f"components is a whole number, or a fraction of variance in (0, 1); got {components!r}")
    if solver == "auto":
        solver = choose(rows.count, rows.width, None if fraction else int(components), rows.in_memory)
    if solver in ("svd", "gram") and not rows.in_memory:
        raise ValueError(f"the solver {solver!r} needs the data in memory, as a tensor; take covariance or randomized")
    if solver == "randomized" and fraction:
        raise ValueError("the randomized solver cannot tell how many components reach a fraction; give their number")
    with _numpy_threads():
        moments = _moments(rows, solver)
    most = min(moments.count - 1, rows.width)
    if not fraction and not 1 <= components <= most:
        raise ValueError(
            f"{moments.count} items of {rows.width} dimensions have 1 to {most} components, got {components}"
        )
    k = most if fraction else int(components)
    if solver == "svd":
        values, basis = _svd(rows, moments)
    elif solver == "covariance":
        values, basis = _covariance(moments, k)
    elif solver == "gram":
        values, basis = _gram_route(rows, moments, k)
    elif solver == "randomized":
        values, basis = _randomized(rows, moments, k, seed)
    else:
        raise ValueError(f"solver is auto, svd, covariance, gram or randomized, got {solver!r}")
    if fraction:
        k = _enough(values, moments.squares, components)
    free = moments.count - 1
    variance = values[:k].clamp(min=0) / free
    mean, basis, variance = (part.to(moments.like) for part in (moments.mean, _fix_signs(basis[:k]), variance))
    return PrincipalAxes(mean, basis, variance, moments.squares / free, moments.count)


def choose(n: int, d: int, components: int | None, in_memory: bool) -> Solver:
    """The cheapest route for n items of d dimensions, by counting multiplications and additions.

    A covariance costs n d^2 (half a product: it is symmetric) and its eigenvectors 10 d^3; a Gram matrix d n^2, 10 n^3,
    and 2 n d k to turn its eigenvectors into axes. The randomized route costs 4 n d for each of its directions, about
    3.5 k of them; since it is not exact, it must cost less than half, and the matrix must be larger than `SMALL`. Data
    that are small in both directions take the SVD, the most accurate.
    """
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


def _moments(rows: Rows, solver: str) -> Moments:
    blocks, room = iter(rows), Room()
    moments = Moments.of(next(blocks), solver, room)
    for block in blocks:
        moments.merge(Moments.of(block, solver, room))
    if solver != "gram":
        _refuse_constant(moments)
    return moments


def _refuse_constant(moments: Moments) -> None:
    if moments.squares == 0:
        raise ValueError(f"all {moments.count} items are equal: they have no principal components")


def _svd(rows: Rows, moments: Moments) -> tuple[Tensor, Tensor]:
    matrix = rows.matrix()
    _, singular, basis = torch.linalg.svd(matrix - moments.mean.to(matrix), full_matrices=False)
    return singular.double().square(), basis


def _covariance(moments: Moments, k: int) -> tuple[Tensor, Tensor]:
    with _numpy_threads():
        values, vectors = _top_eigenvectors(moments.scatter, k)  # type: ignore[arg-type]
    return values, vectors.T


def _gram_route(rows: Rows, moments: Moments, k: int) -> tuple[Tensor, Tensor]:
    """The eigenvectors v of X X^T, n x n, give the axes X^T v, orthogonal but for rounding."""
    matrix = rows.matrix()
    mean = moments.mean.to(matrix)
    columns, room = range(0, rows.width, max(16, BLOCK // len(matrix))), Room()

    def centred(start: int) -> Tensor:
        return room.centred(matrix[:, start : start + columns.step], mean[start : start + columns.step])

    gram = torch.zeros(len(matrix), len(matrix), dtype=torch.float64, device=matrix.device)
    with _numpy_threads():
        for start in columns:
            gram += _gram(centred(start))
        moments.squares = gram.trace().item()
        _refuse_constant(moments)
        values, vectors = _top_eigenvectors(gram, k)
        vectors = vectors.T.to(matrix).contiguous()
        axes = matrix.new_empty(k, rows.width)
        for start in columns:
            axes[:, start : start + columns.step] = _product(vectors, centred(start))
        return values, _orthonormal(axes)


def _orthonormal(axes: Tensor) -> Tensor:
    """Orthonormal rows that span what nearly orthogonal rows span, shape [k, d].

    The Cholesky factor of their products does it in a tenth of the time of a QR decomposition, where the rows are
    nearly orthogonal already; those of tiny variance are noise, and take the QR decomposition.
    """
    axes /= torch.linalg.vector_norm(axes, dim=1, keepdim=True).clamp(min=torch.finfo(axes.dtype).tiny)
    products = _gram(axes).double()
    if (products - torch.eye(len(axes)).to(products)).abs().max() * len(axes) > 0.1:
        return torch.linalg.qr(axes.T)[0].T
    factor = torch.linalg.inv(torch.linalg.cholesky(products)).to(axes)
    for part in axes.split(max(16, BLOCK // len(axes)), 1):
        part.copy_(_product(factor, part))
    return axes


def _randomized(rows: Rows, moments: Moments, k: int, seed: int) -> tuple[Tensor, Tensor]:
    """The best axes in the space that random directions span after repeated products with the scatter matrix.

    All products are kept (a block Krylov space), so that few passes reach what many power iterations would. Every pass
    widens the space by a block; the passes end when the last one lowered the squared error by less than 0.3 percent.

    Sources: Halko, Martinsson, Tropp, "Finding Structure with Randomness", 2011; Musco, Musco, "Randomized Block Krylov
    Methods for Stronger and Faster Approximate Singular Value Decomposition", 2015.
    """
    mean = moments.mean.to(moments.like)
    generator = torch.Generator().manual_seed(seed)
    width = min(rows.width, max(16, k // 2))
    newest = torch.linalg.qr(normal_noise((rows.width, width), mean, generator))[0]
    space = newest
    projected = torch.zeros(0, 0, dtype=torch.float64, device=mean.device)
    explained = 0.0
    while True:
        image = _scatter_times(rows, mean, newest)
        coordinates = space.T @ image
        projected = _border(projected, coordinates.double())
        values, vectors = _top_eigenvectors(projected, min(k, len(projected)))
        before, explained = explained, values.sum().item()
        converged = len(values) == k and explained - before < 3e-3 * (moments.squares - explained)
        if converged or len(projected) == rows.width:
            return values, (space @ vectors.to(space)).T
        # Twice, since one subtraction leaves rounding errors that the normalisation of small columns amplifies.
        newest = torch.linalg.qr(image - space @ coordinates)[0]
        newest = torch.linalg.qr(newest - space @ (space.T @ newest))[0][:, : rows.width - len(projected)]
        space = torch.cat([space, newest], 1)


def _scatter_times(rows: Rows, mean: Tensor, directions: Tensor) -> Tensor:
    """The scatter matrix times some directions, shape [d, directions], in one pass and without the matrix."""
    image, room = torch.zeros_like(directions), Room()
    for block in rows:
        centred = room.centred(block, mean)
        image.addmm_(centred.T, centred @ directions)
    return image


def _border(matrix: Tensor, columns: Tensor) -> Tensor:
    """A symmetric matrix, widened by its new last columns."""
    old, size = len(matrix), len(columns)
    wider = matrix.new_zeros(size, size)
    wider[:old, :old] = matrix
    wider[:, old:] = columns
    wider[old:] = columns.T
    wider[old:, old:] = (columns[old:] + columns[old:].T) / 2
    return wider


@contextmanager
def _numpy_threads() -> Iterator[None]:
    """Keep torch on one thread while NumPy multiplies: torch's others spin for a while after each operation, and would
    take the cores from NumPy's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b, on the CPU by NumPy."""
    return a @ b if a.device.type != "cpu" else torch.from_numpy(a.numpy() @ b.numpy())


def _gram(x: Tensor) -> Tensor:
    """x x^T. NumPy knows a matrix times its own transpose and does half the work; torch does not."""
    if x.device.type != "cpu":
        return x @ x.T
    array = x.numpy()
    return torch.from_numpy(array @ array.T)


def _top_eigenvectors(matrix: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues of a symmetric matrix, falling, and their vectors as columns."""
    if 4 * k > len(matrix) or matrix.device.type != "cpu":
        values, vectors = torch.linalg.eigh(matrix)
        return values[-k:].flip(0), vectors[:, -k:].flip(1)
    # LAPACK's solver for a range of eigenvalues skips most of the work; torch does not offer it.
    from scipy.linalg import eigh

    found = eigh(matrix.numpy(), subset_by_index=(len(matrix) - k, len(matrix) - 1), check_finite=False)
    values, vectors = (torch.from_numpy(part.copy()) for part in found)
    return values.flip(0), vectors.flip(1)


def _enough(values: Tensor, total: float, fraction: float) -> int:
    """The fewest leading values whose share of the total exceeds the fraction."""
    shares = values.cumsum(0) / total
    return min(int(torch.searchsorted(shares, fraction, right=True)) + 1, len(values))


def _fix_signs(basis: Tensor) -> Tensor:
    """Turn every row so that its entry of largest magnitude is positive: an eigenvector's own sign is arbitrary."""
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return basis.contiguous().mul_(torch.where(largest < 0, -1.0, 1.0).to(basis))
