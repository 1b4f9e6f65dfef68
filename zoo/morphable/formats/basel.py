"""The Basel Face Model 2009, a MATLAB file.

Source: Paysan, Knothe, Amberg, Romdhani, Vetter, "A 3D Face Model for Pose and Illumination Invariant Face
Recognition", 2009.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from modalities import MediaError
from zoo.morphable.formats.parts import LARGE, RATIO, Unit, build, modes, open_hdf5, positions, triangles, vector
from zoo.morphable.model import MorphableModel
from zoo.morphable.modes import Axes

SHAPE = ("shapeMU", "shapePC", "shapeEV", "tl")
TEXTURE = ("texMU", "texPC", "texEV")

MATRIX, PACKED = 14, 15
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
REAL = range(6, 16)
"""Types of elements in a MATLAB file, those of numbers, and the classes of arrays that hold real numbers."""


def read_basel(path: Path, unit: Unit | None = None) -> MorphableModel:
    """Read `01_MorphableModel.mat`: modes of shape and of texture, in micrometres unless `unit` says another.

    shapeEV and texEV are standard deviations, not eigenvalues; triangles count from 1 and turn the other way round than
    ours; colours go from 0 to 255. The segments are not in this file.
    """
    arrays = _variables(path)
    missing = sorted(set(SHAPE) - set(arrays))
    if missing:
        found = ", ".join(sorted(arrays)) or "none"
        raise MediaError(f"{path} is no Basel Face Model 2009: it lacks {', '.join(missing)}; its variables: {found}")
    mean = positions(f"{path}: shapeMU", arrays["shapeMU"])
    shape = _modes(path, arrays, "shape", len(mean))
    colour = None
    if set(arrays) >= set(TEXTURE):
        tint = vector(f"{path}: texMU", arrays["texMU"], len(mean)) / 255
        if tint.max() <= 1.5 / 255:
            raise MediaError(f"{path}: texMU: expected colours from 0 to 255, got none above {255 * tint.max():.3g}")
        axes = _modes(path, arrays, "tex", len(mean))
        colour = tint, Axes(axes.basis, axes.variance / 255**2)
    faces = triangles(f"{path}: tl", arrays["tl"], len(mean) // 3, first=1)
    return build(path, unit or "um", faces[:, [0, 2, 1]], mean, shape, colour=colour)


def _modes(path: Path, arrays: dict[str, np.ndarray], part: str, size: int) -> Axes:
    deviation = vector(f"{path}: {part}EV", arrays[f"{part}EV"])
    if (deviation < 0).any():
        raise MediaError(f"{path}: {part}EV holds standard deviations, which must not be negative")
    return modes(f"{path}: {part}PC", arrays[f"{part}PC"], deviation**2, size)


def _variables(path: Path) -> dict[str, np.ndarray]:
    """The arrays of numbers of a MATLAB file, version 5 or later; from 7.3 on it is HDF5."""
    if h5py.is_hdf5(path):
        with open_hdf5(path) as file:
            # HDF5 stores rows where MATLAB stores columns.
            arrays = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
            return {name: item[()].T if name in SHAPE + TEXTURE else np.zeros(0) for name, item in arrays.items()}
    try:
        return dict(_matrices(path.read_bytes()))
    except (ValueError, KeyError, IndexError, struct.error, zlib.error) as error:
        raise MediaError(f"{path} cannot be read as a MATLAB file: {error!r}") from error


def _matrices(data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """The names and arrays of a file of version 5. (Not by scipy, where a broken file can end the whole process.)"""
    order, at = ">" if data[126:128] == b"MI" else "<", 128
    while at < len(data):
        kind, body, at = _element(data, at, order)
        if kind == PACKED:
            limit = max(LARGE, RATIO * len(body))
            kind, body, _ = _element(zlib.decompressobj().decompress(body, limit), 0, order)
        if kind != MATRIX:
            continue
        _, flags, inner = _element(body, 0, order)
        _, dimensions, inner = _element(body, inner, order)
        _, name, inner = _element(body, inner, order)
        shape = np.frombuffer(dimensions, order + "i4").tolist()
        values = np.zeros(0)
        if struct.unpack_from(f"{order}I", flags)[0] & 0xFF in REAL:
            kind, content, _ = _element(body, inner, order)
            values = np.frombuffer(content, order + STORED[kind]).reshape(shape, order="F")
        yield name.decode("latin-1"), values


def _element(data: bytes, at: int, order: str) -> tuple[int, bytes, int]:
    """The type and the content of the element that begins at a byte, and where the next one begins."""
    kind, size = struct.unpack_from(f"{order}II", data, at)
    start = at + 8
    if kind >> 16:  # a small element, all in 8 bytes
        kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
    if start + size > len(data):
        raise ValueError(f"{size} bytes are announced at byte {at}, {len(data) - start} are there")
    # All but what is packed is padded to 8 bytes.
    return kind, data[start : start + size], start + size + (-(start + size - at) % 8 if kind != PACKED else 0)
