"""The Basel Face Model 2009, a MATLAB file.

Source: Paysan, Knothe, Amberg, Romdhani, Vetter, "A 3D Face Model for Pose and Illumination Invariant Face
Recognition", 2009.
"""

import math
from pathlib import Path

import h5py
import numpy as np

from modalities import MediaError
from zoo.morphable.formats.parts import LARGE, RATIO, Unit, build, modes, open_hdf5, positions, triangles, vector
from zoo.morphable.model import MorphableModel
from zoo.morphable.modes import Axes

SHAPE = ("shapeMU", "shapePC", "shapeEV", "tl")
TEXTURE = ("texMU", "texPC", "texEV")


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
    """The model's arrays, of a MATLAB file of any version; versions from 7.3 on are HDF5."""
    from scipy.io import loadmat, whosmat

    wanted = {*SHAPE, *TEXTURE}
    if h5py.is_hdf5(path):
        with open_hdf5(path) as file:
            # HDF5 stores rows where MATLAB stores columns.
            return {
                name: item[()].T if name in wanted else np.zeros(0)
                for name, item in file.items()
                if isinstance(item, h5py.Dataset)
            }
    # scipy fails on broken files in many ways.
    try:
        shapes = {name: shape for name, shape, _ in whosmat(path)}
        sizes = {name: 8 * math.prod(shape) for name, shape in shapes.items() if name in wanted}
        if sizes and (most := max(sizes.values())) > max(LARGE, RATIO * path.stat().st_size):
            raise ValueError(f"it announces an array of {most} bytes")
        found = loadmat(path, variable_names=sorted(sizes))
    except Exception as error:
        raise MediaError(f"{path} cannot be read as a MATLAB file: {error}") from error
    return {name: np.asarray(found.get(name, np.zeros(0))) for name in shapes}
