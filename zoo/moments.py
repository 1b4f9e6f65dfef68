"""The mean and the variance of items that come in batches, also where several processes share them."""

import dataclasses
from typing import Self

import torch
from torch import Tensor

from zoo.distributed import all_sum, process_count


@dataclasses.dataclass
class Moments:
    """Count, mean and summed squares of items, in float64; two sets of items merge without being read again.

        moments = Moments.zeros((3,))
        for batch in data:
            moments.update(batch)  # shape [batch, 3]
        moments.all_reduce()  # of all processes
        moments.mean, moments.std()

    Source: Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
    """

    count: int
    mean: Tensor
    """Shape of an item."""
    squares: Tensor
    """Summed over the items: the squared deviation from the mean of every element, shape of an item; or of all
    elements together, a scalar; or, the scatter, all products of two deviations, shape [d, d] for items of shape [d].
    """

    @classmethod
    def zeros(cls, shape: tuple[int, ...], device: torch.device | None = None) -> Self:
        """Of no items yet; the squares will be those of every element."""
        return cls(0, *(torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(2)))

    def update(self, x: Tensor) -> None:
        """Take in a batch, shape [batch, ...], where the squares are those of every element."""
        if len(x):
            x = x.detach().to(self.mean)
            mean = x.mean(0)
            self.merge(Moments(len(x), mean, (x - mean).square().sum(0)))

    def merge(self, other: "Moments") -> tuple[Tensor, float]:
        """Take in the moments of other items.

        Returns s and w such that the scatter of all items is the sum of both and of w s s^T.
        """
        count = self.count + other.count
        step = other.mean - self.mean
        weight = self.count * other.count / max(count, 1)
        self.squares += other.squares
        self.spread(step, weight)
        self.mean = self.mean + step * (other.count / max(count, 1))
        self.count = count
        return step, weight

    def all_reduce(self) -> tuple[Tensor, float]:
        """Merge the moments of all processes, each of which then holds those of all items.

        Returns s and w such that the scatter of all items is the sum of what each process had and of its w s s^T.
        """
        if process_count() == 1:
            return torch.zeros_like(self.mean), 0
        sums = all_sum(torch.cat([self.mean.new_tensor([self.count]), self.count * self.mean.flatten()]))
        own, self.count = self.count, int(sums[0].item())
        mean = (sums[1:] / max(self.count, 1)).view_as(self.mean)
        step, self.mean = self.mean - mean, mean
        self.spread(step, own)
        all_sum(self.squares)
        return step, own

    @property
    def total(self) -> float:
        """The squared deviations of all elements together: the trace of the scatter."""
        scatter = self.squares.ndim == 2 and self.mean.ndim == 1
        return (self.squares.trace() if scatter else self.squares.sum()).item()

    def variance(self, correction: int = 1) -> Tensor:
        """The squares over count - correction. Raises ValueError for too few items."""
        if self.count <= correction:
            raise ValueError(f"a variance needs at least {correction + 1} items, got {self.count}")
        return self.squares / (self.count - correction)

    def std(self, correction: int = 1) -> Tensor:
        """The square root of the variance."""
        return self.variance(correction).sqrt()

    def spread(self, step: Tensor, weight: float) -> None:
        """Add weight * step step^T to the scatter: what squares about a point a step away have more than those about
        the mean."""
        if self.squares.shape == self.mean.shape:
            self.squares.addcmul_(step, step, value=weight)
        elif self.squares.ndim == 2:
            self.squares.addr_(step, step, alpha=weight)
        else:
            self.squares += weight * step.square().sum()
