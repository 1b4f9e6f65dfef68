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
from pathlib import Path

from modalities import MediaError, Modality
from recipes.recipe import machine, report, run
from zoo.configuration import CONFIG, family_name
from zoo.evaluation.classifier import TRAINING, feature_network
from zoo.evaluation.compare import TIMED, TIMES, Entry, common_medium, compare
from zoo.evaluation.features import FeatureNetwork
from zoo.hub import find, load
from zoo.training import TrainingConfig

LECTURE = {
    "PCA": {"pca", "probabilistic-pca"},
    "VAE": {"vae"},
    "NVAE": {"nvae"},
    "PixelCNN": {"pixelcnn", "gated-pixelcnn", "pixelcnn-pp"},
    "VQ-VAE with a learned prior": {"latent-prior"},
}
"""The families that the comparison is about; a table says which of them it lacks."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Data, models, and how much is measured."""

    data: str = "mnist"
    """A named set ("mnist", "digits") or a folder of pictures; its test split is measured on. Pictures are resized to
    the models' size, and binarised where a model is of binary images."""
    models: tuple[str, ...] = ("pca-mnist", "vae-mnist", "nvae-mnist", "gated-pixelcnn-mnist", "vq-vae-mnist")
    """Bundled names, folders or Hub repositories, all of one medium and size; none may have seen the test split."""
    name: str = "digits"
    """What is compared: the name of the picture, and of the place in the page."""
    output: Path = Path("runs/compare")
    """Where the table, the picture and the figures go."""
    page: Path | None = None
    """A Markdown page; the table goes between its lines <!-- NAME --> and <!-- /NAME -->, the picture beside it."""
    items: int = 1000
    """Test items, evenly spaced over the split, and as many samples and training items."""
    draws: int = 100
    """Importance samples an item where a likelihood is a bound."""
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


def main(config: Config) -> None:
    """Measure models of the same images on the same test items, and put them side by side."""
    if config.page is not None:
        put(config.page.read_text(encoding="utf-8"), config.name, "")  # an unsuitable page is known before hours go by
    names = [Path(name).name for name in config.models]
    if not names or len(set(names)) < len(names):
        raise MediaError(f"models have a name each, got {', '.join(names) or 'none'}")
    entries = [Entry(Path(given).name, find(given), load(given, device=config.device)) for given in config.models]
    medium = common_medium(entries)
    labelled = any(entry.model.condition for entry in entries)
    test, training = (medium.dataset(source(config), split, labels=labelled) for split in ("test", "train"))
    found = compare(
        entries,
        test,
        training,
        f"the test split of {Path(config.data).name}",
        network=classifier(config, medium),
        items=config.items,
        draws=config.draws,
        mean=config.mean,
        seed=config.seed,
    )
    found.notes.append(f"{TIMED} samples: the time to draw so many at once, the median of {TIMES}, on {machine()}.")
    missing = [
        title for title, families in LECTURE.items() if not families & {family_name(type(e.model)) for e in entries}
    ]
    if missing:
        found.notes.append(f"Not in this table, for want of a checkpoint: {', '.join(missing)}.")

    text, picture = found.table(), found.show()
    report(config.output, [], found.figures(), {"samples": picture})
    (config.output / "table.md").write_text(f"{text}\n", encoding="utf-8")
    if config.page is not None:
        shown = config.page.parent / f"{config.page.stem}-{config.name}.png"
        picture.save(shown)
        text = f"\n![A row of samples for every model, test items above them]({shown.name})\n\n{text}\n\n"
        page = put(config.page.read_text(encoding="utf-8"), config.name, text)
        config.page.write_text(page, encoding="utf-8")


def source(config: Config) -> str:
    """The data with the column of their labels."""
    return config.data if config.label is None else f"{config.data}:{config.label}"


def classifier(config: Config, medium: Modality) -> FeatureNetwork | None:
    """What makes features of images, if it is asked for; its name says which labels it knows."""
    if config.features is None:
        return None
    there = (config.features / CONFIG).is_file()
    sets = [None if there else medium.dataset(source(config), split, labels=True) for split in ("train", "test")]
    network = feature_network(config.features, medium, *sets, config=config.classifier, device=config.device)
    labels = "" if config.label is None else f", trained on the labels {config.label}"
    return network._replace(name=network.name + labels)


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
            items=40,
            draws=5,
            features=Path("runs/compare_smoke/classifier"),
            classifier=TrainingConfig(steps=10, batch_size=32, learning_rate=2e-3),
        ),
    ),
    "laptop": ("MNIST's digits, 1,000 of them", Config()),
    "gpu": ("all 10,000 test digits on one large card", Config(items=10_000, draws=1000, device="cuda")),
    "paper": (
        "as papers on binarised digits measure: all test digits, 5,000 draws (Burda, Grosse, Salakhutdinov 2016)",
        Config(items=10_000, draws=5000, device="cuda"),
    ),
}

if __name__ == "__main__":
    run(main, PRESETS)
