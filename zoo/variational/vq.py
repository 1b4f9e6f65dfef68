"""Vector-quantised variational autoencoder: images as grids of codes from a learned codebook.

Sources: van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning", 2017; its appendix, and Razavi,
van den Oord, Vinyals, "Generating Diverse High-Fidelity Images with VQ-VAE-2", 2019, for the codebook as a moving
average; Dhariwal, Jun, Payne, Kim, Radford, Sutskever, "Jukebox", 2020, for the restart of codes that are not used. The
decoder has a likelihood of its medium, and no normalisation stands in the residual blocks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modalities.data import Batch
from modalities.images import Images
from modalities.latents import Latents
from zoo.checks import check_counts, check_latents, check_numbers
from zoo.distributions import Event, Point, Posterior, Rng, full_precision, uniform_noise
from zoo.model import Latent, Notes, Trainable
from zoo.nn.convolution import channels_last
from zoo.nn.likelihood import DecoderHead
from zoo.nn.residual import ResidualBlock


class VQVAE(Latent[Tensor], Trainable):
    """x -> encoder -> a grid of vectors -> at every position the nearest of K codes -> decoder -> p(x given codes).

    The loss is -log p(x given codes) + commitment * sum ||z - sg(e)||^2, with encoder outputs z, their codes' vectors e
    and sg, through which no gradient goes. The decoder's gradient passes the rounding as if it were not there
    (straight-through). Codes are moving averages of the encoder outputs that they are nearest to.

    A point of the latent space is a grid of vectors before the rounding: `encode` gives it, `decode` rounds it. So
    interpolations and traversals move continuously and step from code to code. `codes` and `embed` are the way to the
    codes themselves and back.

    Arguments:
        modality: images whose height and width are multiples of `downsampling`. Those of 2 levels have a Bernoulli
            likelihood, others a discretised logistic.
        codes: how many vectors the codebook has, K.
        dimensions: the length of a vector.
        downsampling: pixels of an edge that become one position of the grid, a power of 2.
        width: feature maps of the residual blocks; half of them after the first convolution.
        blocks: residual blocks of each network.
        commitment: the weight of the squared distance of an item's encoder outputs to their codes, summed over
            dimensions and positions.
        decay: of the moving averages that the codes are, for every training step.
        revival: codes used less than this share of an even use, on a moving average, start again at encoder outputs.
    """

    discrete = True
    codebook: Tensor
    usage: Tensor

    def __init__(
        self,
        modality: Images,
        codes: int = 512,
        dimensions: int = 64,
        downsampling: int = 4,
        width: int = 128,
        blocks: int = 2,
        commitment: float = 0.25,
        decay: float = 0.99,
        revival: float = 0.05,
    ):
        super().__init__()
        check_counts(2, codes=codes, downsampling=downsampling)
        check_counts(dimensions=dimensions, width=width)
        check_counts(0, blocks=blocks)
        check_numbers(commitment=commitment)
        check_numbers(0, 1, decay=decay, revival=revival)
        stages = downsampling.bit_length() - 1
        if downsampling != 2**stages:
            raise ValueError(f"downsampling is a power of 2, got {downsampling!r}")
        channels, height, wide = modality.shape
        if height % downsampling or wide % downsampling:
            raise ValueError(f"height and width must be multiples of {downsampling}, got {height} x {wide}")
        if revival in (0, 1):
            raise ValueError(f"revival must lie between 0 and 1, got {revival!r}")
        self.modality, self.commitment, self.decay, self.revival = modality, commitment, decay, revival
        self.grid = (height // downsampling, wide // downsampling)
        """Height and width of the grid of codes."""
        self.dimensions = dimensions
        self.register_buffer("codebook", torch.randn(codes, dimensions))
        # No code has been used, so the first training step starts them all at encoder outputs.
        self.register_buffer("usage", torch.zeros(codes))
        widths = [max(1, width // 2), *[width] * (stages - 1)] if stages > 1 else [width]
        down: list[nn.Module] = []
        for before, after in zip([channels, *widths], widths, strict=False):
            down += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.SiLU()]
        self.encoder = nn.Sequential(
            *down[:-1],
            *[ResidualBlock(width, (3, 3), blocks) for _ in range(blocks)],
            nn.SiLU(),
            nn.Conv2d(width, dimensions, 1),
        )
        self.likelihood_head = DecoderHead(modality)
        up: list[nn.Module] = []
        for before, after in zip(widths[::-1], [*widths[-2::-1], self.likelihood_head.size], strict=True):
            up += [nn.SiLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        self.decoder = nn.Sequential(
            nn.Conv2d(dimensions, width, 3, padding=1),
            *[ResidualBlock(width, (3, 3), blocks) for _ in range(blocks)],
            *up,
        )
        channels_last(self)

    def prior(self, condition: object = None, *, n: int = 1, temperature: float = 1.0) -> "UniformCodes":
        """All codes alike at every position, event [dimensions, *grid]: a stand-in until a prior is learned.

        The temperature draws the codes towards their mean.
        """
        return UniformCodes(self.codebook, (n, *self.grid), temperature)

    def encode(self, x: Tensor, *, condition: object = None) -> Point:
        """Vectors before the rounding, event [dimensions, *grid]: points, since they have no spread."""
        return Point(self.in_parts(self._encode, self.check_items(x)))

    def _encode(self, x: Tensor) -> Tensor:
        return self.encoder(x.to(self.dtype).contiguous(memory_format=torch.channels_last))

    def decode(self, z: Tensor, *, condition: object = None) -> Event:
        """p(x given the codes nearest to z), for z of shape [batch, dimensions, *grid]; gradients go straight to z."""
        check_latents(z, (self.dimensions, *self.grid))
        rounded = self.embed(self.nearest(z))
        return self._likelihood(rounded + (z - z.detach()))

    def _likelihood(self, rounded: Tensor) -> Event:
        h = self.decoder(rounded.to(self.dtype).contiguous(memory_format=torch.channels_last))
        return self.likelihood_head(h)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """The codes of items as indices into the codebook, shape [batch, *grid]."""
        return self.nearest(self.encode(x).mean)

    def latents(self) -> Latents:
        """Grids of codes, for a prior over them."""
        return Latents((1, *self.grid), len(self.codebook))

    def to_latents(self, posterior: Posterior[Tensor], generator: Rng = None) -> Tensor:
        """The nearest codes as items of `latents()`, shape [batch, 1, *grid]."""
        return self.latents().values(self.nearest(posterior.mean).unsqueeze(1))

    def from_latents(self, items: Tensor) -> Tensor:
        """The codebook's vectors of codes, which `decode` takes."""
        return self.embed(self.latents().indices(items.squeeze(1)))

    def embed(self, codes: Tensor) -> Tensor:
        """Indices [batch, *grid] as the codebook's vectors, shape [batch, dimensions, *grid], which `decode` takes."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """The indices of the codes nearest to z, shape [batch, *grid]; z has shape [batch, dimensions, *grid]."""
        with torch.autocast(z.device.type, enabled=False):  # bfloat16 would not tell near codes apart
            book = full_precision(self.codebook)
            vectors = full_precision(z).to(book).movedim(1, -1).flatten(0, -2)
            index = (book.square().sum(1) - 2 * vectors @ book.T).argmin(1)
        return index.reshape(z.shape[0], *z.shape[2:])

    def loss(
        self, batch: Batch, *, player: str = "model", progress: float = 1.0, shared: Notes = None, generator: Rng = None
    ) -> dict[str, Tensor]:
        """The reconstruction in nats an item and the weighted commitment, averaged over the batch.

        In training mode, a step of the codebook's moving averages goes with it. "log_perplexity" is the entropy of the
        batch's use of codes in nats: its exponential is how many codes in even use would be as many.
        """
        x = batch.x
        self.prepare_condition(batch.condition, len(x))
        z = self.encode(x).mean
        if self.training:
            self._revive(z.detach(), generator)
        codes = self.nearest(z)
        rounded = self.embed(codes)  # a copy: the step below does not change it
        if self.training:
            self._step(z.detach(), codes)
        reconstruction = -self._likelihood(rounded + (z - z.detach())).log_prob(x).mean()
        distance = (z - rounded).square().flatten(1).sum(1).mean()
        share = torch.bincount(codes.flatten(), minlength=len(self.codebook)) / codes.numel()
        entropy = -torch.xlogy(share, share).sum()
        return {
            "loss": reconstruction + self.commitment * distance,
            "reconstruction": reconstruction.detach(),
            "distance": distance.detach(),
            "log_perplexity": entropy,
        }

    @torch.no_grad()
    def _revive(self, z: Tensor, generator: Rng) -> None:
        """Start codes that are hardly used at encoder outputs of the batch.

        They start with twice the use that it takes to stay: little enough to follow their outputs at once, where a
        young encoder moves faster than the averages, and to start again soon if they find none.
        """
        vectors = z.movedim(1, -1).flatten(0, -2)
        u = uniform_noise((len(self.codebook),), vectors, generator)
        chosen = vectors[(u * len(vectors)).long().clamp(max=len(vectors) - 1)]
        even = torch.as_tensor(float(len(vectors)), device=z.device)
        if _parallel():  # one process's choice is everyone's
            torch.distributed.broadcast(chosen, 0)
            torch.distributed.all_reduce(even)
        even /= len(self.codebook)
        least = self.revival * even
        dead = self.usage < least
        self.codebook.copy_(torch.where(dead[:, None], chosen.to(self.codebook), self.codebook))
        self.usage.copy_(torch.where(dead, 2 * least.to(self.usage), self.usage))

    @torch.no_grad()
    def _step(self, z: Tensor, codes: Tensor) -> None:
        """A step of the moving averages: how often a code is used, N, and the sum of what is nearest to it, N e.

        N <- decay N + (1 - decay) n,  N e <- decay N e + (1 - decay) sum z, with n and the sum over all processes.
        """
        vectors, index = z.movedim(1, -1).flatten(0, -2).to(self.codebook), codes.flatten()
        count = torch.bincount(index, minlength=len(self.codebook)).to(self.usage)
        total = torch.zeros_like(self.codebook).index_add_(0, index, vectors)
        if _parallel():
            torch.distributed.all_reduce(count)
            torch.distributed.all_reduce(total)
        total = torch.lerp(total, self.usage[:, None] * self.codebook, self.decay)
        self.usage.copy_(torch.lerp(count, self.usage, self.decay))
        self.codebook.copy_(total / self.usage[:, None])


class UniformCodes:
    """Grids of vectors, each drawn from the codebook, all codes alike.

    It has the moments of a distribution of real numbers, so that latents have coordinates in which the prior's mean is
    0 and its standard deviation 1.

    Arguments: `codebook`, shape [codes, dimensions]; `shape`, [n, height, width]; `temperature`, the scale of the codes
    about their mean.
    """

    def __init__(self, codebook: Tensor, shape: tuple[int, int, int], temperature: float = 1.0):
        self.codebook, self.shape = full_precision(codebook), shape
        std, center = torch.std_mean(self.codebook, 0, correction=0)
        self.center, self.temperature = center[:, None, None], temperature
        self.std = torch.where(std > 0, std, 1.0)[:, None, None] * temperature

    @property
    def mean(self) -> Tensor:
        """The codes' mean, which is no code itself, shape [n, dimensions, height, width]."""
        n, height, width = self.shape
        return self.center.expand(n, -1, height, width)

    def sample(self, *, generator: Rng = None) -> Tensor:
        """Draws, shape [n, dimensions, height, width]."""
        u = uniform_noise(self.shape, self.codebook, generator)
        drawn = F.embedding((u * len(self.codebook)).long(), self.codebook).movedim(-1, 1)
        return self.center + self.temperature * (drawn - self.center)

    def standardise(self, z: Tensor) -> Tensor:
        """z in standard deviations from the mean, which `reparameterise` turns back."""
        return (z - self.center) / self.std

    def reparameterise(self, noise: Tensor) -> Tensor:
        """mean + std * noise."""
        return self.center + self.std * noise


def _parallel() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
