"""The recipe for morphable faces: its smoke preset, the user's own meshes, and a face model with portraits."""

import dataclasses

import numpy as np
import pytest
import torch

from modalities.meshes import Meshes
from recipes import faces_morphable as recipe
from tests.recipes.runs import beside, figures, number, pictures
from zoo.morphable.camera import rotation_matrix
from zoo.morphable.formats import read_model
from zoo.morphable.model import MorphableModel

SMOKE = recipe.PRESETS["smoke"][1]
PICTURES = {"samples", "temperature", "interpolation", "modes", "caricatures", "curves"}


def errors(folder, source):
    """Of reconstructions and of the mean mesh, millimetres."""
    return [number(folder, f"mean vertex error, {of}, {source}") for of in ("reconstructed", "of the mean mesh")]


def test_smoke_measures_and_draws(done):
    reconstructed, of_the_mean = errors(done.output, "30 meshes for tests of synthetic-heads")
    measured = figures(done.output)
    assert reconstructed < 0.1 * of_the_mean
    assert 0.9 < measured["compactness by modes"]["6"] <= 1
    assert measured["generalization by modes"]["1"] > 2 * measured["generalization by modes"]["6"]
    assert pictures(done.output) == PICTURES


def test_smoke_builds_a_model_that_other_programs_read(done):
    model = MorphableModel.from_pretrained(done.output / "morphable-synthetic-heads")
    assert tuple(model.sizes) == (6, 0, 2)
    card = (done.output / "morphable-synthetic-heads" / "README.md").read_text()
    assert "mean vertex error" in card and "Heads generated" in card
    assert beside(done.output / "morphable-synthetic-heads") == 0.7
    theirs = read_model(done.output / "morphable-synthetic-heads.h5")
    torch.testing.assert_close(theirs.mean[:, :3], model.mean[:, :3], atol=0.1, rtol=0)
    assert (done.output / "morphable-synthetic-heads.glb").read_bytes()[:4] == b"glTF"


def test_meshes_of_ones_own_are_fitted_wherever_they_lie(tmp_path):
    data = Meshes(60).dataset("synthetic-heads")
    turned = rotation_matrix(20.0, 10.0).float()
    for i in range(15):
        x = data[i]
        data.medium.save(x @ turned.T + 50 if i % 2 else x, tmp_path / "heads" / f"{i:02d}.ply")
    recipe.main(
        dataclasses.replace(SMOKE, data=str(tmp_path / "heads"), output=tmp_path, shape=5, meshes=12, limit=None)
    )
    reconstructed, of_the_mean = errors(tmp_path, "15 meshes of heads, each by a model of the others")
    assert figures(tmp_path)["modes of shape, expression, colour"] == "5 + 0 + 0"
    assert reconstructed < 0.7 * of_the_mean < 7
    with pytest.raises(ValueError, match="meshes of your own bring theirs"):
        recipe.main(dataclasses.replace(SMOKE, output=tmp_path, portraits=str(tmp_path)))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data": "{heads}"}, "at least 3 meshes, got 2 of"),
        ({"limit": 0}, "at least 3 meshes, got 0"),
        ({"meshes": 1}, "--meshes must be at least 3"),
    ],
)
def test_too_few_meshes_are_refused(tmp_path, changes, message):
    data = Meshes(60).dataset("synthetic-heads")
    for i in range(2):
        data.medium.save(data[i], tmp_path / "heads" / f"{i}.ply")
    changes = {name: tmp_path / "heads" if value == "{heads}" else value for name, value in changes.items()}
    with pytest.raises(ValueError, match=message):
        recipe.main(dataclasses.replace(SMOKE, output=tmp_path, **changes))


def test_a_face_model_takes_its_colours_and_attributes_from_portraits(tmp_path, shared_data, monkeypatch):
    monkeypatch.setattr("modalities.meshes.drawing.HEIGHT", 48)  # the pictures take longest
    whole, eight = shared_data / "london_faces_256", tmp_path / "eight"  # all 102 take half a minute
    eight.mkdir()
    (eight / "images.zip").symlink_to(whole / "images.zip")
    (eight / "labels.csv").write_text("".join((whole / "labels.csv").open().readlines()[:9]))
    np.save(eight / "landmarks189.npy", np.load(whole / "landmarks189.npy")[:8])
    given = {"data": str(shared_data / "ict_facekit"), "portraits": str(eight), "vertices": 6706}
    recipe.main(dataclasses.replace(SMOKE, **given, output=tmp_path, expression=5, meshes=9))
    reconstructed, of_the_mean = errors(tmp_path, "9 meshes for tests of ict_facekit")
    measured = figures(tmp_path)
    assert measured["portraits"] == 8 and measured["landmarks, mean distance in pixels"] < 3
    assert 0.3 < measured["share of vertices read off a portrait"] < 0.8
    assert 0.5 < measured["variance of colour kept"] < 1 and reconstructed < 0.7 * of_the_mean
    more = {"attributes", "portraits", "segments", "samples_segmented"}
    assert pictures(tmp_path) == PICTURES | more
    model = MorphableModel.from_pretrained(tmp_path / "morphable-ict_facekit")
    assert {"age", "male", "jawOpen"} <= set(model.attributes) and tuple(model.sizes) == (6, 5, 2)
