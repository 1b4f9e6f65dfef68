"""Synthetic families: densities against quadrature, closed forms and their own samples."""

import math

import numpy as np
import pytest
import torch
from scipy.special import ive
from sklearn.datasets import make_moons

from modalities.densities import DENSITIES

PLANE = [name for name in DENSITIES if name != "two-gaussians"]
STEP, SIDE = 0.05, 3.2


@pytest.fixture(scope="module", params=PLANE)
def family(request):
    """A family and its probability on cells of 0.4 x 0.4 over [-3.2, 3.2]^2, by the midpoint rule."""
    density = DENSITIES[request.param]()
    axis = torch.arange(-SIDE + STEP / 2, SIDE, STEP, dtype=torch.float64)
    mass = density.log_prob(torch.cartesian_prod(axis, axis)).exp() * STEP**2
    return request.param, density, mass.reshape(16, 8, 16, 8).sum((1, 3)).numpy()


def frequencies(points) -> np.ndarray:
    edges = np.linspace(-SIDE, SIDE, 17)
    return np.histogram2d(points[:, 0], points[:, 1], bins=(edges, edges))[0] / len(points)


def agrees(observed: np.ndarray, expected: np.ndarray, n: int) -> bool:
    """Whether frequencies of n draws lie within five standard errors of the probabilities."""
    return bool((np.abs(observed - expected) <= 5 * np.sqrt(expected * (1 - expected).clip(0) / n) + 2 / n).all())


def test_density_integrates_to_one_and_matches_its_samples(family):
    name, density, mass = family
    assert abs(mass.sum() - 1) < 1e-4
    points = density.sample(50_000, torch.Generator().manual_seed(0))
    assert points.dtype == torch.float32 and points.shape == (50_000, 2)
    assert agrees(frequencies(points.numpy()), mass, 50_000)


def test_two_moons_are_those_of_scikit_learn(family):
    name, _, mass = family
    if name == "two-moons":
        assert agrees(frequencies(make_moons(50_000, noise=0.05, random_state=0)[0]), mass, 50_000)


def test_two_gaussians():
    density = DENSITIES["two-gaussians"]()
    axis = torch.linspace(-6, 6, 2001, dtype=torch.float64)[:, None]
    assert abs(density.log_prob(axis).exp().sum() * 12 / 2000 - 1) < 1e-6
    expected = 0.5 * sum(torch.distributions.Normal(c, 0.5).log_prob(axis[:, 0]).exp() for c in (-2.0, 2.0))
    assert torch.allclose(density.log_prob(axis).exp(), expected)
    points = density.sample(50_000, torch.Generator().manual_seed(0))
    assert points.shape == (50_000, 1) and abs(float(points.abs().mean()) - 2) < 0.01
    assert abs(float((points > 0).float().mean()) - 0.5) < 0.01


def test_ring_matches_its_closed_form():
    radius = torch.linspace(1.6, 2.4, 9, dtype=torch.float64)
    angle = torch.linspace(0, 6, 9, dtype=torch.float64)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    # The noise smears the circle of radius 2 into a Rice distribution of radii.
    scaled = torch.from_numpy(ive(0, (2 * radius / 0.01).numpy()))
    expected = torch.log(scaled / (2 * math.pi * 0.01)) - 0.5 * (radius - 2) ** 2 / 0.01
    assert torch.allclose(DENSITIES["ring"]().log_prob(x), expected, atol=1e-5)


def test_spiral_is_about_uniform_along_its_length():
    radius = DENSITIES["spiral"]().sample(20_000, torch.Generator().manual_seed(0)).norm(dim=1)
    # The length of an Archimedean spiral grows with the square of its radius.
    assert abs(float((radius < 1).float().mean()) - 0.25) < 0.02 and abs(float(radius.max()) - 2) < 0.3


def test_checkerboard_is_uniform_on_half_of_its_square():
    density = DENSITIES["checkerboard"]()
    values = density.log_prob(torch.tensor([[-1.5, -1.5], [-0.5, -1.5], [0.5, 0.5], [3.0, 3.0]]))
    assert values.tolist() == pytest.approx([-math.log(8), -math.inf, -math.log(8), -math.inf])


@pytest.mark.parametrize("name", DENSITIES)
def test_same_seed_same_points(name):
    draws = [DENSITIES[name]().sample(100, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()
