"""Walks through a latent space: interpolation, traversal and attribute directions of any `Latent` model.

The last three functions are methods of `Latent`. All of them move the standardised noise, the coordinates in which the
prior is a standard normal: in a hierarchy that of every group, so that a group follows what the groups above it become.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from modalities.data import cut
from zoo.checks import check_count
from zoo.distributions import LatentT, Posterior, Prior, Z, normal_noise

if TYPE_CHECKING:
    from zoo.model import Latent

AT_ONCE = 128
"""How many items are encoded at once where any number may come."""


def map_latents(function: Callable[..., Tensor], *z: LatentT) -> LatentT:
    """Apply a function to every tensor of latents, or to those that belong together in several."""
    first: Z = z[0]
    if isinstance(first, Tensor):
        return cast(LatentT, function(*z))
    groups = [function(*group) for group in zip(*z, strict=True)]
    return cast(LatentT, type(first)(*groups) if hasattr(first, "_fields") else tuple(groups))


def encode_noise(model: "Latent[LatentT]", x: Tensor, condition: object) -> LatentT:
    """Where items lie in the latent space, as standardised noise; `condition` is prepared."""
    return model.prior(condition, n=len(x)).standardise(model.encode(x, condition=condition).mean)


def decode_noise(model: "Latent[LatentT]", noise: LatentT, condition: object) -> Tensor:
    """The mean of p(x given z) at standardised noise; `condition` is prepared."""
    n = len(noise) if isinstance(noise, Tensor) else len(noise[0])
    return model.decode(model.prior(condition, n=n).reparameterise(noise), condition=condition).mean


def slerp(a: Tensor, b: Tensor, fraction: float) -> Tensor:
    """Spherical linear interpolation of every item; linear where the two are nearly parallel.

    It keeps the norm that a standard normal's draws have; linear mid-points are too near the mean.

    Source: White, "Sampling Generative Networks", 2016.
    """
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=1).clamp(-1, 1)
    angle = torch.acos(cosine)[:, None]
    sine = torch.sin(angle)
    curved = (torch.sin((1 - fraction) * angle) * flat_a + torch.sin(fraction * angle) * flat_b) / sine
    mixed = torch.where(sine > 1e-4, curved, torch.lerp(flat_a, flat_b, fraction))
    return mixed.reshape(a.shape).to(a.dtype)


def _most_informative(prior: Prior[LatentT], posterior: Posterior[LatentT] | None, noise: LatentT) -> list[int]:
    """The eight elements of the flattened latent that say most about the items, or the first eight."""
    size = sum(group[0].numel() for group in groups(noise))
    information = getattr(posterior, "information", None)
    if information is not None:
        return information(prior).argsort(descending=True)[:8].tolist()
    return list(range(min(8, size)))


def _through(noise: LatentT, group: int) -> LatentT:
    """A random direction in one group, a third of a standard deviation an element."""
    random = torch.Generator().manual_seed(group)
    direction = map_latents(lambda part: torch.zeros_like(part[0]), noise)
    moved = groups(direction)[group]
    moved.add_(normal_noise(tuple(moved.shape), moved, random) / 3)
    return direction


def _move(noise: LatentT, direction: int | LatentT, value: float) -> LatentT:
    """Set an element of the flattened latent to a value, or go so far along a direction."""
    if not isinstance(direction, int):
        return map_latents(lambda group, step: group + value * step.to(group), noise, direction)
    index, sizes = direction, [group[0].numel() for group in groups(noise)]
    if not 0 <= index < sum(sizes):
        raise ValueError(f"the latent has {sum(sizes)} dimensions, numbered from 0; got {index}")
    moved = map_latents(torch.clone, noise)
    for group in groups(moved):
        if 0 <= index < group[0].numel():
            group.flatten(1)[:, index] = value
        index -= group[0].numel()
    return moved


def groups(z: Z) -> tuple[Tensor, ...]:
    """The tensors of latents, of one as of many."""
    return (z,) if isinstance(z, Tensor) else z


@torch.no_grad()
def interpolate(
    model: "Latent[LatentT]",
    a: Tensor,
    b: Tensor,
    steps: int = 8,
    *,
    method: Literal["spherical", "linear"] = "spherical",
    condition: object = None,
) -> Tensor:
    """Walk from the items a to the items b, shape [batch, steps, ...]; the ends are their reconstructions.

    Spherical interpolation (slerp) keeps the norm that a standard normal's draws have. In a hierarchy the noise of
    every group moves.
    """
    check_count(steps, "steps")
    a, b = model.check_items(a), model.check_items(b)
    if a.shape != b.shape:
        raise ValueError(f"the two ends must have one shape, got {list(a.shape)} and {list(b.shape)}")
    if method not in ("spherical", "linear"):
        raise ValueError(f"method is spherical or linear, got {method!r}")
    condition = model.prepare_condition(condition, len(a))
    start, end = encode_noise(model, a, condition), encode_noise(model, b, condition)
    mix = slerp if method == "spherical" else torch.lerp
    frames = []
    for fraction in torch.linspace(0, 1, steps).tolist():
        noise = map_latents(lambda s, e, t=fraction: mix(s, e, t), start, end)
        frames.append(decode_noise(model, noise, condition))
    return torch.stack(frames, 1)


@torch.no_grad()
def traverse(
    model: "Latent[LatentT]",
    x: Tensor | None = None,
    *,
    along: Sequence[int | LatentT] | Literal["groups"] | None = None,
    values: Sequence[float] = (-3, -2, -1, 0, 1, 2, 3),
    condition: object = None,
) -> Tensor:
    """Move through the latent space and decode, shape [batch, directions, values, ...].

    Arguments:
        x: the items to start from; None starts from the prior's mean.
        along: what to move: an index of the flattened latent, which is set to each value (in standard deviations of
            the prior), or a direction from `attribute_direction`, which is added, times the value. None takes the
            eight dimensions that carry most information about x, or the first eight. "groups" moves whole groups of a
            hierarchy, up to eight, those of the largest KL first: each along a random direction, the same in every
            call, that changes a standard deviation of every element at a value of 3.
        values: where to stop along each.
    """
    n = 1 if x is None else len(model.check_items(x))
    condition = model.prepare_condition(condition, n)
    prior = model.prior(condition, n=n)
    posterior = None if x is None else model.encode(x, condition=condition)
    noise = prior.standardise(prior.mean if posterior is None else posterior.mean)
    if along == "groups":
        order = range(len(groups(noise)))
        divergence = getattr(posterior, "kl", None)
        if posterior is not None and divergence is not None:
            order = divergence(prior, posterior.mean).mean(0).argsort(descending=True).tolist()
        along = [_through(noise, group) for group in order[:8]]
    elif along is None:
        along = _most_informative(prior, posterior, noise)
    rows = []
    for direction in along:
        moved = [_move(noise, direction, value) for value in values]
        rows.append(torch.stack([decode_noise(model, step, condition) for step in moved], 1))
    return torch.stack(rows, 1)


@torch.no_grad()
def attribute_direction(model: "Latent[LatentT]", x: Tensor, labels: Tensor, *, condition: object = None) -> LatentT:
    """The change of the latent for a label that is larger by one, without the batch dimension.

    The least-squares slope of every latent dimension on the label; for labels 0 and 1 it is the difference of the
    two groups' means. Take some hundred items a group, and balance what else differs between the groups.

    Source: Larsen, Sonderby, Larochelle, Winther, "Autoencoding beyond pixels", 2016, for binary labels.
    """
    x = model.check_items(x)
    values = torch.as_tensor(labels, dtype=torch.float64)
    if values.shape != (len(x),):
        raise ValueError(f"expected one label an item, shape [{len(x)}], got {list(values.shape)}")
    values = values - values.mean()
    if not values.square().sum() > 0:
        raise ValueError("all labels are equal: an attribute that never changes has no direction")
    condition = model.prepare_condition(condition, len(x))
    weights = values / values.square().sum()
    slopes = []
    for start in range(0, len(x), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        noise = encode_noise(model, x[part], cut(condition, part))
        weight = weights[part]
        slopes.append(map_latents(lambda group, w=weight: torch.tensordot(w.to(group), group, 1), noise))
    return map_latents(lambda *parts: torch.stack(parts).sum(0), *slopes)
