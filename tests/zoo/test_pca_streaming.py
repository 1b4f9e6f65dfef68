"""PCA of streams: every kind of source, fits that were killed, several processes, data that come once."""

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from modalities import MediaError
from modalities.images import Images
from tests.zoo.test_pca import Listed, SixNumbers, data, images
from zoo.checkpoint import CheckpointError
from zoo.linear import incremental
from zoo.linear.passes import ScatterProduct as Image
from zoo.linear.pca import PCA, ProbabilisticPCA
from zoo.linear.principal import choose
from zoo.linear.principal import principal_axes as fit_axes
from zoo.linear.stream import RowReader as Rows

SMALL = {}
def principal_axes(*a, **k):
    return fit_axes(*a, **(SMALL | k))

ROOT = Path(__file__).resolve().parents[2]


class Stream(IterableDataset):
    """Batches of uneven size, labels beside them, in memory that the next one overwrites; `kill` stops it there."""

    def __init__(self, x, kill=None):
        self.x, self.kill, self.read, self.visits = x, kill, 0, 0

    def __iter__(self):
        self.visits += 1
        memory, start, size = torch.empty_like(self.x), 0, 1
        while start < len(self.x):
            batch = self.x[start : start + size]
            self.read += len(batch)
            if self.kill is not None and self.read > self.kill:
                raise KeyboardInterrupt
            memory[: len(batch)] = batch
            yield memory[: len(batch)], torch.zeros(len(batch))
            start, size = start + size, size % 50 + 13


@pytest.fixture
def streamed(monkeypatch):
    """Nothing is held, and blocks are small."""
    SMALL.update(block=256, held=0)
    yield
    SMALL.clear()


def angle(a, b):
    """The sine of the largest angle between two subspaces."""
    a, b = a.double(), b.double()
    return torch.linalg.matrix_norm(b.T - a.T @ (a @ b.T), 2).item()


def sources(x, folder):
    np.save(folder / "x.npy", x.numpy())
    return {
        "tensor": x,
        "array": x.numpy(),
        "memory map": np.load(folder / "x.npy", mmap_mode="r"),
        "data set": Listed(x),
        "stream": Stream(x),
        "loader": DataLoader(Listed(x), batch_size=7),
        "list of items": list(x),
        "function": lambda: (row for row in x),
        "function of arrays": lambda: iter([x[:70].numpy(), x[70:71].numpy(), x[71:].numpy()]),
    }


@pytest.mark.parametrize("solver", ["auto", "covariance", "randomized"])
def test_every_source_gives_the_same_axes(solver, streamed, tmp_path):
    x = data(150, 24, decay=2.0).float().unflatten(1, (2, 3, 4))
    expected = principal_axes(x, (2, 3, 4), 5, "svd")
    for name, source in sources(x, tmp_path).items():
        axes = principal_axes(source, (2, 3, 4), 5, solver)
        assert axes.count == 150 and axes.basis.dtype == torch.float32, name
        assert axes.total == pytest.approx(expected.total, rel=1e-5), name
        assert torch.allclose(axes.mean, expected.mean, atol=1e-5), name
        assert torch.allclose(axes.variance, expected.variance, rtol=1e-3), name
        assert angle(axes.basis[:3], expected.basis[:3]) < 1e-2, name


def test_a_short_stream_is_held_and_read_once(monkeypatch):
    x = data(40, 600).float()
    for solver in ("auto", "gram", "randomized"):
        stream = Stream(x)
        axes = principal_axes(stream, (600,), 5, solver)
        assert stream.visits == 1
        assert torch.allclose(axes.variance, principal_axes(x, (600,), 5, "svd").variance, rtol=1e-3)
    assert len(principal_axes(Stream(x), (600,), 0.9).basis) == len(principal_axes(x, (600,), 0.9).basis)
    SMALL.update(block=1200)
    axes = principal_axes(Stream(x), (600,), 5, "gram")  # every batch is written over the one before
    assert torch.allclose(axes.variance, principal_axes(x, (600,), 5, "svd").variance, rtol=1e-3)
    SMALL.update(held=4*600*39)
    stream = Stream(x)
    axes = principal_axes(stream, (600,), 5, "randomized")  # one item too many; those read in vain are not read again
    assert stream.visits >= 2 and stream.read == 40 * stream.visits and axes.count == 40
    assert torch.allclose(axes.variance, principal_axes(x, (600,), 5, "svd").variance, rtol=0.02)


def test_an_iterator_is_visited_once(streamed, monkeypatch):
    x = data(300, 20)
    axes = principal_axes(iter(x), (20,), 3)
    assert angle(axes.basis, principal_axes(x, (20,), 3, "svd").basis) < 1e-6
    with pytest.raises(ValueError, match="a generator can be visited once.*function.*partial_fit"):
        principal_axes((row for row in x), (20,), 3, "randomized")
    with pytest.raises(ValueError, match="components reach a fraction.*covariance, which needs 0.2 GB"):
        principal_axes(iter(torch.zeros(3, 5000)), (5000,), 0.5)
    SMALL.clear()
    axes = principal_axes((row for row in x), (20,), 3, "randomized")
    assert axes.count == 300


def test_a_stream_of_unknown_length_takes_a_covariance_only_where_it_is_narrow():
    assert choose(10**9, 784, 64, False) == "covariance"
    assert choose(10**9, 4096, 512, False) == "covariance"
    assert choose(10**9, 12_288, 2000, False) == "randomized"
    assert choose(50_000, 12_288, 128, False) == "randomized"


@pytest.mark.parametrize("later", [100, 149, 151])
def test_a_stream_that_ends_elsewhere_in_a_later_pass_is_an_error(later, streamed):
    x = data(160, 30).float()
    lengths = iter([150, later, later, later])
    with pytest.raises(MediaError, match=f"gave {later} items in pass 2, but 150 in the first"):
        principal_axes(lambda: iter(x[: next(lengths)]), (30,), 3, "randomized")
    once = iter(x)
    with pytest.raises(MediaError, match="gave 0 items in pass 2, but 160"):
        principal_axes(lambda: once, (30,), 3, "randomized")


def test_bad_streams_are_refused(streamed, monkeypatch):
    x = data(60, 8).float()
    broken = x.clone()
    broken[50, 3] = math.nan
    for solver in ("covariance", "randomized"):
        with pytest.raises(MediaError, match="NaN or infinite"):
            principal_axes(Stream(broken), (8,), 2, solver)
        with pytest.raises(ValueError, match="60 items of 8 dimensions have 1 to 8 components, got 9"):
            principal_axes(Stream(x), (8,), 9, solver)
        with pytest.raises(ValueError, match="6 items of 8 dimensions have 1 to 5 components, got 6"):
            principal_axes(Stream(x[:6]), (8,), 6, solver)
        for few in (0, 1):
            with pytest.raises(ValueError, match=f"at least 2 items, got {few}"):
                principal_axes(Stream(x[:few]), (8,), 1, solver)
        with pytest.raises(ValueError, match="all 60 items are equal"):
            principal_axes(Stream(x[:1].expand(60, -1)), (8,), 1, solver)
    visits = iter([x, broken])
    SMALL.update(oversampling=2)  # or the first pass would tell all
    with pytest.raises(MediaError, match="NaN or infinite"):
        principal_axes(lambda: [next(visits)], (8,), 2, "randomized")
    with pytest.raises(MediaError, match=r"shape \[n, 9\]"):
        principal_axes(Stream(x), (9,), 2)
    with pytest.raises(MediaError, match="floating-point"):
        principal_axes(Stream(x.long()), (8,), 2)


def test_constant_columns_get_no_weight(streamed):
    x = data(90, 12).float()
    x[:, [2, 7]] = 5.0
    for solver in ("covariance", "randomized"):
        axes = principal_axes(Stream(x), (12,), 4, solver)
        assert axes.basis[:, [2, 7]].abs().max() < 1e-6
        assert torch.allclose(axes.mean[[2, 7]], torch.tensor(5.0))


def test_more_components_than_the_rank_are_orthonormal_and_without_variance(streamed):
    x = (data(80, 3, offset=0.0) @ torch.randn(3, 40, generator=torch.Generator().manual_seed(0)).double()).float()
    for solver in ("covariance", "randomized"):
        stream = Stream(x)
        axes = principal_axes(stream, (40,), 6, solver)
        assert stream.visits < 4  # there is nothing more to find
        assert torch.allclose(axes.basis @ axes.basis.T, torch.eye(6), atol=1e-5)
        assert axes.variance[:3].sum().item() == pytest.approx(axes.total, rel=1e-5)
        assert (axes.variance[3:] < 1e-6 * axes.total).all()


@pytest.mark.parametrize("restarts", [False, True])
def test_the_randomized_route_comes_near_the_least_error(restarts, streamed, monkeypatch):
    if restarts:
        SMALL.update(restart=2)
        SMALL.update(oversampling=2)
    x = data(400, 300, decay=0.5).float()
    axes = principal_axes(Stream(x), (300,), 12, "randomized")
    exact = principal_axes(x, (300,), 12, "svd")
    assert axes.total - axes.variance.sum().item() < 1.003 * (exact.total - exact.variance.sum().item())
    assert torch.allclose(axes.basis @ axes.basis.T, torch.eye(12), atol=1e-5)


def test_a_few_components_of_many_dimensions_are_not_given_up_after_the_first_pass(monkeypatch):
    # Random directions catch next to nothing of 20,000 dimensions; that this is no gain must not end the fit.
    SMALL.update(held=0)
    x = data(60, 20_000, decay=2.0).float()
    axes = principal_axes(Stream(x), (20_000,), 2, "randomized")
    assert axes.variance.sum().item() > 0.99 * principal_axes(x, (20_000,), 2, "gram").variance.sum().item()


def test_sums_over_many_items_are_double():
    directions = torch.tensor([[0.3], [0.7]])
    image = Image(directions)
    rows = torch.full((4, 2), 0.1)
    for _ in range(10_000):
        image.add(rows)
    expected = 40_000 * rows[0].double() * (rows[0].double() @ directions.double())
    assert torch.allclose(image.total[0], expected, rtol=2e-7)


def test_what_is_read_at_once_is_bounded(monkeypatch, tmp_path):
    pass
    x = torch.randn(40, 100)
    for source in sources(x, tmp_path).values():
        if not isinstance(source, (torch.Tensor, np.ndarray)) or isinstance(source, np.memmap):
            assert max(len(block) for block in Rows(source, (100,), 0, 175)) <= 7


def test_the_plan_is_logged_and_the_progress_shown(caplog, capsys, streamed):
    x = data(700, 30).float()
    with caplog.at_level(logging.INFO, "zoo"):
        principal_axes(Listed(x), (30,), 3, "randomized")
        principal_axes(Stream(x), (30,), 3)
    assert [record.getMessage() for record in caplog.records] == [
        "PCA of 700 items of 30 numbers, components 3: randomized, about 5 passes over 8.4e-05 GB, streamed",
        "PCA of an unknown number of items of 30 numbers, components 3: covariance, 1 pass, streamed",
    ]
    shown = capsys.readouterr()
    assert "about 5 passes" in shown.err and "700/700 items" in shown.err and not shown.out


@pytest.mark.parametrize("solver", ["covariance", "randomized"])
def test_a_killed_fit_goes_on_after_its_last_finished_pass(solver, streamed, tmp_path):
    x = data(200, 60, decay=0.5).float()
    whole = Stream(x)
    expected = principal_axes(whole, (60,), 5, solver)
    ends = [50, 250, 450, 200 * whole.visits - 1] if solver == "randomized" else [150]
    assert ends[-1] < 200 * whole.visits
    for kill in ends:
        folder = tmp_path / str(kill)
        with pytest.raises(KeyboardInterrupt):
            principal_axes(Stream(x, kill), (60,), 5, solver, checkpoint=folder)
        again = Stream(x)
        axes = principal_axes(again, (60,), 5, solver, checkpoint=folder)
        assert again.read == 200 * (whole.visits - kill // 200)
        for name in ("mean", "basis", "variance"):
            assert torch.equal(getattr(axes, name), getattr(expected, name))
        assert axes.total == expected.total and axes.count == 200
        done = Stream(x)
        assert torch.equal(principal_axes(done, (60,), 5, solver, checkpoint=folder).basis, expected.basis)
        assert done.read < 100  # the first items, to know the data by
        assert len(list(folder.iterdir())) == 1


def test_a_checkpoint_of_another_fit_is_refused(streamed, tmp_path):
    x = data(200, 60).float()
    principal_axes(Stream(x), (60,), 5, "randomized", checkpoint=tmp_path)
    for changes, message in (
        ({"components": 6}, "components was 5, is 6"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"solver": "covariance"}, "solver was randomized, is covariance"),
    ):
        arguments = {"components": 5, "solver": "randomized", "seed": 0} | changes
        with pytest.raises(CheckpointError, match=message):
            principal_axes(Stream(x), (60,), checkpoint=tmp_path, **arguments)
    with pytest.raises(CheckpointError, match="hash of the first items was"):
        principal_axes(Stream(x + 1), (60,), 5, "randomized", checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="items was None, is 201"):
        principal_axes(Listed(torch.cat([x, x[:1]])), (60,), 5, "randomized", checkpoint=tmp_path)
    [state] = tmp_path.glob("fit.safetensors")
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="no readable state"):
        principal_axes(Stream(x), (60,), 5, "randomized", checkpoint=tmp_path)


def test_a_resumed_stream_of_another_length_is_an_error(streamed, tmp_path):
    x = data(200, 60, decay=0.5).float()
    with pytest.raises(KeyboardInterrupt):
        principal_axes(Stream(x, 300), (60,), 5, "randomized", checkpoint=tmp_path)
    with pytest.raises(MediaError, match="gave 190 items in pass 2, but 200"):
        principal_axes(Stream(x[:190]), (60,), 5, "randomized", checkpoint=tmp_path)


WORKER = """
import sys, torch
from safetensors.torch import save_file
from tests.zoo.test_pca_streaming import shares
from zoo.linear.principal import principal_axes
rank = int(sys.argv[2])
torch.distributed.init_process_group("gloo", f"file://{sys.argv[1]}/meeting", rank=rank, world_size=2)
found = {}
for name, (parts, components, solver) in shares().items():
    folder = sys.argv[1] + "/" + name
    for _ in range(2):  # the second reads the checkpoint
        axes = principal_axes(parts[rank], (50,), components, solver, checkpoint=folder)
    found |= {f"{name}/{part}": getattr(axes, part) for part in ("mean", "basis", "variance")}
    found |= {f"{name}/total": torch.tensor([axes.total, axes.count], dtype=torch.float64)}
bad = torch.ones(3, 50)
bad[1] = float("nan")
messages = []
for solver in ("covariance", "randomized"):
    try:
        principal_axes(lambda: iter(bad[: 1 + rank]), (50,), 2, solver)
    except (ValueError, RuntimeError) as error:
        messages.append(str(error))
open(f"{sys.argv[1]}/{rank}.txt", "w").write("|".join(messages))
save_file({k: v.contiguous() for k, v in found.items()}, f"{sys.argv[1]}/{rank}.safetensors")
torch.distributed.destroy_process_group()
"""


def shares():
    """The shares of two processes, components and solver."""
    exact = (
        data(300, 4, decay=0.5, offset=0.0) @ torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).double()
    )
    single, double = (exact + 2).float(), data(300, 50, decay=0.5)
    return {
        "even": ((double[:150], double[150:]), 6, "randomized"),
        "uneven": ((Stream(double[:37]), Stream(double[37:])), 6, "randomized"),
        "none": ((iter(()), double), 6, "covariance"),
        "none randomized": ((list(double), double[:0]), 6, "randomized"),
        "fraction": ((double[:290], double[290:]), 0.8, "auto"),
        "single": ((single[:100], single[100:]), 4, "randomized"),
        "single covariance": ((single[:100], single[100:]), 4, "covariance"),
    }


def rows_of(part):
    rows = part.x if isinstance(part, Stream) else part
    return (
        rows if isinstance(rows, torch.Tensor) else torch.stack([*rows]) if isinstance(rows, list) else torch.empty(0)
    )


def test_two_processes_find_what_one_finds(tmp_path, streamed):
    from safetensors.torch import load_file

    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), str(rank)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, (parts, components, solver) in shares().items():
        rows = torch.cat([rows_of(part) for part in parts])
        streams = not all(isinstance(part, torch.Tensor) for part in parts)
        axes = principal_axes(Listed(rows) if streams else rows, (50,), components, solver)
        assert first[f"{name}/basis"].dtype == rows.dtype
        assert angle(axes.basis, first[f"{name}/basis"]) < (1e-6 if rows.dtype == torch.float32 else 1e-8), name
        assert torch.allclose(axes.variance, first[f"{name}/variance"], rtol=1e-5), name
        assert torch.allclose(axes.mean, first[f"{name}/mean"], rtol=1e-6), name
        assert first[f"{name}/total"].tolist() == pytest.approx([axes.total, axes.count], rel=1e-6), name
    for rank, message in enumerate(("another process has failed", "NaN or infinite")):
        assert (tmp_path / f"{rank}.txt").read_text().count(message) == 2


def test_batches_that_come_once_give_the_model_of_all():
    x = images(61)
    expected = PCA.fit(x, Images(3, 4, 4), components=8)
    for sizes in ([61], [1, 5, 3, 30, 22], [2] * 30 + [1]):
        model = PCA(Images(3, 4, 4), components=8)
        for batch in x.split(sizes):
            assert model.partial_fit(batch) is model
            assert model.count == 0 or model.count > 8
        assert model.count == 61
        for name in ("mean", "basis", "variance", "total"):
            assert torch.allclose(getattr(model, name), getattr(expected, name), atol=2e-4, rtol=1e-4), name
    probabilistic = ProbabilisticPCA(Images(3, 4, 4), components=8)
    for batch in x.split(20):
        probabilistic.partial_fit(batch)
    expected = ProbabilisticPCA.fit(x, Images(3, 4, 4), components=8)
    assert torch.allclose(probabilistic.log_prob(x), expected.log_prob(x), rtol=1e-4)


def test_many_dimensions_are_merged_approximately(monkeypatch):
    monkeypatch.setattr(incremental, "EXACT", 0)
    x = data(200, 96, decay=0.5, offset=1.0).float()
    exact = principal_axes(x, (96,), 5, "svd")
    flat = (
        data(200, 12, offset=0.0) @ torch.randn(12, 96, generator=torch.Generator().manual_seed(1)).double()
    ).float()
    medium = Images(3, 8, 4)
    for sizes in ([200], [20] * 10, [3, 4, 93, 50, 49, 1]):
        model = PCA(medium, components=5)
        for batch in x.split(sizes):
            model.partial_fit(batch.unflatten(1, medium.shape))
        assert torch.allclose(model.mean.flatten(), exact.mean, atol=1e-5)
        assert model.total.item() == pytest.approx(exact.total, rel=1e-5) and model.count == 200
        assert torch.allclose(model.basis @ model.basis.T, torch.eye(5), atol=1e-5)
        centred = x - x.mean(0)
        left = (centred - centred @ model.basis.T @ model.basis).square().sum().item() / 199
        assert left < 1.02 * (exact.total - exact.variance.sum().item())
        # A rank below the directions that are kept loses nothing, so the shift of the mean is counted right.
        model = PCA(medium, components=5)
        for batch in (flat + torch.arange(200)[:, None] * 0.01).split(sizes):
            model.partial_fit(batch.unflatten(1, medium.shape))
        shifted = principal_axes(flat + torch.arange(200)[:, None] * 0.01, (96,), 5, "svd")
        assert torch.allclose(model.variance, shifted.variance, rtol=1e-3)
        assert angle(model.basis, shifted.basis) < 1e-3


@pytest.mark.parametrize("kind", [PCA, ProbabilisticPCA])
def test_a_loaded_model_goes_on_from_what_it_knows(kind, tmp_path):
    x = data(400, 48, decay=3.0, offset=1.0).float().unflatten(1, (3, 4, 4))
    kind.fit(x[:300], Images(3, 4, 4), components=2).save_pretrained(tmp_path)
    model = kind.from_pretrained(tmp_path).partial_fit(x[300:])
    exact = kind.fit(x, Images(3, 4, 4), components=2)
    assert model.count == 400
    assert torch.allclose(model.mean, exact.mean, atol=1e-5)
    assert torch.allclose(model.variance, exact.variance, rtol=0.01)
    assert model.axes().total == pytest.approx(principal_axes(x, (3, 4, 4), 2).total, rel=1e-3)


def test_bad_batches_leave_the_model_as_it_was():
    model = PCA(SixNumbers(), components=2).partial_fit(data(20, 6).float())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bad = data(9, 6).float()
    bad[3, 1] = math.nan
    with pytest.raises(MediaError, match="NaN"):
        model.partial_fit(bad)
    with pytest.raises(MediaError, match="shape"):
        model.partial_fit(torch.zeros(3, 7))
    model.partial_fit(data(20, 6)[:0].float())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    equal = PCA(SixNumbers(), components=2).partial_fit(torch.ones(9, 6))
    assert equal.count == 0


def test_fit_takes_streams_checkpoints_and_progress(streamed, tmp_path, capsys):
    x = images()
    model = PCA.fit(Stream(x), Images(3, 4, 4), components=4, checkpoint=tmp_path / "fit")
    again = ProbabilisticPCA.fit(Stream(x), Images(3, 4, 4), components=4, checkpoint=tmp_path / "fit")
    assert torch.equal(model.basis, again.basis) and "items" in capsys.readouterr().err
    state = json.loads(next(tmp_path.glob("fit/fit-*/state.json")).read_text())
    assert state["count"] == 60 and state["done"]
