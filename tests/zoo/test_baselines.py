"""Gaussian mixture, kernel density and K-means against scikit-learn, closed forms and known densities."""

import functools
import json
import math

import pytest
import torch

from modalities import MediaError
from modalities.data import Arrays
from modalities.densities import DENSITIES
from modalities.points import Points
from modalities.signals import Signals
from zoo.baselines import GaussianMixture, KernelDensity, k_means
from zoo.hub import load, save

PLANE = Points(dimensions=2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(name, n, seed):
    return DENSITIES[name]().sample(n, generator(seed))


@pytest.fixture(scope="module")
def moons():
    return draw("two-moons", 500, 1).double()


@pytest.fixture(scope="module")
def mixture(moons):
    return GaussianMixture.fit(moons, PLANE, components=6)


@pytest.fixture(scope="module")
def kernels(moons):
    return KernelDensity.fit(moons, PLANE, bandwidth=0.1)


@pytest.fixture(params=["mixture", "kernels"])
def model(request):
    return request.getfixturevalue(request.param)


def test_the_mixture_scores_as_scikit_learn_does(moons, mixture):
    from sklearn import mixture as peer

    mean, std = moons.mean(0), moons.std(0)
    theirs = peer.GaussianMixture(6, n_init=3, random_state=0, reg_covar=0).fit(((moons - mean) / std).numpy())
    x = draw("two-moons", 1500, 2).double()
    expected = torch.from_numpy(theirs.score_samples(((x - mean) / std).numpy())) - std.log().sum()
    assert torch.allclose(mixture.log_prob(x), expected, rtol=0, atol=2e-3)
    assert mixture.log_prob(x).mean().item() == pytest.approx(expected.mean().item(), abs=1e-4)


@pytest.mark.parametrize(("components", "units"), [(6, (1e3,)), (6, (1e-2,)), (6, (1e-4,)), (6, (1e-6, 1e3))])
def test_the_units_of_the_data_change_nothing_but_the_unit_of_the_density(moons, components, units):
    x, unit = draw("two-moons", 1500, 2).double(), torch.tensor(units, dtype=torch.double).expand(2)
    expected = GaussianMixture.fit(moons, PLANE, components=components).log_prob(x)
    other = GaussianMixture.fit(moons * unit, PLANE, components=components)
    assert torch.allclose(other.log_prob(x * unit) + unit.log().sum(), expected, rtol=1e-6, atol=1e-6)


def test_the_kernel_density_scores_as_scikit_learn_does(moons, kernels):
    from sklearn.neighbors import KernelDensity as Peer

    x, std = draw("two-moons", 1500, 2).double(), moons.std(0)
    theirs = torch.from_numpy(Peer(bandwidth=0.1).fit((moons / std).numpy()).score_samples((x / std).numpy()))
    assert torch.allclose(kernels.log_prob(x), theirs - std.log().sum(), rtol=1e-9, atol=1e-9)
    minutes = torch.tensor([1.0, 60.0], dtype=torch.double)
    other = KernelDensity.fit(moons * minutes, PLANE, bandwidth=0.1)
    assert torch.allclose(other.log_prob(x * minutes), kernels.log_prob(x) - math.log(60), rtol=1e-9, atol=1e-9)


def test_densities_integrate_to_one(model):
    axis = torch.linspace(-3, 4, 300, dtype=torch.double)
    cell = (axis[1] - axis[0]) ** 2
    assert (model.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * cell).item() == pytest.approx(1, abs=1e-3)


def test_samples_follow_the_density(moons, model):
    """Moments, and the log-density itself: its mean over samples is the negative entropy, by quadrature."""
    x = model.sample(8000, generator=generator())
    assert x.dtype == torch.double
    assert torch.allclose(x.mean(0), moons.mean(0), atol=0.04)
    blur = model.bandwidth.square().diag() if isinstance(model, KernelDensity) else 0
    assert torch.allclose(torch.cov(x.T), torch.cov(moons.T) + blur, atol=0.03)
    axis = torch.linspace(-3, 4, 300, dtype=torch.double)
    log_density = model.log_prob(torch.cartesian_prod(axis, axis))
    entropy = -(log_density.exp() * log_density).sum() * (axis[1] - axis[0]) ** 2
    assert -model.log_prob(x).mean().item() == pytest.approx(entropy.item(), abs=0.03)


def test_components_are_drawn_by_weight_and_have_their_covariance():
    model = GaussianMixture(PLANE, 2).double()
    model.weights.copy_(torch.tensor([0.2, 0.8]))
    model.centres.copy_(torch.tensor([[-50.0, 0], [50, 0]]))
    model.scale[1] = torch.tensor([[2.0, 0], [1, 0.5]])
    x = model.sample(20_000, generator=generator())
    right = x[x[:, 0] > 0]
    assert len(right) / len(x) == pytest.approx(0.8, abs=0.01)
    assert torch.allclose(torch.cov(right.T), torch.tensor([[4.0, 2], [2, 1.25]]).double(), atol=0.15)
    cool = model.sample(20_000, temperature=0.5, generator=generator())
    assert torch.allclose(4 * torch.cov(cool[cool[:, 0] > 0].T), torch.cov(right.T), atol=0.3)
    assert {tuple(row) for row in model.sample(50, mean=True, generator=generator()).tolist()} == {(-50, 0), (50, 0)}
    # The density at a centre is the weight over the area: 0.2 beats 0.8 / (2 * 0.5) only if the weights are swapped.
    assert model.sample(1, temperature=0).tolist() == [[50, 0]]
    model.weights.copy_(torch.tensor([0.6, 0.4]))
    assert model.sample(1, temperature=0).tolist() == [[-50, 0]]


def test_the_kernel_density_draws_every_item_alike():
    items = torch.stack([torch.arange(0.0, 100, 10), torch.zeros(10)], 1)
    items[5:, 1] = 1
    model = KernelDensity.fit(items, PLANE, bandwidth=0.02)
    x = model.sample(20_000, generator=generator())
    nearest = torch.cdist(x, items).argmin(1)
    assert torch.allclose(nearest.bincount() / 20_000, torch.full((10,), 0.1), atol=0.01)
    assert torch.allclose((x - items[nearest]).std(0), 0.02 * items.std(0), rtol=0.05)


def test_one_dimension_reaches_the_entropy():
    """0.5 N(-2, 0.5^2) + 0.5 N(2, 0.5^2): the entropy is 1.419 nats, that of the best single Gaussian 2.14."""
    line, train, test = Points(dimensions=1), draw("two-gaussians", 1000, 0), draw("two-gaussians", 5000, 1)
    truth = -DENSITIES["two-gaussians"]().log_prob(test).mean().item()

    def nll(fitted):
        return -fitted.log_prob(test).mean().item()

    assert truth == pytest.approx(1.419, abs=0.03)
    assert nll(GaussianMixture.fit(train, line, components=2)) == pytest.approx(truth + 0.003, abs=0.006)
    assert nll(KernelDensity.fit(train, line)) == pytest.approx(truth + 0.006, abs=0.01)
    assert nll(GaussianMixture.fit(train, line, components=1)) == pytest.approx(2.147, abs=0.02)


def test_two_moons_reach_the_known_likelihoods():
    train, test = draw("two-moons", 2000, 0), draw("two-moons", 5000, 1)
    for components, nll, spread in ((2, 1.707, 0.04), (8, 0.460, 0.06), (32, 0.338, 0.03)):
        fitted = GaussianMixture.fit(train, PLANE, components=components)
        assert -fitted.log_prob(test).mean().item() == pytest.approx(nll, abs=spread)
    kernels = KernelDensity.fit(train, PLANE)
    # scikit-learn's one bandwidth for both axes is 0.032 here, at 0.348 nats.
    assert kernels.bandwidth.log().mean().exp().item() == pytest.approx(0.032, rel=0.25)
    assert -kernels.log_prob(test).mean().item() == pytest.approx(0.348, abs=0.03)


def test_fitting_takes_a_data_set_with_labels_and_any_shape(moons, mixture):
    labelled = Arrays(moons, torch.zeros(len(moons), dtype=torch.long))
    assert torch.equal(GaussianMixture.fit(labelled, PLANE, components=6).centres, mixture.centres)
    series = torch.randn(60, 2, 3, generator=generator())
    fitted = GaussianMixture.fit(series, Signals(channels=2, length=3), components=1)
    flat = series.flatten(1).double()
    expected = torch.distributions.MultivariateNormal(flat.mean(0), torch.cov(flat.T, correction=0)).log_prob(flat)
    assert torch.allclose(fitted.log_prob(series), expected, atol=1e-3)
    assert fitted.sample(4, generator=generator()).shape == (4, 2, 3)


def test_a_checkpoint_holds_sizes_and_arrays(moons, model, tmp_path):
    again = load(save(model, tmp_path / "model"))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    expected = {GaussianMixture: ("gaussian-mixture", "components", 6), KernelDensity: ("kernel-density", "items", 500)}
    family, size, value = expected[type(model)]
    assert (config["family"], config["arguments"][size]) == (family, value)
    assert torch.allclose(again.log_prob(moons), model.log_prob(moons), atol=1e-3)
    assert not hasattr(model, "loss")


def test_unusable_data_are_refused(moons):
    mixture = functools.partial(GaussianMixture.fit, components=5)
    for fit, x, message in (
        (mixture, moons[:4], "at least 5 items to fit to, got 4"),
        (KernelDensity.fit, torch.full((20, 2), math.nan), "NaN"),
        (KernelDensity.fit, moons[:, :1], "shape"),
        (KernelDensity.fit, moons[:9], "at least 10 items"),
        (KernelDensity.fit, torch.ones(20, 2), "all items are equal"),
        (mixture, torch.ones(20, 2), "all items are equal"),
    ):
        with pytest.raises(MediaError, match=message):
            fit(x, PLANE)
    with pytest.raises(ValueError, match="bandwidth must be above 0"):
        KernelDensity.fit(moons, PLANE, bandwidth=0)
    with pytest.raises(ValueError, match="components must be a positive whole number"):
        GaussianMixture(PLANE, 0)


@pytest.mark.parametrize("fit", [KernelDensity.fit, functools.partial(GaussianMixture.fit, components=1)])
def test_an_element_that_never_varies_is_warned_of(fit, moons):
    flat = moons * torch.tensor([1.0, 0.0], dtype=torch.double)
    with pytest.warns(UserWarning, match="1 of 2 elements never vary"):
        fitted = fit(flat, PLANE)
    assert torch.isfinite(fitted.log_prob(flat)).all()


def test_k_means_finds_separated_groups_and_their_means():
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    truth = torch.arange(300) % 3
    x = centres[truth] + torch.randn(300, 2, generator=generator())
    found = k_means(x, 3)
    assert found.centres.shape == (3, 2) and found.centres.dtype == x.dtype
    for group in range(3):
        (label,) = found.assignment[truth == group].unique()
        assert torch.allclose(found.centres[label], x[truth == group].mean(0), atol=1e-4)
    assert torch.equal(found.assignment, torch.cdist(x, found.centres).argmin(1))
    with pytest.raises(ValueError, match="at least as many items"):
        k_means(x[:2], 3)


def test_the_size_of_the_mixture_is_chosen_on_points_left_out():
    x = Points(2).dataset("eight-gaussians").x[:600]
    chosen = GaussianMixture.fit_likeliest(x, Points(2), sizes=(1, 2, 8, 60, 61), seed=0)
    assert len(chosen.weights) == 8
    assert torch.equal(chosen.centres, GaussianMixture.fit(x, Points(2), components=8, seed=0).centres)


def test_units_far_apart_survive_half_precision(tmp_path):
    x = torch.randn(200, 2, generator=generator()) * torch.tensor([1.0, 1e-9])
    model = GaussianMixture.fit(x, PLANE, components=2)
    for half in (load(save(model, tmp_path / "mixture", half=True)), load(tmp_path / "mixture", dtype=torch.float16)):
        assert torch.equal(half.log_prob(x), model.log_prob(x))
