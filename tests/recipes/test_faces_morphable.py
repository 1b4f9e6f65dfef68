"""The recipe for morphable faces: its smoke preset, the user's own meshes, and colours out of portraits."""

import dataclasses
import json

import pytest
import torch
from PIL import Image

from modalities.meshes import Meshes
from recipes import faces_morphable, portraits
from zoo import load
from zoo.linear.camera import Camera, rotation_matrix
from zoo.linear.formats import read_model
from zoo.linear.morphable import MorphableModel


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


def heads(n):
    """A symmetric head, a camera in front of it, and colours that are smooth over it, different for each of n."""
    data = Meshes(800).dataset("synthetic-heads")
    mean = data.mean
    shades = torch.stack([mean[:, 1], mean[:, 0].abs(), mean[:, 2]], 1) / 300
    tones = torch.linspace(-0.15, 0.15, n)[:, None, None]
    noise = 0.01 * torch.randn(n, 800, 3, generator=torch.Generator().manual_seed(2))
    return data.medium, mean, 0.5 + tones + shades * (1 + 2 * tones) + noise


def test_hidden_colours_come_from_the_other_side_and_the_other_faces():
    medium, mean, colours = heads(30)
    model = MorphableModel.assemble(
        medium,
        mean,
        faces_morphable.principal(torch.randn(2, 800, 3, generator=torch.Generator().manual_seed(0)), 2),
        segments={"surrounding": torch.ones(800)},
        landmarks=torch.tensor(
            [int((mean[:, 2] - 5 * (mean[:, 1] - h).abs()).argmax()) for h in [20] * 33 + [-30] * 35]
        ),
    )
    weights = (mean[:, 2] > -20).float().expand(30, -1).clone()
    generator = torch.Generator().manual_seed(1)
    weights[torch.rand(30, 800, generator=generator) < 0.2] = 0
    spoiled = colours.clone()
    cheek = ((mean[:, 0] > 40) & (mean[:, 2] > 20)).nonzero()[:8, 0]
    spoiled[3, cheek] = 1.0
    filled, shown = portraits.fill(spoiled, weights, model, modes=3)
    front = mean[:, 2] > 0
    assert (filled - colours)[:, front].abs().max() < 0.07
    assert not shown[3, cheek].any() and not shown[:, mean[:, 2] < -20].any()
    # Nobody shows the back: it goes on from the sides, and stays within the colours around it.
    assert filled.min() >= colours.min() - 0.05 and filled.max() <= colours.max() + 0.05
    assert filled[:, ~front].std(0).mean() > 0.05


def test_portraits_give_landmarks_and_colours(shared_data):
    found = portraits.read_portraits(shared_data / "london_faces_256")
    assert len(found.labels) == len(found.pictures) == len(found.landmarks) == 102
    config = faces_morphable.Config(data=str(shared_data / "ict_facekit"), shape=40, expression=10)
    model = faces_morphable.from_face_model(faces_morphable.read_face_model(config.data), config)
    first = portraits.Portraits(found.pictures[:2], found.landmarks[:2], found.labels[:2])
    readings = portraits.read_faces(model, first, config.noise)
    assert readings.residuals.max() < 3
    tip = int(model.landmarks[30])
    x, y = readings.cameras[0].project(model.decode(readings.coefficients).mean[0, tip]).round().long().tolist()
    torch.testing.assert_close(readings.colours[0, tip], (first.pictures[0, :, y, x] + 1) / 2, atol=0.1, rtol=0)
    assert readings.weights[0, tip] > 0.5 and isinstance(readings.cameras[0], Camera)


def test_a_folder_without_portraits_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="holds no portraits"):
        portraits.read_portraits(tmp_path)


def test_what_nobody_shows_is_the_mean_of_its_neighbours():
    medium, mean, colours = heads(3)
    hidden = mean[:, 2] < -20
    filled = portraits._spread(colours, hidden, medium.faces)
    assert torch.equal(filled[:, ~hidden], colours[:, ~hidden])
    for vertex in hidden.nonzero()[::40, 0].tolist():
        around = medium.faces[(medium.faces == vertex).any(1)].unique()
        torch.testing.assert_close(filled[:, vertex], filled[:, around[around != vertex]].mean(1), atol=1e-4, rtol=0)


def test_hair_on_the_forehead_is_no_skin(shared_data):
    config = faces_morphable.Config(data=str(shared_data / "ict_facekit"), shape=5, expression=5)
    model = faces_morphable.from_face_model(faces_morphable.read_face_model(config.data), config)
    colours = torch.full((2, 6706, 3), 0.7)
    height = model.mean[:, 1]
    fringe = height > height[model.landmarks[19].long()] + 30
    colours[1, fringe] = 0.2
    colours[:, model.landmarks[17:27].long()] = 0.2  # brows are dark, and belong to the face
    hair = portraits._hair(colours, model)
    assert not hair[0].any() and hair[1][fringe].all() and not hair[1][~fringe].any()


def test_colour_coefficients_are_those_of_the_vertices_that_are_seen():
    model = load("morphable-faces")
    z = torch.randn(1, 170, generator=torch.Generator().manual_seed(0))
    colours = model.decode(z).mean[0, :, 3:]
    weights = (model.mean[:, 2] > model.mean[:, 2].median()).float()
    colours[weights == 0] = 5.0
    found = portraits.colour_coefficients(model, colours, weights, noise=1e-3)
    torch.testing.assert_close(found, z[0, 130:], atol=0.05, rtol=0)
