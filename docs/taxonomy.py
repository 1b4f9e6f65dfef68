"""Write the table of families into contract.md, from the classes themselves.

python docs/taxonomy.py
"""

from collections.abc import Iterable
from pathlib import Path

from zoo import model
from zoo.catalog import FAMILIES

PAGE = Path(__file__).parent / "contract.md"
START, END = "<!-- taxonomy -->\n", "<!-- /taxonomy -->"

HEADER = """\
| family | is | `log_prob` | latent space | made by |
| --- | --- | --- | --- | --- |
"""


def table(families: Iterable[str]) -> str:
    """A row for every family: what it is, and what follows from that."""
    rows = [_row(name, model.family_class(name)) for name in families]
    return HEADER + "".join(rows)


def _row(name: str, cls: type[model.GenerativeModel]) -> str:
    score = "no"
    if issubclass(cls, model.Explicit):
        score = "exact" if cls.exact else "a lower bound"
    latent = "yes" if issubclass(cls, model.Latent) else "no"
    made = f"`{cls.__name__}.fit`" if hasattr(cls, "fit") else "`train`"
    return f"| `{name}` | {_kind(cls)} | {score} | {latent} | {made} |\n"


def _kind(cls: type[model.GenerativeModel]) -> str:
    """The most special classes of the contract that a family derives from."""
    if issubclass(cls, model.Variational):
        return "Variational"
    bases = [b for b in (model.Explicit, model.Latent) if issubclass(cls, b)]
    return ", ".join(base.__name__ for base in bases) or "GenerativeModel"


def main() -> None:
    """Put the table between its marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    text = before + START + table(FAMILIES) + END + after
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
