"""Nearest training neighbours: those of samples are nearer than those of unseen items where samples are copies."""

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from modalities import Modality
from zoo.card import Figure
from zoo.distributions import full_precision
from zoo.evaluation.samples import check_finite
from zoo.linear.dense import numpy_threads, product
from zoo.linear.stream import Data, RowReader

if TYPE_CHECKING:
    from PIL.Image import Image

PERCENTILE = 0.01
"""A sample nearer than this share of unseen items counts as a copy."""
FEWEST = 200
"""Of fewer unseen items there is no figure of that share: their 1st percentile lies too far inside."""


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The item of a data set that lies closest to each of m samples."""

    index: Tensor
    """Its place in the data set, shape [m]; broken files do not count."""
    distance: Tensor
    """The Euclidean distance over all elements, in the medium's units, shape [m]."""
    items: Tensor
    """The item itself, shape [m, ...], or of as many samples as were asked for."""


@torch.no_grad()
@numpy_threads()
def nearest(samples: Tensor, data: Data, *, items: int | None = None) -> Neighbours:
    """Find the nearest neighbour of each sample, in one pass over the data.

    Memory is twice that of the samples, that of the neighbours, and a few blocks.

    Arguments:
        samples: shape [m, ...].
        data: floating-point items [n, ...]: whatever `zoo.linear.principal.principal_axes` takes.
        items: of how many samples, the first ones, the neighbours are handed back themselves; of all if not given.
    """
    flat = full_precision(samples.detach()).flatten(1)
    centre = flat.mean(0)
    centred = flat - centre  # squares of numbers far from zero would lose digits
    lengths = _squared_lengths(centred)
    index = torch.full((len(flat),), -1, device=flat.device)
    best, distance = lengths.new_full((len(flat),), math.inf), flat.new_full((len(flat),), math.inf)
    neighbours = flat.new_empty(len(flat) if items is None else min(items, len(flat)), flat.shape[1])
    start = 0
    for rows in RowReader(data, tuple(samples.shape[1:])):
        block = rows.to(flat)
        others = block - centre
        squared = lengths[:, None] + _squared_lengths(others) - 2 * product(centred, others.T).double()
        closest, place = squared.min(1)
        for row in (closest < best).nonzero()[:, 0].tolist():
            item = block[place[row]]
            best[row], index[row] = closest[row], start + place[row]
            # The difference of squares loses digits where a sample is nearly a copy.
            distance[row] = torch.linalg.vector_norm(flat[row] - item)
            if row < len(neighbours):
                neighbours[row] = item
        start += len(block)
    return Neighbours(index, distance, neighbours.unflatten(1, samples.shape[1:]))


def _squared_lengths(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1).double().square()


class NeighbourTest(NamedTuple):
    """Distances from the nearest training neighbour, over all elements, in the medium's units."""

    generated: Tensor
    """Of the samples, shape [n], float64."""
    held_out: Tensor
    """Of unseen items, shape [m], float64."""
    closest: Tensor
    """The samples of least distance, the nearest first."""
    neighbours: Tensor
    """The training items that they are nearest to."""

    @property
    def share(self) -> float:
        """The share of samples as near as the 1st percentile of m unseen items, or nearer.

        Where nothing is copied it is (1 + 0.01 (m - 1)) / (m + 1) on average: 0.011 for 1,000 unseen items, 0.015 for
        200, 0.057 for 20. Where more unseen items than 1 % are in the training data themselves, so are as many samples.
        """
        return (self.generated <= self.held_out.quantile(PERCENTILE)).double().mean().item()

    def mann_whitney(self) -> tuple[float, float]:
        """How probably a sample is nearer than an unseen item, U / (n m), 0.5 where both are alike; and the p-value of
        the Mann-Whitney test that samples are no nearer."""
        from scipy.stats import mannwhitneyu

        test = mannwhitneyu(self.held_out.numpy(), self.generated.numpy(), alternative="greater")
        return float(test.statistic) / (len(self.generated) * len(self.held_out)), float(test.pvalue)

    def figures(self, name: str) -> list[Figure]:
        """The figures for a table or a card; the share needs 200 unseen items. `name` is that of the unseen items."""
        data = f"{name}: {len(self.held_out):,} real, {len(self.generated):,} generated"
        share = Figure("nearest neighbour: nearer than those of 99 % of unseen items", 100 * self.share, data, "%")
        probability, p = self.mann_whitney()
        return [
            *([share] if len(self.held_out) >= FEWEST else []),
            Figure("nearest neighbour: probability of a nearer one than an unseen item has", probability, data),
            Figure("nearest neighbour: p-value of that (Mann-Whitney)", p, data),
        ]

    def show(self, medium: Modality) -> "Image":
        """The closest samples, and below each the training item that it is nearest to."""
        return medium.show(torch.cat([self.closest, self.neighbours]), len(self.closest))


def compare_neighbours(generated: Tensor, held_out: Tensor, training: Data, *, shown: int = 10) -> NeighbourTest:
    """Find the nearest training neighbour of every sample, and of items that the model has not seen.

    A model that gives blurred or typical items lies nearer to the training data than unseen items do and is no copyist:
    look at the picture too. Augmented training items, such as mirrored ones, are copies that this does not find.

    Arguments:
        generated: samples, shape [n, ...].
        held_out: unseen items, shape [m, ...].
        training: what the model was trained on, read once, block by block.
        shown: how many of the closest samples to keep with their neighbours.

    Raises ValueError for samples and unseen items with NaN or infinite values.
    """
    check_finite(generated, "generated items")
    check_finite(held_out, "unseen items")
    found = nearest(torch.cat([generated, held_out]), training, items=len(generated))
    distance = found.distance.double().cpu()
    mine, theirs = distance[: len(generated)], distance[len(generated) :]
    order = mine.argsort()[:shown]
    return NeighbourTest(mine, theirs, generated[order], found.items[order])
