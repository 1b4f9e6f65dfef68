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

from modalities import MediaError
from modalities.images import Images
from modalities.meshes.alignment import align
from recipes.common import run, write_figures
from zoo.hub import load
from zoo.morphable.camera import Camera, rotation_matrix
from zoo.morphable.colour import colour_coefficients, read_colours
from zoo.morphable.evaluation import vertex_distance
from zoo.morphable.landmarks import LandmarkFit, fit_landmarks
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
    config.output.mkdir(parents=True, exist_ok=True)
    model = load(config.model)
    if not isinstance(model, MorphableModel) or len(model.landmarks) != 68:
        raise ValueError(f"{config.model} is no morphable model with 68 landmarks")
    errors, prior = measure(model, config)
    figures: dict[str, Any] = {"faces": config.faces, "mean vertex error of the mean face, mm": prior}
    for (landmarks, views), error in errors.items():
        figures[f"mean vertex error, {landmarks} landmarks, {views} pictures, mm"] = error
    draw_errors(errors, prior, config).save(config.output / "errors.png")
    if config.data is not None:
        figures |= fit_pictures(model, config.data, config)
    write_figures(figures, config.output)


@torch.no_grad()
def measure(model: MorphableModel, config: Config) -> tuple[dict[tuple[int, int], float], float]:
    """The mean vertex error in mm by the number of landmarks and of pictures, on neutral faces that are generated; and
    that of the mean face, which knows nothing.

    A face is turned by up to 40 degrees to the sides and 15 up or down. Pictures do not tell a face's size or place:
    all errors are those after the similarity that fits best.
    """
    generator = torch.Generator().manual_seed(config.seed)
    z = model.prior(n=config.faces).sample(generator=generator)
    truth = model.decode(model.join(model.split(z).shape)).mean[..., :3]
    errors: dict[tuple[int, int], list[float]] = {}
    for face in truth:
        points = [picture_landmarks(model, face, config.noise, generator) for _ in range(max(config.views))]
        for (count, chosen), views in ((item, views) for item in SETS.items() for views in config.views):
            rows = list(chosen)
            fit = fit_landmarks(
                model, [p[rows] for p in points[:views]], model.landmarks[rows].long(), noise=config.noise
            )
            errors.setdefault((count, views), []).append(error_of(model, fit, face))
    mean = model.mean[None, :, :3].expand_as(truth)
    prior = vertex_distance(align(mean, truth, scale=True), truth).mean().item()
    return {key: statistics.mean(values) for key, values in errors.items()}, prior


def picture_landmarks(model: MorphableModel, face: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Where a random camera sees the landmarks of a face, with noise, in pixels, shape [68, 2]."""
    yaw, pitch = ((2 * torch.rand(2, generator=generator) - 1) * torch.tensor([40.0, 15.0])).tolist()
    camera = Camera(
        rotation_matrix(yaw, pitch), torch.tensor(PIXELS_A_MILLIMETRE).double(), torch.tensor([128.0, 128.0]).double()
    )
    points = camera.project(face[model.landmarks.long()].double())
    return points + noise * torch.randn(points.shape, generator=generator).double()


def error_of(model: MorphableModel, fit: LandmarkFit, face: Tensor) -> float:
    """The mean vertex distance of a fitted shape, without its expression, from the true face."""
    z = model.join(model.split(fit.coefficients[:1]).shape)
    return vertex_distance(align(model.decode(z).mean[..., :3], face[None], scale=True), face[None]).item()


def draw_errors(errors: dict[tuple[int, int], float], prior: float, config: Config) -> "Image":
    """Errors against the number of landmarks, a line for each number of pictures."""
    from matplotlib.figure import Figure as Drawing

    from modalities.drawing import render

    drawing = Drawing(figsize=(6, 3.6), layout="constrained")
    axis = drawing.subplots()
    for views in config.views:
        counts = [count for count, n in errors if n == views]
        label = f"{views} pictures" if views > 1 else "1 picture"
        axis.plot(counts, [errors[count, views] for count in counts], marker="o", label=label)
    axis.axhline(prior, color="grey", linestyle="--", label="the mean face")
    axis.set(xlabel="landmarks", ylabel="mean vertex error, mm", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend()
    return render(drawing)


@torch.no_grad()
def fit_pictures(model: MorphableModel, folder: str, config: Config) -> dict[str, Any]:
    """Fit pictures of a folder: a sheet of each beside its face from two sides, and the meshes as GLB files."""
    from PIL import Image, ImageOps

    from modalities.drawing import contact_sheet

    pictures, landmarks = read_pictures(Path(folder).expanduser(), config)
    show = model.modality.show
    rows, meshes, residuals, shares = [], [], [], []
    for picture, points in zip(pictures, landmarks, strict=True):
        noise = config.picture_noise * picture.shape[2] / 128
        fit = fit_landmarks(model, points, noise=noise)
        z, camera = fit.coefficients[:1], fit.cameras[0]
        mesh = model.decode(z).mean[0]
        positions = mesh[:, :3]
        seen = read_colours(picture, positions, camera, model.modality.triangles)
        if model.modality.colours:
            tints = colour_coefficients(model, seen.colours, seen.weights, COLOUR_NOISE)
            shape, expression, _ = model.split(z)
            mesh = model.decode(model.join(shape, expression, tints[None])).mean[0]
            # The picture where it shows the face well, the model where it does not, smooth in between.
            mesh[:, 3:].lerp_(seen.colours, ((seen.weights - 0.3) / 0.3).clamp(0, 1)[:, None])
        meshes.append(mesh)
        residuals.append(fit.residuals.nanmean().item())
        shares.append((seen.weights > 0).double().mean().item())
        rows.append((picture, camera, positions))
    batch = torch.stack(meshes)
    model.modality.save(batch, config.output / "meshes" / ".glb")
    sheet = []
    for (picture, camera, positions), mesh in zip(rows, batch, strict=True):
        face = show(mesh[None]).convert("RGB")
        marked = draw_landmarks(picture, camera.project(positions[model.landmarks.long()]), HEIGHT)
        pair = Image.new("RGB", (HEIGHT + WIDTH, HEIGHT), "white")
        pair.paste(marked, (0, 0))
        pair.paste(ImageOps.pad(face, (WIDTH, HEIGHT), color="white"), (HEIGHT, 0))
        sheet.append(np.asarray(pair))
    contact_sheet(np.stack(sheet), 2).save(config.output / "pictures.png")
    return {
        "pictures": len(batch),
        "mean distance of fitted landmarks, pixels": statistics.mean(residuals),
        "share of vertices that a picture shows": statistics.mean(shares),
    }


def read_pictures(folder: Path, config: Config) -> tuple[list[Tensor], list[Tensor]]:
    """Some pictures of a folder, each [3, height, width], and their landmarks [68, 2]."""
    file = folder / "landmarks68.npy"
    try:
        points = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise MediaError(f"{file} cannot be read as an array of landmarks: {error}") from error
    data: Any = Images(3, config.size, config.size).dataset(folder, "all")
    if points.shape != (len(data), 68, 2) or points.dtype.kind != "f":
        raise MediaError(f"{file}: expected landmarks of shape [{len(data)}, 68, 2], got {list(points.shape)}")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(config.seed))[: config.pictures].tolist()
    return [data[i] for i in order], [torch.from_numpy(points[i]).double() for i in order]


def draw_landmarks(x: Tensor, points: Tensor, height: int) -> "Image":
    """A picture [3, height, width] at another height, with points [n, 2] on it."""
    from PIL import Image, ImageDraw

    scale = height / x.shape[1]
    pixels = ((x.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    large = Image.fromarray(pixels).resize((round(x.shape[2] * scale), height))
    draw = ImageDraw.Draw(large)
    for right, down in (points * scale).tolist():
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
