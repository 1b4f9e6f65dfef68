"""Draw samples of every bundled model on one sheet, zoo.png beside this file.

python docs/picture.py
"""

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

from zoo import load, models

WIDEST = 4
"""How many panels a row holds at most."""
COUNTS = {"points": 2000, "signals": 9, "meshes": 8}
"""How many samples a medium's panel shows; 36 of the others."""


def main() -> None:
    """A panel a model: its samples, without the noise of a pixel."""
    bundled = models()
    rows = math.ceil(len(bundled) / WIDEST)
    columns = math.ceil(len(bundled) / rows)
    sheet = Figure(figsize=(3 * columns, 3.1 * rows), layout="constrained")
    panels = sheet.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
        panel.set_anchor("N")
    for panel, entry in zip(panels, bundled, strict=False):
        model = load(entry.name)
        n = COUNTS.get(entry.medium, 36)
        condition = None
        if model.classes is not None:
            condition = torch.arange(n) % model.classes
        x = model.sample(
            n,
            condition=condition,
            mean=entry.medium != "points",  # their noise is part of a density
            generator=torch.Generator().manual_seed(0),
        )
        panel.imshow(model.modality.show(x).convert("RGB"))
        panel.set_title(entry.name, fontsize=11)
    sheet.savefig(Path(__file__).parent / "zoo.png", dpi=100)


if __name__ == "__main__":
    main()
