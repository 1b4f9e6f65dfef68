"""What recipes on pictures of faces share: training pictures, their attributes, and pictures of sliders."""

import csv
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from modalities.data import Arrays, batches
from modalities.images import Images, flip
from modalities.modality import MediaError
from zoo.evaluation.attributes import VALUES
from zoo.model import Latent
from zoo.walks import Z

if TYPE_CHECKING:
    from PIL.Image import Image

HELD = 2**31
"""Training pictures of so many bytes are held in memory; more are read from their files at every visit."""
BATCH = 64
"""Pictures that are read at once."""


def training_pictures(medium: Images, source: str) -> Any:
    """The training pictures of a source, mirrored at random at every visit."""
    plain: Any = medium.dataset(source, "train")
    if 4 * len(plain) * math.prod(medium.shape) > HELD:
        return medium.dataset(source, "train", flips=True)
    return Arrays(torch.cat([batch.x for batch in batches(plain, BATCH)]), None, flip)


def read_faces(medium: Images, source: str, split: str, limit: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Pictures [n, 3, height, width], the first of a split, and their attributes, n numbers each, NaN where unknown.

    The attribute that any picture has:
        brightness: the mean of its values, in [-1, 1].
    Those of a folder with labels.csv (columns file, and of the following any) and landmarks68.npy (the points of iBUG,
    [pictures, 68, 2], a row of the table each):
        yaw: degrees, positive where the column yaw_deg is.
        smile: the width of the mouth, and twice how much its corners lie above its middle, over the distance of the
            eyes. (Twice, for they vary half as much.)
        age: years, the middle of a group such as "20-29".
        male: 1 where the column gender says Male, 0 where Female.
    Broken files are left out with a warning. Raises `MediaError` for a table that misses pictures and for landmarks of
    another shape.
    """
    data: Any = medium.dataset(source, split)
    items, places = [], []
    for place in range(min(len(data), limit or len(data))):
        try:
            items.append(data[place])
        except MediaError as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)
            continue
        places.append(place)
    if not items:
        raise MediaError(f"{source}: not one picture could be read")
    x = torch.stack(items)
    found = {"brightness": brightness(x)}
    names = getattr(data, "names", None)
    if names is not None and (Path(source) / "labels.csv").is_file():
        found |= _labels(Path(source), [Path(names[place]).name for place in places])
    return x, found


def brightness(x: Tensor) -> Tensor:
    """The mean of the values of pictures [n, 3, height, width], shape [n]."""
    return x.double().flatten(1).mean(1)


def _labels(folder: Path, names: Sequence[str]) -> dict[str, Tensor]:
    with open(folder / "labels.csv", newline="", encoding="utf-8") as text:
        table = list(csv.DictReader(text))
    if not table or "file" not in table[0]:
        raise MediaError(f"{folder / 'labels.csv'} has no column 'file'")
    rows = {Path(row["file"]).name: number for number, row in enumerate(table)}
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise MediaError(f"{folder / 'labels.csv'} has no row for {unknown[0]}, nor for {len(unknown) - 1} others")
    chosen = [rows[name] for name in names]
    found: dict[str, Tensor] = {}
    readers: dict[str, tuple[str, Callable[[str], float]]] = {
        "yaw": ("yaw_deg", _number),
        "age": ("age", _age),
        "male": ("gender", lambda cell: {"Male": 1.0, "Female": 0.0}.get(cell, math.nan)),
    }
    for name, (column, read) in readers.items():
        if column in table[0]:
            found[name] = torch.tensor([read(table[row][column] or "") for row in chosen], dtype=torch.float64)
    file = folder / "landmarks68.npy"
    if file.is_file():
        points = np.load(file, allow_pickle=False)
        if points.shape != (len(table), 68, 2):
            raise MediaError(f"{file}: expected landmarks of shape [{len(table)}, 68, 2], got {list(points.shape)}")
        found["smile"] = smile(torch.from_numpy(points[chosen].astype(np.float64)))
    return found


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _age(group: str) -> float:
    """The middle of "20-29" is 25 years; "more than 70" counts as 75."""
    years = [float(part) for part in re.findall(r"\d+", group)]
    if not years:
        return math.nan
    return (years[0] + years[-1] + 1) / 2 if len(years) > 1 else years[0] + 5 * ("more" in group)


def smile(points: Tensor) -> Tensor:
    """How much faces smile, shape [n], by the 68 landmarks [n, 68, 2] in pixels, y downwards. See `read_faces`."""
    eyes = torch.linalg.vector_norm(points[:, 36:42].mean(1) - points[:, 42:48].mean(1), dim=1)
    left, right = points[:, 48], points[:, 54]
    middle = (points[:, 51, 1] + points[:, 57, 1]) / 2
    rise = middle - (left[:, 1] + right[:, 1]) / 2
    return (torch.linalg.vector_norm(right - left, dim=1) + 2 * rise) / eyes


@torch.no_grad()
def draw_sliders(model: Latent, directions: Mapping[str, Z], x: Tensor) -> "Image":
    """One face [1, 3, height, width], a row an attribute, a column a value of its slider."""
    from matplotlib.figure import Figure as Drawing

    from modalities.drawing import render

    medium: Any = model.modality
    drawing = Drawing(figsize=(1.1 * len(VALUES) + 1, 1.2 * len(directions) + 0.3), layout="constrained")
    grid = drawing.subplots(len(directions), len(VALUES), squeeze=False)
    moved = model.traverse(x.to(model.device), along=list(directions.values()), values=VALUES)[0]
    for row, name in enumerate(directions):
        for column, value in enumerate(VALUES):
            axis = grid[row, column]
            axis.imshow(medium.show(moved[row, column][None]).convert("RGB"))
            axis.set_xticks([])
            axis.set_yticks([])
            if not row:
                axis.set_title(f"{value:+.0f}" if value else "0", fontsize=9)
            if not column:
                axis.set_ylabel(name, fontsize=9)
    return render(drawing)


@torch.no_grad()
def draw_slider(model: Latent, direction: Z, x: Tensor) -> "Image":
    """Faces [n, 3, height, width], a row each; first the picture, then the values of one slider."""
    x = x.to(model.device)
    moved = model.traverse(x, along=[direction], values=VALUES)[:, 0]
    return model.modality.show(torch.cat([x[:, None], moved], 1).flatten(0, 1), len(VALUES) + 1)
