"""ICT FaceKit: a folder of meshes, one a mode.

Source: Li, Bladin, Zhao et al., "Learning Formation of Physically-Based Face Attributes", 2020.
"""

import json
from pathlib import Path

import numpy as np

from modalities import MediaError
from modalities.mesh_files import read_mesh
from zoo.linear.formats.parts import Unit, blendshapes, build, finite, principal
from zoo.linear.morphable import MorphableModel

NEUTRAL = "generic_neutral_mesh.obj"
INDICES = "vertex_indices.json"


def read_ict(folder: Path, unit: Unit | None = None) -> MorphableModel:
    """Read `generic_neutral_mesh.obj`, `identity000.obj` and so on, and every other mesh as an expression.

    Lengths are in centimetres unless `unit` says another. An identity lies one standard deviation from the neutral
    mesh. The 68 landmarks come from `vertex_indices.json`, if it is there.
    """
    if not (folder / NEUTRAL).is_file() and (folder / "FaceXModel" / NEUTRAL).is_file():
        folder = folder / "FaceXModel"
    if not (folder / NEUTRAL).is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise MediaError(f"{folder} is no ICT FaceKit: expected {NEUTRAL} and identity000.obj, found {found}")
    names = sorted(path.stem for path in folder.glob("*.obj") if path.name != NEUTRAL)
    identities = [name for name in names if name.startswith("identity")]
    expected = [f"identity{number:03d}" for number in range(max(1, len(identities)))]
    if identities != expected:
        missing = sorted(set(expected) - set(identities)) or ["another number"]
        raise MediaError(f"{folder}: expected {expected[0]}.obj to {expected[-1]}.obj, {missing[0]}.obj is not there")
    neutral = read_mesh(folder / NEUTRAL, unit or "cm")
    mean = _positions(folder / NEUTRAL)

    def offsets(chosen: list[str]) -> np.ndarray:
        rows = np.empty((len(chosen), mean.size))
        for row, name in zip(rows, chosen, strict=True):
            points = _positions(folder / f"{name}.obj")
            if points.shape != mean.shape:
                raise MediaError(
                    f"{folder / name}.obj has {len(points)} vertices, the neutral mesh has {len(mean)}: the "
                    "meshes must share their vertices"
                )
            row[:] = (points - mean).ravel()
        return rows

    shape = principal(f"{folder}: the identities", offsets(identities))
    moving = [name for name in names if name not in set(identities)]
    expression, steps = None, None
    if moving:
        expression, directions = blendshapes(f"{folder}: the expressions", offsets(moving))
        steps = moving, directions
    return build(
        folder,
        unit or "cm",
        neutral.faces,
        mean.ravel(),
        shape,
        expression,
        steps=steps,
        uv=neutral.uv,
        landmarks=_landmarks(folder / INDICES, len(mean)),
    )


def _positions(path: Path) -> np.ndarray:
    """The vertices of an OBJ file alone, shape [vertices, 3], float64: there are many such files."""
    try:
        with path.open("rb") as file:
            rows = (line for line in file if line.startswith(b"v "))
            values = np.loadtxt(rows, usecols=(1, 2, 3), ndmin=2)
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: expected three numbers for every vertex: {error}") from error
    return finite(str(path), values)


def _landmarks(path: Path, vertices: int) -> list[int] | None:
    if not path.is_file():
        return None
    try:
        marks = json.loads(path.read_text(encoding="utf-8"))["idx_to_landmark_verts"]
        valid = all(isinstance(mark, int) and 0 <= mark < vertices for mark in marks)
    except (ValueError, KeyError, TypeError) as error:
        raise MediaError(f"{path}: expected a list idx_to_landmark_verts of vertices: {error!r}") from error
    if not valid:
        raise MediaError(f"{path}: idx_to_landmark_verts: expected numbers of vertices from 0 to {vertices - 1}")
    return marks
