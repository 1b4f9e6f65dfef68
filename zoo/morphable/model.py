"""Morphable models: faces, or any meshes in correspondence, as a mean and directions of shape, expression and colour.

Sources: Blanz, Vetter, "A Morphable Model for the Synthesis of 3D Faces", 1999; Paysan, Knothe, Amberg, Romdhani,
Vetter, "A 3D Face Model for Pose and Illumination Invariant Face Recognition", 2009.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from modalities import MediaError
from modalities.data import Items
from modalities.meshes import Meshes
from zoo.checkpoint import check_not_negative
from zoo.distributions import DiagonalGaussian, Point
from zoo.model import Fitted, Latent, check_count, check_temperature
from zoo.morphable.attributes import learn_directions
from zoo.morphable.learning import Modes, Pairs, learn
from zoo.morphable.modes import Axes, ridge_coefficients
from zoo.morphable.segments import check_vertices, segment_weights, vertex_mask
from zoo.showcase import Exhibit


class Coefficients(NamedTuple):
    """The parts of a z, [..., modes] each, in standard deviations."""

    shape: Tensor
    expression: Tensor
    colour: Tensor


class Sizes(NamedTuple):
    """How many modes each part has."""

    shape: int
    expression: int
    colour: int


PARTS = Coefficients._fields


def upgrade_0_1_0(arguments: dict[str, object]) -> dict[str, str]:
    """Triangles and texture coordinates stood among the weights in version 0.1.0: their names then and now."""
    if "faces" not in arguments:
        return {}
    del arguments["faces"]
    names = ("faces", "uv") if arguments.pop("uv", False) else ("faces",)
    return {name: f"arguments/modality/{name}" for name in names}


class MorphableModel(Latent, Fitted):
    """A mesh is a mean plus modes of shape and expression, and its colours a mean plus modes of colour.

    positions = mean + shape_basis^T diag(shape_variance)^(1/2) z_shape + the same of expression; colours likewise.
    z = (z_shape, z_expression, z_colour) ~ N(0, I), shape [batch, shape + expression + colour]: coefficients are in
    standard deviations; `split` and `join` know the parts. What the modes leave out, `noise`, is no part of a sample:
    it would roughen the surface.

    Arguments:
        modality: meshes on their triangles; with colours, if `colour` is above 0.
        shape, expression, colour: how many modes of each.
        segments: names of regions that may vary apart, such as "eyes", "nose", "mouth", "surrounding".
        attributes: names of directions in z that belong to labels, such as "age".
        landmarks: how many vertices are marked.
    """

    modality: Meshes
    upgrade = staticmethod(upgrade_0_1_0)
    has_likelihood = False
    precise = ("mean", "noise", "weights", "directions", *(f"{part}_variance" for part in PARTS))

    mean: Tensor
    """Shape of an item, [vertices, 3 or 6]."""
    shape_basis: Tensor
    expression_basis: Tensor
    colour_basis: Tensor
    """Orthonormal rows [k, 3 * vertices], as in `Axes`; those of expression are not orthogonal to those of shape."""
    shape_variance: Tensor
    expression_variance: Tensor
    colour_variance: Tensor
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
        shape: int,
        expression: int = 0,
        colour: int = 0,
        segments: Sequence[str] = (),
        attributes: Sequence[str] = (),
        landmarks: int = 0,
    ):
        super().__init__()
        vertices, self.sizes = modality.vertices, Sizes(shape, expression, colour)
        _check_arguments(modality, self.sizes, segments, attributes)
        check_count(landmarks, "landmarks", 0)
        self.modality, self.segments, self.attributes = modality, tuple(segments), tuple(attributes)
        self.register_buffer("mean", torch.zeros(modality.shape))
        for name, modes in zip(PARTS, self.sizes, strict=True):
            self.register_buffer(f"{name}_basis", torch.eye(modes, 3 * vertices))
            self.register_buffer(f"{name}_variance", torch.ones(modes))
        self.register_buffer("noise", torch.zeros(()))
        self.register_buffer("weights", torch.full((len(segments), vertices), 1 / max(1, len(segments))))
        self.register_buffer("directions", torch.zeros(len(attributes), sum(self.sizes)))
        self.register_buffer("landmarks", torch.zeros(landmarks, dtype=torch.int32))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

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
        """The model of parts that are known: `medium` has triangles, `mean` the shape of an item.

        Arguments:
            segments: the weights of the vertices by name, shape [vertices] each, which sum to 1.
            attributes: the step in z by name, shape [K] each.
            landmarks: numbers of vertices.

        Raises ValueError for parts that do not fit together.
        """
        segments, attributes = segments or {}, attributes or {}
        marks = torch.zeros(0, dtype=torch.int32) if landmarks is None else landmarks
        check_vertices(marks, medium.vertices, "landmarks")
        empty = Axes(mean.new_zeros(0, 3 * medium.vertices), mean.new_zeros(0))
        axes = {name: part or empty for name, part in zip(PARTS, (shape, expression, colour), strict=True)}
        sizes = Sizes(*(len(part.basis) for part in axes.values()))
        model = cls(medium, *sizes, list(segments), list(attributes), len(marks)).to(mean)
        parts = [("mean", model.mean, mean), ("landmarks", model.landmarks, marks)]
        for name, part in axes.items():
            parts += [(f"the basis of {name}", getattr(model, f"{name}_basis"), part.basis)]
            parts += [(f"the variance of {name}", getattr(model, f"{name}_variance"), part.variance)]
        for kind, rows, given in (
            ("weights of the segment", model.weights, segments),
            ("direction of", model.directions, attributes),
        ):
            parts += [(f"the {kind} {name!r}", row, given[name]) for name, row in zip(given, rows, strict=True)]
        for name, target, source in parts:
            if target.shape != source.shape:
                raise MediaError(f"{name}: expected shape {list(target.shape)}, got {list(source.shape)}")
            target.copy_(source)
        model.noise.fill_(noise)
        model.count.fill_(count)
        model.check_weights()
        return model.eval()

    @classmethod
    def fit(
        cls,
        data: Tensor | Items,
        medium: Meshes,
        *,
        shape: Modes = None,
        colour: Modes = None,
        expression: int | float = 0,
        expressions: Pairs | None = None,
        align: Literal["none", "rigid", "similarity"] = "none",
        landmarks: Tensor | None = None,
        seed: int = 0,
    ) -> Self:
        """Learn from meshes in correspondence: a tensor [n, vertices, 3 or 6], or a data set, which is read several
        times and never held in memory. `noise` becomes the mean variance of a coordinate that the modes leave out.

        Arguments:
            data: neutral meshes, if there are expressions.
            medium: with triangles; a data set of meshes knows it as its `medium`.
            shape, colour, expression: how many modes of each, at most one less than there are meshes; or the fraction
                of variance in (0, 1) that the fewest possible shall exceed. None takes as many as there are, at most
                100; without modes of colour every sample has the mean's.
            expressions: pairs of an expressive mesh and the same person's neutral one: two tensors [m, vertices, 3 or
                6] or a data set of pairs. The modes are those of the offsets about zero: z_expression = 0 is neutral,
                and samples take opposites too, such as lips that more than close.
            align: take out, before, how meshes are placed and turned ("rigid") and also their size ("similarity").
            landmarks: numbers of marked vertices, which the model keeps.
            seed: of the solver, where it is a randomised one.

        Raises `MediaError` for items of another shape and for NaN, ValueError for too few meshes and for more modes
        than the meshes have. Warns of meshes that differ in size by far, that are of no likely size in millimetres, and
        whose variance is mostly how they lie, where `align` does not take that out.
        """
        learned = learn(data, medium, shape, colour, expression, expressions, align, seed)
        return cls.assemble(**learned, landmarks=landmarks)

    def split(self, z: Tensor) -> Coefficients:
        """The coefficients [..., K] of shape, expression and colour apart."""
        return Coefficients(*z.split(self.sizes, -1))

    def join(self, shape: Tensor, expression: Tensor | None = None, colour: Tensor | None = None) -> Tensor:
        """The z, [..., K], of coefficients; a part that is left out is 0: no expression, the mean's colour."""
        parts = zip((shape, expression, colour), self.sizes, strict=True)
        return torch.cat([shape.new_zeros(*shape.shape[:-1], k) if part is None else part for part, k in parts], -1)

    @property
    def face_landmarks(self) -> Tensor:
        """The vertices of a face's 68 landmarks, those of iBUG in their order, shape [68], int64.

        Raises ValueError where the model marks others, or none.
        """
        if len(self.landmarks) != 68:
            raise ValueError(f"this needs a model with the 68 landmarks of a face, and it has {len(self.landmarks)}")
        return self.landmarks.long()

    def axes(self, part: str) -> Axes:
        """The modes of "shape", "expression" or "colour", in the type of the mean."""
        _choose(part, PARTS, "part")
        return Axes(getattr(self, f"{part}_basis").to(self.mean.dtype), getattr(self, f"{part}_variance"))

    def prior(self, condition: object = None, *, n: int = 1, temperature: float = 1.0) -> DiagonalGaussian:
        zeros = self.mean.new_zeros(n, sum(self.sizes))
        return DiagonalGaussian(zeros, torch.full_like(zeros, temperature))

    def decode(self, z: Tensor, *, condition: object = None) -> Point:
        """The meshes with these coefficients, shape [batch, vertices, 3 or 6]. Colours may leave [0, 1].

        z has the shape [batch, K], or [batch, segments, K]: coefficients for each segment, blended at the borders.
        """
        z, k = z.to(self.mean), sum(self.sizes)
        expected = [k] if z.ndim == 2 else [len(self._need_segments()), k]
        if list(z.shape[1:]) != expected:
            raise ValueError(f"expected coefficients of shape {['batch', *expected]}, got {list(z.shape)}")
        if z.ndim == 2:
            return Point(self._move(z, self.mean))
        x = self.mean.expand(z.shape[0], -1, -1)
        for weight, part in zip(self.weights, z.unbind(1), strict=True):
            x = torch.addcmul(x, weight[:, None], self._offset(part))
        return Point(x)

    def encode(self, x: Tensor, *, condition: object = None) -> Point:
        """The coefficients of meshes, shape [batch, shape + expression + colour].

        The mean of the posterior under `noise`; where that is 0, the least squares. Shape and expression, which are not
        orthogonal, are found together. A mode without variance gets 0.
        """
        centred = self.check_items(x).to(self.mean.device).double() - self.mean.double()
        positions = [self.axes("shape"), self.axes("expression")]
        z = ridge_coefficients(positions, centred[:, :, :3].flatten(1), self.noise.item())
        if self.modality.colours:
            z = torch.cat([z, ridge_coefficients([self.axes("colour")], centred[:, :, 3:].flatten(1), 0.0)], 1)
        return Point(z.to(self.mean))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        condition: object = None,
        temperature: float = 1.0,
        mean: bool = False,
        generator: torch.Generator | None = None,
        segmented: bool = False,
    ) -> Tensor:
        """Draw n meshes; if `segmented`, every segment has coefficients of its own, and there is more variety."""
        if not segmented:
            return super().sample(n, condition=condition, temperature=temperature, mean=mean, generator=generator)
        check_count(n)
        check_temperature(temperature)
        z = self.prior(n=n * len(self._need_segments()), temperature=temperature).sample(generator=generator)
        return self.decode(z.unflatten(0, (n, -1))).mean

    @torch.no_grad()
    def blend(self, x: Tensor, other: Tensor, segments: str | Sequence[str]) -> Tensor:
        """Give the meshes x these segments of the other meshes, shape of x. What the modes cannot show of x stays."""
        names = [segments] if isinstance(segments, str) else segments
        chosen = [_choose(name, self._need_segments(), "segment") for name in names]
        offset = self._offset(self.encode(other).mean - self.encode(x).mean)
        return x + self.weights[chosen].sum(0)[:, None] * offset

    @torch.no_grad()
    def edit(self, x: Tensor, attribute: str, amount: float | Tensor) -> Tensor:
        """Raise the label of the meshes x by an amount, a number or one a mesh, shape of x.

        The meshes change by the most probable step that does it; what the modes cannot show of x stays.
        """
        step = self._offset(self.direction(attribute)[None])
        amounts = torch.as_tensor(amount).to(step).reshape(-1, 1, 1)
        return self.modality.check(x) + amounts * step

    @torch.no_grad()
    def caricature(self, x: Tensor, factor: float, attribute: str | None = None) -> Tensor:
        """The meshes x with their distance from the mean times a factor, shape of x; an attribute alone if it is named.

        Above 1 exaggerates, 0 gives the mean (of the attribute), -1 the opposite.
        """
        if attribute is None:
            return self.mean + factor * (self.modality.check(x) - self.mean)
        direction = self.direction(attribute)
        level = self.encode(x).mean @ direction / direction.square().sum()
        return self.edit(x, attribute, (factor - 1) * level)

    def exhibits(self) -> list[Exhibit]:
        """Samples and walks; in the place of single latents the modes of each part, and what attributes and segments
        do."""
        shown = [exhibit for exhibit in super().exhibits() if exhibit.title != "Traversal"]
        first = [place for part in self.split(torch.arange(sum(self.sizes))) for place in part[:2].tolist()]
        parts = " and ".join(name for name, k in zip(PARTS, self.sizes, strict=True) if k)
        modes = f"model.traverse(along={first}, values=(-3, 0, 3)).flatten(0, 2)"
        caption = f"The first modes of {parts}, a row each, at -3, 0 (the mean) and 3 standard deviations."
        shown.append(Exhibit("Modes", caption, modes, 3))
        names = [name for name in self.attributes if self.direction(name).any()][-4:]
        if names:
            caption = f"One sample with less and more of {', '.join(names)}, a row each: by 3 standard deviations."
            step = "amount * 3 / model.direction(name).norm()"
            edits = f"torch.cat([model.edit(x[:1], name, {step}) for name in {names} for amount in (-1, 0, 1)])"
            shown.append(Exhibit("Attributes", caption, edits, 3))
        if self.segments:
            caption = f"Two samples, and the first with the second's {', '.join(self.segments)}, one after the other."
            blends = "torch.cat([x[:2], *(model.blend(x[:1], x[1:2], name) for name in model.segments)])"
            shown.append(Exhibit("Segments", caption, blends, 3))
        return shown

    def direction(self, attribute: str) -> Tensor:
        """The step in z that raises the label of an attribute by one, shape [K]; `traverse` takes it."""
        return self.directions[_choose(attribute, self.attributes, "attribute")]

    @torch.no_grad()
    def with_attributes(self, data: Tensor | Items, labels: Mapping[str, Tensor]) -> Self:
        """The model with directions learned from labels: under each name one number a mesh, such as age, or 0 and 1.

        Broken files of a data set are left out together with their labels. See `attributes.ridge_direction`.
        """
        return self.with_parts(attributes=self.parts()["attributes"] | learn_directions(self, data, labels))

    def with_segments(self, regions: Mapping[str, Tensor], width: float = 10.0) -> Self:
        """The model with segments: by name the vertices of a region, their numbers or a mask of all.

        The vertices of no region make the segment "surrounding". Borders are smooth: a Gaussian of standard deviation
        `width`, in millimetres along the surface of the mean. For the labels of regions: {"nose": labels == 3, ...}.
        """
        masks = {
            name: vertex_mask(region, self.modality.vertices, f"the region {name!r}")
            for name, region in regions.items()
        }
        return self.with_parts(segments=segment_weights(masks, self.mean[:, :3], self.modality.triangles, width))

    def with_parts(self, **changes: Any) -> Self:
        """A copy with other parts, the arguments of `assemble`."""
        return self.assemble(**self.parts() | changes)

    def parts(self) -> dict[str, Any]:
        """The arguments of `assemble` that make the model again."""
        return {
            "medium": self.modality,
            "mean": self.mean,
            **{name: self.axes(name) for name in PARTS},
            "noise": self.noise.item(),
            "segments": dict(zip(self.segments, self.weights, strict=True)),
            "attributes": dict(zip(self.attributes, self.directions, strict=True)),
            "landmarks": self.landmarks,
            "count": int(self.count),
        }

    def check_weights(self) -> None:
        """Raise ValueError for what cannot be: a variance below 0, modes that are not of length 1, weights that are no
        shares, a landmark that is no vertex."""
        variances = {f"the variance of {name}": self.axes(name).variance for name in PARTS}
        check_not_negative(noise=self.noise, weights=self.weights, **variances)
        check_vertices(self.landmarks, self.modality.vertices, "landmarks")
        for name in PARTS:
            lengths = torch.linalg.vector_norm(self.axes(name).basis, dim=1)
            if len(lengths) and (lengths - 1).abs().max() > 0.02:
                raise ValueError(
                    f"the modes of {name} must have length 1, got {lengths.min():.4g} to {lengths.max():.4g}"
                )
        if self.count < 0:
            raise ValueError(f"count is a number of meshes, got {int(self.count)}")
        if self.segments and (self.weights.double().sum(0) - 1).abs().max() > 1e-3:
            raise ValueError("the weights of a vertex must sum to 1 over the segments")

    def _offset(self, z: Tensor) -> Tensor:
        return self._move(z, torch.zeros_like(self.mean))

    def _move(self, z: Tensor, start: Tensor) -> Tensor:
        """The meshes `start`, shape of an item, moved by coefficients [batch, K]."""
        flat = [start[:, :3].reshape(1, -1), start[:, 3:].reshape(1, -1)]
        for place, name, part in zip((0, 0, 1), PARTS, self.split(z), strict=True):
            if part.shape[1]:
                basis, variance = self.axes(name)
                flat[place] = torch.addmm(flat[place], part * variance.sqrt(), basis)
        return torch.cat([part.expand(len(z), -1).unflatten(1, (-1, 3)) for part in flat if part.numel()], 2)

    def _need_segments(self) -> tuple[str, ...]:
        if not self.segments:
            raise ValueError("this model has no segments; make some: model.with_segments(regions)")
        return self.segments


def _check_arguments(modality: Meshes, sizes: Sizes, *lists: Sequence[str]) -> None:
    """Refuse numbers of modes that the meshes cannot have, and lists of names in which one stands twice."""
    if not isinstance(modality, Meshes):
        raise TypeError(f"a morphable model needs meshes, got {modality!r}")
    most = 3 * modality.vertices
    for name, modes in zip(PARTS, sizes, strict=True):
        if modes or name == "shape":
            check_count(modes, name)
        if modes > most:
            raise ValueError(f"{modality.vertices} vertices have at most {most} modes of {name}, got {modes}")
    if sizes.colour and not modality.colours:
        raise ValueError(f"{sizes.colour} modes of colour need meshes with colours, got {modality}")
    for names in lists:
        if len(set(names)) < len(names):
            raise ValueError(f"the names of segments and of attributes must differ, got {list(names)}")


def _choose(name: str, names: Sequence[str], kind: str) -> int:
    """The place of a name; an unknown one is answered with the nearest."""
    if name in names:
        return list(names).index(name)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4) or names
    raise ValueError(
        f"no {kind} is called {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else "none is there")
    )
