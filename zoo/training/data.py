"""What a run reads: data that are looked at first, then batches in an order that the seed alone decides."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from modalities.data import Batch, Items, fetch, randomise
from modalities.modality import MediaError
from zoo.model import GenerativeModel
from zoo.training.config import TrainingConfig
from zoo.training.process import ignore_interrupts

LOOKED_AT = 64
"""How many items of a data set are looked at before training."""


def look_at(model: GenerativeModel, data: Items) -> None:
    """Refuse data that are none of the model's medium, by some items evenly spaced over them.

    Raises `MediaError` for another shape, NaN, values beyond the medium's range, for a model of a mass also values
    between its levels; ValueError for labels that the model cannot take, and where it needs one and there is none.
    """
    chosen = range(0, len(data), -(-len(data) // LOOKED_AT))
    batch, errors = fetch(data, chosen, model.modality, model.condition)
    if batch is None:
        raise MediaError(f"not one of {len(chosen)} items could be read; the last: {errors[-1]}")
    x = randomise(data, batch, torch.Generator().manual_seed(0)).x
    if getattr(model, "discrete", False):
        model.modality.check_levels(x)
    else:
        model.modality.check_range(x)
    if model.condition is None and batch.condition is not None:
        raise ValueError(
            f"{type(model).__name__} is unconditional and the data have labels; leave them out, or give the model a "
            "condition"
        )
    if model.condition is not None and batch.condition is None:
        raise ValueError(
            f"{type(model).__name__} is told {model.condition.kind} and the data have no labels; give pairs of an item "
            "and its label"
        )


def load(
    data: Items, model: nn.Module, config: TrainingConfig, start: int, process: int, processes: int, seed: int
) -> DataLoader[tuple[Batch | None, list[MediaError]]]:
    """The batches of one process from a step on, each with the errors of the broken files in it; see `fetch`."""
    return DataLoader(
        _Batches(data, model),
        batch_size=None,  # the data set itself makes batches
        sampler=order(len(data), config, start, process, processes),
        num_workers=config.workers,
        generator=torch.Generator().manual_seed(seed),
        worker_init_fn=ignore_interrupts,
    )


def order(items: int, config: TrainingConfig, start: int, process: int, processes: int) -> Iterator[list[int]]:
    """The indices of every batch from a step on: an endless row of shuffled epochs, cut evenly over the processes.

    The global batch of a step depends on the seed and the step alone, not on the number of processes.
    """
    share = config.batch_size // processes
    epoch, shuffled = -1, []
    for step in range(start, config.steps):
        batch: list[int] = []
        first = step * config.batch_size + process * share
        for position in range(first, first + share):
            if position // items != epoch:
                epoch = position // items
                seeded = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
                shuffled = torch.randperm(items, generator=seeded).tolist()
            batch.append(shuffled[position % items])
        yield batch


class _Batches(Dataset[tuple[Batch | None, list[MediaError]]]):
    """A data set that is asked for whole batches, collated by the model's medium and condition if it has any."""

    def __init__(self, data: Items, model: nn.Module):
        self.data = data
        self.medium, self.condition = getattr(model, "modality", None), getattr(model, "condition", None)

    def __getitem__(self, indices: list[int]) -> tuple[Batch | None, list[MediaError]]:
        return fetch(self.data, indices, self.medium, self.condition)
