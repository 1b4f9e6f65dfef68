"""A generator that copies is found out, and unseen data are not."""

import pytest
import torch

from modalities.images import Images
from modalities.modality import Arrays
from zoo.evaluation.memorisation import Memorisation, memorisation

MEDIUM = Images(channels=1, height=6, width=6)


def pictures(n, seed):
    return torch.rand(n, *MEDIUM.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_copies_with_a_hundredth_of_noise_are_found():
    training, held_out = pictures(500, 0), pictures(300, 1)
    noise = torch.randn(300, *MEDIUM.shape, generator=torch.Generator().manual_seed(2))
    copies = training[100:400] + 0.01 * noise
    found = memorisation(copies, held_out, Arrays(training))
    assert found.share == 1 and found.probability == 1 and found.p < 1e-20
    assert torch.equal(
        found.neighbours[0], training[100 + (copies == found.closest[0]).flatten(1).all(1).nonzero()[0]][0]
    )
    expected = (found.closest - found.neighbours).flatten(1).norm(dim=1).double()
    torch.testing.assert_close(expected, found.generated.sort().values[:10], rtol=1e-5, atol=0)


def test_unseen_items_pass():
    training = pictures(500, 0)
    found = [memorisation(pictures(300, seed), pictures(300, seed + 10), training) for seed in range(1, 7)]
    assert sum(one.share for one in found) / 6 < 0.03
    assert sum(one.probability for one in found) / 6 == pytest.approx(0.5, abs=0.03)
    assert sorted(one.p for one in found)[3] > 0.05


def test_some_copies_among_many_samples_are_found():
    training, fresh = pictures(500, 0), pictures(300, 2)
    fresh[:30] = training[:30]
    found = memorisation(fresh, pictures(300, 1), training)
    assert 0.1 <= found.share < 0.14
    assert found.p < 0.1  # the rest lie as they should


def test_the_figures_by_hand():
    near, far = torch.tensor([1.0, 2.0, 3.0, 10.0]).double(), torch.tensor([2.0, 4.0, 5.0]).double()
    found = Memorisation(near, far, torch.zeros(0), torch.zeros(0))
    # The percentile is 2.04; pairs: 1 beats three, 2 ties one and beats two, 3 beats two, 10 none.
    assert found.share == 0.5
    assert found.probability == pytest.approx((3 + 2.5 + 2) / 12)
    figures = found.figures("toys")
    assert [figure.value for figure in figures[:2]] == [50, found.probability]
    assert figures[0].unit == "%" and {figure.data for figure in figures} == {"toys: 3 real, 4 generated"}
    assert figures[2].value == pytest.approx(found.p) and 0.1 < found.p < 0.5


def test_the_picture_shows_samples_above_their_neighbours():
    training = pictures(50, 0)
    found = memorisation(training[:8], pictures(20, 1), training, shown=4)
    assert found.closest.shape == found.neighbours.shape == (4, 1, 6, 6)
    assert torch.equal(found.closest, found.neighbours)
    picture = found.show(MEDIUM)
    assert picture.width > 1.5 * picture.height
