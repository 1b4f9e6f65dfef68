"""Labels, classes, splits and groups of the user's own files."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from modalities import MediaError
from modalities.images import Images
from modalities.meshes import Meshes
from modalities.points import Points
from modalities.signals import Signals
from zoo.conditions import Classes

MEDIUM = Images(1, 2, 2)


def write(folder, *names):
    """Pictures whose grey value is their position in `names`."""
    for value, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), value).save(folder / name)


def found(folder, split, medium=MEDIUM, **options):
    """The grey value and the class name of every item."""
    data = medium.dataset(folder, split, labels=True, **options)
    pairs = [data[i] for i in range(len(data))]
    return [(round((float(x[0, 0, 0]) + 1) * 127.5), data.classes[y]) for x, y in pairs]


@pytest.mark.parametrize(
    "train, test", [("train", "valid"), ("training", "testing"), ("Train", "Test"), ("TRAIN", "Validation")]
)
@pytest.mark.parametrize("above", ["", "set/"])
def test_folders_of_splits_are_known_by_their_names(tmp_path, train, test, above):
    write(tmp_path, *(f"{above}{part}/{name}" for part in (train, test) for name in ("cats/a.png", "dogs/b.png")))
    assert found(tmp_path, "train") == [(0, "cats"), (1, "dogs")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert found(tmp_path, "test") == [(2, "cats"), (3, "dogs")]
    said = ["no items for tests; those of its validation take their place" in str(w.message) for w in caught]
    assert said == [True] * ("val" in test.lower())


def test_a_split_alone_is_a_split_and_among_classes_it_is_a_class_that_is_said(tmp_path):
    write(tmp_path / "one", "train/cats/a.png", "train/dogs/b.png")
    assert found(tmp_path / "one", "train") == [(0, "cats"), (1, "dogs")]
    with pytest.raises(MediaError, match="no split 'test'; choose one of all, train"):
        MEDIUM.dataset(tmp_path / "one", "test")
    write(tmp_path / "vehicles", "bus/a.png", "train/b.png")
    with pytest.warns(UserWarning, match="train, beside folders that are no splits, is taken for a class"):
        assert found(tmp_path / "vehicles", "all") == [(0, "bus"), (1, "train")]
    write(tmp_path / "loose", "train/a.png", "test/b.png", "c.png")
    with pytest.warns(UserWarning, match="1 items belong to no split"):
        assert len(MEDIUM.dataset(tmp_path / "loose")) == 1


def test_one_class_and_other_files_are_said(tmp_path):
    write(tmp_path, "photos/cats/a.png", "photos/dogs/b.png")
    for name in ("c.heic", "d.heic", "e.txt", ".hidden.png", "README.md"):
        (tmp_path / name).write_bytes(b"")
    write(tmp_path, ".cache/f.png", "__MACOSX/g.png")
    with pytest.warns(UserWarning) as warned:
        assert found(tmp_path, "all") == [(0, "photos"), (1, "photos")]
    words = [str(warning.message) for warning in warned]
    assert any("left out 3 other files (2 .heic, 1 .txt)" in said for said in words)
    assert any("all items of" in said and "are of one class, 'photos'" in said for said in words)


def test_a_test_folder_that_lacks_classes_is_numbered_by_the_names_of_the_model(tmp_path):
    write(tmp_path / "train", *(f"{i}/a.png" for i in range(12)))
    write(tmp_path / "test", "3/a.png", "11/b.png")
    names = MEDIUM.dataset(tmp_path / "train", "all", labels=True).classes
    assert names == tuple(map(str, range(12)))
    alone = MEDIUM.dataset(tmp_path / "test", "all", labels=True)
    assert alone.classes == ("3", "11") and [alone[i][1] for i in (0, 1)] == [1, 0]
    matched = MEDIUM.dataset(tmp_path / "test", "all", labels=True, classes=Classes(names).names)
    assert matched.classes == names and [matched[i][1] for i in (0, 1)] == [11, 3]
    with pytest.raises(MediaError, match="test has items of the class '11'; the classes are 1, 2, 3"):
        MEDIUM.dataset(tmp_path / "test", "all", labels=True, classes=("1", "2", "3"))
    assert MEDIUM.dataset(tmp_path / "test", "all").classes is None


def test_every_medium_numbers_by_given_names(tmp_path):
    assert (
        Images().dataset("digits", labels=True, classes=Classes.numbered(12).names).classes
        == Classes.numbered(12).names
    )
    patches = Images(3, 64, 64).dataset("photographs", "all", labels=True, classes=("flower", "china"))
    assert patches.labels[0] == 1 and Images(3, 64, 64).dataset("photographs", labels=True).classes == (
        "china",
        "flower",
    )
    assert Signals().dataset("synthetic-beats", labels=True).classes == ("normal", "wide")
    beats = Signals().dataset("synthetic-beats", labels=True, classes=("wide", "normal"))
    assert (beats.labels == 1 - Signals().dataset("synthetic-beats", labels=True).labels).all()
    (tmp_path / "a.csv").write_text("kind,x,y\nb,1,2\na,3,4\n")
    points = Points().dataset(tmp_path / "a.csv", "all", labels=True, classes=("a", "b", "c"))
    assert points.classes == ("a", "b", "c") and points.labels.tolist() == [1, 0] and points.split == "all"
    for name in ("small/0.obj", "large/0.obj"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "a.csv").unlink()
    meshes = Meshes(3).dataset(tmp_path, "all", labels=True, classes=("small", "large"))
    assert [meshes[i][1] for i in (0, 1)] == [1, 0]


def test_numbers_are_classes_in_the_order_of_numbers(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((12, 4)), y=np.arange(1.0, 13))
    data = Signals(1, 4).dataset(tmp_path / "a.npz", "all", labels=True)
    assert data.labels.tolist() == list(range(12)) and data.classes == tuple(str(i) for i in range(1, 13))
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4)), y=np.array([0.5, 1]))
    with pytest.raises(MediaError, match="labels are texts or whole numbers, got 0.5"):
        Signals(1, 4).dataset(tmp_path / "a.npz", labels=True)


def test_whole_groups_are_for_tests(tmp_path):
    write(tmp_path / "photos", *(f"cats/p{person}_{i}.png" for person in range(12) for i in range(3)))
    train, test = (MEDIUM.dataset(tmp_path / "photos", split, groups=r"p(\d+)_") for split in ("train", "test"))
    assert set(test.groups) == {"9"} and set(train.groups) == set(map(str, range(12))) - {"9"}
    assert (len(train), len(test), len(train.groups)) == (33, 3, 33)
    few = [MEDIUM.dataset(tmp_path / "photos", split, groups=r"p(.)") for split in ("train", "test", "all")]
    assert not set(few[0].groups) & set(few[1].groups) and len(few[2].groups) == 36
    with pytest.raises(MediaError, match="belongs to no group: 'q' is not found"):
        MEDIUM.dataset(tmp_path / "photos", groups="q")
    with pytest.raises(ValueError, match="groups of files are given by a regular expression"):
        MEDIUM.dataset(tmp_path / "photos", groups="(")
    (tmp_path / "a.csv").write_text("person,x\n" + "".join(f"{i // 4},{i}\n" for i in range(40)))
    test = Points(1).dataset(tmp_path / "a.csv", "test", groups="person")
    assert test.x.flatten().tolist() == [16, 17, 18, 19, 36, 37, 38, 39]
    np.savez(tmp_path / "a.npz", x=np.zeros((10, 4)), day=np.repeat(["mon", "tue", "wed", "thu", "fri"], 2))
    assert set(Signals(1, 4).dataset(tmp_path / "a.npz", "test", groups="day").groups) == {"wed"}
    with pytest.raises(MediaError, match="expected an array week"):
        Signals(1, 4).dataset(tmp_path / "a.npz", groups="week")
    with pytest.raises(MediaError, match="no groups"):
        Points().dataset("ring", groups="x")


def test_groups_that_a_source_splits_itself_are_said(tmp_path):
    write(tmp_path, "train/anna1.png", "test/anna2.png")
    with pytest.warns(UserWarning, match="items of anna in several splits"):
        MEDIUM.dataset(tmp_path, "train", groups="[a-z]+(?=[0-9])")


def test_arrays_of_pictures(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(12, 2, 2)
    colour = np.random.default_rng(0).integers(0, 256, (4, 3, 2, 2)).astype(np.uint8)
    np.save(tmp_path / "a.npy", grey)
    assert torch.equal(
        MEDIUM.dataset(tmp_path / "a.npy", "all").x, torch.from_numpy(grey[:, None] / np.float32(127.5)) - 1
    )
    assert len(MEDIUM.dataset(tmp_path / "a.npy", "test")) == 1
    for layout in (colour, colour.transpose(0, 2, 3, 1)):
        np.savez(tmp_path / "a.npz", images=layout, labels=list("abab"))
        data = Images(3, 2, 2).dataset(tmp_path / "a.npz", "all", labels=True)
        assert torch.equal(((data.x + 1) * 127.5).round().byte(), torch.from_numpy(colour)) and data.classes == (
            "a",
            "b",
        )
    parts = {"x_train": grey[:8], "y_train": np.arange(8) % 2, "x_test": grey[8:], "y_test": np.ones((4, 1), int)}
    np.savez(tmp_path / "keras.npz", **parts)
    test = MEDIUM.dataset(tmp_path / "keras.npz", "test", labels=True)
    assert test.labels.tolist() == [1] * 4 and len(MEDIUM.dataset(tmp_path / "keras.npz")) == 8
    np.savez(
        tmp_path / "med.npz", **{f"{part}_images": grey[i : i + 1] for i, part in enumerate(("train", "val", "test"))}
    )
    assert [MEDIUM.dataset(tmp_path / "med.npz", part).x[0, 0, 0, 0] * 127.5 + 127.5 for part in ("val", "test")] == [
        4,
        8,
    ]


@pytest.mark.parametrize(
    "values, expected, said",
    [
        (np.array([False, True]), [0, 255], None),
        (np.array([0, 65535], np.uint16), [0, 255], None),
        (np.array([0, 200], np.int64), [0, 200], None),
        (np.array([0.0, 1.0]), [0, 255], r"taken to lie in \[0, 1\]"),
        (np.array([-1.0, 1.0], np.float32), [0, 255], r"taken to lie in \[-1, 1\]"),
        (np.array([0, 1], np.uint8), [0, 1], "all black; store truth values"),
    ],
)
def test_the_scale_of_arrays_of_pictures_is_known_or_said(tmp_path, values, expected, said, recwarn):
    np.save(tmp_path / "a.npy", np.broadcast_to(values[:, None, None], (2, 2, 2)))
    x = MEDIUM.dataset(tmp_path / "a.npy", "all").x
    assert ((x[:, 0, 0, 0] + 1) * 127.5).round().tolist() == expected
    if said is None:
        assert not recwarn
    else:
        recwarn.pop(UserWarning)
        np.save(tmp_path / "a.npy", np.broadcast_to(values[:, None, None], (2, 2, 2)))
        with pytest.warns(UserWarning, match=said):
            MEDIUM.dataset(tmp_path / "a.npy", "all")


def test_a_column_labels_loose_files_too(tmp_path):
    write(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_bytes("\ufefffile ; mood\nb.png;froh\na.png;müde\n".encode())
    assert found(f"{tmp_path}:mood", "all") == [(1, "froh"), (0, "müde")]
    (tmp_path / "labels.csv").write_bytes("file, mood\nb.png,froh\na.png,müde\n".encode("latin-1"))
    with pytest.warns(UserWarning, match="no UTF-8 text; it was read as Windows-1252"):
        assert found(f"{tmp_path}:mood", "all") == [(1, "froh"), (0, "müde")]
