"""Where images come from: named sets, MNIST's idx files, zip files with a table, folders of pictures."""

import csv
import gzip
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modalities.modality import MediaError
from modalities.sources import Listing, choose_split, list_files

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""The files that count as pictures in a folder."""

TORCHVISION = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}
"""Named sets and their torchvision classes."""

EVERY = 10
"""Every tenth picture is for tests where nothing else is said."""

NAMED = ("digits", "photographs", *TORCHVISION)

DIGITS = tuple("0123456789")


class Pixels(NamedTuple):
    """Pictures in memory, of a set whose classes have numbers of their own."""

    pixels: np.ndarray
    """Bytes of shape [items, height, width] or [items, height, width, 3]."""
    numbers: np.ndarray
    """The class of every item."""
    classes: tuple[str, ...]
    """What the classes are called."""


def named(source: str | Path, split: str, size: tuple[int, int]) -> Pixels | None:
    """A named set, or None if `source` names none; `size` is the height and width of a patch."""
    if source == "digits":
        return _digits(split)
    if source == "photographs":
        return _photographs(split, *size)
    return _torchvision(str(source), split) if source in TORCHVISION else None


def _digits(split: str) -> Pixels:
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = choose_split(["train"] * 1500 + ["test"] * 297, split, "digits", EVERY)
    # 0 to 16 in the source.
    return Pixels(np.rint(digits.images[chosen] * 255 / 16).astype(np.uint8), digits.target[chosen], DIGITS)


def _photographs(split: str, height: int, width: int) -> Pixels:
    from sklearn.datasets import load_sample_images

    photographs = np.stack(load_sample_images().images)
    rows, columns = photographs.shape[1] // height, photographs.shape[2] // width
    if not rows * columns:
        raise MediaError(f"the photographs have 427 x 640 pixels, fewer than the {height} x {width} that are asked for")
    grid = photographs[:, : rows * height, : columns * width].reshape(2, rows, height, columns, width, 3)
    patches = grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, 3)
    chosen = choose_split([""] * len(patches), split, "photographs", EVERY)
    return Pixels(patches[chosen], np.repeat([0, 1], rows * columns)[chosen], ("china", "flower"))


def _torchvision(name: str, split: str) -> Pixels:
    import torch
    import torchvision.datasets

    folder = Path(torch.hub.get_dir()).parent / "datasets"
    sets = []
    for part in _halves(name, split):
        try:
            sets.append(getattr(torchvision.datasets, TORCHVISION[name])(folder, train=part == "train", download=True))
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0].rstrip(":")
            raise MediaError(
                f"{name} could not be downloaded to {folder} ({reason}); "
                "check the network, or give a folder of your own instead of the name"
            ) from error
    classes = DIGITS if name == "mnist" else tuple(sets[0].classes)
    return Pixels(
        np.concatenate([data.data for data in sets]), np.concatenate([data.targets for data in sets]), classes
    )


def _halves(source: str | Path, split: str) -> list[str]:
    """The halves of a set that comes in two that a split asks for."""
    names = ["train", "test"]
    return [names[i] for i in choose_split(names, split, source, EVERY)]


def idx(folder: Path, split: str) -> Pixels | None:
    """MNIST's files in a folder, or None if they are not there. Raises `MediaError` on broken and missing ones."""
    for place in (folder, folder / "raw", folder / "MNIST" / "raw"):
        if _idx_file(place, "train-images-idx3-ubyte") or _idx_file(place, "t10k-images-idx3-ubyte"):
            pairs = [_idx_pair(place, part.replace("test", "t10k")) for part in _halves(folder, split)]
            pixels, numbers = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
            return Pixels(pixels, numbers, tuple(str(i) for i in range(numbers.max(initial=0) + 1)))
    return None


def _idx_pair(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    for name in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"):
        path = _idx_file(folder, name)
        if path is None:
            raise MediaError(f"{folder} has neither {name} nor {name}.gz")
        arrays.append(_read_idx(path))
    if len(arrays[0]) != len(arrays[1]):
        raise MediaError(f"{folder}: {len(arrays[0])} {prefix} images but {len(arrays[1])} labels")
    return arrays[0], arrays[1]


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_idx(path: Path) -> np.ndarray:
    """One idx file: the magic number 0 0 8 and the number of dimensions, big-endian sizes, bytes."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise MediaError(f"{path} cannot be read: {error}") from error
    dimensions = 3 if "idx3" in path.name else 1
    if len(content) < 4 + 4 * dimensions or content[:4] != bytes([0, 0, 8, dimensions]):
        raise MediaError(f"{path} is no idx file of bytes with {dimensions} dimensions")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if pixels.size != np.prod(shape):
        raise MediaError(f"{path} announces {shape} bytes and holds {pixels.size}")
    return pixels.reshape(shape)


def listing(folder: Path, column: str | None) -> tuple[Path | None, Listing]:
    """The zip file, if there is one, and the pictures in it or in the folder; `column` of its table holds labels."""
    archive, table = folder / "images.zip", folder / "labels.csv"
    if archive.is_file() and table.is_file():
        return archive, _table(archive, table, column)
    if column is not None:
        raise MediaError(f"{folder} has no images.zip and labels.csv with a column {column!r}")
    return None, list_files(folder, SUFFIXES)


def _table(archive: Path, table: Path, column: str | None) -> Listing:
    """Names in the zip file, labels ("" without one) and splits ("" without one) from the table."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    for needed in ("file", *([column] if column else [])):
        if needed not in columns:
            raise MediaError(f"{table} has no column {needed!r}; it has {', '.join(columns) or 'none'}")
    try:
        with zipfile.ZipFile(archive) as content:
            members = set(content.namelist())
    except zipfile.BadZipFile as error:
        raise MediaError(f"{archive} cannot be read: {error}") from error
    names = [row["file"] if row["file"] in members else f"images/{row['file']}" for row in rows]
    return Listing(names, [row.get(column or "label") or "" for row in rows], [row.get("split") or "" for row in rows])
