"""Signals: files, bad cells, archives, folders, generated beats, pictures."""

import numpy as np
import pytest
import torch

from modalities import MediaError, from_config
from modalities.data import batches
from modalities.signals import Signals, dequantised, recorded_step, synthetic_beats


def series(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["a.csv", "a.npy"])
@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip_is_exact(tmp_path, name, channels):
    signals, x = Signals(channels, 20, unit="mV"), series(channels, 20)
    signals.save(x, tmp_path / "new" / name)
    assert (signals.load(tmp_path / "new" / name) == x).all()


def test_batches_are_saved_as_an_array_or_a_folder(tmp_path):
    signals, x = Signals(2, 20), series(3, 2, 20)
    signals.save(x, tmp_path / "a.npy")
    assert (np.load(tmp_path / "a.npy") == x.numpy()).all()
    signals.save(x, tmp_path / "many")
    assert [file.name for file in sorted((tmp_path / "many").iterdir())] == ["00000.csv", "00001.csv", "00002.csv"]
    assert (next(batches(signals.dataset(tmp_path / "many", "all"), 3)).x == x).all()
    with pytest.raises(MediaError, match="a .csv file holds one series, got a batch"):
        signals.save(x, tmp_path / "a.csv")
    with pytest.raises(MediaError, match=r"written as \.csv or \.npy, not \.wav"):
        signals.save(x, tmp_path / "a.wav")


def test_files_without_a_header_or_channels(tmp_path):
    (tmp_path / "a.tsv").write_text("1\t4\n2\t5\n3\t6e0\n")
    assert Signals(2, 3).load(tmp_path / "a.tsv").tolist() == [[1, 2, 3], [4, 5, 6]]
    np.save(tmp_path / "a.npy", np.arange(3))
    assert Signals(1, 3).load(tmp_path / "a.npy").tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("cell", ["nan", "NaN", "inf", "-Infinity", "", "oops"])
def test_bad_cells_are_named(tmp_path, cell):
    (tmp_path / "bad.csv").write_text(f"left,right\n1,4\n2,{cell}\n3,6\n")
    with pytest.raises(MediaError, match=f"bad.csv, row 2, column right: expected a finite number, got '{cell}'"):
        Signals(2, 3).load(tmp_path / "bad.csv")


BROKEN_ARRAYS = {
    "nan.npy": (np.array([[0, np.nan, 1]]), "channel 0, step 1: got nan"),
    "complex.npy": (np.ones((1, 3), complex), "expected real numbers .* got complex128"),
    "cube.npy": (np.ones((2, 1, 3)), r"expected real numbers .*\[2, 1, 3\]"),
    "objects.npy": (np.array([None, "a", 3]), "holds Python objects"),
    "long.npy": (np.ones((1, 4)), "1 channels of 4 steps, expected 1 of 3"),
    "wide.npy": (np.ones((2, 3)), "2 channels of 3 steps, expected 1 of 3"),
}


@pytest.mark.parametrize("name", BROKEN_ARRAYS)
def test_broken_arrays_are_named(tmp_path, name):
    array, reason = BROKEN_ARRAYS[name]
    np.save(tmp_path / name, array)
    with pytest.raises(MediaError, match=f"{name}.*{reason}"):
        Signals(1, 3).load(tmp_path / name)


@pytest.mark.parametrize("name", ["missing.csv", "missing.npy", "words.npy", "words.wav"])
def test_broken_files_are_named(tmp_path, name):
    if name.startswith("words"):
        (tmp_path / name).write_bytes(b"words")
    with pytest.raises(MediaError, match=name):
        Signals(1, 3).load(tmp_path / name)


def test_archive_of_one_set(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(40.0).reshape(10, 4), y=np.array([7, 3] * 5))
    train, test = (Signals(1, 4).dataset(tmp_path / "a.npz", split, labels=True) for split in ("train", "test"))
    assert test.x[:, 0, 0].tolist() == [16, 36] and test.labels.tolist() == [1, 0]
    assert len(train) == 8 and train.x.shape == (8, 1, 4)
    with pytest.raises(MediaError, match="1 channels of 4 steps, expected 1 of 140; .*length=4"):
        Signals().dataset(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=np.ones((3, 2, 4)))
    assert len(Signals(2, 4).dataset(tmp_path / "b.npz", "all")) == 3
    with pytest.raises(MediaError, match="has no labels"):
        Signals(2, 4).dataset(tmp_path / "b.npz", labels=True)


def test_archive_of_several_sets(tmp_path):
    x = np.arange(24, dtype=np.float32).reshape(6, 1, 4)
    np.savez(tmp_path / "a.npz", Up_train_x=x[:4], Up_train_y=list("abab"), Up_test_x=x[4:], Up_test_y=list("ba"))
    data = Signals(1, 4).dataset(f"{tmp_path / 'a.npz'}:Up", "test", labels=True)
    assert (data.x.numpy() == x[4:]).all() and data.labels.tolist() == [1, 0]
    for source in ("a.npz", "a.npz:Down"):
        with pytest.raises(MediaError, match="holds the sets Up; name one of them as a.npz:NAME"):
            Signals(1, 4).dataset(tmp_path / source)


def test_broken_archives_are_named(tmp_path):
    for content, reason in [
        ({"z": np.ones(3)}, "holds z; expected arrays x and y"),
        ({"x": np.ones(3)}, r"expected real numbers of shape \[items, channels, time\]"),
        ({"x": np.ones((3, 4)), "y": np.ones(2)}, r"label for each of 3 items, got labels of shape \[2\]"),
        ({"x": np.full((3, 4), np.inf)}, "item 0, channel 0, step 0: got inf"),
    ]:
        np.savez(tmp_path / "bad.npz", **content)
        with pytest.raises(MediaError, match=f"bad.npz.*{reason}"):
            Signals(1, 4).dataset(tmp_path / "bad.npz")
    (tmp_path / "bad.npz").write_bytes((tmp_path / "bad.npz").read_bytes()[:50])
    with pytest.raises(MediaError, match="bad.npz cannot be read as arrays of numbers"):
        Signals(1, 4).dataset(tmp_path / "bad.npz")


def test_folder_skips_and_names_broken_files(tmp_path):
    for i in range(10):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[i % 2] / f"{i}.csv").write_text(f"{i}\n{i}\n{'nan' if i == 3 else i}\n")
    data = Signals(1, 3).dataset(tmp_path, "all", labels=True)
    with pytest.warns(UserWarning) as warned:
        x, y, _ = next(batches(data, 10))
    assert x[:, 0, 0].tolist() == [0, 2, 4, 6, 8, 1, 5, 7, 9] and y.tolist() == [0] * 5 + [1] * 4
    assert "3.csv, row 3" in str(warned[0].message)
    (tmp_path / "c.csv").write_text("1\n1\n1\n")
    with pytest.raises(MediaError, match="c.csv has no label"):
        Signals(1, 3).dataset(tmp_path, labels=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match=r"empty is empty: found no \.csv, \.tsv, \.txt, \.npy file"):
        Signals(1, 3).dataset(tmp_path / "empty")
    with pytest.raises(MediaError, match="named sets: synthetic-beats"):
        Signals(1, 3).dataset("nowhere")


def test_synthetic_beats_are_fixed_and_look_like_beats():
    train, test = (Signals().dataset("synthetic-beats", split, labels=True) for split in ("train", "test"))
    assert (len(train), len(test)) == (1600, 400) and (Signals().dataset("synthetic-beats").x == train.x).all()
    assert abs(float(train.labels.float().mean()) - 0.2) < 0.03
    mean = train.x[train.labels == 0].mean(0)[0]
    wide = train.x[train.labels == 1].mean(0)[0]
    # The R wave stands at 40 % of the beat; the T wave is upright in normal beats and inverted in wide ones.
    assert abs(int(mean.argmax()) - 56) <= 1 and abs(int(wide.argmax()) - 56) <= 2
    assert (wide > wide.max() / 2).sum() > 2 * (mean > mean.max() / 2).sum()
    assert mean[84:105].max() > 0.2 and wide[84:105].min() < -0.2
    x, _ = synthetic_beats(50, 300, 3, torch.Generator().manual_seed(0))
    assert x.shape == (50, 3, 300) and torch.allclose(x[:, 2].amax(1) / x[:, 0].amax(1), torch.tensor(0.49), atol=0.15)


def test_show_draws_one_panel_a_series():
    wide, tall = (Signals(2, 50, 100, "mV").show(series(4, 2, 50), columns) for columns in (4, 1))
    assert wide.width > 1.5 * wide.height and tall.height > tall.width
    assert 0.005 < (np.asarray(wide) < 250).any(2).mean() < 0.3
    with pytest.raises(MediaError, match="empty batch"):
        Signals(2, 50).show(series(0, 2, 50))


def test_configuration_survives_and_is_checked():
    signals = Signals(2, 256, 360.0, "mV")
    assert from_config(signals.config()) == signals
    for fields in ({"channels": 0}, {"length": 0}, {"rate": -1.0}):
        with pytest.raises(ValueError, match=str(next(iter(fields.values())))):
            Signals(**fields)


def test_real_sets(shared_data):
    folder = shared_data / "signals"
    beats = Signals().dataset(folder / "ecg5000_train.npz", "all", labels=True)
    assert beats.labels.bincount().tolist() == [292, 177, 10, 19, 2]
    train, test = (Signals().dataset(folder / "ecg5000_train.npz", split, labels=True) for split in ("train", "test"))
    assert (len(train), len(test)) == (400, 100) and test.labels.bincount().tolist()[:2] == [58, 35]
    heart = Signals(1, 256, 360, "mV").dataset(folder / "mitbih_100.npz", "all", labels=True)
    assert heart.labels.bincount().tolist() == [33, 2237, 1] and 0.5 < float(heart.x[:, 0, 100].mean()) < 1.5
    motions = Signals(6, 100).dataset(f"{folder / 'ucr_uea_small.npz'}:BasicMotions", "test", labels=True)
    assert motions.x.shape == (40, 6, 100) and motions.labels.bincount().tolist() == [10] * 4


def test_the_step_of_a_converter_is_found_and_values_stay_within_their_level(shared_data):
    x = Signals(1, 256, 360.0, "mV").dataset(shared_data / "signals" / "mitbih_100.npz", "train").x[:200]
    step = recorded_step(x)
    assert step == pytest.approx(0.005, rel=1e-3)
    data = dequantised(x, step)
    noise = data.randomise(x, torch.Generator().manual_seed(0)) - x
    assert torch.equal(data.x, x)
    assert noise.abs().max() <= step / 2 + 1e-6 and noise.std().item() == pytest.approx(step / 12**0.5, rel=0.01)
    continuous = synthetic_beats(20, 64)[0]
    assert recorded_step(continuous) == 0 and dequantised(continuous, 0.0).randomise(continuous, None) is continuous
