"""Whether samples are copies of training items: are they nearer to these than unseen data are?"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from modalities import Modality
from zoo.card import Figure
from zoo.evaluation.samples import check_finite
from zoo.linear.pca import nearest

if TYPE_CHECKING:
    from PIL.Image import Image

    from zoo.linear.streaming import Data

PERCENTILE = 0.01
"""A sample nearer than this share of unseen items counts as a copy."""
FEWEST = 200
"""Of fewer unseen items there is no figure of that share: their 1st percentile lies too far inside."""


class Memorisation(NamedTuple):
    """Distances from the nearest training item, over all elements, in the medium's units."""

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

    @property
    def probability(self) -> float:
        """How probably a sample is nearer than an unseen item: U / (n m) of the Mann-Whitney test; 0.5 where both are
        alike."""
        from scipy.stats import mannwhitneyu

        u = mannwhitneyu(self.held_out.numpy(), self.generated.numpy()).statistic
        return float(u) / (len(self.generated) * len(self.held_out))

    @property
    def p(self) -> float:
        """The p-value of the Mann-Whitney test that samples are no nearer than unseen items."""
        from scipy.stats import mannwhitneyu

        return float(mannwhitneyu(self.generated.numpy(), self.held_out.numpy(), alternative="less").pvalue)

    def figures(self, data: str) -> list[Figure]:
        """The figures for a table or a card; the share needs 200 unseen items. `data` names the unseen items."""
        name = f"{data}: {len(self.held_out):,} real, {len(self.generated):,} generated"
        share = Figure("copies: nearer to training items than 99 % of unseen ones", 100 * self.share, name, "%")
        return [
            *([share] if len(self.held_out) >= FEWEST else []),
            Figure("copies: probability of a sample being nearer than an unseen item", self.probability, name),
            Figure("copies: p-value of that (Mann-Whitney)", self.p, name),
        ]

    def show(self, medium: Modality) -> "Image":
        """The closest samples, and below each the training item that it is nearest to."""
        return medium.show(torch.cat([self.closest, self.neighbours]), len(self.closest))


def memorisation(generated: Tensor, held_out: Tensor, training: "Data", *, shown: int = 10) -> Memorisation:
    """Look for every sample's nearest training item, and for that of items that the model has not seen.

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
    return Memorisation(mine, theirs, generated[order], found.items[order])
