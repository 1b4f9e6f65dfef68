"""The ICT Face Model: a linear morphable model of 3-D faces from light-stage scans, with ARKit-like expressions.

Source: Li, Bladin, Zhao et al., "Learning Formation of Physically-Based Face Attributes", 2020. Licence: MIT, copyright
2020 USC Institute for Creative Technologies.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from modalities.arrays import read_npz
from modalities.meshes import Meshes
from modalities.meshes.files import UNITS, read_mesh
from modalities.meshes.geometry import join_polygons
from modalities.meshes.sets import COUNTS, LinearMeshes
from modalities.modality import MediaError

FACE_FILE = "ict_face_model_full.npz"
NEUTRAL, INDICES = "generic_neutral_mesh.obj", "vertex_indices.json"
"""Of ICT FaceKit: the mesh without expression, and the vertices of landmarks."""
ARRAYS = ("neutral", "identity_modes", "expression_deltas", "expression_names", "faces", "uv", "faces_uv")
CUTS = ("narrow_face", "part_ranges", "landmarks_multipie68")


class FaceModel(NamedTuple):
    """face = mean + z @ identity + w @ expressions, with z ~ N(0, I) and w in [0, 1]; millimetres, float32."""

    medium: Meshes
    """Meshes on this model's triangles (quads are split), with one texture coordinate a vertex."""
    mean: Tensor
    """The neutral mean face, shape [vertices, 3]."""
    identity: Tensor
    """Offsets of one standard deviation, orthogonal to each other, shape [identities, vertices, 3]; 100 of them."""
    expressions: Tensor
    """Offsets at weight 1, shape [expressions, vertices, 3]."""
    expression_names: list[str]
    """Such as "jawOpen" and "mouthSmile_L"; _L and _R are the face's own left and right."""
    landmarks: Tensor
    """The vertices of the 68 landmarks of iBUG in their order (jaw, brows, nose, eyes, mouth), shape [68], int64; of
    FaceKit none, if it does not say them."""


def is_face_model(path: str | Path) -> bool:
    """Whether a path is that of `ict_face_model_full.npz`, or of the folder that holds it."""
    path = Path(path).expanduser()
    return path.name == FACE_FILE or (path / FACE_FILE).is_file()


def read_face_model(path: str | Path, vertices: int = 6706) -> FaceModel:
    """Read `ict_face_model_full.npz`, or the folder that holds it, cut to its first `vertices`.

    A cut keeps the order, so that a narrower face is the beginning of a wider one: 6,706 vertices are the narrow face,
    9,409 the face, 11,248 face, head and neck, 14,062 these with the sockets of eyes and mouth, 26,719 everything.
    The file's centimetres become millimetres.

    A vertex on a seam of the texture takes the coordinate of most of its corners. The face lies in [0, 1]; other parts
    have textures of their own, whose number is the whole part of u.

    Raises `MediaError` if the file is missing or broken or another model, and on a number of vertices in between.
    """
    path = Path(path).expanduser()
    file = path / FACE_FILE if path.is_dir() else path
    arrays = read_npz(file, *ARRAYS, *CUTS)
    missing = sorted({*ARRAYS, *CUTS} - set(arrays))
    if missing:
        raise MediaError(f"{file} is no face model: it lacks {', '.join(missing)}")
    try:
        return _cut(arrays, vertices)
    except MediaError as error:
        raise MediaError(f"{file}: {error}") from error
    except (ValueError, IndexError, TypeError) as error:
        raise MediaError(f"{file} is no face model: {error}") from error


def _cut(arrays: dict[str, np.ndarray], vertices: int) -> FaceModel:
    offsets = [arrays[name] for name in ("neutral", "identity_modes", "expression_deltas")]
    count, names = len(offsets[0]), arrays["expression_names"]
    shapes = [list(values.shape) for values in offsets]
    if shapes != [[count, 3], [len(offsets[1]), count, 3], [len(names), count, 3]]:
        raise MediaError(f"its neutral, identity_modes and expression_deltas {shapes} do not fit together")
    if not all(np.isfinite(values).all() for values in (*offsets, arrays["uv"])):
        raise MediaError("its arrays hold NaN or infinite values")
    cuts = {int(arrays["narrow_face"][0]): int(arrays["narrow_face"][1])}
    cuts |= {int(end): int(faces) for _, end, _, faces in arrays["part_ranges"]}
    if vertices not in cuts:
        raise MediaError(f"it can be cut to {', '.join(map(str, sorted(cuts)))} vertices, not to {vertices}")
    landmarks = arrays["landmarks_multipie68"].astype(np.int64)
    beyond = np.flatnonzero((landmarks < 0) | (landmarks >= vertices))
    if len(beyond):
        raise MediaError(f"landmarks {', '.join(map(str, beyond))} are not among the first {vertices} vertices")
    polygons, corners = arrays["faces"][: cuts[vertices]], arrays["faces_uv"][: cuts[vertices]]
    # Triangles have -1 for their fourth corner.
    used = polygons >= 0
    places = polygons[used], arrays["uv"], corners[used]
    mesh = join_polygons(offsets[0][:vertices], used.sum(axis=1), *places)
    uv = None if mesh.uv is None else torch.from_numpy(mesh.uv)
    neutral, identity, expressions = (
        torch.from_numpy(UNITS["cm"] * values[..., :vertices, :].astype(np.float32)) for values in offsets
    )
    medium = Meshes(vertices, faces=torch.from_numpy(mesh.faces), uv=uv)
    expression_names = [str(name) for name in names]
    return FaceModel(medium, neutral, identity, expressions, expression_names, torch.from_numpy(landmarks))


def read_facekit(folder: str | Path, unit: str = "cm") -> FaceModel:
    """Read ICT FaceKit, a folder of meshes: `generic_neutral_mesh.obj`, `identity000.obj` and so on, each one standard
    deviation from it, and every other mesh as an expression; landmarks of `vertex_indices.json`, if it is there.

    Raises `MediaError` that names the file and what is wrong.
    """
    folder = Path(folder)
    if not (folder / NEUTRAL).is_file() and (folder / "FaceXModel" / NEUTRAL).is_file():
        folder = folder / "FaceXModel"
    if not (folder / NEUTRAL).is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise MediaError(f"{folder} is no ICT FaceKit: expected {NEUTRAL} and identity000.obj, found {found}")
    names = sorted(path.stem for path in folder.glob("*.obj") if path.name != NEUTRAL and path.is_file())
    identities = [name for name in names if name.startswith("identity")]
    expected = [f"identity{number:03d}" for number in range(max(1, len(identities)))]
    if identities != expected:
        missing = sorted(set(expected) - set(identities)) or ["another number"]
        raise MediaError(f"{folder}: expected {expected[0]}.obj to {expected[-1]}.obj, {missing[0]}.obj is not there")
    neutral = read_mesh(folder / NEUTRAL, unit)
    mean = _positions(folder / NEUTRAL)

    def offsets(chosen: Sequence[str]) -> Tensor:
        found = torch.empty(len(chosen), *mean.shape)
        for row, name in zip(found, chosen, strict=True):
            points = _positions(folder / f"{name}.obj")
            if points.shape != mean.shape:
                raise MediaError(
                    f"{folder / name}.obj has {len(points)} vertices, the neutral mesh has {len(mean)}: the "
                    "meshes must share their vertices"
                )
            row[:] = torch.from_numpy(UNITS[unit] * (points - mean))
        return found

    uv = None if neutral.uv is None else torch.from_numpy(neutral.uv)
    moving = [name for name in names if name not in set(identities)]
    return FaceModel(
        Meshes(len(mean), faces=torch.from_numpy(neutral.faces), uv=uv),
        torch.from_numpy(UNITS[unit] * mean).float(),
        offsets(identities),
        offsets(moving),
        moving,
        _landmarks(folder / INDICES, len(mean)),
    )


def _positions(path: Path) -> np.ndarray:
    """The vertices of an OBJ file alone, shape [vertices, 3], float64: there are many such files."""
    try:
        with path.open("rb") as file:
            rows = (line for line in file if line.startswith(b"v "))
            values = np.loadtxt(rows, usecols=(1, 2, 3), ndmin=2)
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: expected three numbers for every vertex: {error}") from error
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise MediaError(f"{path}: {bad} of {values.size} numbers are NaN or infinite")
    return values


def _landmarks(path: Path, vertices: int) -> Tensor:
    if not path.is_file():
        return torch.zeros(0, dtype=torch.int64)
    try:
        marks = json.loads(path.read_text(encoding="utf-8"))["idx_to_landmark_verts"]
        valid = all(isinstance(mark, int) and 0 <= mark < vertices for mark in marks)
    except (ValueError, KeyError, TypeError) as error:
        raise MediaError(f"{path}: expected a list idx_to_landmark_verts of vertices: {error!r}") from error
    if not valid:
        raise MediaError(f"{path}: idx_to_landmark_verts: expected numbers of vertices from 0 to {vertices - 1}")
    return torch.tensor(marks)


def generated_faces(path: Path, vertices: int) -> LinearMeshes:
    """Faces of the model of a file with random identities and expressions; see `face_weights`."""
    model = read_face_model(path, vertices)
    offsets = torch.cat([model.identity, model.expressions])
    return LinearMeshes(model.medium, model.mean, offsets, face_weights(model.expression_names))


def face_weights(names: Sequence[str]) -> Tensor:
    """Weights of 100 identity modes and of the named expressions, shape [items, 100 + expressions], for `LinearMeshes`.

    Identity weights are N(0, 1). Of the expressions, whose left and right sides count as one, each is present in one
    face of ten with a weight from 0 to 1, and a side may lag behind by up to 30 %. "mouthClose" closes an open jaw and
    never exceeds its weight.
    """
    stems = [name.removesuffix("_L").removesuffix("_R") for name in names]
    pairs = sorted(set(stems))
    columns = [pairs.index(stem) for stem in stems]
    # Only what has two sides can lag.
    sided = torch.tensor([name != stem for name, stem in zip(names, stems, strict=True)])
    parts = []
    for seed, n in enumerate(COUNTS.values()):
        generator = torch.Generator().manual_seed(seed)
        identity = torch.randn(n, 100, generator=generator)
        present = torch.rand(n, len(pairs), generator=generator) < 0.1
        strength = torch.rand(n, len(pairs), generator=generator) * present
        if "mouthClose" in pairs and "jawOpen" in pairs:
            strength[:, pairs.index("mouthClose")] *= strength[:, pairs.index("jawOpen")]
        lag = 1 - 0.3 * torch.rand(n, len(names), generator=generator)
        parts.append(torch.cat([identity, strength[:, columns] * torch.where(sided, lag, 1.0)], dim=1))
    return torch.cat(parts)
