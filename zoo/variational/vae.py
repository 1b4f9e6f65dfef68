"""Variational autoencoder.

Sources: Kingma, Welling, "Auto-Encoding Variational Bayes", 2014; beta: Higgins et al., "beta-VAE", 2017; free bits:
Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow", 2016; the analytic sigma: Rybkin,
Daniilidis, Levine, "Simple and Effective VAE Training with Calibrated Decoders", 2021. The networks are residual and
convolutional where the 2014 paper has one hidden layer.
"""

from typing import Any

import torch
from torch import Tensor

from modalities import Modality
from zoo.distributions import DiagonalGaussian, OptimalGaussian, full_precision
from zoo.model import Variational, unpack
from zoo.nn.observation import Likelihood, Observation, follow
from zoo.nn.residual import Decoder, Encoder, Standardise


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

    sigma: Tensor | None

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
        self.beta, self.warmup, self.free_bits = beta, warmup, free_bits
        self.observation = Observation(modality, likelihood, components)
        self.discrete, shape = self.observation.discrete, modality.shape
        self.standardise = Standardise(shape)
        self.register_buffer("sigma", torch.ones(()) if self.observation.likelihood == "optimal-gaussian" else None)
        self.encoder = Encoder(shape, 2 * latent, width, blocks, hidden, classes)
        self.decoder = Decoder(shape, latent, self.observation.outputs, width, blocks, hidden, classes)

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
        return self.observation(self.decoder(z, condition), self.standardise, self.sigma, self.training)

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
        if isinstance(likelihood, OptimalGaussian) and self.sigma is not None:
            terms["sigma"] = follow(self.sigma, likelihood, x)
        return {"loss": reconstruction + weight * kl.clamp(min=self.free_bits).sum()} | terms
