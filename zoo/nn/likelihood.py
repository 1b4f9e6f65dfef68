"""Likelihood heads: how the numbers of a network's last layer become the distribution of an item's values.

A `DecoderHead` is p(x given z), all elements of the item independent or mixed at their position; a `ChainHead` is the
distribution of a position's values given the positions before it.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from modalities import Modality
from zoo.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Event,
    LogisticMixture,
    OptimalGaussian,
    full_precision,
)
from zoo.nn.normalisation import Standardise

DecoderLikelihood = Literal["bernoulli", "logistic", "logistic-mixture", "gaussian", "optimal-gaussian"]
ChainLikelihood = Literal["bernoulli", "categorical", "logistic-mixture"]


class LikelihoodHead:
    """A likelihood by its name, and how many numbers it takes at a position.

    Arguments:
        name: of the likelihood.
        suitable: every name that a caller may give, and whether it suits the values.
        channels, levels: of a position's values; the levels of real numbers are None.
        components: logistics in a mixture.

    Raises ValueError where the likelihood does not suit.
    """

    log_scale: ClassVar[float] = 0.0
    """The log-scale of a logistic where the network gives 0, as a fresh one does."""

    def __init__(self, name: str, suitable: Mapping[str, bool], channels: int, levels: int | None, components: int):
        if not suitable.get(name, False):
            names = ", ".join(other for other, suits in suitable.items() if suits)
            values = f"values of {levels} levels" if levels else "real numbers"
            raise ValueError(f"the likelihood of {values} is one of {names}; got {name!r}")
        self.name, self.channels, self.levels, self.components = name, channels, levels, components
        self.discrete = levels is not None and "gaussian" not in name
        """Whether the likelihood is a mass."""
        self.size = {
            "bernoulli": channels,
            "categorical": channels * (levels or 0),
            "logistic": 2 * channels,
            "logistic-mixture": components * (1 + 2 * channels + channels * (channels - 1) // 2),
            "gaussian": 2 * channels,
            "optimal-gaussian": channels,
        }[name]
        """Numbers a position."""

    def mixture(self, numbers: Tensor, temperature: float = 1.0) -> LogisticMixture:
        """The mixture of logistics [batch, channels, *positions] of numbers [batch, size, *positions]."""
        k, c = self.components, self.channels
        logits, rest = numbers[:, :k] / temperature, numbers[:, k:].unflatten(1, (k, -1))
        mean, log_scale, coefficients = rest.split([c, c, c * (c - 1) // 2], 2)
        log_scale = (log_scale + self.log_scale).clamp(min=-7) + math.log(temperature)
        coupled = torch.tanh(coefficients) if c > 1 else None
        if self.levels is None:
            return LogisticMixture(logits, mean, log_scale, coupled)
        return DiscretizedLogisticMixture(logits, mean, log_scale, coupled, self.levels)


class DecoderHead(LikelihoodHead):
    """p(x given z) from a decoder's last layer.

    Arguments:
        modality: the medium.
        likelihood: "bernoulli" for two levels, "logistic" or "logistic-mixture" for more, "gaussian" (a sigma for every
            element) or "optimal-gaussian" (one sigma, the best for the data) for real numbers. None takes the first of
            these that suits, for real-valued vectors "gaussian", for series and grids "optimal-gaussian".
        components: logistics in the mixture.
    """

    log_scale = -2.0

    def __init__(self, modality: Modality, likelihood: DecoderLikelihood | None = None, components: int = 5):
        levels = modality.levels
        if levels is None:
            default = "gaussian" if len(modality.shape) == 1 else "optimal-gaussian"
        else:
            default = "bernoulli" if levels == 2 else "logistic"
        suitable = {
            "bernoulli": levels == 2,
            "logistic": levels is not None and levels > 2,
            "logistic-mixture": levels is not None and levels > 2,
            "gaussian": True,
            "optimal-gaussian": True,
        }
        super().__init__(likelihood or default, suitable, modality.shape[0], levels, components)

    def __call__(
        self,
        numbers: Tensor,
        standardise: Standardise | None = None,
        sigma: Tensor | None = None,
        training: bool = False,
    ) -> Event:
        """The distribution of items in the medium's units, given numbers [batch, size, *positions].

        A Gaussian is one of standardised data, so it needs `standardise`; "optimal-gaussian" also needs `sigma`, its
        running mean, in the place of which it takes the batch's own while it is `training`.
        """
        numbers = full_precision(numbers)
        if self.name == "bernoulli":
            return Bernoulli(numbers)
        if self.name == "logistic":
            mean, log_scale = numbers.chunk(2, 1)
            return DiscretizedLogistic(mean, log_scale + self.log_scale, self.levels or 0)
        if self.name == "logistic-mixture":
            return self.mixture(numbers)
        assert standardise is not None
        if self.name == "gaussian":
            mean, log_std = numbers.chunk(2, 1)
            # An unbounded sigma makes the density of a constant element infinite.
            std = torch.exp(5 * torch.tanh(log_std / 5))
            return DiagonalGaussian(standardise.inverse(mean), std * standardise.std)
        assert sigma is not None
        if training:
            return OptimalGaussian(standardise.inverse(numbers), sigma, standardise.std)
        return DiagonalGaussian(standardise.inverse(numbers), sigma * standardise.std)


def update_sigma(sigma: Tensor, likelihood: OptimalGaussian, x: Tensor) -> Tensor:
    """Move sigma, the running mean of the best ones of the batches, in place: one batch's is noisy. Returns a copy."""
    with torch.no_grad():
        return sigma.lerp_(likelihood.optimal_sigma(x), 0.02).clone()


class ChainHead(LikelihoodHead):
    """The distribution of a position's values from what a causal network gives there.

    Arguments: `channels` of a position; `levels` of a value, None for real numbers; `likelihood`, None for the first
    that suits: "bernoulli" for 2 levels, "logistic-mixture" for more and for real numbers; `components` of a mixture.

    "bernoulli" and "categorical" draw the channels one after another, each given those before it, so that the network
    must be causal over channels as well. A mixture draws them together: its components couple them.
    """

    def __init__(
        self, channels: int, levels: int | None, likelihood: ChainLikelihood | None = None, components: int = 10
    ):
        suitable = {
            "bernoulli": levels == 2,
            "categorical": levels is not None,
            "logistic-mixture": levels is None or levels > 2,
        }
        default = "bernoulli" if levels == 2 else "logistic-mixture"
        super().__init__(likelihood or default, suitable, channels, levels, components)
        together = self.name == "logistic-mixture"
        self.groups = 1 if together else channels
        """Groups of channels that are drawn one after another: one of all channels, or one a channel."""
        self.noise = 1 + channels if together else channels
        """Uniform numbers that a position's draws take."""
        self.slices = [slice(None)] if self.groups == 1 else [slice(group, group + 1) for group in range(channels)]
        """Every group's part of the channels, and of the noise."""

    def __call__(self, numbers: Tensor, temperature: float = 1.0) -> Bernoulli | Categorical | LogisticMixture:
        """The distribution of values [batch, channels, *positions], given numbers [batch, size, *positions].

        The temperature, above 0, divides logits and multiplies the scales of logistics.
        """
        numbers = full_precision(numbers)
        if self.name == "bernoulli":
            return Bernoulli(numbers / temperature)
        if self.name == "categorical":
            return Categorical(numbers.unflatten(1, (-1, self.levels)) / temperature)
        return self.mixture(numbers, temperature)

    def draw(self, numbers: Tensor, noise: Tensor, temperature: float) -> Tensor:
        """The values that uniform noise [batch, noise, *positions] leads to; at temperature 0 the mode.

        Numbers and noise are those of all groups, or of one.
        """
        if temperature == 0:
            return self(numbers).mode
        return self(numbers, temperature).from_noise(noise)
