"""Models of the same images side by side: likelihood, quality of samples, time to train, time to sample; one table and
one picture.

    python -m recipes.compare --data mnist
    python -m recipes.compare --data FOLDER_OF_FACES --name faces --label gender --mean \\
        --models pca-faces vae-faces nvae-faces --output runs/compare_faces --features runs/faces-classifier

The models are checkpoints: bundled names, folders of your own, repositories of the Hub. Nothing is trained but the
classifier whose features compare samples, and that once: a minute for MNIST. Five models of digits took 3 minutes of
one core of an AMD EPYC, five of faces 6.
"""

import dataclasses
import math
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from modalities import MediaError
from modalities.data import Arrays, batches
from modalities.images import Images
from recipes.common import machine, run, write_figures
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.autoregressive.pixelcnn import PixelCNN
from zoo.autoregressive.pixelcnn_pp import PixelCNNPlusPlus
from zoo.card import CARD, Figure
from zoo.catalog import format_size
from zoo.checkpoint import WEIGHTS
from zoo.configuration import family_name
from zoo.evaluation.classifier import TRAINING, feature_network
from zoo.evaluation.features import NEIGHBOURS, FeatureNetwork, coverage, frechet_distance
from zoo.evaluation.items import BATCH, as_items, draw, has_means, spread
from zoo.evaluation.likelihood import evaluate
from zoo.hub import find, load
from zoo.latent_prior import LatentPrior
from zoo.linear.pca import PCA, LinearLatent, ProbabilisticPCA
from zoo.linear.principal import PrincipalAxes
from zoo.model import Explicit, GenerativeModel, unpack
from zoo.training import TrainingConfig
from zoo.variational.nvae import NVAE
from zoo.variational.vae import VAE
from zoo.variational.vq import VQVAE

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 10
"""How many images a row of the picture shows."""
TIMED, TIMES = 64, 3
"""So many samples are drawn at once, so many times; the median counts."""
CEILING, FLOOR = "training items", "pixels by their frequencies"
"""The rows of no model: real items in the place of samples, and pixels that know nothing of each other."""
METRICS = ("Frechet distance", "precision", "recall", "density", "coverage")
LECTURE: dict[str, tuple[type, ...]] = {
    "PCA": (LinearLatent,),
    "VAE": (VAE,),
    "NVAE": (NVAE,),
    "PixelCNN": (PixelCNN, GatedPixelCNN, PixelCNNPlusPlus),
    "VQ-VAE with a learned prior": (LatentPrior,),
}
"""What the comparison is about; a table says which of them it lacks."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, models, and how much is measured."""

    data: str = "mnist"
    """A named set ("mnist", "digits") or a folder of pictures; its test split is measured on. Pictures are resized to
    the models' size, and binarised where a model is of binary images."""
    models: tuple[str, ...] = ("pca-mnist", "vae-mnist", "nvae-mnist", "gated-pixelcnn-mnist", "vq-vae-mnist")
    """Bundled names, folders or Hub repositories, all of images of one size; none may have seen the test split."""
    name: str = "digits"
    """What is compared: the name of the picture, and of the place in the page."""
    output: Path = Path("runs/compare")
    """Where the table, the picture and the figures go."""
    page: Path | None = None
    """A Markdown page; the table goes between its lines <!-- NAME --> and <!-- /NAME -->, the picture beside it."""
    test_items: int = 1000
    """Test items that likelihoods are measured on, evenly spaced over the split."""
    draws: int = 100
    """Importance samples an item where a likelihood is a bound."""
    samples: int = 1000
    """Samples that are compared with as many test items, and with as many training items beside them."""
    mean: bool = False
    """End samples of models with latents by the mean of p(x given z), without the noise of single pixels, as pictures
    of faces are shown. Binary models draw their pixels all the same: a mean of theirs is grey."""
    features: Path | None = Path("runs/mnist-classifier")
    """The folder of the classifier whose features compare samples; it is trained there if it is not there. None leaves
    these figures out, as for data without labels."""
    label: str | None = None
    """The column of labels.csv with the labels, for a folder that has several."""
    classifier: TrainingConfig = TRAINING
    """Training of the classifier."""
    seed: int = 0
    """Of the binarisation, the draws and the samples."""
    device: str = "cpu"
    """Where the models run."""


class Entry(NamedTuple):
    """A model with what stands in its files."""

    name: str
    folder: Path
    model: GenerativeModel


class Items(NamedTuple):
    """What every model is measured on, the same for all: drawn and binarised once."""

    scored: Tensor
    """Test items for likelihoods, shape [n, channels, height, width]."""
    scored_labels: Tensor | None
    real: Tensor
    """Test items that samples are compared with."""
    labels: Tensor | None
    """Their labels, which class-conditional models take over."""
    training: Tensor
    """As many training items."""


@dataclasses.dataclass
class Row:
    """A line of the table; what is None was not or cannot be measured."""

    name: str
    pictures: Tensor
    """Shown beside the name, in the model's own levels."""
    family: str = ""
    bits: Figure | None = None
    """Its kind says what the number is: only like can be compared with like."""
    features: dict[str, float] = dataclasses.field(default_factory=dict)
    """By the names of `METRICS`."""
    training: float | None = None
    """Seconds, by the card."""
    sampling: float | None = None
    """Seconds for `TIMED` samples."""
    parameters: int | None = None
    size: int | None = None
    """Bytes of the weights."""


def main(config: Config) -> None:
    """Measure models of the same images on the same test items, and put them side by side."""
    if config.page is not None:
        put(config.page.read_text(encoding="utf-8"), config.name, "")  # an unsuitable page is known before hours go by
    config.output.mkdir(parents=True, exist_ok=True)
    names = [Path(name).name for name in config.models]
    if not names or len(set(names)) < len(names):
        raise MediaError(f"models have a name each, got {', '.join(names) or 'none'}")
    entries = [
        Entry(name, find(given), load(given, device=config.device))
        for name, given in zip(names, config.models, strict=True)
    ]
    medium = common_medium(entries)
    network = classifier(config, medium)
    items = read(config, medium, any(entry.model.classes for entry in entries))
    base = None if network is None or len(items.real) <= NEIGHBOURS else network(items.real)

    ceiling = Row(CEILING, items.training, features=compare(base, items.training, network))
    rows = [ceiling, *(measure(entry, medium, items, base, network, config) for entry in entries)]
    rows.append(floor(medium, items, base, network, config))
    write_figures({f"{row.name}: {name}": value for row in rows for name, value in cells(row).items()}, config.output)

    picture = draw_rows(medium, {"test items": items.real} | {row.name: row.pictures for row in rows[1:]})
    picture.save(config.output / "samples.png")
    text = table(rows) + "\n" + "\n".join(f"- {note}" for note in notes(config, medium, entries, items, base, network))
    (config.output / "table.md").write_text(f"{text}\n", encoding="utf-8")
    if config.page is not None:
        shown = config.page.parent / f"{config.page.stem}-{config.name}.png"
        picture.save(shown)
        text = f"![A row of samples for every model, test items above them]({shown.name})\n\n{text}"
        page = put(config.page.read_text(encoding="utf-8"), config.name, f"\n{text}\n\n")
        config.page.write_text(page, encoding="utf-8")


def common_medium(entries: Sequence[Entry]) -> Images:
    """The medium that all are compared in: the images of the model with the fewest levels, 2 where one is binary."""
    first = entries[0]
    for name, _, model in entries:
        if not isinstance(model.modality, Images):
            raise MediaError(f"{name} is a model of {model.modality.kind}; images are compared here")
        if model.modality.shape != first.model.modality.shape:
            shapes = f"{list(first.model.modality.shape)}, of {name} {list(model.modality.shape)}"
            raise MediaError(f"models of one size can be compared: an image of {first.name} is {shapes}")
    return min((entry.model.modality for entry in entries), key=lambda medium: medium.levels)  # type: ignore


def source(config: Config) -> str:
    """The data with the column of their labels."""
    return config.data if config.label is None else f"{config.data}:{config.label}"


def classifier(config: Config, medium: Images) -> FeatureNetwork | None:
    """What makes features of images, if it is asked for."""
    if config.features is None:
        return None
    sets: list[Any] = [None, None]
    if not (config.features / "config.json").is_file():
        sets = [medium.dataset(source(config), split, labels=True) for split in ("train", "test")]
    return feature_network(config.features, medium, *sets, config=config.classifier, device=config.device)


def read(config: Config, medium: Images, labelled: bool) -> Items:
    """The items that everything is measured on."""
    test, train = (medium.dataset(source(config), split, labels=labelled) for split in ("test", "train"))
    n = min(config.samples, len(test), len(train))  # type: ignore[arg-type]
    scored, scored_labels = spread(test, min(config.test_items, len(test)), seeded(config))  # type: ignore[arg-type]
    real, labels = spread(test, n, seeded(config))
    training, _ = spread(train, n, seeded(config))
    n = min(len(real), len(training))  # broken files are left out
    return Items(scored, scored_labels, real[:n], None if labels is None else labels[:n], training[:n])


def seeded(config: Config) -> torch.Generator:
    """The same draws for every model."""
    return torch.Generator().manual_seed(config.seed)


def measure(
    entry: Entry, medium: Images, items: Items, base: Tensor | None, network: FeatureNetwork | None, config: Config
) -> Row:
    """All figures of a model."""
    model = entry.model
    condition = items.labels if model.classes else None
    drawn = sample(model, len(items.real), condition, config)
    levels = model.modality.levels
    family = family_name(type(model.model)) if isinstance(model, LatentPrior) else family_name(type(model))
    if isinstance(model, LatentPrior):
        family = f"{family}, {family_name(type(model.prior))} of its codes"
    return Row(
        entry.name,
        drawn,
        family,
        bits=likelihood(model, items, config) if levels == medium.levels else None,
        features=compare(base, as_items(drawn, levels, medium, seeded(config)), network),
        training=seconds_trained(trained(entry.folder)),
        sampling=seconds_to_sample(model, config),
        parameters=sum(tensor.numel() for tensor in model.checkpoint().values()),
        size=(entry.folder / WEIGHTS).stat().st_size,
    )


def sample(model: GenerativeModel, n: int, condition: Tensor | None, config: Config) -> Tensor:
    """Samples in batches, without the noise of pixels where that is asked for and the model has it."""
    smooth = config.mean and has_means(model)
    return draw(model, n, condition, mean=smooth, progress=True, generator=seeded(config))


def likelihood(model: GenerativeModel, items: Items, config: Config) -> Figure | None:
    """Bits a dimension, their kind with all that it takes to read them; None of a model that has no likelihood."""
    if isinstance(model, PCA) and len(model.variance) < model.mean.numel():
        axes = PrincipalAxes(
            model.mean.flatten(), model.basis, model.variance, model.total.item(), int(model.count.item())
        )
        model = ProbabilisticPCA.from_axes(model.modality, axes).to(model.device)
    known = ", class known" if model.classes else ""
    if isinstance(model, LatentPrior) and isinstance(model.model, VQVAE):
        bits = bits_of_codes(model, items, config)
        return mean(bits, f"bound on a mass by one code an item{known}")
    if not isinstance(model, Explicit):
        return None
    data: Any = Arrays(items.scored, items.scored_labels)
    found = evaluate(
        model, data, "test items", samples=config.draws, batch_size=64, progress=True, generator=seeded(config)
    )
    figure = next(figure for figure in found if figure.metric == "bits/dim")
    kind = "mass" if model.discrete and model.exact else "bound on a mass"
    kind += "" if model.discrete else " by the density of dequantised pixels plus the bin width"
    kind += "" if model.exact else f", {config.draws} draws"
    return dataclasses.replace(figure, kind=kind + known)


@torch.no_grad()
def bits_of_codes(model: LatentPrior, items: Items, config: Config) -> Tensor:
    """-log2 p(codes) p(x given codes) an element, a bound on -log2 p(x), which sums over all codes."""
    found = []
    data: Any = Arrays(items.scored, items.scored_labels)
    for x, labels in map(unpack, batches(data, BATCH)):
        x = x.to(model.device)
        z = model.latents(x)
        above = model.prior.log_prob(z, condition=labels if model.classes else None)
        given = model.decode(z).log_prob(x)
        found.append(-(above.double() + given.double()).cpu() / (x[0].numel() * math.log(2)))
    return torch.cat(found)


def mean(bits: Tensor, kind: str) -> Figure:
    """The mean of bits a dimension over items, with its standard error."""
    error = (bits.std() / math.sqrt(len(bits))).item() if len(bits) > 1 else None
    return Figure("bits/dim", bits.mean().item(), "test items", kind=kind, error=error)


def compare(base: Tensor | None, x: Tensor, network: FeatureNetwork | None) -> dict[str, float]:
    """The figures of samples or of training items beside test items with the features `base`."""
    if base is None or network is None:
        return {}
    features = network(x)
    return {METRICS[0]: frechet_distance(base, features), **coverage(base, features)._asdict()}


def seconds_to_sample(model: GenerativeModel, config: Config) -> float:
    """The median time to draw `TIMED` samples at once, by a model that has drawn before."""
    took = []
    for _ in range(TIMES):
        start = time.perf_counter()
        model.sample(TIMED, generator=seeded(config)).cpu()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def trained(folder: Path) -> str:
    """What the card says of the training; "" where it says nothing."""
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    said = re.search(r"^## Training\s+Family .*? numbers(?:, stored in half precision)?\. ?(.*)$", text, re.MULTILINE)
    return said[1].strip() if said else ""


def seconds_trained(said: str) -> float | None:
    """The time in the words of a card: "in 78 minutes" gives 4,680; None where there is none."""
    found = re.search(r"\bin ([\d,]+(?:\.\d+)?) (s|seconds|min|minutes|h|hours)\b", said, re.IGNORECASE)
    return None if found is None else float(found[1].replace(",", "")) * {"s": 1, "m": 60, "h": 3600}[found[2][0]]


def floor(medium: Images, items: Items, base: Tensor | None, network: FeatureNetwork | None, config: Config) -> Row:
    """Pixels that are drawn one by one, each by its own frequencies in the training split: what any model must beat.

    Every level counts once more than it was seen, so that none is impossible.
    """
    d, levels = math.prod(medium.shape), medium.levels

    def places(x: Tensor) -> Tensor:
        """The level of every pixel, shape [batch, d]."""
        return ((x + 1) * (levels - 1) / 2).round().long().flatten(1)

    counts = torch.ones(d * levels, dtype=torch.double)
    for x in batches(medium.dataset(config.data, "train"), 500, seeded(config)):
        counts += torch.bincount((places(x) + levels * torch.arange(d)).flatten(), minlength=d * levels)
    share = counts.reshape(d, levels)
    share /= share.sum(1, keepdim=True)
    drawn = torch.multinomial(share, len(items.real), replacement=True, generator=seeded(config)).T
    samples = (2 / (levels - 1) * drawn.float() - 1).unflatten(1, medium.shape)
    bits = -share.log2()[torch.arange(d), places(items.scored)].mean(1)
    return Row(FLOOR, samples, bits=mean(bits, "mass"), features=compare(base, samples, network))


def cells(row: Row) -> dict[str, str]:
    """A line of the table: what was measured, in words."""
    found = {"family": row.family} if row.family else {}
    if row.bits is not None:
        found["bits/dim"] = f"{row.bits.measured} ({row.bits.kind})"
    found |= {name: significant(value, 3) for name, value in row.features.items()}
    if row.training is not None:
        found["training"] = duration(row.training)
    if row.sampling is not None:
        found[f"{TIMED} samples"] = duration(row.sampling)
    if row.parameters is not None:
        found["parameters"] = f"{row.parameters:,}"
    if row.size is not None:
        found["file"] = format_size(row.size)
    return found


def duration(seconds: float) -> str:
    """A time for people: "3.1 ms", "2 s", "78 min"."""
    if seconds >= 100:
        return f"{seconds / 60:.0f} min"
    return f"{significant(seconds, 2)} s" if seconds >= 1 else f"{significant(1000 * seconds, 2)} ms"


def significant(value: float, digits: int) -> str:
    """A number rounded to so many digits, never as a power of ten: "1190"."""
    return f"{float(f'{value:.{digits}g}'):.12g}"


def table(rows: Sequence[Row]) -> str:
    """Markdown, a line a row; empty rows and columns are left out."""
    lines = [cells(row) for row in rows]
    order = ("family", "bits/dim", *METRICS, "training", f"{TIMED} samples", "parameters", "file")
    columns = [name for name in order if any(name in line for line in lines)]
    text = [f"| model | {' | '.join(columns)} |", f"|{' --- |' * (len(columns) + 1)}"]
    for row, line in zip(rows, lines, strict=True):
        name = f"`{row.name}`" if row.family else row.name
        if line:
            text.append(f"| {name} | {' | '.join(line.get(column, '–') for column in columns)} |")
    return "\n".join(text) + "\n"


def notes(
    config: Config,
    medium: Images,
    entries: Sequence[Entry],
    items: Items,
    base: Tensor | None,
    network: FeatureNetwork | None,
) -> list[str]:
    """What it takes to read the table."""
    n = len(items.real)
    of = f"the test split of {Path(config.data).name}"
    drawn = "binarised once" if medium.levels == 2 else f"{medium.levels} levels a pixel"
    said = [
        f"Bits/dim: means over {len(items.scored):,} items, evenly spaced over {of}, {drawn}, the same for all models; "
        "with standard errors. A bound is no smaller than the mass that it bounds, and may be far above it. "
        f"All seeds are {config.seed}."
    ]
    others = [entry for entry in entries if entry.model.modality.levels != medium.levels]
    if any(isinstance(entry.model, PCA) and entry not in others for entry in entries):
        said.append("Bits/dim of PCA are those of probabilistic PCA on the same axes; samples of PCA have no noise.")
    for name, _, model in others:
        said.append(
            f"`{name}` is of pixels of {model.modality.levels} levels: bits of those and of these cannot be compared, "
            "and none are given. Its samples are shown as they are and compared with the levels of the items."
        )
    if network is None:
        said.append("Samples are not compared in features, since no classifier was given.")
    elif base is None:
        said.append(f"Samples are not compared in features: {n} are too few.")
    else:
        labels = "" if config.label is None else f", trained on the labels {config.label}"
        few = "; with fewer items than features the Frechet distances are far too large" if n <= base.shape[1] else ""
        said.append(
            f"{n:,} samples of each, at temperature 1, beside {n:,} items of {of}, in the {base.shape[1]} features of: "
            f"{network.name}{labels}{few}. {CEILING.capitalize()} show what can be reached."
        )
    noiseless = [entry for entry in entries if has_means(entry.model) and not isinstance(entry.model, PCA)]
    smooth = [f"`{entry.name}`" for entry in noiseless if config.mean]
    if smooth:
        said.append(
            f"Samples of {', '.join(smooth)} are means of p(x given z); draws, which the bits are of, are noisier."
        )
    conditional = [f"`{name}`" for name, _, model in entries if model.classes]
    if conditional:
        said.append(f"Samples of {', '.join(conditional)} are of the classes of the test items, one for one.")
    said.append(
        f"{FLOOR.capitalize()}: each is drawn by itself, as often at every level as in the training split, one more "
        "counted for each level. Any model should be better."
    )
    said.append(f"{TIMED} samples: the time to draw so many at once, the median of {TIMES} times, on {machine()}.")
    times = [f"`{name}`: {trained(folder).rstrip('.') or 'its card does not say'}" for name, folder, _ in entries]
    said.append(f"Training, by the cards. {'; '.join(times)}.")
    missing = [kind for kind, classes in LECTURE.items() if not any(isinstance(e.model, classes) for e in entries)]
    if missing:
        said.append(f"Not in this table, for want of a checkpoint: {', '.join(missing)}.")
    return said


def draw_rows(medium: Images, rows: Mapping[str, Tensor], gap: int = 8) -> "Image":
    """The first images of every row, and its name at the side."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(15)
    strips = {name: medium.show(x[:COLUMNS], COLUMNS).convert("RGB") for name, x in rows.items()}
    left = math.ceil(max(font.getlength(name) for name in strips)) + 2 * gap
    size = (left + max(strip.width for strip in strips.values()), sum(strip.height + gap for strip in strips.values()))
    sheet, top = Image.new("RGB", size, "white"), 0
    pen = ImageDraw.Draw(sheet)
    for name, strip in strips.items():
        pen.text((gap, top + strip.height / 2), name, fill="black", font=font, anchor="lm")
        sheet.paste(strip, (left, top))
        top += strip.height + gap
    return sheet.crop((0, 0, sheet.width, top - gap))


def put(page: str, name: str, text: str) -> str:
    """A page with the text between the lines <!-- name --> and <!-- /name -->."""
    before, start, rest = page.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not end:
        raise MediaError(f"the page has no lines <!-- {name} --> and <!-- /{name} --> to write between")
    return before + start + text + end + after


PRESETS = {
    "smoke": (
        "seconds, on scikit-learn's digits",
        Config(
            data="digits",
            models=("pca-mnist", "vae-mnist", "vq-vae-mnist"),
            output=Path("runs/compare_smoke"),
            test_items=20,
            draws=5,
            samples=40,
            features=Path("runs/compare_smoke/classifier"),
            classifier=TrainingConfig(steps=10, batch_size=32, learning_rate=2e-3),
        ),
    ),
    "laptop": ("MNIST's digits, 1,000 of them", Config()),
    "gpu": (
        "all 10,000 test digits on one large card",
        Config(test_items=10_000, draws=1000, samples=10_000, device="cuda"),
    ),
    "paper": (
        "as papers on binarised digits measure: all test digits, 5,000 draws (Burda, Grosse, Salakhutdinov 2016)",
        Config(test_items=10_000, draws=5000, samples=10_000, device="cuda"),
    ),
}

if __name__ == "__main__":
    run(main, PRESETS)
