"""The recipe on scikit-learn's digits, resumed, and on a folder of the user's own colour pictures, published."""

import dataclasses
import json
import math
import time

import pytest
import torch

from modalities.images import Images
from recipes import images_vqvae
from zoo import load
from zoo.training import TrainingConfig

PICTURES = {"samples_uniform", "samples_prior", "reconstructions", "codes", "interpolations", "side_by_side"}


@pytest.fixture
def smoke(tmp_path):
    return dataclasses.replace(images_vqvae.PRESETS["smoke"][1], output=tmp_path / "run")


def number(figures, name):
    return float(str(next(value for key, value in figures.items() if key.startswith(name))).split()[0])


def test_smoke_learns_draws_and_resumes_for_nothing(smoke):
    quick = dataclasses.replace(smoke.vq, steps=200, learning_rate=5e-3, ema=0.95, warmup_steps=10)
    smoke = dataclasses.replace(smoke, vq=quick, prior=quick)
    images_vqvae.main(smoke)
    assert {path.stem for path in smoke.output.glob("*.png")} == PICTURES
    figures = json.loads((smoke.output / "figures.json").read_text())
    # Pixels taken one by one, at the training set's frequencies, need 38 nats; uniform codes 16 ln 16.
    assert number(figures, "NLL given its codes (mass)") < 25
    assert figures["nats of a grid of uniform codes"] == pytest.approx(16 * math.log(16))
    assert number(figures, "NLL of the codes (mass)") < 32
    whole = number(figures, "NLL (bound on a mass)")
    assert whole == pytest.approx(
        number(figures, "NLL given its codes") + number(figures, "NLL of the codes"), abs=0.02
    )
    assert 8 < figures["codebook perplexity"] <= 16
    card = (smoke.output / smoke.name / "README.md").read_text()
    assert f"{whole:.4g}" in card and "Vinyals" in card and "their classes known" in card

    model = load(smoke.output / smoke.name)
    assert model.classes == 10
    before = time.monotonic()
    images_vqvae.main(smoke)
    assert time.monotonic() - before < 60
    again = load(smoke.output / smoke.name)
    assert torch.equal(model.prior.last.weight, again.prior.last.weight)
    assert torch.equal(model.model.codebook, again.model.codebook)


def test_own_pictures_are_trained_on_and_published(smoke, tmp_path, hub):
    folder = tmp_path / "mine"
    medium = Images(3, 8, 8)
    medium.save(medium.dataset("photographs").x[:60], folder)
    short = TrainingConfig(steps=5, batch_size=16)
    config = dataclasses.replace(
        smoke, data=str(folder), name="mine", channels=3, vq=short, prior=short, test_items=5, push="someone/vq-mine"
    )
    images_vqvae.main(config)
    published = load("someone/vq-mine")
    assert published.modality == Images(3, 8, 8, 256) and published.classes is None
    assert torch.equal(published.model.codebook, load(config.output / "mine").model.codebook)
