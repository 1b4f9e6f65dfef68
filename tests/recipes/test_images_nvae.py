"""The recipe on scikit-learn's digits: measured, drawn, resumed beside itself; its settings build models."""

import dataclasses

import pytest
import torch

from modalities.images import Images
from recipes import images_nvae as recipe
from tests.recipes import runs
from zoo.settings import arguments
from zoo.variational.nvae import NVAE

QUICK = recipe.PRESETS["smoke"][1]
SMOKE = dataclasses.replace(QUICK, nvae=dataclasses.replace(QUICK.nvae, steps=250))


def test_a_run_learns_measures_and_draws(done):
    parts = {"samples", "temperatures", "scales", "reconstructions", "interpolations"}
    assert runs.pictures(done.output) == parts
    found, card = runs.figures(done.output), (done.output / "nvae-digits" / "README.md").read_text()
    # Pixels taken one by one, at the training set's frequencies, need 38 nats.
    assert runs.number(done.output, "NLL (bound on a mass)") < 36
    assert sum(name.startswith("rate of group") for name in found) == 3 and "of group" not in card
    assert "Vahdat" in card and "| rate |" in card and found["steps left out"] >= 0


def test_a_finished_run_is_compared_with_another_checkpoint_image_by_image(done):
    beside = str(done.output / "nvae-digits")
    recipe.main(dataclasses.replace(done, beside=beside))
    assert abs(runs.number(done.output, f"nats less than {beside} needs")) < 0.5  # it stands beside itself


@pytest.mark.parametrize("preset", ["laptop", "gpu", "paper"])
def test_the_larger_presets_have_the_sizes_they_promise(preset):
    config = recipe.PRESETS[preset][1]
    assert config.groups == {"laptop": (4, 4), "gpu": (5, 10), "paper": (5, 10)}[preset]
    assert config.normalisation == {"laptop": "batch", "gpu": "none", "paper": "batch"}[preset]
    assert (config.spectral, config.nvae.optimiser) == ((0.01, "adamax") if preset == "paper" else (0.0, "adamw"))
    with torch.device("meta"):
        model = NVAE(Images(1, 28, 28, 2), **arguments(NVAE, config))
    assert model.grid == (32, 32) and [tuple(model.start.shape[2:])] == [(4, 4)]
