"""Synthetic families of points with known densities: each draws samples and knows its exact log-density."""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

QUADRATURE_NODES = 2048
"""The nodes of the integral along a curve: densities are exact to a thousandth of their peak, most to far less."""

CHUNK = 4096
"""How many points are scored at once, so that the table of points and components stays small."""


class Density(Protocol):
    """A distribution over points of one or two dimensions."""

    dimensions: int

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points, float32 of shape [n, dimensions]."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats of points [n, dimensions], shape [n]."""
        ...


class GaussianMixture:
    """Equally likely Gaussians with centres [components, dimensions] and one standard deviation in all directions."""

    def __init__(self, centres: Tensor, std: float):
        self.centres, self.std = centres, std
        self.dimensions = centres.shape[1]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        component = torch.randint(len(self.centres), (n,), generator=generator)
        return self.centres[component] + self.std * torch.randn(n, self.dimensions, generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        constant = self.dimensions * math.log(self.std * math.sqrt(2 * math.pi)) + math.log(len(self.centres))
        centres = self.centres.to(x)
        return torch.cat([self._log_sum(part, centres) for part in x.split(CHUNK)]) - constant

    def _log_sum(self, x: Tensor, centres: Tensor) -> Tensor:
        # The default mode loses the digits of near points to cancellation.
        distance = torch.cdist(x, centres, compute_mode="donot_use_mm_for_euclid_dist")
        return torch.logsumexp(-0.5 * (distance / self.std) ** 2, 1)


class NoisyCurve:
    """Points of a plane curve at a uniform parameter, plus Gaussian noise.

    `curve` maps parameters in [0, 1], shape [n], to points [n, 2]. The density is the integral over the parameter,
    taken with the midpoint rule at `QUADRATURE_NODES` nodes, which lie far closer than the noise is wide.
    """

    dimensions = 2

    def __init__(self, curve: Callable[[Tensor], Tensor], std: float):
        self.curve, self.std = curve, std
        # The midpoint rule makes the integral a mixture of equally likely Gaussians.
        nodes = (torch.arange(QUADRATURE_NODES, dtype=torch.float64) + 0.5) / QUADRATURE_NODES
        self.quadrature = GaussianMixture(curve(nodes), std)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        points = self.curve(torch.rand(n, generator=generator))
        return points + self.std * torch.randn(n, 2, generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.quadrature.log_prob(x)


class Checkerboard:
    """Uniform on every second unit square of [-2, 2] x [-2, 2], the one at the lower left among them."""

    dimensions = 2

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        column = torch.randint(4, (n,), generator=generator)
        row = 2 * torch.randint(2, (n,), generator=generator) + column % 2
        return torch.stack([column, row], 1) - 2 + torch.rand(n, 2, generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        inside = (x.abs() < 2).all(1) & (x.floor().sum(1) % 2 == 0)
        return torch.where(inside, -math.log(8), -math.inf).to(x.dtype)


def _circle(u: Tensor) -> Tensor:
    """The point of a circle of radius 2 at each of the parameters in [0, 1]."""
    angle = 2 * math.pi * u
    return 2 * torch.stack([angle.cos(), angle.sin()], 1)


def _moons(u: Tensor) -> Tensor:
    upper, angle = u < 0.5, 2 * math.pi * u % math.pi
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    return torch.stack([x, torch.where(upper, angle.sin(), 0.5 - angle.sin())], 1)


def _spiral(u: Tensor) -> Tensor:
    # The arc length grows with the square of the angle.
    angle = 3 * math.pi * u.sqrt()
    return (2 / (3 * math.pi) * angle)[:, None] * torch.stack([angle.cos(), angle.sin()], 1)


DENSITIES: dict[str, Callable[[], Density]] = {
    # Centres -2 and 2, standard deviation 0.5.
    "two-gaussians": lambda: GaussianMixture(torch.tensor([[-2.0], [2.0]]), 0.5),
    # On a circle of radius 2, standard deviation 0.1.
    "eight-gaussians": lambda: GaussianMixture(_circle(torch.arange(8) / 8), 0.1),
    # Twenty-five Gaussians on {-2, -1, 0, 1, 2}^2, standard deviation 0.1.
    "grid": lambda: GaussianMixture(torch.cartesian_prod(*2 * [torch.arange(-2.0, 3.0)]), 0.1),
    # Two interleaved half circles, placed as in scikit-learn's `make_moons`; noise 0.05.
    "two-moons": lambda: NoisyCurve(_moons, 0.05),
    # A circle of radius 2; noise 0.1.
    "ring": lambda: NoisyCurve(_circle, 0.1),
    # An Archimedean spiral of one and a half turns to radius 2, about uniform along its length; noise 0.05.
    "spiral": lambda: NoisyCurve(_spiral, 0.05),
    "checkerboard": Checkerboard,
}
"""The named families: the first in one dimension, the others in two."""
