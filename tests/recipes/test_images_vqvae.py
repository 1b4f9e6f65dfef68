"""The recipe on scikit-learn's digits, whose classes the prior is told, and started again."""

import dataclasses
import math

import pytest

from recipes import images_vqvae as recipe
from tests.recipes import runs

QUICK = dataclasses.replace(recipe.QUICK, steps=200, learning_rate=5e-3, ema=0.95, warmup_steps=10)
SMOKE = dataclasses.replace(recipe.PRESETS["smoke"][1], vq=QUICK, prior=QUICK)


def test_a_run_learns_measures_and_draws(done):
    parts = {"samples_uniform", "samples_prior", "reconstructions", "codes", "interpolations", "side_by_side"}
    assert runs.pictures(done.output) == parts
    found = runs.figures(done.output)
    # Pixels taken one by one, at the training set's frequencies, need 38 nats; uniform codes 16 ln 16.
    given, codes = (runs.number(done.output, f"NLL {part} codes") for part in ("given its", "of the"))
    assert given < 25 and codes < 32 < found["nats of a grid of uniform codes"] == pytest.approx(16 * math.log(16))
    whole = runs.number(done.output, "NLL (bound on a mass, class known)")
    assert whole == pytest.approx(given + codes, abs=0.02) and 8 < found["codebook perplexity"] <= 16
    card = (done.output / "vq-vae-digits" / "README.md").read_text()
    assert f"{whole:.4g}" in card and "Vinyals" in card and "class known" in card
