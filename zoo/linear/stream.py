"""The rows that a fit reads in passes, whatever holds the items: a tensor, a file, a data set, or a stream."""

import itertools
import math
import mmap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from modalities import MediaError
from modalities.data import Arrays, Items, batches
from zoo.distributions import full_precision
from zoo.progress import track

Data = Tensor | np.ndarray | Items | Iterable[object] | Callable[[], Iterable[object]]
"""What can be fitted: a tensor, an array or a memory map [n, ...]; a map-style data set; anything that gives items or
batches of them (or tuples that begin with these) every time that it is iterated over; a function that returns such."""


class RowReader:
    """Items of a `shape` of d elements as rows of numbers, read block by block as often as it takes.

    A stream is read anew in every pass; noise that belongs to a data set is the same in each, drawn from the `seed`.
    Half precision is computed in single. A block of data in memory holds 64 items or `block` numbers, whichever is
    more, one of a stream up to four times as many numbers of at most 512 items.
    """

    def __init__(self, data: Data, shape: tuple[int, ...], seed: int = 0, block: int = 2**22):
        if isinstance(data, Arrays) and data.noise is None:
            data = data.x
        self.in_memory = isinstance(data, (Tensor, np.ndarray)) and not isinstance(data, np.memmap)
        self._mapped = data._mmap if isinstance(data, np.memmap) and data.mode == "r" else None  # type: ignore[attr-defined]
        if isinstance(data, np.ndarray):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing writes
                data = torch.from_numpy(np.asarray(data))
        self.data: Any = data
        self.shape, self.width, self.seed, self.block = shape, math.prod(shape), seed, block
        sized = isinstance(data, Sized) and hasattr(data, "__getitem__")
        self.indexed = sized and not isinstance(data, (IterableDataset, list, tuple))
        self.count = len(data) if self.indexed and isinstance(data, Sized) else None
        """How many items there are, None where only a pass tells."""
        self.once = isinstance(data, Iterator)
        self._begun: Iterator[Tensor] | None = None

    def __iter__(self) -> Iterator[Tensor]:
        blocks, self._begun = self._begun or self._read(), None
        return (block for block in blocks if len(block))

    def peek(self) -> Tensor | None:
        """The first block, if there is one; the next pass begins with it."""
        blocks = iter(self)
        first = next(blocks, None)
        self._begun = blocks if first is None else itertools.chain([first], blocks)
        return first

    def matrix(self) -> Tensor:
        """All items of a tensor, shape [n, d]; `flatten` copies nothing where the items are contiguous."""
        return self._flat(self.data)

    def hold(self, limit: int) -> "RowReader | None":
        """The rows as one tensor, read in one pass, or None where they are more than `limit` bytes.

        What was read in vain is not lost: the next pass begins with it.
        """
        read, size, blocks = [], 0, iter(self)
        for block in track(blocks, "reading", self.count, len):
            read.append(block if self.indexed else block.clone())  # a source may write its next one over it
            size += block.numel() * block.element_size()
            if size > limit:
                self._begun = itertools.chain((read.pop(0) for _ in range(len(read))), blocks)
                return None
        whole = read[0].new_empty(sum(map(len, read)), self.width) if read else torch.empty(0, self.width)
        end = len(whole)
        while read:  # from the end, and freed at once: the rows are never there twice
            block = read.pop()
            whole[end - len(block) : end] = block
            end -= len(block)
        return RowReader(whole.unflatten(1, self.shape), self.shape, self.seed, self.block)

    def _read(self) -> Iterator[Tensor]:
        at_once = max(1, min(512, 4 * self.block // self.width))
        if isinstance(self.data, Tensor):
            for items in self.data.split(max(64, self.block // self.width) if self.in_memory else at_once):
                yield self._flat(items)
                if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
                    # The pages count as the process's own until the system wants them back.
                    self._mapped.madvise(mmap.MADV_DONTNEED)
        elif self.indexed:
            for batch in batches(self.data, at_once, torch.Generator().manual_seed(self.seed)):
                yield self._flat(batch.x)
        else:
            yield from self._gather(at_once)

    def _gather(self, at_once: int) -> Iterator[Tensor]:
        """The items of an iterable in blocks of one size, however it hands them out."""
        waiting, count = list[Tensor](), 0
        for element in self.data() if callable(self.data) else self.data:
            x = torch.as_tensor(element[0] if isinstance(element, (tuple, list)) else element)
            for rows in self._flat(x[None] if tuple(x.shape) == self.shape else x).split(at_once):
                if waiting and count + len(rows) > at_once:
                    yield torch.cat(waiting)
                    waiting, count = [], 0
                if len(rows) == at_once:
                    yield rows
                else:  # kept until there are more, while the source may write its next batch over this one
                    waiting.append(rows.clone())
                    count += len(rows)
        if waiting:
            yield torch.cat(waiting)

    def _flat(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape or not x.is_floating_point():
            expected = ", ".join(["n", *map(str, self.shape)])
            raise MediaError(f"expected floating-point items of shape [{expected}], got {x.dtype} {list(x.shape)}")
        return full_precision(x.detach()).flatten(1)
