"""Densities of MADE and of its mixtures, by numerical integration and against draws."""

import itertools
import math

import pytest
import torch
from scipy.stats import kstest

from modalities.points import Points
from modalities.signals import Signals
from tests.zoo.autoregressive.models import Steps, generator, make
from zoo.autoregressive.made import MADE
from zoo.conditions import Classes
from zoo.distributions import LogisticMixture


def line(condition=None):
    return make(lambda: MADE(Points(1), width=5, layers=2, components=3, condition=condition))


def plane():
    """Not too narrow for a grid: logits, means and log-scales of moderate size."""
    model = make(lambda: MADE(Points(2), width=5, layers=2, components=3))
    with torch.no_grad():
        model.last.weight *= 0.3
        model.last.bias *= 0.5
    return model


def mixture(batch=1, channels=2, seed=0):
    logits, mean, log_scale, coefficients = (
        torch.randn(shape, generator=generator(seed + i), dtype=torch.float64)
        for i, shape in enumerate([(1, 3), (1, 3, channels), (1, 3, channels), (1, 3, 1)])
    )
    parts = [logits, mean, log_scale, coefficients if channels == 2 else None]
    return LogisticMixture(*[None if part is None else part.expand(batch, *part.shape[1:]) for part in parts])


@torch.no_grad()
@pytest.mark.parametrize("classes, condition", [(None, None), (Classes.numbered(3), 2)])
def test_a_density_on_the_line_integrates_to_one(classes, condition):
    x = torch.linspace(-300, 300, 60_001, dtype=torch.float64)
    density = line(classes).log_prob(x[:, None], condition=condition).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-6)


@torch.no_grad()
def test_a_density_of_the_plane_integrates_to_one():
    model = plane()
    drawn = model.sample(2000, generator=generator())
    reach = drawn.abs().amax().item() + 5 * drawn.std().item()
    axis = torch.linspace(-reach, reach, 501, dtype=torch.float64)
    density = model.log_prob(torch.cartesian_prod(axis, axis)).exp().reshape(501, 501)
    assert torch.trapezoid(torch.trapezoid(density, axis), axis).item() == pytest.approx(1, abs=2e-3)


@torch.no_grad()
def test_draws_of_the_plane_follow_the_density():
    """Both conditional distribution functions of a draw are uniform and independent where sampler and score agree."""
    model = plane()
    x = model.to_unit(model.sample(2000, generator=generator(1)))[0]
    d = model.likelihood_head(model.outputs(x))
    z = (x.unsqueeze(1) - d.location) * torch.exp(-d.log_scale)  # [batch, components, channel, coordinate]
    u = (torch.softmax(d.logits, 1) * torch.sigmoid(z[:, :, 0])).sum(1)
    for coordinate in range(2):
        assert kstest(u[:, coordinate].numpy(), "uniform").pvalue > 1e-3
    assert torch.corrcoef(u.T)[0, 1].abs().item() < 4 / math.sqrt(2000)


@torch.no_grad()
def test_the_conditionals_are_those_of_the_joint_density():
    """p(x) of the first coordinate, from the joint density by integration, is what the first mixture says."""
    model = plane()
    y = torch.linspace(-200, 200, 40_001, dtype=torch.float64)
    for value in (-1.0, 0.5, 3.0):
        points = torch.stack([torch.full_like(y, value), y], 1)
        joint = torch.trapezoid(model.log_prob(points).exp(), y)
        x, log_volume = model.to_unit(points[:1])
        d = model.likelihood_head(model.outputs(x)[:, :, :1])
        alone = (d.log_prob(x[:, :, :1]) - model.standardise.std[0].log()).exp()
        assert joint.item() == pytest.approx(alone.item(), rel=1e-4)


def test_units_of_a_coordinate_see_the_coordinates_before_it_alone():
    model = make(lambda: MADE(Steps(0, 5, 32), width=3, layers=2, components=2))
    x = torch.randn(1, 1, 5, generator=generator(), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: model.outputs(x)[0], x)[:, :, 0, 0]
    seen = jacobian.abs().sum(0) > 0
    assert torch.equal(seen, torch.ones(5, 5).tril(-1).bool())  # all of those before, and nothing else


@torch.no_grad()
def test_vectors_of_many_coordinates_are_drawn_in_few_steps():
    model = make(lambda: MADE(Steps(0, 64, 32), width=4, layers=2, components=2))
    drawn = model.sample(3, generator=generator(5))
    assert model.incremental(3).width == 64
    assert torch.allclose(drawn, model.sample(3, generator=generator(5), sampler="naive"), atol=1e-9, rtol=0)


def test_other_media_are_refused():
    with pytest.raises(ValueError, match=r"items \[elements\].*\[1, 9\]"):
        MADE(Signals(1, 9))
    with pytest.raises(ValueError, match="layers must be a positive whole number"):
        MADE(Points(2), layers=0)


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 2])
def test_a_logistic_mixture_integrates_to_one(channels):
    axis = torch.linspace(-80, 80, 801 if channels == 2 else 16_001, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * channels).reshape(-1, 1, channels)
    total = mixture(channels=channels).log_prob(grid).exp()[:, 0].reshape([len(axis)] * channels)
    for _ in range(channels):
        total = torch.trapezoid(total, axis)
    assert total.item() == pytest.approx(1, abs=1e-4)


@torch.no_grad()
def test_draws_of_a_logistic_mixture_agree_with_its_density_and_its_mean():
    """The expectation over draws of q / p is one for any density q; of the draws themselves, the mean."""
    n = 40_000
    p = mixture(n)
    x = p.sample(generator=generator(7))
    for location in itertools.product([-1.0, 1.0], [0.0]):
        # A logistic of scale 1 around a corner, whose tails are lighter than those of the widest component.
        q = LogisticMixture(torch.zeros(1, 1), torch.tensor([[location]]).double(), torch.full((1, 1, 2), -0.5))
        ratio = (q.log_prob(x[:, None])[:, 0] - p.log_prob(x)).exp()
        assert ratio.mean().item() == pytest.approx(1, abs=4 * (ratio.std() / math.sqrt(n)).item())
        assert (ratio.std() / math.sqrt(n)).item() < 0.05
    error = x.std(0) / math.sqrt(n)
    assert ((x.mean(0) - p.mean[0]).abs() < 4 * error).all()
