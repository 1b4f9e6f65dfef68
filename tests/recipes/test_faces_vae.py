"""The recipe on photographs and on drawn faces with labels."""

import dataclasses

import torch

from modalities.images import Images
from recipes import faces_vae as recipe
from tests.recipes import runs
from zoo import load
from zoo.training import TrainingConfig

PICTURES = {"samples", "temperatures", "reconstructions", "interpolations", "traversals", "sliders"}
SMOKE = recipe.PRESETS["smoke"][1]


def test_smoke_writes_pictures_figures_and_a_model(done):
    assert runs.pictures(done.output) == PICTURES
    figures = runs.figures(done.output)
    assert 4 < float(figures["PPCA: bits/dim (bound on a mass)"].split()[0]) < 8
    bits = figures["bits/dim (bound on a mass), test pictures of photographs, first 20"]
    assert float(bits.split()[0]) < 8.5
    model = load(done.output / "vae-photographs")
    assert model.modality == Images(3, 16, 16) and model.sample(2).shape == (2, 3, 16, 16)
    assert model.likelihood_head.name == "logistic-mixture"
    card = (done.output / "vae-photographs" / "README.md").read_text()
    assert runs.beside(done.output / "vae-photographs") == 0.5
    assert "Kingma" in card and bits in card


def test_a_folder_with_labels_gets_sliders_and_is_published(tmp_path, drawn_faces, hub):
    short = TrainingConfig(steps=100, batch_size=20, learning_rate=3e-3, ema=0.9)
    config = dataclasses.replace(
        SMOKE, data=str(drawn_faces), output=tmp_path, name="drawn", test_items=None, vae=short, push="someone/drawn"
    )
    recipe.main(config)
    assert runs.pictures(config.output) == PICTURES | {"smile"}
    figures = runs.figures(config.output)
    assert figures["training pictures"] == 96
    assert figures["brightness: correlation of its direction with unseen items"] > 0.9
    slider = figures["brightness: brightness as its slider goes from -3 to 3"]
    assert slider == sorted(slider) and slider[-1] > slider[0] + 0.1
    for name in ("yaw", "smile", "age", "male"):
        assert f"{name}: correlation of its direction with unseen items" in figures
    published = load("someone/drawn")
    assert torch.equal(published.decoder.output.weight, load(config.output / "drawn").decoder.output.weight)
