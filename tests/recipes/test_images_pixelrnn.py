"""The recipe on scikit-learn's digits, both kinds, resumed; on colours, and on a folder of one's own, published."""

import dataclasses
import json

import pytest
import torch

from modalities.images import Images
from recipes import images_pixelrnn
from recipes.images_pixelrnn import NAMES, counterpart
from recipes.pixels import completions
from zoo import load
from zoo.evaluation.receptive_field import receptive_field
from zoo.training import TrainingConfig, TrainingError

SHORT = TrainingConfig(steps=3, batch_size=16)


@pytest.fixture
def smoke(tmp_path):
    return dataclasses.replace(images_pixelrnn.PRESETS["smoke"][1], output=tmp_path / "run")


@pytest.mark.parametrize("kind", ["row", "diagonal"])
def test_smoke_learns_draws_and_resumes_for_nothing(smoke, kind):
    config = dataclasses.replace(smoke, kind=kind)
    images_pixelrnn.main(config)
    assert {path.stem for path in config.folder.glob("*.png")} == {"samples", "completions", "receptive_field"}
    figures = json.loads((config.folder / "figures.json").read_text())
    nll = next(value for key, value in figures.items() if key.startswith("NLL (mass)"))
    # Pixels taken one by one, at the training set's frequencies, need 38 nats.
    assert float(nll.split()[0]) < 32
    folder = config.output / f"{NAMES[kind]}-digits"
    card = (folder / "README.md").read_text()
    assert nll in card and "Kalchbrenner" in card

    model = load(folder)
    assert model.kind == kind
    images_pixelrnn.main(config)
    assert torch.equal(model.last.weight, load(folder).last.weight)
    assert json.loads((config.folder / "figures.json").read_text()) == figures


def test_kinds_train_side_by_side_and_are_shown_together(smoke):
    for kind in ("row", "diagonal"):
        images_pixelrnn.main(dataclasses.replace(smoke, kind=kind, training=SHORT, test_items=5))
    title, other = counterpart(smoke)
    assert title == "Row LSTM" and other.kind == "row"
    assert torch.equal(other.last.weight, load(smoke.output / "row-lstm-digits").last.weight)
    assert counterpart(dataclasses.replace(smoke, size=6))[0] == "Row LSTM, as initialised"
    x = smoke.medium.dataset("digits", "test")[0][None].sign()
    seen = {kind: receptive_field(load(smoke.output / f"{NAMES[kind]}-digits"), x, 5, 2) for kind in NAMES}
    assert not seen["diagonal"].flatten()[5 * 8 + 2 :].any()
    assert (seen["diagonal"].flatten()[: 5 * 8 + 2] > 0).all()
    assert 0 < (seen["row"] > 0).sum() < 5 * 8 + 2


def test_completions_keep_the_upper_half(smoke):
    model = images_pixelrnn.build(smoke)
    x = torch.ones(2, *smoke.medium.shape)
    shown = completions(model, x, 4, torch.Generator().manual_seed(0))
    assert shown.shape == (2 * (2 + 4), *smoke.medium.shape)
    assert torch.equal(shown[2:4, :, 4:], torch.zeros(2, 1, 4, 8))
    assert (shown[4:, :, :4] == 1).all() and (shown[4:, :, 4:] == -1).any()


def test_own_colour_pictures_are_trained_on_and_published(smoke, tmp_path, hub):
    folder = tmp_path / "mine"
    medium = Images(3, 6, 6)
    medium.save(medium.dataset("photographs").x[:40], folder)
    config = dataclasses.replace(
        smoke, data=str(folder), levels=256, size=6, training=SHORT, test_items=5, push="someone/mine"
    )
    images_pixelrnn.main(config)
    published = load("someone/mine")
    assert published.modality == medium and published.kind == "diagonal"
    assert torch.equal(published.last.weight, load(config.output / "diagonal-bilstm-mine").last.weight)


def test_another_seed_in_the_same_folder_is_refused(smoke):
    config = dataclasses.replace(smoke, training=SHORT, test_items=5)
    images_pixelrnn.main(config)
    with pytest.raises(TrainingError, match="another run"):
        images_pixelrnn.main(dataclasses.replace(config, training=dataclasses.replace(SHORT, seed=1)))
