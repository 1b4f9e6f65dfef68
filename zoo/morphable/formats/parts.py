"""What the readers share: units, the checks of arrays, and the model that comes of them."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch

from modalities import MediaError
from modalities.meshes import Meshes
from modalities.meshes.files import UNITS as UNITS
from zoo.morphable.model import MorphableModel
from zoo.morphable.modes import Axes

Unit = Literal["um", "mm", "cm", "m", "in"]
Convention = Literal["orthonormal", "scaled", "process"]

LENGTHS = {
    "orthonormal": "1",
    "scaled": "a standard deviation (the root of its variance)",
    "process": "the root of the number of vertices (a Gaussian process)",
}
TOLERANCE = {"orthonormal": 0.01, "scaled": 0.01, "process": 0.15}
"""How far the length of a column may be off, as a fraction. Eigenfunctions of a kernel are approximate."""
ORTHOGONAL = 1e-3
"""How large the cosine between two modes may be, from the rounding of float32 and of decimal numbers."""
LARGE, RATIO = 2**28, 200
"""Data of more bytes than `LARGE` that were packed by more than this factor are taken for a bomb."""
EXTENT = (1.0, 10_000.0)
"""Millimetres that a model is expected to span; outside, its unit is doubted."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """A file of HDF5 whose data all lie in it.

    Raises `MediaError` for one that is broken, for links into other files and data stored in these, and for data that
    unpack to far more than the file has.
    """

    def outside(name: str, link: object) -> str | None:
        return name if isinstance(link, h5py.ExternalLink) else None

    def unsafe(name: str, item: h5py.Dataset | h5py.Group) -> str | None:
        if not isinstance(item, h5py.Dataset):
            return None
        if item.external or item.is_virtual:
            return f"{name} lies in another file, which is not opened"
        stored = item.id.get_storage_size()
        packed = item.nbytes > LARGE and item.nbytes > RATIO * stored
        return f"{name} unpacks from {stored} to {item.nbytes} bytes" if packed else None

    # Damage inside a file shows when an array is read.
    try:
        with h5py.File(path) as file:
            if (name := file.visititems_links(outside)) is not None:
                raise MediaError(f"{path}: {name} is a link into another file, which is not followed")
            if (fault := file.visititems(unsafe)) is not None:
                raise MediaError(f"{path}: {fault}")
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise MediaError(f"{path} cannot be read as HDF5: {error}") from error


def vector(source: str, values: np.ndarray, size: int | None = None) -> np.ndarray:
    """Numbers in one row or column as float64, shape [size]; NaN and another size are errors."""
    values = finite(source, values)
    if max(values.shape, default=1) != values.size or (size is not None and values.size != size):
        expected = "one row of numbers" if size is None else f"{size} numbers in one row"
        raise MediaError(f"{source}: expected {expected}, got an array of shape {list(values.shape)}")
    return values.ravel()


def finite(source: str, values: np.ndarray) -> np.ndarray:
    """Real numbers as float64; NaN and infinite values are errors."""
    if values.dtype.kind not in "fiu":
        raise MediaError(f"{source}: expected numbers, got {values.dtype}")
    values = values.astype(np.float64)
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise MediaError(f"{source}: {bad} of {values.size} numbers are NaN or infinite")
    return values


def positions(source: str, values: np.ndarray) -> np.ndarray:
    """A mean that lists x, y, z of every vertex, shape [3 * vertices]."""
    values = vector(source, values)
    if values.size % 3 or values.size < 9:
        raise MediaError(f"{source}: expected three numbers for each of 3 vertices or more, got {values.size}")
    return values


def triangles(source: str, values: np.ndarray, vertices: int, first: int = 0) -> np.ndarray:
    """Triangles counted from 0, shape [triangles, 3], of a file that counts vertices from `first`."""
    if values.ndim != 2 or values.shape[1] != 3 or not len(values):
        raise MediaError(f"{source}: expected rows of three vertices, got an array of shape {list(values.shape)}")
    if values.dtype.kind not in "iu" and not (np.mod(values, 1) == 0).all():
        raise MediaError(f"{source}: expected whole numbers, got {values.dtype}")
    lowest, highest = int(values.min()), int(values.max())
    if (lowest, highest) == (1 - first, vertices - first):
        raise MediaError(
            f"{source}: expected vertices counted from {first}, detected a count from {1 - first}: its {vertices} "
            f"vertices have the numbers {lowest} to {highest}"
        )
    if lowest < first or highest >= vertices + first:
        raise MediaError(
            f"{source}: expected numbers of vertices from {first} to {vertices - 1 + first}, got {lowest} to {highest}"
        )
    return values.astype(np.int64) - first


def modes(
    source: str,
    columns: np.ndarray,
    variance: np.ndarray,
    size: int,
    expected: Convention | None = "orthonormal",
) -> Axes:
    """The modes of a basis with a column for each, shape [size, k], and their variances, shape [k].

    Columns have the length 1 ("orthonormal"), or of a standard deviation ("scaled"), or are eigenfunctions of a kernel,
    of mean square 1 at the vertices ("process"). The lengths tell which; if another was `expected`, with a warning.
    """
    columns = finite(f"{source}: its basis", columns)
    variance = vector(f"{source}: its variances", variance)
    if columns.shape != (size, len(variance)):
        turned = "; it seems transposed" if columns.shape == (len(variance), size) else ""
        raise MediaError(
            f"{source}: expected a basis of shape [{size}, {len(variance)}], a row for x, y and z of every vertex and "
            f"a column for each variance, got {list(columns.shape)}{turned}"
        )
    if (variance < 0).any():
        worst = int(variance.argmin())
        raise MediaError(f"{source}: variances must not be negative, number {worst} is {variance[worst]:.4g}")
    length, deviation = np.linalg.norm(columns, axis=0), np.sqrt(variance)
    lengths: dict[Convention, np.ndarray | float] = {
        "orthonormal": 1.0,
        "scaled": deviation,
        "process": np.sqrt(size / 3),
    }
    fitting = [name for name, right in lengths.items() if (np.abs(length - right) <= TOLERANCE[name] * right).all()]
    if not fitting:
        off = int(np.minimum(np.abs(length - 1), np.abs(length - deviation)).argmax())
        raise MediaError(
            f"{source}: expected columns of length {LENGTHS[expected or 'orthonormal']}, detected neither 1 nor the "
            f"root of the variance: column {off} has length {length[off]:.4g} at a variance of {variance[off]:.4g}"
        )
    if expected is not None and expected not in fitting:
        warnings.warn(
            f"{source}: expected columns of length {LENGTHS[expected]}, detected {LENGTHS[fitting[0]]}, which is taken",
            stacklevel=2,
        )
    if fitting == ["process"]:
        deviation = deviation * length
    # A mode without variance has a direction only where columns have the length 1.
    kept = length > 0
    return _orthogonal(source, (columns[:, kept] / length[kept]).T, deviation[kept])


def principal(source: str, offsets: np.ndarray) -> Axes:
    """The axes of modes by what one standard deviation moves, shape [k, size]; those that move nothing are left out."""
    length = np.linalg.norm(offsets, axis=1)
    kept = length > 0
    return _orthogonal(source, offsets[kept] / length[kept, None], length[kept])


def _orthogonal(source: str, directions: np.ndarray, deviation: np.ndarray) -> Axes:
    """The axes of modes with directions of length 1: the same modes, unless some are not orthogonal."""
    cosines = np.abs(directions @ directions.T)
    np.fill_diagonal(cosines, 0)
    if cosines.max(initial=0) <= ORTHOGONAL:
        return _axes(directions, deviation**2)
    first, second = np.unravel_index(cosines.argmax(), cosines.shape)
    warnings.warn(
        f"{source}: its modes are not orthogonal (the cosine of {first} and {second} is {cosines.max():.3f}); "
        "they are replaced by principal axes that span the same shapes",
        stacklevel=3,
    )
    return _decompose(directions * deviation[:, None])[1]


def blendshapes(source: str, offsets: np.ndarray) -> tuple[Axes, torch.Tensor]:
    """The axes of expressions that are offsets at weight 1, shape [k, size], and the step in z of each, shape [k, r].

    The variance about the neutral face is that of a collection that holds every expression once.
    """
    offsets = finite(source, offsets)
    count = len(offsets)
    left, axes = _decompose(offsets / np.sqrt(count))
    return axes, torch.from_numpy(np.sqrt(count) * left).float()


def _decompose(offsets: np.ndarray) -> tuple[np.ndarray, Axes]:
    """offsets = left @ diag(deviation) @ directions, without the part that is a rounding error."""
    left, deviation, directions = np.linalg.svd(offsets, full_matrices=False)
    kept = deviation > np.finfo(np.float32).eps * deviation.max(initial=0)
    return left[:, kept], _axes(directions[kept], deviation[kept] ** 2)


def _axes(directions: np.ndarray, variance: np.ndarray) -> Axes:
    return Axes(torch.from_numpy(directions).float(), torch.from_numpy(variance).float())


def build(
    path: Path,
    unit: Unit,
    faces: np.ndarray,
    mean: np.ndarray,
    shape: Axes,
    expression: Axes | None = None,
    colour: tuple[np.ndarray, Axes] | None = None,
    *,
    steps: tuple[Sequence[str], torch.Tensor] | None = None,
    uv: np.ndarray | None = None,
    landmarks: Sequence[int] | None = None,
    noise: float = 0.0,
) -> MorphableModel:
    """The model in millimetres of parts in `unit`.

    Arguments:
        mean: positions, shape [3 * vertices].
        colour: the mean, shape [3 * vertices] in [0, 1], and the modes.
        steps: names of blendshapes and their steps in the coefficients of expression.
        noise: the variance of a coordinate that the modes leave out.
    """
    scale = UNITS[unit]
    points = scale * mean.reshape(-1, 3)
    extent = (points.max(0) - points.min(0)).max()
    if not EXTENT[0] <= extent <= EXTENT[1]:
        warnings.warn(
            f"{path}: the mean spans {extent:.3g} mm if lengths are in {unit}, as was taken; give unit= if not",
            stacklevel=2,
        )
    if not len(shape.basis):
        raise MediaError(f"{path} has no modes of shape with a variance")
    tint, tints = colour or (np.zeros(0), None)
    low, high = tint.min(initial=0), tint.max(initial=1)
    if low < -0.5 or high > 1.5:
        raise MediaError(f"{path}: expected mean colours in [0, 1], got some from {low:.3g} to {high:.3g}")
    item = np.concatenate([points, tint.reshape(len(points), -1)], 1)
    places = None if uv is None else torch.from_numpy(uv).float()
    sizes = len(shape.basis), 0 if tints is None else len(tints.basis)
    model = MorphableModel.assemble(
        Meshes(len(points), colour is not None, torch.from_numpy(faces), places),
        torch.from_numpy(item).float(),
        Axes(shape.basis, scale**2 * shape.variance),
        None if expression is None else Axes(expression.basis, scale**2 * expression.variance),
        tints,
        noise=scale**2 * noise,
        attributes=steps and dict(zip(steps[0], torch.nn.functional.pad(steps[1], sizes), strict=True)),
        landmarks=torch.tensor(landmarks) if landmarks else None,
    )
    if not all(values.isfinite().all() for values in model.state_dict().values()):
        raise MediaError(f"{path} holds numbers beyond the range of float32")
    return model
