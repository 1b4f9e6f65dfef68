"""Arrays of numbers out of .npy and .npz files: headers first, wanted arrays alone, nothing unpickled."""

import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np

from modalities.modality import MediaError, check_file
from modalities.sources import Listing

LARGE, RATIO = 2**28, 200
"""An array of more bytes than `LARGE` that was packed by more than this factor is taken for a bomb."""

BROKEN = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    SyntaxError,
    TypeError,
    zipfile.BadZipFile,
    zlib.error,
    TokenError,
)
"""What NumPy and zipfile raise on broken, encrypted and unknown files."""


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file. Raises `MediaError` where it is missing or broken, holds objects, or announces more
    numbers than it has."""
    with _errors(path), path.open("rb") as file:
        _read_header(file, os.fstat(file.fileno()).st_size)
        file.seek(0)
        return np.load(file, allow_pickle=False)


def read_npz(path: Path, *wanted: str) -> dict[str, np.ndarray]:
    """These arrays of an .npz file, those of them that it has. Raises `MediaError` as `read_npy` does, and where one
    unpacks to far more than its file has."""
    found = {}
    with _errors(path), zipfile.ZipFile(path) as archive:
        for name in set(wanted) & set(_names(archive)):
            member = archive.getinfo(f"{name}.npy")
            if member.file_size > LARGE and member.file_size > RATIO * member.compress_size:
                raise ValueError(f"{name} unpacks from {member.compress_size} to {member.file_size} bytes")
            with archive.open(member) as file:
                _read_header(file, member.file_size)
            with archive.open(member) as file:
                found[name] = np.lib.format.read_array(file, allow_pickle=False)
    return found


def npz_names(path: Path) -> list[str]:
    """The names of the arrays of an .npz file."""
    with _errors(path), zipfile.ZipFile(path) as archive:
        return _names(archive)


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    check_file(path)
    try:
        yield
    except MemoryError as error:
        raise MediaError(f"{path} holds more numbers than there is memory for") from error
    except BROKEN as error:
        raise MediaError(f"{path} cannot be read as arrays of numbers: {error!s:.200}") from error


def _read_header(file: IO[bytes], size: int) -> None:
    """Raise ValueError where a .npy file of this size cannot hold what its header announces."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    announced = dtype.itemsize
    for length in shape:
        announced *= length
    if announced > size - file.tell() or min(shape, default=0) < 0:
        raise ValueError(f"it announces {announced} bytes and holds {size - file.tell()}")


X, Y = ("x", "images", "data", "arr_0"), ("y", "labels", "targets", "arr_1")
"""What arrays of items and of labels are called, in the order in which they are looked for."""
SPLIT = ("train", "test", "val")


def read_items(path: Path, selector: str | None = None, groups: str | None = None) -> tuple[list[np.ndarray], Listing]:
    """The items of a .npy file, or of an .npz file, one array for each of its splits, and what the file says of them.

    An archive has arrays x and y (or images or data, and labels or targets), alone or for each split, as train_images
    or y_test; those of several sets are called NAME_train_x, where `selector` is the NAME. `groups` is the name of an
    array of an archive without splits.

    Raises `MediaError` where there are none, and where there are several sets and `selector` is none of them.
    """
    if path.suffix.lower() == ".npy":
        if selector or groups:
            raise MediaError(f"{path} holds one array, and none called {selector or groups}")
        x = read_npy(path)
        if not x.ndim:
            raise MediaError(f"{path}: expected an array of items, got one number")
        return [x], Listing(_numbered(len(x)))
    names = npz_names(path)
    known = {name.lower(): name for name in names}
    sets = sorted({found[1] for name in names if (found := re.fullmatch(rf"(.+)_({'|'.join(SPLIT)})_x", name))})
    if selector is not None or sets:
        if selector not in sets:
            raise MediaError(f"{path} holds the sets {', '.join(sets) or 'none'}; name one of them as {path.name}:NAME")
        known = {name.removeprefix(f"{selector}_"): name for name in names if name.startswith(f"{selector}_")}
    pairs = {split: (_first(known, split, X), _first(known, split, Y)) for split in ("", *SPLIT)}
    present = [split for split, (x_name, _) in pairs.items() if x_name]
    if not present or len(present) > 1 and "" in present or groups and groups not in names:
        expected = f"an array {groups}" if present else "arrays x and y, or x_train, y_train, x_test and y_test"
        raise MediaError(f"{path} holds {', '.join(names[:20]) or 'nothing'}; expected {expected}")
    arrays = read_npz(path, *filter(None, (name for split in present for name in pairs[split])), groups or "")
    items: list[np.ndarray] = []
    labels: list[str] = []
    splits: list[str] = []
    for split in present:
        x_name, y_name = pairs[split]
        x = arrays[x_name]
        if not x.ndim:
            raise MediaError(f"{path}: expected items in {x_name}, got one number")
        items.append(x)
        splits += [split] * len(x)
        labels += label_names(path, arrays[y_name], len(x)) if y_name else [""] * len(x)
    persons = label_names(path, arrays[groups], len(splits)) if groups else []
    return items, Listing(_numbered(len(splits)), labels, splits, persons)


def _first(known: dict[str, str], split: str, roles: tuple[str, ...]) -> str:
    """The first array of one of these roles, "" without one."""
    forms = [form for role in roles for form in ((f"{role}_{split}", f"{split}_{role}") if split else (role,))]
    return next((known[form] for form in forms if form in known), "")


def _numbered(n: int) -> list[str]:
    return [f"item {i}" for i in range(n)]


def label_names(path: Path, y: np.ndarray, items: int) -> list[str]:
    """One label an item as text, whole numbers without a point. Raises `MediaError` for other shapes, such as one-hot
    rows, and for numbers that are not whole."""
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or len(y) != items:
        raise MediaError(f"{path}: expected a label for each of {items} items, got labels of shape {list(y.shape)}")
    if y.dtype.kind == "f":
        if not (y == np.rint(y)).all():
            raise MediaError(f"{path}: labels are texts or whole numbers, got {y[y != np.rint(y)][0]}")
        y = y.astype(np.int64)
    return [label.decode(errors="replace") if isinstance(label, bytes) else str(label) for label in y.tolist()]
