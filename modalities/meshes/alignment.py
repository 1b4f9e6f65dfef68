"""Procrustes alignment: meshes in correspondence, moved, turned and perhaps scaled onto each other."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from modalities.data import Items, batches
from modalities.modality import MediaError

CHUNK = 64
"""How many meshes are in float64 at a time."""


class Similarity(NamedTuple):
    """x becomes scale * rotation @ x + translation; in float64."""

    scale: Tensor
    """Shape [n]; 1 for a rigid motion."""
    rotation: Tensor
    """Proper rotations, shape [n, 3, 3]."""
    translation: Tensor
    """Shape [n, 3]."""

    def apply(self, x: Tensor) -> Tensor:
        """Positions [n, vertices, 3] moved; colours after them, [n, vertices, 6], stay. In the type of `x`."""
        turned = x[..., :3].double() @ (self.scale[:, None, None] * self.rotation).mT + self.translation[:, None]
        return torch.cat([turned.to(x.dtype), x[..., 3:]], dim=-1)


def find_similarity(x: Tensor, target: Tensor, scale: bool = False) -> Similarity:
    """The motion of each mesh that brings it nearest to the target: the least sum of squared distances between vertices
    of one number.

    `x` and `target` are of shape [n, vertices, 3 or 6], the target also [vertices, 3 or 6] for all. Without `scale` the
    motion is rigid. Rotations are proper: a mirrored mesh is turned as well as possible, not mirrored back. Points in
    one plane have a rotation, those on one line have not.

    Source: Umeyama, "Least-Squares Estimation of Transformation Parameters Between Two Point Patterns", 1991.

    Raises `MediaError` if the shapes do not fit, on values that are not finite, and where the rotation is not
    determined: points on one line or in one place, fewer than three of them, or a mirrored target that is as near in
    several directions.
    """
    if x.ndim != 3 or x.shape[-1] not in (3, 6):
        raise MediaError(f"expected meshes of shape [n, vertices, 3 or 6], got {list(x.shape)}")
    if target.shape[-1] not in (3, 6) or target.shape[:-1] not in (x.shape[:2], x.shape[1:2]):
        raise MediaError(
            f"expected a target of shape [{x.shape[1]}, 3] or {[*x.shape[:2], 3]}, got {list(target.shape)}"
        )
    if x.shape[1] < 3:
        raise MediaError(f"expected at least 3 vertices, got {x.shape[1]}")
    eps = max(torch.finfo(x.dtype).eps, torch.finfo(target.dtype).eps)
    x, target = x[..., :3].double(), target[..., :3].to(x.device).double().expand(len(x), -1, -1)
    if not bool(x.isfinite().all() and target.isfinite().all()):
        raise MediaError("meshes hold NaN or infinite values; remove or replace them first")
    centres = [points.mean(1) for points in (x, target)]
    from_x, from_target = x - centres[0][:, None], target - centres[1][:, None]
    u, spread, vt = torch.linalg.svd(from_target.mT @ from_x / x.shape[1])
    sign = torch.ones_like(spread)
    sign[:, 2] = torch.linalg.det(u @ vt).sign()
    sizes = [_size(points) for points in (x, target)]
    # The coordinates are rounded, and so is a product with each of them.
    rounding = [eps * points.abs().amax(dim=(1, 2)) for points in (x, target)]
    least = 2 * (rounding[0] * sizes[1] + rounding[1] * sizes[0])
    open_ = (spread[:, 1] + sign[:, 2] * spread[:, 2] <= least).nonzero().flatten()
    if len(open_):
        raise MediaError(
            f"no rotation of mesh {int(open_[0])} is the nearest: its vertices or the target's lie on one line or in "
            "one place, or the target is a mirror image that is as near in several directions"
        )
    rotation = u @ torch.diag_embed(sign) @ vt
    factor = (sign * spread).sum(dim=1) / sizes[0].square() if scale else torch.ones_like(sizes[0])
    translation = centres[1] - factor[:, None] * (rotation @ centres[0][..., None])[..., 0]
    return Similarity(factor, rotation, translation)


def align(x: Tensor, target: Tensor, scale: bool = False) -> Tensor:
    """Meshes [n, vertices, 3 or 6] moved onto a target as `find_similarity` says; colours pass through."""
    parts = _checked(x).split(CHUNK)
    aims = target.split(CHUNK) if target.ndim == 3 and len(target) == len(x) else [target] * len(parts)
    return torch.cat([find_similarity(x, aim, scale).apply(x) for x, aim in zip(parts, aims, strict=True)])


def procrustes_mean(
    data: Tensor | Items, scale: bool = False, tolerance: float = 1e-7, iterations: int = 100
) -> tuple[Tensor, float]:
    """Generalised Procrustes analysis: the mean of meshes that are aligned with it, shape [vertices, 3], float64, and
    how much larger they become then.

    All meshes are aligned to the first one, then to their mean, and so on, until the mean's vertices move by no more
    than `tolerance` of its size: the root of the mean squared distance from the centroid. The mean lies as the first
    mesh does. With `scale`, each is scaled to fit the mean, and enlarging all by the second result keeps the average of
    their sizes; without, that is 1.

    Arguments:
        data: a tensor [n, vertices, 3 or 6], or a data set of meshes, or of tuples that begin with one, which is read
            in batches, once an iteration.

    Source: Gower, "Generalized Procrustes Analysis", 1975.

    Raises `MediaError` as `find_similarity` does, and if the mean still moves after so many `iterations`.
    """

    def positions() -> Iterator[Tensor]:
        if isinstance(data, Tensor):
            yield from _checked(data)[..., :3].split(CHUNK)
        else:
            for batch in batches(data, CHUNK):
                yield _checked(batch.x)[..., :3]

    def average(target: Tensor | None) -> tuple[Tensor, float]:
        """The mean of the meshes as they are aligned with the target, and their mean size."""
        total, size, count = torch.zeros(()), 0.0, 0
        for part in positions():
            moved = part if target is None else find_similarity(part, target, scale).apply(part.double())
            total = total + moved.double().sum(0)
            size, count = size + float(_size(moved.double()).sum()), count + len(part)
        return total / count, size / count

    first = next(positions())[:1].double()
    _, before = average(None)
    mean, change = first[0], 0.0
    for _ in range(iterations):
        moved, _ = average(mean)
        if scale:
            # Only shape is averaged: without this, all would shrink a little each time.
            moved = enlarge(moved, before / float(_size(moved)), moved)
        change = float((moved - mean).square().sum(1).mean().sqrt() / _size(moved))
        mean = moved
        if change <= tolerance:
            # The mean may have turned a little on its way.
            mean = find_similarity(mean[None], first).apply(mean[None])[0]
            return mean, before / average(mean)[1] if scale else 1.0
    raise MediaError(f"the mean still moves by {change:.1e} of its size after {iterations} iterations")


def align_to_mean(x: Tensor, scale: bool = False) -> tuple[Tensor, Tensor]:
    """Meshes [n, vertices, 3 or 6] moved onto their own mean, and this mean; see `procrustes_mean`."""
    mean, growth = procrustes_mean(x, scale)
    aligned = align(x, mean, scale)
    aligned[..., :3] = enlarge(aligned[..., :3], growth, mean)
    return aligned, aligned.mean(dim=0, dtype=torch.float64).to(x.dtype)


def enlarge(x: Tensor, factor: float, mean: Tensor) -> Tensor:
    """Positions [..., vertices, 3] `factor` times as far from the centroid of the mean [vertices, 3]."""
    return torch.lerp(mean.mean(0).to(x), x, factor)


def _checked(x: Tensor) -> Tensor:
    if x.ndim != 3 or not len(x):
        raise MediaError(f"expected meshes of shape [n, vertices, 3 or 6], got {list(x.shape)}")
    return x


def _size(x: Tensor) -> Tensor:
    """The root of the mean squared distance of vertices from their centroid, shape [...]."""
    return (x - x.mean(-2, keepdim=True)).square().sum(-1).mean(-1).sqrt()
