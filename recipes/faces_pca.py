"""Principal components of face photographs: what a linear model with normal scores can generate, and what it cannot.

    python -m recipes.faces_pca --data FOLDER_OF_FACES
    python -m recipes.faces_pca --data MNIST --channels 1 --height 28 --width 28 --components 64 --name pca-mnist \\
        --output runs/pca_mnist

The first took 93 s on one core of an AMD EPYC, most of it to decode 5,730 faces eight times; the second, MNIST, 11 s.
With `--height 256 --width 256 --components 100` the faces took 203 s and 1.5 GB, the fit 139 s and 1.4 GB of it.
256 directions keep 94.1 % of the variance and rebuild 670 unseen faces at 25.4 dB (the mean alone: 13.7 dB);
probabilistic PCA gives them 6.02 bits/dim, a bound by the density of dequantised pictures. Samples are no copies:
they lie as far from the nearest training face as real faces do from each other. But they are smeared, and more so at
temperature 1 than below: faces are not a normal distribution. MNIST: 64 directions, 86.2 %, 21.5 dB, 6.93 bits/dim, and
samples that are farther from every digit than nearly all digits are from each other.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro
from torch import Tensor

from modalities.data import batches
from modalities.images import Images
from recipes.common import run, write_figures
from zoo.card import Card, Figure
from zoo.evaluation.neighbours import Neighbours, nearest
from zoo.evaluation.suite import evaluate
from zoo.hub import push, save
from zoo.linear.pca import PCA, ProbabilisticPCA
from zoo.linear.principal import principal_axes

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPERATURES = (0.4, 0.7, 1.0)
COLUMNS = 8
"""How many samples a row of a picture shows."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, size of the model, and where results go."""

    data: str
    """A folder of aligned pictures, read in batches and never held in memory, or a named set ("photographs")."""
    output: Path = Path("runs/faces_pca")
    """Where pictures, figures and checkpoints go; a fit that was killed goes on there, after its last finished pass."""
    name: str = "pca-faces"
    """The checkpoint's name; the probabilistic model's begins with "probabilistic-"."""
    channels: int = 3
    """3 for colour, 1 for grey."""
    height: int = 64
    """Pictures of other sizes are cropped and resized."""
    width: int = 64
    """As the height."""
    components: int = 256
    """Directions that both models keep."""
    references: int = 500
    """Training pictures whose nearest neighbours show how far apart real ones are."""
    seed: int = 0
    """Of the solver and of the samples."""
    licence: str = "other"
    """Of the weights, as the Hub names it; the data decide."""
    about: str = "Pictures given by the user."
    """What the card says of the data: where they come from and their licence."""
    push: str | None = None
    """Publish the model under this name, "org/name"."""


def main(config: Config) -> None:
    """Fit PCA and probabilistic PCA to pictures of faces, draw random scores, and look for the nearest real faces."""
    config.output.mkdir(parents=True, exist_ok=True)
    medium = Images(config.channels, config.height, config.width)
    train: Any = medium.dataset(config.data, "train")
    test: Any = medium.dataset(config.data, "test")
    axes = principal_axes(train, medium.shape, config.components, seed=config.seed, checkpoint=config.output / "fit")
    pca, probabilistic = PCA.from_axes(medium, axes), ProbabilisticPCA.from_axes(medium, axes)

    errors = reconstruction_errors(pca, test)
    name = f"{config.name}, test pictures"
    scores, others = (
        evaluate(model, test, name, metrics=["likelihood"], seed=config.seed).figures for model in (pca, probabilistic)
    )
    samples = pca.sample(COLUMNS, generator=torch.Generator().manual_seed(config.seed))
    neighbours, between = compare(samples, train, config.references)
    figures = {
        "training pictures": axes.count,
        "test pictures": len(test),
        "components": config.components,
        "variance kept": pca.explained.sum().item(),
        **{f"PCA: {figure.label}": figure.measured for figure in scores},
        **{f"probabilistic PCA: {figure.label}": figure.measured for figure in others},
        "squared error of the mean alone": errors[0].item(),
        "median distance of a sample to its nearest training picture": neighbours.distance.median().item(),
        "median distance of a training picture to its nearest other": between.median().item(),
        "seconds to fit": axes.seconds,
    }
    write_figures(figures, config.output)
    sheet = draw(config, pca, test, (samples, neighbours, between), errors)

    kept = Figure("variance kept", figures["variance kept"], f"{config.name}, training pictures")
    card = Card(
        summary=f"Principal components of pictures: {config.components} directions, normal scores.",
        data=config.about,
        licence=config.licence,
        figures=(kept, *scores),
        paper="Hotelling, Analysis of a Complex of Statistical Variables into Principal Components, 1933.",
        trained=f"{axes.count} pictures in {axes.seconds:.0f} s with recipes/faces_pca.py.",
    )
    checkpoint = save(pca, config.output / config.name, card, picture=sheet, half=True)
    card = dataclasses.replace(
        card,
        summary=f"Probabilistic principal components of pictures: {config.components} directions and noise.",
        figures=(kept, *others),
        paper="Tipping, Bishop, Probabilistic Principal Component Analysis, 1999.",
    )
    save(probabilistic, config.output / f"probabilistic-{config.name}", card, picture=sheet, half=True)
    if config.push:
        print(push(checkpoint, config.push))


@torch.no_grad()
def reconstruction_errors(pca: PCA, test: Any) -> Tensor:
    """Mean squared error an element of unseen pictures with 0 to k components, shape [k + 1]."""
    left, count = torch.zeros(len(pca.variance) + 1, dtype=torch.float64), 0
    for x in batches(test, max(8, min(256, 2**22 // pca.mean.numel()))):
        # Every orthonormal direction takes the square of its score off the squared error.
        taken = pca.project(x).double().square().cumsum(1)
        whole = (x - pca.mean).double().square().flatten(1).sum(1, keepdim=True)
        left += torch.cat([whole, whole - taken], 1).sum(0)
        count += len(x)
    return left / (count * pca.mean.numel())


def compare(samples: Tensor, train: Any, references: int) -> tuple[Neighbours, Tensor]:
    """The training pictures nearest to the samples, and the distances of training pictures to their nearest others.

    A sample nearer to a training picture than these are to each other would be a copy.
    """
    n = len(samples)
    both = samples.new_empty(n + references, *samples.shape[1:])  # filled in place: references may be large
    both[:n] = samples
    count = n
    for batch in batches(train, 32):
        batch = batch[: len(both) - count]
        both[count : count + len(batch)] = batch
        count += len(batch)
        if count == len(both):
            break
    places = torch.cat([torch.full((n,), -1), torch.arange(count - n)])
    found = nearest(both[:count], train, leave_out=places, items=n)
    return Neighbours(found.index[:n], found.distance[:n], found.items), found.distance[n:]


def draw(config: Config, pca: PCA, test: Any, found: tuple[Tensor, Neighbours, Tensor], errors: Tensor) -> "Image":
    """Write the pictures; the one of samples is returned for the card."""
    show = pca.modality.show
    axes = pca.basis[: 3 * COLUMNS].unflatten(1, pca.modality.shape)
    pictures = {
        "mean": show(pca.mean[None]),
        "eigenfaces": show(axes / axes.abs().amax((1, 2, 3), keepdim=True), COLUMNS),
        "modes": show(pca.traverse(along=range(min(8, len(pca.variance))))[0].flatten(0, 1), 7),
    }
    # The same scores at every temperature, so that a column shows one face.
    rows = [
        pca.sample(COLUMNS, temperature=t, generator=torch.Generator().manual_seed(config.seed)) for t in TEMPERATURES
    ]
    pictures["samples"] = show(torch.cat(rows), COLUMNS)
    real = next(iter(batches(test, COLUMNS)))
    pictures["reconstructions"] = show(torch.cat([real, pca.reconstruct(real)]), len(real))
    pictures["neighbours"] = draw_neighbours(pca.modality, *found)
    pictures["curves"] = draw_curves(pca, errors)
    for name, picture in pictures.items():
        picture.save(config.output / f"{name}.png")
    return pictures["samples"]


def draw_neighbours(medium: Any, samples: Tensor, neighbours: Neighbours, between: Tensor) -> "Image":
    """Samples above the training pictures nearest to them, with the distance and its percentile among real pictures."""
    from matplotlib.figure import Figure as Drawing

    from modalities.drawing import render

    drawing = Drawing(figsize=(1.4 * len(samples), 3.6), layout="constrained")
    grid = drawing.subplots(2, len(samples), squeeze=False)
    for i, distance in enumerate(neighbours.distance):
        for row, item in enumerate((samples[i], neighbours.items[i])):
            grid[row, i].imshow(medium.show(item[None]).convert("RGB"))
            grid[row, i].axis("off")
        share = (between < distance).double().mean().item()
        grid[1, i].set_title(f"{distance:.1f} ({share:.0%})", fontsize=9)
    drawing.suptitle(
        "samples; below each the nearest training picture, its distance, and how many real pictures are nearer"
    )
    return render(drawing)


def draw_curves(pca: PCA, errors: Tensor) -> "Image":
    """Variance kept on the training pictures, and the reconstruction of test pictures, against the components."""
    from matplotlib.figure import Figure as Drawing

    from modalities.drawing import render

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
        Config(data="photographs", height=16, width=16, components=16, references=50),
    ),
    "laptop": ("colour faces of 64 x 64, a minute or two", Config(data=tyro.MISSING)),
    "gpu": ("128 x 128, 512 components", Config(data=tyro.MISSING, height=128, width=128, components=512)),
    "paper": (
        "256 x 256, 1,000 components",
        Config(data=tyro.MISSING, height=256, width=256, components=1000, references=100),
    ),
}

if __name__ == "__main__":
    run(main, PRESETS)
