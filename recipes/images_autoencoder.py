"""What an autoencoder learns without labels, measured by classifiers that get few: features, fine-tuning, and controls.

    python -m recipes.images_autoencoder --data mnist

The test accuracy on MNIST in per cent, mean and standard deviation over three seeds (other labels, weights and order):

    labels                    100             1,000            60,000
    network from scratch      74.86 ± 2.64    93.09 ± 0.20     99.05 ± 0.05
    network fine-tuned        79.03 ± 0.95    94.64 ± 0.96     99.21 ± 0.05
    linear on code            81.28 ± 0.73    90.33 ± 0.60     93.07 ± 0.01
    linear on PCA             69.23 ± 0.61    86.66 ± 0.07     90.07 ± 0.01
    linear on pixels          71.80 ± 1.88    87.85 ± 0.11     92.62 ± 0.01

With 100 labels the code of 32 numbers, used as it is, is the best start, ten points above the pixels that it was made
from and twelve above as many principal components. With 1,000 fine-tuning is; with all of them it gains little. One
autoencoder serves all seeds. It rebuilds the test pictures at 26.3 dB (PCA 18.6 dB), a squared error a picture of
2.28 for pixels in [0, 1] (PCA 13.2). Its samples are bad: nothing made its codes a standard normal. All of it took
18 minutes of one core (AMD EPYC).
"""

import dataclasses
import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from modalities import MediaError, Modality
from modalities.data import Arrays, batches
from modalities.images import Images
from recipes.common import run, write_figures
from zoo.card import Card, Figure
from zoo.evaluation import likelihood
from zoo.evaluation.classifier import Classifier
from zoo.hub import push, save
from zoo.linear.pca import PCA
from zoo.training import TrainingConfig, train
from zoo.variational.autoencoder import Autoencoder

if TYPE_CHECKING:
    from PIL.Image import Image

SCRATCH, TUNED = "network from scratch", "network fine-tuned"
CODE, COMPONENTS, PIXELS = "linear on code", "linear on PCA", "linear on pixels"

PUBLISHED = {
    "nearest neighbour on pixels": {100: 74.19, 1000: 89.30},
    "convolutional network, labels only": {100: 77.02, 1000: 93.55},
    "transductive SVM on pixels": {100: 83.19, 1000: 94.62},
    "M1+TSVM: transductive SVM on a VAE's code": {100: 88.18, 1000: 95.76},
    "M1+M2: VAE with the label as a latent": {100: 96.67, 1000: 97.60},
}
"""MNIST test accuracy in per cent against labels, by other protocols than this one: the transductive SVM and M2 see the
unlabelled images beside the labelled ones (Kingma, Rezende, Mohamed, Welling, "Semi-supervised Learning with Deep
Generative Models", 2014)."""

COLUMNS = 10
"""How many pictures a row of a sheet shows."""

SEARCH = 5000
"""Labels that the strength of the regularisation is chosen on, at most."""

Accuracies = dict[str, dict[int, list[float]]]
"""Test accuracy of every method, number of labels and seed."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, networks, training and where results go."""

    data: str = "mnist"
    """A named set ("mnist", "fashion-mnist", "digits") or a folder of your own pictures, with labels."""
    output: Path = Path("runs/images_autoencoder")
    """Where checkpoints, logs, pictures and figures go; a run that was stopped goes on from there."""
    name: str = "autoencoder-mnist"
    """The checkpoint's name."""
    channels: int = 1
    """1 for grey, 3 for colour."""
    size: int = 28
    """Height and width; pictures of other sizes are cropped and resized."""
    latent: int = 32
    """Length of a code, and components of the PCA beside it."""
    width: int = 32
    """Channels of the networks' first stage."""
    blocks: int = 1
    """Residual blocks a stage."""
    labels: tuple[int, ...] = (100, 1000)
    """Numbers of labels to learn from, the same number of every class; all of them come last in any case."""
    seeds: int = 3
    """Repetitions, each with labels, initial weights and an order of its own."""
    autoencoder: TrainingConfig = TrainingConfig(steps=2350, batch_size=128, precision="bf16", ema=0.99)
    """Training without labels."""
    few: TrainingConfig = TrainingConfig(steps=300, batch_size=100, warmup_steps=30, precision="bf16", ema=0.99)
    """Training of a classifier on a part of the labels, the same for both starts; nothing was tuned for either."""
    full: TrainingConfig = TrainingConfig(steps=940, batch_size=128, precision="bf16", ema=0.99)
    """Training of a classifier on all labels, the same for both starts."""
    licence: str = "other"
    """Of the weights, as the Hub names it; the data decide."""
    about: str = "Pictures given by the user."
    """What the card says of the data: where they come from and their licence."""
    push: str | None = None
    """Publish the autoencoder under this name, "org/name"."""


class Labelled(NamedTuple):
    """Pictures and their classes, in memory: every experiment goes over them again."""

    x: Tensor
    labels: Tensor


def main(config: Config) -> None:
    """Train an autoencoder without labels, then classify from few labels with and without what it learned."""
    config.output.mkdir(parents=True, exist_ok=True)
    medium = Images(config.channels, config.size, config.size)
    training, test = (read(medium.dataset(config.data, split, labels=True)) for split in ("train", "test"))
    autoencoder = pretrain(config, medium, training.x)
    pca = PCA.fit(training.x, medium, components=config.latent)
    pictures: Any = Arrays(test.x)
    spread = encode(autoencoder, test.x).std(0).mean().item()
    measured = likelihood.measure(autoencoder, pictures, f"{Path(config.data).name}, test pictures")

    accuracies = transfer(config, autoencoder, pca, training, test)
    figures = {
        "training pictures": len(training.x),
        "test pictures": len(test.x),
        **{f"{figure.metric}, autoencoder": figure.value for figure in measured},
        **{f"{figure.metric}, PCA": figure.value for figure in likelihood.measure(pca, pictures, "")},
        "standard deviation of a code's elements (the stand-in prior's: 1)": spread,
        "test accuracies, one a seed": accuracies,
    }
    write_figures(figures, config.output)
    print(table(accuracies))
    samples = draw(config, autoencoder, test.x, accuracies)
    checkpoint = save(
        autoencoder, config.output / config.name, describe(config, measured, accuracies), picture=samples, half=True
    )
    if config.push:
        print(push(checkpoint, config.push))


def read(data: Any) -> Labelled:
    """A whole data set of (picture, class)."""
    parts = list(batches(data, 1000))
    return Labelled(torch.cat([x for x, _ in parts]), torch.cat([labels for _, labels in parts]))


def pretrain(config: Config, medium: Images, x: Tensor) -> Autoencoder:
    """An autoencoder trained on all training pictures; it sees no label."""
    autoencoder = build(config, medium, config.autoencoder.seed)
    autoencoder.standardise.fit(x)
    train(autoencoder, Arrays(x), config.autoencoder, config.output / "autoencoder")
    return autoencoder


def build(config: Config, medium: Modality, seed: int) -> Autoencoder:
    """An untrained autoencoder; its encoder is also the network that learns from labels alone."""
    torch.manual_seed(seed)
    return Autoencoder(medium, latent=config.latent, width=config.width, blocks=config.blocks)


def transfer(config: Config, autoencoder: Autoencoder, pca: PCA, training: Labelled, test: Labelled) -> Accuracies:
    """Test accuracies of every method, number of labels and seed. The test pictures serve for nothing else."""
    representations = {
        CODE: standardised(encode(autoencoder, training.x), encode(autoencoder, test.x)),
        COMPONENTS: standardised(encode(pca, training.x), encode(pca, test.x)),
        PIXELS: standardised(training.x.flatten(1), test.x.flatten(1)),
    }
    found: Accuracies = {method: {} for method in (SCRATCH, TUNED, *representations)}
    for count in (*config.labels, len(training.x)):
        for seed in range(config.seeds):
            schedule = dataclasses.replace(config.full if count == len(training.x) else config.few, seed=seed)
            chosen = choose(training.labels, count, seed)
            labels = training.labels[chosen]
            scores = classify(config, autoencoder, Labelled(training.x[chosen], labels), test, schedule)
            for method, (features, unseen) in representations.items():
                scores[method] = probe(Labelled(features[chosen], labels), Labelled(unseen, test.labels), seed)
            for method, score in scores.items():
                found[method].setdefault(count, []).append(score)
            print(
                f"{count} labels, seed {seed}:",
                ", ".join(f"{m} {score:.2%}" for m, score in scores.items()),
                flush=True,
            )
    return found


def classify(
    config: Config, autoencoder: Autoencoder, subset: Labelled, test: Labelled, schedule: TrainingConfig
) -> dict[str, float]:
    """Test accuracies of one network with two starts: untrained, and from the autoencoder's encoder."""
    classes = int(subset.labels.max()) + 1
    scores = {}
    for method, start in ((SCRATCH, build(config, autoencoder.modality, schedule.seed)), (TUNED, autoencoder)):
        torch.manual_seed(schedule.seed)
        classifier = Classifier(autoencoder.standardise, start.encoder, classes)
        folder = config.output / method.replace(" ", "-") / f"labels-{len(subset.x)}-seed-{schedule.seed}"
        train(classifier, Arrays(*subset), schedule, folder)
        scores[method] = classifier.accuracy(Arrays(*test))
    return scores


@torch.no_grad()
def encode(model: Autoencoder | PCA, x: Tensor) -> Tensor:
    """The codes of all pictures, shape [pictures, latent]."""
    return torch.cat([model.encode(part.to(model.device)).cpu() for part in x.split(500)])


def standardised(training: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets of features with the training set's mean taken off and divided by its standard deviations."""
    std, mean = torch.std_mean(training, 0)
    std = torch.where(std > 0, std, 1.0)
    return (training - mean) / std, (test - mean) / std


def choose(labels: Tensor, count: int, seed: int) -> Tensor:
    """The indices of `count` labelled pictures in random order, the same number of every class; or of all pictures."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    if count == len(labels):
        return order
    sizes = labels.bincount()
    share = count // len(sizes)
    if not 1 <= share <= sizes.min():
        raise MediaError(
            f"{count} labels are {share} of each of {len(sizes)} classes; the smallest class has {int(sizes.min())}: "
            "choose another number with --labels"
        )
    chosen = torch.cat([order[labels[order] == k][:share] for k in range(len(sizes))])
    return chosen[torch.randperm(len(chosen), generator=generator)]


def probe(training: Labelled, test: Labelled, seed: int) -> float:
    """Test accuracy of logistic regression, regularised as five-fold cross-validation on the same labels asks for."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    strengths = {"C": [10.0**power for power in range(-4, 2)]}
    search = GridSearchCV(LogisticRegression(max_iter=1000), strengths, cv=folds, refit=False)
    search.fit(training.x[:SEARCH].numpy(), training.labels[:SEARCH].numpy())
    regression = LogisticRegression(max_iter=1000, **search.best_params_)
    regression.fit(training.x.numpy(), training.labels.numpy())
    return float(regression.score(test.x.numpy(), test.labels.numpy()))


def summary(scores: list[float]) -> tuple[float, float]:
    """Mean and standard deviation over the seeds, in per cent."""
    return 100 * statistics.mean(scores), 100 * statistics.stdev(scores) if len(scores) > 1 else 0.0


def table(accuracies: Accuracies) -> str:
    """The measured accuracies, and below them the published ones of other protocols."""
    counts = list(next(iter(accuracies.values())))
    lines = [f"{'test accuracy, per cent':44}" + "".join(f"{count:>16,}" for count in counts)]
    for method, by_count in accuracies.items():
        cells = ("{:.2f} ± {:.2f}".format(*summary(by_count[count])) for count in counts)
        lines.append(f"{method:44}" + "".join(f"{cell:>16}" for cell in cells))
    lines.append("published for MNIST, by other protocols")
    for method, published in PUBLISHED.items():
        cells = (f"{published[count]:.2f}" if count in published else "-" for count in counts)
        lines.append(f"{method:44}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def draw(config: Config, autoencoder: Autoencoder, test: Tensor, accuracies: Accuracies) -> "Image":
    """Write the pictures; the one of samples is returned for the card."""
    show = autoencoder.modality.show
    samples = autoencoder.sample(3 * COLUMNS, generator=torch.Generator(autoencoder.device).manual_seed(0)).cpu()
    real = test[:COLUMNS]
    pictures = {
        "samples": show(samples, COLUMNS),
        "reconstructions": show(torch.cat([real, autoencoder.reconstruct(real.to(autoencoder.device)).cpu()]), COLUMNS),
        "accuracy": draw_accuracies(accuracies),
    }
    for name, picture in pictures.items():
        picture.save(config.output / f"{name}.png")
    return pictures["samples"]


def draw_accuracies(accuracies: Accuracies) -> "Image":
    """Test accuracy against the number of labels, with the standard deviation over the seeds."""
    from matplotlib.figure import Figure as Drawing

    from modalities.drawing import render

    drawing = Drawing(figsize=(7, 4.5), layout="constrained")
    axis = drawing.subplots()
    for method, by_count in accuracies.items():
        means, deviations = zip(*map(summary, by_count.values()), strict=True)
        style = "o-" if method in (SCRATCH, TUNED) else "s--"
        axis.errorbar(list(by_count), means, deviations, fmt=style, capsize=4, markersize=4, label=method)
    axis.set(xscale="log", xlabel="labels", ylabel="test accuracy, per cent")
    axis.grid(alpha=0.3)
    axis.legend()
    return render(drawing)


def describe(config: Config, measured: list[Figure], accuracies: Accuracies) -> Card:
    """What the checkpoint's README.md says."""
    transferred = [
        Figure(
            f"test accuracy of a classifier, {method}",
            summary(by_count[count])[0],
            f"{Path(config.data).name}, test pictures, {count:,} labels",
            unit="%",
            error=summary(by_count[count])[1] / math.sqrt(config.seeds),
        )
        for method, by_count in accuracies.items()
        for count in config.labels
        if method in (SCRATCH, TUNED, CODE)
    ]
    return Card(
        summary=f"Autoencoder of pictures: a code of {config.latent} numbers, trained without labels.",
        data=config.about,
        licence=config.licence,
        figures=(*measured, *transferred),
        paper="Hinton, Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, 2006.",
        trained=f"{config.autoencoder.steps:,} steps of {config.autoencoder.batch_size} pictures "
        "with recipes/images_autoencoder.py.",
    )


SHORT = TrainingConfig(steps=60, batch_size=50, warmup_steps=10, ema=0.9)

PRESETS = {
    "smoke": (
        "seconds, on digits of 8 x 8 that come with scikit-learn",
        Config(
            data="digits",
            name="autoencoder-digits",
            size=8,
            latent=8,
            width=8,
            labels=(100,),
            seeds=2,
            autoencoder=dataclasses.replace(SHORT, steps=200),
            few=SHORT,
            full=SHORT,
        ),
    ),
    "laptop": ("MNIST in under 90 minutes on two cores", Config()),
    "gpu": (
        "four times the channels, longer",
        Config(
            width=128,
            blocks=2,
            seeds=5,
            autoencoder=TrainingConfig(steps=20_000, batch_size=256, precision="bf16"),
            few=TrainingConfig(steps=500, batch_size=100, precision="bf16", ema=0.99),
            full=TrainingConfig(steps=5_000, batch_size=256, precision="bf16"),
        ),
    ),
    "paper": (
        "a code of 30 numbers and 200 epochs, as Hinton and Salakhutdinov have them",
        Config(
            latent=30,
            width=128,
            blocks=2,
            seeds=5,
            autoencoder=TrainingConfig(steps=47_000, batch_size=256, precision="bf16"),
            few=TrainingConfig(steps=500, batch_size=100, precision="bf16", ema=0.99),
            full=TrainingConfig(steps=5_000, batch_size=256, precision="bf16"),
        ),
    ),
}

if __name__ == "__main__":
    run(main, PRESETS)
