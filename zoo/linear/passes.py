"""What one pass over the data sums up, a block of rows at a time, over all processes."""

import dataclasses
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from modalities import MediaError
from zoo.linear import streaming
from zoo.linear.dense import Room, gram, numpy_threads, product
from zoo.linear.streaming import Processes, Report, Rows, Saved


@dataclasses.dataclass
class Moments:
    """The count, the mean and the summed squares of deviations of some rows; those of two sets of rows merge.

    Source: Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
    """

    count: int
    mean: Tensor
    """Shape [d], float64."""
    squares: float
    """The squared deviations summed over items and dimensions: the trace of the scatter."""
    scatter: Tensor | None
    """The sum of (x - mean)(x - mean)^T, shape [d, d], float64, where it is wanted."""
    like: Tensor
    """An empty tensor with the type and the device of the rows."""

    @classmethod
    def of(cls, block: Tensor, solver: str, room: Room) -> "Moments":
        """What a solver needs of a block of rows, shape [rows, d]; the Gram matrix will tell the squares by itself.

        The centred rows stand in the room afterwards, but for the Gram matrix.
        """
        mean = _mean(block)
        if not torch.isfinite(mean).all():
            raise MediaError("the data hold NaN or infinite values; remove or replace them first")
        scatter, squares = None, 0.0
        if solver != "gram":
            centred = room.centred(block, mean)
            mean = mean.double()
            squares = _squares(centred)
            # Where all rows are nearly equal, the rounding of the mean shows: find what it is off by.
            if squares < len(block) * 1e-4 * mean.square().sum():
                rest = _mean(centred)
                mean = mean + rest
                squares = _squares(centred.sub_(rest))
            if solver == "covariance":
                scatter = gram(centred.T).double()
                squares = scatter.trace().item()
        return cls(len(block), mean.double(), squares, scatter, block.new_empty(0))

    def merge(self, other: "Moments") -> tuple[Tensor, float]:
        """Take in the moments of other rows.

        Returns s and w such that the scatter of all is the sum of both and of w s s^T.
        """
        count = self.count + other.count
        step = other.mean - self.mean
        weight = self.count * other.count / count
        if self.scatter is not None and other.scatter is not None:
            self.scatter.add_(other.scatter).addr_(step, step, alpha=weight)
        self.squares += other.squares + weight * step.square().sum().item()
        self.mean = self.mean + step * (other.count / count)
        self.count = count
        return step, weight


class Image:
    """The scatter matrix times some directions, without the matrix: products as precise as the data, sums in double."""

    def __init__(self, directions: Tensor):
        self.directions = directions
        self.total = torch.zeros(directions.shape[::-1], dtype=torch.float64, device=directions.device)
        """Transposed, shape [directions, d]: so the products are a third faster."""

    def add(self, centred: Tensor) -> None:
        """Take in rows that are centred on their own mean or on that of all."""
        centred = centred.to(self.directions)
        part = product(product(centred, self.directions).T, centred)
        at_once = max(1, streaming.BLOCK // part.shape[1])
        for total, more in zip(self.total.split(at_once), part.split(at_once), strict=True):
            total += more

    def shift(self, step: Tensor, weight: float) -> None:
        """What `Moments.merge` adds to the scatter."""
        self.total.addr_((step.to(self.directions) @ self.directions).double(), step, alpha=weight)


@dataclasses.dataclass
class Fit:
    """What the routes share."""

    rows: Rows
    components: int | float
    together: Processes
    report: Report
    saved: Saved
    before: float = 0.0
    """Seconds that the pieces before an interruption took."""

    @property
    def seconds(self) -> float:
        """What the fit has taken so far."""
        return self.before + time.monotonic() - self.report.started

    def visit(self, work: Callable[[Tensor], None], number: int, moments: Moments | None = None) -> None:
        """A pass: hand every block of this process to `work`. With the moments of all items, their count is checked."""
        self.report.begin(number, self.rows.count)

        def read() -> int:
            count = 0
            for block in self.rows:
                work(block)
                count += len(block)
            if self.rows.count is None:
                self.rows.count = count
            return count

        with numpy_threads():
            count = self.together.run(read)
        if moments is not None:
            count = int(self.together.sum(torch.tensor(float(count), dtype=torch.float64)).item())
            if count != moments.count:
                raise MediaError(
                    f"the data gave {count} items in pass {number}, but {moments.count} in the first: "
                    "they must be the same in every pass"
                )

    def gather(self, solver: str, image: "Image | None" = None) -> Moments:
        """The first pass: the moments of all items of all processes; an image is that of the directions it has."""
        found: list[Moments] = []
        room = Room()

        def work(block: Tensor) -> None:
            part = Moments.of(block, solver, room)
            if image is not None:
                image.add(room.last)
            if not found:
                found.append(part)
                return
            step, weight = found[0].merge(part)
            if image is not None:
                image.shift(step, weight)

        self.visit(work, 1)
        moments = self.share(found[0] if found else None, solver, image)
        if solver != "gram":
            refuse_constant(moments)
        self.check(moments)
        return moments

    def share(self, own: Moments | None, solver: str, image: "Image | None") -> Moments:
        """The moments of all processes together, from those of each, None for one that has no items."""
        d, together = self.rows.width, self.together
        if together.count == 1:
            _refuse_few(0 if own is None else own.count)
            return own  # type: ignore[return-value]
        like = self.start()
        if own is None:
            scatter = torch.zeros(d, d, dtype=torch.float64) if solver == "covariance" else None
            own = Moments(0, torch.zeros(d, dtype=torch.float64), 0.0, scatter, like)
        totals = together.sum(torch.cat([own.mean.new_tensor([own.count]), own.count * own.mean]))
        count = int(totals[0].item())
        _refuse_few(count)
        mean = totals[1:] / count
        step = own.mean - mean
        squares = own.squares + own.count * step.square().sum().item()
        if own.scatter is not None:
            together.sum(own.scatter.addr_(step, step, alpha=own.count))
        if image is not None:
            image.shift(step, own.count)
        squares = together.sum(mean.new_tensor([squares])).item()
        return Moments(count, mean, squares, own.scatter, like)

    def start(self) -> Tensor:
        """An empty tensor with the type of the items of all processes, and the device of this one's."""
        self.together.run(self.rows.peek)
        [double] = self.together.largest(bool(self.rows.first) and self.rows.like.dtype == torch.float64)
        return self.rows.like.to(torch.float64 if double else torch.float32)

    def save(self, moments: Moments, passes: int, tensors: Mapping[str, Tensor], done: bool = True) -> None:
        """Keep the state after a pass."""
        numbers = {"count": moments.count, "squares": moments.squares, "done": done, "seconds": self.seconds}
        self.saved.save(self.rows, passes, numbers, {"mean": moments.mean, **tensors})

    def restore(self) -> tuple[Moments, int, bool, dict[str, Tensor]] | None:
        """The moments of all items, the passes that are done, whether these were all, and in the main process the
        tensors, where an earlier fit was saved."""
        found = self.together.run(lambda: self.saved.load(self.rows) if self.together.main else None)
        [there] = self.together.largest(found is not None)
        if not there:
            return None
        names = ("count", "squares", "passes", "done", "seconds")
        state, tensors = found or (dict.fromkeys(names, 0.0), {})
        numbers = torch.tensor([float(state[name]) for name in names], dtype=torch.float64)
        count, squares, passes, done, self.before = self.together.from_main(numbers).tolist()
        like = self.start()
        mean = tensors.get("mean", torch.zeros(self.rows.width, dtype=torch.float64))
        mean = self.together.from_main(mean).to(like.device)
        return Moments(int(count), mean, squares, None, like), int(passes), bool(done), tensors

    def check(self, moments: Moments) -> None:
        """Refuse more components than there can be."""
        most = min(moments.count - 1, self.rows.width)
        if isinstance(self.components, int) and not 1 <= self.components <= most:
            raise ValueError(
                f"{moments.count} items of {self.rows.width} dimensions have 1 to {most} components, "
                f"got {self.components}"
            )

    def number(self, moments: Moments) -> int:
        """How many components to look for."""
        most = min(moments.count - 1, self.rows.width)
        return self.components if isinstance(self.components, int) else most


def _refuse_few(count: int) -> None:
    if count < 2:
        raise ValueError(f"principal components need at least 2 items, got {count}")


def refuse_constant(moments: Moments) -> None:
    """Raise ValueError where all items are equal but for rounding."""
    rounding = torch.finfo(moments.like.dtype).eps * torch.linalg.vector_norm(moments.mean).item()
    if moments.squares <= moments.count * rounding**2:
        raise ValueError(f"all {moments.count} items are equal: they have no principal components")


def _mean(block: Tensor) -> Tensor:
    return torch.from_numpy(block.numpy().mean(0)) if block.device.type == "cpu" else block.mean(0)


def _squares(centred: Tensor) -> float:
    return torch.linalg.vector_norm(centred, dim=1).double().square().sum().item()
