"""The items and the samples that metrics compare."""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from modalities import MediaError, Modality
from modalities.data import batches, cut, fetch, randomise
from modalities.images import binarise
from zoo.model import GenerativeModel, Latent, check_count

BATCH = 100
"""How many items are drawn or read at once."""


def first(
    dataset: Any,
    limit: int | None,
    batch_size: int,
    description: str,
    progress: bool,
    generator: torch.Generator | None,
) -> Iterator[tuple[Tensor, Any]]:
    """The items of a data set in order, or the first `limit` of them, as pairs of a batch and its labels, or None."""
    check_count(1 if limit is None else limit, "limit")
    count = len(dataset) if limit is None else min(limit, len(dataset))
    stream = _cut(batches(dataset, batch_size, generator), count)
    steps = math.ceil(count / batch_size)
    yield from track(stream, description, steps, disable=not progress, console=Console(stderr=True))


def for_draws(generator: torch.Generator | None) -> torch.Generator:
    """A generator for what a model draws, seeded by the one of the data's noise, which stays as it is, or by torch's.

    With one for both, the noise of every batch would depend on what the model drew for the batches before it, and no
    two models would see the same items.
    """
    device = torch.device("cpu") if generator is None else generator.device
    source = None if generator is None else generator.clone_state()
    seed = torch.randint(2**62, (), generator=source, device=device)
    return torch.Generator(device).manual_seed(int(seed))


def condition_of(model: GenerativeModel, labels: Any) -> Any:
    """The labels of items as the condition of a class-conditional model, None for an unconditional one.

    Raises ValueError where the model needs labels and there are none: it would draw classes, wrong ones for most items.
    """
    if model.condition is None:
        return None
    if labels is None:
        raise ValueError(
            f"{type(model).__name__} is told {model.condition.kind} and the data have no labels; give pairs of an item "
            "and its label"
        )
    return labels


def check_finite(x: Tensor, items: str) -> None:
    """Refuse items of shape [n, ...], called `items`, that hold NaN or infinite values: metrics may take these for very
    good ones."""
    broken = len(x) - int(torch.isfinite(x).flatten(1).all(1).sum())
    if broken:
        raise ValueError(f"{broken:,} of {len(x):,} {items} hold NaN or infinite values")


def places(count: int, n: int) -> list[int]:
    """n places evenly spaced over `count`."""
    return [i * count // n for i in range(n)]


def _cut(stream: Iterator[Any], left: int) -> Iterator[tuple[Tensor, Any]]:
    for batch in stream:
        yield batch.x[:left], cut(batch.condition, slice(left))
        left -= len(batch.x)
        if left <= 0:
            return


def spread(dataset: Any, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
    """n items of a data set and their labels, or None, evenly spaced over it: also where one class lies after another.

    Broken files are left out with a warning, so that there may be fewer.
    """
    check_count(n)
    if n > len(dataset):
        raise ValueError(f"the data set has {len(dataset)} items, {n} are asked for")
    chosen = places(len(dataset), n)
    items: list[Tensor] = []
    labels: list[Tensor] = []
    for start in range(0, n, BATCH):
        batch, errors = fetch(dataset, chosen[start : start + BATCH])
        for error in errors:
            warnings.warn(f"skipped: {error}", stacklevel=2)
        if batch is None:
            continue
        batch = randomise(dataset, batch, generator)
        kept = len(batch.x) - len(errors)
        items.append(batch.x[:kept])
        labels += [] if batch.condition is None else [batch.condition[:kept]]
    if not items:
        raise MediaError(f"not one of the {n} files could be read")
    return torch.cat(items), torch.cat(labels) if labels else None


@torch.no_grad()
def draw(
    model: GenerativeModel,
    n: int,
    condition: Tensor | None = None,
    *,
    mean: bool = False,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """n samples of a model, on the processor, drawn in batches; `condition` holds a class for each, or is None, and
    `mean` ends with the likelihood's mean instead of a draw.

    Raises ValueError for samples with NaN or infinite values.
    """
    check_count(n)
    parts = []
    starts = range(0, n, BATCH)
    for start in track(starts, "Drawing samples", disable=not progress, console=Console(stderr=True)):
        size = min(BATCH, n - start)
        labels = None if condition is None else condition[start : start + size]
        parts.append(model.sample(size, condition=labels, mean=mean, generator=generator).cpu())
    drawn = torch.cat(parts)
    check_finite(drawn, f"samples of {type(model).__name__}")
    return drawn


def has_means(model: GenerativeModel) -> bool:
    """Whether a mean of p(x given z) is an item: of models with latents, but not of binary elements, whose mean is
    grey."""
    return isinstance(model, Latent) and model.modality.levels != 2


def as_items(x: Tensor, levels: int | None, medium: Modality, generator: torch.Generator | None = None) -> Tensor:
    """Samples of a model of so many levels, of any shape, with the levels of a medium's items, cut off at -1 and 1.

    Values of as many levels go to the nearest. Of more they go the way of pictures that are read: their bytes lose the
    lower bits, or are binarised, from `generator`. Of a medium without levels they stay as they are.
    """
    if medium.levels is None:
        return x
    x = x.clamp(-1, 1)
    if levels == medium.levels:
        steps = ((x + 1) * (medium.levels - 1) / 2).round()
    elif medium.levels == 2:
        return binarise(x, generator)
    else:
        steps = ((x + 1) * 127.5).round().div(256 // medium.levels, rounding_mode="floor")
    return 2 * steps / (medium.levels - 1) - 1


def against(real: Tensor, generated: Tensor, training: Tensor, data: str) -> list[tuple[str, Tensor]]:
    """What `real` is compared with, each under the name that its figures carry: the samples, and training items.

    Raises ValueError for sets of other sizes or shapes, and for NaN and infinite values.
    """
    if not real.shape == generated.shape == training.shape:
        shapes = ", ".join(str(list(x.shape)) for x in (real, generated, training))
        raise ValueError(f"real items, samples and training items must be as many and of one shape, got {shapes}")
    for x, items in ((real, "real items"), (generated, "generated items"), (training, "training items")):
        check_finite(x, items)
    n = f"{len(real):,}"
    return [(f"{data}: {n} real, {n} generated", generated), (f"{data}: {n} real, {n} training items", training)]
