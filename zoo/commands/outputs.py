"""The files of commands: what they read, where they write, and what they never write over."""

import csv
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from modalities.files import replace_folder, write_aside

if TYPE_CHECKING:
    from torch import Tensor

    from modalities import Modality
    from modalities.data import Items

Entry = tuple[Path, int | None]
"""A file, or a row of a table."""
AT_ONCE = 64
"""How many files are in memory at a time."""
MOST_NAMED = 10
"""How many files that are left out are named."""


def is_file(path: Path) -> bool:
    """Whether a path names a file, by its suffix: a folder may be called v1.0."""
    return path.suffix[1:2].isalpha() and not path.is_dir()


class Inputs:
    """The files that are given or lie in given folders, read a batch at a time.

    Of a medium whose batches are one file (a table of points), every row of a file is an item. Files in folders that
    cannot be read are left out with a warning; hidden ones are nobody's items. Raises ValueError where there is no
    file, where one that is given cannot be read, and where two would have one name.
    """

    def __init__(self, medium: "Modality", given: Sequence[Path]):
        self.medium, self.given, self.broken = medium, set(given), set[Path]()
        self.tables: dict[Path, Items] = {}
        found: dict[str, list[Entry]] = {}
        for path in given:
            if path.is_dir():
                for file in sorted(path.rglob("*")):
                    inside = file.relative_to(path)
                    if file.is_file() and not any(part.startswith(".") for part in inside.parts):
                        found.setdefault(str(inside.with_suffix("")), []).append((file, None))
            elif medium.together and path.is_file():
                self.tables[path] = medium.dataset(path, "all")
                for row in range(len(self.tables[path])):
                    found.setdefault(f"{path.stem}-{row + 1}", []).append((path, row))
            else:
                medium.load(path)  # what is named must be there, before any work is done
                found.setdefault(path.stem, []).append((path, None))
        for name, entries in found.items():
            if len(entries) > 1:
                found[name] = entries = [entry for entry in entries if self._load(*entry) is not None] or entries[:1]
            if len(entries) > 1:
                first, second = (path for path, _ in entries[:2])
                raise ValueError(f"{first} and {second} have one name, and so would their results; take one")
        if not found:
            raise ValueError("there is no file to read; name files of the model's medium, or folders of them")
        self.names = list(found)
        """Where the files lie in the folder that was given, without suffix; rows of a table are numbered from 1."""
        self.entries = [entries[0] for entries in found.values()]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [path for path, _ in self.entries]

    def batches(self, what: str) -> "Iterator[tuple[list[str], list[int], Tensor]]":
        """Names, positions among all, and items, with a progress bar that says `what` is done.

        Raises ValueError at the end where not one file could be read.
        """
        from zoo.progress import track

        starts, read = range(0, len(self), AT_ONCE), 0
        for start in track(starts, what, len(self), lambda start: min(AT_ONCE, len(self) - start)):
            found = {i: self._load(*self.entries[i]) for i in range(start, min(start + AT_ONCE, len(self)))}
            items = {i: item for i, item in found.items() if item is not None}
            read += len(items)
            if items:
                yield [self.names[i] for i in items], list(items), self.medium.collate(list(items.values()))[0]
        if not read:
            raise ValueError(f"not one of {len(self)} files could be read")
        if read < len(self):
            named = f", {MOST_NAMED} of them named above" if len(self.broken) > MOST_NAMED else ""
            warnings.warn(f"left out {len(self) - read} files of {len(self)}{named}", stacklevel=2)

    def _load(self, path: Path, row: int | None) -> "Tensor | None":
        try:
            return self.medium.load(path) if row is None else cast("Tensor", self.tables[path][row])
        except ValueError as error:
            if path in self.given:
                raise
            self.broken.add(path)
            if len(self.broken) <= MOST_NAMED:
                warnings.warn(f"left out: {error}", stacklevel=3)
            return None


class Writer:
    """Writes items and a picture of what is to be shown.

    `output` is a file, or a folder that gets the files under `title`, numbered or by their names, and beside them the
    picture, of the items if nothing else is shown. Numbered files of a former run give way. Raises ValueError at once
    where something would be written over that no former run made: one of the `inputs`, a picture of the user's, or a
    folder with other files.
    """

    def __init__(self, medium: "Modality", output: Path, title: str, inputs: Sequence[Path] = (), named: bool = False):
        self.medium = medium
        self.single, alone = is_file(output), ".png" in (medium.suffix, output.suffix.lower())
        self.files = output if self.single else output / (title + medium.suffix * medium.together)
        self.picture = (None if alone else output.with_suffix(".png")) if self.single else output / f"{title}.png"
        if output.is_file() and not self.single:
            raise ValueError(f"{output} is a file; name a folder, or a file with a suffix")
        for given in inputs:
            taken = given.resolve() in (self.files.resolve(), self.picture and self.picture.resolve())
            if taken or self.files.resolve() in given.resolve().parents:
                raise ValueError(f"{given} would be written over; name another output")
        if self.picture and self.picture.exists() and not self.files.exists():
            raise ValueError(f"{self.picture} would be written over, and no former run made it; name another output")
        # A run leaves its picture beside them: numbered files alone may be anybody's.
        self.former = self._numbered(self.files) if not named and self.picture and self.picture.exists() else []
        if not named and self.files.is_dir() and any(self.files.iterdir()) and not self.former:
            raise ValueError(f"{self.files} holds other files than the numbered ones of a former run; name another")

    def _numbered(self, folder: Path) -> list[str]:
        """The names of the files in a folder if a former run made them."""
        found = sorted(path.name for path in folder.glob("*"))
        return found if found == [f"{i:05d}{self.medium.suffix}" for i in range(len(found))] else []

    def write(self, x: "Tensor | list[Tensor]", shown: "Tensor | None" = None, columns: int | None = None) -> None:
        """Write a batch, of a ragged medium a list of items: numbered files, or the one file."""
        from modalities.drawing import save_picture

        batch = self.medium.collate(x)[0] if isinstance(x, list) else x
        shown = batch if shown is None else shown
        if self.single and self.picture is None and (len(x) > 1 or self.medium.suffix != ".png"):
            save_picture(self.medium.show(shown, columns), self.files)
        elif self.single or self.medium.together:
            self.medium.save(x[0] if len(x) == 1 else batch, self.files)
        else:
            with replace_folder(self.files, self._numbered) as folder:
                for i, item in enumerate(x):
                    self.medium.save(item, folder / f"{i:05d}{self.medium.suffix}")
        self._finish(len(x), shown, columns)

    def write_named(
        self, batches: "Iterable[tuple[list[str], Tensor]]", gathered: "Callable[[], tuple[list[Tensor], int]]"
    ) -> None:
        """Write batches as they come, each item to a file of its name, and at the end a picture of what was `gathered`
        by then, with its columns."""
        import torch

        if self.single or self.medium.together:
            x = torch.cat([made for _, made in batches])
            shown, columns = gathered()
            return self.write(x, torch.stack(shown), columns)
        count = 0
        for names, made in batches:
            for name, item in zip(names, made, strict=True):
                self.medium.save(item, self.files / f"{name}{self.medium.suffix}")
            count += len(names)
        shown, columns = gathered()
        self._finish(count, torch.stack(shown), columns)

    def _finish(self, count: int, shown: "Tensor", columns: int | None) -> None:
        from modalities.drawing import save_picture

        if self.picture is not None:
            save_picture(self.medium.show(shown, columns), self.picture)
        before = f", in place of {len(self.former)}" if self.former else ""
        beside = "" if self.picture is None else f", a picture of them in {self.picture}"
        print(f"{count} {self.medium.kind} in {self.files}{before}{beside}")


def write_table(path: Path, header: Sequence[str], rows: Iterable[tuple[str, Sequence[float]]]) -> int:
    """Write what belongs to each file, and return how many rows there are.

    A .csv has a row a file, its name in front, under a header; a .npy holds the numbers, float32, shape
    [files, columns], and the names lie beside it in a .txt, a line each.
    """
    import numpy

    count = 0
    if path.suffix.lower() == ".csv":
        with write_aside(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file", *header])
            for name, values in rows:
                table.writerow([name, *(f"{value:.9g}" for value in values)])
                count += 1
        return count
    names, numbers = zip(*rows, strict=True)
    with write_aside(path) as part:
        numpy.save(part, numpy.asarray(numbers, dtype=numpy.float32))
    with write_aside(path.with_suffix(".txt")) as part:
        part.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return len(names)


def check_table(path: Path, inputs: Sequence[Path]) -> None:
    """Refuse, before any work is done, what `write_table` cannot write, and what no former run made."""
    if path.suffix.lower() not in (".csv", ".npy") or path.is_dir():
        raise ValueError(f"{path}: a table is written as .csv or .npy")
    names = path.with_suffix(".txt") if path.suffix.lower() == ".npy" else None
    for given in inputs:
        if given.resolve() in (path.resolve(), names and names.resolve()):
            raise ValueError(f"{given} would be written over; name another output")
    former = path.is_file() and (names.is_file() if names else path.read_bytes()[:5] == b"file,")
    for file in (path, names):
        if file and file.exists() and not former:
            raise ValueError(f"{file} would be written over, and no former run made it; name another output")
