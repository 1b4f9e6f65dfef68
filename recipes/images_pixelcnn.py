"""Pixel by pixel: the gated PixelCNN, the plain one with its blind spot, or PixelCNN++ for colour pictures.

    python -m recipes.images_pixelcnn --data mnist
    python -m recipes.images_pixelcnn --data mnist --model plain
    python -m recipes.images_pixelcnn --data folder/of/pictures --model mixture

On one busy core of an AMD EPYC the first takes 95 minutes and gives the 10,000 test images of MNIST 81.5 ± 0.2 nats
(published: 81.5), the second takes 21 minutes and gives 88.1 ± 0.2, the third takes 107 minutes on 5,730 aligned faces
and gives 670 others 3.96 ± 0.01 bits/dim. Likelihoods are exact. The receptive field of the first two reaches eighteen
rows up; the plain one's has a blind spot, and its samples are strokes more than digits. Most samples of the third are
faces; what is far apart in them does not always agree. Samples by all three samplers are the same pictures; what
differs is the time (see docs/autoregressive.md).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from modalities import Modality
from modalities.data import batches
from modalities.images import Images
from recipes.recipe import Pictures, Recipe, finish, published, run, seconds, seeded, trained
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.autoregressive.model import Autoregressive
from zoo.autoregressive.pixelcnn import PixelCNN
from zoo.autoregressive.pixelcnn_pp import PixelCNNPlusPlus
from zoo.autoregressive.samplers import Sampler
from zoo.card import Card
from zoo.evaluation.receptive_field import draw_receptive_fields
from zoo.evaluation.suite import evaluate
from zoo.hub import load
from zoo.settings import arguments, settings
from zoo.training import TrainingConfig, train

OORD = "Van den Oord, Kalchbrenner, Kavukcuoglu, Pixel Recurrent Neural Networks, 2016."
HOTAJ = "all test images, binarised anew at every visit, the best epoch on them; Hotaj, pytorch-generative, 2020"
SALIMANS = (
    "Salimans, Karpathy, Chen, Kingma, PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood "
    "and Other Modifications, 2017."
)
# Eight gated layers of 5 x 5 see 18 rows up, of 3 x 3 only 11; a plain network sees a row further up with each block.
GATED: type = settings(GatedPixelCNN, width=32, layers=8, kernel=5, head=32)
PLAIN: type = settings(PixelCNN, width=16)
MIXTURE: type = settings(PixelCNNPlusPlus, width=32, components=5)


@dataclass(frozen=True)
class Gated(GATED):
    """The gated PixelCNN, on binary pictures."""

    training: TrainingConfig = TrainingConfig(steps=10_000, batch_size=32, learning_rate=2e-3, precision="bf16")
    family, title, name = GatedPixelCNN, "Gated PixelCNN", "gated-pixelcnn"
    paper = "Van den Oord, Kalchbrenner, Vinyals et al., Conditional Image Generation with PixelCNN Decoders, 2016."
    published = {("mnist", "NLL"): (81.50, HOTAJ)}


@dataclass(frozen=True)
class Plain(PLAIN):
    """The plain PixelCNN, on binary pictures."""

    training: TrainingConfig = TrainingConfig(steps=8_000, batch_size=32, learning_rate=2e-3, precision="bf16")
    family, title, name, paper = PixelCNN, "PixelCNN", "pixelcnn", OORD
    published = {("mnist", "NLL"): (81.30, f"all test images, binarised once and for all; {OORD}")}


@dataclass(frozen=True)
class Mixture(MIXTURE):
    """PixelCNN++ with a mixture of logistics, on colour pictures of 8 bits."""

    training: TrainingConfig = TrainingConfig(steps=8_000, batch_size=16, betas=(0.95, 0.9995), precision="bf16")
    family, title, name, paper = PixelCNNPlusPlus, "PixelCNN++", "pixelcnn-pp", SALIMANS
    published = {("cifar10", "bits/dim"): (2.92, f"all test images; {SALIMANS}")}


Design = Gated | Plain | Mixture


@dataclass(frozen=True)
class Config(Recipe):
    """Data, network, training and evaluation. Logs, pictures and figures have a folder for every network."""

    model: Literal["gated", "plain", "mixture"] = "gated"
    """The network; its own settings are below under its name."""
    data: str | None = None
    """A named set or a folder of your own pictures; None takes "mnist", and "cifar10" for the mixture."""
    output: Path = Path("runs/images_pixelcnn")
    size: int | None = None
    """Height and width; pictures of other sizes are cropped and resized. None is 28, and 32 for the mixture."""
    test_items: int = 10_000
    """Test images that are measured on, the first ones; binary ones are drawn with seed 0."""
    batches: tuple[int, ...] = (1, 16)
    """Images at once that sampling is timed with."""
    gated: Gated = Gated()
    plain: Plain = Plain()
    mixture: Mixture = Mixture()


def main(config: Config) -> None:
    """Train a pixel by pixel model of pictures, measure its likelihood, draw from it, and time its samplers."""
    colour = config.model == "mixture"
    side = config.size or (32 if colour else 28)
    medium = Images(3, side, side, 256) if colour else Images(1, side, side, 2)
    config = replace(config, data=config.data or ("cifar10" if colour else "mnist"))
    design, output = getattr(config, config.model), config.output / config.model
    data, test = (medium.dataset(str(config.data), split) for split in ("train", "test"))
    model = build(design, medium)
    done = train(model, data, design.training, output)

    name = f"test images of {config.source}" + ("" if colour else ", binarised with seed 0")
    found = evaluate(model, test, name, limit=config.test_items, batch_size=100)
    figures = published(found.figures, config, design.published)
    notes: dict[str, object] = {f"published {f.metric}": f.reference for f in figures if f.reference}
    notes["minutes of training"] = done.seconds / 60
    notes |= {f"time_to_sample, {key}": value for key, value in time_to_sample(model, config.batches).items()}
    pictures = draw(config, model, next(batches(test, 64, seeded())).x)
    card = Card(
        summary=f"{design.title} on {'colour' if colour else 'binary'} {medium.height} x {medium.width} images.",
        data="" if colour else "Binarised anew at every visit.",
        figures=tuple(figures),
        paper=design.paper,
        trained=trained(config, design.training, done),
    )
    finish(config, model, design.name, card, notes, pictures, data, folder=output)


def build(design: Design, medium: Modality) -> Autoregressive:
    """The network, as initialised."""
    torch.manual_seed(design.training.seed)
    return design.family(medium, **arguments(design.family, design))


@torch.no_grad()
def time_to_sample(model: Autoregressive, counts: tuple[int, ...]) -> dict[str, str]:
    """How long every sampler takes for so many images, and in how many passes; the naive one by the time of a few."""
    passes: list[None] = []
    draws, found = model.draws, {}
    hook = model.get_submodule("last").register_forward_hook(lambda *_: passes.append(None))
    for n in counts:
        passes.clear()
        sample(model, n, "fixed-point")
        number, times = len(passes), {s: seconds(sample, model, n, s) for s in ("incremental", "fixed-point")}
        one = seconds(model.outputs, torch.zeros(n, *model.modality.shape, device=model.device))
        found[f"batch {n}, incremental"] = f"{times['incremental']:.3g} s"
        found[f"batch {n}, fixed-point"] = f"{number} passes in {times['fixed-point']:.3g} s"
        found[f"batch {n}, naive"] = f"{draws} passes in {draws * one:.3g} s, by the time of a few"
    hook.remove()
    return found


def sample(model: Autoregressive, n: int, sampler: Sampler) -> Tensor:
    """The same n images from every sampler."""
    return model.sample(n, sampler=sampler, generator=seeded())


def draw(config: Config, model: Autoregressive, real: Tensor) -> Pictures:
    """Samples; images, their hidden halves and four completions of each; receptive fields of two designs."""
    show, some = model.modality.show, real[:10]
    known = torch.arange(some.shape[2])[:, None] < some.shape[2] // 2
    completions = model.complete(some.repeat(4, 1, 1, 1), known, generator=seeded()).cpu()
    title, other = counterpart(config, model.modality)
    own = getattr(config, config.model).title
    return {
        "samples": show(model.sample(60, generator=seeded()).cpu(), 10),
        "completions": show(torch.cat([some, torch.where(known, some, 0.0), completions]), len(some)),
        "receptive_field": draw_receptive_fields({own: model, title: other}, real),
    }


def counterpart(config: Config, medium: Modality) -> tuple[str, Autoregressive]:
    """The other design, as trained by an earlier run of this recipe or as initialised with as many wide convolutions: a
    gated layer and a residual block have one each, and a plain network one more at its start."""
    gated, plain = cast(Any, config.gated), cast(Any, config.plain)
    if config.model == "plain":
        other = replace(gated, layers=plain.blocks + 1)
    else:
        other = replace(plain, blocks=max(1, gated.layers - 1))
    folder = config.output / replace(config, name=None).checkpoint(other.name)
    found = load(folder) if folder.is_dir() else None
    if isinstance(found, other.family) and found.modality == medium:
        return other.title, found
    return f"{other.title}, as initialised", build(other, medium)


QUICK = TrainingConfig(steps=100, batch_size=32, learning_rate=5e-3, warmup_steps=10, ema=0.9, log_every=20)
LARGE = TrainingConfig(steps=40_000, batch_size=256, precision="bf16", minutes=7)
COLOURS = replace(LARGE, batch_size=64, betas=(0.95, 0.9995), ema=0.9995)
LONG = TrainingConfig(steps=391_000, batch_size=128, betas=(0.95, 0.9995), ema=0.9995)
PRESETS = {
    "smoke": (
        "seconds, on 8 x 8 digits",
        Config(
            data="digits",
            size=8,
            test_items=50,
            batches=(1, 4),
            gated=Gated(width=8, layers=3, kernel=3, head=8, training=QUICK),
            plain=Plain(width=8, blocks=2, head=8, training=QUICK),
            mixture=Mixture(width=8, blocks=1, components=2, training=QUICK),
        ),
    ),
    "laptop": ("MNIST on two cores, within 90 minutes", Config()),
    "gpu": (
        "MNIST on one large card in pieces of ten minutes; run again to go on",
        Config(
            gated=Gated(width=128, layers=12, kernel=3, head=128, training=LARGE),
            plain=Plain(width=64, head=64, training=LARGE),
            mixture=Mixture(width=96, blocks=3, dropout=0.5, components=10, training=COLOURS),
        ),
    ),
    "paper": (
        "the sizes of the published figures: on MNIST 457 epochs, on CIFAR-10 1,000",
        Config(
            gated=Gated(width=128, layers=10, kernel=3, training=TrainingConfig(469 * 457, 128)),
            plain=Plain(training=TrainingConfig(235 * 457, 256)),
            mixture=Mixture(width=160, blocks=5, dropout=0.5, components=10, training=LONG),
        ),
    ),
}

if __name__ == "__main__":
    run(main, PRESETS)
