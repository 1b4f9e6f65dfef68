"""The transfer recipe: what its labels, probes and tables are made of, and a whole run at a small size."""

import dataclasses
import json

import pytest
import torch

from modalities import MediaError
from modalities.images import Images
from recipes import images_autoencoder as recipe
from recipes.images_autoencoder import Labelled, choose, probe, standardised
from zoo.card import read_figures
from zoo.hub import load

METHODS = [recipe.SCRATCH, recipe.TUNED, recipe.CODE, recipe.COMPONENTS, recipe.PIXELS]


def tiny(output):
    """The smoke preset with fewer steps."""
    _, smoke = recipe.PRESETS["smoke"]
    few = dataclasses.replace(smoke.few, steps=15)
    pretraining = dataclasses.replace(smoke.autoencoder, steps=40)
    return dataclasses.replace(smoke, output=output, seeds=1, few=few, full=few, autoencoder=pretraining)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that has come to its end."""
    output = tmp_path_factory.mktemp("transfer")
    recipe.main(tiny(output))
    return output


def accuracies(folder):
    return json.loads((folder / "figures.json").read_text())["test accuracies, one a seed"]


def test_a_run_measures_every_method_on_every_number_of_labels(finished):
    found = accuracies(finished)
    assert list(found) == METHODS
    for by_count in found.values():
        assert list(by_count) == ["100", "1500"]
        assert all(len(scores) == 1 and 0.1 < scores[0] <= 1 for scores in by_count.values())
    assert found[recipe.PIXELS]["1500"][0] > found[recipe.PIXELS]["100"][0] > 0.7
    for picture in ("samples", "reconstructions", "accuracy"):
        assert (finished / f"{picture}.png").stat().st_size > 1000


def test_the_checkpoint_rebuilds_unseen_pictures_as_well_as_its_card_says(finished):
    model = load(finished / "autoencoder-digits")
    test = Images(1, 8, 8).dataset("digits", "test")
    error = (model.reconstruct(test.x) - test.x).square().mean().item()
    figures = {figure.metric: figure for figure in read_figures(finished / "autoencoder-digits")}
    assert error == pytest.approx(figures["reconstruction MSE"].value, rel=1e-3)
    tuned = figures[f"test accuracy of a classifier, {recipe.TUNED}"]
    assert tuned.value == pytest.approx(100 * accuracies(finished)[recipe.TUNED]["100"][0])
    assert "100 labels" in tuned.data
    # Training statistics: the picture of standard deviation 1 is what the networks see.
    x = Images(1, 8, 8).dataset("digits", "train").x
    assert model.standardise(x).std().item() == pytest.approx(1, abs=1e-3)


def test_a_second_start_trains_nothing_anew(finished):
    before = accuracies(finished)
    states = {path: path.stat().st_mtime_ns for path in finished.rglob("state.safetensors")}
    assert len(states) == 5  # the autoencoder, two starts and two numbers of labels
    recipe.main(tiny(finished))
    assert accuracies(finished) == before
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("state.safetensors")} == states


def test_both_networks_start_from_the_same_head_and_only_one_from_the_autoencoder(finished, monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(recipe, "train", lambda model, *_: started.append(model))
    config = tiny(tmp_path)
    autoencoder = load(finished / "autoencoder-digits")
    subset = Labelled(torch.zeros(10, 1, 8, 8), torch.arange(10))
    recipe.classify(config, autoencoder, subset, subset, dataclasses.replace(config.few, seed=3))
    scratch, tuned = started
    assert torch.equal(scratch.encoder.output.weight, tuned.encoder.output.weight)
    assert torch.equal(tuned.encoder.hidden.weight, autoencoder.encoder.hidden.weight)
    assert not torch.equal(scratch.encoder.hidden.weight, autoencoder.encoder.hidden.weight)
    assert torch.equal(scratch.standardise.mean, autoencoder.standardise.mean)


def test_labels_are_chosen_evenly_at_random_and_by_the_seed():
    labels = torch.arange(300) % 3
    chosen = choose(labels, 31, seed=0)
    assert labels[chosen].bincount().tolist() == [10, 10, 10]
    assert len(set(chosen.tolist())) == 30
    assert labels[chosen].tolist() != sorted(labels[chosen].tolist())
    assert torch.equal(chosen, choose(labels, 31, seed=0))
    assert set(chosen.tolist()) != set(choose(labels, 31, seed=1).tolist())
    assert sorted(choose(labels, 300, seed=0).tolist()) == list(range(300))


@pytest.mark.parametrize("count", [2, 300, 402])
def test_labels_that_the_classes_cannot_give_evenly_are_refused(count):
    labels = torch.cat([torch.arange(297) % 3, torch.zeros(104, dtype=torch.long)])
    assert labels[choose(labels, 299, seed=0)].bincount().tolist() == [99, 99, 99]
    with pytest.raises(MediaError, match="smallest class has 99: choose another number with --labels"):
        choose(labels, count, seed=0)


def test_features_are_standardised_with_the_training_set_alone():
    training = torch.tensor([[0.0, 7.0], [2.0, 7.0]])
    scaled, unseen = standardised(training, torch.tensor([[3.0, 8.0]]))
    torch.testing.assert_close(scaled.mean(0), torch.zeros(2))
    torch.testing.assert_close(unseen, torch.tensor([[2.0, 1.0]]) / torch.tensor([2**0.5, 1.0]))


def test_probe_finds_what_is_linear_and_nothing_in_noise():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(600, 60, generator=generator), torch.arange(600) % 2
    noise = Labelled(x, labels)
    signal = Labelled(torch.cat([x, 4.0 * labels[:, None] + torch.randn(600, 1, generator=generator)], 1), labels)
    half = [Labelled(data.x[::3], data.labels[::3]) for data in (noise, signal)]
    rest = [Labelled(data.x[1::3], data.labels[1::3]) for data in (noise, signal)]
    assert probe(half[0], rest[0], seed=0) < 0.6
    assert probe(half[1], rest[1], seed=0) > 0.95


def test_the_table_gives_means_deviations_and_published_rows():
    lines = recipe.table({"method": {100: [0.5, 0.6], 1000: [0.75, 0.75]}}).splitlines()
    assert lines[0].split()[-2:] == ["100", "1,000"]
    assert lines[1].split() == ["method", "55.00", "±", "7.07", "75.00", "±", "0.00"]
    assert "other protocols" in lines[2]
    assert lines[3].split()[-2:] == ["74.19", "89.30"]
