"""Images: files of every kind against the expected pixels, broken files, sizes, levels, sheets."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from modalities import MediaError, from_config
from modalities.images import Images, binarise

GREY = np.random.default_rng(0).integers(0, 256, (6, 5), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 5, 3), np.uint8)


def pixels(x: torch.Tensor) -> np.ndarray:
    """A loaded image as bytes [height, width] or [height, width, 3]."""
    values = ((x + 1) * 127.5).numpy()
    assert np.allclose(values, values.round(), atol=1e-3)
    return values.round().astype(np.uint8).transpose(1, 2, 0).squeeze()


def write_png(path, width, height, depth, colour_type, rows, clear=b""):
    """A PNG file written by hand, for kinds that Pillow does not write; `clear` is its transparent value."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *([(b"tRNS", clear)] if clear else []), (b"IDAT", body), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


@pytest.mark.parametrize("suffix, options", [("png", {}), ("webp", {"lossless": True}), ("bmp", {}), ("tiff", {})])
def test_colour_and_grey_files_keep_their_pixels(tmp_path, suffix, options):
    Image.fromarray(COLOUR).save(tmp_path / f"c.{suffix}", **options)
    assert (pixels(Images(3, 6, 5).load(tmp_path / f"c.{suffix}")) == COLOUR).all()
    Image.fromarray(GREY).save(tmp_path / f"g.{suffix}", **options)
    assert (pixels(Images(1, 6, 5).load(tmp_path / f"g.{suffix}")) == GREY).all()


def test_jpeg_is_close(tmp_path):
    smooth = np.linspace(0, 255, 32 * 32).reshape(32, 32).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(pixels(Images(1, 32, 32).load(tmp_path / "a.jpg")).astype(int) - smooth).max() <= 4


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    deep = np.random.default_rng(2).integers(0, 65536, (6, 5)).astype(np.uint16)
    for suffix in ("png", "tiff"):
        Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
        assert (pixels(Images(1, 6, 5).load(tmp_path / f"a.{suffix}")) == np.rint(deep / 257)).all()


def test_16_bit_colour_is_scaled(tmp_path):
    deep = COLOUR.astype(np.uint16) * 257
    write_png(tmp_path / "a.png", 5, 6, 16, 2, [row.astype(">u2").tobytes() for row in deep])
    assert (pixels(Images(3, 6, 5).load(tmp_path / "a.png")) == COLOUR).all()


def test_16_bit_transparency_is_white(tmp_path):
    """The transparent value is one of 65,536, and its neighbours are not transparent."""
    grey = np.array([[0, 1, 256], [65535, 30000, 30001]], np.uint16)
    rows = [row.astype(">u2").tobytes() for row in grey]
    write_png(tmp_path / "g.png", 3, 2, 16, 0, rows, clear=struct.pack(">H", 30000))
    assert (pixels(Images(1, 2, 3).load(tmp_path / "g.png")) == [[0, 0, 1], [255, 255, 117]]).all()
    colour = np.array([[[0, 0, 0], [30000, 0, 0], [31000, 0, 0]]], np.uint16)
    rows = [row.astype(">u2").tobytes() for row in colour]
    write_png(tmp_path / "c.png", 3, 1, 16, 2, rows, clear=struct.pack(">HHH", 30000, 0, 0))
    found = pixels(Images(3, 1, 3).load(tmp_path / "c.png"))
    assert found.tolist() == [[0, 0, 0], [255, 255, 255], [121, 0, 0]]
    deep = np.stack([grey, np.array([[0, 65535, 65535], [65535, 0, 65535]], np.uint16)], -1)
    write_png(tmp_path / "a.png", 3, 2, 16, 4, [row.astype(">u2").tobytes() for row in deep])
    assert (pixels(Images(1, 2, 3).load(tmp_path / "a.png")) == [[255, 0, 1], [255, 255, 117]]).all()


@pytest.mark.parametrize("suffix", [".jfif", ".ppm", ".pgm"])
def test_further_suffixes_of_pictures_count(tmp_path, suffix):
    picture = Image.new("L" if suffix == ".pgm" else "RGB", (5, 6), 77 if suffix == ".pgm" else (77, 77, 77))
    picture.save(tmp_path / f"a{suffix}", "JPEG" if suffix == ".jfif" else "PPM")
    assert (pixels(Images(1, 6, 5).dataset(tmp_path, "all")[0]) == 77).all()


def test_bilevel_and_palette(tmp_path):
    Image.fromarray(GREY > 127).save(tmp_path / "bilevel.png")
    assert (pixels(Images(1, 6, 5).load(tmp_path / "bilevel.png")) == (GREY > 127) * 255).all()
    colours = np.array([[255, 0, 0], [0, 200, 10], [3, 4, 250]], np.uint8)
    index = np.random.default_rng(3).integers(0, 3, (6, 5)).astype(np.uint8)
    picture = Image.frombytes("P", (5, 6), index.tobytes())
    picture.putpalette(colours.tobytes())
    picture.save(tmp_path / "palette.png")
    assert (pixels(Images(3, 6, 5).load(tmp_path / "palette.png")) == colours[index]).all()
    picture.save(tmp_path / "see-through.png", transparency=1)
    expected = colours.copy()
    expected[1] = 255
    assert (pixels(Images(3, 6, 5).load(tmp_path / "see-through.png")) == expected[index]).all()


@pytest.mark.parametrize("mode, channels", [("RGBA", 3), ("LA", 1)])
def test_alpha_lies_on_white(tmp_path, mode, channels):
    colour = COLOUR if channels == 3 else GREY[..., None]
    alpha = np.random.default_rng(4).integers(0, 256, (6, 5, 1), np.uint8)
    Image.fromarray(np.concatenate([colour, alpha], 2)).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == mode
    weight = alpha / 255
    expected = (colour * weight + 255 * (1 - weight)).squeeze()
    assert np.abs(pixels(Images(channels, 6, 5).load(tmp_path / "a.png")) - expected).max() <= 1


@pytest.mark.parametrize(
    "ink, colour", [((0, 255, 255, 0), (255, 0, 0)), ((255, 0, 255, 0), (0, 255, 0)), ((0, 0, 0, 128), (127, 127, 127))]
)
def test_cmyk(tmp_path, ink, colour):
    for name in ("a.jpg", "a.tiff"):
        Image.new("CMYK", (8, 8), ink).save(tmp_path / name)
        assert np.abs(pixels(Images(3, 8, 8).load(tmp_path / name)).astype(int) - colour).max() <= 3


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}
"""What brings the stored rows and columns upright, by EXIF orientation."""


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    expected = UPRIGHT[orientation](GREY)
    assert (pixels(Images(1, *expected.shape).load(tmp_path / "a.png")) == expected).all()


def test_gif_gives_its_first_frame(tmp_path):
    frames = [Image.new("L", (5, 6), value) for value in (40, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (pixels(Images(1, 6, 5).load(tmp_path / "a.gif")) == 40).all()


def test_grey_becomes_colour_and_colour_grey(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "g.png")
    assert (pixels(Images(3, 6, 5).load(tmp_path / "g.png")) == GREY[..., None]).all()
    Image.fromarray(COLOUR).save(tmp_path / "c.png")
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(pixels(Images(1, 6, 5).load(tmp_path / "c.png")) - luma).max() <= 1


def test_another_aspect_is_cropped_around_the_centre(tmp_path):
    bands = np.zeros((28, 56, 3), np.uint8)
    bands[:, :14, 0] = bands[:, 14:42, 1] = bands[:, 42:, 2] = 255
    Image.fromarray(bands).save(tmp_path / "a.png")
    assert (pixels(Images(3, 28, 28).load(tmp_path / "a.png")) == (0, 255, 0)).all()


def test_shrinking_filters_and_enlarging_interpolates(tmp_path):
    fine = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(fine).save(tmp_path / "fine.png")
    small = pixels(Images(1, 8, 8).load(tmp_path / "fine.png")).astype(int)
    assert np.abs(small - 127.5).max() < 8
    Image.fromarray(np.array([[0, 255]], np.uint8).repeat(2, 0)).save(tmp_path / "edge.png")
    large = pixels(Images(1, 8, 8).load(tmp_path / "edge.png")).astype(int)
    assert (np.diff(large[0]) >= 0).all() and 20 < large[0, 3] < 128 < large[0, 4] < 235


@pytest.mark.parametrize("levels", [2, 32, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip_is_exact(tmp_path, levels, channels):
    images = Images(channels, 16, 16, levels)
    steps = torch.randint(levels, (4, *images.shape), generator=torch.Generator().manual_seed(0))
    steps[0].view(-1)[: min(levels, 256)] = torch.arange(levels)
    x = steps * 2 / (levels - 1) - 1
    images.save(x[0], tmp_path / "one.png")
    assert (images.load(tmp_path / "one.png") == x[0]).all()
    images.save(x, tmp_path / "many")
    files = sorted((tmp_path / "many").iterdir())
    assert len(files) == 4 and all((images.load(file) == item).all() for file, item in zip(files, x, strict=True))


def test_levels_take_the_upper_bits(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    x = Images(1, 16, 16, 32).load(tmp_path / "a.png")
    assert torch.allclose((x + 1) * 31 / 2, torch.from_numpy(ramp // 8).float(), atol=1e-5)
    assert (Images(1, 16, 16, 2).load(tmp_path / "a.png") == torch.from_numpy(np.where(ramp < 128, -1.0, 1.0))).all()


def truncated(path, suffix):
    noise = np.random.default_rng(5).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path.with_suffix(suffix))
    path.write_bytes(path.with_suffix(suffix).read_bytes()[:2000])


BROKEN = {
    "missing.png": (lambda path: None, "does not exist"),
    "empty.png": (lambda path: path.write_bytes(b""), "no picture"),
    "text.png": (lambda path: path.write_text("these are words"), "no picture"),
    "folder.png": (lambda path: path.mkdir(), "cannot be read"),
    "truncated.png": (lambda path: truncated(path, ".PNG"), "truncated"),
    "truncated.jpg": (lambda path: truncated(path, ".JPG"), "truncated"),
    "crc.png": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(17)), "crc.png"),
    "bomb.png": (lambda path: write_png(path, 60000, 60000, 1, 0, []), "cannot be read: Image size"),
    "float.tiff": (lambda path: Image.new("F", (8, 8)).save(path), "32-bit"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(tmp_path, name):
    make, reason = BROKEN[name]
    make(tmp_path / name)
    with pytest.raises(MediaError, match=reason) as error:
        Images().load(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_save_clamps_and_refuses(tmp_path):
    images = Images(1, 4, 4)
    images.save(torch.full((1, 4, 4), 1.5), tmp_path / "new" / "a.png")
    assert (images.load(tmp_path / "new" / "a.png") == 1).all()
    with pytest.raises(MediaError, match=r"written as .*\.png.*not \.xyz"):
        images.save(torch.zeros(1, 4, 4), tmp_path / "a.xyz")
    with pytest.raises(MediaError, match="NaN"):
        images.save(torch.full((1, 4, 4), float("nan")), tmp_path / "a.png")
    with pytest.raises(MediaError, match=r"\[batch, 1, 4, 4\]"):
        images.save(torch.zeros(2, 3, 4, 4), tmp_path / "a.png")


def test_a_batch_is_saved_as_its_sheet(tmp_path):
    images = Images(3, 4, 4)
    x = torch.rand(5, 3, 4, 4) * 2 - 1
    images.save(x, tmp_path / "a.png")
    assert (np.asarray(Image.open(tmp_path / "a.png")) == np.asarray(images.show(x))).all()


def test_show_lays_tiles_in_rows(tmp_path):
    images = Images(1, 40, 48)
    x = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 1, 40, 48)
    sheet = np.asarray(images.show(x, columns=3))
    # Tiles are doubled to 80 x 96, with gaps of 2 pixels.
    assert sheet.shape == (80 + 2 + 80, 3 * 96 + 2 * 2)
    centres = [sheet[40 + 82 * (i // 3), 48 + 98 * (i % 3)] for i in range(5)]
    assert centres == [0, 64, 128, 191, 255]
    assert (sheet[80:82] == 255).all() and (sheet[:, 96:98] == 255).all() and (sheet[82:, 196:] == 255).all()
    with pytest.raises(MediaError, match="empty batch"):
        images.show(torch.zeros(0, 1, 40, 48))


def test_binarise_draws_with_the_grey_value_as_probability():
    x = torch.tensor([-1.0, -0.5, 0.0, 0.8, 1.0]).expand(20000, 5)
    draws = binarise(x, torch.Generator().manual_seed(0))
    assert set(draws.unique().tolist()) == {-1.0, 1.0}
    assert torch.allclose(draws.mean(0), x[0], atol=0.03)
    assert (draws[:, 0] == -1).all() and (draws[:, 4] == 1).all()
    assert (binarise(x, torch.Generator().manual_seed(0)) == draws).all()


def test_configuration_survives_and_is_checked():
    images = Images(3, 64, 48, 32)
    assert from_config(images.config()) == images
    for fields in ({"channels": 2}, {"levels": 16}, {"height": 0}):
        with pytest.raises(ValueError, match=str(next(iter(fields.values())))):
            Images(**fields)
