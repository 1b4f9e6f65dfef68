"""How to train: the settings of a run."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

from zoo.model import Optimiser, Player


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How to train. A step is one turn of every player on one global batch.

    Raises ValueError for a setting that no training can have.
    """

    steps: int = 10_000
    """Optimiser steps of the whole run; the learning rate and the schedules of the loss end there."""
    batch_size: int = 128
    """Items a step, over all processes together."""
    learning_rate: float = 1e-3
    """Peak learning rate, reached after the warm-up and lowered along a cosine to a hundredth."""
    optimiser: Literal["adamw", "adamax"] = "adamw"
    """AdamW, or Adamax with an epsilon of 0.001, as NVAE was published with."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from 0."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the optimiser's two moments."""
    weight_decay: float = 0.0
    """Weight decay, decoupled from the gradient with AdamW."""
    clip_norm: float = 100.0
    """Gradients with a larger norm are scaled down to it."""
    skip_above: float = 0.0
    """Leave a step out whose gradient norm is not finite, or is so many times the median of the last hundred; 0 takes
    every step. Deep hierarchies of latents need it (Child, "Very Deep VAEs", 2021, with a fixed threshold)."""
    ema: float = 0.999
    """Decay of the exponential moving average of the weights, which is what is returned; 0 takes the last weights."""
    precision: Literal["no", "bf16"] = "no"
    """Mixed precision: bf16 runs the networks in bfloat16; likelihoods and weights stay in float32."""
    workers: int = 0
    """Processes that read files ahead; 0 reads in the training process, best for data in memory."""
    seed: int = 0
    """Seeds the order of the data and all noise: the same seed gives the same run."""
    log_every: int = 50
    """Steps between scalars and checks for a loss that is not finite."""
    checkpoint_every: int = 1000
    """Steps between checkpoints: what a kill can lose."""
    sample_every: int = 2000
    """Steps between sample pictures in TensorBoard."""
    minutes: float | None = None
    """Stop with a checkpoint after this time, to be resumed later; None runs to the end."""
    accumulate: int = 1
    """Gradient accumulation: in how many parts a batch goes through the model, their gradients added up. It takes less
    memory and is the same step but for layers that look at the batch."""
    validate_every: int = 500
    """Steps between measurements of the loss on validation data, if there are any."""
    patience: int | None = None
    """Early stopping: end after so many measurements without a lower validation loss; None runs to the end."""
    best: bool = False
    """Return the weights of the lowest validation loss, rather than the last ones."""

    def __post_init__(self) -> None:
        check(self)

    def optimiser_of(self, player: Player) -> Optimiser:
        """How a player is optimised: as it says itself, else as this configuration says."""
        if player.optimiser is not None:
            check(player.optimiser)
            return player.optimiser
        names = [field.name for field in dataclasses.fields(Optimiser) if field.name not in ("kind", "schedule")]
        return Optimiser(kind=self.optimiser, **{name: getattr(self, name) for name in names})


def check(settings: TrainingConfig | Optimiser) -> None:
    """Raise ValueError, with its name, for a setting that no training can have."""
    for names, words, holds in RULES:
        for name in names.split():
            value = getattr(settings, name, None)
            if hasattr(settings, name) and not (value is None and name in OPTIONAL) and not _holds(holds, value):
                raise ValueError(f"{type(settings).__name__}: {name} must be {words}, got {value!r:.60}")


def _holds(holds: Callable[..., bool], value: object) -> bool:
    try:
        return holds(value)
    except (TypeError, ValueError):  # a text in the place of a number
        return False


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


OPTIONAL = ("minutes", "patience")
COUNTS = "steps batch_size log_every checkpoint_every sample_every accumulate validate_every patience"
RULES: list[tuple[str, str, Callable[..., bool]]] = [
    (COUNTS, "a whole number from 1", lambda value: _whole(value) and value >= 1),
    ("warmup_steps workers seed", "a whole number from 0", lambda value: _whole(value) and value >= 0),
    ("learning_rate weight_decay minutes", "a finite number from 0", lambda value: 0 <= value < math.inf),
    ("clip_norm", "a number above 0 (infinity clips nothing)", lambda value: value > 0),
    ("skip_above", "0 or a finite number above 1", lambda value: value == 0 or 1 < value < math.inf),
    ("ema", "a number from 0, below 1", lambda value: 0 <= value < 1),
    ("betas", "two numbers from 0, below 1", lambda pair: len(pair) == 2 and all(0 <= value < 1 for value in pair)),
    ("optimiser kind", "adamw or adamax", lambda value: value in ("adamw", "adamax")),
    ("precision", "no or bf16", lambda value: value in ("no", "bf16")),
    ("schedule", "cosine, exponential or constant", lambda value: value in ("cosine", "exponential", "constant")),
    ("best", "true or false", lambda value: isinstance(value, bool)),
]
"""The settings, in words what they may be, and whether a value is that."""
