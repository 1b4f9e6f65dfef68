"""A morphable model of faces: shape, expression and colour, its modes, its segments, and edits by attributes.

    python -m recipes.faces_morphable --data FOLDER_OF_THE_FACE_MODEL --portraits FOLDER_OF_PORTRAITS
    python -m recipes.faces_morphable --data FOLDER_OF_YOUR_REGISTERED_MESHES

2 minutes on a core of an AMD EPYC. The model of the ICT faces rebuilds unseen ones, with expressions and out of half
precision, to 0.05 mm a vertex (the mean face: 4.8 mm). Samples are faces from both sides, and so are ±3 standard
deviations of every mode that is drawn; "male" adds brows and stubble, "age" lowers the brows. Expressions have a normal
prior about the neutral face although real ones go one way only, so that lips pass through each other in some samples at
temperature 1. The colours hold a studio's soft light, and the sides of the head, which no portrait shows, go on from
the cheeks.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor
from torch.utils.data import Subset

from modalities.data import batches
from modalities.images import Images
from modalities.meshes import NAMED, Meshes
from modalities.meshes.alignment import align as superimpose
from modalities.meshes.files import SUFFIXES
from modalities.meshes.ict import FACE_FILE, FaceModel, face_weights, read_face_model
from modalities.sources import is_number, list_files
from recipes.common import run, write_figures
from recipes.portraits import Portraits, read_portraits
from zoo.card import Card, Figure
from zoo.hub import load, push, save
from zoo.linear.solver import principal_axes
from zoo.morphable.colour import Readings, colour_coefficients, complete_colours, read_faces
from zoo.morphable.evaluation import Curves, vertex_distance
from zoo.morphable.evaluation import measure as shape_measures
from zoo.morphable.formats import write_model
from zoo.morphable.model import PARTS, MorphableModel
from zoo.morphable.modes import Axes

if TYPE_CHECKING:
    from PIL.Image import Image

REGIONS = {"eyes": (range(17, 27), range(36, 48)), "nose": (range(27, 36),), "mouth": (range(48, 68),)}
"""Which of iBUG's 68 landmarks lie in a segment."""
REACH = {"eyes": 16.0, "nose": 14.0, "mouth": 14.0}
"""How far from its landmarks a segment goes, millimetres."""
EXPRESSIONS = ("jawOpen", "mouthSmile", "browInnerUp")
"""Those that the picture of attributes shows, from 0 to 1; it shows labels at up to 3 standard deviations of z."""
LABELS: dict[str, Callable[[dict[str, str]], float]] = {
    "age": lambda row: float(row["age"]) if is_number(row["age"]) else math.nan,
    "male": lambda row: {"female": 0.0, "male": 1.0}.get(row["gender"], math.nan),
}
"""Attributes that portraits are labelled with: years, and 0 or 1."""
TEMPERATURE = 0.7
"""Of the samples in pictures: at 1 one face in a few is a caricature."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, size of the model, and where results go."""

    data: str
    """A folder of registered meshes of your own, or of the ICT face model (ict_face_model_full.npz)."""
    portraits: str | None = None
    """A folder of portraits with landmarks, which the colours and the attributes are learned from; without one, the
    model of the ICT faces has no colours."""
    output: Path = Path("runs/faces_morphable")
    """Where pictures, figures, the checkpoint and files for other programs go."""
    name: str = "morphable-faces"
    """The checkpoint's name."""
    vertices: int = 6706
    """How much of the ICT face model: 6706 is the narrow face, 9409 the face, 11248 with head and neck."""
    shape: int = 100
    """Modes of shape."""
    expression: int = 30
    """Modes of expression."""
    colour: int = 40
    """Modes of colour."""
    noise: float = 2.0
    """How far a portrait's landmarks may be off, pixels."""
    limit: int | None = None
    """Meshes of your own to learn from, the first ones; None takes all."""
    meshes: int = 300
    """Faces that the metrics fit their own model to; a third as many are unseen."""
    seed: int = 0
    """Of samples and generated faces."""
    licence: str = "other"
    """Of the weights, as the Hub names it; the data decide."""
    about: str = "Meshes given by the user."
    """What the card says of the data: where they come from and their licence."""
    push: str | None = None
    """Publish the model under this name, "org/name"."""


def main(config: Config) -> None:
    """Build a morphable model of faces, measure it, draw from it, and edit faces with it."""
    config.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    medium = medium_of(config)
    test: Any = medium.dataset(config.data, "test")
    figures: dict[str, Any] = {}
    portraits = readings = None
    if is_face_model(config.data):
        source = read_face_model(config.data, config.vertices)
        model = shapes = from_face_model(source, config)
        neutral = neutral_faces(source, config)
        if config.portraits:
            portraits = read_portraits(config.portraits)
            readings = read_faces(shapes, portraits.pictures, portraits.landmarks, config.noise)
            model, found = with_colours(shapes, portraits, readings, config.colour)
            figures |= found
    else:
        data: Any = medium.dataset(config.data, "train")
        if config.limit is not None:
            data = Subset(data, range(min(config.limit, len(data))))
        model = shapes = fit(data, medium, config)
        neutral = first(data, config.meshes), first(test, config.meshes)
    figures["seconds to build"] = time.perf_counter() - start
    figures["vertices"] = medium.vertices
    figures["modes of shape, expression, colour"] = " + ".join(map(str, model.sizes))
    stored = load(str(save(model, config.output / config.name, half=True)))
    figures |= vertex_errors(shapes, stored, first(test, config.meshes), config)
    curves = measure(*neutral, medium, config)
    for name in ("compactness", "generalization", "specificity"):
        values = zip(curves.modes, getattr(curves, name).tolist(), strict=True)
        figures[f"{name} by modes"] = {modes: round(value, 3) for modes, value in values}
    write_figures(figures, config.output)
    sheet = draw(config, model, portraits, readings)
    write_model(model, config.output / f"{config.name}.glb")
    write_model(model, config.output / f"{config.name}.h5")

    errors = [name for name in figures if name.startswith("mean vertex error")]
    card = Card(
        summary=f"Morphable model of {medium.vertices:,} vertices with {figures['modes of shape, expression, colour']} "
        "modes of shape, expression and colour.",
        data=config.about,
        licence=config.licence,
        figures=tuple(
            Figure(name, figures[name], f"{min(config.meshes, len(test))} meshes for tests", "mm") for name in errors
        ),
        paper="Blanz, Vetter, A Morphable Model for the Synthesis of 3D Faces, 1999.",
        trained=f"In {figures['seconds to build']:.0f} s with recipes/faces_morphable.py.",
    )
    checkpoint = save(model, config.output / config.name, card, picture=sheet, half=True)
    if config.push:
        print(push(checkpoint, config.push))


def is_face_model(source: str) -> bool:
    """Whether a path is the ICT face model or a folder that holds it."""
    path = Path(source).expanduser()
    return path.name == FACE_FILE or (path / FACE_FILE).is_file()


def medium_of(config: Config) -> Meshes:
    """The meshes of the data, on their triangles."""
    if is_face_model(config.data):
        return read_face_model(config.data, config.vertices).medium
    if config.data in NAMED:
        data: Any = Meshes(config.vertices, colours=True).dataset(config.data)
        return data.medium
    files, _, _ = list_files(Path(config.data).expanduser(), SUFFIXES)
    return Meshes.from_file(files[0])


def fit(data: Any, medium: Meshes, config: Config) -> MorphableModel:
    """The model of registered meshes, however they are placed and turned."""
    most = len(data) - 1
    colour = min(config.colour, most) if medium.colours else 0
    return MorphableModel.fit(data, medium, shape=min(config.shape, most), colour=colour, align="rigid")


def neutral_faces(source: FaceModel, config: Config) -> tuple[Tensor, Tensor]:
    """Faces without expression to fit to, and a third as many others."""
    generator = torch.Generator().manual_seed(config.seed)
    z = torch.randn(config.meshes + config.meshes // 3, len(source.identity), generator=generator)
    x = source.mean + torch.einsum("nk,kvc->nvc", z, source.identity)
    return x[: config.meshes], x[config.meshes :]


def first(data: Any, n: int) -> Tensor:
    """The first n meshes of a data set."""
    return torch.cat([batch.x for batch in islice(batches(data, 1), n)])


def placed(x: Tensor, model: MorphableModel, config: Config) -> Tensor:
    """Meshes of one's own moved onto the model's mean; those of the face model lie where they should."""
    return x if is_face_model(config.data) else superimpose(x, model.mean[:, :3])


def vertex_errors(shapes: MorphableModel, stored: Any, test: Tensor, config: Config) -> dict[str, float]:
    """The mean distance of the vertices of unseen meshes, in mm, from what the model makes of them, as it is stored in
    half precision, and from its mean."""
    found: dict[str, list[float]] = {"reconstructed": [], "of the mean mesh": []}
    for item in test:
        x = placed(item[None], shapes, config)
        shape, expression, _ = shapes.split(shapes.encode(x).mean)
        made = stored.decode(stored.join(shape, expression)).mean
        found["reconstructed"] += vertex_distance(x, made).tolist()
        found["of the mean mesh"] += vertex_distance(x, shapes.mean).tolist()
    return {f"mean vertex error, {name}": statistics.mean(values) for name, values in found.items()}


def from_face_model(source: FaceModel, config: Config) -> MorphableModel:
    """The modes of shape that the face model has, exactly, and those of random expressions about the neutral face."""
    shape = principal(source.identity, config.shape)
    # The modes of random offsets need no random faces: with weights w, offsets w E have the moments E^T <w^T w> E.
    weights = face_weights(source.expression_names, "train")[:, len(source.identity) :].double()
    moments = weights.T @ weights / len(weights)
    values, vectors = torch.linalg.eigh(moments)
    root = values.clamp(min=0).sqrt()[:, None] * vectors.T
    expression = principal(torch.einsum("jk,kvc->jvc", root.float(), source.expressions), config.expression)
    model = MorphableModel.assemble(
        source.medium,
        source.mean,
        shape,
        expression,
        landmarks=source.landmarks,
        attributes=named_expressions(source, len(shape.basis), expression),
    )
    return model.with_segments(segments(model))


def named_expressions(source: FaceModel, shape: int, expression: Axes) -> dict[str, Tensor]:
    """The step in z that an expression takes, left and right together, by its name: "jawOpen", "mouthSmile"."""
    found: dict[str, Tensor] = {}
    for name, offset in zip(source.expression_names, source.expressions, strict=True):
        step = (expression.basis @ offset.flatten()) / expression.variance.sqrt()
        if offset.norm(dim=1).max() > 1:  # pupils and gaze move nothing that a narrow face has
            both = name.removesuffix("_L").removesuffix("_R")
            found[both] = found.get(both, 0) + torch.cat([step.new_zeros(shape), step])
    return found


def principal(offsets: Tensor, modes: int) -> Axes:
    """The first modes of x = z offsets, z ~ N(0, I), offsets of shape [k, vertices, 3]."""
    _, deviation, basis = torch.linalg.svd(offsets.flatten(1).double(), full_matrices=False)
    return Axes(basis[:modes].float(), deviation[:modes].square().float())


def segments(model: MorphableModel) -> dict[str, Tensor]:
    """The vertices near the landmarks of eyes, nose and mouth, each in the nearest of them only."""
    mean = model.mean[:, :3]
    away = {}
    for name, parts in REGIONS.items():
        marked = model.landmarks[[i for part in parts for i in part]].long()
        away[name] = torch.cdist(mean, mean[marked]).min(1).values / REACH[name]
    distance = torch.stack(list(away.values()))
    nearest = distance.argmin(0)
    return {name: (nearest == i) & (distance[i] < 1) for i, name in enumerate(away)}


def with_colours(
    model: MorphableModel, portraits: Portraits, readings: Readings, modes: int
) -> tuple[MorphableModel, dict[str, Any]]:
    """The model with modes of colour out of portraits, and with the attributes that the portraits are labelled with."""
    colours, trusted = complete_colours(readings.colours, readings.weights, model)
    modes = min(modes, len(colours) - 1)
    axes = principal_axes(colours, tuple(colours.shape[1:]), modes)
    steps = zip(model.attributes, model.directions, strict=True)
    coloured = model.with_parts(
        medium=dataclasses.replace(model.modality, colours=True),
        mean=torch.cat([model.mean, axes.mean.unflatten(0, (-1, 3)).to(model.mean)], 1),
        colour=Axes(axes.basis, axes.variance),
        attributes={name: F.pad(step, (0, modes)) for name, step in steps},
        count=len(colours),
    )
    positions = model.decode(readings.coefficients).mean
    faces = torch.cat([positions, colours.to(positions)], 2)
    for name, label in LABELS.items():
        values = torch.tensor([label(row) for row in portraits.labels])
        known = values.isfinite()
        coloured = coloured.with_attributes(faces[known], {name: values[known]})
    found = {
        "portraits": len(colours),
        "landmarks, mean distance in pixels": readings.residuals.mean().item(),
        "share of vertices read off a portrait": trusted.double().mean().item(),
        "variance of colour kept": axes.variance.double().sum().item() / axes.total,
    }
    return coloured, found


def measure(training: Tensor, test: Tensor, medium: Meshes, config: Config) -> Curves:
    """Compactness, generalization and specificity of a model of shape that is fitted to some meshes, and their picture.

    (The ICT face model's own modes come without the scans that they were fitted to.)
    """
    training, test = training[:, :, :3], test[:, :, :3]
    most = min(config.shape, len(training) - 1)
    align: Any = "none" if is_face_model(config.data) else "rigid"
    model = MorphableModel.fit(training, Meshes(medium.vertices, faces=medium.faces), shape=most, align=align)
    training, test = placed(training, model, config), placed(test, model, config)
    generator = torch.Generator().manual_seed(config.seed)
    curves = shape_measures(model, training, test, samples=config.meshes, generator=generator)
    curves.show().save(config.output / "curves.png")
    return curves


def draw(config: Config, model: MorphableModel, portraits: Portraits | None, readings: Readings | None) -> "Image":
    """Write the pictures; the one of samples is returned for the card."""
    show, generator = model.modality.show, torch.Generator().manual_seed(config.seed)
    faces = model.sample(12, temperature=TEMPERATURE, generator=generator)
    one, other = faces[:1], faces[1:2]
    pictures = {
        "samples": show(faces, 4),
        "interpolation": show(model.interpolate(one, other, 5)[0], 5),
        "caricatures": show(torch.cat([model.caricature(one, factor) for factor in (0, 0.5, 1, 1.5, 2)]), 5),
    }
    places = model.split(torch.arange(sum(model.sizes)))
    for part, along in zip(PARTS, places, strict=True):
        if len(along):
            moved = model.traverse(along=along[:4].tolist(), values=(-3, 0, 3))
            pictures[f"modes_{part}"] = show(moved[0].flatten(0, 1), 3)
    if model.segments:
        blended = [model.blend(one, other, segment) for segment in model.segments]
        pictures["segments"] = show(torch.cat([one, other, *blended]), 2)
        pictures["samples_segmented"] = show(
            model.sample(12, temperature=TEMPERATURE, generator=generator, segmented=True), 4
        )
    if model.attributes:
        rows = []
        for name in [name for name in (*LABELS, *EXPRESSIONS) if name in model.attributes]:
            whole = name in EXPRESSIONS
            step = 1.0 if whole else 3.0 / float(model.direction(name).norm())
            rows += [model.edit(one, name, step * (k / 4 if whole else k / 2 - 1)) for k in range(5)]
        pictures["attributes"] = show(torch.cat(rows), 5)
    if portraits is not None and readings is not None:
        pictures["portraits"] = draw_portraits(model, portraits, readings)
    for name, picture in pictures.items():
        picture.save(config.output / f"{name}.png")
    return pictures["samples"]


def draw_portraits(model: MorphableModel, portraits: Portraits, readings: Readings, count: int = 6) -> "Image":
    """Portraits above the model's own faces for them: the shape from the landmarks, the colours from its modes."""
    import numpy as np
    from PIL import Image

    chosen = torch.linspace(0, len(portraits.labels) - 1, count).long()
    tints = [colour_coefficients(model, readings.colours[i], readings.weights[i]) for i in chosen.tolist()]
    shape, expression = readings.coefficients[chosen].split(model.sizes[:2], 1)
    below = model.modality.show(model.decode(model.join(shape, expression, torch.stack(tints))).mean, count)
    above = Images(3, *portraits.pictures.shape[2:]).show(portraits.pictures[chosen], count)
    above = above.resize((below.width, round(above.height * below.width / above.width)))
    return Image.fromarray(np.concatenate([np.asarray(above.convert("RGB")), np.asarray(below.convert("RGB"))]))


PRESETS = {
    "smoke": (
        "seconds, on generated heads",
        Config(data="synthetic-heads", vertices=300, shape=6, colour=2, limit=60, meshes=30),
    ),
    "laptop": ("the narrow face of the ICT model, or your own meshes; two minutes", Config(data=tyro.MISSING)),
    "gpu": ("the whole face", Config(data=tyro.MISSING, vertices=9409)),
    "paper": ("face, head and neck", Config(data=tyro.MISSING, vertices=11248)),
}

if __name__ == "__main__":
    run(main, PRESETS)
