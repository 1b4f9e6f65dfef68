"""Latents: codes to values and back, checks, pictures, configuration."""

import json

import pytest
import torch

from modalities import MediaError, from_config
from modalities.latents import Latents


def test_codes_are_levels_spaced_evenly_over_minus_one_to_one():
    medium = Latents((1, 2, 3), 5)
    assert medium.values(torch.arange(5)).tolist() == [-1, -0.5, 0, 0.5, 1]
    large = Latents((1, 2, 3), 1000)
    assert torch.equal(large.indices(large.values(torch.arange(1000))), torch.arange(1000))
    with pytest.raises(TypeError, match="no codes"):
        Latents((4,)).values(torch.arange(2))


def test_the_configuration_survives_json():
    for medium in (Latents((1, 2, 3), 5), Latents([4])):
        assert from_config(json.loads(json.dumps(medium.config()))) == medium
    assert Latents([4]).shape == (4,) and Latents([4]).levels is None


@pytest.mark.parametrize("dimensions, levels", [((), None), ((2, 3), None), ((0,), None), ((1.5,), None), ((4,), 1)])
def test_impossible_latents_are_refused(dimensions, levels):
    with pytest.raises(ValueError, match="levels|dimensions"):
        Latents(dimensions, levels)


def test_other_shapes_are_refused():
    with pytest.raises(MediaError, match=r"latents of shape \[batch, 4\]"):
        Latents((4,)).check(torch.zeros(2, 5))


def test_files_and_data_sets_are_refused(tmp_path):
    medium = Latents((4,))
    for refused in (lambda: medium.load(tmp_path / "x.png"), lambda: medium.dataset("digits")):
        with pytest.raises(TypeError, match="Latents"):
            refused()


def test_maps_of_codes_are_drawn_from_black_to_white():
    picture = Latents((1, 1, 2), 3).show(torch.tensor([[[[-1.0, 1.0]]]]))
    assert picture.size == (96, 48)
    assert picture.getpixel((0, 0)) == 0 and picture.getpixel((95, 0)) == 255
    assert Latents((5,)).show(torch.randn(3, 5), columns=1).height == 3 * 19 + 2 * 2
    with pytest.raises(MediaError, match="empty"):
        Latents((5,)).show(torch.zeros(0, 5))
