"""Models of one medium side by side: likelihood, quality of samples, time to train, time to sample, size."""

import math
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from modalities import MediaError, Modality
from modalities.data import Arrays, Items, Tree, as_dataset, batches, cut
from zoo.card import CARD, Figure
from zoo.catalog import format_size
from zoo.checkpoint import WEIGHTS
from zoo.configuration import family_name
from zoo.evaluation import features
from zoo.evaluation.features import FeatureNetwork
from zoo.evaluation.likelihood import mean_figure
from zoo.evaluation.samples import condition_of, draw, has_means, quantise, subset
from zoo.evaluation.suite import evaluate
from zoo.model import Explicit, GenerativeModel

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 10
"""How many items a row of the picture shows."""
TIMED, TIMES = 64, 3
"""So many samples are drawn at once, so many times; the median counts."""
CEILING, FLOOR = "training items", "pixels by their frequencies"
"""The rows of no model: real items in the place of samples, and elements that know nothing of each other."""
METRICS = ("Frechet distance", "precision", "recall", "density", "coverage")
"""The statistics of features that the table shows."""
ORDER = ("family", "bits/dim", "NLL", *METRICS, "training", f"{TIMED} samples", "parameters", "file")
"""The columns of the table; empty ones are left out."""


class Entry(NamedTuple):
    """A model with the folder of its checkpoint."""

    name: str
    folder: Path
    model: GenerativeModel


class Row(NamedTuple):
    """A line of the table: what was measured, in words, by the names of the columns."""

    name: str
    samples: Tensor
    """In the model's own levels."""
    cells: dict[str, str]


class Setting(NamedTuple):
    """What is the same for every model: the items are drawn and binarised once."""

    medium: Modality
    real: Tensor
    """Test items, shape [n, ...]."""
    labels: Tree
    """Their labels, which conditional models take over."""
    network: FeatureNetwork | None
    base: Tensor | None
    """The features of the test items, shape [n, d]; None without a network."""
    draws: int
    mean: bool
    seed: int

    def generator(self) -> torch.Generator:
        """The same draws for every model."""
        return torch.Generator().manual_seed(self.seed)

    def compare(self, x: Tensor) -> dict[str, str]:
        """The statistics of samples or of training items beside the test items; none where there is no network."""
        if self.network is None or self.base is None:
            return {}
        found = features.statistics(self.base, self.network(x), self.seed)
        return {name: significant(found[name], 3) for name in METRICS}

    def scorer(self, model: GenerativeModel) -> Explicit | None:
        """What gives a model's likelihood of these items, if anything does."""
        return model.scored_by() if model.modality.levels == self.medium.levels else None


class Comparison(NamedTuple):
    """What `compare` found."""

    setting: Setting
    rows: list[Row]
    """The training items first, then the models in their order, then the floor."""
    notes: list[str]
    """What it takes to read the table."""

    def figures(self) -> dict[str, str]:
        """Every cell of the table under "model: column"."""
        return {f"{row.name}: {column}": cell for row in self.rows for column, cell in row.cells.items()}

    def table(self) -> str:
        """The table in Markdown and the notes below it."""
        names = {f"`{row.name}`" if "family" in row.cells else row.name: row.cells for row in self.rows if row.cells}
        columns = [column for column in ORDER if any(column in cells for cells in names.values())]
        lines = [["model", *columns], ["---"] * (len(columns) + 1)]
        lines += [[name, *(cells.get(column, "–") for column in columns)] for name, cells in names.items()]
        return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *(f"- {note}" for note in self.notes)])

    def show(self, gap: int = 8) -> "Image":
        """The first test items and the first samples of every model, its name at the side."""
        from PIL import Image, ImageDraw, ImageFont

        font, rows = ImageFont.load_default(15), {"test items": self.setting.real}
        rows |= {row.name: row.samples for row in self.rows[1:]}
        strips = {name: self.setting.medium.show(x[:COLUMNS], COLUMNS).convert("RGB") for name, x in rows.items()}
        left = math.ceil(max(font.getlength(name) for name in strips)) + 2 * gap
        width = left + max(strip.width for strip in strips.values())
        sheet, top = Image.new("RGB", (width, sum(strip.height + gap for strip in strips.values())), "white"), 0
        pen = ImageDraw.Draw(sheet)
        for name, strip in strips.items():
            pen.text((gap, top + strip.height / 2), name, fill="black", font=font, anchor="lm")
            sheet.paste(strip, (left, top))
            top += strip.height + gap
        return sheet.crop((0, 0, width, top - gap))


def common_medium(entries: Sequence[Entry]) -> Modality:
    """The medium that all are compared in: that of the model with the fewest levels, 2 where one is binary.

    Raises `MediaError` where models are of several media or sizes.
    """
    said = [f"{entry.model.modality.kind} of shape {list(entry.model.modality.shape)}" for entry in entries]
    for entry, theirs in zip(entries, said, strict=True):
        if theirs != said[0]:
            raise MediaError(
                f"models of one medium and size can be compared: {entries[0].name} is of {said[0]}, {entry.name} of "
                f"{theirs}"
            )
    return min((entry.model.modality for entry in entries), key=lambda medium: medium.levels or 0)


def compare(
    entries: Sequence[Entry],
    test: object,
    training: object,
    name: str,
    *,
    network: FeatureNetwork | None = None,
    items: int = 1000,
    draws: int = 100,
    mean: bool = False,
    seed: int = 0,
) -> Comparison:
    """Measure models on the same test items.

    Likelihoods are those of `zoo.evaluation.suite.evaluate`, of models with as many levels as the items; samples are
    compared in features.

    Arguments:
        test: items of `common_medium(entries)` that no model has seen, or (item, label) for conditional models.
        training: the same of what they were trained on.
        name: of the test data, for the notes.
        network: what makes the features; None leaves them out.
        items: how many test items, evenly spaced; as many samples and training items.
        draws: importance samples an item where a likelihood is a bound.
        mean: end samples of models with latents by the mean of p(x given z), without the noise of single elements.
            Binary models draw their elements all the same: a mean of theirs is grey.
        seed: of the binarisation, the draws and the samples.
    """
    unseen, known = as_dataset(test), as_dataset(training)
    n = min(items, len(unseen), len(known))
    told = [entry for entry in entries if entry.model.condition is not None]
    condition = told[0].model.condition if told else None
    for entry in told:
        if entry.model.condition != condition:
            raise MediaError(
                f"{told[0].name} and {entry.name} are told different things: compare models of one condition"
            )
    real, labels, _ = subset(unseen, n, torch.Generator().manual_seed(seed), condition=condition)
    seen = subset(known, n, torch.Generator().manual_seed(seed)).x
    n = min(len(real), len(seen))  # broken files are left out
    real, seen, labels = real[:n], seen[:n], cut(labels, slice(n))
    network = network if n > features.NEIGHBOURS else None
    base = None if network is None else network(real)
    setting = Setting(common_medium(entries), real, labels, network, base, draws, mean, seed)
    rows = [Row(CEILING, seen, setting.compare(seen)), *(_measure(entry, setting) for entry in entries)]
    if setting.medium.levels is not None:
        rows.append(_independent(known, setting))
    return Comparison(setting, rows, _notes(entries, name, setting))


def _measure(entry: Entry, setting: Setting) -> Row:
    """The row of a model."""
    model = entry.model
    condition, mean = condition_of(model, setting.labels), setting.mean and has_means(model)
    drawn = draw(model, len(setting.real), condition, mean=mean, generator=setting.generator())
    cells, scorer = {"family": _family(model)}, setting.scorer(model)
    if scorer is not None:
        data, draws = Arrays(setting.real, setting.labels), setting.draws
        found = evaluate(scorer, data, "", metrics=["likelihood"], samples=draws, batch_size=64, seed=setting.seed)
        cells |= _cell(found.figures, setting.medium)
    cells |= setting.compare(quantise(drawn, model.modality.levels, setting.medium, setting.generator()))
    seconds = seconds_trained(trained(entry.folder))
    cells |= {} if seconds is None else {"training": duration(seconds)}
    took = []
    for _ in range(TIMES):
        start = time.perf_counter()
        draw(model, TIMED, generator=setting.generator())
        took.append(time.perf_counter() - start)
    cells[f"{TIMED} samples"] = duration(statistics.median(took))
    cells["parameters"] = f"{sum(tensor.numel() for tensor in model.checkpoint().values()):,}"
    cells["file"] = format_size((entry.folder / WEIGHTS).stat().st_size)
    return Row(entry.name, drawn, cells)


def _cell(figures: Sequence[Figure], medium: Modality) -> dict[str, str]:
    """The likelihood in bits a dimension, or in nats where the medium has no levels, with what kind of number it is."""
    wanted = "NLL" if medium.levels is None else "bits/dim"
    return {f.metric: f"{f.measured} ({f.kind})" for f in figures if f.metric == wanted}


def _family(model: GenerativeModel) -> str:
    """The name of a model's family, and those of the models that it is made of: "latent-prior (vq-vae, made)"."""
    parts = [_family(part) for part in model.children() if isinstance(part, GenerativeModel)]
    return family_name(type(model)) + (f" ({', '.join(parts)})" if parts else "")


def _independent(training: Items, setting: Setting) -> Row:
    """Elements that are drawn one by one, each by its own frequencies in the training data: what any model must beat.

    Every level counts once more than it was seen, so that none is impossible.
    """
    d, levels = setting.real[0].numel(), setting.medium.levels or 0

    def to_levels(x: Tensor) -> Tensor:
        """The level of every element, shape [batch, d]."""
        return ((x + 1) * (levels - 1) / 2).round().long().flatten(1)

    counts = torch.ones(d * levels, dtype=torch.double)
    for x, _, _ in batches(training, 500, setting.generator()):
        counts += torch.bincount((to_levels(x) + levels * torch.arange(d)).flatten(), minlength=d * levels)
    share = counts.reshape(d, levels)
    share /= share.sum(1, keepdim=True)
    drawn = torch.multinomial(share, len(setting.real), replacement=True, generator=setting.generator()).T
    samples = (2 / (levels - 1) * drawn.float() - 1).reshape(setting.real.shape)
    bits = -share.log2()[torch.arange(d), to_levels(setting.real)].mean(1)
    figure = mean_figure("bits/dim", bits, "", kind="mass")
    return Row(FLOOR, samples, _cell([figure], setting.medium) | setting.compare(samples))


def _notes(entries: Sequence[Entry], name: str, setting: Setting) -> list[str]:
    """What it takes to read the table."""
    levels, n = setting.medium.levels, f"{len(setting.real):,}"
    values = {None: "", 2: "binarised once, "}.get(levels, f"{levels} levels an element, ")
    said = [
        f"Likelihoods: means over {n} items, evenly spaced over {name}, {values}the same for all models; with standard "
        f"errors. A bound is by {setting.draws} draws an item, where latents are drawn; it is no smaller than what it "
        f"bounds, and may be far above it. All seeds are {setting.seed}."
    ]
    scorers = [(f"`{name}`", model, setting.scorer(model)) for name, _, model in entries]
    remarks = {
        "other levels than the items, so that no bits are given; samples are shown as they are": [
            name for name, model, _ in scorers if model.modality.levels != levels
        ],
        "scored by the density of the same parameters": [
            n for n, model, scorer in scorers if scorer not in (None, model)
        ],
        "scored by the density of dequantised elements plus the bin width": [
            name for name, _, scorer in scorers if scorer and not scorer.discrete and levels is not None
        ],
        "samples end with the mean of p(x given z); draws, which are scored, are noisier": [
            name for name, model, _ in scorers if setting.mean and has_means(model)
        ],
        "samples are told what the test items come with, one for one": [
            n for n, model, _ in scorers if model.condition
        ],
    }
    said += [f"{', '.join(names)}: {remark}." for remark, names in remarks.items() if names]
    if setting.network is None or setting.base is None:
        said.append("Samples are not compared in features: no network is given, or the items are too few.")
    else:
        said.append(
            f"{n} samples of each, at temperature 1, beside {n} items of {name}, in the {setting.base.shape[1]} "
            f"features of: {setting.network.name}. {CEILING.capitalize()} show what can be reached."
        )
    if levels is not None:
        said.append(
            f"{FLOOR.capitalize()}: each is drawn by itself, as often at every level as in the training data, one more "
            "counted for each level. Any model should be better."
        )
    times = [f"`{entry.name}`: {trained(entry.folder).rstrip('.') or 'its card does not say'}" for entry in entries]
    return [*said, f"Training, by the cards. {'; '.join(times)}."]


def trained(folder: Path) -> str:
    """What the card of a checkpoint says of its training; "" where it says nothing."""
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    said = re.search(r"^## Training\s+Family .*? numbers(?:, stored in half precision)?\. ?(.*)$", text, re.MULTILINE)
    return said[1].strip() if said else ""


def seconds_trained(said: str) -> float | None:
    """The time in the words of a card: "in 78 minutes" gives 4,680; None where there is none."""
    found = re.search(r"\bin ([\d,]+(?:\.\d+)?) (s|seconds|min|minutes|h|hours)\b", said, re.IGNORECASE)
    return None if found is None else float(found[1].replace(",", "")) * {"s": 1, "m": 60, "h": 3600}[found[2][0]]


def duration(seconds: float) -> str:
    """A time for people: "3.1 ms", "2 s", "78 min"."""
    if seconds >= 100:
        return f"{seconds / 60:.0f} min"
    return f"{significant(seconds, 2)} s" if seconds >= 1 else f"{significant(1000 * seconds, 2)} ms"


def significant(value: float, digits: int) -> str:
    """A number rounded to so many digits, never as a power of ten: "1190"."""
    return f"{float(f'{value:.{digits}g}'):.12g}"
