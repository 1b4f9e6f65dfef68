"""Write the tables that the code knows: families into contract.md, bundled
models into index.md and, with their figures, into README.md.

python docs/tables.py
"""

from collections.abc import Iterable
from pathlib import Path

from zoo import model
from zoo.card import read_figures
from zoo.catalog import FAMILIES, Bundled, format_size, models
from zoo.configuration import family_class
from zoo.showcase import abilities

DOCS = Path(__file__).parent
CONTRACT, HOME, README = (
    DOCS / "contract.md",
    DOCS / "index.md",
    DOCS.parent / "README.md",
)

FAMILY_HEADER = """\
| family | is | `log_prob` | latent space | made by |
| --- | --- | --- | --- | --- |
"""
MODEL_HEADER = """\
| model | medium | family | measured | size |
| --- | --- | --- | --- | --- |
"""

BUNDLED_HEADER = """\
| medium | models |
| --- | --- |
"""


def family_table(families: Iterable[str]) -> str:
    """A row for every family: what its class is, and what follows from that."""
    rows = [_family_row(name, family_class(name)) for name in families]
    return FAMILY_HEADER + "".join(rows)


def _family_row(name: str, cls: type[model.GenerativeModel]) -> str:
    able = abilities(cls)
    latent = "yes" if able.latent else "no"
    made = f"`{cls.__name__}.fit`" if hasattr(cls, "fit") else "`train`"
    return f"| `{name}` | {_kind(cls)} | {able.score} | {latent} | {made} |\n"


def _kind(cls: type[model.GenerativeModel]) -> str:
    """The most special classes of the contract that a family derives from."""
    if issubclass(cls, model.Variational):
        return "Variational"
    bases = [b for b in (model.Explicit, model.Latent) if issubclass(cls, b)]
    return ", ".join(base.__name__ for base in bases) or "GenerativeModel"


def model_table(bundled: Iterable[Bundled]) -> str:
    """A row for every bundled model, with the figures of its card."""
    return MODEL_HEADER + "".join(map(_model_row, bundled))


def _model_row(entry: Bundled) -> str:
    """Figures of one set of data stand together after its name."""
    by_data: dict[str, list[str]] = {}
    for figure in read_figures(entry.folder):
        told = f"{figure.label} {figure.measured}"
        by_data.setdefault(figure.data, []).append(told)
    cells = [
        f"[`{entry.name}`](zoo/checkpoints/{entry.name})",
        entry.medium,
        entry.family,
        "<br>".join(f"{data}: {'; '.join(f)}" for data, f in by_data.items()),
        format_size(entry.size),
    ]
    return f"| {' | '.join(cells)} |\n"


def bundled_table(bundled: Iterable[Bundled]) -> str:
    """A row for every medium, with the names of its bundled models."""
    names: dict[str, list[str]] = {}
    for entry in bundled:
        names.setdefault(entry.medium, []).append(f"`{entry.name}`")
    rows = [f"| {medium} | {', '.join(of)} |\n" for medium, of in names.items()]
    return BUNDLED_HEADER + "".join(rows)


def put(text: str, name: str, table: str) -> str:
    """A page with the table between the marks of that name."""
    before, start, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    return before + start + table + end + after


def tables() -> list[tuple[Path, str, str]]:
    """Every page with a table, the name of the table, and the table."""
    return [
        (CONTRACT, "families", family_table(FAMILIES)),
        (HOME, "bundled", bundled_table(models())),
        (README, "models", model_table(models())),
    ]


def main() -> None:
    """Bring the pages up to date."""
    for page, name, table in tables():
        text = page.read_text(encoding="utf-8")
        page.write_text(put(text, name, table), encoding="utf-8")


if __name__ == "__main__":
    main()
