"""Where images come from: named sets, MNIST's idx files, zip files with a table, folders of pictures."""

import gzip
import math
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modalities.arrays import LARGE, RATIO, read_items
from modalities.modality import MediaError
from modalities.sources import Listing, choose_split, list_files
from modalities.tables import read_table

SUFFIXES = tuple(".png .jpg .jpeg .jfif .webp .gif .bmp .tif .tiff .ppm .pgm .pbm".split())
"""The files that count as pictures in a folder."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Pillow's names of what is read, whatever a file is called: other formats start other programs, or hold anything."""

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

SHAPES = {"digits": (1, 8, 8), "photographs": (3, 32, 32)} | {
    name: (3, 32, 32) if name.startswith("cifar") else (1, 28, 28) for name in TORCHVISION
}
"""The channels, heights and widths of the named sets; of photographs, those of patches."""


Pixels = tuple[np.ndarray, Listing]
"""Bytes of shape [items, height, width] or [items, height, width, 3], and what is known of the items."""


def named(source: str, split: str, size: tuple[int, int]) -> Pixels:
    """One of the `NAMED` sets; `size` is the height and width of a patch."""
    if source == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        # 0 to 16 in the source.
        pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)
        return pixels, _numbered(digits.target, DIGITS, ["train"] * 1500 + ["test"] * 297)
    if source == "photographs":
        return _photographs(*size)
    return _torchvision(source, split)


def _numbered(numbers: np.ndarray, classes: Sequence[str], splits: Sequence[str] = ()) -> Listing:
    """What is known of items whose classes have numbers of their own."""
    return Listing([f"item {i}" for i in range(len(numbers))], [classes[i] for i in numbers], splits, classes=classes)


def _photographs(height: int, width: int) -> Pixels:
    from sklearn.datasets import load_sample_images

    photographs = np.stack(load_sample_images().images)
    rows, columns = photographs.shape[1] // height, photographs.shape[2] // width
    if not rows * columns:
        raise MediaError(f"the photographs have 427 x 640 pixels, fewer than the {height} x {width} that are asked for")
    grid = photographs[:, : rows * height, : columns * width].reshape(2, rows, height, columns, width, 3)
    patches = grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, 3)
    return patches, _numbered(np.repeat([0, 1], rows * columns), ("china", "flower"))


def _torchvision(name: str, split: str) -> Pixels:
    import torch
    import torchvision.datasets

    folder = Path(torch.hub.get_dir()).parent / "datasets"
    halves = {}
    for part in _halves(name, split):
        try:
            data = getattr(torchvision.datasets, TORCHVISION[name])(folder, train=part == "train", download=True)
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0].rstrip(":")
            raise MediaError(
                f"{name} could not be downloaded to {folder} ({reason}); "
                "check the network, or give a folder of your own instead of the name"
            ) from error
        halves[part] = np.asarray(data.data), np.asarray(data.targets)
    return _joined(halves, DIGITS if name == "mnist" else tuple(data.classes))


def _halves(source: str | Path, split: str) -> list[str]:
    """The halves of a set that comes in two that a split asks for."""
    names = ["train", "test"]
    return [names[i] for i in choose_split(names, split, source, EVERY)]


def _joined(halves: dict[str, tuple[np.ndarray, np.ndarray]], classes: Sequence[str] | None = None) -> Pixels:
    """Pictures and class numbers of the halves as one set."""
    pixels, numbers = (np.concatenate(arrays) for arrays in zip(*halves.values(), strict=True))
    splits = [part for part, (x, _) in halves.items() for _ in x]
    return pixels, _numbered(numbers, classes or [str(i) for i in range(numbers.max(initial=0) + 1)], splits)


def idx(folder: Path, split: str) -> Pixels | None:
    """MNIST's files in a folder, or None if they are not there. Raises `MediaError` on broken and missing ones."""
    for place in (folder, folder / "raw", folder / "MNIST" / "raw"):
        if _idx_file(place, "train-images-idx3-ubyte") or _idx_file(place, "t10k-images-idx3-ubyte"):
            return _joined({part: _idx_pair(place, part.replace("test", "t10k")) for part in _halves(folder, split)})
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
    dimensions = 3 if "idx3" in path.name else 1
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * dimensions)
            if len(head) < 4 + 4 * dimensions or head[:4] != bytes([0, 0, 8, dimensions]):
                raise MediaError(f"{path} is no idx file of bytes with {dimensions} dimensions")
            shape = tuple(int(size) for size in np.frombuffer(head, ">u4", dimensions, offset=4))
            if math.prod(shape) > max(LARGE, RATIO * path.stat().st_size):
                raise MediaError(f"{path} announces {shape} bytes, far more than a file of its size holds")
            content = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, MemoryError, zlib.error) as error:
        raise MediaError(f"{path} cannot be read: {error}") from error
    if len(content) != math.prod(shape):
        held = "more" if len(content) > math.prod(shape) else len(content)
        raise MediaError(f"{path} announces {shape} bytes and holds {held}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_arrays(path: Path, selector: str | None, groups: str | None) -> Pixels:
    """The pictures of a .npy or .npz file. Raises `MediaError` for other shapes and scales than `to_bytes` knows."""
    pictures, listing = read_items(path, selector, groups)
    return np.concatenate([to_bytes(path, x) for x in pictures]), listing


def array_shape(path: Path, selector: str | None) -> tuple[int, int, int] | None:
    """The channels, height and width of pictures in a .npy or .npz file; None where it holds none: those are bytes, or
    have an axis of 3 colours."""
    try:
        pictures, _ = read_items(path, selector, None)
    except MediaError:
        return None
    x = pictures[0]
    if x.ndim < 3 or not (x.dtype == np.uint8 or x.ndim == 4):
        return None
    shape = to_bytes(path, x[:1]).shape
    return (3 if len(shape) == 4 else 1, *shape[1:3])


def to_bytes(path: Path, x: np.ndarray) -> np.ndarray:
    """Pictures [items, height, width], [items, height, width, 1 or 3] or [items, 1 or 3, height, width] as bytes.

    Bytes are as they are, truth values black and white, 16-bit numbers are divided by 257, other whole numbers lie in 0
    to 255, real numbers in [0, 1] or, where one is below 0, in [-1, 1], which a warning says. Raises `MediaError` for
    any other.
    """
    if x.ndim == 4:
        last, second = x.shape[3] in (1, 3), x.shape[1] in (1, 3)
        if last == second:
            raise MediaError(f"{path}: 1 or 3 channels are the second or the last of 4 axes, got {list(x.shape)}")
        x = x if last else np.moveaxis(x, 1, 3)
        x = x[..., 0] if x.shape[3] == 1 else x
    elif x.ndim != 3:
        raise MediaError(f"{path}: expected pictures [items, height, width] or with channels, got {list(x.shape)}")
    if not x.size or x.dtype.kind not in "biuf":
        raise MediaError(f"{path}: expected pictures of numbers, got {x.dtype} of shape {list(x.shape)}")
    low, high = float(x.min()), float(x.max())
    if x.dtype == bool:
        return x.astype(np.uint8) * np.uint8(255)
    if x.dtype == np.uint16:
        return ((x.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if x.dtype.kind == "f":
        start = -1.0 if low < 0 else 0.0
        if not (start <= low and high <= 1):
            raise MediaError(f"{path}: real numbers lie in [0, 1] or [-1, 1], got {low:.4g} to {high:.4g}; store bytes")
        warnings.warn(
            f"{path}: its numbers, {low:.4g} to {high:.4g}, were taken to lie in [{start:g}, 1]", stacklevel=4
        )
        return np.rint((x - start) * (255 / (1 - start))).astype(np.uint8)
    if low < 0 or high > 255:
        raise MediaError(f"{path}: whole numbers lie in 0 to 255, got {low:.4g} to {high:.4g}")
    if high == 1:
        warnings.warn(f"{path}: its numbers are 0 and 1 of 255, all black; store truth values (bool)", stacklevel=4)
    return x.astype(np.uint8)


def listing(folder: Path, column: str | None, groups: str | None) -> tuple[Path | None, Listing]:
    """The zip file, if there is one, and the pictures in it or in the folder; `column` of labels.csv holds labels."""
    archive, table = folder / "images.zip", folder / "labels.csv"
    if table.is_file() and (archive.is_file() or column is not None):
        return archive if archive.is_file() else None, _table(folder, column, groups)
    if column is not None:
        raise MediaError(f"{folder} has no labels.csv with a column {column!r}")
    return None, list_files(folder, SUFFIXES, groups)


def _table(folder: Path, column: str | None, groups: str | None) -> Listing:
    """The rows of labels.csv, whose files lie in images.zip or, where there is none, in the folder."""
    archive, table = folder / "images.zip", folder / "labels.csv"
    names, rows = read_table(table)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    for needed in ("file", *filter(None, (column, groups))):
        if needed not in columns:
            raise MediaError(f"{table} has no column {needed!r}; it has {', '.join(names)}")
    files = columns["file"]
    if archive.is_file():
        try:
            with zipfile.ZipFile(archive) as content:
                members = set(content.namelist())
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise MediaError(f"{archive} cannot be read: {error}") from error
        files = [file if file in members else f"images/{file}" for file in files]
    else:
        if outside := [file for file in files if ".." in Path(file).parts or Path(file).is_absolute()]:
            raise MediaError(f"{table} names {outside[0]}, which lies outside of its folder")
        files = [str(folder / file) for file in files]
    labels = columns.get(column or "label", [])
    return Listing(files, labels, columns.get("split", []), columns[groups] if groups else [])
