"""GLB files, the binary form of glTF 2.0: a mesh, and morph targets that a viewer shows a slider for."""

import json
import struct
from collections.abc import Iterable

import numpy as np

from modalities.meshes.geometry import MeshArrays, shading_normals, srgb_to_linear
from modalities.modality import MediaError

FLOAT, UINT = 5126, 5125
VERTICES, INDICES = 34962, 34963
"""What a part of the file feeds: attributes of vertices, or their numbers."""
LIMIT = 2**32
"""A GLB file counts its bytes with 32 bits."""


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
