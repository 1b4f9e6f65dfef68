"""Modes of meshes: learned from meshes in correspondence, turned into others, and fitted to a mesh."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from modalities import MediaError
from modalities.data import Arrays
from modalities.meshes import Meshes
from modalities.procrustes import align as align_to
from modalities.procrustes import find_similarity
from zoo.linear.solver import PrincipalAxes, principal_axes
from zoo.linear.streaming import Rows

BLOCK = 2**22
"""How many numbers are computed in double precision at once."""


class Axes(NamedTuple):
    """Directions of variation by falling variance."""

    basis: Tensor
    """Orthonormal rows, shape [k, 3 * vertices], the coordinates of a vertex next to each other."""
    variance: Tensor
    """The variance along each, shape [k]: square millimetres summed over vertices, or squared colour."""


class Placement:
    """Positions of meshes without their colours, and without how the meshes are placed, where that is taken out.

    Arguments:
        align: "none", "rigid" or "similarity", to the mean of the meshes in `data`.
    """

    def __init__(self, data: Any, medium: Meshes, align: str, seed: int):
        self.medium, self.scale = medium, align == "similarity"
        self.reference: Tensor | None = None
        self.growth = 1.0
        if align != "none":
            self.reference, self.growth = _common(data, medium, self.scale, seed)

    def __call__(self, x: Tensor) -> Tensor:
        """Meshes [batch, vertices, 3 or 6] to positions [batch, vertices, 3]."""
        positions = _checked(x, self.medium)[:, :, :3]
        if self.reference is None:
            return positions
        return _grown(align_to(positions, self.reference, self.scale), self.growth, self.reference)

    def offsets(self, expressive: Tensor, neutral: Tensor) -> Tensor:
        """How the positions of the same people's meshes differ."""
        start = self(neutral)
        if self.reference is None:
            return self(expressive) - start
        # Both meshes of a person take one size, that of the neutral one.
        size = self.growth * find_similarity(neutral, self.reference, self.scale).scale.to(expressive)
        return align_to(size[:, None, None] * _checked(expressive, self.medium)[:, :, :3], start) - start


def learn_modes(data: Any, medium: Meshes, part: str, modes: int | float, seed: int) -> PrincipalAxes:
    """The principal axes of a part. More modes than the meshes have directions are refused: the surplus is noise."""
    found = principal_axes(data, (medium.vertices, 3), modes, seed=seed)
    rounding = torch.finfo(torch.float32).eps * torch.linalg.vector_norm(found.mean.double()).item()
    if found.total <= rounding**2:
        raise ValueError(f"all {found.count} meshes are equal: there are no modes of {part}")
    rank = int((found.variance > torch.finfo(torch.float32).eps * found.variance.max()).sum())
    if rank < len(found.variance) and isinstance(modes, int):
        raise ValueError(f"{found.count} meshes vary in {rank} directions of {part}, fewer than {modes}")
    return dataclasses.replace(found, basis=found.basis[:rank], variance=found.variance[:rank])


def learn_offsets(data: Any, medium: Meshes, modes: int | float, seed: int) -> tuple[Axes, float]:
    """The modes of expression about zero, of offsets [vertices, 3], and the variance that they leave out."""
    found = learn_modes(data, medium, "expression", modes, seed)
    # The modes about the mean offset and this offset itself span the modes about zero.
    spanning = torch.cat([found.basis * found.variance.sqrt()[:, None], found.mean[None]]).double()
    every, _ = principal(spanning)
    most = modes if isinstance(modes, int) else len(found.basis) + 1
    axes = Axes(every.basis[:most].to(found.mean), every.variance[:most].to(found.mean))
    total = found.total + found.mean.double().square().sum().item()
    return axes, total - every.variance[:most].sum().item()


def mean_of(data: Any, medium: Meshes, seed: int) -> Tensor:
    """The mean of positions or colours, shape [vertices, 3], float64."""
    total, count = torch.zeros(3 * medium.vertices, dtype=torch.float64), 0
    for rows in Rows(data, (medium.vertices, 3), seed):
        total, count = total.to(rows.device) + rows.double().sum(0), count + len(rows)
    return (total / count).unflatten(0, (-1, 3))


def _common(data: Any, medium: Meshes, scale: bool, seed: int) -> tuple[Tensor, float]:
    """The mean of meshes that are aligned with it, [vertices, 3], float64, where and as the first one lies; and by how
    much to enlarge them then, so that with `scale` the mean of their sizes stays as it was.

    Source: Gower, "Generalized Procrustes Analysis", 1975.
    """
    positions = each(data, lambda x: _checked(x, medium)[:, :, :3])

    def aligned(target: Tensor) -> Tensor | Dataset:
        return each(positions, lambda x: align_to(x, target, scale))

    def size(meshes: Tensor | Dataset) -> Tensor:
        return mean_of(each(meshes, lambda x: _size(x).expand_as(x)), medium, seed)[0, 0]

    first = next(iter(Rows(positions, (medium.vertices, 3), seed)))[:1].double().unflatten(1, (-1, 3))
    reference, before = first[0], size(positions)
    for _ in range(20):
        mean = mean_of(aligned(reference), medium, seed)
        if scale:
            mean = _grown(mean, (before / _size(mean)).item(), mean)
        step = torch.linalg.vector_norm(mean - reference, dim=1).mean()
        reference = mean
        if step < 1e-6 * before:
            break
    reference = align_to(reference[None], first)[0]  # it may have turned a little on its way
    return reference, (before / size(aligned(reference))).item() if scale else 1.0


def _grown(x: Tensor, factor: float, reference: Tensor) -> Tensor:
    """Positions enlarged about the centroid of the reference."""
    return torch.lerp(reference.mean(0).to(x), x, factor)


def _size(x: Tensor) -> Tensor:
    """The root of the mean squared distance of vertices from their centroid, shape [..., 1, 1]."""
    return (x - x.mean(-2, keepdim=True)).square().sum((-2, -1), keepdim=True).div(x.shape[-2]).sqrt()


def _checked(x: Tensor, medium: Meshes) -> Tensor:
    """The batch, if its shape is that of the medium."""
    if tuple(x.shape[1:]) != medium.shape:
        expected = ", ".join(map(str, medium.shape))
        raise MediaError(f"expected meshes of shape [batch, {expected}], got {list(x.shape)}")
    return x


def each(data: Any, change: Callable[..., Tensor], pairs: bool = False) -> Tensor | Dataset:
    """The data with every item changed, without what it comes with, or every one of `pairs`; `change` takes batches."""
    if isinstance(data, Arrays) and data.noise is None:
        return change(data.x, data.labels) if pairs else change(data.x)
    return change(data) if isinstance(data, Tensor) else _Changed(data, change, pairs)


class _Changed(Dataset):
    """Another data set, every item changed when it is read."""

    def __init__(self, data: Any, change: Callable[..., Tensor], pairs: bool):
        self.data, self.change, self.pairs = data, change, pairs

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        item = self.data[index]
        parts = item if isinstance(item, (tuple, list)) else (item,)
        return self.change(*(part[None] for part in (parts if self.pairs else parts[:1])))[0]


def scaled(axes: Axes) -> Tensor:
    """The rows times their standard deviations, float64."""
    return axes.variance.double().sqrt()[:, None] * axes.basis.double()


def principal(modes: Tensor) -> tuple[Axes, Tensor]:
    """The principal axes of y = z modes, z ~ N(0, I), and the matrix [k, K] that turns z into their coefficients.

    Modes are float64, shape [K, d]. Axes whose variance is a rounding error are left out.
    """
    values, vectors = torch.linalg.eigh(modes @ modes.T)
    values, vectors = values.flip(0), vectors.flip(1).T
    live = values > 1e-10 * values.max() if len(values) else values > 0
    values, turn = values[live], vectors[live]
    basis = turn @ modes / values.sqrt()[:, None]
    sign = torch.where(basis.gather(1, basis.abs().argmax(1, keepdim=True)) < 0, -1.0, 1.0).to(basis)
    return Axes(sign * basis, values), sign * turn


def ridge_coefficients(axes: Sequence[Axes], y: Tensor, noise: float) -> Tensor:
    """The coefficients c [batch, k] that minimise |y - c modes|^2 + noise |c|^2; modes without variance get 0."""
    scale = torch.cat([part.variance for part in axes]).double().sqrt()
    if not len(scale):
        return y.new_zeros(len(y), 0)
    gram, right = y.new_zeros(len(scale), len(scale)), y.new_zeros(len(scale), len(y))
    for start in range(0, y.shape[1], width := max(256, BLOCK // len(scale))):
        basis = torch.cat([part.basis[:, start : start + width] for part in axes]).double()
        gram.addmm_(basis, basis.T)
        right.addmm_(basis, y[:, start : start + width].T)
    live = scale.square() > torch.finfo(torch.float32).eps * scale.square().max()
    scale = torch.where(live, scale, 0.0)
    gram *= scale[:, None] * scale
    # A modest floor, for modes that are no longer independent; it also holds those without variance at 0.
    gram.diagonal().add_(torch.where(live, max(noise, 1e-12 * gram.max().item()), 1.0))
    return torch.cholesky_solve(scale[:, None] * right, torch.linalg.cholesky(gram)).T
