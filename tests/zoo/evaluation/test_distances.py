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
    assert sliced_wasserstein(x, x + shift) == pytest.approx(2, rel=0.15)
    assert sliced_wasserstein(x, x + shift) == sliced_wasserstein(x, x + shift)
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


def test_the_p_value_is_uniform_where_the_distributions_are_equal():
    values = torch.tensor([mmd(normal(15, seed=s), normal(15, seed=s + 1000), 199)[1] for s in range(200)])
    # Kolmogorov's 0.1 % limit for 200 numbers is 0.138.
    steps = torch.arange(1, 201) / 200
    assert (values.sort().values - steps).abs().max() < 0.138
    estimates = torch.tensor([mmd(normal(15, seed=s), normal(15, seed=s + 1000), 1)[0] for s in range(200)])
    assert abs(estimates.mean()) < 3 * estimates.std() / 200**0.5


def test_the_p_value_is_small_where_only_the_shape_differs():
    x = normal(100)
    y = torch.where(normal(100, seed=1) > 0, 1.0, -1.0)  # the same mean and variances
    assert mmd(x, y)[1] == pytest.approx(1 / 1001)


def test_figures_come_in_pairs_with_training_items():
    x = normal(300)
    found = measure(x[:100], x[100:200] + 1, x[200:], "toys")
    assert [figure.metric for figure in found[::2]] == [
        "sliced Wasserstein distance",
        "squared MMD",
        "p-value of the MMD",
    ]
    assert [figure.metric for figure in found[1::2]] == [figure.metric for figure in found[::2]]
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


def test_numbers_that_are_none_are_refused():
    x = normal(10)
    broken = x.clone()
    broken[3, 1], broken[7] = float("nan"), float("inf")
    for distance in (sliced_wasserstein, mmd):
        with pytest.raises(ValueError, match="2 of 10 items of the second set hold NaN or infinite values"):
            distance(x, broken)
        with pytest.raises(ValueError, match="2 of 10 items of the first set hold NaN"):
            distance(broken, x)
    with pytest.raises(ValueError, match="2 of 10 generated items hold NaN"):
        measure(x, broken, x, "toys")


def test_what_has_no_distance_is_refused():
    with pytest.raises(ValueError, match=r"items of one shape, .*got \[5, 2\] and \[5, 3\]"):
        sliced_wasserstein(normal(5), normal(5, 3))
    with pytest.raises(ValueError, match="as large as each other, got 5 and 6"):
        sliced_wasserstein(normal(5), normal(6))
    with pytest.raises(ValueError, match="more than half of all pairs of items are equal"):
        mmd(torch.ones(5, 2), torch.ones(5, 2))
    with pytest.raises(ValueError, match="two items of each set at least, got 1 and 5"):
        mmd(normal(1), normal(5))
    with pytest.raises(ValueError, match="directions must be a positive whole number"):
        sliced_wasserstein(normal(5), normal(5), 0)
