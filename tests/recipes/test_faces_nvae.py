"""The recipe on patches of photographs, and on drawn faces with labels."""

import dataclasses

import torch

from recipes import faces_nvae as recipe
from tests.recipes import runs
from zoo import load

PICTURES = {"samples", "temperatures", "scales", "reconstructions", "interpolations", "sliders", "copies"}
SMOKE = recipe.PRESETS["smoke"][1]


def test_smoke_measures_draws_and_saves(done):
    assert runs.pictures(done.output) == PICTURES
    figures = runs.figures(done.output)
    bits = figures["bits/dim (bound on a mass), test pictures of photographs, first 20"]
    assert "steps left out" in figures and figures["importance samples"] == 5
    assert (
        "nearest neighbour: p-value of that (Mann-Whitney), test pictures of photographs: 20 real, 20 generated, means"
        in figures
    )
    card = (done.output / "nvae-photographs" / "README.md").read_text()
    assert runs.beside(done.output / "nvae-photographs") == 0.7
    assert bits in card and "CelebA" not in card
    model = load(done.output / "nvae-photographs")
    assert model.likelihood_head.name == "logistic-mixture"
    assert model.sample(2, temperature=0.5).shape == (2, 3, 16, 16)


def test_directions_of_labelled_faces_are_learned_in_all_groups(tmp_path, drawn_faces):
    short = dataclasses.replace(SMOKE.nvae, steps=3)
    config = dataclasses.replace(SMOKE, data=str(drawn_faces), output=tmp_path, name="drawn", nvae=short)
    recipe.main(config)
    figures = runs.figures(tmp_path)
    assert any(key.startswith("smile: correlation") for key in figures)
    assert runs.pictures(tmp_path) == PICTURES | {"smile"}
    model = load(tmp_path / "drawn")
    assert len(model.encode(torch.zeros(1, 3, 16, 16)).mean) == 2
