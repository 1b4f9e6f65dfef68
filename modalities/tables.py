"""Tables of text: cells between commas, semicolons, tabs or blanks, with or without a header."""

import csv
import io
import itertools
import math
import re
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from modalities.files import write_aside
from modalities.modality import MediaError, check_file

SUFFIXES = (".csv", ".tsv", ".txt")
"""The files that count as tables."""

LABELS = ("label", "class", "target")
"""What the column of labels of a table is called, in small letters."""

DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(e[+-]?\d+)?", re.IGNORECASE)
ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?")


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The column names and the cells of a table; a first row without any number is its header.

    Cells are separated by tabs, semicolons or commas, or numbers by blanks. With any separator but a comma, cells such
    as "1,5" have a decimal comma. The text is UTF-8, UTF-16 with its mark, or Windows-1252. Without a header the
    columns are named 1, 2, and so on; numbers 0, 1, 2, ... above cells that are no whole numbers are a header. Lines
    that are blank or begin with # are left out. What had to be guessed is said in a warning.

    Raises `MediaError` if there is no row, or if the rows differ in length.
    """
    lines = [line for line in io.StringIO(_read_text(path)) if line.strip() and not line.lstrip().startswith("#")]
    separator = _find_separator(lines) if lines else ","
    try:
        cells = map(str.split, lines) if separator == " " else csv.reader(lines, delimiter=separator)
        rows = [[cell.strip() for cell in row] for row in cells]
    except csv.Error as error:
        raise MediaError(f"{path} cannot be read as a table: {error}") from error
    rows = [row for row in rows if any(row)]
    if separator != ",":
        rows = _decimal_points(path, rows)
    header = rows.pop(0) if rows and _is_header(path, rows) else None
    if not rows:
        raise MediaError(f"{path} is empty: expected rows of cells separated by commas, semicolons, tabs or blanks")
    names = header or [str(i + 1) for i in range(len(rows[0]))]
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise MediaError(f"{path}, row {i + 1}: expected {len(names)} columns, got {len(row)}")
    return names, rows


def _find_separator(lines: Sequence[str]) -> str:
    """The tab, semicolon or comma that is as frequent in every line, as far as the first, the middle and the last say,
    or at least in the middle one; a blank between numbers; else a comma."""
    sample = [lines[0], lines[len(lines) // 2], lines[-1]]
    for fits in (lambda counts: min(counts) == max(counts) > 0, lambda counts: counts[1] > 0):
        for mark in "\t;,":
            if fits([line.count(mark) for line in sample]):
                return mark
    cells = sample[1].split()
    return " " if len(cells) > 1 and all(map(is_number, cells)) else ","


def _read_text(path: Path) -> str:
    check_file(path)
    try:
        content = path.read_bytes()
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            return content.decode("utf-16")
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252")
            warnings.warn(f"{path} is no UTF-8 text; it was read as Windows-1252", stacklevel=2)
    except (OSError, UnicodeDecodeError, MemoryError) as error:
        raise MediaError(f"{path} cannot be read as a table: {error}") from error
    if "\0" in text:
        raise MediaError(f"{path} cannot be read as a table: it holds null characters, so it is no text")
    return text


def _decimal_points(path: Path, rows: list[list[str]]) -> list[list[str]]:
    """The rows with points for decimal commas, which are cells like "1,5" in a table without any like "1.5"."""
    commas = next((cell for cell in itertools.chain(*rows) if DECIMAL_COMMA.fullmatch(cell)), None)
    if commas is None:
        return rows
    pointed = next((cell for cell in itertools.chain(*rows) if "." in cell and is_number(cell)), None)
    if pointed is not None:
        raise MediaError(f"{path} has numbers with a comma ({commas}) and with a point ({pointed}); write all alike")
    warnings.warn(f"{path}: commas in numbers, as in {commas}, were read as decimal commas", stacklevel=2)
    return [[cell.replace(",", ".") if DECIMAL_COMMA.fullmatch(cell) else cell for cell in row] for row in rows]


def _is_header(path: Path, rows: list[list[str]]) -> bool:
    first, others = rows[0], rows[1:]
    if not any(map(is_number, first)):
        return not any(map(is_time, first))
    counted = first[1:] if first[0] == "" else first  # the column of row numbers has no name
    whole = [cell.isdecimal() for cell in counted]
    if len(first) < 2 or not others or not all(whole):
        return False
    taken = counted == [str(i) for i in range(len(counted))]
    if first[0] != "" and any(all(cell.lstrip("+-").isdecimal() for cell in row if is_number(cell)) for row in others):
        return False
    what = "taken for a header" if taken else "read as numbers; if it is a header, give it words"
    warnings.warn(f"{path}: the first row, {', '.join(first[:3])} and so on, was {what}", stacklevel=2)
    return taken


def is_number(cell: str) -> bool:
    """Whether a cell of a table reads as a number, NaN and infinities among them."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # which Python takes for a separator of thousands


def is_time(cell: str) -> bool:
    """Whether a cell reads as a day or a time by ISO 8601, such as 2024-05-01 or 2024-05-01T12:30:00Z."""
    return ISO_TIME.fullmatch(cell) is not None


def column_kinds(rows: Sequence[Sequence[str]]) -> list[str]:
    """What the columns of a table hold: "time" where most cells are one, "number" where any is, else "text"."""
    columns = list(zip(*rows, strict=True))
    timed = [2 * sum(map(is_time, column)) > len(rows) for column in columns]
    numbers = ["number" if any(map(is_number, column)) else "text" for column in columns]
    return ["time" if time else kind for time, kind in zip(timed, numbers, strict=True)]


def to_seconds(path: Path, cells: Sequence[str]) -> np.ndarray:
    """Times by ISO 8601 as seconds since the first, float64. Raises `MediaError` that names the row of what is none."""
    times = []
    for i, cell in enumerate(cells):
        try:
            times.append(datetime.fromisoformat(cell))
        except ValueError as error:
            raise MediaError(f"{path}, row {i + 1}: expected a time by ISO 8601, got {cell!r}") from error
    try:
        return np.array([(time - times[0]).total_seconds() for time in times])
    except TypeError as error:
        raise MediaError(f"{path}: some of the times have a time zone and others none") from error


def to_numbers(
    path: Path, names: Sequence[str], rows: Sequence[Sequence[str]], missing: Sequence[str] = ()
) -> np.ndarray:
    """Cells as float32 of shape [rows, columns], those that are in `missing`, in small letters, as NaN.

    Raises `MediaError` that names the row, counted from 1 after the header, and the column of any other cell that is no
    finite number in the range of float32.
    """
    values = np.array([[float(cell) if is_number(cell) else math.nan for cell in row] for row in rows])
    for row, column in np.argwhere(~(np.abs(values) <= np.finfo(np.float32).max)):
        cell = rows[row][column]
        if cell.lower() not in missing:
            raise MediaError(f"{path}, row {row + 1}, column {names[column]}: expected a finite number, got {cell!r}")
    return to_float32(path, values, axis=0)


def to_float32(path: Path, x: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Real numbers as float32. Raises `MediaError` where one is beyond its range, and warns where numbers that are far
    from 0, compared with how much they differ, lose what tells them apart; with an `axis` they differ along it."""
    known = np.where(np.isfinite(x), x, 0) if x.dtype.kind == "f" else x
    if x.size and np.abs(known).max() > np.finfo(np.float32).max:
        raise MediaError(f"{path} holds {np.abs(known).max():.4g}, beyond the range of float32; change the unit")
    rounded = x.astype(np.float32)
    if x.dtype.itemsize >= 4 and x.dtype != np.float32 and x.size:
        error = np.abs(np.where(np.isfinite(x), rounded, 0) - known).max(axis)
        if ((error > 1e-3 * known.std(axis)) & (known.max(axis) > known.min(axis))).any():
            what = "its numbers are so far from 0 that float32 rounds their differences; subtract what they share"
            warnings.warn(f"{path}: {what}", stacklevel=3)
    return rounded


def pick_columns(path: Path, names: Sequence[str], wanted: str) -> list[int]:
    """The positions of columns that are given by name or, where no name fits, by number from 1, between commas."""
    picked = []
    for name in [wanted] if wanted in names else [part.strip() for part in wanted.split(",")]:
        if names.count(name) > 1:
            raise MediaError(f"{path} has several columns {name!r}; rename them, or give their numbers from 1")
        if name in names:
            picked.append(names.index(name))
        elif name.isdecimal() and 1 <= int(name) <= len(names):
            picked.append(int(name) - 1)
        else:
            raise MediaError(f"{path} has no column {name!r}; it has {', '.join(names)}")
    return picked


def write_table(path: Path, names: Sequence[str], values: np.ndarray) -> None:
    """Write float32 [rows, columns] as a comma-separated file with a header, exactly."""
    with write_aside(path) as part:
        # Nine digits give every float32 back.
        np.savetxt(part, values, fmt="%.9g", delimiter=",", header=",".join(names), comments="", encoding="utf-8")
