"""Directions in the latent space that belong to labels, such as age."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from modalities import MediaError
from modalities.data import Items, fetch

if TYPE_CHECKING:
    from zoo.morphable.model import MorphableModel


def ridge_direction(z: Tensor, labels: Tensor, name: str = "labels") -> Tensor:
    """The most probable step in standard normal coefficients that raises a label by one, shape [K].

    With the regression label = slope . z + c that is slope / |slope|^2: of all steps with this effect the one of least
    Mahalanobis length. The ridge of the regression is the one of least leave-one-out error, so that few labels do, and
    that a step is long enough where its direction is uncertain; the limit of a large one is Blanz and Vetter's sum of
    label-weighted deviations from the mean. Labels that no ridge predicts are warned of.

    Arguments:
        z: coefficients, shape [n, K].
        labels: numbers, shape [n].
        name: of the labels, for errors.

    Raises ValueError for fewer than 3 labels, for NaN and for labels that are all equal.

    Sources: Blanz, Vetter, "A Morphable Model for the Synthesis of 3D Faces", 1999; for the leave-one-out error Allen,
    "The Relationship between Variable Selection and Data Augmentation and a Method for Prediction", 1974.
    """
    from sklearn.linear_model import RidgeCV

    if len(labels) < 3 or not torch.isfinite(labels).all():
        raise ValueError(f"{name}: expected at least 3 finite numbers, got {labels.tolist()!s:.60}")
    x, y = (part.double().cpu().numpy() for part in (z, labels))
    rounding = np.finfo(np.float32).eps
    if np.ptp(y) <= rounding * np.abs(y).max():
        raise ValueError(f"{name}: all labels are equal: an attribute that never changes has no direction")
    size = np.linalg.norm(x - x.mean(0), 2)
    if size <= rounding * np.linalg.norm(x, 2):
        raise ValueError(f"{name}: all meshes are equal: no direction leads from one to another")
    found = RidgeCV(alphas=size**2 * np.logspace(-8, 3, 45)).fit(x, y)
    slope, length = found.coef_, np.linalg.norm(found.coef_)
    # The mean of the others, which knows nothing of the mesh, is off by n / (n - 1) times the deviation.
    if -found.best_score_ > 0.99 * y.var() * (len(y) / (len(y) - 1)) ** 2:
        warnings.warn(
            f"{name}: these labels cannot be told from the meshes: their direction means little", stacklevel=2
        )
        # A slope near 0 would make an endless step. It is no longer than this.
        slope = slope / length * y.std(ddof=1)
    return torch.from_numpy(slope / np.square(slope).sum()).to(z)


def learn_directions(model: "MorphableModel", data: Tensor | Items, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The steps in z by the names of labels, of which each has one number a mesh of the data."""
    z, kept = _coefficients(model, data)
    steps = {}
    for name, given in labels.items():
        values = torch.as_tensor(given, dtype=torch.float64)
        if values.shape != (len(data),):
            raise ValueError(f"{name}: expected one label a mesh, shape [{len(data)}], got {list(values.shape)}")
        steps[name] = ridge_direction(z, values[kept], name)
    return steps


def _coefficients(model: "MorphableModel", data: Tensor | Items) -> tuple[Tensor, list[int]]:
    """The coefficients of the meshes that can be read, shape [kept, K], and their places in the data."""
    if isinstance(data, Tensor):
        return torch.cat([model.encode(block).mean for block in data.split(64)]), list(range(len(data)))
    rows, kept = [], []
    for place in range(len(data)):
        batch, errors = fetch(data, [place])
        for error in errors:
            warnings.warn(f"skipped: {error}", stacklevel=4)
        if batch is not None:
            rows.append(model.encode(batch.x).mean)
            kept.append(place)
    if not rows:
        raise MediaError("not one mesh could be read")
    return torch.cat(rows), kept
