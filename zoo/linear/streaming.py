"""Data that a fit reads in passes: whatever holds them, whichever processes share them, and a fit that was killed."""

import hashlib
import json
import logging
import math
import mmap
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, distributed
from torch.utils.data import Dataset, IterableDataset

from modalities import MediaError
from modalities.data import Arrays, batches
from zoo.checkpoint import CheckpointError
from zoo.distributions import full_precision

Data = Tensor | Dataset | Arrays | Iterable[Any] | Callable[[], Iterable[Any]]
"""What can be fitted: a tensor, an array or a memory map [n, ...]; a map-style data set; anything that gives items or
batches of them (or tuples that begin with these) every time that it is iterated over; a function that returns such."""

BLOCK = 2**22
"""How many numbers are centred at once."""
STREAM_ROWS = 512
"""How many items of a stream are read at once, at most."""
STREAM_BYTES = 2**26
"""How much of a stream is read at once, at most."""
HELD = 2**29
"""A stream of so many bytes is held in memory where that saves passes."""

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class Rows:
    """Items as rows of numbers, visited block by block as often as it takes.

    A stream is read again at every visit; noise that belongs to a data set is the same at each. Half precision is
    computed in single.
    """

    def __init__(self, data: Data, shape: tuple[int, ...], seed: int):
        if isinstance(data, Arrays) and data.noise is None:
            data = data.x
        if isinstance(data, np.ndarray) and not isinstance(data, np.memmap):
            data = torch.from_numpy(np.require(data, requirements="W"))
        self.data: Any = data
        self.shape, self.seed = shape, seed
        self.width = math.prod(shape)
        self.in_memory = isinstance(data, Tensor)
        sized = hasattr(data, "__len__") and hasattr(data, "__getitem__")
        self.listed = sized and not isinstance(data, (IterableDataset, list, tuple))
        self.count: int | None = len(data) if self.listed else None  # type: ignore[arg-type]
        """How many items there are, None where only a visit tells."""
        self.once = not self.listed and isinstance(data, Iterator)
        self.advance: Callable[[int], None] = lambda items: None
        """Told of the items of every block."""
        self.first, self.like = "", torch.empty(0)
        """A hash of the first items, and an empty tensor of their type and device, once they have been seen."""
        self.begun: tuple[list[Tensor], Iterator[Tensor]] | None = None

    def __iter__(self) -> Iterator[Tensor]:
        for block in self._blocks():
            self._note(block)
            yield block
            self.advance(len(block))

    def peek(self) -> None:
        """See the first items, unless a visit has; the next visit begins with them."""
        if not self.first:
            stream = self._blocks()
            block = next(stream, None)
            self.begun = [] if block is None else [block], stream
            if block is not None:
                self._note(block)

    def _note(self, block: Tensor) -> None:
        if not self.first:
            self.first = hashlib.sha256(block[:16].cpu().contiguous().numpy().tobytes()).hexdigest()
            self.like = block.new_empty(0)

    def matrix(self) -> Tensor:
        """All items of a tensor, shape [n, d]; `flatten` copies nothing where the items are contiguous."""
        return self._flat(self.data)

    def hold(self) -> "Rows | None":
        """The rows as one tensor, read in one visit, or None where they are more than `HELD` bytes.

        What was read in vain is not lost: the next visit goes on from there.
        """
        read, size, stream = [], 0, self._blocks()
        for block in stream:
            read.append(block if self.listed else block.clone())  # a source may write its next one over it
            size += block.numel() * block.element_size()
            if size > HELD:
                self.begun = read, stream
                return None
            self.advance(len(block))
        whole = read[0].new_empty(sum(map(len, read)), self.width) if read else torch.empty(0, self.width)
        end = len(whole)
        while read:  # from the end, and freed at once: the rows are never there twice
            block = read.pop()
            whole[end - len(block) : end] = block
            end -= len(block)
        return Rows(whole.unflatten(1, self.shape), self.shape, self.seed)

    def _blocks(self) -> Iterator[Tensor]:
        return (block for block in self._read() if len(block))

    def _read(self) -> Iterator[Tensor]:
        if self.begun is not None:
            (read, rest), self.begun = self.begun, None
            while read:
                yield read.pop(0)
            yield from rest
            return
        if self.in_memory:
            yield from self.matrix().split(max(64, BLOCK // self.width))
            return
        at_once = max(1, min(STREAM_ROWS, STREAM_BYTES // (4 * self.width)))
        if isinstance(self.data, np.memmap):
            for start in range(0, len(self.data), at_once):
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing writes
                    block = torch.from_numpy(np.asarray(self.data[start : start + at_once]))
                yield self._flat(block)
                if self.data.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
                    # The pages count as the process's own until the system wants them back.
                    self.data._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
        elif self.listed:
            for batch in batches(self.data, at_once, torch.Generator().manual_seed(self.seed)):
                yield self._flat(_first(batch))
        else:
            yield from self._gathered(at_once)

    def _gathered(self, at_once: int) -> Iterator[Tensor]:
        """The items of an iterable in blocks of one size, however it hands them out."""
        waiting: list[Tensor] = []
        count = 0
        for element in self.data() if callable(self.data) else self.data:
            x = torch.as_tensor(_first(element))
            part = self._flat(x[None] if tuple(x.shape) == self.shape else x)
            for rows in part.split(at_once):
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


def _first(element: Any) -> Any:
    return element[0] if isinstance(element, (tuple, list)) else element


class Processes:
    """The processes that fit together, each with its own share of the data: those of torchrun, or this one alone."""

    def __init__(self) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        self.count = distributed.get_world_size() if together else 1
        self.main = not together or distributed.get_rank() == 0
        nccl = self.count > 1 and "nccl" in distributed.get_backend()
        self.device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in all of them, in the memory of `tensor`."""
        return self._send(tensor, distributed.all_reduce)

    def from_main(self, tensor: Tensor) -> Tensor:
        """The main process's tensor in the memory of those of all others."""
        return self._send(tensor, lambda sent: distributed.broadcast(sent, 0))

    def largest(self, *numbers: float) -> list[float]:
        """The largest of each number over the processes."""
        found = torch.tensor(numbers, dtype=torch.float64)
        return self._send(found, lambda sent: distributed.all_reduce(sent, distributed.ReduceOp.MAX)).tolist()

    def run(self, work: Callable[[], Result]) -> Result:
        """What `work` returns in this process; where it fails in one, it fails in all, so that none waits for ever."""
        if self.count == 1:
            return work()
        try:
            result, error = work(), None
        except Exception as raised:
            result, error = None, raised
        [failed] = self.largest(error is not None)
        if error is not None:
            raise error
        if failed:
            raise RuntimeError("another process of this fit has failed: its message says why")
        return result  # type: ignore[return-value]

    def _send(self, tensor: Tensor, send: Callable[[Tensor], Any]) -> Tensor:
        if self.count == 1:
            return tensor
        sent = tensor.to(self.device).contiguous()
        send(sent)
        return tensor if sent is tensor else tensor.copy_(sent)


class Report:
    """One line on what a fit is going to do, for the log, and a progress bar where it is asked for."""

    def __init__(self, progress: bool):
        columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[items]}")]
        self.bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not progress)
        self.task = self.bar.add_task("reading", total=None, items="")
        self.passes, self.expected, self.seen = 0, 1, 0
        self.items: int | None = None
        self.started = time.monotonic()

    def __enter__(self) -> "Report":
        self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.stop()

    def plan(self, rows: Rows, items: int | None, solver: str, components: int | float, expected: int) -> None:
        """Say the route, the passes and the bytes."""
        size = "an unknown number of" if items is None else f"{items:,}"
        data = "" if items is None else f" over {4 * items * rows.width / 1e9:.2g} GB"
        number = 1 if rows.in_memory and solver in ("svd", "gram") else expected
        passes = f"{'about ' if number > 1 else ''}{number} pass{'es' if number > 1 else ''}"
        where = "in memory" if rows.in_memory else "streamed"
        line = (
            f"PCA of {size} items of {rows.width:,} numbers, components {components}: {solver}, {passes}{data}, {where}"
        )
        _log.info(line)
        if not self.bar.disable:
            self.bar.console.print(line, soft_wrap=True)
        self.expected = expected

    def begin(self, number: int, items: int | None) -> None:
        """A pass begins; `items` are those of this process."""
        self.passes, self.seen, self.items = number, 0, items
        self.expected = max(self.expected, number)
        about = "about " if self.expected > 1 else ""
        self.bar.update(self.task, description=f"pass {number} of {about}{self.expected}")
        self.advance(0)

    def advance(self, items: int) -> None:
        """So many items more have been read."""
        self.seen += items
        if self.bar.disable:
            return
        if self.items is None:
            self.bar.update(self.task, completed=self.seen, total=None, items=f"{self.seen:,} items")
            return
        done = (self.passes - 1) * self.items + self.seen
        text = f"{self.seen:,}/{self.items:,} items"
        self.bar.update(self.task, completed=done, total=self.expected * self.items, items=text)


class Saved:
    """The state of a fit after its last finished pass, in a folder; without a folder, nothing."""

    def __init__(self, folder: str | Path | None, arguments: Mapping[str, Any]):
        self.folder = None if folder is None else Path(folder)
        self.arguments: dict[str, Any] = json.loads(json.dumps(arguments))

    def load(self, rows: Rows) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The numbers and the tensors of the state, if there is one.

        Raises `CheckpointError` where it belongs to other arguments or to data that begin with other items.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folders = sorted(self.folder.glob("fit-*")) if self.folder is not None else []
        if not folders:
            return None
        newest = folders[-1]
        try:
            state = json.loads((newest / "state.json").read_text(encoding="utf-8"))
            then, first = dict(state["arguments"]), state["first"]
            tensors = load_file(newest / "state.safetensors")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"{newest} holds no readable state of a fit: {error}; remove it") from error
        changed = [name for name in then.keys() | self.arguments.keys() if then.get(name) != self.arguments.get(name)]
        if changed:
            changes = [f"{name} was {then.get(name)}, is {self.arguments.get(name)}" for name in sorted(changed)]
            raise CheckpointError(f"{newest} belongs to another fit ({', '.join(changes)}); choose another folder")
        rows.peek()
        if first != rows.first:
            raise CheckpointError(
                f"{newest} belongs to other data: these begin with other items; choose another folder, or remove it "
                "if the data come in another order every time"
            )
        return state, tensors

    def save(self, rows: Rows, passes: int, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a state aside and rename it, then remove the one before: a kill at any moment leaves a whole one."""
        if self.folder is None:
            return
        from safetensors.torch import save_file

        final = self.folder / f"fit-{passes:04d}"
        part = self.folder / f".{final.name}.part"
        for stale in self.folder.glob(".fit-*.part"):
            shutil.rmtree(stale)
        part.mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part / "state.safetensors")
        state = {"arguments": self.arguments, "first": rows.first, "passes": passes, **numbers}
        (part / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(part, final)
        for old in self.folder.glob("fit-*"):
            if old != final:
                shutil.rmtree(old)
