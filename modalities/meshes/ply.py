"""PLY files, text and binary, with polygons of any size.

trimesh reads no binary file that mixes triangles and quads; VTK does, but takes real colours for bytes and crashes on a
file that is cut short.
"""

import re
import struct
import warnings
from typing import IO

import numpy as np

from modalities.meshes.geometry import MeshArrays, colour_bytes, join_polygons
from modalities.modality import MediaError

TYPES = {
    **{"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2"},
    **{"uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4"},
    **{"double": "f8", "float64": "f8"},
}


COLOUR = re.compile(r"(.*_)?(red|green|blue|r|g|b)")

Properties = list[tuple[str, str, str | None]]
"""The name of each property, numpy's name of its type, and of the type of its count if it is a list."""


def read_ply(file: IO[bytes]) -> MeshArrays:
    """The mesh of an open file; colours as they are stored."""
    order, elements = _header(file)
    data, offset = file.read(), 0
    if order == "ascii":
        if b"_" in data:  # for NumPy 1_0 is 10
            raise MediaError("expected numbers, got some with _")
        # The words as real numbers, one after another, are a binary file of one type.
        data = np.array(data.split(), np.float64).tobytes()
    tables: dict[str, dict[str, np.ndarray]] = {}
    for name, count, properties in elements:
        if order == "ascii":
            stored = [(key, "f8", size and "f8") for key, _, size in properties]
        else:
            stored = [(key, order + kind, size and order + size) for key, kind, size in properties]
        tables[name], offset = _columns(data, offset, count, stored)
        for key, kind, _ in properties:
            # Whole numbers go by way of 64 bits: so -1 and 255 are one byte.
            column = tables[name][key]
            tables[name][key] = (column if kind[0] == "f" else column.astype(np.int64)).astype(kind)
    if order == "ascii" and offset != len(data):
        raise MediaError(f"has {(len(data) - offset) // 8} numbers more than its header announces")
    if offset != len(data):
        warnings.warn(f"{file.name}: {len(data) - offset} bytes after the last element are left out", stacklevel=4)
    points, polygons = tables.get("vertex", {}), tables.get("face", {})

    def stacked(*groups: str) -> np.ndarray | None:
        names = next((group.split() for group in groups if set(group.split()) <= set(points)), None)
        return None if names is None else np.stack([points[name] for name in names], axis=1)

    vertices = stacked("x y z")
    if vertices is None:
        raise MediaError("has no vertices with x, y and z")
    if "tristrips" in tables:
        raise MediaError("holds strips of triangles, which are not read; export it with faces")
    groups = ("red green blue", "diffuse_red diffuse_green diffuse_blue", "r g b")
    colours = stacked(*groups)
    used = next((group.split() for group in groups if set(group.split()) <= set(points)), [])
    unread = [key for key in points if COLOUR.fullmatch(key) and key not in used]
    unread += [f"{key} of faces" for key in polygons if COLOUR.fullmatch(key)]
    if unread:
        warnings.warn(f"{file.name}: the colours {', '.join(unread)} are left out", stacklevel=4)
    uv = stacked("s t", "u v", "texture_u texture_v")
    name = next((name for name in ("vertex_indices", "vertex_index") if name in polygons), "")
    corners = polygons.get(name, np.zeros(0)).astype(np.int64)
    counts = polygons.get(f"{name} count", np.zeros(0, np.int64))
    places, corner_uv = polygons.get("texcoord", np.zeros(0)), None
    if uv is None and len(places) == 2 * len(corners) > 0:
        uv, corner_uv = np.unique(places.reshape(-1, 2), axis=0, return_inverse=True)
        corner_uv = corner_uv.ravel()
    return join_polygons(vertices, counts, corners, uv, corner_uv, colours)


def _header(file: IO[bytes]) -> tuple[str, list[tuple[str, int, Properties]]]:
    """The byte order, "ascii", "<" or ">", and the elements of a PLY file: names, counts and properties."""
    if file.readline().strip() != b"ply":
        raise MediaError("does not begin with the word ply")
    order, elements = "", list[tuple[str, int, Properties]]()
    while line := file.readline():
        match line.decode("ascii", errors="replace").split():
            case ["end_header", *_] if order:
                return order, elements
            case ["end_header", *_]:
                raise MediaError("does not say its format in its header")
            case ["format", name, *_]:
                order = {"ascii": "ascii", "binary_little_endian": "<", "binary_big_endian": ">"}[name]
            case ["element", name, count, *_]:
                elements.append((name, int(count), []))
            case ["property", "list", size, kind, name, *_]:
                elements[-1][2].append((name, TYPES[kind], TYPES[size]))
            case ["property", kind, name, *_]:
                elements[-1][2].append((name, TYPES[kind], None))
    raise MediaError("ends within its header")


def _columns(data: bytes, offset: int, count: int, properties: Properties) -> tuple[dict[str, np.ndarray], int]:
    """The columns of an element that begins at `offset`, and where it ends; of a list all its numbers, and its counts
    as a column "NAME count"."""
    left = len(data) - offset
    if count < 0 or count * sum(np.dtype(size or kind).itemsize for _, kind, size in properties) > left:
        raise MediaError(f"is cut short: {count} rows are announced, {left} bytes left")
    # Where all rows are as long as the first, as triangles are, they are one table.
    fields: list[tuple[str, str, tuple[int, ...]]] = []
    for name, kind, size in properties:
        length: tuple[int, ...] = ()
        if size:
            place = offset + np.dtype(fields).itemsize
            length = (int(np.frombuffer(data, size, 1, place)[0]) if count else 0,)
            fields.append((f"{name} count", size, ()))
        fields.append((name, kind, length))
    row = np.dtype(fields)
    lists = [name for name, _, size in properties if size]
    if count * row.itemsize <= left:
        table = np.ndarray(count, row, data, offset)
        columns = {name: table[name].ravel() for name in row.names or ()}
        columns |= {f"{name} count": columns[f"{name} count"].astype(np.int64) for name in lists}
        if all((columns[f"{name} count"] == row[name].shape[0]).all() for name in lists):
            return columns, offset + count * row.itemsize
    return _ragged(data, offset, count, properties)


def _ragged(data: bytes, offset: int, count: int, properties: Properties) -> tuple[dict[str, np.ndarray], int]:
    """`_columns` where lists differ in length from row to row."""
    starts: dict[str, list[int]] = {name: [] for name, _, _ in properties}
    lengths: dict[str, list[int]] = {name: [] for name, _, _ in properties}
    readers = []
    for name, kind, size in properties:
        head = struct.Struct((size[0] if size[0] in "<>" else "=") + np.dtype(size).char) if size else None
        readers.append((name, np.dtype(kind).itemsize, head))
    for _ in range(count):
        for name, width, head in readers:
            length = 1
            if head:
                length = int(head.unpack_from(data, offset)[0])
                offset += head.size
            starts[name].append(offset)
            lengths[name].append(length)
            offset += length * width
    if offset > len(data):
        raise MediaError(f"is cut short by {offset - len(data)} bytes")
    columns: dict[str, np.ndarray] = {}
    for name, kind, size in properties:
        many, width = np.array(lengths[name], np.int64), np.dtype(kind).itemsize
        within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        places = np.repeat(starts[name], many) + width * within
        columns[name] = np.frombuffer(data, np.uint8)[places[:, None] + np.arange(width)].view(kind).ravel()
        columns |= {f"{name} count": many} if size else {}
    return columns, offset


def write_ply(mesh: MeshArrays) -> bytes:
    """The bytes of a binary file; colours become bytes."""
    columns = [(axis, "<f4", values) for axis, values in zip("xyz", mesh.vertices.T, strict=True)]
    if mesh.uv is not None:
        columns += [(axis, "<f4", values) for axis, values in zip("st", mesh.uv.T, strict=True)]
    if mesh.colours is not None:
        names = ("red", "green", "blue")
        columns += [(name, "u1", values) for name, values in zip(names, colour_bytes(mesh.colours).T, strict=True)]
    points = np.zeros(len(mesh.vertices), [(name, kind) for name, kind, _ in columns])
    for name, _, values in columns:
        points[name] = values
    faces = np.zeros(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces
    words = {"<f4": "float", "u1": "uchar"}
    properties = "".join(f"property {words[kind]} {name}\n" for name, kind, _ in columns)
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{properties}"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    return header.encode() + points.tobytes() + faces.tobytes()
