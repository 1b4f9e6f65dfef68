"""Saving, loading and publishing checkpoints, with the real client against a Hub on loopback."""

import json
import os
import pickle
import socket
import subprocess
import sys

import pytest
import torch
from huggingface_hub import get_session
from PIL import Image
from safetensors.torch import load_file, save_file

from modalities import MediaError
from tests import toys
from zoo import catalog
from zoo.card import Card, Figure, read_figures, write_figures
from zoo.checkpoint import CONFIG, WEIGHTS, CheckpointError
from zoo.hub import load, models, pull, push, save
from zoo.morphable.formats import write_model
from zoo.variational.vae import VAE

FIGURE = Figure("NLL", 81.25, "MNIST test", "nats", "bound on a mass", 0.125, 80.5, "Burda et al., 2016")
CARD = Card("A toy that generates 4 x 3 pixels.", "Made up.", figures=(FIGURE,), trained="One second on one core.")


@pytest.fixture
def model():
    return toys.make("vae")


@pytest.fixture
def folder(model, tmp_path):
    return save(model, tmp_path / "toy", CARD, picture=Image.new("RGB", (4, 3)))


def same(a, b):
    states = a.state_dict(), b.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


class TestFolders:
    def test_a_saved_model_comes_back_in_evaluation_mode(self, model, folder):
        loaded = load(folder)
        assert same(loaded, model) and not loaded.training and loaded.modality == model.modality
        assert load(str(folder), dtype=torch.float64).dtype == torch.float64

    @pytest.mark.parametrize("name", toys.NAMES)
    def test_every_kind_of_model_comes_back(self, name, tmp_path):
        model = toys.make(name)
        loaded = load(save(model, tmp_path / "toy"))
        samples = [m.sample(3, generator=torch.Generator().manual_seed(0)) for m in (model, loaded)]
        assert torch.equal(*samples)

    def test_half_precision_is_stored_and_float32_is_loaded(self, model, tmp_path):
        folder = save(model, tmp_path / "toy", half=True)
        assert {t.dtype for t in load_file(folder / WEIGHTS).values()} == {torch.float16}
        assert "half precision" in (folder / "README.md").read_text()
        loaded = load(folder)
        assert loaded.dtype == model.dtype == torch.float32
        assert torch.equal(loaded.encoder.weight, model.encoder.weight.half().float())

    def test_half_precision_that_overflows_is_refused(self, model, tmp_path):
        model.encoder.weight.data[0, 0] = 1e6
        with pytest.raises(CheckpointError, match="encoder.weight has values beyond float16"):
            save(model, tmp_path / "toy", half=True)
        assert not list(tmp_path.iterdir())
        save(model, tmp_path / "toy")
        with pytest.raises(CheckpointError, match="encoder.weight has values beyond float16's 65,504; load it in"):
            load(tmp_path / "toy", dtype=torch.float16)
        model.encoder.weight.data.copy_(1e-9 * torch.rand_like(model.encoder.weight))
        save(model, tmp_path / "toy")
        with pytest.raises(CheckpointError, match="encoder.weight has values too small for float16"):
            load(tmp_path / "toy", dtype=torch.float16)
        assert load(tmp_path / "toy", dtype=torch.bfloat16).encoder.weight.dtype == torch.bfloat16

    def test_the_card_says_what_the_author_said(self, folder):
        text = (folder / "README.md").read_text()
        assert "| NLL (bound on a mass) | MNIST test | 81.25 ± 0.12 nats | 80.5 nats (Burda et al., 2016) |" in text
        assert 'model = load("toy")' in text and "license: apache-2.0" in text and "(samples.png)" in text
        assert read_figures(folder) == [FIGURE]

    def test_new_figures_replace_those_of_the_same_metric_and_data(self, folder):
        newer = Figure("NLL", 79.0, "MNIST test", "nats", "bound on a mass")
        other = Figure("PSNR", 20.0, "MNIST test", "dB")
        write_figures(folder, [newer, other])
        assert read_figures(folder) == [newer, other]
        text = (folder / "README.md").read_text()
        assert "79 nats" in text and "81.25" not in text and "Made up." in text
        write_figures(folder, [newer])
        assert (folder / "README.md").read_text() == text

    @pytest.mark.parametrize("header", ["a: [", "- a", "model-index:\n- name: x\n  results:\n  - task: {}"])
    def test_a_broken_header_is_one_sentence(self, header, folder):
        (folder / "README.md").write_text(f"---\n{header}\n---\n# Toy\n")
        for use in (read_figures, lambda folder: write_figures(folder, [FIGURE])):
            with pytest.raises(ValueError, match="the header of .*README.md cannot be read") as error:
                use(folder)
            assert "\n" not in str(error.value)

    def test_figures_are_finite(self):
        with pytest.raises(ValueError, match="NLL = nan"):
            Figure("NLL", float("nan"), "digits")


class TestBadInput:
    def refused(self, folder, match):
        with pytest.raises(CheckpointError, match=match) as error:
            load(folder)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "change, reason",
        [
            (lambda weights: weights.pop("encoder.bias"), "missing encoder.bias"),
            (lambda weights: weights.update(extra=torch.zeros(1)), "unexpected extra"),
            (
                lambda weights: weights.update({"encoder.bias": torch.zeros(3)}),
                r"encoder.bias has shape \[3\], expected \[4\]",
            ),
        ],
    )
    def test_weights_that_do_not_fit(self, change, reason, folder):
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS)
        self.refused(folder, reason)

    @pytest.mark.parametrize("size", [0, 4, 100, -8])
    def test_truncated_weights(self, folder, size):
        data = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(data[:size])
        self.refused(folder, "no readable safetensors file")

    def test_a_pickle_in_place_of_the_weights(self, folder, tmp_path):
        bomb = tmp_path / "executed"
        command = f"touch {bomb}"
        (folder / WEIGHTS).write_bytes(
            pickle.dumps(type("Bomb", (), {"__reduce__": lambda _: (os.system, (command,))})())
        )
        self.refused(folder, "no readable safetensors file")
        assert not bomb.exists()

    def test_a_pickle_beside_missing_weights(self, folder):
        os.rename(folder / WEIGHTS, folder / "pytorch_model.bin")
        self.refused(folder, "safetensors only, never from a pickle")

    @pytest.mark.parametrize("family", ["nonsense", "os:system", "os.system", "posix:system", None, ["vae"]])
    def test_a_family_that_is_not_ours(self, folder, family):
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | {"family": family}))
        self.refused(folder, "unknown family")

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"family": "toy-vae"}'])
    def test_a_broken_configuration(self, folder, text):
        (folder / CONFIG).write_text(text)
        self.refused(folder, "config.json")

    def test_a_folder_that_is_no_checkpoint(self, tmp_path):
        self.refused(tmp_path, "no checkpoint: it has no config.json")

    def test_an_unknown_name_is_answered_with_the_nearest(self, folder, monkeypatch):
        monkeypatch.setattr(catalog, "CHECKPOINTS", folder.parent)
        self.refused("tyo", "did you mean toy?")

    def test_a_revision_of_what_is_on_this_machine(self, folder):
        with pytest.raises(CheckpointError, match="a revision is for Hub repositories"):
            load(folder, revision="main")

    @pytest.mark.parametrize(
        "name", ["../x", "org/..", "org/a..b", "-org/x", "org/x y", "org/" + "x" * 200, "org/é", "org/x;ls", "./x"]
    )
    def test_an_odd_repository_is_refused_before_the_network(self, hub, model, name):
        self.refused(name, "is no Hub repository")
        with pytest.raises(CheckpointError, match="is no Hub repository"):
            push(model, name)
        assert hub.requests == []


class TestHub:
    def test_push_and_load(self, hub, folder, model):
        url = push(folder, "org/toy")
        assert url.startswith(f"{os.environ['HF_ENDPOINT']}/org/toy/commit/")
        assert same(load("org/toy"), model)
        files = hub.repositories["org/toy"].commits[url.rsplit("/", 1)[1]]
        assert set(files) == {CONFIG, WEIGHTS, "README.md", "samples.png"}
        assert b'load("org/toy")' in files["README.md"].content

    def test_push_of_a_model(self, hub, model):
        push(model, "org/toy", private=True)
        assert hub.repositories["org/toy"].private and same(load("org/toy"), model)

    def test_push_takes_no_other_files(self, hub, folder):
        (folder / "optimiser.safetensors").write_bytes(b"large and private")
        url = push(folder, "org/toy")
        assert "optimiser.safetensors" not in hub.repositories["org/toy"].commits[url.rsplit("/", 1)[1]]

    def test_push_of_a_broken_folder_asks_nothing_of_the_network(self, hub, folder):
        (folder / WEIGHTS).write_bytes(b"")
        with pytest.raises(CheckpointError, match="no readable safetensors"):
            push(folder, "org/toy")
        assert hub.requests == []

    def test_an_unchanged_push_makes_no_commit(self, hub, folder):
        first = push(folder, "org/toy")
        assert push(folder, "org/toy") == first
        assert len(hub.repositories["org/toy"].commits) == 2

    def test_a_pinned_revision_stays(self, hub, model, tmp_path):
        first = push(model, "org/toy").rsplit("/", 1)[1]
        changed = toys.make("vae")
        changed.encoder.bias.data.fill_(7)
        push(changed, "org/toy")
        assert same(load("org/toy", revision=first), model)
        assert same(load("org/toy"), changed)

    def test_pull_brings_the_pictures_and_a_checkpoint_that_loads(self, hub, folder, model, tmp_path):
        push(folder, "org/toy")
        pulled = pull("org/toy", tmp_path / "pulled")
        assert same(load(pulled), model)
        assert {path.name for path in pulled.iterdir()} == {CONFIG, WEIGHTS, "README.md", "samples.png"}
        assert not any(path.is_symlink() for path in pulled.iterdir())

    def test_unknown_repository(self, hub):
        with pytest.raises(CheckpointError, match="the Hub has no model org/nothing"):
            load("org/nothing")

    @pytest.mark.parametrize("revision", ["v2", "1" * 40])
    def test_unknown_revision(self, hub, folder, revision):
        push(folder, "org/toy")
        with pytest.raises(CheckpointError, match=f"org/toy has no revision '{revision}'"):
            load("org/toy", revision=revision)

    def test_gated_repository(self, hub, folder):
        push(folder, "org/toy")
        hub.repositories["org/toy"].gated = True
        with pytest.raises(CheckpointError, match="org/toy is gated"):
            load("org/toy")

    def test_a_repository_without_safetensors(self, hub, folder):
        push(folder, "org/toy")
        files = list(hub.repositories["org/toy"].commits.values())[-1]
        files["pytorch_model.bin"] = files.pop(WEIGHTS)
        with pytest.raises(CheckpointError, match="never from a pickle"):
            load("org/toy")
        assert not any("pytorch_model.bin" in request for request in hub.requests)

    def test_server_error(self, hub):
        hub.failure = 500
        with pytest.raises(CheckpointError, match="the Hub answered org/toy with error 500"):
            load("org/toy")

    def test_a_login_page_in_the_way(self, hub, folder):
        hub.page = b"<html>Welcome to our network. Accept the terms to go on.</html>"
        for ask in (lambda: load("org/toy"), lambda: push(folder, "org/toy")):
            with pytest.raises(CheckpointError, match="what answered for org/toy is not the Hub"):
                ask()

    @pytest.mark.parametrize("stored", [False, True], ids=["on the way", "in the cache"])
    def test_a_flipped_byte(self, hub, folder, stored, tmp_path):
        push(folder, "org/toy")
        if stored:
            load("org/toy")
            (path,) = (tmp_path / "hub-cache").rglob(f"snapshots/*/{WEIGHTS}")
            path.write_bytes(_flip(path.read_bytes()))
        else:
            (oid,) = [oid for oid, blob in hub.blobs.items() if b"encoder.bias" in blob]
            hub.blobs[oid] = _flip(hub.blobs[oid])
        with pytest.raises(CheckpointError, match="is damaged: its hash is not the Hub's"):
            load("org/toy")

    def test_a_flipped_byte_in_the_configuration(self, hub, folder, tmp_path):
        push(folder, "org/toy")
        load("org/toy")
        (path,) = (tmp_path / "hub-cache").rglob(f"snapshots/*/{CONFIG}")
        path.write_bytes(path.read_bytes().replace(b'"latent": 2', b'"latent": 3'))
        with pytest.raises(CheckpointError, match="is damaged"):
            load("org/toy")

    def test_offline_with_a_warm_and_a_cold_cache(self, hub, folder, model, monkeypatch):
        push(folder, "org/toy")
        load("org/toy")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        hub.requests.clear()
        assert same(load("org/toy"), model)
        for name in ("org/other", "org/nothing"):
            with pytest.raises(CheckpointError, match=f"{name} is not in the cache and the Hub cannot be reached"):
                load(name)
        with pytest.raises(CheckpointError, match="cannot be reached"):
            push(folder, "org/toy")
        assert hub.requests == []


def test_no_server_at_all(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match="the Hub cannot be reached"):
        load("org/toy")
    with pytest.raises(CheckpointError, match="the Hub cannot be reached"):
        push(folder, "org/toy")


def test_a_server_that_does_not_answer(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("zoo.hub.PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", int(os.environ["HF_ENDPOINT"].rsplit(":", 1)[1]))):
        for ask in (lambda: load("org/toy"), lambda: push(folder, "org/toy")):
            with pytest.raises(CheckpointError, match="the Hub cannot be reached"):
                ask()
    assert len(get_session().event_hooks["request"]) == 1  # the client's own


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_bundled_models_are_listed_without_torch(folder):
    code = (
        "import sys, pathlib, zoo.catalog as c; c.CHECKPOINTS = pathlib.Path(sys.argv[1]);"
        "print([(m.name, m.family, m.medium, m.summary) for m in c.models()], 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code, folder.parent], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[('toy', 'toy-vae', 'images', 'A toy that generates 4 x 3 pixels.')] False"


def test_a_bundled_name_and_a_folder_of_one_name_are_told_apart(folder, model, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "CHECKPOINTS", folder.parent)
    assert [entry.name for entry in models()] == ["toy"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert same(load("toy"), model)
    mine = toys.make("vae")
    mine.encoder.bias.data.fill_(7)
    path = save(mine, "toy")
    with pytest.warns(UserWarning, match="'toy' is the bundled model, not the folder .*here/toy; write \"./toy\""):
        assert same(load("toy"), model)
    assert same(load("./toy"), mine) and same(load(path), mine)


def test_bundled_names_and_folders_ask_nothing_of_the_network(hub, folder):
    assert isinstance(VAE.from_pretrained("vae-points"), VAE)
    with pytest.raises(CheckpointError, match="did you mean vae-points"):
        VAE.from_pretrained("vae-pionts")
    assert same(toys.ToyVAE.from_pretrained(folder), toys.ToyVAE.from_pretrained(str(folder)))
    assert hub.requests == []
    folder_of_hub = toys.make("vae").push_to_hub("org/toy")
    assert folder_of_hub.startswith(os.environ["HF_ENDPOINT"])
    assert same(toys.ToyVAE.from_pretrained("org/toy", revision="main"), toys.make("vae"))


class TestFormatsOfOthers:
    def test_a_file(self, tmp_path):
        model = load("morphable-faces")
        write_model(model, tmp_path / "faces.h5")
        again = load(tmp_path / "faces.h5", dtype=torch.float64)
        assert not again.training and again.dtype == torch.float64
        z = torch.ones(1, model.prior().mean.shape[1])
        assert torch.allclose(again.decode(z).mean.float(), model.decode(z).mean, atol=1e-3)

    def test_a_file_of_no_known_format(self, tmp_path):
        (tmp_path / "notes.txt").write_text("years of work")
        with pytest.raises(CheckpointError, match="is a file of no format that is known"):
            load(tmp_path / "notes.txt")

    @pytest.mark.parametrize("name", ["model.h5", "model.npz", "model.pkl"])
    def test_a_broken_file(self, name, tmp_path):
        (tmp_path / name).write_bytes(pickle.dumps({"f": [1]}))
        with pytest.raises(MediaError, match=name):
            load(tmp_path / name)

    def test_a_folder(self, tmp_path):
        (tmp_path / "generic_neutral_mesh.obj").write_text("v 0 0 0\n")
        with pytest.raises(MediaError):
            load(tmp_path)
