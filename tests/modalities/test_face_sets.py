"""Attributes, landmarks and portraits of faces, and pictures that are held in memory."""

import math
import zipfile

import numpy as np
import pytest
import torch

from modalities import MediaError
from modalities.data import Arrays, hold
from modalities.face_sets import read_attributes, read_landmarks, read_portraits, smile
from modalities.images import Images

MEDIUM = Images(3, 16, 16)


def test_attributes_are_read_in_the_order_of_the_pictures(drawn_faces):
    x, found = read_attributes(MEDIUM, str(drawn_faces), "test")
    assert len(x) == 24 and torch.equal(x[3], MEDIUM.dataset(drawn_faces, "test")[3])
    places = torch.arange(4, 120, 5).double()  # of the test pictures in the table
    assert torch.allclose(found["yaw"], places / 10)
    assert found["age"].tolist() == [[1.5, 25.0, 75.0][int(place) % 3] for place in places]
    assert found["male"].tolist() == [place % 2 for place in places.tolist()]
    assert torch.allclose(found["brightness"], x.double().mean((1, 2, 3)))
    # The mouth is red where it is.
    reds = ((x[:, 0] > 0.5) & (x[:, 1] < -0.5)).flatten(1).sum(1).double()
    assert torch.corrcoef(torch.stack([found["smile"], reds]))[0, 1] > 0.9  # whole pixels
    few, labels = read_attributes(MEDIUM, str(drawn_faces), "train", 7)
    assert len(few) == 7 and math.isnan(labels["male"][6]) and not labels["male"][:6].isnan().any()
    assert list(read_attributes(MEDIUM, "photographs", "test", 3)[1]) == ["brightness"]


def test_broken_pictures_are_left_out_with_their_labels(drawn_faces, tmp_path):
    for name in ("labels.csv", "landmarks68.npy"):
        (tmp_path / name).write_bytes((drawn_faces / name).read_bytes())
    with zipfile.ZipFile(drawn_faces / "images.zip") as old, zipfile.ZipFile(tmp_path / "images.zip", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"no picture" if "00009" in name else old.read(name))
    with pytest.warns(UserWarning, match="00009.png"):
        x, found = read_attributes(MEDIUM, str(tmp_path), "test")
    assert len(x) == 23 and [round(yaw, 1) for yaw in found["yaw"].tolist()][:3] == [0.4, 1.4, 1.9]
    np.save(tmp_path / "landmarks68.npy", np.zeros((3, 68, 2)))
    with pytest.warns(UserWarning), pytest.raises(MediaError, match=r"landmarks of shape \[120, 68, 2\].*\[3, 68, 2\]"):
        read_attributes(MEDIUM, str(tmp_path), "test")


def test_cells_that_mean_nothing_are_warned_of(tmp_path):
    MEDIUM.save(torch.zeros(4, 3, 16, 16), tmp_path)
    rows = ("20.5,f,-3", "young,MALE,left", "more than 70,,", "3-9,diverse,1")
    lines = [f"{i:05d}.png,{row}" for i, row in enumerate(rows)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,age,gender,yaw_deg", *lines]))
    with pytest.warns(UserWarning) as caught:
        _, found = read_attributes(MEDIUM, str(tmp_path), "all")
    nan = math.nan
    expected = {"age": [20.5, nan, 75, 6.5], "male": [0, 1, nan, nan], "yaw": [-3, nan, nan, 1]}
    for name, values in expected.items():
        torch.testing.assert_close(found[name], torch.tensor(values).double(), equal_nan=True)
    messages = [str(warning.message).split(": ", 1)[1] for warning in caught]
    assert messages == [
        "1 of 4 cells of yaw_deg, such as 'left', say nothing of yaw",
        "1 of 4 cells of age, such as 'young', say nothing of age",
        "1 of 4 cells of gender, such as 'diverse', say nothing of male",
    ]


def test_a_table_that_misses_pictures_is_refused(tmp_path):
    MEDIUM.save(torch.zeros(3, 3, 16, 16), tmp_path)
    (tmp_path / "labels.csv").write_text("file,age\n00000.png,20-29\n00002.png,3-9\n")
    with pytest.raises(MediaError, match="no row in a column 'file' for 00001.png$"):
        read_attributes(MEDIUM, str(tmp_path), "all")
    (tmp_path / "labels.csv").write_text("name,age\n00000.png,20-29\n")
    with pytest.raises(MediaError, match="00000.png, nor for 2 others"):
        read_attributes(MEDIUM, str(tmp_path), "all")


def test_a_smile_is_a_wide_mouth_with_raised_corners():
    points = torch.zeros(3, 68, 2)
    points[:, 36:42], points[:, 42:48] = torch.tensor([10.0, 10.0]), torch.tensor([30.0, 10.0])
    points[:, 51], points[:, 57] = torch.tensor([20.0, 30.0]), torch.tensor([20.0, 34.0])
    points[:, 48], points[:, 54] = torch.tensor([12.0, 32.0]), torch.tensor([28.0, 32.0])
    points[1, [48, 54], 1] -= 4
    points[2, 48, 0] -= 4
    assert torch.allclose(smile(points), torch.tensor([0.8, 1.2, 1.0]))
    assert torch.allclose(smile(3 * points + 7), smile(points))


def test_landmarks_are_numbers_of_the_right_shape(tmp_path):
    file = tmp_path / "landmarks68.npy"
    np.save(file, np.arange(272, dtype=np.int32).reshape(2, 68, 2))
    assert read_landmarks(file, 2)[1, 0].tolist() == [136, 137]
    for content in (np.zeros((2, 68, 3)), np.zeros((2, 68, 2), complex)):
        np.save(file, content)
        with pytest.raises(MediaError, match=r"expected landmarks of shape \[2, 68, 2\]"):
            read_landmarks(file, 2)
    for content in (b"no array", b""):
        file.write_bytes(content)
        with pytest.raises(MediaError, match=r"landmarks68.npy cannot be read"):
            read_landmarks(file, 2)


def test_portraits_are_the_neutral_ones_with_ibugs_landmarks(shared_data):
    found = read_portraits(shared_data / "london_faces_256")
    assert len(found.pictures) == len(found.landmarks) == len(found.labels["age"]) == 102
    assert set(found.labels["set"]) == {"neutral"}
    unknown = found.landmarks.isnan().any(2)  # the template has no inner corners of the mouth
    assert (unknown == unknown[0]).all() and unknown[0].nonzero()[:, 0].tolist() == [60, 64]
    # Eyes above nose above mouth above chin, and the contour from ear to ear.
    height = found.landmarks[:, :, 1]
    rows = [height[:, 36:48].mean(1), height[:, 30], height[:, 48:60].mean(1), height[:, 8]]
    assert all((upper < lower).all() for upper, lower in zip(rows, rows[1:], strict=False))
    assert (found.landmarks[:, 0, 0] < found.landmarks[:, 8, 0]).all()
    steps = found.landmarks[:, 1:9].sub(found.landmarks[:, :8]).norm(dim=2)
    assert (steps.std(1) < 0.05 * steps.mean(1)).all()


def test_a_folder_without_portraits_says_what_is_missing(tmp_path):
    with pytest.raises(MediaError, match=r"labels.csv"):
        read_portraits(tmp_path)
    (tmp_path / "labels.csv").write_text("file,set\na.png,smiling\n")
    with pytest.raises(MediaError, match=r"landmarks189.npy does not exist"):
        read_portraits(tmp_path)
    np.save(tmp_path / "landmarks189.npy", np.zeros((1, 189, 2)))
    MEDIUM.save(torch.zeros(3, 16, 16), tmp_path / "a.png")
    with pytest.raises(MediaError, match="holds no neutral portraits"):
        read_portraits(tmp_path)


def test_held_pictures_are_mirrored_anew_at_every_visit(drawn_faces):
    plain = MEDIUM.dataset(drawn_faces, "train")
    files = MEDIUM.dataset(drawn_faces, "train", flips=True)
    held = hold(files, MEDIUM)
    assert isinstance(held, Arrays) and hold(held, MEDIUM) is held
    assert hold(files, MEDIUM, most=4 * 96 * 768 - 1) is files
    for data in (files, held):
        x = torch.stack([data[i] for i in range(60)])
        assert torch.equal(x[5], plain[5])
        seen = data.randomise(x, torch.Generator().manual_seed(0))
        mirrored = (seen == x.flip(-1)).flatten(1).all(1)
        assert torch.equal(seen[~mirrored], x[~mirrored]) and 15 < mirrored.sum() < 45
        assert torch.equal(seen, data.randomise(x, torch.Generator().manual_seed(0)))


def test_binary_pictures_are_mirrored_and_binarised(drawn_faces):
    both = Images(1, 16, 16, 2).dataset(drawn_faces, "train", flips=True)
    grey = torch.linspace(-1, 1, 16).expand(200, 1, 16, 16)
    seen = both.randomise(grey, torch.Generator().manual_seed(0))
    assert set(seen.unique().tolist()) == {-1.0, 1.0}
    assert 60 < (seen[:, :, :, 0].mean((1, 2)) > 0).sum() < 140
