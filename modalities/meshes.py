"""Meshes: triangle surfaces over one topology, in millimetres, with or without a colour at every vertex."""

import dataclasses
from typing import Any, ClassVar

from torch import Tensor

from modalities.modality import MediaError, Modality


@dataclasses.dataclass(frozen=True, eq=False)
class Topology:
    """What all meshes of a medium share: which vertices make a triangle, and where they lie on a texture."""

    faces: Tensor
    """Three vertex numbers a triangle, counter-clockwise from outside, shape [faces, 3], int64."""
    uv: Tensor | None = None
    """Texture coordinates in [0, 1] of every vertex, shape [vertices, 2]; v grows upwards."""


@dataclasses.dataclass(frozen=True)
class Meshes(Modality):
    """Meshes of shape [vertices, 3], positions in millimetres, or with `colours` [vertices, 6]: red, green and blue in
    [0, 1] (sRGB) last.

    x points to the left of the head or body that faces the viewer, y up, z to the viewer.

    The topology is no part of the configuration: a data set or a model holds it and hands it over with `on`. Writing
    files and drawing need it.
    """

    vertices: int
    colours: bool = False
    topology: Topology | None = dataclasses.field(default=None, compare=False, repr=False)
    kind: ClassVar[str] = "meshes"

    def __post_init__(self) -> None:
        if self.vertices < 3:
            raise ValueError(f"meshes have at least 3 vertices, got {self.vertices!r}")

    @property
    def shape(self) -> tuple[int, int]:
        return self.vertices, 6 if self.colours else 3

    @property
    def faces(self) -> Tensor:
        """The triangles, shape [faces, 3]; raises `MediaError` where this medium was given no topology."""
        if self.topology is None:
            raise MediaError("these meshes have no topology; give them one: medium.on(faces)")
        return self.topology.faces

    def on(self, faces: Tensor, uv: Tensor | None = None) -> "Meshes":
        """The same medium with these triangles, shape [faces, 3], and texture coordinates, shape [vertices, 2]."""
        return dataclasses.replace(self, topology=Topology(faces, uv))

    def config(self) -> dict[str, Any]:
        return {"kind": self.kind, "vertices": self.vertices, "colours": self.colours}
