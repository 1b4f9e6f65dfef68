"""The recipe on patches of photographs, and on drawn faces with labels."""

import dataclasses
import json

import pytest
import torch

from recipes import faces_nvae
from tests.recipes.test_faces_vae import folder  # noqa: F401
from zoo import load
from zoo.card import Figure

PICTURES = {"samples", "temperatures", "scales", "reconstructions", "interpolations", "sliders", "copies"}


def test_smoke_measures_draws_and_saves(tmp_path):
    smoke = dataclasses.replace(faces_nvae.PRESETS["smoke"][1], output=tmp_path / "run")
    faces_nvae.main(smoke)
    assert {path.stem for path in smoke.output.glob("*.png")} == PICTURES
    figures = json.loads((smoke.output / "figures.json").read_text())
    assert "bits/dim (bound on a mass)" in figures and "steps left out" in figures
    card = (smoke.output / smoke.name / "README.md").read_text()
    assert figures["bits/dim (bound on a mass)"] in card and "not comparable" not in card
    assert "nearest neighbour: p-value of that (Mann-Whitney), test pictures: 20 real, 20 generated, means" in figures
    model = load(smoke.output / smoke.name)
    assert model.likelihood_head.name == "logistic-mixture"
    assert model.sample(2, temperature=0.5).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("name", "size", "published"), [("nvae-faces", 64, 2.04), ("nvae-faces", 16, None), ("a", 64, None)]
)
def test_the_published_figure_stands_beside_faces_of_its_size_alone(name, size, published, monkeypatch):
    monkeypatch.setattr(
        faces_nvae.likelihood, "measure", lambda *_, **__: [Figure("bits/dim", 4.0, "test"), Figure("NLL", 9.0, "test")]
    )
    config = dataclasses.replace(faces_nvae.PRESETS["smoke"][1], name=name, size=size)
    bits, nats = faces_nvae.measure(None, None, "test", config)
    assert bits.published == published and nats.published is None


def test_directions_of_labelled_faces_are_learned_in_all_groups(tmp_path, folder, monkeypatch):  # noqa: F811
    asked, axes = [], faces_nvae.principal_axes
    monkeypatch.setattr(faces_nvae, "principal_axes", lambda *given: asked.append(given[2]) or axes(*given))
    short = dataclasses.replace(faces_nvae.PRESETS["smoke"][1].nvae, steps=3)
    config = dataclasses.replace(
        faces_nvae.PRESETS["smoke"][1], data=str(folder), output=tmp_path / "run", nvae=short, test_items=None
    )
    faces_nvae.main(config)
    assert asked == [99]  # of 100 training pictures, whatever the 20 test pictures
    figures = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert any(key.startswith("smile: correlation") for key in figures)
    assert (tmp_path / "run" / "smile.png").is_file()
    model = load(tmp_path / "run" / "nvae-faces")
    z = model.encode(torch.zeros(1, 3, 16, 16)).mean
    assert len(z) == 2
