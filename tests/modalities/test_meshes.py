"""Meshes: files of five formats, broken ones, topologies, data sets, generated heads and faces, pictures."""

import ast
import base64
import dataclasses
import json
import os
import struct
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from modalities import MediaError, from_config, meshes
from modalities.data import batches
from modalities.meshes import Meshes
from modalities.meshes.files import SUFFIXES
from modalities.meshes.geometry import (
    count_non_manifold,
    harmonic_interpolation,
    shading_normals,
    vertex_normals,
)
from modalities.meshes.ict import FACE_FILE, face_weights, read_face_model
from modalities.meshes.sets import HEADS, sphere
from tests import toys
from tests.hostile import ask, mutations, refusal
from tests.zoo.morphable.model_files import parse_glb
from zoo import load, save
from zoo.variational.vae import VAE

TETRAHEDRON = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])


def heads(vertices: int = 40, colours: bool = False) -> tuple[Meshes, torch.Tensor]:
    """The medium of generated heads with texture coordinates, and three of them."""
    data = Meshes(vertices, colours).dataset("synthetic-heads")
    uv = torch.rand(vertices, 2, generator=torch.Generator().manual_seed(0))
    return data.medium.on(data.medium.faces, uv), data.take(range(3))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_keeps_every_vertex_in_its_place(tmp_path, suffix):
    held = {".obj": (True, True), ".ply": (True, True), ".glb": (True, True), ".off": (True, False)}
    colours, uv = held.get(suffix, (False, False))
    medium, x = heads(colours=colours)
    path = tmp_path / "new" / f"a{suffix}"
    medium.save(x[1], path)

    found = medium.load(path)
    assert found.dtype == torch.float32
    assert (found[:, :3] - x[1, :, :3]).abs().max() <= (1e-5 if suffix == ".glb" else 0)
    # PLY and OFF hold bytes.
    assert torch.allclose(found[:, 3:], x[1, :, 3:], atol=0.501 / 255 if suffix in (".ply", ".off") else 1e-6)

    fresh = Meshes.from_file(path)
    assert fresh.vertices == 40 and fresh.colours == colours
    if suffix != ".stl":
        assert torch.equal(fresh.faces, medium.faces)
    assert (fresh.uv is not None) == uv
    if uv:
        assert torch.allclose(fresh.uv, medium.uv, atol=1e-6)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_software_reads_our_files_and_we_read_its(tmp_path, suffix):
    medium, x = heads()
    medium = medium.on(medium.faces)
    triangles = x[0][medium.faces].numpy()
    unit = 1000 if suffix == ".glb" else 1
    medium.save(x[0], tmp_path / f"ours{suffix}")
    theirs = trimesh.load_mesh(tmp_path / f"ours{suffix}", process=False)
    assert np.allclose(theirs.triangles * unit, triangles, atol=1e-4)

    source = trimesh.Trimesh(x[0].numpy() / unit, medium.faces.numpy(), process=False)
    source.export(tmp_path / f"theirs{suffix}")
    assert (medium.load(tmp_path / f"theirs{suffix}") - x[0]).abs().max() < 1e-4


def test_units(tmp_path):
    medium, x = heads()
    medium.save(x[0], tmp_path / "a.obj")
    for unit, scale in {"cm": 10, "m": 1000, "um": 1e-3, "in": 25.4}.items():
        other = Meshes.from_file(tmp_path / "a.obj", unit)
        assert torch.allclose(other.load(tmp_path / "a.obj"), x[0] * scale, rtol=1e-6)
        other.save(x[0] * scale, tmp_path / "b.ply")
        assert torch.allclose(medium.load(tmp_path / "b.ply"), x[0], rtol=1e-6)
        # GLB has a unit of its own.
        other.save(x[0], tmp_path / "b.glb")
        assert torch.allclose(medium.load(tmp_path / "b.glb"), x[0], rtol=1e-6)
    with pytest.raises(ValueError, match="unit is one of um, mm, cm, m, in; got 'ft'"):
        Meshes(10, unit="ft")


OBJ = """# quads and a triangle, a seam, an unused vertex, numbers from the end
mtllib nothing.mtl
o first
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
vt 0 0
vt 0.5 0
vt 0.5 1
vt 0 1
vt 0.9 0.9
vn 0 0 1
usemtl skin
f 1/1/1 2/2/1 3/3/1 \\
  4/4/1
v 9 9 9
v 2 0 1
o second
f -5/5 -1/5 -4/3
f 2/2 6/5 5/1
"""


def test_obj_with_polygons_seams_and_parts(tmp_path):
    (tmp_path / "a.obj").write_text(OBJ)
    medium = Meshes.from_file(tmp_path / "a.obj")
    assert medium.vertices == 6 and not medium.colours
    assert medium.faces.tolist() == [[0, 1, 2], [0, 2, 3], [1, 5, 2], [1, 5, 4]]
    assert medium.load(tmp_path / "a.obj")[4:].tolist() == [[9, 9, 9], [2, 0, 1]]
    # Vertex 1 has two corners at (0.5, 0) and one at (0.9, 0.9).
    assert torch.allclose(medium.uv[[1, 2, 5]], torch.tensor([[0.5, 0], [0.5, 1], [0.9, 0.9]]))
    (tmp_path / "b.obj").write_text(OBJ.replace("f 1/1/1 2/2/1", "f 1//1 2//1").replace("3/3/1", "3//1"))
    assert Meshes.from_file(tmp_path / "b.obj").uv is None


@pytest.mark.parametrize("order", ["ascii", "<", ">"])
def test_ply_with_quads_and_triangles(tmp_path, order):
    words = {"ascii": "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}
    header = (
        f"ply\nformat {words[order]} 1.0\ncomment made by hand\nelement vertex 5\nproperty double x\nproperty float y\n"
        "property float z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\nelement face 3\n"
        "property uchar material\nproperty list ushort uint vertex_index\nproperty list uchar float texcoord\n"
        "end_header\n"
    )
    points = [(i, 2 * i, i * i, 51 * i, 0, 255) for i in range(5)]
    polygons = [[0, 1, 2, 3], [3, 4, 0], [2, 4, 3]]
    if order == "ascii":
        rows = [" ".join(map(str, point)) for point in points]
        rows += [
            f"7 {len(p)} {' '.join(map(str, p))} {2 * len(p)}" + "".join(f" {i / 8} 1" for i in p) for p in polygons
        ]
        body = ("\n".join(rows) + "\n").encode()
    else:
        body = b"".join(struct.pack(order + "dffBBB", *point) for point in points)
        for p in polygons:
            body += struct.pack(order + f"BH{len(p)}IB", 7, len(p), *p, 2 * len(p))
            body += struct.pack(order + f"{2 * len(p)}f", *(value for i in p for value in (i / 8, 1)))
    (tmp_path / "a.ply").write_bytes(header.encode() + body)
    medium = Meshes.from_file(tmp_path / "a.ply")
    assert medium.colours
    assert medium.faces.tolist() == [[0, 1, 2], [0, 2, 3], [3, 4, 0], [2, 4, 3]]
    assert medium.uv.tolist() == [[i / 8, 1] for i in range(5)]
    found = medium.load(tmp_path / "a.ply")
    assert torch.allclose(found, torch.tensor([[i, 2 * i, i * i, 0.2 * i, 0, 1.0] for i in range(5)]))
    (tmp_path / "b.ply").write_bytes((header.encode() + body)[:-3])
    with pytest.raises(MediaError, match="b.ply"):
        medium.load(tmp_path / "b.ply")


def ply_text(kind: str, names: str, written: str, faces: str = "") -> str:
    """A triangle whose vertices, or with `faces` whose face, have further properties."""
    own = "".join(f"property {kind} {name}\n" for name in names.split())
    position = "".join(f"property float {axis}\n" for axis in "xyz")
    rows = "".join(f"{i} {i * i} 0 {'' if faces else written}\n" for i in range(3))
    return (
        f"ply\nformat ascii 1.0\nelement vertex 3\n{position}{'' if faces else own}element face 1\n"
        f"property list uchar int vertex_indices\n{own if faces else ''}end_header\n{rows}3 0 1 2 {faces}\n"
    )


@pytest.mark.parametrize(
    "kind, written, expected, guessed",
    [
        ("uchar", 1, 1 / 255, False),
        ("char", 255, 1.0, False),
        ("char", -1, 1.0, False),
        ("ushort", 255, 1.0, True),
        ("ushort", 65535, 1.0, False),
        ("int", 51, 0.2, True),
        ("float", 0.2, 0.2, False),
        ("float", 1.00005, 1.0, False),
        ("float", 51.0, 0.2, True),
    ],
)
@pytest.mark.parametrize("names", ["red green blue", "diffuse_red diffuse_green diffuse_blue", "r g b"])
def test_ply_colours_of_any_type(tmp_path, kind, written, expected, guessed, names):
    (tmp_path / "a.ply").write_text(ply_text(kind, names, f"{written} 0 0"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = Meshes(3, colours=True).load(tmp_path / "a.ply")
    assert found[:, 3].tolist() == pytest.approx([expected] * 3)
    messages = [str(warning.message) for warning in caught if "are taken for numbers up to 255" in str(warning.message)]
    assert len(messages) == guessed


@pytest.mark.parametrize("written", ["1.3 0 0", "-0.2 0 0", "70000 0 0"])
def test_colours_of_no_known_range_are_refused(tmp_path, written):
    (tmp_path / "a.ply").write_text(ply_text("double", "red green blue", written))
    with pytest.raises(MediaError, match=f"a.ply: expected colours from 0 to 1, .*{written.split()[0]}"):
        Meshes.from_file(tmp_path / "a.ply")


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.obj", "v 0 0 0 1 0 0.5 1\nv 1 0 0 0 1 0 1\nv 0 1 0 0 0 1 1\nf 1 2 3\n"),
        (
            "a.off",
            "COFF 4 2 0 # counts\n\n0 0 0 1.0 0.0 5e-1\n1 0 0 0 1 0\n# half\n1 1 0 0 0 1.0\n0 1 0 0 0 0\n"
            "4 0 1 2 3 0.5 0.5 0.5\n3 0 3 1\n",
        ),
        ("b.off", "coff3 1 0\n0 0 0 255 0 127.5 255\n1 0 0 0 255 0 255\n0 1 0 0 0 255 255\n3 0 1 2\n"),
        (
            "c.off",
            "STCNOFF\n3 1 0\n0 0 0 0 0 1 1 0 .5 1 .2 .3\n1 0 0 0 0 1 0 1 0 1 0 0\n0 1 0 0 0 1 0 0 1 1 0 0\n3 0 1 2\n",
        ),
    ],
)
def test_colours_beside_other_columns(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    medium = Meshes.from_file(tmp_path / name)
    assert torch.allclose(medium.load(tmp_path / name)[:3, 3:], torch.tensor([[1, 0, 0.5], [0, 1, 0], [0, 0, 1]]))
    if name == "a.off":
        assert medium.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 1]]
    if name == "c.off":
        assert torch.allclose(medium.uv[0], torch.tensor([0.2, 0.3]))


def test_how_opaque_a_colour_is_tells_its_range(tmp_path):
    for name, colour, expected in (
        ("a.off", "1 0 0 1", 1.0),
        ("b.off", "1 0 0 255", 1 / 255),
        ("c.obj", "1 0 0 1", 1.0),
        ("d.obj", "1 0 0 255", 1 / 255),
    ):
        vertex = "" if name.endswith(".off") else "v "
        vertices = "".join(f"{vertex}{i} {i * i} 0 {colour}\n" for i in range(3))
        (tmp_path / name).write_text(f"COFF\n3 1 0\n{vertices}3 0 1 2\n" if not vertex else f"{vertices}f 1 2 3\n")
        assert Meshes(3, True).load(tmp_path / name)[0, 3].item() == pytest.approx(expected)


LEFT_OUT = {
    "bare.obj": ("v 0 0 0 1 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "2 of 3 vertices have no colour, so all colours"),
    "paint.obj": ("v 0 0 0\nv 1 0 0\nv 0 1 0\n#MRGB ffff0000\nf 1 2 3\n", "colours in comments"),
    "uv.obj": (
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1\nf 1 3 2\n",
        "3 of 6 corners have no texture coordinates, so all of these",
    ),
    "plain.off": ("OFF\n3 1 0\n0 0 0 1 0 0\n1 0 0 1 0 0\n0 1 0 1 0 0\n3 0 1 2\n", ".* the header COFF"),
    "face.off": ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2 255 0 0\n", "colours of faces"),
    "more.off": ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n3 0 2 1\n", "1 lines after the last face"),
    "vertex.ply": (ply_text("uchar", "ambient_red ambient_green", "9 9"), "the colours ambient_red, ambient_green"),
    "face.ply": (ply_text("uchar", "red green blue", "", faces="9 9 9"), "the colours red of faces, green of faces"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_is_warned_of(tmp_path, name):
    text, message = LEFT_OUT[name]
    (tmp_path / name).write_text(text)
    with pytest.warns(UserWarning, match=f"{name}: {message}.* left out"):
        assert not Meshes.from_file(tmp_path / name).colours


def test_glb_of_several_nodes(tmp_path):
    box = trimesh.creation.box()
    scene = trimesh.Scene()
    scene.add_geometry(box, node_name="a", transform=trimesh.transformations.translation_matrix([3, 0, 0]))
    scene.add_geometry(box.copy(), node_name="b", transform=np.diag([-1, 1, 1, 1.0]))
    scene.export(tmp_path / "a.glb")
    medium = Meshes.from_file(tmp_path / "a.glb")
    found = medium.load(tmp_path / "a.glb")
    assert found.shape == (16, 3)
    assert {float(found[:8, 0].mean()), float(found[8:, 0].mean())} == {0.0, 3000.0}
    # Both volumes are positive: the mirrored one was turned inside out again.
    for part in medium.faces.split(12):
        assert trimesh.Trimesh(found.numpy(), part.numpy(), process=False).volume == pytest.approx(1e9)


def test_glb_is_what_viewers_expect(tmp_path):
    medium, x = heads(colours=True)
    x[0, :, 3:] = 0.5
    medium.save(x[0], tmp_path / "a.glb")
    document, numbers = parse_glb(tmp_path / "a.glb")
    stored = {key: numbers(i, 34962) for key, i in document["meshes"][0]["primitives"][0]["attributes"].items()}
    # sRGB 0.5 is 0.214 in linear light, and v is counted from the top.
    assert np.allclose(stored["COLOR_0"], 0.21404, atol=1e-4)
    assert np.allclose(stored["TEXCOORD_0"], medium.uv.numpy() * [1, -1] + [0, 1])
    assert np.allclose(np.linalg.norm(stored["NORMAL"], axis=1), 1, atol=1e-5)
    assert ((stored["NORMAL"] * x[0, :, :3].numpy()).sum(axis=1) > 0).mean() > 0.9
    assert np.allclose(stored["POSITION"], x[0, :, :3] / 1000)


SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)


def gltf(positions=SQUARE, indices=(0, 1, 2, 0, 2, 3), nodes=({"mesh": 0},), sparse=False, stride=0, **primitive):
    """The JSON and the binary part of a mesh in metres; integers stand for fractions."""
    body, views, accessors = b"", [], []
    attributes = {"POSITION": positions} | primitive.pop("attributes", {})
    kinds = {"f4": 5126, "i2": 5122, "u2": 5123, "u1": 5121, "u4": 5125}

    def view(values):
        nonlocal body
        rows = values.reshape(len(values), -1)
        packed = b"".join(row.tobytes().ljust(stride, b"\0") for row in rows)
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": len(packed)})
        views[-1] |= {"byteStride": stride} if stride else {}
        body += packed + bytes(-len(packed) % 4)
        return len(views) - 1

    for values in (*attributes.values(), np.array(indices, np.uint32)):
        kind = kinds[values.dtype.str[1:]]
        entry = {
            "componentType": kind,
            "count": len(values),
            "type": f"VEC{values.shape[1]}" if values.ndim > 1 else "SCALAR",
        }
        if sparse and values is positions:
            there = {"indices": {"bufferView": view(np.arange(1, 4, dtype=np.uint8)), "componentType": 5121}}
            entry["sparse"] = {"count": 3, "values": {"bufferView": view(values[1:])}} | there
        else:
            entry["bufferView"] = view(values)
        accessors.append(entry | {"normalized": values.dtype.kind in "iu" and values.ndim > 1})
    numbers = {name: i for i, name in enumerate(attributes)}
    tree = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [dict(node) for node in nodes],
        "meshes": [{"primitives": [{"attributes": numbers, "indices": len(numbers)} | primitive]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(body)}],
    }
    return tree, body


@pytest.mark.parametrize(
    "parts, faces",
    [
        ({}, [[0, 1, 2], [0, 2, 3]]),
        ({"positions": (SQUARE * 32767).astype(np.int16)}, [[0, 1, 2], [0, 2, 3]]),
        ({"sparse": True}, [[0, 1, 2], [0, 2, 3]]),
        ({"stride": 16}, [[0, 1, 2], [0, 2, 3]]),
        ({"indices": (0, 1, 3, 2), "mode": 5}, [[0, 1, 3], [1, 2, 3]]),
        ({"indices": (0, 1, 2, 3), "mode": 6}, [[0, 1, 2], [0, 2, 3]]),
        ({"nodes": ({"scale": [-1, 1, 1], "children": [1]}, {"mesh": 0})}, [[2, 1, 0], [3, 2, 0]]),
    ],
)
def test_glb_in_all_its_forms(parts, faces, tmp_path):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]], np.uint8)
    uv = (SQUARE[:, :2] * 65535).astype(np.uint16)
    tree, body = gltf(attributes={"COLOR_0": colours, "TEXCOORD_0": uv}, **parts)
    (tmp_path / "a.glb").write_bytes(glb_bytes(tree, body))
    medium = Meshes.from_file(tmp_path / "a.glb")
    found = medium.load(tmp_path / "a.glb")
    assert medium.faces.tolist() == faces
    mirror = [-1, 1, 1] if "nodes" in parts else 1
    assert np.allclose(found[:, :3], 1000 * SQUARE * mirror, atol=1e-3) and np.allclose(found[:, 3:] * 255, colours)
    assert np.allclose(medium.uv, SQUARE[:, :2] * [1, -1] + [0, 1], atol=1e-6)


def test_gltf_finds_its_buffers_in_itself_and_beside_it(tmp_path):
    tree, body = gltf()
    (tmp_path / "my parts").mkdir()
    (tmp_path / "my parts" / "a.bin").write_bytes(body)
    (tmp_path.parent / "secret.bin").write_bytes(body)
    for uri in ("data:application/octet-stream;base64," + base64.b64encode(body).decode(), "my%20parts/a.bin"):
        tree["buffers"][0]["uri"] = uri
        (tmp_path / "a.gltf").write_text(json.dumps(tree))
        medium = Meshes.from_file(tmp_path / "a.gltf")
        assert torch.equal(medium.dataset(tmp_path, "all")[0], torch.from_numpy(1000 * SQUARE))
    for uri in ("../secret.bin", str(tmp_path.parent / "secret.bin"), "missing.bin", "my parts"):
        tree["buffers"][0]["uri"] = uri
        (tmp_path / "a.gltf").write_text(json.dumps(tree))
        with pytest.raises(MediaError, match=f"a.gltf: its buffer '{uri}' is no file beside it"):
            Meshes.from_file(tmp_path / "a.gltf")
    with pytest.raises(MediaError, match=r"written as .*\.off.*, not \.gltf"):
        Meshes(4, faces=TETRAHEDRON).save(torch.zeros(4, 3), tmp_path / "b.gltf")


def test_what_is_left_out_of_a_glb_is_said(tmp_path):
    tree, body = gltf(attributes={"COLOR_0": np.eye(4, 3, dtype=np.float32)})
    bare = {"attributes": {"POSITION": 0}, "indices": 2}
    tree["meshes"][0] = {"primitives": [*tree["meshes"][0]["primitives"], bare], "weights": [0.5]}
    (tmp_path / "a.glb").write_bytes(glb_bytes(tree, body))
    with pytest.warns(UserWarning) as caught:
        assert not Meshes.from_file(tmp_path / "a.glb").colours
    messages = [str(warning.message) for warning in caught]
    assert any("a.glb: 1 of 2 parts have no colours, so all are left out" in message for message in messages)
    assert any("a.glb: joints and morph targets are left out" in message for message in messages)


def test_stl_finds_its_vertices(tmp_path):
    medium = Meshes(5).on(torch.tensor([[0, 1, 2], [2, 1, 3], [0, 2, 4]]))
    x = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [-0.0, 0, 0]])
    x[4, 2] = 3
    medium.save(x, tmp_path / "a.stl")
    assert torch.equal(medium.load(tmp_path / "a.stl"), x)
    fresh = Meshes.from_file(tmp_path / "a.stl")
    assert torch.equal(fresh.load(tmp_path / "a.stl"), x) and torch.equal(fresh.faces, medium.faces)
    # Without the topology two vertices in one place are one.
    x[4] = x[3]
    medium.save(x, tmp_path / "b.stl")
    assert torch.equal(medium.load(tmp_path / "b.stl"), x)
    assert Meshes.from_file(tmp_path / "b.stl").vertices == 4
    with pytest.raises(MediaError, match="b.stl: has another topology: 3 triangles, expected 4"):
        Meshes(4).on(TETRAHEDRON).load(tmp_path / "b.stl")
    with pytest.raises(MediaError, match="b.stl: has another topology: 2 corners of its 3 triangles do not meet"):
        Meshes(5).on(torch.tensor([[0, 1, 2], [2, 1, 3], [0, 1, 4]])).load(tmp_path / "b.stl")
    with pytest.raises(MediaError, match="cannot hold 1 vertices of the topology that no triangle uses"):
        Meshes(6).on(torch.tensor([[0, 1, 2], [2, 1, 3], [0, 2, 5]])).load(tmp_path / "b.stl")


def glb_bytes(tree: dict, body: bytes = b"") -> bytes:
    text = json.dumps(tree).encode()
    head = struct.pack("<4sII I4s", b"glTF", 2, 28 + len(text) + len(body), len(text), b"JSON")
    return head + text + struct.pack("<I4s", len(body), b"BIN\0") + body


VERTICES = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"
FACES = "f 1 3 2\nf 1 2 4\nf 2 3 4\nf 3 1 4\n"
BROKEN = {
    "empty.obj": (b"", "empty.obj is empty"),
    "empty.ply": (b"", "empty.ply is empty"),
    "comment.obj": (b"# nothing\n", "comment.obj has no vertices"),
    "points.obj": (VERTICES.encode(), "points.obj has 4 vertices but no faces"),
    "nan.obj": ((VERTICES + FACES).replace("0 1 0", "0 nan 0").encode(), "nan.obj: 1 vertices hold NaN .* number 2"),
    "huge.obj": ((VERTICES + FACES).replace("0 1 0", "0 1e99 0").encode(), "huge.obj: 1 vertices hold NaN or inf"),
    "range.obj": ((VERTICES + "f 1 2 7\n").encode(), r"range.obj: .*1 triangles name vertices .* such as 6 .* of 4"),
    "zero.obj": ((VERTICES + "f 0 1 2\n").encode(), "zero.obj: .*such as -1"),
    "corner.obj": ((VERTICES + "f 1 2\n").encode(), "corner.obj: a face has 2 corners"),
    "word.obj": ((VERTICES + "v one 2 3\n" + FACES).encode(), "word.obj cannot be read as OBJ: .*one"),
    "short.obj": ((VERTICES + "v 1 2\n" + FACES).encode(), "short.obj: expected 3 numbers, got '1 2'"),
    "texture.obj": ((VERTICES + "vt 0 0\nf 1/1 2/2 3/1\n").encode(), "texture.obj: a face names a texture coordinate"),
    "cut.off": (b"OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n", "cut.off: is cut short"),
    "face.off": (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1", "face.off: expected 3 corners"),
    "range.off": (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 3\n", "range.off: .*1 triangles name .* such as 3 .* of 3"),
    "other.off": (b"PFF\n", "other.off: expected OFF or COFF"),
    "other.ply": (b"obj\n", "other.ply: does not begin with the word ply"),
    "header.ply": (b"ply\nformat ascii 1.0\nelement vertex 3\n", "header.ply: ends within its header"),
    "more.ply": (
        ply_text("float", "", "").encode() + b"7 7\n",
        "more.ply: has 2 numbers more than its header announces",
    ),
    "score.ply": (ply_text("float", "red", "1_0").encode(), "score.ply: expected numbers, got some with _"),
    "strips.ply": (
        ply_text("float", "", "").replace("element face", "element tristrips").encode(),
        "strips.ply: holds strips of triangles, which are not read",
    ),
    "binary.off": (b"OFF BINARY\n\0\0\0\3", "binary.off: is a binary OFF file, which is not read"),
    "bare.ply": (b"ply\nformat ascii 1.0\nelement vertex 0\nend_header\n", "bare.ply: has no vertices with x, y and z"),
    "draco.glb": (
        glb_bytes({"asset": {"version": "2.0"}, "extensionsRequired": ["KHR_draco_mesh_compression"]}),
        "draco.glb: is compressed by KHR_draco_mesh_compression",
    ),
    "cut.glb": (b"glTF\x02\x00\x00\x00\x10", "cut.glb cannot be read as GLB"),
    "cut.stl": (b"\0" * 80 + struct.pack("<I", 4) + b"\0" * 30, "cut.stl"),
    "mesh.txt": (b"x", "mesh.txt: meshes are read from .obj, .ply, .glb, .stl, .off, .gltf files, not from .txt"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_with_the_reason(tmp_path, name):
    data, message = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(MediaError, match=message):
        Meshes.from_file(tmp_path / name)
    with pytest.raises(MediaError, match=message):
        Meshes(4).load(tmp_path / name)


def ply_bytes(vertices: object = 3, faces: object = 1, size: str = "uchar", rows: bytes = b"") -> bytes:
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    return (
        (
            f"ply\nformat binary_little_endian 1.0\nelement vertex {vertices}\n{axes}element face {faces}\n"
            f"property list {size} int vertex_indices\nend_header\n"
        ).encode()
        + np.eye(3, dtype="<f4").tobytes()
        + rows
    )


def hostile_glb(change: Callable[[dict], object]) -> bytes:
    tree, body = gltf()
    change(tree)
    return glb_bytes(tree, body)


def packed(tree: dict) -> None:
    tree["extensionsUsed"] = ["KHR_draco_mesh_compression"]
    del tree["accessors"][0]["bufferView"]


HOSTILE = {
    "shown.glb": hostile_glb(
        lambda tree: tree.update(nodes=[{"children": [*range(1, 10**5)]}, *[{"mesh": 0}] * (10**5 - 1)])
    ),
    "node.glb": hostile_glb(lambda tree: tree["nodes"][0].update(children=[0])),
    "count.glb": hostile_glb(lambda tree: tree["accessors"][0].update(count=10**11)),
    "negative.glb": hostile_glb(lambda tree: tree["accessors"][0].update(count=-1)),
    "sparse.glb": hostile_glb(
        lambda tree: tree["accessors"].__setitem__(
            0, {"componentType": 5126, "type": "VEC3", "count": 10**11, "sparse": {"count": 1}}
        )
    ),
    "stride.glb": hostile_glb(
        lambda tree: (tree["bufferViews"][0].update(byteStride=0), tree["accessors"][0].update(count=10**11))
    ),
    "packed.glb": hostile_glb(packed),
    "deep.gltf": b"[" * 10**6,
    "pipe.gltf": json.dumps({"buffers": [{"uri": "pipe.obj"}], "accessors": []}).encode(),
    "rows.ply": ply_bytes(vertices=10**12),
    "digits.ply": ply_bytes(vertices="9" * 5000),
    "minus.ply": ply_bytes(vertices=-1),
    "list.ply": ply_bytes(size="uint", rows=b"\xff" * 400),
    "lists.ply": ply_bytes(faces=10**5, rows=(b"\x03" + bytes(12) + b"\x04" + bytes(16)) * 40_000),
    "counts.off": b"OFF\n1000000000000 1 0\n0 0 0\n",
    "minus.off": b"OFF\n-3 7 0\n" + b"0 0 0\n" * 4,
    "corners.off": b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n999999999999 0 1 2\n",
    "index.obj": b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 99999999999999999999999\n",
    "score.obj": b"v 0 0 0\nv 1_0 0 0\nv 0 1 0\nf 1 2 3\n",
    "count.stl": bytes(80) + b"\xff" * 4 + bytes(500),
    "cut.stl": b"solid\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop\nendfacet\n",
    "pipe.obj": None,
    "folder.obj": "",
}
"""Content of files, None for a pipe and "" for a folder."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_sentence(tmp_path, name):
    for file in {name, "pipe.obj"}:
        content, path = HOSTILE[file], tmp_path / file
        if content is None:
            os.mkfifo(path)
        elif content == "":
            path.mkdir()
        else:
            path.write_bytes(content)
    refusal(lambda: Meshes.from_file(tmp_path / name), str(tmp_path / name))


MUTATED = ("a.obj", "a.ply", "a.glb", "a.stl", "a.off", "text.ply", "text.stl", "a.gltf")


@pytest.mark.parametrize("name", MUTATED)
def test_mutated_files_are_read_or_refused(tmp_path, name):
    path = tmp_path / name
    if name == "a.gltf":
        tree, body = gltf()
        tree["buffers"][0]["uri"] = "data:;base64," + base64.b64encode(body).decode()
        path.write_text(json.dumps(tree))
    elif name.startswith("text"):
        mesh = trimesh.Trimesh(*sphere(12), process=False)
        text = {".ply": {"encoding": "ascii"}, ".stl": {"file_type": "stl_ascii"}}
        mesh.export(path, **text[path.suffix])
    else:
        medium, x = heads(12, colours=True)
        medium.save(x[0], path)

    def read_all() -> str:
        warnings.simplefilter("ignore")
        counts = Counter()
        for content in mutations(path.read_bytes(), 300):
            path.write_bytes(content)
            try:
                medium = Meshes.from_file(path)
                assert medium.load(path).isfinite().all() and medium.faces.max() < medium.vertices
                counts["read"] += 1
            except MediaError as error:
                assert str(path) in str(error) and "\n" not in str(error)
                counts["refused"] += 1
        return f"{counts['read'] > 0} {counts['refused'] > 50}"

    assert ask(read_all, seconds=60) == ("", "'True True'")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, suffix, kept):
    medium, x = heads()
    medium.save(x[0], tmp_path / f"whole{suffix}")
    data = (tmp_path / f"whole{suffix}").read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(data[: int(kept * len(data))])
    with pytest.raises(MediaError, match=f"cut{suffix}"):
        medium.load(tmp_path / f"cut{suffix}")
    with pytest.raises(MediaError, match="missing.* cannot be read"):
        medium.load(tmp_path / f"missing{suffix}")


def test_other_counts_and_topologies_are_refused(tmp_path):
    medium, x = heads(40)
    other, y = heads(41)
    other.save(y[0], tmp_path / "other.ply")
    with pytest.raises(MediaError, match="other.ply has 41 vertices, expected 40"):
        medium.load(tmp_path / "other.ply")
    medium.save(x[0], tmp_path / "a.obj")
    with pytest.raises(MediaError, match="a.obj has another topology: 76 triangles, expected 75"):
        medium.on(medium.faces[1:]).load(tmp_path / "a.obj")
    turned = medium.faces.clone()
    turned[5] = turned[5].roll(1)
    with pytest.raises(MediaError, match="a.obj has another topology: 1 of 76 triangles differ, the first is number 5"):
        medium.on(turned).load(tmp_path / "a.obj")
    assert torch.equal(Meshes(40).load(tmp_path / "a.obj"), x[0])
    with pytest.raises(MediaError, match="a.obj has no colours at its vertices"):
        Meshes(40, colours=True).load(tmp_path / "a.obj")
    coloured, z = heads(40, colours=True)
    coloured.save(z[0], tmp_path / "b.obj")
    assert torch.equal(medium.load(tmp_path / "b.obj"), x[0])


def test_faults_that_scans_have_are_reported(tmp_path):
    # Three triangles at the edge 0-1, and two that meet in vertex 5 alone; the last one has no area.
    (tmp_path / "a.obj").write_text(
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 -1 0\nv 0 0 1\nv 5 5 5\nv 6 5 5\nv 6 6 5\nv 5 4 5\nv 4 4 5\nv 7 7 7\nv 8 8 8\n"
        "v 9 9 9\nf 1 2 3\nf 2 1 4\nf 1 2 5\nf 6 7 8\nf 6 9 10\nf 11 12 13\n"
    )
    with pytest.warns(UserWarning) as caught:
        medium = Meshes.from_file(tmp_path / "a.obj")
    messages = [str(warning.message) for warning in caught]
    assert any("a.obj: 1 of 6 triangles have no area" in message for message in messages)
    assert any("a.obj is no manifold at 1 edges" in message and "and 1 vertices" in message for message in messages)
    with pytest.warns(UserWarning) as caught:
        medium.load(tmp_path / "a.obj")
    # What belongs to the topology is said once.
    assert len(caught) == 1 and "no area" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean, x = heads()
        clean.save(x[0], tmp_path / "b.obj")
        Meshes.from_file(tmp_path / "b.obj")


def test_an_extent_that_makes_the_unit_doubtful_is_reported(tmp_path):
    medium, x = heads()
    dataclasses.replace(medium, unit="m").save(x[0], tmp_path / "a.obj")
    with pytest.warns(UserWarning, match=r"a.obj spans 0.2\d* mm; is its unit another one\? unit= says it"):
        Meshes.from_file(tmp_path / "a.obj")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Meshes.from_file(tmp_path / "a.obj", unit="m")


def test_what_a_format_does_not_hold_is_said(tmp_path):
    medium, x = heads(colours=True)
    for name, lost in (("a.stl", "STL holds no colours and no texture coordinates"), ("a.off", "OFF holds no texture")):
        with pytest.warns(UserWarning, match=f"{name}: {lost}"):
            medium.save(x[0], tmp_path / name)


def test_manifolds():
    assert count_non_manifold(TETRAHEDRON.numpy(), 4) == (0, 0)
    # Two tetrahedra that share a vertex, or an edge.
    assert count_non_manifold(np.concatenate([TETRAHEDRON, TETRAHEDRON + 3]), 7) == (0, 1)
    shared = np.where(TETRAHEDRON.numpy() < 2, TETRAHEDRON.numpy(), TETRAHEDRON.numpy() + 2)
    assert count_non_manifold(np.concatenate([TETRAHEDRON, shared]), 6)[0] == 1


def test_what_is_unknown_is_interpolated_harmonically():
    # Of the plane a linear function is harmonic. Vertex 63 stands twice, as on a seam; the last touches nothing.
    positions, faces = toys.grid(8, 8, spacing=2.0)
    values = positions[:, :2] @ torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    on_rim = ((positions[:, :2] == 0) | (positions[:, :2] == 14)).any(1)
    torn = torch.where((faces == 63) & (torch.arange(len(faces)) % 2 == 0)[:, None], 64, faces)
    places = torch.cat([positions, positions[63:], torch.full((1, 3), 99.0)])
    known = torch.cat([on_rim, torch.tensor([False, False])])
    given = torch.where(known[:, None], torch.cat([values, torch.zeros(2, 2)]), 1e3)
    found = harmonic_interpolation(given, known, places, torn)
    assert torch.equal(found[known], given[known])
    torch.testing.assert_close(found[:64], values, atol=1e-4, rtol=0)
    torch.testing.assert_close(found[64], values[63])
    torch.testing.assert_close(found[65], values[on_rim].mean(0), atol=1e-4, rtol=0)
    assert harmonic_interpolation(values, torch.ones(64).bool(), positions, faces) is values


def test_batches_become_numbered_files_or_a_sheet(tmp_path):
    medium, x = heads(colours=True)
    medium.save(x, tmp_path / "many")
    assert [file.name for file in sorted((tmp_path / "many").iterdir())] == ["00000.glb", "00001.glb", "00002.glb"]
    medium.save(x, tmp_path / "others" / ".obj")
    assert torch.equal(next(batches(medium.dataset(tmp_path / "others", "all"), 3)).x, x)
    with pytest.raises(MediaError, match="a.ply: one file holds one mesh, got a batch"):
        medium.save(x, tmp_path / "a.ply")
    with pytest.raises(MediaError, match=r"written as \.obj.*, not \.wav"):
        medium.save(x[0], tmp_path / "a.wav")
    with pytest.raises(MediaError, match=r"medium.on\(faces\)"):
        Meshes(40, True).save(x[0], tmp_path / "a.ply")
    with pytest.raises(MediaError, match="of shape .batch, 40, 6., got .1, 40, 3."):
        medium.save(x[0, :, :3], tmp_path / "a.ply")
    with pytest.raises(MediaError, match="name vertices that do not exist, such as 40"):
        medium.on(torch.tensor([[0, 1, 40]])).save(x[0], tmp_path / "a.ply")


def test_the_configuration_and_the_arrays_give_the_medium_back():
    medium, _ = heads(colours=True)
    medium = dataclasses.replace(medium, unit="cm")
    assert medium.config() == {"kind": "meshes", "vertices": 40, "colours": True, "unit": "cm"}
    again = from_config(medium.config(), medium.arrays())
    assert again == medium == Meshes(40, True) and again.unit == "cm"
    assert torch.equal(again.faces, medium.faces) and torch.equal(again.uv, medium.uv)
    assert from_config(Meshes(40).config(), {}).faces is None and medium.grid == ()
    with pytest.raises(ValueError, match="at least 3 vertices, got 2"):
        Meshes(2)
    with pytest.raises(MediaError, match=r"whole numbers of shape \[faces, 3\], got torch.float32 of \[4, 3\]"):
        Meshes(4).on(torch.zeros(4, 3))
    with pytest.raises(MediaError, match=r"texture coordinates of shape \[4, 2\], got \[5, 2\]"):
        Meshes(4).on(TETRAHEDRON, torch.zeros(5, 2))


def test_any_model_over_meshes_can_be_saved_and_shown(tmp_path):
    medium, _ = heads(colours=True)
    model = load(save(VAE(medium, latent=2, width=4).eval(), tmp_path / "vae"))
    assert torch.equal(model.modality.triangles, medium.triangles) and torch.equal(model.modality.uv, medium.uv)
    model.modality.save(model.sample(1)[0], tmp_path / "sample.glb")
    assert Meshes.from_file(tmp_path / "sample.glb").vertices == 40
    bare = load(save(VAE(Meshes(40), latent=2, width=4).eval(), tmp_path / "bare"))
    with pytest.raises(MediaError, match=r"medium.on\(faces\)"):
        bare.modality.show(bare.sample(1))


def test_folders_have_labels_and_splits_and_one_topology(tmp_path):
    medium, x = heads()
    for i, folder in enumerate(["b/1.ply", "a/1.obj", "a/2.stl"]):
        medium.save(x[i], tmp_path / folder)
    (tmp_path / "a" / "0.obj").write_text("v 0 0 0\n")
    turned = medium.on(medium.faces.flip(0))
    turned.save(x[0], tmp_path / "b" / "2.obj")
    data = Meshes(40).dataset(tmp_path, "all", labels=True)
    # The first file is broken; the next one says the topology.
    assert torch.equal(data.medium.faces, medium.faces) and data.medium.uv is not None
    assert len(data) == 5 and data.labels == [0, 0, 0, 1, 1]
    for i, (expected, label) in {1: (x[1], 0), 2: (x[2], 0), 3: (x[0], 1)}.items():
        assert torch.equal(data[i][0], expected) and data[i][1] == label
    with pytest.raises(MediaError, match="0.obj has 1 vertices but no faces"):
        data[0]
    with pytest.raises(MediaError, match="2.obj has another topology: 76 of 76"):
        data[4]
    assert torch.equal(turned.dataset(tmp_path, "all")[4], x[0])
    assert [len(Meshes(40).dataset(tmp_path, split)) for split in ("train", "test")] == [4, 1]
    with pytest.raises(MediaError, match="0.obj has 1 vertices but no faces"):
        Meshes(30).dataset(tmp_path)
    with pytest.raises(MediaError, match="synthetic-heads"):
        medium.dataset(tmp_path / "nothing")


@pytest.mark.parametrize("vertices", [12, 13, 100, 501])
def test_spheres_of_any_size_are_closed_and_face_outwards(vertices):
    points, faces = sphere(vertices)
    mesh = trimesh.Trimesh(points, faces, process=False)
    assert len(faces) == 2 * vertices - 4 and mesh.is_watertight and mesh.is_winding_consistent
    assert (shading_normals(points, faces) * points).sum(axis=1).min() > 0.5
    with pytest.raises(MediaError, match="at least 12 vertices, got 11"):
        Meshes(11).dataset("synthetic-heads")


def test_generated_heads():
    data = Meshes(60, True).dataset("synthetic-heads", labels=True)
    assert data.classes == ("small ears", "large ears") and data.split == "train"
    x, labels = data.take(range(200))
    assert len(data) == 5000 and x.shape == (200, 60, 6) and 60 < labels.sum() < 140
    assert torch.equal(data[7][0], x[7]) and data[7][1] == labels[7]
    shapes = Meshes(60).dataset("synthetic-heads").take(range(200))
    assert torch.equal(shapes, x[..., :3])
    assert x[..., 3:].min() >= 0 and x[..., 3:].max() <= 1
    rank = torch.linalg.matrix_rank((shapes - shapes.mean(0)).flatten(1).double(), rtol=1e-5)
    assert rank == len(HEADS)
    test = Meshes(60).dataset("synthetic-heads", "test")
    everything = Meshes(60).dataset("synthetic-heads", "all")
    assert len(test) == 500 and torch.equal(everything[5000], test[0]) and torch.equal(everything[0], shapes[0])
    assert not torch.isclose(test[0], shapes[:, None]).all(dim=-1).all(dim=-1).any()
    # Large ears are wide.
    sides = x[..., 0].amax(1) - x[..., 0].amin(1)
    assert sides[labels == 1].mean() > sides[labels == 0].mean()
    turned = Meshes(60, True).dataset("synthetic-heads", labels=True, classes=data.classes[::-1])
    assert torch.equal(turned.labels, 1 - data.labels)
    with pytest.raises(MediaError, match="no split 'val'"):
        Meshes(60).dataset("synthetic-heads", "val")
    with pytest.raises(MediaError, match="synthetic-heads belong to no groups"):
        Meshes(60).dataset("synthetic-heads", groups="person")
    with pytest.raises(MediaError, match="another topology"):
        Meshes(60).on(TETRAHEDRON).dataset("synthetic-heads")


def face_file(folder, **changes):
    """A face model of the same layout: a quad, a triangle beyond the narrow cut, two modes of each kind."""
    generator = np.random.default_rng(0)
    arrays = {
        "neutral": np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 2, 1]], np.float32),
        "identity_modes": generator.normal(size=(100, 5, 3)).astype(np.float16),
        "expression_deltas": generator.normal(size=(3, 5, 3)).astype(np.float16),
        "expression_names": np.array(["jawOpen", "mouthSmile_L", "mouthSmile_R"]),
        "faces": np.array([[0, 1, 2, 3], [2, 4, 3, -1]], np.int32),
        "faces_uv": np.array([[0, 1, 2, 3], [5, 4, 3, -1]], np.int32),
        "uv": np.array([[0, 0], [1, 0], [1, 1], [0, 1], [1.5, 1], [1.2, 0]], np.float32),
        "narrow_face": np.array([4, 1]),
        "part_ranges": np.array([[0, 5, 0, 2]]),
        "landmarks_multipie68": np.array([3, 2, *[0] * 66], np.int32),
    }
    arrays |= changes
    np.savez(folder / FACE_FILE, **arrays)
    return arrays


def test_the_face_model_is_cut_and_becomes_millimetres(tmp_path):
    arrays = face_file(tmp_path)
    model = read_face_model(tmp_path, 5)
    assert model.medium.faces.tolist() == [[0, 1, 2], [0, 2, 3], [2, 4, 3]]
    # Vertex 2 lies on a seam; its corners tie, and the first coordinate counts.
    assert model.medium.uv.tolist() == arrays["uv"][:5].tolist()
    assert model.mean[4].tolist() == [20, 20, 10]
    assert torch.equal(model.identity, 10 * torch.from_numpy(arrays["identity_modes"].astype(np.float32)))
    assert model.expressions.shape == (3, 5, 3) and model.expression_names[0] == "jawOpen"
    assert model.landmarks.dtype == torch.int64 and model.landmarks[:2].tolist() == [3, 2]
    narrow = read_face_model(tmp_path / FACE_FILE, 4)
    assert narrow.medium.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert torch.equal(narrow.identity, model.identity[:, :4])
    with pytest.raises(MediaError, match="can be cut to 4, 5 vertices, not to 6"):
        read_face_model(tmp_path, 6)


def test_generated_faces(tmp_path):
    face_file(tmp_path)
    data, narrow = Meshes(5).dataset(tmp_path), Meshes(4).dataset(tmp_path / FACE_FILE)
    model = read_face_model(tmp_path, 5)
    assert len(data) == 5000 and torch.equal(data.medium.faces, model.medium.faces)
    assert torch.allclose(data.take([0, 9])[:, :4], narrow.take([0, 9]), atol=1e-3)
    expected = model.mean + torch.einsum("k,kvc->vc", data.weights[9], torch.cat([model.identity, model.expressions]))
    assert torch.allclose(data[9], expected, atol=1e-3)
    test = Meshes(5).dataset(tmp_path, "test")
    assert len(test) == 500 and torch.cdist(test.weights, data.weights).min() > 1
    with pytest.raises(MediaError, match="has no labels"):
        Meshes(5).dataset(tmp_path, labels=True)
    with pytest.raises(MediaError, match=r"has no colours; use Meshes\(5\)"):
        Meshes(5, True).dataset(tmp_path)
    with pytest.raises(MediaError, match="another topology"):
        Meshes(5).on(TETRAHEDRON).dataset(tmp_path)


def test_weights_of_faces():
    names = ["jawOpen", "mouthClose", "mouthSmile_L", "mouthSmile_R"]
    weights = face_weights(names)
    identity, (jaw, close, left, right) = weights[:, :100], weights[:, 100:].T
    assert abs(identity.mean()) < 0.01 and abs(identity.std() - 1) < 0.01
    assert weights[:, 100:].min() == 0 and weights[:, 100:].max() <= 1
    assert 0.08 < (jaw > 0).float().mean() < 0.12 and (close <= jaw).all() and (close > 0).any()
    smiling = left > 0
    assert torch.equal(smiling, right > 0) and not torch.equal(left, right)
    ratio = left[smiling] / right[smiling]
    assert ratio.min() >= 0.699 and ratio.max() <= 1.431
    assert torch.equal(weights, face_weights(names))


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda folder: np.savez(folder / FACE_FILE, x=np.zeros(3)), "it lacks expression_deltas, .*, neutral"),
        (lambda folder: (folder / FACE_FILE).write_bytes(b"PK"), "cannot be read as arrays"),
        (
            lambda folder: face_file(folder, landmarks_multipie68=np.array([3, 4, *[0] * 66])),
            "landmarks 1 are not among the first 4",
        ),
        (lambda folder: face_file(folder, neutral=np.zeros((5, 2))), "identity_modes .* do not fit together"),
        (lambda folder: face_file(folder, faces=np.array([[0, 1, 2, 9]] * 2)), "its faces: 1 triangles name vertices"),
        (lambda folder: face_file(folder, part_ranges=np.zeros(3)), "is no face model: "),
        (lambda folder: face_file(folder, expression_deltas=np.full((3, 5, 3), np.nan)), "NaN or infinite"),
    ],
)
def test_broken_face_models(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises(MediaError, match=message):
        Meshes(4).dataset(tmp_path)


def test_the_shared_face_model(shared_data, tmp_path):
    folder = shared_data / "ict_facekit"
    model = read_face_model(folder)
    assert model.medium.faces.shape == (13120, 3) and model.identity.shape == (100, 6706, 3)
    assert count_non_manifold(model.medium.faces.numpy(), 6706) == (0, 0)
    # A face is about 15 cm wide and 20 high; x points to its left, y up, z ahead.
    size = model.mean.amax(0) - model.mean.amin(0)
    assert size.tolist() == pytest.approx([150, 199, 106], abs=1)
    marks = model.mean[model.landmarks]
    assert marks[16, 0] > 70 > -70 > marks[0, 0] and marks[30, 2] == pytest.approx(float(model.mean[:, 2].max()), abs=1)
    assert marks[36:48, 1].min() > marks[30, 1] > marks[48:, 1].max()
    normals = vertex_normals(model.mean, model.medium.faces)
    assert normals[model.landmarks[30], 2] > 0.8
    # Modes are orthogonal, the largest first.
    flat = model.identity.flatten(1).double()
    assert flat.square().sum(1)[0] == flat.square().sum(1).max()
    model.medium.save(model.mean, tmp_path / "face.ply")
    assert torch.equal(model.medium.load(tmp_path / "face.ply"), model.mean)


@pytest.fixture(scope="module")
def spheres():
    """A large and a small ball, the large one red on the left side of its body (+x), blue on the other."""
    points, faces = sphere(400)
    x = torch.from_numpy(points).float()
    colours = torch.where(x[:, :1] > 0, torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9]))
    return Meshes(400, True).on(torch.from_numpy(faces)), torch.stack(
        [torch.cat([60 * x, colours], 1), torch.cat([30 * x, colours], 1)]
    )


def test_pictures_show_shape_size_and_colour_from_two_sides(spheres, tmp_path, capfd):
    medium, x = spheres
    medium.save(x, tmp_path / "sheet.png")
    picture = np.asarray(medium.show(x, columns=1)).astype(int)
    assert "X server" not in capfd.readouterr().err and (tmp_path / "sheet.png").stat().st_size > 1000
    large, small = (half[:, :, :] for half in (picture[: picture.shape[0] // 2], picture[-picture.shape[0] // 2 :]))
    inked = [(tile.min(axis=2) < 245).sum() for tile in (large, small)]
    assert inked[0] / inked[1] == pytest.approx(4, rel=0.1)
    front, side = np.array_split(large, 2, axis=1)

    def share(view: np.ndarray, channel: int) -> float:
        return float(((view[..., channel] - view[..., 2 - channel]) > 30).sum() / (view.min(axis=2) < 245).sum())

    assert share(front, 0) == pytest.approx(0.5, abs=0.1) and share(front, 2) == pytest.approx(0.5, abs=0.1)
    # The left of a body is on the right in the picture, and in front when seen from its left.
    assert share(np.array_split(front, 2, axis=1)[1], 0) > 0.9
    assert share(side, 0) > 0.8


def test_clay_is_lit_from_above(spheres):
    medium, x = spheres
    medium = Meshes(400).on(medium.faces)
    picture = np.asarray(medium.show(x[:1, :, :3])).astype(int)
    front = np.array_split(picture, 2, axis=1)[0].mean(axis=2)
    upper, lower = np.array_split(front, 2)
    assert upper[upper < 245].mean() > lower[lower < 245].mean() + 20
    # A neutral colour, and no dent in the middle.
    assert front[front.shape[0] // 2, front.shape[1] // 2] > 120
    with pytest.raises(MediaError, match="an empty batch has no picture"):
        medium.show(x[:0, :, :3])


def test_an_optimiser_can_follow_a_picture():
    code = (
        "import torch; from modalities.meshes import Meshes; data = Meshes(12).dataset('synthetic-heads'); "
        "data.medium.show(data.take([0])); torch.optim.Adam([torch.zeros(1, requires_grad=True)])"
    )
    # In a fresh process: in this one, other tests may have loaded everything in the right order.
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(meshes.__file__).parents[2])


def test_heavy_libraries_are_imported_where_they_are_used():
    for module in Path(meshes.__file__).parent.glob("*.py"):
        for statement in ast.parse(module.read_text()).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                names = [getattr(statement, "module", None) or "", *(alias.name for alias in statement.names)]
                assert not {"trimesh", "pyvista", "scipy"} & {name.split(".")[0] for name in names}, module
