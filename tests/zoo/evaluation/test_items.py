"""What the metrics share: levels of samples, generators, and which samples may end with means."""

import numpy as np
import pytest
import torch

from modalities.images import Images
from modalities.points import Points
from tests import toys
from zoo.autoregressive.made import MADE
from zoo.evaluation.items import as_items, for_draws, has_means, places
from zoo.latent_prior import LatentPrior
from zoo.linear.pca import PCA
from zoo.variational.vae import VAE

BINARY, COLOUR = Images(1, 8, 8, 2), Images(3, 8, 8)


def seeded():
    return torch.Generator().manual_seed(0)


def test_values_go_to_the_nearest_level_of_their_own():
    x = torch.tensor([-3.0, -0.5, 0.013, 0.5, 3.0])
    found = as_items(x, 256, COLOUR)
    levels = (found + 1) * 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-4) and (found - x.clamp(-1, 1)).abs().max() <= 1 / 255
    assert torch.equal(as_items(found, 256, COLOUR), found)
    assert as_items(x, 2, BINARY).tolist() == [-1, -1, 1, 1, 1]
    coarse = Images(1, 8, 8, 32)
    assert as_items(torch.tensor([2 * 3.9 / 31 - 1, 2 * 30.4 / 31 - 1]), 32, coarse).tolist() == pytest.approx(
        [2 * 4 / 31 - 1, 2 * 30 / 31 - 1]
    )
    assert torch.equal(as_items(x, None, Points(dimensions=1)), x)


@pytest.mark.parametrize("levels", [32, 256])
def test_bytes_become_the_levels_that_a_picture_of_them_is_read_with(levels, tmp_path):
    from PIL import Image

    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "all.png")
    fine, medium = Images(1, 16, 16).load(tmp_path / "all.png"), Images(1, 16, 16, levels)
    assert torch.equal(as_items(fine, 256, medium), medium.load(tmp_path / "all.png"))


def test_grey_values_are_binarised_where_the_items_are():
    grey = torch.tensor([-3.0, -0.5, 0.013, 0.5, 3.0]).expand(2000, 1, 1, 5)
    white = (as_items(grey, 256, BINARY, seeded()) > 0).double().mean(0).flatten()
    assert white.tolist() == pytest.approx([0, 0.25, 0.507, 0.75, 1], abs=0.04) and white[0] == 0 and white[4] == 1


def test_a_generator_for_draws_is_another_one_and_moves_none():
    generator = seeded()
    first, second = for_draws(generator), for_draws(generator)
    assert torch.equal(generator.get_state(), seeded().get_state())
    drawn = torch.rand(5, generator=first)
    assert torch.equal(drawn, torch.rand(5, generator=second))
    assert not torch.equal(drawn, torch.rand(5, generator=generator))
    assert not torch.equal(drawn, torch.rand(5, generator=for_draws(generator)))  # which has moved on
    torch.manual_seed(3)
    some = [torch.rand(5, generator=for_draws(None)) for _ in range(2)]
    torch.manual_seed(3)
    assert torch.equal(some[0], torch.rand(5, generator=for_draws(None))) and not torch.equal(some[0], some[1])


def test_places_are_evenly_spaced():
    assert places(10, 4) == [0, 2, 5, 7] and places(4, 4) == [0, 1, 2, 3]


def test_means_are_items_of_latents_and_of_more_levels_than_two():
    sizes = {"latent": 2, "width": 4, "blocks": 0, "hidden": 8}
    vae = VAE(COLOUR, likelihood="logistic", **sizes)
    prior = MADE(vae.latents(), width=4, layers=1)
    for model in (vae, PCA(COLOUR, 2), toys.make("ppca"), LatentPrior(vae, prior)):
        assert has_means(model)
    for model in (VAE(BINARY, **sizes), toys.make("gan"), toys.make("pixelcnn"), prior):
        assert not has_means(model)
