"""Draw samples of every bundled model on one sheet, zoo.png beside this file.

python docs/picture.py
"""

import math
from pathlib import Path

from matplotlib.figure import Figure

from zoo import load, models
from zoo.card import read_temperature
from zoo.gallery import rank
from zoo.showcase import draw, samples_exhibit

WIDEST = 4
"""How many panels a row holds at most."""


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
    sheet.savefig(Path(__file__).parent / "zoo.png", dpi=100)


if __name__ == "__main__":
    main()
