"""Morphable models: seconds of sampling, conditioning and fitting, and what landmarks tell about a face.

    python -m benchmarks.morphable
    python -m benchmarks.morphable --faces FOLDER_OF_THE_FACE_MODEL

The times are medians in milliseconds on one model of 26,000 vertices and 150 modes. The errors are those of a model of
the first generated heads, or faces of the ICT face model, on others: the mean distance of vertices, given landmarks in
space or in a picture from the side (20 degrees). A picture does not tell size, so its error is given once more after
the best similarity. Run it without other load.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Subset

from modalities.data import batches
from modalities.meshes import Meshes
from modalities.meshes.alignment import align
from modalities.meshes.ict import read_face_model
from modalities.meshes.sets import sphere
from zoo.morphable.camera import Camera, rotation_matrix
from zoo.morphable.conditioning import posterior
from zoo.morphable.landmarks import fit_landmarks
from zoo.morphable.model import MorphableModel
from zoo.morphable.modes import Axes

LANDMARKS = (4, 8, 16, 32, 51)
"""How many landmarks; of a face spread over those inside its outline."""


@dataclasses.dataclass(frozen=True)
class Config:
    """How long and how large."""

    faces: Path | None = None
    """The ICT face model: its file or folder; None takes generated heads."""
    vertices: int = 26_000
    """Of the model that is timed."""
    modes: int = 150
    """Of the model that is timed."""
    training: int = 300
    """Faces of which the model of the errors is built."""
    held_out: int = 20
    """Other faces, to which it is fitted."""
    pixels: float = 1.0
    """The standard deviation of a landmark in the pictures, of 1.5 pixels a millimetre."""
    runs: int = 7
    """Repetitions of each."""


def timed_model(vertices: int, modes: int) -> MorphableModel:
    """An egg with modes at random, the sizes of whose deviations fall as those of faces do."""
    generator = torch.Generator().manual_seed(0)
    points, faces = sphere(vertices)
    mean = torch.from_numpy(points).float() * torch.tensor([75.0, 110.0, 95.0])
    basis = torch.linalg.qr(torch.randn(3 * vertices, modes, generator=generator))[0].T.contiguous()
    variance = 16 * vertices / torch.arange(1, modes + 1) ** 2
    front = torch.nonzero(mean[:, 2] > 30)[:, 0]
    landmarks = front[torch.randperm(len(front), generator=generator)[:68]]
    medium = Meshes(vertices, faces=torch.from_numpy(faces))
    return MorphableModel.assemble(medium, mean, Axes(basis, variance), landmarks=landmarks)


def median(action: Callable[[], object], runs: int) -> float:
    """Milliseconds, after one run that does not count."""
    action()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def times(config: Config) -> dict[str, float]:
    """Milliseconds of each operation."""
    model = timed_model(config.vertices, config.modes)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(64, config.modes, generator=generator)
    face = model.decode(z[:1]).mean[0]
    marks = model.landmarks.long()
    points = camera().project(face[marks].double())
    points += config.pixels * torch.randn(points.shape, generator=generator)
    return {
        "sample 64": median(lambda: model.sample(64, generator=generator), config.runs),
        "decode 64": median(lambda: model.decode(z).mean, config.runs),
        "posterior of 68 landmarks": median(lambda: posterior(model, marks, face[marks], 1.0), config.runs),
        "fit of 68 landmarks of a picture": median(lambda: fit_landmarks(model, points, contour=()), config.runs),
    }


def camera() -> Camera:
    """A head turned by 20 degrees, 1.5 pixels a millimetre."""
    return Camera(rotation_matrix(20.0), torch.tensor(1.5).double(), torch.tensor([200.0, 200.0]).double())


def fitted(config: Config) -> tuple[MorphableModel, Tensor, Tensor]:
    """A model of the first faces, others, shape [held_out, vertices, 3], and the vertices of up to 51 landmarks."""
    if config.faces is not None:
        source = read_face_model(config.faces)
        medium, marks = source.medium, source.landmarks[17:]
        data: str | Path = config.faces
    else:
        medium, data = Meshes(2000), "synthetic-heads"
        marks = torch.empty(0)
    train, test = (medium.dataset(data, split) for split in ("train", "test"))
    x = torch.cat([batch.x for batch in batches(Subset(train, range(config.training)), 100)])
    others = next(batches(Subset(test, range(config.held_out)), config.held_out)).x
    if config.faces is None:
        front = torch.nonzero(x.mean(0)[:, 2] > 20)[:, 0]
        marks = front[torch.randperm(len(front), generator=torch.Generator().manual_seed(0))[:51]]
    # Of faces, fewer modes than they vary in: what the model cannot say is part of the error.
    shape = 60 if config.faces is not None else 6
    model = MorphableModel.fit(x, train.medium, shape=min(shape, config.training - 1))
    return model, others, marks


def errors(config: Config) -> list[tuple[str, float, float, float]]:
    """Mean vertex distances in mm: the number of landmarks, of the posterior mean, of the fit to a picture, and
    of that after the best similarity."""
    model, others, marks = fitted(config)
    generator = torch.Generator().manual_seed(2)

    def distance(x: Tensor) -> float:
        return (x - others).norm(dim=2).mean().item()

    def row(name: str, space: Tensor, picture: Tensor) -> tuple[str, float, float, float]:
        return name, distance(space), distance(picture), distance(align(picture, others, scale=True))

    prior = model.mean.expand_as(others)
    rows = [row("none: the mean face", prior, prior)]
    for count in LANDMARKS:
        chosen = marks[torch.linspace(0, len(marks) - 1, count).round().long()]
        known, seen = [], []
        for face in others:
            points = camera().project(face[chosen].double())
            points += config.pixels * torch.randn(points.shape, generator=generator)
            known.append(posterior(model, chosen, face[chosen], 0.5).mean)
            fit = fit_landmarks(model, points, chosen, noise=max(config.pixels, 0.1), contour=())
            seen.append(model.decode(fit.coefficients).mean[0])
        rows.append(row(str(count), torch.stack(known), torch.stack(seen)))
    best = model.reconstruct(others)
    return [*rows, row("all vertices: the best of the model", best, best)]


def main(config: Config) -> None:
    """Time morphable models, and give their errors by the number of landmarks."""
    from rich.console import Console
    from rich.table import Table

    title = (
        f"{config.vertices} vertices, {config.modes} modes, medians of {config.runs}, {torch.get_num_threads()} threads"
    )
    table = Table(title=title)
    for name in ("operation", "ms"):
        table.add_column(name)
    for name, value in times(config).items():
        table.add_row(name, f"{value:.1f}")
    console = Console(width=100)
    console.print(table)
    what = "generated heads" if config.faces is None else "generated faces"
    table = Table(title=f"Mean vertex distance, mm, of {config.held_out} {what} that the model has not seen")
    for name in ("landmarks", "given in space", f"in a picture, +-{config.pixels:g} pixels", "size aside"):
        table.add_column(name)
    for name, *distances in errors(config):
        table.add_row(name, *(f"{value:.2f}" for value in distances))
    console.print(table)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=main.__doc__))
