"""Pixel by pixel: the gated PixelCNN, the plain one with its blind spot, or PixelCNN++ for colour pictures.

    python -m recipes.images_pixelcnn --data mnist
    python -m recipes.images_pixelcnn --data mnist --model plain
    python -m recipes.images_pixelcnn --data folder/of/pictures --model mixture

On one busy core of an AMD EPYC the first takes 95 minutes and gives the 10,000 test images of MNIST 81.5 ± 0.2 nats
(published: 81.5), the second takes 21 minutes and gives 88.1 ± 0.2, the third takes 107 minutes on 5,730 aligned faces
and gives 670 others 3.96 ± 0.01 bits/dim. Likelihoods are exact. A pixel of the first two sees eighteen rows up, of the
plain one less its blind spot, and that one's samples are strokes more than digits. Most samples of the third are faces;
what is far apart in them does not always agree. Samples by all three samplers are the same pictures; what differs is
the time (see docs/autoregressive.md).
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from modalities.data import batches
from modalities.images import Images
from recipes.common import machine, run, write_figures
from recipes.pixels import draw_pixel_model
from zoo.autoregressive.chain import Autoregressive, Sampler
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.autoregressive.pixelcnn import PixelCNN
from zoo.autoregressive.pixelcnn_pp import PixelCNNPlusPlus
from zoo.card import Card, Figure
from zoo.evaluation import likelihood
from zoo.evaluation.receptive_field import receptive_field
from zoo.hub import load, push, save
from zoo.training import TrainingConfig, seconds_trained, train

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclasses.dataclass(frozen=True)
class Gated:
    """The gated PixelCNN, on binary pictures."""

    width: int = 32
    """Feature maps."""
    layers: int = 8
    """Gated layers."""
    kernel: int = 5
    """Height and width of the convolutions after the first one, before the hidden half is cut off: 8 layers of 5 x 5
    see 18 rows up, of 3 x 3 only 11."""
    head: int = 32
    """Feature maps between the two last convolutions."""
    training: TrainingConfig = TrainingConfig(steps=10_000, batch_size=32, learning_rate=2e-3, precision="bf16")
    """Its training."""


@dataclasses.dataclass(frozen=True)
class Plain:
    """The plain PixelCNN, on binary pictures."""

    width: int = 16
    """Feature maps inside a block, half of those between blocks."""
    blocks: int = 15
    """Residual blocks: a pixel sees a row further up with each."""
    head: int = 32
    """Feature maps between the two last convolutions."""
    training: TrainingConfig = TrainingConfig(steps=8_000, batch_size=32, learning_rate=2e-3, precision="bf16")
    """Its training."""


@dataclasses.dataclass(frozen=True)
class Mixture:
    """PixelCNN++ with a mixture of logistics, on colour pictures of 8 bits."""

    width: int = 32
    """Feature maps of a stream."""
    blocks: int = 2
    """Gated residual blocks at a resolution, in both streams and either way."""
    dropout: float = 0.0
    """The fraction of features that training drops."""
    components: int = 5
    """Logistics of a pixel's mixture."""
    training: TrainingConfig = TrainingConfig(steps=8_000, batch_size=16, betas=(0.95, 0.9995), precision="bf16")
    """Its training."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, network, training and evaluation."""

    model: Literal["gated", "plain", "mixture"] = "gated"
    """The network; its own settings are below under its name."""
    data: str | None = None
    """A named set ("mnist", "digits", "cifar10") or a folder of your own pictures; None takes "mnist", and "cifar10"
    for the mixture."""
    output: Path = Path("runs/images_pixelcnn")
    """Where checkpoints go; logs, pictures and figures go to the folder there that is called as the model, and a run
    that was stopped goes on from there."""
    name: str | None = None
    """The checkpoint; None names it after the model and the data."""
    size: int | None = None
    """Height and width; pictures of other sizes are cropped and resized. None is 28, and 32 for the mixture."""
    test_items: int = 10_000
    """Test images that the likelihood is measured on, the first ones; binary ones are drawn with seed 0."""
    batches: tuple[int, ...] = (1, 16)
    """Images at once that sampling is timed with."""
    licence: str = "apache-2.0"
    """Of the weights, as the Hub names it; the data decide."""
    about: str | None = None
    """What the card says of the data; None knows MNIST and CIFAR-10."""
    push: str | None = None
    """Publish the model under this name, "org/name"."""
    gated: Gated = Gated()
    """Sizes and training of the gated PixelCNN."""
    plain: Plain = Plain()
    """Sizes and training of the plain PixelCNN."""
    mixture: Mixture = Mixture()
    """Sizes and training of PixelCNN++."""

    @property
    def source(self) -> str:
        """The data."""
        return self.data or ("cifar10" if self.model == "mixture" else "mnist")

    @property
    def medium(self) -> Images:
        """The pictures as the model sees them."""
        if self.model == "mixture":
            return Images(3, self.size or 32, self.size or 32, 256)
        return Images(1, self.size or 28, self.size or 28, 2)

    @property
    def training(self) -> TrainingConfig:
        """The training of the chosen model."""
        return cast(TrainingConfig, getattr(self, self.model).training)

    def checkpoint(self, model: str) -> str:
        """What the checkpoint of one of the models is called."""
        data = "pictures" if model == "mixture" else Path(self.source).name
        return f"{FAMILIES[model]}-{data}"


FAMILIES = {"gated": "gated-pixelcnn", "plain": "pixelcnn", "mixture": "pixelcnn-pp"}
TITLES = {"gated": "Gated PixelCNN", "plain": "PixelCNN", "mixture": "PixelCNN++"}
PAPERS = {
    "gated": "Van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu, Conditional Image Generation with "
    "PixelCNN Decoders, 2016.",
    "plain": "Van den Oord, Kalchbrenner, Kavukcuoglu, Pixel Recurrent Neural Networks, 2016.",
    "mixture": "Salimans, Karpathy, Chen, Kingma, PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture "
    "Likelihood and Other Modifications, 2017.",
}
ABOUT = {
    "mnist": "MNIST: LeCun, Cortes, Burges; freely redistributed since 1998. Binarised anew at every visit.",
    "cifar10": "CIFAR-10: Krizhevsky, Nair, Hinton; no licence stated.",
    "fairface_aligned_128": "FairFace: Karkkainen, Joo, 2021 (CC BY 4.0); faces cropped, aligned and resized, JPEG "
    "before that.",
    "cifar10_subset": "A part of CIFAR-10, compressed as JPEG: Krizhevsky, Nair, Hinton; no licence stated.",
}
PUBLISHED = {
    ("gated", "mnist", "NLL"): (
        81.50,
        "all test images, binarised anew at every visit, the best epoch on them; Hotaj, pytorch-generative, 2020",
    ),
    ("plain", "mnist", "NLL"): (81.30, f"all test images, binarised once and for all; {PAPERS['plain']}"),
    ("mixture", "cifar10", "bits/dim"): (2.92, f"all test images; {PAPERS['mixture']}"),
    ("mixture", "cifar10_subset", "bits/dim"): (
        2.92,
        f"trained and tested on all of CIFAR-10, uncompressed: not comparable with a part of it; {PAPERS['mixture']}",
    ),
    ("mixture", "fairface_aligned_128", "bits/dim"): (
        2.92,
        f"on CIFAR-10: other pictures, not comparable; {PAPERS['mixture']}",
    ),
}
"""What was published of a model on a data set, in this metric, and how it was measured there."""


def main(config: Config) -> None:
    """Train a pixel by pixel model of pictures, measure its likelihood, draw from it, and time its samplers."""
    output = config.output / config.model
    output.mkdir(parents=True, exist_ok=True)
    medium, training = config.medium, config.training
    data, test = medium.dataset(config.source, "train"), medium.dataset(config.source, "test")
    torch.manual_seed(training.seed)
    model = build(config, medium)
    train(model, data, training, output)

    name = config.name or config.checkpoint(config.model)
    scores = measure(model, test, config)
    minutes = seconds_trained(output) / 60
    figures: dict[str, Any] = {f"{figure.label}, {figure.data}": figure.measured for figure in scores}
    figures |= {f"published {figure.metric}": figure.reference for figure in scores if figure.reference}
    figures |= {"minutes of training": minutes, "machine": machine()}
    figures |= {f"time_to_sample, {key}": value for key, value in time_to_sample(model, config.batches).items()}
    write_figures(figures, output)
    sheet = draw(config, model, test)

    kind = "binary" if medium.levels == 2 else "colour"
    card = Card(
        summary=f"{TITLES[config.model]} on {kind} {medium.height} x {medium.width} images.",
        data=config.about or ABOUT.get(Path(config.source).name, f"{Path(config.source).name}."),
        licence=config.licence,
        figures=tuple(scores),
        paper=PAPERS[config.model],
        trained=f"{training.steps:,} steps of {training.batch_size} with recipes/images_pixelcnn.py in "
        f"{minutes:.0f} minutes on {machine()}, seed {training.seed}.",
    )
    checkpoint = save(model, config.output / name, card, picture=sheet, half=True)
    if config.push:
        print(push(checkpoint, config.push))


def build(config: Config, medium: Images) -> Autoregressive:
    """The chosen model, as initialised."""
    sizes: dict[str, Any] = dataclasses.asdict(getattr(config, config.model))
    del sizes["training"]
    return {"gated": GatedPixelCNN, "plain": PixelCNN, "mixture": PixelCNNPlusPlus}[config.model](medium, **sizes)


def measure(model: Autoregressive, test: Any, config: Config) -> list[Figure]:
    """The exact likelihood of test images, with the published figure of such a model beside it."""
    data = Path(config.source).name
    noise = ", binarised with seed 0" if config.medium.levels == 2 else ""
    count = min(config.test_items, len(test))
    found = likelihood.measure(
        model,
        test,
        f"first {count:,} test images of {data}{noise}",
        limit=config.test_items,
        batch_size=100,
        generator=torch.Generator().manual_seed(0),
    )
    figures = []
    for figure in found:
        value, source = PUBLISHED.get((config.model, data, figure.metric), (None, ""))
        figures.append(dataclasses.replace(figure, published=value, source=source))
    return figures


@torch.no_grad()
def time_to_sample(model: Autoregressive, counts: tuple[int, ...]) -> dict[str, str]:
    """How long every sampler takes for so many images, and how many passes of the whole network.

    The naive sampler makes one pass a draw and little else that takes time, so a few passes tell its time.
    """
    found = {}
    draws = math.prod(model.positions) * model.output.turns
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    hook = cast(nn.Module, model.last).register_forward_hook(count)
    for n in counts:
        taken = seconds(partial(sample, model, n, "incremental"))
        found[f"batch {n}, incremental"] = f"{taken:.3g} s"
        passes = 0
        sample(model, n, "fixed-point")
        found[f"batch {n}, fixed-point"] = f"{passes} passes in "
        found[f"batch {n}, fixed-point"] += f"{seconds(partial(sample, model, n, 'fixed-point')):.3g} s"
        taken = draws * seconds(partial(model.outputs, torch.zeros(n, *model.modality.shape, device=model.device)))
        found[f"batch {n}, naive"] = f"{draws} passes in {taken:.3g} s, by the time of a few"
    hook.remove()
    return found


def sample(model: Autoregressive, n: int, sampler: Sampler) -> Tensor:
    """The same n images from every sampler."""
    return model.sample(n, sampler=sampler, generator=torch.Generator().manual_seed(0))


def seconds(work: Callable[[], object], limit: float = 10.0, runs: int = 5) -> float:
    """The median time of some runs, fewer where they would take longer than the limit."""
    times: list[float] = []
    while len(times) < runs and sum(times) < limit:
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def draw(config: Config, model: Autoregressive, test: Any) -> "Image":
    """Write the pictures; the samples are returned for the card."""
    real = next(iter(batches(test, 64, torch.Generator().manual_seed(0))))
    field = draw_receptive_fields(config, model, real)
    generator = torch.Generator().manual_seed(config.training.seed)
    return draw_pixel_model(model, real, field, config.output / config.model, generator)


def draw_receptive_fields(config: Config, model: Autoregressive, x: Tensor) -> "Image":
    """What one pixel's distribution depends on, in this model and in one of the same depth of the other design."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure as Drawing

    from modalities.drawing import render

    height, width = config.medium.height, config.medium.width
    row, column = 2 * height // 3, width // 3
    networks = [(TITLES[config.model], model), counterpart(config)]
    strengths = [receptive_field(network, x, row, column) for _, network in networks]
    logs = [torch.where(strength > 0, strength, math.nan).log10().numpy() for strength in strengths]
    scale = {"vmin": min(float(np.nanmin(log)) for log in logs), "vmax": max(float(np.nanmax(log)) for log in logs)}
    earlier = torch.arange(height * width).reshape(height, width) < row * width + column

    drawing = Drawing(figsize=(10, 4.8), layout="constrained")
    panels = list(drawing.subplots(1, 2))
    for panel, (title, _), strength, log in zip(panels, networks, strengths, logs, strict=True):
        image = panel.imshow(log, cmap="viridis", **scale)
        blind = torch.where(earlier & (strength == 0), 0.0, math.nan)
        panel.imshow(blind.numpy(), cmap=ListedColormap(["lightcoral"]))
        panel.plot(column, row, "s", color="red", markersize=6, label="the pixel that is predicted")
        panel.plot([], [], "s", color="lightcoral", label="earlier pixels that it does not depend on")
        panel.set(title=title, xlabel="column", ylabel="row")
    panels[0].legend(loc="lower right", fontsize=8)
    drawing.colorbar(image, ax=panels, label="log10 of the mean absolute derivative")
    return render(drawing)


def counterpart(config: Config) -> tuple[str, Autoregressive]:
    """The other design to compare with, as trained by an earlier run of this recipe or as initialised.

    A gated layer and a residual block have one convolution each that is wider than a pixel, and a plain network one
    more at its start.
    """
    other: Literal["gated", "plain"] = "gated" if config.model == "plain" else "plain"
    trained = config.output / config.checkpoint(other)
    if trained.is_dir():
        network = load(str(trained))
        if isinstance(network, Autoregressive) and network.modality == config.medium:
            return TITLES[other], network
    gated = dataclasses.replace(config.gated, layers=config.plain.blocks + 1)
    plain = dataclasses.replace(config.plain, blocks=max(1, config.gated.layers - 1))
    network = build(dataclasses.replace(config, model=other, gated=gated, plain=plain), config.medium)
    return f"{TITLES[other]}, as initialised", network


_QUICK = TrainingConfig(steps=100, batch_size=32, learning_rate=5e-3, warmup_steps=10, ema=0.9, log_every=20)
_LARGE = TrainingConfig(steps=40_000, batch_size=256, precision="bf16", minutes=7)
_EPOCHS = 457

PRESETS = {
    "smoke": (
        "seconds, on 8 x 8 digits",
        Config(
            data="digits",
            size=8,
            test_items=50,
            batches=(1, 4),
            gated=Gated(width=8, layers=3, kernel=3, head=8, training=_QUICK),
            plain=Plain(width=8, blocks=2, head=8, training=_QUICK),
            mixture=Mixture(width=8, blocks=1, components=2, training=_QUICK),
        ),
    ),
    "laptop": ("MNIST on two cores, within 90 minutes", Config()),
    "gpu": (
        "MNIST on one large card in pieces of ten minutes; run again to go on",
        Config(
            gated=Gated(width=128, layers=12, kernel=3, head=128, training=_LARGE),
            plain=Plain(width=64, blocks=15, head=64, training=_LARGE),
            mixture=Mixture(
                width=96,
                blocks=3,
                dropout=0.5,
                components=10,
                training=dataclasses.replace(_LARGE, batch_size=64, betas=(0.95, 0.9995), ema=0.9995),
            ),
        ),
    ),
    "paper": (
        "the sizes of the published figures: on MNIST 457 epochs, on CIFAR-10 1,000",
        Config(
            gated=Gated(
                width=128, layers=10, kernel=3, head=32, training=TrainingConfig(steps=469 * _EPOCHS, batch_size=128)
            ),
            plain=Plain(width=16, blocks=15, head=32, training=TrainingConfig(steps=235 * _EPOCHS, batch_size=256)),
            mixture=Mixture(
                width=160,
                blocks=5,
                dropout=0.5,
                components=10,
                training=TrainingConfig(steps=391_000, batch_size=128, betas=(0.95, 0.9995), ema=0.9995),
            ),
        ),
    ),
}

if __name__ == "__main__":
    run(main, PRESETS)
