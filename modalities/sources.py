"""What the adapters share when they read data: selectors in a source's name, splits, classes, folders, tables."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modalities.files import write_aside
from modalities.modality import MediaError


class About(NamedTuple):
    """What a data set knows of its items."""

    classes: tuple[str, ...] | None = None
    """The names of the classes, in the order of their numbers; None where items come without labels."""
    split: str | None = None
    """The split that was asked for."""


class Listing(NamedTuple):
    """What a source says of its items before it reads one."""

    items: Sequence[str]
    """Their names."""
    labels: Sequence[str] = ()
    """The names of their classes, "" where one has none; empty where nothing is said of any."""
    splits: Sequence[str] = ()
    """The splits they belong to, likewise."""

    def choose(
        self, source: str | Path, split: str, every: int, labels: bool, classes: Sequence[str] | None = None
    ) -> "tuple[list[int], list[int] | None, About]":
        """The positions of the items of a split, their class numbers with `labels`, and what is known of them.

        `split` and `every` are as in `choose_split`, `classes` as in `class_numbers`. Raises `MediaError` where there
        is no such split, and where an item has no label, or another than `classes`.
        """
        chosen = choose_split(self.splits or [""] * len(self.items), split, source, every)
        if not labels:
            return chosen, None, About(None, split)
        if not any(self.labels):
            raise MediaError(f"{source} has no labels: a folder for every class gives some, or a column of a table")
        if "" in self.labels:
            raise MediaError(f"{self.items[self.labels.index('')]} has no label, and other items of {source} have one")
        numbers, names = class_numbers(self.labels, source, classes)
        return chosen, [numbers[i] for i in chosen], About(names, split)


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


def class_numbers(
    labels: Sequence[str], source: str | Path, classes: Sequence[str] | None = None
) -> tuple[list[int], tuple[str, ...]]:
    """Labels as class numbers from 0, and the names of the classes in their order: that of `classes` where they are
    given, of their values where all are numbers, else alphabetical. Raises `MediaError` for a label none of `classes`.
    """
    found = set(labels)
    names = tuple(classes or sorted(found, key=float if all(map(is_number, found)) else str))
    unknown = sorted(found - set(names))
    if unknown:
        raise MediaError(f"{source} has items of the class {unknown[0]!r}; the classes are {', '.join(names)}")
    number = {name: i for i, name in enumerate(names)}
    return [number[label] for label in labels], names


def list_files(folder: Path, suffixes: Sequence[str]) -> Listing:
    """The files under a folder, sorted.

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
    return Listing([str(path) for path in paths], [part[0] if len(part) > 1 else "" for part in inner], splits)


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
    return "_" not in cell  # which Python takes for a separator of thousands


def to_numbers(path: Path, names: Sequence[str], rows: Sequence[Sequence[str]]) -> np.ndarray:
    """Cells as float32 of shape [rows, columns].

    Raises `MediaError` that names the row, counted from 1 after the header, and the column of a cell that is no finite
    number in the range of float32.
    """
    values = np.array([[float(cell) if is_number(cell) else math.nan for cell in row] for row in rows])
    bad = np.argwhere(~(np.abs(values) <= np.finfo(np.float32).max))
    if len(bad):
        row, column = bad[0]
        cell = rows[row][column]
        raise MediaError(f"{path}, row {row + 1}, column {names[column]}: expected a finite number, got {cell!r}")
    return values.astype(np.float32)


def write_table(path: Path, names: Sequence[str], values: np.ndarray) -> None:
    """Write float32 [rows, columns] as a comma-separated file with a header, exactly."""
    with write_aside(path) as part:
        # Nine digits give every float32 back.
        np.savetxt(part, values, fmt="%.9g", delimiter=",", header=",".join(names), comments="", encoding="utf-8")
