"""The exact routes to principal axes: by singular values, by the covariance, by the Gram matrix."""

import torch
from torch import Tensor

from zoo.linear.dense import Scratch, mean_of, numpy_threads, orthonormal, product, top_eigenvectors
from zoo.linear.passes import Passes
from zoo.moments import Moments

Found = tuple[Moments, Tensor, Tensor]
"""The moments of all items, the largest eigenvalues of their scatter, falling, and their vectors as rows."""


def svd(passes: Passes) -> Found:
    """The right singular vectors of the centred data: for data in memory, the most accurate."""
    matrix = passes.rows.matrix()
    mean = mean_of(matrix)
    centred = (matrix - mean.to(matrix)).sub_(mean - mean.to(matrix))
    moments = passes.check(Moments(len(matrix), mean, torch.linalg.vector_norm(centred, dim=1).double().square().sum()))
    _, singular, basis = torch.linalg.svd(centred, full_matrices=False)
    return moments, singular.double().square()[: passes.k], basis[: passes.k]


@numpy_threads()
def covariance(passes: Passes) -> Found:
    """The eigenvectors of the scatter, d x d, in one pass over any data."""
    saved = passes.restore()
    if saved is None:
        moments = passes.first(scatter=True)
        tensors = {"scatter": moments.squares}
        passes.save(moments, 1, tensors)
    else:
        moments, _, tensors = saved
    return passes.share(moments, lambda: top_eigenvectors(tensors["scatter"], passes.k))


@numpy_threads()
def gram_matrix(passes: Passes) -> Found:
    """The eigenvectors v of X X^T, n x n, give the axes X^T v, orthogonal but for rounding."""
    matrix, scratch = passes.rows.matrix(), Scratch()
    at_once = max(16, passes.rows.block // max(1, len(matrix)))
    parts = [(part, mean_of(part)) for part in matrix.split(at_once, 1)]
    products = torch.zeros(len(matrix), len(matrix), dtype=torch.float64, device=matrix.device)
    for part, mean in parts:
        centred = scratch.centred(part, mean.to(part))
        products += product(centred, centred.T)
    products -= products.mean(0)  # the mean may be off by a rounding error; here it is taken off once more
    products -= products.mean(1, keepdim=True)
    moments = passes.check(Moments(len(matrix), torch.cat([mean for _, mean in parts]), products.trace()))
    values, vectors = top_eigenvectors(products, passes.k)
    vectors = vectors.to(matrix)
    axes = matrix.new_empty(len(values), matrix.shape[1])
    for columns, (part, mean) in zip(axes.split(at_once, 1), parts, strict=True):
        columns.copy_(product(vectors, scratch.centred(part, mean.to(part))))
    return moments, values, orthonormal(axes)
