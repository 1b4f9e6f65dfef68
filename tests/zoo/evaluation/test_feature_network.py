"""The zoo's own classifier as a feature network: trained once, named by what it is."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from modalities import MediaError
from modalities.data import Arrays
from modalities.images import Images
from modalities.points import Points
from zoo.checkpoint import CheckpointError
from zoo.evaluation.classifier import feature_network
from zoo.training import TrainingConfig

GREY = Images(1, 8, 8)
QUICK = TrainingConfig(steps=40, batch_size=50, warmup_steps=5, ema=0.9)


def bars(n, seed=0, shape=(1, 8, 8)):
    """Noisy pictures with a bright upper half (class 0) or lower half (1)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    x = -torch.ones(n, *shape)
    x[labels == 0, :, :4], x[labels == 1, :, 4:] = 1, 1
    return Arrays(x + 0.5 * torch.randn(x.shape, generator=generator), labels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks") / "bars"
    feature_network(folder, GREY, bars(200), bars(90, 1), width=4, hidden=16, config=QUICK)
    return folder


def test_it_is_trained_once_and_says_its_accuracy_and_hash(folder):
    about = json.loads((folder / "config.json").read_text())
    assert about["accuracy"] > 0.95
    assert about["classifier"] == {"shape": [1, 8, 8], "width": 4, "blocks": 1, "hidden": 16, "classes": 2}
    assert about["medium"] == "images of 256 levels"
    weights = (folder / "model.safetensors").read_bytes()
    network = feature_network(folder, GREY)  # without data
    digest = hashlib.sha256(weights).hexdigest()[:8]
    assert network.name == f"zoo classifier, accuracy {about['accuracy']:.2%}, {digest}"
    assert feature_network(folder, GREY, bars(10), bars(10)).name == network.name
    assert (folder / "model.safetensors").read_bytes() == weights


def test_the_accuracy_is_that_on_the_test_data(tmp_path):
    wrong = Arrays(bars(90, 1).x, 1 - bars(90, 1).labels)
    feature_network(tmp_path, GREY, bars(200), wrong, width=4, hidden=16, config=QUICK)
    assert json.loads((tmp_path / "config.json").read_text())["accuracy"] < 0.05


def test_the_weights_are_those_of_the_folder(folder):
    x = bars(9).x
    assert torch.equal(feature_network(folder, GREY)(x), feature_network(folder, GREY)(x))
    stored = load_file(folder / "model.safetensors")
    torch.testing.assert_close(stored["standardise.mean"].flatten(), bars(200).x.mean()[None])
    torch.testing.assert_close(stored["standardise.std"].flatten(), bars(200).x.std(correction=0)[None])


def test_its_features_tell_the_classes_apart(folder):
    data = bars(150, 2)
    features = feature_network(folder, GREY)(data.x)
    assert features.shape == (150, 16) and not features.requires_grad
    upper, lower = features[data.labels == 0], features[data.labels == 1]
    assert (upper.mean(0) - lower.mean(0)).norm() > 3 * upper.std(0).norm()


def test_other_weights_have_another_name(folder, tmp_path):
    feature_network(tmp_path, GREY, bars(200, 5), bars(90, 1), width=4, hidden=16, config=QUICK)
    assert feature_network(tmp_path, GREY).name[-8:] != feature_network(folder, GREY).name[-8:]


def test_another_medium_than_it_was_trained_on_is_refused(folder, tmp_path):
    seen = "was trained on images of 256 levels, and the items are"
    with pytest.raises(CheckpointError, match=f"{seen} images of 2 levels; train another one in another folder"):
        feature_network(folder, Images(1, 8, 8, 2))
    with pytest.raises(CheckpointError, match=f"{seen} points;"):
        feature_network(folder, Points(dimensions=2))
    older = json.loads((folder / "config.json").read_text())
    del older["medium"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="not describe a classifier: 'medium'; train one in another folder"):
        feature_network(tmp_path, GREY)


def test_what_is_no_classifier_is_refused(folder, tmp_path):
    with pytest.raises(CheckpointError, match="holds no classifier, and one is trained only on data with labels"):
        feature_network(tmp_path, GREY)
    with pytest.raises(MediaError, match="no labels"):
        feature_network(tmp_path, GREY, Arrays(bars(10).x), bars(10))
    with pytest.raises(ValueError, match=r"takes items of shape \[1, 8, 8\], got \[1, 9, 8\]"):
        feature_network(folder, GREY)(torch.zeros(2, 1, 9, 8))
    (tmp_path / "config.json").write_text('{"family": "vae", "arguments": {}}')
    with pytest.raises(CheckpointError, match="does not describe a classifier: 'classifier'"):
        feature_network(tmp_path, GREY)
