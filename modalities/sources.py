"""What the adapters share when they read data: selectors in a source's name, splits, groups, classes, folders."""

import dataclasses
import os
import re
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from modalities.modality import MediaError
from modalities.tables import is_number

SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation", "dev", "development"),
}
"""The splits, and what their folders and rows are called, in small letters."""

COMPANIONS = re.compile(
    r"(readme|licen[cs]e|notice)(\.txt|\.rst)?|.*\.md|labels\.csv|landmarks\d+\.npy|thumbs\.db|desktop\.ini"
)
"""Files beside the items that are no items, in small letters."""


class About(NamedTuple):
    """What a data set knows of its items."""

    classes: tuple[str, ...] | None = None
    """The names of the classes, in the order of their numbers; None where items come without labels."""
    groups: tuple[str, ...] | None = None
    """The person, recording or day of every item; None where they were not asked for."""
    split: str | None = None
    """The split that was asked for."""


@dataclasses.dataclass
class Listing:
    """What a source says of its items before it reads one."""

    items: Sequence[str]
    """Their names."""
    labels: Sequence[str] = ()
    """The names of their classes, "" where one has none; empty where nothing is said of any."""
    splits: Sequence[str] = ()
    """The splits they belong to, likewise."""
    groups: Sequence[str] = ()
    """The persons, recordings or days they belong to, where these were asked for."""
    classes: Sequence[str] = ()
    """The names of all classes, where the source itself numbers them."""

    def choose(
        self, source: str | Path, split: str, every: int, labels: bool, classes: Sequence[str] | None = None
    ) -> "tuple[list[int], list[int] | None, About]":
        """The positions of the items of a split, their class numbers with `labels`, and what is known of them.

        `split` and `every` are as in `choose_split`, `classes` as in `class_numbers`. Raises `MediaError` where there
        is no such split, and where an item has no label, or another than `classes`.
        """
        splits = [_split_name(name) or name for name in self.splits] or [""] * len(self.items)
        if self.groups and not any(splits):
            # Whole groups: what one person's pictures have in common must not be known from training.
            order = sorted(set(self.groups), key=_natural)
            test = {order[i] for i in choose_split([""] * len(order), "test", source, min(every, max(len(order), 2)))}
            splits = ["test" if group in test else "train" for group in self.groups]
        elif self.groups and split != "all":
            both = {group for group, name in zip(self.groups, splits, strict=True) if name == "train"}
            both &= {group for group, name in zip(self.groups, splits, strict=True) if name != "train"}
            if both:
                warnings.warn(f"{source} has items of {min(both)} in several splits, as it sets them", stacklevel=3)
        chosen = choose_split(splits, split, source, every)
        if not chosen:
            raise MediaError(f"{source} has {len(splits)} items, and none for {split!r}: give more, or take 'all'")
        groups = tuple(self.groups[i] for i in chosen) if self.groups else None
        if not labels:
            return chosen, None, About(None, groups, split)
        if not any(self.labels):
            raise MediaError(f"{source} has no labels: a folder for every class gives some, or a column of a table")
        if "" in self.labels:
            raise MediaError(f"{self.items[self.labels.index('')]} has no label, and other items of {source} have one")
        named = self.labels
        if self.classes and classes and all(map(str.isdecimal, classes)):
            # A set that numbers its classes itself is known by these numbers, too.
            named = [str(self.classes.index(label)) for label in named]
        numbers, names = class_numbers(named, source, classes or self.classes)
        return chosen, [numbers[i] for i in chosen], About(names, groups, split)


def is_named(source: str | Path, named: Collection[str]) -> bool:
    """Whether a source is one of an adapter's named sets; warns where a file or folder here is called like it."""
    if source not in named:
        return False
    if Path(source).exists():
        warnings.warn(f"{source} is the named set, not the file or folder here: that is ./{source}", stacklevel=1)
    return True


def split_source(source: str | Path, named: Sequence[str]) -> tuple[Path, str | None]:
    """The path of a source and its selector: "beats.npz:GunPoint" gives beats.npz and GunPoint.

    Raises `MediaError` that lists the adapter's `named` sets if the path does not exist.
    """
    path = Path(source).expanduser()
    before, _, selector = str(path).rpartition(":")
    with suppress(OSError):  # a name may be too long
        if path.exists():
            return path, None
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
        warnings.warn(f"{source} has no items for tests; those of its validation take their place", stacklevel=3)
        split = "val"
    if split not in present:
        known = ", ".join(sorted((present or {"train", "test"}) | {"all"}))
        raise MediaError(f"{source} has no split {split!r}; choose one of {known}")
    if left := splits.count(""):
        warnings.warn(f"{source}: {left} items belong to no split, and to 'all' alone", stacklevel=3)
    return [i for i, name in enumerate(splits) if name == split]


def class_numbers(
    labels: Sequence[str], source: str | Path, classes: Sequence[str] | None = None
) -> tuple[list[int], tuple[str, ...]]:
    """Labels as class numbers from 0, and the names of the classes in their order: that of `classes` where they are
    given, of their values where all are numbers, else alphabetical. Raises `MediaError` for a label none of `classes`;
    warns of a single class.
    """
    found = set(labels)
    numeric = all(is_number(label) and float(label) == float(label) for label in found)
    names = tuple(classes or sorted(found, key=(lambda label: (float(label), label)) if numeric else str))
    unknown = sorted(found - set(names))
    if unknown:
        raise MediaError(f"{source} has items of the class {unknown[0]!r}; the classes are {', '.join(names)}")
    if len(names) == 1:
        warnings.warn(f"all items of {source} are of one class, {names[0]!r}", stacklevel=3)
    elif len(labels) == len(found) > 10:
        warnings.warn(f"every item of {source} is of a class of its own: these may be names, not classes", stacklevel=3)
    number = {name: i for i, name in enumerate(names)}
    return [number[label] for label in labels], names


def list_files(folder: Path, suffixes: Sequence[str], groups: str | None = None) -> Listing:
    """The regular files under a folder, sorted, whose names and folders do not begin with a dot.

    A label is the name of the subfolder in the folder, or in its folders of splits, if it has some: train, test and val
    (see `SPLITS`), in any case, in the folder or in a single folder there. A group is what the regular expression
    `groups` finds in the path below the folder, its first parenthesis where it has one.

    Raises `MediaError` if there is no file with one of these suffixes, and for a file without a group. Warns of how
    many others are left out.
    """
    if not folder.is_dir():
        raise MediaError(f"{folder} is a file; expected a folder of {', '.join(suffixes)} files")
    paths, others = [], Counter[str]()
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        for path in (Path(place, name) for name in files if not name.startswith(".")):
            if COMPANIONS.fullmatch(path.name.lower()):
                continue
            if path.suffix.lower() in suffixes and path.is_file():
                paths.append(path)
            else:
                others[path.suffix.lower() or path.name] += 1
    left = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(3))
    if not paths:
        hint = f" (it holds {left})" if left else ""
        raise MediaError(f"{folder} is empty: found no {', '.join(suffixes)} file in it or in its subfolders{hint}")
    if left:
        warnings.warn(f"{folder}: left out {sum(others.values())} other files ({left})", stacklevel=3)
    paths.sort()
    parts, splits = _without_splits(folder, [path.relative_to(folder).parts for path in paths])
    labels = [part[0] if len(part) > 1 else "" for part in parts]
    return Listing([str(path) for path in paths], labels, splits, _groups(folder, paths, groups))


def main_suffix(path: Path) -> str:
    """The ending of a file, or the commonest one of the files in a folder, in small letters."""
    if not path.is_dir():
        return path.suffix.lower()
    counts = Counter[str]()
    for _, folders, files in os.walk(path, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        kept = [name for name in files if not name.startswith(".") and not COMPANIONS.fullmatch(name.lower())]
        counts.update(Path(name).suffix.lower() for name in kept)
    return max(counts, key=lambda suffix: (counts[suffix], suffix), default="")


def _refuse(error: OSError) -> None:
    raise MediaError(f"{error.filename} cannot be listed: {error.strerror}") from error


def _without_splits(folder: Path, parts: list[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Paths below their folders of splits, and the names of these, "" without one."""
    for depth in (0, 1):
        tops = {part[depth] for part in parts if len(part) > depth + 1}
        found = {top for top in tops if _split_name(top)}
        if len(set(map(_split_name, found))) > 1 or found and len(tops) == 1:
            splits = [_split_name(part[depth]) or "" if len(part) > depth + 1 else "" for part in parts]
            return [part[depth + 1 :] if split else part for part, split in zip(parts, splits, strict=True)], splits
        if found:
            warnings.warn(
                f"{folder}: {min(found)}, beside folders that are no splits, is taken for a class", stacklevel=4
            )
        if len({part[0] for part in parts}) > 1:
            break
    return parts, []


def _split_name(name: str) -> str | None:
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def _groups(folder: Path, paths: Sequence[Path], pattern: str | None) -> list[str]:
    groups = []
    for path in paths if pattern else ():
        name = path.relative_to(folder).as_posix()
        try:
            found = re.search(str(pattern), name)
        except re.error as error:
            raise ValueError(f"groups of files are given by a regular expression, got {pattern!r}: {error}") from error
        if found is None:
            raise MediaError(f"{name} in {folder} belongs to no group: {pattern!r} is not found in it")
        groups.append(found[1] if found.re.groups else found[0])
    return groups


def _natural(name: str) -> list[tuple[int, str]]:
    """What sorts "9" before "10"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
