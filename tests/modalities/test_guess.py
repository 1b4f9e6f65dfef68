"""The medium of a source, by its files: each adapter sees its own, and what is given is taken as it is."""

from datetime import datetime, timedelta

import numpy as np
import pytest
import torch

from modalities import MediaError, guess
from modalities.images import Images
from modalities.meshes import Meshes
from modalities.points import Points
from modalities.signals import Signals


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recording(path, rows=1000, columns=3, times=True):
    start = datetime(2024, 5, 1)
    lines = ["time," * times + ",".join(f"c{i}" for i in range(columns))]
    for step in range(rows):
        time = f"{(start + timedelta(seconds=step / 4)).isoformat()}," if times else ""
        lines.append(time + ",".join(f"{step + i}.5" for i in range(columns)))
    path.write_text("\n".join(lines))


def test_named_sets_are_known():
    found = {name: guess(name) for name in ("two-moons", "synthetic-beats", "mnist", "digits", "cifar10")}
    assert found["two-moons"] == Points(2) and found["synthetic-beats"] == Signals(1, 256, 360.0, "mV")
    assert [found[name].shape for name in ("mnist", "digits", "cifar10")] == [(1, 28, 28), (1, 8, 8), (3, 32, 32)]
    assert guess("synthetic-heads").kind == "meshes"
    assert guess("digits", "images", height=12, levels=2) == Images(1, 12, 8, 2)
    with pytest.raises(MediaError, match="are no meshes, as far as can be seen"):
        guess(__file__, "meshes")


def test_pictures_are_grey_where_all_are_and_as_large_as_they_are_up_to_64(folder):
    grey = torch.rand(6, 1, 20, 30)
    Images(1, 20, 30).save(2 * grey - 1, folder / "grey" / "train" / "a")
    assert guess("grey") == Images(1, 20, 30)
    Images(3, 20, 30).save(torch.rand(1, 3, 20, 30), folder / "grey" / "test")
    assert guess("grey") == Images(3, 20, 30)
    Images(1, 100, 200).save(torch.rand(1, 1, 100, 200), folder / "large")
    assert guess("large") == Images(1, 32, 64)
    Images(1, 100, 120).save(torch.rand(1, 1, 100, 120), folder / "large" / "other")
    assert guess("large") == Images(1, 64, 64)
    np.save(folder / "bytes.npy", np.zeros((5, 9, 11), np.uint8))
    assert guess("bytes.npy") == Images(1, 9, 11)


def test_tables_are_points_recordings_or_a_row_a_series(folder):
    (folder / "points.csv").write_text("x;y;word\n1,5;2,0;a\n2,5;3,0;b\n3,5;4,5;a\n")
    with pytest.warns(UserWarning, match="decimal commas"):
        assert guess("points.csv") == Points(2)
    recording(folder / "sensor.csv")
    assert guess("sensor.csv") == Signals(3, 32, 4.0) and guess("sensor.csv:c0,c2") == Signals(2, 32, 4.0)
    assert guess("sensor.csv", length=100, rate=None) == Signals(3, 100)
    recording(folder / "plain.csv", 5000, times=False)
    with pytest.warns(UserWarning, match="no times: its rows are taken for the steps of one recording"):
        assert guess("plain.csv") == Signals(3, 128)
    assert guess("plain.csv:c0,c1") == Points(2)
    recording(folder / "rows.csv", 50, 40, times=False)
    assert guess("rows.csv") == Signals(1, 40)
    for i in range(3):
        recording(folder / "series" / f"{i}.csv") if (folder / "series").mkdir(exist_ok=True) else None
        recording(folder / "series" / f"{i}.csv", 50, 2, times=False)
    assert guess("series") == Signals(2, 50)


def test_archives_are_series_and_folders_of_meshes_are_what_the_first_file_is(folder):
    np.savez(folder / "beats.npz", x=np.zeros((4, 2, 30), np.float32))
    assert guess("beats.npz") == Signals(2, 30)
    heads = Meshes(60).dataset("synthetic-heads")
    heads.medium.save(heads[0], folder / "scans" / "a.ply")
    assert guess("scans", unit="cm").vertices == 60 and guess("scans", unit="cm").unit == "cm"


def test_what_suits_no_medium_is_said(folder):
    (folder / "notes").mkdir()
    (folder / "notes" / "a.docx").write_text("x")
    with pytest.raises(MediaError, match="notes suit none of points, images, signals"):
        guess("notes")
    with pytest.raises(MediaError, match="'nosuch' is neither a file or folder"):
        guess("nosuch")
