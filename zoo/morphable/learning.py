"""Learning a morphable model from meshes in correspondence."""

import dataclasses
import warnings
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
from zoo.morphable.modes import Axes, principal, rigid_axes

Pairs = tuple[Tensor, Tensor] | Items
"""Expressive meshes and the same people's neutral ones."""


MOST = 100
"""Modes of a part where their number is not given, if there are so many."""
EXTENT = (10.0, 10_000.0)
"""Millimetres that a mesh is expected to span."""
Modes = int | float | None
"""How many; the fraction of variance that the fewest shall exceed; or as many as there are, at most `MOST`."""


def learn(
    data: Tensor | Items,
    medium: Meshes,
    shape: Modes,
    colour: Modes,
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
    most = max(1, min(MOST, check_sizes(each(data, place.positions)) - 1))
    found = learn_modes(each(data, place), medium, "shape", most if shape is None else shape, seed, shape is not None)
    if align == "none":
        check_placement(found)
    left = found.total - found.variance.double().sum().item()
    smiles = tints = None
    if expressions is not None:
        pairs = Arrays(*expressions) if isinstance(expressions, tuple) else expressions
        smiles, more = learn_offsets(each(pairs, place.offsets, pairs=True), medium, expression, seed)
        left += more
    mean = found.mean.unflatten(0, (-1, 3))
    if medium.colours:
        colours = each(data, lambda x: x[:, :, 3:])
        tint, varies = moments_of(colours, (medium.vertices, 3)) if not colour else (mean, True)
        if colour or (colour is None and varies):
            tints = learn_modes(colours, medium, "colour", most if colour is None else colour, seed, bool(colour))
            tint = tints.mean.unflatten(0, (-1, 3))
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
            self.reference, self.growth = procrustes_mean(each(data, self.positions), self.scale, tolerance=1e-6)

    def __call__(self, x: Tensor) -> Tensor:
        """Meshes [batch, vertices, 3 or 6] to positions [batch, vertices, 3]."""
        positions = self.positions(x)
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
        return align_to(size[:, None, None] * self.positions(expressive), start) - start

    def positions(self, x: Tensor) -> Tensor:
        """The positions alone, as they are."""
        if tuple(x.shape[1:]) != self.medium.shape:
            expected = ", ".join(map(str, self.medium.shape))
            raise MediaError(f"expected meshes of shape [batch, {expected}], got {list(x.shape)}")
        return x[:, :, :3]


def check_sizes(data: Tensor | Items) -> int:
    """How many meshes there are, of positions [vertices, 3]; warns where some are of another size than the others or
    all are of none that is likely in millimetres."""
    sizes, extents = [], []
    for batch in batches(as_dataset(data), 64):
        centred = batch.x - batch.x.mean(1, keepdim=True)
        sizes.append(centred.square().sum(2).mean(1).sqrt())
        extents.append((batch.x.amax(1) - batch.x.amin(1)).amax(1))
    ratio, extent = torch.cat(sizes) / torch.cat(sizes).median(), torch.cat(extents).median().item()
    other = ((ratio > 3) | (ratio < 1 / 3)).nonzero()[:, 0]
    if len(other):
        warnings.warn(
            f"{len(other)} of {len(ratio)} meshes differ in size by far, such as number {int(other[0])} from 0 on, "
            f"{ratio[other[0]].item():.3g} times as large as most; are they in another unit?",
            stacklevel=4,
        )
    if not EXTENT[0] <= extent <= EXTENT[1] and extent > 0:
        warnings.warn(
            f"the meshes span {extent:.3g} mm: lengths are millimetres; files in another unit are read with "
            'Meshes.from_file(path, unit="m") or unit="cm", "um", "in"',
            stacklevel=4,
        )
    return len(ratio)


def check_placement(found: PrincipalAxes) -> None:
    """Warn where the modes of shape are mostly how the meshes lie: shifts and turns of the mean."""
    moved = found.basis.double() @ rigid_axes(found.mean.view(-1, 3)).T
    share = (moved.square().sum(1) * found.variance.double()).sum().item() / found.total
    if share > 0.5:
        warnings.warn(
            f"{share:.0%} of the variance is how the meshes are shifted and turned, not their shape: "
            'align="rigid" takes that out',
            stacklevel=4,
        )


def learn_modes(
    data: Tensor | Items, medium: Meshes, part: str, modes: int | float, seed: int, exact: bool = True
) -> PrincipalAxes:
    """The principal axes of a part. If `exact`, more modes than the meshes have directions are refused, since the
    surplus is noise; else there are fewer."""
    found = principal_axes(data, (medium.vertices, 3), modes, seed=seed)
    rounding = torch.finfo(torch.float32).eps * torch.linalg.vector_norm(found.mean.double()).item()
    if found.total <= rounding**2:
        raise ValueError(f"all {found.count} meshes are equal: there are no modes of {part}")
    rank = int((found.variance > torch.finfo(torch.float32).eps * found.variance.max()).sum())
    if rank < len(found.variance) and isinstance(modes, int) and exact:
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


def moments_of(data: Tensor | Items, shape: tuple[int, ...]) -> tuple[Tensor, bool]:
    """The mean of items of a shape, float64, and whether they differ by more than rounding."""
    moments = Moments.zeros(shape)
    for batch in batches(as_dataset(data), 64):
        moments.update(batch.x)
    rounding = torch.finfo(torch.float32).eps * torch.linalg.vector_norm(moments.mean).item()
    return moments.mean, moments.total > moments.count * rounding**2


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
