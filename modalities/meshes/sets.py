"""Meshes that are generated: linear models whose items are made when they are asked for, and synthetic heads."""

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from modalities.data import apply
from modalities.meshes import Meshes
from modalities.modality import MediaError
from modalities.sources import About

COUNTS = {"train": 5000, "test": 500}
"""How many meshes a generated set has."""

HEADS = ("height", "width", "depth", "nose", "chin", "jaw", "ears")
"""What varies from head to head in `synthetic_heads`."""


CLASSES = ("small ears", "large ears")


class LinearMeshes:
    """Meshes that are a mean plus weighted offsets, generated when they are asked for.

    `medium` has their triangles; `mean` is of shape [vertices, 3 or 6], `offsets` [k, vertices, 3 or 6], `weights`
    [items, k], `names` are the items' classes. Colours are held in [0, 1].
    """

    def __init__(self, medium: Meshes, mean: Tensor, offsets: Tensor, weights: Tensor, names: Sequence[str] = ()):
        self.medium, self.mean, self.offsets, self.weights, self.names = medium, mean, offsets, weights, names
        self.labels: Tensor | None = None
        self.classes, self.groups, self.split = About()

    def choose(self, chosen: list[int], labels: list[int] | None, about: About) -> Self:
        """Keep these items, which have these class numbers, and what is known of them."""
        self.weights, self.labels = self.weights[chosen], None if labels is None else torch.tensor(labels)
        self.classes, self.groups, self.split = about
        return self

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, ...]:
        return apply(lambda batch: batch[0], self.take([index]))

    def take(self, indices: Sequence[int]) -> Tensor | tuple[Tensor, ...]:
        """The batch of these items (and their labels)."""
        chosen = list(indices)
        moved = self.weights[chosen] @ self.offsets.flatten(1)
        x = self.mean + moved.unflatten(1, self.mean.shape)
        x[..., 3:].clamp_(0, 1)
        return x if self.labels is None else (x, self.labels[chosen])


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


def synthetic_heads(medium: Meshes) -> LinearMeshes:
    """Heads of seven independent N(0, 1) factors (`HEADS`); class 1 has large ears, class 0 small.

    A head is an egg of about 150 x 220 x 190 mm with bumps for nose, chin and ears. Shapes are linear in the factors:
    their principal components are seven. With colours, the skin varies from dark to light and the lips and cheeks in
    redness, two more factors.
    """
    vertices = medium.vertices
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
    skin = np.array([0.72, 0.53, 0.43]) - eyes.clip(0, 1) * 0.25
    lips = bump(0, -0.42, 1, 0.1) + 0.5 * (bump(0.5, -0.15, 0.85, 0.2) + bump(-0.5, -0.15, 0.85, 0.2))
    mean = np.concatenate([mean, skin + lips * [0.08, -0.15, -0.1]], axis=1)
    offsets = np.zeros((len(HEADS) + 2, vertices, 6))
    offsets[:3, :, :3] = [0.06 * points * taper * size * axis for axis in (up, across, ahead)]
    offsets[3:7, :, :3] = 5 * nose * ahead, 4 * chin * (ahead - up), 4 * jaw * across, 4 * ears * across
    offsets[7, :, 3:], offsets[8, :, 3:] = [0.09, 0.09, 0.08], lips * [0.04, -0.07, -0.05]
    modes, channels = len(HEADS) + 2 * medium.colours, medium.shape[1]
    seeds = [torch.Generator().manual_seed(10 + i) for i in range(len(COUNTS))]
    weights = torch.cat(
        [torch.randn(n, len(offsets), generator=s) for n, s in zip(COUNTS.values(), seeds, strict=True)]
    )
    return LinearMeshes(
        Meshes(vertices, medium.colours, torch.from_numpy(faces)),
        torch.from_numpy(mean[:, :channels]).float(),
        torch.from_numpy(offsets[:modes, :, :channels]).float(),
        weights[:, :modes],
        [CLASSES[ears > 0] for ears in weights[:, HEADS.index("ears")].tolist()],
    )
