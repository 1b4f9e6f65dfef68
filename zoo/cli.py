"""The command line, `zoo`: look at the bundled models, use any checkpoint, publish your own."""

import argparse
import inspect
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from zoo.catalog import format_size, models

# Everything else is imported by the command that needs it: torch takes seconds, and `zoo list` answers at once.
if TYPE_CHECKING:
    from torch import Generator, Tensor

    from modalities import Modality
    from zoo.evaluation.features import FeatureNetwork
    from zoo.model import GenerativeModel, Latent

HELP = """\
Deep generative models for every medium: look, sample, move in the latent space, measure, publish.

A NAME is a bundled model (`zoo list`), else a folder with a checkpoint, else a repository "org/name" of the
Hugging Face Hub. Every command explains itself with --help.
"""
EXAMPLES = """\
examples:
  zoo list                                          the bundled models
  zoo sample vae-mnist -n 64 -o samples             64 digits as files, and all of them on one sheet
  zoo reconstruct vae-mnist mine.png -o out         what the model makes of your own picture
  zoo interpolate vae-mnist a.png b.png -o out      a walk from one to the other
  zoo evaluate vae-mnist --data mnist --limit 1000  likelihood, bits per dimension, reconstruction error
  zoo gallery -o gallery                            a page with pictures of every bundled model
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, or 2 after an error, told in one sentence on stderr."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            options.command(options)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        if options.debug:
            raise
        _complain(error)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        _complain(f"{message}; `{self.prog} --help` explains")
        raise SystemExit(2)


def _complain(error: object) -> None:
    print(f"zoo: {' '.join(str(error).split())}", file=sys.stderr)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as one sentence, without the place in the code."""
    _complain(f"warning: {message}")


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="zoo", description=HELP, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(function: Any, help: str) -> argparse.ArgumentParser:
        name = function.__name__.removesuffix("_")
        description = inspect.getdoc(function)
        added = commands.add_parser(name, help=help, description=description, formatter_class=raw)
        added.set_defaults(command=function)
        added.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return added

    def model_command(function: Any, help: str) -> argparse.ArgumentParser:
        added = command(function, help)
        added.add_argument("name", metavar="NAME", help="a bundled model, a folder or a Hub repository org/name")
        added.add_argument("--revision", help="branch, tag or commit of a Hub repository")
        added.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
        return added

    def output(added: argparse.ArgumentParser) -> None:
        added.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="the folder to write to")

    def output_or_file(added: argparse.ArgumentParser) -> None:
        said = "the folder to write to, or a file of the medium: face.glb"
        added.add_argument("-o", "--output", metavar="PATH", type=Path, required=True, help=said)

    def condition(added: argparse.ArgumentParser) -> None:
        added.add_argument("--condition", help="class of a class-conditional model, or one for each item: 0,1,2")

    command(list_, "the bundled models")
    model_command(info, "what a model is, what it was trained on, how good it is")

    added = model_command(sample, "draw new items")
    added.add_argument("-n", type=int, help="how many (default 16, or 1 for a file)")
    added.add_argument("--temperature", type=float, default=1.0, help="below 1 more typical, 0 the mean (default 1)")
    added.add_argument("--mean", action="store_true", help="end with the likelihood's mean instead of a draw")
    added.add_argument("--seed", type=int, help="the same seed gives the same samples")
    condition(added)
    output_or_file(added)

    added = model_command(reconstruct, "encode and decode your own files")
    added.add_argument("files", metavar="FILE", nargs="+", help="files of the model's medium")
    condition(added)
    output_or_file(added)

    added = model_command(interpolate, "walk from one file to another through the latent space")
    added.add_argument("a", metavar="A", help="the file to start from")
    added.add_argument("b", metavar="B", help="the file to end at")
    added.add_argument("--steps", type=int, default=8, help="how many items, the ends included (default 8)")
    added.add_argument("--method", choices=["spherical", "linear"], default="spherical", help="default: spherical")
    condition(added)
    output_or_file(added)

    added = model_command(traverse, "change one latent dimension after the other")
    added.add_argument("file", metavar="FILE", nargs="?", help="the file to start from (default: the prior's mean)")
    condition(added)
    output_or_file(added)

    added = model_command(evaluate, "measure likelihood, latents, reconstructions and samples")
    added.add_argument("--data", required=True, metavar="SOURCE", help="a named set of the medium, or your own folder")
    added.add_argument("--split", choices=["train", "test", "all"], default="test", help="default: test")
    added.add_argument("--limit", type=int, help="take the first items only, and no more samples")
    added.add_argument("--metrics", metavar="NAME,...", help="which of those above (default: all that suit)")
    added.add_argument("--samples", type=int, default=100, help="draws an item where there is a bound (default 100)")
    added.add_argument("--generated", type=int, default=1000, help="samples to compare with data (default 1000)")
    said = "end samples with the likelihood's mean: the noise of a draw can hide a copy"
    added.add_argument("--mean", action="store_true", help=said)
    network = added.add_mutually_exclusive_group()
    said = "compare features of the zoo's classifier in DIR, trained there on the data's labels if it is not there"
    network.add_argument("--classifier", metavar="DIR", type=Path, help=said)
    said = "compare features of the Inception network: downloaded, or a file of weights"
    network.add_argument("--inception", metavar="FILE", nargs="?", const="", help=said)
    added.add_argument(
        "--neighbours", metavar="PNG", type=Path, help="a picture of the samples nearest to training data"
    )
    added.add_argument("--seed", type=int, default=0, help="seed of the draws and of the data's noise (default 0)")
    added.add_argument("--write", action="store_true", help="write the figures into the card of the folder NAME")

    added = command(push, "publish a checkpoint on the Hugging Face Hub")
    added.add_argument("name", metavar="NAME", help="a bundled model or a folder")
    added.add_argument("repository", metavar="ORG/NAME", help="where to publish it")
    added.add_argument("--private", action="store_true", default=None, help="make a new repository private")

    added = command(pull, "download a checkpoint from the Hugging Face Hub into a folder")
    added.add_argument("repository", metavar="ORG/NAME", help="what to download")
    added.add_argument("--revision", help="branch, tag or commit")
    output(added)

    output(command(gallery, "a page with pictures of every bundled model"))
    return parser


def list_(options: argparse.Namespace) -> None:
    """List the bundled models: they load without a network."""
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True, style="bold")
    for column in ("medium", "family", "size", "summary"):
        table.add_column(column, justify="right" if column == "size" else "left")
    for model in models():
        table.add_row(model.name, model.medium, model.family, format_size(model.size), model.summary)
    Console().print(table if table.row_count else "No models are bundled with this installation.")


def info(options: argparse.Namespace) -> None:
    """Show a model's card and what can be done with it."""
    from zoo.card import CARD
    from zoo.checkpoint import WEIGHTS
    from zoo.configuration import family_name
    from zoo.hub import find, load
    from zoo.model import Explicit, Latent

    folder = find(options.name, options.revision)
    model = load(folder)
    does = ["sample"]
    if isinstance(model, Explicit):
        does.append("log_prob (exact)" if model.exact else "log_prob (a lower bound)")
    if isinstance(model, Latent):
        does.append("encode, decode, reconstruct, interpolate, traverse")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_row("family", family_name(type(model)))
    table.add_row("medium", str(model.modality))
    table.add_row("shape", " x ".join(map(str, model.modality.shape)))
    table.add_row("does", ", ".join(does))
    table.add_row("classes", str(model.classes or "none: unconditional"))
    table.add_row("parameters", f"{sum(tensor.numel() for tensor in model.checkpoint().values()):,}")
    table.add_row("weights", format_size((folder / WEIGHTS).stat().st_size))
    table.add_row("folder", str(folder))
    console = Console()
    console.print(table)
    if (folder / CARD).is_file():
        _, _, text = (folder / CARD).read_text(encoding="utf-8").partition("\n# ")
        console.print(Markdown(f"# {text}"))


def sample(options: argparse.Namespace) -> None:
    """Draw new items: files of the medium, and one picture of all; or one file.

    examples:
      zoo sample vae-mnist -n 64 --temperature 0.8 --seed 1 -o samples
      zoo sample vae-mnist -o digit.png
    """
    from zoo.variational.nvae import NVAE

    model = _load(options)
    n = options.n if options.n is not None else 1 if _is_file(options.output) else 16
    if isinstance(model, NVAE) and 0 < options.temperature < 1:  # the statistics of data would make samples pale
        model = model.readjusted(options.temperature, batches=20, n=32, generator=_generator(options.seed))
    x = model.sample(
        n,
        condition=_condition(model, options.condition),
        temperature=options.temperature,
        mean=options.mean,
        generator=_generator(options.seed),
    )
    _write(model, x, options.output, "samples")


def reconstruct(options: argparse.Namespace) -> None:
    """Encode and decode your own files: the picture shows them above what the model makes of them."""
    import torch

    model = _load_latent(options)
    x = _read(model, options.files)
    reconstructed = model.reconstruct(x, condition=_condition(model, options.condition))
    _write(model, reconstructed, options.output, "reconstructions", torch.cat([x, reconstructed]), len(x))


def interpolate(options: argparse.Namespace) -> None:
    """Walk through the latent space from one file to another; the ends are their reconstructions."""
    model = _load_latent(options)
    a, b = _read(model, [options.a, options.b]).split(1)
    condition = _condition(model, options.condition)
    x = model.interpolate(a, b, options.steps, method=options.method, condition=condition)[0]
    _write(model, x, options.output, "interpolation", columns=options.steps)


def traverse(options: argparse.Namespace) -> None:
    """Set one latent dimension after the other to -3, ..., 3 standard deviations: a row for each."""
    model = _load_latent(options)
    start = None if options.file is None else _read(model, [options.file])
    x = model.traverse(start, condition=_condition(model, options.condition))[0]
    _write(model, x.flatten(0, 1), options.output, "traversal", columns=x.shape[1])


def evaluate(options: argparse.Namespace) -> None:
    """Measure a model on data that it has not seen.

    metrics:
      likelihood  in nats and bits, and the error of reconstructions. A mass or a density: they cannot be compared.
                  Where it is a bound, more --samples make it tighter.
      latents     rate, distortion and active units of a model with a bound, by groups in a hierarchy
      features    samples against test data in the features of a network: Frechet and kernel distance, precision,
                  recall, density, coverage; needs --classifier or --inception
      distances   samples against test data as they are, for points and signals: sliced Wasserstein, MMD
      neighbours  whether samples are nearer to their nearest training item than test data are to theirs
    Beside every comparison of samples stands what training data reach in their place.

    examples:
      zoo evaluate vae-mnist --data mnist --limit 1000
      zoo evaluate vae-mnist --data mnist --metrics features,neighbours --classifier runs/mnist-classifier
      zoo evaluate vae-faces --data photos/ --metrics neighbours --mean
      zoo evaluate runs/mine --data photos/ --write
    """
    from zoo.card import write_figures
    from zoo.evaluation import suite

    folder = Path(options.name)
    if options.write and not folder.is_dir():
        raise ValueError(f"--write changes the card of a folder, and {options.name!r} is none; `zoo pull` makes one")
    wanted = None if options.metrics is None else [name.strip() for name in options.metrics.split(",")]
    searched = options.split == "test" and (wanted is None or "neighbours" in wanted)
    if options.neighbours is not None and not searched:
        raise ValueError("--neighbours shows what that metric finds on the test split, and that is not measured")
    model = _load(options)

    def dataset(split: str, labels: bool = model.classes is not None) -> Any:
        return model.modality.dataset(options.data, split, labels=labels)

    test = dataset(options.split)
    # Training data stand beside test data; elsewhere the model may have seen what samples would be compared with.
    training = dataset("train") if options.split == "test" else None
    report = suite.evaluate(
        model,
        test,
        f"{Path(options.data).name} {options.split}",
        training,
        metrics=wanted,
        network=_feature_network(options, model.modality, dataset),
        limit=options.limit,
        samples=options.samples,
        generated=options.generated,
        mean=options.mean,
        seed=options.seed,
    )
    table = Table("figure", "of what", "measured", "data", box=None, pad_edge=False)
    for figure in report.figures:
        table.add_row(figure.metric, figure.kind, figure.measured, figure.data)
    Console().print(table)
    if options.neighbours is not None and report.neighbours is not None:
        options.neighbours.parent.mkdir(parents=True, exist_ok=True)
        report.neighbours.show(model.modality).save(options.neighbours)
        print(f"samples above the training items that they are nearest to: {options.neighbours}")
    if options.write:
        write_figures(folder, report.figures)
        print(f"written into {folder / 'README.md'}")


def _feature_network(
    options: argparse.Namespace, medium: "Modality", dataset: Callable[..., Any]
) -> "FeatureNetwork | None":
    """The network that compares items of a medium, if one is asked for; `dataset` opens a split, with labels or
    without."""
    if options.inception is not None:
        from zoo.evaluation.features import inception

        return inception(options.inception or None, options.device)
    if options.classifier is None:
        return None
    from zoo.checkpoint import CONFIG
    from zoo.evaluation.classifier import feature_network

    if (options.classifier / CONFIG).is_file():
        return feature_network(options.classifier, medium, device=options.device)
    labelled = [dataset(split, True) for split in ("train", "test")]
    return feature_network(options.classifier, medium, *labelled, device=options.device)


def push(options: argparse.Namespace) -> None:
    """Publish a checkpoint on the Hugging Face Hub, in one commit, after loading it strictly.

    Log in first: hf auth login

    example:
      zoo push runs/mine my-name/faces-vae --private
    """
    from zoo import hub

    print(hub.push(options.name, options.repository, private=options.private))


def pull(options: argparse.Namespace) -> None:
    """Download a checkpoint from the Hugging Face Hub into a folder, after loading it strictly."""
    from zoo import hub

    print(hub.pull(options.repository, options.output, revision=options.revision))


def gallery(options: argparse.Namespace) -> None:
    """Make pictures of every bundled model, and a page that shows them with the code that makes each."""
    from zoo.gallery import write_gallery

    page = write_gallery(options.output)
    print(f"The gallery is {page.resolve()}")


def _load(options: argparse.Namespace) -> "GenerativeModel":
    with Console(stderr=True).status(f"Loading {options.name}"):
        from zoo.hub import load

        return load(options.name, revision=options.revision, device=options.device)


def _load_latent(options: argparse.Namespace) -> "Latent":
    from zoo.model import Latent

    model = _load(options)
    if not isinstance(model, Latent):
        raise ValueError(f"{options.name} is a {type(model).__name__} and has no latent space; it can only be sampled")
    return model


def _read(model: "GenerativeModel", files: Sequence[str]) -> "Tensor":
    import torch

    return torch.stack([model.modality.load(file) for file in files]).to(model.device)


def _condition(model: "GenerativeModel", text: str | None) -> Any:
    """Class numbers out of "3" or "0,1,2"; what else there is goes to the model as it is, which takes or refuses it."""
    if text is None or model.classes is None:
        return text
    try:
        classes = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--condition is a class from 0 to {model.classes - 1}, or several, got {text!r}") from error
    return classes[0] if len(classes) == 1 else classes


def _generator(seed: int | None) -> "Generator | None":
    import torch

    return None if seed is None else torch.Generator().manual_seed(seed)


def _write(
    model: "GenerativeModel",
    x: "Tensor",
    folder: Path,
    name: str,
    shown: "Tensor | None" = None,
    columns: int | None = None,
) -> None:
    """Write items as files of their medium, or as one file where `folder` names one, and what is to be shown (the
    items, if nothing else) as one picture."""
    kind = model.modality.kind
    # A point is a row of a table; an item of any other medium is a file of its own.
    files, picture = folder / (f"{name}.csv" if kind == "points" else name), folder / f"{name}.png"
    if _is_file(folder):
        files, picture = folder, folder.with_suffix(".png")
    single = _is_file(folder) and len(x) == 1
    if files != picture or single:
        model.modality.save(x[0] if single else x, files)
    if files != picture or not single:
        model.modality.show(x if shown is None else shown, columns).save(picture)
    print(f"{len(x)} {kind} in {files}" + (f", a picture of them in {picture}" if files != picture else ""))


def _is_file(path: Path) -> bool:
    """Whether a path names a file, by its suffix: a folder may be called v1.0."""
    return path.suffix[1:2].isalpha() and not path.is_dir()


if __name__ == "__main__":
    sys.exit(main())
