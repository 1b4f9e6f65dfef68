"""The progress bar is there where a person watches, and nowhere else."""

import sys

import pytest

from zoo.progress import track


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_shown_on_a_terminal_alone(terminal, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert list(track(range(4), "Counting")) == [0, 1, 2, 3]
    assert list(track(iter("ab"), "Waiting")) == ["a", "b"]
    assert list(track([[1, 2], [3]], "Reading", 3, len)) == [[1, 2], [3]]
    shown = capsys.readouterr()
    assert not shown.out
    for words in ("Counting", "4/4", "Waiting", "2/?", "Reading", "3/3"):
        assert (words in shown.err) == terminal


def test_bars_may_be_nested(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert [(i, j) for i in track(range(2), "Outer") for j in track("ab", "Inner")][-1] == (1, "b")
    assert "Inner" in capsys.readouterr().err
