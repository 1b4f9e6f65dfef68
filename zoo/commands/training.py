"""`zoo train`: a model of any family, on a named set or on the user's own files."""

import dataclasses
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from zoo.catalog import FAMILIES, OWN

# Everything else is imported where it is needed: torch takes seconds, and `zoo list` answers at once.
if TYPE_CHECKING:
    from modalities import Modality
    from modalities.data import Items
    from zoo.model import GenerativeModel


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train or fit a model of any family, on a named set or on your own files.

    The medium and the size of its items are seen from the files, and said. OUTPUT becomes the model, with a card, as
    every command takes it; the run lies beside it, in OUTPUT-run, with checkpoints and a log for TensorBoard. The same
    command goes on with a run that was stopped, or with more --training.steps.

    families, by medium:
      points   autoencoder, gaussian-mixture, kernel-density, made, pca, probabilistic-pca, vae
      images   autoencoder, gated-pixelcnn, gaussian-mixture, kernel-density, nvae, pca, pixelcnn, pixelcnn-pp,
               pixelrnn, probabilistic-pca, vae, vq-vae
      signals  autoencoder, gaussian-mixture, kernel-density, nvae, pca, probabilistic-pca, vae, wavenet
      meshes   autoencoder, gaussian-mixture, kernel-density, morphable-model, pca, probabilistic-pca, vae

    examples:
      zoo train vae --help                             the settings of a family, and of its training
      zoo train vae --data photos -o mine              the pictures of a folder and its subfolders
      zoo train vae --data set --classes --validation val -o mine
                                                       in folders of classes, with valid/ beside train/
      zoo train wavenet --data sensor.csv:temperature,humidity --medium signals:length=64 -o mine
      zoo train made --data table.csv --training.steps 2000 -o mine
    """

    family: Positional[str]  # One of those above.
    data: Annotated[str, arg(metavar="SOURCE")]  # A named set of the medium, or your own file or folder.
    output: Annotated[Path, arg(aliases=("-o",), metavar="PATH")]  # The folder of the model.
    medium: Annotated[str | None, arg(metavar="KIND[:FIELD=VALUE,...]")] = None
    """The medium, where it is guessed wrong, and the size of its items: images:channels=1,height=32,levels=2."""
    reading: Annotated[str | None, arg(metavar="NAME=VALUE,...")] = None
    """How the data are read: stride=16 takes overlapping windows of a recording, flips=True mirrors pictures."""
    classes: bool = False  # Tell the model the classes of the items: their folders, or a column of labels.
    validation: Annotated[str | None, arg(metavar="SOURCE")] = None
    """Items that are not trained on, whose loss is logged: val or test for that split of the data, or another source.
    The weights of the lowest one are kept."""
    show_data: bool = False  # Show some of the items on the card, which `zoo push` publishes.
    anew: bool = False  # Begin anew, where OUTPUT-run holds an earlier run.

    @classmethod
    def specialise(cls, words: Sequence[str]) -> "type[Train]":
        """The command with the settings of the family that the words name as flags; itself where they name none."""
        named = next((word for word in words if word in FAMILIES or word in OWN), None)
        if named is None:
            return cls
        from zoo.configuration import family_class
        from zoo.model import Fitted
        from zoo.settings import settings
        from zoo.training import TrainingConfig

        family = family_class(named)
        fields: list[Any] = []
        if issubclass(family, Fitted):
            sizes, about = settings(_maker(family), *_given(family)), "How it is fitted."
        else:
            sizes, about = settings(family, *_given(family)), "The arguments of the model's constructor."
            training = TrainingConfig(steps=5_000, batch_size=64, best=True)
            fields = [("training", Annotated[TrainingConfig, arg(help="The training.")], training)]
        if dataclasses.fields(sizes):
            model = dataclasses.field(default_factory=sizes)
            required = any(field.default is dataclasses.MISSING for field in dataclasses.fields(sizes))
            fields.append(("model", Annotated[sizes, arg(help=about)], dataclasses.field() if required else model))
        made = dataclasses.make_dataclass("Train", fields, bases=(cls,), frozen=True, kw_only=True)
        made.__doc__ = cls.__doc__
        return made

    def run(self) -> None:
        from zoo.card import Card, read_figures, write_figures
        from zoo.checkpoint import CONFIG, WEIGHTS
        from zoo.conditions import Classes
        from zoo.configuration import family_class
        from zoo.hub import save
        from zoo.model import Fitted
        from zoo.showcase import draw, real_items, samples_exhibit

        family = family_class(self.family)
        occupied = self.output.exists() and not (self.output / CONFIG).is_file()
        if occupied and (not self.output.is_dir() or any(self.output.iterdir())):
            raise ValueError(f"{self.output} is no model that could be replaced; choose another --output")
        medium = self._medium()
        data: Any = self._read(medium, self.data, "train")
        medium = getattr(data, "medium", medium)
        spelled = ",".join(
            f"{name}={value}" for name, value in medium.config().items() if name != "kind" and value not in ("", None)
        )
        of = f" in {len(data.classes)} classes" if self.classes else ""
        print(f"{self.data}: {len(data):,} items{of} to train, taken for --medium {medium.kind}:{spelled}")
        condition = Classes(data.classes) if self.classes else None
        if condition is not None and (issubclass(family, Fitted) or "condition" not in _parameters(family)):
            raise ValueError(f"{self.family} cannot be told classes; leave --classes out")
        start = time.monotonic()
        if issubclass(family, Fitted):
            if self.validation is not None:
                raise ValueError(f"{self.family} is fitted in one go; leave --validation out")
            model: GenerativeModel = _suited(_maker(family), self, data, medium)
            how = f"Fitted by `zoo train` in {_duration(time.monotonic() - start)}."
        else:
            model, how = self._train(family, medium, data, condition)
        names = ""
        if condition is not None:
            more = f" and {len(condition) - 20} more" if len(condition) > 20 else ""
            names = f", in the classes {', '.join(condition.names[:20])}{more}"
        groups = getattr(data, "groups", None)
        names += f", of {len(set(groups))} groups" if groups else ""
        split = f" of the split {data.split!r}" if getattr(data, "split", None) else ""
        size = " x ".join(map(str, medium.shape))
        source = os.path.basename(os.path.abspath(self.data))
        card = Card(
            summary=f"{family.__name__} of {medium.kind}, {size}.",
            data=f"{source}: {len(data):,} items{split}{names}. Where they come from and under which licence is for "
            "whoever publishes this to say.",
            licence="other",
            trained=how,
        )
        [(exhibit, x)] = draw(model, [samples_exhibit(model)])
        picture = medium.show(x, exhibit.columns)
        weights = self.output / WEIGHTS
        before, measured = (weights.read_bytes(), read_figures(self.output)) if weights.is_file() else (b"", [])
        save(model, self.output, card, picture=picture, real=real_items(medium, data) if self.show_data else None)
        if measured and weights.read_bytes() == before:  # figures of the same weights are still true
            write_figures(self.output, measured)
        name = self.output if self.output.is_absolute() else Path(".") / self.output
        shown, given = shlex.quote(f"./{name}" if len(name.parts) == 1 else str(name)), shlex.quote(self.data)
        print(f"the model is {shown}: `zoo sample {shown} -o DIR`, `zoo evaluate {shown} --data {given} --write`")

    def _medium(self) -> "Modality":
        """The medium of the data, as it is given, or else guessed."""
        from modalities import MediaError, adapter, guess

        kind, _, given = (self.medium or "").partition(":")
        fields = _fields(given)
        try:
            return guess(self.data, kind or None, **fields)
        except MediaError:
            if not fields:
                raise
            return adapter(kind)(**fields)
        except TypeError as error:
            raise ValueError(f"--medium {self.medium}: {error}") from error

    def _read(self, medium: "Modality", source: str, split: str, classes: Sequence[str] | None = None) -> "Items":
        """A split of a source, with class numbers where the model is told classes."""
        options = _fields(self.reading or "")
        if "groups" in options:
            raise ValueError("--reading takes no groups, which `zoo evaluate` would not keep apart; train in Python")
        if classes is not None:
            options["classes"] = classes
        try:
            return medium.dataset(source, split, labels=self.classes, **options)
        except TypeError as error:
            raise ValueError(f"--reading {self.reading}: {error}") from error

    def _train(
        self, family: type, medium: "Modality", data: "Items", condition: object
    ) -> "tuple[GenerativeModel, str]":
        """A trained model, and what the card says of that."""
        import torch

        from zoo.training import train

        training = getattr(self, "training")  # noqa: B009  # of `specialise`
        validation = None
        if self.validation is not None:
            own = self.validation in ("val", "test")
            source, split = (self.data, self.validation) if own else (self.validation, "all")
            validation = self._read(medium, source, split, getattr(data, "classes", None))
            print(f"{source}: {len(validation):,} items to validate")
        torch.manual_seed(training.seed)
        told = {} if condition is None else {"condition": condition}
        model = _suited(family, self, medium, **told)
        run = train(model, data, training, f"{self.output}-run", validation=validation, resume=not self.anew)
        steps = int(run.history[-1]["step"])
        chosen = f", those of step {run.best_step:,} kept by validation" if run.best_step and training.best else ""
        return model.cpu(), (
            f"{steps:,} steps of {training.batch_size}{chosen} by `zoo train` in {_duration(run.seconds)}, "
            f"seed {training.seed}."
        )


def _maker(family: Any) -> Any:
    """What makes a model of a family: its fit, or its constructor."""
    from zoo.model import Fitted

    return family.fit if issubclass(family, Fitted) else family


def _parameters(family: type) -> Any:
    import inspect

    return inspect.signature(_maker(family)).parameters


def _given(family: type) -> list[str]:
    """The arguments that are no flags: the medium, the data, and what no command line can give."""
    from zoo.settings import is_flag

    return [name for name, parameter in _parameters(family).items() if not is_flag(parameter.annotation)]


def _suited(make: Any, command: Train, *given: object, **told: object) -> Any:
    """What a family makes with the settings of the command; raises ValueError where it does not suit the medium."""
    from zoo.settings import arguments

    try:
        return make(*given, **arguments(make, getattr(command, "model", None)), **told)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{command.family} cannot be made for {command.data}: {error}; `zoo train --help` lists families by medium"
        ) from error


def _fields(text: str) -> dict[str, Any]:
    """NAME=VALUE,...: numbers, True, False and None as they are written, else texts."""
    import ast

    found: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            found[name.strip()] = value.strip()
    return found if text else {}


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds > 100 else f"{seconds:.0f} s"
