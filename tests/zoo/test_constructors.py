"""Mutated arguments and configurations: each is taken for what it says and works, or is refused in one sentence."""

import dataclasses
import functools
import json
import math
import random
import warnings

import pytest
import torch

import zoo
from modalities.latents import Latents
from modalities.meshes import Meshes
from modalities.points import Points
from modalities.signals import Signals
from tests import toys
from tests.zoo.test_contract import REAL, made
from zoo.baselines import GaussianMixture, KernelDensity
from zoo.catalog import CHECKPOINTS, models
from zoo.conditions import Classes, Text
from zoo.configuration import CheckpointError
from zoo.model import GenerativeModel

VALUES = ["x", b"x", 2.5, 1, 0, -1, -0.5, 10**9, None, True, [], {}, [1, "x"], (2,), math.nan, math.inf, -math.inf, 1j]
MEDIA = [toys.BINARY, Points(2), Signals(2, 9), Latents((1, 3, 3), 5), Meshes(12), Classes(("a", "b")), Text()]


def cases():
    """Classes with arguments that they take."""
    built = [(type(made(name)), made(name)._arguments) for name in REAL]
    return built + [(type(m), {field.name: getattr(m, field.name) for field in dataclasses.fields(m)}) for m in MEDIA]


def one_sentence(error):
    assert str(error) and "\n" not in str(error)


def test_a_constructor_takes_what_works_and_refuses_the_rest_in_one_sentence():
    draw, refused, known = random.Random(0), 0, cases()
    for _ in range(1000):
        cls, arguments = draw.choice(known)
        name, value = draw.choice(list(arguments)), draw.choice(VALUES)
        try:
            if isinstance(value, int) and value > 10**6:
                with torch.device("meta"):  # what is large is not made
                    made_of = cls(**arguments | {name: value})
                continue
            made_of = cls(**arguments | {name: value})
        except (TypeError, ValueError) as error:
            refused += 1
            one_sentence(error)
        else:
            assert not isinstance(value, float) or (value >= 0 and math.isfinite(value)), (cls, name, value)
            assert isinstance(value, (int, float, tuple, list, str, type(None))), (cls, name, value)
            if isinstance(made_of, GenerativeModel):
                assert made_of.eval().sample(1).isfinite().all(), (cls, name, value)
    assert 700 < refused < 1000


@pytest.mark.parametrize(
    "name, argument, value",
    [
        ("vae-binary", "beta", -1.0),
        ("vae-binary", "free_bits", math.nan),
        ("vae-binary", "hidden", 2.5),
        ("nvae", "spectral", math.inf),
        ("nvae", "warmup", 1.5),
        ("nvae", "recompute", "yes"),
        ("vq-vae", "commitment", -0.1),
        ("vq-vae", "decay", 1.5),
        ("pixelcnn-pp", "dropout", 1.0),
        ("gated-pixelcnn", "embedding", 0),
        ("gated-pixelcnn", "condition", "cat"),
        ("wavenet", "cycles", 0),
        ("morphable-model", "landmarks", -1),
        ("pca", "modality", None),
    ],
)
def test_an_argument_without_a_meaning_is_named(name, argument, value):
    with pytest.raises((TypeError, ValueError), match=argument) as error:
        type(made(name))(**made(name)._arguments | {argument: value})
    one_sentence(error.value)


@pytest.mark.parametrize(
    "family, setting",
    [
        (KernelDensity, {"bandwidth": math.inf}),
        (KernelDensity, {"bandwidth": 0}),
        (GaussianMixture, {"components": "x"}),
    ],
)
def test_a_fit_names_a_setting_without_a_meaning(family, setting):
    with pytest.raises(ValueError, match=f"^{next(iter(setting))} must be "):
        family.fit(torch.randn(20, 2), Points(2), **setting)


def places(tree, *above):
    """Where every value of a configuration stands."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in inside for place in [(*above, key), *places(value, *above, key)]]


@pytest.mark.parametrize("name", [bundled.name for bundled in models()])
def test_a_changed_configuration_of_the_bundled_models_is_refused_or_works(name, tmp_path):
    (tmp_path / "model.safetensors").symlink_to(CHECKPOINTS / name / "model.safetensors")
    text, draw = (CHECKPOINTS / name / "config.json").read_text(), random.Random(name)
    for _ in range(8):
        config = json.loads(text)
        *path, last = draw.choice([place for place in places(config) if place[0] != "files"])
        holder = functools.reduce(lambda inside, key: inside[key], path, config)
        if draw.random() < 0.2:
            del holder[last]
        else:
            holder[last] = draw.choice([v for v in VALUES if not isinstance(v, (bytes, complex, tuple))])
        (tmp_path / "config.json").write_text(json.dumps(config))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = zoo.load(tmp_path)
        except CheckpointError as error:
            one_sentence(error)
        else:
            assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
