"""Likelihoods, priors and posteriors.

Thin subclasses of `torch.distributions.Distribution` whose event is everything but the batch, whose `sample` and
`rsample` take a generator, and which accept a scale of zero: a sample at temperature 0 is the mean.
"""

import abc
import math
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

Rng = torch.Generator | None
"""Where random numbers come from: a generator, or None for torch's default."""
Z = Tensor | tuple[Tensor, ...]
"""A point of a latent space: one tensor; or a tuple of them, one a group in a hierarchy, a NamedTuple where parts have
names. The batch comes first."""
LatentT = TypeVar("LatentT", bound=Z)
LatentT_co = TypeVar("LatentT_co", bound=Z, covariant=True)


class Posterior(Protocol[LatentT_co]):
    """What an encoder answers."""

    @property
    def mean(self) -> LatentT_co: ...
    def rsample(self, sample_shape: tuple[int, ...] = (), *, generator: Rng = None) -> LatentT_co: ...


class Prior(Protocol[LatentT]):
    """What latents are drawn from, and the coordinates in which a walk moves: those of its standardised noise."""

    @property
    def mean(self) -> LatentT: ...
    def sample(self, *, generator: Rng = None) -> LatentT: ...
    def standardise(self, z: LatentT) -> LatentT: ...
    def reparameterise(self, noise: LatentT) -> LatentT: ...


class Inference(Prior[LatentT], Posterior[LatentT], Protocol[LatentT]):
    """Prior or posterior of a variational model: both of one kind, with densities, and the KL divergence to another."""

    def log_prob(self, z: LatentT) -> Tensor: ...
    def kl(self, prior: Any, z: LatentT) -> Tensor: ...
    def information(self, prior: Any) -> Tensor: ...


def full_precision(x: Tensor) -> Tensor:
    """Half-precision numbers as float32, others as they are: log-probabilities need the digits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def normal_noise(shape: tuple[int, ...], like: Tensor, generator: Rng = None) -> Tensor:
    """Standard normal numbers with the type and device of `like`, drawn on the generator's device."""
    device = generator.device if generator is not None else like.device
    return torch.randn(shape, dtype=like.dtype, device=device, generator=generator).to(like.device)


def uniform_noise(shape: tuple[int, ...], like: Tensor, generator: Rng = None) -> Tensor:
    """Numbers uniform over the open interval (0, 1), otherwise as `normal_noise`."""
    device = generator.device if generator is not None else like.device
    u = torch.rand(shape, dtype=like.dtype, device=device, generator=generator).to(like.device)
    tiny = torch.finfo(like.dtype).eps
    return u.clamp(tiny, 1 - tiny)


class Event(Distribution):
    """A likelihood, a prior or a posterior: its first dimension is the batch and its event is all the others."""

    discrete = False

    def __init__(self, shape: torch.Size):
        super().__init__(shape[:1], shape[1:], validate_args=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={[*self.batch_shape, *self.event_shape]})"

    def _sum(self, x: Tensor) -> Tensor:
        """Add up the event's dimensions."""
        return x.flatten(x.ndim - len(self.event_shape)).sum(-1) if self.event_shape else x

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Rng = None) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no reparameterised samples")

    def sample(self, sample_shape: Sequence[int] = (), *, generator: Rng = None) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape, generator=generator)


class Point(Event):
    """All mass on one value: what an encoder without a spread and a decoder without a likelihood (PCA, an autoencoder)
    answer."""

    def __init__(self, value: Tensor):
        super().__init__(value.shape)
        self.value = full_precision(value)

    @property
    def mean(self) -> Tensor:
        return self.value

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Rng = None) -> Tensor:
        return self.value.expand(*sample_shape, *self.value.shape)


class DiagonalGaussian(Event):
    """A normal distribution with independent elements: likelihood, prior or posterior of any number of dimensions.

    Arguments: `mean`, shape [batch, ...]; `std`, broadcast to it, at least 0.
    """

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__(mean.shape)
        self._mean, self.std = full_precision(mean), full_precision(std)

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def variance(self) -> Tensor:
        return self.std.expand_as(self._mean) ** 2

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Rng = None) -> Tensor:
        noise = normal_noise((*sample_shape, *self._mean.shape), self._mean, generator)
        return self._mean + self.std * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """Density in nats an item, shape [..., batch]."""
        per_element = -0.5 * ((value - self._mean) / self.std) ** 2 - self.std.log() - 0.5 * math.log(2 * math.pi)
        return self._sum(per_element)

    def elementwise_kl(self, prior: "DiagonalGaussian") -> Tensor:
        """KL(self || prior) of every element, nats, in closed form: for a standard normal prior
        (sigma^2 + mu^2 - 1 - log sigma^2) / 2."""
        ratio = (self.std / prior.std) ** 2
        distance = ((self._mean - prior.mean) / prior.std) ** 2
        return 0.5 * (ratio + distance - 1 - ratio.log())

    def kl(self, prior: "DiagonalGaussian", z: Tensor | None = None) -> Tensor:
        """KL(self || prior) in nats an item, shape [batch, 1]: one group. `z` is not needed: the form is closed."""
        return self._sum(self.elementwise_kl(prior)).unsqueeze(-1)

    def information(self, prior: "DiagonalGaussian") -> Tensor:
        """How much every element says, KL(self || prior) in nats, averaged over the batch, shape [elements]."""
        return self.elementwise_kl(prior).mean(0).flatten()

    def standardise(self, z: Tensor) -> Tensor:
        """The standard normal noise that `reparameterise` turns into z."""
        return (z - self._mean) / self.std

    def reparameterise(self, noise: Tensor) -> Tensor:
        """z = mean + std * noise."""
        return self._mean + self.std * noise


class OptimalGaussian(DiagonalGaussian):
    """A Gaussian likelihood with one sigma for all elements: the best one for the batch that is scored.

    Arguments: `mean`, shape [batch, ...]; `sigma`, a scalar, an estimate from earlier batches that samples are drawn
    with; `scale`, the unit in which sigma is one for all elements, broadcast to the mean.

    The maximum over sigma has the closed form sigma^2 = mean squared error, so the negative log-likelihood is
    D/2 (log(2 pi sigma^2) + 1) on average.

    Source: Rybkin, Daniilidis, Levine, "Simple and Effective VAE Training with Calibrated Decoders", 2021.
    """

    def __init__(self, mean: Tensor, sigma: Tensor, scale: Tensor | float = 1.0):
        super().__init__(mean, sigma * scale)
        self.scale = scale

    def log_prob(self, value: Tensor) -> Tensor:
        return DiagonalGaussian(self.mean, self.optimal_sigma(value) * self.scale).log_prob(value)

    def optimal_sigma(self, value: Tensor) -> Tensor:
        """The sigma of highest likelihood for these values, a scalar; at least 1e-4: a perfect fit stays finite."""
        return ((value - self.mean) / self.scale).square().mean().clamp(min=1e-8).sqrt()


class Inverted(Event, abc.ABC):
    """A likelihood that is drawn by its inverse distribution function, `from_noise`, at uniform noise in (0, 1).

    Arguments: `shape` of a batch, `noise` for it (by default the same), and a tensor of the type that draws have.
    """

    def __init__(self, shape: torch.Size, like: Tensor, noise: tuple[int, ...] | None = None):
        super().__init__(shape)
        self._like, self._noise = like, noise or tuple(shape)

    @abc.abstractmethod
    def from_noise(self, u: Tensor) -> Tensor:
        """The value that noise leads to."""

    def sample(self, sample_shape: Sequence[int] = (), *, generator: Rng = None) -> Tensor:
        """A draw, or several one after another."""
        count = math.prod(sample_shape)
        draws = [self.from_noise(uniform_noise(self._noise, self._like, generator)) for _ in range(count)]
        return torch.stack(draws).reshape(*sample_shape, *draws[0].shape) if sample_shape else draws[0]


class Bernoulli(Inverted):
    """Binary elements, -1 or 1. Argument: `logits` of the value 1, shape [batch, ...]."""

    discrete = True

    def __init__(self, logits: Tensor):
        self.logits = full_precision(logits)
        super().__init__(logits.shape, self.logits)

    @property
    def mean(self) -> Tensor:
        return torch.tanh(self.logits / 2)

    @property
    def mode(self) -> Tensor:
        return torch.where(self.logits > 0, 1.0, -1.0).to(self.logits.dtype)

    def from_noise(self, u: Tensor) -> Tensor:
        return torch.where(u < torch.sigmoid(self.logits), 1.0, -1.0).to(self.logits.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Probability mass in nats an item. For binary values alone: for grey ones this is no likelihood."""
        return self._sum(F.logsigmoid(self.logits * value))


class Categorical(Inverted):
    """Elements of `levels` values evenly spaced over [-1, 1], each value with a probability of its own.

    Argument: `logits`, shape [batch, channels, levels, *positions]; the event is [channels, *positions].
    """

    discrete = True

    def __init__(self, logits: Tensor):
        self.logits = full_precision(logits)
        super().__init__(logits.shape[:2] + logits.shape[3:], self.logits)
        self.levels = logits.shape[2]

    def _value(self, index: Tensor) -> Tensor:
        return index.to(self.logits.dtype) * 2 / (self.levels - 1) - 1

    @property
    def mean(self) -> Tensor:
        levels = self._value(torch.arange(self.levels, device=self.logits.device))
        return torch.tensordot(torch.softmax(self.logits, 2), levels, dims=([2], [0]))

    @property
    def mode(self) -> Tensor:
        return self._value(self.logits.argmax(2))

    def from_noise(self, u: Tensor) -> Tensor:
        below = torch.softmax(self.logits, 2).cumsum(2)
        return self._value((below < u.unsqueeze(2)).sum(2).clamp(max=self.levels - 1))

    def log_prob(self, value: Tensor) -> Tensor:
        """Probability mass in nats an item; values between levels count as the nearest."""
        index = ((value + 1) * (self.levels - 1) / 2).round().long().clamp(0, self.levels - 1)
        dim = 2 + value.ndim - len(self.batch_shape) - len(self.event_shape)
        log_mass = torch.log_softmax(self.logits, 2).expand(*value.shape[: dim - 2], *self.logits.shape)
        return self._sum(log_mass.gather(dim, index.unsqueeze(dim)).squeeze(dim))


def _logistic_log_mass(value: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Log-mass of each level's bin under a logistic; the outer bins reach to infinity, so that all sum to one.

    With a and b the bin's standardised edges, sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), which
    loses no digits anywhere: no switch to the density for thin bins is needed.
    """
    half = 1 / (levels - 1)
    inverse = torch.exp(-log_scale)
    upper = F.logsigmoid((value - mean + half) * inverse)
    lower = F.logsigmoid(-(value - mean - half) * inverse)
    middle = upper + lower + torch.log(-torch.expm1(-2 * half * inverse))
    # The edge tests sit half a bin from the outermost levels: nearer ones would take a neighbour's mass twice.
    return torch.where(value < -1 + half, upper, torch.where(value > 1 - half, lower, middle))


def _to_level(value: Tensor, levels: int) -> Tensor:
    """The nearest of the levels spaced evenly over [-1, 1]."""
    return ((value.clamp(-1, 1) + 1) * (levels - 1) / 2).round() * 2 / (levels - 1) - 1


def _logistic_mean(mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """The exact expectation of a discretised logistic: the lowest level plus a step for every level exceeded."""
    inverse = torch.exp(-log_scale)
    total = torch.zeros_like(mean)
    for k in range(levels - 1):
        threshold = -1 + (2 * k + 1) / (levels - 1)
        total = total + torch.sigmoid((mean - threshold) * inverse)
    return total * 2 / (levels - 1) - 1


class DiscretizedLogistic(Inverted):
    """Elements of `levels` values evenly spaced over [-1, 1], each the rounded draw of a logistic.

    Arguments: `mean` and `log_scale`, shape [batch, ...]; log-scales below -7 count as -7.

    Source: Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling, "Improved Variational Inference with Inverse
    Autoregressive Flow", 2016.
    """

    discrete = True

    def __init__(self, mean: Tensor, log_scale: Tensor, levels: int = 256):
        self.location, self.levels = full_precision(mean), levels
        self.log_scale = full_precision(log_scale).clamp(min=-7)
        super().__init__(mean.shape, self.location)

    @property
    def mean(self) -> Tensor:
        return _logistic_mean(self.location, self.log_scale.expand_as(self.location), self.levels)

    def from_noise(self, u: Tensor) -> Tensor:
        return _to_level(self.location + torch.exp(self.log_scale) * torch.logit(u), self.levels)

    def log_prob(self, value: Tensor) -> Tensor:
        """Probability mass in nats an item."""
        return self._sum(_logistic_log_mass(value, self.location, self.log_scale, self.levels))


class LogisticMixture(Inverted):
    """A mixture of logistics at every position, its component shared by the position's channels: real numbers.

    Arguments:
        logits: component weights before the softmax, shape [batch, components, *positions].
        mean, log_scale: shape [batch, components, channels, *positions]; log-scales below -7 count as -7.
        coefficients: shape [batch, components, channels * (channels - 1) / 2, *positions], or None. The mean of
            channel c moves by the sum over c' < c of a coefficient times the value of channel c', in the order (1, 0),
            (2, 0), (2, 1): for colours, red moves green, and both move blue.
    """

    def __init__(self, logits: Tensor, mean: Tensor, log_scale: Tensor, coefficients: Tensor | None = None):
        self.logits = full_precision(logits)
        shape = mean.shape[:1] + mean.shape[2:]
        super().__init__(shape, self.logits, (shape[0], 1 + shape[1], *shape[2:]))
        self.location = full_precision(mean)
        self.log_scale = full_precision(log_scale).clamp(min=-7)
        self.coefficients = None if coefficients is None else full_precision(coefficients)

    def _log_element(self, value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """What a component gives to one channel's value."""
        z = (value - mean) * torch.exp(-log_scale)
        return F.logsigmoid(z) + F.logsigmoid(-z) - log_scale

    def _expected(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        """The expectation of a component."""
        return mean

    def _rounded(self, value: Tensor) -> Tensor:
        """A draw of a logistic as a value of the medium."""
        return value

    def _channel_mean(self, channel: int, value: Tensor, dim: int) -> Tensor:
        """The components' means of one channel given the channels before it in `value`."""
        mean = self.location.select(2, channel)
        if self.coefficients is not None:
            first = channel * (channel - 1) // 2
            for earlier in range(channel):
                mean = mean + self.coefficients.select(2, first + earlier) * value.select(dim, earlier)
        return mean

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats an item."""
        dims = len(self.event_shape)
        expanded = value.unsqueeze(-dims - 1)
        per_component = torch.zeros((), dtype=self.location.dtype, device=self.location.device)
        for channel in range(self.event_shape[0]):
            mean = self._channel_mean(channel, expanded, expanded.ndim - dims)
            log_scale = self.log_scale.select(2, channel)
            x = expanded.select(expanded.ndim - dims, channel)
            per_component = per_component + self._log_element(x, mean, log_scale)
        per_position = torch.logsumexp(per_component + torch.log_softmax(self.logits, 1), -dims)
        return per_position.flatten(per_position.ndim - dims + 1).sum(-1) if dims > 1 else per_position

    @property
    def mean(self) -> Tensor:
        """The expectation; where channels are coupled, the components' later channels take the earlier ones' means."""
        means: list[Tensor] = []
        for channel in range(self.event_shape[0]):
            value = torch.stack(means, 2) if means else self.location
            mean = self._channel_mean(channel, value, 2)
            means.append(self._expected(mean, self.log_scale.select(2, channel)))
        weights = torch.softmax(self.logits, 1).unsqueeze(2)
        return (weights * torch.stack(means, 2)).sum(1)

    @property
    def mode(self) -> Tensor:
        """The middle of the likeliest component at every position."""
        return self._walk(self.logits.argmax(1, keepdim=True), None)

    def from_noise(self, u: Tensor) -> Tensor:
        """The first number picks the component, the others a value for every channel in turn."""
        below = torch.softmax(self.logits, 1).cumsum(1)
        component = (below < u[:, :1]).sum(1, keepdim=True).clamp(max=self.logits.shape[1] - 1)
        return self._walk(component, torch.logit(u[:, 1:]))

    def _walk(self, component: Tensor, deviation: Tensor | None) -> Tensor:
        """Channel after channel of a component, each rounded before it moves the next; deviations count in scales."""
        channels: list[Tensor] = []
        for channel in range(self.event_shape[0]):
            value = torch.stack(channels, 1).unsqueeze(1) if channels else self.location
            drawn = self._channel_mean(channel, value, 2).gather(1, component).squeeze(1)
            if deviation is not None:
                scale = torch.exp(self.log_scale.select(2, channel).gather(1, component).squeeze(1))
                drawn = drawn + scale * deviation[:, channel]
            channels.append(self._rounded(drawn))
        return torch.stack(channels, 1)


class DiscretizedLogisticMixture(LogisticMixture):
    """The same for elements of `levels` values evenly spaced over [-1, 1]: each the rounded draw of a logistic.

    Source: Salimans, Karpathy, Chen, Kingma, "PixelCNN++", 2017.
    """

    discrete = True

    def __init__(
        self, logits: Tensor, mean: Tensor, log_scale: Tensor, coefficients: Tensor | None = None, levels: int = 256
    ):
        super().__init__(logits, mean, log_scale, coefficients)
        self.levels = levels

    def _log_element(self, value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        return _logistic_log_mass(value, mean, log_scale, self.levels)

    def _expected(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        return _logistic_mean(mean, log_scale, self.levels)

    def _rounded(self, value: Tensor) -> Tensor:
        return _to_level(value, self.levels)
