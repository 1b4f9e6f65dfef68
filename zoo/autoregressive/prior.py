"""A learned prior: an autoregressive model of another model's latents, in the place of the one it was trained with.

Sources: van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", 2017, for grids of codes; for
vectors the second stage of Dai, Wipf, "Diagnosing and Enhancing VAE Models", 2019, its model of the latents an
autoregressive one instead of a VAE.
"""

from typing import Any, Self

import torch
from torch import Tensor

from modalities.latents import Latents
from zoo.autoregressive.chain import Autoregressive
from zoo.distributions import full_precision
from zoo.model import GenerativeModel, Latent, check_count, point, unpack
from zoo.variational.vq import VQVAE


def latent_medium(model: Latent) -> Latents:
    """The latent space of a model as a medium: the codes of a `VQVAE`, else real numbers of the shape of its latents.

    Raises ValueError for a hierarchy, whose latents are several tensors, and for shapes but vectors and grids.
    """
    if isinstance(model, VQVAE):
        return model.latents
    z = point(model.prior(model.prepare_condition(None, 1), n=1))
    if not isinstance(z, Tensor):
        raise ValueError(f"the latents of {type(model).__name__} are a hierarchy, and a prior is of one tensor")
    return Latents(tuple(z.shape[1:]))


class LatentPrior(GenerativeModel):
    """p(x) = E_{p(z)} p(x given z), with p(z) an autoregressive model that is trained on the latents of data.

    The stand-in prior of an autoencoder or of a VQ-VAE's codes, and the N(0, I) of a VAE, leave gaps in their spaces
    that no data come from; samples from there look like none. A prior of the latents as they lie avoids the gaps, and
    may be conditioned on classes that the model below it never saw.

    Arguments:
        model: a trained model, whose parameters are frozen from here on.
        prior: a model of the medium `latent_medium(model)`; its classes are those of the whole. For real numbers call
            `standardise` before training.
    """

    def __init__(self, model: Latent, prior: Autoregressive):
        super().__init__()
        medium = latent_medium(model)
        if prior.modality != medium:
            raise ValueError(f"the prior must be of {medium}, got one of {prior.modality}")
        if model.classes is not None and prior.classes not in (None, model.classes):
            raise ValueError(f"the model has {model.classes} classes, the prior {prior.classes}")
        self.modality, self.classes = model.modality, prior.classes or model.classes
        self.model, self.prior = model.requires_grad_(False).eval(), prior

    def train(self, mode: bool = True) -> Self:
        """Switch the prior to training; the model below it stays as it is."""
        super().train(mode)
        self.model.eval()
        return self

    @torch.no_grad()
    def latents(self, x: Tensor, *, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        """What the prior models: codes, or a draw from q(z given x), or the point where the model has no q."""
        with torch.autocast(x.device.type, enabled=False):
            if isinstance(self.model, VQVAE):
                return self.model.latents.values(self.model.codes(x).unsqueeze(1))
            posterior = self.model.encode(x, condition=self._below(condition))
            return posterior if isinstance(posterior, Tensor) else posterior.rsample(generator=generator)

    def standardise(self, x: Tensor, *, condition: Any = None, generator: torch.Generator | None = None) -> None:
        """Measure mean and standard deviation of real-valued latents on some items, for the prior; for codes nothing.

        A few thousand items are enough.
        """
        if not self.prior.discrete:
            condition = self.prepare_condition(condition, len(x), generator)
            self.prior.standardise.fit(self.latents(x, condition=condition, generator=generator))

    def loss(
        self, batch: Any, *, player: str = "model", progress: float = 1.0, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The prior's negative log-likelihood of a batch's latents, nats an item: a mass for codes, else a density."""
        x, condition = unpack(batch)
        condition = self.prepare_condition(condition, len(x), generator)
        z = self.latents(x, condition=condition, generator=generator)
        return self.prior.loss((z, self._above(condition)), progress=progress, generator=generator)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        condition: Any = None,
        temperature: float = 1.0,
        mean: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw latents from the prior, and from p(x given z). The temperature is that of the prior."""
        check_count(n)
        condition = self.prepare_condition(condition, n, generator)
        z = self.prior.sample(n, condition=self._above(condition), temperature=temperature, generator=generator)
        likelihood = self.decode(z, condition=condition)
        return likelihood.mean if mean or temperature == 0 else likelihood.sample(generator=generator)

    def decode(self, z: Tensor, *, condition: Any = None) -> Any:
        """p(x given z), for z as the prior draws it."""
        if isinstance(self.model, VQVAE):
            return self.model.decode(self.model.embed(self.model.latents.indices(z.squeeze(1))))
        return self.model.decode(full_precision(z), condition=self._below(condition))

    def _below(self, condition: Any) -> Any:
        return condition if self.model.classes else None

    def _above(self, condition: Any) -> Any:
        return condition if self.prior.classes else None
