"""What a model with a bound writes into its latents: rate and distortion, and which latents it uses."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.card import Figure
from zoo.evaluation.items import condition_of, first, for_draws
from zoo.model import GenerativeModel, Variational, check_count

if TYPE_CHECKING:
    from torch.utils.data import Dataset

ACTIVE = 0.01
"""A unit is active if the variance of its posterior mean over the data is larger, in units of the prior's."""


@torch.no_grad()
def evaluate(
    model: GenerativeModel,
    dataset: "Dataset",
    data: str,
    *,
    limit: int | None = None,
    batch_size: int = 128,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> list[Figure]:
    """Measure the two terms of the evidence lower bound and the use of the latents of a `Variational` model.

    The rate is KL(q || p), the distortion -log p(x given z) with z drawn from q, in nats an item; their sum is the
    negative bound. Means over the items with standard errors; where the likelihood is a mass over levels also in bits
    an element. A hierarchy gives the rate of every group besides. Of a class-conditional model both are given the
    class, as their kind says.

    A unit of the latent is active if its posterior mean varies over the items with a variance above 0.01, counted in
    the prior's standard deviations. In a hierarchy the prior of a group depends on the groups above; they are at their
    posterior means. Two items or more are needed, a thousand are good: few scatter around the limit.

    Arguments: as for `zoo.evaluation.likelihood.evaluate`.

    Sources: Alemi et al., "Fixing a Broken ELBO", 2018; Burda, Grosse, Salakhutdinov, "Importance Weighted
    Autoencoders", 2016.
    """
    if not isinstance(model, Variational):
        raise ValueError(f"{type(model).__name__} is not trained by a bound: it has no rate and distortion")
    check_count(batch_size, "batch_size")
    model.eval()
    terms, moments = [], _Moments()
    noise = for_draws(generator)
    for x, labels in first(dataset, limit, batch_size, f"Encoding {data}", progress, generator):
        x = x.to(model.device)
        condition = model.prepare_condition(condition_of(model, labels), len(x))
        elbo = model.elbo(x, condition=condition, generator=noise)
        terms.append(torch.cat([-elbo.reconstruction[:, None].double(), elbo.kl.double()], 1).cpu())
        prior: Any = model.prior(condition, n=len(x))
        place = prior.standardise(model.encode(x, condition=condition).mean)
        moments.add((place,) if isinstance(place, Tensor) else place)
    return _figures(model, torch.cat(terms), [variance > ACTIVE for variance in moments.variances()], data)


def _figures(model: Variational, terms: Tensor, active: list[Tensor], data: str) -> list[Figure]:
    known = [] if model.condition is None else ["class known"]
    kind, given = ", ".join(["mass" if model.discrete else "density", *known]), ", ".join(known)
    rates = terms[:, 1:]
    found = [_mean("rate", rates.sum(1), data, "nats", given), _mean("distortion", terms[:, 0], data, "nats", kind)]
    if model.discrete and model.modality.levels is not None:
        nats = math.log(2) * math.prod(model.modality.shape)
        found.append(_mean("rate, bits/dim", rates.sum(1) / nats, data, kind=given))
        found.append(_mean("distortion, bits/dim", terms[:, 0] / nats, data, kind=kind))
    groups = rates.shape[1]
    if groups > 1:
        found += [_mean(f"rate of group {g + 1} of {groups}", rates[:, g], data, "nats", given) for g in range(groups)]
    total = sum(group.numel() for group in active)
    found.append(Figure(f"active units of {total:,}", sum(int(group.sum()) for group in active), data))
    if len(active) > 1:
        found += [
            Figure(f"active units of {group.numel():,} in group {g + 1} of {groups}", int(group.sum()), data)
            for g, group in enumerate(active)
        ]
    return found


def _mean(metric: str, values: Tensor, data: str, unit: str = "", kind: str = "") -> Figure:
    error = (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else None
    return Figure(metric, values.mean().item(), data, unit, kind, error)


class _Moments:
    """The variance of every element over batches, without holding them: sums of squares about a running mean."""

    def __init__(self) -> None:
        self.count = 0
        self.means: list[Tensor] = []
        self.squares: list[Tensor] = []

    def add(self, groups: tuple[Tensor, ...]) -> None:
        if not self.means:
            self.means = [torch.zeros(group.shape[1:], dtype=torch.float64) for group in groups]
            self.squares = [torch.zeros_like(mean) for mean in self.means]
        n = len(groups[0])
        total = self.count + n
        for i, group in enumerate(groups):
            batch = group.double().cpu()
            mean = batch.mean(0)
            step = mean - self.means[i]
            self.squares[i] += (batch - mean).square().sum(0) + step.square() * (self.count * n / total)
            self.means[i] += step * (n / total)
        self.count = total

    def variances(self) -> list[Tensor]:
        if self.count < 2:
            raise ValueError("the activity of latents is a variance over items: at least 2 are needed, got 1")
        return [squares / (self.count - 1) for squares in self.squares]
