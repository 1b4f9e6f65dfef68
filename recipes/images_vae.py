"""Autoencoder and VAE on binary images: the same networks, sampled the same way side by side; traversals of the VAE.

    python -m recipes.images_vae --data mnist

84 minutes on MNIST with one thread of a busy AMD EPYC: 78 for the VAE's 24,000 steps, 6 for the autoencoder. The VAE
gives the first 1,000 test images 81.4 ± 0.7 nats (an upper bound by 100 importance samples, binarised with seed 0);
published figures are of all 10,000. Its draws from q(z given x) have standard deviations of 0.98 to 1.02 in every
dimension, as the prior has, and 30 of 32 dimensions are active: samples from N(0, I) are digits. The autoencoder's
codes spread over 0.85 to 1.40 and fill the space unevenly: the same draws decode to fragments of strokes. Traversals
move the slant, the width of strokes and the bar of a 7, and one turns it into a 3 and a 2.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from modalities.data import batches
from modalities.images import Images
from recipes.common import machine, run, write_figures
from zoo.card import Card, Figure
from zoo.evaluation import likelihood
from zoo.hub import push, save
from zoo.training import TrainingConfig, seconds_trained, train
from zoo.variational.autoencoder import Autoencoder
from zoo.variational.vae import VAE

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 10
"""How many images a row of a picture shows."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, networks, training and evaluation."""

    data: str = "mnist"
    """A named set ("mnist", "fashion-mnist", "digits") or a folder of your own pictures."""
    output: Path = Path("runs/images_vae")
    """Where checkpoints, logs, pictures and figures go; a run that was stopped goes on from there."""
    name: str = "vae-mnist"
    """The VAE's checkpoint."""
    size: int = 28
    """Height and width; pictures of other sizes are cropped and resized."""
    latent: int = 32
    """Latent dimensions of both models."""
    width: int = 32
    """Channels of the networks' first stage."""
    blocks: int = 1
    """Residual blocks a stage."""
    hidden: int = 256
    """Width of the linear layers next to the latent."""
    samples: int = 100
    """Importance samples of the likelihood."""
    test_items: int = 1000
    """Test images that the likelihood is measured on, the first ones; binarised with seed 0."""
    licence: str = "apache-2.0"
    """Of the weights, as the Hub names it; the data decide."""
    about: str = "MNIST: LeCun, Cortes, Burges; freely redistributed since 1998. Binarised anew at every visit."
    """What the card says of the data."""
    push: str | None = None
    """Publish the VAE under this name, "org/name"."""
    vae: TrainingConfig = TrainingConfig(steps=24_000, precision="bf16")
    """Training of the VAE."""
    autoencoder: TrainingConfig = TrainingConfig(steps=4_000, precision="bf16")
    """Training of the autoencoder."""


def main(config: Config) -> None:
    """Train an autoencoder and a VAE on binary images, then compare what their latent spaces hold."""
    config.output.mkdir(parents=True, exist_ok=True)
    medium = Images(channels=1, height=config.size, width=config.size, levels=2)
    data, test = medium.dataset(config.data, "train"), medium.dataset(config.data, "test")
    sizes: dict[str, Any] = {name: getattr(config, name) for name in ("latent", "width", "blocks", "hidden")}
    torch.manual_seed(config.vae.seed)
    vae, autoencoder = VAE(medium, **sizes), Autoencoder(medium, **sizes)
    train(vae, data, config.vae, config.output / "vae")
    train(autoencoder, data, config.autoencoder, config.output / "autoencoder")

    name = f"first {config.test_items:,} test images ({config.name}), binarised with seed 0"
    scores = measure(vae, test, config, name)
    for model in (vae, autoencoder):
        model.cpu()  # what follows is quick
    codes, means, share = compare_codes(autoencoder, vae, test)
    figures: dict[str, Any] = {f"{figure.label}, {figure.data}": figure.measured for figure in scores}
    figures |= {
        "importance samples": config.samples,
        "standard deviations of the autoencoder's codes, smallest and largest": codes,
        "the same of the VAE's draws from q(z given x), whose prior is 1": means,
        "active latent dimensions of the VAE (variance of the posterior mean above 0.01)": share,
        "minutes of training, VAE": seconds_trained(config.output / "vae") / 60,
        "minutes of training, autoencoder": seconds_trained(config.output / "autoencoder") / 60,
    }
    write_figures(figures, config.output)
    sheet = draw(config, autoencoder, vae, test)

    card = Card(
        summary=f"VAE with residual convolutions on binary {config.size} x {config.size} images.",
        data=config.about,
        licence=config.licence,
        figures=tuple(scores),
        paper="Kingma, Welling, Auto-Encoding Variational Bayes, 2014.",
        trained=f"{config.vae.steps:,} steps of {config.vae.batch_size} with recipes/images_vae.py in "
        f"{seconds_trained(config.output / 'vae') / 60:.0f} minutes on {machine()}, seed {config.vae.seed}.",
    )
    checkpoint = save(vae, config.output / config.name, card, picture=sheet, half=True)
    if config.push:
        print(push(checkpoint, config.push))


def measure(vae: VAE, test: Any, config: Config, name: str) -> list[Figure]:
    """The importance-weighted likelihood and the reconstruction, with the published figures of like models beside."""
    found = likelihood.measure(
        vae,
        test,
        name,
        samples=config.samples,
        limit=config.test_items,
        batch_size=100,
        generator=torch.Generator().manual_seed(0),
    )
    source = "one stochastic layer, 5,000 samples; Burda, Grosse, Salakhutdinov, Importance Weighted Autoencoders, 2016"
    mnist = config.name == "vae-mnist"
    return [
        dataclasses.replace(figure, published=86.76, source=source) if mnist and figure.metric == "NLL" else figure
        for figure in found
    ]


@torch.no_grad()
def compare_codes(autoencoder: Autoencoder, vae: VAE, test: Any) -> tuple[str, str, str]:
    """How the codes of test images spread in both models, and how many of the VAE's dimensions carry information."""
    generator = torch.Generator().manual_seed(0)
    codes, draws, means = [], [], []
    for x in batches(test, 500, generator):
        codes.append(autoencoder.encode(x))
        posterior = vae.encode(x)
        draws.append(posterior.rsample(generator=generator))
        means.append(posterior.mean)
    active = int((torch.cat(means).var(0) > 0.01).sum())
    return _range(codes), _range(draws), f"{active} of {vae.latent}"


def _range(codes: list[Tensor]) -> str:
    spread = torch.cat(codes).std(0)
    return f"{spread.min():.2f} to {spread.max():.2f}"


def draw(config: Config, autoencoder: Autoencoder, vae: VAE, test: Any) -> "Image":
    """Write the pictures; the VAE's samples are returned for the card."""
    show = vae.modality.show
    real = next(iter(batches(test, 4 * COLUMNS, torch.Generator().manual_seed(0))))
    some = real[:COLUMNS]
    hot = [vae.sample(COLUMNS, temperature=t, mean=True, generator=_seeded(config)) for t in (0.5, 0.7, 1.0, 1.3)]
    half = len(some) // 2
    walk = vae.interpolate(some[:half], some[half : 2 * half], COLUMNS)
    swept = vae.traverse(real[:1], values=torch.linspace(-3, 3, COLUMNS).tolist())
    pictures = {
        "samples_autoencoder": show(autoencoder.sample(6 * COLUMNS, generator=_seeded(config)), COLUMNS),
        "samples_vae": show(vae.sample(6 * COLUMNS, mean=True, generator=_seeded(config)), COLUMNS),
        "temperatures": show(torch.cat(hot), COLUMNS),
        "reconstructions": show(torch.cat([some, autoencoder.reconstruct(some), vae.reconstruct(some)]), len(some)),
        "interpolations": show(walk.flatten(0, 1), COLUMNS),
        "traversals": show(swept.flatten(0, 2), COLUMNS),
    }
    pictures["side_by_side"] = beside([pictures["samples_autoencoder"], pictures["samples_vae"]])
    for name, picture in pictures.items():
        picture.save(config.output / f"{name}.png")
    return pictures["samples_vae"]


def _seeded(config: Config) -> torch.Generator:
    return torch.Generator().manual_seed(config.vae.seed)


def beside(pictures: "Sequence[Image]", gap: int = 24) -> "Image":
    """Pictures of one height in a row."""
    from PIL import Image

    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    row, left = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white"), 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


_QUICK = TrainingConfig(steps=100, batch_size=32, log_every=20)
_LARGE = TrainingConfig(steps=60_000, batch_size=512, precision="bf16", minutes=6)

PRESETS = {
    "smoke": (
        "seconds, on 8 x 8 digits",
        Config(data="digits", size=8, latent=8, width=8, samples=10, test_items=50, vae=_QUICK, autoencoder=_QUICK),
    ),
    "laptop": ("MNIST on two cores, within 90 minutes", Config()),
    "gpu": (
        "MNIST on one large card in pieces of ten minutes; run again to go on",
        Config(
            width=64,
            blocks=3,
            hidden=512,
            samples=1000,
            test_items=10_000,
            vae=_LARGE,
            autoencoder=dataclasses.replace(_LARGE, steps=5_000, minutes=1),
        ),
    ),
    "paper": (
        "the length and latent size of Burda et al. 2016: 50 dimensions, 3,280 epochs in batches of 20",
        Config(
            latent=50,
            samples=5000,
            test_items=10_000,
            vae=TrainingConfig(steps=9_840_000, batch_size=20),
            autoencoder=TrainingConfig(steps=300_000, batch_size=20),
        ),
    ),
}

if __name__ == "__main__":
    run(main, PRESETS)
