"""ICT FaceKit: a folder of meshes, one a mode.

Source: Li, Bladin, Zhao et al., "Learning Formation of Physically-Based Face Attributes", 2020.
"""

from pathlib import Path

from modalities.meshes.ict import read_facekit
from zoo.morphable.formats.parts import Unit, blendshapes, build, principal
from zoo.morphable.model import MorphableModel


def read_ict(folder: Path, unit: Unit | None = None) -> MorphableModel:
    """Read the folder of ICT FaceKit; see `modalities.meshes.ict.read_facekit`."""
    source = read_facekit(folder, unit or "cm")
    shape = principal(f"{folder}: the identities", source.identity.flatten(1).double().numpy())
    expression, steps = None, None
    if source.expression_names:
        offsets = source.expressions.flatten(1).double().numpy()
        expression, directions = blendshapes(f"{folder}: the expressions", offsets)
        steps = source.expression_names, directions
    mean, medium = source.mean.double().flatten().numpy(), source.medium
    uv = None if medium.uv is None else medium.uv.numpy()
    marks = source.landmarks.tolist()
    return build(folder, "mm", medium.triangles.numpy(), mean, shape, expression, steps=steps, uv=uv, landmarks=marks)
