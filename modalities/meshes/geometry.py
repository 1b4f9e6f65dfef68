"""Geometry of triangle surfaces: normals, areas, manifolds, polygons, texture seams, colour spaces, the Laplacian."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modalities.modality import MediaError

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class MeshArrays(NamedTuple):
    """A mesh as a file holds it, in millimetres."""

    vertices: np.ndarray
    """Positions, shape [vertices, 3], float32."""
    faces: np.ndarray
    """Triangles, shape [faces, 3], int64."""
    uv: np.ndarray | None = None
    """Texture coordinates, shape [vertices, 2], float32; v grows upwards."""
    colours: np.ndarray | None = None
    """Red, green and blue in [0, 1] (sRGB), shape [vertices, 3], float32."""


def triangle_normals(corners: Tensor) -> Tensor:
    """Normals of triangles, twice as long as their areas, shape [..., 3], from corners of shape [..., 3, 3]."""
    a, b, c = corners.unbind(-2)
    return torch.linalg.cross(b - a, c - a)


def vertex_normals(positions: Tensor, faces: Tensor) -> Tensor:
    """Unit normals at the vertices [vertices, 3]: the mean over a vertex's triangles [faces, 3], weighted by their
    areas; 0 where there is no area. Gradients flow through."""
    across = triangle_normals(positions[faces])
    sums = torch.zeros_like(positions).index_add(0, faces.flatten(), across.repeat_interleave(3, 0))
    return torch.nn.functional.normalize(sums, dim=1, eps=1e-12)


def shading_normals(positions: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """`vertex_normals` for a viewer, float32: a vertex without area gets the z axis, as every normal needs a length."""
    normals = vertex_normals(torch.from_numpy(positions.astype(np.float64)), torch.from_numpy(faces)).numpy()
    return np.where(normals.any(1, keepdims=True), normals, [0.0, 0.0, 1.0]).astype(np.float32)


def check_indices(faces: np.ndarray, vertices: int, source: str | Path = "the topology") -> None:
    """Raise `MediaError` if a triangle names a vertex that does not exist."""
    bad = (faces < 0) | (faces >= vertices)
    if bad.any():
        raise MediaError(
            f"{source}: {int(bad.any(axis=1).sum())} triangles name vertices that do not exist, such as "
            f"{int(faces[bad][0])} (counted from 0) of {vertices}"
        )


def check_faces(faces: Tensor, vertices: int) -> None:
    """Raise `MediaError` for what are no triangles [faces, 3] of so many vertices."""
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.is_floating_point():
        raise MediaError(f"expected whole numbers of shape [faces, 3], got {faces.dtype} of {list(faces.shape)}")
    check_indices(faces.cpu().numpy(), vertices)


def without_area(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Which triangles have no area, up to the rounding of float32, shape [faces], bool."""
    corners = vertices[faces].astype(np.float64)
    sides = corners[:, [1, 2, 0]] - corners
    longest = np.linalg.norm(sides, axis=2).max(axis=1)
    height_by_base = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    return height_by_base <= np.finfo(np.float32).eps * np.abs(vertices).max() * longest


def count_non_manifold(faces: np.ndarray, vertices: int) -> tuple[int, int]:
    """How many edges have more than two triangles, and how many vertices join more than one fan of triangles."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    following = np.roll(faces, -1, axis=1)
    sides = np.minimum(faces, following) * vertices + np.maximum(faces, following)
    _, edge, uses = np.unique(sides, return_inverse=True, return_counts=True)
    # Corners at one vertex belong to one fan if they touch the same end of an edge.
    corner = np.arange(faces.size).reshape(faces.shape)
    ends = [faces.size + 2 * edge.reshape(faces.shape) + side for side in (faces > following, faces < following)]
    rows, columns = np.concatenate([corner, np.roll(corner, -1, axis=1)]).ravel(), np.concatenate(ends).ravel()
    size = faces.size + 2 * len(uses)
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(size, size))
    _, fan = connected_components(graph, directed=False)
    fans = np.unique(np.stack([faces.ravel(), fan[: faces.size]], axis=1), axis=0)[:, 0]
    return int((uses > 2).sum()), int((np.bincount(fans) > 1).sum())


def fan_triangulation(counts: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Polygons with `counts` corners each, one after another in `corners`, as triangles in the same order.

    A polygon a, b, c, d, ... becomes a, b, c and a, c, d, and so on.
    """
    if len(counts) and counts.min() < 3:
        raise MediaError(f"a face has {counts.min()} corners, expected at least 3")
    starts = np.cumsum(counts) - counts
    triangles = counts - 2
    first = np.repeat(starts, triangles)
    within = np.arange(triangles.sum()) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    return corners[np.stack([first, first + within + 1, first + within + 2], axis=1)].astype(np.int64)


def join_polygons(
    vertices: np.ndarray,
    counts: np.ndarray,
    corners: np.ndarray,
    uv: np.ndarray | None = None,
    corner_uv: np.ndarray | None = None,
    colours: np.ndarray | None = None,
) -> MeshArrays:
    """The mesh of polygons as `fan_triangulation` takes them, with one texture coordinate a vertex: that of `uv`, or
    where `corner_uv` says the place in `uv` of every corner, as `vertex_uv` chooses.

    Raises `MediaError` for what names vertices or texture coordinates that do not exist.
    """
    faces = fan_triangulation(counts, corners)
    check_indices(faces, len(vertices), "its faces")
    if uv is not None and corner_uv is not None:
        if corner_uv.min() < 0 or corner_uv.max() >= len(uv):
            raise MediaError(f"a face names a texture coordinate that does not exist, of {len(uv)}")
        uv = vertex_uv(corners, corner_uv, uv, len(vertices))
    return MeshArrays(vertices, faces, uv, colours)


def vertex_uv(corners: np.ndarray, corner_uv: np.ndarray, uv: np.ndarray, vertices: int) -> np.ndarray:
    """One texture coordinate a vertex, shape [vertices, 2], from one a corner.

    Corner i lies at vertex `corners[i]` and at `uv[corner_uv[i]]` of the texture. A vertex on a seam has several: it
    takes the one that most of its corners have, the first of these if two tie. So the triangles on one side of a seam
    are stretched over the texture; an average would tear those of both sides. Vertices of no polygon get 0.
    """
    pairs, counts = np.unique(corners.astype(np.int64) * len(uv) + corner_uv, return_counts=True)
    vertex, place = np.divmod(pairs, len(uv))
    # Written from the fewest corners to the most, so that the most frequent is what stays.
    order = np.lexsort((-place, counts))
    result = np.zeros((vertices, 2), np.float32)
    result[vertex[order]] = uv[place[order]]
    return result


def linear_to_srgb(colours: np.ndarray) -> np.ndarray:
    """Intensities in [0, 1] as sRGB colours."""
    return np.where(colours <= 0.0031308, 12.92 * colours, 1.055 * np.maximum(colours, 0) ** (1 / 2.4) - 0.055)


def srgb_to_linear(colours: np.ndarray) -> np.ndarray:
    """sRGB colours in [0, 1] as intensities."""
    return np.where(colours <= 0.04045, colours / 12.92, ((np.maximum(colours, 0) + 0.055) / 1.055) ** 2.4)


def colour_bytes(colours: np.ndarray) -> np.ndarray:
    """Colours in [0, 1] as bytes."""
    return np.rint(255 * colours).astype(np.uint8)


class Surface(NamedTuple):
    """The cotangent Laplacian of a surface; see `discretise`."""

    laplacian: "csr_array"
    """Positive semi-definite, shape [places, places]; rows sum to 0."""
    area: np.ndarray
    """The share of the area that belongs to each place, shape [places]."""
    place: np.ndarray
    """The place of every vertex, shape [vertices]."""

    def gather(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The weighted means of values [vertices, k] at each place; 0 where all weights are."""
        total = np.zeros((len(self.area), values.shape[1]))
        np.add.at(total, self.place, weights[:, None] * values)
        return total / np.maximum(np.bincount(self.place, weights), 1e-300)[:, None]


def discretise(positions: Tensor, faces: Tensor) -> Surface:
    """The surface with positions [vertices, 3] and triangles [faces, 3] in linear finite elements.

    Vertices in one place count as one, so that the seams of a texture are no borders.

    Source: Pinkall, Polthier, "Computing Discrete Minimal Surfaces and Their Conjugates", 1993.
    """
    from scipy.sparse import csr_array, diags_array

    points, place = np.unique(positions.double().cpu().numpy(), axis=0, return_inverse=True)
    place = place.reshape(-1)
    corners, size = place[faces.long().cpu().numpy()], (len(points), len(points))
    stiffness, area = csr_array(size), np.zeros(len(points))
    for turn in range(3):
        a, b, c = np.roll(corners, turn, 1).T
        left, right = points[b] - points[a], points[c] - points[a]
        double_area = np.linalg.norm(np.cross(left, right), axis=1)
        np.add.at(area, a, double_area / 6)
        # Obtuse and flat corners would give weights below zero or without bound, and values outside their range.
        cotangent = (left * right).sum(1) / np.maximum(double_area, np.finfo(float).tiny)
        stiffness += csr_array((np.clip(cotangent, 0, 100) / 2, (b, c)), size)
    stiffness += stiffness.T
    return Surface(csr_array(diags_array(stiffness.sum(1)) - stiffness), area, place)


def heat_diffusion(values: Tensor, positions: Tensor, faces: Tensor, width: float) -> Tensor:
    """Values of vertices, shape [vertices, k], smoothed as heat spreads over the surface; float64.

    Three implicit steps of the heat equation, nearly a Gaussian of standard deviation `width`, in the units of the
    positions [vertices, 3]. Values stay within their range, and rows that sum to 1 still do.

    Source: Desbrun, Meyer, Schroeder, Barr, "Implicit Fairing of Irregular Meshes using Diffusion and Curvature Flow",
    1999.
    """
    from scipy.sparse import csc_array, diags_array
    from scipy.sparse.linalg import splu

    steps, surface = 3, discretise(positions, faces)
    mass = np.where(surface.area > 0, surface.area, 1.0)
    system = csc_array(diags_array(mass) + width**2 / (2 * steps) * surface.laplacian)
    solver = splu(system, permc_spec="MMD_AT_PLUS_A")
    smooth = surface.gather(values.double().cpu().numpy(), np.ones(len(values)))
    for _ in range(steps):
        smooth = solver.solve(mass[:, None] * smooth)
    return torch.from_numpy(smooth[surface.place])


def harmonic_interpolation(values: Tensor, known: Tensor, positions: Tensor, faces: Tensor) -> Tensor:
    """Values of vertices, shape [vertices, k]; those that are not `known`, a mask [vertices], become the weighted means
    of their neighbours', which keeps them within the range of the known ones. A part that touches no known vertex gets
    the mean of these."""
    from scipy.sparse import csc_array, eye_array
    from scipy.sparse.linalg import splu

    if known.all():
        return values
    surface, mask = discretise(positions, faces), known.cpu().numpy()
    given = surface.gather(values.double().cpu().numpy(), mask.astype(float))
    outside = np.bincount(surface.place, mask) > 0
    tie = 1e-6  # far below the weights of edges, it decides only where no known vertex does
    rows = surface.laplacian[~outside]
    system = csc_array(rows[:, ~outside] + tie * eye_array(rows.shape[0]))
    right = tie * given[outside].mean(0) - rows[:, outside] @ given[outside]
    given[~outside] = splu(system, permc_spec="MMD_AT_PLUS_A").solve(right)
    found = torch.from_numpy(given[surface.place]).to(values)
    return torch.where(known[:, None], values, found)
