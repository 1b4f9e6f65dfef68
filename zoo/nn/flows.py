"""Flows: invertible networks that turn simple distributions into others."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.distributions import DiagonalGaussian, Event, Rng, full_precision
from zoo.nn.convolution import Convolution, Grid


class Flow(nn.Module):
    """Inverse autoregressive flow: z' = z - mu(z), where mu of an element sees the elements before it alone. The second
    half of a cell does the same in the opposite order. Volumes are kept: the Jacobian's determinant is 1.

    Source: Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow", 2016.
    """

    def __init__(self, latent: int, grid: Grid, cells: int):
        super().__init__()
        self.halves = nn.ModuleList(_FlowHalf(latent, grid) for _ in range(2 * cells))
        self.turned = tuple(range(1, 2 + len(grid)))

    def forward(self, z: Tensor) -> Tensor:
        """Shape [batch, latent, *grid], in and out."""
        for half in self.halves:
            z = (z - half(z)).flip(self.turned)
        return z

    def inverse(self, z: Tensor) -> Tensor:
        """What `forward` turns into z: an element is right as soon as those before it are, most long before."""
        for half in reversed(self.halves):
            target = z.flip(self.turned)
            z, before = target, None
            for _ in range(target[0].numel()):
                z, before = target + half(z), z
                if torch.equal(z, before):
                    break
        return z


class _FlowHalf(nn.Module):
    """The mean of every element, given those before it: masked convolutions 3 x 3, depthwise 5 x 5 and 1 x 1."""

    def __init__(self, latent: int, grid: Grid, expansion: int = 6):
        super().__init__()
        wide = expansion * latent
        order = torch.arange(wide) % latent  # of a hidden channel: what it may see
        own = torch.arange(latent)
        self.first = _PastConvolution(own[None] < order[:, None], latent, wide, 3, grid)
        self.second = _PastConvolution(torch.ones(wide, 1), wide, wide, 5, grid, depthwise=True)
        self.last = _PastConvolution(order[None] <= own[:, None], wide, latent, 1, grid)
        with torch.no_grad():
            self.last.weight *= 0.1

    def forward(self, z: Tensor) -> Tensor:
        """Shape [batch, latent, *grid], in and out."""
        h = self.first(z.to(self.first.weight.dtype))
        return full_precision(self.last(F.elu(self.second(F.elu(h)))))


class _PastConvolution(Convolution):
    """A convolution that sees what comes before in raster order, and at the place itself the channels that `centre`,
    shape [outputs, inputs a group], allows."""

    mask: Tensor

    def __init__(self, centre: Tensor, inputs: int, outputs: int, kernel: int, grid: Grid, depthwise: bool = False):
        super().__init__(inputs, outputs, kernel, grid, depthwise=depthwise)
        mask = torch.zeros(*self.weight.shape[:2], self.weight[0, 0].numel())
        middle = mask.shape[2] // 2
        mask[..., :middle] = 1
        mask[..., middle] = centre
        self.register_buffer("mask", mask.reshape(self.weight.shape), persistent=False)

    @property
    def filters(self) -> Tensor:
        """The weight that multiplies."""
        return self.weight * self.mask


class FlowedGaussian(Event):
    """The distribution of flow(z) for normal z: a posterior of any shape, whose KL is estimated by the draw."""

    def __init__(self, base: DiagonalGaussian, flow: Flow):
        super().__init__(base.mean.shape)
        self.base, self.flow = base, flow
        self.drawn: tuple[Tensor, Tensor] | None = None

    @property
    def mean(self) -> Tensor:
        """Where the normal's mean goes."""
        return self.flow(self.base.mean)

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: Rng = None) -> Tensor:
        """Differentiable draws; what the last came from is remembered, since to invert a flow is slow."""
        z = self.base.rsample(sample_shape, generator=generator)
        self.drawn = self.flow(z.flatten(0, len(sample_shape))).view_as(z), z
        return self.drawn[0]

    def _origin(self, value: Tensor) -> Tensor:
        return self.drawn[1] if self.drawn is not None and self.drawn[0] is value else self.flow.inverse(value)

    def log_prob(self, value: Tensor) -> Tensor:
        """Density in nats an item, shape [batch]."""
        return self.base.log_prob(self._origin(value))

    def kl(self, prior: DiagonalGaussian, z: Tensor) -> Tensor:
        """The estimate log q(z) - log p(z), nats, shape [batch, 1]; it may be negative."""
        return (self.log_prob(z) - prior.log_prob(z)).unsqueeze(-1)

    def information(self, prior: DiagonalGaussian) -> Tensor:
        """That of the normal before the flow, which is a stand-in: no closed form is known of the flow's."""
        return self.base.information(prior)

    def standardise(self, z: Tensor) -> Tensor:
        """The standard normal noise that `reparameterise` turns into z."""
        return self.base.standardise(self._origin(z))

    def reparameterise(self, noise: Tensor) -> Tensor:
        """The value that this noise leads to."""
        return self.flow(self.base.reparameterise(noise))
