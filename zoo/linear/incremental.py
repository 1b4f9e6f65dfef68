"""Principal axes of data that come once, a batch at a time."""

import math

import torch
from torch import Tensor

from zoo.linear.dense import Scratch, numpy_threads, orthonormal, product, top_eigenvectors
from zoo.linear.passes import block_moments
from zoo.linear.principal import PrincipalAxes
from zoo.moments import Moments


class IncrementalPCA:
    """What is kept of the batches so far, to find so many `components`, from the `axes` of an earlier fit on if given.

    Up to 1,024 dimensions that is their covariance, and the axes are those of all items at once. Beyond, and after an
    earlier fit, it is the mean, the total variance, and the leading directions times their singular values, twice as
    many as are asked for and some more. A batch is stacked below these with one row for the shift of the mean, and the
    leading directions of the stack are kept: approximate, since what was left out does not come back. `like` is an
    empty tensor [0, d] with the type and the device of the items.

    Source: Ross, Lim, Lin, Yang, "Incremental Learning for Robust Visual Tracking", 2008.
    """

    def __init__(self, like: Tensor, components: int, axes: PrincipalAxes | None = None):
        like, width = like if axes is None else axes.basis[:0], like.shape[1]
        self.like, self.components, self.kept = like, components, min(width, 2 * components + 16)
        self.exact = width <= 1024 and axes is None
        mean = torch.zeros(width, dtype=torch.float64, device=like.device)
        self.moments = Moments(0, mean, mean.new_zeros((width, width) if self.exact else ()))
        self.rows = like
        """Orthogonal rows by falling length, shape [directions, d]; none where the covariance is kept."""
        if axes is not None:
            free = axes.count - 1
            self.rows = axes.basis * (axes.variance * free).sqrt()[:, None]
            self.moments = Moments(axes.count, axes.mean.to(mean), mean.new_tensor(axes.total * free))

    @numpy_threads()
    def add(self, items: Tensor) -> None:
        """Take in some items, shape [n, d], finite."""
        for block in items.to(self.like).split(max(len(items), 1) if self.exact else self.kept):
            part, centred = block_moments(block, self.exact, Scratch())
            step, weight = self.moments.merge(part)
            if self.exact:
                continue
            stacked = torch.cat([self.rows, centred, (math.sqrt(weight) * step).to(block)[None]])
            _, vectors = top_eigenvectors(product(stacked, stacked.T).double(), min(self.kept, len(stacked)))
            # An eigenvector of the stack's Gram matrix times the stack is a direction times its singular value.
            self.rows = vectors.to(stacked) @ stacked

    @numpy_threads()
    def axes(self) -> PrincipalAxes | None:
        """The axes of all items so far; None until there are more items than components."""
        if self.moments.count <= self.components or self.moments.total == 0:
            return None
        if self.exact:
            values, basis = top_eigenvectors(self.moments.squares, self.components)
        else:
            rows = self.rows[: self.components]
            values, basis = torch.linalg.vector_norm(rows, dim=1).double().square(), orthonormal(rows.clone())
        return PrincipalAxes.of_scatter(self.moments, values, basis, self.like)
