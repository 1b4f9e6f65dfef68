"""The recipe on generated heartbeats, on recorded levels, and what its figures measure."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from modalities import MediaError
from modalities.signals import Signals, synthetic_beats
from recipes import signals_autoregressive as recipe
from zoo import catalog, load
from zoo.autoregressive.wavenet import WaveNet
from zoo.card import read_figures

PICTURES = {"real", "samples", "completions", "heights", "spectra"}


@pytest.fixture
def smoke(tmp_path):
    return dataclasses.replace(recipe.PRESETS["smoke"][1], output=tmp_path / "run")


def test_smoke_writes_pictures_figures_and_a_model(smoke):
    from PIL import Image

    recipe.main(smoke)
    assert {path.stem for path in smoke.output.glob("*.png")} == PICTURES
    for name in PICTURES:
        picture = Image.open(smoke.output / f"{name}.png").convert("L")
        assert picture.getextrema()[0] < picture.getextrema()[1]
    figures = json.loads((smoke.output / "figures.json").read_text())
    assert all(f"height of the R wave, {n} (mean ± standard deviation, mV)" in figures for n in ("test", "samples"))
    shares = [float(value.rstrip("%")) for name, value in figures.items() if name.startswith("steps within")]
    assert len(shares) == 2 and all(50 < share <= 100 for share in shares)
    assert not any("vae-heartbeats" in name for name in figures)  # its card is of other beats

    model = load(smoke.output / smoke.name)
    assert isinstance(model, WaveNet) and model.modality == Signals(1, 48, 360.0, "mV")
    test = model.modality.dataset("synthetic-beats", "test").x
    (nll,) = read_figures(smoke.output / smoke.name)
    assert nll.kind == "density" and nll.error > 0
    assert nll.value == pytest.approx(-model.log_prob(test).mean().item(), abs=1e-3)
    untrained = WaveNet(model.modality, 8, 4, 1, 16, components=3)
    untrained.standardise.fit(test)
    assert nll.value < -untrained.log_prob(test).mean().item() - 20


def test_recorded_levels_are_spread_and_the_model_is_published(smoke, tmp_path, hub):
    x, _ = synthetic_beats(100, 48, generator=torch.Generator().manual_seed(1))
    np.savez(tmp_path / "own.npz", x=(x[:, 0] / 0.01).round().numpy() * 0.01)
    config = dataclasses.replace(smoke, data=str(tmp_path / "own.npz"), push="someone/beats")
    recipe.main(config)
    (figure,) = read_figures(config.output / config.name)
    assert figure.data == "own.npz, 20 test series, spread over 0.01 mV"
    published = load("someone/beats")
    assert torch.equal(published.standardise.mean, load(config.output / config.name).standardise.mean)


def test_the_step_of_a_converter_is_found_and_values_stay_within_their_level(shared_data):
    medium = Signals(1, 256, 360.0, "mV")
    x = medium.dataset(shared_data / "signals" / "mitbih_100.npz", "train").x[:200]
    step = recipe.resolution(x)
    assert step == pytest.approx(0.005, rel=1e-3)
    noise = recipe.spread(x, step, torch.Generator().manual_seed(0)) - x
    assert noise.abs().max() <= step / 2 + 1e-6 and noise.std().item() == pytest.approx(step / 12**0.5, rel=0.01)
    continuous = synthetic_beats(20, 64)[0]
    assert recipe.resolution(continuous) == 0 and recipe.spread(continuous, 0.0, None) is continuous


def test_a_bundled_model_stands_beside_where_its_card_is_of_the_same_series(smoke):
    (nll,) = (f for f in read_figures(catalog.CHECKPOINTS / "vae-heartbeats") if f.metric == "NLL")
    config = dataclasses.replace(smoke, length=256, generated=3)
    assert list(recipe.others(config, nll.data).values()) == [nll.measured]
    (drawn,) = recipe.rival(config, nll.data).values()
    assert drawn.shape == (3, 1, 256)
    assert recipe.others(config, "other beats") == recipe.rival(config, "other beats") == {}
    assert recipe.rival(smoke, nll.data) == {}  # it has series of another length


def test_the_height_of_the_r_wave_leaves_the_baseline_out():
    beat = torch.zeros(2, 1, 50)
    beat[:, 0, 20] = torch.tensor([1.0, 1.5])
    assert recipe.height(beat + 3).tolist() == [1.0, 1.5]


def test_the_share_within_is_that_of_hidden_steps():
    x = torch.zeros(1, 1, 10)
    completions = torch.ones(2, 1, 1, 10)
    completions[0, ..., :8] = -1
    assert recipe.within(x, completions, 0.5) == pytest.approx(3 / 5)


def test_completions_begin_as_the_series_and_differ_after(smoke):
    wavenet = WaveNet(Signals(1, 48), 4, 2, 1, 8, components=2)
    x = synthetic_beats(3, 48)[0]
    drawn = recipe.complete(smoke, wavenet, x, 0.25)
    assert drawn.shape == (recipe.COMPLETIONS, 3, 1, 48)
    assert torch.equal(drawn[..., :12], x[..., :12].expand(recipe.COMPLETIONS, -1, -1, -1))
    assert (drawn[..., 12:].std(0) > 0).all()


def test_series_of_another_length_are_refused_with_what_to_do(smoke, shared_data):
    config = dataclasses.replace(smoke, data=str(shared_data / "signals" / "ecg5000_train.npz"))
    with pytest.raises(MediaError, match="length=140"):
        recipe.main(config)
