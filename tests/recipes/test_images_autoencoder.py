"""The transfer recipe on scikit-learn's digits: every method on every number of labels, and started again."""

import dataclasses

import pytest
import torch

from modalities.data import Batch
from modalities.images import Images
from recipes import images_autoencoder as recipe
from tests.recipes import runs
from zoo import load
from zoo.card import read_figures

FEW = dataclasses.replace(recipe.SHORT, steps=15)
SMOKE = dataclasses.replace(
    recipe.PRESETS["smoke"][1], seeds=1, few=FEW, full=FEW, autoencoder=dataclasses.replace(FEW, steps=40)
)


def accuracies(config):
    return runs.figures(config.output)["test accuracies, one a seed"]


def test_a_run_measures_every_method_on_every_number_of_labels(done):
    found = accuracies(done)
    assert list(found) == [recipe.SCRATCH, recipe.TUNED, recipe.CODE, recipe.COMPONENTS, recipe.PIXELS]
    for by_count in found.values():
        assert list(by_count) == ["100", "1500"]
        assert all(len(scores) == 1 and 0.1 < scores[0] <= 1 for scores in by_count.values())
    assert found[recipe.PIXELS]["1500"][0] > found[recipe.PIXELS]["100"][0] > 0.7
    assert runs.pictures(done.output) == {"samples", "reconstructions", "accuracy"}


def test_the_checkpoint_rebuilds_unseen_pictures_as_well_as_its_card_says(done):
    model = load(done.output / "autoencoder-digits")
    test = Images(1, 8, 8).dataset("digits", "test")
    error = (model.reconstruct(test.x) - test.x).square().mean().item()
    figures = {figure.metric: figure for figure in read_figures(done.output / "autoencoder-digits")}
    assert error == pytest.approx(figures["reconstruction MSE"].value, rel=1e-3)
    tuned = figures[f"test accuracy of a classifier, {recipe.TUNED}"]
    assert tuned.value == pytest.approx(100 * accuracies(done)[recipe.TUNED]["100"][0])
    assert "100 labels" in tuned.data
    # Training statistics: the picture of standard deviation 1 is what the networks see.
    x = Images(1, 8, 8).dataset("digits", "train").x
    assert model.standardise(x).std().item() == pytest.approx(1, abs=0.01)


def test_a_second_start_trains_nothing_anew(done):
    before = accuracies(done)
    states = {path: path.stat().st_mtime_ns for path in done.output.rglob("state.safetensors")}
    assert len(states) == 5  # the autoencoder, two starts and two numbers of labels
    recipe.main(done)
    assert accuracies(done) == before
    assert {path: path.stat().st_mtime_ns for path in done.output.rglob("state.safetensors")} == states


def test_both_networks_start_from_the_same_head_and_only_one_from_the_autoencoder(done, monkeypatch):
    started = []
    monkeypatch.setattr(recipe, "train", lambda model, *_: started.append(model))
    autoencoder = load(done.output / "autoencoder-digits")
    some = Batch(torch.zeros(10, 1, 8, 8), torch.arange(10))
    recipe.classify(done, autoencoder, some, some, dataclasses.replace(done.few, seed=3))
    scratch, tuned = started
    assert torch.equal(scratch.encoder.output.weight, tuned.encoder.output.weight)
    assert torch.equal(tuned.encoder.hidden.weight, autoencoder.encoder.hidden.weight)
    assert not torch.equal(scratch.encoder.hidden.weight, autoencoder.encoder.hidden.weight)
    assert torch.equal(scratch.standardise.mean, autoencoder.standardise.mean)
