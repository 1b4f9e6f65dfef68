"""Everything that suits a model and its medium, measured at once."""

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from rich.console import Console

from zoo.card import Figure
from zoo.evaluation import distances, features, latents, likelihood
from zoo.evaluation.features import FeatureNetwork
from zoo.evaluation.items import as_items, condition_of, draw, has_means, spread
from zoo.evaluation.memorisation import Memorisation, memorisation
from zoo.model import Explicit, GenerativeModel, Latent, Variational, check_count

if TYPE_CHECKING:
    from torch.utils.data import Dataset

METRICS = {
    "likelihood": "likelihood, and the error of reconstructions",
    "latents": "rate, distortion and active units of a model with a bound",
    "features": "samples against test data in the features of a network",
    "distances": "samples against test data as they are: points and signals",
    "copies": "whether samples are nearer to training data than test data are",
}
"""What `evaluate` can measure."""
SAMPLED = {"features", "distances", "copies"}
"""What looks at samples."""


class Report(NamedTuple):
    """What `evaluate` found."""

    figures: list[Figure]
    copies: Memorisation | None
    """Holds the samples that are nearest to training items; None where that was not measured."""


def evaluate(
    model: GenerativeModel,
    test: "Dataset",
    data: str,
    training: "Dataset | None" = None,
    *,
    metrics: Sequence[str] | None = None,
    network: FeatureNetwork | None = None,
    limit: int | None = None,
    samples: int = 100,
    generated: int = 1000,
    mean: bool = False,
    progress: bool = False,
    seed: int = 0,
) -> Report:
    """Measure a model on test data.

    Samples are compared with as many test items, evenly spaced over the data set, and as many training items show what
    can be reached. A class-conditional model draws the classes of these test items. Where the medium has levels,
    samples are cut off at -1 and 1 and rounded to them.

    Arguments:
        test: items that the model has not seen, or (item, label) for a class-conditional model.
        data: the name that the figures carry.
        training: the same of what the model was trained on; without it no samples are looked at.
        metrics: names of `METRICS`; None takes all that suit.
        network: what makes features of items; without it there are no metrics of features.
        limit: take no more than the first test items, so many.
        samples: draws an item where the likelihood is a bound.
        generated: how many samples to draw, at most as many as there are items.
        mean: end samples of a model with latents by the mean of p(x given z), without the noise of single elements,
            which can hide a copy; the figures say "means". Binary elements have none: their mean is grey.
        progress: show progress bars on the terminal.
        seed: of all draws; every metric has the same whichever others are measured.

    Raises ValueError for what does not suit the model or the data, and for samples that are not finite.
    """
    check_count(1 if limit is None else limit, "limit")
    check_count(generated, "generated")
    unknown = [name for name in metrics or () if name not in METRICS]
    if unknown:
        raise ValueError(f"metrics are {', '.join(METRICS)}; got {', '.join(unknown)}")
    if mean and not has_means(model):
        raise ValueError(
            f"samples of {type(model).__name__} cannot end with means: that takes latents, and elements that are not "
            "binary"
        )
    items = min(len(test), limit or len(test))  # type: ignore[arg-type]
    n = 0 if training is None else min(generated, items, len(training))  # type: ignore[arg-type]
    chosen = _suitable(model, items, n, network) if metrics is None else metrics
    if "features" in chosen and network is None:
        raise ValueError("metrics of features need a network, and none is given")
    if training is None and SAMPLED & set(chosen):
        raise ValueError("samples are compared with test data and with training data beside them, which are not given")
    name = data if limit is None else f"{data}, first {limit:,}"
    found: list[Figure] = []
    if "likelihood" in chosen:
        found += likelihood.evaluate(
            model, test, name, samples=samples, limit=limit, progress=progress, generator=_generator(seed)
        )
    if "latents" in chosen:
        found += latents.evaluate(model, test, name, limit=limit, progress=progress, generator=_generator(seed))
    if training is None or not SAMPLED & set(chosen):
        return Report(found, None)
    model.eval()
    real, labels = spread(test, n, _generator(seed))
    condition = condition_of(model, labels)
    drawn = draw(model, len(real), condition, mean=mean, progress=progress, generator=_generator(seed))
    drawn = as_items(drawn, model.modality.levels, model.modality)
    compared: list[Figure] = []
    copies = None
    with Console(stderr=True).status("Comparing the samples") if progress else nullcontext():
        seen, _ = spread(training, n, _generator(seed))
        k = min(len(real), len(seen))  # broken files are left out
        sets = real[:k], drawn[:k], seen[:k]
        if "features" in chosen and network is not None:
            compared += features.compare(*sets, network, data, seed=seed)
        if "distances" in chosen:
            compared += distances.compare(*sets, data, seed=seed)
        if "copies" in chosen:
            copies = memorisation(drawn, real, training)
            compared += copies.figures(data)
    return Report(found + ([_of_means(figure) for figure in compared] if mean else compared), copies)


def _of_means(figure: Figure) -> Figure:
    """A figure whose name says that samples are means; training items in their place are none."""
    of_samples = figure.data.endswith(" generated")
    return dataclasses.replace(figure, data=f"{figure.data}, means") if of_samples else figure


def _suitable(model: GenerativeModel, items: int, n: int, network: FeatureNetwork | None) -> list[str]:
    """What can be measured of so many items, and of n samples, and says something about the medium."""
    suits = {
        "likelihood": isinstance(model, (Explicit, Latent)),
        "latents": isinstance(model, Variational) and items > 1,
        "features": network is not None and n > features.NEIGHBOURS,
        "distances": "distances" in model.modality.metrics and n > 1,
        "copies": n > 1,
    }
    return [name for name in METRICS if suits[name]]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
