"""Draw samples of every bundled model on one sheet, zoo.png beside this file,
and a picture for each page about some of them.

python docs/picture.py
"""

import math
from pathlib import Path

from matplotlib.figure import Figure

from zoo import load, models
from zoo.card import read_temperature
from zoo.catalog import CHECKPOINTS
from zoo.gallery import rank
from zoo.showcase import draw, samples_exhibit

DOCS = Path(__file__).parent

WIDEST = 4
"""How many panels a row holds at most."""

PAGES = {
    "vae": ("vae-mnist", "Traversal"),
    "hierarchies": ("nvae-faces", "Temperature"),
    "autoregressive": ("gated-pixelcnn-mnist", "Completion"),
    "morphable": ("morphable-faces", "Samples"),
    "contract": ("vae-faces", "Interpolation"),
}
"""The picture of a page: of which model, and which of its exhibits."""


def draw_pages() -> None:
    """The pictures of the pages, each under the name of its page."""
    for page, (name, title) in PAGES.items():
        model = load(name)
        chosen = [e for e in model.exhibits() if e.title == title]
        temperature = read_temperature(CHECKPOINTS / name)
        exhibit, x = next(draw(model, chosen, temperature))
        picture = model.modality.show(x, exhibit.columns)
        picture.save(DOCS / f"{page}.png", optimize=True)


def main() -> None:
    """A panel a model, in the gallery's order: samples without pixel noise."""
    bundled = [(load(entry.name), entry.folder) for entry in models()]
    bundled.sort(key=lambda pair: rank(*pair))
    rows = math.ceil(len(bundled) / WIDEST)
    columns = math.ceil(len(bundled) / rows)
    sheet = Figure(figsize=(3 * columns, 3.1 * rows), layout="constrained")
    panels = sheet.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
        panel.set_anchor("N")
    for panel, (model, folder) in zip(panels, bundled, strict=False):
        samples, x = next(
            draw(model, [samples_exhibit(model)], read_temperature(folder))
        )
        picture = model.modality.show(x, samples.columns)
        panel.imshow(picture.convert("RGB"))
        panel.set_title(
            f"{folder.name}, no good example" if model.caveat else folder.name,
            fontsize=11,
        )
    sheet.savefig(DOCS / "zoo.png", dpi=100)
    draw_pages()


if __name__ == "__main__":
    main()
