"""A classifier on a zoo encoder: what a representation is worth, and features to compare pictures by."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modalities.modality import batches
from zoo.distributions import full_precision
from zoo.model import unpack
from zoo.nn.residual import Encoder, Standardise


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

    def forward(
        self, batch: Any, *, player: str = "model", progress: float = 1.0, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The cross-entropy of a batch (x, labels) in nats, and the share that is classified correctly."""
        x, labels = unpack(batch)
        logits = self.logits(x)
        return {"loss": F.cross_entropy(logits, labels), "accuracy": (logits.argmax(1) == labels).float().mean()}

    def players(self) -> dict[str, list[nn.Module]]:
        """One player, as for a model with a likelihood."""
        return {"model": [self]}

    @torch.no_grad()
    def accuracy(self, data: Any) -> float:
        """The share of a data set of (x, label) that is classified correctly, in [0, 1]."""
        device = self.encoder.output.weight.device
        correct = count = 0
        for x, labels in batches(data, 500):
            correct += int((self.logits(x.to(device)).argmax(1).cpu() == labels).sum())
            count += len(labels)
        return correct / count
