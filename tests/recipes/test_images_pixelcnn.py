"""The recipe on scikit-learn's digits, both networks of binary pictures beside each other, and its sizes."""

import dataclasses

import pytest
import torch

from modalities.images import Images
from recipes import images_pixelcnn as recipe
from tests.recipes import runs
from zoo import load
from zoo.evaluation.receptive_field import receptive_field

PLAIN = dataclasses.replace(recipe.PRESETS["smoke"][1], model="plain")
SMOKE = dataclasses.replace(PLAIN, model="gated")


@pytest.fixture(scope="module")
def both(done):
    """The gated network after the plain one was trained in the same folder."""
    for config in (dataclasses.replace(PLAIN, output=done.output), done):
        recipe.main(config)
    return done


@pytest.mark.parametrize(("model", "name"), [("plain", "pixelcnn-digits"), ("gated", "gated-pixelcnn-digits")])
def test_a_run_learns_measures_draws_and_times_its_samplers(both, model, name):
    folder = both.output / model
    assert runs.pictures(folder) == {"samples", "completions", "receptive_field"}
    # Pixels taken one by one, at the training set's frequencies, need 38 nats.
    assert runs.number(folder, "NLL (mass)") < 34
    found = runs.figures(folder)
    timed = {key.removeprefix("time_to_sample, "): value for key, value in found.items() if "time_to" in key}
    assert timed.keys() == {f"batch {n}, {s}" for n in (1, 4) for s in ("incremental", "fixed-point", "naive")}
    assert 1 <= int(timed["batch 4, fixed-point"].split()[0]) <= 64 and timed["batch 4, naive"].startswith("64 ")
    nll = next(value for key, value in found.items() if key.startswith("NLL (mass)"))
    assert nll in (both.output / name / "README.md").read_text()


def test_the_other_network_is_shown_as_it_was_trained(both):
    title, other = recipe.counterpart(both, Images(1, 8, 8, 2))
    assert title == "PixelCNN" and torch.equal(other.last.weight, load(both.output / "pixelcnn-digits").last.weight)
    assert recipe.counterpart(both, Images(1, 6, 6, 2))[0] == "PixelCNN, as initialised"


def test_the_gated_network_sees_into_the_blind_spot_of_a_plain_one_of_its_depth(tmp_path):
    """Row 6 of 14, column 4 of 14: a row up the plain network ends 3 columns to the right, the gated one does not."""
    config = recipe.Config(data="mnist", output=tmp_path, gated=recipe.Gated(width=8, layers=4, kernel=3, head=8))
    medium = Images(1, 14, 14, 2)
    title, plain = recipe.counterpart(config, medium)
    assert title == "PixelCNN, as initialised" and len(plain.blocks) == 3
    x = torch.where(torch.rand(20, 1, 14, 14) < 0.5, 1.0, -1.0)
    gated, seen = (receptive_field(model, x, 6, 4) for model in (recipe.build(config.gated, medium), plain))
    assert (gated[5, :11] > 0).all() and not gated[5, 11:].any()
    assert (seen[5, :8] > 0).all() and not seen[5, 8:].any()
    assert not gated[7:].any() and not gated[6, 4:].any()
    title, other = recipe.counterpart(
        dataclasses.replace(config, model="plain", plain=recipe.Plain(blocks=3)), Images(1, 14, 14, 2)
    )
    assert title == "Gated PixelCNN, as initialised" and len(other.layers) == 4


@pytest.mark.parametrize("preset", recipe.PRESETS)
@pytest.mark.parametrize("model", ["gated", "plain", "mixture"])
def test_every_preset_builds_its_models(preset, model):
    design = getattr(recipe.PRESETS[preset][1], model)
    medium = Images(3, 32, 32, 256) if model == "mixture" else Images(1, 28, 28, 2)
    with torch.device("meta"):
        built = recipe.build(design, medium)
    assert isinstance(built, design.family) and built.modality == medium
    assert design.training.steps == {"smoke": 100, "gpu": 40_000}.get(preset, design.training.steps)
