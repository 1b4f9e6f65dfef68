"""What a checkpoint records, and what is refused when one is read."""

import dataclasses
import functools
import json
import random
import resource
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import zoo
from modalities import Modality
from modalities.points import Points
from tests import toys
from zoo.catalog import OWN
from zoo.checkpoint import CONFIG, WEIGHTS
from zoo.configuration import CheckpointError
from zoo.model import GenerativeModel

OLD = Path(__file__).parent / "old_checkpoints"


class Own(GenerativeModel):
    """A user's model: normal around a learned mean."""

    def __init__(self, modality: Modality = Points(2), *sizes, start=0.0, **options):  # noqa: B008
        super().__init__()
        self.modality, self.sizes, self.options = modality, sizes, options
        self.mean = nn.Parameter(torch.full(modality.shape, float(start)))

    def sample(self, n, *, condition=None, temperature=1.0, mean=False, generator=None):
        return self.mean + temperature * torch.randn(n, *self.modality.shape, generator=generator)


class Bare(Own):
    """A model whose constructor takes nothing."""

    def __init__(self):
        super().__init__(start=2)


class Heir(Own):
    """A model with the constructor of its parent."""


class Precise(Own):
    """A model that looks at the values of its tensors while it is made."""

    def __init__(self, modality: Modality, width: int = 4):
        super().__init__(modality)
        self.steps = torch.linspace(0, 1, width).tolist()


class Wide(Own):
    """A model with much that is computed and not saved."""

    def __init__(self, size: int = 4):
        super().__init__()
        self.register_buffer("table", torch.zeros(size), persistent=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Surface(Modality):
    """A medium with a tensor of its own."""

    triangles: torch.Tensor
    unit: str = "mm"
    kind: ClassVar[str] = "surfaces"

    @property
    def shape(self):
        return int(self.triangles.max()) + 1, 3


@pytest.fixture
def families(monkeypatch):
    """The families that a program registers, forgotten after a test."""
    monkeypatch.setattr("zoo.catalog.OWN", OWN)
    before = dict(OWN)
    yield
    OWN.clear()
    OWN.update(before)


@pytest.fixture
def folder(tmp_path):
    return zoo.save(toys.make("vae"), tmp_path / "toy")


def change(folder, change):
    """Write a configuration anew as `change` makes it."""
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(change(config)))
    return folder


class TestRecording:
    @pytest.mark.parametrize(
        "cls, arguments, keywords",
        [
            (Own, (), {}),
            (Own, (Points(1),), {}),
            (Own, (Points(1), 3, 4), {"start": 1}),
            (Own, (), {"start": 0.5, "colour": "red", "layers": [1, {"a": None}]}),
            (Bare, (), {}),
            (Heir, (Points(1),), {"start": 3}),
            (Precise, (Points(1),), {}),
        ],
    )
    def test_whatever_the_signature(self, cls, arguments, keywords, tmp_path, families):
        model = cls(*arguments, **keywords)
        model.save_pretrained(tmp_path / "own")
        again = cls.from_pretrained(tmp_path / "own")
        assert type(again) is cls and not again.training
        assert (again.modality, again.sizes, again.options) == (model.modality, model.sizes, model.options)
        assert torch.equal(again.mean, model.mean)

    def test_numbers_of_numpy_are_plain_ones(self, tmp_path):
        model = toys.ToyVAE(toys.BINARY, latent=np.int64(3))
        zoo.save(model, tmp_path / "toy")
        assert json.loads((tmp_path / "toy" / CONFIG).read_text())["arguments"]["latent"] == 3
        options = {"a": np.float32(0.5), "b": np.bool_(True), "c": [np.int8(1)]}
        assert Own(**options)._arguments["options"] == {"a": 0.5, "b": True, "c": [1]}

    def test_what_no_configuration_can_hold(self, tmp_path):
        with pytest.raises(TypeError, match="options is part of the configuration and must be a JSON value"):
            Own(colour=object())
        with pytest.raises(CheckpointError, match="is no number of JSON"):
            zoo.save(Own(limit=float("inf")), tmp_path / "own")
        with pytest.raises(CheckpointError, match="take over 500,000 bytes"):
            zoo.save(Own(words=["word"] * 100_000), tmp_path / "own")
        assert not list(tmp_path.iterdir())

    def test_loading_takes_no_overrides(self, folder):
        with pytest.raises(TypeError, match="latent"):
            toys.ToyVAE.from_pretrained(folder, latent=5)

    def test_any_checkpoint_by_the_base_class(self, folder):
        assert isinstance(GenerativeModel.from_pretrained(folder), toys.ToyVAE)
        with pytest.raises(CheckpointError, match="holds the family 'toy-vae', not a ToyGAN"):
            toys.ToyGAN.from_pretrained(folder)


class TestOwnFamilies:
    def test_a_registered_family_is_loaded_pushed_and_pulled(self, tmp_path, hub, families):
        zoo.register("own", Own)
        folder = zoo.save(Own(start=5), tmp_path / "own")
        assert json.loads((folder / CONFIG).read_text())["family"] == "own"
        zoo.push(folder, "org/own")
        for name in (folder, "org/own", zoo.pull("org/own", tmp_path / "pulled")):
            assert isinstance(zoo.load(name), Own)

    def test_another_is_never_imported(self, tmp_path, families):
        folder = zoo.save(Own(), tmp_path / "own")
        with pytest.raises(CheckpointError, match="unknown family.*zoo.register"):
            zoo.load(folder)

    @pytest.mark.parametrize("name, cls", [("vae", Own), ("own family", Own), ("own", Own())])
    def test_what_cannot_be_registered(self, name, cls, families):
        with pytest.raises(ValueError, match="family"):
            zoo.register(name, cls)


class TestFiles:
    def test_a_checkpoint_holds_what_else_it_lists(self, tmp_path, hub):
        (tmp_path / "words.txt").write_text("a b c")
        files = {"words.txt": tmp_path / "words.txt", "hello.wav": b"RIFF"}
        folder = zoo.save(toys.make("vae"), tmp_path / "toy", files=files, picture=Image.new("RGB", (4, 3)))
        url = zoo.push(folder, "org/toy")
        names = {CONFIG, WEIGHTS, "README.md", "samples.png", "words.txt", "hello.wav"}
        assert set(hub.repositories["org/toy"].commits[url.rsplit("/", 1)[1]]) == names
        pulled = zoo.pull("org/toy", tmp_path / "pulled")
        assert {path.name for path in pulled.iterdir()} == names
        assert (pulled / "hello.wav").read_bytes() == b"RIFF" and (pulled / "words.txt").read_text() == "a b c"
        zoo.save(toys.make("vae"), folder)  # takes its place, sounds and all
        assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS, "README.md"}

    @pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "README.md", "../a", "a/b", ".hidden", "", "samples.png"])
    def test_names_that_it_cannot_list(self, name, tmp_path):
        with pytest.raises(CheckpointError, match="cannot be a further file"):
            zoo.save(toys.make("vae"), tmp_path / "toy", files={name: b""}, picture=Image.new("RGB", (4, 3)))
        assert not list(tmp_path.iterdir())

    def test_a_listed_file_that_is_missing_is_not_pushed_over(self, folder, hub):
        (folder / "README.md").unlink()
        with pytest.raises(CheckpointError, match="lists README.md, and has no such file"):
            zoo.push(folder, "org/toy")
        assert hub.requests == []

    def test_the_tensors_of_a_medium_are_there_before_the_model_is_built(self, tmp_path, monkeypatch, families):
        triangles = torch.tensor([[0, 1, 2], [2, 1, 3]])
        folder = zoo.save(Own(Surface(triangles, "cm")), tmp_path / "own", half=True)
        assert load_file(folder / WEIGHTS).keys() == {"mean", "arguments/modality/triangles"}
        again = Own.from_pretrained(folder)
        assert torch.equal(again.modality.triangles, triangles) and again.modality.unit == "cm"
        assert again.mean.shape == (4, 3)
        weights = load_file(folder / WEIGHTS)
        save_file(weights | {"arguments/modality/colours": torch.zeros(1)}, folder / WEIGHTS)
        with pytest.raises(CheckpointError, match="do not build.*colours"):
            Own.from_pretrained(folder)
        save_file(weights | {"arguments/start/colours": torch.zeros(1)}, folder / WEIGHTS)
        with pytest.raises(CheckpointError, match="arguments/start/colours, which belongs to no medium"):
            Own.from_pretrained(folder)
        save_file(weights | {"arguments/modality/triangles": torch.full((2, 3), torch.nan)}, folder / WEIGHTS)
        with pytest.raises(CheckpointError, match="arguments/modality/triangles holds NaN"):
            Own.from_pretrained(folder)
        save_file({"mean": torch.zeros(4, 3)}, folder / WEIGHTS)
        with pytest.raises(CheckpointError, match="do not build.*triangles"):
            Own.from_pretrained(folder)


class TestStrictReading:
    @pytest.mark.parametrize(
        "bias, reason",
        [
            (torch.full((4,), float("nan")), "encoder.bias holds NaN or infinite values"),
            (torch.tensor([1e300] * 4, dtype=torch.float64), "encoder.bias holds NaN or infinite values"),
            (torch.tensor([float("inf"), -float("inf"), 0, 0]), "encoder.bias holds NaN or infinite values"),
            (torch.zeros(4, dtype=torch.int32), "encoder.bias holds torch.int32, expected torch.float32"),
            (torch.zeros(4, dtype=torch.bool), "encoder.bias holds torch.bool, expected torch.float32"),
            (torch.zeros(4, dtype=torch.complex64), "encoder.bias holds torch.complex64, expected torch.float32"),
        ],
    )
    def test_weights_of_another_kind(self, bias, reason, folder):
        save_file(load_file(folder / WEIGHTS) | {"encoder.bias": bias}, folder / WEIGHTS)
        with pytest.raises(CheckpointError, match=reason):
            zoo.load(folder)

    def test_large_numbers_are_no_infinite_ones(self, folder):
        bias = torch.tensor([3e38, 3e38, 0, 0])  # their sum is beyond float32
        save_file(load_file(folder / WEIGHTS) | {"encoder.bias": bias}, folder / WEIGHTS)
        assert torch.equal(zoo.load(folder).encoder.bias, bias)

    def test_whole_numbers_keep_their_type(self, tmp_path):
        folder = zoo.save(zoo.load("pca-mnist"), tmp_path / "pca")
        save_file(load_file(folder / WEIGHTS) | {"count": torch.tensor(3, dtype=torch.int32)}, folder / WEIGHTS)
        with pytest.raises(CheckpointError, match="count holds torch.int32, expected torch.int64"):
            zoo.load(folder)

    @pytest.mark.parametrize(
        "name, tensor, reason",
        [
            ("pca-mnist", "variance", "variance is -"),
            ("vae-points", "standardise.std", "standardise: a standard deviation must be above 0"),
            ("gaussian-mixture-points", "weights", "weights is -"),
            ("gaussian-mixture-points", "scale", "diagonals of scale must be above 0"),
            ("nvae-mnist", None, "running_var is -"),
        ],
    )
    def test_weights_that_cannot_be(self, name, tensor, reason, tmp_path):
        folder = zoo.save(zoo.load(name), tmp_path / "model")
        weights = load_file(folder / WEIGHTS)
        tensor = tensor or next(key for key in weights if key.endswith("running_var"))
        save_file(weights | {tensor: -weights[tensor]}, folder / WEIGHTS)
        with pytest.raises(CheckpointError, match=f"holds no sound weights: .*{reason}"):
            zoo.load(folder)

    @pytest.mark.parametrize(
        "config, reason",
        [
            ({"code": "x"}, "unknown fields"),
            ({"files": ["../x"]}, None),
            ({"family": "os.system"}, "unknown family"),
            ({"arguments": {}}, "do not build"),
            ({"arguments": None}, "missing"),
            ({"arguments": {"surprise": 1}}, "takes no argument"),
            ({"arguments": {"modality": {"modality": {"kind": "smells"}}}}, "do not build.*unknown medium"),
            ({"arguments": {"modality": None}}, "modality"),
            ({"arguments": {"modality": {"modality": None}}}, "do not build"),
            ({"arguments": {"modality": {"modality": {"kind": ["images"]}}}}, "do not build"),
            ({"arguments": {"modality": {"model": None}}}, "family or arguments are missing"),
        ],
    )
    def test_configurations_that_mean_nothing(self, config, reason, folder):
        change(folder, lambda before: before | config)
        if reason is None:
            zoo.load(folder)  # the list matters to what writes alone
        else:
            with pytest.raises(CheckpointError, match=reason) as error:
                zoo.load(folder)
            assert "\n" not in str(error.value)

    @pytest.mark.parametrize("value", [2.5, "x", [2], {"a": 1}])
    def test_arguments_of_another_type(self, value, folder):
        change(folder, lambda config: config | {"arguments": config["arguments"] | {"latent": value}})
        with pytest.raises(CheckpointError, match="latent: .* is not an instance of int"):
            zoo.load(folder)

    def test_a_number_that_json_does_not_have(self, folder):
        (folder / CONFIG).write_text((folder / CONFIG).read_text().replace('"latent": 2', '"latent": Infinity'))
        with pytest.raises(CheckpointError, match="is not JSON.*Infinity"):
            zoo.load(folder)

    def test_a_configuration_that_is_too_large(self, folder):
        (folder / CONFIG).write_text(json.dumps({"family": "toy-vae", "arguments": {"x": "x" * 1_000_000}}))
        with pytest.raises(CheckpointError, match="more than 1,000,000 bytes"):
            zoo.load(folder)

    @pytest.mark.parametrize(
        "name, argument",
        [
            ("vae-points", "width"),
            ("vae-points", "blocks"),
            ("gaussian-mixture-points", "components"),
            ("made-points", "width"),
            ("made-points", "layers"),
            ("vae-heartbeats", "latent"),
            ("nvae-heartbeats", "blocks"),
            ("wavenet-heartbeats", "layers"),
            ("wavenet-heartbeats", "cycles"),
        ],
    )
    @pytest.mark.parametrize("value", [10**7, 10**9])
    def test_a_configuration_decides_nothing_that_is_allocated(self, name, argument, value, tmp_path):
        folder = zoo.save(zoo.load(name), tmp_path / "model")
        change(folder, lambda config: config | {"arguments": config["arguments"] | {argument: value}})
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        with pytest.raises(CheckpointError):
            zoo.load(folder)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
        assert time.monotonic() - start < 20

    def test_nor_what_is_not_in_the_file(self, tmp_path, families):
        zoo.register("wide", Wide)
        folder = zoo.save(Wide(size=1000), tmp_path / "model")
        assert zoo.load(folder).table.shape == (1000,)
        change(folder, lambda config: config | {"arguments": {"size": 10**10}})
        with pytest.raises(CheckpointError, match="describes 10,000,000,002 numbers, far more than"):
            zoo.load(folder)


VALUES = [None, True, 0, -1, 3, 10**9, 2.5, 1e300, "", "x", [], [1], {}, {"a": 1}, {"modality": None}, {"model": None}]
VALUES += [{"condition": {}}, {"modality": {"kind": "points"}}]


def places(tree, *above):
    """Where every value of a configuration stands."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in inside for place in [(*above, key), *places(value, *above, key)]]


@pytest.mark.parametrize("name", ["vae-points", "made-points", "gaussian-mixture-points"])
def test_a_changed_configuration_is_refused_or_does_no_harm(name, tmp_path):
    folder = zoo.save(zoo.load(name), tmp_path / "model")
    text, draw = (folder / CONFIG).read_text(), random.Random(name)
    refused = 0
    for _ in range(150):
        config = json.loads(text)
        *path, last = draw.choice(places(config))
        holder = functools.reduce(lambda inside, key: inside[key], path, config)
        if draw.random() < 0.2:
            del holder[last]
        else:
            holder[last] = draw.choice(VALUES)
        (folder / CONFIG).write_text(json.dumps(config))
        try:
            model = zoo.load(folder)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert model.sample(2).isfinite().all()
    assert 50 < refused < 150


class TestVersion010:
    """Checkpoints that version 0.1.0 wrote, with what it drew from them at temperature 0."""

    @pytest.mark.parametrize("name", ["class-conditional-vae", "vq-vae-with-prior"])
    def test_they_load_and_draw_the_same(self, name):
        model = zoo.load(OLD / name)
        x = model.sample(4, condition=[0, 1, 2, 1], temperature=0)
        assert torch.allclose(x, load_file(OLD / f"{name}.safetensors")["sample"], atol=1e-5)

    def test_they_can_be_replaced(self, tmp_path):
        import shutil

        shutil.copytree(OLD / "class-conditional-vae", tmp_path / "vae")
        model = zoo.load(tmp_path / "vae")
        again = zoo.load(zoo.save(model, tmp_path / "vae"))
        assert torch.equal(model.sample(3, temperature=0, condition=2), again.sample(3, temperature=0, condition=2))
