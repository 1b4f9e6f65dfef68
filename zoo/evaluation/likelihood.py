"""Likelihood and reconstruction: what the contract alone lets us measure, for every medium."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.card import Figure
from zoo.evaluation.items import condition_of, first, for_draws
from zoo.model import Explicit, GenerativeModel, Latent, check_count

if TYPE_CHECKING:
    from torch.utils.data import Dataset

WINDOW = 11
"""The window of the structural similarity, pixels."""


@torch.no_grad()
def evaluate(
    model: GenerativeModel,
    dataset: "Dataset",
    data: str,
    *,
    samples: int = 100,
    limit: int | None = None,
    batch_size: int = 128,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> list[Figure]:
    """Measure a model on a data set: means over the items, with their standard errors.

    An `Explicit` model gives its negative log-likelihood in nats an item, labelled as a mass or a density, as a bound
    where it is one and as given the class where it is, and bits an element where the medium has levels. A `Latent`
    model gives the squared error of its reconstructions, averaged over elements, and for media with levels the peak
    signal-to-noise ratio of an item, its peak the full range of 2, of reconstructions cut off at -1 and 1. Of images of
    at least 11 x 11 pixels it also gives the structural similarity: over windows of 11 x 11 weighted by a Gaussian of
    1.5 pixels, edges mirrored, values in [0, 1] and reconstructions cut off there, colours averaged (Wang, Bovik,
    Sheikh, Simoncelli, "Image Quality Assessment", 2004).

    Arguments:
        dataset: items, or (item, label) for a class-conditional model.
        data: the name that the figures carry.
        samples: draws an item where the likelihood is a bound; more draws make it tighter.
        limit: how many items to take, from the first; None takes all.
        progress: show a progress bar on the terminal.
        generator: of the data's noise. It seeds the model's draws as well, which do not move it: all models see the
            same items, with any number of samples.

    Raises ValueError where a class-conditional model gets no labels.
    """
    check_count(samples, "samples")
    check_count(1 if limit is None else limit, "limit")
    if not isinstance(model, (Explicit, Latent)):
        raise ValueError(f"{type(model).__name__} has neither a likelihood nor a latent space: nothing to measure")
    model.eval()
    values: dict[str, list[Tensor]] = {}
    noise = for_draws(generator)
    for x, labels in first(dataset, limit, batch_size, f"Measuring on {data}", progress, generator):
        condition = condition_of(model, labels)
        for name, value in _measure(model, x.to(model.device), condition, samples, noise).items():
            values.setdefault(name, []).append(value.double().cpu())
    return [_figure(model, name, torch.cat(parts), data) for name, parts in values.items()]


@torch.no_grad()
def advantage(
    model: Explicit,
    other: Explicit,
    dataset: "Dataset",
    data: str,
    *,
    samples: int = 100,
    limit: int | None = None,
    batch_size: int = 128,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> Figure:
    """How many nats an item less a model needs than another does, on the same items, binarised alike.

    The standard error is that of the differences: items that are hard for one model are hard for the other, so that it
    is far smaller than those of the two means. Between bounds it says which bound is better.

    Arguments: as for `evaluate`; both models take as many samples.

    Raises ValueError where the likelihoods are of unlike things: of two media, of a mass and a density, or of items
    whose class is known and of items alone.
    """
    check_count(samples, "samples")
    for judged in (model, other):
        if not isinstance(judged, Explicit):
            raise ValueError(f"{type(judged).__name__} has no likelihood: nothing to compare")
    if model.modality != other.modality or model.discrete != other.discrete:
        raise ValueError(
            f"likelihoods of {model.modality!r} and {other.modality!r}, or of a mass and a density, cannot be compared"
        )
    if (model.condition is None) != (other.condition is None):
        told, alone = (model, other) if other.condition is None else (other, model)
        raise ValueError(
            f"{type(told).__name__} is given the class of an item and {type(alone).__name__} is not: their likelihoods "
            "cannot be compared"
        )
    noises = for_draws(generator), for_draws(generator)
    values = []
    for x, labels in first(dataset, limit, batch_size, f"Comparing on {data}", progress, generator):
        nats = []
        for judged, noise in zip((model, other), noises, strict=True):
            condition = condition_of(judged, labels)
            found = judged.eval().log_prob(x.to(judged.device), condition=condition, samples=samples, generator=noise)
            nats.append(found.double().cpu())
        values.append(nats[0] - nats[1])
    return _figure(model, "nats less than another model needs", torch.cat(values), data)


def _measure(
    model: GenerativeModel, x: Tensor, condition: Any, samples: int, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """Every metric of every item, shape [batch] each."""
    found = {}
    if isinstance(model, Explicit):
        found["NLL"] = -model.log_prob(x, condition=condition, samples=samples, generator=generator)
        if model.modality.levels is not None and model.discrete:
            found["bits/dim"] = found["NLL"] / (math.prod(model.modality.shape) * math.log(2))
        elif model.modality.levels is not None:
            found["bits/dim"] = model.bits_per_dim(x, condition=condition, samples=samples, generator=generator)
    if isinstance(model, Latent):
        reconstruction = model.reconstruct(x, condition=condition)
        found["reconstruction MSE"] = _squared_error(reconstruction, x)
        if model.modality.levels is not None:
            error = _squared_error(reconstruction.clamp(-1, 1), x)
            found["PSNR"] = 10 * torch.log10(4 / error.clamp(min=1e-12))
        if "SSIM" in model.modality.metrics and min(x.shape[2:]) >= WINDOW:
            found["SSIM"] = structural_similarity(reconstruction.clamp(-1, 1), x)
    return found


def _squared_error(x: Tensor, y: Tensor) -> Tensor:
    """The mean squared difference of the elements of every item, shape [batch], float64."""
    return (x - y).double().square().flatten(1).mean(1)


def structural_similarity(x: Tensor, y: Tensor) -> Tensor:
    """The structural similarity of images in [-1, 1], [batch, channels, height, width], at most 1, shape [batch]."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = ((z.double() + 1) / 2 for z in (x, y))
    similarity: Any = structural_similarity_index_measure(x, y, sigma=1.5, data_range=1.0, reduction="none")
    return similarity.reshape(len(x))


def _figure(model: GenerativeModel, metric: str, values: Tensor, data: str) -> Figure:
    kind = ""
    if isinstance(model, Explicit) and metric in ("NLL", "bits/dim"):
        # Bits are of the levels, so they are always of a mass; a density bounds it through the noise that is added.
        mass = model.discrete or metric == "bits/dim"
        exact = model.exact and (model.discrete or metric == "NLL")
        kind = ("" if exact else "bound on a ") + ("mass" if mass else "density")
        kind += "" if model.condition is None else ", class known"
    error = (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else None
    return Figure(metric, values.mean().item(), data, {"NLL": "nats", "PSNR": "dB"}.get(metric, ""), kind, error)
