"""The files of the command line: what it reads, where it writes, and what it never writes over."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modalities.files import replace_folder

if TYPE_CHECKING:
    from torch import Tensor

    from modalities import Modality


def is_file(path: Path) -> bool:
    """Whether a path names a file, by its suffix: a folder may be called v1.0."""
    return path.suffix[1:2].isalpha() and not path.is_dir()


def read_items(medium: "Modality", given: Sequence[Path]) -> "tuple[list[Path], list[str], list[Tensor]]":
    """The files that are given or lie in given folders, their names without suffix, and their items.

    Files in folders that cannot be read are left out, each with a warning. Raises ValueError where nothing is left and
    where two files have one name.
    """
    found: dict[str, tuple[Path, Tensor]] = {}
    for path in given:
        folder, inside = path.parent, [path]
        if path.is_dir():
            folder, inside = path, sorted(file for file in path.rglob("*") if file.is_file())
        for file in inside:
            try:
                item = medium.load(file)
            except ValueError as error:
                if not path.is_dir():
                    raise
                warnings.warn(f"left out: {error}", stacklevel=2)
                continue
            name = str(file.relative_to(folder).with_suffix(""))
            if name in found:
                raise ValueError(f"{found[name][0]} and {file} have one name, and so would their results; take one")
            found[name] = file, item
    if not found:
        raise ValueError("there is no file to read; name files of the model's medium, or folders of them")
    return [file for file, _ in found.values()], list(found), [item for _, item in found.values()]


def writer(
    medium: "Modality", output: Path, title: str, inputs: Sequence[Path] = (), names: Sequence[str] | None = None
) -> Callable[..., None]:
    """A function `write(x, shown=None, columns=None)` that writes items and a picture of what is to be shown.

    `output` is a file, or a folder that gets the files under `title`, called `names` or numbered, and beside them the
    picture, of the items if nothing else is shown. Numbered files of a former run give way. Raises ValueError at once
    where something would be written over that no former run made: one of the `inputs`, a picture of the user's, or a
    folder with other files.
    """
    single, alone = is_file(output), ".png" in (medium.suffix, output.suffix.lower())
    files = output if single else output / (title + medium.suffix * medium.together)
    picture = (None if alone else output.with_suffix(".png")) if single else output / f"{title}.png"
    if output.is_file() and not single:
        raise ValueError(f"{output} is a file; name a folder, or a file with a suffix")
    for given in inputs:
        taken = given.resolve() in (files.resolve(), picture and picture.resolve())
        if taken or files.resolve() in given.resolve().parents:
            raise ValueError(f"{given} would be written over; name another output")
    if picture and picture.exists() and not files.exists():
        raise ValueError(f"{picture} would be written over, and no former run made it; name another output")

    def numbered(folder: Path) -> list[str]:
        """The names of the files in a folder if a former run made them."""
        found = sorted(path.name for path in folder.glob("*"))
        return found if found == [f"{i:05d}{medium.suffix}" for i in range(len(found))] else []

    # A run leaves its picture beside them: numbered files alone may be anybody's.
    former = numbered(files) if names is None and picture and picture.exists() else []
    if names is None and files.is_dir() and any(files.iterdir()) and not former:
        raise ValueError(f"{files} holds other files than the numbered ones of a former run; name another folder")

    def write(x: "Tensor", shown: "Tensor | None" = None, columns: int | None = None) -> None:
        from modalities.drawing import save_picture

        sheet = medium.show(x if shown is None else shown, columns)
        if single and picture is None and (len(x) > 1 or medium.suffix != ".png"):
            save_picture(sheet, files)
        elif single or medium.together:
            medium.save(x[0] if len(x) == 1 else x, files)
        elif names is None:
            with replace_folder(files, numbered) as folder:
                for i, item in enumerate(x):
                    medium.save(item, folder / f"{i:05d}{medium.suffix}")
        else:
            for name, item in zip(names, x, strict=True):
                medium.save(item, files / f"{name}{medium.suffix}")
        if picture is not None:
            save_picture(sheet, picture)
        before = f", in place of {len(former)}" if former else ""
        beside = "" if picture is None else f", a picture of them in {picture}"
        print(f"{len(x)} {medium.kind} in {files}{before}{beside}")

    return write
