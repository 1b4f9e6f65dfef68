"""The command line, `zoo`: look at the bundled models, use any checkpoint, publish your own."""

import contextlib
import functools
import inspect
import io
import operator
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, arg

from zoo.catalog import format_size, models
from zoo.outputs import is_file, read_items, writer

# Everything else is imported by the command that needs it: torch takes seconds, and `zoo list` answers at once.
if TYPE_CHECKING:
    from modalities import Modality
    from modalities.data import Items
    from zoo.evaluation.features import FeatureNetwork
    from zoo.model import GenerativeModel, Latent

HELP = """\
Deep generative models for every medium: look, sample, move in the latent space, measure, publish.

A NAME is a bundled model (`zoo list`), else a folder with a checkpoint, else a repository "org/name" of the
Hugging Face Hub. Every command explains itself with --help, and --debug shows the traceback of an error.

examples:
  zoo list                                          the bundled models
  zoo sample vae-mnist -n 64 -o samples             64 digits as files, and all of them on one sheet
  zoo reconstruct vae-mnist mine.png -o out         what the model makes of your own picture
  zoo interpolate vae-mnist a.png b.png -o out      a walk from one to the other
  zoo evaluate vae-mnist --data mnist --limit 1000  likelihood, bits per dimension, error of reconstructions
  zoo gallery -o gallery                            a page with pictures of every bundled model
"""
SHOWN = 16
"""How many reconstructions a picture shows at most."""
NETWORK = tyro.conf.create_mutex_group(required=False)
Output = Annotated[Path, arg(aliases=("-o",), metavar="PATH")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, or 2 after an error, told in one sentence on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *place: _complain(f"warning: {message}")
            parse([word for word in words if word != "--debug"]).run()
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if debug:
            raise
        told = isinstance(error, (ValueError, TypeError, OSError, RuntimeError)) and str(error)
        _complain(told or f"{type(error).__name__}: {error}; --debug shows where")
        return 2
    return 0


class Command(Protocol):
    """What the options of a command are read into."""

    def run(self) -> None: ...


def parse(arguments: Sequence[str]) -> Command:
    """The command of these words, one of `COMMANDS` with its options.

    Raises ValueError with one sentence where they are not understood, and SystemExit after --help.
    """
    chosen = next((word for word in arguments if word in COMMANDS), "")
    kinds = []
    for name, kind in COMMANDS.items():
        explained = inspect.getdoc(kind) or ""
        shown = explained if name == chosen else explained.splitlines()[0]
        kinds.append(Annotated[kind, tyro.conf.subcommand(name, description=shown)])
    markers = (tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalMetavarFromFieldName, tyro.conf.DisallowNone)
    either: Any = functools.reduce(operator.or_, kinds)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(either, prog="zoo", description=HELP, args=arguments, config=markers)
    except SystemExit as end:
        if not end.code:
            raise
    # A box, drawn with lines or with ASCII: a title in its upper edge, the message, a rule, and hints.
    lines = [line.strip("│| ") for line in Text.from_ansi(errors.getvalue()).plain.splitlines()]
    edges = [i for i, line in enumerate(lines) if not line.strip("─-+╭╮╰╯") or line[0] in "╭+"]
    message = " ".join(lines[edges[0] + 1 : edges[1]])
    program = f"zoo {chosen}".strip()
    raise ValueError(f"{message.removesuffix('(required)').rstrip(' .!')}; `{program} --help` explains")


@dataclass(frozen=True, kw_only=True)
class List:
    """The bundled models: they load without a network."""

    def run(self) -> None:
        table = Table(box=None, pad_edge=False)
        table.add_column("name", no_wrap=True, style="bold")
        for column in ("medium", "family", "size", "summary"):
            table.add_column(column, justify="right" if column == "size" else "left")
        for model in models():
            table.add_row(model.name, model.medium, model.family, format_size(model.size), model.summary)
        _print(table if table.row_count else "No models are bundled with this installation.")


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
class Info(Loading):
    """What a model is, what it was trained on, how good it is."""

    def run(self) -> None:
        from rich.markdown import Markdown

        from zoo.card import CARD
        from zoo.checkpoint import WEIGHTS
        from zoo.configuration import family_name
        from zoo.hub import find, load
        from zoo.showcase import abilities, conditions

        folder = find(self.name, self.revision)
        model = load(folder)
        told = ", ".join(map(str, conditions(model)))
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold")
        table.add_row("family", family_name(type(model)))
        table.add_row("medium", str(model.modality))
        table.add_row("shape", " x ".join(map(str, model.modality.shape)))
        table.add_row("abilities", str(abilities(model)))
        table.add_row("condition", f"{model.condition.kind}: {told}" if model.condition else "none: unconditional")
        table.add_row("parameters", f"{sum(tensor.numel() for tensor in model.checkpoint().values()):,}")
        table.add_row("weights", format_size((folder / WEIGHTS).stat().st_size))
        table.add_row("folder", str(folder))
        _print(table)
        if (folder / CARD).is_file():
            _, _, text = (folder / CARD).read_text(encoding="utf-8").partition("\n# ")
            # Control characters of a stranger's card could steer the terminal.
            _print(Markdown(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", " ", f"# {text}")))


@dataclass(frozen=True, kw_only=True)
class Making(Loading):
    """What every command takes that writes what a model makes."""

    condition: str | None = None  # What the model is told: a class by name or number, or one for each item: 0,1,2.
    output: Output  # The folder to write to, or a file of the medium: face.glb.

    def told(self, model: "GenerativeModel") -> object:
        """The condition; a model that takes none gets the words as they are, and refuses them."""
        if self.condition is None or model.condition is None:
            return self.condition
        return model.condition.parse(self.condition)


@dataclass(frozen=True, kw_only=True)
class Sample(Making):
    """Draw new items: files of the medium, and one picture of all; or one file.

    examples:
      zoo sample vae-mnist -n 64 --temperature 0.8 --seed 1 -o samples
      zoo sample vae-mnist -o digit.png
    """

    n: Annotated[int | None, arg(name="n", aliases=("-n",), help_behavior_hint="(default: 16, or 1 for a file)")] = None
    """How many."""
    temperature: float = 1.0  # Below 1 more typical, 0 the mean or the mode.
    mean: bool = False  # End with the likelihood's mean instead of a draw.
    seed: int | None = None  # The same seed gives the same samples.

    def run(self) -> None:
        import torch

        model = self.load()
        write = writer(model.modality, self.output, "samples")
        x = model.sample(
            self.n if self.n is not None else 1 if is_file(self.output) else 16,
            condition=self.told(model),
            temperature=self.temperature,
            mean=self.mean,
            generator=None if self.seed is None else torch.Generator().manual_seed(self.seed),
        )
        write(x)


@dataclass(frozen=True, kw_only=True)
class Reconstruct(Making):
    """Encode and decode your own files: the picture shows them above what the model makes of them.

    What comes out is called as the file is that went in. Of a folder, files that cannot be read are left out.

    examples:
      zoo reconstruct vae-mnist seven.png eight.png -o out
      zoo reconstruct vae-faces photos -o out
    """

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE...", help_behavior_hint="")] = ()
    # Files of the model's medium, or folders of them.

    def run(self) -> None:
        import torch

        model = self.load_latent()
        paths, names, items = read_items(model.modality, self.files)
        write = writer(model.modality, self.output, "reconstructions", paths, names)
        x = torch.stack(items).to(model.device)
        made = model.reconstruct(x, condition=self.told(model))
        shown = min(len(x), SHOWN)
        write(made, torch.cat([x[:shown], made[:shown]]), shown)


@dataclass(frozen=True, kw_only=True)
class Interpolate(Making):
    """Walk through the latent space from one file to another; the ends are their reconstructions."""

    a: Positional[Path]  # The file to start from.
    b: Positional[Path]  # The file to end at.
    steps: int = 8  # How many items, the ends included.
    method: Literal["spherical", "linear"] = "spherical"  # Around the middle of the latent space, or straight.

    def run(self) -> None:
        model = self.load_latent()
        write = writer(model.modality, self.output, "interpolation", [self.a, self.b])
        a, b = (model.modality.load(path)[None].to(model.device) for path in (self.a, self.b))
        x = model.interpolate(a, b, self.steps, method=self.method, condition=self.told(model))[0]
        write(x, columns=self.steps)


@dataclass(frozen=True, kw_only=True)
class Traverse(Making):
    """Set one latent dimension after the other to -3, ..., 3 standard deviations: a row for each."""

    file: Positional[Path | None] = None  # The file to start from; the prior's mean if there is none.

    def run(self) -> None:
        model = self.load_latent()
        write = writer(model.modality, self.output, "traversal", [self.file] if self.file else [])
        start = None if self.file is None else model.modality.load(self.file)[None].to(model.device)
        x = model.traverse(start, condition=self.told(model))[0]
        write(x.flatten(0, 1), columns=x.shape[1])


@dataclass(frozen=True, kw_only=True)
class Evaluate(Loading):
    """Measure likelihood, latents, reconstructions and samples on data that a model has not seen.

    metrics:
      likelihood  in nats and bits, and the error of reconstructions. A mass or a density: they cannot be compared.
                  Where it is a bound, more --samples make it tighter.
      latents     rate, distortion and active units of a model with a bound, by groups in a hierarchy
      features    samples against test data in the features of a network: Frechet and kernel distance, precision,
                  recall, density, coverage; needs --classifier or --inception
      distances   samples against test data as they are, for points and signals: sliced Wasserstein, MMD
      neighbours  whether samples are nearer to their nearest training item than test data are to theirs: copies

    Beside every comparison of samples stands what training data reach in their place.

    examples:
      zoo evaluate vae-mnist --data mnist --limit 1000
      zoo evaluate vae-mnist --data mnist --metrics features,neighbours --classifier runs/mnist-classifier
      zoo evaluate vae-faces --data photos/ --metrics neighbours --mean
      zoo evaluate runs/mine --data photos/ --write
    """

    data: Annotated[str, arg(metavar="SOURCE")]  # A named set of the medium, or your own folder.
    split: Literal["train", "test", "all"] = "test"  # Which part of the data.
    limit: int | None = None  # Take the first items only, and no more samples.
    metrics: Annotated[str | None, arg(metavar="NAME,...")] = None  # Which of those above; None: all that suit.
    samples: int = 100  # Draws an item where there is a bound.
    generated: int = 1000  # Samples to compare with data.
    mean: bool = False  # End samples with the likelihood's mean: the noise of a draw can hide a copy.
    classifier: Annotated[Path | None, arg(metavar="DIR"), NETWORK] = None
    """Compare features of the zoo's classifier in DIR, trained there on the data's labels if it is not there."""
    inception: Annotated[tuple[str, ...] | None, arg(metavar="[FILE]"), NETWORK] = None
    """Compare features of the Inception network: downloaded, or a file of weights."""
    neighbours: Annotated[Path | None, arg(metavar="PNG")] = None  # A picture of the samples nearest to training data.
    seed: int = 0  # Of the draws and of the data's noise.
    write: bool = False  # Write the figures into the card of the folder NAME.

    def run(self) -> None:
        from zoo.card import write_figures
        from zoo.evaluation.suite import evaluate

        folder = Path(self.name)
        if self.write and not folder.is_dir():
            raise ValueError(f"--write changes the card of a folder, and {self.name!r} is none; `zoo pull` makes one")
        wanted = None if self.metrics is None else [name.strip() for name in self.metrics.split(",")]
        if self.neighbours and (self.split != "test" or "neighbours" not in (wanted or ["neighbours"])):
            raise ValueError("--neighbours shows what that metric finds on the test split, and that is not measured")
        model = self.load()

        def dataset(split: str, labels: bool = model.condition is not None) -> "Items":
            return model.modality.dataset(self.data, split, labels=labels)

        report = evaluate(
            model,
            dataset(self.split),
            f"{Path(self.data).name} {self.split}",
            # Training data stand beside test data; elsewhere the model may have seen what samples are compared with.
            dataset("train") if self.split == "test" else None,
            metrics=wanted,
            network=self._network(model.modality, dataset),
            limit=self.limit,
            samples=self.samples,
            generated=self.generated,
            mean=self.mean,
            seed=self.seed,
        )
        table = Table("figure", "of what", "measured", "data", box=None, pad_edge=False)
        for figure in report.figures:
            table.add_row(figure.metric, figure.kind, figure.measured, figure.data)
        _print(table)
        if self.neighbours is not None and report.neighbours is not None:
            self.neighbours.parent.mkdir(parents=True, exist_ok=True)
            report.neighbours.show(model.modality).save(self.neighbours)
            print(f"samples above the training items that they are nearest to: {self.neighbours}")
        if self.write:
            write_figures(folder, report.figures)
            print(f"written into {folder / 'README.md'}")

    def _network(self, medium: "Modality", dataset: "Callable[..., Items]") -> "FeatureNetwork | None":
        """The network that compares items, if one is asked for; `dataset` opens a split, with labels or without."""
        if self.inception is not None:
            from zoo.evaluation.features import inception

            if len(self.inception) > 1:
                raise ValueError(f"--inception takes one file of weights, got {' and '.join(self.inception)}")
            return inception(self.inception[0] if self.inception else None, self.device)
        if self.classifier is None:
            return None
        from zoo.checkpoint import CONFIG
        from zoo.evaluation.classifier import feature_network

        trained = (self.classifier / CONFIG).is_file()
        labelled = [] if trained else [dataset(split, True) for split in ("train", "test")]
        return feature_network(self.classifier, medium, *labelled, device=self.device)


@dataclass(frozen=True, kw_only=True)
class Push:
    """Publish a checkpoint on the Hugging Face Hub, in one commit, after loading it strictly.

    Log in first: hf auth login

    example:
      zoo push runs/mine my-name/faces-vae --private
    """

    name: Positional[str]  # A bundled model or a folder.
    repository: Annotated[Positional[str], arg(metavar="ORG/NAME")]  # Where to publish it.
    private: bool = False  # Make a new repository private.

    def run(self) -> None:
        from zoo import hub

        print(hub.push(self.name, self.repository, private=self.private or None))


@dataclass(frozen=True, kw_only=True)
class Pull:
    """Download a checkpoint from the Hugging Face Hub into a folder, after loading it strictly."""

    repository: Annotated[Positional[str], arg(metavar="ORG/NAME")]  # What to download.
    revision: str | None = None  # Branch, tag or commit.
    output: Output  # The folder to write to.

    def run(self) -> None:
        from zoo import hub

        print(hub.pull(self.repository, self.output, revision=self.revision))


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A page with pictures of every bundled model, each with the code that makes it."""

    output: Output  # The folder to write to.

    def run(self) -> None:
        from zoo.gallery import write_gallery

        print(f"The gallery is {write_gallery(self.output).resolve()}")


COMMANDS = {
    kind.__name__.lower(): kind
    for kind in (List, Info, Sample, Reconstruct, Interpolate, Traverse, Evaluate, Push, Pull, Gallery)
}


def _print(what: object) -> None:
    """Print a table or a text, with the square brackets and colons of names and paths as they are."""
    Console(markup=False, emoji=False, highlight=False).print(what)


def _complain(error: object) -> None:
    print(f"zoo: {' '.join(str(error).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
