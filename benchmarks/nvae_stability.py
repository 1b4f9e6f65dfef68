"""Whether NVAE trains without NaN: 500 steps at high learning rates, on several seeds.

    python -m benchmarks.nvae_stability

A small NVAE learns scikit-learn's digits, 16 x 16, grey, 8 bits. "default" is what the constructor gives, with AdamW
and `skip_above` 5; "published" has batch normalisation, the spectral terms and Adamax. The table tells the steps that
were left out, the loss at the end (the mean of the last ten steps) and the KL of the first group: a dead one sits at
the bound of its posterior's means, at hundreds or thousands of nats.
"""

import dataclasses
import math
import statistics
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from modalities.images import Images
from zoo.training import TrainingConfig, TrainingError, train
from zoo.variational.nvae import NVAE

WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {"skip_above": 5.0}),
    "published": ({"normalisation": "batch", "spectral": 0.01}, {"optimiser": "adamax"}),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """How many runs, and how long."""

    rates: tuple[float, ...] = (1e-3, 5e-3, 1e-2)
    """Learning rates."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, of the weights, of the order and of the noise."""
    ways: tuple[str, ...] = tuple(WAYS)
    """Settings: default, published."""
    steps: int = 500
    """Steps a run."""
    batch: int = 16
    """Pictures a step."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises."""


def run(config: Config, way: str, rate: float, seed: int) -> list[str]:
    """One training, as a row of the table."""
    arguments, settings = WAYS[way]
    medium = Images(1, 16, 16)
    torch.manual_seed(seed)
    small: dict[str, Any] = dict(groups=(2, 2), latent=4, width=8, blocks=1, block_cells=2, cells=1, expansion=3)
    model = NVAE(medium, **small, **arguments)
    training = TrainingConfig(
        steps=config.steps,
        batch_size=config.batch,
        learning_rate=rate,
        warmup_steps=config.warmup_steps,
        seed=seed,
        log_every=1,
        **settings,
    )
    row = [way, f"{rate:g}", str(seed)]
    try:
        history = train(model, medium.dataset("digits", "train"), training)
    except TrainingError:
        return [*row, "yes", "", "", ""]
    broken = not all(math.isfinite(scalars["loss"]) for scalars in history)
    broken |= not all(torch.isfinite(parameter).all() for parameter in model.parameters())
    ends = [statistics.mean(scalars[name] for scalars in history[-10:]) for name in ("loss", "kl/00")]
    return [*row, "yes" if broken else "no", f"{history[-1].get('skipped', 0):.0f}", *(f"{end:.1f}" for end in ends)]


def main(config: Config) -> None:
    """Train and print the table."""
    console = Console(width=120)
    title = f"NVAE on digits 16 x 16, {config.steps} steps of {config.batch}"
    table = Table("settings", "learning rate", "seed", "NaN", "skipped", "loss", "KL of group 1", title=title)
    for way in config.ways:
        for rate in config.rates:
            for seed in config.seeds:
                table.add_row(*run(config, way, rate, seed))
    console.print(table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=main.__doc__))
