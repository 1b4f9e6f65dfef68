"""How good a shape model is: compact, general and specific, each as a curve over the number of modes of shape.

Distances are those of corresponding vertices, in millimetres, averaged over a mesh. Expressions and colours do not
count: the meshes to measure with are neutral.

Source: Davies, Twining, Taylor, "Statistical Models of Shape: Optimisation and Evaluation", 2008.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modalities import MediaError
from modalities.drawing import render
from zoo.distributions import full_precision, normal_noise
from zoo.model import check_count
from zoo.morphable.model import MorphableModel

if TYPE_CHECKING:
    from PIL.Image import Image

BLOCK = 2**21
"""How many numbers are compared at once."""


@dataclasses.dataclass(frozen=True)
class Curves:
    """The three measures of a model, a number for each number of modes."""

    modes: list[int]
    compactness: Tensor
    """The share of the variance that so many modes have, in [0, 1]; rises."""
    generalization: Tensor
    """The mean vertex distance of unseen meshes from their best likeness, mm; falls."""
    specificity: Tensor
    """The mean vertex distance of samples from the nearest training mesh, mm; rises."""

    def show(self) -> "Image":
        """The three curves, side by side."""
        from matplotlib.figure import Figure as Plot

        plot = Plot(figsize=(10, 3), layout="constrained")
        for axes, field in zip(plot.subplots(1, 3), dataclasses.fields(self)[1:], strict=True):
            axes.plot(self.modes, getattr(self, field.name).tolist(), marker="." if len(self.modes) < 40 else None)
            axes.set(xlabel="modes", title=f"{field.name}{', mm' if field.name != 'compactness' else ''}")
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
        return render(plot)


def measure(
    model: MorphableModel,
    training: Tensor,
    test: Tensor | None = None,
    modes: Sequence[int] | None = None,
    *,
    samples: int = 1000,
    generator: torch.Generator | None = None,
) -> Curves:
    """All three measures.

    Arguments:
        training: the neutral meshes that the model was fitted to, shape [n, vertices, 3 or 6].
        test: others. None leaves one of the training meshes out after the other, and fits models to the rest.
        modes: the numbers of modes; None takes 1, 2, 4, and so on, and all.
        samples: how many are drawn for specificity.
    """
    numbers = _numbers(modes, model.sizes.shape)
    return Curves(
        numbers,
        compactness(model, numbers),
        leave_one_out(training, numbers) if test is None else generalization(model, test, numbers),
        specificity(model, training, numbers, samples=samples, generator=generator),
    )


def vertex_distance(x: Tensor, y: Tensor) -> Tensor:
    """The mean distance of corresponding vertices, mm, shape [batch]; both [batch, vertices, 3 or 6]."""
    return torch.linalg.vector_norm(x[..., :3] - y[..., :3], dim=-1).mean(-1)


@torch.no_grad()
def reconstruction_error(model: MorphableModel, x: Tensor) -> Tensor:
    """The mean vertex distance of meshes from what the model makes of them, mm, shape [batch].

    x is of shape [batch, vertices, 3 or 6]; a model with colours takes those of its mean where x has none.
    """
    missing = model.mean[:, x.shape[2] :].expand(len(x), -1, -1)
    return vertex_distance(x, model.reconstruct(torch.cat([x, missing], 2)))


def compactness(model: MorphableModel, modes: Sequence[int] | None = None) -> Tensor:
    """The share of the variance of shape in the first modes, shape [modes]; the whole includes the model's noise."""
    numbers = torch.tensor(_numbers(modes, model.sizes.shape))
    variance = model.shape_variance.double().cpu()
    whole = variance.sum() + model.noise.double().cpu() * 3 * model.modality.vertices
    return variance.cumsum(0)[numbers - 1] / whole


@torch.no_grad()
def generalization(model: MorphableModel, x: Tensor, modes: Sequence[int] | None = None) -> Tensor:
    """The mean vertex distance of unseen meshes from their orthogonal projections on the first modes, mm, [modes].

    x is of shape [n, vertices, 3 or 6].
    """
    numbers = _numbers(modes, model.sizes.shape)
    mean, basis = model.mean[:, :3].flatten(), model.axes("shape").basis
    total = torch.zeros(len(numbers), dtype=torch.float64)
    for block in _positions(model.modality.check(x).to(mean)).split(_rows(len(mean))):
        rest = block - mean
        scores = rest @ basis.T
        before = 0
        for place, k in enumerate(numbers):
            rest = rest.addmm(scores[:, before:k], basis[before:k], alpha=-1)
            before = k
            total[place] += _lengths(rest).double().sum().cpu()
    return total / len(x)


@torch.no_grad()
def leave_one_out(x: Tensor, modes: Sequence[int] | None = None) -> Tensor:
    """Generalization without a test set: every mesh by the modes of all the others, mm, shape [modes].

    All fits come from the inner products of the meshes, in O(n^2) numbers a fit. None takes 1, 2, 4, and so on, and all
    n - 2 modes. x is of shape [n, vertices, 3 or 6].
    """
    if x.ndim != 3 or len(x) < 3:
        raise MediaError(f"expected at least 3 meshes, shape [n, vertices, 3 or 6], got {list(x.shape)}")
    if not x.isfinite().all():
        raise MediaError("the meshes hold NaN or infinite values")
    numbers = _numbers(modes, len(x) - 2)
    flat = _positions(full_precision(x))
    flat = flat - flat.mean(0)
    products = torch.zeros(len(x), len(x), dtype=torch.float64, device=x.device)
    for part in flat.split(_rows(len(x)), 1):
        products += part.double() @ part.double().T
    if not products.trace() > 0:
        raise ValueError(f"all {len(x)} meshes are equal: no model can be fitted to them")
    total = torch.zeros(len(numbers), dtype=torch.float64)
    for left_out in range(len(x)):
        others = torch.arange(len(x), device=x.device) != left_out
        # The left-out mesh and the others, less the others' mean, as combinations of all meshes.
        centring = torch.eye(len(x), dtype=torch.float64, device=x.device) - others.double() / others.sum()
        own, rest = centring[left_out], centring[others]
        values, vectors = torch.linalg.eigh(rest @ products @ rest.T)
        values, vectors = values.flip(0)[: max(numbers)], vectors.flip(1)[:, : max(numbers)]
        inverse = torch.where(values > 1e-10 * values[0], 1 / values, 0.0)
        scores = (vectors.T @ (rest @ products @ own)) * inverse
        likeness = (scores * vectors).cumsum(1).T @ rest
        combined = own - likeness[torch.tensor(numbers) - 1]
        parts = combined.to(flat).split(_rows(flat.shape[1]))
        total += torch.cat([_lengths(rows @ flat) for rows in parts]).double().cpu()
    return total / len(x)


@torch.no_grad()
def specificity(
    model: MorphableModel,
    x: Tensor,
    modes: Sequence[int] | None = None,
    *,
    samples: int = 1000,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The mean vertex distance of the model's samples from the nearest of the training meshes x, mm, shape [modes].

    x is of shape [n, vertices, 3 or 6]. Samples of different numbers of modes share their coefficients, so that the
    curve is smooth. Every sample is compared with every mesh: n * samples * vertices distances for each number.
    """
    check_count(samples, "samples")
    numbers = _numbers(modes, model.sizes.shape)
    mean, rows = model.mean[:, :3].flatten(), _rows(3 * model.modality.vertices)
    # Coordinates first: a distance is then a few operations on long rows.
    training = _positions(model.modality.check(x).to(mean)).unflatten(1, (-1, 3)).movedim(2, 0).contiguous()
    basis, variance = model.axes("shape")
    z = normal_noise((samples, max(numbers)), mean, generator) * variance[: max(numbers)].sqrt()
    total = torch.zeros(len(numbers), dtype=torch.float64)
    for place, k in enumerate(numbers):
        for part in z[:, :k].split(rows):
            drawn = torch.addmm(mean, part, basis[:k]).unflatten(1, (-1, 3)).movedim(2, 0)
            for sample in drawn.split(1, 1):
                away = [(some - sample).square_().sum(0).sqrt_().mean(1).min() for some in training.split(rows, 1)]
                total[place] += torch.stack(away).min().item()
    return total / samples


def _lengths(flat: Tensor) -> Tensor:
    """The mean length of the offsets of vertices, shape [batch], from rows of coordinates."""
    return torch.linalg.vector_norm(flat.unflatten(1, (-1, 3)), dim=2).mean(1)


def _positions(x: Tensor) -> Tensor:
    return x[:, :, :3].flatten(1)


def _rows(width: int) -> int:
    return max(1, BLOCK // width)


def _numbers(modes: Sequence[int] | None, most: int) -> list[int]:
    """The numbers of modes to measure with, rising."""
    if modes is None:
        return sorted({min(2**power, most) for power in range(most.bit_length() + 1)})
    numbers = [int(k) for k in modes]
    if not numbers or sorted(set(numbers)) != numbers or not 1 <= numbers[0] <= numbers[-1] <= most:
        raise ValueError(f"modes are rising numbers from 1 to {most}, got {list(modes)!s:.60}")
    return numbers
