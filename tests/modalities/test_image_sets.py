"""Data sets of images: named sets, idx files, zip files with a table, folders, broken files, binarisation."""

import gzip
import io
import zipfile
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from torch.utils.data import DataLoader

from modalities import MediaError
from modalities.data import batches
from modalities.images import Images


def png(value: int, size: tuple[int, int] = (28, 28)) -> bytes:
    content = io.BytesIO()
    Image.new("L", size, value).save(content, "png")
    return content.getvalue()


def grey(x: torch.Tensor) -> int:
    """The byte of an image of one colour."""
    assert (x == x.flatten()[0]).all()
    return round((float(x.flatten()[0]) + 1) * 127.5)


def write_folder(folder, names):
    """Pictures whose grey value is their position in `names`."""
    for value, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(value))


def write_idx(folder, prefix, count, suffix=".gz"):
    """Images whose first pixel is their position, and labels: the position modulo 10."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 0, 0] = np.arange(count)
    labels = (np.arange(count) % 10).astype(np.uint8)
    pack = gzip.compress if suffix else bytes
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (folder / f"{prefix}-{name}-ubyte{suffix}").write_bytes(pack(header + array.tobytes()))


def test_digits_need_no_network_and_have_a_fixed_split():
    images = Images(1, 8, 8)
    train, test = images.dataset("digits", labels=True), images.dataset("digits", "test", labels=True)
    assert (len(train), len(test), len(images.dataset("digits", "all"))) == (1500, 297, 1797)
    x, y = train.take(range(10))
    assert y.tolist() == list(range(10))
    assert np.allclose(x[:, 0], load_digits().images[:10] / 8 - 1, atol=0.51 / 127.5)
    assert Images(3, 20, 12).dataset("digits")[0].shape == (3, 20, 12)


def test_photographs_become_patches():
    images = Images(3, 64, 64)
    x, y = images.dataset("photographs", "all", labels=True)[60 + 10 + 2]
    assert y == 1
    patch = load_sample_image("flower.jpg")[64:128, 128:192]
    assert (((x + 1) * 127.5).round().permute(1, 2, 0).numpy() == patch).all()
    assert len(images.dataset("photographs")) == 108 and len(images.dataset("photographs", "test")) == 12
    with pytest.raises(MediaError, match="427 x 640"):
        Images(3, 500, 64).dataset("photographs")


@pytest.mark.parametrize("place, suffix", [("", ".gz"), ("", ""), ("MNIST/raw", ".gz")])
def test_idx_files(tmp_path, place, suffix):
    write_idx(tmp_path / place, "train", 30, suffix)
    write_idx(tmp_path / place, "t10k", 20, suffix)
    train, test = (Images().dataset(tmp_path, split, labels=True) for split in ("train", "test"))
    assert (len(train), len(test), len(Images().dataset(tmp_path, "all"))) == (30, 20, 50)
    x, y = test.take([13])
    assert round((float(x[0, 0, 0, 0]) + 1) * 127.5) == 13 and y.tolist() == [3]
    assert torch.equal(Images(3, 28, 28).dataset(tmp_path, "test")[13], x[0].expand(3, 28, 28))
    with pytest.raises(MediaError, match="no split 'dev'"):
        Images().dataset(tmp_path, "dev")
    with pytest.raises(MediaError, match="labels.csv with a column 'age'"):
        Images().dataset(f"{tmp_path}:age")


def test_broken_idx_files_are_named(tmp_path):
    write_idx(tmp_path, "train", 30)
    with pytest.raises(MediaError, match="t10k-images-idx3-ubyte"):
        Images().dataset(tmp_path, "test")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for content, reason in [
        (whole[:60], "cannot be read"),
        (b"words", "cannot be read"),
        (gzip.compress(b"words"), "is no idx file"),
        (gzip.compress(gzip.decompress(whole)[:-1]), "announces"),
    ]:
        path.write_bytes(content)
        with pytest.raises(MediaError, match=f"{path.name} {reason}"):
            Images().dataset(tmp_path)
    write_idx(tmp_path, "train", 29)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(whole)
    with pytest.raises(MediaError, match="30 train images but 29 labels"):
        Images().dataset(tmp_path)


@pytest.fixture
def table(tmp_path):
    """A folder with images.zip and labels.csv: file i of 20 has grey value i; every fourth is for validation."""
    rows = ["file,split,label,mood"]
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for i in range(20):
            archive.writestr(f"images/{i}.png", png(i))
            rows.append(f"{i}.png,{'train' if i % 4 else 'val'},{i % 3},{['sad', 'happy'][i % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path


def test_zip_with_a_table(table):
    images = Images()
    data = images.dataset(table, "test", labels=True)
    assert [(grey(x), y) for x, y in (data[i] for i in range(len(data)))] == [(i, i % 3) for i in range(0, 20, 4)]
    moods = images.dataset(f"{table}:mood", "all", labels=True)
    assert [moods[i][1] for i in range(4)] == [1, 0, 1, 0]
    assert len(images.dataset(table)) == 15 and len(images.dataset(table, "val")) == 5
    with pytest.raises(MediaError, match="no column 'age'; it has file, split, label, mood"):
        images.dataset(f"{table}:age")
    with pytest.raises(MediaError, match="choose one of all, train, val"):
        images.dataset(table, "dev")


def test_zip_is_read_by_forked_workers(tmp_path):
    # Larger than a read buffer, so that workers that shared a position in the file would get in each other's way.
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for i in range(20):
            content = io.BytesIO()
            Image.new("L", (200, 200), i).save(content, "bmp")
            archive.writestr(f"{i}.bmp", content.getvalue())
    (tmp_path / "labels.csv").write_text("\n".join(["file"] + [f"{i}.bmp" for i in range(20)]))
    data = Images(1, 200, 200).dataset(tmp_path, "all")
    assert grey(data[0]) == 0
    order = list(range(20)) * 20
    loader = DataLoader(data, batch_size=20, sampler=order, num_workers=2, multiprocessing_context="fork")
    assert [grey(x) for batch in loader for x in batch] == order


def test_broken_zip_members_are_named(table):
    content = (table / "images.zip").read_bytes()
    first = content.index(b"\x89PNG")
    (table / "images.zip").write_bytes(content[:first] + b"damaged!" + content[first + 8 :])
    with pytest.raises(MediaError, match=r"images\.zip/images/0\.png cannot be unpacked: Bad CRC"):
        Images().dataset(table, "all")[0]
    rows = (table / "labels.csv").read_text()
    (table / "labels.csv").write_text(rows.replace("19.png", "lost.png"))
    with pytest.raises(MediaError, match="lost.png cannot be unpacked"):
        Images().dataset(table, "all")[19]
    (table / "images.zip").write_bytes(content[:100])
    with pytest.raises(MediaError, match="images.zip cannot be read"):
        Images().dataset(table)


def test_folder_is_listed_with_subfolders_and_a_fixed_split(tmp_path):
    write_folder(tmp_path, [f"{'cat' if i < 10 else 'dog'}/{i:02d}.png" for i in range(20)])
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "cat" / "._01.png").write_text("a file system's leftovers")
    images = Images()
    with pytest.warns(UserWarning, match=r"left out 1 other files \(1 .txt\)"):
        train, test = images.dataset(tmp_path, labels=True), images.dataset(tmp_path, "test", labels=True)
    assert [(grey(x), y) for x, y in (test[i] for i in range(len(test)))] == [(9, 0), (19, 1)]
    assert sorted(grey(train[i][0]) for i in range(len(train))) == [i for i in range(20) if i % 10 != 9]


def test_folders_without_pictures_or_labels_are_refused(tmp_path):
    with pytest.raises(MediaError, match=r"is empty: found no \.png, \.jpg"):
        Images().dataset(tmp_path)
    write_folder(tmp_path, ["0.png"])
    with pytest.raises(MediaError, match="has no labels"):
        Images().dataset(tmp_path, labels=True)
    with pytest.raises(MediaError, match="labels.csv with a column 'age'"):
        Images().dataset(f"{tmp_path}:age")
    with pytest.raises(MediaError, match="is a file"):
        Images().dataset(tmp_path / "0.png")
    with pytest.raises(MediaError, match="neither .* nor one of the named sets: digits, "):
        Images().dataset(tmp_path / "nowhere")


def test_three_broken_files_of_fifty_are_skipped_counted_and_named(tmp_path):
    write_folder(tmp_path, [f"{i:02d}.png" for i in range(50)])
    (tmp_path / "07.png").write_text("words")
    (tmp_path / "20.png").write_bytes(png(20)[:45])
    (tmp_path / "49.png").write_bytes(b"")
    with pytest.warns(UserWarning) as warned:
        values = [grey(x) for batch in batches(Images().dataset(tmp_path, "all"), 8) for x in batch.x]
    assert values == [i for i in range(50) if i not in (7, 20, 49)]
    messages = [str(warning.message) for warning in warned]
    assert len(messages) == 4 and messages[-1] == "skipped 3 broken files of 50"
    assert all(name in message for name, message in zip(("07.png", "20.png", "49.png"), messages, strict=False))


def test_two_levels_are_drawn_afresh_at_every_visit(tmp_path):
    write_folder(tmp_path, [f"{i}.png" for i in range(0, 128)])
    for data in (Images(levels=2).dataset("digits"), Images(levels=2).dataset(tmp_path)):
        assert not set(data[100].unique().tolist()) <= {-1.0, 1.0}
        generator = torch.Generator().manual_seed(0)
        first, second = next(batches(data, 50, generator)).x, next(batches(data, 50, generator)).x
        assert set(first.unique().tolist()) == {-1.0, 1.0} and (first != second).any()
        again = next(batches(data, 50, torch.Generator().manual_seed(0))).x
        assert (first == again).all()


def test_torchvision_sets(monkeypatch):
    import torchvision.datasets

    class Fake:
        def __init__(self, root, train, download):
            self.data = np.full((6 if train else 4, 32, 32, 3), 255 * train, np.uint8)
            self.targets, self.classes = list(range(len(self.data))), list("abcdef")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Fake)
    x, y = Images(3, 32, 32).dataset("cifar10", "test", labels=True)[2]
    assert x.shape == (3, 32, 32) and (x == -1).all() and y == 2
    assert len(Images(1, 28, 28).dataset("cifar10", "all")) == 10


@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("Error downloading a:\nTried b")])
def test_no_network_is_one_sentence(monkeypatch, error):
    import torchvision.datasets

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(torchvision.datasets, "MNIST", fail)
    with pytest.raises(MediaError, match="mnist could not be downloaded .*check the network") as caught:
        Images().dataset("mnist")
    assert "\n" not in str(caught.value)


def test_real_sets(shared_data):
    x, y = Images().dataset(shared_data / "mnist", "test", labels=True).take(range(4))
    assert y.tolist() == [7, 2, 1, 0] and 0.08 < float((x + 1).mean() / 2) < 0.18
    cifar = Images(3, 32, 32).dataset(shared_data / "cifar10_subset", labels=True)
    assert len(cifar) == 6000 and cifar[5999][1] == 9
    faces = Images(3, 32, 32).dataset(f"{shared_data / 'fairface_aligned_128'}:gender", "test", labels=True)
    assert len(faces) == 670 and faces[0][0].shape == (3, 32, 32)
    portraits = Images(3, 64, 64).dataset(f"{shared_data / 'london_faces_256'}:set", "all", labels=True)
    assert len(portraits) == 244 and portraits[243][1] == 0
