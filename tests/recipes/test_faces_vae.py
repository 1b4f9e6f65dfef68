"""The recipe on photographs and on drawn faces with labels; what attributes are in pictures and in latents."""

import csv
import dataclasses
import json
import math
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from modalities import MediaError
from modalities.images import Images
from recipes import faces, faces_vae
from zoo import load
from zoo.evaluation.attributes import correlation
from zoo.training import TrainingConfig

PICTURES = {"samples", "temperatures", "reconstructions", "interpolations", "traversals", "sliders"}


@pytest.fixture
def smoke(tmp_path):
    return dataclasses.replace(faces_vae.PRESETS["smoke"][1], output=tmp_path / "run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """120 drawn faces, every sixth for tests: a grey disk as bright as its label, with a mouth as wide as it smiles."""
    place = tmp_path_factory.mktemp("faces")
    generator = np.random.default_rng(0)
    points = np.zeros((120, 68, 2), np.float16)
    points[:, 36:42], points[:, 42:48] = (5, 6), (10, 6)
    rows = []
    with zipfile.ZipFile(place / "images.zip", "w") as archive:
        for i in range(120):
            wide, bright = generator.uniform(2, 5), generator.uniform(90, 200)
            picture = np.full((16, 16, 3), bright, np.uint8)
            picture[6:8, 4:6] = picture[6:8, 9:11] = 20
            left, right = round(8 - wide), round(8 + wide)
            picture[11:13, left:right] = (220, 30, 30)
            points[i, 48], points[i, 54] = (8 - wide, 12), (8 + wide, 12)
            points[i, 51], points[i, 57] = (8, 11), (8, 13)
            Images(3, 16, 16).save(torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1, place / "one.png")
            archive.write(place / "one.png", f"images/{i:05d}.png")
            gender = "" if i == 7 else "Male" if i % 2 else "Female"
            age = ["0-2", "20-29", "more than 70"][i % 3]
            split = "val" if i % 6 == 5 else "train"
            rows.append({"file": f"{i:05d}.png", "split": split, "age": age, "gender": gender, "yaw_deg": i / 10})
    with open(place / "labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    np.save(place / "landmarks68.npy", points)
    return place


def test_smoke_writes_pictures_figures_and_a_model(smoke):
    faces_vae.main(smoke)
    assert {path.stem for path in smoke.output.glob("*.png")} == PICTURES
    figures = json.loads((smoke.output / "figures.json").read_text())
    assert 4 < float(figures["PPCA: bits/dim"].split()[0]) < 8
    assert float(figures["VAE: bits/dim (bound on a mass)"].split()[0]) < 8.5
    assert "density" in figures["PPCA: bits/dim are"]
    model = load(smoke.output / smoke.name)
    assert model.modality == Images(3, 16, 16) and model.sample(2).shape == (2, 3, 16, 16)
    assert "Kingma" in (smoke.output / smoke.name / "README.md").read_text()


def test_a_folder_with_labels_gets_sliders_and_is_published(smoke, folder, hub):
    short = TrainingConfig(steps=100, batch_size=20, learning_rate=3e-3, ema=0.9)
    config = dataclasses.replace(smoke, data=str(folder), vae=short, push="someone/vae-drawn")
    faces_vae.main(config)
    assert {path.stem for path in config.output.glob("*.png")} == PICTURES | {"smile"}
    for name in ("sliders", "smile"):
        low, high = Image.open(config.output / f"{name}.png").convert("L").getextrema()
        assert low < high
    figures = json.loads((config.output / "figures.json").read_text())
    assert figures["training pictures"] == 100 and figures["test pictures"] == 20
    assert figures["brightness: correlation of its direction with unseen items"] > 0.9
    slider = next(value for name, value in figures.items() if name.startswith("brightness: brightness"))
    assert slider == sorted(slider) and slider[-1] > slider[0] + 0.1
    for name in ("yaw", "smile", "age", "male"):
        assert f"{name}: correlation of its direction with unseen items" in figures
    published = load("someone/vae-drawn")
    assert torch.equal(published.decoder.output.weight, load(config.output / config.name).decoder.output.weight)


def test_attributes_are_read_in_the_order_of_the_pictures(folder):
    medium = Images(3, 16, 16)
    x, found = faces.read_faces(medium, str(folder), "test")
    assert len(x) == 20 and torch.equal(x[3], medium.dataset(folder, "test")[3])
    places = torch.arange(5, 120, 6).double()  # of the test pictures in the table
    assert torch.allclose(found["yaw"], places / 10)
    assert found["age"].tolist() == [[1.5, 25.0, 75.0][int(place) % 3] for place in places]
    assert found["male"].tolist() == [place % 2 for place in places.tolist()]
    assert torch.allclose(found["brightness"], x.double().mean((1, 2, 3)))
    # The mouth is red where it is.
    reds = ((x[:, 0] > 0.5) & (x[:, 1] < -0.5)).flatten(1).sum(1).double()
    assert correlation(found["smile"], reds) > 0.9  # whole pixels
    few, labels = faces.read_faces(medium, str(folder), "train", 7)
    assert len(few) == 7 and math.isnan(labels["male"][6]) and not labels["male"][:6].isnan().any()


def test_broken_pictures_are_left_out_with_their_labels(folder, tmp_path):
    for name in ("labels.csv", "landmarks68.npy"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with zipfile.ZipFile(folder / "images.zip") as old, zipfile.ZipFile(tmp_path / "images.zip", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"no picture" if "00011" in name else old.read(name))
    medium = Images(3, 16, 16)
    with pytest.warns(UserWarning, match="00011.png"):
        x, found = faces.read_faces(medium, str(tmp_path), "test")
    assert len(x) == 19 and [round(yaw, 1) for yaw in found["yaw"].tolist()][:3] == [0.5, 1.7, 2.3]
    np.save(tmp_path / "landmarks68.npy", np.zeros((3, 68, 2)))
    loose = tmp_path / "loose"
    medium.save(torch.zeros(3, 3, 16, 16), loose)
    (loose / "labels.csv").write_text("file,age\n00000.png,20-29\n00002.png,3-9\n")
    with pytest.raises(MediaError, match="no row for 00001.png"):
        faces.read_faces(medium, str(loose), "all")
    with pytest.warns(UserWarning), pytest.raises(MediaError, match=r"expected landmarks of shape \[120, 68, 2\]"):
        faces.read_faces(medium, str(tmp_path), "test")


def test_a_smile_is_a_wide_mouth_with_raised_corners():
    points = torch.zeros(3, 68, 2)
    points[:, 36:42], points[:, 42:48] = torch.tensor([10.0, 10.0]), torch.tensor([30.0, 10.0])
    points[:, 51], points[:, 57] = torch.tensor([20.0, 30.0]), torch.tensor([20.0, 34.0])
    points[:, 48], points[:, 54] = torch.tensor([12.0, 32.0]), torch.tensor([28.0, 32.0])
    points[1, [48, 54], 1] -= 4
    points[2, 48, 0] -= 4
    assert torch.allclose(faces.smile(points), torch.tensor([0.8, 1.2, 1.0]))
    assert torch.allclose(faces.smile(3 * points + 7), faces.smile(points))


def test_training_pictures_are_mirrored_and_others_are_not(folder, monkeypatch):
    medium = Images(3, 16, 16)
    plain = medium.dataset(folder, "train")
    for held in (faces.HELD, 0):
        monkeypatch.setattr(faces, "HELD", held)
        data = faces.training_pictures(medium, str(folder))
        x = torch.stack([data[i] for i in range(60)])
        assert torch.equal(x[5], plain[5])
        seen = data.randomise(x, torch.Generator().manual_seed(0))
        mirrored = (seen == x.flip(-1)).flatten(1).all(1)
        assert torch.equal(seen[~mirrored], x[~mirrored]) and 15 < mirrored.sum() < 45
        again = data.randomise(x, torch.Generator().manual_seed(0))
        assert torch.equal(seen, again)
    both = Images(1, 16, 16, 2).dataset(folder, "train", flips=True)
    grey = torch.linspace(-1, 1, 16).expand(200, 1, 16, 16)
    seen = both.randomise(grey, torch.Generator().manual_seed(0))
    assert set(seen.unique().tolist()) == {-1.0, 1.0}
    assert 60 < (seen[:, :, :, 0].mean((1, 2)) > 0).sum() < 140
