"""Nearest-neighbour search: the item of a data set closest to each of some samples."""

import dataclasses
import math

import torch
from torch import Tensor

from zoo.distributions import full_precision
from zoo.linear.dense import numpy_threads, product
from zoo.linear.stream import Data, RowReader


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
def nearest(samples: Tensor, data: Data, *, leave_out: Tensor | None = None, items: int | None = None) -> Neighbours:
    """Find the nearest neighbour of each sample, in one pass over the data.

    Memory is twice that of the samples, that of the neighbours, and a few blocks.

    Arguments:
        samples: shape [m, ...].
        data: floating-point items [n, ...]: whatever `zoo.linear.principal.principal_axes` takes.
        leave_out: the index, for each sample, of one item that it is not compared with, shape [m]. Samples that are
            themselves items then give the distances between neighbours in the data; a generated sample that lies nearer
            than nearly all of these is a copy.
        items: of how many samples, the first ones, the neighbours are handed back themselves; of all if not given.
    """
    if leave_out is not None and leave_out.shape != (len(samples),):
        raise ValueError(f"leave_out holds one index a sample, shape [{len(samples)}], got {list(leave_out.shape)}")
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
        if leave_out is not None:
            own = leave_out.to(flat.device)[:, None] == start + torch.arange(len(block), device=flat.device)
            squared = squared.masked_fill(own, math.inf)
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
