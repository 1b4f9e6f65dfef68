"""Pictures of faces with what is known of them: attributes out of a table, landmarks, the portraits of a studio."""

import math
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from modalities.arrays import read_npy
from modalities.data import Files
from modalities.images import Images
from modalities.modality import MediaError
from modalities.tables import is_number, read_table

TABLE, LANDMARKS = "labels.csv", "landmarks68.npy"

TEMPLATE: dict[int, tuple[int, ...]] = {
    **dict(enumerate([(71,), (72,), (73,), (74, 75), (76,), (77,), (78, 79), (80,), (81,), (82,)], 17)),
    **dict(enumerate([(51, 57), (52, 58), (53, 59), (54, 60), (64,), (170,), (55,), (172,), (69,)], 27)),
    **dict(enumerate([(18,), (19, 20), (20, 21), (22,), (29, 30), (28, 29)], 36)),
    **dict(enumerate([(23,), (24, 25), (25, 26), (27,), (32, 33), (31, 32)], 42)),
    **dict(enumerate([(87,), (88,), (89,), (90,), (91,), (92,), (93,)], 48)),
    **dict(enumerate([(108,), (107,), (106,), (105,), (104,)], 55)),
    **dict(enumerate([(95,), (96,), (97,)], 61)),
    **dict(enumerate([(102,), (101,), (100,)], 65)),
}
"""For a landmark of iBUG's 68, the points of the 189-point template of the Face Research Lab whose mean it is."""
CONTOUR = (109, 110, 111, 125, 126, 127, 128, 129, 130, 131, 132, 133, 114, 113, 112)
"""The template's points from ear to ear, the chin in the middle; iBUG's first 17 lie evenly along each half."""


def read_attributes(
    medium: Images, source: str | Path, split: str, limit: int | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Pictures [n, channels, height, width], the first of a split, and their attributes, n numbers each, NaN where
    unknown.

    The attribute that any picture has:
        brightness: the mean of its values, in [-1, 1].
    Those of a folder with labels.csv (columns file, and of the following any) and landmarks68.npy (see
    `read_landmarks`, a row of the table each):
        yaw: degrees, positive where the column yaw_deg is.
        age: years, a number or the middle of a group such as "20-29".
        male: 1 where the column gender says male or m, 0 where female or f, in any case.
        smile: see `smile`.
    Broken files are left out with a warning, and one says how many cells of a column mean nothing here. Raises
    `MediaError` for a table that misses pictures and for landmarks of another shape.
    """
    data = medium.dataset(source, split)
    read: dict[int, Tensor] = {}
    for place in range(min(len(data), limit or len(data))):
        try:
            read[place] = torch.as_tensor(data[place])
        except MediaError as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)
    if not read:
        raise MediaError(f"{source}: not one picture could be read")
    x, folder = torch.stack([*read.values()]), Path(source).expanduser()
    found = {"brightness": brightness(x)}
    if isinstance(data, Files) and (folder / TABLE).is_file():
        found |= _labels(folder, [Path(data.names[place]).name for place in read])
    return x, found


def brightness(x: Tensor) -> Tensor:
    """The mean value of pictures [n, ...], shape [n], float64."""
    return x.double().flatten(1).mean(1)


def _labels(folder: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """The attributes of the pictures with these file names, in their order."""
    columns, table = _read_columns(folder / TABLE)
    rows = {Path(file).name: row for row, file in enumerate(columns.get("file", []))}
    unknown = [name for name in names if name not in rows]
    if unknown:
        others = f", nor for {len(unknown) - 1} others" if len(unknown) > 1 else ""
        raise MediaError(f"{folder / TABLE} has no row in a column 'file' for {unknown[0]}{others}")
    chosen = [rows[name] for name in names]
    readers: dict[str, tuple[str, Callable[[str], float]]] = {
        "yaw": ("yaw_deg", lambda cell: float(cell) if is_number(cell) else math.nan),
        "age": ("age", _age),
        "male": ("gender", lambda cell: {"male": 1.0, "m": 1.0, "female": 0.0, "f": 0.0}.get(cell.lower(), math.nan)),
    }
    found: dict[str, Tensor] = {}
    for name, (column, read) in readers.items():
        cells = [columns[column][row] for row in chosen] if column in columns else []
        if cells:
            found[name] = torch.tensor([read(cell) for cell in cells], dtype=torch.float64)
            unread = [
                cell for cell, value in zip(cells, found[name].tolist(), strict=True) if cell and math.isnan(value)
            ]
            if unread:
                text = f"{len(unread)} of {len(cells)} cells of {column}, such as {unread[0]!r}, say nothing of {name}"
                warnings.warn(f"{folder / TABLE}: {text}", stacklevel=3)
    if (folder / LANDMARKS).is_file():
        found["smile"] = smile(read_landmarks(folder / LANDMARKS, table)[chosen])
    return found


def _read_columns(file: Path) -> tuple[dict[str, list[str]], int]:
    """The cells of a table by column, and how many rows it has."""
    names, rows = read_table(file)
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}, len(rows)


def _age(group: str) -> float:
    """The middle of "20-29" is 25 years; "more than 70" counts as 75."""
    if is_number(group):
        return float(group)
    years = [float(part) for part in re.findall(r"\d+", group)]
    if not years:
        return math.nan
    return (years[0] + years[-1] + 1) / 2 if len(years) > 1 else years[0] + 5 * ("more" in group)


def read_landmarks(file: Path, pictures: int, points: int = 68) -> Tensor:
    """Landmarks of pictures in their pixels, to the right and down, float64, shape [pictures, points, 2]; 68 are those
    of iBUG.

    Raises `MediaError` for a file that holds no such array.
    """
    found = read_npy(file)
    if found.shape != (pictures, points, 2) or found.dtype.kind not in "fiu":
        got = f"{found.dtype} of shape {list(found.shape)}"
        raise MediaError(f"{file}: expected landmarks of shape [{pictures}, {points}, 2], got {got}")
    return torch.from_numpy(found.astype(np.float64))


def smile(points: Tensor) -> Tensor:
    """How much faces smile, shape [n], by the 68 landmarks [n, 68, 2] in pixels, y downwards.

    The width of the mouth, and twice how much its corners lie above its middle, over the distance of the eyes. (Twice,
    for they vary half as much.)
    """
    eyes = torch.linalg.vector_norm(points[:, 36:42].mean(1) - points[:, 42:48].mean(1), dim=1)
    left, right = points[:, 48], points[:, 54]
    middle = (points[:, 51, 1] + points[:, 57, 1]) / 2
    rise = middle - (left[:, 1] + right[:, 1]) / 2
    return (torch.linalg.vector_norm(right - left, dim=1) + 2 * rise) / eyes


class Portraits(NamedTuple):
    """Pictures of faces with landmarks."""

    pictures: Tensor
    """In [-1, 1], shape [n, 3, height, width]."""
    landmarks: Tensor
    """iBUG's 68 in pixels, NaN where unknown, shape [n, 68, 2]."""
    labels: dict[str, list[str]]
    """What the table says of them, a list for each of its columns."""


def read_portraits(folder: str | Path) -> Portraits:
    """The neutral portraits of a studio, 256 x 256: of a folder with images.zip, labels.csv and landmarks189.npy, those
    whose "set" is "neutral" and whose landmarks are known.

    Raises `MediaError` where one of the three is missing or they do not belong together.
    """
    folder = Path(folder).expanduser()
    columns, rows = _read_columns(folder / TABLE)
    template = read_landmarks(folder / "landmarks189.npy", rows, 189)
    data = Images(3, 256, 256).dataset(folder, "all")
    neutral = columns.get("set", [""] * rows)
    kept = [i for i in range(rows) if neutral[i] == "neutral" and template[i].isfinite().all()]
    if not kept:
        raise MediaError(f"{folder} holds no neutral portraits with landmarks")
    landmarks = torch.full((len(kept), 68, 2), torch.nan)
    for place, points in TEMPLATE.items():
        landmarks[:, place] = template[kept][:, list(points)].mean(1).float()
    for found, face in zip(landmarks, template[kept].numpy(), strict=True):
        right, left = face[list(CONTOUR[:8])], face[list(CONTOUR[7:])]
        found[:17] = torch.from_numpy(np.concatenate([_evenly(right, 9), _evenly(left, 9)[1:]]))
    labels = {name: [cells[i] for i in kept] for name, cells in columns.items()}
    return Portraits(torch.stack([torch.as_tensor(data[i]) for i in kept]), landmarks, labels)


def _evenly(line: np.ndarray, n: int) -> np.ndarray:
    """So many points at equal distances along a line through given points [m, 2]."""
    along = np.concatenate([[0.0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()])
    at = np.linspace(0, along[-1], n)
    return np.stack([np.interp(at, along, line[:, axis]) for axis in (0, 1)], 1)
