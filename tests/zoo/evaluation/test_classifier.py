"""A classifier on a zoo encoder, and the feature network made of it: trained once, named by what it is."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from modalities import MediaError
from modalities.data import Arrays, Batch
from modalities.images import Images
from modalities.points import Points
from zoo.checkpoint import CheckpointError
from zoo.evaluation.classifier import Classifier, feature_network
from zoo.nn.normalisation import Standardise
from zoo.nn.residual import Encoder
from zoo.training import TrainingConfig, train

SHAPE = (1, 8, 8)
GREY = Images(*SHAPE)
QUICK = TrainingConfig(steps=40, batch_size=50, warmup_steps=5, ema=0.9)


def networks():
    torch.manual_seed(0)
    standardise = Standardise(SHAPE)
    standardise.fit(3 + 2 * torch.randn(100, *SHAPE))
    return standardise, Encoder(SHAPE, 4, width=4, blocks=1, hidden=16)


def bars(n, seed=0, classes=3):
    """Noisy pictures with a bright upper half (class 0), lower half (1) or left half (2)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    patterns = -torch.ones(3, *SHAPE)
    patterns[0, :, :4], patterns[1, :, 4:], patterns[2, :, :, :4] = 1, 1, 1
    return Arrays(patterns[labels] + 0.5 * torch.randn(n, *SHAPE, generator=generator), labels)


def test_starts_with_the_features_of_the_encoder_it_is_given():
    standardise, encoder = networks()
    classifier = Classifier(standardise, encoder, 3)
    x = 3 + 2 * torch.randn(5, *SHAPE)
    features = classifier.features(x)
    assert features.shape == (5, 16) and torch.equal(features, encoder.features(standardise(x)))
    assert not torch.equal(features, encoder.features(x))
    assert classifier.logits(x).shape == (5, 3)
    with pytest.raises(ValueError, match="takes the class as its input"):
        Classifier(standardise, Encoder(SHAPE, 4, 4, 1, 16, classes=3), 3)


def test_training_learns_and_leaves_the_encoder_it_was_given_alone():
    standardise, encoder = networks()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    classifier = Classifier(standardise, encoder, 3)
    fresh = {name: parameter.detach().clone() for name, parameter in classifier.named_parameters()}
    assert classifier.accuracy(bars(500, seed=1)) < 0.6
    train(classifier, bars(200), TrainingConfig(steps=60, batch_size=50, warmup_steps=5, ema=0.9))
    assert classifier.accuracy(bars(500, seed=1)) > 0.95
    assert not any(torch.equal(parameter, fresh[name]) for name, parameter in classifier.named_parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path):
    whole, stopped, again = (Classifier(*networks(), 3) for _ in range(3))
    stopped.load_state_dict(whole.state_dict())
    config = TrainingConfig(steps=12, batch_size=20, warmup_steps=2, checkpoint_every=4)
    train(whole, bars(50), config)
    train(stopped, bars(50), TrainingConfig(**{**vars(config), "minutes": 0.0}), tmp_path)
    train(again, bars(50), config, tmp_path)
    for ours, theirs in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_loss_is_cross_entropy_and_counts_the_right_ones():
    classifier, data = Classifier(*networks(), 3), bars(40)
    terms = classifier(Batch(data.x, data.labels), player="model", progress=0.5, generator=None)
    probabilities = classifier.logits(data.x).softmax(1)
    torch.testing.assert_close(terms["loss"], -probabilities[torch.arange(40), data.labels].log().mean())
    torch.testing.assert_close(terms["accuracy"], (probabilities.argmax(1) == data.labels).float().mean())


def test_accuracy_counts_over_all_batches():
    classifier, x = Classifier(*networks(), 3), bars(1203).x
    predicted = classifier.logits(x).argmax(1)
    # All wrong but the first and the last items, which lie in different batches.
    labels = (predicted + 1) % 3
    labels[:2], labels[-5:] = predicted[:2], predicted[-5:]
    assert classifier.accuracy(Arrays(x, labels)) == pytest.approx(7 / 1203)
    assert classifier.accuracy(Arrays(x, predicted)) == 1
    data = Arrays(x, 2 - predicted)
    data.classes = ("c", "b", "a")  # another order of the same names
    assert classifier.accuracy(data, ("a", "b", "c")) == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks") / "bars"
    feature_network(folder, GREY, bars(200, 0, 2), bars(90, 1, 2), width=4, hidden=16, config=QUICK)
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


def test_other_data_give_other_weights_another_name_and_their_own_accuracy(folder, tmp_path):
    wrong = Arrays(bars(90, 1, 2).x, 1 - bars(90, 1, 2).labels)
    network = feature_network(tmp_path, GREY, bars(200, 5, 2), wrong, width=4, hidden=16, config=QUICK)
    assert json.loads((tmp_path / "config.json").read_text())["accuracy"] < 0.05
    assert network.name[-8:] != feature_network(folder, GREY).name[-8:]


def test_the_features_are_those_of_the_folder_and_tell_the_classes_apart(folder):
    data, stored = bars(150, 2, 2), load_file(folder / "model.safetensors")
    torch.testing.assert_close(stored["standardise.mean"].flatten(), bars(200, 0, 2).x.mean()[None])
    torch.testing.assert_close(stored["standardise.std"].flatten(), bars(200, 0, 2).x.std(correction=0)[None])
    features = feature_network(folder, GREY)(data.x)
    assert torch.equal(features, feature_network(folder, GREY)(data.x))
    assert features.shape == (150, 16) and not features.requires_grad
    upper, lower = features[data.labels == 0], features[data.labels == 1]
    assert (upper.mean(0) - lower.mean(0)).norm() > 3 * upper.std(0).norm()


def test_what_is_no_classifier_of_this_medium_is_refused(folder, tmp_path):
    seen = "was trained on images of 256 levels, and the items are"
    with pytest.raises(CheckpointError, match=f"{seen} images of 2 levels; train another one in another folder"):
        feature_network(folder, Images(1, 8, 8, 2))
    with pytest.raises(CheckpointError, match=f"{seen} points;"):
        feature_network(folder, Points(dimensions=2))
    with pytest.raises(ValueError, match=r"takes items of shape \[1, 8, 8\], got \[1, 9, 8\]"):
        feature_network(folder, GREY)(torch.zeros(2, 1, 9, 8))
    with pytest.raises(CheckpointError, match="holds no classifier, and one is trained only on data with labels"):
        feature_network(tmp_path, GREY)
    with pytest.raises(MediaError, match="no labels"):
        feature_network(tmp_path, GREY, Arrays(bars(10).x), bars(10))
    older = json.loads((folder / "config.json").read_text())
    del older["medium"]
    for config, missing in ((older, "medium"), ({"family": "vae", "arguments": {}}, "classifier")):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=f"not describe a classifier: '{missing}'; train one in another"):
            feature_network(tmp_path, GREY)
