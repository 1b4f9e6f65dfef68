"""Data for the tests of linear models: rows of a known spectrum, and the ways in which they may come."""

import math

import torch
from torch.utils.data import Dataset, IterableDataset

from modalities.points import Points

STREAMED = {"block": 256, "held": 0}
"""For `principal_axes`: nothing is held, and blocks are small."""


class SixNumbers(Points):
    """Rows of six numbers: a medium."""

    @property
    def shape(self):
        return (6,)


class Listed(Dataset):
    """A map-style data set that is not held in memory as a tensor."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index]


class Stream(IterableDataset):
    """Batches of uneven size, labels beside them, in memory that the next one overwrites; `kill` stops it there."""

    def __init__(self, x, kill=None):
        self.x, self.kill, self.read, self.visits = x, kill, 0, 0

    def __iter__(self):
        self.visits += 1
        memory, start, size = torch.empty_like(self.x), 0, 1
        while start < len(self.x):
            batch = self.x[start : start + size]
            self.read += len(batch)
            if self.kill is not None and self.read > self.kill:
                raise KeyboardInterrupt
            memory[: len(batch)] = batch
            yield memory[: len(batch)], torch.zeros(len(batch))
            start, size = start + size, size % 50 + 13


def spectrum(n, d, seed=0, decay=1.0, offset=3.0):
    """Correlated rows with singular values that fall like 1 / i^decay and a mean far from zero."""
    generator = torch.Generator().manual_seed(seed)
    m = min(n, d)
    left = torch.linalg.qr(torch.randn(n, m, dtype=torch.float64, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(d, m, dtype=torch.float64, generator=generator))[0]
    return left * torch.arange(1, m + 1) ** -decay @ right.T * math.sqrt(n) + offset


def low_rank(n, rank, d, dtype=torch.float64):
    """Rows that vary in few directions, and in others by rounding errors alone."""
    directions = torch.randn(rank, d, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return spectrum(n, rank, decay=0.5, offset=0.0).to(dtype) @ directions


def images(n=60, seed=0):
    """Small pictures of three channels."""
    return spectrum(n, 48, seed=seed, offset=0.0).float().reshape(n, 3, 4, 4) / 4


def angle(a, b):
    """The sine of the largest angle between two subspaces."""
    a, b = a.double(), b.double()
    return torch.linalg.matrix_norm(b.T - a.T @ (a @ b.T), 2).item()


def is_orthonormal(rows, tolerance=1e-5):
    """Whether rows are."""
    return (rows @ rows.T - torch.eye(len(rows)).to(rows)).abs().max() < tolerance


def squared_error(x, axes):
    """What the axes leave of the variance of items [n, d]."""
    centred = x - x.mean(0)
    return ((centred - centred @ axes.basis.T @ axes.basis).square().sum() / (len(x) - 1)).item()
