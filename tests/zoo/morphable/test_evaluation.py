"""The measures of shape models: on data of a known rank, and against fitting every model anew."""

import math

import pytest
import torch

from modalities import MediaError
from modalities.meshes import Meshes
from tests import toys
from zoo.morphable import evaluation as shape
from zoo.morphable.model import MorphableModel
from zoo.morphable.modes import Axes

RANK, NOISE = 4, 0.1
SHEET, FACES = toys.grid(6, 8, spacing=10.0)
MEDIUM = Meshes(len(SHEET)).on(FACES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def meshes():
    """Sixty training meshes and forty others: four modes of 4, 3, 2 and 1 mm at a vertex, and noise of 0.1 mm."""
    basis = torch.linalg.qr(torch.randn(3 * len(SHEET), RANK, generator=generator()))[0].T
    size = torch.tensor([4.0, 3.0, 2.0, 1.0]) * math.sqrt(len(SHEET))
    z = torch.randn(100, RANK, generator=generator(1))
    x = SHEET + ((z * size) @ basis).unflatten(1, (-1, 3))
    x = x + NOISE * torch.randn(x.shape, generator=generator(2))
    return x[:60], x[60:]


@pytest.fixture(scope="module")
def model(meshes):
    return MorphableModel.fit(meshes[0], MEDIUM, shape=10)


def test_vertex_distance_is_the_mean_euclidean_one():
    x = torch.zeros(2, 3, 6)
    y = torch.zeros(2, 3, 6)
    y[0, 0, :3] = torch.tensor([3.0, 4.0, 0.0])
    y[:, :, 3:] = 1.0  # colours do not count
    assert torch.allclose(shape.vertex_distance(x, y), torch.tensor([5 / 3, 0.0]))


def test_compactness_is_the_share_of_variance_and_reaches_one(model, meshes):
    curve = shape.compactness(model, range(1, 11))
    values = torch.linalg.svdvals((meshes[0] - meshes[0].mean(0)).flatten(1).double()).square()
    assert torch.allclose(curve, values.cumsum(0)[:10] / values.sum(), atol=1e-4)
    assert curve[RANK - 2] < 0.99 < curve[RANK - 1] < 1
    whole = MorphableModel.fit(meshes[0], MEDIUM, shape=59)
    assert shape.compactness(whole)[-1].item() == pytest.approx(1.0, abs=1e-5)


def test_generalization_reaches_the_noise_at_the_true_rank(model, meshes):
    curve = shape.generalization(model, meshes[1], range(1, 11))
    assert (curve.diff() < 0).all() and curve[RANK - 2] > 3 * curve[RANK - 1]
    length = NOISE * math.sqrt(8 / math.pi)  # the mean length of noise in three dimensions
    assert curve[RANK - 1].item() == pytest.approx(length, rel=0.06)
    by_hand = [shape.vertex_distance(project(model, meshes[1], k), meshes[1]).mean().item() for k in (1, 4, 10)]
    assert shape.generalization(model, meshes[1], [1, 4, 10]).tolist() == pytest.approx(by_hand, rel=1e-4)


def project(model, x, k):
    basis = model.shape_basis[:k]
    return model.mean + (((x - model.mean).flatten(1) @ basis.T) @ basis).unflatten(1, (-1, 3))


def test_leaving_one_out_equals_a_fit_to_the_others(meshes):
    x, numbers = meshes[0][:9] + 1000.0, [1, 2, 5, 7]
    total = torch.zeros(len(numbers), dtype=torch.float64)
    for left_out in range(9):
        others = torch.arange(9) != left_out
        fitted = MorphableModel.fit(x[others].double(), MEDIUM, shape=7)
        total += shape.generalization(fitted, x[left_out : left_out + 1].double(), numbers) / 9
    assert torch.allclose(shape.leave_one_out(x, numbers), total, rtol=1e-3)
    assert shape.leave_one_out(x).shape == (4,)  # 1, 2, 4 and 7 modes


def test_leaving_out_a_copy_leaves_nothing_to_explain(meshes):
    x = torch.cat([meshes[0][:5], meshes[0][:5]])
    assert shape.leave_one_out(x, [8]).item() < 1e-2


def test_specificity_rises_and_equals_the_nearest_of_all_distances(model, meshes):
    curve = shape.specificity(model, meshes[0], range(1, 7), samples=200, generator=generator())
    assert (curve[:RANK].diff() > 0.02).all()
    drawn = torch.randn(200, 6, generator=generator())
    z = torch.cat([drawn[:, :2], torch.zeros(200, 8)], 1)
    x = model.decode(z).mean
    distances = shape.vertex_distance(x[:, None], meshes[0][None])
    assert curve[1].item() == pytest.approx(distances.min(1).values.mean().item(), rel=1e-4)


def test_a_model_of_copies_is_specific():
    x = SHEET + torch.tensor([-1.0, 1.0])[:, None, None]
    step = torch.ones(1, 3 * len(SHEET)) / math.sqrt(3 * len(SHEET))
    model = MorphableModel.assemble(MEDIUM, SHEET, Axes(step, torch.tensor([1e-12])))
    assert shape.specificity(model, x, samples=5).item() == pytest.approx(math.sqrt(3), abs=1e-3)


def test_small_blocks_change_nothing(model, meshes, monkeypatch):
    def all_of_it():
        found = shape.measure(model, *meshes, samples=20, generator=generator())
        return torch.stack(
            [found.compactness, found.generalization, found.specificity, shape.leave_one_out(meshes[0], found.modes)]
        )

    whole = all_of_it()
    monkeypatch.setattr(shape, "BLOCK", 200)
    assert torch.allclose(all_of_it(), whole, rtol=1e-5)


def test_the_curves_together(model, meshes):
    found = shape.measure(model, *meshes, samples=50, generator=generator())
    assert found.modes == [1, 2, 4, 8, 10]
    assert torch.equal(found.generalization, shape.generalization(model, meshes[1], found.modes))
    alone = shape.measure(model, meshes[0], modes=[2, 4], samples=50, generator=generator())
    assert torch.equal(alone.generalization, shape.leave_one_out(meshes[0], [2, 4]))
    assert found.show().size[0] > 600


def test_what_does_not_fit_is_refused(model, meshes):
    for wrong in ([], [0, 1], [2, 1], [11]):
        with pytest.raises(ValueError, match="rising numbers from 1 to 10"):
            shape.generalization(model, meshes[1], wrong)
    with pytest.raises(MediaError, match="shape"):
        shape.specificity(model, meshes[0][:, 1:])
    with pytest.raises(MediaError, match="at least 3 meshes"):
        shape.leave_one_out(meshes[0][:2])
    with pytest.raises(MediaError, match="NaN"):
        shape.leave_one_out(meshes[0] * torch.nan)
    with pytest.raises(ValueError, match="are equal"):
        shape.leave_one_out(meshes[0][:1].expand(4, -1, -1))
    with pytest.raises(ValueError, match="samples"):
        shape.specificity(model, meshes[0], samples=0)


def test_the_error_of_a_reconstruction_is_of_shape_alone(meshes, model):
    x = meshes[1]
    error = shape.reconstruction_error(model, x)
    torch.testing.assert_close(error, shape.vertex_distance(x, model.reconstruct(x)))
    assert NOISE < error.mean() < 2.5 * NOISE
    grey = torch.cat([model.mean, torch.full_like(SHEET, 0.5)], 1)
    painted = model.with_parts(medium=Meshes(len(SHEET), colours=True).on(FACES), mean=grey)
    torch.testing.assert_close(shape.reconstruction_error(painted, x), error, atol=1e-4, rtol=0)
