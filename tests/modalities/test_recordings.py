"""Long recordings in windows, and tables with a row a series."""

from datetime import datetime, timedelta

import numpy as np
import pytest

from modalities import MediaError
from modalities.signals import Signals

START = datetime(2024, 2, 28, 22)


def record(path, steps=3000, seconds=10.0, gap=None, missing=(), **columns):
    """A table with times, temperature (the number of the step) and humidity (twice that)."""
    rows = [",".join(["time", "temperature", "humidity", *columns])]
    for i in range(steps):
        time = START + timedelta(seconds=seconds * i + (3600 if gap is not None and i >= gap else 0))
        cells = [time.isoformat(), "NaN" if i in missing else i, 2 * i, *(column(i) for column in columns.values())]
        rows.append(",".join(map(str, cells)))
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(rows))
    return path


def starts(data):
    return [int(x[0, 0]) for x in data.x]


def test_windows_of_columns_by_name_or_number(tmp_path):
    path = record(tmp_path / "sensor.csv")
    data = Signals(2, 256).dataset(f"{path}:temperature,humidity", stride=64)
    assert starts(data) == list(range(0, 2400 - 255, 64)) and (data.x[:, 1] == 2 * data.x[:, 0]).all()
    assert (data.x[3, 0].diff() == 1).all() and data.split == "train"
    assert starts(Signals(1, 256).dataset(f"{path}:3", stride=64)) == [2 * start for start in starts(data)]
    assert starts(Signals(2, 500).dataset(path, "all")) == list(range(0, 3000, 500))
    np.save(tmp_path / "a.npy", np.arange(3000.0))
    assert starts(Signals(1, 500).dataset(tmp_path / "a.npy", stride=1000)) == [0, 1000]


def test_no_window_of_training_overlaps_one_of_the_tests(tmp_path):
    path = record(tmp_path / "sensor.csv", 1003)
    train, test = (Signals(1, 50).dataset(f"{path}:temperature", split, stride=1) for split in ("train", "test"))
    assert train.x.max() < test.x.min() and test.x.max() == 1002 and test.x.min() == 803
    with pytest.raises(MediaError, match="no 250 steps without a gap in the last fifth"):
        Signals(1, 250).dataset(f"{path}:temperature", "test")


def test_no_window_spans_a_gap_a_missing_value_or_a_change(tmp_path):
    path = record(tmp_path / "sensor.csv", 1000, gap=95, missing=(400,), state=lambda i: "on" if i < 700 else "off")
    with pytest.warns(UserWarning, match="1 of 1000 steps lack values, and 1 gaps lie between them"):
        found = starts(Signals(1, 100).dataset(f"{path}:temperature", "all"))
    assert found == [95, 195, 295, 401, 501, 601, 701, 801, 901][:3] + [401, 501, 601, 701, 801]
    data = Signals(1, 100).dataset(f"{path}:temperature", "all", labels=True)
    assert starts(data) == [95, 195, 295, 401, 501, 700, 800, 900]
    assert [data.classes[y] for y in data.labels] == ["on"] * 5 + ["off"] * 3


def test_groups_of_a_recording_are_whole_in_a_split(tmp_path):
    path = record(tmp_path / "sensor.csv", 1000, day=lambda i: f"day {i // 100}")
    train, test = (Signals(1, 30).dataset(f"{path}:temperature", s, groups="day") for s in ("train", "test"))
    assert set(test.groups) == {"day 4", "day 9"} and len(train) == 8 * 3 and starts(test)[:3] == [400, 430, 460]


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda rows: rows[:3] + rows[2:], "row 3: the time .* is not after the one before"),
        (lambda rows: [*rows[:3], rows[3].replace("2024", "never"), *rows[4:]], "row 3: expected a time by ISO 8601"),
        (lambda rows: [*rows[:3], rows[3].replace(",2,", ",oops,"), *rows[4:]], "row 3, column temperature: .* 'oops'"),
        (lambda rows: [*rows[:3], rows[3].replace("T", "T", 1) + ",7", *rows[4:]], "row 3: expected 3 columns, got 4"),
    ],
)
def test_what_is_wrong_in_a_recording_is_named(tmp_path, change, reason):
    path = record(tmp_path / "sensor.csv", 100)
    path.write_text("\n".join(change(path.read_text().split("\n"))))
    with pytest.raises(MediaError, match=f"sensor.csv, {reason}"):
        Signals(2, 20).dataset(path)


def test_columns_and_rates_that_do_not_fit_are_named(tmp_path):
    path = record(tmp_path / "sensor.csv", 100, note=lambda i: "fine")
    with pytest.raises(MediaError, match="0.1 steps a second, expected 1: resample it"):
        Signals(2, 20, rate=1).dataset(path)
    with pytest.raises(MediaError, match="1 columns of numbers, found temperature, humidity; pick some as FILE:A,B"):
        Signals(1, 20).dataset(path)
    with pytest.warns(UserWarning, match="left out note: neither numbers nor times"):
        assert len(Signals(2, 20, rate=0.1).dataset(path)) == 4
    with pytest.raises(ValueError, match="stride"):
        Signals(2, 20).dataset(path, stride=0)


def test_a_folder_of_recordings(tmp_path):
    for person in range(6):
        record(tmp_path / ("old" if person % 2 else "young") / f"p{person}.csv", 100 + person)
    (tmp_path / "young" / "broken.csv").write_text("time,temperature\n2024-01-01,x\n")
    signals = Signals(1, 20)
    with pytest.warns(UserWarning, match=r"skipped: .*broken.csv"):
        data = signals.dataset(f"{tmp_path}:temperature", labels=True, stride=20)
    assert starts(data) == [0, 20, 40, 60] * 6 and data.classes == ("old", "young")
    assert data.labels.tolist() == [0] * 12 + [1] * 12
    (tmp_path / "young" / "broken.csv").unlink()
    by_person = [signals.dataset(f"{tmp_path}:temperature", s, groups=r"p(\d)") for s in ("train", "test")]
    assert set(by_person[1].groups) == {"4"} and len(by_person[0]) == 25 and len(by_person[1]) == 5
    (tmp_path / "young").rename(tmp_path / "train")
    (tmp_path / "old").rename(tmp_path / "test")
    assert len(signals.dataset(f"{tmp_path}:temperature", "test")) == 15


SERIES = np.arange(24.0).reshape(4, 6)


@pytest.mark.parametrize(
    "name, text",
    [
        (
            "a.tsv",
            "\n".join("\t".join(map(str, [label, *row])) for label, row in zip((2, 1, 2, 1), SERIES, strict=True)),
        ),
        (
            "a.txt",
            "\n".join("  ".join(f"{v:e}" for v in [y, *row]) for y, row in zip((2, 1, 2, 1), SERIES, strict=True)),
        ),
        (
            "a.csv",
            "a,b,c,d,e,f,class\n"
            + "\n".join(f"{','.join(map(str, r))},{y}" for y, r in zip("2121", SERIES, strict=True)),
        ),
        (
            "a.ts",
            "# x\n@univariate true\n@classLabel true 1 2\n@data\n"
            + "\n".join(f"{','.join(map(str, r))}:{y}" for y, r in zip("2121", SERIES, strict=True)),
        ),
    ],
)
def test_a_row_a_series(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    data = Signals(1, 6).dataset(tmp_path / name, "all", labels=True)
    assert (
        (data.x[:, 0].numpy() == SERIES).all() and data.labels.tolist() == [1, 0, 1, 0] and data.classes == ("1", "2")
    )


def test_a_set_of_a_public_archive_keeps_its_splits(tmp_path):
    for part, rows in (("TRAIN", SERIES), ("TEST", SERIES[:2] + 100)):
        lines = [f"{i % 2 + 1}\t" + "\t".join(map(str, row)) for i, row in enumerate(rows)]
        (tmp_path / f"Coffee_{part}.tsv").write_text("\n".join(lines))
    train, test = (Signals(1, 6).dataset(tmp_path, split, labels=True) for split in ("train", "test"))
    assert (len(train), len(test)) == (4, 2) and test.x[0, 0, 0] == 100 and test.classes == ("1", "2")
    with pytest.raises(MediaError, match="has 7 columns, expected 5 steps and maybe a label"):
        Signals(1, 5).dataset(tmp_path)


def test_labels_that_may_be_taken_for_a_step_are_said(tmp_path):
    rows = np.random.default_rng(0).normal(size=(12, 6))
    (tmp_path / "a.csv").write_text("\n".join(f"{i % 2},{','.join(map(str, row))}" for i, row in enumerate(rows)))
    with pytest.warns(
        UserWarning, match="column 1 holds a few whole numbers; if these are labels, series have 6 steps"
    ):
        assert len(Signals(1, 7).dataset(tmp_path / "a.csv", "all")) == 12


def test_several_channels_of_a_ts_file(tmp_path):
    (tmp_path / "a.ts").write_text("@classLabel false\n@data\n1,2,3:4,5,6\n7,8,9:10,11,12\n")
    assert Signals(2, 3).dataset(tmp_path / "a.ts", "all").x.tolist()[1] == [[7, 8, 9], [10, 11, 12]]
    for text, reason in [
        ("@data\n1,?,3:4,5,6\n", r"row 1, column step 2: .* '\?'"),
        ("@timestamps true\n@data\n1\n", "a time with"),
    ]:
        (tmp_path / "a.ts").write_text(text)
        with pytest.raises(MediaError, match=reason):
            Signals(2, 3).dataset(tmp_path / "a.ts")


def test_row_numbers_are_no_labels(tmp_path):
    (tmp_path / "a.csv").write_text("\n".join(f"{i},{','.join(map(str, row))}" for i, row in enumerate(SERIES)))
    with pytest.raises(MediaError, match="its column 1 numbers the rows"):
        Signals(1, 6).dataset(tmp_path / "a.csv")
