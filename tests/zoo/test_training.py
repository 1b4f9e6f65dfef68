"""The trainer: it learns, resumes exactly, survives kills, and gives the same numbers on two processes."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from modalities.modality import Arrays, MediaError
from tests import toys
from zoo.model import Explicit
from zoo.training import TrainingConfig, TrainingError, train

ROOT = Path(__file__).parents[2]
TRAINABLE = [name for name in toys.NAMES if name != "ppca"]


def config(**changes):
    base = dict(steps=60, batch_size=16, log_every=1, checkpoint_every=7, sample_every=10**9, warmup_steps=5)
    return TrainingConfig(**(base | changes))


def batch_data(model, n=64):
    x = toys.data_for(model, n)
    return Arrays(x, torch.arange(n) % model.classes) if model.classes else Arrays(x)


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


def finish(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[-3000:]


@pytest.mark.parametrize("name", TRAINABLE)
def test_training_lowers_the_loss(name):
    model = toys.make(name)
    data = batch_data(model)
    history = train(model, data, config(steps=300, learning_rate=0.02, log_every=10, ema=0.9))
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
    expected = train(whole, data, config(), tmp_path / "whole")

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
    history = train(parts, data, config(), tmp_path / "parts")
    assert history == expected
    assert torch.equal(weights(whole), weights(parts))


def test_the_time_limit_stops_with_a_checkpoint(tmp_path):
    model = toys.make("vae")
    history = train(model, batch_data(model), config(minutes=0.0), tmp_path)
    assert len(history) == 1 and (tmp_path / "checkpoint-00000001").is_dir()
    again = toys.make("vae")
    assert len(train(again, batch_data(again), config(), tmp_path)) == 60


def test_another_runs_checkpoint_is_refused(tmp_path):
    model = toys.make("vae")
    train(model, batch_data(model), config(), tmp_path)
    with pytest.raises(TrainingError, match="seed was 0, is 1"):
        train(model, batch_data(model), config(seed=1), tmp_path)


def test_the_average_is_returned_and_a_finished_run_stays_finished(tmp_path):
    averaged, last = toys.make("vae"), toys.make("vae")
    train(averaged, batch_data(averaged), config(ema=0.99), tmp_path)
    train(last, batch_data(last), config(ema=0.0))
    assert not torch.allclose(weights(averaged), weights(last))
    again = toys.make("vae")
    train(again, batch_data(again), config(ema=0.99), tmp_path)
    assert torch.equal(weights(again), weights(averaged))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    model = toys.make("vae")
    x = toys.data_for(model)
    train_config = config(steps=40, batch_size=8, checkpoint_every=2)
    x[37] = math.nan
    with pytest.raises(TrainingError, match=r"not finite at step \d+.*(checkpoint-0|no checkpoint)"):
        train(model, Arrays(x), train_config, tmp_path)
    kept = sorted(tmp_path.glob("checkpoint-*"))
    from safetensors.torch import load_file

    for folder in kept:
        assert all(torch.isfinite(t).all() for t in load_file(folder / "state.safetensors").values())


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


def test_an_empty_data_set_is_refused():
    with pytest.raises(MediaError, match="empty"):
        train(toys.make("vae"), Arrays(torch.zeros(0, 1, 4, 3)), config())


def test_bfloat16_training_runs():
    model = toys.make("vae")
    history = train(model, batch_data(model), config(precision="bf16", steps=30))
    assert math.isfinite(history[-1]["loss"]) and model.dtype == torch.float32


@pytest.mark.parametrize("name", ["vae", "gan"])
def test_sigkill_loses_at_most_the_steps_since_the_last_checkpoint(name, tmp_path):
    process = launch([name, tmp_path / "killed", 40, 0.05])
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = max(int(p.name.split("-")[1]) for p in (tmp_path / "killed").glob("checkpoint-*"))
    assert 5 <= reached < 40
    finish(launch([name, tmp_path / "killed", 40]))
    finish(launch([name, tmp_path / "whole", 40]))
    killed, whole = (json.loads((tmp_path / f / "history.json").read_text()) for f in ("killed", "whole"))
    assert killed == whole


def test_two_processes_give_the_losses_of_one(tmp_path):
    names = ["autoencoder", "vae", "sometimes", "pixelcnn", "hierarchy"]
    for name in names:
        finish(launch([name, tmp_path / f"{name}-2", 50], processes=2))
    for name in ("autoencoder", "pixelcnn"):
        finish(launch([name, tmp_path / f"{name}-1", 50]))
        one, two = (json.loads((tmp_path / f"{name}-{n}" / "history.json").read_text()) for n in (1, 2))
        assert len(one) == len(two) == 50
        for a, b in zip(one, two, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-5, rel=1e-6)
    history = json.loads((tmp_path / "sometimes-2" / "history.json").read_text())
    assert "discriminator_loss" in history[0] and "discriminator_loss" not in history[1]
