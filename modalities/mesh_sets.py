"""Where meshes come from when they are no files of the user's: the shared face model and generated shapes."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modalities.mesh_files import fan, vertex_uv
from modalities.modality import MediaError

FACE_FILE = "ict_face_model_full.npz"

COUNTS = {"train": 5000, "test": 500}
"""How many meshes a generated set has."""

HEADS = ("height", "width", "depth", "nose", "chin", "jaw", "ears")
"""What varies from head to head in `synthetic_heads`."""


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

    # Triangles have -1 for their fourth corner.
    used = polygons >= 0

    def millimetres(name: str) -> np.ndarray:
        return 10 * arrays[name][..., :vertices, :].astype(np.float32)

    return FaceArrays(
        fan(used.sum(axis=1), polygons[used]),
        vertex_uv(polygons[used], corners[used], arrays["uv"], vertices),
        millimetres("neutral"),
        millimetres("identity_modes"),
        millimetres("expression_deltas"),
        [str(name) for name in arrays["expression_names"]],
        landmarks,
    )


class LinearMeshes(torch.utils.data.Dataset):
    """Meshes that are a mean plus weighted offsets, generated when they are asked for.

    `mean` is of shape [vertices, 3 or 6], `offsets` [k, vertices, 3 or 6], `weights` [items, k]. Colours are held in
    [0, 1].
    """

    medium: Any
    """The meshes on their topology; `Meshes.dataset` hands it over."""

    def __init__(self, mean: Tensor, offsets: Tensor, weights: Tensor, labels: Tensor | None = None):
        self.mean, self.offsets, self.weights, self.labels = mean, offsets, weights, labels

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, index: int) -> Any:
        taken = self.take([index])
        return taken[0] if self.labels is None else (taken[0][0], taken[1][0])

    def take(self, indices: Sequence[int]) -> Any:
        """The batch of these items (and their labels)."""
        chosen = list(indices)
        moved = self.weights[chosen] @ self.offsets.flatten(1)
        x = self.mean + moved.unflatten(1, self.mean.shape)
        x[..., 3:].clamp_(0, 1)
        return x if self.labels is None else (x, self.labels[chosen])


def face_weights(names: Sequence[str], split: str) -> Tensor:
    """Weights of 100 identity modes and of the named expressions, shape [items, 100 + expressions], for `LinearMeshes`.

    Identity weights are N(0, 1). Of the expressions, whose left and right sides count as one, each is present in one
    face of ten with a weight from 0 to 1, and a side may lag behind by up to 30 %. "mouthClose" closes an open jaw and
    never exceeds its weight.
    """
    parts = ("train", "test") if split == "all" else (split,)
    return torch.cat([_face_weights(names, COUNTS[part], seed=list(COUNTS).index(part)) for part in parts])


def _face_weights(names: Sequence[str], n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    identity = torch.randn(n, 100, generator=generator)
    pairs = sorted({name.removesuffix("_L").removesuffix("_R") for name in names})
    present = torch.rand(n, len(pairs), generator=generator) < 0.1
    strength = torch.rand(n, len(pairs), generator=generator) * present
    if "mouthClose" in pairs and "jawOpen" in pairs:
        strength[:, pairs.index("mouthClose")] *= strength[:, pairs.index("jawOpen")]
    lag = 1 - 0.3 * torch.rand(n, len(names), generator=generator)
    columns = [pairs.index(name.removesuffix("_L").removesuffix("_R")) for name in names]
    # Only what has two sides can lag.
    sided = torch.tensor([name.endswith(("_L", "_R")) for name in names])
    return torch.cat([identity, strength[:, columns] * torch.where(sided, lag, 1.0)], dim=1)


def sphere(vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """Points spread evenly over the unit sphere, shape [vertices, 3], and its 2 * vertices - 4 triangles.

    The points lie on a spiral that turns by the golden angle (Gonzalez, "Measurement of Areas on a Sphere Using
    Fibonacci and Latitude-Longitude Lattices", 2010); the triangles are their convex hull, counter-clockwise from
    outside. Raises `MediaError` for fewer than 12 vertices.
    """
    from scipy.spatial import ConvexHull

    if vertices < 12:
        raise MediaError(f"the generated heads have at least 12 vertices, got {vertices}")
    turn = math.pi * (3 - math.sqrt(5)) * np.arange(vertices)
    y = 1 - (2 * np.arange(vertices) + 1) / vertices
    radius = np.sqrt(1 - y**2)
    points = np.stack([radius * np.sin(turn), y, radius * np.cos(turn)], axis=1)
    faces = ConvexHull(points).simplices.astype(np.int64)
    corners = points[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inward = (normal * corners[:, 0]).sum(axis=1) < 0
    faces[inward] = faces[inward][:, ::-1]
    # The hull's own order is no promise: the lowest corner first, and triangles sorted.
    faces = np.take_along_axis(faces, (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3, axis=1)
    return points, faces[np.lexsort(faces.T[::-1])]


def synthetic_heads(vertices: int, colours: bool, split: str) -> tuple[LinearMeshes, np.ndarray]:
    """Heads of seven independent N(0, 1) factors (`HEADS`), and their triangles; class 1 has large ears, class 0 small.

    A head is an egg of about 150 x 220 x 190 mm with bumps for nose, chin and ears. Shapes are linear in the factors:
    their principal components are seven. With colours, the skin varies from dark to light and the lips and cheeks in
    redness, two more factors.
    """
    points, faces = sphere(vertices)

    def bump(x: float, y: float, z: float, width: float) -> np.ndarray:
        centre = np.array([x, y, z]) / math.sqrt(x * x + y * y + z * z)
        return np.exp(-0.5 * (((points - centre) / width) ** 2).sum(axis=1))[:, None]

    size = np.array([75.0, 110.0, 95.0])
    taper = 1 + 0.18 * points[:, 1:2] * [1, 0, 0.5]
    nose, chin = bump(0, -0.1, 1, 0.13), bump(0, -0.85, 0.6, 0.25)
    jaw = bump(0.7, -0.7, 0.3, 0.35) - bump(-0.7, -0.7, 0.3, 0.35)
    ears = bump(1, 0, -0.1, 0.16) - bump(-1, 0, -0.1, 0.16)
    eyes = bump(0.38, 0.2, 1, 0.13) + bump(-0.38, 0.2, 1, 0.13)
    across, up, ahead = np.eye(3)
    mean = points * taper * size + ahead * (22 * nose + 8 * chin - 9 * eyes) + across * (6 * jaw + 12 * ears)
    offsets = np.stack(
        [
            *(0.06 * points * taper * size * axis for axis in (up, across, ahead)),
            5 * nose * ahead,
            4 * chin * (ahead - up),
            4 * jaw * across,
            4 * ears * across,
        ]
    )
    if colours:
        lips = bump(0, -0.42, 1, 0.1) + 0.5 * (bump(0.5, -0.15, 0.85, 0.2) + bump(-0.5, -0.15, 0.85, 0.2))
        skin = np.array([0.72, 0.53, 0.43]) + lips * [0.08, -0.15, -0.1] - eyes.clip(0, 1) * 0.25
        tone, redness = np.tile([[0.09, 0.09, 0.08]], (vertices, 1)), lips * [0.04, -0.07, -0.05]
        still = np.zeros((len(HEADS), vertices, 3))
        mean = np.concatenate([mean, skin], axis=1)
        offsets = np.concatenate(
            [
                np.concatenate([offsets, still], axis=2),
                np.concatenate([np.zeros((2, vertices, 3)), np.stack([tone, redness])], axis=2),
            ]
        )
    parts = ("train", "test") if split == "all" else (split,)
    # Two columns more than needed without colours, so that shapes are the same with and without.
    weights = torch.cat(
        [
            torch.randn(COUNTS[part], len(HEADS) + 2, generator=torch.Generator().manual_seed(10 + i))
            for i, part in enumerate(COUNTS)
            if part in parts
        ]
    )
    labels = (weights[:, HEADS.index("ears")] > 0).long()
    average, modes = torch.from_numpy(mean).float(), torch.from_numpy(offsets).float()
    return LinearMeshes(average, modes, weights[:, : len(modes)], labels), faces
