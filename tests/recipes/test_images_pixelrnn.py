"""The recipe on scikit-learn's digits, both kinds beside each other."""

import dataclasses

import pytest
import torch

from modalities.images import Images
from recipes import images_pixelrnn as recipe
from tests.recipes import runs
from zoo import load
from zoo.evaluation.receptive_field import receptive_field

SMOKE = recipe.PRESETS["smoke"][1]


@pytest.fixture(scope="module")
def both(done):
    """The Row LSTM trained in the folder of the Diagonal BiLSTM."""
    row = dataclasses.replace(done, kind="row")
    recipe.main(row)
    return row


@pytest.mark.parametrize("kind", ["row", "diagonal"])
def test_a_run_learns_measures_and_draws(both, kind):
    folder = both.output / kind
    assert runs.pictures(folder) == {"samples", "completions", "receptive_field"}
    # Pixels taken one by one, at the training set's frequencies, need 38 nats.
    assert runs.number(folder, "NLL (mass)") < 32
    card = (both.output / f"{recipe.NAMES[kind]}-digits" / "README.md").read_text()
    assert "Kalchbrenner" in card and recipe.TITLES[kind] in card
    assert load(both.output / f"{recipe.NAMES[kind]}-digits").kind == kind


def test_kinds_are_shown_together(both):
    title, other = recipe.counterpart(both)
    trained = {kind: load(both.output / f"{name}-digits") for kind, name in recipe.NAMES.items()}
    assert title == "Diagonal BiLSTM" and torch.equal(other.last.weight, trained["diagonal"].last.weight)
    assert recipe.counterpart(dataclasses.replace(both, size=6))[0] == "Diagonal BiLSTM, as initialised"
    x = Images(1, 8, 8, 2).dataset("digits", "test")[0][None].sign()
    seen = {kind: receptive_field(model, x, 5, 2).flatten() for kind, model in trained.items()}
    assert not seen["diagonal"][5 * 8 + 2 :].any() and (seen["diagonal"][: 5 * 8 + 2] > 0).all()
    assert 0 < (seen["row"] > 0).sum() < 5 * 8 + 2


def test_completions_keep_the_upper_half(both, monkeypatch):
    shown = []
    monkeypatch.setattr(Images, "show", lambda self, x, columns: shown.append(x))
    real = torch.where(torch.rand(64, 1, 8, 8) < 0.5, 1.0, -1.0)
    recipe.draw(both, load(both.output / "row-lstm-digits"), real)
    images, hidden, *drawn = shown[1].split(10)
    assert torch.equal(images, real[:10]) and len(drawn) == 4
    assert torch.equal(hidden[:, :, :4], images[:, :, :4]) and not hidden[:, :, 4:].any()
    for one in drawn:
        assert torch.equal(one[:, :, :4], images[:, :, :4]) and set(one.unique().tolist()) == {-1.0, 1.0}
    assert not torch.equal(drawn[0], drawn[1])
