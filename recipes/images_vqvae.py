"""VQ-VAE on images, then a gated PixelCNN of its codes: samples of the learned prior beside samples of uniform codes.

    python -m recipes.images_vqvae --data mnist
    python -m recipes.images_vqvae --data folder/of/pictures --channels 3 --size 32

The first takes 15 minutes on one core of an AMD EPYC, 5 of them for the VQ-VAE. All 256 codes are in use (perplexity
231), and binary MNIST test images come back from their 7 x 7 codes at 20.4 nats an image; the codes themselves take
207.7 nats, uniform ones 271.7. Together that bounds an image by 228 nats, far above the 82 of the VAE: a code book is
made for pictures, and pays for every code. Samples of the learned prior, a class a column, are digits; those of uniform
codes are specks. Where the data have labels, the prior is conditioned on them; the VQ-VAE below it never sees one.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modalities import MediaError
from modalities.data import Items, batches
from modalities.drawing import beside
from modalities.images import Images
from recipes.recipe import Pictures, Recipe, finish, made, run, seeded
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.card import Card
from zoo.conditions import Classes
from zoo.evaluation.samples import head
from zoo.evaluation.suite import evaluate
from zoo.latent_prior import LatentPrior
from zoo.settings import arguments, settings
from zoo.training import TrainingConfig, train
from zoo.variational.vq import VQVAE

SIZES: type = settings(VQVAE, codes=256, width=64, blocks=1)
TERMS = {"distortion": "NLL given its codes", "rate": "NLL of the codes"}
"""The two terms of the bound, in the words of codes."""


@dataclass(frozen=True)
class Config(SIZES, Recipe):
    """Data, networks, training and evaluation. The checkpoint holds the VQ-VAE and its prior."""

    data: str = "mnist"
    output: Path = Path("runs/images_vqvae")
    channels: int = 1
    """1 for binary pictures, 3 for colour pictures of 8 bits."""
    size: int = 28
    """Height and width; pictures of other sizes are cropped and resized."""
    flips: bool = False
    """Mirror training pictures at random: right for faces, wrong for digits."""
    prior_width: int = 64
    """Feature maps of the prior."""
    prior_layers: int = 6
    """Gated layers of the prior."""
    embedding: int = 64
    """The length of the prior's own vector of a code."""
    test_items: int = 1000
    """Test images that everything is measured on, the first ones; binary ones are drawn with seed 0."""
    vq: TrainingConfig = TrainingConfig(steps=3_000, precision="bf16")
    """Training of the VQ-VAE."""
    prior: TrainingConfig = TrainingConfig(steps=4_000, batch_size=64, precision="bf16")
    """Training of the prior."""


def main(config: Config) -> None:
    """Train a VQ-VAE on images, then a prior of its codes, and compare the prior's samples with uniform codes."""
    medium = Images(config.channels, config.size, config.size, 2 if config.channels == 1 else 256)
    pictures = medium.dataset(config.data, flips=config.flips)
    data, test, condition = labelled(medium, config)
    torch.manual_seed(config.vq.seed)
    vq = VQVAE(medium, **arguments(VQVAE, config))
    first = train(vq, pictures, config.vq, config.output / "vq")
    prior = GatedPixelCNN(
        vq.latents(),
        condition=condition,
        width=config.prior_width,
        head=config.prior_width,
        layers=config.prior_layers,
        embedding=config.embedding,
        likelihood="categorical",
    )
    model = LatentPrior(vq, prior)
    second = train(model, data, config.prior, config.output / "prior")

    name = f"test images of {config.source}" + (", binarised with seed 0" if medium.levels == 2 else "")
    found = evaluate(model, test, name, data, limit=config.test_items)
    figures = [replace(f, metric=TERMS.get(f.metric, f.metric)) for f in found.figures if "units" not in f.metric]
    notes = use_of_codes(vq, test, config.test_items)
    notes |= {"minutes of training, vq": first.seconds / 60, "minutes of training, prior": second.seconds / 60}
    steps = f"{config.vq.steps:,} steps of {config.vq.batch_size} for the VQ-VAE and {config.prior.steps:,} of "
    card = Card(
        summary=f"VQ-VAE on {config.size} x {config.size} images and a gated PixelCNN of its codes.",
        data="",
        figures=tuple(figures),
        paper="Van den Oord, Vinyals, Kavukcuoglu, Neural Discrete Representation Learning, 2017.",
        trained=made(config, f"{steps}{config.prior.batch_size} for the prior", first.seconds + second.seconds),
    )
    sheets = draw(model.cpu(), vq, next(batches(test, 20, seeded())).x)
    finish(config, model, "vq-vae", card, notes, sheets, data)


def labelled(medium: Images, config: Config) -> tuple[Items, Items, Classes | None]:
    """Training and test data, with labels where they have some, and their classes."""
    try:
        data: Any = medium.dataset(config.data, labels=True, flips=config.flips)
        test = medium.dataset(config.data, "test", labels=True, classes=data.classes)
    except MediaError:
        return medium.dataset(config.data, flips=config.flips), medium.dataset(config.data, "test"), None
    return data, test, Classes(data.classes)


def use_of_codes(vq: VQVAE, test: Items, limit: int) -> dict[str, object]:
    """What a grid of codes would cost if all were alike, and how many of them are in use."""
    size, uses = len(vq.codebook), torch.zeros(len(vq.codebook))
    for x, _ in head(vq, test, limit, 100, "Codes in use", seeded()):
        uses += torch.bincount(vq.codes(x).flatten().cpu(), minlength=size)
    share = uses / uses.sum()
    return {
        "nats of a grid of uniform codes": math.prod(vq.grid) * math.log(size),
        "codebook perplexity": torch.exp(-torch.xlogy(share, share).sum()).item(),
        "codes in use": f"{int((uses > 0).sum())} of {size}",
    }


def draw(model: LatentPrior, vq: VQVAE, real: Tensor) -> Pictures:
    """Samples of uniform codes and of the prior, a class a column; reconstructions, codes, and walks."""
    show, half = vq.modality.show, len(real) // 2
    walk = vq.interpolate(real[:half], real[half : 2 * half], 10, method="linear")
    classes = None if model.condition is None else model.condition.examples(10)
    columns = 10 if classes is None else len(dict.fromkeys(classes))
    told = None if classes is None else classes[:columns] * 6
    pictures = {
        "samples_prior": show(model.sample(6 * columns, condition=told, mean=True, generator=seeded()), columns),
        "samples_uniform": show(vq.sample(6 * columns, mean=True, generator=seeded()), columns),
        "reconstructions": show(torch.cat([real, vq.reconstruct(real)]), len(real)),
        "codes": vq.latents().show(vq.to_latents(vq.encode(real)), len(real)),
        "interpolations": show(walk.flatten(0, 1), 10),
    }
    return pictures | {"side_by_side": beside([pictures["samples_uniform"], pictures["samples_prior"]])}


QUICK = TrainingConfig(steps=100, batch_size=32, log_every=20)
LARGE = TrainingConfig(steps=40_000, batch_size=512, precision="bf16", minutes=5)
LONG = TrainingConfig(steps=250_000, batch_size=128, learning_rate=2e-4)
PRESETS = {
    "smoke": (
        "seconds, on 8 x 8 digits",
        Config(
            data="digits",
            size=8,
            codes=16,
            dimensions=8,
            downsampling=2,
            width=16,
            prior_width=16,
            prior_layers=3,
            embedding=8,
            test_items=50,
            vq=QUICK,
            prior=QUICK,
        ),
    ),
    "laptop": ("MNIST on one core, within 30 minutes", Config()),
    "gpu": (
        "MNIST on one large card in pieces of ten minutes; run again to go on",
        Config(width=128, blocks=2, prior_width=128, prior_layers=12, test_items=10_000, vq=LARGE, prior=LARGE),
    ),
    "paper": (
        "the sizes and the length of van den Oord et al. 2017: 512 codes, 256 feature maps, 250,000 steps",
        Config(
            codes=512, width=256, blocks=2, prior_width=128, prior_layers=20, test_items=10_000, vq=LONG, prior=LONG
        ),
    ),
}

if __name__ == "__main__":
    run(main, PRESETS)
