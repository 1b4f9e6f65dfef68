"""The contract of an adapter: one class a medium, between native files, tensors and pictures."""

import dataclasses
import importlib
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from modalities.fields import check_types
from modalities.files import write_aside

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from modalities.data import Items

KINDS = {
    "points": "modalities.points:Points",
    "images": "modalities.images:Images",
    "signals": "modalities.signals:Signals",
    "latents": "modalities.latents:Latents",
    "meshes": "modalities.meshes:Meshes",
}
"""Every medium's name and its adapter, as "module:Class", imported when it is needed."""


class MediaError(ValueError):
    """A file or an array that an adapter cannot take. The message names it and says what was expected and what came."""

    def __init__(self, message: str) -> None:
        # The name of a file may hold what a terminal would obey, and what no terminal can print.
        escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
        super().__init__(escaped)


def check_file(path: str | Path) -> None:
    """Raise `MediaError` where there is no regular file: a pipe or a device could keep its reader for ever."""
    if not Path(path).exists():
        raise MediaError(f"{path} does not exist")
    if not Path(path).is_file():
        kind = "a folder" if Path(path).is_dir() else "no regular file"
        raise MediaError(f"{path} cannot be read: it is {kind}")


class Modality:
    """What a medium must offer; adapters are frozen dataclasses whose fields are JSON scalars and tensors.

    The fields together with `kind` are stored with a model, so that a loaded model can write its own samples to files:
    scalars in config.json, tensors (a mesh's triangles) beside the weights. Items are tensors of the documented `shape`
    and units; a batch has one more leading dimension. Items of a ragged medium differ in length along their last axis,
    whose size in `shape` is None; a batch that leaves a model is then a list of items.
    """

    kind: ClassVar[str]
    """The name of the medium. A class of the user's own program with a new one is known from then on."""
    ragged: ClassVar[bool] = False
    """Whether items differ in length along the last axis."""
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

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        kind = cls.__dict__.get("kind")
        if kind is not None and kind not in KINDS:
            OWN[kind] = cls

    def __post_init__(self) -> None:
        """Refuse fields of another type than the adapter says. An adapter that checks more calls this first."""
        with suppress(NameError):  # types that a program's own adapter does not import
            check_types(type(self), self._fields())

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one item, without the batch dimension."""
        raise TypeError(f"{type(self).__name__} does not say the shape of its items")

    @property
    def grid(self) -> tuple[int, ...]:
        """The axes along which neighbours lie, (time) or (height, width) or (frames, height, width): those after the
        channels. Empty for a vector, and where the elements lie on no grid: there, convolutions make no sense."""
        return self.shape[1:]

    @property
    def levels(self) -> int | None:
        """How many values one element takes, evenly spaced over [-1, 1]; None where elements are real numbers."""
        return None

    @property
    def steps(self) -> int:
        """How many items a walk through a latent space is shown with; 0 where there is nothing to see of one."""
        return 9

    @property
    def elements(self) -> int:
        """The number of elements of an item. Raises `MediaError` where items differ in length."""
        if self.ragged:
            raise MediaError(f"{self.kind} differ in length, and items of one size are needed here")
        return math.prod(self.shape)

    def load(self, path: str | Path) -> "Tensor":
        """Read one item, a tensor of `shape`. Raises `MediaError` that names the file and the reason."""
        raise TypeError(f"{type(self).__name__} cannot read files")

    def save(self, x: "Tensor", path: str | Path) -> None:
        """Write an item or a batch; the suffix of `path` picks the format."""
        raise TypeError(f"{type(self).__name__} cannot write files")

    def save_apart(self, x: "Tensor", path: Path) -> bool:
        """Write every item of a batch to a numbered file in the folder `path`; False, and nothing, where it has a
        suffix."""
        if path.suffix:
            return False
        for i, item in enumerate(self.check(x[None] if x.ndim == len(self.shape) else x)):
            self.save(item, path / f"{i:05d}{self.suffix}")
        return True

    def show(self, x: "Tensor", columns: int | None = None) -> "Image":
        """A picture of a batch, for people."""
        raise TypeError(f"{type(self).__name__} cannot draw")

    def present(self, x: "Tensor", path: str | Path, columns: int | None = None) -> list[Path]:
        """Write what a person should meet of a batch, and return the files, what is looked at first in front.

        `path` has no suffix: a picture becomes "path.png".
        """
        picture = Path(f"{path}.png")
        with write_aside(picture) as part:
            self.show(x, columns).save(part)
        return [picture]

    def dataset(
        self,
        source: str | Path,
        split: str = "train",
        labels: bool = False,
        *,
        classes: Sequence[str] | None = None,
        groups: str | None = None,
    ) -> "Items":
        """A named set or the user's own files, as a map-style data set of items, with `labels` of (item, label).

        What this package makes knows its `split`, the names of its `classes` in the order of their numbers (a tuple;
        None without labels), and its `groups` (one an item; None where not asked for).

        Arguments:
            classes: the names of all classes, as a trained model has them: labels are numbered in their order, also
                where the source lacks some of them.
            groups: what items must not share across splits, such as a person, a recording or a day: of a folder's
                files a regular expression, whose first parenthesis names the group; of a table a column; of an archive
                an array. Whole groups are for tests then, unless the source has splits of its own.

        Raises `MediaError` where there is no such source or split, or an item has no label, or another than `classes`.
        """
        raise TypeError(f"{type(self).__name__} has no data sets")

    @classmethod
    def suiting(cls, source: str | Path, **fields: Any) -> Self | None:
        """The adapter of a source's items, by its files and what the first of them hold; None where they are of another
        medium, as far as that can be seen.

        `fields` of the adapter are taken as they are; the others are guessed: see `guess`. Raises `MediaError` for a
        source that cannot be read.
        """
        return None

    def collate(self, items: "Sequence[Tensor]") -> "tuple[Tensor, Tensor | None]":
        """Items as a batch. Of a ragged medium they are padded at the end with zeros to the longest, and the second
        value holds their lengths, shape [batch]; else it is None. Raises `MediaError` where the shapes differ."""
        import torch
        from torch.nn.functional import pad

        if not self.ragged:
            return stack(items), None
        longest = max(item.shape[-1] for item in items)
        padded = [pad(item, (0, longest - item.shape[-1])) for item in items]
        return stack(padded), torch.tensor([item.shape[-1] for item in items])

    def check(self, x: "Tensor") -> "Tensor":
        """Return `x` if it is a batch of this medium; raise `MediaError` on another shape, on NaN and on infinities."""
        import torch

        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            what = f"{type(x).__name__} of {x.dtype}" if hasattr(x, "dtype") else type(x).__name__
            raise MediaError(f"{self.kind} are floating-point tensors, got {what}")
        fits = len(x.shape) == len(self.shape) + 1
        if not fits or any(size not in (None, found) for size, found in zip(self.shape, x.shape[1:], strict=True)):
            expected = ", ".join(["batch", *("time" if size is None else str(size) for size in self.shape)])
            raise MediaError(f"expected {self.kind} of shape [{expected}], got {list(x.shape)}")
        if not torch.compiler.is_exporting() and not torch.isfinite(x).all():
            raise MediaError(f"{self.kind} hold NaN or infinite values; remove or replace them first")
        return x

    def drawable(self, x: "Tensor") -> "Tensor":
        """A batch of this medium as float32 on the CPU; raises `MediaError` on what `check` refuses and on no item."""
        x = self.check(x).detach().float().cpu()
        if not len(x):
            raise MediaError("an empty batch has no picture")
        return x

    def check_range(self, x: "Tensor", most: float | None = None) -> "Tensor":
        """Return `x` if it is a batch of this medium in its range, which where it has levels is [-1, 1], and half a
        level around it, or [-most, most]. Raises `MediaError` on what `check` refuses and on values beyond; warns where
        nothing is below 0: such pictures look like those of another scale."""
        self.check(x)
        if self.levels is not None and x.numel():
            low, high = x.min().item(), x.max().item()
            if max(-low, high) > (most or 1 + 1 / (self.levels - 1)):
                raise MediaError(f"{self.kind} lie in [-1, 1]; got values from {low:.4g} to {high:.4g}: rescale them")
            if high > low >= 0:
                warnings.warn(f"all values lie in [{low:.4g}, {high:.4g}], and {self.kind} in [-1, 1]", stacklevel=3)
        return x

    def check_levels(self, x: "Tensor") -> "Tensor":
        """Return `x` if it is a batch of this medium whose values are its levels, as far as it has any: `levels` of
        them, evenly spaced over [-1, 1]. Raises `MediaError` on what `check` refuses and on values between or beyond.
        """
        self.check(x)
        if self.levels is not None:
            steps = (x.double() + 1) * (self.levels - 1) / 2
            if x.numel() and (((steps - steps.round()).abs() > 0.02).any() or x.abs().max() > 1.001):
                raise MediaError(
                    f"these {self.kind} have {self.levels} levels evenly spaced over [-1, 1]; got values between them "
                    f"or beyond, {x.min():.4g} to {x.max():.4g}: scale and quantise the data as their adapter does"
                )
        return x

    def config(self) -> dict[str, Any]:
        """The JSON form of this adapter: its kind and its scalar fields."""
        return {"kind": self.kind} | {name: x for name, x in self._fields().items() if not _is_tensor(x)}

    def arrays(self) -> "dict[str, Tensor]":
        """The fields that are tensors, which a checkpoint stores beside the weights."""
        return {name: x for name, x in self._fields().items() if _is_tensor(x)}

    def _fields(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]


def _is_tensor(value: object) -> bool:
    """Told without importing torch."""
    return hasattr(value, "is_floating_point")


OWN: dict[str, type[Modality]] = {}
"""The media of the user's own program."""


def adapter(kind: str) -> type[Modality]:
    """The class of a medium, by its name. Raises ValueError for one that is not known; it is never imported."""
    if kind in OWN:
        return OWN[kind]
    if kind not in KINDS:
        raise ValueError(f"unknown medium {kind!r}; this version knows {', '.join(sorted([*KINDS, *OWN]))}")
    module, name = KINDS[kind].split(":")
    return getattr(importlib.import_module(module), name)


def guess(source: str | Path, kind: str | None = None, **fields: Any) -> Modality:
    """The medium of a named set or of the user's own files, as each adapter's `suiting` sees it, or of one `kind`.

    Raises `MediaError` where no medium suits.
    """
    kinds = [kind] if kind else [*KINDS, *OWN]
    errors = []
    places = [Path(str(source)).expanduser(), Path(str(source).rpartition(":")[0]).expanduser()]
    there = any(place.exists() for place in places if place.name)
    for name in kinds:
        try:
            found = adapter(name).suiting(source, **fields)
        except MediaError as error:  # also where it is a named set of another medium
            errors.append(error)
        else:
            if found is not None:
                return found
    if errors and not there:
        raise MediaError(f"{str(source)!r} is neither a file or folder nor a named set of any medium")
    if errors:
        raise errors[0]
    tried = f"are no {kind}, as far as can be seen" if kind else f"suit none of {', '.join(kinds)}"
    raise MediaError(f"the items of {source} {tried}; give the medium and its size")


def stack(items: "Sequence[Tensor]") -> "Tensor":
    """Items as one tensor with the batch first. Raises `MediaError` that names the shapes where they differ."""
    import torch

    shapes = sorted({tuple(item.shape) for item in items})
    if len(shapes) > 1:
        raise MediaError(f"the items of a batch differ in shape: {list(shapes[0])} and {list(shapes[1])}")
    return torch.stack(list(items))


def from_config(config: Mapping[str, object], arrays: "Mapping[str, Tensor] | None" = None) -> Modality:
    """Rebuild the adapter that `Modality.config` and `Modality.arrays` described.

    Raises ValueError for a medium that this package does not have and for fields that the adapter does not have.
    """
    fields = {**config, **(arrays or {})}
    kind = fields.pop("kind", None)
    known = adapter(str(kind))
    try:
        return known(**fields)
    except TypeError as error:
        raise ValueError(f"the configuration of {kind} does not fit: {error}") from error
