"""Conditions: what a model can be told. Part of its configuration, as the medium is.

    model = VAE(medium, condition=Classes(("boot", "shirt")))
    model.sample(4, condition="boot")

A new kind is a frozen dataclass that derives from `Condition`.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from modalities.data import Tree
from modalities.fields import check_types
from zoo.distributions import Rng, uniform_noise

Labels = Sequence[int] | Sequence[str] | Tensor
"""What a data set knows its items by."""
KINDS: dict[str, type["Condition"]] = {}
"""Every kind of condition and its class: those below, and those of the user's own program. None is ever imported for a
configuration."""


class Condition(abc.ABC):
    """What a model is told. Subclasses are frozen dataclasses of JSON values, stored with the model."""

    kind: ClassVar[str]
    noun: ClassVar[str] = "condition"
    """What one of them is called, "class", where a figure says what a model is told."""

    def __init_subclass__(cls, **arguments: object) -> None:
        super().__init_subclass__(**arguments)
        if "kind" in cls.__dict__:
            KINDS.setdefault(cls.kind, cls)

    def __post_init__(self) -> None:
        """Refuse fields of another type than the condition says; the lists of JSON are tuples here."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        for name, value in fields.items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        with suppress(NameError):  # types that a program's own condition does not import
            check_types(type(self), {name: getattr(self, name) for name in fields})

    @abc.abstractmethod
    def prepare(self, given: object, n: int, generator: Rng = None) -> Tree:
        """n conditions as tensors, the batch first, out of what a caller gives: one, or n of them, or None.

        What has been prepared is taken as it is. Raises ValueError for anything else.
        """

    @abc.abstractmethod
    def collate(self, labels: Labels) -> Tree:
        """The labels of a data set's items as tensors, the batch first."""

    @abc.abstractmethod
    def examples(self, n: int) -> list[str]:
        """n conditions to show the model with, in turn."""

    @abc.abstractmethod
    def parse(self, text: str) -> object:
        """What `prepare` takes, out of words on a command line."""

    def config(self) -> dict[str, object]:
        """The JSON form: its kind and its fields."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {"kind": self.kind} | {field.name: getattr(self, field.name) for field in fields}


def from_config(config: Mapping[str, object]) -> Condition:
    """Rebuild the condition that `Condition.config` described.

    Raises ValueError for a kind that this package does not have and for fields that it does not have.
    """
    fields = dict(config)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"unknown condition {kind!r}; this version knows {', '.join(sorted(KINDS))}")
    try:
        return KINDS[kind](**fields)
    except TypeError as error:
        raise ValueError(f"the configuration of {kind} does not fit: {error}") from error


@dataclasses.dataclass(frozen=True)
class Classes(Condition):
    """One of several classes, by its name or its number from 0. A missing one is drawn uniformly."""

    names: tuple[str, ...]
    kind: ClassVar[str] = "classes"
    noun: ClassVar[str] = "class"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.names:
            raise ValueError(f"classes have names, at least one, got {self.names!r}")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"the names of classes must differ, got {', '.join(self.names)}")

    @classmethod
    def numbered(cls, count: int) -> Self:
        """Classes that are called "0", "1", and so on."""
        return cls(tuple(str(number) for number in range(count)))

    def __len__(self) -> int:
        return len(self.names)

    def prepare(self, given: object, n: int, generator: Rng = None) -> Tensor:
        """Class numbers, shape [n], int64."""
        if given is None:
            u = uniform_noise((n,), torch.empty(0), generator)
            return (u * len(self)).long().clamp(max=len(self) - 1)
        named = [given] if isinstance(given, str) else given
        if isinstance(named, (list, tuple)):
            named = [self._number(name) if isinstance(name, str) else name for name in named]
        try:
            labels = torch.as_tensor(named)
        except (TypeError, ValueError, RuntimeError):
            labels = torch.empty(0, 0)
        if labels.is_floating_point() or labels.ndim > 1 or (labels.ndim == 1 and len(labels) not in (1, n)):
            raise ValueError(f"a condition is one class or {n} of them, names or whole numbers, got {given!r}")
        return self._checked(labels).expand(n)

    def collate(self, labels: Labels) -> Tensor:
        """Class numbers, shape [batch], int64."""
        if not isinstance(labels, Tensor):
            labels = torch.as_tensor([self._number(label) if isinstance(label, str) else label for label in labels])
        if labels.is_floating_point() or labels.ndim != 1:
            raise ValueError(f"labels are one class an item, got {labels.dtype} of shape {list(labels.shape)}")
        return self._checked(labels)

    def examples(self, n: int) -> list[str]:
        """The names in turn."""
        return [self.names[i % len(self)] for i in range(n)]

    def parse(self, text: str) -> str | list[str]:
        """A name, or several between commas."""
        parts = [text] if text in self.names else [part.strip() for part in text.split(",")]
        for part in parts:
            self._number(part)
        return parts[0] if len(parts) == 1 else parts

    def _number(self, name: str) -> int:
        if name in self.names:
            return self.names.index(name)
        if name.isdecimal() and int(name) < len(self):
            return int(name)
        shown = ", ".join(self.names[:20]) + (", ..." if len(self) > 20 else "")
        raise ValueError(f"there is no class {name!r}; the classes are {shown}")

    def _checked(self, labels: Tensor) -> Tensor:
        if ((labels < 0) | (labels >= len(self))).any():
            raise ValueError(f"classes run from 0 to {len(self) - 1}, got {labels.tolist()!r:.60}")
        return labels.long()


class Tokens(NamedTuple):
    """Texts as numbers."""

    ids: Tensor
    """Positions in the alphabet, shape [batch, longest], int64, padded with 0."""
    lengths: Tensor
    """Characters of every text, shape [batch]."""


@dataclasses.dataclass(frozen=True)
class Text(Condition):
    """A text, character by character. `alphabet` holds all characters that it may have; `samples` are shown."""

    alphabet: str = " abcdefghijklmnopqrstuvwxyz',.?!-"
    samples: tuple[str, ...] = ("hello", "how are you?")
    kind: ClassVar[str] = "text"
    noun: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.samples or len(set(self.alphabet)) < len(self.alphabet):
            raise ValueError("a text condition has samples to show, and an alphabet in which no character comes twice")

    def prepare(self, given: object, n: int, generator: Rng = None) -> Tokens:
        """Numbers of n texts."""
        if isinstance(given, Tokens) and len(given.ids) == n:
            return given
        texts = [given] * n if isinstance(given, str) else given
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"this model is told a text: give one, or a list of {n}, as the condition; got {given!r}")
        if len(texts) not in (1, n):
            raise ValueError(f"expected one text or {n}, got {len(texts)}")
        return self.collate(list(texts) * (n if len(texts) == 1 else 1))

    def collate(self, labels: Labels) -> Tokens:
        """Numbers of texts. Raises ValueError for an empty text and for characters that the alphabet lacks."""
        texts = [str(text) for text in labels]
        unknown = sorted({character for text in texts for character in text} - set(self.alphabet))
        if unknown or not all(texts):
            found = f"there is no {' '.join(unknown)} in it" if unknown else "one is empty"
            raise ValueError(f"texts are made of {self.alphabet!r}: {found}")
        ids = [torch.tensor([self.alphabet.index(character) for character in text]) for text in texts]
        return Tokens(torch.nn.utils.rnn.pad_sequence(ids, batch_first=True), torch.tensor([len(i) for i in ids]))

    def examples(self, n: int) -> list[str]:
        """The samples in turn."""
        return [self.samples[i % len(self.samples)] for i in range(n)]

    def parse(self, text: str) -> str:
        """The text."""
        return text
