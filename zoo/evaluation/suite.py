"""Everything that suits a model and its medium, measured at once: what recipes, command line and comparison call."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modalities.data import as_dataset
from zoo.card import Figure
from zoo.evaluation import distances, features, latents, likelihood
from zoo.evaluation.features import FeatureNetwork
from zoo.evaluation.neighbours import NeighbourTest, compare_neighbours
from zoo.evaluation.samples import can_score, condition_of, draw, has_means, quantise, subset
from zoo.model import GenerativeModel, Latent, check_count

METRICS = {
    "likelihood": "likelihood, and the error of reconstructions",
    "latents": "rate, distortion and active units of a model with a bound",
    "features": "samples against test data in the features of a network",
    "distances": "samples against test data as they are: points and signals",
    "neighbours": "whether samples are nearer to their nearest training item than test data are to theirs",
}
"""What `evaluate` can measure."""
SAMPLED = ("features", "distances", "neighbours")
"""What looks at samples."""


class Report(NamedTuple):
    """What `evaluate` found."""

    figures: list[Figure]
    neighbours: NeighbourTest | None
    """Holds the samples that are nearest to training items; None where that was not measured."""
    left_out: dict[str, str]
    """Why each of the other `METRICS` was not measured; empty where metrics were asked for by name."""


def evaluate(
    model: GenerativeModel,
    test: object,
    name: str,
    training: object = None,
    *,
    metrics: Sequence[str] | None = None,
    network: FeatureNetwork | None = None,
    limit: int | None = None,
    samples: int = 100,
    generated: int = 1000,
    mean: bool = False,
    batch_size: int = 128,
    seed: int = 0,
) -> Report:
    """Measure a model on test data.

    Samples are compared with as many test items, evenly spaced over the data set, and as many training items show what
    can be reached. A conditional model is told what these test items come with. Where the medium has levels,
    samples are cut off at -1 and 1 and rounded to them.

    Arguments:
        test: a data set that the model has not seen, of items, or of (item, label) for a conditional model; also what
            `modalities.data.as_dataset` takes for one.
        name: of the test data, which the figures carry.
        training: the same of what the model was trained on; without it no samples are looked at.
        metrics: names of `METRICS`; None takes all that suit.
        network: what makes features of items; without it there are no metrics of features.
        limit: take no more than the first test items, so many.
        samples: draws an item where the likelihood is a bound.
        generated: how many samples to draw, at most as many as there are items.
        mean: end samples of a model with latents by the mean of p(x given z), without the noise of single elements,
            which can hide a copy; the figures say "means". Binary elements have none: their mean is grey.
        batch_size: how many test items are scored at once.
        seed: of all draws; every metric has the same whichever others are measured.

    Raises ValueError for what does not suit the model or the data, and for samples that are not finite.
    """
    check_count(1 if limit is None else limit, "limit")
    check_count(generated, "generated")
    unseen, seen = as_dataset(test), None if training is None else as_dataset(training)
    items = min(len(unseen), limit or len(unseen))
    n = 0 if seen is None or model.modality.ragged else min(generated, items, len(seen))
    left_out = _left_out(model, items, n, network, seen is not None) if metrics is None else {}
    chosen = [name for name in METRICS if name not in left_out] if metrics is None else metrics
    _check(model, set(chosen), seen is not None, network, mean)
    head = name if limit is None else f"{name}, first {limit:,}"
    found: list[Figure] = []
    if "likelihood" in chosen:
        found += likelihood.measure(
            model, unseen, head, samples=samples, limit=limit, batch_size=batch_size, generator=_seeded(seed)
        )
    if "latents" in chosen:
        found += latents.measure(model, unseen, head, limit=limit, batch_size=batch_size, generator=_seeded(seed))
    if seen is None or not set(SAMPLED) & set(chosen):
        return Report(found, None, left_out)
    real, drawn = _draw(model, unseen, n, mean, seed)
    known = subset(seen, n, _seeded(seed), model.modality).x
    n = min(len(real), len(known))  # broken files are left out
    compared: list[Figure] = []
    if "features" in chosen and network is not None:
        compared += features.measure(real[:n], drawn[:n], known[:n], network, name, seed=seed)
    if "distances" in chosen:
        compared += distances.measure(real[:n], drawn[:n], known[:n], name, seed=seed)
    neighbours = compare_neighbours(drawn, real, seen) if "neighbours" in chosen else None
    if neighbours is not None:
        compared += neighbours.figures(name)
    return Report(found + ([_of_means(figure) for figure in compared] if mean else compared), neighbours, left_out)


def _left_out(
    model: GenerativeModel, items: int, n: int, network: FeatureNetwork | None, trained: bool
) -> dict[str, str]:
    """Why metrics cannot be measured of so many items, and of n samples, or say nothing about the medium."""
    kind, few = model.modality.kind, f"{n} samples are too few"
    reasons = [
        ("likelihood", not (can_score(model) or isinstance(model, Latent)), "no likelihood and no latents"),
        ("latents", not latents.has_bound(model), "no evidence bound"),
        ("latents", items < 2, "one item is too few"),
        ("features", network is None, "no network makes features of items"),
        ("distances", "distances" not in model.modality.metrics, f"they say little of {kind}"),
        *((metric, not trained, "there are no training data beside the test data") for metric in SAMPLED),
        *((metric, model.modality.ragged, f"{kind} differ in length") for metric in SAMPLED),
        ("features", n <= features.NEIGHBOURS, few),
        *((metric, n < 2, few) for metric in ("distances", "neighbours")),
    ]
    found: dict[str, str] = {}
    for metric, holds, why in reasons:
        if holds:
            found.setdefault(metric, why)
    return found


def _check(
    model: GenerativeModel, metrics: set[str], trained: bool, network: FeatureNetwork | None, mean: bool
) -> None:
    """Refuse what does not go together, before anything is measured."""
    unknown, kind, sampled = metrics - set(METRICS), model.modality.kind, bool(metrics & set(SAMPLED))
    for refused, why in (
        (bool(unknown), f"metrics are {', '.join(METRICS)}; got {', '.join(sorted(unknown))}"),
        (
            mean and not has_means(model),
            f"samples of {type(model).__name__} cannot end with means: that takes latents, and elements that are not "
            "binary",
        ),
        ("features" in metrics and network is None, "metrics of features need a network, and none is given"),
        (sampled and model.modality.ragged, f"{kind} differ in length: no metric compares samples of them with data"),
        (
            sampled and not trained,
            "samples are compared with test data and training data, and the latter are not given",
        ),
    ):
        if refused:
            raise ValueError(why)


def _draw(model: GenerativeModel, test: object, n: int, mean: bool, seed: int) -> tuple[Tensor, Tensor]:
    """n test items, and as many samples with their levels and, of a class-conditional model, their classes."""
    model.eval()
    real, labels, _ = subset(test, n, _seeded(seed), model.modality, model.condition)
    drawn = draw(model, len(real), condition_of(model, labels), mean=mean, generator=_seeded(seed))
    return real, quantise(drawn, model.modality.levels, model.modality)


def _of_means(figure: Figure) -> Figure:
    """The same figure of samples that end with means: its name says so. Figures of training items stay as they are."""
    of_samples = figure.data.endswith(" generated")
    return dataclasses.replace(figure, data=f"{figure.data}, means") if of_samples else figure


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
