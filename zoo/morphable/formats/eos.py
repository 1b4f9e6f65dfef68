"""Models of eos, a library that fits them to pictures: a binary archive of cereal, little-endian.

Source: Huber, Hu, Tena, Mortazavian, Koppen, Christmas, Rätsch, Kittler, "A Multiresolution 3D Morphable Face Model and
Fitting Framework", 2016.
"""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from modalities import MediaError
from modalities.meshes.geometry import check_indices, vertex_uv
from zoo.morphable.formats.parts import Unit, blendshapes, build, finite, modes, positions, triangles
from zoo.morphable.model import MorphableModel
from zoo.morphable.modes import Axes


class Pca(NamedTuple):
    """A model of principal components as the file has it; without a part, all are empty."""

    mean: np.ndarray
    basis: np.ndarray
    variance: np.ndarray
    faces: np.ndarray


class Archive:
    """The bytes of a file, read in order; what is missing is named."""

    def __init__(self, path: Path):
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def array(self, field: str, kind: str, count: int) -> np.ndarray:
        """So many numbers of a type."""
        size = count * np.dtype(kind).itemsize
        if count < 0 or self.at + size > len(self.data):
            raise MediaError(
                f"{self.path} is cut short or no eos model: {field} begins at byte {self.at} and needs {size} bytes, "
                f"the file has {len(self.data)}"
            )
        self.at += size
        return np.frombuffer(self.data, kind, count, self.at - size)

    def number(self, field: str, kind: str = "<u8") -> int:
        """One whole number."""
        return int(self.array(field, kind, 1)[0])

    def matrix(self, field: str) -> np.ndarray:
        """Rows, columns, and then the numbers column by column."""
        rows, columns = self.array(f"{field}: rows and columns", "<i4", 2).tolist()
        if rows < 0 or columns < 0:
            raise MediaError(f"{self.path}: {field} at byte {self.at - 8} has the shape [{rows}, {columns}]")
        return self.array(field, "<f4", rows * columns).reshape(rows, columns, order="F")

    def text(self, field: str) -> str:
        """A length and characters."""
        return self.array(field, "u1", self.number(f"{field}: length")).tobytes().decode("utf-8", "replace")

    def faces(self, field: str) -> np.ndarray:
        """A count and triangles, shape [F, 3]."""
        return self.array(field, "<i4", 3 * self.number(f"{field}: count")).reshape(-1, 3)

    def pca(self, field: str) -> Pca:
        """Mean, orthonormal basis, eigenvalues and triangles."""
        names = ("mean", "orthonormal_pca_basis", "eigenvalues")
        mean, basis, variance = (self.matrix(f"{field}.{name}") for name in names)
        return Pca(mean, basis, variance, self.faces(f"{field}.triangle_list"))

    def present(self, field: str) -> bool:
        """Whether an optional part is there."""
        return not self.number(f"{field}: absent", "u1")


def read_eos(path: Path, unit: Unit | None = None) -> MorphableModel:
    """Read versions 1 to 4, in millimetres unless `unit` says another.

    Version 2 adds expressions (principal components, or blendshapes), 3 landmarks, 4 triangles of the texture. A vertex
    on a seam of the texture takes one coordinate. Landmarks that are numbers come in their order, others by name.
    """
    archive = Archive(path)
    version = archive.number("version", "<u4")
    if version not in (1, 2, 3, 4):
        raise MediaError(
            f"{path} is no eos model: expected version 1, 2, 3 or 4 in its first four bytes, got {version}"
        )
    shape, colour = archive.pca("shape_model"), archive.pca("color_model")
    moving: Pca | None = None
    blended: dict[str, np.ndarray] = {}
    if version >= 2 and archive.present("expression_model"):
        kind = archive.number("expression_model: kind", "<i4")
        if kind not in (0, 1):
            raise MediaError(f"{path}: expression_model: expected the kind 0 or 1, got {kind}")
        if kind == 0:
            moving = archive.pca("expression_model")
        for _ in range(archive.number("expression_model: count") if kind else 0):
            name = archive.text("expression_model: name")
            blended[name] = archive.matrix(f"expression_model: {name}")
    marks: dict[str, int] = {}
    if version >= 3 and archive.present("landmark_definitions"):
        for _ in range(archive.number("landmark_definitions: count")):
            name = archive.text("landmark_definitions: name")
            marks[name] = archive.number(f"landmark_definitions: {name}", "<i4")
    uv = archive.array("texture_coordinates", "<f8", 2 * archive.number("texture_coordinates: count")).reshape(-1, 2)
    uv_faces = archive.faces("texture_triangle_indices") if version == 4 else np.zeros((0, 3), np.int32)
    if archive.at < len(archive.data):
        raise MediaError(f"{path}: {len(archive.data) - archive.at} bytes follow the model, which ends at {archive.at}")

    mean = positions(f"{path}: shape_model.mean", shape.mean)
    size, vertices = len(mean), len(mean) // 3
    faces = triangles(f"{path}: shape_model.triangle_list", shape.faces, vertices)

    def part(name: str, found: Pca) -> tuple[np.ndarray, Axes]:
        centre = positions(f"{path}: {name}.mean", found.mean)
        if len(centre) != size:
            raise MediaError(f"{path}: {name} has {len(centre) // 3} vertices, shape_model has {vertices}")
        return centre, modes(f"{path}: {name}.orthonormal_pca_basis", found.basis, found.variance, size)

    expression, steps = None, None
    if moving is not None:
        offset, expression = part("expression_model", moving)
        mean = mean + offset
    if blended:
        for name, values in blended.items():
            if values.size != size:
                raise MediaError(f"{path}: expression_model: {name} has {values.size} numbers, expected {size}")
        rows = np.stack([values.ravel() for values in blended.values()])
        expression, directions = blendshapes(f"{path}: expression_model", rows)
        steps = list(blended), directions
    for name, mark in marks.items():
        if not 0 <= mark < vertices:
            raise MediaError(f"{path}: the landmark {name!r} is vertex {mark} of {vertices}")
    named = sorted(marks, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    return build(
        path,
        unit or "mm",
        faces,
        mean,
        part("shape_model", shape)[1],
        expression,
        part("color_model", colour) if colour.mean.size else None,
        steps=steps,
        uv=_vertex_uv(path, uv, faces, uv_faces, vertices),
        landmarks=[marks[name] for name in named],
    )


def _vertex_uv(path: Path, uv: np.ndarray, faces: np.ndarray, uv_faces: np.ndarray, vertices: int) -> np.ndarray | None:
    """One texture coordinate a vertex; eos counts v from the top, we from below."""
    if not len(uv):
        return None
    uv = finite(f"{path}: texture_coordinates", uv) * [1, -1] + [0, 1]
    if not len(uv_faces):
        if len(uv) != vertices:
            raise MediaError(
                f"{path}: texture_coordinates: expected one for each of {vertices} vertices, got {len(uv)}"
            )
        return uv
    if uv_faces.shape != faces.shape:
        raise MediaError(f"{path}: texture_triangle_indices: expected {len(faces)} triangles, got {len(uv_faces)}")
    check_indices(uv_faces, len(uv), f"{path}: texture_triangle_indices")
    return vertex_uv(faces.ravel(), uv_faces.ravel(), uv, vertices)


def write_eos(model: MorphableModel, path: Path) -> None:
    """Write the lowest version that holds the model; see `zoo.morphable.formats.write_model`."""
    marks, expressive = model.landmarks.tolist(), len(model.expression_basis) > 0
    version = 3 if marks else 2 if expressive else 1
    faces = model.modality.triangles.cpu().numpy()
    mean = model.mean.cpu().numpy()
    none = Axes(torch.zeros(0, 0), torch.zeros(0))
    data = struct.pack("<I", version) + _pca(mean[:, :3], model.axes("shape"), faces)
    coloured = model.modality.colours
    data += _pca(mean[:, 3:], model.axes("colour"), faces) if coloured else _pca(mean[:0], none, faces[:0])
    if version >= 2:
        data += struct.pack("<?", not expressive)
        if expressive:
            data += struct.pack("<i", 0) + _pca(np.zeros_like(mean[:, :3]), model.axes("expression"), faces)
    if version >= 3:
        data += struct.pack("<?Q", False, len(marks))
        for i, mark in enumerate(marks):
            name = str(i + 1).encode()
            data += struct.pack(f"<Q{len(name)}si", len(name), name, mark)
    places = np.zeros((0, 2)) if model.modality.uv is None else model.modality.uv.double().cpu().numpy()
    data += struct.pack("<Q", len(places)) + (places * [1, -1] + [0, 1]).astype("<f8").tobytes()
    path.write_bytes(data)


def _pca(mean: np.ndarray, axes: Axes, faces: np.ndarray) -> bytes:
    basis, variance = (values.float().cpu().numpy() for values in axes)
    data = b""
    for matrix in (mean.reshape(-1, 1), basis.T, variance[:, None]):
        data += struct.pack("<ii", *matrix.shape) + matrix.astype("<f4").tobytes("F")
    return data + struct.pack("<Q", len(faces)) + faces.astype("<i4").tobytes()
