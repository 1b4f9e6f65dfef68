"""The gallery: pictures of every bundled model on one page, each with the line of code that makes it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import track

from zoo.autoregressive.model import Autoregressive
from zoo.card import read_figures
from zoo.catalog import Bundled, format_size, models
from zoo.hub import load
from zoo.model import Explicit, GenerativeModel, Latent
from zoo.variational.nvae import NVAE

if TYPE_CHECKING:
    from PIL.Image import Image

COUNTS = {"points": 1000, "signals": 16, "meshes": 12}
"""How many samples fill a picture of a medium; 36 of the others."""


@dataclass(frozen=True)
class Picture:
    """A picture on the page: its file, what it shows, and the line that makes it."""

    file: str
    title: str
    caption: str
    code: str


def write_gallery(folder: Path) -> Path:
    """Draw every bundled model and write index.html with the pictures beside it. Returns the page's path."""
    bundled = models()
    if not bundled:
        raise ValueError("no models are bundled with this installation, so there is nothing to show")
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    entries = [_entry(model, folder) for model in track(bundled, "Drawing the gallery", console=console)]
    page = folder / "index.html"
    page.write_text(_render(entries), encoding="utf-8")
    return page


def _entry(bundled: Bundled, folder: Path) -> dict[str, Any]:
    """Draw one model. What the page prints is what runs here, so that code and picture cannot drift apart."""
    model = load(bundled.name)
    drawing = _drawing(model)
    scope: dict[str, Any] = {"model": model, "torch": torch}
    exec(drawing, scope)
    pictures = []
    for title, caption, code in _lines(model):
        image: Image = eval(code, scope)
        file = f"{bundled.name}-{title.lower()}.png"
        image.save(folder / file)
        pictures.append(Picture(file, title, caption, code))
    return {
        "model": bundled,
        "ability": _ability(model),
        "code": f'model = load("{bundled.name}")\n{drawing}',
        "pictures": pictures,
        "figures": read_figures(bundled.folder),
    }


def _drawing(model: GenerativeModel) -> str:
    """The code that draws the samples `x`, of the classes `y` in turn (ten of them at most) where there are any.

    Points are drawn with their noise, which is part of a density; other media show the likelihood's mean.
    """
    columns = min(model.classes or 0, 10)
    n = COUNTS.get(model.modality.kind, 36)
    if columns and model.modality.kind != "points":
        n = 4 * columns
    mean = "" if model.modality.kind == "points" else ", mean=True"
    seed = "generator=torch.Generator().manual_seed(0)"
    if not columns:
        return f"x = model.sample({n}{mean}, {seed})"
    return f"y = torch.arange({n}) % {columns}\nx = model.sample({n}, condition=y{mean}, {seed})"


def _lines(model: GenerativeModel) -> list[tuple[str, str, str]]:
    """Title, caption and code of every picture of a model."""
    columns = min(model.classes or 4, 10)
    samples = ("Samples", "Drawn from the model.", "model.modality.show(x)")
    if model.classes is not None and model.modality.kind != "points":
        samples = ("Samples", "Drawn from the model, a column a class.", f"model.modality.show(x, columns={columns})")
    if isinstance(model, Autoregressive) and model.modality.kind in ("images", "signals"):
        half = model.positions[0] // 2
        known = f"torch.arange({model.positions[0]}){'[:, None]' * (len(model.positions) - 1)} < {half}"
        ends = f"model.complete(x[:4].repeat_interleave(8, 0), {known}, generator=torch.Generator().manual_seed(1)"
        condition = "" if model.classes is None else ", condition=y[:4].repeat_interleave(8)"
        caption = "The first half of four samples, completed eight times each: a row a sample."
        return [samples, ("Completion", caption, f"model.modality.show({ends}{condition}), columns=8)")]
    if not isinstance(model, Latent) or model.modality.shape == (1,):
        return [samples]  # on a line there is nothing to see of a walk
    steps, row = (33, "a trail") if model.modality.kind == "points" else (9, "a row")
    # Items of one class lie `columns` apart: a walk stays within a class.
    pairs = min(columns, 4)
    ends = f"x[:{pairs}], x[{columns}:{columns + pairs}], {steps}"
    condition, first = ("", "") if model.classes is None else (f", condition=y[:{pairs}]", ", condition=y[:1]")
    pictures = [samples]
    if model.modality.kind == "images":
        caption = "The same noise at temperatures of 0.5, 0.7, 0.85 and 1, a row each: from typical to varied."
        given = "" if model.classes is None else f", condition=y[:{2 * pairs}]"
        seed = "generator=torch.Generator().manual_seed(1)"
        drawer = f"model.readjusted(t, batches=20, n=32, {seed})" if isinstance(model, NVAE) else "model"
        drawn = f"{drawer}.sample({2 * pairs}, temperature=t, mean=True{given}, {seed})"
        rows = f"torch.cat([{drawn} for t in (0.5, 0.7, 0.85, 1.0)])"
        pictures.append(("Temperature", caption, f"model.modality.show({rows}, columns={2 * pairs})"))
    return [
        *pictures,
        (
            "Interpolation",
            f"Walks through the latent space between two samples, {row} for each pair.",
            f"model.modality.show(model.interpolate({ends}{condition}).flatten(0, 1), columns={steps})",
        ),
        (
            "Traversal",
            f"One sample, {row} for each of up to eight latent dimensions, set to -3, ..., 3 standard deviations.",
            f"model.modality.show(model.traverse(x[:1]{first}).flatten(0, 2), columns=7)",
        ),
    ]


def _ability(model: GenerativeModel) -> str:
    """What a model can do, in a few words."""
    parts = ["samples"]
    if isinstance(model, Explicit):
        parts.append("scores exactly" if model.exact else "scores by a lower bound")
    if isinstance(model, Latent):
        parts.append("has a latent space")
    if isinstance(model, Autoregressive):
        parts.append("completes what has begun")
    return ", ".join(parts)


def _render(entries: list[dict[str, Any]]) -> str:
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(PAGE).render(entries=entries, format_size=format_size)


PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>latent-zoo: the gallery</title>
<style>
  :root { color-scheme: light dark; --line: light-dark(#d8dde3, #3a4149); --soft: light-dark(#5a6570, #9aa5b1);
          --card: light-dark(#f6f8fa, #1b2026); --accent: light-dark(#0b5cad, #7db9ff); }
  body { font: 16px/1.55 system-ui, sans-serif; max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem;
         background: light-dark(#fff, #12161a); color: light-dark(#1c2126, #e4e8ec); }
  h1 { margin: 0 0 .25rem; }
  h2 { margin: 0; font-size: 1.35rem; }
  a { color: var(--accent); }
  nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; }
  section { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 1.5rem; }
  .facts, figcaption { color: var(--soft); font-size: .925rem; }
  .facts { margin: .25rem 0 .75rem; }
  pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem;
        white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; margin: .5rem 0; }
  .pictures { display: grid; gap: 1.5rem; margin-top: 1.25rem; align-items: start;
              grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
  figure { margin: 0; min-width: 0; }
  figure img { display: block; max-width: 100%; height: auto; border-radius: 6px; background: #fff; }
  h3 { font-size: 1rem; margin: 0 0 .5rem; }
  figcaption { margin-top: .5rem; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; font-size: .925rem; margin-top: 1rem; }
  th, td { text-align: left; vertical-align: top; padding: .3rem 1.25rem .3rem 0;
           border-bottom: 1px solid var(--line); }
</style>
</head>
<body>
<header>
  <h1>The gallery</h1>
  <p>What the bundled models generate, and the code that makes each picture. Begin with
  <code>import torch</code> and <code>from zoo import load</code>; the code of a model goes on from there.</p>
  <nav aria-label="Models"><ul>
  {% for entry in entries %}
    <li><a href="#{{ entry.model.name }}">{{ entry.model.name }}</a></li>
  {% endfor %}
  </ul></nav>
</header>
<main>
{% for entry in entries %}
<section id="{{ entry.model.name }}">
  <h2>{{ entry.model.name }}</h2>
  <p class="facts">{{ entry.model.medium }} &middot; {{ entry.model.family }} &middot; {{ entry.ability }} &middot;
  {{ format_size(entry.model.size) }}</p>
  <p>{{ entry.model.summary }}</p>
  <pre><code>{{ entry.code }}</code></pre>
  <div class="pictures">
  {% for picture in entry.pictures %}
    <figure>
      <h3>{{ picture.title }}</h3>
      <a href="{{ picture.file }}">
        <img src="{{ picture.file }}" alt="{{ picture.title }} of {{ entry.model.name }}">
      </a>
      <figcaption>{{ picture.caption }}<pre><code>{{ picture.code }}</code></pre></figcaption>
    </figure>
  {% endfor %}
  </div>
  {% if entry.figures %}
  <div class="scroll"><table>
    <thead><tr><th>figure</th><th>data</th><th>measured</th><th>published</th></tr></thead>
    <tbody>
    {% for figure in entry.figures %}
      <tr><td>{{ figure.label }}</td><td>{{ figure.data }}</td><td>{{ figure.measured }}</td>
      <td>{{ figure.reference }}</td></tr>
    {% endfor %}
    </tbody>
  </table></div>
  {% endif %}
</section>
{% endfor %}
</main>
</body>
</html>
"""
