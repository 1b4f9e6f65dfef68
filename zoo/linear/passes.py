"""What a fit sums up in passes over the rows of all processes, and its state after each pass.

Blocks are centred before they are multiplied, so that a mean far from zero costs no digits, and the centred data are
never held whole.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modalities import MediaError
from modalities.files import write_aside
from zoo.checkpoint import CheckpointError
from zoo.distributed import all_max, all_or_none, all_sum, broadcast, is_main
from zoo.linear.dense import Scratch, mean_of, product
from zoo.linear.stream import RowReader
from zoo.moments import Moments
from zoo.progress import track


class ScatterProduct:
    """The scatter matrix times directions [d, columns], without the matrix: products as precise as the data, sums in
    double precision."""

    def __init__(self, directions: Tensor):
        self.directions = directions
        self.total = torch.zeros(directions.shape[::-1], dtype=torch.float64, device=directions.device)
        """Transposed, shape [columns, d]: so the products are a third faster."""

    def add(self, centred: Tensor) -> None:
        """Take in rows that are centred on their own mean or on that of all."""
        centred = centred.to(self.directions)
        part = product(product(centred, self.directions).T, centred)
        for total, more in zip(self.total, part, strict=True):  # by rows: no copy of all in double precision
            total += more

    def spread(self, step: Tensor, weight: float) -> None:
        """Add weight * step step^T to the scatter, as `Moments.spread` does."""
        self.total.addr_((step.to(self.directions) @ self.directions).double(), step, alpha=weight)


def block_moments(block: Tensor, scatter: bool, scratch: Scratch) -> tuple[Moments, Tensor]:
    """The moments of a block of rows, with the scatter or the total of squares; and the rows less their mean, which
    stand in the scratch memory."""
    mean = mean_of(block)
    centred, rest = scratch.centred(block, mean.to(block)), mean - mean.to(block)
    if rest.square().sum() > 1e-9 * centred[:16].square().sum(1).mean():  # the mean is far from zero, and rounded
        centred -= rest.to(centred)
    if scatter:
        return Moments(len(block), mean, product(centred.T, centred).double()), centred
    return Moments(len(block), mean, torch.linalg.vector_norm(centred, dim=1).double().square().sum()), centred


class Passes:
    """The passes of a fit over the rows of all processes, each with its own share, for k components, or all if k is 0.
    The state after a pass goes to the folder `checkpoint`, with the `arguments` of the fit."""

    def __init__(self, rows: RowReader, k: int, checkpoint: str | Path | None, arguments: Mapping[str, object]):
        self.rows, self.k, self.started = rows, k, time.monotonic()
        first = all_or_none(rows.peek)
        double = all_max(first is not None and first.dtype == torch.float64)
        like = torch.empty(0) if first is None else first.new_empty(0)
        self.like = like.to(torch.float64 if double else torch.float32)
        """An empty tensor with the type of the items of all processes, and the device of this one's."""
        self.file = None if checkpoint is None else Path(checkpoint) / "fit.safetensors"
        if self.file is not None and is_main():
            items = b"" if first is None else first[:16].cpu().contiguous().numpy().tobytes()
            known = {**arguments, "hash of the first items": hashlib.sha256(items).hexdigest()[:16]}
            self.arguments = json.loads(json.dumps(known))

    def read(self, work: Callable[[Tensor], None], number: int, moments: Moments | None = None) -> None:
        """Hand every block to `work`. Raises `MediaError` for another number of items than the moments are of."""

        def visit() -> int:
            count = 0
            for block in track(self.rows, f"pass {number}", self.rows.count, len):
                work(block)
                count += len(block)
            return count

        count = int(all_sum(torch.tensor(all_or_none(visit))))
        if moments is not None and count != moments.count:
            raise MediaError(
                f"the data gave {count} items in pass {number}, but {moments.count} in the first: "
                "they must be the same in every pass"
            )

    def first(self, scatter: bool, scatter_product: ScatterProduct | None = None) -> Moments:
        """The first pass: the moments of all items of all processes, and the product that goes with their scatter."""
        d, scratch = self.rows.width, Scratch()
        mean = torch.zeros(d, dtype=torch.float64, device=self.like.device)
        moments = Moments(0, mean, mean.new_zeros((d, d) if scatter else ()))

        def work(block: Tensor) -> None:
            part, centred = block_moments(block, scatter, scratch)
            step, weight = moments.merge(part)
            if scatter_product is not None:
                scatter_product.add(centred)
                scatter_product.spread(step, weight)

        self.read(work, 1)
        step, weight = moments.all_reduce()
        if scatter_product is not None:
            scatter_product.spread(step, weight)
        return self.check(moments)

    def check(self, moments: Moments) -> Moments:
        """The moments again; ValueError for too few items, equal ones, and more components than there are."""
        count, most = moments.count, min(moments.count - 1, self.rows.width)
        if count < 2:
            raise ValueError(f"principal components need at least 2 items, got {count}")
        # The mean of equal items may be off by a rounding error of double precision for each of them.
        rounding = count * torch.finfo(torch.float64).eps * torch.linalg.vector_norm(moments.mean).item()
        if moments.total <= count * rounding**2:
            raise ValueError(f"all {count} items are equal: they have no principal components")
        self.k = self.k or most
        if self.k > most:
            raise ValueError(f"{count} items of {self.rows.width} dimensions have 1 to {most} components, got {self.k}")
        return moments

    def share(self, moments: Moments, axes: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Moments, Tensor, Tensor]:
        """The moments, and to every process what `axes` gives in the main one: eigenvalues, and vectors as rows."""
        others = moments.mean.new_empty(self.k), self.like.new_empty(self.k, self.rows.width)
        values, basis = all_or_none(lambda: axes() if is_main() else others)
        return moments, broadcast(values), broadcast(basis.to(self.like).contiguous())

    def save(self, moments: Moments, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the state after a pass, in the main process; a kill at any moment leaves a whole one."""
        if self.file is None or not is_main():
            return
        numbers = [moments.count, moments.total, number, time.monotonic() - self.started]
        packed = torch.cat([moments.mean.new_tensor(numbers), moments.mean])
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with write_aside(self.file) as part:
            save_file({"moments": packed, **tensors}, part, {"arguments": json.dumps(self.arguments)})

    def restore(self) -> tuple[Moments, int, dict[str, Tensor]] | None:
        """What was saved, the tensors in the main process alone; `CheckpointError` for the state of another fit."""
        tensors = all_or_none(lambda: self._load() if is_main() else {})
        packed = broadcast(tensors.pop("moments", torch.zeros(4 + self.rows.width, dtype=torch.float64)))
        count, total, number, seconds = packed[:4].tolist()
        if not count:
            return None
        self.started -= seconds
        moments = self.check(Moments(int(count), packed[4:].to(self.like.device), packed.new_tensor(total)))
        return moments, int(number), {name: tensor.to(self.like.device) for name, tensor in tensors.items()}

    def _load(self) -> dict[str, Tensor]:
        if self.file is None or not self.file.exists():
            return {}
        try:
            with safe_open(self.file, "pt") as file:
                then = dict(json.loads(file.metadata()["arguments"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"{self.file} holds no readable state of a fit: {error}; remove it") from error
        names = sorted(then.keys() | self.arguments.keys())
        pairs = [(name, then.get(name), self.arguments.get(name)) for name in names]
        changes = ", ".join(f"{name} was {was}, is {now}" for name, was, now in pairs if was != now)
        if changes:
            raise CheckpointError(f"{self.file} is of another fit ({changes}); choose another folder, or remove it")
        return tensors
