"""The model card: README.md of a checkpoint, in the Hub's form, with the figures that were measured."""

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from modalities import adapter
from modalities.files import write_aside

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

CARD, PICTURE, DATA = "README.md", "samples.png", "data.png"

DETAILS = ("unit", "kind", "error", "published", "source")
"""The fields of a `Figure` that the Hub's form of a result has no place for; they travel as the metric's arguments."""


@dataclass(frozen=True)
class Figure:
    """One measured number of a model, with what it takes to read it.

    Arguments:
        metric: what was measured ("NLL", "bits/dim", "PSNR").
        value: the number, in `unit`.
        data: on what ("MNIST test, first 1,000, binarised with seed 0").
        unit: "nats", "dB"; empty for a pure number.
        kind: for a likelihood "mass" or "density", with "bound on a" before it where it is not exact: masses and
            densities cannot be compared. For a distance of features, the network that makes them.
        error: the standard error of `value`.
        published: what the paper reports for the same quantity.
        source: where (authors, title, year).
    """

    metric: str
    value: float
    data: str
    unit: str = ""
    kind: str = ""
    error: float | None = None
    published: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"a figure must be a finite number, got {self.metric} = {self.value}")

    @property
    def label(self) -> str:
        """The metric with its kind."""
        return f"{self.metric} ({self.kind})" if self.kind else self.metric

    @property
    def measured(self) -> str:
        """The value with its error and unit, as a table shows it."""
        error = "" if self.error is None else f" ± {_number(self.error, 2)}"
        return f"{_number(self.value)}{error} {self.unit}".strip()

    @property
    def reference(self) -> str:
        """The published value with its source; empty where there is none."""
        if self.published is None:
            return ""
        value = f"{_number(self.published)} {self.unit}".strip()
        return f"{value} ({self.source})" if self.source else value


def _number(value: float, digits: int = 4) -> str:
    """A number of so many digits, without a power of ten where it is large."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


@dataclass(frozen=True)
class Card:
    """What the author of a checkpoint says about it.

    Arguments:
        summary: one sentence; listings show it.
        data: what it was trained on, where that comes from and its licence.
        licence: of the weights, as the Hub names it ("apache-2.0", "cc-by-4.0").
        figures: what was measured.
        paper: authors, title, year.
        trained: how long and on what machine.
        temperature: at which samples of the model are worth looking at; the gallery draws them there.
    """

    summary: str
    data: str
    licence: str = "apache-2.0"
    figures: tuple[Figure, ...] = field(default=())
    paper: str = ""
    trained: str = ""
    temperature: float = 1.0


TEMPLATE = """\
---
{{ card_data }}
---

# {{ name }}

{{ card.summary }}
{% for title, file in pictures %}

![{{ title }}]({{ file }})
{% endfor %}

```python
from zoo import load
model = load("{{ name }}")
```

`model.sample(16{{ cool }})` draws {{ medium }}; `model.modality.save` writes them to files.

## Figures

<!-- figures -->
{{ table }}
<!-- /figures -->

## Data

{{ card.data }}

## Training

Family `{{ family }}`, {{ "{:,}".format(parameters) }} numbers{% if half %}, stored in half precision{% endif %}.
{%- if card.trained %} {{ card.trained }}{% endif %}
{% if card.paper %}
## Paper

{{ card.paper }}
{% endif %}"""


def render(
    card: Card, *, name: str, family: str, medium: str, parameters: int, half: bool, files: Collection[str]
) -> str:
    """The text of README.md: the Hub's metadata, the figures as model-index results, and prose for people.

    Of the `files` beside it, it shows samples.png and data.png, real items to compare with.
    """
    from huggingface_hub import ModelCard, ModelCardData

    task = adapter(medium).task if medium else None
    data = ModelCardData(
        license=card.licence,
        library_name="latent-zoo",
        pipeline_tag=task,
        tags=["latent-zoo", family, medium],
        model_name=name,
        eval_results=[_to_result(figure, task) for figure in card.figures],
        sampling_temperature=None if card.temperature == 1 else card.temperature,
    )
    pictures = [(f"Samples of {name}", PICTURE), ("Real items to compare with", DATA)]
    return ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        card=card,
        name=name,
        family=family,
        medium=medium,
        parameters=parameters,
        half=half,
        cool="" if card.temperature == 1 else f", temperature={card.temperature:g}",
        pictures=[(title, file) for title, file in pictures if file in files],
        table=table(card.figures),
    ).content


def table(figures: Iterable[Figure]) -> str:
    """A Markdown table, measured beside published."""
    rows = [f"| {figure.label} | {figure.data} | {figure.measured} | {figure.reference} |" for figure in figures]
    header = ["| figure | data | measured | published |", "|---|---|---|---|"]
    return "\n".join(header + rows) if rows else "None measured yet."


def read_figures(folder: Path) -> list[Figure]:
    """The figures of a checkpoint's card; none where it has no card. Raises ValueError where they cannot be read."""
    return _read(folder / CARD)[2] if (folder / CARD).is_file() else []


def read_temperature(folder: Path) -> float:
    """The temperature at which samples are worth looking at, as the card of a checkpoint has it; else 1.

    Raises ValueError where it is none."""
    found = getattr(_read(folder / CARD)[0], "sampling_temperature", None) if (folder / CARD).is_file() else None
    if found is not None and not (isinstance(found, (int, float)) and 0 <= found < math.inf):
        raise ValueError(f"{folder / CARD}: sampling_temperature is a number of at least 0, got {found!r:.40}")
    return 1.0 if found is None else float(found)


def card_sections(folder: Path) -> list[tuple[str, str]]:
    """The sections of a checkpoint's card but for its figures: heading and HTML, with any HTML of the card escaped."""
    from markdown_it import MarkdownIt

    parts = re.split(r"^## +(.*)$", _read(folder / CARD)[1], flags=re.MULTILINE)
    convert = MarkdownIt("commonmark", {"html": False}).disable("image").render
    return [(title, convert(text)) for title, text in zip(parts[1::2], parts[2::2], strict=True) if title != "Figures"]


def _read(path: Path) -> "tuple[ModelCardData, str, list[Figure]]":
    """The header of a card in the Hub's form, the text below it, and its figures."""
    from huggingface_hub import ModelCard, ModelCardData

    try:
        card = ModelCard.load(path)
        data = card.data
        assert isinstance(data, ModelCardData)
        return data, card.text, [_from_result(result) for result in data.eval_results or []]
    except Exception as error:  # of YAML, and of the Hub's form
        raise ValueError(f"the header of {path} cannot be read: {' '.join(str(error).split())}") from error


def write_figures(folder: Path, figures: Iterable[Figure]) -> None:
    """Put figures into an existing card, each in place of an earlier one of the same metric, kind and data."""
    path = folder / CARD
    if not path.is_file():
        raise ValueError(f"{folder} has no {CARD} to write figures to; `zoo.save` writes one")
    data, text, former = _read(path)
    known = {(f.metric, f.kind, f.data): f for f in [*former, *figures]}
    data.eval_results = [_to_result(figure, data.pipeline_tag) for figure in known.values()]
    data.model_name = data.model_name or folder.name
    block = f"<!-- figures -->\n{table(known.values())}\n<!-- /figures -->"
    pattern = re.compile(r"<!-- figures -->.*<!-- /figures -->", re.DOTALL)
    text, found = pattern.subn(lambda _: block, text)
    if not found:
        text += f"\n## Figures\n\n{block}\n"
    with write_aside(path) as part:
        part.write_text(f"---\n{data.to_yaml()}\n---\n{text}", encoding="utf-8")


def _to_result(figure: Figure, task: str | None) -> "EvalResult":
    """The Hub's form of a figure; what the form has no field for goes into the metric's arguments."""
    from huggingface_hub import EvalResult

    details = {name: getattr(figure, name) for name in DETAILS}
    return EvalResult(
        task_type=task or "other",
        dataset_type=re.sub(r"\W+", "-", figure.data.lower()).strip("-"),
        dataset_name=figure.data,
        metric_type=re.sub(r"\W+", "-", figure.metric.lower()).strip("-"),
        metric_name=figure.metric,
        metric_value=figure.value,
        metric_args={name: value for name, value in details.items() if value not in ("", None)},
    )


def _from_result(result: "EvalResult") -> Figure:
    details = {name: value for name, value in (result.metric_args or {}).items() if name in DETAILS}
    name = result.metric_name or result.metric_type
    return Figure(name, result.metric_value, result.dataset_name, **details)
