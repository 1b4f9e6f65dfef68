"""What the adapters share when they read data: selectors in a source's name, splits, labels, folders, tables."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modalities.modality import MediaError


def split_source(source: str | Path, named: Sequence[str]) -> tuple[Path, str | None]:
    """The path of a source and its selector: "beats.npz:GunPoint" gives beats.npz and GunPoint.

    Raises `MediaError` that lists the adapter's `named` sets if the path does not exist.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path, None
    before, _, selector = str(path).rpartition(":")
    if before and selector and Path(before).exists():
        return Path(before), selector
    raise MediaError(f"{str(source)!r} is neither a file or folder nor one of the named sets: {', '.join(named)}")


def choose_split(splits: Sequence[str], split: str, source: str | Path, every: int) -> list[int]:
    """The positions that belong to a split.

    `splits` names every item's split, "" where nothing is said. "test" is "val" where there is only that, and "all"
    takes every item. Where nothing is said, each `every`-th item is a test item and the others are training items: the
    same at every call, and even over classes that lie one after another.
    """
    present = set(splits) - {""}
    if split == "all":
        return list(range(len(splits)))
    if not present and split in ("train", "test"):
        return [i for i in range(len(splits)) if (i % every == every - 1) == (split == "test")]
    if split == "test" and "test" not in present and "val" in present:
        split = "val"
    if split not in present:
        known = ", ".join(sorted((present or {"train", "test"}) | {"all"}))
        raise MediaError(f"{source} has no split {split!r}; choose one of {known}")
    return [i for i, name in enumerate(splits) if name == split]


def class_numbers(names: Sequence[Any]) -> list[int]:
    """Labels as class numbers from 0: positions among the sorted names, whole numbers in their own order."""
    try:
        values: list[Any] = [int(name) for name in names]
    except ValueError:
        values = [str(name) for name in names]
    order = {value: i for i, value in enumerate(sorted(set(values)))}
    return [order[value] for value in values]


def list_files(folder: Path, suffixes: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The files under a folder, sorted, and for each one its label and its split, "" where there is none.

    A label is the name of the subfolder in the folder, or in its train/ and test/ (or val/) if it has both.
    Raises `MediaError` if there is no file with one of these suffixes.
    """
    if not folder.is_dir():
        raise MediaError(f"{folder} is a file; expected a folder of {', '.join(suffixes)} files")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.name[0] != ".")
    if not paths:
        raise MediaError(f"{folder} is empty: found no {', '.join(suffixes)} file in it or in its subfolders")
    halves = (folder / "train").is_dir() and ((folder / "test").is_dir() or (folder / "val").is_dir())
    parts = [path.relative_to(folder).parts for path in paths]
    splits = [part[0] if halves else "" for part in parts]
    inner = [part[1:] if halves else part for part in parts]
    return [str(path) for path in paths], [part[0] if len(part) > 1 else "" for part in inner], splits


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The column names and the cells of a comma-separated file; a first row without any number is its header.

    Without a header the columns are named 1, 2, and so on. Blank lines are left out. Raises `MediaError` if there is no
    row or if the rows differ in length.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MediaError(f"{path} cannot be read as a comma-separated table: {error}") from error
    header = rows.pop(0) if rows and not any(map(is_number, rows[0])) else None
    if not rows:
        raise MediaError(f"{path} is empty: expected rows of numbers separated by commas")
    names = header or [str(i + 1) for i in range(len(rows[0]))]
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise MediaError(f"{path}, row {i + 1}: expected {len(names)} columns, got {len(row)}")
    return names, rows


def is_number(cell: str) -> bool:
    """Whether a cell of a table reads as a number, NaN and infinities among them."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def to_numbers(path: Path, names: Sequence[str], rows: Sequence[Sequence[str]]) -> np.ndarray:
    """Cells as float32 of shape [rows, columns].

    Raises `MediaError` that names the row, counted from 1 after the header, and the column of a cell that is no finite
    number in the range of float32.
    """
    values = np.array([[float(cell) if is_number(cell) else np.nan for cell in row] for row in rows])
    bad = np.argwhere(~(np.abs(values) <= np.finfo(np.float32).max))
    if len(bad):
        row, column = bad[0]
        cell = rows[row][column]
        raise MediaError(f"{path}, row {row + 1}, column {names[column]}: expected a finite number, got {cell!r}")
    return values.astype(np.float32)
