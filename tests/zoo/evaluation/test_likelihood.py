"""Figures of the toy models on data whose likelihoods are known."""

import math

import pytest
import torch

from modalities.modality import Arrays
from tests import toys
from zoo.evaluation.likelihood import evaluate


def figures(name, **options):
    model = toys.make(name)
    x = toys.data_for(model)
    generator = torch.Generator().manual_seed(0)
    return model, x, {f.metric: f for f in evaluate(model, Arrays(x), "toys", generator=generator, **options)}


def test_an_exact_density_is_the_mean_of_the_log_densities():
    model, x, found = figures("ppca")
    nll = -model.log_prob(x).double()
    assert found["NLL"].value == pytest.approx(nll.mean().item())
    assert found["NLL"].error == pytest.approx((nll.std() / math.sqrt(len(x))).item())
    assert (found["NLL"].kind, found["NLL"].unit) == ("density", "nats")
    mse = (model.reconstruct(x) - x).square().mean().item()
    assert found["reconstruction MSE"].value == pytest.approx(mse)
    assert set(found) == {"NLL", "reconstruction MSE"}  # points have no levels


def test_a_mass_over_levels_also_comes_in_bits():
    model, x, found = figures("pixelcnn")
    assert found["NLL"].kind == found["bits/dim"].kind == "mass"
    assert found["bits/dim"].value == pytest.approx(model.bits_per_dim(x).mean().item())
    assert set(found) == {"NLL", "bits/dim"}


def test_a_variational_bound_says_so_and_more_draws_tighten_it():
    _, _, loose = figures("vae", samples=1)
    _, _, tight = figures("vae", samples=100)
    assert loose["NLL"].kind == "bound on a mass"
    assert tight["NLL"].value < loose["NLL"].value
    assert loose["PSNR"].unit == "dB"


def test_the_signal_to_noise_ratio_is_of_the_full_range():
    model, x, found = figures("vae", limit=1)
    mse = (model.reconstruct(x[:1]) - x[:1]).square().mean().item()
    assert found["PSNR"].value == pytest.approx(10 * math.log10(4 / mse))
    assert found["PSNR"].error is None


def test_the_limit_takes_the_first_items():
    _, x, found = figures("pixelcnn", limit=10, batch_size=4)
    model = toys.make("pixelcnn")
    assert found["NLL"].value == pytest.approx(-model.log_prob(x[:10]).mean().item())


def test_labels_go_to_a_conditional_model_and_only_there():
    model = toys.make("conditional-vae")
    x = toys.data_for(model)
    labels = torch.arange(len(x)) % 3
    found = {f.metric: f.value for f in evaluate(model, Arrays(x, labels), "toys")}
    mse = (model.reconstruct(x, condition=labels) - x).square().mean().item()
    assert found["reconstruction MSE"] == pytest.approx(mse)
    assert evaluate(toys.make("pixelcnn"), Arrays(x, labels), "toys")


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="neither a likelihood nor a latent space"):
        figures("gan")
    with pytest.raises(ValueError, match="limit must be a positive whole number"):
        figures("vae", limit=0)
