"""Where series come from: long recordings in windows, tables with a row a series, archives of arrays."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modalities.arrays import label_names, npz_names, read_items, read_npy, read_npz
from modalities.modality import MediaError, check_file
from modalities.sources import Listing, list_files
from modalities.tables import (
    LABELS,
    column_kinds,
    is_number,
    pick_columns,
    read_table,
    to_float32,
    to_numbers,
    to_seconds,
)
from modalities.tables import SUFFIXES as TABLES

SUFFIXES = (*TABLES, ".npy")
"""The files of one series or one recording."""

EVERY = 5
"""Every fifth signal, or the last fifth of a recording, is for tests where nothing else is said."""

MISSING = ("", "nan", "na", "n/a", "null", "none", "?")
"""What stands in a recording where nothing was measured, in small letters."""

MOST_CHANNELS = 16
"""A table of more columns of numbers is taken to have a row a series, where nothing else is said."""


class Recording(NamedTuple):
    """One long series."""

    x: np.ndarray
    """Float32 of shape [channels, steps]."""
    runs: list[tuple[int, int]]
    """The first step and the end of every run without a gap, a missing value, or a change of label or group."""
    labels: list[str]
    groups: list[str]
    """Those of every step, or nothing."""

    def windows(self, length: int, stride: int, start: int, end: int) -> list[int]:
        """The first steps of the windows between two steps, those of a run at equal distances."""
        bounds = [(max(first, start), min(last, end)) for first, last in self.runs]
        return [step for first, last in bounds for step in range(first, last - length + 1, stride)]


class Columns(NamedTuple):
    """What of a recording is read."""

    wanted: str | None
    """The columns of the channels, by name or number; None for all that hold numbers and are not `groups`."""
    channels: int
    """How many these must be."""
    rate: float | None
    """The steps a second that they must have, if any."""
    labels: bool
    """Whether the column of text, or the one called "label", holds the label of every step."""
    groups: str | None
    """The column of the group of every step."""


def read_recording(path: Path, columns: Columns) -> Recording:
    """A recording of a table, a row a step, or of a .npy file [channels, steps].

    A column of times by ISO 8601 says where gaps are, which are more than one and a half of the usual step. Missing
    values and gaps are counted in a warning. Raises `MediaError` for other channels, times that do not grow, and
    another rate.
    """
    wanted, channels, rate, labels, groups = columns
    if path.suffix.lower() == ".npy":
        x = np.atleast_2d(read_npy(path))
        if x.ndim != 2 or x.dtype.kind not in "fiu" or len(x) != channels or wanted or labels or groups:
            raise MediaError(f"{path}: expected numbers [{channels}, steps] without columns, got {list(x.shape)}")
        return Recording(to_float32(path, x), _runs(path, x, first := np.arange(x.shape[1]) == 0, first), [], [])
    names, rows = read_table(path)
    cells, kinds = list(zip(*rows, strict=True)), column_kinds(rows)
    group = pick_columns(path, names, groups)[0] if groups else None
    times, numeric, text = (
        [i for i, kind in enumerate(kinds) if kind == wanted_kind and i != group]
        for wanted_kind in ("time", "number", "text")
    )
    label = _label_column(path, names, text) if labels else None
    chosen = pick_columns(path, names, wanted) if wanted else [i for i in numeric if i != label]
    if len(chosen) != channels:
        found = ", ".join(names[i] for i in chosen[:10]) or "none"
        found += f" and {len(chosen) - 10} more" if len(chosen) > 10 else ""
        raise MediaError(f"{path}: expected {channels} columns of numbers, found {found}; pick some as FILE:A,B")
    if (wanted is None or not times) and (left := [names[i] for i in text if i not in (label, *chosen)]):
        what = f"{', '.join(left)}: neither numbers nor times by ISO 8601"
        warnings.warn(f"{path}: left out {what}", stacklevel=4)
    x = to_numbers(path, [names[i] for i in chosen], [[row[i] for i in chosen] for row in rows], MISSING).T
    breaks = np.arange(len(rows)) == 0
    if times:
        breaks[1:] = _gaps(path, cells[times[0]], rate)
    changes = breaks.copy()
    for column in (label, group):
        if column is not None:
            changes[1:] |= np.array(cells[column][1:]) != np.array(cells[column][:-1])
    own = [list(cells[column]) if column is not None else [] for column in (label, group)]
    return Recording(x, _runs(path, x, breaks, changes), *own)


def _runs(path: Path, x: np.ndarray, gaps: np.ndarray, changes: np.ndarray) -> list[tuple[int, int]]:
    """The runs of steps without a missing value, given before which a gap lies, and before which a run ends at all."""
    missing = ~np.isfinite(x).all(0)
    if missing.any() or gaps[1:].any():
        counted = (
            f"{int(missing.sum())} of {len(gaps)} steps lack values, and {int(gaps[1:].sum())} gaps lie between them"
        )
        warnings.warn(f"{path}: {counted}; no window spans them", stacklevel=5)
    starts = np.flatnonzero(~missing & (changes | np.roll(missing, 1)))
    ends = np.flatnonzero(~missing & (np.roll(changes, -1) | np.roll(missing, -1))) + 1
    return [(int(start), int(end)) for start, end in zip(starts, ends, strict=True)]


def _label_column(path: Path, names: Sequence[str], text: Sequence[int]) -> int:
    named = [i for i, name in enumerate(names) if name.lower() in LABELS] or list(text)
    if len(named) != 1:
        raise MediaError(f"{path} has {len(named)} columns that may hold labels; call one of them 'label'")
    return named[0]


def _gaps(path: Path, cells: Sequence[str], rate: float | None) -> np.ndarray:
    """Whether a gap lies between every two neighbours."""
    steps = np.diff(to_seconds(path, cells))
    if not len(steps):
        return np.zeros(0, bool)
    if (steps <= 0).any():
        row = int((steps <= 0).argmax()) + 2
        raise MediaError(f"{path}, row {row}: the time {cells[row - 1]} is not after the one before; sort the rows")
    usual = float(np.median(steps))
    if rate is not None and not math.isclose(1 / usual, rate, rel_tol=0.01):
        raise MediaError(f"{path} has {1 / usual:.6g} steps a second, expected {rate:g}: resample it or change rate")
    return steps > 1.5 * usual


def read_windows(
    path: Path, columns: Columns, length: int, stride: int, split: str
) -> tuple[list[np.ndarray], Listing]:
    """The windows [channels, length] of a recording, or of all of a folder.

    Where neither folders nor groups say what belongs to which split, the first four fifths of every recording are for
    training and the last for tests: no window lies across, so that no two of different splits overlap. Broken files of
    a folder are named in warnings.
    """
    folder = path.is_dir()
    files = list_files(path, SUFFIXES, columns.groups) if folder else Listing([str(path)])
    by_time = split in ("train", "test") and not files.splits and not columns.groups
    x: list[np.ndarray] = []
    labels: list[str] = []
    splits: list[str] = []
    groups: list[str] = []
    broken = 0
    for i, name in enumerate(files.items):
        try:
            recording = read_recording(Path(name), columns._replace(labels=False, groups=None) if folder else columns)
        except MediaError as error:
            broken += 1
            if broken == len(files.items):
                raise
            warnings.warn(f"skipped: {error}", stacklevel=4)
            continue
        steps = recording.x.shape[1]
        border = steps - steps // EVERY
        for part, start, end in [("train", 0, border), ("test", border, steps)] if by_time else [("", 0, steps)]:
            for first in recording.windows(length, stride, start, end):
                x.append(recording.x[:, first : first + length])
                splits.append(files.splits[i] if files.splits else part)
                labels += [recording.labels[first]] if recording.labels else files.labels[i : i + 1]
                groups += [recording.groups[first]] if recording.groups else files.groups[i : i + 1]
    if not x or by_time and split not in splits:
        place = {"train": " in the first four fifths", "test": " in the last fifth"}[split] if by_time else ""
        raise MediaError(f"{path} has no {length} steps without a gap{place}; take shorter windows")
    return x, Listing([f"window {i}" for i in range(len(x))], labels, splits, groups)


def suitable_fields(path: Path, selector: str | None) -> dict[str, Any]:
    """The channels, the length and, where times say it, the rate of the series of a source, or of windows of it."""
    pair = _find_pair(path) if path.is_dir() else {}
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy", ".ts"):
        x, _ = read_series(path, selector, None, 0)
        return {"channels": x.shape[1], "length": x.shape[2]}
    if path.is_dir() and not pair:
        first, second = ([*list_files(path, SUFFIXES).items] * 2)[:2]
        found = _recording_fields(Path(first), selector)
        alike = found["steps"] == _recording_fields(Path(second), selector)["steps"] and selector is None
        return {"channels": found["channels"], "length": found["steps"] if alike else found["length"]}
    names, rows = read_table(next(iter(pair.values()), path))
    if selector is None and (pair or len(names) > MOST_CHANNELS):
        labelled = [i for i in range(len(names)) if not any(is_number(row[i]) for row in rows)]
        labelled += [i for i, name in enumerate(names) if name.lower() in LABELS]
        counted = all(is_number(row[0]) and float(row[0]).is_integer() for row in rows)
        return {"channels": 1, "length": len(names) - bool(labelled or (counted and pair))}
    found = _recording_fields(path, selector)
    if found["rate"] is None:
        what = "its rows are taken for the steps of one recording; points are one or two columns, picked as FILE:A,B"
        warnings.warn(f"{path} has no times: {what}", stacklevel=4)
    return {"channels": found["channels"], "length": found["length"], "rate": found["rate"]}


def _recording_fields(path: Path, selector: str | None) -> dict[str, Any]:
    """The channels of a recording, its steps, a length of windows for it, and its rate, None where no times say it."""
    if path.suffix.lower() == ".npy":
        channels, steps = np.atleast_2d(read_npy(path)).shape
        return {"channels": channels, "steps": steps, "length": _window(steps), "rate": None}
    names, rows = read_table(path)
    kinds, rate = column_kinds(rows), None
    channels = len(pick_columns(path, names, selector)) if selector else kinds.count("number")
    if "time" in kinds and len(rows) > 1:
        usual = float(np.median(np.diff(to_seconds(path, [row[kinds.index("time")] for row in rows]))))
        rate = 1 / usual if usual > 0 else None
    return {"channels": channels, "steps": len(rows), "length": _window(len(rows)), "rate": rate}


def _window(steps: int) -> int:
    """128, or the largest power of two that leaves twenty windows, at least 8."""
    return max(8, min(128, 2 ** int(math.log2(max(1, steps / 20)))))


def holds_series(path: Path, channels: int, length: int) -> bool:
    """Whether a source is an archive of series or a table with a row a series, rather than a recording or a folder."""
    if path.is_dir():
        return bool(_find_pair(path))
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy", ".ts"):
        return True
    return channels == 1 and suffix in TABLES and len(read_table(path)[0]) in (length, length + 1)


def read_series(path: Path, selector: str | None, groups: str | None, length: int) -> tuple[np.ndarray, Listing]:
    """The series [items, channels, time] of such a source, and what it says of them: see `Signals.dataset`."""
    suffix = path.suffix.lower()
    if path.is_dir() or suffix not in (".npz", ".npy"):
        if groups:
            raise MediaError(f"{path} does not say which group a series belongs to")
        parts = {part: _read_rows(file, length) for part, file in (_find_pair(path) or {"": path}).items()}
        items = [series for series, _ in parts.values()]
        labels = [label for _, found in parts.values() for label in found]
        splits = [part for part, (series, _) in parts.items() for _ in series]
        listing = Listing([f"series {i}" for i in range(len(splits))], labels, splits)
    elif suffix == ".npz" and "beats" in npz_names(path):
        names = ("beats", "units_per_mV", "beats_symbol")
        arrays = read_npz(path, *names)
        if missing := [name for name in names if name not in arrays]:
            raise MediaError(f"{path} has beats, but no array {missing[0]}")
        if arrays["beats"].dtype.kind not in "fiu" or arrays["units_per_mV"].shape or not arrays["units_per_mV"] > 0:
            raise MediaError(f"{path}: beats are real numbers, and units_per_mV is one number above 0")
        items = [arrays["beats"] / float(arrays["units_per_mV"])]
        labels = label_names(path, arrays["beats_symbol"], len(items[0]))
        listing = Listing([f"beat {i}" for i in range(len(labels))], labels)
    else:
        items, listing = read_items(path, selector, groups)
    items = [x[:, None] if x.ndim == 2 else x for x in items]
    for x in items:
        if x.ndim != 3 or x.dtype.kind not in "fiu" or x.shape[1:] != items[0].shape[1:]:
            expected = "real numbers of shape [items, channels, time], alike in all splits"
            raise MediaError(f"{path}: expected {expected}, got {x.dtype} of {list(x.shape)}")
    return np.concatenate([to_float32(path, x) for x in items]), listing


def _find_pair(folder: Path) -> dict[str, Path]:
    """The two files NAME_TRAIN and NAME_TEST of a set of a public archive (.tsv, .ts or .txt) by their split, if the
    folder holds one such pair."""
    for suffix in (".tsv", ".ts", ".txt") if folder.is_dir() else ():
        ends = {"train": f"_train{suffix}", "test": f"_test{suffix}"}
        files = {split: [f for f in folder.iterdir() if f.name.lower().endswith(end)] for split, end in ends.items()}
        if all(len(found) == 1 for found in files.values()):
            return {split: found[0] for split, found in files.items()}
    return {}


def _read_rows(path: Path, length: int) -> tuple[np.ndarray, list[str]]:
    """The series [items, channels, time] of a .ts file, or of a table with a row a series of one channel, and their
    labels, if it has any: the column of text or the one called so, or else the first, if its numbers are whole."""
    if path.suffix.lower() == ".ts":
        return _read_ts(path)
    names, rows = read_table(path)
    if len(names) not in (length, length + 1):
        raise MediaError(f"{path} has {len(names)} columns, expected {length} steps and maybe a label in every row")
    label = None
    if len(names) == length + 1:
        text = [i for i in range(len(names)) if not any(is_number(row[i]) for row in rows)]
        named = [i for i, name in enumerate(names) if name.lower() in LABELS]
        label = (named or text or [0])[0]
    kept = [i for i in range(len(names)) if i != label]
    x = to_numbers(path, [names[i] for i in kept], [[row[i] for i in kept] for row in rows])
    if label is None:
        whole = (x == np.rint(x)).all(0)
        if whole[0] and not whole[1:].any() and len(np.unique(x[:, 0])) ** 2 <= len(x):
            what = f"column {names[0]} holds a few whole numbers; if these are labels, series have {length - 1} steps"
            warnings.warn(f"{path}: {what}", stacklevel=4)
        return x[:, None], []
    cells = [row[label] for row in rows]
    if all(map(is_number, cells)):
        numbers = np.array(cells, float)
        if len(numbers) > 2 and (np.diff(numbers) == 1).all():
            raise MediaError(f"{path}: its column {names[label]} numbers the rows, and labels were expected; remove it")
        cells = label_names(path, numbers, len(cells))
    return x[:, None], cells


def _read_ts(path: Path) -> tuple[np.ndarray, list[str]]:
    """A .ts file: lines of "@key values", then a line @data, then a line a series: numbers with commas between them,
    channels with colons, the label last."""
    check_file(path)
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"{path} cannot be read: {error}") from error
    header: dict[str, list[str]] = {}
    series: list[list[list[str]]] = []
    labels: list[str] = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("@"):
            key, _, values = line[1:].lower().partition(" ")
            header[key] = values.split()[:1]
            continue
        parts = line.split(":")
        if header.get("classlabel") == ["true"]:
            labels.append(parts.pop().strip())
        series.append([[cell.strip() for cell in part.split(",")] for part in parts])
        sizes = {len(channel) for channel in series[0] + series[-1]}
        if "data" not in header or len(series[-1]) != len(series[0]) or len(sizes) != 1:
            raise MediaError(f"{path}, line {number}: expected channels and steps as in the first series, after @data")
    if header.get("timestamps") == ["true"]:
        raise MediaError(f"{path} has a time with every value; only series at equal steps are read")
    if not series:
        raise MediaError(f"{path} is empty: expected series after a line @data")
    names = [f"step {i + 1}" for i in range(len(series[0][0]))]
    x = to_numbers(path, names, [channel for item in series for channel in item])
    return x.reshape(len(series), len(series[0]), -1), labels
