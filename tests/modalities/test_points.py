"""Points: tables, selectors, bad cells, pictures."""

import numpy as np
import pytest
import torch

from modalities import MediaError, from_config
from modalities.points import Points, draw_densities


def write(path, text):
    path.write_text(text)
    return path


def test_round_trip_is_exact(tmp_path):
    for dimensions in (1, 2):
        points = Points(dimensions)
        x = torch.randn(7, dimensions, generator=torch.Generator().manual_seed(0)) * 1e6
        points.save(x, tmp_path / "new" / "table.csv")
        assert (points.dataset(tmp_path / "new" / "table.csv", "all").x == x).all()
        points.save(x[0], tmp_path / "one.csv")
        assert (points.load(tmp_path / "one.csv") == x[0]).all()
        with pytest.raises(MediaError, match="has 7 rows, expected one point"):
            points.load(tmp_path / "new" / "table.csv")
    with pytest.raises(MediaError, match="written as .csv, not .png"):
        points.save(x, tmp_path / "a.png")


def test_table_columns_rows_and_labels(tmp_path):
    path = write(tmp_path / "a.csv", "name,x,y,z\nb,1,2,3\n\na, 4 ,5,6\nb,7,8,9\n")
    x, y = Points().dataset(f"{path}:z,x", "all", labels=True).take(range(3))
    assert x.tolist() == [[3, 1], [6, 4], [9, 7]] and y.tolist() == [1, 0, 1]
    assert Points(1).dataset(f"{path}:y", "all").x.tolist() == [[2], [5], [8]]
    shapes = write(tmp_path / "b.csv", "dot,1,2\nline,3,4\ndot,5,6\n")
    assert Points().dataset(f"{shapes}:dot", "all").x.tolist() == [[1, 2], [5, 6]]
    with pytest.raises(MediaError, match="expected 2 columns of numbers, found x, y, z"):
        Points().dataset(path)
    with pytest.raises(MediaError, match="no column 'circle'; it has 1, 2, 3"):
        Points().dataset(f"{shapes}:circle")
    numbers = write(tmp_path / "c.csv", "1,2\n3,4\n")
    with pytest.raises(MediaError, match="has no labels"):
        Points().dataset(numbers, labels=True)


def test_every_fifth_row_is_for_tests(tmp_path):
    path = write(tmp_path / "a.csv", "\n".join(["x"] + [str(i) for i in range(12)]))
    assert Points(1).dataset(path, "test").x.flatten().tolist() == [4, 9]
    assert Points(1).dataset(path).x.flatten().tolist() == [i for i in range(12) if i not in (4, 9)]
    labelled = write(tmp_path / "b.csv", "".join(f"{i},{chr(97 + i)}\n" for i in range(12)))
    x, y = Points(1).dataset(labelled, "test", labels=True).take([0, 1])
    assert x.flatten().tolist() == y.tolist() == [4, 9]


@pytest.mark.parametrize("cell", ["nan", "inf", "-inf", "", "two", "1e300"])
def test_bad_cells_are_named(tmp_path, cell):
    path = write(tmp_path / "bad.csv", f"x,y\n1,2\n3,{cell}\n5,6\n")
    with pytest.raises(MediaError, match=f"bad.csv, row 2, column y: expected a finite number, got '{cell}'"):
        Points().dataset(path)


@pytest.mark.parametrize(
    "text, reason", [("", "is empty"), ("x,y\n", "is empty"), ("x,y\n1,2\n3\n", "row 2: expected 2 columns, got 1")]
)
def test_broken_tables_are_named(tmp_path, text, reason):
    with pytest.raises(MediaError, match=f"bad.csv.*{reason}"):
        Points().dataset(write(tmp_path / "bad.csv", text))


def test_unreadable_tables_are_named(tmp_path):
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(MediaError, match="bad.csv cannot be read as a table"):
        Points().dataset(tmp_path / "bad.csv")
    with pytest.raises(MediaError, match="one.csv does not exist"):
        Points().load(tmp_path / "one.csv")
    with pytest.raises(MediaError, match="named sets: two-gaussians, eight-gaussians"):
        Points().dataset("one.csv")


def test_synthetic_families_have_fixed_splits():
    train, test = Points().dataset("two-moons"), Points().dataset("two-moons", "test")
    assert (len(train), len(test)) == (10_000, 2_000)
    assert (Points().dataset("two-moons").x == train.x).all()
    assert not (train.x[:2000] == test.x).any()
    assert Points(1).dataset("two-gaussians").x.shape == (10_000, 1)
    with pytest.raises(MediaError, match="ring has 2 dimensions, expected 1"):
        Points(1).dataset("ring")
    with pytest.raises(MediaError, match="ring has no labels"):
        Points().dataset("ring", labels=True)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_show_draws_ink(dimensions):
    picture = np.asarray(Points(dimensions).show(torch.randn(200, dimensions)))
    assert picture.ndim == 3 and 0.01 < (picture < 250).any(2).mean() < 0.6
    with pytest.raises(MediaError, match="empty batch"):
        Points(dimensions).show(torch.zeros(0, dimensions))


def test_configuration_survives_and_is_checked():
    assert from_config(Points(1).config()) == Points(1)
    with pytest.raises(ValueError, match="1 or 2 dimensions, got 3"):
        Points(3)


def test_real_tables(shared_data):
    folder = shared_data / "points2d"
    x, y = Points().dataset(folder / "old_faithful.csv", "all", labels=True).take([0, 1])
    assert torch.allclose(x, torch.tensor([[3.6, 79.0], [1.8, 54.0]])) and y.tolist() == [0, 1]
    assert len(Points().dataset(folder / "old_faithful.csv")) == 218
    dino = Points().dataset(f"{folder / 'datasaurus_dozen.csv'}:dino", "all")
    assert len(dino) == 142 and torch.allclose(dino.x.mean(0), torch.tensor([54.263, 47.832]), atol=1e-2)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_densities_are_drawn_where_they_are(dimensions):
    """A density on the left of the points lights the left half of its panel, on the scale of the others."""
    from matplotlib.figure import Figure

    x = torch.rand(500, dimensions, generator=torch.Generator().manual_seed(0))
    left, even = (lambda grid: 2.0 * (grid[:, 0] < 0.5)), (lambda grid: torch.ones(len(grid)))
    figure = Figure(figsize=(8, 4))
    samples = {"the truth": x, "left": x[x[:, 0] < 0.5], "unknown": x}
    draw_densities(figure, "squares", x, {"the truth": even, "left": left}, samples, resolution=20)
    panels = np.reshape(figure.axes, (dimensions, 3))
    assert [panel.get_title() for panel in panels[0]] == [f"squares\n{name}" for name in samples]
    if dimensions == 1:
        lines = [[line for line in panel.lines if len(line.get_xdata()) == 80] for panel in panels[0]]
        assert [len(drawn) for drawn in lines] == [2, 2, 1]  # the truth is dotted in each
        curve = lines[1][1]
        assert set(curve.get_ydata()[curve.get_xdata() < 0.5]) == {2.0} and curve.get_ydata()[-1] == 0
    else:
        values = panels[0, 1].collections[0].get_array().reshape(20, 20)
        assert set(values[:, :9].ravel().tolist()) == {2.0} and not values[:, 11:].any()
        assert [len(panel.collections[0].get_offsets()) for panel in panels[1]] == [len(s) for s in samples.values()]
        assert panels[0, 0].collections[0].get_clim() == panels[0, 1].collections[0].get_clim()
