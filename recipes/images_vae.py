"""Autoencoder and VAE on binary images: the same networks, sampled the same way side by side; traversals of the VAE.

    python -m recipes.images_vae --data mnist

84 minutes on MNIST with one thread of a busy AMD EPYC: 78 for the VAE's 24,000 steps, 6 for the autoencoder. The VAE
gives the first 1,000 test images 81.4 ± 0.7 nats (an upper bound by 100 importance samples, binarised with seed 0);
published figures are of all 10,000. Its draws from q(z given x) have standard deviations of 0.98 to 1.02 in every
dimension, as the prior has, and 30 of 32 dimensions are active: samples from N(0, I) are digits. The autoencoder's
codes spread over 0.85 to 1.40 and fill the space unevenly: the same draws decode to fragments of strokes. Traversals
move the slant, the width of strokes and the bar of a 7, and one turns it into a 3 and a 2.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from modalities.data import Items, batches
from modalities.drawing import beside
from modalities.images import Images
from recipes.recipe import Pictures, Recipe, finish, published, run, seeded, trained
from zoo.card import Card
from zoo.evaluation.suite import evaluate
from zoo.settings import arguments, settings
from zoo.training import TrainingConfig, train
from zoo.variational.autoencoder import Autoencoder
from zoo.variational.vae import VAE

SIZES: type = settings(VAE)
BURDA = "one stochastic layer, 5,000 samples; Burda, Grosse, Salakhutdinov, Importance Weighted Autoencoders, 2016"


@dataclass(frozen=True)
class Config(SIZES, Recipe):
    """Data, networks, training and evaluation. The autoencoder has the networks of the VAE."""

    data: str = "mnist"
    output: Path = Path("runs/images_vae")
    size: int = 28
    """Height and width; pictures of other sizes are cropped and resized."""
    samples: int = 100
    """Importance samples of the likelihood."""
    test_items: int = 1000
    """Test images that are measured on, the first ones; binarised with seed 0."""
    vae: TrainingConfig = TrainingConfig(steps=24_000, precision="bf16")
    """Training of the VAE."""
    autoencoder: TrainingConfig = TrainingConfig(steps=4_000, precision="bf16")
    """Training of the autoencoder."""


def main(config: Config) -> None:
    """Train an autoencoder and a VAE on binary images, then compare what their latent spaces hold."""
    medium = Images(1, config.size, config.size, levels=2)
    data, test = medium.dataset(config.data), medium.dataset(config.data, "test")
    torch.manual_seed(config.vae.seed)
    vae = VAE(medium, **arguments(VAE, config))
    autoencoder = Autoencoder(medium, **arguments(Autoencoder, config))
    done = train(vae, data, config.vae, config.output / "vae")
    other = train(autoencoder, data, config.autoencoder, config.output / "autoencoder")

    name = f"test images of {config.source}, binarised with seed 0"
    found = evaluate(vae, test, name, data, limit=config.test_items, samples=config.samples)
    figures = published(found.figures, config, {("mnist", "NLL"): (86.76, BURDA)})
    vae.cpu()
    autoencoder.cpu()
    notes = compare_codes(autoencoder, vae, test) | {
        "importance samples": config.samples,
        "minutes of training, VAE": done.seconds / 60,
        "minutes of training, autoencoder": other.seconds / 60,
    }
    pictures = draw(autoencoder, vae, next(batches(test, 40, seeded())).x)
    card = Card(
        summary=f"VAE with residual convolutions on binary {config.size} x {config.size} images.",
        data="Binarised anew at every visit.",
        figures=tuple(figures),
        paper="Kingma, Welling, Auto-Encoding Variational Bayes, 2014.",
        trained=trained(config, config.vae, done),
    )
    finish(config, vae, "vae", card, notes, pictures, data)


@torch.no_grad()
def compare_codes(autoencoder: Autoencoder, vae: VAE, test: Items) -> dict[str, str]:
    """How far the codes of test images spread in both models, the smallest and the largest dimension."""
    generator = seeded()
    codes, draws = [], []
    for batch in batches(test, 500, generator):
        codes.append(autoencoder.encode(batch.x).mean)
        draws.append(vae.encode(batch.x).sample(generator=generator))
    spreads = [torch.cat(z).std(0) for z in (codes, draws)]
    ranges = [f"{spread.min():.2f} to {spread.max():.2f}" for spread in spreads]
    return {
        "standard deviations of the autoencoder's codes, smallest and largest": ranges[0],
        "the same of the VAE's draws from q(z given x), whose prior is 1": ranges[1],
    }


def draw(autoencoder: Autoencoder, vae: VAE, real: Tensor) -> Pictures:
    """Samples of both, the VAE's at several temperatures, reconstructions of both, walks and traversals."""
    show, some, half = vae.modality.show, real[:10], len(real[:10]) // 2
    hot = [vae.sample(10, temperature=t, mean=True, generator=seeded()) for t in (0.5, 0.7, 1.0, 1.3)]
    walk = vae.interpolate(some[:half], some[half : 2 * half], 10)
    swept = vae.traverse(real[:1], values=torch.linspace(-3, 3, 10).tolist())
    pictures = {
        "samples_vae": show(vae.sample(60, mean=True, generator=seeded()), 10),
        "samples_autoencoder": show(autoencoder.sample(60, generator=seeded()), 10),
        "temperatures": show(torch.cat(hot), 10),
        "reconstructions": show(torch.cat([some, autoencoder.reconstruct(some), vae.reconstruct(some)]), len(some)),
        "interpolations": show(walk.flatten(0, 1), 10),
        "traversals": show(swept.flatten(0, 2), 10),
    }
    return pictures | {"side_by_side": beside([pictures["samples_autoencoder"], pictures["samples_vae"]])}


QUICK = TrainingConfig(steps=100, batch_size=32, log_every=20)
LARGE = TrainingConfig(steps=60_000, batch_size=512, precision="bf16", minutes=6)
PRESETS = {
    "smoke": (
        "seconds, on 8 x 8 digits",
        Config(data="digits", size=8, latent=8, width=8, samples=10, test_items=50, vae=QUICK, autoencoder=QUICK),
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
            vae=LARGE,
            autoencoder=replace(LARGE, steps=5_000, minutes=1),
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
