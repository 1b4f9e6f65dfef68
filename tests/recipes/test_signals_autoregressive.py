"""The recipe on generated heartbeats, and what its completions tell."""

import pytest
import torch

from modalities.signals import Signals, synthetic_beats
from recipes import signals_autoregressive as recipe
from tests.recipes import runs
from zoo import load
from zoo.autoregressive.wavenet import WaveNet
from zoo.card import read_figures

SMOKE = recipe.PRESETS["smoke"][1]


def test_a_run_learns_measures_and_draws(done):
    assert runs.pictures(done.output) == {"real", "samples", "completions", "heights", "spectra"}
    found = runs.figures(done.output)
    assert all(f"height of the highest peak, {n} (mean ± standard deviation, mV)" in found for n in ("test", "samples"))
    shares = [float(value.rstrip("%")) for name, value in found.items() if name.startswith("steps within")]
    assert len(shares) == 2 and all(50 < share <= 100 for share in shares)
    assert not any("vae-heartbeats" in name for name in found)  # its card is of other beats

    model = load(done.output / "wavenet-synthetic-beats")
    assert isinstance(model, WaveNet) and model.modality == Signals(1, 48, 360.0, "mV")
    test = model.modality.dataset("synthetic-beats", "test").x
    (nll,) = read_figures(done.output / "wavenet-synthetic-beats")
    assert nll.kind == "density" and nll.error > 0
    assert nll.value == pytest.approx(-model.log_prob(test).mean().item(), abs=1e-3)
    untrained = WaveNet(model.modality, 8, 4, 1, 16, components=3)
    untrained.standardise.fit(test)
    assert nll.value < -untrained.eval().log_prob(test).mean().item() - 20


def test_the_share_within_is_that_of_hidden_steps():
    x, completions = torch.zeros(1, 1, 10), torch.ones(2, 1, 1, 10)
    completions[0, ..., :8] = -1
    assert recipe.within(x, completions, 5) == pytest.approx(3 / 5)


def test_completions_begin_as_the_series_and_differ_after():
    wavenet, x = WaveNet(Signals(1, 48), 4, 2, 1, 8, components=2).eval(), synthetic_beats(3, 48)[0]
    drawn = recipe.complete(wavenet, x, 12, seed=0)
    assert drawn.shape == (recipe.COMPLETIONS, 3, 1, 48)
    assert torch.equal(drawn[..., :12], x[..., :12].expand(recipe.COMPLETIONS, -1, -1, -1))
    assert (drawn[..., 12:].std(0) > 0).all()
