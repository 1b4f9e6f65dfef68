"""Autoencoder: a code short enough that what it keeps is what the data have in common.

Source: Hinton, Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", 2006. Residual convolutional
networks stand in the place of the stacked restricted Boltzmann machines of that paper.
"""

from typing import ClassVar

import torch
from torch import Tensor

from modalities import Modality
from modalities.data import Batch, Items
from zoo.checks import check_counts, check_latents
from zoo.distributions import DiagonalGaussian, Point, Rng, full_precision
from zoo.model import Latent, Notes, Trainable
from zoo.nn.normalisation import Standardise
from zoo.nn.residual import Decoder, Encoder


class Autoencoder(Latent[Tensor], Trainable):
    """Encodes an item to a point and decodes the point, for the least squared error.

    It has no density, and nothing shapes the space of its codes: the standard normal that `sample` draws from is a
    stand-in, which is why its samples look worse than a VAE's.

    Arguments:
        modality: the medium, of any but ragged items: convolutions on its grid, linear layers where it has none.
        latent: the length of a code.
        width: channels of the first stage of both networks; later stages double them up to four times.
        blocks: residual blocks a stage.
        hidden: width of the linear layers next to the code.
    """

    has_likelihood: ClassVar[bool] = False
    caveat: ClassVar[str] = (
        "A negative example: nothing shapes the space of its codes, so that codes drawn at random decode to fragments."
    )

    def __init__(self, modality: Modality, latent: int = 32, width: int = 32, blocks: int = 1, hidden: int = 256):
        super().__init__()
        check_counts(latent=latent, width=width, hidden=hidden)
        check_counts(0, blocks=blocks)
        self.modality, self.latent = modality, latent
        shape = modality.shape if modality.grid else (modality.elements,)
        self.standardise = Standardise(modality.shape, by_element=not modality.grid)
        self.encoder = Encoder(shape, latent, width, blocks, hidden)
        self.decoder = Decoder(shape, latent, shape[0], width, blocks, hidden)

    def adapt(self, data: Items) -> None:
        """Measure the mean and the deviation of the data."""
        self.standardise.measure(data, self.modality)

    def prior(self, condition: object = None, *, n: int = 1, temperature: float = 1.0) -> DiagonalGaussian:
        """The stand-in prior N(0, I), event [latent]."""
        zeros = torch.zeros(n, self.latent, device=self.device)
        return DiagonalGaussian(zeros, torch.full_like(zeros, temperature))

    def encode(self, x: Tensor, *, condition: object = None) -> Point:
        """The codes of items, event [latent]: points, since they have no spread."""
        return Point(self.in_parts(lambda x: self.encoder(self.standardise(x)), self.check_items(x)))

    def decode(self, z: Tensor, *, condition: object = None) -> Point:
        """The items of codes: points, since no likelihood was learned."""
        check_latents(z, (self.latent,))
        h = full_precision(self.decoder(z)).reshape(z.shape[0], *self.modality.shape)
        return Point(self.standardise.inverse(h))

    def loss(
        self, batch: Batch, *, player: str = "model", progress: float = 1.0, shared: Notes = None, generator: Rng = None
    ) -> dict[str, Tensor]:
        """The squared error in standardised units, summed over an item's elements, averaged over the batch."""
        self.prepare_condition(batch.condition, len(batch.x))
        error = (self.decode(self.encode(batch.x).mean).mean - batch.x) / self.standardise.std
        squared = error.square().flatten(1).sum(1).mean()
        return {"loss": squared, "rmse": (squared.detach() / self.modality.elements).sqrt()}
