"""Standardisation of data, and the statistics of batch normalisation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from modalities import Modality
from modalities.data import Items, as_dataset, fetch, randomise
from zoo.moments import Moments

BatchNorm = nn.BatchNorm2d | nn.BatchNorm3d
BATCH_NORM = (nn.BatchNorm2d, nn.BatchNorm3d)
Statistics = tuple[Tensor, Tensor, Tensor]
"""The running mean and variance of a batch normalisation, and the number of batches that they are of."""
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

    def measure(self, data: Items, medium: Modality) -> None:
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


@contextmanager
def statistics_of(layers: Sequence[BatchNorm], statistics: Sequence[Statistics]) -> Iterator[None]:
    """Inside, layers of batch normalisation have these statistics in the place of their own."""
    own = [_statistics(layer) for layer in layers]
    try:
        for layer, values in zip(layers, statistics, strict=True):
            layer.running_mean, layer.running_var, layer.num_batches_tracked = values
        yield
    finally:
        for layer, values in zip(layers, own, strict=True):
            layer.running_mean, layer.running_var, layer.num_batches_tracked = values


@torch.no_grad()
def estimate_statistics(layers: Sequence[BatchNorm], draw: Callable[[], None], batches: int) -> list[Statistics]:
    """The statistics of what `draw` sends through layers of batch normalisation, the means over so many calls. The
    layers keep their own."""
    momenta = [layer.momentum for layer in layers]
    fresh: list[Statistics] = [tuple(map(torch.clone, _statistics(layer))) for layer in layers]  # type: ignore[misc]
    with statistics_of(layers, fresh):
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
            layer.train()
        try:
            for _ in range(batches):
                draw()
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
                layer.eval()
    return fresh


def _statistics(layer: BatchNorm) -> Statistics:
    mean, var, count = layer.running_mean, layer.running_var, layer.num_batches_tracked
    assert mean is not None and var is not None and count is not None
    return mean, var, count
