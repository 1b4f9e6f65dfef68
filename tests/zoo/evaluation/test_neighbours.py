"""Nearest neighbours against all distances at once."""

import math

import pytest
import torch

from tests.zoo.linear.data import Listed, images
from zoo.evaluation.neighbours import nearest


def test_the_nearest_neighbour_is_the_closest_item_across_blocks():
    x, samples = images(700), images(7, seed=3)
    distances = (samples[:, None] - x).flatten(2).norm(dim=2)
    for source in (x, Listed(x)):  # the second is read in two blocks
        found = nearest(samples, source)
        assert torch.equal(found.index, distances.argmin(1))
        assert torch.allclose(found.distance, distances.min(1).values, rtol=1e-5)
        assert torch.equal(found.items, x[found.index])
    few = nearest(samples, x, items=2)
    assert torch.equal(few.items, x[few.index[:2]]) and torch.equal(few.index, distances.argmin(1))
    far = nearest(samples + 1000, x + 1000)  # where differences of squares have lost every digit
    assert torch.allclose(far.distance, distances.min(1).values, rtol=1e-2)


def test_items_are_their_own_neighbours_unless_these_are_left_out():
    x = images(100)
    own = nearest(x[10:20], x)
    assert own.index.tolist() == list(range(10, 20)) and own.distance.max() == 0
    others = nearest(x[10:20], x, leave_out=torch.arange(10, 20))
    between = torch.cdist(x.flatten(1), x.flatten(1)).fill_diagonal_(math.inf)
    assert torch.equal(others.index, between[10:20].argmin(1))
    with pytest.raises(ValueError, match="one index a sample"):
        nearest(x[:7], x, leave_out=torch.arange(3))
