"""The classifier on a zoo encoder: what it copies, what it trains and what it counts."""

import pytest
import torch

from modalities.data import Arrays, Batch
from zoo.evaluation.classifier import Classifier
from zoo.nn.normalisation import Standardise
from zoo.nn.residual import Encoder
from zoo.training import TrainingConfig, train

SHAPE = (1, 8, 8)


def networks():
    torch.manual_seed(0)
    standardise = Standardise(SHAPE)
    standardise.fit(3 + 2 * torch.randn(100, *SHAPE))
    return standardise, Encoder(SHAPE, 4, width=4, blocks=1, hidden=16)


def bars(n, seed=0):
    """Noisy pictures with a bright upper half (class 0), lower half (1) or left half (2)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    patterns = -torch.ones(3, *SHAPE)
    patterns[0, :, :4], patterns[1, :, 4:], patterns[2, :, :, :4] = 1, 1, 1
    return Arrays(patterns[labels] + 0.5 * torch.randn(n, *SHAPE, generator=generator), labels)


def test_starts_with_the_features_of_the_encoder_it_is_given():
    standardise, encoder = networks()
    classifier = Classifier(standardise, encoder, 3)
    x = 3 + 2 * torch.randn(5, *SHAPE)
    features = classifier.features(x)
    assert features.shape == (5, 16)
    assert torch.equal(features, encoder.features(standardise(x)))
    assert not torch.equal(features, encoder.features(x))
    assert torch.equal(classifier.logits(x), classifier.encoder.output(features))
    assert classifier.logits(x).shape == (5, 3)


def test_training_learns_and_leaves_the_encoder_it_was_given_alone():
    standardise, encoder = networks()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    classifier = Classifier(standardise, encoder, 3)
    fresh = {name: parameter.detach().clone() for name, parameter in classifier.named_parameters()}
    assert classifier.accuracy(bars(500, seed=1)) < 0.6
    train(classifier, bars(200), TrainingConfig(steps=60, batch_size=50, warmup_steps=5, ema=0.9))
    assert classifier.accuracy(bars(500, seed=1)) > 0.95
    for name, parameter in classifier.named_parameters():
        assert not torch.equal(parameter, fresh[name]), f"{name} was not trained"
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} of the given encoder has changed"


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path):
    whole, stopped = (Classifier(*networks(), 3) for _ in range(2))
    stopped.load_state_dict(whole.state_dict())
    again = Classifier(*networks(), 3)
    config = TrainingConfig(steps=12, batch_size=20, warmup_steps=2, checkpoint_every=4)
    train(whole, bars(50), config)
    train(stopped, bars(50), TrainingConfig(**{**vars(config), "minutes": 0.0}), tmp_path)
    train(again, bars(50), config, tmp_path)
    for ours, theirs in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_loss_is_cross_entropy_and_counts_the_right_ones():
    classifier = Classifier(*networks(), 3)
    x, labels = bars(40).x, bars(40).labels
    terms = classifier(Batch(x, labels), player="model", progress=0.5, generator=None)
    probabilities = classifier.logits(x).softmax(1)
    expected = -probabilities[torch.arange(40), labels].log().mean()
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["accuracy"], (probabilities.argmax(1) == labels).float().mean())


def test_accuracy_counts_over_all_batches_and_keeps_no_graph():
    classifier = Classifier(*networks(), 3)
    data = bars(1203)
    predicted = classifier.logits(data.x).argmax(1)
    # All wrong but the first and the last items, which lie in different batches.
    labels = (predicted + 1) % 3
    labels[:2], labels[-5:] = predicted[:2], predicted[-5:]
    assert classifier.accuracy(Arrays(data.x, labels)) == pytest.approx(7 / 1203)
    assert classifier.accuracy(Arrays(data.x, predicted)) == 1


def test_an_encoder_that_is_told_the_class_is_refused():
    standardise, _ = networks()
    with pytest.raises(ValueError, match="takes the class as its input"):
        Classifier(standardise, Encoder(SHAPE, 4, 4, 1, 16, classes=3), 3)
