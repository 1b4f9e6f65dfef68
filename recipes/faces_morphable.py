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
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.utils.data import Subset

from modalities.data import batches
from modalities.face_sets import Portraits, read_portraits
from modalities.images import Images
from modalities.meshes import NAMED, Meshes
from modalities.meshes.alignment import align
from modalities.meshes.files import READABLE
from modalities.meshes.ict import is_face_model, read_face_model
from modalities.sources import list_files
from modalities.tables import is_number
from recipes.recipe import Pictures, Recipe, finish, made, run, seeded
from zoo import showcase
from zoo.card import Card, Figure
from zoo.hub import save
from zoo.morphable.colour import Readings, colour_coefficients, complete_colours, learn_colours, read_faces
from zoo.morphable.conditioning import truncate
from zoo.morphable.evaluation import Curves, measure, reconstruction_error, vertex_distance
from zoo.morphable.formats import write_model
from zoo.morphable.formats.ict import from_face_model
from zoo.morphable.model import MorphableModel

if TYPE_CHECKING:
    from PIL.Image import Image

LABELS: dict[str, tuple[str, Callable[[str], float]]] = {
    "age": ("age", lambda cell: float(cell) if is_number(cell) else math.nan),
    "male": ("gender", lambda cell: {"female": 0.0, "male": 1.0}.get(cell, math.nan)),
}
"""Attributes that portraits are labelled with, in years, and 0 or 1; each with its column of the table."""
FEW = 20
"""Fewer meshes of your own are all learned from, and the errors are those of each by a model of the others."""
FEWEST = 3
"""Meshes that a model can be made of and measured with."""
TEMPERATURE = 0.7
"""Of the samples in pictures: at 1 one face in a few is a caricature."""


@dataclasses.dataclass(frozen=True)
class Config(Recipe):
    """Data, size of the model, and where results go."""

    data: str
    """A folder of registered meshes of your own, or of the ICT face model (ict_face_model_full.npz)."""
    output: Path = Path("runs/faces_morphable")
    """Where pictures, figures, the checkpoint and files for other programs go."""
    portraits: str | None = None
    """A folder of portraits with landmarks, which the colours and the attributes are learned from; without one, the
    model of the ICT faces has no colours."""
    unit: str = "mm"
    """Of the files of meshes of your own: "mm", "cm", "m", "um" or "in"; GLB is always in metres."""
    vertices: int = 6706
    """How much of the ICT face model: 6706 is the narrow face, 9409 the face, 11248 with head and neck."""
    shape: int = 100
    """Modes of shape, if there are so many."""
    expression: int = 30
    """Modes of expression."""
    colour: int = 40
    """Modes of colour, if there are so many."""
    noise: float = 2.0
    """How far a portrait's landmarks may be off, pixels."""
    limit: int | None = None
    """Meshes of your own to learn from, the first ones; None takes all."""
    meshes: int = 300
    """Faces that the metrics fit their own model to; a third as many are unseen."""
    seed: int = 0
    """Of samples and generated faces."""


def main(config: Config) -> None:
    """Build a morphable model of faces, measure it, draw from it, and edit faces with it."""
    start = time.perf_counter()
    notes: dict[str, object] = {}
    pictures = {}
    data: Any = None
    if config.meshes < FEWEST:
        raise ValueError(f"--meshes must be at least {FEWEST}, which the metrics take, got {config.meshes}")
    few, source = False, read_face_model(config.data, config.vertices) if is_face_model(config.data) else None
    if source is None:
        if config.portraits:
            raise ValueError("portraits give colours to the ICT face model alone; meshes of your own bring theirs")
        medium, few = medium_of(config)
        data = medium.dataset(config.data, "all" if few else "train")
        data = Subset(data, range(len(data) if config.limit is None else min(config.limit, len(data))))
        if len(data) < FEWEST:
            raise ValueError(f"a model takes at least {FEWEST} meshes, got {len(data)} of {config.data}")
        shape, colour = (k if k < len(data) else None for k in (config.shape, config.colour if medium.colours else 0))
        model = MorphableModel.fit(data, medium, shape=shape, colour=colour, align="rigid")
        neutral, unseen = next(batches(data, FEW if few else config.meshes)).x, None
    else:
        medium = source.medium
        model = from_face_model(source, config.shape, config.expression)
        z = torch.randn(config.meshes * 4 // 3, len(source.identity), generator=seeded(config.seed))
        faces = source.mean + torch.einsum("nk,kvc->nvc", z, source.identity)
        neutral, unseen = faces[: config.meshes], faces[config.meshes :]
        if config.portraits:
            portraits = read_portraits(config.portraits)
            readings = read_faces(model, portraits.pictures, portraits.landmarks, config.noise)
            model, notes = with_colours(model, portraits, readings, config.colour)
            pictures["portraits"] = draw_portraits(model, portraits, readings)
    seconds, modes = time.perf_counter() - start, " + ".join(map(str, model.sizes))
    notes |= {"seconds to build": seconds, "vertices": medium.vertices, "modes of shape, expression, colour": modes}

    name = config.checkpoint("morphable")
    stored = MorphableModel.from_pretrained(save(model, config.output / name, half=True))
    if few:
        x, of = neutral, f"{len(neutral)} meshes of {config.source}, each by a model of the others"
    else:
        x = next(batches(medium.dataset(config.data, "test"), config.meshes)).x
        of, unseen = f"{len(x)} meshes for tests of {config.source}", x if source is None else unseen
    x = align(x, model.mean[:, :3]) if source is None else x  # those of the face model lie where they should
    errors = {"reconstructed": reconstruction_error(stored, x), "of the mean mesh": vertex_distance(x, model.mean)}
    curves = shape_curves(neutral, unseen, medium, config, "rigid" if source is None else "none")
    if few:  # the mean of the others is a little farther away than that of all
        further = len(x) / (len(x) - 1)
        errors = {"reconstructed": curves.generalization[-1], "of the mean mesh": further * errors["of the mean mesh"]}
    figures = [Figure(f"mean vertex error, {name}", error.mean().item(), of, "mm") for name, error in errors.items()]
    for metric in ("compactness", "generalization", "specificity"):
        values = zip(curves.modes, getattr(curves, metric).tolist(), strict=True)
        notes[f"{metric} by modes"] = {count: round(value, 3) for count, value in values}
    pictures = draw(model, seeded(config.seed)) | pictures | {"curves": curves.show()}
    for suffix in (".glb", ".h5"):
        write_model(model, config.output / f"{name}{suffix}")
    out_of = f", out of {model.count} meshes" if source is None else ""
    card = Card(
        summary=f"{medium.vertices:,} vertices, {modes} modes of shape, expression and colour{out_of}.",
        data="",
        figures=tuple(figures),
        paper="Blanz, Vetter, A Morphable Model for the Synthesis of 3D Faces, 1999.",
        trained=made(config, "Made", seconds, config.seed),
        temperature=TEMPERATURE,
    )
    finish(config, model, "morphable", card, notes, pictures, data)


def medium_of(config: Config) -> tuple[Meshes, bool]:
    """The meshes of generated heads or of one's own, and whether these are few and none is set aside for tests."""
    if config.data in NAMED:
        data: Any = Meshes(config.vertices, colours=True).dataset(config.data)
        return data.medium, False
    listing = list_files(Path(config.data).expanduser(), READABLE)
    few = len(listing.items) < FEW and not any(listing.splits)
    return Meshes.from_file(listing.items[0], config.unit), few


def with_colours(
    model: MorphableModel, portraits: Portraits, readings: Readings, modes: int
) -> tuple[MorphableModel, dict[str, object]]:
    """The model with modes of colour out of portraits, and with the attributes that the portraits are labelled with."""
    colours, trusted = complete_colours(readings.colours, readings.weights, model)
    coloured = learn_colours(model, colours, modes)
    faces = torch.cat([model.decode(readings.coefficients).mean, colours], 2)
    for name, (column, read) in LABELS.items():
        labels = torch.tensor([read(cell) for cell in portraits.labels[column]])
        known = labels.isfinite()
        coloured = coloured.with_attributes(faces[known], {name: labels[known]})
    total = colours.double().flatten(1).var(0).sum()
    return coloured, {
        "portraits": len(colours),
        "landmarks, mean distance in pixels": readings.residuals.mean().item(),
        "share of vertices read off a portrait": trusted.double().mean().item(),
        "variance of colour kept": (coloured.colour_variance.double().sum() / total).item(),
    }


def shape_curves(
    training: Tensor, test: Tensor | None, medium: Meshes, config: Config, placement: Literal["none", "rigid"]
) -> Curves:
    """The measures of a model of shape that is fitted to some neutral meshes, without others for tests leaving one out
    after the other. (The ICT face model's own modes come without the scans that they were fitted to.)"""
    training, test = training[:, :, :3], None if test is None else test[:, :, :3]
    model = MorphableModel.fit(training, Meshes(medium.vertices, faces=medium.faces), align=placement)
    most = len(training) - (1 if test is not None else 2)
    model = truncate(model, min(config.shape, model.sizes.shape, most))
    if placement == "rigid":
        training, test = align(training, model.mean), None if test is None else align(test, model.mean)
    return measure(model, training, test, samples=config.meshes, generator=seeded(config.seed))


def draw(model: MorphableModel, generator: torch.Generator) -> Pictures:
    """What the model shows of itself, one face exaggerated, and samples whose segments vary apart."""
    show, found = model.modality.show, list(showcase.draw(model, temperature=TEMPERATURE))
    pictures = {exhibit.title.lower(): show(x, exhibit.columns) for exhibit, x in found}
    one = found[0][1][:1]
    pictures["caricatures"] = show(torch.cat([model.caricature(one, factor) for factor in (0, 0.5, 1, 1.5, 2)]), 5)
    if model.segments:
        mixed = model.sample(12, temperature=TEMPERATURE, generator=generator, segmented=True)
        pictures["samples_segmented"] = show(mixed)
    return pictures


def draw_portraits(model: MorphableModel, portraits: Portraits, readings: Readings, count: int = 6) -> "Image":
    """Portraits above the model's own faces for them: the shape from the landmarks, the colours from its modes."""
    from PIL import Image

    chosen = torch.linspace(0, len(portraits.pictures) - 1, count).long()
    colours = [colour_coefficients(model, readings.colours[i], readings.weights[i]) for i in chosen]
    z = torch.cat([readings.coefficients[chosen], torch.stack(colours)], 1)
    below = model.modality.show(model.decode(z).mean, count)
    above = Images(3, *portraits.pictures.shape[2:]).show(portraits.pictures[chosen], count)
    above = above.resize((below.width, round(above.height * below.width / above.width)))
    return Image.fromarray(np.concatenate([np.asarray(above.convert("RGB")), np.asarray(below.convert("RGB"))]))


PRESETS = {
    "smoke": (
        "seconds, on generated heads",
        Config("synthetic-heads", vertices=300, shape=6, colour=2, limit=60, meshes=30),
    ),
    "laptop": ("the narrow face of the ICT model, or your own meshes; two minutes", Config(tyro.MISSING)),
    "gpu": ("the whole face", Config(tyro.MISSING, vertices=9409)),
    "paper": ("face, head and neck", Config(tyro.MISSING, vertices=11248)),
}

if __name__ == "__main__":
    run(main, PRESETS)
