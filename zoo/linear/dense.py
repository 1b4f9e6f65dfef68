"""Dense algebra that fits share: products and eigenvectors by whichever library does less work, blocks less a mean."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from modalities import MediaError


class Scratch:
    """Memory for one centred block, used again for the next: fresh memory costs more than the subtraction."""

    def __init__(self) -> None:
        self.memory = torch.empty(0)

    def centred(self, block: Tensor, mean: Tensor) -> Tensor:
        """The rows less the mean; valid until the next call."""
        if self.memory.numel() < block.numel() or self.memory.dtype != block.dtype:
            self.memory = block.new_empty(block.numel())
        return torch.sub(block, mean, out=self.memory[: block.numel()].view(block.shape))


@contextmanager
def numpy_threads() -> Iterator[None]:
    """Keep torch on one thread: its others spin for a while after each operation, and take the cores from NumPy's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def mean_of(rows: Tensor) -> Tensor:
    """The mean of rows, float64, shape [d], 0 of none. Raises `MediaError` for NaN and infinite values."""
    on_cpu = rows.device.type == "cpu"  # where NumPy makes no copy in double precision
    sums = torch.from_numpy(rows.numpy().sum(0, np.float64)) if on_cpu else rows.sum(0, dtype=torch.float64)
    if not torch.isfinite(sums).all():
        raise MediaError("the data hold NaN or infinite values; remove or replace them first")
    return sums / max(len(rows), 1)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b, on the CPU by NumPy, which does half the work where b is a transposed, unlike torch."""
    return a @ b if a.device.type != "cpu" else torch.from_numpy(a.numpy() @ b.numpy())


def top_eigenvectors(matrix: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues of a symmetric matrix, falling, and their vectors as rows."""
    if 4 * k > len(matrix) or matrix.device.type != "cpu":
        values, vectors = torch.linalg.eigh(matrix)
        return values[-k:].flip(0), vectors.T[-k:].flip(0)
    # LAPACK's solver for a range of eigenvalues skips most of the work; torch does not offer it.
    from scipy.linalg import eigh

    found = eigh(matrix.numpy(), subset_by_index=(len(matrix) - k, len(matrix) - 1), check_finite=False)
    values, vectors = map(torch.from_numpy, found)
    return values.flip(0), vectors.T.flip(0)


def orthonormal(axes: Tensor) -> Tensor:
    """Orthonormal rows that span what nearly orthogonal rows span, shape [k, d]; these are overwritten."""
    # The Cholesky factor takes a tenth of the time of a QR decomposition, but rows of tiny variance may be parallel.
    axes /= torch.linalg.vector_norm(axes, dim=1, keepdim=True).clamp(min=torch.finfo(axes.dtype).tiny)
    products = product(axes, axes.T).double()
    if (products - torch.eye(len(axes)).to(products)).abs().max() * len(axes) > 0.1:
        return torch.linalg.qr(axes.T)[0].T
    factor = torch.linalg.inv(torch.linalg.cholesky(products)).to(axes)
    for part in axes.split(2**16, 1):  # a copy of few columns takes little memory
        part.copy_(product(factor, part))
    return axes
