"""Variational autoencoder.

Sources: Kingma, Welling, "Auto-Encoding Variational Bayes", 2014; beta: Higgins et al., "beta-VAE", 2017; free bits:
Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow", 2016; the analytic sigma: Rybkin,
Daniilidis, Levine, "Simple and Effective VAE Training with Calibrated Decoders", 2021. The networks are residual and
convolutional where the 2014 paper has one hidden layer.
"""

import math

import torch
from torch import Tensor

from modalities import Modality
from modalities.data import Batch, Items
from zoo.checks import check_counts, check_latents, check_numbers
from zoo.conditions import Classes
from zoo.distributions import DiagonalGaussian, Event, OptimalGaussian, Rng, full_precision
from zoo.model import Notes, Variational
from zoo.nn.likelihood import DecoderHead, DecoderLikelihood, update_sigma
from zoo.nn.normalisation import Standardise
from zoo.nn.residual import Decoder, Encoder


class VAE(Variational[Tensor]):
    """p(x, z) = N(z; 0, I) p(x given z), with a diagonal Gaussian q(z given x): log p(x) >= E_q[log p(x given z)] -
    KL(q || p),

    where KL = 1/2 sum(sigma^2 + mu^2 - 1 - log sigma^2), over the latent's elements.

    Arguments:
        modality: the medium, of any but ragged items: convolutions on its grid, linear layers where it has none.
        latent: the number of latent dimensions.
        likelihood: "bernoulli" for two levels, "logistic" or "logistic-mixture" for more, "gaussian" (a sigma for every
            element) or "optimal-gaussian" (one sigma, the best for the data) for real numbers. By default the first of
            these that suits the medium, for real-valued vectors "gaussian", for series "optimal-gaussian".
        condition: `Classes`, if samples shall be conditioned on one.
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
        likelihood: DecoderLikelihood | None = None,
        condition: Classes | None = None,
        beta: float = 1.0,
        warmup: float = 0.1,
        free_bits: float = 0.0,
        components: int = 5,
        width: int = 32,
        blocks: int = 1,
        hidden: int = 256,
    ):
        super().__init__()
        check_counts(latent=latent, components=components, width=width, hidden=hidden)
        check_counts(0, blocks=blocks)
        check_numbers(beta=beta, free_bits=free_bits)
        check_numbers(0, 1, warmup=warmup)
        self.modality, self.latent, self.condition = modality, latent, condition
        self.beta, self.warmup, self.free_bits = beta, warmup, free_bits
        self.likelihood_head = DecoderHead(modality, likelihood, components)
        self.discrete = self.likelihood_head.discrete
        shape = modality.shape if modality.grid else (modality.elements,)
        self.standardise = Standardise(modality.shape, by_element=not modality.grid)
        self.register_buffer("sigma", torch.ones(()) if self.likelihood_head.name == "optimal-gaussian" else None)
        classes = None if condition is None else len(condition)
        self.encoder = Encoder(shape, 2 * latent, width, blocks, hidden, classes)
        # Off a grid, all elements are channels of one position.
        outputs = self.likelihood_head.size * (1 if modality.grid else math.prod(modality.shape[1:]))
        self.decoder = Decoder(shape, latent, outputs, width, blocks, hidden, classes)

    def adapt(self, data: Items) -> None:
        """Measure the mean and the deviation of real-valued data."""
        if not self.discrete:
            self.standardise.measure(data, self.modality)

    def prior(self, condition: object = None, *, n: int = 1, temperature: float = 1.0) -> DiagonalGaussian:
        """N(0, temperature^2 I), event [latent]."""
        zeros = torch.zeros(n, self.latent, device=self.device)
        return DiagonalGaussian(zeros, torch.full_like(zeros, temperature))

    def encode(self, x: Tensor, *, condition: object = None) -> DiagonalGaussian:
        """q(z given x), event [latent]. Its log-sigma is bounded softly to (-5, 5)."""
        x = self.check_items(x)
        labels = self.told(condition, x.shape[0])
        numbers = self.in_parts(lambda x, labels: self.encoder(self.standardise(x), labels), x, labels)
        mean, log_std = full_precision(numbers).chunk(2, 1)
        return DiagonalGaussian(mean, torch.exp(5 * torch.tanh(log_std / 5)))

    def decode(self, z: Tensor, *, condition: object = None) -> Event:
        """p(x given z), event the shape of an item, in the medium's units."""
        check_latents(z, (self.latent,))
        h = self.decoder(z, self.told(condition, z.shape[0]))
        h = h.reshape(h.shape[0], self.likelihood_head.size, *self.modality.shape[1:])
        return self.likelihood_head(h, self.standardise, self.sigma, self.training)

    def loss(
        self, batch: Batch, *, player: str = "model", progress: float = 1.0, shared: Notes = None, generator: Rng = None
    ) -> dict[str, Tensor]:
        """The weighted negative bound in nats an item: sums over elements and latent dimensions, the mean over the
        batch.
        """
        x = batch.x
        condition = self.prepare_condition(batch.condition, len(x), generator)
        posterior = self.encode(x, condition=condition)
        z = posterior.rsample(generator=generator)
        likelihood = self.decode(z, condition=condition)
        reconstruction = -likelihood.log_prob(x).mean()
        kl = posterior.elementwise_kl(self.prior(condition, n=len(x))).mean(0)
        weight = self.beta * (min(1.0, progress / self.warmup) if self.warmup else 1.0)
        terms = {"reconstruction": reconstruction.detach(), "kl": kl.detach().sum()}
        if isinstance(likelihood, OptimalGaussian) and self.sigma is not None:
            terms["sigma"] = update_sigma(self.sigma, likelihood, x)
        return {"loss": reconstruction + weight * kl.clamp(min=self.free_bits).sum()} | terms
