"""What can be shown of a model: the gallery, the card, the training log and recipes draw from here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from modalities import Modality
    from zoo.autoregressive.model import Autoregressive
    from zoo.model import GenerativeModel, Latent

ROWS = 4
"""How many samples of every condition are shown."""
COLUMNS = 10
"""How many conditions are shown at most."""
TEMPERATURES = (0.5, 0.7, 0.85, 1.0)
SEED = "generator=torch.Generator().manual_seed({})"


@dataclass(frozen=True)
class Exhibit:
    """Something to show of a model: a title, a sentence, and the code that makes it.

    `code` is an expression over `model`, its samples `x`, their conditions `y` where the model is told any, and
    `torch`. Its value is a batch, to be shown with so many `columns`, or as the medium likes where that is None.
    """

    title: str
    caption: str
    code: str
    columns: int | None = None

    @property
    def line(self) -> str:
        """The line of code that gives the picture."""
        columns = "" if self.columns is None else f", columns={self.columns}"
        return f"model.modality.show({self.code}{columns})"


def draw(
    model: "GenerativeModel", exhibits: "Sequence[Exhibit] | None" = None, temperature: float = 1.0
) -> "Iterator[tuple[Exhibit, Tensor]]":
    """Run the code of a model's exhibits, or of those given: each with the batch to show, on the model's device.

    The samples that they are about are drawn at a temperature.
    """
    import torch

    scope: dict[str, object] = {"model": model, "torch": torch}
    exec(samples_code(model, temperature), scope)
    for exhibit in model.exhibits() if exhibits is None else exhibits:
        yield exhibit, eval(exhibit.code, scope)


def samples_code(model: "GenerativeModel", temperature: float = 1.0) -> str:
    """The code that draws the samples `x`, in turn of the conditions `y` where the model is told any."""
    medium, columns = model.modality, len(conditions(model))
    cool = "" if temperature == 1 else f", temperature={temperature:g}"
    rest = f"{cool}{'' if medium.draws else ', mean=True'}, {SEED.format(0)})"
    if not columns:
        return f"x = model.sample({medium.sheet}{rest}"
    rows = medium.sheet // columns if medium.together else ROWS
    told = f"y = model.condition.examples({columns}) * {rows}"
    return f"{told}\nx = model.sample({rows * columns}, condition=y{rest}"


def real_items(medium: "Modality", data: object) -> "Image | None":
    """A picture of items from all over a data set, as many as samples are shown; None where those cannot be read.

    `data` is what `modalities.data.as_dataset` takes."""
    from modalities.data import as_dataset, fetch

    data = as_dataset(data)
    count = min(len(data), medium.sheet)
    batch, _ = fetch(data, [i * len(data) // count for i in range(count)], medium)
    return None if batch is None else medium.show(batch.x)


def samples_exhibit(model: "GenerativeModel") -> Exhibit:
    """The samples themselves."""
    told = conditions(model)
    if not told or model.modality.together:
        return Exhibit("Samples", "Drawn from the model.", "x")
    return Exhibit("Samples", f"Drawn from the model, a column each: {', '.join(map(str, told))}.", "x", len(told))


def latent_exhibits(model: "Latent") -> list[Exhibit]:
    """Samples at several temperatures, walks between samples and, of a vector of latents, its single dimensions."""
    medium, columns = model.modality, len(conditions(model))
    if not medium.steps:
        return []
    # Samples of one condition lie `columns` apart: a walk stays within one.
    apart = columns or 4
    pairs = min(apart, 4)
    row = "a trail" if medium.together else "a row"
    walk, start, noise = "", "", ""
    if columns:
        walk, start, noise = f", condition=y[:{pairs}]", ", condition=y[:1]", f", condition=y[:{2 * pairs}]"
    ends = f"x[:{pairs}], x[{apart}:{apart + pairs}], {medium.steps}"
    wide = min(2 * pairs, medium.steps - 1)
    cool = f"model.sample({wide}, temperature=t, mean=True{noise}, {SEED.format(1)})"
    temperatures = Exhibit(
        "Temperature",
        "From the same seed at temperatures of 0.5, 0.7, 0.85 and 1, a row each: from typical to varied.",
        f"torch.cat([{cool} for t in {TEMPERATURES}])",
        wide,
    )
    interpolation = Exhibit(
        "Interpolation",
        f"Walks through the latent space between two samples, {row} for each pair.",
        f"model.interpolate({ends}{walk}).flatten(0, 1)",
        medium.steps,
    )
    shown = [interpolation] if medium.together else [temperatures, interpolation]
    return [*shown, *_traversal(model, start, row)]


def _traversal(model: "Latent", start: str, row: str) -> list[Exhibit]:
    """What moves alone: the elements of a vector of latents, whole groups of a hierarchy; nothing of a grid, where a
    single element changes too little to be seen."""
    values = (-3, -2, -1, 0, 1, 2, 3) if model.modality.steps > 6 else (-3, -1.5, 0, 1.5, 3)
    few = "" if len(values) == 7 else f", values={values}"
    try:
        if len(model.latents().shape) != 1:
            return []
        what = "latent dimensions, those that tell most, set to -3, ..., 3 standard deviations"
        code = f"model.traverse(x[:1]{few}{start}).flatten(0, 2)"
    except ValueError:
        what = "groups of latents, those of the largest KL first, moved along a random direction and back"
        code = f'model.traverse(x[:1], along="groups"{few}{start}).flatten(0, 2)'
    return [Exhibit("Traversal", f"One sample, {row} for each of up to eight {what}.", code, len(values))]


def completion_exhibit(model: "Autoregressive") -> Exhibit:
    """Samples of which the first half of the positions is kept and the rest is drawn again."""
    medium, positions = model.modality, model.positions
    times = medium.sheet // 4 if medium.together else min(7, medium.steps - 1)
    known = f"torch.arange({positions[0]}){'[:, None]' * (len(positions) - 1)} < {positions[0] // 2}"
    told = f", condition=[c for c in y[:4] for _ in range({times})]" if conditions(model) else ""
    if medium.together:
        code = f"model.complete(x[:4].repeat_interleave({times}, 0), {known}{told}, {SEED.format(1)})"
        return Exhibit("Completion", f"The first half of four samples, completed {times} times each.", code, times)
    many = f"model.complete(x[:4].repeat_interleave({times}, 0), known{told}, {SEED.format(1)})"
    given = f"torch.where(known := {known}, x[:4], 0.0)[:, None]"
    return Exhibit(
        "Completion",
        f"A row a sample: in front the half that is given, the rest of it left at 0, then {times} ways to go on.",
        f"torch.cat([{given}, {many}.unflatten(0, (4, {times}))], 1).flatten(0, 1)",
        times + 1,
    )


def beginning(medium: "Modality", part: float) -> "Tensor":
    """Which elements of an item belong to the first part of it, booleans that broadcast to items: of a grid the first
    rows or the first time, of a vector the first numbers, rounded to whole ones."""
    import torch

    axes = medium.grid or medium.shape
    kept = round(part * axes[0])
    if not 0 < kept < axes[0]:
        raise ValueError(f"the known part must be above 0 and below 1, and some of {axes[0]} rows or steps; got {part}")
    return (torch.arange(axes[0]) < kept).view(-1, *[1] * (len(axes) - 1))


def conditions(model: "GenerativeModel", most: int = COLUMNS) -> list[object]:
    """The conditions that a model is shown with, none of them twice; empty where it is told nothing."""
    examples = [] if model.condition is None else model.condition.examples(most)
    return [given for i, given in enumerate(examples) if given not in examples[:i]]


@runtime_checkable
class Completes(Protocol):
    """A model that draws the rest of an item that has begun."""

    def complete(
        self,
        x: "Tensor",
        known: "Tensor",
        *,
        condition: object = None,
        temperature: float = 1.0,
        generator: "torch.Generator | None" = None,
    ) -> "Tensor":
        """Items, shape [batch, ...], with what is `known` as it was and the rest drawn given that."""


class Abilities(NamedTuple):
    """What can be asked of a model besides samples."""

    score: str
    """"exact", "a lower bound", or "no"."""
    latent: bool
    """Whether it encodes and decodes."""
    completes: bool
    """Whether it draws the rest of an item that has begun."""

    def __str__(self) -> str:
        parts = ["samples"]
        if self.score != "no":
            parts.append("scores exactly" if self.score == "exact" else f"scores by {self.score}")
        if self.latent:
            parts.append("has a latent space")
        if self.completes:
            parts.append("completes what has begun")
        return ", ".join(parts)


def abilities(model: "GenerativeModel | type[GenerativeModel]") -> Abilities:
    """What a model, or every model of a class, can be asked."""
    score = "exact" if getattr(model, "exact", False) else "a lower bound"
    scores = hasattr(model, "log_prob") and getattr(model, "scores", True)
    return Abilities(score if scores else "no", hasattr(model, "encode"), hasattr(model, "complete"))
