"""Standardisation: data in units of their own mean and standard deviation."""

from typing import Any

import torch
from torch import Tensor, nn

from modalities import Modality
from modalities.data import as_dataset, fetch, randomise
from zoo.moments import Moments

MEASURED = 10_000
"""How many items of a data set are measured at most, evenly spaced over it."""


class Standardise(nn.Module):
    """The mean and the standard deviation of every channel of real-valued data, as buffers: measured once, saved with
    the model. Before that it changes nothing.

    Argument: `shape` of an item, [channels, ...]. A vector has a channel an element, and so has `by_element` every
    element of other items, which lie on no grid.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, ...], by_element: bool = False):
        super().__init__()
        size = shape if by_element else (shape[0], *[1] * (len(shape) - 1))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, x: Tensor) -> None:
        """Measure items of shape [items, ...]; a channel that never varies keeps a standard deviation of 1."""
        moments = self._moments()
        moments.update(self._channels_last(x))
        self._take(moments)

    def measure(self, data: Any, medium: Modality) -> None:
        """Measure a data set, 10,000 of its items at most, evenly spaced; its noise is drawn with seed 0."""
        data = as_dataset(data)
        chosen = range(0, len(data), -(-len(data) // MEASURED))
        generator, moments = torch.Generator().manual_seed(0), self._moments()
        for start in range(0, len(chosen), 256):
            batch, errors = fetch(data, chosen[start : start + 256], medium)
            if batch is None:
                raise errors[0]
            moments.update(self._channels_last(randomise(data, batch, generator).x))
        self._take(moments)

    def _moments(self) -> Moments:
        return Moments.zeros((self.mean.numel(),), self.mean.device)

    def _channels_last(self, x: Tensor) -> Tensor:
        """Rows of what is measured apart."""
        return x.flatten(1) if self.mean.ndim > 1 and self.mean.shape[-1] > 1 else x.movedim(1, -1).flatten(0, -2)

    def _take(self, moments: Moments) -> None:
        std = moments.std(correction=0)
        self.mean.copy_(moments.mean.view_as(self.mean))
        self.std.copy_(torch.where(std > 0, std, 1.0).view_as(self.std))

    def check_weights(self) -> None:
        """Raise ValueError for a standard deviation that is not above 0."""
        if not (self.std > 0).all():
            raise ValueError(f"a standard deviation must be above 0, got {self.std.min():.4g}")

    def forward(self, x: Tensor) -> Tensor:
        """Data to standardised data."""
        return (x - self.mean) / self.std

    def inverse(self, y: Tensor) -> Tensor:
        """Standardised data to data."""
        return y * self.std + self.mean
