"""Morphable models: faces, or any meshes in correspondence, as a mean and directions of shape, expression and colour.

Sources: Blanz, Vetter, "A Morphable Model for the Synthesis of 3D Faces", 1999; Paysan, Knothe, Amberg, Romdhani,
Vetter, "A 3D Face Model for Pose and Illumination Invariant Face Recognition", 2009.
"""

import difflib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from modalities import MediaError
from modalities.data import Arrays
from modalities.meshes import Meshes
from zoo.distributions import DiagonalGaussian, Point
from zoo.linear.edits import diffuse, minimal_step
from zoo.linear.modes import (
    Axes,
    Placement,
    each,
    learn_modes,
    learn_offsets,
    mean_of,
    principal,
    ridge_coefficients,
    scaled,
)
from zoo.model import Fitted, Latent, check_count, check_temperature

PARTS = ("shape", "expression", "colour")
REST = "surrounding"
"""The segment of the vertices that no region names."""


class MorphableModel(Latent, Fitted):
    """A mesh is a mean plus modes of shape and expression, and its colours a mean plus modes of colour.

    positions = mean + shape_basis^T diag(shape_variance)^(1/2) z_shape + the same of expression; colours likewise.
    z = (z_shape, z_expression, z_colour) ~ N(0, I), shape [batch, shape + expression + colour]: coefficients are in
    standard deviations. What the modes leave out, `noise`, is no part of a sample: it would roughen the surface.

        model = MorphableModel.fit(x, medium, shape=50).with_segments({"nose": nose}).with_attributes(x, {"age": age})
        model.sample(4, segmented=True), model.edit(x, "age", 20.0), model.caricature(x, 1.5)

    Arguments:
        modality: meshes; with colours, if `colour` is above 0.
        faces: the number of triangles.
        shape, expression, colour: how many modes of each.
        uv: whether vertices have texture coordinates.
        segments: names of regions that may vary apart, such as "eyes", "nose", "mouth", "surrounding".
        attributes: names of directions in z that belong to labels, such as "age".
        landmarks: how many vertices are marked.
    """

    has_likelihood: ClassVar[bool] = False
    precise: ClassVar[tuple[str, ...]] = (
        "mean",
        "noise",
        "uv",
        "weights",
        "directions",
        "shape_variance",
        "expression_variance",
        "colour_variance",
    )

    faces: Tensor
    """Triangles, shape [faces, 3]."""
    uv: Tensor | None
    """Texture coordinates, shape [vertices, 2]."""
    mean: Tensor
    """Shape of an item, [vertices, 3 or 6]."""
    shape_basis: Tensor
    """Orthonormal rows [shape, 3 * vertices], as in `Axes`."""
    shape_variance: Tensor
    """The variance along each, shape [shape], square millimetres summed over vertices."""
    expression_basis: Tensor
    """As `shape_basis`; not orthogonal to it."""
    expression_variance: Tensor
    colour_basis: Tensor
    """As `shape_basis`, of red, green and blue."""
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
        if not isinstance(modality, Meshes):
            raise TypeError(f"a morphable model needs meshes, got {modality!r}")
        size = 3 * modality.vertices
        self.sizes = (shape, expression, colour)
        for name, modes in zip(PARTS, self.sizes, strict=True):
            if modes or name == "shape":
                check_count(modes, name)
            if modes > size:
                raise ValueError(f"{modality.vertices} vertices have at most {size} modes of {name}, got {modes}")
        if colour and not modality.colours:
            raise ValueError(f"{colour} modes of colour need meshes with colours, got {modality}")
        for names in (segments, attributes):
            if len(set(names)) < len(names):
                raise ValueError(f"the names of segments and of attributes must differ, got {list(names)}")
        self.medium = modality
        self.segments, self.attributes = tuple(segments), tuple(attributes)
        self.register_buffer("faces", torch.zeros(faces, 3, dtype=torch.int32))
        self.register_buffer("uv", torch.zeros(modality.vertices, 2) if uv else None)
        self.register_buffer("mean", torch.zeros(modality.shape))
        for name, modes in zip(PARTS, self.sizes, strict=True):
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
        """The model of parts that are known: `medium` has a topology, `mean` the shape of an item.

        Arguments:
            segments: the weights of the vertices by name, shape [vertices] each, which sum to 1.
            attributes: the step in z by name, shape [K] each.
            landmarks: numbers of vertices.

        Raises `MediaError` for parts that do not fit together.
        """
        segments, attributes = segments or {}, attributes or {}
        uv = medium.topology.uv if medium.topology is not None else None
        empty = Axes(mean.new_zeros(0, 3 * medium.vertices), mean.new_zeros(0))
        axes = dict(zip(PARTS, (shape, expression or empty, colour or empty), strict=True))
        model = cls(
            Meshes(medium.vertices, medium.colours),
            len(medium.faces),
            len(axes["shape"].basis),
            len(axes["expression"].basis),
            len(axes["colour"].basis),
            uv=uv is not None,
            segments=list(segments),
            attributes=list(attributes),
            landmarks=0 if landmarks is None else len(landmarks),
        ).to(mean)
        _check_numbers(medium.faces, medium.vertices, "faces")
        _put(model.faces, medium.faces, "faces")
        _put(model.mean, mean, "mean")
        for name, part in axes.items():
            _put(getattr(model, f"{name}_basis"), part.basis, f"the basis of {name}")
            _put(getattr(model, f"{name}_variance"), part.variance, f"the variance of {name}")
            if (part.variance < 0).any():
                raise MediaError(f"the variance of {name} must be at least 0, got {part.variance.min().item():.4g}")
        model.noise.fill_(noise)
        model.count.fill_(count)
        if uv is not None:
            _put(model.uv, uv, "uv")  # type: ignore[arg-type]
        if landmarks is not None:
            _check_numbers(landmarks, medium.vertices, "landmarks")
            _put(model.landmarks, landmarks, "landmarks")
        for row, (name, weight) in zip(model.weights, segments.items(), strict=True):
            _put(row, weight, f"the weights of the segment {name!r}")
        for row, (name, direction) in zip(model.directions, attributes.items(), strict=True):
            _put(row, direction, f"the direction of {name!r}")
        if segments and (model.weights.double().sum(0) - 1).abs().max() > 1e-3:
            raise MediaError("the weights of a vertex must sum to 1 over the segments")
        return model.eval()

    @classmethod
    def fit(
        cls,
        data: Tensor | Dataset | Arrays,
        medium: Meshes,
        *,
        shape: int | float,
        colour: int | float = 0,
        expression: int | float = 0,
        expressions: "tuple[Tensor, Tensor] | Dataset | Arrays | None" = None,
        align: Literal["none", "rigid", "similarity"] = "none",
        landmarks: Tensor | None = None,
        seed: int = 0,
    ) -> Self:
        """Learn from meshes in correspondence: a tensor [n, vertices, 3 or 6], or a data set, which is read in batches,
        several times, and never held in memory.

        `noise` becomes the mean variance of a coordinate that the modes leave out.

        Arguments:
            data: neutral meshes, if there are expressions.
            medium: with a topology; a data set of meshes knows it as its `medium`.
            shape, colour, expression: how many modes of each, at most one less than there are meshes; or the fraction
                of variance in (0, 1) that the fewest possible shall exceed.
            expressions: pairs of an expressive mesh and the same person's neutral one: two tensors [m, vertices, 3 or
                6] or a data set of pairs. The modes are those of the offsets about zero: z_expression = 0 is neutral,
                and samples take opposites too, such as lips that more than close.
            align: take out, before, how meshes are placed and turned ("rigid") and also their size ("similarity").
            landmarks: numbers of marked vertices, which the model keeps.
            seed: of the solver, where it is a randomised one.

        Raises `MediaError` for items of another shape and for NaN, ValueError for too few meshes and for more modes
        than the meshes have.
        """
        if align not in ("none", "rigid", "similarity"):
            raise ValueError(f"align is none, rigid or similarity, got {align!r}")
        if colour and not medium.colours:
            raise ValueError(f"{colour} modes of colour need meshes with colours, got {medium}")
        if bool(expression) != (expressions is not None):
            raise ValueError(
                f"modes of expression need pairs in expressions, got {expression!r} and {expressions!r:.60}"
            )
        _ = medium.faces  # before the work, not after it

        place = Placement(data, medium, align, seed)
        found = learn_modes(each(data, place), medium, "shape", shape, seed)
        axes: dict[str, Any] = {"shape": Axes(found.basis, found.variance)}
        mean, left = found.mean.unflatten(0, (-1, 3)), found.total - found.variance.double().sum().item()
        if expressions is not None:
            pairs = Arrays(*expressions) if isinstance(expressions, tuple) else expressions
            axes["expression"], more = learn_offsets(each(pairs, place.offsets, pairs=True), medium, expression, seed)
            left += more
        if colour:
            colours = learn_modes(each(data, lambda x: x[:, :, 3:]), medium, "colour", colour, seed)
            axes["colour"] = Axes(colours.basis, colours.variance)
            mean = torch.cat([mean, colours.mean.unflatten(0, (-1, 3))], 1)
        elif medium.colours:
            mean = torch.cat([mean, mean_of(each(data, lambda x: x[:, :, 3:]), medium, seed).to(mean)], 1)
        noise = max(0.0, left) / (3 * medium.vertices)
        return cls.assemble(medium, mean, **axes, noise=noise, landmarks=landmarks, count=found.count)

    def axes(self, part: str) -> Axes:
        """The modes of "shape", "expression" or "colour"."""
        _choose(part, PARTS, "part")
        return Axes(getattr(self, f"{part}_basis"), getattr(self, f"{part}_variance"))

    def explained(self, part: str = "shape") -> Tensor:
        """The share of the variance of positions (or, for "colour", of the modes of colour) along each mode, shape [k].

        The whole is that of shape, of expression and of `noise` together.
        """
        variance = self.axes(part).variance.double()
        if part == "colour":
            return variance / variance.sum()
        whole = self.shape_variance.double().sum() + self.expression_variance.double().sum()
        return variance / (whole + self.noise.double() * 3 * self.medium.vertices)

    def prior(self, condition: object = None, *, n: int = 1, temperature: float = 1.0) -> DiagonalGaussian:
        zeros = self.mean.new_zeros(n, sum(self.sizes))
        return DiagonalGaussian(zeros, torch.full_like(zeros, temperature))

    def decode(self, z: Tensor, *, condition: object = None) -> Point:
        """The meshes with these coefficients, shape [batch, vertices, 3 or 6]. Colours may leave [0, 1].

        z has the shape [batch, K], or [batch, segments, K]: coefficients for each segment, blended at the borders.
        """
        z = z.to(self.mean)
        expected = (sum(self.sizes),) if z.ndim == 2 else (len(self._need_segments()), sum(self.sizes))
        if tuple(z.shape[1:]) != expected:
            sizes = ", ".join(map(str, expected))
            raise ValueError(f"expected coefficients of shape [batch, {sizes}], got {list(z.shape)}")
        if z.ndim == 2:
            return Point(self._moved(z, self.mean))
        x = self.mean.expand(len(z), -1, -1)
        for weight, part in zip(self.weights, z.unbind(1), strict=True):
            x = torch.addcmul(x, weight[:, None], self._offset(part))
        return Point(x)

    def encode(self, x: Tensor, *, condition: object = None) -> Point:
        """The coefficients of meshes, shape [batch, shape + expression + colour].

        The mean of the posterior under `noise`; where that is 0, the least squares. Shape and expression, which are not
        orthogonal, are found together. A mode without variance gets 0.
        """
        centred = self.modality.check(x).to(self.mean.device).double() - self.mean.double()
        positions = [self.axes("shape"), self.axes("expression")]
        z = ridge_coefficients(positions, centred[:, :, :3].flatten(1), self.noise.item())
        if self.medium.colours:
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
        self.prepare_condition(condition, n, generator)
        segments = len(self._need_segments())
        z = self.prior(n=n * segments, temperature=temperature).sample(generator=generator)
        return self.decode(z.unflatten(0, (n, segments))).mean

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

    def direction(self, attribute: str) -> Tensor:
        """The step in z that raises the label of an attribute by one, shape [K]; `traverse` takes it."""
        return self.directions[_choose(attribute, self.attributes, "attribute")]

    @torch.no_grad()
    def with_attributes(self, data: Tensor | Dataset | Arrays, labels: Mapping[str, Tensor]) -> Self:
        """The model with directions learned from labels: under each name one number a mesh, such as age, or 0 and 1.

        Directions of these names are replaced. Broken files of a data set are left out together with their labels. See
        `minimal_step`.
        """
        z, kept = self._coefficients(data)
        steps = {}
        for name, given in labels.items():
            values = torch.as_tensor(given, dtype=torch.float64)
            if values.shape != (len(data),):  # type: ignore[arg-type]
                raise ValueError(
                    f"{name}: expected one label a mesh, shape [{len(data)}], got {list(values.shape)}"  # type: ignore[arg-type]
                )
            steps[name] = minimal_step(z, values[kept], name)
        return self._with(attributes=dict(zip(self.attributes, self.directions, strict=True)) | steps)

    def with_segments(self, regions: Mapping[str, Tensor], width: float = 10.0) -> Self:
        """The model with segments: by name the vertices of a region, their numbers or a mask of all.

        The vertices of no region make the segment "surrounding". Borders are smooth: a Gaussian of standard deviation
        `width`, in millimetres along the surface of the mean. For the labels of regions: {"nose": labels == 3, ...}.
        """
        if not width > 0:
            raise ValueError(f"width is a positive number of millimetres, got {width!r}")
        masks = {name: self._mask(region, f"the region {name!r}") for name, region in regions.items()}
        rest = ~torch.stack(list(masks.values())).any(0) if masks else torch.ones(self.medium.vertices).bool()
        if rest.any():
            masks[REST] = masks.get(REST, torch.zeros_like(rest)) | rest
        inside = torch.stack(list(masks.values())).double()
        weights = diffuse(inside / inside.sum(0), self.mean[:, :3].cpu(), self.faces.cpu(), width)
        return self._with(segments=dict(zip(masks, weights.to(self.mean), strict=True)))

    def truncated(self, shape: int | None = None, expression: int | None = None, colour: int | None = None) -> Self:
        """The model with the first modes only; None keeps all. The variance of positions that goes joins `noise`."""
        kept = [size if k is None else k for size, k in zip(self.sizes, (shape, expression, colour), strict=True)]
        for name, size, k in zip(PARTS, self.sizes, kept, strict=True):
            if not isinstance(k, int) or not (name == "shape") <= k <= size:
                raise ValueError(f"the model has {size} modes of {name}, and keeps {int(name == 'shape')} or more: {k}")
        axes = {name: Axes(*(a[:k] for a in self.axes(name))) for name, k in zip(PARTS, kept, strict=True)}
        gone = sum(self.axes(name).variance[k:].double().sum() for name, k in zip(PARTS[:2], kept, strict=False))
        noise = self.noise.double() + gone / (3 * self.medium.vertices)
        rows = [part[:k] for part, k in zip(self._eye().split(self.sizes), kept, strict=True)]
        return self._with(**axes, noise=float(noise), attributes=self._turned(torch.cat(rows)))

    def marginal(self, vertices: Tensor) -> Self:
        """The model of some vertices alone, their numbers or a mask, and of the triangles among them.

        It has the same distribution there; its coefficients are others, and fewer where the vertices have less freedom.
        Landmarks stay if all are among the vertices.
        """
        mask = self._mask(vertices, "vertices")
        chosen = mask.nonzero()[:, 0] if vertices.dtype == torch.bool else vertices.to(mask.device).long()
        if len(chosen) < 3 or len(chosen.unique()) < len(chosen):
            raise ValueError(f"expected at least 3 vertices, each once, got {len(chosen)}")
        number = torch.full_like(mask, -1, dtype=torch.long)
        number[chosen] = torch.arange(len(chosen), device=mask.device)
        triangles = number[self.faces.long()]
        coordinates = (3 * chosen[:, None] + torch.arange(3, device=mask.device)).flatten()
        axes, turns = {}, []
        for name in PARTS:
            part, turn = principal(scaled(self.axes(name))[:, coordinates])
            axes[name] = Axes(part.basis.to(self.mean), part.variance.to(self.mean))
            turns.append(turn)
        landmarks = number[self.landmarks.long()]
        medium = Meshes(len(chosen), self.medium.colours).on(
            triangles[(triangles >= 0).all(1)], None if self.uv is None else self.uv[chosen]
        )
        return self._with(
            medium=medium,
            mean=self.mean[chosen],
            **axes,
            segments=dict(zip(self.segments, self.weights[:, chosen], strict=True)),
            attributes=self._turned(torch.block_diag(*turns)),
            landmarks=None if (landmarks < 0).any() else landmarks,
        )

    def scaled_modes(self) -> Tensor:
        """How positions move by one standard deviation of each coefficient of shape and expression, float64, shape
        [shape + expression, 3 * vertices]."""
        return torch.cat([scaled(self.axes("shape")), scaled(self.axes("expression"))])

    def _moved(self, z: Tensor, start: Tensor) -> Tensor:
        """The meshes `start`, shape of an item, moved by coefficients [batch, K]."""
        shape, expression, colour = z.split(self.sizes, 1)
        x = torch.addmm(start[:, :3].reshape(-1), shape * self.shape_variance.sqrt(), self.shape_basis)
        if expression.shape[1]:
            x.addmm_(expression * self.expression_variance.sqrt(), self.expression_basis)
        x = x.unflatten(1, (-1, 3))
        if not self.medium.colours:
            return x
        colours = torch.addmm(start[:, 3:].reshape(-1), colour * self.colour_variance.sqrt(), self.colour_basis)
        return torch.cat([x, colours.unflatten(1, (-1, 3))], 2)

    def _offset(self, z: Tensor) -> Tensor:
        return self._moved(z, torch.zeros_like(self.mean))

    def _need_segments(self) -> tuple[str, ...]:
        if not self.segments:
            raise ValueError("this model has no segments; make some: model.with_segments(regions)")
        return self.segments

    def _mask(self, vertices: Tensor, name: str) -> Tensor:
        """Vertices, as numbers or as a mask, as a mask."""
        if vertices.dtype == torch.bool:
            if vertices.shape != (self.medium.vertices,):
                raise MediaError(f"{name}: expected a mask of {self.medium.vertices}, got {list(vertices.shape)}")
            mask = vertices.to(self.mean.device)
        else:
            _check_numbers(vertices, self.medium.vertices, name)
            mask = torch.zeros(self.medium.vertices, dtype=torch.bool, device=self.mean.device)
            mask[vertices.to(mask.device).long()] = True
        if not mask.any():
            raise MediaError(f"{name} has no vertex")
        return mask

    def _eye(self) -> Tensor:
        return torch.eye(sum(self.sizes), dtype=torch.float64, device=self.mean.device)

    def _turned(self, turn: Tensor) -> dict[str, Tensor]:
        """The attributes' directions in other coefficients, turn z, of which there may be fewer.

        The slope of a label in z is step / |step|^2, and turns as z does.
        """
        slopes = self.directions.double() @ turn.T / self.directions.double().square().sum(1, keepdim=True)
        steps = slopes / slopes.square().sum(1, keepdim=True)
        return dict(zip(self.attributes, steps.to(self.mean), strict=True))

    def _with(self, **changes: Any) -> Self:
        """A copy, with other parts."""
        parts: dict[str, Any] = {
            "medium": self.modality,
            "mean": self.mean,
            **{name: self.axes(name) for name in PARTS},
            "noise": self.noise.item(),
            "segments": dict(zip(self.segments, self.weights, strict=True)),
            "attributes": dict(zip(self.attributes, self.directions, strict=True)),
            "landmarks": self.landmarks,
            "count": self.count.item(),
        }
        return self.assemble(**parts | changes)

    def _coefficients(self, data: Tensor | Dataset | Arrays) -> tuple[Tensor, list[int]]:
        """The coefficients of the meshes that can be read, shape [kept, K], and their places in the data."""
        if isinstance(data, Tensor):
            return torch.cat([self.encode(block).mean for block in data.split(64)]), list(range(len(data)))
        rows, kept = [], []
        for place in range(len(data)):  # type: ignore[arg-type]
            try:
                item = data[place]
            except MediaError as error:
                warnings.warn(f"skipped: {error}", stacklevel=3)
                continue
            rows.append(self.encode((item[0] if isinstance(item, (tuple, list)) else item)[None]).mean)
            kept.append(place)
        if not rows:
            raise MediaError("not one mesh could be read")
        return torch.cat(rows), kept


def _choose(name: str, names: Sequence[str], kind: str) -> int:
    """The place of a name; an unknown one is answered with the nearest."""
    if name in names:
        return list(names).index(name)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4) or names
    raise ValueError(
        f"no {kind} is called {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else "none is there")
    )


def _put(target: Tensor, source: Tensor, name: str) -> None:
    """Copy without broadcasting."""
    if target.shape != source.shape:
        raise MediaError(f"{name}: expected shape {list(target.shape)}, got {list(source.shape)}")
    target.copy_(source)


def _check_numbers(numbers: Tensor, vertices: int, name: str) -> None:
    if numbers.is_floating_point() or (numbers.numel() and not 0 <= numbers.min() <= numbers.max() < vertices):
        raise MediaError(f"{name} are numbers of vertices, 0 to {vertices - 1}, got {numbers.flatten().tolist()!s:.60}")
