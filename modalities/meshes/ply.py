"""PLY files, text and binary, with polygons of any size.

trimesh reads no binary file that mixes triangles and quads; VTK does, but takes real colours for bytes and crashes on a
file that is cut short.
"""

import warnings
from typing import IO, Any

import numpy as np

from modalities.meshes.geometry import MeshArrays, check_indices, colour_bytes, fan_triangulation, vertex_uv
from modalities.modality import MediaError

TYPES = {
    **{"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2"},
    **{"uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4"},
    **{"double": "f8", "float64": "f8"},
}


def read_ply(file: IO[bytes]) -> MeshArrays:
    """The mesh of an open file; colours as they are stored."""
    order, elements = _header(file)
    data, offset = file.read(), 0
    if order == "ascii":
        # The words as real numbers, one after another, are a binary file of one type.
        data = np.array(data.split(), np.float64).tobytes()
    tables: dict[str, dict[str, Any]] = {}
    for name, count, properties in elements:
        if order == "ascii":
            stored = [(key, "f8", size and "f8") for key, _, size in properties]
        else:
            stored = [(key, order + kind, size and order + size) for key, kind, size in properties]
        columns, offset = _columns(data, offset, count, stored)
        tables[name] = columns | {key: _as(kind, columns[key]) for key, kind, size in properties if not size}
    if order == "ascii" and offset != len(data):
        raise MediaError(f"has {(len(data) - offset) // 8} numbers more than its header announces")
    points, polygons = tables.get("vertex", {}), tables.get("face", {})
    if not {"x", "y", "z"} <= set(points):
        raise MediaError("has no vertices with x, y and z")

    def stacked(*groups: str) -> np.ndarray | None:
        names = next((group.split() for group in groups if set(group.split()) <= set(points)), None)
        return None if names is None else np.stack([points[name] for name in names], axis=1)

    vertices = np.stack([points[axis] for axis in "xyz"], axis=1)
    colours = stacked("red green blue", "diffuse_red diffuse_green diffuse_blue")
    if colours is None and "red" in polygons:
        warnings.warn(f"{file.name}: colours of faces are left out; only those of vertices are read", stacklevel=4)
    uv = stacked("s t", "u v", "texture_u texture_v")
    none = np.zeros(0, int), np.zeros(0, int)
    counts, corners = polygons.get("vertex_indices", polygons.get("vertex_index", none))
    counts, corners = counts.astype(np.int64), corners.astype(np.int64)
    faces = fan_triangulation(counts, corners)
    if uv is None and len(polygons.get("texcoord", none)[1]) == 2 * len(corners) > 0:
        check_indices(faces, len(vertices), "its faces")
        table, places = np.unique(polygons["texcoord"][1].reshape(-1, 2), axis=0, return_inverse=True)
        uv = vertex_uv(corners, places.ravel(), table, len(vertices))
    return MeshArrays(vertices, faces, uv, colours)


def _as(kind: str, column: np.ndarray) -> np.ndarray:
    """A column in its own type, whole numbers by way of 64 bits: so -1 and 255 are one byte."""
    return (column if kind[0] == "f" else column.astype(np.int64)).astype(kind)


Properties = list[tuple[str, str, str | None]]
"""The name of each property, numpy's name of its type, and of the type of its count if it is a list."""


def _header(file: IO[bytes]) -> tuple[str, list[tuple[str, int, Properties]]]:
    """The byte order, "ascii", "<" or ">", and the elements of a PLY file: names, counts and properties."""
    if file.readline().strip() != b"ply":
        raise MediaError("does not begin with the word ply")
    order, elements = "", list[tuple[str, int, Properties]]()
    while True:
        line = file.readline()
        if not line:
            raise MediaError("ends within its header")
        words = line.decode("ascii", errors="replace").split()
        if words[:1] == ["end_header"]:
            break
        if words[:1] == ["format"]:
            order = {"ascii": "ascii", "binary_little_endian": "<", "binary_big_endian": ">"}[words[1]]
        elif words[:1] == ["element"]:
            elements.append((words[1], int(words[2]), []))
        elif words[:2] == ["property", "list"]:
            elements[-1][2].append((words[4], TYPES[words[3]], TYPES[words[2]]))
        elif words[:1] == ["property"]:
            elements[-1][2].append((words[2], TYPES[words[1]], None))
    if not order:
        raise MediaError("does not say its format in its header")
    return order, elements


def _columns(data: bytes, offset: int, count: int, properties: Properties) -> tuple[dict[str, Any], int]:
    """The columns of an element that begins at `offset`, of a list its counts and all its numbers, and where it
    ends."""
    lists = [name for name, _, size in properties if size]
    blocks: list[np.ndarray] = []
    while count:
        # The lengths of the lists in the next row; rows with the same are read together.
        fields: list[Any] = []
        lengths, at = {}, offset
        for name, kind, size in properties:
            if size:
                lengths[name] = int(np.frombuffer(data, size, 1, at)[0])
                fields.append((f"{name} count", size))
            fields.append((name, kind, (lengths[name],)) if size else (name, kind))
            at = offset + np.dtype(fields).itemsize
        row = np.dtype(fields)
        fitting = min(count, 1024 if lists else count, (len(data) - offset) // row.itemsize)
        if not fitting:
            raise MediaError(f"is cut short: {count} rows more are announced, {len(data) - offset} bytes left")
        table = np.frombuffer(data, row, fitting, offset)
        alike = np.all([table[f"{name} count"] == lengths[name] for name in lists] or [[True] * fitting], axis=0)
        run = fitting if alike.all() else int(alike.argmin())
        blocks.append(table[:run])
        count, offset = count - run, offset + run * row.itemsize
    columns: dict[str, Any] = {}
    for name, kind, size in properties:
        values = np.concatenate([np.zeros(0, kind), *(block[name].ravel() for block in blocks)])
        sizes = [np.full(len(block), block[name].shape[1]) for block in blocks] if size else []
        columns[name] = (np.concatenate([np.zeros(0, int), *sizes]), values) if size else values
    return columns, offset


def write_ply(mesh: MeshArrays) -> bytes:
    """The bytes of a binary file; colours become bytes."""
    fields: list[Any] = [(axis, "<f4") for axis in "xyz"]
    columns = dict(zip("xyz", mesh.vertices.T, strict=True))
    if mesh.uv is not None:
        fields += [("s", "<f4"), ("t", "<f4")]
        columns |= {"s": mesh.uv[:, 0], "t": mesh.uv[:, 1]}
    if mesh.colours is not None:
        names = ("red", "green", "blue")
        fields += [(name, "u1") for name in names]
        columns |= dict(zip(names, colour_bytes(mesh.colours).T, strict=True))
    points = np.zeros(len(mesh.vertices), fields)
    for name, column in columns.items():
        points[name] = column
    faces = np.zeros(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces
    words = {"f4": "float", "u1": "uchar"}
    properties = "".join(f"property {words[kind[-2:]]} {name}\n" for name, kind in fields)
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{properties}"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    return header.encode() + points.tobytes() + faces.tobytes()
