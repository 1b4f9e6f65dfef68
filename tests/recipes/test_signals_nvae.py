"""The recipe on generated heartbeats, and what its scales tell."""

import dataclasses

import pytest
import torch

from modalities.data import Batch
from modalities.signals import Signals, synthetic_beats
from recipes import signals_nvae as recipe
from recipes.recipe import seeded
from tests.recipes import runs
from zoo import load
from zoo.card import read_figures
from zoo.settings import arguments
from zoo.variational.nvae import NVAE

SMOKE = recipe.PRESETS["smoke"][1]


def build(config) -> NVAE:
    torch.manual_seed(0)
    return NVAE(Signals(1, config.length, 360.0, "mV"), **arguments(NVAE, config)).eval()


def lively(config) -> NVAE:
    """A model whose every group moves what is drawn."""
    model = build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def test_a_run_learns_measures_and_draws(done):
    parts = {"real", "samples", "temperatures", "reconstructions", "neighbours", "scales", "spectra", "interpolations"}
    assert runs.pictures(done.output) == parts
    found = runs.figures(done.output)
    for name in ("test", "samples", "samples at temperature 0.5", "samples at temperature 0.7"):
        assert f"height of the highest peak, {name} (mean ± standard deviation, mV)" in found
    assert sum(name.startswith("KL, scale of") for name in found) == len(done.groups)
    assert not any("vae-heartbeats" in name for name in found)  # its card is of other beats

    model = load(done.output / "nvae-synthetic-beats")
    assert isinstance(model, NVAE) and model.modality == Signals(1, 64, 360.0, "mV")
    test = model.modality.dataset("synthetic-beats", "test").x
    # Generated beats have no levels to be spread over: there is one bound.
    card = {figure.metric: figure for figure in read_figures(done.output / "nvae-synthetic-beats")}
    nll, elbo, rmse = (card[name] for name in ("NLL", "negative ELBO", "reconstruction RMSE"))
    assert nll.kind == elbo.kind == "bound on a density" and nll.value <= elbo.value + 0.1
    # The stored model has half precision.
    assert nll.value == pytest.approx(-model.log_prob(test, samples=5, generator=seeded()).mean().item(), abs=0.5)
    assert rmse.value == pytest.approx((model.reconstruct(test) - test).square().mean().sqrt().item(), rel=0.01)
    untrained = build(done)
    untrained.standardise.fit(test)
    assert nll.value < -untrained.log_prob(test).mean().item() - 20


def test_what_scales_tell_adds_up_to_the_divergence():
    model, x = lively(SMOKE), synthetic_beats(40, 64, generator=seeded(1))[0]
    found = recipe.told(SMOKE, model, x)
    told = [float(value.split(" ")[0]) for name, value in found.items() if name.startswith("KL")]
    with torch.no_grad():
        kl = model.elbo(x, generator=seeded()).kl.mean(0)
    assert told == pytest.approx([kl[0].item(), kl[1:].sum().item()], abs=0.006)
    still_open = [float(value) for name, value in found.items() if name.startswith("standard deviation")]
    assert still_open[0] > still_open[1] == 0
    assert any("scale of 16 positions, groups 1 to 1" in name for name in found)
    assert any("scale of 32 positions, groups 2 to 3" in name for name in found)


def test_bounds_are_compared_series_by_series():
    model, rival = lively(dataclasses.replace(SMOKE, length=256)), load("vae-heartbeats")
    x = synthetic_beats(20, 256, generator=seeded(1))[0]
    with torch.no_grad():
        gain = [m.elbo(x, generator=seeded()).total for m in (model, rival)]
    difference, better = recipe.gain(model, rival, x, "vae-heartbeats", 0).values()
    assert float(difference.split(" ")[0].replace(",", "")) == pytest.approx(
        (gain[0] - gain[1]).mean().item(), rel=1e-2
    )
    assert better == f"{(gain[0] > gain[1]).double().mean():.1%}"


@pytest.mark.parametrize("name", recipe.PRESETS)
def test_every_preset_builds_a_model_that_trains(name):
    config = recipe.PRESETS[name][1]
    model = build(dataclasses.replace(config, length=32, width=4, groups=(1, 1), latent=2)).train()
    assert model.likelihood_head.name == config.likelihood and len(model.groups) == 2
    loss = model.loss(Batch(torch.randn(8, 1, 32)), generator=seeded())["loss"]
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert config.training.skip_above and sum(config.groups) > 2 * (name != "smoke")
