"""Portraits of a studio with landmarks, from which `faces_morphable` learns colours.

The light stays in the colours: in a studio it is soft and the same for all.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from modalities import MediaError
from modalities.images import Images

LANDMARKS: dict[int, tuple[int, ...]] = {
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


class Portraits(NamedTuple):
    """Pictures of faces with landmarks."""

    pictures: Tensor
    """In [-1, 1], shape [n, 3, height, width]."""
    landmarks: Tensor
    """iBUG's 68 in pixels, NaN where unknown, shape [n, 68, 2]."""
    labels: list[dict[str, str]]
    """What the table says of each."""


def read_portraits(folder: str | Path) -> Portraits:
    """The neutral portraits of a studio: of a folder with images.zip, labels.csv and landmarks189.npy, those whose
    "set" is "neutral".

    Raises `MediaError` where one of the three is missing or they do not belong together.
    """
    folder = Path(folder).expanduser()
    try:
        rows = list(csv.DictReader((folder / "labels.csv").read_text(encoding="utf-8").splitlines()))
        points = np.load(folder / "landmarks189.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise MediaError(f"{folder} holds no portraits with landmarks: {error}") from error
    if points.shape != (len(rows), 189, 2):
        raise MediaError(f"{folder}: expected landmarks of shape [{len(rows)}, 189, 2], got {list(points.shape)}")
    pictures = Images(3, 256, 256).dataset(folder, "all")
    kept = [i for i in range(len(rows)) if rows[i].get("set") == "neutral" and np.isfinite(points[i]).all()]
    landmarks = torch.full((len(kept), 68, 2), torch.nan)
    for place, template in LANDMARKS.items():
        landmarks[:, place] = torch.from_numpy(points[kept][:, template].mean(1))
    for i, template in enumerate(points[kept]):
        right, left = template[list(CONTOUR[:8])], template[list(CONTOUR[7:])]
        landmarks[i, :17] = torch.from_numpy(np.concatenate([_evenly(right, 9), _evenly(left, 9)[1:]]))
    return Portraits(torch.stack([pictures[i] for i in kept]), landmarks, [rows[i] for i in kept])


def _evenly(line: np.ndarray, n: int) -> np.ndarray:
    """So many points at equal distances along a line through given points [m, 2]."""
    along = np.concatenate([[0.0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()])
    at = np.linspace(0, along[-1], n)
    return np.stack([np.interp(at, along, line[:, axis]) for axis in (0, 1)], 1)
