"""Closed forms against Monte Carlo, sums and torch.distributions."""

import math

import pytest
import torch

from tests.toys import generator
from zoo.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    OptimalGaussian,
    Point,
)
from zoo.hierarchy import TopDown


def grid(levels):
    return torch.linspace(-1, 1, levels, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 4, 3), (2, 2, 2, 2)])
def test_gaussian_agrees_with_torch(shape):
    torch.manual_seed(0)
    mean, std = torch.randn(4, *shape), torch.rand(4, *shape) + 0.1
    prior_mean, prior_std = torch.randn(4, *shape), torch.rand(4, *shape) + 0.1
    x = torch.randn(4, *shape)
    ours = DiagonalGaussian(mean, std)
    theirs = torch.distributions.Independent(torch.distributions.Normal(mean, std), len(shape))
    prior = torch.distributions.Independent(torch.distributions.Normal(prior_mean, prior_std), len(shape))
    assert torch.allclose(ours.log_prob(x), theirs.log_prob(x), atol=1e-4)
    kl = ours.kl(DiagonalGaussian(prior_mean, prior_std))
    assert kl.shape == (4, 1)
    assert torch.allclose(kl[:, 0], torch.distributions.kl_divergence(theirs, prior), atol=1e-4)
    assert ours.rsample((7,)).shape == (7, 4, *shape) and ours.log_prob(ours.rsample((7,))).shape == (7, 4)


def test_kl_to_the_standard_normal():
    standard = DiagonalGaussian(torch.zeros(1, 1), torch.ones(1, 1))
    wide = DiagonalGaussian(torch.zeros(1, 1), torch.full((1, 1), math.sqrt(2)))
    moved = DiagonalGaussian(torch.ones(1, 1), torch.ones(1, 1))
    assert wide.kl(standard).item() == pytest.approx(0.15343, abs=1e-5)
    assert moved.kl(standard).item() == pytest.approx(0.5)


def test_kl_agrees_with_monte_carlo():
    torch.manual_seed(0)
    q = DiagonalGaussian(torch.randn(1, 4), torch.rand(1, 4) + 0.3)
    p = DiagonalGaussian(torch.randn(1, 4), torch.rand(1, 4) + 0.5)
    z = q.rsample((1_000_000,), generator=generator())
    estimate = q.log_prob(z) - p.log_prob(z)
    assert q.kl(p).item() == pytest.approx(estimate.mean().item(), abs=5 * estimate.std().item() / 1000)


def test_a_scale_of_zero_gives_the_mean():
    mean = torch.randn(3, 2)
    assert torch.equal(DiagonalGaussian(mean, torch.zeros(3, 2)).sample(generator=generator()), mean)


def test_optimal_sigma_is_the_maximum():
    torch.manual_seed(0)
    mean, x = torch.randn(5, 7), torch.randn(5, 7)
    best = OptimalGaussian(mean, torch.ones(()))
    sigma = best.optimal_sigma(x)
    score = best.log_prob(x).mean()
    assert score.item() == pytest.approx(-(7 / 2) * (math.log(2 * math.pi * sigma**2) + 1), abs=1e-4)
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert DiagonalGaussian(mean, sigma * factor).log_prob(x).mean() < score


def test_bernoulli_agrees_with_torch_and_samples_its_mean():
    logits = torch.linspace(-3, 3, 8)[None]
    ours, theirs = Bernoulli(logits), torch.distributions.Bernoulli(logits=logits)
    x = torch.tensor([[-1.0, 1, 1, -1, 1, -1, -1, 1]])
    assert torch.allclose(ours.log_prob(x), theirs.log_prob((x + 1) / 2).sum(1), atol=1e-5)
    assert torch.allclose(ours.sample((20000,), generator=generator()).mean(0), ours.mean, atol=0.03)
    assert torch.equal(ours.mode, torch.where(logits > 0, 1.0, -1.0))


@pytest.mark.parametrize("levels", [2, 32, 256])
@pytest.mark.parametrize("mean, log_scale", [(0, -2), (0.9, -3), (1, -4), (-1.3, 0), (0.004, -7), (5, -6), (0, 4)])
def test_discretised_logistic_sums_to_one(levels, mean, log_scale):
    x = grid(levels)[:, None]
    parameters = [torch.full((levels, 1), float(v), dtype=torch.float64) for v in (mean, log_scale)]
    likelihood = DiscretizedLogistic(*parameters, levels=levels)
    mass = likelihood.log_prob(x).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-12)
    assert torch.isfinite(likelihood.log_prob(x)).all()
    expectation = (mass * x[:, 0]).sum()
    assert torch.allclose(likelihood.mean[:, 0], expectation, atol=1e-10)


def test_the_level_beside_the_edge_has_its_own_mass_alone():
    # A test against the edge that is too wide gives level 254 everything above it as well.
    mass = DiscretizedLogistic(torch.ones(256, 1), torch.full((256, 1), math.log(0.02))).log_prob(
        grid(256)[:, None].float()
    )
    exact = torch.sigmoid(torch.tensor((1 / 255) / 0.02)) - torch.sigmoid(torch.tensor((-1 / 255) / 0.02))
    below = torch.sigmoid(torch.tensor((-1 / 255) / 0.02)) - torch.sigmoid(torch.tensor((-3 / 255) / 0.02))
    assert mass[255].exp().item() == pytest.approx(1 - torch.sigmoid(torch.tensor((-1 / 255) / 0.02)).item(), abs=1e-5)
    assert mass[254].exp().item() == pytest.approx(below.item(), abs=1e-5) and exact > 0


def test_discretised_logistic_gradients_are_finite_far_away():
    mean = torch.tensor([[-50.0, 0.0, 50.0]], requires_grad=True)
    log_scale = torch.tensor([[-7.0, -7.0, 3.0]], requires_grad=True)
    DiscretizedLogistic(mean, log_scale).log_prob(torch.tensor([[1.0, -1.0, 0.00392]])).sum().backward()
    assert torch.isfinite(mean.grad).all() and torch.isfinite(log_scale.grad).all()


def test_discretised_logistic_samples_follow_the_mass():
    likelihood = DiscretizedLogistic(torch.full((100_000, 1), 0.3), torch.full((100_000, 1), -1.0), levels=8)
    draws = likelihood.sample(generator=generator()).flatten()
    levels = torch.linspace(-1, 1, 8)
    mass = DiscretizedLogistic(torch.full((8, 1), 0.3), torch.full((8, 1), -1.0), levels=8).log_prob(levels[:, None])
    counts = torch.stack([(draws - level).abs() < 1e-4 for level in levels]).sum(1)
    assert counts.sum() == 100_000
    expected = mass.exp() * 100_000
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 24.3  # the 99.9 % point of 7 degrees of freedom


def mixture(levels, channels, coupled, batch=1):
    torch.manual_seed(3)
    pairs = channels * (channels - 1) // 2
    return DiscretizedLogisticMixture(
        torch.randn(1, 4, 1, 1).expand(batch, 4, 1, 1).double(),
        torch.randn(1, 4, channels, 1, 1).expand(batch, 4, channels, 1, 1).double(),
        (torch.randn(1, 4, channels, 1, 1) - 1).expand(batch, 4, channels, 1, 1).double(),
        torch.randn(1, 4, pairs, 1, 1).expand(batch, 4, pairs, 1, 1).double() if coupled else None,
        levels=levels,
    )


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("levels, channels", [(256, 1), (6, 3), (4, 2)])
def test_mixture_sums_to_one(levels, channels, coupled):
    x = torch.cartesian_prod(*[grid(levels)] * channels).reshape(-1, channels, 1, 1)
    assert mixture(levels, channels, coupled, len(x)).log_prob(x).exp().sum().item() == pytest.approx(1, abs=1e-10)


def test_mixture_samples_follow_the_mass():
    levels, n = 3, 60_000
    x = torch.cartesian_prod(grid(levels), grid(levels), grid(levels)).reshape(-1, 3, 1, 1)
    expected = mixture(levels, 3, True, len(x)).log_prob(x).exp() * n
    draws = mixture(levels, 3, True, n).sample(generator=generator()).flatten(1)
    index = ((draws + 1) * (levels - 1) / 2).round().long() @ torch.tensor([9, 3, 1])
    counts = torch.bincount(index, minlength=27)
    keep = expected > 5
    chi_square = ((counts - expected) ** 2 / expected)[keep].sum()
    assert chi_square < 56  # above the 99.9 % point of 26 degrees of freedom
    likelihood = mixture(levels, 3, False, n)
    assert torch.allclose(likelihood.sample(generator=generator()).mean(0), likelihood.mean[0], atol=0.02)


def test_uncoupled_mixture_of_one_is_the_discretised_logistic():
    torch.manual_seed(0)
    mean, log_scale = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4) - 2
    x = (torch.rand(3, 2, 4, 4) * 255).round() * 2 / 255 - 1
    one = DiscretizedLogisticMixture(torch.zeros(3, 1, 4, 4), mean[:, None], log_scale[:, None])
    assert torch.allclose(one.log_prob(x), DiscretizedLogistic(mean, log_scale).log_prob(x), atol=1e-3)
    assert one.log_prob(x.expand(5, *x.shape)).shape == (5, 3)


def test_categorical_agrees_with_torch_and_samples_its_mass():
    torch.manual_seed(0)
    logits = 2 * torch.randn(3, 2, 5, 4, dtype=torch.float64)  # five levels at two channels of four positions
    ours = Categorical(logits)
    theirs = torch.distributions.Categorical(logits=logits.movedim(2, -1))
    index = torch.randint(5, (3, 2, 4))
    x = grid(5)[index]
    assert torch.allclose(ours.log_prob(x), theirs.log_prob(index).sum((1, 2)))
    assert torch.allclose(ours.log_prob(torch.stack([x, -x])), torch.stack([ours.log_prob(x), ours.log_prob(-x)]))
    assert torch.equal(ours.mode, grid(5)[theirs.mode])
    draws = ours.sample((20_000,), generator=generator())
    share = (draws.unsqueeze(-1) - grid(5)).abs().lt(1e-9).double().mean(0)
    assert torch.allclose(share, theirs.probs, atol=0.02) and torch.allclose(draws.mean(0), ours.mean, atol=0.03)


def test_noise_near_the_ends_of_its_range_leads_to_levels():
    logits = torch.tensor([0.0, 30.0, 0.0]).reshape(1, 1, 3, 1)
    for u in (1e-7, 1 - 1e-7):
        assert Categorical(logits).from_noise(torch.full((1, 1, 1), u)).item() in (-1, 0, 1)
    mixture = DiscretizedLogisticMixture(torch.zeros(1, 2, 1), torch.zeros(1, 2, 1, 1), torch.full((1, 2, 1, 1), 9.0))
    for u in (1e-7, 1 - 1e-7):
        assert abs(mixture.from_noise(torch.full((1, 2, 1), u)).item()) == 1


def test_bernoulli_is_refused_reparameterised_samples():
    with pytest.raises(TypeError, match="reparameterised"):
        Bernoulli(torch.zeros(1, 1)).rsample()


def test_point_is_its_value():
    value = torch.randn(2, 3)
    assert repr(Point(value)) == "Point(shape=[2, 3])"
    assert torch.equal(Point(value).mean, value) and torch.equal(Point(value).sample(), value)


def linear_walk(offset):
    def walk():
        z = yield DiagonalGaussian(torch.full((5, 2), offset), torch.full((5, 2), 0.5))
        yield DiagonalGaussian(z * 2 + 1, z.abs() + 0.1)

    return walk


def test_path_scores_and_divergences_follow_the_chain_rule():
    q, p = TopDown(linear_walk(0.0)), TopDown(linear_walk(1.0))
    z = q.rsample(generator=generator())
    first, second = (
        DiagonalGaussian(torch.zeros(5, 2), torch.tensor(0.5)),
        DiagonalGaussian(z[0] * 2 + 1, z[0].abs() + 0.1),
    )
    assert torch.allclose(q.log_prob(z), first.log_prob(z[0]) + second.log_prob(z[1]))
    kl = q.kl(p, z)
    assert kl.shape == (5, 2) and torch.allclose(kl[:, 0], torch.full((5,), 2 * 2.0)) and torch.all(kl[:, 1] == 0)
    back = q.reparameterise(q.standardise(z))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(z, back, strict=True))
    assert torch.equal(q.mean[1], torch.ones(5, 2))
