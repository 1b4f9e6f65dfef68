"""Every recipe on files of the user's own: what suits them is built, and the card claims nothing about them."""

import dataclasses
import importlib

import numpy as np
import pytest
import torch

from modalities.images import Images
from modalities.points import Points
from modalities.signals import Signals, synthetic_beats
from recipes.images_pixelcnn import Mixture
from tests.recipes import runs
from zoo import load
from zoo.card import read_figures
from zoo.training import TrainingConfig

SERIES = Signals(1, 64, 360.0, "mV")
SHORT = TrainingConfig(steps=3, batch_size=16)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Grey pictures in folders of two classes, patches of photographs, a table of points, an archive of series."""
    folder = tmp_path_factory.mktemp("files")
    grey, colour = Images(1, 8, 8), Images(3, 8, 8)
    digits = grey.dataset("digits").x[:80]
    for name, x in (("a", digits[:40]), ("b", digits[40:])):
        grey.save(x, folder / "mnist" / name)
    colour.save(colour.dataset("photographs").x[:60], folder / "patches")
    generator = torch.Generator().manual_seed(0)
    Points(2).save(torch.randn(200, 2, generator=generator) * torch.tensor([1.0, 100.0]), folder / "own.csv")
    beats, _ = synthetic_beats(60, 64, generator=generator)
    np.savez(folder / "own.npz", x=(beats[:, 0] / 0.01).round().numpy() * 0.01)
    return folder


CASES = {
    "images_vae": ("mnist", {"vae": SHORT, "autoencoder": SHORT}, "vae-mnist", Images(1, 8, 8, 2)),
    "images_nvae": ("mnist", {"nvae": SHORT, "normalisation": "batch", "spectral": 0.01}, "nvae-mnist", None),
    "images_autoencoder": (
        "mnist",
        {"labels": (20,), "seeds": 1, "autoencoder": SHORT, "few": SHORT, "full": SHORT},
        "autoencoder-mnist",
        Images(1, 8, 8),
    ),
    "images_pixelcnn": (
        "patches",
        {"model": "mixture", "batches": (1,), "mixture": Mixture(8, 1, components=2, training=SHORT)},
        "pixelcnn-pp-patches",
        Images(3, 8, 8),
    ),
    "images_pixelrnn": ("patches", {"levels": 256, "training": SHORT}, "diagonal-bilstm-patches", Images(3, 8, 8)),
    "images_vqvae": ("patches", {"channels": 3, "vq": SHORT, "prior": SHORT}, "vq-vae-patches", Images(3, 8, 8)),
    "points_autoregressive": (("own.csv",), {"training": SHORT}, "made-own", Points(2)),
    "points_density": ("own.csv", {"line": "own.csv:y", "components": (1, 2)}, "vae-own", Points(2)),
    "signals_vae": ("own.npz", {"training": SHORT}, "vae-own", SERIES),
    "signals_nvae": ("own.npz", {"training": SHORT, "generated": 8}, "nvae-own", SERIES),
    "signals_autoregressive": ("own.npz", {"training": SHORT, "length": 64}, "wavenet-own", SERIES),
}


@pytest.mark.parametrize("name", CASES)
def test_a_model_of_ones_own_files_is_made_and_published(name, files, tmp_path, monkeypatch, hub):
    monkeypatch.chdir(files)
    recipe = importlib.import_module(f"recipes.{name}")
    data, changes, checkpoint, medium = CASES[name]
    smoke = recipe.PRESETS["smoke"][1]
    if hasattr(smoke, "test_items"):
        changes = changes | {"test_items": 5}
    data = tuple(f"./{part}" for part in data) if isinstance(data, tuple) else f"./{data}"  # no named set
    recipe.main(dataclasses.replace(smoke, data=data, output=tmp_path, push="someone/own", **changes))
    kept, published = load(tmp_path / checkpoint), load("someone/own")
    assert medium in (None, kept.modality)
    assert all(torch.equal(kept.state_dict()[key], value) for key, value in published.state_dict().items())
    card = (tmp_path / checkpoint / "README.md").read_text()
    assert "Files given by the user." in card and "license: other" in card
    assert not any(claim in card for claim in ("MNIST", "beat", "moons"))
    assert runs.pictures(tmp_path / checkpoint) == {"samples"}  # no items of a user's own
    figures = read_figures(tmp_path / checkpoint)
    assert figures and not any(figure.published for figure in figures)
    assert ("own.csv, 40 test points" == figures[0].data) == name.startswith("points")
    assert ("spread over 0.01 mV" in figures[-1].data) == (name in ("signals_nvae", "signals_autoregressive"))
