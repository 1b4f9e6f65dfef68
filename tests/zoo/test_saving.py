"""Saving replaces whole checkpoints and nothing else, whatever happens meanwhile and however many save at once."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests import toys
from zoo.card import Card
from zoo.checkpoint import CONFIG, WEIGHTS, CheckpointError
from zoo.hub import load, pull, push, save

CARD = Card("A toy that generates 4 x 3 pixels.", "Made up. " * 200)
"""Longer than the weights, for a disk that fills up."""
PICTURE = Image.new("RGB", (4, 3))


@pytest.fixture
def model():
    return toys.make("vae")


@pytest.fixture
def folder(model, tmp_path):
    return save(model, tmp_path / "toy", CARD, picture=PICTURE)


CLAIM = {"family": "toy-vae", "arguments": {}, "files": ["README.md", "../photos"]}
FOREIGN = {
    "photographs": (
        {"photos/a.png": "", "photos/b.png": ""},
        "photos",
        "holds a.png, which this package did not write",
    ),
    "a project": ({"project/README.md": "My project."}, "project", "holds README.md"),
    "another's checkpoint": (
        {f"bert/{CONFIG}": '{"architectures": []}', f"bert/{WEIGHTS}": ""},
        "bert",
        "holds config",
    ),
    "a picture among ours": ({"toy/mine.png": ""}, "toy", "holds mine.png"),
    "what is hidden": ({"toy/.git": "gitdir: elsewhere"}, "toy", "holds .git"),
    "a folder called as ours": ({"toy/samples.png/thesis.tex": "years of work"}, "toy", "holds samples.png"),
    "a link called as ours": ({"mine.png": "", "toy/samples.png": Path("../mine.png")}, "toy", "holds samples.png"),
    "a list of other files": ({f"toy/{CONFIG}": json.dumps(CLAIM)}, "toy", "holds README.md"),
    "what stepped aside": (
        {".new.former/thesis.tex": "years of work"},
        "new",
        "is in the way, and this package did not",
    ),
    "a file": ({"thesis.tex": "years of work"}, "thesis.tex", "is a file, and a folder is to be written"),
}
"""What may stand where somebody saves: what is in which file, or where it links to; the place; what is said of it."""


class TestSafety:
    """Whatever happens in the middle of saving, a folder that held a checkpoint holds the former one or the new one."""

    def test_killed_at_any_point(self, folder):
        former = load(folder)
        outcomes = []
        for call in range(1, 100):
            child = os.fork()
            if child == 0:
                _save_until(folder, call)
            _, status = os.waitpid(child, 0)
            bias = load(folder).encoder.bias
            assert torch.equal(bias, former.encoder.bias) or bool((bias == 7).all())
            outcomes.append(bool((bias == 7).all()))
            if not os.WIFSIGNALED(status):
                break
            save(former, folder, CARD)
        assert outcomes[-1] and not outcomes[0] and len(outcomes) > 8
        assert [path.name for path in folder.parent.iterdir()] == ["toy"]

    def test_full_disk(self, folder, model):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        model.encoder.bias.data.fill_(7)
        for size in (0, 100, (folder / WEIGHTS).stat().st_size + 10):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            try:
                with pytest.raises(CheckpointError, match="cannot be written"):
                    save(model, folder, CARD)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert not (load(folder).encoder.bias == 7).any()
            assert [path.name for path in folder.parent.iterdir()] == ["toy"]

    def test_no_permission(self, model):
        place = tempfile.mkdtemp()
        os.chmod(place, 0o555)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)  # root may write anywhere
            with pytest.raises(CheckpointError, match="cannot be written.*Permission denied"):
                save(model, f"{place}/toy")
        finally:
            os.seteuid(user)
            shutil.rmtree(place)

    def test_the_weights_can_be_read_by_whom_the_umask_says(self, model, tmp_path):
        old = os.umask(0o022)
        try:
            folder = save(model, tmp_path / "toy", CARD, picture=PICTURE)
        finally:
            os.umask(old)
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}

    @pytest.mark.parametrize("write", ["save", "pull"])
    @pytest.mark.parametrize("files, target, reason", FOREIGN.values(), ids=FOREIGN)
    def test_what_this_package_did_not_write_is_never_replaced(
        self, write, files, target, reason, model, folder, tmp_path, hub
    ):
        push(folder, "org/toy")
        for name, content in files.items():
            path = tmp_path / name
            (path.parent if path.parent.is_file() else path).unlink(missing_ok=True)
            path.parent.mkdir(exist_ok=True)
            path.symlink_to(content) if isinstance(content, Path) else path.write_text(content)
        before = contents(tmp_path)
        with pytest.raises(CheckpointError, match=reason) as error:
            save(model, tmp_path / target) if write == "save" else pull("org/toy", tmp_path / target)
        assert "\n" not in str(error.value)
        assert contents(tmp_path) == before

    def test_a_checkpoint_without_a_list_is_replaced(self, model, folder):
        config = json.loads((folder / CONFIG).read_text())
        assert config.pop("files") == ["README.md", CONFIG, WEIGHTS, "samples.png"]
        (folder / CONFIG).write_text(json.dumps(config))
        model.encoder.bias.data.fill_(7)
        assert (load(save(model, folder)).encoder.bias == 7).all()
        assert not (folder / "samples.png").exists()  # the new one has no picture

    def test_an_empty_folder_is_taken(self, model, tmp_path):
        (tmp_path / "toy").mkdir(mode=0o700)
        folder = save(model, tmp_path / "toy")
        assert load(folder).dtype == model.dtype and folder.stat().st_mode & 0o777 == 0o700

    def test_the_current_folder_is_not_swapped_away(self, model, folder, monkeypatch):
        monkeypatch.chdir(folder)
        with pytest.raises(CheckpointError, match="is the current folder.*name a folder inside it"):
            save(model, ".")
        assert torch.equal(load(".").encoder.bias, model.encoder.bias)

    def test_a_mount_point_is_refused_with_a_sentence(self, model, folder, monkeypatch):
        monkeypatch.setattr("os.path.ismount", lambda path: str(path) == str(folder))
        with pytest.raises(CheckpointError, match="is the root of a file system.*name a folder inside it"):
            save(model, folder)

    def test_a_file_that_comes_while_it_is_replaced_stays(self, model, folder, monkeypatch):
        rename = os.rename

        def busy(source, target):
            rename(source, target)
            if str(target).endswith(".former"):
                (target / "notes.txt").write_text("written a moment ago")

        monkeypatch.setattr(os, "rename", busy)
        save(model, folder)
        monkeypatch.undo()
        assert (folder / "notes.txt").read_text() == "written a moment ago"
        assert [path.name for path in folder.parent.iterdir()] == ["toy"]
        with pytest.raises(CheckpointError, match="holds notes.txt"):
            save(model, folder)

    def test_what_dead_writers_left_goes_with_the_next_save(self, model, folder):
        shutil.copytree(folder, folder.with_name(".toy.0123abcd.part"))
        shutil.copytree(folder, folder.with_name(".toy.former"))
        folder.with_name(".toy.lock").touch()
        (folder / ".part-0123abcd-README.md").write_text("half a card")
        save(model, folder)
        assert [path.name for path in folder.parent.iterdir()] == ["toy"]

    def test_two_writers_and_a_reader(self, tmp_path):
        folder = tmp_path / "toy"
        writers = [_save_for(10, folder, value) for value in (1.0, 2.0)]
        save(_filled(0.0), folder)
        seen = set()
        while writers:
            weights = load(folder).state_dict().values()
            values = {value for tensor in weights for value in tensor.flatten().tolist()}
            assert len(values) == 1
            seen |= values
            for writer in list(writers):
                done, status = os.waitpid(writer, os.WNOHANG)
                if done:
                    assert status == 0
                    writers.remove(writer)
        assert seen >= {1.0, 2.0}
        assert [path.name for path in tmp_path.iterdir()] == ["toy"]


TOGETHER = """
import os, sys, torch, zoo
from tests import toys
torch.distributed.init_process_group("gloo")
model, main = toys.make("vae"), torch.distributed.get_rank() == 0
model.encoder.bias.data.fill_(torch.distributed.get_rank())
for _ in range(3):
    zoo.save(model, "toy")
    assert (zoo.load("toy").encoder.bias == 0).all()
if main:
    zoo.save(model, "alone")
os.makedirs("project", exist_ok=True)
open("project/README.md", "w").close()
try:
    zoo.save(model, "project")
except zoo.checkpoint.CheckpointError as error:
    assert ("the main process failed" in str(error)) != main and "holds README.md" in str(error)
else:
    sys.exit("saved over a project")
torch.distributed.destroy_process_group()
"""


def test_processes_of_one_program_save_once(tmp_path):
    (tmp_path / "script.py").write_text(TOGETHER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "script.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in tmp_path.iterdir()} == {"script.py", "toy", "alone", "project"}


def contents(folder):
    """Everything in a folder but the Hub's cache: kinds, times and contents."""
    paths = [path for path in sorted(folder.rglob("*")) if "hub-cache" not in path.parts]
    return [(str(path), path.lstat().st_mode, path.is_file() and path.read_bytes()) for path in paths]


def _filled(value):
    model = toys.make("vae")
    for tensor in model.parameters():
        tensor.data.fill_(value)
    return model


def _save_for(seconds, folder, value):
    """Save one model again and again in a child; its exit status is 0 where no save failed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            model, end = _filled(value), time.monotonic() + seconds
            while time.monotonic() < end:
                save(model, folder)
            status = 0
        finally:
            os._exit(status)
    return child


def _save_until(folder, call):
    """Save over `folder` in a forked child that is killed at its n-th access to the file system."""
    model = toys.make("vae")
    model.encoder.bias.data.fill_(7)
    left = call

    def count(event, _):
        nonlocal left
        if event in ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), 9)

    sys.addaudithook(count)
    save(model, folder, CARD)
    os._exit(0)
