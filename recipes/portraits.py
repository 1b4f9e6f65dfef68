"""Colours of faces out of portraits: a morphable face is fitted to landmarks, its visible vertices are read off the
picture, and what is hidden comes from the other half of the face and from the other faces.

The portraits' light stays in the colours: in a studio it is soft and the same for all.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from modalities import MediaError
from modalities.images import Images
from zoo.linear.camera import Camera, read_colours
from zoo.linear.fitting import fit_landmarks
from zoo.linear.morphable import MorphableModel

LANDMARKS: dict[int, tuple[int, ...]] = {
    **dict(enumerate([(71,), (72,), (73,), (74, 75), (76,), (77,), (78, 79), (80,), (81,), (82,)], 17)),
    **dict(enumerate([(51, 57), (52, 58), (53, 59), (54, 60), (64,), (170,), (55,), (172,), (69,)], 27)),
    **dict(enumerate([(18,), (19, 20), (20, 21), (22,), (29, 30), (28, 29)], 36)),
    **dict(enumerate([(23,), (24, 25), (25, 26), (27,), (32, 33), (31, 32)], 42)),
    **dict(enumerate([(87,), (88,), (89,), (90,), (91,), (92,), (93,)], 48)),
    **dict(enumerate([(108,), (107,), (106,), (105,), (104,)], 55)),
    **dict(enumerate([(95,), (96,), (97,)], 61)),
    **dict(enumerate([(102,), (101,), (100,)], 65)),
}
"""For a landmark of iBUG's 68, the points of the 189-point template of the Face Research Lab whose mean it is."""
CONTOUR = (109, 110, 111, 125, 126, 127, 128, 129, 130, 131, 132, 133, 114, 113, 112)
"""The template's points from ear to ear, the chin in the middle; iBUG's first 17 lie evenly along each half."""

SEEN = 0.45
"""The cosine between normal and viewer from which a vertex is seen well: 63 degrees."""
DARK = 0.6
"""Skin of the forehead is at least so bright beside the cheeks; hair is darker."""
STRANGE = 4.0
"""How many times the usual error of its colour a vertex may have that shows the face itself."""
RARE = 0.2
"""A vertex that a smaller share of portraits shows, on its own side or on the other, takes its neighbours' colours."""


class Portraits(NamedTuple):
    """Pictures of faces with landmarks."""

    pictures: Tensor
    """In [-1, 1], shape [n, 3, height, width]."""
    landmarks: Tensor
    """iBUG's 68 in pixels, NaN where unknown, shape [n, 68, 2]."""
    labels: list[dict[str, str]]
    """What the table says of each."""


class Readings(NamedTuple):
    """What portraits tell of faces."""

    coefficients: Tensor
    """Of the fitted faces, shape [n, K]."""
    cameras: list[Camera]
    """How each was seen."""
    residuals: Tensor
    """The mean distance of the fitted landmarks from those given, pixels, shape [n]."""
    colours: Tensor
    """Red, green and blue in [0, 1], shape [n, vertices, 3]."""
    weights: Tensor
    """How well a vertex is seen: 0 for not, 1 for from straight ahead, shape [n, vertices]."""


def read_portraits(folder: str | Path) -> Portraits:
    """The neutral portraits of a studio: of a folder with images.zip, labels.csv and landmarks189.npy, those whose
    "set" is "neutral".

    Raises `MediaError` where one of the three is missing or they do not belong together.
    """
    folder = Path(folder).expanduser()
    try:
        rows = list(csv.DictReader((folder / "labels.csv").read_text(encoding="utf-8").splitlines()))
        points = np.load(folder / "landmarks189.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise MediaError(f"{folder} holds no portraits with landmarks: {error}") from error
    if points.shape != (len(rows), 189, 2):
        raise MediaError(f"{folder}: expected landmarks of shape [{len(rows)}, 189, 2], got {list(points.shape)}")
    pictures = Images(3, 256, 256).dataset(folder, "all")
    kept = [i for i in range(len(rows)) if rows[i].get("set") == "neutral" and np.isfinite(points[i]).all()]
    landmarks = torch.full((len(kept), 68, 2), torch.nan)
    for place, template in LANDMARKS.items():
        landmarks[:, place] = torch.from_numpy(points[kept][:, template].mean(1))
    for i, template in enumerate(points[kept]):
        right, left = template[list(CONTOUR[:8])], template[list(CONTOUR[7:])]
        landmarks[i, :17] = torch.from_numpy(np.concatenate([_evenly(right, 9), _evenly(left, 9)[1:]]))
    return Portraits(torch.stack([pictures[i] for i in kept]), landmarks, [rows[i] for i in kept])


def _evenly(line: np.ndarray, n: int) -> np.ndarray:
    """So many points at equal distances along a line through given points [m, 2]."""
    along = np.concatenate([[0.0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()])
    at = np.linspace(0, along[-1], n)
    return np.stack([np.interp(at, along, line[:, axis]) for axis in (0, 1)], 1)


def read_faces(model: MorphableModel, portraits: Portraits, noise: float) -> Readings:
    """Fit the model's shape to every portrait, and read the colours of the vertices that it shows."""
    fits, found = [], []
    for picture, landmarks in zip(portraits.pictures, portraits.landmarks, strict=True):
        fit = fit_landmarks(model, landmarks, noise=noise)
        mesh = model.decode(fit.coefficients).mean[0, :, :3]
        fits.append(fit)
        found.append(read_colours(picture, mesh, fit.cameras[0], model.modality.faces))
    return Readings(
        torch.cat([fit.coefficients for fit in fits]),
        [fit.cameras[0] for fit in fits],
        torch.stack([fit.residuals.nanmean() for fit in fits]),
        torch.stack([one.colours for one in found]),
        torch.stack([one.weights for one in found]),
    )


def colour_coefficients(model: MorphableModel, colours: Tensor, weights: Tensor, noise: float = 0.05) -> Tensor:
    """The colour of a model's face given some vertices' colours [vertices, 3], shape [colour modes].

    The mean of the posterior, with noise of this standard deviation in the vertices that are seen well.
    """
    seen = (weights > SEEN).repeat_interleave(3)
    modes = (model.colour_variance.sqrt()[:, None] * model.colour_basis)[:, seen]
    gram = modes @ modes.T + noise**2 * torch.eye(len(modes)).to(modes)
    return torch.linalg.solve(gram, modes @ (colours - model.mean[:, 3:]).flatten()[seen])


def mirror(positions: Tensor) -> Tensor:
    """The vertex on the other side of a symmetric face [vertices, 3] for each vertex, shape [vertices]."""
    from scipy.spatial import KDTree

    points = positions.double().numpy()
    _, index = KDTree(points).query(points * (-1, 1, 1))
    return torch.from_numpy(index)


def fill(
    colours: Tensor, weights: Tensor, model: MorphableModel, modes: int = 12, rounds: int = 30
) -> tuple[Tensor, Tensor]:
    """Colours of all vertices, shape [n, vertices, 3], and which were read off a picture, shape [n, vertices].

    A vertex is hidden if it is seen at a flat angle, if hair covers it, or if no mixture of the other faces explains
    its colour (a background beside the cheek). It starts with the colour of the vertex on the other side of the face,
    or with the mean's. Then the principal components of all faces and what they say of the hidden colours are found
    in turn, which is the EM algorithm of probabilistic PCA without its noise. What hardly any picture shows, such as
    the sides of the head, goes on from the colours around it.

    Source: Roweis, "EM Algorithms for PCA and SPCA", 1998.
    """
    other = mirror(model.mean[:, :3])
    shown = (weights > SEEN) & ~_hair(colours, model)
    for last in (False, True):
        both = shown | shown[:, other]
        share = both.double()[..., None]
        guess = torch.where(shown[..., None], colours, colours[:, other]).double()
        mean = (guess * share).sum(0) / share.sum(0).clamp(min=1)
        # A face's own tone, so that a hidden part of a dark face does not start bright.
        tone = ((guess - mean) * share).sum(1, keepdim=True) / share.sum(1, keepdim=True).clamp(min=1)
        filled = torch.where(both[..., None], guess, mean + tone)
        rare = both.double().mean(0) < RARE
        for _ in range(rounds):
            explained = _explain(filled[:, ~rare], modes)
            filled[:, ~rare] = torch.where(shown[:, ~rare, None], colours[:, ~rare].double(), explained)
        if not last:
            strange = (colours[:, ~rare] - _explain_by_others(filled[:, ~rare], modes)).norm(dim=2)
            usual = strange.median(0).values.clamp(min=strange[shown[:, ~rare]].median())  # brows and lips vary more
            shown[:, ~rare] &= strange < STRANGE * usual
    return _spread(filled, rare, model.faces.long()).to(colours), shown & ~rare


def _hair(colours: Tensor, model: MorphableModel) -> Tensor:
    """Vertices of the forehead and the temples that are far darker than the face is, shape [n, vertices]."""
    brightness = colours.mean(2)
    height, landmarks = model.mean[:, 1], model.landmarks.long()
    skin = model.weights[model.segments.index("surrounding")] > 0.5
    cheeks = skin & (height < height[landmarks[28]]) & (height > height[landmarks[33]])
    return skin & (height > height[landmarks[28]]) & (brightness < DARK * brightness[:, cheeks].median(1, True).values)


def _explain(x: Tensor, modes: int) -> Tensor:
    """The items of x [n, ...] as their mean and the first principal components."""
    mean = x.mean(0)
    flat = (x - mean).flatten(1)
    _, vectors = torch.linalg.eigh(flat @ flat.T)
    kept = vectors[:, -modes:]
    return mean + (kept @ (kept.T @ flat)).reshape(x.shape)


def _explain_by_others(x: Tensor, modes: int) -> Tensor:
    """Every item of x [n, ...] by the principal components of the others: what one face alone has explains nothing."""
    flat = x.flatten(1)
    found = torch.empty_like(flat)
    for i in range(len(x)):
        others = torch.cat([flat[:i], flat[i + 1 :]])
        mean = others.mean(0)
        values, vectors = torch.linalg.eigh((others - mean) @ (others - mean).T)
        kept = vectors[:, -modes:][:, values[-modes:] > 1e-9 * values[-1]]
        basis = torch.nn.functional.normalize(kept.T @ (others - mean), dim=1)
        found[i] = mean + (basis @ (flat[i] - mean)) @ basis
    return found.reshape(x.shape)


def _spread(colours: Tensor, hidden: Tensor, faces: Tensor) -> Tensor:
    """Colours [n, vertices, 3] with those of hidden vertices harmonic: each the mean of its neighbours'."""
    from scipy.sparse import coo_array, diags_array
    from scipy.sparse.linalg import splu

    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).numpy()
    n = len(hidden)
    near = coo_array((np.ones(len(edges)), edges.T), (n, n)).tocsr()
    near = ((near + near.T) > 0).astype(float)
    laplacian = (diags_array(np.asarray(near.sum(1)).ravel()) - near).tocsr()
    inside, outside = hidden.nonzero()[:, 0].numpy(), (~hidden).nonzero()[:, 0].numpy()
    known = colours[:, ~hidden].double().permute(1, 0, 2).flatten(1).numpy()
    # The small term holds a patch that no visible vertex touches at the mean of all.
    system = laplacian[inside][:, inside] + 1e-6 * diags_array(np.ones(len(inside)))
    right = 1e-6 * known.mean(0) - laplacian[inside][:, outside] @ known
    found = torch.from_numpy(splu(system.tocsc()).solve(right))
    result = colours.clone()
    result[:, hidden] = found.unflatten(1, (-1, 3)).permute(1, 0, 2).to(colours)
    return result
