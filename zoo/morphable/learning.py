"""Learning a morphable model from meshes in correspondence."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from modalities import MediaError
from modalities.data import Arrays, Items, as_dataset, batches
from modalities.meshes import Meshes
from modalities.meshes.alignment import align as align_to
from modalities.meshes.alignment import enlarge, find_similarity, procrustes_mean
from zoo.linear.principal import PrincipalAxes, principal_axes
from zoo.moments import Moments
from zoo.morphable.modes import Axes, principal

Pairs = tuple[Tensor, Tensor] | Items
"""Expressive meshes and the same people's neutral ones."""


def learn(
    data: Tensor | Items,
    medium: Meshes,
    shape: int | float,
    colour: int | float,
    expression: int | float,
    expressions: Pairs | None,
    align: str,
    seed: int,
) -> dict[str, Any]:
    """What `MorphableModel.assemble` makes the model of; the arguments are those of `MorphableModel.fit`."""
    if align not in ("none", "rigid", "similarity"):
        raise ValueError(f"align is none, rigid or similarity, got {align!r}")
    if colour and not medium.colours:
        raise ValueError(f"{colour} modes of colour need meshes with colours, got {medium}")
    if bool(expression) != (expressions is not None):
        raise ValueError(f"modes of expression need pairs in expressions, got {expression!r} and {expressions!r:.60}")
    _ = medium.triangles  # before the work, not after it

    place = Placement(data, medium, align)
    found = learn_modes(each(data, place), medium, "shape", shape, seed)
    left = found.total - found.variance.double().sum().item()
    smiles = tints = None
    if expressions is not None:
        pairs = Arrays(*expressions) if isinstance(expressions, tuple) else expressions
        smiles, more = learn_offsets(each(pairs, place.offsets, pairs=True), medium, expression, seed)
        left += more
    mean = found.mean.unflatten(0, (-1, 3))
    if medium.colours:
        colours = each(data, lambda x: x[:, :, 3:])
        tints = learn_modes(colours, medium, "colour", colour, seed) if colour else None
        tint = tints.mean.unflatten(0, (-1, 3)) if tints else mean_of(colours, (medium.vertices, 3))
        mean = torch.cat([mean, tint.to(mean)], 1)
    return {
        "medium": medium,
        "mean": mean,
        "shape": Axes(found.basis, found.variance),
        "expression": smiles,
        "colour": Axes(tints.basis, tints.variance) if tints else None,
        "noise": max(0.0, left) / (3 * medium.vertices),
        "count": found.count,
    }


class Placement:
    """Positions of meshes without their colours, and without how the meshes are placed, where that is taken out.

    Arguments:
        align: "none", "rigid" or "similarity", to the mean of the meshes in `data`.
    """

    def __init__(self, data: Tensor | Items, medium: Meshes, align: str):
        self.medium, self.scale = medium, align == "similarity"
        self.reference: Tensor | None = None
        self.growth = 1.0
        if align != "none":
            self.reference, self.growth = procrustes_mean(each(data, self._positions), self.scale, tolerance=1e-6)

    def __call__(self, x: Tensor) -> Tensor:
        """Meshes [batch, vertices, 3 or 6] to positions [batch, vertices, 3]."""
        positions = self._positions(x)
        if self.reference is None:
            return positions
        return enlarge(align_to(positions, self.reference, self.scale), self.growth, self.reference)

    def offsets(self, expressive: Tensor, neutral: Tensor) -> Tensor:
        """How the positions of the same people's meshes differ."""
        start = self(neutral)
        if self.reference is None:
            return self(expressive) - start
        # Both meshes of a person take one size, that of the neutral one.
        size = self.growth * find_similarity(neutral, self.reference, self.scale).scale.to(expressive)
        return align_to(size[:, None, None] * self._positions(expressive), start) - start

    def _positions(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.medium.shape:
            expected = ", ".join(map(str, self.medium.shape))
            raise MediaError(f"expected meshes of shape [batch, {expected}], got {list(x.shape)}")
        return x[:, :, :3]


def learn_modes(data: Tensor | Items, medium: Meshes, part: str, modes: int | float, seed: int) -> PrincipalAxes:
    """The principal axes of a part. More modes than the meshes have directions are refused: the surplus is noise."""
    found = principal_axes(data, (medium.vertices, 3), modes, seed=seed)
    rounding = torch.finfo(torch.float32).eps * torch.linalg.vector_norm(found.mean.double()).item()
    if found.total <= rounding**2:
        raise ValueError(f"all {found.count} meshes are equal: there are no modes of {part}")
    rank = int((found.variance > torch.finfo(torch.float32).eps * found.variance.max()).sum())
    if rank < len(found.variance) and isinstance(modes, int):
        raise ValueError(f"{found.count} meshes vary in {rank} directions of {part}, fewer than {modes}")
    return dataclasses.replace(found, basis=found.basis[:rank], variance=found.variance[:rank])


def learn_offsets(data: Tensor | Items, medium: Meshes, modes: int | float, seed: int) -> tuple[Axes, float]:
    """The modes of expression about zero, of offsets [vertices, 3], and the variance that they leave out."""
    found = learn_modes(data, medium, "expression", modes, seed)
    # The modes about the mean offset and this offset itself span the modes about zero.
    spanning = torch.cat([found.basis * found.variance.sqrt()[:, None], found.mean[None]]).double()
    every, _ = principal(spanning)
    most = modes if isinstance(modes, int) else len(found.basis) + 1
    axes = Axes(every.basis[:most].to(found.mean), every.variance[:most].to(found.mean))
    total = found.total + found.mean.double().square().sum().item()
    return axes, total - every.variance[:most].sum().item()


def mean_of(data: Tensor | Items, shape: tuple[int, ...]) -> Tensor:
    """The mean of items of a shape, float64."""
    moments = Moments.zeros(shape)
    for batch in batches(as_dataset(data), 64):
        moments.update(batch.x)
    return moments.mean


def each(data: Tensor | Items, change: Callable[..., Tensor], pairs: bool = False) -> Tensor | Items:
    """The data with every item changed, without what it comes with, or every one of `pairs`; `change` takes batches."""
    if isinstance(data, Arrays) and data.noise is None:
        return change(data.x, data.labels) if pairs else change(data.x)
    return change(data) if isinstance(data, Tensor) else _Changed(data, change, pairs)


class _Changed(Dataset):
    """Another data set, every item changed when it is read."""

    def __init__(self, data: Items, change: Callable[..., Tensor], pairs: bool):
        self.data, self.change, self.pairs = data, change, pairs

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        item = self.data[index]
        parts = item if isinstance(item, (tuple, list)) else (item,)
        return self.change(*(part[None] for part in (parts if self.pairs else parts[:1])))[0]
