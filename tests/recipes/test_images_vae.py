"""The recipe on scikit-learn's digits, and started again."""

import dataclasses

import pytest
import torch

from modalities.images import Images
from recipes import images_vae as recipe
from tests.recipes import runs
from zoo import load
from zoo.training import TrainingError

QUICK = dataclasses.replace(recipe.QUICK, steps=300, learning_rate=3e-3, ema=0.98)
SMOKE = dataclasses.replace(recipe.PRESETS["smoke"][1], vae=QUICK)


def test_a_run_learns_measures_and_draws(done):
    parts = {"samples_autoencoder", "samples_vae", "temperatures", "reconstructions", "interpolations", "traversals"}
    assert runs.pictures(done.output) == parts | {"side_by_side"}
    # Pixels taken one by one, at the training set's frequencies, need 38 nats.
    assert runs.number(done.output, "NLL (bound on a mass)") < 36
    found = runs.figures(done.output)
    nll = next(value for name, value in found.items() if name.startswith("NLL (bound on a mass)"))
    card = (done.output / "vae-digits" / "README.md").read_text()
    assert nll in card and "Kingma" in card and "300 steps of 32 with recipes/images_vae.py in" in card
    low, high = found["the same of the VAE's draws from q(z given x), whose prior is 1"].split(" to ")
    assert 0.5 < float(low) <= float(high) < 2


def test_the_codes_of_both_models_are_compared_over_all_test_images(done):
    medium = Images(1, 8, 8, 2)
    vae = load(done.output / "vae-digits")
    other = recipe.Autoencoder(medium, latent=8, width=8)
    for_all = recipe.compare_codes(other, vae, medium.dataset("digits", "test"))
    for_two = recipe.compare_codes(other, vae, torch.utils.data.Subset(medium.dataset("digits", "test"), range(2)))
    assert for_all.keys() == for_two.keys() and for_all != for_two


def test_a_second_start_trains_nothing_anew_and_another_seed_is_refused(done):
    before, model = runs.figures(done.output), load(done.output / "vae-digits")
    recipe.main(done)
    assert runs.figures(done.output) == before
    again = load(done.output / "vae-digits")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in again.state_dict().items())
    with pytest.raises(TrainingError, match="another run"):
        recipe.main(dataclasses.replace(done, vae=dataclasses.replace(QUICK, seed=1)))
