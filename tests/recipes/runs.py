"""What the tests of recipes ask of a folder of results."""

import json
from pathlib import Path
from typing import Any

from zoo.card import read_temperature


def pictures(folder: Path) -> set[str]:
    """The names of the pictures in a folder, none of which is of one colour."""
    from PIL import Image

    paths = list(folder.glob("*.png"))
    for path in paths:
        low, high = Image.open(path).convert("L").getextrema()
        assert low < high, path
    return {path.stem for path in paths}


def figures(folder: Path) -> dict[str, Any]:
    """What a recipe measured."""
    return json.loads((folder / "figures.json").read_text(encoding="utf-8"))


def beside(checkpoint: Path) -> float:
    """The temperature that a checkpoint's card advises; real items must lie beside its samples."""
    assert pictures(checkpoint) == {"samples", "data"}
    return read_temperature(checkpoint)


def number(folder: Path, name: str) -> float:
    """The value of the first figure whose name begins so."""
    return float(str(next(value for key, value in figures(folder).items() if key.startswith(name))).split()[0])
