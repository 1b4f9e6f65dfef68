"""Commands that write what a model makes: samples, reconstructions, walks, completions."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from zoo.commands.options import Making, Reading
from zoo.commands.outputs import Inputs, Writer, is_file

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = 16
"""How many reconstructions a picture shows at most."""
ROWS = 8
"""How many completed files a picture shows at most."""


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
        writer = Writer(model.modality, self.output, "samples")
        x = model.sample(
            self.n if self.n is not None else 1 if is_file(self.output) else 16,
            condition=self.told(model),
            temperature=self.temperature,
            mean=self.mean,
            generator=None if self.seed is None else torch.Generator().manual_seed(self.seed),
        )
        writer.write(x)


@dataclass(frozen=True, kw_only=True)
class Reconstruct(Making, Reading):
    """Encode and decode your own files: the picture shows them above what the model makes of them.

    What comes out is called as the file is that went in. Of a folder, files that cannot be read are left out.

    examples:
      zoo reconstruct vae-mnist seven.png eight.png -o out
      zoo reconstruct vae-faces photos -o out
    """

    def run(self) -> None:
        from modalities.data import cut

        model = self.load_latent()
        inputs = Inputs(model.modality, self.files)
        writer = Writer(model.modality, self.output, "reconstructions", inputs.paths, named=True)
        conditions = self.conditions(model, len(inputs))
        originals: list[Tensor] = []
        rebuilt: list[Tensor] = []

        def batches() -> "Iterator[tuple[list[str], Tensor]]":
            for names, chosen, x in inputs.batches("Reconstructing"):
                made = model.reconstruct(x.to(model.device), condition=cut(conditions, chosen))
                originals.extend(x[: SHOWN - len(originals)])
                rebuilt.extend(made[: SHOWN - len(rebuilt)].cpu())
                yield names, made

        writer.write_named(batches(), lambda: (originals + rebuilt, len(originals)))


@dataclass(frozen=True, kw_only=True)
class Interpolate(Making):
    """Walk through the latent space from one file to another; the ends are their reconstructions."""

    a: Positional[Path]  # The file to start from.
    b: Positional[Path]  # The file to end at.
    steps: int = 8  # How many items, the ends included.
    method: Literal["spherical", "linear"] = "spherical"  # Around the middle of the latent space, or straight.

    def run(self) -> None:
        model = self.load_latent()
        writer = Writer(model.modality, self.output, "interpolation", [self.a, self.b])
        a, b = (model.modality.load(path)[None].to(model.device) for path in (self.a, self.b))
        x = model.interpolate(a, b, self.steps, method=self.method, condition=self.told(model))[0]
        writer.write(x, columns=self.steps)


@dataclass(frozen=True, kw_only=True)
class Traverse(Making):
    """Set one latent dimension after the other to -3, ..., 3 standard deviations: a row for each."""

    file: Positional[Path | None] = None  # The file to start from; the prior's mean if there is none.

    def run(self) -> None:
        model = self.load_latent()
        writer = Writer(model.modality, self.output, "traversal", [self.file] if self.file else [])
        start = None if self.file is None else model.modality.load(self.file)[None].to(model.device)
        x = model.traverse(start, condition=self.told(model))[0]
        writer.write(x.flatten(0, 1), columns=x.shape[1])


@dataclass(frozen=True, kw_only=True)
class Complete(Making, Reading):
    """Keep the beginning of your own files and draw the rest, several times.

    A row of the picture is what was given, then what was made of it.

    examples:
      zoo complete gated-pixelcnn-mnist seven.png -n 6 -o out
      zoo complete wavenet-heartbeats beats/ --known 0.7 --seed 1 -o out
    """

    n: Annotated[int, arg(name="n", aliases=("-n",))] = 4
    """How many completions a file."""
    known: float = 0.5  # The part of a file that is kept: of its rows from the top, or of its time from the start.
    temperature: float = 1.0  # Below 1 more typical, 0 the mean or the mode.
    seed: int | None = None  # The same seed gives the same completions.

    def run(self) -> None:
        import torch

        from modalities.data import cut
        from zoo.model import check_count
        from zoo.showcase import Completes, beginning

        check_count(self.n)
        model = self.load()
        if not isinstance(model, Completes):
            raise ValueError(
                f"{self.name} is a {type(model).__name__} and completes nothing; `zoo info` says what it can"
            )
        inputs = Inputs(model.modality, self.files)
        writer = Writer(model.modality, self.output, "completions", inputs.paths, named=True)
        conditions = self.conditions(model, len(inputs))
        known = beginning(model.modality, self.known)
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        rows: list[Tensor] = []

        def batches() -> "Iterator[tuple[list[str], Tensor]]":
            for names, chosen, x in inputs.batches("Completing"):
                times = [i for i in chosen for _ in range(self.n)]
                made = model.complete(
                    x.repeat_interleave(self.n, 0).to(model.device),
                    known,
                    condition=cut(conditions, times),
                    temperature=self.temperature,
                    generator=generator,
                ).cpu()
                for i, given in enumerate(x[: ROWS - len(rows) // (self.n + 1)]):
                    # What is not known is shown by 0, the middle of the range.
                    rows.extend([] if model.modality.together else [torch.where(known, given, 0.0)])
                    rows.extend(made[i * self.n : (i + 1) * self.n])
                yield [f"{name}-{i + 1}" if self.n > 1 else name for name in names for i in range(self.n)], made

        writer.write_named(batches(), lambda: (rows, self.n + 1))
