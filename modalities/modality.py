"""The contract of an adapter: one class a medium, between native files, tensors and pictures."""

import dataclasses
import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Generator, Tensor
    from torch.utils.data import Dataset

KINDS = {
    "points": "modalities.points:Points",
    "signals": "modalities.signals:Signals",
    "images": "modalities.images:Images",
    "latents": "modalities.latents:Latents",
    "meshes": "modalities.meshes:Meshes",
}
"""Every medium's name and its adapter, as "module:Class", imported when it is needed."""


class MediaError(ValueError):
    """A file or an array that an adapter cannot take. The message names it and says what was expected and what came."""


class Modality:
    """What a medium must offer; adapters are frozen dataclasses whose fields are JSON scalars.

    The fields together with `kind` are stored in a model's config.json, so that a loaded model can write its own
    samples to files. Items are tensors of the documented `shape` and units; a batch has one more leading dimension.
    """

    kind: ClassVar[str]
    suffix: ClassVar[str] = ""
    """Of the file of one item, such as ".png"; empty where items have no files."""
    together: ClassVar[bool] = False
    """Whether a batch is one file and one plot (a table of points), rather than a file and a tile for each item."""
    sheet: ClassVar[int] = 36
    """How many samples make a good picture."""
    draws: ClassVar[bool] = False
    """Whether samples are shown as draws from the likelihood, because its noise belongs to them, or as its means."""
    metrics: ClassVar[tuple[str, ...]] = ()
    """What can be measured of this medium besides what suits every one: "SSIM"; "distances"; "RMSE", the error
    of reconstructions in the medium's unit, in the place of the squared one."""
    task: ClassVar[str | None] = None
    """The Hugging Face Hub's name of what a model of this medium does, if it has one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one item, without the batch dimension."""
        raise TypeError(f"{type(self).__name__} does not say the shape of its items")

    @property
    def levels(self) -> int | None:
        """How many values one element takes, evenly spaced over [-1, 1]; None where elements are real numbers."""
        return None

    @property
    def steps(self) -> int:
        """How many items a walk through a latent space is shown with; 0 where there is nothing to see of one."""
        return 9

    def load(self, path: str | Path) -> "Tensor":
        """Read one item, a tensor of `shape`. Raises `MediaError` that names the file and the reason."""
        raise TypeError(f"{type(self).__name__} cannot read files")

    def save(self, x: "Tensor", path: str | Path) -> None:
        """Write an item or a batch; the suffix of `path` picks the format."""
        raise TypeError(f"{type(self).__name__} cannot write files")

    def show(self, x: "Tensor", columns: int | None = None) -> "Image":
        """A picture of a batch, for people."""
        raise TypeError(f"{type(self).__name__} cannot draw")

    def present(self, x: "Tensor", path: str | Path, columns: int | None = None) -> list[Path]:
        """Write what a person should meet of a batch, and return the files, what is looked at first in front.

        `path` has no suffix: a picture becomes "path.png".
        """
        picture = Path(f"{path}.png")
        picture.parent.mkdir(parents=True, exist_ok=True)
        self.show(x, columns).save(picture)
        return [picture]

    def dataset(self, source: str | Path, split: str = "train", labels: bool = False) -> "Dataset":
        """A named set or a folder of the user's own files: map-style, of items, with `labels` of (item, label)."""
        raise TypeError(f"{type(self).__name__} has no data sets")

    def check(self, x: "Tensor") -> "Tensor":
        """Return `x` if it is a batch of this medium; raise `MediaError` on another shape, on NaN and on infinities."""
        import torch

        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            raise MediaError(f"{self.kind} are floating-point tensors, got {getattr(x, 'dtype', type(x).__name__)}")
        if tuple(x.shape[1:]) != self.shape or x.ndim != len(self.shape) + 1:
            expected = ", ".join(["batch", *map(str, self.shape)])
            raise MediaError(f"expected {self.kind} of shape [{expected}], got {list(x.shape)}")
        if not torch.isfinite(x).all():
            raise MediaError(f"{self.kind} hold NaN or infinite values; remove or replace them first")
        return x

    def config(self) -> dict[str, Any]:
        """The JSON form of this adapter: its kind and its fields."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {"kind": self.kind} | {field.name: getattr(self, field.name) for field in fields}


def from_config(config: dict[str, Any]) -> Modality:
    """Rebuild the adapter that `Modality.config` described.

    Raises ValueError for a medium that this package does not have and for fields that the adapter does not have.
    """
    fields = dict(config)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"unknown medium {kind!r}; this version knows {', '.join(sorted(KINDS))}")
    module, name = KINDS[kind].split(":")
    adapter = getattr(importlib.import_module(module), name)
    try:
        return adapter(**fields)
    except TypeError as error:
        raise ValueError(f"the configuration of {kind} does not fit: {error}") from error


def fetch(dataset: "Dataset", indices: Sequence[int]) -> tuple[Any, list[MediaError]]:
    """The batch of these items, and the errors of the broken files among them.

    A broken item is replaced by a good one of the same batch, so that batches keep their size. The batch is None where
    every item is broken. A data set that holds its items in memory may offer `take(indices)` to answer at once.
    """
    from torch.utils.data import default_collate

    if hasattr(dataset, "take"):
        return dataset.take(indices), []
    items, errors = [], []
    for index in indices:
        try:
            items.append(dataset[index])
        except MediaError as error:
            errors.append(error)
    if not items:
        return None, errors
    good = len(items)
    items += [items[i % good] for i in range(len(indices) - good)]
    return default_collate(items), errors


def batches(dataset: "Dataset", batch_size: int, generator: "Generator | None" = None) -> Iterator[Any]:
    """Go once through a data set in order, in batches, for fitting and for evaluation.

    Broken files are left out, each named in a warning and counted in a last one. Noise that belongs to the data set
    (binarisation, dequantisation, flips: its `randomise`) is drawn from `generator`.
    """
    import torch

    broken = 0
    for start in range(0, len(dataset), batch_size):  # type: ignore[arg-type]
        indices = range(start, min(start + batch_size, len(dataset)))  # type: ignore[arg-type]
        batch, errors = fetch(dataset, indices)
        for error in errors:
            warnings.warn(f"skipped: {error}", stacklevel=2)
        broken += len(errors)
        if batch is None:
            continue
        kept = len(indices) - len(errors)
        batch = batch[:kept] if isinstance(batch, torch.Tensor) else [part[:kept] for part in batch]
        yield randomise(dataset, batch, generator)
    if broken:
        warnings.warn(f"skipped {broken} broken files of {len(dataset)}", stacklevel=2)  # type: ignore[arg-type]
    if broken == len(dataset):  # type: ignore[arg-type]
        raise MediaError(f"not one of the {broken} files could be read")


def randomise(dataset: "Dataset", batch: Any, generator: "Generator | None") -> Any:
    """Apply the noise that belongs to a data set, if it has any, to the items of a batch (labels stay as they are)."""
    if not hasattr(dataset, "randomise"):
        return batch
    if isinstance(batch, (tuple, list)):
        return [dataset.randomise(batch[0], generator), *batch[1:]]
    return dataset.randomise(batch, generator)


class Arrays:
    """A data set in memory: items, and labels if there are any. A map-style data set with a fast `take`.

    With `noise`, a function of a batch and a generator, every visit to an item sees fresh noise.
    """

    def __init__(
        self,
        x: "Tensor",
        labels: "Tensor | None" = None,
        noise: "Callable[[Tensor, Generator | None], Tensor] | None" = None,
    ):
        if labels is not None and len(labels) != len(x):
            raise MediaError(f"expected one label an item, got {len(x)} items and {len(labels)} labels")
        self.x, self.labels, self.noise = x, labels, noise

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index] if self.labels is None else (self.x[index], self.labels[index])

    def take(self, indices: Sequence[int]) -> Any:
        """The batch of these items (and their labels)."""
        chosen = list(indices)
        return self.x[chosen] if self.labels is None else (self.x[chosen], self.labels[chosen])

    def randomise(self, x: "Tensor", generator: "Generator | None") -> "Tensor":
        """Fresh noise on a batch."""
        return x if self.noise is None else self.noise(x, generator)
