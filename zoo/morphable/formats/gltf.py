"""GLB files with morph targets: the mean face with a slider for every mode, in any viewer of glTF 2.0."""

from pathlib import Path

import torch
from torch import Tensor

from modalities.meshes import gltf
from modalities.meshes.geometry import MeshArrays
from zoo.morphable.model import PARTS, MorphableModel


@torch.no_grad()
def write_glb(model: MorphableModel, path: Path) -> None:
    """Write GLB: the mean, and a morph target of one standard deviation for every mode and of every attribute's step.

    Positions follow a target's weight exactly; normals and colours, which are not linear in it, are exact at 0 and 1.
    """
    medium = model.modality
    faces, uv = medium.triangles.cpu().numpy(), None if medium.uv is None else medium.uv.float().cpu().numpy()

    def mesh(item: Tensor) -> MeshArrays:
        x = item.float().cpu().numpy()
        return MeshArrays(x[:, :3], faces, uv, x[:, 3:] if medium.colours else None)

    names = [f"{part} {i + 1}" for part, size in zip(PARTS, model.sizes, strict=True) for i in range(size)]
    steps = torch.cat([torch.eye(len(names)).to(model.mean), model.directions])
    moved = (mesh(model.decode(z[None]).mean[0]) for z in steps)
    path.write_bytes(gltf.write_glb(mesh(model.mean), zip([*names, *model.attributes], moved, strict=True)))
