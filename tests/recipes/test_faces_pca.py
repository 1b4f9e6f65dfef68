"""The recipe on patches of photographs, and on a folder of the user's own pictures."""

import dataclasses
import json

import pytest
import torch
from PIL import Image

from modalities import MediaError
from modalities.images import Images
from recipes import faces_pca
from tests.recipes import runs
from zoo import load
from zoo.checkpoint import CheckpointError

PICTURES = {"mean", "eigenfaces", "modes", "samples", "reconstructions", "neighbours", "curves"}
OF, BITS = ", test pictures of photographs", "bits/dim (bound on a mass)"
SMOKE = faces_pca.PRESETS["smoke"][1]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    config = dataclasses.replace(SMOKE, output=tmp_path_factory.mktemp("run"))
    faces_pca.main(config)
    return config


def test_pictures_and_figures(done):
    assert {path.stem for path in done.output.glob("*.png")} == PICTURES
    for name in PICTURES:
        low, high = Image.open(done.output / f"{name}.png").convert("L").getextrema()
        assert low < high, name
    figures = json.loads((done.output / "figures.json").read_text())
    assert 0.9 < float(figures["variance kept, training pictures of photographs"]) < 1
    assert 10 * float(figures[f"reconstruction MSE{OF}"].split()[0]) < figures["squared error of the mean alone"]
    assert float(figures[f"PSNR{OF}"].split()[0]) > 20
    assert f"nearest neighbour: p-value of that (Mann-Whitney){OF}: 50 real, 50 generated" in figures


def test_two_models_with_the_measured_figures_on_their_cards(done):
    figures = json.loads((done.output / "figures.json").read_text())
    model, probabilistic = load(done.output / "pca-photographs"), load(done.output / "probabilistic-pca-photographs")
    test = model.modality.dataset(done.data, "test").x
    # The stored models have half precision.
    error = float(figures[f"reconstruction MSE{OF}"].split()[0])
    assert (model.reconstruct(test) - test).square().mean().item() == pytest.approx(error, rel=0.01)
    bits = probabilistic.bits_per_dim(test, generator=torch.Generator().manual_seed(done.seed)).mean().item()
    assert bits == pytest.approx(float(figures[BITS + OF].split()[0]), abs=0.05)
    cards = [(done.output / f"{name}pca-photographs" / "README.md").read_text() for name in ("", "probabilistic-")]
    kept = [runs.beside(done.output / f"{name}pca-photographs") for name in ("", "probabilistic-")]
    assert kept == [0.7, 1]
    assert all("PSNR" in card and "variance kept" in card for card in cards)
    assert BITS in cards[1] and BITS not in cards[0] and "two sample photographs of scikit-learn" in cards[0]


def test_a_fit_of_something_else_is_refused(done):
    with pytest.raises(CheckpointError, match="components was 16, is 17"):
        faces_pca.main(dataclasses.replace(done, components=17))


def test_a_folder_with_a_broken_picture_is_streamed_and_published(tmp_path, hub):
    folder = tmp_path / "faces"
    medium = Images(3, 16, 16)
    medium.save(medium.dataset("photographs").x[:90], folder)
    (folder / "00007.png").write_text("no picture")
    config = dataclasses.replace(
        SMOKE, data=str(folder), output=tmp_path, components=4, references=20, push="someone/pca-faces"
    )
    with pytest.warns(UserWarning, match="00007.png"):
        faces_pca.main(config)
    figures = json.loads((config.output / "figures.json").read_text())
    assert figures["training pictures"] == 80 and figures["components"] == 4
    card = (config.output / "pca-faces" / "README.md").read_text()
    assert "license: other" in card and "Files given by the user." in card
    assert torch.equal(load("someone/pca-faces").basis, load(config.output / "pca-faces").basis)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MediaError, match="no/such/folder"):
        faces_pca.main(dataclasses.replace(SMOKE, data="no/such/folder", output=tmp_path))
