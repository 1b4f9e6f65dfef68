"""PCA, probabilistic PCA and their solvers, against identities, scikit-learn and torch's own normal distribution."""

import math

import numpy as np
import pytest
import torch

from modalities import MediaError
from modalities.images import Images
from modalities.modality import Arrays
from modalities.points import Points
from zoo.evaluation.neighbours import nearest
from zoo.linear.dense import orthonormal
from zoo.linear.pca import PCA, ProbabilisticPCA
from zoo.linear.principal import choose, principal_axes

EXACT = ("svd", "covariance", "gram")
SHAPES = {"tall": (90, 20), "wide": (20, 90), "square": (40, 40)}


def data(n, d, seed=0, decay=1.0, offset=3.0):
    """Correlated rows with singular values that fall like 1 / i^decay and a mean far from zero."""
    generator = torch.Generator().manual_seed(seed)
    m = min(n, d)
    left = torch.linalg.qr(torch.randn(n, m, dtype=torch.float64, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(d, m, dtype=torch.float64, generator=generator))[0]
    return left * torch.arange(1, m + 1) ** -decay @ right.T * math.sqrt(n) + offset


def fit(x, k, solver="auto", **arguments):
    return principal_axes(x, tuple(x.shape[1:]), k, solver, **arguments)


class Listed(torch.utils.data.Dataset):
    """A map-style data set that is not held in memory as a tensor."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("solver", [*EXACT, "randomized"])
def test_solvers_agree_with_the_definition(shape, solver):
    x = data(*shape)
    k = 6
    axes = fit(x, k, solver, block=64)  # many blocks, so that their merging counts
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    expected = vectors[:, -k:].flip(1)
    assert torch.allclose(axes.mean, x.mean(0), rtol=0, atol=1e-12)
    assert torch.allclose(axes.basis @ axes.basis.T, torch.eye(k, dtype=torch.float64), rtol=0, atol=1e-10)
    assert axes.total == pytest.approx(values.sum().item(), rel=1e-10) and axes.count == len(x)
    residual = (centred - centred @ axes.basis.T @ axes.basis).square().sum() / (len(x) - 1)
    assert residual.item() == pytest.approx(axes.total - axes.variance.sum().item(), rel=1e-8)
    if solver != "randomized":
        sine = torch.linalg.matrix_norm(expected - axes.basis.T @ (axes.basis @ expected), 2)
        assert sine < 1e-6
        assert torch.allclose(axes.variance, values[-k:].flip(0), rtol=1e-10, atol=0)
    else:
        assert residual < values[:-k].sum() * 1.003


@pytest.mark.parametrize("solver", ["auto", *EXACT, "randomized"])
@pytest.mark.parametrize("shape", [(200, 30), (30, 200)])
def test_axes_are_those_of_scikit_learn_signs_included(solver, shape):
    from sklearn.decomposition import PCA as Peer

    x = data(*shape, decay=2.0).float()
    peer = Peer(4, svd_solver="full").fit(x.double().numpy())
    axes = fit(x, 4, solver)
    np.testing.assert_allclose(axes.basis.numpy(), peer.components_, atol=2e-4)
    np.testing.assert_allclose(axes.variance.numpy(), peer.explained_variance_, rtol=1e-4)
    np.testing.assert_allclose(axes.mean.numpy(), peer.mean_, rtol=1e-6)
    largest = axes.basis.gather(1, axes.basis.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


@pytest.mark.parametrize("solver", [*EXACT, "randomized"])
def test_a_mean_far_from_zero_costs_no_digits(solver):
    x = data(300, 25, offset=0.0)
    near, far = fit(x.float(), 3, solver), fit((x + 1000).float(), 3, solver)
    assert torch.allclose(near.variance, far.variance, rtol=1e-3)
    assert far.total == pytest.approx(near.total, rel=1e-3)


@pytest.mark.parametrize("decay", [1.0, None], ids=["1/i", "2^-i"])
def test_the_randomized_solver_keeps_the_bound_of_halko_martinsson_tropp(decay):
    n, d, k = 200, 150, 10
    x = data(n, d, decay=decay or 0.0, offset=0.0)
    if decay is None:
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        x = u * 2.0 ** -torch.arange(d) @ v
    singular = torch.linalg.svdvals(x - x.mean(0))
    axes = fit(x, k, "randomized")
    centred = x - x.mean(0)
    error = torch.linalg.matrix_norm(centred - centred @ axes.basis.T @ axes.basis)
    optimal = singular[k:].square().sum().sqrt()
    oversampling = max(16, k // 2) - k
    assert error <= math.sqrt(1 + k / (oversampling - 1)) * optimal
    assert error <= 1.003 * optimal


def test_the_randomized_solver_is_repeatable_and_survives_a_low_rank():
    x = data(60, 50)
    first, again, other = (fit(x, 5, "randomized", seed=seed).basis for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    flat = data(60, 3, offset=0.0) @ torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).double()
    for solver in [*EXACT, "randomized"]:
        axes = fit(flat, 8, solver)
        assert torch.allclose(axes.basis @ axes.basis.T, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-8)
        assert axes.variance[:3].sum().item() == pytest.approx(axes.total, rel=1e-9)
        assert (axes.variance[3:] < 1e-9 * axes.total).all()


def test_the_rule_picks_by_cost():
    assert choose(300, 200, 5, True) == "svd"
    assert choose(60_000, 784, 64, True) == "covariance"
    assert choose(1_000, 196_608, 100, True) == "gram"
    assert choose(4_000, 12_288, 128, True) == "randomized"
    assert choose(1_000, 196_608, None, True) == "gram"
    assert choose(300, 200, 5, False) == "covariance"
    assert choose(1_000, 196_608, 100, False) == "randomized"


def test_a_fraction_keeps_the_fewest_components_that_exceed_it():
    from sklearn.decomposition import PCA as Peer

    x = data(80, 30)
    for fraction in (0.5, 0.9, 0.999):
        expected = Peer(fraction, svd_solver="full").fit(x.numpy()).n_components_
        for solver in EXACT:
            assert len(fit(x, fraction, solver).variance) == expected
    with pytest.raises(ValueError, match="give their number"):
        fit(x, 0.9, "randomized")


@pytest.mark.parametrize("solver", ["covariance", "randomized"])
def test_a_data_set_is_streamed_to_the_same_axes(solver):
    small = {"block": 48, "held": 0}
    x = data(70, 12).float()
    expected = fit(x, 4, "svd")
    for source in (Listed(x), Arrays(x, torch.zeros(len(x))), Arrays(x, noise=lambda batch, generator: batch)):
        axes = principal_axes(source, (12,), 4, solver, **small)
        assert axes.basis.dtype == torch.float32
        assert torch.allclose(axes.basis, expected.basis, atol=1e-4)
        assert torch.allclose(axes.variance, expected.variance, rtol=1e-4)
    with pytest.raises(ValueError, match="in memory"):
        principal_axes(Listed(x), (12,), 4, "gram", **small)
    axes = principal_axes(Listed(x), (12,), 4, "gram")  # few items are held
    assert torch.allclose(axes.basis, expected.basis, atol=1e-4)


def test_bad_data_and_arguments_are_refused():
    x = data(20, 5)
    broken = x.clone()
    for value in (math.nan, math.inf):
        broken[3, 2] = value
        for solver in (*EXACT, "randomized"):
            with pytest.raises(MediaError, match="NaN or infinite"):
                fit(broken, 2, solver)
    with pytest.raises(ValueError, match="20 items of 5 dimensions have 1 to 5 components, got 6"):
        fit(x, 6)
    with pytest.raises(ValueError, match="4 items of 5 dimensions have 1 to 3 components, got 4"):
        fit(x[:4], 4)
    with pytest.raises(ValueError, match="at least 2 items"):
        fit(x[:1], 1)
    with pytest.raises(ValueError, match="are equal"):
        fit(x[:1].expand(6, -1), 1)
    for solver in (*EXACT, "randomized"):
        with pytest.raises(ValueError, match="are equal"):  # though a mean in single precision is not quite the item
            fit(torch.full((300, 40), 0.1), 1, solver)
    with pytest.raises(ValueError, match="solver is"):
        fit(x, 2, "magic")
    for components in (0, -1, 1.5, 0.0):
        with pytest.raises(ValueError):
            fit(x, components)
    with pytest.raises(MediaError, match=r"shape \[n, 4\]"):
        principal_axes(x, (4,), 2)
    with pytest.raises(MediaError, match="floating-point"):
        principal_axes(x.long(), (5,), 2)
    with pytest.raises(ValueError, match="at most 2"):
        PCA(Points(2), 3)


def images(n=60, seed=0):
    return data(n, 48, seed=seed, offset=0.0).float().reshape(n, 3, 4, 4) / 4


@pytest.fixture
def pca():
    return PCA.fit(images(), Images(3, 4, 4), components=8)


@pytest.fixture
def ppca():
    return ProbabilisticPCA.fit(images(), Images(3, 4, 4), components=8)


def test_the_latent_is_whitened_and_decodes_to_the_projection(pca):
    x = images()
    z = pca.encode(x)
    assert torch.allclose(z.mean(0), torch.zeros(8), atol=1e-5)
    assert torch.allclose(torch.cov(z.T), torch.eye(8), atol=1e-4)
    assert torch.allclose(pca.scores(x), z * pca.variance.sqrt(), atol=1e-5)
    again = pca.reconstruct(x)
    assert again.shape == x.shape and torch.allclose(pca.encode(again), z, atol=1e-4)
    lost = (x - again).square().sum() / (len(x) - 1)
    assert lost.item() == pytest.approx((pca.total - pca.variance.sum()).item(), rel=1e-4)
    assert pca.explained.sum() < 1 and pca.count == 60


def test_directions_without_variance_are_not_whitened():
    x = torch.zeros(30, 2)
    x[:, 0] = torch.linspace(-1, 1, 30)
    model = PCA.fit(x, Points(2), components=2)
    z = model.encode(x + torch.tensor([0.0, 1e-3]))
    assert torch.isfinite(z).all() and z[:, 1].abs().max() == 0


@pytest.mark.parametrize("kind", [PCA, ProbabilisticPCA])
def test_samples_follow_temperature_and_truncation(kind):
    model = kind.fit(images(), Images(3, 4, 4), components=8)

    def scores(**arguments):
        x = model.sample(20_000, mean=True, generator=torch.Generator().manual_seed(0), **arguments)
        gain = model.variance.sqrt() if kind is PCA else model.gain
        return model.scores(x) / gain

    assert torch.allclose(scores().std(0), torch.ones(8), atol=0.02)
    assert torch.allclose(scores(temperature=0.5).std(0), torch.full((8,), 0.5), atol=0.01)
    cut = scores(truncation=1.0)
    assert cut.abs().max() <= 1.001 and cut.abs().max() > 0.99
    # The variance of a normal distribution cut off at one standard deviation.
    assert torch.allclose(cut.var(0), torch.full((8,), 0.2911), atol=0.01)
    assert scores(truncation=2.0, temperature=0.5).abs().max() <= 1.001
    assert torch.equal(model.sample(2, temperature=0), model.mean.expand(2, -1, -1, -1))
    with pytest.raises(ValueError, match="truncation"):
        model.sample(2, truncation=0.0)


def test_log_likelihood_is_that_of_the_full_normal_distribution(ppca):
    x = images(20, seed=5)
    weights = ppca.basis.double().T * ppca.gain.double()
    covariance = weights @ weights.T + ppca.noise.double() * torch.eye(48, dtype=torch.float64)
    peer = torch.distributions.MultivariateNormal(ppca.mean.flatten().double(), covariance)
    expected = peer.log_prob(x.flatten(1).double())
    log_prob = ppca.log_prob(x)
    assert log_prob.dtype == torch.float64
    assert torch.allclose(log_prob, expected, rtol=1e-5)
    assert ppca.exact and not ppca.discrete


def test_log_likelihood_and_noise_are_those_of_scikit_learn_where_items_outnumber_dimensions():
    from sklearn.decomposition import PCA as Peer

    x = data(5000, 6, decay=0.5)
    model = ProbabilisticPCA.fit(x, SixNumbers(), components=3)
    peer = Peer(3, svd_solver="full").fit(x.numpy())
    assert model.noise.item() == pytest.approx(peer.noise_variance_ * 4999 / 5000, rel=1e-9)
    np.testing.assert_allclose(model.log_prob(x).numpy(), peer.score_samples(x.numpy()), atol=0.01)


class SixNumbers(Points):
    """Rows of six numbers: the medium of a test."""

    @property
    def shape(self):
        return (6,)


@pytest.mark.parametrize("shape", [(200, 6), (5, 6)], ids=["n > d", "n < d"])
def test_the_closed_form_is_a_stationary_point_and_a_fixed_point_of_em(shape):
    x = data(*shape, decay=0.7)
    model = ProbabilisticPCA.fit(x, SixNumbers(), components=2)
    n, d = shape
    w = (model.basis.T * model.gain).requires_grad_()
    noise = model.noise.clone().requires_grad_()
    mean = model.mean.clone().requires_grad_()
    peer = torch.distributions.MultivariateNormal(mean, w @ w.T + noise * torch.eye(d, dtype=torch.float64))
    total = peer.log_prob(x).mean()
    assert total.item() == pytest.approx(model.log_prob(x).mean().item(), rel=1e-9)
    for gradient in torch.autograd.grad(total, (w, noise, mean)):
        assert gradient.abs().max() < 1e-8
    # One step of EM (Tipping and Bishop, 1999) from the fit gives the fit.
    with torch.no_grad():
        centred = x - mean
        scatter = centred.T @ centred / n
        m = w.T @ w + noise * torch.eye(2, dtype=torch.float64)
        new = scatter @ w @ torch.linalg.inv(noise * torch.eye(2) + torch.linalg.inv(m) @ w.T @ scatter @ w)
        assert torch.allclose(new, w, atol=1e-8)
        assert torch.allclose((scatter - scatter @ w @ torch.linalg.inv(m) @ new.T).trace() / d, noise, atol=1e-8)


def test_the_posterior_is_the_exact_one_and_tends_to_the_projection(ppca):
    x = images(10, seed=2)
    posterior = ppca.encode(x)
    z = posterior.sample(generator=torch.Generator().manual_seed(0))
    # Bayes: p(x) = p(z) p(x | z) / q(z | x) for every z.
    log_prob = ppca.prior(n=10).log_prob(z) + ppca.decode(z).log_prob(x) - posterior.log_prob(z)
    assert torch.allclose(log_prob.double(), ppca.log_prob(x), rtol=1e-4)
    ppca.noise.fill_(1e-12)
    projection = ppca.mean + ((x - ppca.mean).flatten(1) @ ppca.basis.T @ ppca.basis).reshape(x.shape)
    assert torch.allclose(ppca.reconstruct(x), projection, atol=1e-5)
    assert ppca.encode(x).std.max() < 1e-3


def test_samples_have_the_covariance_of_the_model():
    model = ProbabilisticPCA.fit(data(300, 6, decay=0.7), SixNumbers(), components=2)
    x = model.sample(200_000, generator=torch.Generator().manual_seed(0))
    weights = model.basis.T * model.gain
    covariance = weights @ weights.T + model.noise * torch.eye(6)
    assert torch.allclose(torch.cov(x.T), covariance, atol=0.01 * covariance.max().item())


def test_the_noise_has_a_floor_where_the_data_leave_none():
    x = data(5, 20)
    model = ProbabilisticPCA.fit(x.reshape(5, 1, 4, 5), Images(1, 4, 5), components=4)
    d, total = 20, x.var(0, correction=0).sum().item()
    assert model.noise.item() == pytest.approx(1e-6 * total / d, rel=1e-6)
    assert torch.isfinite(model.log_prob(x.reshape(5, 1, 4, 5))).all()
    doubled = torch.cat([x[:2], x[:2], x[:2]]).reshape(6, 1, 4, 5)
    model = ProbabilisticPCA.fit(doubled, Images(1, 4, 5), components=3)
    posterior = model.encode(doubled)
    assert torch.isfinite(model.log_prob(doubled)).all() and torch.isfinite(posterior.mean).all()
    assert posterior.std.max() <= 1
    with pytest.raises(ValueError, match="at most 1"):
        ProbabilisticPCA(Points(2), 2)


def test_bits_per_dim_count_the_width_of_a_level(ppca):
    x = images(10)
    bits = ppca.bits_per_dim(x, generator=torch.Generator().manual_seed(0))
    noisy = x + 2 / 255 * (torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 0.5)
    expected = -(ppca.log_prob(noisy) / 48 + math.log(2 / 255)) / math.log(2)
    assert torch.allclose(bits, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", [PCA, ProbabilisticPCA])
def test_a_saved_model_is_the_same_model(kind, tmp_path):
    model = kind.fit(images(), Images(3, 4, 4), components=5)
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert again.modality == model.modality
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert torch.equal(again.reconstruct(images()), model.reconstruct(images()))


@pytest.mark.parametrize("kind", [PCA, ProbabilisticPCA])
def test_fitted_models_have_no_loss_and_check_their_items(kind):
    model = kind.fit(images(), Images(3, 4, 4), components=5)
    with pytest.raises(TypeError, match="fitted with"):
        model(images())
    with pytest.raises(MediaError, match="expected images"):
        model.encode(torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match="unconditional"):
        model.sample(2, condition=1)
    assert model.interpolate(images()[:2], images()[2:4], 3).shape == (2, 3, 3, 4, 4)
    assert model.traverse(values=(-2, 2)).shape == (1, 5, 2, 3, 4, 4)


def test_nearest_finds_the_closest_item_across_blocks():
    x, samples = images(100), images(7, seed=3)
    distances = (samples[:, None] - x).flatten(2).norm(dim=2)
    for source in (x, Listed(x)):
        found = nearest(samples, source)
        assert torch.equal(found.index, distances.argmin(1))
        assert torch.allclose(found.distance, distances.min(1).values, rtol=1e-5)
        assert torch.equal(found.items, x[found.index])
    own = nearest(x[10:20], x)
    assert own.index.tolist() == list(range(10, 20)) and own.distance.max() == 0
    others = nearest(x[10:20], x, leave_out=torch.arange(10, 20))
    between = torch.cdist(x.flatten(1), x.flatten(1)).fill_diagonal_(math.inf)
    assert torch.equal(others.index, between[10:20].argmin(1))
    few = nearest(samples, x, items=2)
    assert torch.equal(few.items, x[few.index[:2]]) and torch.equal(few.index, distances.argmin(1))
    far = nearest(samples + 1000, x + 1000)  # where differences of squares have lost every digit
    assert torch.allclose(far.distance, distances.min(1).values, rtol=1e-2)
    with pytest.raises(ValueError, match="one index a sample"):
        nearest(samples, x, leave_out=torch.arange(3))


def test_digits_take_about_as_many_components_as_published(shared_data):
    x = Images(1, 28, 28).dataset(shared_data / "mnist", "train").x[:20_000]
    model = PCA.fit(x, Images(1, 28, 28), components=0.9)
    assert 84 <= len(model.variance) <= 90


def test_directions_without_variance_are_orthonormal_too():
    torch.manual_seed(0)
    for rank in (1, 3):
        x = torch.randn(20, rank) @ torch.randn(rank, 600)
        axes = principal_axes(x, (600,), 6, solver="gram")
        assert torch.allclose(axes.basis @ axes.basis.T, torch.eye(6), atol=1e-5)
        assert torch.all(axes.variance[rank:] < 1e-4 * axes.variance[rank - 1])


def test_nearly_parallel_rows_becomeorthonormal():
    torch.manual_seed(0)
    first = torch.randn(1, 600)
    rows = torch.cat([first, first + 1e-4 * torch.randn(3, 600)])
    found = orthonormal(rows)
    assert torch.allclose(found @ found.T, torch.eye(4), atol=1e-5)
