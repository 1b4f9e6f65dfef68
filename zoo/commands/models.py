"""Commands that look at checkpoints, and bring them to the Hub and back, and into other programs."""

from dataclasses import dataclass
from typing import Annotated, Literal

from rich.table import Table
from tyro.conf import Positional, arg

from zoo.catalog import format_size, models
from zoo.commands.options import Loading, Output, printable, show

MOST_SHOWN = 1000
"""How many conditions are named at most."""


@dataclass(frozen=True, kw_only=True)
class List:
    """The bundled models: they load without a network."""

    def run(self) -> None:
        table = Table(box=None, pad_edge=False)
        table.add_column("name", no_wrap=True, style="bold")
        for column in ("medium", "family", "size", "summary"):
            table.add_column(column, justify="right" if column == "size" else "left")
        for model in models():
            cells = (model.name, model.medium, model.family, format_size(model.size), model.summary)
            table.add_row(*map(printable, cells))
        show(table if table.row_count else "No models are bundled with this installation.")


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
        told = ", ".join(map(str, conditions(model, MOST_SHOWN)))
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold")
        table.add_row("family", family_name(type(model)))
        table.add_row("medium", printable(model.modality))
        table.add_row("shape", " x ".join(map(str, model.modality.shape)))
        table.add_row("abilities", str(abilities(model)))
        condition = f"{model.condition.kind}: {told}" if model.condition else "none: unconditional"
        table.add_row("condition", printable(condition))
        table.add_row("parameters", f"{sum(tensor.numel() for tensor in model.checkpoint().values()):,}")
        table.add_row("weights", format_size((folder / WEIGHTS).stat().st_size))
        table.add_row("folder", str(folder))
        show(table)
        if (folder / CARD).is_file():
            _, _, text = (folder / CARD).read_text(encoding="utf-8").partition("\n# ")
            show(Markdown(printable(f"# {text}")))


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

        print(printable(hub.push(self.name, self.repository, private=self.private or None)))


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
class Export(Loading):
    """Write the decoder, the encoder or the sampler of a model for other programs, for any batch size.

    A file .onnx is for any ONNX runtime (writing it takes `pip install latent-zoo[onnx]`), a file .pt2 for
    `torch.export.load`. The sampler makes items out of standard normal noise.

    examples:
      zoo export vae-mnist -o decoder.onnx
      zoo export vae-mnist --part encoder -o encoder.pt2
    """

    part: Literal["decoder", "encoder", "sampler"] = "decoder"  # What is written.
    output: Output  # The file to write, .onnx or .pt2.

    def run(self) -> None:
        from zoo.export import export

        print(export(self.load(), self.output, self.part))


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pages with pictures of models, each with the code that makes it: of every bundled one, or of those named.

    examples:
      zoo gallery -o gallery
      zoo gallery runs/*/my-vae vae-mnist -o gallery
    """

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME...", help_behavior_hint="")] = ()
    # Bundled models, folders or repositories org/name; all bundled ones if there are none.
    output: Output  # The folder to write to.

    def run(self) -> None:
        from zoo.gallery import write_gallery

        print(f"The gallery is {write_gallery(self.output, self.names).resolve()}")
