"""What several commands take, and how commands print."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

from rich.console import Console
from rich.text import Text
from tyro.conf import Positional, arg

# What needs torch is imported by the command that needs it: torch takes seconds, and `zoo list` answers at once.
if TYPE_CHECKING:
    from modalities.data import Tree
    from zoo.model import GenerativeModel, Latent

Output = Annotated[Path, arg(aliases=("-o",), metavar="PATH")]


class Command(Protocol):
    """What the options of a command are read into."""

    def run(self) -> None: ...


def show(what: object) -> None:
    """Print a table or a text, with the square brackets and colons of names and paths as they are."""
    Console(markup=False, emoji=False, highlight=False).print(what)


def printable(text: object) -> str:
    """A text without control characters, which could steer the terminal: a stranger may have written it."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", " ", str(text))


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What every command takes that loads a model."""

    name: Positional[str]  # A bundled model, a folder, or a Hub repository org/name.
    revision: str | None = None  # Branch, tag or commit of a Hub repository.
    device: str = "cpu"  # cpu, cuda, cuda:1, ...

    def load(self) -> "GenerativeModel":
        with Console(stderr=True).status(Text(f"Loading {self.name}")):
            from zoo.hub import load

            return load(self.name, revision=self.revision, device=self.device)

    def load_latent(self) -> "Latent":
        from zoo.model import Latent

        model = self.load()
        if not isinstance(model, Latent):
            raise ValueError(f"{self.name} is a {type(model).__name__} and has no latent space; it can only be sampled")
        return model


@dataclass(frozen=True, kw_only=True)
class Telling(Loading):
    """What every command takes that may tell a model something."""

    condition: str | None = None  # What the model is told: a class by name or number, or one for each item: 0,1,2.

    def told(self, model: "GenerativeModel") -> object:
        """The condition; a model that takes none gets the words as they are, and refuses them."""
        if self.condition is None or model.condition is None:
            return self.condition
        return model.condition.parse(self.condition)


@dataclass(frozen=True, kw_only=True)
class Making(Telling):
    """What every command takes that writes what a model makes."""

    output: Output  # The folder to write to, or a file of the medium: face.glb.


@dataclass(frozen=True, kw_only=True)
class Reading(Telling):
    """What every command takes that reads files."""

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE...", help_behavior_hint="")] = ()
    # Files of the model's medium, or folders of them.

    def conditions(self, model: "GenerativeModel", n: int) -> "Tree":
        """The conditions of n files, prepared. Raises ValueError where the model is told something and nothing is said:
        it would be drawn, and files have what they have."""
        if model.condition is not None and self.condition is None:
            noun = model.condition.noun
            raise ValueError(f"{self.name} is told a {noun}: give --condition, one {noun} or one for each of {n} files")
        return model.prepare_condition(self.told(model), n)
