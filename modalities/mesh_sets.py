"""Where meshes come from when they are no files of the user's: the shared face model and generated shapes."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modalities.modality import MediaError

FACE_FILE = "ict_face_model_full.npz"


class FaceArrays(NamedTuple):
    """The face model cut to its first vertices, in millimetres."""

    triangles: np.ndarray
    """Shape [triangles, 3], int64."""
    uv: np.ndarray
    """Shape [vertices, 2]."""
    mean: np.ndarray
    """Shape [vertices, 3]."""
    identity: np.ndarray
    """Offsets a standard deviation, shape [100, vertices, 3]."""
    expressions: np.ndarray
    """Offsets at weight 1, shape [57, vertices, 3]."""
    expression_names: list[str]
    landmarks: np.ndarray
    """The vertices of the 68 landmarks of iBUG, in their order, int64."""


def read_faces(path: Path, vertices: int) -> FaceArrays:
    """The face model of a file, or of a folder that holds it; see `modalities.face_model.read_face_model`."""
    file = path / FACE_FILE if path.is_dir() else path
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise MediaError(f"{file} cannot be read as an archive of arrays: {error}") from error
    needed = ("neutral", "identity_modes", "expression_deltas", "expression_names", "faces", "uv", "faces_uv")
    missing = sorted({*needed, "narrow_face", "part_ranges", "landmarks_multipie68"} - set(arrays))
    if missing:
        raise MediaError(f"{file} is no face model: it lacks {', '.join(missing)}")
    cuts = {int(arrays["narrow_face"][0]): int(arrays["narrow_face"][1])}
    cuts |= {int(end): int(faces) for _, end, _, faces in arrays["part_ranges"]}
    if vertices not in cuts:
        raise MediaError(f"{file} can be cut to {', '.join(map(str, sorted(cuts)))} vertices, not to {vertices}")
    landmarks = arrays["landmarks_multipie68"].astype(np.int64)
    if landmarks.max() >= vertices:
        beyond = ", ".join(str(i) for i in np.flatnonzero(landmarks >= vertices))
        raise MediaError(f"{file}: landmarks {beyond} are not among the first {vertices} vertices")
    polygons, corners = arrays["faces"][: cuts[vertices]], arrays["faces_uv"][: cuts[vertices]]

    def millimetres(name: str) -> np.ndarray:
        return 10 * arrays[name][..., :vertices, :].astype(np.float32)

    return FaceArrays(
        split_quads(polygons),
        vertex_uv(polygons, corners, arrays["uv"], vertices),
        millimetres("neutral"),
        millimetres("identity_modes"),
        millimetres("expression_deltas"),
        [str(name) for name in arrays["expression_names"]],
        landmarks,
    )


def split_quads(polygons: np.ndarray) -> np.ndarray:
    """The triangles of polygons with 3 or 4 corners, -1 in the last column of those with 3, in the polygons' order.

    A quad a, b, c, d becomes a, b, c and a, c, d.
    """
    halves = np.stack([polygons[:, [0, 1, 2]], polygons[:, [0, 2, 3]]], axis=1).reshape(-1, 3)
    return halves[(halves >= 0).all(axis=1)].astype(np.int64)


def vertex_uv(polygons: np.ndarray, corners: np.ndarray, uv: np.ndarray, vertices: int) -> np.ndarray:
    """One texture coordinate a vertex, shape [vertices, 2], from one a corner.

    A vertex on a seam has several: it takes the one that most of its corners have, the first of these if two tie. So the
    triangles on one side of a seam are stretched over the texture; an average of both would tear those of both sides.
    Vertices of no polygon get 0.
    """
    pairs = np.stack([polygons.ravel(), corners.ravel()], axis=1)
    pairs, counts = np.unique(pairs[pairs[:, 0] >= 0], axis=0, return_counts=True)
    # Written from the fewest corners to the most, so that the most frequent is what stays.
    order = np.lexsort((-pairs[:, 1], counts))
    result = np.zeros((vertices, 2), np.float32)
    result[pairs[order, 0]] = uv[pairs[order, 1]]
    return result
