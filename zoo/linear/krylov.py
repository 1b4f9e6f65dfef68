"""The randomized route to principal axes: in a few passes, and in memory that does not grow with the items."""

import torch
import torch.nn.functional as F
from torch import Tensor

from modalities import MediaError
from zoo.distributed import all_max, all_sum, from_main
from zoo.distributions import normal_noise
from zoo.linear.dense import Scratch, numpy_threads, product, top_eigenvectors
from zoo.linear.exact import Found
from zoo.linear.passes import Passes, ScatterProduct
from zoo.moments import Moments


@numpy_threads()
def randomized(passes: Passes, seed: int, oversampling: int, restart: int) -> Found:
    """The best axes in the block Krylov space of random directions and their repeated products with the scatter.

    Few passes reach what many power iterations would. Every pass widens the space by a block; they end when the last
    one lowered the squared error by less than 0.3 percent. A stream is multiplied with more directions in fewer passes
    than data in memory are. Of several processes the main one keeps the space.

    Sources: Halko, Martinsson, Tropp, "Finding Structure with Randomness", 2011; Musco, Musco, "Randomized Block Krylov
    Methods for Stronger and Faster Approximate Singular Value Decomposition", 2015; Wu, Simon, "Thick-Restart Lanczos
    Method for Large Symmetric Eigenvalue Problems", 2000.
    """
    k, d, saved = passes.k, passes.rows.width, passes.restore()
    space = KrylovSpace(passes.like.new_empty(min(d, restart * (k + oversampling)), d), k, k + oversampling)
    moments, number = None, 0
    if saved is None:
        width = 3 * (k + oversampling) // 4 if all_max(not passes.rows.in_memory) else max(oversampling, k // 2)
        noise = normal_noise((d, min(d, width)), passes.like, torch.Generator().manual_seed(seed))
        directions = from_main(lambda: space.add(torch.linalg.qr(noise)[0]), passes.like)
    else:
        moments, number, tensors = saved
        directions = from_main(lambda: space.restore(**tensors), passes.like)
    while directions is not None:
        number += 1
        moments, directions = _pass(passes, space, directions, number, moments)
    assert moments is not None  # the first pass has found them
    return passes.share(moments, lambda: space.axes(k))


def _pass(
    passes: Passes, space: "KrylovSpace", directions: Tensor, number: int, moments: Moments | None
) -> tuple[Moments, Tensor | None]:
    """Multiply the scatter with the directions: the moments of the data, and the next directions, None at the end."""
    scatter_product = ScatterProduct(directions)
    if moments is None:
        moments = passes.first(False, scatter_product)
        total = all_sum(scatter_product.total)
    else:
        mean, scratch = moments.mean.to(directions), Scratch()
        passes.read(lambda block: scatter_product.add(scratch.centred(block, mean)), number, moments)
        total = all_sum(scatter_product.total)
        scatter_product.spread(moments.mean - mean, -moments.count)

    def widen() -> Tensor | None:
        newest = space.widen(total, moments.total)
        passes.save(moments, number, {"projected": space.projected, "directions": space.directions})
        return newest

    return moments, from_main(widen, directions)


class KrylovSpace:
    """Orthonormal directions, and the scatter matrix between them. Where the `memory`, shape [most directions, d], is
    full, the space begins anew from the `kept` best of them."""

    def __init__(self, memory: Tensor, k: int, kept: int):
        self.memory, self.k, self.kept = memory, k, kept
        self.directions = memory[:0]
        self.projected = torch.zeros(0, 0, dtype=torch.float64, device=memory.device)
        """The scatter matrix between the directions but for the last, which are multiplied with it next."""

    def add(self, columns: Tensor) -> Tensor:
        """Append directions, shape [d, columns]; they are handed back."""
        size = len(self.directions)
        self.directions = self.memory[: size + columns.shape[1]]
        self.directions[size:] = columns.T
        return columns.contiguous()

    def restore(self, projected: Tensor, directions: Tensor) -> Tensor:
        """Go on with what was saved; the next directions to multiply are handed back, none after the last pass."""
        self.projected = projected
        return self.add(directions.T)[:, len(projected) :].contiguous()

    def widen(self, image: Tensor, squares: float) -> Tensor | None:
        """The next directions, shape [d, columns], or None where the k best axes are found.

        The `image`, the last directions times the scatter matrix, rows, is overwritten; `squares` is the trace.
        """
        coordinates = image.new_zeros(len(self.directions), len(image))
        for columns in self._columns():
            coordinates += product(self.directions[:, columns].double(), image[:, columns].T)
        if not torch.isfinite(coordinates).all():
            raise MediaError("the data hold NaN or infinite values, or their squares do; remove or scale them first")
        first, before = not len(self.projected), self._explained()
        wider = F.pad(self.projected, (0, len(image), 0, len(image)))
        wider[:, -len(image) :], wider[-len(image) :] = coordinates, coordinates.T
        self.projected = wider
        explained, (size, d) = self._explained(), self.directions.shape
        small = explained - before < max(3e-3 * (squares - explained), 4 * torch.finfo(self.memory.dtype).eps * squares)
        if size == d or size >= self.k and not first and small:
            return None
        for columns in self._columns():
            image[:, columns] -= product(coordinates.T, self.directions[:, columns].double())
        newest = torch.linalg.qr(image.to(self.memory).T)[0]
        # Again as long as a column has lost much of its length: to normalise what is left amplifies rounding errors.
        for _ in range(5):
            newest -= product(self.directions.T, product(self.directions, newest))
            newest, triangle = torch.linalg.qr(newest)
            if triangle.diagonal()[: d - size].abs().min() > 0.5:
                break
        if size + newest.shape[1] > len(self.memory) < d:
            values, best = self.axes(self.kept)
            self.directions, self.projected = self.memory[:0], values.diag()
            self.add(best.T)
        return self.add(newest[:, : d - size])

    def axes(self, k: int) -> tuple[Tensor, Tensor]:
        """The k largest eigenvalues within the space, and their vectors as rows, shape [k, d]."""
        # The directions are orthonormal in single precision alone: orthonormalise them in double precision.
        overlap = torch.zeros_like(self.projected)
        for columns in self._columns():
            part = self.directions[:, columns].double()
            overlap += product(part, part.T)
        factor = torch.linalg.inv(torch.linalg.cholesky(overlap))
        values, vectors = top_eigenvectors(factor @ self.projected @ factor.T, k)
        axes = self.memory.new_empty(k, self.memory.shape[1])
        for columns in self._columns():
            axes[:, columns] = product(vectors @ factor, self.directions[:, columns].double())
        return values, axes

    def _explained(self) -> float:
        return torch.linalg.eigvalsh(self.projected)[-self.k :].sum().item()

    def _columns(self) -> list[slice]:
        """Parts of the dimensions: what is copied in double precision takes little memory."""
        at_once = max(64, 2**18 // len(self.directions))
        return [slice(start, start + at_once) for start in range(0, self.memory.shape[1], at_once)]
