"""Figures of the toy models on data whose likelihoods are known."""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter

from modalities.data import Arrays, batches
from modalities.images import Images, binarise
from modalities.signals import Signals
from tests import toys
from zoo.card import read_figures
from zoo.catalog import CHECKPOINTS
from zoo.evaluation.likelihood import advantage, bundled, measure, structural_similarity
from zoo.linear.pca import PCA


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def figures(name, **options):
    model = toys.make(name)
    x = toys.data_for(model)
    return model, x, {f.metric: f for f in measure(model, Arrays(x), "toys", generator=seeded(), **options)}


def grey():
    """Grey pictures that every visit binarises anew."""
    return Arrays(torch.rand(30, 1, 4, 3, generator=seeded()) * 2 - 1, noise=binarise)


def record(model):
    """A list that fills with the items that the model scores, what it is told, and the numbers of samples."""
    seen, score = [], model.log_prob

    def log_prob(x, *, condition=None, samples=1, **options):
        seen.append((x, condition, samples))
        return score(x, condition=condition, samples=samples, **options)

    model.log_prob = log_prob
    return seen


@pytest.mark.parametrize("given", [True, False])
def test_the_items_depend_neither_on_the_model_nor_on_its_draws(given):
    found = []
    for name, samples in (("vae", 1), ("vae", 7), ("hierarchy", 7), ("pixelcnn", 1)):
        model = toys.make(name)
        seen = record(model)
        torch.manual_seed(5)
        measure(model, grey(), "toys", samples=samples, batch_size=8, generator=seeded() if given else None)
        found.append(torch.cat([x for x, _, _ in seen]))
    assert all(torch.equal(x, found[0]) for x in found)
    if given:  # those that exact models have seen all along
        assert torch.equal(found[0], torch.cat([batch.x for batch in batches(grey(), 8, seeded())]))


def test_the_draws_follow_the_generator():
    model = toys.make("vae")
    values = [
        measure(model, grey(), "toys", samples=1, batch_size=8, generator=generator)[0].value
        for generator in (seeded(), seeded(), seeded(1), None, None)
    ]
    assert values[0] == values[1] and len(set(values)) == 4


def test_an_exact_density_is_the_mean_of_the_log_densities():
    model, x, found = figures("ppca")
    nll = -model.log_prob(x).double()
    assert found["NLL"].value == pytest.approx(nll.mean().item())
    assert found["NLL"].error == pytest.approx((nll.std() / math.sqrt(len(x))).item())
    assert (found["NLL"].kind, found["NLL"].unit) == ("density", "nats")
    mse = (model.reconstruct(x) - x).square().mean().item()
    assert found["reconstruction MSE"].value == pytest.approx(mse)
    assert set(found) == {"NLL", "reconstruction MSE"}  # points have no levels


def test_a_mass_over_levels_also_comes_in_bits_and_the_limit_takes_the_first_items():
    model, x, found = figures("pixelcnn", limit=10, batch_size=4)
    assert found["NLL"].kind == found["bits/dim"].kind == "mass"
    assert found["bits/dim"].value == pytest.approx(model.bits_per_dim(x[:10]).mean().item())
    assert set(found) == {"NLL", "bits/dim"}


def test_a_variational_bound_says_so_and_more_draws_tighten_it():
    loose, tight = (figures("vae", samples=samples)[2] for samples in (1, 100))
    assert loose["NLL"].kind == "bound on a mass" and tight["NLL"].value < loose["NLL"].value


def test_the_signal_to_noise_ratio_is_of_the_full_range_and_of_pictures_that_can_be_shown():
    medium = Images(channels=1, height=4, width=3)
    x = torch.where(torch.rand(60, *medium.shape, generator=seeded()) < 0.5, 1.0, -1.0)
    model = PCA.fit(x, medium, components=9)
    rebuilt = model.reconstruct(x)
    found = {f.metric: f for f in measure(model, Arrays(x), "toys")}
    errors = [(y - x).double().square().flatten(1).mean(1) for y in (rebuilt, rebuilt.clamp(-1, 1))]
    plain, shown = (10 * torch.log10(4 / error).mean().item() for error in errors)
    assert found["reconstruction MSE"].value == pytest.approx(errors[0].mean().item())
    assert found["PSNR"].value == pytest.approx(shown) and shown > plain + 0.1 and found["PSNR"].unit == "dB"
    assert {f.error for f in measure(model, Arrays(x), "toys", limit=1)} == {None}


def test_series_have_the_root_of_the_squared_error_in_their_unit():
    medium = Signals(channels=1, length=8, unit="mV")
    x = torch.randn(50, 1, 8, generator=seeded())
    model = PCA.fit(x, medium, components=3)
    (found,) = measure(model, Arrays(x), "toys")
    errors = (model.reconstruct(x) - x).double().square().mean((1, 2))
    assert (found.metric, found.unit) == ("reconstruction RMSE", "mV")
    assert found.value == pytest.approx(errors.mean().sqrt().item())
    # By the delta method: the deviation of the root is that of the square, over twice the root.
    assert found.error == pytest.approx((errors.std() / math.sqrt(50) / (2 * errors.mean().sqrt())).item())


def test_labels_go_to_a_conditional_model_and_only_there():
    model = toys.make("conditional-vae")
    x = toys.data_for(model)
    labels = torch.arange(len(x)) % 3
    found = {f.metric: f for f in measure(model, Arrays(x, labels), "toys")}
    mse = (model.reconstruct(x, condition=labels) - x).square().mean().item()
    assert found["reconstruction MSE"].value == pytest.approx(mse)
    assert found["NLL"].kind == found["bits/dim"].kind == "bound on a mass, class known"
    assert found["reconstruction MSE"].kind == ""
    assert {f.kind for f in measure(toys.make("pixelcnn"), Arrays(x, labels), "toys")} == {"mass"}
    with pytest.raises(ValueError, match="ToyVAE is told a class and the data have no labels"):
        measure(model, Arrays(x), "toys")


def test_the_advantage_is_paired():
    better, worse = toys.make("ppca"), toys.make("ppca")
    with torch.no_grad():
        worse.mu += 1
    x = toys.data_for(better)
    difference = (better.log_prob(x) - worse.log_prob(x)).double()
    found = advantage(better, worse, Arrays(x), "toys", batch_size=7)
    assert found.value == pytest.approx(difference.mean().item()) != 0
    assert found.error == pytest.approx((difference.std() / math.sqrt(len(x))).item())
    few = advantage(worse, better, Arrays(x), "toys", limit=5)
    assert few.value == pytest.approx(-difference[:5].mean().item())


def test_the_advantage_is_of_the_same_binarised_items_by_as_many_samples():
    models = toys.make("vae"), toys.make("hierarchy")
    alone = [measure(m, grey(), "toys", samples=7, batch_size=8, generator=seeded())[0].value for m in models]
    seen = [record(model) for model in models]
    found = advantage(*models, grey(), "toys", samples=7, batch_size=8, generator=seeded())
    items = torch.cat([batch.x for batch in batches(grey(), 8, seeded())])
    for calls in seen:
        assert torch.equal(torch.cat([x for x, _, _ in calls]), items)
        assert {samples for _, _, samples in calls} == {7}
    assert found.value == pytest.approx(alone[1] - alone[0], rel=1e-9)


def test_the_advantage_of_conditional_models_is_by_the_labels_of_the_items():
    models = toys.make("conditional-vae"), toys.make("conditional-vae")
    x, labels = toys.data_for(models[0], 9), torch.arange(9) % 3
    seen = [record(model) for model in models]
    advantage(*models, Arrays(x, labels), "toys", batch_size=4)
    assert all(torch.equal(torch.cat([told for _, told, _ in calls]), labels) for calls in seen)
    with pytest.raises(ValueError, match="told a class and the data have no labels"):
        advantage(*models, Arrays(x), "toys")


def test_what_cannot_be_measured_or_compared_is_refused():
    model, told = toys.make("pixelcnn"), toys.make("conditional-vae")
    data = Arrays(toys.data_for(model), torch.arange(len(toys.data_for(model))) % 3)
    for pair, message in (
        ((model, toys.make("gan")), "ToyGAN has no likelihood"),
        ((model, toys.make("ppca")), "cannot be compared: .*'mass'.*'density'"),
        ((model, told), "cannot be compared: .*told nothing.*told Classes"),
        ((told, model), "cannot be compared: .*told Classes.*told nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            advantage(*pair, data, "toys")
    with pytest.raises(ValueError, match="neither a likelihood nor a latent space"):
        figures("gan")
    with pytest.raises(ValueError, match="limit must be a positive whole number"):
        figures("vae", limit=0)


def test_structural_similarity_is_that_of_its_definition():
    """Means and variances by SciPy's Gaussian filter, constants of the paper, edges mirrored."""
    x = torch.rand(3, 2, 20, 24, generator=seeded(), dtype=torch.float64) * 2 - 1
    y = (x + 0.3 * torch.randn(x.shape, generator=seeded(1), dtype=torch.float64)).clamp(-1, 1)
    a, b = ((z.numpy() + 1) / 2 for z in (x, y))

    def smooth(z):
        return gaussian_filter(z, 1.5, axes=(2, 3), truncate=3.5, mode="mirror")

    ma, mb = smooth(a), smooth(b)
    va, vb, vab = smooth(a * a) - ma**2, smooth(b * b) - mb**2, smooth(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * ma * mb + c1) * (2 * vab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    expected = torch.from_numpy(value.mean((1, 2, 3)))
    torch.testing.assert_close(structural_similarity(x, y), expected)
    torch.testing.assert_close(structural_similarity(x[:1], x[:1]), torch.ones(1, dtype=torch.float64))


def test_images_that_are_large_enough_have_a_structural_similarity():
    x = torch.rand(40, 1, 12, 11, generator=seeded()) * 2 - 1
    model = PCA.fit(x, Images(1, 12, 11), components=20)
    found = {f.metric: f for f in measure(model, Arrays(x), "toys")}
    expected = structural_similarity(model.reconstruct(x).clamp(-1, 1), x)
    assert found["SSIM"].value == pytest.approx(expected.mean().item()) and 0.1 < found["SSIM"].value < 0.9
    found = measure(PCA.fit(x[..., :10], Images(1, 12, 10), components=5), Arrays(x[..., :10]), "toys")
    assert [figure.metric for figure in found] == ["reconstruction MSE", "PSNR"]


def test_a_bundled_model_stands_beside_where_its_card_is_of_the_same_items():
    (nll,) = (f for f in read_figures(CHECKPOINTS / "vae-heartbeats") if f.metric == "NLL")
    figure, model = bundled("vae-heartbeats", nll.data, Signals(1, 256))
    assert figure == nll and model.sample(1).shape == (1, 1, 256)
    assert bundled("vae-heartbeats", "other beats", Signals(1, 256)) is None
    assert bundled("vae-heartbeats", nll.data, Signals(1, 64)) is None
    assert bundled("", nll.data, Signals(1, 256)) is None
