"""Commands that measure: latents and scores of files, and how good a model is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.table import Table
from tyro.conf import arg

from zoo.commands.options import Loading, Output, Reading, printable, show
from zoo.commands.outputs import Inputs, check_table, write_table

if TYPE_CHECKING:
    from torch import Tensor

    from modalities import Modality
    from modalities.data import Items
    from zoo.evaluation.features import FeatureNetwork
    from zoo.walks import Z

NETWORK = tyro.conf.create_mutex_group(required=False)


@dataclass(frozen=True, kw_only=True)
class Encode(Reading):
    """Where your own files lie in the latent space: a table of the posterior's means, a row a file.

    A .csv has the names of the files in front; beside a .npy they lie in a .txt. The columns are the elements of z one
    after another, group by group where there are several.

    examples:
      zoo encode vae-mnist seven.png eight.png -o latents.csv
      zoo encode nvae-faces photos/ -o latents.npy
    """

    output: Output  # A .csv or a .npy file.

    def run(self) -> None:
        import torch

        from modalities.data import cut

        model = self.load_latent()
        inputs = Inputs(model.modality, self.files)
        check_table(self.output, inputs.paths)
        conditions = self.conditions(model, len(inputs))
        with torch.no_grad():
            header = _columns(model.prior(cut(conditions, slice(0, 1)), n=1).mean)

            def rows() -> Iterator[tuple[str, list[float]]]:
                for names, chosen, x in inputs.batches("Encoding"):
                    z = model.encode(x.to(model.device), condition=cut(conditions, chosen)).mean
                    flat = torch.cat([group.flatten(1).double() for group in _groups(z)], 1)
                    yield from zip(names, flat.tolist(), strict=True)

            count = write_table(self.output, header, rows())
        print(f"{count} {model.modality.kind} as {len(header)} latents each in {self.output}")


def _groups(z: "Z") -> "tuple[Tensor, ...]":
    return z if isinstance(z, tuple) else (z,)


def _columns(z: "Z") -> list[str]:
    """What the elements of z are called: by the names of its parts, or by the number of the group."""
    names = getattr(z, "_fields", [f"z{i}_" if isinstance(z, tuple) else "z" for i in range(len(_groups(z)))])
    return [f"{name}{i}" for name, group in zip(names, _groups(z), strict=True) for i in range(group[0].numel())]


@dataclass(frozen=True, kw_only=True)
class Score(Reading):
    """How likely a model finds your own files: the log-probability of each in nats.

    Where the medium has levels, bits an element stand beside it. A mass or a density, or a bound of one, as is said:
    they cannot be compared. What is unlike the training data scores low, and so does what is rich in detail: compare
    like with like.

    examples:
      zoo score vae-mnist seven.png eight.png
      zoo score nvae-faces photos/ -o scores.csv
    """

    output: Annotated[Path | None, arg(aliases=("-o",), metavar="PATH")] = None  # A .csv or a .npy file.
    samples: int = 100  # Draws an item where there is a bound.
    seed: int = 0  # Of the draws.

    def run(self) -> None:
        import math

        import torch

        from modalities.data import cut

        model = self.load()
        scored = model.scored_by()
        if scored is None:
            raise ValueError(
                f"{self.name} is a {type(model).__name__} and has no likelihood; `zoo info` says what it can"
            )
        inputs = Inputs(model.modality, self.files)
        if self.output is not None:
            check_table(self.output, inputs.paths)
        conditions = self.conditions(model, len(inputs))
        generator = torch.Generator().manual_seed(self.seed)
        per_bit = model.modality.elements * math.log(2)
        header = ["log_prob", *(["bits_per_dim"] if scored.discrete else [])]
        kind = ("" if scored.exact else "a bound on ") + ("a mass" if scored.discrete else "a density")

        def rows() -> Iterator[tuple[str, list[float]]]:
            for names, chosen, x in inputs.batches("Scoring"):
                found = scored.log_prob(
                    x.to(model.device), condition=cut(conditions, chosen), samples=self.samples, generator=generator
                )
                for name, nats in zip(names, found.tolist(), strict=True):
                    yield name, [nats, -nats / per_bit][: len(header)]

        with torch.no_grad():
            if self.output is not None:
                count = write_table(self.output, header, rows())
                print(f"{count} {model.modality.kind} scored in {self.output}: log_prob is {kind} in nats")
                return
            table = Table("file", f"{kind}, nats", *header[1:], box=None, pad_edge=False)
            for name, values in rows():
                table.add_row(printable(name), *(f"{value:.6g}" for value in values))
        show(table)


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
        from modalities.drawing import save_picture
        from zoo.card import read_figures, write_figures
        from zoo.evaluation.suite import evaluate
        from zoo.hub import find

        folder = Path(self.name).expanduser()
        if self.write:
            if not folder.is_dir() or find(self.name).resolve() != folder.resolve():
                raise ValueError(
                    f"--write changes the card of a folder, and {self.name!r} is none; `zoo pull` makes one"
                )
            read_figures(folder)  # a card that cannot be read is said before hours of measuring
        wanted = None if self.metrics is None else [name.strip() for name in self.metrics.split(",")]
        if self.neighbours and (self.split != "test" or "neighbours" not in (wanted or ["neighbours"])):
            raise ValueError("--neighbours shows what that metric finds on the test split, and that is not measured")
        model = self.load()

        def dataset(split: str, labels: bool = model.condition is not None) -> "Items":
            # By the names that the model knows: a folder may lack a class.
            names = getattr(model.condition, "names", None) if labels else None
            return model.modality.dataset(self.data, split, labels=labels, classes=names)

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
        show(table)
        for metric, why in report.left_out.items():
            print(f"not measured: {metric}, since {why}")
        if self.neighbours is not None and report.neighbours is not None:
            save_picture(report.neighbours.show(model.modality), self.neighbours)
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
