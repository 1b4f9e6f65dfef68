"""The recipe on patches of photographs, and on a folder of the user's own pictures."""

import dataclasses
import json

import pytest
import torch

from modalities import MediaError
from modalities.images import Images
from recipes import faces_pca
from zoo import load
from zoo.checkpoint import CheckpointError

BITS = "bits/dim (bound on a mass)"
PICTURES = {"mean", "eigenfaces", "modes", "samples", "reconstructions", "neighbours", "curves"}


@pytest.fixture
def smoke(tmp_path):
    return dataclasses.replace(faces_pca.PRESETS["smoke"][1], output=tmp_path / "run")


def test_smoke_writes_pictures_figures_and_two_models(smoke):
    from PIL import Image

    faces_pca.main(smoke)
    assert {path.stem for path in smoke.output.glob("*.png")} == PICTURES
    for name in PICTURES:
        picture = Image.open(smoke.output / f"{name}.png").convert("L")
        assert picture.getextrema()[0] < picture.getextrema()[1]
    figures = json.loads((smoke.output / "figures.json").read_text())
    assert 0.9 < figures["variance kept"] < 1
    error = float(figures["PCA: reconstruction MSE"].split()[0])
    assert 10 * error < figures["squared error of the mean alone"]

    model = load(smoke.output / smoke.name)
    test = model.modality.dataset(smoke.data, "test").x
    # The stored model has half precision.
    assert (model.reconstruct(test) - test).square().mean().item() == pytest.approx(error, rel=0.01)
    probabilistic = load(smoke.output / f"probabilistic-{smoke.name}")
    bits = probabilistic.bits_per_dim(test, generator=torch.Generator().manual_seed(smoke.seed)).mean().item()
    assert bits == pytest.approx(float(figures[f"probabilistic PCA: {BITS}"].split()[0]), abs=0.05)
    assert BITS in (smoke.output / f"probabilistic-{smoke.name}" / "README.md").read_text()
    assert "PSNR" in (smoke.output / smoke.name / "README.md").read_text()


def test_a_folder_with_a_broken_picture_is_streamed_and_published(smoke, tmp_path, hub):
    folder = tmp_path / "faces"
    medium = Images(3, 16, 16)
    medium.save(medium.dataset("photographs").x[:90], folder)
    (folder / "00007.png").write_text("no picture")
    config = dataclasses.replace(smoke, data=str(folder), components=4, references=20, push="someone/pca-faces")
    with pytest.warns(UserWarning, match="00007.png"):
        faces_pca.main(config)
    figures = json.loads((config.output / "figures.json").read_text())
    assert figures["training pictures"] == 80 and figures["components"] == 4
    published = load("someone/pca-faces")
    assert torch.equal(published.basis, load(config.output / config.name).basis)


def test_a_run_that_was_killed_after_the_fit_does_not_fit_again(smoke, monkeypatch):
    from zoo.linear.passes import Passes

    class Killed(Exception):
        pass

    def kill(*arguments):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(faces_pca, "reconstruction_errors", kill)
        faces_pca.main(smoke)
    with monkeypatch.context() as patched:
        patched.setattr(Passes, "read", kill)
        faces_pca.main(smoke)
    assert float(json.loads((smoke.output / "figures.json").read_text())["PCA: PSNR"].split()[0]) > 20
    with pytest.raises(CheckpointError, match="components was 16, is 17"):
        faces_pca.main(dataclasses.replace(smoke, components=17))


def test_references_are_not_compared_with_themselves():
    train = Images(3, 16, 16).dataset("photographs")
    samples = torch.cat([train.x[3:4], torch.zeros(1, 3, 16, 16)])
    neighbours, between = faces_pca.compare(samples, train, 30)
    assert neighbours.index[0] == 3 and neighbours.distance[0] == 0
    assert between.shape == (30,) and (between > 0).all()


def test_a_missing_folder_is_named(smoke):
    with pytest.raises(MediaError, match="no/such/folder"):
        faces_pca.main(dataclasses.replace(smoke, data="no/such/folder"))
