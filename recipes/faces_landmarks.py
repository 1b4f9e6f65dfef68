"""Faces out of landmarks: a morphable model is fitted to the landmarks of pictures, and takes its colours from them.

    python -m recipes.faces_landmarks
    python -m recipes.faces_landmarks --data FOLDER_OF_PICTURES_WITH_LANDMARKS

30 s on one core of an AMD EPYC. Of 50 generated faces, the mean face is 2.81 mm off, a vertex on average and size
aside; 15 landmarks of one picture leave 2.06 mm, 68 leave 1.48, and those of four pictures 1.03. Meshes of real
pictures are recognised from the front and are faces from the side; hair, glasses and light are part of their colours,
teeth become an open mouth, and the sides come from the model.
"""

import dataclasses
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from modalities.drawing import beside, contact_sheet, render
from modalities.face_sets import LANDMARKS, read_landmarks
from modalities.image_sets import FORMATS
from modalities.images import Images
from modalities.meshes.alignment import align
from recipes.recipe import report, run, seeded
from zoo.morphable.camera import Camera, rotation_matrix
from zoo.morphable.colour import colour_coefficients, read_colours
from zoo.morphable.evaluation import vertex_distance
from zoo.morphable.landmarks import fit_landmarks
from zoo.morphable.model import MorphableModel

if TYPE_CHECKING:
    from PIL.Image import Image

SETS = {
    4: (36, 45, 30, 8),
    7: (36, 39, 42, 45, 30, 48, 54),
    15: (36, 39, 42, 45, 27, 30, 31, 35, 48, 51, 54, 57, 8, 19, 24),
    51: tuple(range(17, 68)),
    68: tuple(range(68)),
}
"""Landmarks of iBUG's 68 by their number: corners of eyes, nose and mouth first, the outline of the face last."""
PIXELS_A_MILLIMETRE = 1.0
"""The scale of generated pictures: a face is some 150 pixels wide."""
COLOUR_NOISE = 0.3
"""How far a picture's light, glasses and hair may take colours from the model's, of [0, 1]."""
HEIGHT, WIDTH = 240, 400
"""Of a face's two views on the sheet of pictures, in pixels."""
Errors = dict[tuple[int, int], float]
"""Mean vertex errors in mm by the number of landmarks and of pictures."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The model, the pictures, and where results go."""

    model: str = "morphable-faces"
    """A bundled morphable model with iBUG's 68 landmarks, a folder, or a repository of the Hub."""
    data: str | None = None
    """A folder of pictures (see `Images.dataset`) and landmarks68.npy [pictures, 68, 2], in pixels, a row for each
    picture in the order of the names or of the table. None fits generated faces only."""
    output: Path = Path("runs/faces_landmarks")
    """Where pictures, meshes and figures go."""
    faces: int = 50
    """Generated faces that errors are measured on."""
    views: tuple[int, ...] = (1, 2, 4)
    """How many pictures of a generated face are fitted together."""
    noise: float = 1.0
    """The standard deviation of a landmark's coordinate in generated pictures, in pixels."""
    size: int = 128
    """Height and width of the folder's pictures."""
    pictures: int = 8
    """Pictures of the folder that are fitted, shown, and written as meshes."""
    picture_noise: float = 2.0
    """How far their landmarks are thought to be off, in pixels of a face 128 wide."""
    seed: int = 0
    """Of the generated faces, and of the choice of pictures."""


def main(config: Config) -> None:
    """Measure what landmarks tell of a face's shape, and make meshes of faces out of pictures."""
    for name, number in (
        ("faces", config.faces),
        ("pictures", config.pictures),
        ("views", min(config.views, default=0)),
    ):
        if number < 1:
            raise ValueError(f"--{name} must be at least 1, got {number}")
    model = MorphableModel.from_pretrained(config.model)
    errors, prior = fit_generated(model, config)
    notes: dict[str, object] = {"faces": config.faces, "mean vertex error of the mean face, mm": prior}
    for (landmarks, views), error in errors.items():
        notes[f"mean vertex error, {landmarks} landmarks, {views} pictures, mm"] = error
    pictures = {"errors": draw_errors(errors, prior, config.views)}
    if config.data is not None:
        pictures["pictures"], found = fit_pictures(model, Path(config.data).expanduser(), config)
        notes |= found
    report(config.output, [], notes, pictures)


@torch.no_grad()
def fit_generated(model: MorphableModel, config: Config) -> tuple[Errors, float]:
    """The errors on neutral faces that are generated, and that of the mean face, which knows nothing.

    A face is turned by up to 40 degrees to the sides and 15 up or down. Pictures do not tell a face's size or place:
    all errors are those after the similarity that fits best.
    """
    generator, marks = seeded(config.seed), model.face_landmarks

    def neutral(z: Tensor) -> Tensor:
        return model.decode(model.join(model.split(z).shape)).mean[..., :3]

    def distance(x: Tensor, truth: Tensor) -> Tensor:
        return vertex_distance(align(x.expand_as(truth), truth, scale=True), truth).mean()

    def seen(face: Tensor) -> Tensor:
        """Where a random camera sees the landmarks, with noise, in pixels, shape [68, 2]."""
        yaw, pitch = ((2 * torch.rand(2, generator=generator) - 1) * torch.tensor([40.0, 15.0])).tolist()
        scale, centre = torch.tensor(PIXELS_A_MILLIMETRE).double(), torch.tensor([128.0, 128.0]).double()
        points = Camera(rotation_matrix(yaw, pitch), scale, centre).project(face[marks].double())
        return points + config.noise * torch.randn(points.shape, generator=generator).double()

    truth = neutral(model.prior(n=config.faces).sample(generator=generator))
    errors: dict[tuple[int, int], list[float]] = {}
    for face in truth:
        points = [seen(face) for _ in range(max(config.views))]
        for (count, chosen), views in ((item, views) for item in SETS.items() for views in config.views):
            rows = list(chosen)
            fit = fit_landmarks(model, [p[rows] for p in points[:views]], marks[rows], noise=config.noise)
            error = distance(neutral(fit.coefficients[:1]), face[None]).item()
            errors.setdefault((count, views), []).append(error)
    prior = distance(model.mean[None, :, :3], truth).item()
    return {key: statistics.mean(values) for key, values in errors.items()}, prior


def draw_errors(errors: Errors, prior: float, numbers: tuple[int, ...]) -> "Image":
    """Errors against the number of landmarks, a line for each number of pictures."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(6, 3.6), layout="constrained")
    axis = drawing.subplots()
    for views in numbers:
        label = f"{views} pictures" if views > 1 else "1 picture"
        axis.plot(list(SETS), [errors[count, views] for count in SETS], marker="o", label=label)
    axis.axhline(prior, color="grey", linestyle="--", label="the mean face")
    axis.set(xlabel="landmarks", ylabel="mean vertex error, mm", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend()
    return render(drawing)


@torch.no_grad()
def fit_pictures(model: MorphableModel, folder: Path, config: Config) -> "tuple[Image, dict[str, object]]":
    """Fit pictures of a folder: a sheet of each beside its face from two sides, and the meshes as GLB files."""
    from PIL import Image, ImageOps

    data: Any = Images(3, config.size, config.size).dataset(folder, "all")
    landmarks = read_landmarks(folder / LANDMARKS, len(data))
    for name, points in zip(data.names, landmarks, strict=True):
        # The pictures' own pixels are those of the landmarks only where nothing is cut or resized.
        inside = ((points >= 0) & (points <= config.size)).all(1) | points.isnan().any(1)
        size = Image.open(folder / name, formats=FORMATS).size if (folder / name).is_file() else (config.size,) * 2
        if size != (config.size, config.size) or inside.double().mean() < 0.5:
            raise ValueError(
                f"{folder / LANDMARKS} is in the pixels of pictures {config.size} x {config.size}, and {name} has "
                f"{size[0]} x {size[1]} with landmarks up to {points.nan_to_num().max():.0f}: pass --size, or cut and "
                "resize pictures and landmarks alike"
            )
    meshes, tiles, residuals, shares = [], [], [], []
    for i in torch.randperm(len(data), generator=seeded(config.seed))[: config.pictures].tolist():
        picture = data[i]
        fit = fit_landmarks(model, landmarks[i], noise=config.picture_noise * config.size / 128)
        mesh, camera = model.decode(fit.coefficients[:1]).mean[0], fit.cameras[0]
        seen = read_colours(picture, mesh[:, :3], camera, model.modality.triangles)
        marked = draw_landmarks(picture, camera.project(mesh[model.face_landmarks, :3]))
        if model.modality.colours:
            tints = colour_coefficients(model, seen.colours, seen.weights, COLOUR_NOISE)
            shape, expression, _ = model.split(fit.coefficients[:1])
            mesh = model.decode(model.join(shape, expression, tints[None])).mean[0]
            # The picture where it shows the face well, the model where it does not, smooth in between.
            mesh[:, 3:].lerp_(seen.colours, ((seen.weights - 0.3) / 0.3).clamp(0, 1)[:, None])
        meshes.append(mesh)
        face = ImageOps.pad(model.modality.show(mesh[None]).convert("RGB"), (WIDTH, HEIGHT), color="white")
        tiles.append(np.asarray(beside([marked, face], gap=0)))
        residuals.append(fit.residuals.nanmean().item())
        shares.append((seen.weights > 0).double().mean().item())
    model.modality.save(torch.stack(meshes), config.output / "meshes" / ".glb")
    return contact_sheet(np.stack(tiles), 2), {
        "pictures": len(meshes),
        "mean distance of fitted landmarks, pixels": statistics.mean(residuals),
        "share of vertices that a picture shows": statistics.mean(shares),
    }


def draw_landmarks(x: Tensor, points: Tensor) -> "Image":
    """A picture [3, size, size] as large as a face is drawn, with points [n, 2] on it."""
    from PIL import ImageDraw

    large = Images(*x.shape).show(x[None]).convert("RGB").resize((HEIGHT, HEIGHT))
    draw = ImageDraw.Draw(large)
    for right, down in (points * HEIGHT / x.shape[1]).tolist():
        draw.ellipse((right - 2, down - 2, right + 2, down + 2), fill=(90, 220, 255))
    return large


PRESETS = {
    "smoke": ("seconds, four generated faces", Config(faces=4, views=(1, 2))),
    "laptop": ("fifty generated faces, and your pictures; a minute", Config()),
    "gpu": ("a thousand generated faces", Config(faces=1000)),
    "paper": ("as gpu, up to eight pictures of a face", Config(faces=1000, views=(1, 2, 4, 8))),
}

if __name__ == "__main__":
    run(main, PRESETS)
