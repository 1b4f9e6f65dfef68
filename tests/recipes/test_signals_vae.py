"""The recipe on generated heartbeats, on an archive and on a folder of the user's own series."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from modalities import MediaError
from modalities.signals import Signals, synthetic_beats
from recipes import signals_vae
from zoo import load
from zoo.card import read_figures

PICTURES = {"real", "samples", "reconstructions", "traversals", "spectra", "interpolations"}


@pytest.fixture
def smoke(tmp_path):
    return dataclasses.replace(signals_vae.PRESETS["smoke"][1], output=tmp_path / "run")


def test_smoke_writes_pictures_figures_and_a_model(smoke):
    from PIL import Image

    signals_vae.main(smoke)
    assert {path.stem for path in smoke.output.glob("*.png")} == PICTURES
    for name in PICTURES:
        picture = Image.open(smoke.output / f"{name}.png").convert("L")
        assert picture.getextrema()[0] < picture.getextrema()[1]
    figures = json.loads((smoke.output / "figures.json").read_text())
    real, drawn = (
        figures[f"spectrum, {n} against test (mean difference over frequencies, dB)"] for n in ("training", "samples")
    )
    assert 0 < real < drawn

    model = load(smoke.output / smoke.name)
    assert model.modality == Signals(1, 64, 360.0, "mV")
    test = model.modality.dataset("synthetic-beats", "test").x
    rmse = (model.reconstruct(test) - test).square().mean().sqrt().item()
    card = {figure.metric: figure for figure in read_figures(smoke.output / smoke.name)}
    # The stored model has half precision.
    assert (
        card["reconstruction RMSE"].value == pytest.approx(rmse, rel=0.01) and card["reconstruction RMSE"].unit == "mV"
    )
    assert card["NLL"].kind == card["negative ELBO"].kind == "bound on a density"
    assert card["NLL"].value <= card["negative ELBO"].value + 0.1


def test_an_archive_without_labels_is_trained_on_and_published(smoke, tmp_path, hub):
    x, _ = synthetic_beats(60, 64, generator=torch.Generator().manual_seed(1))
    np.savez(tmp_path / "own.npz", x=x[:, 0].numpy())
    config = dataclasses.replace(smoke, data=str(tmp_path / "own.npz"), push="someone/beats")
    signals_vae.main(config)
    assert {path.stem for path in config.output.glob("*.png")} == PICTURES - {"interpolations"}
    published = load("someone/beats")
    assert torch.equal(published.standardise.mean, load(config.output / config.name).standardise.mean)


def test_the_ends_are_one_series_of_each_class_the_commonest_first(tmp_path):
    medium = Signals(1, 8)
    for label, value, count in (("ectopic", 1.0, 2), ("normal", 0.0, 5), ("paced", 2.0, 1)):
        for split in ("train", "test"):
            medium.save(torch.full((count, 1, 8), value), tmp_path / split / label)
    ends = signals_vae.extremes(medium, tmp_path)
    assert ends[:, 0, 0].tolist() == [0, 1, 2]


def test_the_spectrum_finds_a_tone_and_its_level():
    time = torch.arange(128) / 128
    tone = torch.sin(2 * math.pi * 20 * time)[None, None]
    power = signals_vae.spectrum(tone + 5)
    assert power.argmax() == 20 - 1
    assert (signals_vae.spectrum(10 * tone) - power)[19].item() == pytest.approx(20, abs=1e-3)


def test_real_beats_are_compared_with_each_other_and_with_copies(shared_data):
    medium = Signals(1, 256, 360.0, "mV")
    source = shared_data / "signals" / "mitbih_100.npz"
    real = {"training": medium.dataset(source, "train").x[:300], "test": medium.dataset(source, "test").x[:100]}
    found = signals_vae.compare(real, {"copies": real["training"][:50]}, "mV")
    assert found["distance to the nearest training series, copies (median, RMS mV)"] == 0
    assert 0 < found["distance to the nearest training series, test (median, RMS mV)"] < 0.1
    assert found["spectrum, training against test (mean difference over frequencies, dB)"] < 1


def test_series_of_another_length_are_refused_with_what_to_do(smoke, shared_data):
    config = dataclasses.replace(smoke, data=str(shared_data / "signals" / "ecg5000_train.npz"))
    with pytest.raises(MediaError, match="length=140"):
        signals_vae.main(config)
