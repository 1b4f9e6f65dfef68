"""Series beside real ones: spectra, peaks, levels and nearest training series, and their pictures."""

import math

import numpy as np
import pytest
import torch

from modalities.signals import Signals
from zoo.evaluation.signals import compare, draw_ensembles, draw_spectra, peak_height, spectrum


def test_the_spectrum_finds_a_tone_and_its_level():
    tone = torch.sin(2 * math.pi * 20 * torch.arange(128) / 128)[None, None]
    power = spectrum(tone + 5)
    assert power.argmax() == 20 - 1
    assert (spectrum(10 * tone) - power)[19].item() == pytest.approx(20, abs=1e-3)


def test_the_height_of_a_peak_leaves_the_baseline_out():
    beat = torch.zeros(2, 1, 50)
    beat[:, 0, 20] = torch.tensor([1.0, 1.5])
    assert peak_height(beat + 3).tolist() == [1.0, 1.5]


def test_real_beats_are_compared_with_each_other_and_with_copies(shared_data):
    medium = Signals(1, 256, 360.0, "mV")
    source = shared_data / "signals" / "mitbih_100.npz"
    real = {"training": medium.dataset(source, "train").x[:300], "test": medium.dataset(source, "test").x[:100]}
    found = compare(real, {"copies": real["training"][:50]}, "mV")
    assert found["distance to the nearest training series, copies (median, RMS mV)"] == 0
    assert 0 < found["distance to the nearest training series, test (median, RMS mV)"] < 0.1
    assert found["spectrum, training against test (mean difference over frequencies, dB)"] < 1
    height = peak_height(real["test"])
    named = found["height of the highest peak, test (mean ± standard deviation, mV)"]
    assert named == f"{height.mean():.3f} ± {height.std():.3f}"


@pytest.mark.parametrize("rate", [None, 50.0])
def test_pictures_show_every_series(rate):
    medium, generator = Signals(1, 50, rate, "mV"), torch.Generator().manual_seed(0)
    x = torch.randn(3, 1, 50, generator=generator).cumsum(-1)
    rows = {"none known": (0, torch.stack([x - 3, x + 3])), "half known": (25, torch.stack([x - 3, x + 3]))}
    whole, half = (np.asarray(draw_ensembles(medium, x, {title: row})).astype(int) for title, row in rows.items())
    assert whole.shape == half.shape and (whole != half).any()
    blue = [(picture[..., 2] > picture[..., 0] + 50).sum() for picture in (whole, half)]
    assert blue[0] > 1.5 * blue[1] > 0  # nothing is drawn anew of what is known
    assert len(draw_spectra(medium, {"test": x, "samples": x + 1}).getcolors(1 << 24)) > 20
