"""Variational autoencoder.

Sources: Kingma, Welling, "Auto-Encoding Variational Bayes", 2014; beta: Higgins et al., "beta-VAE", 2017; free bits:
Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow", 2016; the analytic sigma: Rybkin,
Daniilidis, Levine, "Simple and Effective VAE Training with Calibrated Decoders", 2021. The networks are residual and
convolutional where the 2014 paper has one hidden layer.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from modalities import Modality
from zoo.distributions import (
    Bernoulli,
    DiagonalGaussian,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    OptimalGaussian,
    full_precision,
)
from zoo.model import Variational, unpack
from zoo.nn.residual import Decoder, Encoder, Standardise

Likelihood = Literal["bernoulli", "logistic", "logistic-mixture", "gaussian", "optimal-gaussian"]


class VAE(Variational):
    """p(x, z) = N(z; 0, I) p(x given z), with a diagonal Gaussian q(z given x): log p(x) >= E_q[log p(x given z)] -
    KL(q || p),

    where KL = 1/2 sum(sigma^2 + mu^2 - 1 - log sigma^2), over the latent's elements.

    Arguments:
        modality: the medium; vectors, series and images are taken.
        latent: the number of latent dimensions.
        likelihood: "bernoulli" for two levels, "logistic" or "logistic-mixture" for more, "gaussian" (a sigma for every
            element) or "optimal-gaussian" (one sigma, the best for the data) for real numbers. By default the first of
            these that suits the medium, for real-valued vectors "gaussian", for series "optimal-gaussian".
        classes: the number of classes, if samples shall be conditioned on one.
        beta: the weight of the KL in the training objective. Above 1 the latent dimensions separate, below 1 the
            objective is no bound. `log_prob` and `elbo` are the true ones, whatever the weight.
        warmup: the fraction of the training over which the weight of the KL rises from 0.
        free_bits: nats below which a latent dimension's KL, averaged over the batch, is not pushed down.
        components: logistics in the mixture.
        width: channels of the first stage of both networks; later stages double them up to four times.
        blocks: residual blocks a stage.
        hidden: width of the linear layers next to the latent.
    """

    sigma: Tensor

    def __init__(
        self,
        modality: Modality,
        latent: int = 32,
        likelihood: Likelihood | None = None,
        classes: int | None = None,
        beta: float = 1.0,
        warmup: float = 0.1,
        free_bits: float = 0.0,
        components: int = 5,
        width: int = 32,
        blocks: int = 1,
        hidden: int = 256,
    ):
        super().__init__()
        self.modality, self.latent, self.classes = modality, latent, classes
        self.beta, self.warmup, self.free_bits, self.components = beta, warmup, free_bits, components
        self.likelihood = likelihood or _suitable(modality)
        self._refuse_unsuitable()
        self.discrete = self.likelihood in ("bernoulli", "logistic", "logistic-mixture")
        shape = modality.shape
        channels = shape[0]
        self.standardise = Standardise(shape)
        if self.likelihood == "optimal-gaussian":
            self.register_buffer("sigma", torch.ones(()))
        outputs = {
            "bernoulli": channels,
            "logistic": 2 * channels,
            "logistic-mixture": components * (1 + 2 * channels + channels * (channels - 1) // 2),
            "gaussian": 2 * channels,
            "optimal-gaussian": channels,
        }[self.likelihood]
        self.encoder = Encoder(shape, 2 * latent, width, blocks, hidden, classes)
        self.decoder = Decoder(shape, latent, outputs, width, blocks, hidden, classes)

    def _refuse_unsuitable(self) -> None:
        levels = self.modality.levels
        suits = {
            "bernoulli": levels == 2,
            "logistic": levels is not None and levels > 2,
            "logistic-mixture": levels is not None and levels > 2,
            "gaussian": True,
            "optimal-gaussian": True,
        }
        if not suits.get(self.likelihood, False):
            names = ", ".join(name for name, fits in suits.items() if fits)
            raise ValueError(
                f"the likelihood of {self.modality.kind} with {levels or 'no'} levels is one of {names}; "
                f"got {self.likelihood!r}"
            )

    def prior(self, condition: Any = None, *, n: int = 1, temperature: float = 1.0) -> DiagonalGaussian:
        """N(0, temperature^2 I), event [latent]."""
        zeros = torch.zeros(n, self.latent, device=self.device)
        return DiagonalGaussian(zeros, torch.full_like(zeros, temperature))

    def encode(self, x: Tensor, *, condition: Any = None) -> DiagonalGaussian:
        """q(z given x), event [latent]. Its log-sigma is bounded softly to (-5, 5)."""
        mean, log_std = full_precision(self.encoder(self.standardise(x), condition)).chunk(2, 1)
        return DiagonalGaussian(mean, torch.exp(5 * torch.tanh(log_std / 5)))

    def decode(self, z: Tensor, *, condition: Any = None) -> Any:
        """p(x given z), event the shape of an item, in the medium's units."""
        h = full_precision(self.decoder(z, condition))
        if self.likelihood == "bernoulli":
            return Bernoulli(h)
        if self.likelihood == "logistic":
            mean, log_scale = h.chunk(2, 1)
            return DiscretizedLogistic(mean, log_scale - 2, self.modality.levels or 256)
        if self.likelihood == "logistic-mixture":
            return self._mixture(h)
        mean, *rest = h.chunk(2, 1) if self.likelihood == "gaussian" else (h,)
        if rest:
            # An unbounded sigma makes the density of a constant element infinite.
            std = torch.exp(5 * torch.tanh(rest[0] / 5)) * self.standardise.std
            return DiagonalGaussian(self.standardise.inverse(mean), std)
        scale = self.standardise.std
        if self.training:
            return OptimalGaussian(self.standardise.inverse(mean), self.sigma, scale)
        return DiagonalGaussian(self.standardise.inverse(mean), self.sigma * scale)

    def _mixture(self, h: Tensor) -> DiscretizedLogisticMixture:
        channels, k = self.modality.shape[0], self.components
        logits, h = h[:, :k], h[:, k:].unflatten(1, (k, -1))
        mean, log_scale, coefficients = h.split([channels, channels, channels * (channels - 1) // 2], 2)
        coupled = torch.tanh(coefficients) if channels > 1 else None
        return DiscretizedLogisticMixture(logits, mean, log_scale - 2, coupled, self.modality.levels or 256)

    def loss(
        self, batch: Any, *, player: str = "model", progress: float = 1.0, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The weighted negative bound in nats an item: sums over elements and latent dimensions, the mean over the
        batch.
        """
        x, condition = unpack(batch)
        condition = self.prepare_condition(condition, len(x), generator)
        posterior = self.encode(x, condition=condition)
        z = posterior.rsample(generator=generator)
        likelihood = self.decode(z, condition=condition)
        reconstruction = -likelihood.log_prob(x).mean()
        kl = posterior.elementwise_kl(self.prior(condition, n=len(x))).mean(0)
        weight = self.beta * (min(1.0, progress / self.warmup) if self.warmup else 1.0)
        terms = {"reconstruction": reconstruction.detach(), "kl": kl.detach().sum()}
        if isinstance(likelihood, OptimalGaussian):
            with torch.no_grad():  # what samples will be drawn with: a running mean, since one batch's sigma is noisy
                self.sigma.lerp_(likelihood.optimal_sigma(x), 0.02)
            terms["sigma"] = self.sigma.clone()
        return {"loss": reconstruction + weight * kl.clamp(min=self.free_bits).sum()} | terms


def _suitable(modality: Modality) -> Likelihood:
    """The likelihood that suits a medium best."""
    if modality.levels is None:
        return "gaussian" if len(modality.shape) == 1 else "optimal-gaussian"
    return "bernoulli" if modality.levels == 2 else "logistic"
