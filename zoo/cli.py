"""The command line, `zoo`: look at the bundled models, use any checkpoint, publish your own."""

import contextlib
import functools
import inspect
import io
import operator
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from rich.text import Text

from zoo import __version__
from zoo.commands.making import Complete, Interpolate, Reconstruct, Sample, Traverse
from zoo.commands.measuring import Encode, Evaluate, Score
from zoo.commands.models import Export, Gallery, Info, List, Pull, Push
from zoo.commands.options import Command, printable
from zoo.commands.training import Train

HELP = """\
Deep generative models for every medium: look, train, sample, move in the latent space, score, measure, publish.

A NAME is a bundled model (`zoo list`), else a folder with a checkpoint, else a repository "org/name" of the
Hugging Face Hub. Every command explains itself with --help, --debug shows the traceback of an error, and
`zoo --version` says which version this is.

examples:
  zoo list                                          the bundled models
  zoo train vae --data photos -o mine               a model of your own files; `zoo train --help` lists the families
  zoo sample vae-mnist -n 64 -o samples             64 digits as files, and all of them on one sheet
  zoo reconstruct vae-mnist mine.png -o out         what the model makes of your own picture
  zoo interpolate vae-mnist a.png b.png -o out      a walk from one to the other
  zoo evaluate vae-mnist --data mnist --limit 1000  likelihood, bits per dimension, error of reconstructions
  zoo encode vae-mnist pictures/ -o latents.csv     where your own pictures lie in the latent space
  zoo gallery -o gallery                            pages with pictures of every bundled model
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, or 2 after an error, told in one sentence on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    if words == ["--version"]:
        print(f"latent-zoo {__version__}")
        return 0
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *place: _complain(f"warning: {message}")
            parse([word for word in words if word != "--debug"]).run()
    except KeyboardInterrupt as stop:
        if str(stop):
            _complain(stop)
        return 130
    except Exception as error:
        if debug:
            raise
        told = isinstance(error, (ValueError, TypeError, OSError, RuntimeError)) and str(error)
        _complain(told or f"{type(error).__name__}: {error}; --debug shows where")
        return 2
    return 0


def parse(arguments: Sequence[str]) -> Command:
    """The command of these words, one of `COMMANDS` with its options.

    Raises ValueError with one sentence where they are not understood, and SystemExit after --help.
    """
    chosen = next((word for word in arguments if word in COMMANDS), "")
    kinds = []
    for name, known in COMMANDS.items():
        specialise = getattr(known, "specialise", None) if name == chosen else None
        kind = known if specialise is None else specialise(arguments)
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
    message = re.sub(r"^Error parsing ([^-\s]\S*: )?", "", " ".join(lines[edges[0] + 1 : edges[1]]))
    program = f"zoo {chosen}".strip()
    raise ValueError(f"{message.removesuffix('(required)').rstrip(' .!')}; `{program} --help` explains")


COMMANDS: dict[str, type[Command]] = {
    "list": List,
    "info": Info,
    "train": Train,
    "sample": Sample,
    "reconstruct": Reconstruct,
    "interpolate": Interpolate,
    "traverse": Traverse,
    "complete": Complete,
    "encode": Encode,
    "score": Score,
    "evaluate": Evaluate,
    "push": Push,
    "pull": Pull,
    "export": Export,
    "gallery": Gallery,
}


def _complain(error: object) -> None:
    print(f"zoo: {' '.join(printable(error).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
