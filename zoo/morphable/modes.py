"""Modes of a shape model: orthonormal directions with variances, and the coefficients of meshes along them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 2**22
"""How many numbers are computed in double precision at once."""


class Axes(NamedTuple):
    """Directions of variation by falling variance."""

    basis: Tensor
    """Orthonormal rows, shape [k, 3 * vertices], the coordinates of a vertex next to each other."""
    variance: Tensor
    """The variance along each, shape [k]: square millimetres summed over vertices, or squared colour."""

    @property
    def scaled(self) -> Tensor:
        """The rows times their standard deviations, float64, shape [k, 3 * vertices]."""
        return self.variance.double().sqrt()[:, None] * self.basis.double()


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


def rigid_axes(mean: Tensor) -> Tensor:
    """Orthonormal rows of how positions [vertices, 3] change where they are shifted and turned a little, float64, shape
    [6, 3 * vertices], fewer for points on a line."""
    mean = mean.double() - mean.double().mean(0)
    shifts = [axis.expand_as(mean) for axis in torch.eye(3).to(mean)]
    moves = torch.stack([*shifts, *(torch.linalg.cross(axis, mean) for axis in shifts)]).flatten(1)
    _, size, rows = torch.linalg.svd(moves / moves.norm(dim=1, keepdim=True).clamp(min=1e-12), full_matrices=False)
    return rows[size > 1e-6]


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
