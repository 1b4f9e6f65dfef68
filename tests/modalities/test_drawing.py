"""Pictures side by side."""

from PIL import Image

from modalities.drawing import beside


def test_pictures_stand_in_a_row_with_white_between():
    row = beside([Image.new("RGB", (10, 8), "red"), Image.new("RGB", (6, 4), "blue")], gap=3)
    assert row.size == (19, 8)
    assert [row.getpixel(place) for place in ((9, 7), (11, 0), (13, 3), (13, 5))] == [
        (255, 0, 0),
        (255, 255, 255),
        (0, 0, 255),
        (255, 255, 255),
    ]
