"""The recipe on scikit-learn's digits, resumed, and on a folder of the user's own pictures, published."""

import dataclasses
import json
import time

import pytest
import torch

from modalities.images import Images
from recipes import images_vae
from zoo import load
from zoo.training import TrainingConfig, TrainingError

PICTURES = {"samples_autoencoder", "samples_vae", "temperatures", "reconstructions", "interpolations", "traversals"}


@pytest.fixture
def smoke(tmp_path):
    return dataclasses.replace(images_vae.PRESETS["smoke"][1], output=tmp_path / "run")


def test_smoke_learns_draws_and_resumes_for_nothing(smoke):
    quick = dataclasses.replace(smoke.vae, steps=300, learning_rate=3e-3, ema=0.98)
    smoke = dataclasses.replace(smoke, vae=quick)
    images_vae.main(smoke)
    assert {path.stem for path in smoke.output.glob("*.png")} == PICTURES | {"side_by_side"}
    figures = json.loads((smoke.output / "figures.json").read_text())
    nll = next(value for key, value in figures.items() if key.startswith("NLL (bound on a mass)"))
    # Pixels taken one by one, at the training set's frequencies, need 38 nats.
    assert float(nll.split()[0]) < 36
    card = (smoke.output / smoke.name / "README.md").read_text()
    assert nll in card and "Kingma" in card

    model = load(smoke.output / smoke.name)
    before = time.monotonic()
    images_vae.main(smoke)
    assert time.monotonic() - before < 60
    again = load(smoke.output / smoke.name)
    assert torch.equal(model.encoder.output.weight, again.encoder.output.weight)


def test_own_pictures_are_trained_on_and_published(smoke, tmp_path, hub):
    folder = tmp_path / "mine"
    medium = Images(1, 8, 8)
    medium.save(medium.dataset("digits").x[:60], folder)
    short = TrainingConfig(steps=5, batch_size=16)
    config = dataclasses.replace(
        smoke, data=str(folder), name="mine", vae=short, autoencoder=short, test_items=5, push="someone/vae-mine"
    )
    images_vae.main(config)
    published = load("someone/vae-mine")
    assert published.modality == Images(1, 8, 8, 2)
    assert torch.equal(published.decoder.output.weight, load(config.output / "mine").decoder.output.weight)


def test_another_seed_in_the_same_folder_is_refused(smoke):
    short = TrainingConfig(steps=2, batch_size=16)
    images_vae.main(dataclasses.replace(smoke, vae=short, autoencoder=short, test_items=5))
    other = dataclasses.replace(short, seed=1)
    with pytest.raises(TrainingError, match="another run"):
        images_vae.main(dataclasses.replace(smoke, vae=other, autoencoder=short))
