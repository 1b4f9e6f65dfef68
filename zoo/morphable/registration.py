"""Fits of a morphable model to a mesh or a cloud of points whose vertices are others than its own.

Sources: Besl, McKay, "A Method for Registration of 3-D Shapes", 1992; Amberg, Romdhani, Vetter, "Optimal Step Nonrigid
ICP Algorithms for Surface Registration", 2007; Albrecht, Luthi, Gerig, Vetter, "Posterior Shape Models", 2013.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modalities.meshes.alignment import Similarity, find_similarity
from modalities.meshes.geometry import vertex_normals
from zoo.morphable.conditioning import coefficient_rows
from zoo.morphable.model import MorphableModel
from zoo.morphable.segments import check_vertices
from zoo.morphable.visibility import check_mesh

POINTS = 2000
"""How many points of the target count in every round."""
LOOKED_AT = 8000
"""Among how many points of the target these are sought."""
ROUNDS = 20
SLIDE = 8.0
"""How many times farther than along its normal a counterpart may be off along the surface."""
ALIGNED = math.cos(math.radians(60))
"""The least cosine between the normals of counterparts."""


class MeshFit(NamedTuple):
    """A face that was fitted to a surface."""

    coefficients: Tensor
    """For `decode`, shape [1, K]; the colour is the mean's."""
    pose: Similarity
    """Takes the model's millimetres to the target's units, of one mesh."""
    distances: Tensor
    """From each point of the target to the surface of the fit, millimetres of the model, shape [n]; NaN where the face
    has nothing near, looks elsewhere or ends."""

    @property
    def mean(self) -> float:
        """The mean distance, millimetres."""
        return float(self.distances.nanmean())

    @property
    def percentile95(self) -> float:
        """The distance that 95 percent of the points keep below, millimetres."""
        return float(self.distances[~self.distances.isnan()].quantile(0.95))


@torch.no_grad()
def fit_mesh(
    model: MorphableModel,
    points: Tensor,
    faces: Tensor | None = None,
    *,
    landmarks: tuple[Tensor, Tensor] | None = None,
    scale: bool = False,
    noise: tuple[float, float] = (5.0, 1.0),
) -> MeshFit:
    """The most probable face and pose whose surface lies on a target's.

    Arguments:
        points: vertices of the target, shape [n, 3]: millimetres, or any unit with `scale`.
        faces: its triangles, counter-clockwise from outside, shape [faces, 3]; None for a cloud of points of the skin
            alone: nothing tells the inside of a mouth from the outside there.
        landmarks: numbers of at least 3 vertices of the model, and where the target has them, shape [landmarks, 3]: the
            pose starts there. Without them the target must lie about where the model does, in its units.
        scale: whether the target has other units, whose size the landmarks tell for good: refined with the rest, it
            would drift, since a face that is large enough is near any target.
        noise: the standard deviation of a coordinate along the normal, millimetres, in the first and in the last round;
            it falls by a constant factor.

    Alternates between the nearest points of the model's surface for points of the target, and the most probable pose
    and coefficients given these pairs. Pairs are dropped where normals differ, where they are farther apart than 3
    standard deviations, and on the model's rim. What they say along the surface counts little, since the nearest point
    is not the corresponding one. Parts of the model that the target lacks follow from the rest.

    Raises ValueError for points that are not finite, fewer than 3 landmarks, and a target that is nowhere near.
    """
    from scipy.spatial.transform import Rotation

    if not (math.inf > noise[0] >= noise[1] > 0):
        raise ValueError(f"noise falls from a first to a last standard deviation above 0, got {noise!r}")
    if points.ndim != 2 or points.shape[1] != 3 or len(points) < 3:
        raise ValueError(f"a target has at least 3 points, shape [n, 3], got {list(points.shape)}")
    if not points.isfinite().all():
        lost = int((~points.isfinite().all(1)).sum())
        raise ValueError(f"{lost} of the target's {len(points)} points are NaN or infinite: leave them out")
    if faces is not None:
        check_mesh(points, faces)
    places = points.detach().cpu().double()
    if faces is None:
        normals = _plane_normals(places.numpy())
    else:
        normals = vertex_normals(places, faces.cpu().long()).numpy()
    random = np.random.default_rng(0)
    looked_at = random.permutation(len(places))[:LOOKED_AT]
    surface = _Surface(model)
    rows = coefficient_rows(model, torch.arange(model.modality.vertices)).numpy()
    k = rows.shape[2]
    found = np.zeros(k)
    size, rotation, translation = _start(model, landmarks, scale)

    def pairs(chosen: np.ndarray, far: float) -> tuple[np.ndarray, np.ndarray, _Nearest]:
        """Points of the target in the model's frame, which of them have a counterpart, and the nearest points."""
        x = (places.numpy()[chosen] - translation) @ rotation / size
        near = surface.nearest(surface.mean + rows @ found, x)
        cosine = (near.normals * (normals[chosen] @ rotation)).sum(1)
        aligned = (np.abs(cosine) if faces is None else cosine) > ALIGNED
        return x, aligned & ~near.rim & (near.distances < far), near

    for deviation in np.geomspace(*noise, ROUNDS):
        x, kept, near = pairs(looked_at, 3 * deviation)
        if kept.sum() < 10:
            target, own = (np.ptp(part, 0).max() for part in (places.numpy() / size, surface.mean))
            raise ValueError(
                f"{int(kept.sum())} of {len(looked_at)} points of the target have a counterpart within "
                f"{3 * deviation:.3g} mm: give landmarks, bring the target to where the model is, and mind its units; "
                f"it spans {target:.3g}, and the model {own:.3g} mm"
            )
        used = random.permutation(np.flatnonzero(kept))[:POINTS]
        modes = np.einsum("nc,ncdk->ndk", near.weights[used], rows[surface.faces[near.owners[used]]])
        step = _step(modes, x[used], near.points[used], near.normals[used], deviation, found)
        found = found + step[:k]
        translation = translation + size * rotation @ step[k + 3 :]
        rotation = rotation @ Rotation.from_rotvec(step[k : k + 3]).as_matrix()
    _, kept, near = pairs(np.arange(len(places)), 6 * noise[1])
    distances = torch.from_numpy(np.where(kept, near.distances, np.nan)).to(model.mean)
    turned = torch.from_numpy(rotation)[None]
    pose = Similarity(torch.tensor([size], dtype=torch.float64), turned, torch.from_numpy(translation)[None])
    z = F.pad(torch.from_numpy(found)[None].to(model.mean), (0, model.sizes.colour))
    return MeshFit(z, pose, distances)


def _start(
    model: MorphableModel, landmarks: tuple[Tensor, Tensor] | None, scale: bool
) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation and translation from the mean to the target by landmarks."""
    if landmarks is None:
        if scale:
            raise ValueError("a target in other units needs landmarks, which tell its scale")
        return 1.0, np.eye(3), np.zeros(3)
    vertices, places = (
        check_vertices(landmarks[0], model.modality.vertices, "landmarks"),
        landmarks[1].detach().cpu().double(),
    )
    if tuple(places.shape) != (len(vertices), 3) or not places.isfinite().all() or len(vertices) < 3:
        raise ValueError(
            f"landmarks are at least 3 vertices and as many finite positions, got {len(vertices)} and "
            f"{list(places.shape)}"
        )
    start = model.mean[vertices.to(model.device), :3].double().cpu()[None]
    pose, size = find_similarity(start, places, scale), find_similarity(start, places, True).scale.item()
    if not scale and not 0.5 < size < 2:
        raise ValueError(
            f"by its landmarks the target is {size:.3g} times as large as the model: if it is in other units, pass "
            "scale=True"
        )
    return float(pose.scale[0]), pose.rotation[0].numpy(), pose.translation[0].numpy()


def _step(
    modes: np.ndarray, x: np.ndarray, near: np.ndarray, normals: np.ndarray, deviation: float, found: np.ndarray
) -> np.ndarray:
    """The Gauss-Newton step of coefficients, turn and shift that brings points near [n, 3], which the modes [n, 3, k]
    move, to x [n, 3]: off along the normals by the deviation, along the surface by more."""
    k, turns = len(found), np.stack([np.cross(axis, x) for axis in np.eye(3)], 2)
    moves = np.concatenate([modes, turns, np.broadcast_to(np.eye(3), (len(x), 3, 3))], 2)
    whiten = np.eye(3) / SLIDE + (1 - 1 / SLIDE) * normals[:, :, None] * normals[:, None, :]
    system = (whiten @ moves).reshape(-1, moves.shape[2]) / deviation
    values = (whiten @ (x - near)[:, :, None]).ravel() / deviation
    products = system.T @ system + np.diag(np.repeat([1.0, 1e-9], [k, 6]))
    goal = system.T @ values
    goal[:k] -= found
    return np.linalg.solve(products, goal)


def _plane_normals(points: np.ndarray) -> np.ndarray:
    """Normals of a cloud, [n, 3], up to their signs: of the planes nearest to the points around each."""
    from scipy.spatial import cKDTree

    near = points[cKDTree(points).query(points, min(8, len(points)))[1]]
    near = near - near.mean(1, keepdims=True)
    return np.linalg.eigh(near.transpose(0, 2, 1) @ near)[1][:, :, 0]


class _Nearest(NamedTuple):
    """The nearest points of a surface."""

    points: np.ndarray
    normals: np.ndarray
    distances: np.ndarray
    owners: np.ndarray
    """The triangles in which they lie."""
    weights: np.ndarray
    """How much each corner of the triangle counts, [n, 3]."""
    rim: np.ndarray
    """Whether the surface ends there."""


class _Surface:
    """The surface of a model, in some shape."""

    def __init__(self, model: MorphableModel) -> None:
        self.mean = model.mean[:, :3].double().cpu().numpy()
        self.triangles = model.modality.triangles.cpu()
        self.faces = self.triangles.numpy()
        check_mesh(torch.from_numpy(self.mean), self.triangles)
        edges = torch.cat([self.triangles[:, [0, 1]], self.triangles[:, [1, 2]], self.triangles[:, [2, 0]]])
        unique, counts = edges.sort(1).values.unique(dim=0, return_counts=True)
        self.rim = np.zeros(len(self.mean), dtype=bool)
        self.rim[unique[counts == 1].numpy()] = True

    def nearest(self, positions: np.ndarray, x: np.ndarray) -> _Nearest:
        """The nearest points for points [n, 3] where the vertices are at positions [vertices, 3]."""
        import pyvista

        mesh = pyvista.PolyData.from_regular_faces(positions, self.faces)
        owners, points = mesh.find_closest_cell(x, return_closest_point=True)
        corners = self.faces[owners]
        # The weight of a corner is the area of the triangle of the point and the other two.
        sides = positions[corners] - points[:, None]
        areas = np.cross(sides[:, [1, 2, 0]], sides[:, [2, 0, 1]])
        whole = areas.sum(1)
        weights = np.einsum("ncd,nd->nc", areas, whole) / np.square(whole).sum(1, keepdims=True).clip(1e-300)
        normals = vertex_normals(torch.from_numpy(positions), self.triangles).numpy()
        normals = np.einsum("nc,ncd->nd", weights, normals[corners])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)
        rim = (self.rim[corners] | (weights < 1e-6)).all(1)
        return _Nearest(points, normals, np.linalg.norm(points - x, axis=1), owners, weights, rim)
