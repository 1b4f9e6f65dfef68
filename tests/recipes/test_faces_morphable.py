"""The recipe for morphable faces: its smoke preset, the user's own meshes, and colours out of portraits."""

import dataclasses
import json

import pytest
import torch
from PIL import Image

from modalities.meshes import Meshes
from recipes import faces_morphable, portraits
from zoo import load
from zoo.morphable.camera import Camera, rotation_matrix
from zoo.morphable.colour import read_faces
from zoo.morphable.formats import read_model
from zoo.morphable.model import MorphableModel


def smoke(output, **changes):
    return dataclasses.replace(faces_morphable.PRESETS["smoke"][1], output=output, **changes)


def test_smoke_builds_a_model_that_other_programs_read(tmp_path):
    faces_morphable.main(smoke(tmp_path))
    model = load(str(tmp_path / "morphable-faces"))
    assert isinstance(model, MorphableModel) and model.sizes == (6, 0, 2)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["mean vertex error, reconstructed"] < 0.1 * figures["mean vertex error, of the mean mesh"]
    assert 0.9 < figures["compactness by modes"]["6"] <= 1
    assert figures["generalization by modes"]["1"] > 2 * figures["generalization by modes"]["6"]
    for name in ("samples", "modes_shape", "modes_colour", "curves", "interpolation", "caricatures"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.convert("L").getextrema()[0] < 128, name
    theirs = read_model(tmp_path / "morphable-faces.h5")
    torch.testing.assert_close(theirs.mean[:, :3], model.mean[:, :3], atol=0.1, rtol=0)


def test_meshes_of_ones_own_are_fitted_wherever_they_lie(tmp_path):
    data = Meshes(60).dataset("synthetic-heads")
    turned = rotation_matrix(20.0, 10.0).float()
    for i in range(15):
        x = data[i]
        data.medium.save(x @ turned.T + 50 if i % 2 else x, tmp_path / "heads" / f"{i:02d}.ply")
    faces_morphable.main(smoke(tmp_path / "out", data=str(tmp_path / "heads"), shape=5, meshes=12))
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["modes of shape, expression, colour"] == "5 + 0 + 0"
    assert figures["mean vertex error, reconstructed"] < 0.7 * figures["mean vertex error, of the mean mesh"] < 7


def test_expressions_open_the_jaw_and_leave_the_neutral_face(shared_data):
    config = faces_morphable.Config(data=str(shared_data / "ict_facekit"), expression=20)
    source = faces_morphable.read_face_model(config.data)
    model = faces_morphable.from_face_model(source, config)
    torch.testing.assert_close(model.decode(torch.zeros(1, 120)).mean[0], source.mean)
    x = source.mean + 1.5 * source.identity[3] - source.identity[70]
    assert (model.reconstruct(x[None]) - x).norm(dim=2).max() < 0.05
    opened = model.edit(x[None], "jawOpen", 1.0)[0] - x
    wanted = source.expressions[source.expression_names.index("jawOpen")]
    assert (opened - wanted).norm(dim=1).mean() < 0.1 * wanted.norm(dim=1).mean()
    assert model.segments == ("eyes", "nose", "mouth", "surrounding")
    assert model.weights[2, model.landmarks[57].long()] > 0.9


def test_portraits_give_landmarks_and_colours(shared_data):
    found = portraits.read_portraits(shared_data / "london_faces_256")
    assert len(found.labels) == len(found.pictures) == len(found.landmarks) == 102
    config = faces_morphable.Config(data=str(shared_data / "ict_facekit"), shape=40, expression=10)
    model = faces_morphable.from_face_model(faces_morphable.read_face_model(config.data), config)
    readings = read_faces(model, found.pictures[:2], found.landmarks[:2], config.noise)
    assert readings.residuals.max() < 3
    tip = int(model.landmarks[30])
    x, y = readings.cameras[0].project(model.decode(readings.coefficients).mean[0, tip]).round().long().tolist()
    torch.testing.assert_close(readings.colours[0, tip], (found.pictures[0, :, y, x] + 1) / 2, atol=0.1, rtol=0)
    assert readings.weights[0, tip] > 0.5 and isinstance(readings.cameras[0], Camera)


def test_a_folder_without_portraits_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="holds no portraits"):
        portraits.read_portraits(tmp_path)
