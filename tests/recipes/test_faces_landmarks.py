"""The recipe for landmarks: errors on generated faces, meshes out of pictures, and what it refuses."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from modalities import MediaError
from modalities.images import Images
from modalities.meshes import Meshes
from recipes import faces_landmarks as recipe
from tests.recipes.runs import figures
from zoo import load, save
from zoo.checkpoint import CheckpointError
from zoo.morphable.camera import Camera, rotation_matrix

SMOKE = recipe.PRESETS["smoke"][1]


def test_smoke_measures_that_landmarks_and_pictures_help(done):
    measured = figures(done.output)
    prior = measured["mean vertex error of the mean face, mm"]
    few, more, most = (
        measured[f"mean vertex error, {landmarks} landmarks, {views} pictures, mm"]
        for landmarks, views in ((4, 1), (51, 1), (68, 2))
    )
    assert prior > few > more > most > 0 and most < 0.7 * prior
    assert {path.stem for path in done.output.glob("*.png")} == {"errors"}


@pytest.fixture
def config(tmp_path):
    """Of two pictures in one colour each, with the landmarks of a face that a camera saw from the side."""
    model = load("morphable-faces")
    face = model.sample(1, generator=torch.Generator().manual_seed(3))[0, :, :3]
    camera = Camera(rotation_matrix(25.0), torch.tensor(0.5).double(), torch.tensor([50.0, 50.0]).double())
    points = camera.project(face[model.face_landmarks].double())
    for i in range(2):
        colour = torch.tensor([0.6, 0.0, -0.5])[:, None, None] + 0.1 * i
        Images(3, 100, 100).save(colour.expand(3, 100, 100), tmp_path / "pictures" / f"{i}.png")
    np.save(tmp_path / "pictures" / "landmarks68.npy", torch.stack([points, points]).numpy().astype(np.float32))
    return dataclasses.replace(
        SMOKE, faces=1, views=(1,), data=str(tmp_path / "pictures"), size=100, output=tmp_path / "out"
    )


def test_pictures_become_meshes_in_their_colours(config):
    config.output.mkdir()
    recipe.main(config)
    measured = figures(config.output)
    assert measured["pictures"] == 2 and measured["mean distance of fitted landmarks, pixels"] < 1.5
    files = sorted((config.output / "meshes").glob("*.glb"))
    assert len(files) == 2
    mesh = Meshes.from_file(files[0]).load(files[0])
    tip = int(load("morphable-faces").face_landmarks[30])
    order = torch.randperm(2, generator=torch.Generator().manual_seed(0)).tolist()
    wanted = torch.tensor([0.8, 0.5, 0.25]) + 0.05 * order[0]
    torch.testing.assert_close(mesh[tip, 3:], wanted, atol=0.02, rtol=0)
    torch.testing.assert_close(mesh[:, 3:].mean(0), wanted, atol=0.15, rtol=0)  # also where it is not seen
    with Image.open(config.output / "pictures.png") as picture:
        assert picture.width > picture.height


def test_landmarks_that_do_not_belong_to_the_pictures_are_refused(config, tmp_path):
    np.save(tmp_path / "pictures" / "landmarks68.npy", np.zeros((3, 68, 2), np.float32))
    with pytest.raises(MediaError, match=r"expected landmarks of shape \[2, 68, 2\], got .*\[3, 68, 2\]"):
        recipe.main(config)


def test_landmarks_of_larger_files_are_refused(config, tmp_path):
    for size, points in ((128, 50), (100, 400)):
        np.save(tmp_path / "pictures" / "landmarks68.npy", np.full((2, 68, 2), points, np.float32))
        with pytest.raises(
            ValueError, match=f"pictures {size} x {size}, and .* has 100 x 100 with landmarks up to {points}"
        ):
            recipe.main(dataclasses.replace(config, size=size))


@pytest.mark.parametrize("name, value", [("faces", 0), ("pictures", 0), ("views", ()), ("views", (1, 0))])
def test_numbers_below_one_are_refused(name, value):
    with pytest.raises(ValueError, match=f"--{name} must be at least 1, got 0"):
        recipe.main(dataclasses.replace(SMOKE, **{name: value}))


def test_models_without_a_faces_landmarks_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="vae-mnist holds the family 'vae', not a MorphableModel"):
        recipe.main(dataclasses.replace(SMOKE, output=tmp_path, model="vae-mnist"))
    unmarked = load("morphable-faces").with_parts(landmarks=torch.arange(5))
    save(unmarked, tmp_path / "unmarked")
    with pytest.raises(ValueError, match="a model with the 68 landmarks of a face, and it has 5"):
        recipe.main(dataclasses.replace(SMOKE, output=tmp_path, model=str(tmp_path / "unmarked")))
