"""The items and the samples that metrics look at: subsets of a data set, draws of a model, and their levels."""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from modalities import MediaError, Modality
from modalities.data import Batch, Collate, Items, Tree, as_dataset, batches, cut, fetch, move, randomise
from modalities.images import binarise
from zoo.conditions import Classes, Condition, Labels
from zoo.model import Explicit, GenerativeModel, Latent, Rng, check_count
from zoo.progress import track

BATCH = 100
"""How many items are drawn, or seen by a network, at once."""


def head(
    model: GenerativeModel, data: object, limit: int | None, batch_size: int, what: str, generator: Rng
) -> Iterator[tuple[Tensor, Tree]]:
    """The items of a data set in order, or the first `limit` of them, in batches on the model's device, with what the
    model is told of them, or None.

    `what` stands before the progress bar; noise that belongs to the data set is drawn from `generator`.
    """
    check_count(1 if limit is None else limit, "limit")
    dataset = as_dataset(data)
    left = len(dataset) if limit is None else min(limit, len(dataset))
    stream = batches(dataset, batch_size, generator, model.modality, by_name(model.condition, dataset))
    for batch in track(stream, what, math.ceil(left / batch_size)):
        x, condition, _ = move(cut(batch, slice(left)), model.device)
        yield x, condition_of(model, condition)
        left -= len(x)
        if left <= 0:
            return


class _Named(NamedTuple):
    """Collates class numbers of a data set as the classes of the same names that a model knows."""

    condition: Condition
    classes: Sequence[str]

    def collate(self, labels: Labels) -> Tree:
        return self.condition.collate([self.classes[int(label)] for label in labels])


def by_name(condition: Condition | None, dataset: Items) -> Collate | None:
    """What collates the labels of a data set for a model: where both name their classes, by the names, since a test set
    that lacks a class numbers the others anew. Classes of a model that are numbers alone stay numbers where the data
    name theirs otherwise."""
    theirs, ours = getattr(dataset, "classes", None), getattr(condition, "names", None)
    if condition is None or not theirs or not ours or tuple(theirs) == ours:
        return condition
    numbers_alone = ours == Classes.numbered(len(ours)).names and len(theirs) <= len(ours)
    return condition if numbers_alone and not set(theirs) & set(ours) else _Named(condition, theirs)


def fork(generator: Rng) -> torch.Generator:
    """A generator for what a model draws, seeded by that of the data's noise, which stays as it is, or by torch's.

    With one for both, the noise of every batch would depend on what the model drew for the batches before it, and no
    two models would see the same items.
    """
    source, device = (None, "cpu") if generator is None else (generator.clone_state(), generator.device)
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=source, device=device)))


def can_score(model: GenerativeModel) -> TypeGuard[Explicit]:
    """Whether a model has a density, or a bound of one."""
    return isinstance(model, Explicit) and model.scores


def condition_of(model: GenerativeModel, labels: Tree) -> Tree:
    """The labels of items as the condition of a model that takes one, None for an unconditional one.

    Raises ValueError where the model needs labels and there are none: it would draw classes, wrong ones for most items.
    """
    if model.condition is not None and labels is None:
        raise ValueError(
            f"{type(model).__name__} is told a {model.condition.noun} and the data have no labels; give pairs of an "
            "item and its label"
        )
    return None if model.condition is None else labels


def known(model: GenerativeModel) -> str:
    """What a likelihood is given besides the latents: "class known"; empty for an unconditional model."""
    return "" if model.condition is None else f"{model.condition.noun} known"


def check_finite(x: Tensor, items: str) -> None:
    """Refuse items of shape [n, ...], called `items`, that hold NaN or infinite values: metrics may take these for very
    good ones."""
    broken = len(x) - int(torch.isfinite(x).flatten(1).all(1).sum())
    if broken:
        raise ValueError(f"{broken:,} of {len(x):,} {items} hold NaN or infinite values")


def evenly_spaced(count: int, n: int) -> list[int]:
    """n indices evenly spaced over `count`."""
    return [i * count // n for i in range(n)]


def subset(
    data: object, n: int, generator: Rng = None, medium: Modality | None = None, condition: Condition | None = None
) -> Batch:
    """n items of a data set with their labels, evenly spaced over it: also where one class lies after another.

    Broken files are left out with a warning, so that there may be fewer. `medium` and `condition` collate as in
    `modalities.data.fetch`, classes by their names.
    """
    check_count(n)
    dataset = as_dataset(data)
    if n > len(dataset):
        raise ValueError(f"the data set has {len(dataset)} items, {n} are asked for")
    batch, errors = fetch(dataset, evenly_spaced(len(dataset), n), medium, by_name(condition, dataset))
    for error in errors:
        warnings.warn(f"skipped: {error}", stacklevel=2)
    if batch is None:
        raise MediaError(f"not one of the {n} files could be read")
    return randomise(dataset, cut(batch, slice(n - len(errors))), generator)


def one_of_each(data: object) -> Tensor:
    """The first item of the commonest class of a labelled data set, then that of every other one."""
    found = subset(data, len(as_dataset(data)))
    x, labels = found.x, found.labels
    classes, counts = labels.unique(return_counts=True)
    order = classes[counts.argsort(descending=True, stable=True)]
    return torch.stack([x[int((labels == label).nonzero()[0])] for label in order])


@torch.no_grad()
def draw(
    model: GenerativeModel, n: int, condition: Tree = None, *, mean: bool = False, generator: Rng = None
) -> Tensor:
    """n samples of a model, on the processor, drawn in batches; `condition` holds what each is told, or is None, and
    `mean` ends with the likelihood's mean instead of a draw.

    Raises ValueError for samples with NaN or infinite values.
    """
    check_count(n)
    parts = []
    for start in track(range(0, n, BATCH), "Drawing samples"):
        told = cut(condition, slice(start, start + BATCH))
        drawn = model.sample(min(BATCH, n - start), condition=told, mean=mean, generator=generator)
        parts.append(torch.as_tensor(drawn).cpu())
    samples = torch.cat(parts)
    check_finite(samples, f"samples of {type(model).__name__}")
    return samples


def has_means(model: GenerativeModel) -> bool:
    """Whether a mean of p(x given z) is an item: not where elements are binary, for then it is grey."""
    return isinstance(model, Latent) and model.modality.levels != 2


def quantise(x: Tensor, levels: int | None, medium: Modality, generator: Rng = None) -> Tensor:
    """Samples of a model of so many levels, of any shape, with the levels of a medium's items, cut off at -1 and 1.

    Values of as many levels go to the nearest. Of more they go the way of pictures that are read: their bytes lose the
    lower bits, or are binarised, from `generator`. Of a medium without levels they stay as they are.
    """
    if medium.levels is None:
        return x
    x = x.clamp(-1, 1)
    if levels != medium.levels and medium.levels == 2:
        return binarise(x, generator)
    own, coarser = (levels, 1) if levels == medium.levels else (256, 256 // medium.levels)
    steps = ((x + 1) * (own - 1) / 2).round().div(coarser, rounding_mode="floor")
    return 2 * steps / (medium.levels - 1) - 1


def pair_up(real: Tensor, generated: Tensor, training: Tensor, name: str) -> list[tuple[str, Tensor]]:
    """What `real` is compared with, each under the name that its figures carry: the samples, and training items.

    Raises ValueError for sets of other sizes or shapes, and for NaN and infinite values.
    """
    sets = {"real items": real, "generated items": generated, "training items": training}
    if not real.shape == generated.shape == training.shape:
        shapes = ", ".join(str(list(x.shape)) for x in sets.values())
        raise ValueError(f"real items, samples and training items must be as many and of one shape, got {shapes}")
    for items, x in sets.items():
        check_finite(x, items)
    n = f"{len(real):,}"
    return [(f"{name}: {n} real, {n} generated", generated), (f"{name}: {n} real, {n} training items", training)]
