"""Distances of vectors where the answer is known."""

import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import wasserstein_distance
from sklearn.metrics.pairwise import rbf_kernel

from zoo.evaluation import distances
from zoo.evaluation.distances import measure, mmd, sliced_wasserstein


def normal(n, d=2, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_in_one_dimension_it_is_the_wasserstein_distance():
    x, y = normal(80, 1), normal(80, 1, seed=1) ** 3
    assert sliced_wasserstein(x, y, 1) == pytest.approx(wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy()))
    assert sliced_wasserstein(x, x.flip(0) - 2.5) == pytest.approx(2.5)


def test_a_shift_shows_its_mean_part_along_all_directions():
    # |u_1| of a random direction in three dimensions is 1/2 on average.
    x = normal(20, 3)
    shift = torch.tensor([4.0, 0, 0])
    assert sliced_wasserstein(x, x + shift, 20_000) == pytest.approx(2, rel=0.02)
    assert sliced_wasserstein(x, x + shift) == sliced_wasserstein(x, x + shift) == pytest.approx(2, rel=0.15)
    assert sliced_wasserstein(x, x + shift, seed=1) != sliced_wasserstein(x, x + shift)
    assert sliced_wasserstein(x.reshape(20, 1, 3), x.flip(0).reshape(20, 1, 3)) == pytest.approx(0)


def test_mmd_is_that_of_the_definition_with_five_widths():
    x, y = normal(30), normal(40, seed=1) + 0.3
    both = torch.cat([x, y]).numpy()
    median = torch.from_numpy(pdist(both)).median().item()
    kernel = sum(rbf_kernel(both, gamma=1 / (2 * (median * f) ** 2)) for f in (0.25, 0.5, 1, 2, 4))
    kxx, kyy, kxy = kernel[:30, :30], kernel[30:, 30:], kernel[:30, 30:]
    expected = (kxx.sum() - kxx.trace()) / (30 * 29) + (kyy.sum() - kyy.trace()) / (40 * 39) - 2 * kxy.mean()
    assert mmd(x, y)[0] == pytest.approx(expected)


def test_the_p_value_is_uniform_where_the_distributions_are_equal_and_small_where_only_the_shape_differs():
    estimates, values = torch.tensor([mmd(normal(15, seed=s), normal(15, seed=s + 1000), 199) for s in range(200)]).T
    # Kolmogorov's 0.1 % limit for 200 numbers is 0.138.
    assert (values.sort().values - torch.arange(1, 201) / 200).abs().max() < 0.138
    assert abs(estimates.mean()) < 3 * estimates.std() / 200**0.5
    y = torch.where(normal(100, seed=1) > 0, 1.0, -1.0)  # the same mean and variances
    assert mmd(normal(100), y)[1] == pytest.approx(1 / 1001)


def test_figures_come_in_pairs_with_training_items():
    x = normal(300)
    found = measure(x[:100], x[100:200] + 1, x[200:], "toys")
    names = ["sliced Wasserstein distance", "squared MMD", "p-value of the MMD"]
    assert [figure.metric for figure in found[::2]] == [figure.metric for figure in found[1::2]] == names
    assert {figure.data for figure in found[1::2]} == {"toys: 100 real, 100 training items"}
    assert found[0].value > 2 * found[1].value and found[2].value > 10 * abs(found[3].value)
    assert found[4].value < 0.01 < found[5].value


def test_the_mmd_of_sorted_items_is_of_all_their_classes(monkeypatch):
    monkeypatch.setattr(distances, "MOST", 50)
    centres = torch.tensor([0.0, 30.0]).repeat_interleave(100)[:, None]
    real, training = normal(200) + centres, normal(200, seed=1) + centres
    drawn = (normal(200, seed=2) + centres)[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    found = {figure.metric: figure for figure in measure(real, drawn, training, "toys")[:-1:2]}
    assert found["squared MMD"].value == mmd(real[::4], drawn[::4])[0]
    assert found["p-value of the MMD"].value > 0.01
    assert found["squared MMD"].data == "toys: 50 real, 50 generated"
    assert found["sliced Wasserstein distance"].data == "toys: 200 real, 200 generated"


def test_what_has_no_distance_is_refused():
    x = normal(10)
    broken = x.clone()
    broken[3, 1], broken[7] = float("nan"), float("inf")
    for distance in (sliced_wasserstein, mmd):
        with pytest.raises(ValueError, match="2 of 10 items of the second set hold NaN or infinite values"):
            distance(x, broken)
        with pytest.raises(ValueError, match="2 of 10 items of the first set hold NaN"):
            distance(broken, x)
    for distance, sets, message in (
        (sliced_wasserstein, (normal(5), normal(5, 3)), r"items of one shape, .*got \[5, 2\] and \[5, 3\]"),
        (sliced_wasserstein, (normal(5), normal(6)), "as large as each other, got 5 and 6"),
        (sliced_wasserstein, (normal(5), normal(5), 0), "directions must be a positive whole number"),
        (mmd, (torch.ones(5, 2), torch.ones(5, 2)), "more than half of all pairs of items are equal"),
        (mmd, (normal(1), normal(5)), "two items of each set at least, got 1 and 5"),
        (measure, (x, broken, x, "toys"), "2 of 10 generated items hold NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            distance(*sets)
