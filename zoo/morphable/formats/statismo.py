"""HDF5 files of statismo and scalismo, among them the Basel Face Models of 2017 and 2019.

Sources: Lüthi, Blanc, Albrecht et al., "Statismo - A framework for PCA based statistical models", 2012; Gerig,
Morel-Forster, Blumer et al., "Morphable Face Models - An Open Framework", 2018.
"""

import json
import time
import warnings
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from modalities import MediaError
from zoo.morphable.formats.parts import Convention, Unit, build, finite, modes, open_hdf5, positions, triangles
from zoo.morphable.model import MorphableModel
from zoo.morphable.modes import Axes

PARTS = {"shape": "shape", "expression": "expression", "colour": "color"}
"""Our names of the parts, and those of their trees."""
MODEL = ("mean", "pcaBasis", "pcaVariance")
LAYOUT = (
    "model/mean, model/pcaBasis, model/pcaVariance and representer/ at the root, or the same in shape/ (and color/, "
    "expression/)"
)
OLD = ("vtkPolyDataRepresenter", "itkMeshRepresenter")
"""Representers of version 0.8, which may write no version."""
MESHES = ("POLYGON_MESH", "POLYGON_MESH_DATA")
VTK = {"float": ">f4", "double": ">f8", "int": ">i4", "vtkIdType": ">i4", "vtktypeint64": ">i8", "vtktypeint32": ">i4"}
"""The types of legacy VTK files, which keep a vtkIdType in 32 bits."""
METRES: dict[float, Unit] = {1e-6: "um", 0.001: "mm", 0.01: "cm", 1.0: "m"}
"""Units by the metres that `representer/length-unit` says."""


def read_statismo(path: Path, unit: Unit | None = None) -> MorphableModel:
    """Read one model at the root, or shape/ with color/ and expression/, versions 0.8, 0.9 and 1.

    The mean is that of positions. In version 0.8 columns of the basis have the length of a standard deviation, later 1.
    Lengths are in what `representer/length-unit` says, else in millimetres, unless `unit` says another.

    Landmarks, which the file keeps as positions, become the nearest vertices, in the file's order.
    """
    with open_hdf5(path) as file:
        return _read(path, file, unit)


def _read(path: Path, file: h5py.File, unit: Unit | None) -> MorphableModel:
    groups = {"shape": file} if "model" in file else {part: file[name] for part, name in PARTS.items() if name in file}
    if "shape" not in groups:
        raise MediaError(f"{path} is no statistical model: expected {LAYOUT}, found {_listing(file)}")
    means, axes, noises = {}, {}, {}
    for part, group in groups.items():
        means[part], axes[part], noises[part] = _part(path, group)
    for part, mean in means.items():
        if len(mean) != len(means["shape"]):
            vertices = len(means["shape"]) // 3
            raise MediaError(f"{path}: {PARTS[part]}/ has {len(mean) // 3} vertices, shape/ has {vertices}")
    reference, faces, length = _representer(path, groups["shape"], len(means["shape"]))
    if "colour" in groups:
        space = _text(groups["colour"].get("representer/colorspace"), "RGB")
        if space != "RGB":
            raise MediaError(f"{path}: expected colours in the space RGB, got {space!r}")
    return build(
        path,
        unit or length,
        faces,
        means["shape"] + means.get("expression", 0),  # the mean of an expression is an offset
        axes["shape"],
        axes.get("expression"),
        (means["colour"], axes["colour"]) if "colour" in groups else None,
        landmarks=_landmarks(path, file, reference),
        noise=noises["shape"] + noises.get("expression", 0.0),
    )


def _part(path: Path, group: h5py.Group) -> tuple[np.ndarray, Axes, float]:
    """Mean, modes and noise of a statistical model in the file."""
    name = f"{path}: {group.name.strip('/') or 'root'}"
    model = group.get("model")
    for key in MODEL:
        if not isinstance(model, h5py.Group) or not isinstance(model.get(key), h5py.Dataset):
            raise MediaError(f"{name}: expected {LAYOUT}; it lacks model/{key}, found {_listing(group)}")
    mean, basis, variance = (model[key][()] for key in MODEL)
    offset = positions(f"{name}/model/mean", mean)
    axes = modes(f"{name}/model/pcaBasis", basis, variance, len(offset), _convention(name, group))
    noise = float(np.ravel(model["noiseVariance"][()])[0]) if "noiseVariance" in model else 0.0
    if not 0 <= noise < np.inf:
        raise MediaError(f"{name}/model/noiseVariance must not be negative, got {noise:.4g}")
    return offset, axes, noise


def _convention(name: str, group: h5py.Group) -> Convention | None:
    """How long the columns of a basis are by the version that a tree or the file has; None if there is none."""
    for place in (group, group.file):
        if "version/majorVersion" in place and "version/minorVersion" in place:
            major, minor = (int(np.ravel(place[f"version/{key}Version"][()])[0]) for key in ("major", "minor"))
            if (major, minor) == (0, 8):
                return "scaled"
            if major == 1 or (major, minor) == (0, 9):
                return "orthonormal"
            raise MediaError(f"{name}: expected version 0.8, 0.9 or 1 of statismo, got {major}.{minor}")
    old = "representer" in group and _text(group["representer"].attrs.get("name"), "") in OLD
    return "scaled" if old else None


def _representer(path: Path, group: h5py.Group, size: int) -> tuple[np.ndarray, np.ndarray, Unit]:
    """The reference's positions, shape [V, 3], its triangles, and the unit."""
    name = f"{path}: {group.name.strip('/') or 'root'}/representer"
    representer = group.get("representer")
    if not isinstance(representer, h5py.Group):
        raise MediaError(f"{name}: expected a group with points and cells, found {_listing(group)}")
    kind = _text(representer.attrs.get("datasetType"), MESHES[0])
    if kind not in MESHES:
        raise MediaError(f"{name}: expected a mesh of triangles (datasetType POLYGON_MESH), got {kind}")
    if "points" in representer and "cells" in representer:
        points, cells = representer["points"][()], representer["cells"][()]
        for key, values in (("points", points), ("cells", cells)):
            if values.ndim != 2 or len(values) != 3:
                raise MediaError(f"{name}/{key}: expected a column of three each, got the shape {list(values.shape)}")
        points, cells = points.T, cells.T
    elif "reference-mesh" in representer:
        points, cells = (representer[f"reference-mesh/{key}"][()] for key in ("vertex-coordinates", "triangle-list"))
    elif "reference" in representer:
        points, cells = _vtk(name, representer["reference"][()].tobytes())
    else:
        raise MediaError(f"{name}: expected points and cells, found {_listing(representer)}")
    points = finite(f"{name}/points", points)
    if points.shape != (size // 3, 3):
        raise MediaError(f"{name}: expected {size // 3} points, as the mean has, got {len(points)}")
    metres = float(np.ravel(representer["length-unit"][()])[0]) if "length-unit" in representer else 0.001
    unit = next((name for value, name in METRES.items() if np.isclose(metres, value, rtol=1e-3, atol=0)), None)
    if unit is None:
        raise MediaError(f"{name}/length-unit: expected {', '.join(map(str, METRES))} metres, got {metres:g}")
    return points, triangles(f"{name}/cells", cells, len(points)), unit


def _vtk(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Points and triangles of a mesh that the oldest files keep as the bytes of a VTK file, as text or big-endian.

    VTK itself is not asked: a broken file can end its process.
    """
    _, _, form, rest = [*content.split(b"\n", 3), b"", b"", b"", b""][:4]
    points: np.ndarray | None = None
    cells: np.ndarray | None = None
    part, sizes, offsets = b"", (0, 0), np.zeros(0)

    def numbers(count: int, kind: bytes) -> np.ndarray:
        nonlocal rest
        stored = np.dtype(VTK[kind.decode()])
        if form.strip() == b"BINARY":
            values, rest = np.frombuffer(rest, stored, count), rest[count * stored.itemsize :]
        else:
            words = rest.split(None, count)
            values, rest = np.array(words[:count], np.float64).astype(stored), b"".join(words[count:])
        if len(values) < count:
            raise ValueError(f"{count} numbers are announced, {len(values)} are there")
        return values

    try:
        while rest and (points is None or cells is None):
            line, _, rest = rest.partition(b"\n")
            match line.split():
                case [b"POINTS", count, kind]:
                    points = numbers(3 * int(count), kind).reshape(-1, 3)
                case [b"VERTICES" | b"LINES" | b"POLYGONS" as part, count, size]:
                    sizes = int(count), int(size)
                    if not rest.startswith(b"OFFSETS"):  # rows of a count and that many points
                        rows = numbers(sizes[1], b"int")
                        cells = rows.reshape(-1, 4) if part == b"POLYGONS" else cells
                case [b"OFFSETS", kind]:
                    offsets = numbers(sizes[0], kind)
                case [b"CONNECTIVITY", kind]:
                    corners = numbers(sizes[1], kind)
                    counts = np.diff(offsets)[:, None]
                    cells = np.concatenate([counts, corners.reshape(-1, 3)], 1) if part == b"POLYGONS" else cells
        if points is None or cells is None or (cells[:, 0] != 3).any():
            raise ValueError("expected points and triangles")
    except (ValueError, KeyError, TypeError) as error:
        raise MediaError(f"{name}/reference cannot be read as a VTK mesh: {error!r}") from error
    return points, cells[:, 1:]


def _landmarks(path: Path, file: h5py.File, reference: np.ndarray) -> list[int]:
    """The vertices nearest to the landmarks of metadata/landmarks, in the file's order."""
    text = _text(file.get("metadata/landmarks/json"), "")
    lines = _text(file.get("metadata/landmarks/text"), "").splitlines()
    try:
        rows = [mark["coordinates"] for mark in json.loads(text)] if text else [line.split()[2:5] for line in lines]
        marks = np.array([row for row in rows if row], np.float64).reshape(-1, 3)
    except (ValueError, KeyError, TypeError) as error:
        raise MediaError(f"{path}: metadata/landmarks: expected three coordinates each: {error!r}") from error
    finite(f"{path}: metadata/landmarks", marks)
    distances = [np.linalg.norm(reference - mark, axis=1) for mark in marks]
    far = max((float(distance.min()) for distance in distances), default=0.0)
    if far > 0.01 * np.ptp(reference, axis=0).max():
        warnings.warn(
            f"{path}: the landmark farthest from the mesh moved by {far:.3g} to its nearest vertex", stacklevel=2
        )
    return [int(distance.argmin()) for distance in distances]


def _text(item: object, default: str) -> str:
    """A string of an attribute or a data set, alone or in an array; statismo ends it with a zero."""
    if item is None:
        return default
    value = np.asarray(item[()] if isinstance(item, h5py.Dataset) else item).ravel()[0]
    return (value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)).rstrip("\0").strip()


def _listing(group: h5py.Group) -> str:
    return ", ".join(sorted(group)) or "nothing"


def write_statismo(model: MorphableModel, path: Path) -> None:
    """Write version 0.9; see `zoo.morphable.formats.write_model`."""
    means = {"shape": model.mean[:, :3], "expression": torch.zeros_like(model.mean[:, :3]), "colour": model.mean[:, 3:]}
    present = [part for part, size in zip(means, model.sizes, strict=True) if size or part == "shape"]
    with h5py.File(path, "w") as file:
        _write_version(file)
        if present == ["shape"]:
            _write_part(file, model, "shape", means["shape"], "itkStandardMeshRepresenter")
            entries = [("StatisticalModel", "/", "POLYGON_MESH_MODEL")]
        else:
            entries = [("MorphableModel", "/", "CUSTOM_MODEL")]
            for part in present:
                name, data = PARTS[part], "" if part == "shape" else "_DATA"
                group = file.create_group(name)
                _write_version(group)
                _write_part(group, model, part, means[part], f"gravis::Mesh{name.capitalize()}Representer")
                entries.append((f"MorphableModel.{name}", f"/{name}", f"POLYGON_MESH{data}_MODEL"))
        for name, place, kind in entries:
            file[f"catalog/{name}/modelPath"], file[f"catalog/{name}/modelType"] = np.bytes_(place), np.bytes_(kind)
        marks = [
            {"id": str(i), "coordinates": means["shape"][mark].tolist()} for i, mark in enumerate(model.landmarks, 1)
        ]
        if marks:
            file["metadata/landmarks/json"] = np.bytes_(json.dumps(marks))


def _write_part(group: h5py.Group, model: MorphableModel, part: str, mean: Tensor, representer: str) -> None:
    axes, built = model.axes(part), np.bytes_(time.strftime("%Y-%m-%d %H:%M:%S"))
    # scalismo asks for these very types: float32 and int32, one variance in a row of its own.
    arrays = {
        "model/mean": mean.flatten().float(),
        "model/noiseVariance": model.noise.float().reshape(1) * (part == "shape"),
        "model/pcaBasis": axes.basis.T.float(),
        "model/pcaVariance": axes.variance.float(),
        "modelinfo/scores": torch.zeros(1, 1),
        "representer/points": model.mean[:, :3].T.float(),
        "representer/cells": model.modality.triangles.T.int(),
    }
    for name, values in arrays.items():
        group[name] = values.cpu().numpy()
    builder = group.create_group("modelinfo/modelBuilder-0")
    group["modelinfo/build-time"] = builder["buildTime"] = built
    builder["builderName"] = np.bytes_("latent-zoo")
    for name in ("parameters", "dataInfo"):
        builder.create_group(name)
    kinds = {"name": representer, "datasetType": "POLYGON_MESH", "version/majorVersion": "0"}
    for name, kind in (kinds | {"version/minorVersion": "9"}).items():
        group["representer"].attrs[name] = np.bytes_(kind)
    if part == "shape":
        group["representer/length-unit"] = np.float32(0.001)
    if part == "colour":
        group["representer/colorspace"] = np.bytes_("RGB")


def _write_version(group: h5py.Group) -> None:
    group["version/majorVersion"], group["version/minorVersion"] = np.int32(0), np.int32(9)
