"""The recipe for landmarks: errors on generated faces, meshes out of pictures, and what it refuses."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from modalities import MediaError
from modalities.images import Images
from modalities.meshes import Meshes
from recipes import faces_landmarks
from zoo import load
from zoo.morphable.camera import Camera, rotation_matrix


def smoke(output, **changes):
    return dataclasses.replace(faces_landmarks.PRESETS["smoke"][1], output=output, **changes)


def test_smoke_measures_that_landmarks_and_pictures_help(tmp_path):
    faces_landmarks.main(smoke(tmp_path))
    figures = json.loads((tmp_path / "figures.json").read_text())
    prior = figures["mean vertex error of the mean face, mm"]
    errors = {
        (landmarks, views): figures[f"mean vertex error, {landmarks} landmarks, {views} pictures, mm"]
        for landmarks in faces_landmarks.SETS
        for views in (1, 2)
    }
    assert prior > errors[4, 1] > errors[51, 1] > errors[68, 2] > 0
    assert errors[68, 2] < 0.7 * prior
    assert (tmp_path / "errors.png").is_file()


@pytest.fixture
def folder(tmp_path):
    """Two pictures in one colour, with the landmarks of a face that a camera saw from the side."""
    model = load("morphable-faces")
    face = model.sample(1, generator=torch.Generator().manual_seed(3))[0, :, :3]
    camera = Camera(rotation_matrix(25.0), torch.tensor(0.5).double(), torch.tensor([50.0, 50.0]).double())
    points = camera.project(face[model.landmarks.long()].double())
    medium = Images(3, 100, 100)
    for i in range(2):
        colour = torch.tensor([0.6, 0.0, -0.5])[:, None, None] + 0.1 * i
        medium.save(colour.expand(3, 100, 100), tmp_path / "pictures" / f"{i}.png")
    np.save(tmp_path / "pictures" / "landmarks68.npy", torch.stack([points, points]).numpy().astype(np.float32))
    return tmp_path / "pictures"


def test_pictures_become_meshes_in_their_colours(tmp_path, folder):
    faces_landmarks.main(smoke(tmp_path / "out", faces=1, views=(1,), data=str(folder), size=100))
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["pictures"] == 2 and figures["mean distance of fitted landmarks, pixels"] < 1.5
    files = sorted((tmp_path / "out" / "meshes").glob("*.glb"))
    assert len(files) == 2
    mesh = Meshes.from_file(files[0]).load(files[0])
    tip = int(load("morphable-faces").landmarks[30])
    order = torch.randperm(2, generator=torch.Generator().manual_seed(0)).tolist()
    wanted = torch.tensor([0.8, 0.5, 0.25]) + 0.05 * order[0]
    torch.testing.assert_close(mesh[tip, 3:], wanted, atol=0.02, rtol=0)
    with Image.open(tmp_path / "out" / "pictures.png") as picture:
        assert picture.width > picture.height


def test_landmarks_that_do_not_belong_to_the_pictures_are_refused(tmp_path, folder):
    np.save(folder / "landmarks68.npy", np.zeros((3, 68, 2), np.float32))
    with pytest.raises(MediaError, match=r"expected landmarks of shape \[2, 68, 2\], got \[3, 68, 2\]"):
        faces_landmarks.main(smoke(tmp_path / "out", faces=1, views=(1,), data=str(folder), size=100))
    (folder / "landmarks68.npy").write_bytes(b"no array")
    with pytest.raises(MediaError, match="landmarks68.npy cannot be read"):
        faces_landmarks.main(smoke(tmp_path / "out", faces=1, views=(1,), data=str(folder), size=100))


def test_models_without_landmarks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="vae-mnist is no morphable model with 68 landmarks"):
        faces_landmarks.main(smoke(tmp_path, model="vae-mnist"))
