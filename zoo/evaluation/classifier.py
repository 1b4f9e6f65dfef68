"""A classifier on a zoo encoder: what a representation is worth, and features to compare pictures by."""

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modalities import MediaError, Modality
from modalities.data import Batch, Items, batches
from zoo.checkpoint import CONFIG, WEIGHTS, CheckpointError, load_weights, read_config, write_files
from zoo.conditions import Classes
from zoo.distributions import full_precision
from zoo.evaluation.features import FeatureNetwork
from zoo.evaluation.samples import by_name, subset
from zoo.nn.normalisation import Standardise
from zoo.nn.residual import Encoder
from zoo.training import TrainingConfig, train

TRAINING = TrainingConfig(steps=1500, batch_size=128, learning_rate=2e-3, weight_decay=0.02, ema=0.99)
"""How `feature_network` trains: a minute or so for MNIST's digits on one core."""


class Classifier(nn.Module):
    """A zoo encoder with a linear head on its features, trained by cross-entropy with `zoo.training.train`.

    The networks are copied: their weights are where the training starts, and the model they come from keeps its own.
    The head takes the place of the encoder's output layer.

    Arguments:
        standardise: what the encoder's items go through first.
        encoder: of a trained model to transfer what it learned, or a fresh one to learn from labels alone.
        classes: the number of classes; labels run from 0.
    """

    def __init__(self, standardise: Standardise, encoder: Encoder, classes: int):
        super().__init__()
        if encoder.classes is not None:
            raise ValueError("the encoder takes the class as its input, so a classifier cannot be built on it")
        self.standardise, self.encoder = copy.deepcopy(standardise), copy.deepcopy(encoder)
        self.encoder.output = nn.Linear(encoder.output.in_features, classes)

    def features(self, x: Tensor) -> Tensor:
        """What the head sees: the encoder's last hidden layer, shape [batch, hidden]."""
        return self.encoder.features(self.standardise(x))

    def logits(self, x: Tensor) -> Tensor:
        """Unnormalised log-probabilities of the classes, shape [batch, classes]."""
        return full_precision(self.encoder(self.standardise(x)))

    def forward(self, batch: Batch, **_: object) -> dict[str, Tensor]:
        """The cross-entropy of a batch (x, labels) in nats, and the share that is classified correctly."""
        logits, labels = self.logits(batch.x), batch.labels
        return {"loss": F.cross_entropy(logits, labels), "accuracy": (logits.argmax(1) == labels).float().mean()}

    @torch.no_grad()
    def accuracy(self, data: Items, classes: Sequence[str] = ()) -> float:
        """The share of a data set of (x, label) that is classified correctly, in [0, 1]; `classes` are the names of the
        classifier's, by which those of the data are matched."""
        device = self.encoder.output.weight.device
        correct = count = 0
        for batch in batches(data, 500, condition=by_name(Classes(tuple(classes)) if classes else None, data)):
            correct += int((self.logits(batch.x.to(device)).argmax(1).cpu() == batch.labels).sum())
            count += len(batch.x)
        return correct / count


def feature_network(
    folder: str | Path,
    medium: Modality,
    training: Items | None = None,
    test: Items | None = None,
    *,
    width: int = 16,
    blocks: int = 1,
    hidden: int = 128,
    config: TrainingConfig = TRAINING,
    device: str = "cpu",
) -> FeatureNetwork:
    """The features of the classifier in a folder, which is trained and saved there first if there is none.

    The features are the last hidden layer, `hidden` numbers. Their name says the test accuracy and the first eight
    digits of the SHA-256 of the weights: other weights give other figures. The folder holds config.json and
    model.safetensors; a killed training goes on from there.

    Arguments:
        medium: of the items that are to be compared, and of the data that a classifier is trained on. One that was
            trained on another medium or on other levels is refused: it would be no judge of what it has never seen.
        training, test: data sets of (item, label) of an adapter; needed only where the folder holds no classifier.
        width: channels of the first stage of the encoder.
        blocks: residual blocks a stage.
        config: see `TrainingConfig`.
        device: where the network runs.

    Raises `CheckpointError` where the folder holds no classifier of this medium and none can be trained.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        if training is None or test is None:
            raise CheckpointError(f"{folder} holds no classifier, and one is trained only on data with labels")
        if any(getattr(data, "labels", None) is None for data in (training, test)):
            raise MediaError("the data have no labels to train and to test a classifier on")
        sizes = {"width": width, "blocks": blocks, "hidden": hidden}
        classifier, arguments = _train(folder, training, sizes, config)
        accuracy = classifier.accuracy(test, getattr(training, "classes", None) or ())
        trained = {"classifier": arguments, "accuracy": accuracy, "medium": _describe(medium)}
        write_files(folder, trained, classifier.state_dict())
    about = read_config(folder)
    try:
        classifier, accuracy, seen = _build(**about["classifier"]), float(about["accuracy"]), about["medium"]
    except (KeyError, TypeError) as error:
        why = f"does not describe a classifier: {error}; train one in another folder"
        raise CheckpointError(f"{folder / CONFIG} {why}") from error
    if seen != _describe(medium):
        raise CheckpointError(
            f"the classifier in {folder} was trained on {seen}, and the items are {_describe(medium)}; train another "
            "one in another folder"
        )
    load_weights(classifier.state_dict(), folder / WEIGHTS)
    classifier.to(device).eval()
    digest, shape = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:8], about["classifier"]["shape"]

    def features(x: Tensor) -> Tensor:
        if list(x.shape[1:]) != shape:
            raise ValueError(f"the classifier in {folder} takes items of shape {shape}, got {list(x.shape[1:])}")
        return classifier.features(x.to(device))

    return FeatureNetwork(f"zoo classifier, accuracy {accuracy:.2%}, {digest}", features)


def _describe(medium: Modality) -> str:
    """A medium and its levels in words: "images of 2 levels"."""
    return medium.kind if medium.levels is None else f"{medium.kind} of {medium.levels} levels"


def _build(shape: list[int], width: int, blocks: int, hidden: int, classes: int) -> Classifier:
    size = tuple(shape)
    return Classifier(Standardise(size), Encoder(size, classes, width, blocks, hidden), classes)


def _train(folder: Path, training: Items, sizes: dict[str, int], config: TrainingConfig) -> tuple[Classifier, dict]:
    """A trained classifier and the arguments of its `_build`."""
    some = subset(training, min(len(training), 2000), torch.Generator().manual_seed(config.seed)).x
    sizes = {**sizes, "classes": int(max(getattr(training, "labels", ()))) + 1}
    torch.manual_seed(config.seed)
    classifier = _build(list(some.shape[1:]), **sizes)
    classifier.standardise.fit(some)
    train(classifier, training, config, folder / "training")
    return classifier.cpu().eval(), {"shape": list(some.shape[1:]), **sizes}
