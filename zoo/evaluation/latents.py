"""What a model with a bound writes into its latents: rate and distortion, and which latents it uses."""

import math
from typing import TypeGuard

import torch
from torch import Tensor

from zoo.card import Figure
from zoo.evaluation.likelihood import mean_figure
from zoo.evaluation.samples import can_score, fork, head, known
from zoo.model import GenerativeModel, Variational, check_count
from zoo.moments import Moments
from zoo.walks import groups

ACTIVE = 0.01
"""A unit is active if the variance of its posterior mean over the data is larger, in units of the prior's."""


def has_bound(model: GenerativeModel) -> TypeGuard[Variational]:
    """Whether a model is scored by an evidence lower bound."""
    return can_score(model) and hasattr(model, "elbo")


@torch.no_grad()
def measure(
    model: GenerativeModel,
    data: object,
    name: str,
    *,
    limit: int | None = None,
    batch_size: int = 128,
    generator: torch.Generator | None = None,
) -> list[Figure]:
    """The two terms of the evidence lower bound, their sum, and the use of the latents of a model with that bound.

    The rate is KL(q || p), the distortion -log p(x given z) with z drawn from q, in nats an item; their sum is the
    negative bound. Means over the items with standard errors; where the likelihood is a mass over levels also in bits
    an element. A hierarchy gives the rate of every group besides. Of a conditional model both are given the
    class, as their kind says.

    A unit of the latent is active if its posterior mean varies over the items with a variance above 0.01, counted in
    the prior's standard deviations. In a hierarchy the prior of a group depends on the groups above; they are at their
    posterior means. Two items or more are needed, a thousand are good: few scatter around the limit.

    Arguments: as for `zoo.evaluation.likelihood.measure`.

    Sources: Alemi et al., "Fixing a Broken ELBO", 2018; Burda, Grosse, Salakhutdinov, "Importance Weighted
    Autoencoders", 2016.
    """
    if not has_bound(model):
        raise ValueError(f"{type(model).__name__} is not scored by a bound: it has no rate and distortion")
    check_count(batch_size, "batch_size")
    model.eval()
    noise = fork(generator)
    distortion, rates = [], []
    used: list[Moments] = []
    for x, told in head(model, data, limit, batch_size, f"Encoding {name}", generator):
        condition = model.prepare_condition(told, len(x))
        elbo = model.elbo(x, condition=condition, generator=noise)
        distortion.append(-elbo.reconstruction.double().cpu())
        rates.append(elbo.kl.double().cpu())
        mean = model.prior(condition, n=len(x)).standardise(model.encode(x, condition=condition).mean)
        used = used or [Moments.zeros(tuple(group.shape[1:])) for group in groups(mean)]
        for moments, group in zip(used, groups(mean), strict=True):
            moments.update(group)
    found = _terms(model, torch.cat(distortion), torch.cat(rates), name)
    active = [moments.variance() > ACTIVE for moments in used]
    total = sum(int(group.sum()) for group in active)
    found.append(Figure(f"active units of {sum(group.numel() for group in active):,}", total, name))
    if len(active) > 1:
        for g, group in enumerate(active, 1):
            label = f"active units of {group.numel():,} in group {g} of {len(active)}"
            found.append(Figure(label, int(group.sum()), name))
    return found


def _terms(model: Variational, distortion: Tensor, rates: Tensor, name: str) -> list[Figure]:
    """Figures of the distortion, shape [items], and of the rates, shape [items, groups]."""
    given = known(model)
    kind = ", ".join(filter(None, ["mass" if model.discrete else "density", given]))
    rate, count = rates.sum(1), rates.shape[1]
    found = [
        mean_figure("rate", rate, name, "nats", given),
        mean_figure("distortion", distortion, name, "nats", kind),
        mean_figure("negative ELBO", rate + distortion, name, "nats", f"bound on a {kind}"),
    ]
    if model.discrete and model.modality.levels is not None:
        nats = math.log(2) * model.modality.elements
        found.append(mean_figure("rate, bits/dim", rate / nats, name, kind=given))
        found.append(mean_figure("distortion, bits/dim", distortion / nats, name, kind=kind))
    if count > 1:
        for g, values in enumerate(rates.unbind(1), 1):
            found.append(mean_figure(f"rate of group {g} of {count}", values, name, "nats", given))
    return found
