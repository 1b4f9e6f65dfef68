"""The randomized route: principal axes in a few passes over the data and in memory that does not grow with them."""

import torch
from torch import Tensor

from modalities import MediaError
from zoo.distributions import normal_noise
from zoo.linear import streaming
from zoo.linear.dense import Room, gram, numpy_threads, product, top_eigenvectors
from zoo.linear.passes import Fit, Image, Moments

OVERSAMPLING = 16
"""Directions beside those asked for that widen the space."""
KRYLOV = 6
"""So many times the directions asked for are kept, then the space begins anew from the best of them."""


def randomized(fit: Fit, seed: int) -> tuple[Moments, Tensor, Tensor]:
    """The best axes in the space that random directions span after repeated products with the scatter matrix.

    All products are kept (a block Krylov space), so that few passes reach what many power iterations would. Every pass
    widens the space by a block; the passes end when the last one lowered the squared error by less than 0.3 percent.
    The first pass also finds the mean: blocks of rows are centred on their own means, and the difference is made up for
    as the moments are. A stream is multiplied with more directions in fewer passes than data in memory are. Of several
    processes the main one keeps the space and tells the others the next directions.

    Sources: Halko, Martinsson, Tropp, "Finding Structure with Randomness", 2011; Musco, Musco, "Randomized Block Krylov
    Methods for Stronger and Faster Approximate Singular Value Decomposition", 2015; Wu, Simon, "Thick-Restart Lanczos
    Method for Large Symmetric Eigenvalue Problems", 2000, for the new beginning.
    """
    together, d, like = fit.together, fit.rows.width, fit.start()
    room, restored = Room(), fit.restore()
    image: Image | None = None
    newest: Tensor | None = None
    if restored is None:
        [streamed] = together.largest(not fit.rows.in_memory)
        asked = int(fit.components)
        width = 3 * (asked + OVERSAMPLING) // 4 if streamed else max(OVERSAMPLING, asked // 2)
        newest = normal_noise((d, min(d, width)), like, torch.Generator().manual_seed(seed))
        newest = together.from_main(torch.linalg.qr(newest)[0].contiguous() if together.main else newest)
        image, passes = Image(newest), 1
        moments = fit.gather("randomized", image)
        space = Space([newest])
    else:
        moments, passes, done, tensors = restored
        count = sum(name.startswith("block/") for name in tensors)
        blocks = [tensors[f"block/{index}"].to(like.device) for index in range(count)]
        space = Space(blocks, tensors.get("projected", torch.empty(0)).to(like.device))
        newest = None if done or not together.main else blocks[-1]
    k, mean = fit.number(moments), moments.mean.to(like)
    while True:
        if image is not None:
            total = together.sum(image.total).T
            image = None
            newest = together.run(lambda: _widen(fit, space, total, moments, passes) if together.main else None)  # noqa: B023
            del total
        [columns] = together.largest(0 if newest is None else newest.shape[1])
        if not columns:
            break
        newest = together.from_main(newest if together.main else like.new_empty(d, int(columns)))  # type: ignore[arg-type]
        image, passes = Image(newest), passes + 1
        fit.visit(lambda block, to=image: to.add(room.centred(block, mean)), passes, moments)  # type: ignore[misc]
    values, basis = like.new_empty(k, dtype=torch.float64), like.new_empty(k, d)
    if together.main:
        with numpy_threads():
            values, basis = space.axes(k)
    return moments, together.from_main(values), together.from_main(basis)


def _widen(fit: Fit, space: "Space", image: Tensor, moments: Moments, passes: int) -> Tensor | None:
    with numpy_threads():
        newest = space.widen(image, fit.number(moments), moments.squares)
    fit.save(moments, passes, space.tensors(), done=newest is None)
    return newest


class Space:
    """Orthonormal directions, and the scatter matrix within the space that they span.

    Arguments:
        blocks: the directions as columns, shape [d, columns] each; the last are the ones to be multiplied next.
        projected: the scatter matrix between all but the last of them, float64.
    """

    def __init__(self, blocks: list[Tensor], projected: Tensor | None = None):
        self.blocks = blocks
        self.projected = blocks[0].new_zeros(0, 0, dtype=torch.float64) if projected is None else projected

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"projected": self.projected} | {f"block/{index}": block for index, block in enumerate(self.blocks)}

    def widen(self, image: Tensor, k: int, squares: float) -> Tensor | None:
        """The next directions, or None where the k best are found.

        `image` is the scatter matrix times the last directions, float64; it is overwritten. `squares` is the trace.
        """
        coordinates = [self.projected.new_zeros(block.shape[1], image.shape[1]) for block in self.blocks]
        for rows in self._rows():
            for total, block in zip(coordinates, self.blocks, strict=True):
                total += product(block[rows].T.double(), image[rows])
        columns = torch.cat(coordinates)
        if not torch.isfinite(columns).all():
            raise MediaError("the data hold NaN or infinite values, or their squares do; remove or scale them first")
        before = self._explained(k)
        self.projected = _border(self.projected, columns)
        explained, size, d = self._explained(k), len(self.projected), len(image)
        found = size >= k and len(self.blocks) > 1
        rounding = 4 * torch.finfo(self.blocks[0].dtype).eps * squares
        if size == d or found and explained - before < max(3e-3 * (squares - explained), rounding):
            return None
        for rows in self._rows():
            for part, block in zip(coordinates, self.blocks, strict=True):
                image[rows] -= product(block[rows].double(), part)
        newest = torch.linalg.qr(image.to(self.blocks[0]))[0]
        # Once more as long as a column has lost much of its length, since to normalise what is left amplifies rounding
        # errors: where the data have no more directions, columns are nothing else.
        for _ in range(5):
            for block in self.blocks:
                newest -= product(block, product(block.T, newest))
            newest, triangle = torch.linalg.qr(newest)
            if triangle.diagonal()[: d - size].abs().min() > 0.5:
                break
        newest = newest[:, : d - size].contiguous()
        if size + newest.shape[1] > KRYLOV * (k + OVERSAMPLING):
            values, best = self.axes(k + OVERSAMPLING)
            self.blocks, self.projected = [best.T.contiguous()], values.diag()
        self.blocks.append(newest)
        return newest

    def axes(self, k: int) -> tuple[Tensor, Tensor]:
        """The k largest eigenvalues within the space, and their vectors as rows, shape [k, d]."""
        # Directions in single precision are not quite orthonormal. Let the axes be, whatever they are made of.
        overlap = torch.zeros_like(self.projected)
        for rows in self._rows():
            part = self._part(rows).double()
            overlap += gram(part.T)
        factor = torch.linalg.inv(torch.linalg.cholesky(overlap))
        values, vectors = top_eigenvectors(factor @ self.projected @ factor.T, k)
        vectors = factor.T @ vectors
        axes = self.blocks[0].new_empty(k, len(self.blocks[0]))
        for rows in self._rows():
            axes[:, rows] = product(vectors.T, self._part(rows).double().T)
        return values, axes

    def _explained(self, k: int) -> float:
        values, _ = top_eigenvectors(self.projected, min(k, len(self.projected)))
        return values.sum().item()

    def _rows(self) -> list[slice]:
        at_once = max(64, streaming.BLOCK // (4 * sum(block.shape[1] for block in self.blocks)))
        return [slice(start, start + at_once) for start in range(0, len(self.blocks[0]), at_once)]

    def _part(self, rows: slice) -> Tensor:
        """These rows of the directions that the scatter matrix is known for, or will be by the image at hand."""
        return torch.cat([block[rows] for block in self.blocks], 1)


def _border(matrix: Tensor, columns: Tensor) -> Tensor:
    """A symmetric matrix, widened by its new last columns."""
    old, size = len(matrix), len(columns)
    wider = matrix.new_zeros(size, size)
    wider[:old, :old] = matrix
    wider[:, old:] = columns
    wider[old:] = columns.T
    wider[old:, old:] = (columns[old:] + columns[old:].T) / 2
    return wider
