"""Attributes in a latent space: a direction for each, the others partialled out, and a linear probe beside them."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from modalities.drawing import labelled_sheet
from zoo.model import Latent
from zoo.walks import Z, groups

if TYPE_CHECKING:
    from PIL.Image import Image

Probe = Callable[[Tensor], dict[str, Tensor]]
"""Reads attributes off items [n, ...]: n numbers each."""
VALUES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
"""Where a slider stops, in standard deviations of its attribute."""
BATCH = 64
"""Items that are encoded at once."""


def partial_out(attributes: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """What every attribute has that the others do not tell, in its own standard deviations, and a mask [n] of the items
    that have all of them; an attribute is n numbers, NaN where unknown.

    The slope of anything on what is left of an attribute is its slope with the other attributes held where they are:
    more women than men smile in pictures, and a smile is not to make a face more female.

    Source: Frisch, Waugh, "Partial Time Regressions as Compared with Individual Trends", 1933.
    """
    complete, standard = _standardise(attributes)
    left = {}
    for column, name in enumerate(attributes):
        own, others = standard[:, [column]], standard[:, torch.arange(len(attributes)) != column]
        rest = own - others @ torch.linalg.lstsq(others, own).solution if others.shape[1] else own
        left[name] = rest[:, 0]
    return complete, left


def _standardise(attributes: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The mask of the items that have all attributes, and these in standard deviations, shape [items, attributes]."""
    every = torch.stack(list(attributes.values()), 1).double()
    complete = torch.isfinite(every).all(1)
    every = every[complete]
    return complete, (every - every.mean(0)) / every.std(0).clamp(min=1e-12)


def learn_directions(model: Latent, x: Tensor, attributes: Mapping[str, Tensor]) -> dict[str, Z]:
    """The step in a model's latent space that belongs to one standard deviation of every attribute, the others held."""
    complete, left = partial_out(attributes)
    known = x[complete].to(model.device)
    return {name: model.attribute_direction(known, labels) for name, labels in left.items()}


@torch.no_grad()
def project(model: Latent, x: Tensor, directions: Mapping[str, Z]) -> dict[str, Tensor]:
    """How far items lie along directions, in their lengths, n numbers each."""
    parts: dict[str, list[Tensor]] = {name: [] for name in directions}
    for batch in x.to(model.device).split(BATCH):
        z = _flatten(model.prior(n=len(batch)).standardise(model.encode(batch).mean), 1)
        for name, direction in directions.items():
            step = _flatten(direction, 0).to(z)
            parts[name].append((z @ step / step.square().sum()).cpu())
    return {name: torch.cat(part) for name, part in parts.items()}


def _flatten(latents: Z, batch: int) -> Tensor:
    """All groups side by side, shape [batch, d], or [d] where there are 0 dimensions for the batch, float64."""
    return torch.cat([group.flatten(batch).double() for group in groups(latents)], batch)


def linear_probe(pca: Latent, x: Tensor, attributes: Mapping[str, Tensor]) -> Probe:
    """Ridge regression of attributes on the scores of principal components; it reads them in standard deviations.

    It tells what a direction does to decoded items where nothing else measures it: a mouth has no landmarks there.
    """
    from sklearn.linear_model import Ridge

    def scores(x: Tensor) -> np.ndarray:
        return torch.cat([pca.encode(batch).mean for batch in x.split(BATCH)]).double().numpy()

    complete, standard = _standardise(attributes)
    known = scores(x[complete])
    # As much ridge as a fifth of the average variance, so that few items do.
    ridge = Ridge(alpha=0.2 * (known**2).sum(0).mean()).fit(known, standard.numpy())
    return lambda x: dict(
        zip(attributes, torch.from_numpy(ridge.predict(scores(x))).reshape(len(x), -1).unbind(1), strict=True)
    )


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, over the pairs without NaN."""
    from scipy.stats import pearsonr

    both = torch.isfinite(a) & torch.isfinite(b)
    return float(pearsonr(a[both].numpy(), b[both].numpy()).statistic)


@torch.no_grad()
def measure_directions(
    model: Latent,
    directions: Mapping[str, Z],
    x: Tensor,
    attributes: Mapping[str, Tensor],
    probe: Probe,
    *,
    known: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    moved: int = 16,
) -> dict[str, float | list[float]]:
    """What held-out items tell of directions: numbers by their names.

    The correlation of an attribute with the place along its direction, beside that with the linear probe; and what is
    read off the first `moved` items as each goes along the direction from -3 to 3, their means: by the probe, or by a
    function of items in `known`, where an attribute has one.
    """
    found: dict[str, float | list[float]] = {}
    places, readings, known = project(model, x, directions), probe(x), known or {}
    for name in directions:
        if name not in attributes or torch.isfinite(attributes[name]).sum() < 3:
            continue
        along = model.traverse(x[:moved].to(model.device), along=[directions[name]], values=VALUES)[:, 0].cpu()
        frames = along.flatten(0, 1)
        read = known[name](frames) if name in known else probe(frames)[name]
        unit = name if name in known else "reading in standard deviations"
        found[f"{name}: correlation of its direction with unseen items"] = correlation(places[name], attributes[name])
        found[f"{name}: that of a linear probe of the items"] = correlation(readings[name], attributes[name])
        found[f"{name}: {unit} as its slider goes from -3 to 3"] = [
            round(value, 3) for value in read.unflatten(0, along.shape[:2]).mean(0).tolist()
        ]
    return found


@torch.no_grad()
def show_sliders(model: Latent, directions: Mapping[str, Z], x: Tensor) -> "Image":
    """Items [n, ...] as they go along directions, a row for each item and direction; first the item itself."""
    moved = model.traverse(x.to(model.device), along=list(directions.values()), values=VALUES).flatten(0, 1).cpu()
    rows = torch.cat([x.repeat_interleave(len(directions), 0)[:, None], moved], 1)
    tiles = [[model.modality.show(item[None]) for item in row] for row in rows]
    return labelled_sheet(tiles, len(x) * list(directions), ["given", *(f"{value:g}" for value in VALUES)])
