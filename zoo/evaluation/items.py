"""The items and the samples that metrics compare."""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from modalities import MediaError
from modalities.modality import batches, fetch, randomise
from zoo.model import GenerativeModel, check_count, unpack

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


def _cut(stream: Iterator[Any], left: int) -> Iterator[tuple[Tensor, Any]]:
    for batch in stream:
        x, labels = unpack(batch)
        yield x[:left], None if labels is None else labels[:left]
        left -= len(x)
        if left <= 0:
            return


def spread(dataset: Any, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
    """n items of a data set and their labels, or None, evenly spaced over it: also where one class lies after another.

    Broken files are left out with a warning, so that there may be fewer.
    """
    check_count(n)
    if n > len(dataset):
        raise ValueError(f"the data set has {len(dataset)} items, {n} are asked for")
    places = [i * len(dataset) // n for i in range(n)]
    items: list[Tensor] = []
    labels: list[Tensor] = []
    for start in range(0, n, BATCH):
        batch, errors = fetch(dataset, places[start : start + BATCH])
        for error in errors:
            warnings.warn(f"skipped: {error}", stacklevel=2)
        if batch is None:
            continue
        x, label = unpack(randomise(dataset, batch, generator))
        kept = len(x) - len(errors)
        items.append(x[:kept])
        labels += [] if label is None else [label[:kept]]
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
    `mean` ends with the likelihood's mean instead of a draw."""
    check_count(n)
    parts = []
    starts = range(0, n, BATCH)
    for start in track(starts, "Drawing samples", disable=not progress, console=Console(stderr=True)):
        size = min(BATCH, n - start)
        labels = None if condition is None else condition[start : start + size]
        parts.append(model.sample(size, condition=labels, mean=mean, generator=generator).cpu())
    return torch.cat(parts)


def against(real: Tensor, generated: Tensor, training: Tensor, data: str) -> list[tuple[str, Tensor]]:
    """What `real` is compared with, each under the name that its figures carry: the samples, and training items."""
    if not real.shape == generated.shape == training.shape:
        shapes = ", ".join(str(list(x.shape)) for x in (real, generated, training))
        raise ValueError(f"real items, samples and training items must be as many and of one shape, got {shapes}")
    n = f"{len(real):,}"
    return [(f"{data}: {n} real, {n} generated", generated), (f"{data}: {n} real, {n} training items", training)]
