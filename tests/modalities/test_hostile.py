"""Hostile and broken files: each is refused in one sentence that names it, in 2 GB and 20 seconds."""

import gzip
import io
import os
import re
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from modalities import MediaError
from modalities.face_sets import read_landmarks
from modalities.images import Images
from modalities.points import Points
from modalities.signals import Signals
from tests.hostile import ask, mutations, refusal


def npy(x) -> bytes:
    content = io.BytesIO()
    np.save(content, x)
    return content.getvalue()


def npz(**arrays) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def claims(shape) -> bytes:
    """A .npy file that announces more than it holds."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return content.getvalue() + bytes(80)


def zipped(name: str, content: bytes, **fields) -> bytes:
    """A zip file of one member, whose headers are overwritten: size, or flags (1: encrypted)."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    raw = bytearray(packed.getvalue())
    for mark, flags, size in ((b"PK\3\4", 6, 22), (b"PK\1\2", 8, 24)):
        at = raw.index(mark)
        if "flags" in fields:
            struct.pack_into("<H", raw, at + flags, fields["flags"])
        if "size" in fields:
            struct.pack_into("<I", raw, at + size, fields["size"])
    return bytes(raw)


ZEROS = npy(np.zeros((10, 1, 140)))
PIXELS = b"\x89PNG\r\n\x1a\n"
TABLE = "file\na.png\n"

FILES = {
    "claims.npy": (claims((10**10, 1, 140)), Signals(), "announces"),
    "negative.npy": (claims((-1, 140)), Signals(), "cannot be read"),
    "short.npy": (ZEROS[:-8], Signals(), "announces"),
    "objects.npy": (npy(np.array([{}, 1], object)), Signals(), "Python objects"),
    "claims.npz": (zipped("x.npy", claims((10**10, 1, 140))), Signals(), "announces"),
    "bomb.npz": (zipped("x.npy", ZEROS, size=2**32 - 2), Signals(), "unpacks from"),
    "encrypted.npz": (zipped("x.npy", ZEROS, flags=1), Signals(), "encrypted"),
    "nothing.npz": (npz(z=np.ones(3)), Signals(), "holds z; expected arrays x and y"),
    "half.npz": (npz(beats=np.ones((3, 140))), Signals(), "no array units_per_mV"),
    "one-hot.npz": (npz(x=np.zeros((4, 140)), y=np.eye(4)), Signals(), r"labels of shape \[4, 4\]"),
    "large.npz": (npz(x=np.full((4, 140), 1e300)), Signals(), "beyond the range of float32"),
    "words.npz": (npz(x=np.full((4, 140), "a")), Signals(), "expected real numbers"),
    "binary.csv": (bytes(range(256)) * 9, Signals(), "cannot be read as a table"),
    "ragged.ts": (b"@univariate true\n@classLabel false\n@data\n1,2,3\n1,2\n", Signals(1, 3), "line 5"),
    "empty.ts": (b"@data\n", Signals(1, 3), "is empty"),
    "real.npz": (npz(x=np.full((4, 8, 8), 300.0)), Images(1, 8, 8), "store bytes"),
    "channels.npy": (npy(np.zeros((4, 8, 8, 5), np.uint8)), Images(1, 8, 8), "1 or 3 channels"),
    "claims.idx": (None, Images(), "far more than a file"),
    "binary.tsv": (b"1\t2\n\0\0", Points(), "no text"),
}


@pytest.mark.parametrize("name", FILES)
def test_data_sets_of_hostile_files_are_refused(tmp_path, name):
    content, medium, reason = FILES[name]
    source = path = tmp_path / name
    if content is None:
        source, path = tmp_path, tmp_path / "train-images-idx3-ubyte.gz"
        content = gzip.compress(struct.pack(">IIII", 2051, 60000, 2000, 2000) + bytes(99))
    path.write_bytes(content)
    words = refusal(lambda: medium.dataset(source, "all", labels=True), path.name)
    assert re.search(reason, words), words


MEMBERS = {
    "bomb.png": (zipped("a.png", PIXELS, size=2**32 - 2), "no picture needs"),
    "encrypted.png": (zipped("a.png", PIXELS, flags=1), "encrypted"),
    "words.png": (zipped("a.png", b"words"), "no picture"),
    "broken.zip": (b"PK\3\4 and no more", "cannot be read"),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_hostile_archives_of_pictures_are_refused(tmp_path, name):
    content, reason = MEMBERS[name]
    (tmp_path / "images.zip").write_bytes(content)
    (tmp_path / "labels.csv").write_text(TABLE)
    assert reason in refusal(lambda: Images().dataset(tmp_path, "all")[0], "images.zip")


@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.csv", "a.ts", "a.npz"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_never_opened(tmp_path, name, kind):
    path = tmp_path / name
    make = {"pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero"), "folder": path.mkdir}
    make[kind]()
    medium = Images() if name == "a.png" else Signals()
    refusal(lambda: medium.load(path), name)
    if kind != "folder":
        refusal(lambda: medium.dataset(path), name)


def test_pipes_in_a_folder_are_left_out(tmp_path):
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert ask(lambda: len(Images().dataset(tmp_path, "all"))).words == "1"


def test_other_programs_are_never_started(tmp_path):
    """An EPS file would be given to Ghostscript."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    assert "no picture in a known format" in refusal(lambda: Images().load(tmp_path / "a.png"), "a.png")


def test_arrays_that_nobody_asked_for_are_not_read(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 140)), y=np.arange(5), objects=np.array([{}], object))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("claims.npy", claims((10**10,)))
    assert ask(lambda: len(Signals().dataset(tmp_path / "a.npz", "all", labels=True))).words == "5"


def test_landmarks_that_claim_too_much_are_refused(tmp_path):
    (tmp_path / "a.npy").write_bytes(claims((10**10, 68, 2)))
    refusal(lambda: read_landmarks(tmp_path / "a.npy", 5), "a.npy")


def test_a_picture_at_the_limit_is_read_in_the_memory_it_may_take(tmp_path):
    Image.new("RGB", (12_000, 12_000), (255, 0, 0)).save(tmp_path / "large.png", compress_level=1)
    error, words = ask(lambda: Images(3, 8, 8).load(tmp_path / "large.png")[:, 4, 4].tolist(), seconds=60)
    assert (error, words) == ("", "[1.0, -1.0, -1.0]")


def test_names_that_are_none_are_refused():
    for name in ("a" * 300, "a\0b"):
        assert "neither a file or folder" in refusal(lambda name=name: Images().dataset(name), "named sets")


def test_a_table_leads_to_no_file_outside_of_its_folder(tmp_path):
    (tmp_path / "labels.csv").write_text("file,mood\n../a.png,happy\n")
    refusal(lambda: Images().dataset(f"{tmp_path}:mood"), "which lies outside of its folder")


def test_what_a_terminal_would_obey_is_escaped(tmp_path):
    name = "a\x1b[2J\n\udcff.png"
    words = refusal(lambda: Images().load(tmp_path / name), r"a\x1b[2J\n\udcff.png does not exist")
    assert words.isprintable()


def picture(kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)).save(content, kind)
    return content.getvalue()


RECORDING = "time;temp;hum;label\n" + "".join(f"2024-01-01T00:00:{i};{i},5;{i};{i // 20}\n" for i in range(10, 50))
ROWS = "".join(f"{i % 2},{i},{i * 2}.5,{i}e1,4\n" for i in range(12))
SERIES = "@classLabel true a b\n@data\n" + "".join(f"1,2,{i}:4,5,6:{'ab'[i % 2]}\n" for i in range(6))
BEATS = {"beats": np.zeros((4, 140)), "units_per_mV": 200.0, "beats_symbol": np.array(list("abab"))}
WHOLE = {
    **{f"a.{kind.lower()}": (picture(kind), Images(3, 8, 8).load) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF")},
    "pictures.npz": (
        npz(x=np.zeros((4, 8, 8), np.uint8), y=np.arange(4)),
        lambda path: Images(1, 8, 8).dataset(path, "all", labels=True),
    ),
    "beats.npz": (npz(**BEATS), lambda path: Signals().dataset(path, "all", labels=True)),
    "a.npy": (ZEROS, lambda path: Signals().dataset(path, "all")),
    "sensor.csv": (RECORDING.encode(), lambda path: Signals(1, 5).dataset(f"{path}:temp", "all", labels=True)),
    "groups.csv": (RECORDING.encode(), lambda path: Signals(2, 5).dataset(path, "test", groups="label")),
    "rows.csv": (ROWS.encode(), lambda path: Signals(1, 4).dataset(path, "all", labels=True)),
    "points.csv": (ROWS.encode(), lambda path: Points(2).dataset(f"{path}:1,2", "all")),
    "a.ts": (SERIES.encode(), lambda path: Signals(2, 3).dataset(path, "all", labels=True)),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused_by_name(tmp_path, name):
    content, read = WHOLE[name]
    (tmp_path / name).write_bytes(content)
    assert len(read(tmp_path / name))
    for damaged in mutations(content, 100):
        (tmp_path / name).write_bytes(damaged)
        try:
            read(tmp_path / name)
        except MediaError as error:
            assert name in str(error) and "\n" not in str(error)


def test_the_harness_tells_what_happens():
    assert ask(lambda: torch.ones(10**9)).error == "RuntimeError"
    assert ask(lambda: os._exit(3)) == ("killed", "exit 3")
    assert ask(lambda: os.read(os.pipe()[0], 1), seconds=0.5).error == "late"
