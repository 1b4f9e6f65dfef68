"""The ICT face model: out of FaceKit, a folder of meshes, one a mode, or with the expressions of people at random.

Source: Li, Bladin, Zhao et al., "Learning Formation of Physically-Based Face Attributes", 2020.
"""

from pathlib import Path

import torch
from torch import Tensor

from modalities.meshes.ict import FaceModel, face_weights, read_facekit
from modalities.meshes.sets import COUNTS
from zoo.morphable import modes
from zoo.morphable.formats.parts import Unit, blendshapes, build, principal
from zoo.morphable.model import MorphableModel
from zoo.morphable.modes import Axes
from zoo.morphable.segments import face_regions


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


def from_face_model(source: FaceModel, shape: int, expression: int) -> MorphableModel:
    """The first modes of shape of a face model, exactly, and those of random expressions about the neutral face.

    The expressions of `modalities.meshes.ict.face_weights` are what the modes are of. Single ones are attributes, left
    and right together: "jawOpen", "mouthSmile", the step in z of weight 1. Segments are eyes, nose and mouth.
    """
    # The modes of random offsets need no random faces: with weights w, offsets w E have the moments E^T <w^T w> E.
    weights = face_weights(source.expression_names)[: COUNTS["train"], len(source.identity) :].double()
    values, vectors = torch.linalg.eigh(weights.T @ weights / len(weights))
    root = values.clamp(min=0).sqrt()[:, None] * vectors.T
    shapes = _first(source.identity.flatten(1).double(), shape)
    expressions = _first(root @ source.expressions.flatten(1).double(), expression)
    steps: dict[str, Tensor] = {}
    for name, offset in zip(source.expression_names, source.expressions, strict=True):
        if offset.norm(dim=1).max() > 1:  # pupils and gaze move nothing that a narrow face has
            step = (expressions.basis @ offset.flatten()) / expressions.variance.sqrt()
            both = name.removesuffix("_L").removesuffix("_R")
            steps[both] = steps.get(both, 0) + torch.cat([step.new_zeros(len(shapes.basis)), step])
    model = MorphableModel.assemble(
        source.medium, source.mean, shapes, expressions, attributes=steps, landmarks=source.landmarks
    )
    return model.with_segments(face_regions(model.mean, model.face_landmarks))


def _first(offsets: Tensor, count: int) -> Axes:
    """The first principal axes of x = z offsets, z ~ N(0, I)."""
    axes, _ = modes.principal(offsets)
    return Axes(axes.basis[:count].float(), axes.variance[:count].float())
