"""Morphable models: faces, or any meshes in correspondence, as a mean and directions of shape, expression and colour.

Sources: Blanz, Vetter, "A Morphable Model for the Synthesis of 3D Faces", 1999; Paysan, Knothe, Amberg, Romdhani,
Vetter, "A 3D Face Model for Pose and Illumination Invariant Face Recognition", 2009.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from modalities.meshes import Meshes
from zoo.distributions import DiagonalGaussian, Point
from zoo.model import Latent, check_count


class Axes(NamedTuple):
    """Directions of variation by falling variance."""

    basis: Tensor
    """Orthonormal rows, shape [k, 3 * vertices], the coordinates of a vertex next to each other."""
    variance: Tensor
    """The variance along each, shape [k]: square millimetres summed over vertices, or squared colour."""


class MorphableModel(Latent):
    """A mesh is a mean plus modes of shape and expression, and its colours a mean plus modes of colour.

    positions = mean + shape_basis^T diag(shape_variance)^(1/2) z_shape + the same of expression; colours likewise.
    z = (z_shape, z_expression, z_colour) ~ N(0, I), shape [batch, shape + expression + colour]: coefficients are in
    standard deviations.

    Arguments:
        modality: meshes; with colours, if `colour` is above 0.
        faces: the number of triangles.
        shape, expression, colour: how many modes of each.
        uv: whether vertices have texture coordinates.
        segments: names of regions that may vary apart, such as "eyes", "nose", "mouth", "surrounding".
        attributes: names of directions in z that belong to labels, such as "age".
        landmarks: how many vertices are marked.
    """

    faces: Tensor
    """Triangles, shape [faces, 3]."""
    mean: Tensor
    """Shape of an item, [vertices, 3 or 6]."""
    shape_basis: Tensor
    """Orthonormal rows [shape, 3 * vertices], as in `Axes`; `shape_variance` [shape] is in square millimetres."""
    expression_basis: Tensor
    """As `shape_basis`; not orthogonal to it."""
    colour_basis: Tensor
    """As `shape_basis`, of red, green and blue."""
    noise: Tensor
    """The variance of a coordinate that the modes leave out, square millimetres, a scalar."""
    weights: Tensor
    """How far a vertex belongs to each segment, shape [segments, vertices]; columns sum to 1."""
    directions: Tensor
    """A step in z for each attribute, shape [attributes, K]: the label rises by one."""
    landmarks: Tensor
    """Numbers of the marked vertices, shape [landmarks]; of a face the 68 of iBUG, in their order."""
    count: Tensor
    """How many meshes the model was built from."""

    def __init__(
        self,
        modality: Meshes,
        faces: int,
        shape: int,
        expression: int = 0,
        colour: int = 0,
        uv: bool = False,
        segments: Sequence[str] = (),
        attributes: Sequence[str] = (),
        landmarks: int = 0,
    ):
        super().__init__()
        check_count(shape, "shape")
        if colour and not modality.colours:
            raise ValueError(f"{colour} modes of colour need meshes with colours, got {modality}")
        self.medium = modality
        self.segments, self.attributes = tuple(segments), tuple(attributes)
        self.sizes = (shape, expression, colour)
        size = 3 * modality.vertices
        self.register_buffer("faces", torch.zeros(faces, 3, dtype=torch.int32))
        self.register_buffer("uv", torch.zeros(modality.vertices, 2) if uv else None)
        self.register_buffer("mean", torch.zeros(modality.shape))
        for name, modes in zip(("shape", "expression", "colour"), self.sizes, strict=True):
            self.register_buffer(f"{name}_basis", torch.eye(modes, size))
            self.register_buffer(f"{name}_variance", torch.ones(modes))
        self.register_buffer("noise", torch.zeros(()))
        self.register_buffer("weights", torch.full((len(segments), modality.vertices), 1 / max(1, len(segments))))
        self.register_buffer("directions", torch.zeros(len(attributes), sum(self.sizes)))
        self.register_buffer("landmarks", torch.zeros(landmarks, dtype=torch.int32))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @property
    def modality(self) -> Meshes:  # type: ignore[override]
        """The meshes, on this model's triangles."""
        return self.medium.on(self.faces.long(), self.uv)

    @classmethod
    def assemble(
        cls,
        medium: Meshes,
        mean: Tensor,
        shape: Axes,
        expression: Axes | None = None,
        colour: Axes | None = None,
        *,
        noise: float = 0.0,
        segments: Mapping[str, Tensor] | None = None,
        attributes: Mapping[str, Tensor] | None = None,
        landmarks: Tensor | None = None,
        count: int = 0,
    ) -> Self:
        """The model of parts that are known: `medium` has a topology, `mean` the shape of an item."""
        segments, attributes = segments or {}, attributes or {}
        uv = medium.topology.uv if medium.topology is not None else None
        model = cls(
            Meshes(medium.vertices, medium.colours),
            len(medium.faces),
            len(shape.basis),
            0 if expression is None else len(expression.basis),
            0 if colour is None else len(colour.basis),
            uv=uv is not None,
            segments=list(segments),
            attributes=list(attributes),
            landmarks=0 if landmarks is None else len(landmarks),
        ).to(mean)
        model.faces.copy_(medium.faces)
        model.mean.copy_(mean)
        for name, axes in (("shape", shape), ("expression", expression), ("colour", colour)):
            if axes is not None:
                getattr(model, f"{name}_basis").copy_(axes.basis)
                getattr(model, f"{name}_variance").copy_(axes.variance)
        model.noise.fill_(noise)
        model.count.fill_(count)
        if uv is not None:
            model.uv.copy_(uv)
        if landmarks is not None:
            model.landmarks.copy_(landmarks)
        for place, weight in enumerate(segments.values()):
            model.weights[place] = weight
        for place, direction in enumerate(attributes.values()):
            model.directions[place] = direction
        return model.eval()

    def axes(self, name: str) -> Axes:
        """The modes of "shape", "expression" or "colour"."""
        return Axes(getattr(self, f"{name}_basis"), getattr(self, f"{name}_variance"))

    def prior(self, condition: Any = None, *, n: int = 1, temperature: float = 1.0) -> DiagonalGaussian:
        zeros = self.mean.new_zeros(n, sum(self.sizes))
        return DiagonalGaussian(zeros, torch.full_like(zeros, temperature))

    def decode(self, z: Tensor, *, condition: Any = None) -> Point:
        """The meshes with these coefficients, shape [batch, vertices, 3 or 6]. Colours may leave [0, 1]."""
        shape, expression, colour = z.to(self.mean).split(self.sizes, 1)
        offset = (shape * self.shape_variance.sqrt()) @ self.shape_basis
        if expression.shape[1]:
            offset = offset + (expression * self.expression_variance.sqrt()) @ self.expression_basis
        parts = [offset.unflatten(1, (-1, 3))]
        if self.medium.colours:
            parts.append(((colour * self.colour_variance.sqrt()) @ self.colour_basis).unflatten(1, (-1, 3)))
        return Point(self.mean + torch.cat(parts, 2))

    def encode(self, x: Tensor, *, condition: Any = None) -> Tensor:
        """The coefficients of meshes, shape [batch, shape + expression + colour].

        The mean of the posterior under `noise`; where that is 0, the least squares. Shape and expression, which are not
        orthogonal, are found together.
        """
        centred = (self.modality.check(x).to(self.mean) - self.mean).double()
        z = _ridge(self.scaled_modes(), centred[:, :, :3].flatten(1), float(self.noise))
        if self.medium.colours:
            z = torch.cat([z, _ridge(_scaled(self.axes("colour")), centred[:, :, 3:].flatten(1), 0.0)], 1)
        return z.to(self.mean)

    def scaled_modes(self) -> Tensor:
        """How positions move by one standard deviation of each coefficient of shape and expression, float64, shape
        [shape + expression, 3 * vertices]."""
        return torch.cat([_scaled(self.axes("shape")), _scaled(self.axes("expression"))])


def _scaled(axes: Axes) -> Tensor:
    return axes.variance.double().sqrt()[:, None] * axes.basis.double()


def _ridge(modes: Tensor, y: Tensor, noise: float) -> Tensor:
    """The coefficients c [batch, k] that minimise |y - c modes|^2 + noise |c|^2; modes without variance get 0."""
    gram = modes @ modes.T
    floor = torch.finfo(torch.float32).eps * gram.diagonal().max().clamp(min=torch.finfo(torch.float64).tiny)
    gram.diagonal().add_(torch.where(gram.diagonal() > floor, noise, floor))
    return torch.cholesky_solve(modes @ y.T, torch.linalg.cholesky(gram)).T if len(gram) else y.new_zeros(len(y), 0)
