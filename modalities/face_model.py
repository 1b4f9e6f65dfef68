"""The ICT Face Model: a linear morphable model of 3-D faces from light-stage scans, with ARKit-like expressions.

Source: Li, Bladin, Zhao et al., "Learning Formation of Physically-Based Face Attributes", 2020. Licence: MIT, copyright
2020 USC Institute for Creative Technologies.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from modalities.mesh_sets import read_faces
from modalities.meshes import Meshes


class FaceModel(NamedTuple):
    """face = mean + z @ identity + w @ expressions, with z ~ N(0, I) and w in [0, 1]; millimetres."""

    medium: Meshes
    """Meshes on this model's triangles (quads are split), with one texture coordinate a vertex."""
    mean: Tensor
    """The neutral mean face, shape [vertices, 3]."""
    identity: Tensor
    """Orthogonal offsets, each of one standard deviation, shape [100, vertices, 3]."""
    expressions: Tensor
    """Offsets at weight 1, shape [57, vertices, 3]."""
    expression_names: list[str]
    """The 57 names, such as "jawOpen" and "mouthSmile_L"; _L and _R are the face's own left and right."""
    landmarks: Tensor
    """The vertices of the 68 landmarks of iBUG in their order (jaw, brows, nose, eyes, mouth), shape [68], int64."""


def read_face_model(path: str | Path, vertices: int = 6706) -> FaceModel:
    """Read `ict_face_model_full.npz`, or the folder that holds it, cut to its first `vertices`.

    A cut keeps the order, so that a narrower face is the beginning of a wider one: 6,706 vertices are the narrow face,
    9,409 the face, 11,248 face, head and neck, 14,062 these with the sockets of eyes and mouth, 26,719 everything.
    The file's centimetres become millimetres.

    A vertex on a seam of the texture takes the coordinate of most of its corners. The face lies in [0, 1]; other parts
    have textures of their own, whose number is the whole part of u.

    Raises `MediaError` if the file is missing or broken or another model, and on a number of vertices in between.
    """
    arrays = read_faces(Path(path).expanduser(), vertices)
    medium = Meshes(vertices).on(torch.from_numpy(arrays.triangles), torch.from_numpy(arrays.uv))
    return FaceModel(
        medium,
        torch.from_numpy(arrays.mean),
        torch.from_numpy(arrays.identity),
        torch.from_numpy(arrays.expressions),
        arrays.expression_names,
        torch.from_numpy(arrays.landmarks),
    )
