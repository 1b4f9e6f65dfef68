"""The exact routes to principal axes: by singular values, by the covariance, by the Gram matrix.

Each takes the passes of a fit and returns the moments of all items, the largest eigenvalues of the scatter, falling,
and their vectors as rows.
"""

import torch
from torch import Tensor

from zoo.linear.dense import Scratch, gram, numpy_threads, orthonormal, product, top_eigenvectors
from zoo.linear.passes import Passes, State
from zoo.moments import Moments

Found = tuple[Moments, Tensor, Tensor]


def svd(passes: Passes) -> Found:
    """The right singular vectors of the centred data: for data in memory, the most accurate."""
    moments, matrix = passes.first("total"), passes.rows.matrix()
    mean = moments.mean.to(matrix)
    centred = (matrix - mean).sub_(moments.mean - mean)
    _, singular, basis = torch.linalg.svd(centred, full_matrices=False)
    k = passes.wanted(moments)
    return moments, singular.double().square()[:k], basis[:k]


@numpy_threads()
def covariance(passes: Passes) -> Found:
    """The eigenvectors of the scatter, d x d, in one pass over any data."""
    saved = passes.restore()
    if saved is None:
        moments = passes.first("scatter")
        saved = State(moments, 1, True, {"scatter": moments.squares})
        passes.save(saved)
    return passes.share(saved.moments, lambda: scatter_axes(saved.tensors["scatter"], passes.wanted(saved.moments)))


def scatter_axes(scatter: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues of a scatter matrix, and their vectors as rows."""
    values, vectors = top_eigenvectors(scatter, k)
    return values, vectors.T


@numpy_threads()
def gram_matrix(passes: Passes) -> Found:
    """The eigenvectors v of X X^T, n x n, give the axes X^T v, orthogonal but for rounding."""
    moments, matrix = passes.first("no"), passes.rows.matrix()
    mean, k, scratch = moments.mean.to(matrix), passes.wanted(moments), Scratch()
    at_once = max(16, passes.rows.block // len(matrix))
    parts = list(zip(matrix.split(at_once, 1), mean.split(at_once), strict=True))
    products = torch.zeros(len(matrix), len(matrix), dtype=torch.float64, device=matrix.device)
    for part, its_mean in parts:
        products += gram(scratch.centred(part, its_mean))
    products -= products.mean(0)  # the mean may be off by a rounding error; here it is taken off once more
    products -= products.mean(1, keepdim=True)
    moments.squares = products.trace()
    passes.refuse_constant(moments)
    values, vectors = top_eigenvectors(products, k)
    weights = vectors.T.to(matrix).contiguous()
    axes = torch.cat([product(weights, scratch.centred(part, its_mean)) for part, its_mean in parts], 1)
    return moments, values, orthonormal(axes)
