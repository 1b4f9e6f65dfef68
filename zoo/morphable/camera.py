"""The camera of a picture: scaled orthographic projection, and its fit to points of the picture."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

FLAT = 1e-3
"""Points whose extent in one direction is below this fraction of their largest are coplanar or collinear."""


@dataclasses.dataclass(frozen=True)
class Camera:
    """Scaled orthographic projection: turn, drop the depth, scale, shift.

    u = scale (R X)_x + t_x and v = t_y - scale (R X)_y: positions have y up, pictures y down, so no picture is
    mirrored. The picture's top left corner is (0, 0) and the centre of its first pixel (0.5, 0.5). The third row of R
    points to the viewer.
    """

    rotation: Tensor
    """R, a proper rotation, shape [3, 3]."""
    scale: Tensor
    """Pixels a millimetre, a scalar above 0."""
    translation: Tensor
    """Where the origin of the positions falls, in pixels, shape [2]."""

    def __post_init__(self) -> None:
        shapes = tuple(self.rotation.shape), tuple(self.scale.shape), tuple(self.translation.shape)
        if shapes != ((3, 3), (), (2,)):
            raise ValueError(f"a camera has a rotation [3, 3], a scalar scale and a translation [2], got {shapes}")
        rotation = self.rotation.detach().double()
        off = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64, device=rotation.device)).abs().max()
        if not off < 1e-4 or torch.linalg.det(rotation) < 0:
            raise ValueError(f"a camera's rotation is orthonormal with determinant 1, got {self.rotation.tolist()}")
        if not self.scale > 0:
            raise ValueError(f"a camera's scale is above 0 pixels a millimetre, got {float(self.scale)}")

    def project(self, positions: Tensor) -> Tensor:
        """Where positions [..., 3] in millimetres fall on the picture, pixels (right, down), shape [..., 2]."""
        return positions @ self.matrix.to(positions).T + self.translation.to(positions)

    def view(self, positions: Tensor) -> Tensor:
        """Positions [..., 3] as the viewer sees them: right, up, and towards the viewer, in millimetres. Normals turn
        likewise."""
        return positions @ self.rotation.to(positions).T

    @property
    def matrix(self) -> Tensor:
        """The linear part of the projection, pixels a millimetre, shape [2, 3]."""
        return self.scale * self.rotation[:2] * self.rotation.new_tensor([[1.0], [-1.0]])


def rotation_matrix(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> Tensor:
    """A rotation by angles in degrees, float64: the face turns to its left (yaw), then nods down (pitch), then tilts
    to the left of the picture (roll)."""
    y, p, r = (math.radians(angle) for angle in (yaw, pitch, roll))
    turned = [[math.cos(y), 0.0, math.sin(y)], [0.0, 1.0, 0.0], [-math.sin(y), 0.0, math.cos(y)]]
    nodded = [[1.0, 0.0, 0.0], [0.0, math.cos(p), -math.sin(p)], [0.0, math.sin(p), math.cos(p)]]
    tilted = [[math.cos(r), -math.sin(r), 0.0], [math.sin(r), math.cos(r), 0.0], [0.0, 0.0, 1.0]]
    first, second, third = (torch.tensor(matrix, dtype=torch.float64) for matrix in (turned, nodded, tilted))
    return third @ second @ first


def fit_camera(positions: Tensor, points: Tensor) -> Camera:
    """The camera with the least squared distance between projected positions and points of a picture.

    Arguments:
        positions: at least 4 points of the mesh, millimetres, shape [n, 3].
        points: where they are seen, pixels, shape [n, 2]; rows of NaN are unknown.

    A linear affine fit is made orthonormal, and refined by nonlinear least squares over rotation, scale and shift.
    Coplanar points are seen alike from two sides (tilted one way or the other): of the two cameras the one whose
    rotation is nearer to the identity is taken. Fewer than 4 points and collinear ones raise ValueError.

    Source: Huber et al., "A Multiresolution 3D Morphable Face Model and Fitting Framework", 2016, for the linear fit.
    """
    if positions.ndim != 2 or positions.shape[1] != 3 or tuple(points.shape) != (len(positions), 2):
        raise ValueError(
            f"a camera is fitted to positions [n, 3] and points [n, 2], got {list(positions.shape)} and "
            f"{list(points.shape)}"
        )
    x, y = (part.detach().cpu().double().numpy() for part in (positions, points))
    known = ~np.isnan(y).any(1)
    x, y = x[known], y[known]
    if len(x) < 4:
        raise ValueError(f"a camera needs at least 4 points, got {len(x)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("positions and points of a camera must be finite; rows of NaN may stand for unknown points")
    from scipy.optimize import least_squares

    centred, seen = x - x.mean(0), (y - y.mean(0)) * (1, -1)
    exact = {"method": "lm", "ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15}
    fits = [
        least_squares(
            lambda q: (centred @ turned_axes(q)[:2].T - seen).ravel(),
            start,
            lambda q: np.einsum("nc,dcq->ndq", centred, turned_axes_slope(q)[:2]).reshape(-1, 4),
            **exact,
        )
        for start in _starts(x, y)
    ]
    # The two sides of a plane fit alike but for rounding; so the residual decides only where it differs.
    least = 1.0001 * min(fit.cost for fit in fits) + 1e-9 * float(np.square(seen).sum())
    best = max((fit.x for fit in fits if fit.cost <= least), key=lambda q: np.trace(turned_axes(q)) / (q @ q))
    return camera_of(best, y.mean(0) * (1, -1) - turned_axes(best)[:2] @ x.mean(0))


def camera_of(q: np.ndarray, shift: np.ndarray) -> Camera:
    """The camera, float64, that turns and scales as the quaternion of `turned_axes` and then shifts, y up."""
    parts = turned_axes(q) / (q @ q), q @ q, shift * (1, -1)
    return Camera(*(torch.as_tensor(part, dtype=torch.float64) for part in parts))


def _starts(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Turned and scaled axes, shape [3, 3], by linear least squares."""
    centred, seen = x - x.mean(0), (y - y.mean(0)) * (1, -1)
    _, extents, axes = np.linalg.svd(centred, full_matrices=False)
    if not extents[1] > FLAT * extents[0]:
        raise ValueError("the points are collinear: no camera can be found from them; take some off the line")
    if extents[2] > FLAT * extents[0]:
        yield _nearest_turn(np.linalg.lstsq(centred, seen, rcond=None)[0].T)
    if extents[2] < 0.1 * extents[0]:
        # In the plane's own coordinates two columns are known. Equal lengths and orthogonality of the rows give the
        # third up to its sign: (c1 + i c2)^2 = |b2|^2 - |b1|^2 - 2 i b1.b2.
        if np.linalg.det(axes) < 0:
            axes[2] *= -1
        plane = np.linalg.lstsq(centred @ axes[:2].T, seen, rcond=None)[0].T
        length = np.square(plane).sum(1)
        depth = np.sqrt(complex(length[1] - length[0], -2 * plane[0] @ plane[1]))
        for sign in (1, -1):
            yield _nearest_turn(np.column_stack([plane, [sign * depth.real, sign * depth.imag]]) @ axes)


def _nearest_turn(rows: np.ndarray) -> np.ndarray:
    """The quaternion, as in `turned_axes`, of the rotation nearest to two rows and their cross product, which makes it
    proper, and of the rows' mean length."""
    lengths = np.linalg.norm(rows, axis=1)
    if not lengths.min() > 0:
        raise ValueError("the points of the picture lie on one line or are one: no camera sees the positions like that")
    first, second = rows / lengths[:, None]
    u, _, vt = np.linalg.svd(np.stack([first, second, np.cross(first, second)]))
    return quaternion(u @ vt, float(lengths.mean()))


_AXES = np.zeros((3, 3, 4, 4))
"""The products of two numbers of a quaternion (x, y, z, w) that each entry of `turned_axes` sums."""
for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    _AXES[i, i] = np.diag(np.where(np.isin(range(4), (i, 3)), 1, -1))
    _AXES[i, j, i, j] = _AXES[j, i, i, j] = _AXES[k, j, i, 3] = 2
    _AXES[j, k, i, 3] = -2


def turned_axes(q: np.ndarray) -> np.ndarray:
    """The rotation of a quaternion (x, y, z, w) times its squared length, which is the scale, shape [3, 3].

    It is quadratic in the four numbers, which need no constraint and know no singular angle.
    """
    return _AXES @ q @ q


def turned_axes_slope(q: np.ndarray) -> np.ndarray:
    """The derivative of `turned_axes`, shape [3, 3, 4]."""
    return (_AXES + _AXES.swapaxes(2, 3)) @ q


def quaternion(rotation: np.ndarray, scale: float) -> np.ndarray:
    """That of `turned_axes`, shape [4]."""
    from scipy.spatial.transform import Rotation

    return np.sqrt(scale) * Rotation.from_matrix(rotation).as_quat()


def check_picture(picture: Tensor) -> None:
    """Refuse what is no picture of shape [3, height, width] in [-1, 1]."""
    if picture.ndim != 3 or len(picture) != 3 or not picture.is_floating_point():
        raise ValueError(f"a picture has the shape [3, height, width], got {picture.dtype} {list(picture.shape)}")
    if not (picture.min() >= -1.001 and picture.max() <= 1.001):
        raise ValueError(
            f"a picture's values lie in [-1, 1], got {picture.min().item():.4g} to {picture.max().item():.4g}"
        )


def sample_picture(picture: Tensor, points: Tensor) -> Tensor:
    """The values of a picture [channels, height, width] at points [n, 2] in pixels, shape [n, channels], by bilinear
    interpolation; beyond the edge those of the edge."""
    height, width = picture.shape[1:]
    grid = 2 * points / points.new_tensor([width, height]) - 1
    values = torch.nn.functional.grid_sample(
        picture[None].to(points), grid[None, None], align_corners=False, padding_mode="border"
    )
    return values[0, :, 0].T
