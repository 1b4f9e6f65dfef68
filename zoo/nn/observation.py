"""What a decoder's last layer says of an item: one likelihood for each kind of medium."""

from typing import Any, Literal, get_args

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
from zoo.nn.normalisation import Standardise

Likelihood = Literal["bernoulli", "logistic", "logistic-mixture", "gaussian", "optimal-gaussian"]


class Observation:
    """The likelihood of items, given numbers for every position of theirs.

    Arguments:
        modality: the medium.
        likelihood: "bernoulli" for two levels, "logistic" or "logistic-mixture" for more, "gaussian" (a sigma for every
            element) or "optimal-gaussian" (one sigma, the best for the data) for real numbers. None takes what suits
            the medium: the first of these that does, for series "optimal-gaussian".
        components: logistics in the mixture.
    """

    def __init__(self, modality: Modality, likelihood: Likelihood | None, components: int):
        self.modality, self.components = modality, components
        self.likelihood = likelihood or _suitable(modality)
        self._refuse_unsuitable()
        self.discrete = self.likelihood in ("bernoulli", "logistic", "logistic-mixture")
        channels = modality.shape[0]
        self.outputs = {
            "bernoulli": channels,
            "logistic": 2 * channels,
            "logistic-mixture": components * (1 + 2 * channels + channels * (channels - 1) // 2),
            "gaussian": 2 * channels,
            "optimal-gaussian": channels,
        }[self.likelihood]
        """Numbers a position."""

    def _refuse_unsuitable(self) -> None:
        levels = self.modality.levels
        suits = {name: levels is not None and levels > 2 for name in ("logistic", "logistic-mixture")}
        suits |= {"bernoulli": levels == 2, "gaussian": True, "optimal-gaussian": True}
        if not suits.get(self.likelihood, False):
            names = ", ".join(name for name in get_args(Likelihood) if suits[name])
            raise ValueError(
                f"the likelihood of {self.modality.kind} with {levels or 'no'} levels is one of {names}; "
                f"got {self.likelihood!r}"
            )

    def __call__(self, h: Tensor, standardise: Standardise, sigma: Tensor | None = None, training: bool = False) -> Any:
        """The distribution, event the shape of an item, in the medium's units.

        Arguments: `h`, shape [batch, outputs, ...]; `standardise`, of real-valued media; `sigma`, the running estimate
        of "optimal-gaussian", which takes the batch's own while it is `training`.
        """
        h = full_precision(h)
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
            std = torch.exp(5 * torch.tanh(rest[0] / 5)) * standardise.std
            return DiagonalGaussian(standardise.inverse(mean), std)
        assert sigma is not None
        if training:
            return OptimalGaussian(standardise.inverse(mean), sigma, standardise.std)
        return DiagonalGaussian(standardise.inverse(mean), sigma * standardise.std)

    def _mixture(self, h: Tensor) -> DiscretizedLogisticMixture:
        channels, k = self.modality.shape[0], self.components
        logits, h = h[:, :k], h[:, k:].unflatten(1, (k, -1))
        mean, log_scale, coefficients = h.split([channels, channels, channels * (channels - 1) // 2], 2)
        coupled = torch.tanh(coefficients) if channels > 1 else None
        return DiscretizedLogisticMixture(logits, mean, log_scale - 2, coupled, self.modality.levels or 256)


def follow(sigma: Tensor, likelihood: Any, x: Tensor) -> Tensor:
    """Move the running estimate of sigma towards a batch's best one: one batch's alone is noisy. Returns a copy."""
    with torch.no_grad():
        return sigma.lerp_(likelihood.optimal_sigma(x), 0.02).clone()


def _suitable(modality: Modality) -> Likelihood:
    """The likelihood that suits a medium best."""
    if modality.levels is None:
        return "gaussian" if len(modality.shape) == 1 else "optimal-gaussian"
    return "bernoulli" if modality.levels == 2 else "logistic"
