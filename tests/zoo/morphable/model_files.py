"""Files of others' morphable models, written by hand from known modes, whole or with some arrays changed.

Every writer takes a path without a suffix and returns the path of what it wrote.
"""

import json
import struct

import h5py
import numpy as np
import scipy.io

from tests import toys

SIDE = 5
VERTICES = SIDE**2
SIZE = 3 * VERTICES
DEVIATION = np.array([30.0, 12.0, 5.0, 2.0])
"""Standard deviations of the modes of shape, millimetres summed over vertices."""
SMILES = np.array([9.0, 4.0])
TINTS = np.array([0.5, 0.2, 0.1])


def orthonormal(count, seed):
    """Rows of length 1 across each other, shape [count, 3 * vertices]."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(SIZE, count)))[0].T


POINTS, FACES = (part.numpy() for part in toys.grid(SIDE, SIDE, spacing=30.0))
"""A curved sheet, 120 mm wide, whose triangles look along z."""
POINTS = (POINTS - [60, 60, 0]).astype(np.float64)
POINTS[:, 2] = np.float32(40 - (POINTS[:, :2] ** 2).sum(1) / 90)
SHAPE, SMILE, TINT = orthonormal(4, 0), orthonormal(2, 1), orthonormal(3, 2)
GREY = np.random.default_rng(3).uniform(0.3, 0.7, SIZE)
UV = np.random.default_rng(4).uniform(size=(VERTICES, 2)).astype(np.float32)
BLENDSHAPES = {"jawOpen": 8 * SMILE[0] + SMILE[1], "mouthSmile_L": 6 * SMILE[0] - 5 * SMILE[1]}


def content(suffix, data):
    """Any bytes."""

    def write(path):
        path.with_suffix(suffix).write_bytes(data)
        return path.with_suffix(suffix)

    return write


def cut(write, share):
    """The first part of a file."""

    def shortened(path):
        path = write(path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        return path

    return shortened


def poked(values, place, value):
    """A copy of an array with another number in one place."""
    values = np.array(values, np.float64)
    values[place] = value
    return values


def tree(mean=POINTS, directions=SHAPE, deviation=DEVIATION, version=(0, 9), scaled=False, unit=1.0):
    """One model in the layout of statismo: data sets by their paths, attributes by path@name."""
    rows = directions * (unit * deviation[:, None] if scaled else 1)
    arrays = {
        "model/mean": np.float32(unit * mean.ravel()),
        "model/noiseVariance": np.float32([0.25]),
        "model/pcaBasis": np.float32(rows.T),
        "model/pcaVariance": np.float32((unit * deviation) ** 2),
        "representer/points": np.float32(unit * POINTS.T),
        "representer/cells": np.uint32(FACES.T),
        "representer@name": "itkStandardMeshRepresenter",
        "representer@datasetType": np.bytes_("POLYGON_MESH\0"),
    }
    if version is not None:
        arrays |= {"version/majorVersion": np.int32(version[0]), "version/minorVersion": np.int32(version[1])}
    return arrays


def hdf5(arrays, suffix=".h5", **options):
    """An HDF5 file; what is None is left out."""

    def write(path):
        with h5py.File(path.with_suffix(suffix), "w", **options) as file:
            for name, values in arrays.items():
                place, _, attribute = name.partition("@")
                if attribute and values is not None:
                    file.require_group(place).attrs[attribute] = values
                elif values is not None:
                    file[place] = values
        return path.with_suffix(suffix)

    return write


def statismo(version=(0, 9), scaled=False, changes=None):
    return hdf5(tree(version=version, scaled=scaled) | (changes or {}))


def oldest(path):
    """No version and a name that stands for 0.8; the reference is a VTK file within the file."""
    import pyvista

    pyvista.PolyData.from_regular_faces(np.float32(POINTS), FACES).save(path.with_suffix(".vtk"))
    reference = np.frombuffer(path.with_suffix(".vtk").read_bytes(), np.uint8)
    changes = {"representer/points": None, "representer/cells": None, "representer/reference": reference}
    return statismo(None, True, changes | {"representer@name": "vtkPolyDataRepresenter"})(path)


LEGACY = {
    **{"representer/points": None, "representer/cells": None},
    "representer/reference-mesh/vertex-coordinates": np.float32(POINTS),
    "representer/reference-mesh/triangle-list": np.int32(FACES),
}


def basel_variables(changes):
    """Micrometres, standard deviations, triangles from 1 that turn the other way round, colours to 255."""
    variables = {
        "shapeMU": np.float32(1000 * POINTS.reshape(-1, 1)),
        "shapePC": np.float32(SHAPE.T),
        "shapeEV": np.float32(1000 * DEVIATION[:, None]),
        "texMU": np.float32(255 * GREY[:, None]),
        "texPC": np.float32(TINT.T),
        "texEV": np.float32(255 * TINTS[:, None]),
        "tl": np.float64(FACES[:, [1, 0, 2]] + 1),
    }
    return {name: values for name, values in (variables | changes).items() if values is not None}


def basel(packed=False, **changes):
    def write(path):
        scipy.io.savemat(path.with_suffix(".mat"), basel_variables(changes), do_compression=packed)
        return path.with_suffix(".mat")

    return write


def basel_73(path):
    arrays = {name: values.T for name, values in basel_variables({}).items()}
    path = hdf5(arrays, ".mat", userblock_size=512)(path)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    return path


def eos_matrix(values):
    values = np.atleast_2d(values)
    return struct.pack("<ii", *values.shape) + values.T.astype("<f4").tobytes()


def eos_faces(faces):
    return struct.pack("<Q", len(faces)) + faces.astype("<i4").tobytes()


def eos_pca(mean, directions, deviation):
    if mean is None:
        return eos_matrix(np.zeros((0, 1))) + struct.pack("<ii", 0, 0) + struct.pack("<ii", 0, 1) + eos_faces(FACES[:0])
    parts = mean.reshape(-1, 1), directions.T, (deviation**2).reshape(-1, 1)
    return b"".join(map(eos_matrix, parts)) + eos_faces(FACES)


def eos_text(name):
    return struct.pack("<Q", len(name)) + name.encode()


def eos_blendshapes(shapes=BLENDSHAPES):
    named = (eos_text(name) + eos_matrix(offset.reshape(-1, 1)) for name, offset in shapes.items())
    return struct.pack("<?iQ", False, 1, len(shapes)) + b"".join(named)


def eos_landmarks(**marks):
    named = (eos_text(name.lstrip("_")) + struct.pack("<i", vertex) for name, vertex in marks.items())
    return struct.pack("<?Q", False, len(marks)) + b"".join(named)


def eos_bytes(version, colour=False, expression=b"\1", landmarks=b"\1", uv=UV, uv_faces=FACES):
    data = struct.pack("<I", version) + eos_pca(POINTS, SHAPE, DEVIATION)
    data += eos_pca(GREY, TINT, TINTS) if colour else eos_pca(None, None, None)
    data += expression if version >= 2 else b""
    data += landmarks if version >= 3 else b""
    data += struct.pack("<Q", len(uv)) + (uv * [1, -1] + [0, 1]).astype("<f8").tobytes()
    return data + (eos_faces(uv_faces) if version == 4 else b"")


def eos(version, **parts):
    return content(".bin", eos_bytes(version, **parts))


def flame(**changes):
    """Metres; the modes of expression stand behind those of shape."""
    directions, deviation = np.concatenate([SHAPE, SMILE]), np.concatenate([DEVIATION, SMILES])
    offsets = (directions * deviation[:, None] / 1000).T.reshape(VERTICES, 3, -1)
    arrays = {"v_template": POINTS / 1000, "shapedirs": offsets, "f": FACES.astype(np.uint32)} | changes

    def write(path):
        np.savez(path.with_suffix(".npz"), **{name: values for name, values in arrays.items() if values is not None})
        return path.with_suffix(".npz")

    return write


def facekit(path, without=None, **changes):
    """Centimetres; `changes` are offsets of meshes by their names."""
    path.mkdir()
    offsets = {"generic_neutral_mesh": np.zeros(SIZE)} | BLENDSHAPES | changes
    offsets |= {f"identity{i:03d}": row for i, row in enumerate(DEVIATION[:, None] * SHAPE)}
    for name, offset in offsets.items():
        lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in (POINTS + offset.reshape(-1, 3)) / 10]
        lines += [f"vt {u:.9g} {v:.9g}" for u, v in UV]
        lines += ["f " + " ".join(f"{i + 1}/{i + 1}" for i in face) for face in FACES]
        if name != without:
            (path / f"{name}.obj").write_text("\n".join(lines) + "\n")
    (path / "vertex_indices.json").write_text(json.dumps({"idx_to_landmark_verts": [3, 1, 24]}))
    return path


def shorter_facekit(path):
    """One mesh with a vertex less."""
    mesh = facekit(path) / "identity002.obj"
    mesh.write_text(mesh.read_text().partition("\n")[2])
    return path


def parse_glb(path):
    """The JSON of a GLB file and a function that gives an accessor's numbers, each checked by the rules of glTF 2.0."""
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON" and size % 4 == 0
    document = json.loads(data[20 : 20 + size])
    length, kind = struct.unpack("<I4s", data[20 + size : 28 + size])
    binary = data[28 + size :]
    assert kind == b"BIN\0" and length == len(binary) == document["buffers"][0]["byteLength"] and length % 4 == 0

    def numbers(index, target):
        accessor = document["accessors"][index]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[accessor["type"]]
        kind = {5126: "<f4", 5125: "<u4"}[accessor["componentType"]]
        if "bufferView" not in accessor:
            return np.zeros((accessor["count"], width))
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0 and view["target"] == target
        assert view["byteLength"] == 4 * width * accessor["count"]
        values = np.frombuffer(binary, kind, width * accessor["count"], view["byteOffset"]).reshape(-1, width)
        if "min" in accessor:
            assert accessor["min"] == values.min(0).tolist() and accessor["max"] == values.max(0).tolist()
        return values

    return document, numbers
