"""Batches: what a data set gives, on its way to a model.

A data set is map-style and gives items `x` or pairs `(x, label)`. The medium collates items, the condition of a model
collates labels, and what arrives is a `Batch`.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from modalities.modality import MediaError, Modality, stack
from modalities.sources import About

Tree = Tensor | tuple["Tree", ...] | None
"""A tensor, or tuples of them in any depth (also NamedTuples), each with the batch first."""
T = TypeVar("T")
Noise = Callable[[Tensor, torch.Generator | None], Tensor]
"""Fresh noise on a batch."""


class Batch(NamedTuple):
    """What trainers, losses and metrics pass around."""

    x: Tensor
    """Items, the batch first, those of a ragged medium padded at the end."""
    condition: Tree = None
    """What the items come with, as the model's condition collates it: class numbers [batch], token numbers; None where
    the data have none."""
    lengths: Tensor | None = None
    """The length of every item of a ragged medium, shape [batch]."""

    @property
    def labels(self) -> Tensor:
        """The condition where it is one tensor, such as class numbers [batch]. Raises TypeError where it is none."""
        if not isinstance(self.condition, Tensor):
            raise TypeError(f"expected items with labels, got {type(self.condition).__name__}")
        return self.condition


def apply(function: Callable[[Tensor], Tensor], tree: T) -> T:
    """The same tree with a function applied to every tensor."""
    changed: object = tree
    if isinstance(tree, Tensor):
        changed = function(tree)
    elif isinstance(tree, tuple):
        parts = [apply(function, part) for part in tree]
        changed = type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return cast(T, changed)


def move(tree: T, device: torch.device | str) -> T:
    """The same tree on a device."""
    return apply(lambda tensor: tensor.to(device, non_blocking=True), tree)


def repeat(tree: T, times: int) -> T:
    """The batch several times, one whole copy after the other."""
    return apply(lambda tensor: tensor.repeat(times, *[1] * (tensor.ndim - 1)), tree)


def cut(tree: T, part: slice | Sequence[int]) -> T:
    """Some items of the batch."""
    return apply(lambda tensor: tensor[part], tree)


class Items(Protocol):
    """A map-style data set: what has a length and gives `x` or `(x, label)` by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> object: ...


class Collate(Protocol):
    """What a model's condition does with the labels of a batch."""

    def collate(self, labels: Sequence[Any] | Tensor, /) -> Tree: ...


class _Set(Dataset):
    """What the data sets of this package share."""

    labels: Tensor | Sequence[object] | None
    noise: Noise | None

    def describe(self, about: About) -> Self:
        """The same data set, which knows its `classes`, `groups` and `split`."""
        self.classes, self.groups, self.split = about
        return self

    def randomise(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Fresh noise on a batch."""
        return x if self.noise is None else self.noise(x, generator)


class Arrays(_Set):
    """A data set in memory: items, and labels (a tensor, or texts in a list) if there are any.

    With `noise`, a function of a batch and a generator, every visit to an item sees fresh noise.
    """

    def __init__(self, x: Tensor, labels: Tensor | Sequence[object] | None = None, noise: Noise | None = None):
        if labels is not None and len(labels) != len(x):
            raise MediaError(f"expected one label an item, got {len(x)} items and {len(labels)} labels")
        self.x, self.labels, self.noise = x, labels, noise
        self.describe(About())

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index] if self.labels is None else (self.x[index], self.labels[index])

    def take(self, indices: Sequence[int]) -> Any:
        """The items at these indices, or the pair of them and their labels."""
        chosen = list(indices)
        if self.labels is None:
            return self.x[chosen]
        labels = self.labels[chosen] if isinstance(self.labels, Tensor) else [self.labels[i] for i in chosen]
        return self.x[chosen], labels


class Files(_Set):
    """Items on disk, read when they are asked for: items, or pairs of an item and its label.

    `read` turns a name into an item, or raises `MediaError`; `noise` is as in `Arrays`.
    """

    def __init__(
        self,
        read: Callable[[str], Tensor],
        names: Sequence[str],
        labels: Sequence[object] | None = None,
        noise: Noise | None = None,
    ):
        self.read, self.names, self.labels, self.noise = read, names, labels, noise
        self.describe(About())

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        x = self.read(self.names[index])
        return x if self.labels is None else (x, self.labels[index])


def hold(dataset: Items, medium: Modality, most: int = 2**31) -> Items:
    """A data set of unlabelled files with its items in memory, where they take at most so many bytes; else as it is.

    Broken files are left out with a warning. Noise of the data set stays fresh at every visit.
    """
    if not isinstance(dataset, Files) or dataset.labels is not None or 4 * len(dataset) * medium.elements > most:
        return dataset
    plain = Files(dataset.read, dataset.names)
    held = Arrays(torch.cat([batch.x for batch in batches(plain, 64)]), noise=dataset.noise)
    return held.describe(About(split=dataset.split))


def as_dataset(data: object) -> Items:
    """A data set of what people have at hand: a map-style data set or a list of items as it is; a tensor or an array
    [items, ...], a pair of items and labels, a `TensorDataset`.

    Raises `MediaError` for what is none: a stream without a length, an empty set.
    """
    if isinstance(data, TensorDataset):
        data = data.tensors if len(data.tensors) > 1 else data.tensors[0]
    if isinstance(data, (Tensor, np.ndarray)):
        data = Arrays(_as_tensor(data))
    elif isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], (Tensor, np.ndarray)):
        data = Arrays(_as_tensor(data[0]), torch.as_tensor(data[1]))
    if isinstance(data, (IterableDataset, Mapping)) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise MediaError(
            "a data set is no mapping: it has a length and gives items by number, as a tensor [items, ...], a list, a "
            f"pair (items, labels) or a map-style data set; got {type(data).__name__}"
        )
    if len(data) == 0:
        raise MediaError("the data set is empty")
    return data


def _as_tensor(x: object) -> Tensor:
    """An item as a tensor; NumPy's double precision becomes the default type where no value is beyond its range."""
    if isinstance(x, np.ndarray) and x.dtype == np.float64:
        fits = np.abs(x[np.isfinite(x)]).max(initial=0) <= np.finfo(np.float32).max
        x = x.astype(np.float32) if fits else x
    return torch.as_tensor(x)


def fetch(
    dataset: Items, indices: Sequence[int], medium: Modality | None = None, condition: Collate | None = None
) -> tuple[Batch | None, list[MediaError]]:
    """The batch of these items, and the errors of the broken files among them.

    A broken item is replaced by a good one of the same batch, so that batches keep their size. The batch is None where
    every item is broken. A data set that holds its items in memory may offer `take(indices)`, which answers at once
    with the items, or with the pair of items and labels.

    Arguments: `medium` collates the items, which without one must be of one shape; `condition` collates the labels,
    which without one become a tensor, unless they are texts.
    """
    errors: list[MediaError] = []
    if hasattr(dataset, "take"):
        taken = dataset.take(indices)
        (x, labels), lengths = taken if isinstance(taken, tuple) else (taken, None), None
    else:
        pairs = []
        for index in indices:
            try:
                pairs.append(_pair(dataset[index]))
            except MediaError as error:
                errors.append(error)
        if not pairs:
            return None, errors
        good = len(pairs)
        pairs += [pairs[i % good] for i in range(len(indices) - good)]
        items = [item for item, _ in pairs]
        x, lengths = (stack(items), None) if medium is None else medium.collate(items)
        labels = None if pairs[0][1] is None else [label for _, label in pairs]
    if labels is not None and condition is not None:
        labels = condition.collate(labels)
    elif labels is not None and not isinstance(labels[0], str):  # without a condition, texts stay as they are
        labels = torch.as_tensor(labels)
    return Batch(x, labels, lengths), errors


def _pair(item: object) -> tuple[Tensor, object]:
    """An item and its label, None without one."""
    if isinstance(item, Mapping) or isinstance(item, (tuple, list)) and len(item) not in (1, 2):
        what = f"a mapping with {', '.join(map(str, item))}" if isinstance(item, Mapping) else f"{len(item)} parts"
        raise TypeError(f"a data set gives items x or pairs (x, label), got {what}")
    if isinstance(item, (tuple, list)):
        return _as_tensor(item[0]), item[1] if len(item) == 2 else None
    return _as_tensor(item), None


def batches(
    dataset: Items,
    batch_size: int,
    generator: torch.Generator | None = None,
    medium: Modality | None = None,
    condition: Collate | None = None,
) -> Iterator[Batch]:
    """Go once through a data set in order, in batches, for fitting and for evaluation.

    Broken files are left out, each named in a warning and counted in a last one. Noise that belongs to the data set
    (binarisation, dequantisation, flips: its `randomise`) is drawn from `generator`. `medium` and `condition` are as in
    `fetch`.
    """
    broken = 0
    for start in range(0, len(dataset), batch_size):
        indices = range(start, min(start + batch_size, len(dataset)))
        batch, errors = fetch(dataset, indices, medium, condition)
        for error in errors:
            warnings.warn(f"skipped: {error}", stacklevel=2)
        broken += len(errors)
        if batch is not None:
            kept = batch if not errors else cut(batch, slice(len(indices) - len(errors)))
            yield randomise(dataset, kept, generator)
    if broken:
        warnings.warn(f"skipped {broken} broken files of {len(dataset)}", stacklevel=2)
    if broken == len(dataset):
        raise MediaError(f"not one of the {broken} files could be read")


def randomise(dataset: Items, batch: Batch, generator: torch.Generator | None) -> Batch:
    """Apply the noise that belongs to a data set, if it has any, to the items of a batch; the rest stays as it is."""
    if not hasattr(dataset, "randomise"):
        return batch
    return batch._replace(x=dataset.randomise(batch.x, generator))
