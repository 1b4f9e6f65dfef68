"""The camera of a picture: scaled orthographic projection, its fit to landmarks, and what it sees of a mesh."""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

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

    A linear affine fit is made orthonormal, then refined by Gauss-Newton steps over rotation, scale and translation.
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
    fits = [_refine(x, y, *start) for start in _starts(x, y)]
    # The two sides of a plane fit alike but for rounding; so the residual decides only where it differs.
    least = min(error for *_, error in fits)
    close = [fit for fit in fits if fit[3] <= 1.0001 * least + 1e-9 * float(np.square(y - y.mean(0)).sum())]
    rotation, scale, translation, _ = max(close, key=lambda fit: np.trace(fit[0]))
    return Camera(*(torch.as_tensor(part, dtype=torch.float64) for part in (rotation, scale, translation)))


def _starts(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    """Rotations and scales by linear least squares."""
    centred, seen = x - x.mean(0), (y - y.mean(0)) * (1, -1)
    _, extents, axes = np.linalg.svd(centred, full_matrices=False)
    if not extents[1] > FLAT * extents[0]:
        raise ValueError("the points are collinear: no camera can be found from them; take some off the line")
    if extents[2] > FLAT * extents[0]:
        rows = np.linalg.lstsq(centred, seen, rcond=None)[0].T
        yield _orthonormal(rows)
    if extents[2] < 0.1 * extents[0]:
        # In the plane's own coordinates two columns are known. Equal lengths and orthogonality of the rows give the
        # third up to its sign: (c1 + i c2)^2 = |b2|^2 - |b1|^2 - 2 i b1.b2.
        if np.linalg.det(axes) < 0:
            axes[2] *= -1
        plane = np.linalg.lstsq(centred @ axes[:2].T, seen, rcond=None)[0].T
        length = np.square(plane).sum(1)
        depth = np.sqrt(complex(length[1] - length[0], -2 * plane[0] @ plane[1]))
        for sign in (1, -1):
            yield _orthonormal(np.column_stack([plane, [sign * depth.real, sign * depth.imag]]) @ axes)


def _orthonormal(rows: np.ndarray) -> tuple[np.ndarray, float]:
    """The nearest rotation to two rows and their cross product, which makes it proper, and the rows' mean length."""
    lengths = np.linalg.norm(rows, axis=1)
    if not lengths.min() > 0:
        raise ValueError("the points of the picture lie on one line or are one: no camera sees the positions like that")
    first, second = rows / lengths[:, None]
    u, _, vt = np.linalg.svd(np.stack([first, second, np.cross(first, second)]))
    return u @ vt, float(lengths.mean())


def _refine(x: np.ndarray, y: np.ndarray, rotation: np.ndarray, scale: float) -> tuple:
    """Gauss-Newton steps until the squared error falls no further."""
    centre, middle = x.mean(0), y.mean(0)
    x, y = x - centre, (y - middle) * (1, -1)

    def error(rotation: np.ndarray, scale: float) -> float:
        return float(np.square(y - scale * (x @ rotation.T)[:, :2]).sum())

    least = error(rotation, scale)
    for _ in range(30):
        view = scale * x @ rotation.T
        step = np.linalg.lstsq(pose_jacobian(view)[..., :4].reshape(-1, 4), (y - view[:, :2]).ravel(), rcond=None)[0]
        turned, scaled = turn(step[:3]) @ rotation, scale * math.exp(min(1.0, max(-1.0, step[3])))
        tried = error(turned, scaled)
        if not tried < least * (1 - 1e-12):
            break
        rotation, scale, least = turned, scaled, tried
    translation = middle - scale * (rotation @ centre)[:2] * (1, -1)
    return rotation, scale, translation, least


def pose_jacobian(view: np.ndarray) -> np.ndarray:
    """How points (right, up) move with a turn about the three axes of the view, the logarithm of the scale and a shift,
    shape [n, 2, 6]; `view` holds the scaled and turned positions [n, 3]."""
    jacobian = np.zeros((len(view), 2, 6))
    jacobian[:, 0, 1], jacobian[:, 0, 2] = view[:, 2], -view[:, 1]
    jacobian[:, 1, 0], jacobian[:, 1, 2] = -view[:, 2], view[:, 0]
    jacobian[:, :, 3] = view[:, :2]
    jacobian[:, 0, 4] = jacobian[:, 1, 5] = 1
    return jacobian


def turn(axis: np.ndarray) -> np.ndarray:
    """The rotation about an axis, shape [3], by its length in radians (Rodrigues)."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(axis).as_matrix()


def vertex_normals(positions: Tensor, faces: Tensor) -> Tensor:
    """Unit normals at the vertices, shape [vertices, 3]: of the triangles around, by their areas; 0 where there are
    none. Gradients flow through."""
    corners = positions[faces]
    across = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sums = torch.zeros_like(positions).index_add(0, faces.flatten(), across.repeat_interleave(3, 0))
    return torch.nn.functional.normalize(sums, dim=1, eps=1e-12)


def visible(positions: Tensor, camera: Camera, faces: Tensor, resolution: int = 300) -> Tensor:
    """Which vertices the viewer sees, shape [vertices], bool: those whose normal turns to the viewer and that no
    triangle hides.

    Arguments:
        positions: the mesh, millimetres, shape [vertices, 3].
        faces: its triangles, counter-clockwise from outside, shape [faces, 3].
        resolution: pixels along the longer side of the depth buffer, which covers the mesh, not the picture.
    """
    check_mesh(positions, faces)
    view = camera.view(positions.detach().double().cpu())
    normal = vertex_normals(view, faces.cpu().long()).numpy()
    points, facing = view.numpy(), normal[:, 2] > 1e-3
    low = points[:, :2].min(0)
    extent = points[:, :2].max(0) - low
    pixel = max(float(extent.max()) / resolution, 1e-9)
    pixels = (points[:, :2] - low) / pixel
    height, width = (int(n) for n in np.ceil(extent / pixel)[::-1] + 1)
    buffer = _depths(pixels, points[:, 2], faces.cpu().numpy(), height, width)
    # A vertex is compared with the depth at the centre of its pixel, so follow its tangent plane to there.
    place = np.minimum(pixels.astype(int), (width - 1, height - 1))
    step = (place + 0.5 - pixels) * pixel
    steep = np.maximum(normal[:, 2], 0.1)
    here = points[:, 2] + np.maximum(0, -(step * normal[:, :2]).sum(1) / steep)
    hidden = buffer[place[:, 1], place[:, 0]] > here + 2 * pixel
    return torch.from_numpy(facing & ~hidden).to(positions.device)


def _depths(points: np.ndarray, depths: np.ndarray, faces: np.ndarray, height: int, width: int) -> np.ndarray:
    """The depth that is nearest to the viewer at the centres of pixels, shape [height, width]; -inf where there is no
    triangle."""
    buffer = np.full(height * width, -np.inf)
    corners = points[faces]
    first = np.ceil(corners.min(1) - 0.5).astype(int)
    counts = np.floor(corners.max(1) - 0.5).astype(int) - first + 1
    sizes = counts.clip(0).prod(1)
    # Candidates are the pixels of each triangle's box; so many triangles at a time that their arrays stay small.
    kept = np.flatnonzero(sizes)
    for part in np.split(kept, np.flatnonzero(np.diff(np.cumsum(sizes[kept]) // 2**20)) + 1):
        owner = np.repeat(part, sizes[part])
        place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes[part]) - sizes[part], sizes[part])
        x = first[owner, 0] + place % counts[owner, 0]
        y = first[owner, 1] + place // counts[owner, 0]
        (ax, ay), (bx, by), (cx, cy) = (corners[owner, i].T for i in range(3))
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        with np.errstate(divide="ignore", invalid="ignore"):
            b = ((x + 0.5 - ax) * (cy - ay) - (cx - ax) * (y + 0.5 - ay)) / area
            c = ((bx - ax) * (y + 0.5 - ay) - (x + 0.5 - ax) * (by - ay)) / area
        inside = (b >= -1e-6) & (c >= -1e-6) & (b + c <= 1 + 1e-6)
        owner, b, c = owner[inside], b[inside], c[inside]
        z = depths[faces[owner]]
        np.maximum.at(
            buffer, y[inside] * width + x[inside], z[:, 0] + b * (z[:, 1] - z[:, 0]) + c * (z[:, 2] - z[:, 0])
        )
    return buffer.reshape(height, width)


class Colours(NamedTuple):
    """What a picture tells about the colours of vertices."""

    colours: Tensor
    """Red, green and blue in [0, 1], shape [vertices, 3]; those of vertices that are not seen mean nothing."""
    weights: Tensor
    """The cosine between the normal and the direction to the viewer, shape [vertices]; 0 where a vertex is not seen."""


def read_colours(picture: Tensor, positions: Tensor, camera: Camera, faces: Tensor) -> Colours:
    """The colours of a picture at the projected vertices, and how well each is seen.

    Arguments:
        picture: in [-1, 1], shape [3, height, width]; read between pixels by bilinear interpolation.
        positions: the mesh, millimetres, shape [vertices, 3].
        camera: as fitted to the picture.
        faces: the triangles, shape [faces, 3].

    Light and shade stay in the colours.
    """
    check_picture(picture)
    seen = visible(positions, camera, faces)
    points = camera.project(positions)
    height, width = picture.shape[1:]
    inside = ((points >= 0) & (points <= points.new_tensor([width, height]))).all(1)
    cosine = camera.view(vertex_normals(positions, faces.long()))[:, 2].clamp(0, 1)
    return Colours(sample_picture(picture, points) / 2 + 0.5, cosine * (seen & inside))


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


def check_mesh(positions: Tensor, faces: Tensor) -> None:
    """Refuse positions that are not finite and triangles of vertices that do not exist."""
    if positions.ndim != 2 or positions.shape[1] != 3 or not positions.isfinite().all():
        raise ValueError(f"a mesh has finite positions of shape [vertices, 3], got {list(positions.shape)}")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.is_floating_point() or not len(faces):
        raise ValueError(f"triangles are whole numbers of shape [faces, 3], got {faces.dtype} {list(faces.shape)}")
    if faces.min() < 0 or faces.max() >= len(positions):
        raise ValueError(
            f"triangles name vertices 0 to {len(positions) - 1}, got {int(faces.min())} to {int(faces.max())}"
        )
