"""Principal axes by every solver, against their definition and scikit-learn: in memory, streamed, shared, resumed."""

import functools
import logging
import math
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from modalities import MediaError
from modalities.data import Arrays
from tests.processes import in_processes
from tests.zoo.linear.data import STREAMED, Listed, Stream, angle, is_orthonormal, low_rank, spectrum, squared_error
from zoo.checkpoint import CheckpointError
from zoo.linear.principal import choose, principal_axes
from zoo.linear.stream import RowReader

EXACT = ("svd", "covariance", "gram")
SOLVERS = (*EXACT, "randomized")
STREAMING = ("covariance", "randomized")


def fit(x, components, solver="auto", seed=0, **arguments):
    return principal_axes(x, tuple(x.shape[1:]), components, solver, seed, **arguments)


@pytest.mark.parametrize("shape", [(90, 20), (20, 90), (40, 40)], ids=["tall", "wide", "square"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_agree_with_the_definition(shape, solver):
    x, k = spectrum(*shape), 6
    axes = fit(x, k, solver, block=64)  # many blocks, so that their merging counts
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    assert torch.allclose(axes.mean, x.mean(0), rtol=0, atol=1e-12)
    assert is_orthonormal(axes.basis, 1e-10)
    assert axes.total == pytest.approx(values.sum().item(), rel=1e-10) and axes.count == len(x)
    assert squared_error(x, axes) == pytest.approx(axes.total - axes.variance.sum().item(), rel=1e-8)
    if solver != "randomized":
        assert angle(axes.basis, vectors[:, -k:].T) < 1e-6
        assert torch.allclose(axes.variance, values[-k:].flip(0), rtol=1e-10, atol=0)
    else:
        assert squared_error(x, axes) < values[:-k].sum() * 1.003


@pytest.mark.parametrize("solver", ["auto", *SOLVERS])
@pytest.mark.parametrize("shape", [(200, 30), (30, 200)])
def test_axes_are_those_of_scikit_learn_signs_included(solver, shape):
    from sklearn.decomposition import PCA

    x = spectrum(*shape, decay=2.0).float()
    peer = PCA(4, svd_solver="full").fit(x.double().numpy())
    axes = fit(x, 4, solver)
    np.testing.assert_allclose(axes.basis.numpy(), peer.components_, atol=2e-4)
    np.testing.assert_allclose(axes.variance.numpy(), peer.explained_variance_, rtol=1e-4)
    np.testing.assert_allclose(axes.mean.numpy(), peer.mean_, rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_mean_far_from_zero_costs_no_digits(solver):
    for offset in (1e4, 1e6):
        x = (spectrum(300, 25, offset=0.0) + offset).float()
        exact, found = fit(x.double(), 3, "svd"), fit(x, 3, solver, block=1600)
        assert torch.equal(found.mean, exact.mean.float())
        assert torch.allclose(found.variance.double(), exact.variance, rtol=2e-6)
        assert found.total == pytest.approx(exact.total, rel=1e-6)
    # Numbers that differ by no more than the spacing of single precision there, 1/16, are not equal.
    x = 1e6 + (torch.rand(300, 25, generator=torch.Generator().manual_seed(0)) < 0.5) / 16
    variance = fit(x.double(), 3, "svd").variance
    assert torch.allclose(fit(x, 3, solver).variance.double(), variance, rtol=1e-2 if solver == "randomized" else 2e-6)


@pytest.mark.parametrize("decay", [1.0, None], ids=["1/i", "2^-i"])
def test_the_randomized_solver_keeps_the_bound_of_halko_martinsson_tropp(decay):
    n, d, k = 200, 150, 10
    x = spectrum(n, d, decay=decay or 0.0, offset=0.0)
    if decay is None:
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        x = u * 2.0 ** -torch.arange(d) @ v
    optimal = torch.linalg.svdvals(x - x.mean(0))[k:].square().sum().sqrt()
    error = math.sqrt(squared_error(x, fit(x, k, "randomized")) * (n - 1))
    assert error <= math.sqrt(1 + k / (16 - k - 1)) * optimal
    assert error <= 1.003 * optimal


@pytest.mark.parametrize("restart", [6, 2])
def test_the_randomized_solver_comes_near_the_least_error(restart):
    x, oversampling = spectrum(400, 300, decay=0.5).float(), 16 if restart == 6 else 2
    axes, again, other = (
        fit(x, 12, "randomized", seed, block=256, restart=restart, oversampling=oversampling) for seed in (1, 1, 2)
    )
    assert squared_error(x, axes) < 1.003 * squared_error(x, fit(x, 12, "svd")) and is_orthonormal(axes.basis)
    assert torch.equal(axes.basis, again.basis) and not torch.equal(axes.basis, other.basis)


def test_a_few_components_of_many_dimensions_are_not_given_up_after_the_first_pass():
    # Random directions catch next to nothing of 20,000 dimensions; that this is no gain must not end the fit.
    x = spectrum(60, 20_000, decay=2.0).float()
    axes = principal_axes(Stream(x), (20_000,), 2, "randomized", held=0)
    assert axes.variance.sum().item() > 0.99 * fit(x, 2, "gram").variance.sum().item()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_components_than_the_rank_are_orthonormal_and_without_variance(solver, dtype):
    tolerance = 1e-5 if dtype == torch.float32 else 1e-8
    line = torch.zeros(60, 50, dtype=dtype)
    line[:, 0] = torch.linspace(-1, 1, 60)
    for rank, x in ((1, low_rank(60, 1, 600, dtype)), (3, low_rank(60, 3, 50, dtype)), (1, line)):
        x[:, [2, 7]] = 5.0  # columns that never vary
        stream, found = Stream(x), [fit(x, 8, solver)]
        if solver in STREAMING:
            found.append(principal_axes(stream, x.shape[1:], 8, solver, **STREAMED))
            assert stream.visits < 4  # there is nothing more to find
        for axes in found:
            assert is_orthonormal(axes.basis, tolerance)
            assert axes.variance[:rank].sum().item() == pytest.approx(axes.total, rel=tolerance)
            assert (axes.variance[rank:] < tolerance * axes.total).all()
            assert axes.basis[:rank, [2, 7]].abs().max() < tolerance and (axes.mean[[2, 7]] - 5).abs().max() < tolerance


@pytest.mark.parametrize("solver", STREAMING)
def test_sums_over_many_items_are_double(solver):
    x = torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.1, 0.01]) + 0.3
    axes = fit(x, 1, solver, block=64)
    assert axes.variance.item() == pytest.approx(fit(x.double(), 1, "svd").variance.item(), rel=2e-7)


def test_the_rule_picks_by_cost():
    assert choose(300, 200, 5, True) == "svd"
    assert choose(60_000, 784, 64, True) == "covariance"
    assert choose(1_000, 196_608, 100, True) == choose(1_000, 196_608, None, True) == "gram"
    assert choose(4_000, 12_288, 128, True) == "randomized"
    assert choose(300, 200, 5, False) == "covariance"
    assert choose(1_000, 196_608, 100, False) == choose(50_000, 12_288, 128, False) == "randomized"
    # A stream of unknown length takes a covariance only where it is narrow.
    assert choose(10**9, 784, 64, False) == choose(10**9, 4096, 512, False) == "covariance"
    assert choose(10**9, 12_288, 2000, False) == "randomized"


def test_a_fraction_keeps_the_fewest_components_that_exceed_it():
    from sklearn.decomposition import PCA

    x = spectrum(80, 30)
    for fraction in (0.5, 0.9, 0.9999):
        expected = PCA(fraction, svd_solver="full").fit(x.numpy()).n_components_
        for solver in EXACT:
            assert len(fit(x, fraction, solver).variance) == expected
    with pytest.raises(ValueError, match="give their number"):
        fit(x, 0.9, "randomized")


def sources(x, folder):
    np.save(folder / "x.npy", x.numpy())
    return {
        "tensor": x,
        "array": x.numpy(),
        "memory map": np.load(folder / "x.npy", mmap_mode="r"),
        "data set": Listed(x),
        "labelled data set": Arrays(x, torch.zeros(len(x))),
        "noisy data set": Arrays(x, noise=lambda batch, generator: batch),
        "stream": Stream(x),
        "loader": DataLoader(Listed(x), batch_size=7),
        "list of items": list(x),
        "function": lambda: (row for row in x),
        "function of arrays": lambda: iter([x[:70].numpy(), x[70:71].numpy(), x[71:].numpy()]),
    }


@pytest.mark.parametrize("solver", ["auto", "covariance", "randomized"])
def test_every_source_gives_the_same_axes(solver, tmp_path):
    x = spectrum(150, 24, decay=2.0).float().unflatten(1, (2, 3, 4))
    expected = fit(x, 5, "svd")
    for name, source in sources(x, tmp_path).items():
        axes = principal_axes(source, (2, 3, 4), 5, solver, **STREAMED)
        assert axes.count == 150 and axes.basis.dtype == torch.float32, name
        assert axes.total == pytest.approx(expected.total, rel=1e-5), name
        assert torch.allclose(axes.mean, expected.mean, atol=1e-5), name
        assert torch.allclose(axes.variance, expected.variance, rtol=1e-3), name
        assert angle(axes.basis[:3], expected.basis[:3]) < 1e-2, name


def test_what_is_read_at_once_is_bounded(tmp_path):
    for name, source in sources(torch.randn(140, 100), tmp_path).items():
        most = 64 if name in ("tensor", "array", "labelled data set") else 7
        assert max(len(block) for block in RowReader(source, (100,), block=175)) <= most, name


def test_a_short_stream_is_held_and_read_once():
    x = spectrum(40, 600).float()
    expected = fit(x, 5, "svd").variance
    for solver in ("auto", "gram", "randomized"):
        for block in (2**22, 1200):  # with the smaller, every batch is written over the one before
            stream = Stream(x)
            assert torch.allclose(principal_axes(stream, (600,), 5, solver, block=block).variance, expected, rtol=1e-3)
            assert stream.visits == 1
    assert len(principal_axes(Stream(x), (600,), 0.9).basis) == len(fit(x, 0.9).basis)
    with pytest.raises(ValueError, match="in memory"):
        principal_axes(Stream(x), (600,), 5, "gram", held=0)
    stream = Stream(x)  # one item too many to be held; those read in vain are not read again
    axes = principal_axes(stream, (600,), 5, "randomized", held=4 * 600 * 39, block=1200)
    assert stream.visits >= 2 and stream.read == 40 * stream.visits and axes.count == 40
    assert torch.allclose(axes.variance, expected, rtol=0.02)


def test_an_iterator_is_visited_once():
    x = spectrum(300, 20)
    axes = principal_axes(iter(x), (20,), 3, **STREAMED)
    assert angle(axes.basis, fit(x, 3, "svd").basis) < 1e-6
    with pytest.raises(ValueError, match="a generator can be visited once.*function.*partial_fit"):
        principal_axes((row for row in x), (20,), 3, "randomized", **STREAMED)
    with pytest.raises(ValueError, match="components reach a fraction.*covariance, which needs 0.2 GB"):
        principal_axes(iter(torch.zeros(3, 5000)), (5000,), 0.5, **STREAMED)
    assert principal_axes((row for row in x), (20,), 3, "randomized").count == 300


@pytest.mark.parametrize("solver", SOLVERS)
def test_bad_data_are_refused(solver):
    x = spectrum(20, 5).float()
    nan, infinite = x.clone(), x.clone()
    nan[13, 2], infinite[13, 2] = math.nan, math.inf
    cases = [
        (nan, 2, MediaError, "NaN or infinite"),
        (infinite, 2, MediaError, "NaN or infinite"),
        (x, 6, ValueError, "20 items of 5 dimensions have 1 to 5 components, got 6"),
        (x[:4], 4, ValueError, "4 items of 5 dimensions have 1 to 3 components, got 4"),
        (x[:0], 1, ValueError, "at least 2 items, got 0"),
        (x[:1], 1, ValueError, "at least 2 items, got 1"),
        (x[:1].expand(6, -1), 1, ValueError, "all 6 items are equal"),
        (torch.full((300, 5), 0.1), 1, ValueError, "are equal"),  # though their mean may be rounded
        (x.long(), 2, MediaError, "floating-point"),
        (x[:, :4], 2, MediaError, r"shape \[n, 5\]"),
    ]
    for bad, k, error, message in cases:
        with pytest.raises(error, match=message):
            principal_axes(bad, (5,), k, solver)
        if solver in STREAMING:
            with pytest.raises(error, match=message):
                principal_axes(Stream(bad), (5,), k, solver, **STREAMED)


def test_bad_arguments_are_refused():
    x = spectrum(20, 5)
    with pytest.raises(ValueError, match="solver is"):
        fit(x, 2, "magic")
    for components in (0, -1, 1.5, 0.0):
        with pytest.raises(ValueError, match="components is a whole number"):
            fit(x, components)
    assert len(fit(x, np.int64(2)).basis) == 2


@pytest.mark.parametrize("later", [100, 149, 151])
def test_a_stream_that_ends_elsewhere_in_a_later_pass_is_an_error(later):
    x = spectrum(160, 30).float()
    lengths = iter([150, later, later, later])
    with pytest.raises(MediaError, match=f"gave {later} items in pass 2, but 150 in the first"):
        principal_axes(lambda: iter(x[: next(lengths)]), (30,), 3, "randomized", **STREAMED)
    once = iter(x)
    with pytest.raises(MediaError, match="gave 0 items in pass 2, but 160"):
        principal_axes(lambda: once, (30,), 3, "randomized", **STREAMED)
    broken = x.clone()
    broken[50, 3] = math.nan
    visits = iter([x, broken])
    with pytest.raises(MediaError, match="NaN or infinite"):
        principal_axes(lambda: [next(visits)], (30,), 3, "randomized", **STREAMED)


def test_the_plan_is_logged_and_the_progress_shown(caplog, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    x = spectrum(700, 30).float()
    with caplog.at_level(logging.INFO, "zoo"):
        principal_axes(Listed(x), (30,), 3, "randomized", **STREAMED)
        principal_axes(Stream(x), (30,), 3, **STREAMED)
    assert [record.getMessage() for record in caplog.records] == [
        "PCA of 700 items of 30 numbers: randomized, about 5 passes, streamed",
        "PCA of an unknown number of items of 30 numbers: covariance, 1 pass, streamed",
    ]
    shown = capsys.readouterr()
    assert "pass 2" in shown.err and "700/700" in shown.err and "700/?" in shown.err and not shown.out


@pytest.mark.parametrize("solver", STREAMING)
def test_a_killed_fit_goes_on_after_its_last_finished_pass(solver, tmp_path):
    x = spectrum(200, 60, decay=0.5).float()
    whole = Stream(x)
    expected = principal_axes(whole, (60,), 5, solver, **STREAMED)
    ends = [50, 250, 450, 200 * whole.visits - 1] if solver == "randomized" else [150]
    assert ends[-1] < 200 * whole.visits
    for kill in ends:

        def again(data, folder=tmp_path / str(kill)):
            return principal_axes(data, (60,), 5, solver, checkpoint=folder, **STREAMED)

        with pytest.raises(KeyboardInterrupt):
            again(Stream(x, kill))
        if kill > 200:
            with pytest.raises(MediaError, match=f"gave 190 items in pass {kill // 200 + 1}, but 200"):
                again(Stream(x[:190]))
        stream, done = Stream(x), Stream(x)
        axes = again(stream)
        assert stream.read == 200 * (whole.visits - kill // 200)
        for name in ("mean", "basis", "variance"):
            assert torch.equal(getattr(axes, name), getattr(expected, name))
        assert axes.total == expected.total and axes.count == 200
        assert torch.equal(again(done).basis, expected.basis)
        assert done.read < 100  # the first items, to know the data by
        assert len(list((tmp_path / str(kill)).iterdir())) == 1


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    x = spectrum(200, 60).float()

    def again(data, components=5, solver="randomized", seed=0):
        return principal_axes(data, (60,), components, solver, seed, checkpoint=tmp_path, **STREAMED)

    again(Stream(x))
    for data, changes, message in (
        (Stream(x), {"components": 6}, "components was 5, is 6"),
        (Stream(x), {"seed": 1}, "seed was 0, is 1"),
        (Stream(x), {"solver": "covariance"}, "solver was randomized, is covariance"),
        (Stream(x + 1), {}, "hash of the first items was"),
        (Listed(torch.cat([x, x[:1]])), {}, "items was None, is 201"),
    ):
        with pytest.raises(CheckpointError, match=message):
            again(data, **changes)
    [state] = tmp_path.iterdir()
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="no readable state"):
        again(Stream(x))


def shares():
    """The shares of two processes, components and solver."""
    single, double = (low_rank(300, 4, 50) + 2).float(), spectrum(300, 50, decay=0.5)
    return {
        "even": ((double[:150], double[150:]), 6, "randomized"),
        "uneven": ((Stream(double[:37]), Stream(double[37:])), 6, "randomized"),
        "none": ((iter(()), double), 6, "covariance"),
        "none randomized": ((list(double), double[:0]), 6, "randomized"),
        "fraction": ((double[:290], double[290:]), 0.8, "auto"),
        "single": ((single[:100], single[100:]), 4, "randomized"),
        "single covariance": ((single[:100], single[100:]), 4, "covariance"),
    }


def fit_shares(rank, folder):
    found = {}
    for name, (parts, components, solver) in shares().items():
        for _ in range(2):  # the second reads the checkpoint
            axes = principal_axes(parts[rank], (50,), components, solver, checkpoint=folder / name)
        found |= {f"{name}/{part}": getattr(axes, part) for part in ("mean", "basis", "variance")}
        found |= {f"{name}/total": torch.tensor([axes.total, axes.count], dtype=torch.float64)}
    bad = torch.ones(3, 50)
    bad[1] = math.nan
    for solver in STREAMING:
        message = "NaN or infinite" if rank else "another process has failed"
        with pytest.raises(MediaError if rank else RuntimeError, match=message):
            principal_axes(lambda: iter(bad[: 1 + rank]), (50,), 2, solver)
    return found


def test_two_processes_find_what_one_finds(tmp_path):
    first, second = in_processes(functools.partial(fit_shares, folder=tmp_path), 2, tmp_path)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, (_, components, solver) in shares().items():
        single = name.startswith("single")
        rows = (low_rank(300, 4, 50) + 2).float() if single else spectrum(300, 50, decay=0.5)
        streamed = name in ("uneven", "none", "none randomized")
        axes = principal_axes(Listed(rows) if streamed else rows, (50,), components, solver, **STREAMED)
        assert first[f"{name}/basis"].dtype == rows.dtype
        assert angle(axes.basis, first[f"{name}/basis"]) < (1e-6 if single else 1e-8), name
        assert torch.allclose(axes.variance, first[f"{name}/variance"], rtol=1e-5), name
        assert torch.allclose(axes.mean, first[f"{name}/mean"], rtol=1e-6), name
        assert first[f"{name}/total"].tolist() == pytest.approx([axes.total, axes.count], rel=1e-6), name
