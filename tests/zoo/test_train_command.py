"""`zoo train`: families of every medium on files of one's own, from the command line alone."""

import os
import re
import signal
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest
import torch

from modalities.images import Images
from modalities.meshes import Meshes
from modalities.points import Points
from modalities.signals import Signals
from tests.zoo.test_training import ROOT, until_checkpoint
from zoo import load
from zoo.card import read_figures
from zoo.catalog import FAMILIES
from zoo.cli import main
from zoo.commands.training import Train
from zoo.configuration import family_class
from zoo.linear.pca import PCA
from zoo.model import Fitted

MEDIA = {"points": Points(2), "images": Images(3, 32, 32), "signals": Signals(2, 64), "meshes": Meshes(60)}
SHORT = ["--training.steps", "6", "--training.batch-size", "16", "--training.validate-every", "3"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder of grey pictures in classes with valid/ beside train/, and a table with decimal commas."""
    monkeypatch.chdir(tmp_path)
    for part, items in (("train", 20), ("valid", 6)):
        for i, name in enumerate(("boot", "bag")):
            x = (torch.rand(items, 1, 8, 6) + i - 1).clamp(-1, 1)
            Images(1, 8, 6).save(x, tmp_path / "set" / part / name)
    rows = [f"{i % 7},{i % 3};{i % 5},5;{'ab'[i % 2]}" for i in range(100)]
    (tmp_path / "table.csv").write_text("x;y;kind\n" + "\n".join(rows))
    return tmp_path


@pytest.fixture
def zoo(files, capsys):
    def run(*words, code=0):
        answer = main(["train", *words])
        out, err = capsys.readouterr()
        assert answer == code, err
        return out if code == 0 else err

    return run


def test_the_help_lists_the_families_that_each_medium_suits():
    told, medium = {}, ""
    for line in Train.__doc__.split("families, by medium:")[1].split("examples:")[0].splitlines():
        found = re.match(r"      (\w*) +(.*)", line)
        if found:
            medium = found[1] or medium
            told.setdefault(medium, []).extend(name for name in re.split(", ?", found[2]) if name)
    suited = {}
    for name in (name for name in FAMILIES if not name.startswith("toy-")):
        family = family_class(name)
        for kind, item in MEDIA.items():
            try:
                known = signature(family).parameters.keys() if issubclass(family, Fitted) else ()
                with torch.device("meta"):
                    family(item, **{name: 1 for name in ("components", "items", "shape") if name in known})
            except (TypeError, ValueError, AttributeError):
                continue
            suited.setdefault(kind, []).append(name)
    assert {kind: sorted(names) for kind, names in suited.items()} == told


def test_classes_and_validation_of_a_folder_travel_with_the_model(zoo):
    small = ["--model.width", "4", "--model.latent", "3"]
    command = ["vae", "--data", "set", "--classes", "--validation", "val", "-o", "mine", *small, *SHORT]
    said = zoo(*command)
    assert "set: 40 items in 2 classes to train, taken for --medium images:channels=1,height=8,width=6,levels=" in said
    assert "set: 12 items to validate" in said and "`zoo sample ./mine -o DIR`" in said
    model = load("mine")
    assert model.condition.names == ("bag", "boot") and model.modality == Images(1, 8, 6)
    assert model.sample(2, condition="boot").shape == (2, 1, 8, 6)
    card = open("mine/README.md").read()
    assert (
        "license: other" in card
        and "is for whoever publishes this to say" in card
        and "in the classes bag, boot" in card
    )
    assert "6 steps of 16, those of step" in card
    assert main(["evaluate", "mine", "--data", "set", "--metrics", "likelihood", "--samples", "2", "--write"]) == 0
    figures = read_figures(Path("mine"))
    assert not Path("mine/data.png").exists()
    assert "nothing was trained" in zoo(*command) and read_figures(Path("mine")) == figures and figures
    assert "nothing was trained" not in zoo(*command, "--anew", "--show-data")
    assert Path("mine/data.png").is_file()
    assert "latent was 3, is 2; width was 4, is 8" in zoo(*command, "--model.width", "8", "--model.latent", "2", code=2)
    assert "trained 3 steps more, 9 in all" in zoo(*command, "--training.steps", "9")
    assert read_figures(Path("mine")) == []  # those of other weights


def test_validation_data_may_be_another_folder_that_lacks_a_class(zoo, files):
    Images(1, 8, 6).save(torch.rand(4, 1, 8, 6), files / "others" / "boot")
    command = ["vae", "--data", "set", "--classes", "--validation", "others", "-o", "mine", "--model.width", "4"]
    assert "others: 4 items to validate" in zoo(*command, *SHORT)
    assert load("mine").condition.names == ("bag", "boot")


def test_a_family_is_fitted_and_a_medium_may_be_given(zoo):
    said = zoo("pca", "--data", "table.csv", "--model.components", "1", "-o", "axes")
    assert "table.csv: 80 items to train, taken for --medium points:dimensions=2" in said
    model = load("axes")
    assert isinstance(model, PCA) and model.basis.shape == (1, 2)
    assert not os.path.exists("axes-run") and "Fitted by `zoo train`" in open("axes/README.md").read()
    zoo("pca", "--data", "set", "--medium", "images:height=4,width=4,levels=32", "-o", "small")
    assert load("small").modality == Images(1, 4, 4, 32)


def test_a_recording_with_times_becomes_windows(zoo, files):
    lines = [f"2024-05-01T{i // 60:02d}:{i % 60:02d}:00,{i % 9}.5,{i % 5},fine" for i in range(600)]
    (files / "sensor.csv").write_text("time,heat,light,note\n" + "\n".join(lines))
    small = ["wavenet", "--model.width", "4", "--model.layers", "3", "-o", "mine", "--data", "sensor.csv:heat,light"]
    said = zoo(*small, *SHORT, "--validation", "test", "--reading", "stride=4")
    # 480 of 600 steps are for training, in windows of 16: the first at step 0, the last at step 464.
    assert "heat,light: 117 items to train, taken for --medium signals:channels=2,length=16,rate=0.016" in said
    assert "27 items to validate" in said
    assert load("mine").sample(1).shape == (1, 2, 16) and load("mine").modality.rate == pytest.approx(1 / 60)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["vaee", "--data", "set", "-o", "x"], "unknown family 'vaee'; did you mean vae"),
        (["vae", "--data", "nosuch", "-o", "x"], "'nosuch' is neither a file or folder nor a named set of any medium"),
        (["vae", "--data", "set", "-o", "set"], "set is no model that could be replaced"),
        (["vae", "--data", "set", "-o", "table.csv"], "table.csv is no model that could be replaced"),
        (
            ["vae", "--data", "table.csv", "--training.learning-rate", "nan", "-o", "x"],
            "learning_rate must be",
        ),
        (["vae", "--data", "set", "--model.width", "0", "-o", "x"], "vae cannot be made for set: width must be"),
        (["pixelcnn", "--data", "table.csv", "-o", "x"], "pixelcnn cannot be made for table.csv: .*by medium"),
        (["pca", "--data", "set", "--validation", "val", "-o", "x"], "pca is fitted in one go; leave --validation out"),
        (["vq-vae", "--data", "set", "--classes", "-o", "x"], "vq-vae cannot be told classes"),
        (["vae", "--data", "set", "--medium", "images:size=3", "-o", "x"], "--medium images:size=3: .*size"),
        (["vae", "--data", "set", "--reading", "stride=3", "-o", "x"], "--reading stride=3: .*stride"),
        (["vae", "--data", "set", "--reading", "groups=a", "-o", "x"], "--reading takes no groups"),
        (["vae", "--data", "set", "--medium", "pictures", "-o", "x"], "unknown medium 'pictures'"),
        (["vae", "--data", "set", "--model.widht", "3", "-o", "x"], "--model.widht.*`zoo train --help` explains"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_is_trained(zoo, words, complaint):
    assert re.search(complaint, [line for line in zoo(*words, code=2).splitlines() if "warning" not in line][-1])
    assert not os.path.exists("x") and not os.path.exists("x-run")


def test_ctrl_c_leaves_a_checkpoint_and_one_sentence(files):
    words = ["train", "vae", "--data", "set", "-o", "mine", "--model.width", "4", "--training.checkpoint-every", "5"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "zoo.cli", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    until_checkpoint(files / "mine-run")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    (line,) = err.splitlines()
    step = int(re.search(r"stopped at step ([\d,]+) of 5,000", line)[1].replace(",", ""))
    assert process.returncode == 130 and (files / "mine-run" / f"checkpoint-{step:08d}").is_dir()
