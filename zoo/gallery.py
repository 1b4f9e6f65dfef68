"""The gallery: what can be shown of models: a page for each, one that leads to them, and the code of every picture."""

import json
import re
import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from modalities.files import write_aside
from zoo.card import CARD, DATA, Figure, card_sections, read_figures, read_temperature
from zoo.catalog import Bundled, describe, format_size, models
from zoo.hub import find, load
from zoo.model import GenerativeModel
from zoo.progress import track
from zoo.showcase import Abilities, abilities, draw, samples_code

TEMPLATE = Path(__file__).with_name("gallery.html")
TITLE = "latent-zoo: the gallery"
WIDE = 700
"""From how many pixels on a picture takes a row of its own."""


class Shown(NamedTuple):
    """An exhibit on a page."""

    title: str
    caption: str
    code: str
    """The line that makes it; empty for real items."""
    files: list[str]
    """The one to look at first in front."""
    wide: bool


class Entry(NamedTuple):
    """A model of the gallery."""

    place: str
    """The folder of its page."""
    model: Bundled
    abilities: Abilities
    caveat: str
    rank: tuple[str, bool, int, float, str]
    code: str
    """What loads the model and draws its samples."""
    exhibits: list[Shown]
    figures: list[Figure]
    about: list[tuple[str, str]]
    """What its card says, heading and text."""


def rank(model: GenerativeModel, folder: Path) -> tuple[str, bool, int, float, str]:
    """Where the model of a checkpoint folder stands: by medium; what is no good example last, large items before small
    ones, then by the likelihood on its card."""
    medium = model.modality
    likelihood = min((figure.value for figure in read_figures(folder) if figure.metric == "NLL"), default=float("inf"))
    return medium.kind, bool(model.caveat), -(0 if medium.ragged else medium.elements), likelihood, folder.name


def write_gallery(folder: Path, names: Sequence[str] = ()) -> Path:
    """Draw models, by default every bundled one, and write index.html with a folder for each. Returns that page's path.

    Arguments:
        names: what `load` takes: bundled names, folders of your own, repositories of the Hub.

    Raises ValueError where there is nothing to show, and where something would be written over that is no gallery.
    """
    import jinja2

    page = folder / "index.html"
    if page.exists() and TITLE not in page.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(f"{page} is another page and would be written over; name another folder")
    names = names or [model.name for model in models()]
    if not names:
        raise ValueError("no models are bundled with this installation, so there is nothing to show")
    found: dict[str, tuple[str, Path]] = {}
    for name in names:  # all of them are there before anything is drawn
        source = find(name)
        place = re.sub(r"[^\w.-]+", "-", source.resolve().name if Path(name).exists() else name).strip(".-") or "model"
        place = f"{place}-{len(found) + 1}" if place in found else place
        if (folder / place).exists() and not page.exists():
            raise ValueError(f"{folder / place} is no part of a gallery; name another folder")
        found[place] = name, source
    entries = [_entry(folder, place, *source) for place, source in track(found.items(), "Drawing the gallery")]
    entries.sort(key=lambda entry: entry.rank)
    media = [(medium, list(group)) for medium, group in groupby(entries, lambda entry: entry.model.medium)]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    for path, entry in [*((folder / entry.place / "index.html", entry) for entry in entries), (page, None)]:
        with write_aside(path) as part:
            text = template.render(title=TITLE, media=media, entry=entry, format_size=format_size)
            part.write_text(text, encoding="utf-8")
    return page


def _entry(folder: Path, place: str, name: str, source: Path) -> Entry:
    """Draw one model. What the page prints is what runs here, so that code and picture cannot drift apart."""
    from PIL import Image

    model = load(name)
    temperature = read_temperature(source)
    exhibits = []
    for exhibit, x in draw(model, temperature=temperature):
        files = model.modality.present(x, folder / place / exhibit.title.lower(), exhibit.columns)
        with Image.open(files[0]) as picture:
            wide = picture.width > WIDE
        exhibits.append(Shown(exhibit.title, exhibit.caption, exhibit.line, [file.name for file in files], wide))
    if (source / DATA).is_file():
        shutil.copyfile(source / DATA, folder / place / DATA)
        exhibits.insert(1, Shown("Data", "Real items, of the kind that the model learned from.", "", [DATA], False))
    code = f"model = load({json.dumps(name, ensure_ascii=False)})\n{samples_code(model, temperature)}"
    about = card_sections(source) if (source / CARD).is_file() else []
    figures, place_among = read_figures(source), rank(model, source)
    return Entry(place, describe(source), abilities(model), model.caveat, place_among, code, exhibits, figures, about)
