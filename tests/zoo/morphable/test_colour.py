"""Colours of faces: read off pictures, completed from the other side and the other faces, and as coefficients."""

import torch

from modalities.face_sets import read_portraits
from modalities.meshes import Meshes
from zoo import load
from zoo.morphable.colour import colour_coefficients, complete_colours, hair_mask, learn_colours, read_faces
from zoo.morphable.model import MorphableModel
from zoo.morphable.modes import Axes


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
        Axes(torch.eye(1, 2400), torch.ones(1)),
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
    filled, shown = complete_colours(spoiled, weights, model, modes=3)
    front = mean[:, 2] > 0
    assert (filled - colours)[:, front].abs().max() < 0.07
    assert not shown[3, cheek].any() and not shown[:, mean[:, 2] < -20].any()
    # Nobody shows the back: it goes on from the sides, and stays within the colours around it.
    assert filled.min() >= colours.min() - 0.05 and filled.max() <= colours.max() + 0.05
    assert filled[:, ~front].std(0).mean() > 0.05


def test_hair_on_the_forehead_is_no_skin():
    model = load("morphable-faces")
    colours = torch.full((2, 6706, 3), 0.7)
    height = model.mean[:, 1]
    fringe = height > height[model.landmarks[19].long()] + 30
    colours[1, fringe] = 0.2
    colours[:, model.landmarks[17:27].long()] = 0.2  # brows are dark, and belong to the face
    hair = hair_mask(colours, model)
    assert not hair[0].any() and hair[1][fringe].all() and not hair[1][~fringe].any()


def test_colour_coefficients_are_those_of_the_vertices_that_are_seen():
    model = load("morphable-faces")
    z = torch.randn(1, 170, generator=torch.Generator().manual_seed(0))
    colours = model.decode(z).mean[0, :, 3:]
    weights = (model.mean[:, 2] > model.mean[:, 2].median()).float()
    colours[weights == 0] = 5.0
    found = colour_coefficients(model, colours, weights, noise=1e-3)
    torch.testing.assert_close(found, z[0, 130:], atol=0.05, rtol=0)


def test_modes_of_colour_are_those_of_whole_faces():
    medium, mean, colours = heads(5)
    plain = MorphableModel.assemble(
        medium, mean, Axes(torch.eye(1, 2400), torch.ones(1)), attributes={"wide": torch.ones(1)}
    )
    model = learn_colours(plain, colours, 9)
    assert tuple(model.sizes) == (1, 0, 4) and model.count == 5 and model.modality.faces is medium.faces
    torch.testing.assert_close(model.direction("wide"), torch.tensor([1.0, 0, 0, 0, 0]))
    faces = torch.cat([mean.expand(5, -1, -1), colours], 2)
    torch.testing.assert_close(model.reconstruct(faces), faces, atol=1e-3, rtol=0)
    few = learn_colours(plain, colours, 1)
    assert 0.01 < (few.reconstruct(faces) - faces).abs().max() < 0.1


def test_portraits_give_colours_where_a_face_is_seen(shared_data):
    portraits, model = read_portraits(shared_data / "london_faces_256"), load("morphable-faces")
    readings = read_faces(model, portraits.pictures[:2], portraits.landmarks[:2], 2.0)
    assert readings.residuals.max() < 3
    tip = int(model.face_landmarks[30])
    x, y = readings.cameras[0].project(model.decode(readings.coefficients).mean[0, tip, :3]).round().long().tolist()
    torch.testing.assert_close(readings.colours[0, tip], (portraits.pictures[0, :, y, x] + 1) / 2, atol=0.1, rtol=0)
    assert readings.weights[0, tip] > 0.5
