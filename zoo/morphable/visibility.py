"""What a camera sees of a mesh, by a depth buffer in NumPy, which needs no display and no OpenGL."""

import numpy as np
import torch
from torch import Tensor

from modalities.meshes.geometry import check_faces, vertex_normals
from zoo.morphable.camera import Camera


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


def check_mesh(positions: Tensor, faces: Tensor) -> None:
    """Refuse positions that are not finite, no triangles at all, and those of vertices that do not exist."""
    if positions.ndim != 2 or positions.shape[1] != 3 or not positions.isfinite().all() or not len(faces):
        raise ValueError(
            f"a mesh has finite positions of shape [vertices, 3] and triangles, got {list(positions.shape)} and "
            f"{list(faces.shape)}"
        )
    check_faces(faces, len(positions))
