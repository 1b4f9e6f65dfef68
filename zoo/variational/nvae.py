"""NVAE, a deep hierarchical variational autoencoder over series, images and clips.

Latents come in groups, from coarse grids to fine ones: p(z) = p(z_1) p(z_2 | z_1) ... p(z_L | z_<L). A bottom-up
network reads the item once; one top-down network, which the prior and the posterior share, then draws one group after
the other. The posterior of a group is told as its difference from the prior.

Source: Vahdat, Kautz, "NVAE: A Deep Hierarchical Variational Autoencoder", 2020. Without batch normalisation, the
initialisation is that of Child, "Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images",
2021.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modalities import Modality
from modalities.data import Batch, Items, Tree, cut
from zoo.checks import check_count, check_counts, check_latents, check_numbers, check_temperature
from zoo.conditions import Classes
from zoo.distributions import DiagonalGaussian, Event, Inference, OptimalGaussian, Rng, full_precision
from zoo.hierarchy import Groups, InParts, Pass, TopDown
from zoo.model import ELBO, Notes, Variational, log_mean_exp
from zoo.nn.cells import DecoderCell, EncoderCell, Normalisation, divide
from zoo.nn.convolution import FORMATS, Convolution, Grid, SpectralPenalty
from zoo.nn.flows import Flow, FlowedGaussian
from zoo.nn.likelihood import DecoderHead, DecoderLikelihood, update_sigma
from zoo.nn.normalisation import BATCH_NORM, Standardise, Statistics, estimate_statistics, statistics_of

FINEST_WEIGHT = 30.0
"""How much more the KL of the finest scale weighs than that of the coarsest, where a progressive training begins."""


class Group(nn.Module):
    """One group of latents: its prior and its posterior given the top-down state, and how it moves that state.

    Arguments: `channels` of the states; `latent` channels; `grid`; `first`, the group at the top, whose prior is
    N(0, I); `cells`, what follows, up to the next group; `flows`, cells of flow in the posterior.
    """

    former_names: ClassVar[dict[str, str]] = {
        "feature_net": "read",
        "prior_net": "give",
        "state_projection": "side",
        "posterior_net": "tell",
        "merge": "combine",
    }

    def __init__(
        self,
        channels: int,
        latent: int,
        grid: Grid,
        normalisation: Normalisation,
        first: bool,
        cells: nn.Sequential,
        flows: int,
    ):
        super().__init__()
        normalised = normalisation == "batch"
        self.latent, self.grid, self.first = latent, grid, first
        if first:
            self.feature_net = nn.Sequential(nn.ELU(), Convolution(channels, channels, 1, grid, normalised), nn.ELU())
        else:
            self.prior_net = nn.Sequential(nn.ELU(), Convolution(channels, 2 * latent, 1, grid, normalised))
            self.state_projection = Convolution(channels, channels, 1, grid, normalised)
        self.posterior_net = Convolution(channels, 2 * latent, 3, grid, normalised)
        self.merge = Convolution(channels + latent, channels, 1, grid, normalised)
        self.flow = Flow(latent, grid, flows) if flows else None
        self.cells = cells
        if normalisation == "none":
            with torch.no_grad():  # prior and posterior begin near N(0, I), and near each other
                for layer in (
                    [self.posterior_net] if first else [self.posterior_net, cast(Convolution, self.prior_net[1])]
                ):
                    layer.weight *= 0.1

    def _prior(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """The prior's mean and log-sigma before they are bounded."""
        if self.first:
            zeros = s.new_zeros(
                s.shape[0], self.latent, *s.shape[2:], dtype=torch.promote_types(s.dtype, torch.float32)
            )
            return zeros, zeros
        mean, log_std = full_precision(self.prior_net(s)).chunk(2, 1)
        return mean, log_std

    def _bound(self, mean: Tensor, log_std: Tensor, temperature: float) -> DiagonalGaussian:
        if self.first:
            return DiagonalGaussian(mean, torch.full_like(mean, temperature))
        return _bounded(mean, log_std, temperature)

    def prior(self, s: Tensor, temperature: float = 1.0) -> DiagonalGaussian:
        """p(z_l | z_<l), event [latent, *grid]; the temperature scales its standard deviations."""
        return self._bound(*self._prior(s), temperature)

    def posterior(self, s: Tensor, encoded: Tensor) -> Inference[Tensor]:
        """q(z_l | z_<l, x): the network tells what to add to the prior's mean and log-sigma."""
        return self.both(s, encoded)[1]

    def both(self, s: Tensor, encoded: Tensor) -> tuple[DiagonalGaussian, Inference[Tensor]]:
        """The prior and the posterior, in one pass."""
        mean, log_std = self._prior(s)
        told = self.posterior_net(self.feature_net(encoded) if self.first else encoded + self.state_projection(s))
        move, log_ratio = full_precision(told).chunk(2, 1)
        base = _bounded(mean + move, log_std + log_ratio)
        return self._bound(mean, log_std, 1.0), base if self.flow is None else FlowedGaussian(base, self.flow)

    def forward(self, s: Tensor, z: Tensor) -> Tensor:
        """The state after the group, shape [batch, channels, *grid of the next group]."""
        return self.cells(self.merge(torch.cat([s, z.to(s.dtype)], 1)))


def _bounded(mean: Tensor, log_std: Tensor, temperature: float = 1.0) -> DiagonalGaussian:
    """Means and log-sigmas bounded softly to (-5, 5), and sigma at least 0.01: without, one step may be fatal."""
    std = torch.exp(5 * torch.tanh(log_std / 5)) + 0.01
    return DiagonalGaussian(5 * torch.tanh(mean / 5), std * temperature)


class _Plan(NamedTuple):
    """How the constructor's sizes become the layers of both networks. `grids` go from the padded full one to the
    coarsest, `steps` lie between them, and `depth` cells are on a path."""

    groups: Sequence[int]
    grids: list[Grid]
    steps: list[Grid]
    width: int
    blocks: int
    block_cells: int
    cells: int
    normalisation: Normalisation
    depth: int
    expansion: int

    @property
    def coarsest(self) -> int:
        """Channels at the coarsest grid."""
        return self.width * 2 ** (self.blocks + len(self.groups) - 1)

    def encode(self, channels: int, at: int, cells: int, down: bool = False) -> list[nn.Module]:
        """Cells at a grid, by its number; with `down` one more, which leads to the next."""
        settings = self.grids[at], self.normalisation, self.depth
        layers: list[nn.Module] = [EncoderCell(channels, channels, *settings) for _ in range(cells)]
        return [*layers, EncoderCell(channels, 2 * channels, *settings, self.steps[at])] if down else layers

    def decode(self, channels: int, at: int, cells: int, expansion: int) -> list[nn.Module]:
        """Cells at a grid, by its number."""
        settings = self.grids[at], self.normalisation, self.depth, expansion
        return [DecoderCell(channels, channels, *settings) for _ in range(cells)]

    def up(self, channels: int, at: int, expansion: int) -> DecoderCell:
        """The cell that leads to a grid from the next coarser one, with half the channels."""
        settings = self.grids[at], self.normalisation, self.depth, expansion, self.steps[at]
        return DecoderCell(channels, channels // 2, *settings)

    def bottom_up(self, inputs: int) -> tuple[nn.Sequential, nn.ModuleList]:
        """The stem with the blocks that halve the grid, and one level a group from the finest scale to the coarsest."""
        layers: list[nn.Module] = [Convolution(inputs, self.width, 3, self.grids[0], self.normalisation == "batch")]
        for block in range(self.blocks):
            layers += self.encode(self.width * 2**block, block, self.block_cells - 1, down=True)
        tower = nn.ModuleList()
        for scale, count in enumerate(reversed(self.groups)):
            here = self.blocks + scale
            channels = self.width * 2**here
            for index in range(count):
                down = self.encode(channels // 2, here - 1, 0, down=True) if scale and not index else []
                tower.append(nn.Sequential(*down, *self.encode(channels, here, self.cells)))
        return nn.Sequential(*layers), tower

    def top_down(self, latent: int, flows: int) -> tuple[nn.ModuleList, int]:
        """The groups from the coarsest scale to the finest, and the channels after the last."""
        groups, channels = nn.ModuleList(), self.coarsest
        for scale, count in enumerate(self.groups):
            here = self.blocks + len(self.groups) - 1 - scale
            for index in range(count):
                inner = self.decode(channels, here, self.cells, self.expansion)
                last = index == count - 1 and scale < len(self.groups) - 1
                inner += [self.up(channels, here - 1, self.expansion)] if last else []
                cells = nn.Sequential(*inner)
                groups.append(Group(channels, latent, self.grids[here], self.normalisation, not groups, cells, flows))
                channels = channels // 2 if last else channels
        return groups, channels

    def last_blocks(self, channels: int, outputs: int) -> nn.Sequential:
        """The blocks that double the grid, and the numbers of the likelihood."""
        layers: list[nn.Module] = []
        for block in reversed(range(self.blocks)):
            expansion = max(1, self.expansion // 2)
            layers.append(self.up(channels, block, expansion))
            channels //= 2
            layers += self.decode(channels, block, self.block_cells - 1, expansion)
        last = Convolution(channels, outputs, 3, self.grids[0], self.normalisation == "batch")
        return nn.Sequential(*layers, nn.ELU(), last)


class NVAE(Variational[Groups]):
    """p(x, z) = p(x | z) p(z_1) prod_l p(z_l | z_<l), all groups normal, trained by the evidence lower bound.

    Arguments:
        modality: the medium: series, images or clips.
        groups: how many groups of latents every scale has, the coarsest first. Each scale has twice the grid of the one
            before it and half its channels.
        latent: channels of every group.
        width: channels at the full resolution.
        blocks: how often the grid is halved before the finest scale (and doubled after it).
        block_cells: residual cells in each of these blocks, the one that changes the grid included.
        cells: residual cells a group, in both networks.
        expansion: how many times wider the depthwise convolutions of the decoder's cells are; after the last group,
            half of that.
        normalisation: "batch" as published: batch normalisation, weight normalisation, branches scaled by 0.1; wants
            large batches and `spectral`. "none" scales the initialisation instead; train it with
            `TrainingConfig.skip_above`.
        likelihood: as for a VAE; colour pictures take the mixture of logistics by default.
        components: logistics in the mixture.
        flows: cells of inverse autoregressive flow in every group's posterior.
        spectral: weight of the largest singular values of all convolutions, and of the largest scales of batch
            normalisation, in the loss; published are 0.01 to 0.1.
        spectral_start: the weight at the start, from where it goes to `spectral` along a geometric line while the
            weight of the KL rises; None has it constant. 1 is published for large pictures.
        warmup: the fraction of the training over which the weight of the KL rises to 1. Meanwhile groups with much KL
            for their size pay more, so that the others come alive.
        progressive: the fraction of the training over which finer scales are held back: at first the KL of the finest
            one weighs 30 times more than that of the coarsest, of those between less, and all fall to 1 along
            geometric lines. 0 holds none.
        condition: `Classes`, if samples shall be conditioned on one.
        recompute: gradient checkpointing: forget what is inside of cells in training and compute it again for the
            gradient, which takes less memory and more time.
    """

    sigma: Tensor | None
    shares: Tensor
    scales: Tensor

    def __init__(
        self,
        modality: Modality,
        groups: Sequence[int] = (5, 10),
        latent: int = 20,
        width: int = 32,
        blocks: int = 2,
        block_cells: int = 3,
        cells: int = 2,
        expansion: int = 6,
        normalisation: Normalisation = "none",
        likelihood: DecoderLikelihood | None = None,
        components: int = 10,
        flows: int = 0,
        spectral: float = 0.0,
        spectral_start: float | None = None,
        warmup: float = 0.3,
        progressive: float = 0.0,
        condition: Classes | None = None,
        recompute: bool = False,
    ):
        super().__init__()
        shape = modality.shape
        if not 1 <= len(modality.grid) <= 3 or None in modality.shape:
            raise ValueError(f"NVAE takes series, images and clips; {modality.kind} have the shape {list(shape)}")
        if not groups or min(groups) < 1:
            raise ValueError(f"groups are at least 1 at every scale, got {list(groups)}")
        if spectral_start is not None and not 0 < spectral_start < math.inf:
            raise ValueError(f"spectral_start must be above 0, or None, got {spectral_start!r}")
        check_counts(latent=latent, width=width, block_cells=block_cells, cells=cells, expansion=expansion)
        check_counts(components=components)
        check_counts(0, blocks=blocks, flows=flows)
        check_numbers(spectral=spectral)
        check_numbers(0, 1, warmup=warmup, progressive=progressive)
        if likelihood is None and modality.levels is not None and modality.levels > 2 and shape[0] > 1:
            likelihood = "logistic-mixture"
        self.modality, self.condition, self.recompute = modality, condition, recompute
        self.spectral, self.spectral_start, self.warmup = spectral, spectral_start, warmup
        self.progressive = progressive
        self.likelihood_head = DecoderHead(modality, likelihood, components)
        self.discrete = self.likelihood_head.discrete
        self.standardise = Standardise(shape)
        self.register_buffer("sigma", torch.ones(()) if self.likelihood_head.name == "optimal-gaussian" else None)

        halvings = blocks + len(groups) - 1
        grids, steps = _halve((1, shape[1]) if len(shape) == 2 else shape[1:], halvings)
        self.grid, self.margins = grids[0], _margins(grids[0], shape[1:])
        depth = blocks * block_cells + cells * sum(groups) + len(groups) - 1
        plan = _Plan(groups, grids, steps, width, blocks, block_cells, cells, normalisation, depth, expansion)
        self.preprocess, self.tower = plan.bottom_up(shape[0])
        self.start = nn.Parameter(torch.rand(1, plan.coarsest, *grids[-1]))
        self.labels = None if condition is None else nn.Embedding(len(condition), plan.coarsest)
        self.groups, channels = plan.top_down(latent, flows)
        self.postprocess = plan.last_blocks(channels, self.likelihood_head.size)
        sizes = [
            math.prod(grids[halvings - s]) / math.prod(grids[-1]) / n for s, n in enumerate(groups) for _ in range(n)
        ]
        self.register_buffer("shares", torch.tensor(sizes) / min(sizes), persistent=False)
        of_group = [scale / max(1, len(groups) - 1) for scale, count in enumerate(groups) for _ in range(count)]
        self.register_buffer("scales", torch.tensor(of_group), persistent=False)
        self._estimated: dict[tuple[object, ...], list[Statistics]] = {}
        convolutions = [module for module in self.modules() if isinstance(module, Convolution)]
        self.penalty = SpectralPenalty(convolutions) if spectral else None

    def _run(self, cells: nn.Module, *inputs: Tensor) -> Tensor:
        if self.recompute and self.training and torch.is_grad_enabled():
            contexts = functools.partial(_first_and_again, cells)
            return cast(Tensor, checkpoint(cells, *inputs, use_reentrant=False, context_fn=contexts))
        return cells(*inputs)

    def _pad(self, x: Tensor) -> Tensor:
        """Items on a grid that can be halved often enough; their edges are repeated."""
        x = (
            self.standardise(x)
            .to(self.dtype)
            .reshape(x.shape[0], x.shape[1], *([1] if x.ndim == 3 else []), *x.shape[2:])
        )
        x = F.pad(x, self.margins, mode="replicate")
        return x.contiguous(memory_format=FORMATS[len(self.grid)])

    def _observe(self, s: Tensor) -> Event:
        """p(x | z) of the last state."""
        h = self._run(self.postprocess, s)
        if any(self.margins):  # else it would be a copy
            h = F.pad(h, [-margin for margin in self.margins])
        h = h.reshape(h.shape[0], self.likelihood_head.size, *self.modality.shape[1:])
        return self.likelihood_head(h, self.standardise, self.sigma, self.training)

    def _begin(self, n: int, condition: object) -> Tensor:
        """The state before the first group."""
        s = self.start.expand(n, *self.start.shape[1:])
        if self.labels is not None:
            s = s + self.labels(self.told(condition, n)).reshape(n, -1, *[1] * len(self.grid))
        return s.contiguous(memory_format=FORMATS[len(self.grid)])

    def _bottom_up(self, x: Tensor) -> list[Tensor]:
        """The bottom-up pass: what every group of latents is told of the items, the first group first."""
        s = self._run(self.preprocess, self._pad(x))
        states = []
        for level in self.tower:
            s = self._run(level, s)
            states.append(s)
        return states[::-1]

    def adapt(self, data: Items) -> None:
        """Measure the mean and the deviation of real-valued data."""
        if not self.discrete:
            self.standardise.measure(data, self.modality)

    def _top_down(
        self, n: int, condition: object, conditionals: Sequence[Callable[[Tensor], Inference[Tensor]]]
    ) -> Pass:
        """One top-down pass: the distribution of every group given the state before it."""
        s = self._begin(n, condition)
        for group, conditional in zip(self._each(), conditionals, strict=True):
            z = yield conditional(s)
            s = self._run(group, s, z)

    def prior(self, condition: object = None, *, n: int = 1, temperature: float | Sequence[float] = 1.0) -> TopDown:
        """p(z): a hierarchy with a group [latent, *grid] for every one of `groups`; one temperature, or one a group."""
        pairs = zip(self._each(), _each_temperature(temperature, len(self.groups)), strict=True)
        conditionals = [functools.partial(group.prior, temperature=t) for group, t in pairs]
        return TopDown(lambda: self._top_down(n, condition, conditionals))

    def encode(self, x: Tensor, *, condition: object = None) -> TopDown:
        """q(z | x), groups as the prior's."""
        x = self.check_items(x)
        if self.takes_whole(x) or any(group.flow is not None for group in self._each()):
            states = self._bottom_up(x)
            return TopDown(lambda: self._infer_top_down(states, condition))
        at_once = self.at_once(x)
        with torch.no_grad():
            kept = self._bottom_up(x) if len(x) <= at_once else None

        def walk(part: slice) -> Pass:  # of more items the features are not kept: every pass reads them again
            return self._infer_top_down(kept or self._bottom_up(x[part]), cut(condition, part))

        return InParts(walk, len(x), at_once)

    def _infer_top_down(self, states: list[Tensor], condition: object) -> Pass:
        pairs = zip(self._each(), states, strict=True)
        conditionals = [functools.partial(group.posterior, encoded=features) for group, features in pairs]
        return self._top_down(states[0].shape[0], condition, conditionals)

    def decode(self, z: Groups, *, condition: object = None) -> Event:
        """p(x | z), event the shape of an item, in the medium's units."""
        check_latents(z, *((group.latent, *group.grid) for group in self._each()))
        s = self._begin(z[0].shape[0], condition)
        for group, values in zip(self._each(), z, strict=True):
            s = self._run(group, s, values)
        return self._observe(s)

    def _infer(
        self, states: list[Tensor], condition: object, generator: Rng
    ) -> tuple[list[tuple[DiagonalGaussian, Inference[Tensor], Tensor]], Event]:
        """One top-down pass with draws of the posterior: prior, posterior and value of every group, and p(x | z)."""
        s = self._begin(len(states[0]), condition)
        path = []
        for group, encoded in zip(self._each(), states, strict=True):
            prior, posterior = group.both(s, encoded)
            z = posterior.rsample(generator=generator)
            path.append((prior, posterior, z))
            s = self._run(group, s, z)
        return path, self._observe(s)

    def _each(self) -> Iterator[Group]:
        return iter(cast(Sequence[Group], self.groups))

    def elbo(self, x: Tensor, *, condition: object = None, generator: Rng = None) -> ELBO:
        """The evidence lower bound by one draw of z, the KL of every group along it: in closed form, or, of a posterior
        with flows, by the draw."""
        x = self.check_items(x, levels=self.discrete)
        condition = self.prepare_condition(condition, len(x), generator)
        path, likelihood = self._infer(self._bottom_up(x), condition, generator)
        kl = torch.cat([posterior.kl(prior, z) for prior, posterior, z in path], 1)
        return ELBO(likelihood.log_prob(x), kl)

    def _bound(self, x: Tensor, condition: Tree, samples: int, generator: Rng) -> Tensor:
        """Items are read once, and a draw takes one top-down pass."""
        states = self._bottom_up(x)

        def log_weights() -> Iterator[Tensor]:
            for _ in range(samples):
                path, likelihood = self._infer(states, condition, generator)
                log_ratio = torch.stack([prior.log_prob(z) - posterior.log_prob(z) for prior, posterior, z in path])
                yield (likelihood.log_prob(x).double() + log_ratio.double().sum(0))[None]

        return log_mean_exp(log_weights(), samples)

    def loss(
        self, batch: Batch, *, player: str = "model", progress: float = 1.0, shared: Notes = None, generator: Rng = None
    ) -> dict[str, Tensor]:
        """The negative bound in nats an item, averaged over the batch, its KL weighted while it warms up, and the
        spectral terms; logged are the KL of every group and, with `spectral`, the largest singular value."""
        x = batch.x
        condition = self.prepare_condition(batch.condition, len(x), generator)
        path, likelihood = self._infer(self._bottom_up(x), condition, generator)
        kl = torch.cat([posterior.kl(prior, z) for prior, posterior, z in path], 1)
        beta = min(1.0, max(1e-4, progress / self.warmup)) if self.warmup else 1.0
        reconstruction = -likelihood.log_prob(x).mean()
        weights = self.balance(kl, beta) * self.progressive_weights(progress)
        loss = reconstruction + beta * (weights * kl.mean(0)).sum()
        terms = {"reconstruction": reconstruction.detach(), "kl": kl.detach().sum(1).mean()}
        terms |= {f"kl/{index:02d}": value for index, value in enumerate(kl.detach().mean(0))}
        if self.penalty is not None:
            largest = self.penalty()
            scales = [m.weight.abs().max() for m in self.modules() if isinstance(m, BATCH_NORM)]
            weight = self.spectral
            if self.spectral_start is not None:
                weight = math.exp((1 - beta) * math.log(self.spectral_start) + beta * math.log(weight))
            loss = loss + weight * (largest.sum() + sum(scales))
            terms["singular_value"] = largest.detach().max()
        if isinstance(likelihood, OptimalGaussian) and self.sigma is not None:
            terms["sigma"] = update_sigma(self.sigma, likelihood, x)
        return {"loss": loss} | terms

    def balance(self, kl: Tensor, beta: float) -> Tensor:
        """KL balancing: the weight of every group's KL, shape [groups], of mean 1. It is proportional to the KL over
        the number of elements, so that a group with little is not pressed to none. 1 for all once beta is 1.

        `kl` is of shape [batch, groups].
        """
        if beta >= 1:
            return torch.ones_like(kl[0])
        share = kl.detach().abs().mean(0) + 0.01
        weights = share / self.shares.to(share) * share.sum()
        return weights / weights.mean()

    def progressive_weights(self, progress: float) -> Tensor:
        """Extra weight of every group's KL during progressive training, shape [groups]."""
        left = 1 - progress / self.progressive if progress < self.progressive else 0.0
        return FINEST_WEIGHT ** (left * self.scales)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        condition: object = None,
        temperature: float | Sequence[float] = 1.0,
        mean: bool = False,
        generator: Rng = None,
    ) -> Tensor:
        """Draw z from the prior, at one temperature or one a group, and x from p(x | z).

        Below temperature 1, batch normalisation takes the statistics of samples at this temperature: see
        `at_temperature`.
        """
        check_count(n)
        temperatures = _each_temperature(temperature, len(self.groups))
        condition = self.prepare_condition(condition, n, generator)
        with self.at_temperature(temperatures):
            likelihood = self._draw(n, condition, temperatures, generator)
        return likelihood.mean if mean or not any(temperatures) else likelihood.sample(generator=generator)

    def _draw(self, n: int, condition: object, temperatures: Sequence[float], generator: Rng) -> Event:
        """p(x | z) for z from the prior; the condition is prepared."""
        z = self.prior(condition, n=n, temperature=temperatures).sample(generator=generator)
        return self.decode(z, condition=condition)

    @contextlib.contextmanager
    def at_temperature(self, temperature: float | Sequence[float]) -> Iterator[None]:
        """Inside, the batch normalisation of the top-down network has the statistics of samples at this temperature.

        Those of the data, which the model has, make samples at a low temperature pale. They stay where the temperature
        is 0 or 1, or where there is no batch normalisation, and for likelihoods always. The new ones are the means over
        20 batches of 32 samples, drawn with a seed of their own the first time, and kept.
        """
        temperatures = _each_temperature(temperature, len(self.groups))
        layers = [m for m in [*self.groups.modules(), *self.postprocess.modules()] if isinstance(m, BATCH_NORM)]
        if not layers or self.training or not 0 < sum(temperatures) / len(temperatures) < 1:
            yield
            return
        generator = torch.Generator().manual_seed(0)

        def draw() -> None:
            self._draw(32, self.prepare_condition(None, 32, generator), temperatures, generator)

        versions = sum(parameter._version for parameter in self.parameters())
        key = (*temperatures, versions, self.device, self.dtype)
        if key not in self._estimated:
            self._estimated[key] = estimate_statistics(layers, draw, batches=20)
        with statistics_of(layers, self._estimated[key]):
            yield


def _margins(grid: Grid, shape: Sequence[int]) -> list[int]:
    """The padding of every axis to a larger grid, before and after, the last axis first, as `pad` wants it."""
    excess = [full - size for full, size in zip(reversed(grid), reversed(shape), strict=False)]
    pairs = [(more // 2, more - more // 2) for more in excess] + [(0, 0)] * (len(grid) - len(shape))
    return [side for pair in pairs for side in pair]


def _each_temperature(temperature: float | Sequence[float], groups: int) -> list[float]:
    """One for every group."""
    each = [temperature] * groups if isinstance(temperature, (int, float)) else list(temperature)
    if len(each) != groups:
        raise ValueError(f"expected one temperature, or one for each of {groups} groups, got {len(each)}")
    for value in each:
        check_temperature(value)
    return each


def _first_and_again(cells: nn.Module) -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
    """What surrounds cells that are computed, and computed again for the gradient: batch normalisation inside of them
    notes its statistics the first time alone."""

    @contextlib.contextmanager
    def unchanged() -> Iterator[None]:
        before = [buffer.clone() for buffer in cells.buffers()]
        try:
            yield
        finally:
            for buffer, value in zip(cells.buffers(), before, strict=True):
                buffer.copy_(value)

    return contextlib.nullcontext(), unchanged()


def _halve(positions: Sequence[int], times: int) -> tuple[list[Grid], list[Grid]]:
    """Grids from a padded full one down, and the step of every axis between them: an axis of 1 stays."""
    if times > 30:
        raise ValueError(f"a grid can be halved 30 times at most, got {times}")
    halvings = [min(times, math.ceil(math.log2(size))) for size in positions]
    grid = tuple(-(-size // 2**count) * 2**count for size, count in zip(positions, halvings, strict=True))
    grids, steps = [grid], []
    for done in range(times):
        step = tuple(2 if done < count else 1 for count in halvings)
        steps.append(step)
        grids.append(divide(grids[-1], step))
    return grids, steps
