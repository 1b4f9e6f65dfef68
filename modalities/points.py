"""Points: rows of one or two real numbers, the smallest medium, where a density can be drawn."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from modalities.data import Arrays, Items
from modalities.densities import DENSITIES
from modalities.drawing import render
from modalities.modality import MediaError, Modality
from modalities.sources import Listing, main_suffix, split_source
from modalities.tables import LABELS, SUFFIXES, column_kinds, pick_columns, read_table, to_numbers, write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure
    from PIL.Image import Image

TRAIN, TEST = 10_000, 2_000
"""How many points of a synthetic family are for training and for tests."""

EVERY = 5
"""Every fifth row of a table is for tests."""


@dataclasses.dataclass(frozen=True)
class Points(Modality):
    """Points of shape [dimensions], 1 or 2 real numbers in the units of their table.

    Without a network, `dataset` knows the synthetic families of `modalities.densities.DENSITIES`, whose log-densities
    are known.
    """

    dimensions: int = 2
    kind: ClassVar[str] = "points"
    suffix: ClassVar[str] = ".csv"
    together: ClassVar[bool] = True
    sheet: ClassVar[int] = 1000
    draws: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("distances",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dimensions not in (1, 2):
            raise ValueError(f"points have 1 or 2 dimensions, got {self.dimensions!r}")

    @property
    def shape(self) -> tuple[int]:
        return (self.dimensions,)

    @property
    def steps(self) -> int:
        return 33 if self.dimensions == 2 else 0

    @classmethod
    def suiting(cls, source: str | Path, **fields: Any) -> Self | None:
        """Points of a synthetic family, or of a table of one or two columns of numbers and no times."""
        if source in DENSITIES:
            return cls(**{"dimensions": DENSITIES[str(source)]().dimensions} | fields)
        path, selector = split_source(source, tuple(DENSITIES))
        if main_suffix(path) not in SUFFIXES or path.is_dir():
            return None
        header, rows = read_table(path)
        kinds, wanted = column_kinds(rows), (selector or "").split(",")
        count = len(wanted) if set(wanted) <= set(header) else kinds.count("number")
        return cls(**{"dimensions": count} | fields) if count in (1, 2) and "time" not in kinds else None

    def load(self, path: str | Path) -> Tensor:
        """Read one point, a tensor of shape [dimensions], from a .csv file with one row; `dataset` reads tables.

        Raises `MediaError` that names the file if it is missing, if it has more rows, or another number of columns of
        numbers, and that names the row and the column of NaN, infinities and missing numbers.
        """
        x, _ = self._read(Path(path), None, None)
        if len(x) != 1:
            raise MediaError(f"{path} has {len(x)} rows, expected one point; a table of points is a data set")
        return x[0]

    def save(self, x: Tensor, path: str | Path) -> None:
        """Write a point [dimensions] or a batch of them as a .csv table with a header, a row a point; exact."""
        path = Path(path)
        batch = self.check(x.unsqueeze(0) if x.ndim == 1 else x).detach().float().cpu().numpy()
        if path.suffix.lower() != ".csv":
            raise MediaError(f"{path}: points are written as .csv, not {path.suffix or 'without a suffix'}")
        write_table(path, ["x", "y"][: self.dimensions], batch)

    def show(self, x: Tensor, columns: int | None = None) -> "Image":
        """One picture of a batch [batch, dimensions]: a scatter plot, or a histogram over a rug in one dimension."""
        from matplotlib.figure import Figure

        batch = self.drawable(x).numpy()
        figure = Figure(figsize=(4.5, 4.5 if self.dimensions == 2 else 3), layout="constrained")
        panel = figure.subplots()
        if self.dimensions == 2:
            panel.scatter(batch[:, 0], batch[:, 1], s=12 if len(batch) < 1000 else 4, alpha=0.6, linewidths=0)
            width, height = np.ptp(batch, axis=0)
            if width < 3 * height < 9 * width:
                panel.set_aspect("equal")
        else:
            panel.hist(
                batch[:, 0], bins=int(np.clip(len(batch) ** 0.5, 10, 60)), density=True, color="tab:blue", alpha=0.6
            )
            panel.plot(batch[:, 0], np.zeros(len(batch)), "|", color="black", markersize=8, alpha=0.4)
            panel.set_ylabel("density")
        panel.spines[["top", "right"]].set_visible(False)
        return render(figure)

    def present(self, x: Tensor, path: str | Path, columns: int | None = None) -> list[Path]:
        """Write a picture of the points and, beside it, their table: "path.png" and "path.csv"."""
        table = Path(f"{path}.csv")
        self.save(x, table)
        return [*super().present(x, path, columns), table]

    def dataset(
        self,
        source: str | Path,
        split: str = "train",
        labels: bool = False,
        *,
        classes: Sequence[str] | None = None,
        groups: str | None = None,
    ) -> Items:
        """A synthetic family or a table, as points of `shape`, or with `labels` as pairs of a point and a class number.

        `source` is one of:
            the name of a synthetic family of as many dimensions, 10,000 points to train and 2,000 to test, always the
                same ones: "two-gaussians" in one dimension; "eight-gaussians", "grid", "two-moons", "ring", "spiral",
                "checkerboard" in two. These have no labels and need no network.
            a .csv, .tsv or .txt table (see `modalities.tables.read_table`) with as many columns of numbers; the column
                called label, class or target gives the labels, or else the first of text, if there is one.
            "file.csv:a,b": the columns a and b alone, by name or by number from 1; "file.csv:word": the rows with that
                word in a column of text.
        `split` is "train", "test" or "all"; every fifth row of a table is for tests, or with `groups` every fifth group
        of that column. Classes count from 0 in alphabetical order, or in that of `classes` where they are given;
        `groups` is as in `Modality.dataset`.

        Raises `MediaError` if there is no such source, on other dimensions, if there are no labels where they are asked
        for, and on NaN, infinities and missing numbers, with their row and column.
        """
        source = str(source)
        if source in DENSITIES:
            density = DENSITIES[source]()
            if density.dimensions != self.dimensions:
                raise MediaError(f"{source} has {density.dimensions} dimensions, expected {self.dimensions}")
            x = density.sample(TRAIN + TEST, torch.Generator().manual_seed(0))
            if groups:
                raise MediaError(f"the points of {source} belong to no groups")
            listing = Listing([source] * len(x), splits=["train"] * TRAIN + ["test"] * TEST)
        else:
            path, selector = split_source(source, tuple(DENSITIES))
            x, listing = self._read(path, selector, groups)
        chosen, numbers, about = listing.choose(source, split, EVERY, labels, classes)
        return Arrays(x[chosen], torch.tensor(numbers) if labels else None).describe(about)

    def _read(self, path: Path, selector: str | None, groups: str | None) -> tuple[Tensor, Listing]:
        """The points of a table, and what it says of them."""
        header, rows = read_table(path)
        group = pick_columns(path, header, groups)[0] if groups else None
        label = next((i for i, name in enumerate(header) if name.lower() in LABELS), None)
        kinds = [(i, kind) for i, kind in enumerate(column_kinds(rows)) if i not in (group, label)]
        numeric = [i for i, kind in kinds if kind == "number"]
        text = ([] if label is None else [label]) + [i for i, kind in kinds if kind == "text"]
        named = [] if selector is None else [row for row in rows if selector in [row[i] for i in text]]
        if named and selector not in header:
            rows = named
        elif selector is not None:
            numeric = pick_columns(path, header, selector)
        names = [header[i] for i in numeric]
        if len(numeric) != self.dimensions:
            found = ", ".join(names) or "none"
            raise MediaError(
                f"{path}: expected {self.dimensions} columns of numbers, found {found}; pick some as FILE:A,B"
            )
        x = to_numbers(path, names, [[row[i] for i in numeric] for row in rows])
        labels = [row[text[0]] for row in rows] if text else []
        persons = [row[group] for row in rows] if group is not None else []
        return torch.from_numpy(x), Listing([f"row {i + 1}" for i in range(len(x))], labels, [], persons)


def draw_densities(
    figure: "Figure | SubFigure",
    title: str,
    x: Tensor,
    densities: Mapping[str, Callable[[Tensor], Tensor]],
    samples: Mapping[str, Tensor],
    resolution: int = 120,
) -> None:
    """Draw densities and samples of points into a matplotlib figure, a column for each name of `samples`.

    In one dimension curves over the histogram of the points, "the truth" dotted in every panel, above the samples; in
    two dimensions maps on one scale of colours, and samples below them. A name without a density has a histogram.

    Arguments:
        x: points [n, 1 or 2], whose range with a margin is drawn.
        densities: by their names, functions of points [m, 1 or 2] that give the density there, shape [m].
        samples: points [m, 1 or 2].
        resolution: points along an axis of a map; a curve has four times as many.
    """
    low, high, count = x.amin(0), x.amax(0), resolution * (4 if x.shape[1] == 1 else 1)
    ends = torch.stack([low - 0.1 * (high - low), high + 0.1 * (high - low)], 1).tolist()
    axes = [torch.linspace(start, end, count) for start, end in ends]
    grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    values = {name: density(grid).float().numpy() for name, density in densities.items()}
    # Single bright points do not set the scale.
    peak = np.median([np.quantile(density, 0.995) for density in values.values()]) if values else None
    panels = figure.subplots(len(axes), len(samples), squeeze=False)
    for (upper, *lower), (name, drawn) in zip(panels.T, samples.items(), strict=True):
        upper.set_title(f"{title}\n{name}", fontsize=9)
        for panel in (upper, *lower):
            panel.set(xlim=ends[0], **({"ylim": ends[1]} if lower else {}))
            panel.tick_params(labelsize=7)
        if not lower:
            upper.hist(x[:, 0].numpy(), bins=80, range=ends[0], density=True, color="lightgrey")
            upper.plot(drawn[:, 0].numpy(), np.full(len(drawn), -0.015), "|", color="tab:blue", alpha=0.2)
            for shown, style in (("the truth", "k:"), (name, "-")):
                if shown in values:
                    upper.plot(axes[0].numpy(), values[shown], style, linewidth=1)
            continue
        lower[0].scatter(*drawn.T.numpy(), s=2, color="tab:blue")
        if name in values:
            image = values[name].reshape(count, count).T
            upper.pcolormesh(*map(Tensor.numpy, axes), image, vmin=0, vmax=peak, cmap="magma", rasterized=True)
        else:
            upper.hist2d(*x.T.numpy(), bins=40, cmap="magma")
