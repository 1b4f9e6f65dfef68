"""The gallery: what can be shown of every bundled model on one page, each with the line of code that makes it."""

from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from modalities.files import write_aside
from zoo.card import Figure, read_figures
from zoo.catalog import Bundled, format_size, models
from zoo.hub import load
from zoo.showcase import Abilities, Exhibit, abilities, draw, samples_code

TEMPLATE = Path(__file__).with_name("gallery.html")
TITLE = "latent-zoo: the gallery"


class Entry(NamedTuple):
    """A model on the page."""

    model: Bundled
    abilities: Abilities
    code: str
    """What loads the model and draws its samples."""
    exhibits: list[tuple[Exhibit, list[str]]]
    """What is shown of it and the files that hold it, the one to look at first in front."""
    figures: list[Figure]


def write_gallery(folder: Path) -> Path:
    """Draw every bundled model and write index.html with the files beside it. Returns the page's path.

    Raises ValueError where no models are bundled, and where index.html is another page.
    """
    import jinja2

    page = folder / "index.html"
    if page.exists() and TITLE not in page.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(f"{page} is another page and would be written over; name another folder")
    bundled = sorted(models(), key=lambda model: model.medium)
    if not bundled:
        raise ValueError("no models are bundled with this installation, so there is nothing to show")
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    entries = [_entry(model, folder) for model in track(bundled, "Drawing the gallery", console=console)]
    media = [(medium, list(group)) for medium, group in groupby(entries, lambda entry: entry.model.medium)]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    with write_aside(page) as part:
        part.write_text(template.render(title=TITLE, media=media, format_size=format_size), encoding="utf-8")
    return page


def _entry(bundled: Bundled, folder: Path) -> Entry:
    """Draw one model. What the page prints is what runs here, so that code and picture cannot drift apart."""
    model = load(bundled.name)
    exhibits = []
    for exhibit, x in draw(model):
        path = folder / f"{bundled.name}-{exhibit.title.lower()}"
        files = model.modality.present(x, path, exhibit.columns)
        exhibits.append((exhibit, [file.name for file in files]))
    code = f'model = load("{bundled.name}")\n{samples_code(model)}'
    return Entry(bundled, abilities(model), code, exhibits, read_figures(bundled.folder))
