"""Tables as they come: separators, encodings, headers, decimal commas, missing cells."""

import pytest

from modalities import MediaError
from modalities.points import Points
from modalities.tables import read_table

CLEAN = (["x", "y"], [["1.5", "2"], ["3", "4"]])


@pytest.mark.parametrize(
    "text",
    [
        "x,y\n1.5,2\n3,4\n",
        "x\ty\r\n1.5\t2\r\n3\t4\r\n",
        " x ; y \n1.5;2\n\n3;4",
        "x y\n1.5 2\n  3   4\n",
        "# made by a logger, in 2024\n#\nx,y\n1.5,2\n # half way\n3,4\n,\n   \n",
        '"x","y"\n"1.5","2"\n"3","4"\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_and_encodings(tmp_path, text, encoding):
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    assert read_table(tmp_path / "a.csv") == CLEAN


def test_quoted_cells_hold_separators_and_line_breaks(tmp_path):
    (tmp_path / "a.csv").write_text('name,x\n"Ann, the; first\nof two",1\nBob,2\n')
    assert read_table(tmp_path / "a.csv")[1] == [["Ann, the; first\nof two", "1"], ["Bob", "2"]]


def test_decimal_commas_are_read_and_said(tmp_path):
    (tmp_path / "a.csv").write_text("x;y\n1,5;2\n-3,25e2;4\n")
    with pytest.warns(UserWarning, match="as in 1,5, were read as decimal commas"):
        assert Points().dataset(tmp_path / "a.csv", "all").x.tolist() == [[1.5, 2], [-325, 4]]
    (tmp_path / "a.csv").write_text("x;y\n1,5;2.5\n")
    with pytest.raises(MediaError, match=r"with a comma \(1,5\) and with a point \(2.5\)"):
        read_table(tmp_path / "a.csv")


def test_numbered_columns_are_a_header_and_said(tmp_path):
    (tmp_path / "a.csv").write_text("0,1\n0.5,0.25\n1.5,2\n")
    with pytest.warns(UserWarning, match="first row, 0, 1 and so on, was taken for a header"):
        assert Points().dataset(tmp_path / "a.csv", "all").x.tolist() == [[0.5, 0.25], [1.5, 2]]
    (tmp_path / "a.csv").write_text("0,1\n2,3\n")
    assert len(Points().dataset(tmp_path / "a.csv", "all")) == 2
    (tmp_path / "a.csv").write_text("0,1\n1_0,3\n")
    with pytest.raises(MediaError, match="row 2, column 1: expected a finite number, got '1_0'"):
        Points().dataset(tmp_path / "a.csv", "all")


def test_a_column_of_labels_may_hold_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("time,x,y,Class\n2024-01-01,1,2,10\n2024-01-02,3,4,9\n")
    data = Points().dataset(tmp_path / "a.csv", "all", labels=True)
    assert data.x.tolist() == [[1, 2], [3, 4]] and data.classes == ("9", "10") and data.labels.tolist() == [1, 0]


def test_what_every_row_has_of_its_own_is_said_to_be_no_class(tmp_path):
    (tmp_path / "a.csv").write_text("name,x\n" + "".join(f"id{i},{i}\n" for i in range(20)))
    with pytest.warns(UserWarning, match="every item .* is of a class of its own"):
        Points(1).dataset(tmp_path / "a.csv", labels=True)


def test_years_above_numbers_are_said(tmp_path):
    (tmp_path / "a.csv").write_text("1990,1991\n1.5,2\n3,4.5\n")
    with pytest.warns(UserWarning, match="first row, 1990, 1991 and so on, was read as numbers"):
        assert len(Points().dataset(tmp_path / "a.csv", "all")) == 3


def test_digits_that_float32_drops_are_said(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{1_700_000_000 + i},{i}\n" for i in range(9)))
    with pytest.warns(UserWarning, match="so far from 0 that float32 rounds their differences"):
        Points().dataset(tmp_path / "a.csv", "all")


def test_columns_of_one_name_are_told_apart_by_number(tmp_path):
    (tmp_path / "a.csv").write_text("x,x,y\n1,2,3\n")
    assert Points().dataset(f"{tmp_path / 'a.csv'}:2,3", "all").x.tolist() == [[2, 3]]
    with pytest.raises(MediaError, match="several columns 'x'"):
        Points().dataset(f"{tmp_path / 'a.csv'}:x,y")
    with pytest.raises(MediaError, match="no column 'z'; it has x, x, y"):
        Points().dataset(f"{tmp_path / 'a.csv'}:y,z")
