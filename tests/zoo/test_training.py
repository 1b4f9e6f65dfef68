"""The trainer: it learns, resumes exactly, survives kills, and gives the same numbers on two processes."""

import copy
import dataclasses
import json
import math
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

from modalities.data import Arrays
from modalities.images import Images
from modalities.modality import MediaError
from modalities.points import Points
from tests import toys
from tests.zoo import worker
from zoo.model import Explicit
from zoo.training import TrainingConfig, TrainingError, train
from zoo.training.data import order
from zoo.training.trainer import _synchronised
from zoo.variational.nvae import NVAE
from zoo.variational.vae import VAE

ROOT = Path(__file__).parents[2]
TRAINABLE = [name for name in toys.NAMES if name != "ppca"]


def config(**changes):
    base = dict(steps=60, batch_size=16, log_every=1, checkpoint_every=7, sample_every=10**9, warmup_steps=5)
    return TrainingConfig(**(base | changes))


def batch_data(model, n=64):
    x = toys.data_for(model, n)
    return Arrays(x) if model.condition is None else Arrays(x, torch.arange(n) % len(model.condition))


def trained(settings, output=None, **options):
    """A toy, and what came of its training."""
    model = toys.make("vae")
    return model, train(model, batch_data(model), settings, output, **options)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def launch(arguments, processes=1):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [*command, "-m", "tests.zoo.worker", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until_checkpoint(folder):
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.02)


def finish(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[-3000:]


@pytest.mark.parametrize("name", TRAINABLE)
def test_training_lowers_the_loss(name):
    model = toys.make(name)
    data = batch_data(model)
    history = train(model, data, config(steps=300, learning_rate=0.02, log_every=10, ema=0.9)).history
    assert not model.training
    if isinstance(model, Explicit):
        early, late = history[0]["loss"], sum(row["loss"] for row in history[-3:]) / 3
        assert late < early - 0.5
    else:
        assert all(math.isfinite(value) for row in history for value in row.values())


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(name, tmp_path):
    whole, parts = toys.make(name), toys.make(name)
    data = batch_data(whole)
    expected = train(whole, data, config(), tmp_path / "whole").history

    class Interrupted(Exception):
        pass

    class Fragile(Arrays):
        reads = 0

        def take(self, indices):
            Fragile.reads += 1
            if Fragile.reads == 25:
                raise Interrupted
            return super().take(indices)

    with pytest.raises(Interrupted):
        train(parts, Fragile(data.x, data.labels), config(), tmp_path / "parts")
    parts = toys.make(name)
    history = train(parts, data, config(), tmp_path / "parts").history
    assert history == expected
    assert torch.equal(weights(whole), weights(parts))


def test_every_epoch_sees_every_item_once_in_an_order_of_its_own():
    settings = config(steps=4, batch_size=6)
    batches = list(order(12, settings, 0, 0, 1))
    first, second = batches[0] + batches[1], batches[2] + batches[3]
    assert sorted(first) == sorted(second) == list(range(12)) and first != second
    halves = [list(order(12, settings, 1, process, 2)) for process in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == batches[1:]
    assert first != list(order(12, config(steps=4, batch_size=12, seed=1), 0, 0, 1))[0]


def test_the_time_limit_stops_with_a_checkpoint(tmp_path):
    _, run = trained(config(minutes=0.0), tmp_path)
    assert len(run.history) == 1 and (tmp_path / "checkpoint-00000001").is_dir()
    assert len(trained(config(), tmp_path)[1].history) == 60


def test_the_average_is_returned_and_a_finished_run_stays_finished(tmp_path):
    averaged, run = trained(config(ema=0.99), tmp_path)
    last, _ = trained(config(ema=0.0))
    assert not torch.allclose(weights(averaged), weights(last)) and run.seconds > 0
    again, finished = trained(config(ema=0.99), tmp_path)
    assert finished == run._replace(trained=0) and torch.equal(weights(again), weights(averaged))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    model = toys.make("vae")
    x = toys.data_for(model, 200)
    x[37] = math.nan  # not among those that are looked at before
    with pytest.raises(TrainingError, match=r"not finite at step \d+.*(checkpoint-0|no checkpoint)"):
        train(model, x, config(batch_size=8, checkpoint_every=2), tmp_path)
    for path in tmp_path.glob("checkpoint-*/state.safetensors"):
        assert all(torch.isfinite(t).all() for t in load_file(path).values())


class Scripted(torch.nn.Module):
    """A weight whose gradient is told for every step; it remembers where the weight was before each."""

    def __init__(self, gradients, breaks_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.gradients, self.breaks_at, self.before = gradients, breaks_at, []

    def forward(self, batch, *, progress, **others):
        step = round(progress * len(self.gradients))
        if step == self.breaks_at:
            raise InterruptedError
        self.before.append(self.weight.item())
        return {"loss": self.weight * self.gradients[step]}


def follow(model, output=None, **changes):
    settings = dict(steps=len(model.gradients), batch_size=2, ema=0.0, skip_above=5.0, checkpoint_every=10)
    return train(model, Arrays(torch.zeros(4, 1)), config(**(settings | changes)), output).history


def test_a_step_with_an_outlying_gradient_is_left_out():
    model = Scripted([1.0] * 10 + [100.0] + [1.0] * 20 + [100.0] + [1.0] * 8)
    history = follow(model)
    stayed = [step for step in range(39) if model.before[step] == model.before[step + 1]]
    assert stayed == [31]  # the first outlier comes before there is a median to compare it with
    assert [row["skipped"] for row in history] == [0] * 31 + [1] * 9
    every = Scripted(model.gradients)
    assert "skipped" not in follow(every, skip_above=0.0)[-1]
    assert all(a != b for a, b in zip(every.before, every.before[1:], strict=False))


def test_steps_without_a_finite_loss_are_left_out_until_a_row_has_nothing_else():
    gradients = [1.0, 1.0, math.nan, math.inf, 1.0] * 4
    model = Scripted(gradients)
    history = follow(model, log_every=5)
    assert history[-1]["skipped"] == 8 and all(math.isfinite(row["loss"]) for row in history)
    assert all(math.isfinite(weight) for weight in model.before) and model.before[2] == model.before[4]
    with pytest.raises(TrainingError, match="not finite at step 3"):
        follow(Scripted(gradients), log_every=5, skip_above=0.0)
    with pytest.raises(TrainingError, match="not finite at step 11"):
        follow(Scripted([1.0] * 10 + [math.nan] * 5 + [1.0] * 5), log_every=5)


class Normalised(Scripted):
    """Scripted, with batch normalisation whose running means it remembers; one batch may be NaN."""

    def __init__(self, broken=None):
        super().__init__([1.0] * 12)
        self.norm, self.means, self.broken = torch.nn.BatchNorm1d(1), [], broken

    def forward(self, batch, **others):
        broken = round(others["progress"] * 12) == self.broken
        slope = self.norm(batch.x * (math.nan if broken else 1.0)).square().mean()
        self.means.append(self.norm.running_mean.clone())
        return {"loss": super().forward(batch, **others)["loss"] + slope}


NORMAL = torch.randn(64, 1, generator=torch.Generator().manual_seed(0)) + 3


def test_what_was_noted_of_a_step_that_is_left_out_goes_with_it():
    model = Normalised(broken=5)
    history = train(model, NORMAL, config(steps=12, batch_size=8, ema=0.9, skip_above=5.0, log_every=4)).history
    assert history[-1]["skipped"] == 1 and model.norm.num_batches_tracked == 11
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_statistics_of_batch_normalisation_are_averaged_with_the_weights():
    model, last = Normalised(), Normalised()
    train(model, NORMAL, config(steps=12, batch_size=8, ema=0.9))
    expected = torch.zeros(1)
    for step, mean in enumerate(model.means):
        expected = torch.lerp(mean, expected, min(0.9, (1 + step) / (10 + step)))
    assert torch.allclose(model.norm.running_mean, expected, atol=1e-6)
    assert not torch.allclose(model.norm.running_mean, model.means[-1], atol=1e-3)
    train(last, NORMAL, config(steps=12, batch_size=8, ema=0.0))
    assert torch.equal(last.norm.running_mean, last.means[-1])


def test_a_hierarchy_goes_on_with_its_statistics_and_its_power_iterations(tmp_path):
    def make():
        torch.manual_seed(0)
        sizes = dict(latent=2, width=4, blocks=1, block_cells=1, cells=1, expansion=2)
        return NVAE(toys.BINARY, (1, 1), normalisation="batch", spectral=0.1, **sizes)

    whole, parts = make(), make()
    data = batch_data(whole)
    settings = config(steps=6, checkpoint_every=2, skip_above=5.0)
    train(whole, data, settings)
    train(parts, data, dataclasses.replace(settings, minutes=0.0), tmp_path)
    again = make()
    train(again, data, settings, tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    assert again.penalty.warm


def test_batch_normalisation_of_many_cards_is_plain_again_afterwards():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.BatchNorm1d(2)))
    plain = model[1][0]
    with _synchronised(model):
        assert isinstance(model[1][0], torch.nn.SyncBatchNorm)
        model[1][0].running_mean += 3.0
        model[1][0].weight.data *= 2.0
    assert model[1][0] is plain and (plain.running_mean == 3).all() and (plain.weight == 2).all()
    assert model(torch.randn(4, 2)).shape == (4, 2)


def test_where_all_gradients_grow_training_goes_on():
    model = Scripted([1.0] * 30 + [100.0] * 50)
    skipped = [row["skipped"] for row in follow(model)]
    assert skipped[31] == 2 and 20 < skipped[-1] < 40
    assert skipped[-1] == skipped[-10] and model.before[-1] != model.before[-2]


def test_a_resumed_run_leaves_out_the_same_steps(tmp_path):
    gradients = [1.0 + step % 3 for step in range(29)] + [100.0, 1.0] * 10
    whole = Scripted(gradients)
    expected = follow(whole)
    with pytest.raises(InterruptedError):
        follow(Scripted(gradients, breaks_at=35), tmp_path)
    again = Scripted(gradients)
    assert follow(again, tmp_path) == expected and again.before == whole.before[30:]
    assert expected[-1]["skipped"] == 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of another C library nothing is asked")
def test_memory_that_is_freed_is_kept():
    script = """
from pathlib import Path
import torch
from zoo.training.process import keep_memory
keep_memory()
pieces = [torch.ones(5_000_000) for _ in range(10)]
del pieces
lines = Path("/proc/self/status").read_text().splitlines()
print(*[int(line.split()[1]) for line in lines if line.startswith(("VmHWM", "VmRSS"))])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    most, now = map(int, done.stdout.split())
    assert now > most - 50_000  # kilobytes; the pieces have 200,000


def test_adamax_damps_what_has_hardly_a_gradient():
    for kind, ratio in (("adamax", 1e-4 / 1.1e-3 * 1.001), ("adamw", 1.0)):
        small, large = Scripted([1e-4] * 3), Scripted([1.0] * 3)
        follow(small, optimiser=kind)
        follow(large, optimiser=kind)
        assert small.before[1] / large.before[1] == pytest.approx(ratio, rel=1e-3)


def test_broken_files_are_skipped_named_and_counted():
    model = toys.make("vae")
    x = toys.data_for(model)

    class Folder:
        def __len__(self):
            return len(x)

        def __getitem__(self, index):
            if index in (3, 10, 40):
                raise MediaError(f"file-{index}.png is truncated")
            return x[index]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, Folder(), config(steps=8))
    messages = [str(w.message) for w in caught if "skipped" in str(w.message)]
    assert len(messages) == 4 and "3 of 64 files" in messages[-1]
    assert sum("file-10.png" in message for message in messages) == 1


def test_reading_ahead_changes_no_number(tmp_path):
    one, two = toys.make("vae"), toys.make("vae")
    medium = Images(1, 4, 3)
    medium.save(medium.dataset("digits").x[:40], tmp_path)
    data = toys.BINARY.dataset(tmp_path)
    ahead = train(two, data, config(steps=10, workers=2))
    assert train(one, data, config(steps=10)).history == ahead.history


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    trained(config(minutes=0.0), tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(TrainingError, match="can be written.*the last good checkpoint is"):
            trained(config(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert trained(config(), tmp_path)[1].history == trained(config())[1].history
    assert not list(tmp_path.glob(".checkpoint-*"))


@pytest.mark.parametrize("resume", [True, False])
def test_only_checkpoints_of_the_run_are_removed_or_resumed(resume, tmp_path):
    trained(config(steps=14), tmp_path)
    other = ["checkpoint-best", "checkpoint-old", "checkpoint-500", "checkpoint-99999999"]
    for name in other:
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.bin").write_text("another trainer's")
    (tmp_path / "checkpoint-00000007").mkdir()  # one of the run, with a user's notes in it
    for name in ("state.json", "state.safetensors", "notes.txt"):
        (tmp_path / "checkpoint-00000007" / name).write_text("years of work")
    _, run = trained(config(steps=14 if resume else 6), tmp_path, resume=resume)
    assert len(run.history) == (14 if resume else 6)
    for name in other:
        assert (tmp_path / name / "weights.bin").read_text() == "another trainer's"
    assert (tmp_path / "checkpoint-00000007" / "notes.txt").read_text() == "years of work"
    last = "checkpoint-00000014" if resume else "checkpoint-00000006"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*other, "checkpoint-00000007", last, "logs"}
    if not resume:
        with pytest.raises(TrainingError, match="checkpoint-00000007 holds notes.txt.*last good checkpoint is"):
            trained(config(steps=14), tmp_path, resume=False)
        assert (tmp_path / last / "state.json").is_file()


def test_two_trainings_in_one_folder_are_told_apart(tmp_path):
    process = launch(["vae", tmp_path, 400, 0.05])
    until_checkpoint(tmp_path / "vae")
    with pytest.raises(TrainingError, match="another training is at work in .*vae; choose another folder"):
        trained(config(), tmp_path / "vae")
    process.kill()  # its lock goes with it
    process.wait()
    assert len(trained(config(steps=7), tmp_path / "vae", resume=False)[1].history) == 7


def test_an_empty_data_set_is_refused():
    with pytest.raises(MediaError, match="empty"):
        train(toys.make("vae"), Arrays(torch.zeros(0, 1, 4, 3)), config())


def test_bfloat16_training_runs():
    model, run = trained(config(precision="bf16", steps=30))
    assert math.isfinite(run.history[-1]["loss"]) and model.dtype == torch.float32


def losses(folder):
    return [row["loss"] for row in json.loads((folder / "history.json").read_text())]


@pytest.mark.parametrize("name", ["vae", "gan"])
def test_sigkill_loses_at_most_the_steps_since_the_last_checkpoint(name, tmp_path):
    process = launch([name, tmp_path / "killed", 40, 0.05])
    folder = tmp_path / "killed" / name
    until_checkpoint(folder)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = max(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    assert 5 <= reached < 40
    worker.run(name, folder, 40)
    worker.run(name, tmp_path / "whole", 40)
    assert len(losses(folder)) == 40 and losses(folder) == losses(tmp_path / "whole")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """A folder of runs that two processes shared."""
    folder = tmp_path_factory.mktemp("two")
    finish(launch(["autoencoder,pixelcnn,vae,hierarchy,sometimes,adversaries,codes,restarts", folder, 50], processes=2))
    return folder


@pytest.mark.parametrize("name", ["autoencoder", "pixelcnn", "codes", "adversaries"])
def test_two_processes_give_the_losses_of_one(name, two_processes, tmp_path):
    worker.run(name, tmp_path)
    one, two = losses(tmp_path), losses(two_processes / name)
    assert len(one) == 50 and one == pytest.approx(two, abs=1e-5, rel=1e-6)
    histories = (json.loads((path / "history.json").read_text()) for path in (tmp_path, two_processes / name))
    for row, other in zip(*histories, strict=True):
        assert row.get("discriminator_loss") == pytest.approx(other.get("discriminator_loss"), abs=1e-5)


@pytest.mark.parametrize("name", ["vae", "hierarchy"])
def test_two_processes_lie_within_the_spread_of_seeds(name, two_processes, tmp_path):
    for seed in range(5):
        worker.run(name, tmp_path / str(seed), seed=seed)
    seeds = [statistics.mean(losses(tmp_path / str(seed))) for seed in range(5)]
    two = statistics.mean(losses(two_processes / name))
    assert abs(two - statistics.mean(seeds)) < 4 * statistics.stdev(seeds)


def test_a_player_may_sit_out_on_two_processes(two_processes):
    history = json.loads((two_processes / "sometimes" / "history.json").read_text())
    assert "discriminator_loss" in history[0] and "discriminator_loss" not in history[1]


@pytest.mark.parametrize("name", ["codes", "restarts"])
def test_two_processes_share_one_codebook(name, two_processes, tmp_path):
    first, second = (json.loads((two_processes / name / f"codebook-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    worker.run(name, tmp_path)
    vectors, usage = json.loads((tmp_path / "codebook-0.json").read_text())
    assert sum(first[1]) == pytest.approx(sum(usage), rel=0.2)  # counted over all processes, not over one
    if name == "codes":
        assert torch.allclose(torch.tensor(first[0]), torch.tensor(vectors), atol=1e-4)


def test_what_people_have_at_hand_is_a_data_set():
    x = torch.where(torch.rand(64, 1, 4, 3) < 0.5, 1.0, -1.0)
    labels = torch.arange(64) % 3
    told = {
        "tensors": TensorDataset(x, labels),
        "pair": (x, labels),
        "list": list(zip(x, labels.tolist(), strict=True)),
    }
    runs = [train(toys.make("conditional-vae"), data, config(steps=4)).history for data in told.values()]
    assert runs[0] == runs[1] == runs[2]
    alone = x, x.numpy(), x.double().numpy(), TensorDataset(x), [*x]
    runs = [train(toys.make("vae"), data, config(steps=4)).history for data in alone]
    assert all(run == runs[0] for run in runs)


class Streamed(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([])


BITS = torch.where(torch.rand(20, 1, 4, 3) < 0.5, 1.0, -1.0)


@pytest.mark.parametrize(
    "name, data, reason",
    [
        ("vae", [(BITS[0], 1, 2)] * 20, "pairs .x, label., got 3 parts"),
        ("vae", [{"image": BITS[0]}] * 20, "got a mapping with image"),
        ("vae", {"train": BITS}, "has a length.* got dict"),
        ("vae", Streamed(), "has a length"),
        ("vae", [BITS[0], BITS[0][:, :2]] * 10, "differ in shape"),
        ("vae", BITS[:, :, :2], "expected images of shape"),
        ("vae", (BITS + 1) / 2 + 0.01, "levels"),
        ("vae", 127.5 * (BITS + 1), "levels"),
        ("vae", 0.3 * BITS, "levels"),
        ("vae", torch.where(torch.arange(240).view_as(BITS) == 7, math.nan, BITS), "NaN"),
        ("vae", (BITS, torch.zeros(20)), "unconditional and the data have labels"),
        ("conditional-vae", BITS, "the data have no labels"),
        ("conditional-vae", (BITS, torch.arange(20)), "classes run from 0 to 2"),
        ("conditional-vae", (BITS, torch.rand(20)), "labels are one class an item"),
    ],
)
def test_what_is_no_data_of_the_model_is_refused_before_the_first_step(name, data, reason, tmp_path):
    with pytest.raises((ValueError, TypeError), match=reason):
        train(toys.make(name), data, config(steps=2), tmp_path)
    assert not tmp_path.joinpath("logs").exists()


def test_real_numbers_are_measured_before_the_first_step():
    torch.manual_seed(0)
    x = torch.randn(2000, 2) * torch.tensor([3.0, 0.02]) + torch.tensor([500.0, 0.0])
    model = VAE(Points(2), latent=2, width=8, hidden=32)
    train(model, x, config(steps=400, batch_size=100, learning_rate=3e-3))
    with torch.no_grad():
        score = model.log_prob(x[:500], samples=20).mean().item()
    entropy = 2 * 0.5 * math.log(2 * math.pi * math.e) + math.log(3 * 0.02)
    assert -score == pytest.approx(entropy, abs=0.2)  # 15 nats without


def test_gradients_of_parts_of_a_batch_add_up_to_those_of_the_whole():
    whole, parts = worker.Autoencoder(toys.BINARY), None
    parts = copy.deepcopy(whole)
    x = toys.data_for(whole)
    one = train(whole, x, config(steps=20)).history
    four = train(parts, x, config(steps=20, accumulate=4)).history
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in four], rel=1e-4)
    assert torch.allclose(weights(whole), weights(parts), atol=1e-4)
    with pytest.raises(ValueError, match="does not divide"):
        train(parts, x, config(accumulate=3))


def test_every_player_has_its_optimiser_and_uses_what_another_left():
    model = worker.Adversaries(Points(2))
    drawn = []
    model.generator.register_forward_hook(lambda *_: drawn.append(1))
    history = train(model, toys.data_for(model), config(steps=10, learning_rate=1e-3, warmup_steps=10)).history
    assert len(drawn) == 10  # once a step, though two players need it
    assert {"loss", "discriminator_loss"} <= history[0].keys()
    slow, own = (worker.Adversaries(Points(2)) for _ in range(2))
    own.load_state_dict(slow.state_dict())
    train(own, toys.data_for(own), config(steps=3, learning_rate=0.0, ema=0.0))
    assert torch.equal(weights(slow.generator), weights(own.generator))
    assert not torch.equal(weights(slow.discriminator), weights(own.discriminator))


def test_the_model_may_sit_out_a_step_that_is_logged(tmp_path):
    class Shy(toys.ToyGAN):
        def loss(self, batch, *, player="model", progress=1.0, **others):
            if progress > 0.5:
                return None
            return super().loss(batch, player=player, progress=progress, **others)

    run = train(Shy(Points(2)), torch.randn(64, 2), config(steps=8), tmp_path)
    assert "loss" in run.history[0] and set(run.history[-1]) == {"step", "learning_rate", "discriminator_learning_rate"}


def test_a_conditional_model_is_shown_by_its_examples(tmp_path):
    model = toys.make("conditional-vae")
    asked = []
    sample = model.sample
    model.sample = lambda n, **options: asked.append(options["condition"]) or sample(n, **options)
    train(model, batch_data(model), config(steps=4, sample_every=2), tmp_path)
    assert len(asked) == 2 and set(asked[0]) == set(model.condition.names)
