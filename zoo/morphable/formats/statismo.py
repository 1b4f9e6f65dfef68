"""HDF5 files of statismo and scalismo, among them the Basel Face Models of 2017 and 2019.

Sources: Lüthi, Blanc, Albrecht et al., "Statismo - A framework for PCA based statistical models", 2012; Gerig,
Morel-Forster, Blumer et al., "Morphable Face Models - An Open Framework", 2018.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from modalities import MediaError
from zoo.morphable.formats.parts import Convention, Unit, build, finite, modes, positions, triangles, vector
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
METRES: dict[float, Unit] = {1e-6: "um", 0.001: "mm", 0.01: "cm", 1.0: "m"}
"""Units by the metres that `representer/length-unit` says."""


class Tree(NamedTuple):
    """A statistical model in the file."""

    mean: np.ndarray
    modes: Axes
    noise: float


def read_statismo(path: Path, unit: Unit | None = None) -> MorphableModel:
    """Read one model at the root, or shape/ with color/ and expression/, versions 0.8, 0.9 and 1.

    The mean is that of positions. In version 0.8 columns of the basis have the length of a standard deviation, later 1.
    Lengths are in what `representer/length-unit` says, else in millimetres, unless `unit` says another.

    Landmarks, which the file keeps as positions, become the nearest vertices, in the file's order.
    """
    try:
        file = h5py.File(path)
    except OSError as error:
        raise MediaError(f"{path} cannot be read as HDF5: {error}") from error
    # Damage inside a file shows when an array is read.
    try:
        with file:
            return _read(path, file, unit)
    except (OSError, RuntimeError, KeyError) as error:
        raise MediaError(f"{path} cannot be read: {error}") from error


def _read(path: Path, file: h5py.File, unit: Unit | None) -> MorphableModel:
    groups = {part: file.get(name) for part, name in PARTS.items()}
    if "model" in file:
        groups = dict.fromkeys(PARTS) | {"shape": file}
    if groups["shape"] is None:
        raise MediaError(f"{path} is no statistical model: expected {LAYOUT}, found {_listing(file)}")
    trees = {part: _tree(path, group) for part, group in groups.items() if group is not None}
    shape = trees["shape"]
    reference, faces, length = _representer(path, groups["shape"], len(shape.mean))
    for part, tree in trees.items():
        if len(tree.mean) != len(shape.mean):
            raise MediaError(
                f"{path}: {PARTS[part]}/ has {len(tree.mean) // 3} vertices, shape/ has {len(shape.mean) // 3}"
            )
    colour = trees.get("colour")
    if colour is not None:
        space = _text(groups["colour"].get("representer/colorspace"), "RGB")
        if space != "RGB":
            raise MediaError(f"{path}: expected colours in the space RGB, got {space!r}")
    expression = trees.get("expression")
    return build(
        path,
        unit or length,
        faces,
        # The mean of an expression is an offset.
        shape.mean if expression is None else shape.mean + expression.mean,
        shape.modes,
        None if expression is None else expression.modes,
        None if colour is None else (colour.mean, colour.modes),
        landmarks=_landmarks(path, file, reference),
        noise=shape.noise + (0.0 if expression is None else expression.noise),
    )


def _tree(path: Path, group: h5py.Group) -> Tree:
    name = f"{path}: {group.name.strip('/') or 'root'}"
    model = group.get("model")
    missing = [
        key for key in MODEL if not isinstance(model, h5py.Group) or not isinstance(model.get(key), h5py.Dataset)
    ]
    if missing:
        raise MediaError(f"{name}: expected {LAYOUT}; it lacks model/{missing[0]}, found {_listing(group)}")
    mean, basis, variance = (np.asarray(model[key][()]) for key in MODEL)
    offset = positions(f"{name}/model/mean", mean)
    axes = modes(f"{name}/model/pcaBasis", basis, variance, len(offset), _convention(name, group))
    noise = (
        vector(f"{name}/model/noiseVariance", np.asarray(model["noiseVariance"][()]))
        if "noiseVariance" in model
        else [0]
    )
    if noise[0] < 0:
        raise MediaError(f"{name}/model/noiseVariance must not be negative, got {noise[0]:.4g}")
    return Tree(offset, axes, float(noise[0]))


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
    if "representer" in group and _text(group["representer"].attrs.get("name"), "") in OLD:
        return "scaled"
    return None


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
        points, cells = (np.asarray(representer[key][()]) for key in ("points", "cells"))
        for key, values in (("points", points), ("cells", cells)):
            if values.ndim != 2 or len(values) != 3:
                raise MediaError(f"{name}/{key}: expected a column of three each, got the shape {list(values.shape)}")
        points, cells = points.T, cells.T
    elif "reference-mesh" in representer:
        points, cells = (
            np.asarray(representer[f"reference-mesh/{key}"][()]) for key in ("vertex-coordinates", "triangle-list")
        )
    elif "reference" in representer:
        points, cells = _vtk(name, np.asarray(representer["reference"][()]))
    else:
        raise MediaError(f"{name}: expected points and cells, found {_listing(representer)}")
    points = finite(f"{name}/points", points)
    if points.shape != (size // 3, 3):
        raise MediaError(f"{name}: expected {size // 3} points, as the mean has, got {len(points)}")
    unit: Unit = "mm"
    if "length-unit" in representer:
        metres = float(np.ravel(representer["length-unit"][()])[0])
        near = [name for value, name in METRES.items() if np.isclose(metres, value, rtol=1e-3, atol=0)]
        if not near:
            raise MediaError(f"{name}/length-unit: expected {', '.join(map(str, METRES))} metres, got {metres:g}")
        unit = near[0]
    return points, triangles(f"{name}/cells", cells, len(points)), unit


def _vtk(name: str, content: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and triangles of a mesh that the oldest files keep as the bytes of a VTK file."""
    import pyvista

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reference.vtk"
        file.write_bytes(content.tobytes())
        try:
            mesh: Any = pyvista.read(file)
            return np.asarray(mesh.points), mesh.regular_faces
        except Exception as error:
            raise MediaError(f"{name}/reference cannot be read as a VTK mesh: {error}") from error


def _landmarks(path: Path, file: h5py.File, reference: np.ndarray) -> list[int]:
    """The vertices nearest to the landmarks of metadata/landmarks, in the file's order."""
    text = _text(file.get("metadata/landmarks/json"), "")
    lines = _text(file.get("metadata/landmarks/text"), "").splitlines()
    try:
        if text.strip():
            rows = [mark["coordinates"] for mark in json.loads(text)]
        else:
            rows = [line.split()[2:5] for line in lines if line.strip()]
        marks = np.array(rows, np.float64).reshape(-1, 3)
    except (ValueError, KeyError, TypeError) as error:
        raise MediaError(f"{path}: metadata/landmarks: expected three coordinates each: {error!r}") from error
    finite(f"{path}: metadata/landmarks", marks)
    return [int(((reference - mark) ** 2).sum(1).argmin()) for mark in marks]


def _text(item: Any, default: str) -> str:
    """A string of an attribute or a data set, alone or in an array; statismo ends it with a zero."""
    if item is None:
        return default
    value = np.ravel(item[()] if isinstance(item, h5py.Dataset) else item)[0]
    return (value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)).rstrip("\0").strip()


def _listing(group: h5py.Group) -> str:
    return ", ".join(sorted(group)) or "nothing"


def write_statismo(model: MorphableModel, path: Path) -> None:
    """Write version 0.9; see `zoo.morphable.formats.write_model`."""
    mean = model.mean.double().cpu().numpy()
    points = mean[:, :3]
    coloured, expressive = model.modality.colours, len(model.expression_basis) > 0
    with h5py.File(path, "w") as file:
        _write_version(file)
        if not coloured and not expressive:
            _write_tree(file, model, "shape", points, "itkStandardMeshRepresenter")
            _write_catalog(file, {"StatisticalModel": ("/", "POLYGON_MESH_MODEL")})
        else:
            entries = {
                "MorphableModel": ("/", "CUSTOM_MODEL"),
                "MorphableModel.shape": ("/shape", "POLYGON_MESH_MODEL"),
            }
            _write_tree(file.create_group("shape"), model, "shape", points, "gravis::MeshShapeRepresenter")
            if coloured:
                group = file.create_group("color")
                _write_tree(group, model, "colour", mean[:, 3:], "gravis::MeshColorRepresenter")
                group["representer/colorspace"] = np.bytes_("RGB")
                entries["MorphableModel.color"] = ("/color", "POLYGON_MESH_DATA_MODEL")
            if expressive:
                group = file.create_group("expression")
                _write_tree(group, model, "expression", 0 * points, "gravis::MeshExpressionRepresenter")
                entries["MorphableModel.expression"] = ("/expression", "POLYGON_MESH_DATA_MODEL")
            _write_catalog(file, entries)
        marks = model.landmarks.tolist()
        if marks:
            rows = [{"id": str(i + 1), "coordinates": points[mark].tolist()} for i, mark in enumerate(marks)]
            file["metadata/landmarks/json"] = np.bytes_(json.dumps(rows))


def _write_tree(group: h5py.Group, model: MorphableModel, part: str, mean: np.ndarray, representer: str) -> None:
    axes = model.axes(part)
    # scalismo asks for these very types: float32 and int32, one variance in a row of its own.
    group["model/mean"] = mean.ravel().astype(np.float32)
    group["model/noiseVariance"] = np.full(1, model.noise.item() if part == "shape" else 0, np.float32)
    group["model/pcaBasis"] = axes.basis.T.contiguous().float().cpu().numpy()
    group["model/pcaVariance"] = axes.variance.float().cpu().numpy()
    built = np.bytes_(time.strftime("%Y-%m-%d %H:%M:%S"))
    group["modelinfo/build-time"] = built
    group["modelinfo/scores"] = np.zeros((1, 1), np.float32)
    builder = group.create_group("modelinfo/modelBuilder-0")
    builder["buildTime"] = built
    builder["builderName"] = np.bytes_("latent-zoo")
    builder.create_group("parameters")
    builder.create_group("dataInfo")
    mesh = group.create_group("representer")
    for key, value in (
        ("name", representer),
        ("datasetType", "POLYGON_MESH"),
        ("version/majorVersion", "0"),
        ("version/minorVersion", "9"),
    ):
        mesh.attrs[key] = np.bytes_(value)
    mesh["points"] = model.mean[:, :3].T.contiguous().float().cpu().numpy()
    mesh["cells"] = model.modality.triangles.T.contiguous().int().cpu().numpy()
    if part == "shape":
        mesh["length-unit"] = np.float32(0.001)
    if group.name != "/":
        _write_version(group)


def _write_version(group: h5py.Group) -> None:
    group["version/majorVersion"], group["version/minorVersion"] = np.int32(0), np.int32(9)


def _write_catalog(file: h5py.File, entries: dict[str, tuple[str, str]]) -> None:
    for name, (place, kind) in entries.items():
        entry = file.create_group(f"catalog/{name}")
        entry["modelPath"], entry["modelType"] = np.bytes_(place), np.bytes_(kind)
