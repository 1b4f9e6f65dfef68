"""The colours of faces: read off pictures, completed where no picture shows them, and as coefficients of a model."""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modalities.meshes.geometry import harmonic_interpolation, vertex_normals
from zoo.linear.principal import principal_axes
from zoo.morphable.camera import Camera, check_picture, sample_picture
from zoo.morphable.landmarks import fit_landmarks
from zoo.morphable.model import MorphableModel
from zoo.morphable.modes import Axes, principal
from zoo.morphable.visibility import visible

SEEN = 0.45
"""The cosine between normal and viewer from which a vertex is seen well: 63 degrees."""
DARK = 0.6
"""Skin of the forehead is at least so bright beside the cheeks; hair is darker."""
STRANGE = 4.0
"""How many times the usual error of its colour a vertex may have that shows the face itself."""
RARE = 0.2
"""A vertex that a smaller share of pictures shows, on its own side or on the other, takes its neighbours' colours."""


class Colours(NamedTuple):
    """What a picture tells about the colours of vertices."""

    colours: Tensor
    """Red, green and blue in [0, 1], shape [vertices, 3]; those of vertices that are not seen mean nothing."""
    weights: Tensor
    """The cosine between the normal and the direction to the viewer, shape [vertices]; 0 where a vertex is not seen."""


def read_colours(picture: Tensor, positions: Tensor, camera: Camera, faces: Tensor) -> Colours:
    """The colours of a picture at the projected vertices, and how well each is seen.

    Arguments:
        picture: in [-1, 1], shape [3, height, width]; read between pixels by bilinear interpolation.
        positions: the mesh, millimetres, shape [vertices, 3].
        camera: as fitted to the picture.
        faces: the triangles, shape [faces, 3].

    Light and shade stay in the colours.
    """
    check_picture(picture)
    seen = visible(positions, camera, faces)
    points = camera.project(positions)
    height, width = picture.shape[1:]
    inside = ((points >= 0) & (points <= points.new_tensor([width, height]))).all(1)
    cosine = camera.view(vertex_normals(positions, faces.long()))[:, 2].clamp(0, 1)
    return Colours(sample_picture(picture, points) / 2 + 0.5, cosine * (seen & inside))


class Readings(NamedTuple):
    """What pictures tell of faces, one a picture."""

    coefficients: Tensor
    """Of the fitted faces, shape [n, K]; the colour is the mean's."""
    cameras: list[Camera]
    """How each was seen."""
    residuals: Tensor
    """The mean distance of the fitted landmarks from those given, pixels, shape [n]."""
    colours: Tensor
    """Red, green and blue in [0, 1], shape [n, vertices, 3]."""
    weights: Tensor
    """How well a vertex is seen: 0 for not, 1 for from straight ahead, shape [n, vertices]."""


def read_faces(
    model: MorphableModel, pictures: Iterable[Tensor], landmarks: Iterable[Tensor], noise: float
) -> Readings:
    """Fit the model's shape to the landmarks [68, 2] of every picture [3, height, width], and read the colours of the
    vertices that it shows; `noise` is as in `fit_landmarks`."""
    fits, found = [], []
    for picture, points in zip(pictures, landmarks, strict=True):
        fit = fit_landmarks(model, points, noise=noise)
        mesh = model.decode(fit.coefficients).mean[0, :, :3]
        fits.append(fit)
        found.append(read_colours(picture, mesh, fit.cameras[0], model.modality.triangles))
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
    basis, variance = model.axes("colour")
    modes = (variance.sqrt()[:, None] * basis)[:, seen]
    gram = modes @ modes.T + noise**2 * torch.eye(len(modes)).to(modes)
    return torch.linalg.solve(gram, modes @ (colours - model.mean[:, 3:]).flatten()[seen])


def learn_colours(model: MorphableModel, colours: Tensor, modes: int) -> MorphableModel:
    """A model of shape and expression with so many modes of colour besides, the principal ones of whole faces' colours,
    shape [n, vertices, 3]; at most n - 1 of them. `count` becomes n."""
    axes = principal_axes(colours, tuple(colours.shape[1:]), min(modes, len(colours) - 1))
    steps = zip(model.attributes, model.directions, strict=True)
    return model.with_parts(
        medium=dataclasses.replace(model.modality, colours=True),
        mean=torch.cat([model.mean, axes.mean.unflatten(0, (-1, 3)).to(model.mean)], 1),
        colour=Axes(axes.basis, axes.variance),
        attributes={name: F.pad(step, (0, len(axes.basis))) for name, step in steps},
        count=len(colours),
    )


def mirror(positions: Tensor) -> Tensor:
    """The vertex on the other side of a symmetric face [vertices, 3] for each vertex, shape [vertices]."""
    from scipy.spatial import KDTree

    points = positions.double().numpy()
    _, index = KDTree(points).query(points * (-1, 1, 1))
    return torch.from_numpy(index)


def complete_colours(
    colours: Tensor, weights: Tensor, model: MorphableModel, modes: int = 12, rounds: int = 30
) -> tuple[Tensor, Tensor]:
    """Colours of all vertices, shape [n, vertices, 3], and which were read off a picture, shape [n, vertices].

    A vertex is hidden if it is seen at a flat angle, if hair covers it, or if no mixture of the other faces explains
    its colour (a background beside the cheek). It starts with the colour of the vertex on the other side of the face,
    or with the mean's. Then the principal components of all faces and what they say of the hidden colours are found
    in turn, which is the EM algorithm of probabilistic PCA without its noise. What hardly any picture shows, such as
    the sides of the head, is interpolated from the colours around it.

    Source: Roweis, "EM Algorithms for PCA and SPCA", 1998.
    """
    other = mirror(model.mean[:, :3])
    shown = (weights > SEEN) & ~hair_mask(colours, model)
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
            projected = _projected(filled[:, ~rare], filled[:, ~rare], modes)
            filled[:, ~rare] = torch.where(shown[:, ~rare, None], colours[:, ~rare].double(), projected)
        if not last:
            # What a face alone has is lost, projected on the components of the others.
            known, others = filled[:, ~rare], ~torch.eye(len(filled), dtype=torch.bool)
            explained = [_projected(known[i : i + 1], known[others[i]], modes) for i in range(len(known))]
            strange = (colours[:, ~rare] - torch.cat(explained)).norm(dim=2)
            usual = strange.median(0).values.clamp(min=strange[shown[:, ~rare]].median())  # brows and lips vary more
            shown[:, ~rare] &= strange < STRANGE * usual
    flat = filled.transpose(0, 1).flatten(1)
    whole = harmonic_interpolation(flat, ~rare, model.mean[:, :3], model.modality.triangles)
    return whole.unflatten(1, (-1, 3)).transpose(0, 1).to(colours), shown & ~rare


def hair_mask(colours: Tensor, model: MorphableModel) -> Tensor:
    """Vertices of the forehead and the temples that are far darker than the face is, shape [n, vertices]."""
    brightness = colours.mean(2)
    height, landmarks = model.mean[:, 1], model.face_landmarks
    skin = model.weights[model.segments.index("surrounding")] > 0.5
    cheeks = skin & (height < height[landmarks[28]]) & (height > height[landmarks[33]])
    return skin & (height > height[landmarks[28]]) & (brightness < DARK * brightness[:, cheeks].median(1, True).values)


def _projected(x: Tensor, others: Tensor, modes: int) -> Tensor:
    """The items of x [n, ...], projected on the first principal components of others [m, ...]."""
    mean = others.mean(0)
    basis = principal((others - mean).flatten(1))[0].basis[:modes]
    return mean + ((x - mean).flatten(1) @ basis.T @ basis).view_as(x)
