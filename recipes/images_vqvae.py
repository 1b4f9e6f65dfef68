"""VQ-VAE on images, then a gated PixelCNN of its codes: samples of the learned prior beside samples of uniform codes.

    python -m recipes.images_vqvae --data mnist
    python -m recipes.images_vqvae --data folder/of/pictures --channels 3 --size 32

The first takes 15 minutes on one core of an AMD EPYC, 5 of them for the VQ-VAE. All 256 codes are in use (perplexity
231), and binary MNIST test images come back from their 7 x 7 codes at 20.4 nats an image; the codes themselves take
207.7 nats, uniform ones 271.7. Together that bounds an image by 228 nats, far above the 82 of the VAE: a code book is
made for pictures, and pays for every code. Samples of the learned prior, a class a column, are digits; those of uniform
codes are specks. Where the data have labels, the prior is conditioned on them; the VQ-VAE below it never sees one.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from modalities import MediaError
from modalities.data import batches
from modalities.images import Images
from recipes.common import machine, run, write_figures
from recipes.images_vae import beside
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.card import Card, Figure
from zoo.evaluation import likelihood
from zoo.hub import push, save
from zoo.latent_prior import LatentPrior
from zoo.model import unpack
from zoo.training import TrainingConfig, seconds_trained, train
from zoo.variational.vq import VQVAE

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 10
"""How many images a row of a picture shows."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, networks, training and evaluation."""

    data: str = "mnist"
    """A named set ("mnist", "fashion-mnist", "cifar10", "digits") or a folder of your own pictures."""
    output: Path = Path("runs/images_vqvae")
    """Where checkpoints, logs, pictures and figures go; a run that was stopped goes on from there."""
    name: str = "vq-vae-mnist"
    """The checkpoint, which holds the VQ-VAE and its prior."""
    channels: int = 1
    """1 for binary pictures, 3 for colour pictures of 8 bits."""
    size: int = 28
    """Height and width; pictures of other sizes are cropped and resized."""
    flips: bool = False
    """Mirror training pictures at random: right for faces, wrong for digits."""
    codes: int = 256
    """Vectors of the codebook."""
    dimensions: int = 64
    """The length of a vector."""
    downsampling: int = 4
    """Pixels of an edge that become one position of the grid of codes."""
    width: int = 64
    """Feature maps of the VQ-VAE."""
    blocks: int = 1
    """Residual blocks of its encoder, and of its decoder."""
    prior_width: int = 64
    """Feature maps of the prior."""
    prior_layers: int = 6
    """Gated layers of the prior."""
    embedding: int = 64
    """The length of the prior's own vector of a code."""
    test_items: int = 1000
    """Test images that everything is measured on, the first ones; binary ones are drawn with seed 0."""
    licence: str = "apache-2.0"
    """Of the weights, as the Hub names it; the data decide."""
    about: str = "MNIST: LeCun, Cortes, Burges; freely redistributed since 1998. Binarised anew at every visit."
    """What the card says of the data."""
    push: str | None = None
    """Publish the checkpoint under this name, "org/name"."""
    vq: TrainingConfig = TrainingConfig(steps=3_000, precision="bf16")
    """Training of the VQ-VAE."""
    prior: TrainingConfig = TrainingConfig(steps=4_000, batch_size=64, precision="bf16")
    """Training of the prior."""


def main(config: Config) -> None:
    """Train a VQ-VAE on images, then a prior of its codes, and compare the prior's samples with uniform codes."""
    config.output.mkdir(parents=True, exist_ok=True)
    medium = Images(config.channels, config.size, config.size, 2 if config.channels == 1 else 256)
    torch.manual_seed(config.vq.seed)
    vq = VQVAE(
        medium,
        codes=config.codes,
        dimensions=config.dimensions,
        downsampling=config.downsampling,
        width=config.width,
        blocks=config.blocks,
    )
    train(vq, medium.dataset(config.data, flips=config.flips), config.vq, config.output / "vq")

    data, test, classes = labelled(medium, config.data, config.flips)
    prior = GatedPixelCNN(
        vq.latents,
        width=config.prior_width,
        layers=config.prior_layers,
        head=config.prior_width,
        classes=classes,
        likelihood="categorical",
        embedding=config.embedding,
    )
    model = LatentPrior(vq, prior)
    train(model, data, config.prior, config.output / "prior")

    drawn = ", binarised with seed 0" if medium.levels == 2 else ""
    name = f"first {config.test_items:,} test images ({config.name}){drawn}"
    model.cpu()  # what follows is quick
    scores, figures = measure(model, vq, test, medium.dataset(config.data, "test"), config, name)
    figures |= {f"minutes of training, {part}": seconds_trained(config.output / part) / 60 for part in ("vq", "prior")}
    write_figures(figures, config.output)
    sheet = draw(config, model, vq, test)

    minutes = sum(seconds_trained(config.output / part) for part in ("vq", "prior")) / 60
    card = Card(
        summary=f"VQ-VAE on {config.size} x {config.size} images and a gated PixelCNN of its codes.",
        data=config.about,
        licence=config.licence,
        figures=tuple(scores),
        paper="Van den Oord, Vinyals, Kavukcuoglu, Neural Discrete Representation Learning, 2017.",
        trained=f"{config.vq.steps:,} steps of {config.vq.batch_size} for the VQ-VAE and {config.prior.steps:,} of "
        f"{config.prior.batch_size} for the prior with recipes/images_vqvae.py in {minutes:.0f} minutes on "
        f"{machine()}, seed {config.vq.seed}.",
    )
    checkpoint = save(model, config.output / config.name, card, picture=sheet, half=True)
    if config.push:
        print(push(checkpoint, config.push))


def labelled(medium: Images, source: str, flips: bool) -> tuple[Any, Any, int | None]:
    """Training and test data, with labels where they have some, and the number of classes."""
    try:
        data = medium.dataset(source, labels=True, flips=flips)
        test = medium.dataset(source, "test", labels=True)
    except MediaError:
        return medium.dataset(source, flips=flips), medium.dataset(source, "test"), None
    return data, test, 1 + max(int(label) for part in (data, test) for label in part.labels)  # type: ignore[attr-defined]


@torch.no_grad()
def measure(
    model: LatentPrior, vq: VQVAE, test: Any, items: Any, config: Config, name: str
) -> tuple[list[Figure], dict[str, Any]]:
    """What the codes leave out of the pictures, and what they cost by the prior and by uniform codes.

    The sum of both bounds the negative log-likelihood of a picture, since p(x) is at least p(codes) p(x given codes).
    """
    parts: dict[str, list[Tensor]] = {"NLL": [], "NLL given its codes": [], "NLL of the codes": []}
    uses = torch.zeros(config.codes)
    for x, condition in _test_batches(test, config):
        z = model.latents(x)
        given = -model.decode(z).log_prob(x).double()
        codes = -model.prior.log_prob(z, condition=condition).double()
        for part, value in zip(parts.values(), (given + codes, given, codes), strict=True):
            part.append(value)
        uses += torch.bincount(vq.latents.indices(z).flatten(), minlength=config.codes)
    known = "" if model.classes is None else ", their classes known"
    scores = []
    for metric, values in parts.items():
        per_item = torch.cat(values)
        error = (per_item.std() / math.sqrt(len(per_item))).item() if len(per_item) > 1 else None
        kind = "bound on a mass" if metric == "NLL" else "mass"
        scores.append(Figure(metric, per_item.mean().item(), name + known, "nats", kind, error))
    generator = torch.Generator().manual_seed(0)
    scores += likelihood.measure(vq, items, name, limit=config.test_items, batch_size=100, generator=generator)
    share = uses / uses.sum()
    figures = {f"{figure.label}, {figure.data}": figure.measured for figure in scores}
    return scores, figures | {
        "nats of a grid of uniform codes": math.prod(vq.grid) * math.log(config.codes),
        "codebook perplexity": torch.exp(-torch.xlogy(share, share).sum()).item(),
        "codes in use": f"{int((uses > 0).sum())} of {config.codes}",
    }


def _test_batches(test: Any, config: Config) -> Iterator[tuple[Tensor, Any]]:
    """The first test items, 100 at a time, with their labels or None."""
    left = config.test_items
    for batch in batches(test, 100, torch.Generator().manual_seed(0)):
        x, condition = unpack(batch)
        yield x[:left], None if condition is None else condition[:left]
        left -= len(x)
        if left <= 0:
            return


def draw(config: Config, model: LatentPrior, vq: VQVAE, test: Any) -> "Image":
    """Write the pictures; the prior's samples are returned for the card."""
    show = vq.modality.show
    real, _ = unpack(next(iter(batches(test, 2 * COLUMNS, _seeded(config)))))
    half = len(real) // 2
    walk = vq.interpolate(real[:half], real[half : 2 * half], COLUMNS, method="linear")
    columns = min(model.classes or COLUMNS, COLUMNS)
    classes = None if model.classes is None else torch.arange(6 * columns) % columns
    samples = model.sample(6 * columns, condition=classes, mean=True, generator=_seeded(config))
    pictures = {
        "samples_uniform": show(vq.sample(6 * columns, mean=True, generator=_seeded(config)), columns),
        "samples_prior": show(samples, columns),
        "reconstructions": show(torch.cat([real, vq.reconstruct(real)]), len(real)),
        "codes": vq.latents.show(model.latents(real), len(real)),
        "interpolations": show(walk.flatten(0, 1), COLUMNS),
    }
    pictures["side_by_side"] = beside([pictures["samples_uniform"], pictures["samples_prior"]])
    for name, picture in pictures.items():
        picture.save(config.output / f"{name}.png")
    return pictures["samples_prior"]


def _seeded(config: Config) -> torch.Generator:
    return torch.Generator().manual_seed(config.prior.seed)


_QUICK = TrainingConfig(steps=100, batch_size=32, log_every=20)
_LARGE = TrainingConfig(steps=40_000, batch_size=512, precision="bf16", minutes=5)

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
            vq=_QUICK,
            prior=_QUICK,
        ),
    ),
    "laptop": ("MNIST on one core, within 30 minutes", Config()),
    "gpu": (
        "MNIST on one large card in pieces of ten minutes; run again to go on",
        Config(width=128, blocks=2, prior_width=128, prior_layers=12, test_items=10_000, vq=_LARGE, prior=_LARGE),
    ),
    "paper": (
        "the sizes and the length of van den Oord et al. 2017: 512 codes, 256 feature maps, 250,000 steps",
        Config(
            codes=512,
            width=256,
            blocks=2,
            prior_width=128,
            prior_layers=20,
            test_items=10_000,
            vq=TrainingConfig(steps=250_000, batch_size=128, learning_rate=2e-4),
            prior=TrainingConfig(steps=250_000, batch_size=128, learning_rate=2e-4),
        ),
    ),
}

if __name__ == "__main__":
    run(main, PRESETS)
