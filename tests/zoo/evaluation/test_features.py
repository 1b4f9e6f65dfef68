"""Distances in feature space where the answer is known."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import euclidean_distances, polynomial_kernel
from torch import Tensor

from zoo.evaluation import features
from zoo.evaluation.features import FeatureNetwork, coverage, frechet_distance, kernel_distance, measure


def normal(n, d=2, seed=0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_frechet_distance_of_a_set_from_itself_is_0_wherever_it_lies():
    x = 3 * normal(300, 8) + 1000
    assert frechet_distance(x, x.flip(0)) < 1e-6
    assert frechet_distance(x.float(), x.float()) < 1e-6


def test_the_frechet_distance_of_normal_distributions_has_a_closed_form():
    # Whitened numbers have exactly these means and covariances.
    x = normal(1000, 3)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    a, b = torch.tensor([[2.0, 0, 0], [0.5, 1, 0], [0, 0, 3]]), torch.tensor([[1.0, 0, 0], [0, 2, 0], [1, -1, 1]])
    shift = torch.tensor([1.0, -2.0, 0.5])
    y = x @ b.double().T + shift
    c, d = (a @ a.T).double(), (b @ b.T).double()
    values, vectors = torch.linalg.eigh(c)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    trace = torch.linalg.eigvalsh(root @ d @ root).sqrt().sum()
    expected = shift.double().square().sum() + c.trace() + d.trace() - 2 * trace
    assert frechet_distance(x @ a.double().T, y) == pytest.approx(expected.item(), rel=1e-9)


def test_the_frechet_distance_of_equal_distributions_falls_with_the_number_of_items():
    bias = [
        sum(frechet_distance(normal(n, 8, seed), normal(n, 8, seed + 1)) for seed in range(0, 20, 2))
        for n in (100, 200, 400)
    ]
    assert 1.7 < bias[0] / bias[1] < 2.3 and 1.7 < bias[1] / bias[2] < 2.3
    assert 0 < frechet_distance(normal(10, 40), normal(12, 40, seed=1)) < math.inf  # fewer than features


def test_the_kernel_distance_is_that_of_the_definition():
    x, y = normal(60, 5), normal(60, 5, seed=1) + 0.5
    kxx, kyy, kxy = (
        polynomial_kernel(a.numpy(), b.numpy(), degree=3, gamma=1 / 5, coef0=1) for a, b in ((x, x), (y, y), (x, y))
    )
    off = [(k.sum() - k.trace()) / (60 * 59) for k in (kxx, kyy)]
    assert kernel_distance(x, y) == pytest.approx(off[0] + off[1] - 2 * kxy.mean())


def test_the_kernel_distance_is_unbiased_and_repeatable(monkeypatch):
    values = torch.tensor([kernel_distance(normal(50, 4, s), normal(50, 4, s + 1000)) for s in range(200)])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(200)
    assert (values < 0).any()
    monkeypatch.setattr(features, "SUBSET", 40)
    x, y = normal(90, 4), normal(70, 4, seed=1) + 1
    some = kernel_distance(x, y, seed=1)
    assert some == kernel_distance(x, y, seed=1) != kernel_distance(x, y, seed=2)
    monkeypatch.setattr(features, "SUBSET", 70)
    assert some == pytest.approx(kernel_distance(x, y), rel=0.1)


def test_coverage_is_that_of_the_definitions(monkeypatch):
    real, fake, k = normal(200, 3), 1.3 * normal(150, 3, seed=1) + 0.4, 4
    monkeypatch.setattr(features, "BLOCK", 7 * 200)  # many parts, the last one smaller
    near, near_fake = (np.sort(euclidean_distances(x.numpy()), 1) for x in (real, fake))
    across = euclidean_distances(real.numpy(), fake.numpy())
    inside = across < near[:, k : k + 1]
    found = coverage(real, fake, k)
    assert found.precision == pytest.approx(inside.any(0).mean())
    assert found.density == pytest.approx(inside.sum(0).mean() / k)
    assert found.coverage == pytest.approx(inside.any(1).mean())
    assert found.recall == pytest.approx((across < near_fake[:, k]).any(1).mean())


def test_equal_distributions_have_a_density_of_1_and_cover_each_other():
    found = [coverage(normal(1500, seed=s), normal(1500, seed=s + 10)) for s in range(3)]
    precision, recall, density, covered = (sum(values) / 3 for values in zip(*found, strict=True))
    assert density == pytest.approx(1, abs=0.05)
    assert covered == pytest.approx(1 - 2**-5, abs=0.015)  # one of three standard errors
    assert precision > 0.98 and recall > 0.98


def test_a_lost_mode_costs_variety_and_noise_costs_realism():
    centre = torch.tensor([20.0, 0.0])
    real = torch.cat([normal(500), normal(500, seed=1) + centre])
    lost = normal(1000, seed=2)
    found = coverage(real, lost)
    assert found.recall < 0.55 and found.coverage < 0.55
    assert found.precision > 0.97 and found.density > 0.95
    noisy = torch.cat([normal(500, seed=2), normal(500, seed=3) + centre])
    noisy[::2] += torch.tensor([0.0, 100.0])
    found = coverage(real, noisy)
    assert found.precision < 0.55 and found.density < 0.55
    assert found.recall > 0.95 and found.coverage > 0.8


def test_every_figure_names_the_network_and_has_that_of_training_items_beside_it():
    network = FeatureNetwork("two numbers", lambda x: torch.stack([x.mean((1, 2)), x.std((1, 2))], 1))
    x = torch.randn(300, 4, 5, generator=torch.Generator().manual_seed(0))
    found = measure(x[:100], x[100:200] + 3, x[200:], network, "toys")
    assert {figure.kind for figure in found} == {"two numbers"}
    assert [figure.metric for figure in found[::2]] == [figure.metric for figure in found[1::2]]
    names = {figure.metric for figure in found}
    assert names == {"Frechet distance", "kernel distance", "precision", "recall", "density", "coverage"}
    assert {figure.data for figure in found[::2]} == {"toys: 100 real, 100 generated"}
    assert {figure.data for figure in found[1::2]} == {"toys: 100 real, 100 training items"}
    assert len({(figure.metric, figure.kind, figure.data) for figure in found}) == len(found)
    values = {figure.metric: (figure.value, other.value) for figure, other in zip(found[::2], found[1::2], strict=True)}
    assert values["Frechet distance"][0] > 5 > 0.5 > values["Frechet distance"][1]
    assert values["coverage"][0] < 0.1 and values["coverage"][1] > 0.9


def test_a_network_sees_batches():
    sizes = []
    network = FeatureNetwork("sizes", lambda x: sizes.append(len(x)) or x.half())
    found = network(torch.ones(250, 3))
    assert sizes == [100, 100, 50] and found.shape == (250, 3) and found.dtype == torch.float64


def test_too_few_items_are_warned_of_and_what_cannot_be_compared_is_refused():
    network = FeatureNetwork("all", lambda x: x)
    with pytest.warns(UserWarning, match="8 items are too few for the covariance of 20 features"):
        measure(normal(8, 20), normal(8, 20), normal(8, 20), network, "toys")
    with pytest.raises(ValueError, match=r"must be as many and of one shape, got \[8, 2\], \[9, 2\], \[8, 2\]"):
        measure(normal(8), normal(9), normal(8), network, "toys")
    with pytest.raises(ValueError, match=r"got \[8, 2\] and \[8, 3\]"):
        frechet_distance(normal(8), normal(8, 3))
    with pytest.raises(ValueError, match="5 neighbours need more items than that, got 5 and 9"):
        coverage(normal(5), normal(9))
    x = normal(100)
    broken = x.clone()
    broken[:3, 1] = math.nan
    for distance in (frechet_distance, kernel_distance, coverage):
        with pytest.raises(ValueError, match="3 of 100 feature vectors of the second set hold NaN or infinite values"):
            distance(x, broken)
        with pytest.raises(ValueError, match="3 of 100 feature vectors of the first set hold NaN"):
            distance(broken, x)
    network = FeatureNetwork("all", lambda x: x)
    for sets, which in (((x, broken, x), "generated"), ((x, x, broken), "training")):
        with pytest.raises(ValueError, match=f"3 of 100 {which} items hold NaN"):
            measure(*sets, network, "toys")
    overflowing = FeatureNetwork("logarithms", lambda x: (x - x[0]).abs().log())
    with pytest.raises(ValueError, match="1 of 100 feature vectors of the first set hold NaN or infinite values"):
        measure(x, x, x, overflowing, "toys")


def test_inception_takes_bytes_of_three_colours(monkeypatch):
    """The network itself is downloaded; here stands what it is given."""
    seen = []

    class Network(torch.nn.Module):
        def __init__(self, name, wanted, feature_extractor_weights_path):
            super().__init__()
            seen.append((name, wanted, feature_extractor_weights_path))

        def forward(self, x):
            seen.append(x)
            return x.flatten(1).double()

    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", Network)
    network = features.inception("weights.pth")
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0]).reshape(1, 1, 2, 2)
    network(x)
    assert seen[0] == ("inception-v3-compat", ["2048"], "weights.pth")
    assert seen[1].dtype == torch.uint8 and seen[1].shape == (1, 3, 2, 2)
    assert seen[1][0, 2].flatten().tolist() == [0, 128, 255, 255]
    assert "Inception" in network.name
    with pytest.raises(ValueError, match=r"Inception takes images, .* got \[1, 2\]"):
        network(x[0, 0, :1])


def test_inception_without_its_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("torchmetrics.image.fid._TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(ValueError, match=r"needs the package torch-fidelity: pip install latent-zoo\[inception\]"):
        features.inception()
