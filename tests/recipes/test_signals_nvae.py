"""The recipe on generated heartbeats and on recorded levels, and what its figures measure."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from modalities.signals import Signals, synthetic_beats
from recipes import signals_nvae as recipe
from zoo import catalog, load
from zoo.card import read_figures
from zoo.variational.nvae import NVAE

PICTURES = {
    "real",
    "samples",
    "temperatures",
    "reconstructions",
    "neighbours",
    "scales",
    "spectra",
    "interpolations",
}


@pytest.fixture
def smoke(tmp_path):
    return dataclasses.replace(recipe.PRESETS["smoke"][1], output=tmp_path / "run")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def lively(config):
    """A model whose every group moves what is drawn."""
    torch.manual_seed(0)
    model = recipe.build(config, Signals(config.channels, config.length, config.rate, config.unit)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def test_smoke_writes_pictures_figures_and_a_model(smoke):
    from PIL import Image

    recipe.main(smoke)
    assert {path.stem for path in smoke.output.glob("*.png")} == PICTURES
    for name in PICTURES:
        picture = Image.open(smoke.output / f"{name}.png").convert("L")
        assert picture.getextrema()[0] < picture.getextrema()[1]
    figures = json.loads((smoke.output / "figures.json").read_text())
    for name in ("test", "samples", "samples at temperature 0.5", "samples at temperature 0.7"):
        assert f"height of the R wave, {name} (mean ± standard deviation, mV)" in figures
    assert sum(name.startswith("KL, scale of") for name in figures) == len(smoke.groups)
    assert not any("vae-heartbeats" in name for name in figures)  # its card is of other beats

    model = load(smoke.output / smoke.name)
    assert isinstance(model, NVAE) and model.modality == Signals(1, 64, 360.0, "mV")
    test = model.modality.dataset("synthetic-beats", "test").x
    nll, elbo, rmse = read_figures(smoke.output / smoke.name)  # generated beats have no levels to be spread over
    assert nll.kind == elbo.kind == "bound on a density" and nll.value <= elbo.value + 0.1
    # The stored model has half precision.
    found = -model.log_prob(test, samples=5, generator=generator()).mean().item()
    assert nll.value == pytest.approx(found, abs=0.5)
    assert rmse.value == pytest.approx((model.reconstruct(test) - test).square().mean().sqrt().item(), rel=0.01)
    untrained = recipe.build(smoke, model.modality).eval()
    untrained.standardise.fit(test)
    assert nll.value < -untrained.log_prob(test).mean().item() - 20


def test_recorded_levels_are_spread_and_the_model_is_published(smoke, tmp_path, hub, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(recipe, "draw", lambda *_: Image.new("RGB", (8, 8)))
    x, _ = synthetic_beats(100, 64, generator=generator(1))
    np.savez(tmp_path / "own.npz", x=(x[:, 0] / 0.01).round().numpy() * 0.01)
    training = dataclasses.replace(smoke.training, steps=20)
    recipe.main(dataclasses.replace(smoke, data=str(tmp_path / "own.npz"), push="someone/beats", training=training))
    figures = read_figures(smoke.output / smoke.name)
    assert [(f.metric, f.data) for f in figures] == [
        ("NLL", "own.npz, 20 test series"),
        ("negative ELBO", "own.npz, 20 test series"),
        ("reconstruction RMSE", "own.npz, 20 test series"),
        ("negative ELBO", "own.npz, 20 test series, spread over 0.01 mV"),
    ]
    assert figures[1].value != figures[3].value == pytest.approx(figures[1].value, abs=10)
    published = load("someone/beats")
    assert torch.equal(published.standardise.mean, load(smoke.output / smoke.name).standardise.mean)


def test_groups_that_are_kept_stay_and_the_others_are_drawn_anew(smoke):
    model = lively(smoke)
    x = 5 * synthetic_beats(2, 64, generator=generator(1))[0]
    y = -x
    none, other = (recipe.redraw(model, series, 0, generator()) for series in (x, y))
    assert none.shape == (recipe.DRAWS, 2, 1, 64)
    assert torch.equal(none, other)  # samples know nothing of x
    some = [recipe.redraw(model, x, kept, generator()) for kept in (0, 1, 3)]
    spreads = [draws.std(0).mean().item() for draws in some]
    assert spreads[0] > spreads[1] > 10 * spreads[2] and spreads[2] < 1e-6
    assert not torch.allclose(some[1], recipe.redraw(model, y, 1, generator()), atol=1e-3)
    z = model.encode(x).sample(generator=generator())
    assert torch.allclose(some[2][0], model.decode(z).mean, atol=1e-6)


def test_what_scales_tell_adds_up_to_the_divergence(smoke):
    model = lively(smoke)
    x = synthetic_beats(40, 64, generator=generator(1))[0]
    found = recipe.scales(smoke, model, x)
    told = [float(value.split(" ")[0]) for name, value in found.items() if name.startswith("KL")]
    with torch.no_grad():
        kl = model.elbo(x, generator=recipe.seeded(smoke)).kl.mean(0)
    assert told == pytest.approx([kl[0].item(), kl[1:].sum().item()], abs=0.006)
    still_open = [float(value) for name, value in found.items() if name.startswith("standard deviation")]
    assert still_open[0] > still_open[1] == 0
    assert any("scale of 16 positions, groups 1 to 1" in name for name in found)
    assert any("scale of 32 positions, groups 2 to 3" in name for name in found)


def test_a_bundled_model_stands_beside_where_its_card_is_of_the_same_series(smoke):
    (nll,) = (f for f in read_figures(catalog.CHECKPOINTS / "vae-heartbeats") if f.metric == "NLL")
    config = dataclasses.replace(smoke, length=256)
    model, rival = lively(config), load("vae-heartbeats")
    test = Signals(1, 256, 360.0, "mV").dataset("synthetic-beats", "test")
    found = recipe.beside(config, model, torch.utils.data.Subset(test, range(20)), nll.data)
    x = test.x[:20]
    with torch.no_grad():
        gain = [m.elbo(x, generator=recipe.seeded(config)).total for m in (model, rival)]
    measured, difference, better = found.values()
    assert measured == nll.measured
    assert float(difference.split(" ")[0]) == pytest.approx((gain[0] - gain[1]).mean().item(), rel=1e-2)
    assert better == f"{(gain[0] > gain[1]).double().mean():.1%}"
    assert recipe.beside(config, model, test, "other beats") == {}


@pytest.mark.parametrize("name", recipe.PRESETS)
def test_every_preset_builds_a_model_that_trains(name):
    config = recipe.PRESETS[name][1]
    small = dataclasses.replace(config, length=32, width=4, groups=(1, 1), latent=2)
    model = recipe.build(small, Signals(1, 32)).train()
    assert model.likelihood_head.name == config.likelihood and len(model.groups) == 2
    loss = model.loss(torch.randn(8, 1, 32), generator=generator())["loss"]
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert config.training.skip_above and sum(config.groups) > 2 * (name != "smoke")
