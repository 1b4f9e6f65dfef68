"""The families and the names that `load` knows. Plain tables: importing this imports no model and no torch."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

FAMILIES = {
    "pca": "zoo.linear.pca:PCA",
    "probabilistic-pca": "zoo.linear.pca:ProbabilisticPCA",
    "morphable-model": "zoo.morphable.model:MorphableModel",
    "autoencoder": "zoo.variational.autoencoder:Autoencoder",
    "vae": "zoo.variational.vae:VAE",
    "nvae": "zoo.variational.nvae:NVAE",
    "vq-vae": "zoo.variational.vq:VQVAE",
    "pixelcnn": "zoo.autoregressive.pixelcnn:PixelCNN",
    "gated-pixelcnn": "zoo.autoregressive.gated_pixelcnn:GatedPixelCNN",
    "pixelrnn": "zoo.autoregressive.pixelrnn:PixelRNN",
    "pixelcnn-pp": "zoo.autoregressive.pixelcnn_pp:PixelCNNPlusPlus",
    "wavenet": "zoo.autoregressive.wavenet:WaveNet",
    "made": "zoo.autoregressive.made:MADE",
    "latent-prior": "zoo.latent_prior:LatentPrior",
    "gaussian-mixture": "zoo.baselines:GaussianMixture",
    "kernel-density": "zoo.baselines:KernelDensity",
}
"""Every family's name and its class as "module:Class", imported when it is needed. No other class is constructed."""

OWN: dict[str, type] = {}
"""The families of the user's own program, from `register`."""

CHECKPOINTS = Path(__file__).parent / "checkpoints"
"""The folder of the bundled weights, one checkpoint folder a model."""


@dataclass(frozen=True)
class Bundled:
    """What a listing says about one model; `size` is that of its weights in bytes."""

    name: str
    folder: Path
    family: str
    medium: str
    size: int
    summary: str


def models() -> list[Bundled]:
    """The bundled models, sorted by name. Reads their configurations and cards only, so that it answers at once."""
    return [describe(path.parent) for path in sorted(CHECKPOINTS.glob("*/config.json"))]


def format_size(size: int) -> str:
    """A number of bytes for people: "38 kB", "7.2 MB"."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def register(name: str, cls: type) -> None:
    """Have `load`, `push` and `pull` build checkpoints of the family `name` by a class of your own.

    Checkpoints that are saved from then on bear the name. Until the program that loads one has registered it too, they
    are refused: a configuration never names code to run. A name may be registered again, for another class.

        register("speaker", Speaker)

    Raises ValueError for a name that this package has itself.
    """
    if not re.fullmatch(r"[\w.:-]+", name):
        raise ValueError(f'a family is called by letters, digits, "-", "_", "." and ":", got {name!r}')
    if name in FAMILIES:
        raise ValueError(f"{name!r} is a family of this package; choose another name")
    if not isinstance(cls, type):
        raise ValueError(f"a family is a class of models, got {cls!r}")
    OWN[name] = cls


def describe(folder: Path) -> Bundled:
    """What a listing says about the checkpoint of a folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = (folder / "model.safetensors").stat().st_size
    return Bundled(folder.name, folder, config["family"], config["medium"], size, _summary(folder / "README.md"))


def _summary(card: Path) -> str:
    """The first line of text below a card's title."""
    if not card.is_file():
        return ""
    _, _, text = card.read_text(encoding="utf-8").partition("\n# ")
    return next((line for line in text.splitlines()[1:] if line.strip()), "")
