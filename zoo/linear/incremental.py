"""Principal axes of data that come once, a batch at a time."""

import math

import torch
from torch import Tensor

from zoo.linear.dense import Room, gram, numpy_threads, orthonormal, top_eigenvectors
from zoo.linear.passes import Moments
from zoo.linear.solver import PrincipalAxes, finish, scatter_axes

EXACT = 1024
"""Up to so many dimensions the covariance is kept."""


class Incremental:
    """What is kept of the batches so far.

    Up to `EXACT` dimensions that is their covariance, and the axes are those of all items at once. Beyond, it is the
    mean and the total variance, which are exact, and the leading directions times their singular values, twice as many
    as are asked for and some more. A batch is stacked below these together with one row for the shift of the mean, and
    the leading directions of the stack are kept: approximate, since what was left out does not come back.

    Source: Ross, Lim, Lin, Yang, "Incremental Learning for Robust Visual Tracking", 2008.

    Arguments:
        components: how many directions are asked for.
        axes: what an earlier fit found, to go on from; of these items no more than the axes is known.
    """

    def __init__(self, components: int, axes: PrincipalAxes | None = None):
        self.components, self.room = components, Room()
        self.moments: Moments | None = None
        self.rows: Tensor | None = None
        """Orthogonal rows by falling length, shape [directions, d]; None where the covariance is kept."""
        if axes is not None:
            free = axes.count - 1
            self.rows = axes.basis * (axes.variance * free).sqrt()[:, None]
            self.moments = Moments(axes.count, axes.mean.double(), axes.total * free, None, axes.basis.new_empty(0))

    def add(self, items: Tensor) -> None:
        """Take in some items, shape [n, d], finite."""
        keep = min(items.shape[1], 2 * self.components + 16)
        exact = items.shape[1] <= EXACT and (self.moments is None or self.rows is None)
        with numpy_threads():
            for block in items.split(max(keep, len(items)) if exact else keep):
                self._add(block if self.moments is None else block.to(self.moments.like), exact, keep)

    def axes(self) -> PrincipalAxes | None:
        """The axes of all items so far; None until there are more items than components."""
        moments = self.moments
        if moments is None or moments.count <= self.components or moments.squares == 0:
            return None
        if self.rows is None:
            values, basis = scatter_axes(moments, self.components)
        else:
            rows = self.rows[: self.components]
            values = torch.linalg.vector_norm(rows, dim=1).double().square()
            basis = orthonormal(rows.clone())
        return finish(moments, values, basis)

    def _add(self, block: Tensor, exact: bool, keep: int) -> None:
        if not len(block):
            return
        part = Moments.of(block, "covariance" if exact else "svd", self.room)
        stack = [] if exact else [self.room.last]
        if self.moments is None:
            self.moments = part
        else:
            step, weight = self.moments.merge(part)
            if self.rows is not None:
                stack = [self.rows, *stack, (math.sqrt(weight) * step).to(block)[None]]
        if exact:
            return
        stacked = torch.cat(stack)
        _, vectors = top_eigenvectors(gram(stacked).double(), min(keep, len(stacked)))
        # An eigenvector of the stack's Gram matrix times the stack is a direction times its singular value.
        self.rows = vectors.T.to(stacked) @ stacked
