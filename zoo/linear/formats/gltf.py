"""GLB files with morph targets: the mean face with a slider for every mode, in any viewer of glTF 2.0."""

import json
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modalities import MediaError
from zoo import __version__
from zoo.linear.morphable import PARTS, MorphableModel

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
        self.accessors: list[dict[str, Any]] = []

    def add(self, values: Tensor, target: int = VERTICES, bounds: bool = False) -> int:
        """Append rows of numbers and return their accessor. Positions need `bounds`."""
        kinds = {1: "SCALAR", 2: "VEC2", 3: "VEC3"}
        values = values.detach().cpu().contiguous()
        entry = {
            "bufferView": len(self.views),
            "componentType": FLOAT if values.is_floating_point() else UINT,
            "count": len(values),
            "type": kinds[values.shape[1] if values.ndim == 2 else 1],
        }
        if bounds:
            entry |= {"min": values.amin(0).tolist(), "max": values.amax(0).tolist()}
        content = values.numpy().astype("<f4" if values.is_floating_point() else "<u4").tobytes()
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content), "target": target})
        self.data += content
        self.accessors.append(entry)
        return len(self.accessors) - 1

    def zeros(self, count: int) -> int:
        """An accessor of zeros, which takes no room: it reads from no part of the file."""
        flat = [0.0, 0.0, 0.0]
        self.accessors.append({"componentType": FLOAT, "count": count, "type": "VEC3", "min": flat, "max": flat})
        return len(self.accessors) - 1


@torch.no_grad()
def write_glb(model: MorphableModel, path: Path) -> None:
    """Write the mean and its morph targets; see `zoo.linear.formats.write_model`.

    A target moves positions, normals and colours from the mean to one standard deviation; its weight, 0 in the file, is
    the coefficient. Positions follow it exactly; normals and colours, which are not linear in it, are exact at 0 and 1.
    glTF has linear colours: ours, which are sRGB, are converted.
    """
    count, faces = model.medium.vertices, model.faces.long()
    mean = model.mean.float()
    buffer = Buffer()
    base = _attributes(mean, faces)
    attributes = {key: buffer.add(value, bounds=key == "POSITION") for key, value in base.items()}
    if model.uv is not None:
        attributes["TEXCOORD_0"] = buffer.add(
            model.uv.float() * model.uv.new_tensor([1, -1]) + model.uv.new_tensor([0, 1])
        )
    indices = buffer.add(faces.int().flatten(), INDICES)
    names, targets = [], []
    still = buffer.zeros(count) if sum(model.sizes) else -1
    for name, z in _steps(model):
        moved = _attributes(model.decode(z[None]).mean[0].float(), faces)
        names.append(name)
        target = {}
        for key, value in moved.items():
            offset = value - base[key]
            # Every target has every attribute: some viewers take the mean itself for one that is not there.
            target[key] = buffer.add(offset, bounds=key == "POSITION") if offset.any() else still
        targets.append(target)
        if len(buffer.data) >= LIMIT:
            raise MediaError(
                f"{path}: {count} vertices and {sum(model.sizes)} modes do not fit into the 4 GiB of a GLB file"
            )
    primitive = {"attributes": attributes, "indices": indices, "material": 0, "mode": 4, "targets": targets}
    document = {
        "asset": {"version": "2.0", "generator": f"latent-zoo {__version__}"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "morphable model"}],
        "meshes": [{"primitives": [primitive], "weights": [0.0] * len(targets), "extras": {"targetNames": names}}],
        "materials": [
            {
                "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.7},
                "doubleSided": True,  # a face is an open surface
            }
        ],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(buffer.data)
    if total >= LIMIT:
        raise MediaError(f"{path}: the model takes {total} bytes, a GLB file has at most 4 GiB")
    with path.open("wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, total))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", len(buffer.data), b"BIN\0") + buffer.data)


def _steps(model: MorphableModel) -> list[tuple[str, Tensor]]:
    """A name and coefficients for every target: modes, then attributes."""
    names = [f"{part} {i + 1}" for part, size in zip(PARTS, model.sizes, strict=True) for i in range(size)]
    modes = torch.eye(len(names)).to(model.mean)
    return [*zip(names, modes, strict=True), *zip(model.attributes, model.directions, strict=True)]


def _attributes(item: Tensor, faces: Tensor) -> dict[str, Tensor]:
    """Positions in metres, normals, and linear colours where there are some."""
    positions = item[:, :3] / 1000
    attributes = {"POSITION": positions, "NORMAL": _normals(positions, faces)}
    if item.shape[1] == 6:
        attributes["COLOR_0"] = _linear(item[:, 3:].clamp(0, 1))
    return attributes


def _normals(positions: Tensor, faces: Tensor) -> Tensor:
    """Normals of length 1 at the vertices, weighted by the triangles' areas; along z where there is no triangle."""
    a, b, c = positions.double()[faces].unbind(1)
    across = torch.linalg.cross(b - a, c - a)
    normals = torch.zeros_like(positions, dtype=torch.float64)
    for corner in faces.unbind(1):
        normals.index_add_(0, corner, across)
    length = normals.norm(dim=1, keepdim=True)
    toward = normals.new_tensor([0.0, 0.0, 1.0])
    return torch.where(length > 0, normals / length.clamp(min=torch.finfo(torch.float64).tiny), toward).float()


def _linear(colours: Tensor) -> Tensor:
    """The intensities of sRGB colours."""
    return torch.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
