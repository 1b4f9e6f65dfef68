"""glTF 2.0: meshes out of .glb and .gltf files, and GLB files with morph targets that a viewer shows a slider for.

Read here, since trimesh takes integers that stand for fractions as they are, and what is sparse or compressed for
zeros.
"""

import base64
import json
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO
from urllib.parse import unquote

import numpy as np

from modalities.meshes.geometry import (
    MeshArrays,
    fan_triangulation,
    linear_to_srgb,
    shading_normals,
    srgb_to_linear,
)
from modalities.modality import MediaError

FLOAT, UINT = 5126, 5125
VERTICES, INDICES = 34962, 34963
"""What a part of the file feeds: attributes of vertices, or their numbers."""
LIMIT = 2**32
"""A GLB file counts its bytes with 32 bits."""
TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", UINT: "<u4", FLOAT: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
TRIANGLES, STRIP, FAN = 4, 5, 6
PACKED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression")
"""Compressions that are not read."""
MOST = 2**22
"""How many vertices a file may have that it does not list one by one."""
PARTS = 2**15


def read_gltf(file: IO[bytes]) -> MeshArrays:
    """The triangles of an open .glb or .gltf file in metres, part by part in the order of the scene's nodes, each where
    its node puts it; colours become sRGB. Buffers lie in the file, or in files beside it.

    Raises `MediaError` for what is compressed, and for numbers that are not in the file. Warns of colours and texture
    coordinates that only some parts have, which are left out, and of poses: joints and morph targets move nothing.
    """
    document, parts, total = Document(file), list[MeshArrays](), 0
    for mesh, matrix in document.placed():
        for part in document.parts(mesh, matrix):
            parts.append(part)
            total += len(part.vertices)
            if total > max(MOST, document.size) or len(parts) > PARTS:
                raise MediaError(f"shows its meshes so often that they have more than {MOST} vertices or {PARTS} parts")
    if not parts:
        raise MediaError("holds no triangles")
    if document.posed:
        warnings.warn(f"{file.name}: joints and morph targets are left out; the mesh is not posed", stacklevel=4)

    def joined(values: list[np.ndarray], what: str) -> np.ndarray | None:
        if 0 < len(values) < len(parts):
            lacking = len(parts) - len(values)
            text = f"{file.name}: {lacking} of {len(parts)} parts have no {what}, so all are left out"
            warnings.warn(text, stacklevel=5)
        return np.concatenate(values) if len(values) == len(parts) else None

    first = np.cumsum([0, *(len(part.vertices) for part in parts)])
    return MeshArrays(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + offset for part, offset in zip(parts, first, strict=False)]),
        joined([part.uv for part in parts if part.uv is not None], "texture coordinates"),
        joined([part.colours for part in parts if part.colours is not None], "colours"),
    )


class Document:
    """An open .glb or .gltf file: its JSON and its buffers."""

    def __init__(self, file: IO[bytes]):
        data, self.binary, self.folder, self.posed = file.read(), b"", Path(file.name).parent, False
        self.size = len(data)
        if data.startswith(b"glTF"):
            version, length, size, kind = struct.unpack("<4x3I4s", data[:20])
            if version != 2 or kind != b"JSON" or length > len(data):
                raise MediaError(f"is cut short or no GLB of version 2: {len(data)} of {length} bytes are there")
            data, self.binary = data[20 : 20 + size], data[28 + size :]
        self.tree = json.loads(data)
        for name in self.tree.get("extensionsRequired", []):
            if name in PACKED:
                raise MediaError(f"is compressed by {name}, which is not read; export it without")
        self.buffer = cache(self._buffer)

    def placed(self) -> Iterator[tuple[int, np.ndarray]]:
        """The meshes of the scene and where they stand, a matrix [4, 4] each."""
        nodes, scenes = self.tree.get("nodes", []), self.tree.get("scenes")
        inner = {child for node in nodes for child in node.get("children", [])}
        roots = scenes[self.tree.get("scene", 0)].get("nodes", []) if scenes else sorted({*range(len(nodes))} - inner)
        queue, seen = [(root, np.eye(4)) for root in reversed(roots)], set[int]()
        while queue:
            number, matrix = queue.pop()
            if number in seen:
                raise MediaError(f"node {number} stands in two places")
            seen.add(number)
            node = nodes[number]
            matrix = matrix @ _matrix(node)
            if "mesh" in node:
                self.posed |= "skin" in node or any(node.get("weights", []))
                yield node["mesh"], matrix
            queue += [(child, matrix) for child in reversed(node.get("children", []))]

    def parts(self, mesh: int, matrix: np.ndarray) -> Iterator[MeshArrays]:
        """The triangles of a mesh; points and lines are none."""
        self.posed |= any(self.tree["meshes"][mesh].get("weights", []))
        for primitive in self.tree["meshes"][mesh]["primitives"]:
            mode, attributes = primitive.get("mode", TRIANGLES), primitive["attributes"]
            if mode not in (TRIANGLES, STRIP, FAN):
                continue
            points = self.numbers(attributes["POSITION"])
            corners = np.arange(len(points))
            if "indices" in primitive:
                corners = self.numbers(primitive["indices"])[:, 0].astype(np.int64)
            if mode == STRIP:
                i = np.arange(len(corners) - 2)
                corners = corners[np.stack([i, i + 1 + i % 2, i + 2 - i % 2], axis=1)]
            elif mode == FAN:
                corners = fan_triangulation(np.array([len(corners)]), corners)
            # What mirrors a mesh turns its triangles inside out.
            faces = corners.reshape(-1, 3)[:, :: -1 if np.linalg.det(matrix[:3, :3]) < 0 else 1]
            given = {
                name: self.numbers(attributes[name], True) for name in ("TEXCOORD_0", "COLOR_0") if name in attributes
            }
            for name, values in given.items():
                if len(values) != len(points):
                    raise MediaError(f"{len(points)} vertices have {len(values)} values of {name}")
            uv, colours = given.get("TEXCOORD_0"), given.get("COLOR_0")
            yield MeshArrays(
                points @ matrix[:3, :3].T + matrix[:3, 3],
                faces,
                None if uv is None else uv * [1, -1] + [0, 1],
                None if colours is None else linear_to_srgb(colours[:, :3].clip(0, 1)),
            )

    def numbers(self, accessor: int, fractions: bool = False) -> np.ndarray:
        """The rows of an accessor, shape [count, width], float64; integers that stand for `fractions` become these."""
        entry = self.tree["accessors"][accessor]
        kind, shape = np.dtype(TYPES[entry["componentType"]]), (entry["count"], WIDTHS[entry["type"]])
        sparse = entry.get("sparse")
        if "bufferView" in entry:
            values = self.rows(entry, kind, shape).astype(np.float64)
        elif sparse and shape[0] <= MOST:
            values = np.zeros(shape)
        else:
            used = ", ".join(self.tree.get("extensionsUsed", [])) or "none"
            raise MediaError(f"the numbers of accessor {accessor} are not in the file; its extensions: {used}")
        if sparse:
            places = self.rows(
                sparse["indices"], np.dtype(TYPES[sparse["indices"]["componentType"]]), (sparse["count"], 1)
            )
            values[places[:, 0]] = self.rows(sparse["values"], kind, (sparse["count"], shape[1]))
        if kind.kind in "iu" and (fractions or entry.get("normalized")):
            values = np.maximum(values / np.iinfo(kind).max, -1)
        return values

    def rows(self, place: Mapping[str, int], kind: np.dtype, shape: tuple[int, int]) -> np.ndarray:
        """Rows of numbers that begin in the view and at the byte that `place` says."""
        view = self.tree["bufferViews"][place["bufferView"]]
        start, size = view.get("byteOffset", 0), shape[1] * kind.itemsize
        data = memoryview(self.buffer(view["buffer"]))[start : start + view["byteLength"]]
        strides = max(size, view.get("byteStride", size)), kind.itemsize
        return np.ndarray(shape, kind, data, place.get("byteOffset", 0), strides)

    def _buffer(self, number: int) -> bytes:
        uri = self.tree["buffers"][number].get("uri")
        if uri is None:
            return self.binary
        if uri.startswith("data:"):
            return base64.b64decode(uri.partition("base64,")[2])
        path = (self.folder / unquote(uri)).resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            raise MediaError(f"its buffer {uri!r} is no file beside it")
        return path.read_bytes()


def _matrix(node: Mapping[str, Sequence[float]]) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat(node.get("rotation", (0, 0, 0, 1))).as_matrix() * node.get("scale", (1, 1, 1))
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix


class Buffer:
    """The binary part of a file and the accessors that read from it. Every number has 4 bytes: all is aligned."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, object]] = []

    def add(self, values: np.ndarray, bounds: bool = False) -> int:
        """Append rows of real numbers, or a row of vertex numbers; returns the accessor. Positions need `bounds`."""
        real = values.dtype.kind == "f"
        values = np.ascontiguousarray(values, "<f4" if real else "<u4")
        entry: dict[str, object] = {
            "bufferView": len(self.views),
            "componentType": FLOAT if real else UINT,
            "count": len(values),
            "type": f"VEC{values.shape[1]}" if real else "SCALAR",
        }
        if bounds:
            entry |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": values.nbytes}
        self.views.append(view | {"target": VERTICES if real else INDICES})
        self.data += values.tobytes()
        self.accessors.append(entry)
        return len(self.accessors) - 1

    def zeros(self, count: int) -> int:
        """An accessor of zeros, which takes no room: it reads from no part of the file."""
        flat = [0.0, 0.0, 0.0]
        self.accessors.append({"componentType": FLOAT, "count": count, "type": "VEC3", "min": flat, "max": flat})
        return len(self.accessors) - 1


def write_glb(mesh: MeshArrays, targets: Iterable[tuple[str, MeshArrays]] = ()) -> bytes:
    """The bytes of a GLB file, in metres.

    Each of the `targets`, a name and a mesh on the same triangles, becomes a morph target that moves positions, normals
    and colours from `mesh` to its own; its weight is 0 in the file. glTF wants colours in linear light, which our sRGB
    becomes, and texture coordinates from the top of the picture.

    Raises `MediaError` for more than the 4 GiB that a GLB file holds.
    """
    buffer, base = Buffer(), _attributes(mesh)
    attributes = {key: buffer.add(value, bounds=key == "POSITION") for key, value in base.items()}
    if mesh.uv is not None:
        attributes["TEXCOORD_0"] = buffer.add((mesh.uv * [1, -1] + [0, 1]).astype(np.float32))
    primitive = {"attributes": attributes, "indices": buffer.add(mesh.faces.ravel()), "material": 0}
    shape: dict[str, object] = {"primitives": [primitive]}
    document = {
        "asset": {"version": "2.0", "generator": "latent-zoo"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [shape],
        # Without a material surfaces would be metal and open ones invisible from behind.
        "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 0.8}, "doubleSided": True}],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
    }
    names, moved, still = list[str](), list[dict[str, int]](), -1
    for name, target in targets:
        still = buffer.zeros(len(mesh.vertices)) if still < 0 else still
        offsets = {key: value - base[key] for key, value in _attributes(target).items()}
        # Every target has every attribute: some viewers take the mean itself for one that is not there.
        moved.append({key: buffer.add(v, bounds=key == "POSITION") if v.any() else still for key, v in offsets.items()})
        names.append(name)
        if len(buffer.data) >= LIMIT:
            raise MediaError(f"{len(mesh.vertices)} vertices and their targets do not fit into 4 GiB, as GLB demands")
    if names:
        primitive["targets"] = moved
        shape |= {"weights": [0.0] * len(names), "extras": {"targetNames": names}}
    document["buffers"] = [{"byteLength": len(buffer.data)}]
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(buffer.data)
    if total >= LIMIT:
        raise MediaError(f"a mesh of {total} bytes does not fit into 4 GiB, as GLB demands")
    head = struct.pack("<4sII", b"glTF", 2, total) + struct.pack("<I4s", len(text), b"JSON")
    return head + text + struct.pack("<I4s", len(buffer.data), b"BIN\0") + buffer.data


def _attributes(mesh: MeshArrays) -> dict[str, np.ndarray]:
    """Positions in metres, normals, and linear colours where there are some, float32."""
    metres = (np.asarray(mesh.vertices, np.float64) / 1000).astype(np.float32)
    attributes = {"POSITION": metres, "NORMAL": shading_normals(mesh.vertices, mesh.faces)}
    if mesh.colours is not None:
        attributes["COLOR_0"] = srgb_to_linear(mesh.colours.clip(0, 1)).astype(np.float32)
    return attributes
