"""Pictures of batches for people: contact sheets and rendered matplotlib figures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modalities.files import write_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


def contact_sheet(tiles: np.ndarray, columns: int | None = None, gap: int = 2, side: int = 96) -> "Image":
    """Tiles in rows with thin white gaps, small ones enlarged by a whole factor to about `side` pixels.

    `tiles` are bytes of shape [tiles, height, width] or [tiles, height, width, 3]. Without `columns` the sheet is about
    square.
    """
    from PIL import Image

    factor = max(1, side // max(tiles.shape[1:3]))
    tiles = tiles.repeat(factor, 1).repeat(factor, 2)
    count, height, width = tiles.shape[:3]
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap)
    canvas = np.full((*size, *tiles.shape[3:]), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return Image.fromarray(canvas)


def beside(pictures: "Sequence[Image]", gap: int = 24) -> "Image":
    """Pictures in a row, their upper edges in a line."""
    from PIL import Image

    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    row, left = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white"), 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def labelled_sheet(tiles: "Sequence[Sequence[Image]]", rows: Sequence[str], columns: Sequence[str]) -> "Image":
    """Pictures in rows and columns, with a name before each row and above each column."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.1 * len(columns) + 1, 1.2 * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for (row, column), axis in np.ndenumerate(grid):
        axis.imshow(tiles[row][column].convert("RGB"))
        axis.set(xticks=[], yticks=[])
    for axis, name in zip(grid[:, 0], rows, strict=True):
        axis.set_ylabel(name, fontsize=9)
    for axis, name in zip(grid[0], columns, strict=True):
        axis.set_title(name, fontsize=9)
    return render(figure)


def save_picture(picture: "Image", path: Path) -> None:
    """Write a picture in the format of the path's suffix, whole or not at all."""
    with write_aside(path) as part:
        picture.save(part, quality=95)


def render(figure: "Figure") -> "Image":
    """A matplotlib figure, made without pyplot, as an RGB picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
