"""Nearest neighbours against all distances at once; a generator that copies is found out, and unseen data are not."""

import pytest
import torch

from modalities.data import Arrays
from modalities.images import Images
from tests.zoo.linear.data import Listed, images
from zoo.evaluation.neighbours import NeighbourTest, compare_neighbours, nearest

MEDIUM = Images(channels=1, height=6, width=6)


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
    own = nearest(x[10:20], x)
    assert own.index.tolist() == list(range(10, 20)) and own.distance.max() == 0


def pictures(n, seed):
    return torch.rand(n, *MEDIUM.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_copies_with_a_hundredth_of_noise_are_found():
    training, held_out = pictures(500, 0), pictures(300, 1)
    noise = torch.randn(300, *MEDIUM.shape, generator=torch.Generator().manual_seed(2))
    copies = training[100:400] + 0.01 * noise
    found = compare_neighbours(copies, held_out, Arrays(training))
    probability, p = found.mann_whitney()
    assert found.share == 1 and probability == 1 and p < 1e-20
    first = (copies == found.closest[0]).flatten(1).all(1).nonzero()[0]
    assert torch.equal(found.neighbours[0], training[100 + first][0])
    expected = (found.closest - found.neighbours).flatten(1).norm(dim=1).double()
    torch.testing.assert_close(expected, found.generated.sort().values[:10], rtol=1e-5, atol=0)
    picture = compare_neighbours(copies, held_out, training, shown=4).show(MEDIUM)  # samples above their neighbours
    assert picture.width > 1.5 * picture.height
    fresh = torch.cat([training[:30], pictures(270, 2)])
    some = compare_neighbours(fresh, held_out, training)
    assert 0.1 <= some.share < 0.14 and some.mann_whitney()[1] < 0.1  # the rest lie as they should


def test_unseen_items_pass():
    training = pictures(500, 0)
    found = [compare_neighbours(pictures(300, seed), pictures(300, seed + 10), training) for seed in range(1, 7)]
    assert sum(one.share for one in found) / 6 < 0.03
    probabilities, ps = zip(*(one.mann_whitney() for one in found), strict=True)
    assert sum(probabilities) / 6 == pytest.approx(0.5, abs=0.03) and sorted(ps)[3] > 0.05


def test_a_copyist_is_not_acquitted_by_numbers_that_are_none():
    training, held_out = pictures(50, 0), pictures(20, 1)
    broken = training[:30].clone()
    broken[7, 0, 2, 2] = float("nan")
    with pytest.raises(ValueError, match="1 of 30 generated items hold NaN or infinite values"):
        compare_neighbours(broken, held_out, training)
    held_out[3] = float("inf")
    with pytest.raises(ValueError, match="1 of 20 unseen items hold NaN or infinite values"):
        compare_neighbours(training[:30], held_out, training)


def test_the_share_of_few_unseen_items_is_no_figure():
    distances = torch.rand(4000, 220, generator=torch.Generator().manual_seed(0)).double()

    def found(m):
        return NeighbourTest(distances[0, :20], distances[0, 20 : 20 + m], torch.zeros(0), torch.zeros(0))

    assert [figure.unit for figure in found(200).figures("toys")] == ["%", "", ""]
    assert [figure.unit for figure in found(199).figures("toys")] == ["", ""]
    # Where samples and unseen items are alike, it is what the property says.
    for m in (20, 200):
        shares = [NeighbourTest(row[:20], row[20 : 20 + m], torch.zeros(0), torch.zeros(0)).share for row in distances]
        assert sum(shares) / len(shares) == pytest.approx((1 + 0.01 * (m - 1)) / (m + 1), rel=0.07)


def test_the_figures_by_hand():
    near, far = torch.tensor([1.0, 2.0, 3.0, 10.0]).double(), torch.tensor([2.0, 4.0, 5.0]).double()
    found = NeighbourTest(near, far, torch.zeros(0), torch.zeros(0))
    # The percentile is 2.04; pairs: 1 beats three, 2 ties one and beats two, 3 beats two, 10 none.
    assert found.share == 0.5
    probability, p = found.mann_whitney()
    assert probability == pytest.approx((3 + 2.5 + 2) / 12) and 0.1 < p < 0.5
    assert [figure.value for figure in found.figures("toys")] == [probability, p]
    assert {figure.data for figure in found.figures("toys")} == {"toys: 3 real, 4 generated"}
    # A hundred times as many unseen items have nearly the same percentile.
    many = found._replace(held_out=far.repeat(100))
    assert [figure.value for figure in many.figures("toys")] == [50, *many.mann_whitney()]
    assert many.figures("toys")[0].unit == "%"
