"""The recipe on generated heartbeats."""

import dataclasses

import pytest

from modalities import MediaError
from modalities.signals import Signals
from recipes import signals_vae as recipe
from tests.recipes import runs
from zoo import load
from zoo.card import read_figures

SMOKE = recipe.PRESETS["smoke"][1]


def test_a_run_measures_and_draws(done):
    parts = {"real", "samples", "reconstructions", "traversals", "spectra", "interpolations"}
    assert runs.pictures(done.output) == parts
    found = runs.figures(done.output)
    real, drawn = (
        found[f"spectrum, {n} against test (mean difference over frequencies, dB)"] for n in ("training", "samples")
    )
    assert 0 < real < drawn
    model = load(done.output / "vae-synthetic-beats")
    assert model.modality == Signals(1, 64, 360.0, "mV")
    test = model.modality.dataset("synthetic-beats", "test").x
    card = {figure.metric: figure for figure in read_figures(done.output / "vae-synthetic-beats")}
    rmse = card["reconstruction RMSE"]  # the stored model has half precision
    assert rmse.value == pytest.approx((model.reconstruct(test) - test).square().mean().sqrt().item(), rel=0.01)
    assert rmse.unit == "mV" and card["NLL"].kind == card["negative ELBO"].kind == "bound on a density"
    assert card["NLL"].value <= card["negative ELBO"].value + 0.1


def test_series_of_another_length_are_refused_with_what_to_do(tmp_path, shared_data):
    data = str(shared_data / "signals" / "ecg5000_train.npz")
    with pytest.raises(MediaError, match="length=140"):
        recipe.main(dataclasses.replace(SMOKE, data=data, output=tmp_path))
