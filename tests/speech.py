"""A medium, a condition and a model in one file, as someone outside of the package would write them: texts spoken as
sounds of different lengths."""

import dataclasses
from typing import NamedTuple

import torch
from torch import nn

import zoo
from modalities import Modality
from zoo.conditions import Condition
from zoo.model import Trainable, check_count

HOP = 10
"""Samples a letter."""


@dataclasses.dataclass(frozen=True)
class Sounds(Modality):
    """Waves of any length, shape [1, time], in [-1, 1]."""

    rate: int = 1000
    kind = "sounds"
    ragged = True

    @property
    def shape(self):
        return (1, None)

    def show(self, x, columns=None):
        from PIL import Image

        return Image.new("L", (max(item.shape[-1] for item in x), len(x)))


class Spelled(NamedTuple):
    letters: torch.Tensor
    lengths: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Spelling(Condition):
    """Words, letter by letter."""

    alphabet: str = "abcdefghijklmnopqrstuvwxyz"
    kind = "spelling"

    def prepare(self, given, n, generator=None):
        if isinstance(given, Spelled):
            return given
        if given is None:
            raise ValueError("this model speaks a word: give one as the condition")
        return self.collate([given] * n if isinstance(given, str) else given)

    def collate(self, labels):
        letters = [torch.tensor([self.alphabet.index(letter) for letter in word]) for word in labels]
        padded = nn.utils.rnn.pad_sequence(letters, batch_first=True)
        return Spelled(padded, torch.tensor([len(word) for word in letters]))

    def examples(self, n):
        return [("zoo", "hello")[i % 2] for i in range(n)]

    def parse(self, text):
        return text


class Speaker(Trainable):
    """One learned wave a letter."""

    def __init__(self, modality: Sounds, condition: Spelling):
        super().__init__()
        self.modality, self.condition = modality, condition
        self.waves = nn.Embedding(len(condition.alphabet), HOP)

    def _speak(self, told):
        return self.waves(told.letters).flatten(1)[:, None]

    def loss(self, batch, *, player="model", progress=1.0, shared=None, generator=None):
        told = self.prepare_condition(batch.condition, len(batch.x))
        sounding = torch.arange(batch.x.shape[-1], device=batch.x.device) < batch.lengths[:, None]
        return {"loss": ((self._speak(told) - batch.x)[:, 0].square() * sounding).sum() / sounding.sum()}

    @torch.no_grad()
    def sample(self, n, *, condition=None, temperature=1.0, mean=False, generator=None):
        check_count(n)
        told = self.prepare_condition(condition, n, generator)
        return [wave[:, : HOP * length] for wave, length in zip(self._speak(told), told.lengths, strict=True)]


zoo.register("speaker", Speaker)
