"""What groups of latents code: those that are kept stay, the others are drawn anew."""

import pytest
import torch

from modalities.images import Images
from tests.toys import generator
from zoo.hierarchy import redraw, scales
from zoo.variational.nvae import NVAE


@pytest.fixture(scope="module")
def model():
    """A model of three scales whose every group moves what is drawn."""
    torch.manual_seed(0)
    sizes = {"latent": 2, "width": 4, "blocks": 0, "block_cells": 1, "cells": 1, "expansion": 1}
    model = NVAE(Images(1, 8, 8, 2), (2, 1, 2), **sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def test_a_scale_begins_where_the_grid_changes(model):
    assert scales(model.prior().mean) == [0, 2, 3]


def test_groups_that_are_kept_stay_and_the_others_are_drawn_anew(model):
    z, other = (model.prior(n=3).sample(generator=generator(seed)) for seed in (1, 2))
    none, of_other = (redraw(model, start, 0, 8, generator=generator()) for start in (z, other))
    assert none.shape == (24, 1, 8, 8) and torch.equal(none, of_other)  # samples know nothing of z
    spreads = [
        redraw(model, z, kept, 8, generator=generator()).unflatten(0, (8, 3)).std(0).mean() for kept in (0, 2, 5)
    ]
    assert spreads[0] > spreads[1] > 10 * spreads[2] and spreads[2] < 1e-6
    assert not torch.allclose(
        redraw(model, z, 2, 8, generator=generator()), redraw(model, other, 2, 8, generator=generator())
    )
    whole = redraw(model, z, 5, 2, generator=generator())
    torch.testing.assert_close(whole, model.decode(z).mean.repeat(2, 1, 1, 1))


def test_a_temperature_of_0_has_one_result(model):
    z = model.prior().sample(generator=generator())
    cold = redraw(model, z, 2, 4, 0.0, generator())
    assert cold.std(0).max() < 1e-6
