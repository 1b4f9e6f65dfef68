"""VAE on face photographs beside principal components of the same: samples, likelihood, and a slider for the smile.

    python -m recipes.faces_vae --data FOLDER_OF_FACES

61 minutes of training on one core of an AMD EPYC, and 7 to measure. On 670 unseen faces of FairFace: 5.05 ± 0.01
bits/dim (a bound by 100 importance samples), principal components with noise 6.02 ± 0.02 (dequantised). Samples at 0.5
are faces, at 0.7 with strong colours, at 1 with wrong ones; interpolations stay faces. The smile's direction agrees
with the labels of unseen faces by 0.77 (a linear probe of the pixels 0.83), and its slider moves that reading by 3
standard deviations without jumps. Brightness agrees by 0.96, the head's turn by 0.82, age and gender by 0.5.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import torch
import tyro
from torch import Tensor

from modalities.data import batches, hold
from modalities.face_sets import brightness, read_attributes
from modalities.images import Images
from recipes.recipe import Pictures, Recipe, finish, run, seeded, trained
from zoo.card import Card
from zoo.evaluation.attributes import learn_directions, linear_probe, measure_directions, show_sliders
from zoo.evaluation.suite import evaluate
from zoo.linear.pca import PCA, ProbabilisticPCA
from zoo.linear.principal import principal_axes
from zoo.settings import arguments, settings
from zoo.training import TrainingConfig, train
from zoo.variational.vae import VAE
from zoo.walks import Z

COLUMNS = 8
"""How many pictures a row shows."""
TEMPERATURES = (0.5, 0.7, 1.0)
SIZES: type = settings(VAE, latent=128, likelihood="logistic-mixture", components=1, hidden=192)


@dataclasses.dataclass(frozen=True)
class Config(SIZES, Recipe):
    """Data, networks, training and evaluation."""

    data: str
    """A folder of aligned pictures, or a named set ("photographs"). With labels.csv and landmarks68.npy beside them,
    directions of smile, pose, age and gender are learned (see `modalities.face_sets.read_attributes`)."""
    output: Path = Path("runs/faces_vae")
    size: int = 64
    """Height and width; pictures of other sizes are cropped and resized."""
    principal: int = 256
    """Directions of the principal components beside."""
    samples: int = 100
    """Importance samples of the likelihood."""
    test_items: int | None = None
    """Test pictures that the likelihood is measured on, the first ones; None takes all."""
    labelled: int = 2000
    """Training pictures, the first ones, that directions are learned from."""
    vae: TrainingConfig = TrainingConfig(steps=9000, batch_size=32, precision="bf16", sample_every=500)
    """Training of the VAE."""


def main(config: Config) -> None:
    """Train a VAE on faces, measure it beside principal components, and find attributes in its latent space."""
    medium = Images(3, config.size, config.size)
    data, test = medium.dataset(config.data, "train"), medium.dataset(config.data, "test")
    torch.manual_seed(config.vae.seed)
    vae = VAE(medium, **arguments(VAE, config))
    mirrored = hold(medium.dataset(config.data, "train", flips=True), medium)
    done = train(vae, mirrored, config.vae, config.output / "vae")
    axes = principal_axes(data, medium.shape, config.principal, seed=config.vae.seed)
    pca, probabilistic = PCA.from_axes(medium, axes), ProbabilisticPCA.from_axes(medium, axes)

    measure = functools.partial(evaluate, test=test, name=f"test pictures of {config.source}", limit=config.test_items)
    figures = measure(vae, metrics=["likelihood", "latents"], samples=config.samples, batch_size=64).figures
    others = measure(probabilistic, metrics=["likelihood"]).figures
    vae.cpu()  # what follows is quick
    known, labels = read_attributes(medium, config.data, "train", config.labelled)
    unseen, truth = read_attributes(medium, config.data, "test")
    directions, probe = learn_directions(vae, known, labels), linear_probe(pca, known, labels)
    notes: dict[str, object] = {f"PPCA: {figure.label}": figure.measured for figure in others}
    notes |= {"training pictures": axes.count, "minutes of training": done.seconds / 60}
    notes |= measure_directions(vae, directions, unseen, truth, probe, known={"brightness": brightness})
    pictures = draw(vae, pca, directions, next(batches(test, 2 * COLUMNS)).x)
    card = Card(
        summary=f"VAE with residual convolutions on colour pictures of {config.size} x {config.size}.",
        data="",
        figures=tuple(figures),
        paper="Kingma, Welling, Auto-Encoding Variational Bayes, 2014.",
        trained=trained(config, config.vae, done),
        temperature=0.5,
    )
    finish(config, vae, "vae", card, notes, pictures, data)


def draw(vae: VAE, pca: PCA, directions: Mapping[str, Z], real: Tensor) -> Pictures:
    """The VAE's pictures, and those of the principal components: in "temperatures" to the right, in "reconstructions"
    below."""
    show, some, half = vae.modality.show, real[:COLUMNS], len(real[:COLUMNS]) // 2
    # The same noise at every temperature, so that a column shows one face.
    rows = [
        model.sample(COLUMNS, temperature=t, mean=True, generator=seeded())
        for t in TEMPERATURES
        for model in (vae, pca)
    ]
    walk = vae.interpolate(some[:half], some[half : 2 * half], COLUMNS)
    pictures = {
        "samples": show(vae.sample(6 * COLUMNS, temperature=0.5, mean=True, generator=seeded()), COLUMNS),
        "temperatures": show(torch.cat(rows), 2 * COLUMNS),
        "reconstructions": show(torch.cat([some, vae.reconstruct(some), pca.reconstruct(some)]), len(some)),
        "interpolations": show(walk.flatten(0, 1), COLUMNS),
        "traversals": show(vae.traverse(some[:1])[0].flatten(0, 1), 7),
        "sliders": show_sliders(vae, directions, some[:1]),
    }
    if "smile" in directions:
        pictures["smile"] = show_sliders(vae, {"smile": directions["smile"]}, some[:6])
    return pictures


LARGE = TrainingConfig(30_000, 128, 5e-4, precision="bf16", minutes=9, sample_every=1000)
SMOKE = TrainingConfig(80, 32, 5e-3, ema=0.9, log_every=20)
PRESETS = {
    "smoke": (
        "seconds, on patches of photographs",
        Config("photographs", size=16, latent=8, width=8, hidden=32, principal=16, samples=5, test_items=20, vae=SMOKE),
    ),
    "laptop": ("colour faces of 64 x 64, within an hour on one core", Config(tyro.MISSING)),
    "gpu": (
        "wider networks on one large card in pieces of ten minutes; run again to go on",
        Config(tyro.MISSING, width=64, blocks=3, hidden=512, components=5, samples=1000, vae=LARGE),
    ),
    "paper": (
        "the hidden layers and batches of Kingma and Welling 2014: one of 500 units, 100 pictures, on convolutions",
        Config(tyro.MISSING, hidden=500, samples=5000, vae=TrainingConfig(500_000, 100)),
    ),
}

if __name__ == "__main__":
    run(main, PRESETS)
