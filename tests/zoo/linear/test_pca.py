"""PCA and probabilistic PCA, against identities, scikit-learn and torch's own normal distributions."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

from modalities import MediaError
from modalities.images import Images
from modalities.latents import Latents
from modalities.points import Points
from tests.zoo.linear.data import SixNumbers, Stream, angle, images, is_orthonormal, low_rank, spectrum, squared_error
from zoo.linear.pca import PCA, ProbabilisticPCA
from zoo.linear.principal import principal_axes

MEDIUM = Images(3, 4, 4)
BOTH = pytest.mark.parametrize("kind", [PCA, ProbabilisticPCA])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pca():
    return PCA.fit(images(), MEDIUM, components=8)


@pytest.fixture
def ppca():
    return ProbabilisticPCA.fit(images(), MEDIUM, components=8)


def covariance(model):
    """W W^T + s2 I."""
    weights = model.basis.T * model.gain
    return weights @ weights.T + model.noise * torch.eye(len(weights)).to(weights)


def test_too_many_components_are_refused():
    for kind, components, most in ((PCA, 3, 2), (ProbabilisticPCA, 2, 1)):
        with pytest.raises(ValueError, match=f"at most {most}"):
            kind(Points(2), components)


def test_the_latent_is_whitened_and_decodes_to_the_projection(pca):
    x = images()
    z = pca.encode(x).mean
    assert torch.allclose(z.mean(0), torch.zeros(8), atol=1e-5)
    assert torch.allclose(torch.cov(z.T), torch.eye(8), atol=1e-4)
    assert torch.allclose(pca.project(x), z * pca.variance.sqrt(), atol=1e-5)
    again = pca.reconstruct(x)
    assert again.shape == x.shape and torch.allclose(pca.encode(again).mean, z, atol=1e-4)
    lost = (x - again).square().sum() / (len(x) - 1)
    assert lost.item() == pytest.approx((pca.total - pca.variance.sum()).item(), rel=1e-4)
    assert pca.explained.sum() < 1 and pca.count == 60


def test_directions_without_variance_are_not_whitened():
    x = torch.zeros(30, 2)
    x[:, 0] = torch.linspace(-1, 1, 30)
    z = PCA.fit(x, Points(2), components=2).encode(x + torch.tensor([0.0, 1e-3])).mean
    assert torch.isfinite(z).all() and z[:, 1].abs().max() == 0


@BOTH
def test_samples_follow_temperature_and_truncation(kind):
    model = kind.fit(images(), MEDIUM, components=8)

    def scores(**arguments):
        x = model.sample(20_000, mean=True, generator=generator(), **arguments)
        return model.project(x) / (model.variance.sqrt() if kind is PCA else model.gain)

    assert torch.allclose(scores().std(0), torch.ones(8), atol=0.02)
    assert torch.allclose(scores(temperature=0.5).std(0), torch.full((8,), 0.5), atol=0.01)
    cut = scores(truncation=1.0)
    assert 0.99 < cut.abs().max() <= 1.001
    # The variance of a normal distribution cut off at one standard deviation.
    assert torch.allclose(cut.var(0), torch.full((8,), 0.2911), atol=0.01)
    assert scores(truncation=2.0, temperature=0.5).abs().max() <= 1.001
    assert torch.equal(model.sample(2, temperature=0), model.mean.expand(2, -1, -1, -1))
    with pytest.raises(ValueError, match="truncation"):
        model.sample(2, truncation=0.0)


def test_log_likelihood_is_that_of_the_full_normal_distribution(ppca):
    x = images(20, seed=5)
    model = ppca.double()
    expected = MultivariateNormal(model.mean.flatten(), covariance(model)).log_prob(x.flatten(1).double())
    assert torch.allclose(ppca.float().log_prob(x), expected, rtol=1e-5)
    assert ppca.log_prob(x).dtype == torch.float64 and ppca.exact and not ppca.discrete
    asked = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(ppca.log_prob(asked).sum(), asked)
    centred = (x - ppca.mean).flatten(1).double()
    there = torch.linalg.solve(covariance(model.double()), -centred.T).T
    assert torch.allclose(slope.flatten(1).double(), there, rtol=1e-3, atol=1e-2)
    ppca.float()
    many = x.repeat(60, 1, 1, 1)  # several chunks
    assert torch.allclose(ppca.log_prob(many), expected.repeat(60), rtol=1e-5)
    wide = ProbabilisticPCA.fit(spectrum(20, 9216).reshape(20, 1, 96, 96), Images(1, 96, 96), components=3)
    x = wide.sample(4, generator=generator())
    peer = LowRankMultivariateNormal(wide.mean.flatten(), wide.basis.T * wide.gain, wide.noise.expand(9216))
    assert torch.allclose(wide.log_prob(x), peer.log_prob(x.flatten(1)), rtol=1e-9)


def test_log_likelihood_and_noise_are_those_of_scikit_learn_where_items_outnumber_dimensions():
    from sklearn.decomposition import PCA as Peer

    x = spectrum(5000, 6, decay=0.5)
    model = ProbabilisticPCA.fit(x, SixNumbers(), components=3)
    peer = Peer(3, svd_solver="full").fit(x.numpy())
    assert model.noise.item() == pytest.approx(peer.noise_variance_ * 4999 / 5000, rel=1e-9)
    np.testing.assert_allclose(model.log_prob(x).numpy(), peer.score_samples(x.numpy()), atol=0.01)


@pytest.mark.parametrize("solver", ["svd", "covariance", "gram", "randomized"])
def test_single_precision_loses_no_nats_where_the_mean_is_far_from_zero(solver):
    x, medium = (spectrum(300, 48, offset=0.0) + 1e4).float(), Latents((48,))
    exact, found = (ProbabilisticPCA.fit(y, medium, components=5, solver=solver) for y in (x.double(), x))
    assert found.log_prob(x).mean().item() == pytest.approx(exact.log_prob(x.double()).mean().item(), abs=1e-3)
    given = fed(PCA(medium, components=5), x, [100, 200])
    torch.testing.assert_close(given.variance.double(), exact.variance * 300 / 299, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(200, 6), (5, 6)], ids=["n > d", "n < d"])
def test_the_closed_form_is_a_stationary_point_and_a_fixed_point_of_em(shape):
    x = spectrum(*shape, decay=0.7)
    model = ProbabilisticPCA.fit(x, SixNumbers(), components=2)
    n, d = shape
    w = (model.basis.T * model.gain).requires_grad_()
    noise = model.noise.clone().requires_grad_()
    mean = model.mean.clone().requires_grad_()
    total = MultivariateNormal(mean, w @ w.T + noise * torch.eye(d, dtype=torch.float64)).log_prob(x).mean()
    assert total.item() == pytest.approx(model.log_prob(x).mean().item(), rel=1e-9)
    for gradient in torch.autograd.grad(total, (w, noise, mean)):
        assert gradient.abs().max() < 1e-8
    # One step of EM (Tipping and Bishop, 1999) from the fit gives the fit.
    with torch.no_grad():
        scatter = (x - mean).T @ (x - mean) / n
        m = w.T @ w + noise * torch.eye(2, dtype=torch.float64)
        new = scatter @ w @ torch.linalg.inv(noise * torch.eye(2) + torch.linalg.inv(m) @ w.T @ scatter @ w)
        assert torch.allclose(new, w, atol=1e-8)
        assert torch.allclose((scatter - scatter @ w @ torch.linalg.inv(m) @ new.T).trace() / d, noise, atol=1e-8)


def test_the_posterior_is_the_exact_one_and_tends_to_the_projection(ppca):
    x = images(10, seed=2)
    posterior = ppca.encode(x)
    z = posterior.sample(generator=generator())
    # Bayes: p(x) = p(z) p(x | z) / q(z | x) for every z.
    log_prob = ppca.prior(n=10).log_prob(z) + ppca.decode(z).log_prob(x) - posterior.log_prob(z)
    assert torch.allclose(log_prob.double(), ppca.log_prob(x), rtol=1e-4)
    ppca.noise.fill_(1e-12)
    projection = ppca.mean + ((x - ppca.mean).flatten(1) @ ppca.basis.T @ ppca.basis).reshape(x.shape)
    assert torch.allclose(ppca.reconstruct(x), projection, atol=1e-5)
    assert ppca.encode(x).std.max() < 1e-3


def test_samples_have_the_covariance_of_the_model():
    model = ProbabilisticPCA.fit(spectrum(300, 6, decay=0.7), SixNumbers(), components=2)
    expected = covariance(model)
    found = torch.cov(model.sample(200_000, generator=generator()).T)
    assert torch.allclose(found, expected, atol=0.01 * expected.max().item())


def test_completions_follow_the_conditional_normal_distribution(ppca, pca):
    known = torch.arange(4)[:, None] % 2 == 0  # rows, in no order that a chain rule would need
    x = images()[:2]
    chosen = known.expand(3, 4, 4).flatten()
    c = covariance(ppca).double()
    gain = c[~chosen][:, chosen] @ torch.linalg.inv(c[chosen][:, chosen])
    mean = ppca.mean.flatten()[~chosen] + (x - ppca.mean).flatten(1)[:, chosen].double() @ gain.T
    made = ppca.complete(x.where(known, torch.nan), known, temperature=0)
    assert torch.equal(made.where(known, 0), x.where(known, 0))
    assert torch.allclose(made.flatten(1)[:, ~chosen].double(), mean, atol=1e-4)
    assert torch.allclose(pca.complete(x, known, temperature=0), made, atol=1e-4)
    draws = (
        ppca.complete(x[:1].expand(20_000, -1, -1, -1), known, generator=generator()).flatten(1)[:, ~chosen].double()
    )
    expected = c[~chosen][:, ~chosen] - gain @ c[chosen][:, ~chosen]
    assert torch.allclose(draws.mean(0), mean[0], atol=0.03 * expected.diag().max().sqrt().item())
    assert (torch.cov(draws.T) - expected).norm() < 0.05 * expected.norm()
    with pytest.raises(ValueError, match="completes nothing"):
        PCA(Points(2), 2).complete(torch.zeros(1, 2), torch.tensor([True, False]))


def test_the_noise_has_a_floor_where_the_data_leave_none():
    medium, x = Images(1, 4, 5), spectrum(5, 20).reshape(5, 1, 4, 5)
    model = ProbabilisticPCA.fit(x, medium, components=4)
    assert model.noise.item() == pytest.approx(1e-6 * x.var(0, correction=0).sum().item() / 20, rel=1e-6)
    assert torch.isfinite(model.log_prob(x)).all()
    doubled = torch.cat([x[:2], x[:2], x[:2]])
    model = ProbabilisticPCA.fit(doubled, medium, components=3)
    posterior = model.encode(doubled)
    assert torch.isfinite(model.log_prob(doubled)).all() and torch.isfinite(posterior.mean).all()
    assert posterior.std.max() <= 1


def test_digits_take_about_as_many_components_as_published(shared_data):
    x = Images(1, 28, 28).dataset(shared_data / "mnist", "train").x[:20_000]
    assert 84 <= len(PCA.fit(x, Images(1, 28, 28), components=0.9).variance) <= 90


def fed(model, x, sizes):
    """The model after batches of these sizes that come once."""
    for batch in x.split(sizes):
        assert model.partial_fit(batch) is model
        assert model.count == 0 or model.count > len(model.variance)
    return model


def test_batches_that_come_once_give_the_model_of_all():
    x = images(61)
    expected = PCA.fit(x, MEDIUM, components=8)
    for sizes in ([61], [1, 5, 3, 30, 22], [2] * 30 + [1]):
        model = fed(PCA(MEDIUM, components=8), x, sizes)
        assert model.count == 61
        for name in ("mean", "basis", "variance", "total"):
            assert torch.allclose(getattr(model, name), getattr(expected, name), atol=2e-4, rtol=1e-4), name
    probabilistic = fed(ProbabilisticPCA(MEDIUM, components=8), x, [20, 20, 20, 1])
    expected = ProbabilisticPCA.fit(x, MEDIUM, components=8)
    assert torch.allclose(probabilistic.log_prob(x), expected.log_prob(x), rtol=1e-4)


@pytest.mark.parametrize("sizes", [[200], [20] * 10, [3, 4, 93, 50, 49, 1]])
def test_many_dimensions_are_merged_approximately(sizes):
    medium, d = Images(3, 20, 20), 1200
    x = spectrum(200, d, decay=0.5, offset=1.0).float()
    exact = principal_axes(x, (d,), 5, "svd")
    axes = fed(PCA(medium, components=5), x.unflatten(1, medium.shape), sizes).axes()
    assert torch.allclose(axes.mean, exact.mean, atol=1e-5)
    assert axes.total == pytest.approx(exact.total, rel=1e-5) and axes.count == 200
    assert is_orthonormal(axes.basis) and squared_error(x, axes) < 1.02 * squared_error(x, exact)
    # A rank below the directions that are kept loses nothing, so the shift of the mean is counted right.
    shifted = low_rank(200, 12, d).float() + torch.arange(200)[:, None] * 0.01
    exact = principal_axes(shifted, (d,), 5, "svd")
    axes = fed(PCA(medium, components=5), shifted.unflatten(1, medium.shape), sizes).axes()
    assert torch.allclose(axes.variance, exact.variance, rtol=1e-3) and angle(axes.basis, exact.basis) < 1e-3


@BOTH
def test_a_loaded_model_goes_on_from_what_it_knows(kind, tmp_path):
    x = spectrum(400, 48, decay=3.0, offset=1.0).float().unflatten(1, (3, 4, 4))
    kind.fit(x[:300], MEDIUM, components=2).save_pretrained(tmp_path)
    model = kind.from_pretrained(tmp_path).partial_fit(x[300:])
    exact = kind.fit(x, MEDIUM, components=2)
    assert model.count == 400
    assert torch.allclose(model.mean, exact.mean, atol=1e-5)
    assert torch.allclose(model.variance, exact.variance, rtol=0.01)
    assert model.axes().total == pytest.approx(principal_axes(x, (3, 4, 4), 2).total, rel=1e-3)


def test_bad_batches_leave_the_model_as_it_was():
    model = PCA(SixNumbers(), components=2).partial_fit(spectrum(20, 6).float())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bad = spectrum(9, 6).float()
    bad[3, 1] = math.nan
    with pytest.raises(MediaError, match="NaN"):
        model.partial_fit(bad)
    with pytest.raises(MediaError, match="shape"):
        model.partial_fit(torch.zeros(3, 7))
    model.partial_fit(bad[:0])
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert PCA(SixNumbers(), components=2).partial_fit(torch.ones(9, 6)).count == 0  # they are equal


def test_one_fit_of_a_stream_serves_both_models(tmp_path):
    stream = Stream(images(700))
    model = PCA.fit(stream, MEDIUM, components=4, checkpoint=tmp_path / "fit")
    again = ProbabilisticPCA.fit(stream, MEDIUM, components=4, checkpoint=tmp_path / "fit")
    assert torch.equal(model.basis, again.basis) and stream.read < 2 * 700
    other = ProbabilisticPCA.from_axes(MEDIUM, model.axes())
    assert torch.equal(other.variance, again.variance) and torch.allclose(other.noise, again.noise, rtol=1e-5)
