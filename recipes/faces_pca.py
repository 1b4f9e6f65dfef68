"""Principal components of face photographs: what a linear model with normal scores can generate, and what it cannot.

    python -m recipes.faces_pca --data FOLDER_OF_FACES
    python -m recipes.faces_pca --data MNIST --channels 1 --height 28 --width 28 --components 64 --output runs/pca_mnist

The first took 73 s of one core of an Intel Xeon, most of it to decode 5,730 faces several times; the second, MNIST,
57 s. 256 directions keep 94.1 % of the variance and rebuild 670 unseen faces at 25.4 dB, with a 14th of the mean face's
squared error; probabilistic PCA gives them 6.02 bits/dim, a bound by the density of dequantised pictures. Samples are
no copies: one has a nearer training face than an unseen face has with a probability of 0.52. But they are smeared, and
more so at temperature 1 than below: faces are not a normal distribution. MNIST: 64 directions, 86.2 %, 21.5 dB, 6.93
bits/dim; samples are farther from every training digit than unseen digits are (0.12).
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import tyro
from torch import Tensor

from modalities.data import Items, batches
from modalities.drawing import render
from modalities.images import Images
from recipes.recipe import Pictures, Recipe, made, publish, report, run, seeded
from zoo.card import Card, Figure
from zoo.evaluation.suite import evaluate
from zoo.linear.pca import PCA, ProbabilisticPCA
from zoo.linear.principal import principal_axes

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPERATURES = (0.4, 0.7, 1.0)
COLUMNS = 8
"""How many pictures a row shows."""


@dataclasses.dataclass(frozen=True)
class Config(Recipe):
    """Data, size of the model, and where results go."""

    data: str
    """A folder of aligned pictures, read in batches and never held in memory, or a named set ("photographs")."""
    output: Path = Path("runs/faces_pca")
    """Where pictures, figures and checkpoints go; a fit that was killed goes on there, after its last finished pass."""
    channels: int = 3
    """3 for colour, 1 for grey."""
    height: int = 64
    """Pictures of other sizes are cropped and resized."""
    width: int = 64
    """As the height."""
    components: int = 256
    """Directions that both models keep."""
    references: int = 500
    """Samples, and as many test pictures, whose nearest training pictures are looked for."""
    seed: int = 0
    """Of the solver and of the samples."""


def main(config: Config) -> None:
    """Fit PCA and probabilistic PCA to pictures of faces, draw random scores, and look for the nearest real faces."""
    medium = Images(config.channels, config.height, config.width)
    data, test = medium.dataset(config.data, "train"), medium.dataset(config.data, "test")
    axes = principal_axes(data, medium.shape, config.components, seed=config.seed, checkpoint=config.output / "fit")
    pca, probabilistic = PCA.from_axes(medium, axes), ProbabilisticPCA.from_axes(medium, axes)

    name = f"test pictures of {config.source}"
    found = evaluate(pca, test, name, data, generated=config.references, seed=config.seed)
    scores = evaluate(probabilistic, test, name, metrics=["likelihood"], seed=config.seed).figures
    errors = errors_by_components(pca, test)
    kept = Figure("variance kept", pca.explained.sum().item(), f"training pictures of {config.source}")
    figures = [kept, *found.figures]
    notes = {"training pictures": axes.count, "components": len(pca.variance), "seconds to fit": axes.seconds}
    notes |= {"squared error of the mean alone": errors[0].item()}
    pictures = draw(pca, next(batches(test, COLUMNS)).x, config.seed)
    pictures["curves"] = draw_curves(pca, errors)
    if found.neighbours is not None:
        pictures["neighbours"] = found.neighbours.show(medium)
    likelihood = [figure for figure in scores if figure.kind]
    report(config.output, [*figures, *likelihood], notes, pictures)

    trained = made(config, f"{axes.count:,} pictures", axes.seconds, config.seed)
    card = Card(
        summary=f"Principal components of pictures: {config.components} directions, normal scores.",
        data="",
        figures=tuple(figures),
        paper="Hotelling, Analysis of a Complex of Statistical Variables into Principal Components, 1933.",
        trained=trained,
        temperature=0.7,
    )
    publish(config, pca, "pca", card, pictures["samples"], data)
    card = Card(
        summary=f"Probabilistic principal components of pictures: {config.components} directions and noise.",
        data="",
        figures=(kept, *scores),
        paper="Tipping, Bishop, Probabilistic Principal Component Analysis, 1999.",
        trained=trained,
    )
    beside = dataclasses.replace(config, name=f"probabilistic-{config.checkpoint('pca')}", push=None)
    publish(beside, probabilistic, "probabilistic-pca", card, pictures["samples"], data)


@torch.no_grad()
def errors_by_components(pca: PCA, test: Items) -> Tensor:
    """Mean squared error an element of unseen pictures with 0 to k components, shape [k + 1]."""
    left, count = torch.zeros(len(pca.variance) + 1, dtype=torch.float64), 0
    for x in (batch.x for batch in batches(test, 64)):
        # Every orthonormal direction takes the square of its score off the squared error.
        taken = pca.project(x).double().square().cumsum(1)
        whole = (x - pca.mean).double().square().flatten(1).sum(1, keepdim=True)
        left += torch.cat([whole, whole - taken], 1).sum(0)
        count += len(x)
    return left / (count * pca.mean.numel())


def draw(pca: PCA, real: Tensor, seed: int) -> Pictures:
    """Samples at three temperatures, a row each, of the same scores, so that a column shows one face; and the parts of
    the model."""
    show, axes = pca.modality.show, pca.basis[: 3 * COLUMNS].unflatten(1, pca.modality.shape)
    rows = [pca.sample(COLUMNS, temperature=t, generator=seeded(seed)) for t in TEMPERATURES]
    modes = pca.traverse(along=range(min(8, len(pca.variance))))[0]
    return {
        "samples": show(torch.cat(rows), COLUMNS),
        "mean": show(pca.mean[None]),
        "eigenfaces": show(axes / axes.abs().amax((1, 2, 3), keepdim=True), COLUMNS),
        "modes": show(modes.flatten(0, 1), modes.shape[1]),
        "reconstructions": show(torch.cat([real, pca.reconstruct(real)]), len(real)),
    }


def draw_curves(pca: PCA, errors: Tensor) -> "Image":
    """Variance kept on the training pictures, and the reconstruction of test pictures, against the components."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(9, 3.4), layout="constrained")
    left, right = drawing.subplots(1, 2)
    left.plot(range(1, len(pca.variance) + 1), pca.explained.cumsum(0).numpy())
    left.set(xlabel="components", ylabel="share of the variance (training)", ylim=(0, 1))
    right.semilogy(range(len(errors)), errors.numpy())
    right.set(xlabel="components", ylabel="squared error of the reconstruction (test)")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    return render(drawing)


PRESETS = {
    "smoke": (
        "seconds, on patches of photographs",
        Config("photographs", height=16, width=16, components=16, references=50),
    ),
    "laptop": ("colour faces of 64 x 64, a minute or two", Config(tyro.MISSING)),
    "gpu": ("128 x 128, 512 components", Config(tyro.MISSING, height=128, width=128, components=512)),
    "paper": (
        "256 x 256, 1,000 components",
        Config(tyro.MISSING, height=256, width=256, components=1000, references=100),
    ),
}

if __name__ == "__main__":
    run(main, PRESETS)
