"""Likelihood and reconstruction: what the contract alone lets us measure, for every medium."""

import math

import torch
from torch import Tensor

from modalities import Modality
from modalities.data import Tree
from zoo.card import Figure, read_figures
from zoo.catalog import CHECKPOINTS
from zoo.evaluation.samples import can_score, fork, head, known
from zoo.hub import load
from zoo.model import Explicit, GenerativeModel, Latent, Rng, check_count

WINDOW = 11
"""The window of the structural similarity, pixels."""


@torch.no_grad()
def measure(
    model: GenerativeModel,
    data: object,
    name: str,
    *,
    samples: int = 100,
    limit: int | None = None,
    batch_size: int = 128,
    generator: torch.Generator | None = None,
) -> list[Figure]:
    """The likelihood of a data set and the error of its reconstructions: means over the items, with standard errors.

    An `Explicit` model gives its negative log-likelihood in nats an item, labelled as a mass or a density, as a bound
    where it is one and as given the class where it is, and bits an element where the medium has levels. A `Latent`
    model gives the squared error of its reconstructions, averaged over elements, or its root in the medium's unit, and
    for media with levels the peak signal-to-noise ratio of an item, its peak the full range of 2, of reconstructions
    cut off at -1 and 1. Of images of at least 11 x 11 pixels it also gives the structural similarity.

    Arguments:
        data: what `modalities.data.as_dataset` takes: items, or (item, label) for a conditional model.
        name: of the data, which the figures carry.
        samples: draws an item where the likelihood is a bound; more draws make it tighter.
        limit: how many items to take, from the first; None takes all.
        generator: of the data's noise. It seeds the model's draws as well, which do not move it: all models see the
            same items, with any number of samples.

    Raises ValueError where a conditional model gets no labels.
    """
    check_count(samples, "samples")
    if not (can_score(model) or isinstance(model, Latent)):
        raise ValueError(f"{type(model).__name__} has neither a likelihood nor a latent space: nothing to measure")
    model.eval()
    noise = fork(generator)
    parts: dict[str, list[Tensor]] = {}
    for x, condition in head(model, data, limit, batch_size, f"Measuring on {name}", generator):
        found: dict[str, Tensor] = {}
        if can_score(model):
            found |= _score(model, x, condition, samples, noise)
        if isinstance(model, Latent):
            found |= _reconstruct(model, x, condition)
        for metric, value in found.items():
            parts.setdefault(metric, []).append(value.double().cpu())
    return [_figure(model, metric, torch.cat(values), name) for metric, values in parts.items()]


@torch.no_grad()
def advantage(
    model: Explicit,
    other: Explicit,
    data: object,
    name: str,
    *,
    samples: int = 100,
    limit: int | None = None,
    batch_size: int = 128,
    generator: torch.Generator | None = None,
) -> Figure:
    """How many nats an item less a model needs than another does, on the same items, binarised alike.

    The standard error is that of the differences: items that are hard for one model are hard for the other, so that it
    is far smaller than those of the two means. Between bounds it says which bound is better.

    Arguments: as for `measure`; both models take as many samples.

    Raises ValueError where the likelihoods are of unlike things: of two media, of a mass and a density, or of items
    whose class is known and of items alone.
    """
    check_count(samples, "samples")
    for judged in (model, other):
        if not can_score(judged):
            raise ValueError(f"{type(judged).__name__} has no likelihood: nothing to compare")
    kinds = [
        (judged.modality, "mass" if judged.discrete else "density", f"told {judged.condition or 'nothing'}")
        for judged in (model, other)
    ]
    if kinds[0] != kinds[1]:
        raise ValueError(f"likelihoods of unlike things cannot be compared: {kinds[0]} and {kinds[1]}")
    noises = fork(generator), fork(generator)
    values = []
    for x, condition in head(model, data, limit, batch_size, f"Comparing on {name}", generator):
        nats = []
        for judged, noise in zip((model, other), noises, strict=True):
            found = judged.eval().log_prob(x.to(judged.device), condition=condition, samples=samples, generator=noise)
            nats.append(found.double().cpu())
        values.append(nats[0] - nats[1])
    return mean_figure("nats less than another model needs", torch.cat(values), name)


def mean_figure(metric: str, values: Tensor, name: str, unit: str = "", kind: str = "") -> Figure:
    """The mean over items with its standard error; `values` has shape [items]."""
    error = (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else None
    return Figure(metric, values.mean().item(), name, unit, kind, error)


def _score(model: Explicit, x: Tensor, condition: Tree, samples: int, generator: Rng) -> dict[str, Tensor]:
    """Negative log-likelihoods in nats an item and, where there are levels, in bits an element, shape [batch] each."""
    found = {"NLL": -model.log_prob(x, condition=condition, samples=samples, generator=generator)}
    if model.modality.levels is not None and model.discrete:
        found["bits/dim"] = found["NLL"] / (model.modality.elements * math.log(2))
    elif model.modality.levels is not None:
        found["bits/dim"] = model.bits_per_dim(x, condition=condition, samples=samples, generator=generator)
    return found


def _reconstruct(model: Latent, x: Tensor, condition: Tree) -> dict[str, Tensor]:
    """The error of the reconstruction of every item, [batch] each."""
    reconstruction = model.reconstruct(x, condition=condition)
    found = {"reconstruction MSE": _squared_error(reconstruction, x)}
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
    """The structural similarity of images in [-1, 1], [batch, channels, height, width], at most 1, shape [batch].

    Over windows of 11 x 11 weighted by a Gaussian of 1.5 pixels, edges mirrored, values in [0, 1], colours averaged.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment", 2004.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = ((z.double() + 1) / 2 for z in (x, y))
    similarity = structural_similarity_index_measure(x, y, sigma=1.5, data_range=1.0, reduction="none")
    assert isinstance(similarity, Tensor)  # neither contrast nor the whole picture is asked for beside it
    return similarity.reshape(len(x))


def bundled(name: str, data: str, medium: Modality) -> tuple[Figure, GenerativeModel] | None:
    """The likelihood of the same test items on the card of a bundled model of this shape, and the model; else None."""
    figures = read_figures(CHECKPOINTS / name) if name else []
    found = [figure for figure in figures if figure.metric == "NLL" and figure.data == data]
    model = load(name) if found else None
    return (found[0], model) if model and model.modality.shape == medium.shape else None


def _figure(model: GenerativeModel, metric: str, values: Tensor, name: str) -> Figure:
    """The mean of a metric over items, shape [items], with the kind and the unit that it takes to read it."""
    if can_score(model) and metric in ("NLL", "bits/dim"):
        # Bits are of the levels, so they are always of a mass; a density bounds it through the noise that is added.
        mass = model.discrete or metric == "bits/dim"
        exact = model.exact and (model.discrete or metric == "NLL")
        kind = ("" if exact else "bound on a ") + ("mass" if mass else "density")
        kind = ", ".join(filter(None, [kind, known(model)]))
        return mean_figure(metric, values, name, "nats" if metric == "NLL" else "", kind)
    figure = mean_figure(metric, values, name, "dB" if metric == "PSNR" else "")
    if metric != "reconstruction MSE" or "RMSE" not in model.modality.metrics:
        return figure
    rmse = math.sqrt(figure.value)
    # The error of a root is that of its square over twice the root.
    error = figure.error / (2 * rmse) if figure.error and rmse else figure.error
    return Figure("reconstruction RMSE", rmse, name, getattr(model.modality, "unit", ""), error=error)
