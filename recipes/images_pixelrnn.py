"""PixelRNN: the Row LSTM or the Diagonal BiLSTM, on binary pictures or on colour pictures of 8 bits.

    python -m recipes.images_pixelrnn --data mnist
    python -m recipes.images_pixelrnn --data mnist --kind row
    python -m recipes.images_pixelrnn --data folder/of/pictures --levels 256

On one busy core of an AMD EPYC the first takes 35 minutes and gives the 10,000 test images of MNIST 83.7 ± 0.2 nats,
the Row LSTM takes 20 minutes and gives 86.3 ± 0.2; published, with 7 layers and far longer training: 79.2 and 80.5.
Likelihoods are exact, and a sample costs the work of one pass. Most samples are digits; completions go on where the
shown half ends. On colour faces of 32 x 32 the first gives 4.81 bits/dim after 14 minutes: its samples have the colours
of faces, and no more; it wants far longer.
"""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from modalities.data import batches
from modalities.images import Images
from recipes.common import machine, run, write_figures
from recipes.pixels import draw_pixel_model
from zoo.autoregressive.pixelrnn import PixelRNN
from zoo.card import Card, Figure
from zoo.evaluation import likelihood
from zoo.evaluation.receptive_field import receptive_field
from zoo.hub import load, push, save
from zoo.training import TrainingConfig, seconds_trained, train

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["row", "diagonal"]
NAMES = {"row": "row-lstm", "diagonal": "diagonal-bilstm"}
TITLES = {"row": "Row LSTM", "diagonal": "Diagonal BiLSTM"}
PAPER = "Van den Oord, Kalchbrenner, Kavukcuoglu, Pixel Recurrent Neural Networks, 2016."
ABOUT = {
    "mnist": "MNIST: LeCun, Cortes, Burges; freely redistributed since 1998. Binarised anew at every visit.",
    "cifar10": "CIFAR-10: Krizhevsky, Nair, Hinton; no licence stated.",
}
PUBLISHED = {
    ("row", "mnist", "NLL"): 80.54,
    ("diagonal", "mnist", "NLL"): 79.20,
    ("row", "cifar10", "bits/dim"): 3.07,
    ("diagonal", "cifar10", "bits/dim"): 3.00,
}
"""Of a kind on a data set: all test images; those of MNIST binarised once and for all."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, network, training and evaluation."""

    kind: Kind = "diagonal"
    """The network: the Row LSTM or the Diagonal BiLSTM. Training, pictures and figures of either have a folder of
    their own in the output."""
    data: str = "mnist"
    """A named set ("mnist", "digits", "cifar10") or a folder of your own pictures."""
    output: Path = Path("runs/images_pixelrnn")
    """Where checkpoints, logs, pictures and figures go; a run that was stopped goes on from there."""
    name: str | None = None
    """The checkpoint; None names it after the kind and the data: "diagonal-bilstm-mnist"."""
    levels: Literal[2, 256] = 2
    """2 for binary pictures, 256 for colour ones of 8 bits, which a mixture of logistics models."""
    size: int | None = None
    """Height and width; pictures of other sizes are cropped and resized. None is 28, and 32 for colour pictures."""
    width: int = 16
    """The length h of an LSTM's state."""
    layers: int = 3
    """LSTM layers."""
    head: int = 32
    """Feature maps between the two last convolutions."""
    components: int = 10
    """Logistics of a pixel's mixture."""
    test_items: int = 10_000
    """Test images that the likelihood is measured on, the first ones; binary ones are drawn with seed 0."""
    licence: str = "apache-2.0"
    """Of the weights, as the Hub names it; the data decide."""
    about: str | None = None
    """What the card says of the data; None knows MNIST and CIFAR-10."""
    push: str | None = None
    """Publish the model under this name, "org/name"."""
    training: TrainingConfig = TrainingConfig(steps=7_000, batch_size=32, learning_rate=2e-3)
    """Its training."""

    @property
    def medium(self) -> Images:
        """The pictures as the model sees them."""
        side = self.size or (28 if self.levels == 2 else 32)
        return Images(1 if self.levels == 2 else 3, side, side, self.levels)

    @property
    def folder(self) -> Path:
        """Where all but the checkpoint goes."""
        return self.output / self.kind

    @property
    def source(self) -> str:
        """The data's name."""
        return Path(self.data).name


def main(config: Config) -> None:
    """Train a PixelRNN, measure its likelihood, draw from it, and show what it sees."""
    config.folder.mkdir(parents=True, exist_ok=True)
    medium, training = config.medium, config.training
    data, test = medium.dataset(config.data, "train"), medium.dataset(config.data, "test")
    torch.manual_seed(training.seed)
    model = build(config)
    train(model, data, training, config.folder)

    scores = measure(model, test, config)
    minutes = seconds_trained(config.folder) / 60
    figures: dict[str, Any] = {f"{figure.label}, {figure.data}": figure.measured for figure in scores}
    figures |= {f"published {figure.metric}": figure.reference for figure in scores if figure.reference}
    write_figures(figures | {"minutes of training": minutes, "machine": machine()}, config.folder)
    sheet = draw(config, model, test)

    card = Card(
        summary=f"PixelRNN ({TITLES[config.kind]}) on {'binary' if medium.levels == 2 else 'colour'} "
        f"{medium.height} x {medium.width} images.",
        data=config.about or ABOUT.get(config.source, f"{config.source}."),
        licence=config.licence,
        figures=tuple(scores),
        paper=PAPER,
        trained=f"{training.steps:,} steps of {training.batch_size} with recipes/images_pixelrnn.py in "
        f"{minutes:.0f} minutes on {machine()}, seed {training.seed}.",
    )
    checkpoint = save(model, config.output / checkpoint_name(config), card, picture=sheet)
    if config.push:
        print(push(checkpoint, config.push))


def build(config: Config) -> PixelRNN:
    """The model, not trained."""
    sizes: dict[str, Any] = {name: getattr(config, name) for name in ("kind", "width", "layers", "head", "components")}
    return PixelRNN(config.medium, **sizes)


def checkpoint_name(config: Config) -> str:
    """What the checkpoint is called."""
    return config.name or f"{NAMES[config.kind]}-{config.source}"


def measure(model: PixelRNN, test: Any, config: Config) -> list[Figure]:
    """The exact likelihood of test images, with the published figure of the kind beside it."""
    binary = config.levels == 2
    found = likelihood.measure(
        model,
        test,
        f"first {min(config.test_items, len(test)):,} test images of {config.source}"
        + (", binarised with seed 0" if binary else ""),
        limit=config.test_items,
        batch_size=100,
        generator=torch.Generator().manual_seed(0),
    )
    source = f"all test images{', binarised once and for all' if binary else ''}; {PAPER}"
    return [
        dataclasses.replace(figure, published=PUBLISHED[key], source=source)
        if (key := (config.kind, config.source, figure.metric)) in PUBLISHED
        else figure
        for figure in found
    ]


def draw(config: Config, model: PixelRNN, test: Any) -> "Image":
    """Write the pictures; the samples are returned for the card."""
    real = next(iter(batches(test, 64, torch.Generator().manual_seed(0))))
    field = draw_receptive_fields(config, model, real)
    generator = torch.Generator().manual_seed(config.training.seed)
    return draw_pixel_model(model, real, field, config.folder, generator)


def draw_receptive_fields(config: Config, model: PixelRNN, x: Tensor) -> "Image":
    """What one pixel's distribution depends on, in this model and in one of the other kind."""
    from matplotlib.figure import Figure as Drawing

    from modalities.drawing import render

    row, column = 2 * config.medium.height // 3, config.medium.width // 3
    drawing = Drawing(figsize=(10, 4.6), layout="constrained")
    panels = drawing.subplots(1, 2)
    both = sorted([(TITLES[config.kind], model), counterpart(config)], reverse=True)
    for panel, (title, network) in zip(panels, both, strict=True):
        strength = receptive_field(network, x, row, column)
        strength[strength == 0] = math.nan  # outside of it: left white
        image = panel.imshow(strength.log10().numpy(), cmap="viridis")
        panel.plot(column, row, "s", color="red", markersize=6, label="the pixel that is predicted")
        panel.set(title=title, xlabel="column", ylabel="row")
        drawing.colorbar(image, ax=panel, label="log10 of the mean gradient; white: none")
    panels[0].legend(loc="lower right", fontsize=8)
    return render(drawing)


def counterpart(config: Config) -> tuple[str, PixelRNN]:
    """The other kind, as an earlier run of this recipe trained it or as initialised."""
    other: Kind = "row" if config.kind == "diagonal" else "diagonal"
    config = dataclasses.replace(config, kind=other, name=None)
    trained = config.output / checkpoint_name(config)
    if trained.is_dir():
        network = load(str(trained))
        if isinstance(network, PixelRNN) and network.modality == config.medium:
            return TITLES[other], network
    return f"{TITLES[other]}, as initialised", build(config)


PRESETS = {
    "smoke": (
        "seconds, on 8 x 8 digits",
        Config(
            data="digits",
            size=8,
            width=8,
            layers=2,
            head=16,
            components=2,
            test_items=50,
            training=TrainingConfig(
                steps=100, batch_size=32, learning_rate=1e-2, warmup_steps=10, ema=0.95, log_every=20
            ),
        ),
    ),
    "laptop": ("MNIST on two cores, within 90 minutes", Config()),
    "gpu": (
        "MNIST on one large card in pieces of ten minutes; run again to go on",
        Config(
            width=64,
            layers=7,
            head=128,
            training=TrainingConfig(steps=40_000, batch_size=256, learning_rate=2e-3, minutes=7),
        ),
    ),
    "paper": (
        "the published size and batch for MNIST; its length is not published: 100 epochs",
        Config(layers=7, training=TrainingConfig(steps=375_000, batch_size=16)),
    ),
}

if __name__ == "__main__":
    run(main, PRESETS)
