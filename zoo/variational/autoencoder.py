"""Autoencoder: a code short enough that what it keeps is what the data have in common.

Source: Hinton, Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", 2006. Residual convolutional
networks stand in the place of the stacked restricted Boltzmann machines of that paper.
"""

import math
from typing import Any

import torch
from torch import Tensor

from modalities import Modality
from zoo.distributions import DiagonalGaussian, Point, full_precision
from zoo.model import Latent, unpack
from zoo.nn.residual import Decoder, Encoder, Standardise


class Autoencoder(Latent):
    """Encodes an item to a point and decodes the point, for the least squared error.

    It has no density, and nothing shapes the space of its codes: the standard normal that `sample` draws from is a
    stand-in, which is why its samples look worse than a VAE's.

    Arguments:
        modality: the medium; vectors, series and images are taken.
        latent: the length of a code.
        width: channels of the first stage of both networks; later stages double them up to four times.
        blocks: residual blocks a stage.
        hidden: width of the linear layers next to the code.
    """

    def __init__(self, modality: Modality, latent: int = 32, width: int = 32, blocks: int = 1, hidden: int = 256):
        super().__init__()
        self.modality, self.latent = modality, latent
        shape = modality.shape
        self.standardise = Standardise(shape)
        self.encoder = Encoder(shape, latent, width, blocks, hidden)
        self.decoder = Decoder(shape, latent, shape[0], width, blocks, hidden)

    def prior(self, condition: Any = None, *, n: int = 1, temperature: float = 1.0) -> DiagonalGaussian:
        """The stand-in prior N(0, I), event [latent]."""
        zeros = torch.zeros(n, self.latent, device=self.device)
        return DiagonalGaussian(zeros, torch.full_like(zeros, temperature))

    def encode(self, x: Tensor, *, condition: Any = None) -> Tensor:
        """The codes of items, shape [batch, latent]."""
        return full_precision(self.encoder(self.standardise(x)))

    def decode(self, z: Tensor, *, condition: Any = None) -> Point:
        """The items of codes: points, since no likelihood was learned."""
        return Point(self.standardise.inverse(full_precision(self.decoder(z))))

    def loss(
        self, batch: Any, *, player: str = "model", progress: float = 1.0, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The squared error in standardised units, summed over an item's elements, averaged over the batch."""
        x, condition = unpack(batch)
        self.prepare_condition(condition, len(x))
        error = (self.decode(self.encode(x)).mean - x) / self.standardise.std
        squared = error.square().flatten(1).sum(1).mean()
        return {"loss": squared, "rmse": (squared.detach() / math.prod(self.modality.shape)).sqrt()}
