"""Runs: what a used folder says, what is refused, Ctrl-C, and validation data."""

import dataclasses
import math
import shutil
import signal

import pytest
import torch

from modalities.data import Arrays
from modalities.images import Images
from tests import toys
from tests.zoo.test_training import NORMAL, TRAINABLE, Normalised, batch_data, config, weights
from zoo.model import Optimiser, Player
from zoo.training import TrainingConfig, TrainingError, train
from zoo.variational.nvae import NVAE
from zoo.variational.vae import VAE

BITS = torch.where(torch.rand(64, 1, 4, 3, generator=torch.Generator().manual_seed(0)) < 0.5, 1.0, -1.0)
WRONG = {
    "steps": [0, 2.5, True, "x"],
    "batch_size": [0],
    "learning_rate": [math.nan, -1e-3, math.inf, "x"],
    "optimiser": ["sgd"],
    "warmup_steps": [-1],
    "betas": [(0.9,), (0.9, 1.0), (math.nan, 0.9), 0.9],
    "weight_decay": [-1.0, math.nan],
    "clip_norm": [-1, 0, math.nan],
    "skip_above": [-1.0, 0.5, math.nan],
    "ema": [math.nan, 1.0, -0.1],
    "precision": ["fp16"],
    "workers": [-1],
    "seed": [-1, 1.5],
    "log_every": [0],
    "checkpoint_every": [0],
    "sample_every": [0],
    "minutes": [-1.0, math.nan],
    "accumulate": [0],
    "validate_every": [0],
    "patience": [0],
    "best": ["yes"],
}


@pytest.mark.parametrize("name", WRONG)
def test_settings_that_no_training_can_have_are_refused_by_name(name):
    assert WRONG.keys() == {field.name for field in dataclasses.fields(TrainingConfig)}
    for value in WRONG[name]:
        with pytest.raises(ValueError, match=rf"TrainingConfig: {name} must be .*, got "):
            TrainingConfig(**{name: value})


def test_a_players_own_optimiser_is_checked_too():
    class Odd(toys.ToyGAN):
        def players(self):
            return {**super().players(), "discriminator": Player([self.discriminator], Optimiser(schedule="linear"))}

    with pytest.raises(ValueError, match="Optimiser: schedule must be cosine, exponential or constant, got 'linear'"):
        train(Odd(toys.Points(2)), torch.randn(64, 2), config(steps=2))


def build(latent=2, **changes):
    torch.manual_seed(0)
    return VAE(Images(1, 4, 3, 2), latent=latent, width=4, hidden=8, **changes)


SHORT = config(steps=4, checkpoint_every=2)


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    folder = tmp_path_factory.mktemp("used")
    train(build(), BITS, SHORT, folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"config": dataclasses.replace(SHORT, learning_rate=1.0)}, "learning_rate was 0.001, is 1.0"),
        ({"config": dataclasses.replace(SHORT, seed=1, ema=0.5)}, "ema was 0.999, is 0.5; seed was 0, is 1"),
        ({"model": build(latent=3)}, "latent was 2, is 3"),
        ({"model": toys.make("vae")}, "family was 'vae', is '"),
        ({"data": BITS[:60]}, r"the data are others \(64 items then, 60 now\)"),
        ({"data": BITS.flip(0)}, "the data are others, by their contents"),
        ({"validation": BITS}, "there were no validation data, and now there are some"),
        ({"config": dataclasses.replace(SHORT, steps=3)}, "is at step 4, beyond the 3 asked for"),
    ],
)
def test_a_folder_of_another_run_is_refused_with_what_differs(used, changes, what):
    given = {"model": build(), "data": BITS, "config": SHORT, "output": used} | changes
    with pytest.raises(TrainingError, match=what):
        train(**given)
    assert train(build(), BITS, SHORT, used).trained == 0


def test_files_are_known_by_their_names_and_what_they_hold_wherever_the_folder_lies(tmp_path):
    medium = Images(1, 4, 3, 2)

    def attempt(folder):
        return train(build(), medium.dataset(folder, labels=False), SHORT, tmp_path / "run")

    medium.save(BITS[:20], tmp_path / "a")
    attempt(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert attempt(tmp_path / "b").trained == 0
    files = sorted((tmp_path / "b").iterdir())
    files[3].write_bytes(files[4].read_bytes() + b" ")
    with pytest.raises(TrainingError, match="by their (contents and )?sizes"):
        attempt(tmp_path / "b")
    files[3].rename(tmp_path / "b" / "zzz.png")
    with pytest.raises(TrainingError, match="names"):
        attempt(tmp_path / "b")


def test_items_that_change_at_every_visit_are_no_others(tmp_path):
    class Flipping(torch.utils.data.Dataset):
        def __len__(self):
            return len(BITS)

        def __getitem__(self, index):
            return BITS[index] * (1 if torch.rand(()) < 0.5 else -1)

    train(build(), Flipping(), SHORT, tmp_path)
    assert train(build(), Flipping(), SHORT, tmp_path).trained == 0


def test_more_steps_train_on_and_all_is_said(used, tmp_path, capsys):
    shutil.copytree(used, tmp_path / "run")
    more = train(build(), BITS, dataclasses.replace(SHORT, steps=10), tmp_path / "run")
    said = capsys.readouterr().out
    assert more.trained == 6 and [row["step"] for row in more.history] == list(range(1, 11))
    assert "resumed at step 4 of 10" in said and "trained 6 steps more, 10 in all" in said
    rates = [row["learning_rate"] for row in more.history]
    assert rates[3] < rates[4]  # the longer run's schedule is higher there
    train(build(), BITS, dataclasses.replace(SHORT, steps=10), tmp_path / "run")
    assert "this run was finished before, at step 10: nothing was trained" in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_read_is_named(used, tmp_path):
    for content, reason in (("{", "cannot be read"), ("{}", "another version wrote it")):
        shutil.copytree(used, tmp_path / "run", dirs_exist_ok=True)
        (tmp_path / "run" / "checkpoint-00000004" / "state.json").write_text(content)
        with pytest.raises(TrainingError, match=f"checkpoint-00000004 .*{reason}"):
            train(build(), BITS, SHORT, tmp_path / "run")


class Interrupting(Arrays):
    """Data whose 25th batch comes with Ctrl-C."""

    def __init__(self, x, times=1):
        super().__init__(x)
        self.reads, self.times = 0, times

    def take(self, indices):
        self.reads += 1
        for _ in range(self.times if self.reads == 25 else 0):
            signal.raise_signal(signal.SIGINT)
        return super().take(indices)


def test_ctrl_c_ends_the_step_writes_a_checkpoint_and_says_so(tmp_path):
    model, whole = toys.make("vae"), toys.make("vae")
    x = batch_data(model).x
    expected = train(whole, x, config()).history
    with pytest.raises(
        KeyboardInterrupt,
        match=r"stopped at step 24 of 60; start it again to go on: the last good .*checkpoint-00000024",
    ):
        train(model, Interrupting(x), config(), tmp_path)  # the first read is that of the look at the data
    again = toys.make("vae")
    assert train(again, x, config(log_every=1), tmp_path).history == expected
    assert torch.equal(weights(again), weights(whole))
    with pytest.raises(KeyboardInterrupt, match="nothing is kept without an output folder"):
        train(toys.make("vae"), Interrupting(x), config())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt) as stop:
        train(toys.make("vae"), Interrupting(x, times=2), config(), tmp_path / "at once")
    assert not str(stop.value) and (tmp_path / "at once" / "checkpoint-00000021").is_dir()


OVERFITS = config(steps=60, learning_rate=0.05, validate_every=6, ema=0.9, log_every=10, checkpoint_every=10)


def validated(folder=None, **changes):
    model = build()
    settings = dataclasses.replace(OVERFITS, **changes)
    return model, train(model, BITS[:16], settings, folder, validation=BITS[16:])


def measured(run):
    return {row["step"]: row["validation_loss"] for row in run.history if "validation_loss" in row}


def test_the_best_weights_on_validation_data_are_kept_and_given_if_asked_for(tmp_path, capsys):
    last, run = validated(tmp_path)
    losses = measured(run)
    assert list(losses) == list(range(6, 61, 6)) and run.best_step == min(losses, key=losses.get) < 60
    best, again = validated(tmp_path, best=True)
    assert again.trained == 0 and not torch.equal(weights(best), weights(last))
    assert f"the weights are those of step {run.best_step}, of validation loss" in capsys.readouterr().out
    for model, step in ((last, 60), (best, run.best_step)):
        noise = torch.Generator().manual_seed(0)
        with torch.no_grad():
            parts = [model.loss(batch, generator=noise)["loss"] * len(batch.x) for batch in batches_of(BITS[16:])]
        assert sum(parts).item() / 48 == pytest.approx(losses[step], rel=1e-5)


def batches_of(x):
    from modalities.data import batches

    return batches(Arrays(x), OVERFITS.batch_size)


def test_validation_changes_no_number_and_goes_on_after_an_interruption(tmp_path):
    plain = build()
    expected = train(plain, BITS[:16], OVERFITS).history
    model, whole = validated()
    seen = {row["step"]: row for row in whole.history}
    assert all(seen[row["step"]].items() >= row.items() for row in expected)
    assert torch.equal(weights(plain), weights(model))
    parts = build()
    with pytest.raises(KeyboardInterrupt):
        train(parts, InterruptingAt(BITS[:16], 27), OVERFITS, tmp_path, validation=BITS[16:])
    parts, again = validated(tmp_path)
    assert measured(again) == measured(whole) and again.best_step == whole.best_step
    assert torch.equal(weights(parts), weights(model))


def hierarchy():
    torch.manual_seed(0)
    sizes = dict(latent=2, width=4, blocks=1, block_cells=1, cells=1, expansion=2)
    return NVAE(toys.BINARY, (1,), normalisation="batch", spectral=0.1, **sizes)


@pytest.mark.parametrize("name", [*(name for name in TRAINABLE if name != "gan"), "nvae"])
def test_validation_leaves_every_model_as_it_trains(name):
    plain, validating = (hierarchy() if name == "nvae" else toys.make(name) for _ in range(2))
    settings = config(steps=9, validate_every=2)
    train(plain, batch_data(plain), settings)
    run = train(validating, batch_data(plain), settings, validation=batch_data(plain, 10))
    assert list(measured(run)) == [2, 4, 6, 8, 9] and all(map(math.isfinite, measured(run).values()))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, validating.state_dict()[name]), name


class InterruptingAt(Interrupting):
    def __init__(self, x, read):
        super().__init__(x)
        self.reads = 25 - read


def test_patience_stops_early_and_a_stopped_run_stays_stopped(tmp_path, capsys):
    _, run = validated(tmp_path, patience=2)
    assert run.trained == run.best_step + 12 < 60
    assert f"stopped at step {run.trained} of 60: the validation loss was lowest at" in capsys.readouterr().out
    _, again = validated(tmp_path, patience=2)
    assert again.trained == 0 and again.history == run.history
    _, more = validated(tmp_path, patience=3)
    assert more.trained >= 6 or more.best_step > run.best_step


def test_statistics_of_batch_normalisation_are_those_of_the_average_while_validating():
    class Measured(Normalised):
        def forward(self, batch, **others):
            if self.training:
                return super().forward(batch, **others)
            self.used = self.norm.running_mean.clone()
            return {"loss": self.norm(batch.x).square().mean()}

    model = Measured()
    train(model, NORMAL, config(steps=12, batch_size=8, ema=0.9, validate_every=12), validation=NORMAL[:8])
    assert model.norm.num_batches_tracked == 12 and torch.equal(model.used, model.norm.running_mean)
    assert not torch.allclose(model.used, model.means[-1], atol=1e-3)


def test_validation_data_are_looked_at_and_a_game_has_none():
    with pytest.raises(ValueError, match="levels"):
        train(build(), BITS, SHORT, validation=0.3 * BITS)
    with pytest.raises(ValueError, match="patience waits for a lower validation loss, and there are no validation"):
        train(build(), BITS, dataclasses.replace(SHORT, patience=1))
    with pytest.raises(ValueError, match="ToyGAN is a game between its players"):
        train(toys.make("gan"), torch.randn(64, 2), SHORT, validation=torch.randn(64, 2))
