"""Meshes: triangle surfaces over one topology, in millimetres, with or without a colour at every vertex."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from modalities import mesh_sets
from modalities.data import Files
from modalities.drawing import contact_sheet
from modalities.mesh_files import SUFFIXES, UNITS, MeshArrays, check_indices, read_mesh, write_mesh
from modalities.modality import MediaError, Modality
from modalities.sources import choose_split, class_numbers, list_files, split_source

if TYPE_CHECKING:
    from PIL.Image import Image

NAMED = ("synthetic-heads",)

EVERY = 5
"""Every fifth mesh is for tests where nothing else is said."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclasses.dataclass(frozen=True, eq=False)
class Topology:
    """What all meshes of a medium share: which vertices make a triangle, and where they lie on a texture."""

    faces: Tensor
    """Three vertex numbers a triangle, counter-clockwise from outside, shape [faces, 3], int64."""
    uv: Tensor | None = None
    """Texture coordinates of every vertex, shape [vertices, 2]; v grows upwards. In [0, 1], or beyond where a mesh has
    several textures side by side."""


@dataclasses.dataclass(frozen=True)
class Meshes(Modality):
    """Meshes of shape [vertices, 3], positions in millimetres, or with `colours` [vertices, 6]: red, green and blue in
    [0, 1] (sRGB) last.

    x points to the left of the head or body that faces the viewer, y up, z to the viewer.

    The topology is no part of the configuration: a data set or a model holds it and hands it over with `on`. Writing
    files and drawing need it. `unit` ("um", "mm", "cm", "m" or "in") is what the numbers in files mean, and no part of
    it either; GLB is always in metres. Without a network, `dataset` knows the generated "synthetic-heads".
    """

    vertices: int
    colours: bool = False
    topology: Topology | None = dataclasses.field(default=None, compare=False, repr=False)
    unit: str = dataclasses.field(default="mm", compare=False, repr=False)
    kind: ClassVar[str] = "meshes"
    suffix: ClassVar[str] = ".glb"
    sheet: ClassVar[int] = 12

    def __post_init__(self) -> None:
        if self.vertices < 3:
            raise ValueError(f"meshes have at least 3 vertices, got {self.vertices!r}")
        if self.unit not in UNITS:
            raise ValueError(f"unit is one of {', '.join(UNITS)}; got {self.unit!r}")

    @classmethod
    def from_file(cls, path: str | Path, unit: str = "mm") -> Self:
        """The medium of a file: its number of vertices, its triangles and texture coordinates, and whether it has
        colours.

        Raises `MediaError` as `load` does, and warns of edges and vertices where the surface is no manifold.
        """
        if unit not in UNITS:
            raise ValueError(f"unit is one of {', '.join(UNITS)}; got {unit!r}")
        mesh = read_mesh(path, unit)
        uv = None if mesh.uv is None else torch.from_numpy(mesh.uv)
        topology = Topology(torch.from_numpy(mesh.faces), uv)
        return cls(len(mesh.vertices), mesh.colours is not None, topology, unit)

    @property
    def shape(self) -> tuple[int, int]:
        return self.vertices, 6 if self.colours else 3

    @property
    def grid(self) -> tuple[int, ...]:
        """None: the order of vertices means nothing."""
        return ()

    @property
    def faces(self) -> Tensor:
        """The triangles, shape [faces, 3]; raises `MediaError` where this medium was given no topology."""
        if self.topology is None:
            raise MediaError("these meshes have no topology; give them one: medium.on(faces)")
        return self.topology.faces

    def on(self, faces: Tensor, uv: Tensor | None = None) -> "Meshes":
        """The same medium with these triangles, shape [faces, 3], and texture coordinates, shape [vertices, 2]."""
        if faces.ndim != 2 or faces.shape[1] != 3 or faces.is_floating_point():
            raise MediaError(f"expected whole numbers of shape [faces, 3], got {faces.dtype} of {list(faces.shape)}")
        if uv is not None and uv.shape != (self.vertices, 2):
            raise MediaError(f"expected texture coordinates of shape [{self.vertices}, 2], got {list(uv.shape)}")
        return dataclasses.replace(self, topology=Topology(faces, uv))

    def config(self) -> dict[str, Any]:
        return {"kind": self.kind, "vertices": self.vertices, "colours": self.colours}

    def load(self, path: str | Path) -> Tensor:
        """Read an OBJ, PLY, GLB, STL or OFF file, a tensor of shape [vertices, 3 or 6].

        Vertices keep the file's order, because meshes correspond by it; polygons count as fans of triangles. STL holds
        no vertices but the corners of triangles: they find their vertices by this medium's topology or, without one, by
        equal positions, numbered as they first appear. Colours of a file are left out where this medium has none, and
        textures always.

        Raises `MediaError` that names the file if it is missing, empty, broken or of another format, has no faces,
        faces of vertices that do not exist, NaN or infinite values, no colours where this medium has them, another
        number of vertices, or other triangles than this medium's topology or in another order. Warns of triangles
        without area.
        """
        known = None if self.topology is None else self.topology.faces.cpu().numpy()
        mesh = read_mesh(path, self.unit, known)
        if len(mesh.vertices) != self.vertices:
            raise MediaError(f"{path} has {len(mesh.vertices)} vertices, expected {self.vertices}")
        if known is not None and not np.array_equal(mesh.faces, known):
            if len(mesh.faces) != len(known):
                difference = f"{len(mesh.faces)} triangles, expected {len(known)}"
            else:
                other = (mesh.faces != known).any(axis=1)
                i = int(other.argmax())
                difference = (
                    f"{int(other.sum())} of {len(known)} triangles differ, the first is number {i}: "
                    f"{mesh.faces[i].tolist()}, expected {known[i].tolist()}"
                )
            raise MediaError(f"{path} has another topology: {difference}")
        if not self.colours:
            return torch.from_numpy(mesh.vertices)
        if mesh.colours is None:
            raise MediaError(f"{path} has no colours at its vertices; use Meshes({self.vertices}) for the shape alone")
        return torch.from_numpy(np.concatenate([mesh.vertices, mesh.colours], axis=1))

    def save(self, x: Tensor, path: str | Path) -> None:
        """Write a mesh [vertices, 3 or 6] or a batch of them.

        The suffix of `path` picks the format. OBJ, PLY and GLB hold colours and texture coordinates, OFF colours, STL
        neither, and no vertices but the corners of triangles. PLY and OFF round colours to bytes. A picture's suffix
        (.png, .jpg, .webp) writes what `show` draws. A batch goes into a folder of numbered files: a path without a
        suffix, which means GLB, or "folder/.obj" and so on.

        Raises `MediaError` without a topology, on a batch for one file and on other suffixes.
        """
        path = Path(path)
        single = x.ndim == 2
        batch = self.check(x.unsqueeze(0) if single else x).detach().float().cpu()
        # A name that begins with its only dot has no suffix for pathlib.
        folder, suffix = (path, ".glb") if not path.suffix else (None, path.suffix.lower())
        if path.name.lower() in SUFFIXES:
            folder, suffix = path.parent, path.name.lower()
        if folder is not None:
            for i, item in enumerate(batch):
                self._write(item, folder / f"{i:05d}{suffix}")
        elif suffix in PICTURES:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.show(batch).save(path)
        elif suffix not in SUFFIXES:
            raise MediaError(f"{path}: meshes are written as {', '.join(SUFFIXES + PICTURES)}, not {suffix}")
        elif single:
            self._write(batch[0], path)
        else:
            raise MediaError(f"{path}: one file holds one mesh, got a batch; name a folder, or a picture for a sheet")

    def _write(self, item: Tensor, path: Path) -> None:
        faces = self._checked_faces()
        uv = None if self.topology is None or self.topology.uv is None else self.topology.uv.float().cpu().numpy()
        x = item.numpy()
        write_mesh(MeshArrays(x[:, :3], faces, uv, x[:, 3:] if self.colours else None), path, self.unit)

    def _checked_faces(self) -> np.ndarray:
        faces = self.faces.cpu().numpy()
        check_indices(faces, self.vertices)
        return faces

    def show(self, x: Tensor, columns: int | None = None) -> "Image":
        """The meshes of a batch from the front and, next to it, from between front and side, on a contact sheet.

        Surfaces are shaded, in their colours or as clay. All have one camera, so that sizes and places compare. Needs
        no display.
        """
        from modalities.mesh_drawing import draw

        batch = self.check(x).detach().float().cpu().numpy()
        if not len(batch):
            raise MediaError("an empty batch has no picture")
        colours = batch[..., 3:].clip(0, 1) if self.colours else None
        tiles = draw(batch[..., :3], self._checked_faces(), colours)
        return contact_sheet(tiles, columns or min(len(tiles), max(1, math.ceil(math.sqrt(len(tiles) / 2)))), gap=4)

    def dataset(self, source: str | Path, split: str = "train", labels: bool = False) -> Dataset:
        """A named set, the shared face model or a folder, as items of `shape`, or with `labels` as pairs with class
        numbers. The `medium` of a data set is this one on the topology of its meshes.

        `source` is one of:
            "synthetic-heads": 5,000 generated heads and 500 for tests, of any number of vertices from 12, with or
                without colours, class 0 with small ears, 1 with large ones (see
                `modalities.mesh_sets.synthetic_heads`). Needs no network.
            `ict_face_model_full.npz`, or the folder that holds it: 5,000 generated faces and 500 for tests, without
                colours or labels (see `modalities.mesh_sets.face_weights`); `vertices` cuts the model, and the faces of
                a narrower cut are the beginnings of those of a wider one (see `modalities.face_model`).
            any folder of .obj, .ply, .glb, .stl and .off files in correspondence, with its subfolders; a file's label
                is the name of its folder under the top, or under train/ and test/.
        `split` is "train", "test" or "all". Where nothing says which mesh is which, every fifth is for tests. Classes
        count from 0 in the order of their numbers or names.

        A folder's files are listed now and read when they are asked for, and a broken one raises `MediaError` then, as
        does one of another topology than this medium's or, where it has none, than the first file's that can be read.
        Raises `MediaError` if there is no such source, if it is of another shape or topology, or has no labels where
        they are asked for.
        """
        if source == "synthetic-heads":
            heads, faces = mesh_sets.synthetic_heads(self.vertices, self.colours, self._split(split, source))
            return self._generated(heads, torch.from_numpy(faces), None, labels, source)
        path, selector = split_source(source, NAMED)
        if selector is not None:
            raise MediaError(f"{source}: meshes have no selector after a colon")
        if path.suffix.lower() == ".npz" or (path / mesh_sets.FACE_FILE).is_file():
            if self.colours:
                raise MediaError(f"{source} has no colours; use Meshes({self.vertices})")
            model = mesh_sets.read_faces(path, self.vertices)
            offsets = torch.from_numpy(np.concatenate([model.identity, model.expressions]))
            weights = mesh_sets.face_weights(model.expression_names, self._split(split, source))
            generated = mesh_sets.LinearMeshes(torch.from_numpy(model.mean), offsets, weights)
            uv = torch.from_numpy(model.uv)
            return self._generated(generated, torch.from_numpy(model.triangles), uv, labels, source)
        files, names, splits = list_files(path, SUFFIXES)
        chosen = choose_split(splits, split, path, EVERY)
        if labels and "" in names:
            raise MediaError(f"{files[names.index('')]} has no label; put every class into a folder of its own")
        classes = class_numbers(names)
        medium = self if self.topology is not None else self._on_first(files)
        return MeshFiles(medium, [files[i] for i in chosen], [classes[i] for i in chosen] if labels else None)

    def _split(self, split: str, source: str | Path) -> str:
        if split not in (*mesh_sets.COUNTS, "all"):
            raise MediaError(f"{source} has no split {split!r}; choose one of all, test, train")
        return split

    def _generated(
        self, dataset: mesh_sets.LinearMeshes, faces: Tensor, uv: Tensor | None, labels: bool, source: str | Path
    ) -> Dataset:
        if labels and dataset.labels is None:
            raise MediaError(f"{source} has no labels")
        if self.topology is not None and not torch.equal(self.topology.faces.cpu().long(), faces):
            raise MediaError(f"{source} has another topology than this medium: {len(faces)} triangles")
        if not labels:
            dataset.labels = None
        dataset.medium = self if self.topology is not None else self.on(faces, uv)
        return cast(Dataset, dataset)

    def _on_first(self, files: list[str]) -> "Meshes":
        """This medium on the topology of the first file that can be read and has its number of vertices."""
        first: MediaError | None = None
        for file in files:
            try:
                medium = self.from_file(file, self.unit)
                if medium.vertices != self.vertices:
                    raise MediaError(f"{file} has {medium.vertices} vertices, expected {self.vertices}")
                return self.on(medium.faces, None if medium.topology is None else medium.topology.uv)
            except MediaError as error:
                first = first or error
        raise first or MediaError("there is no file")


class MeshFiles(Files):
    """Meshes on disk, read when they are asked for, on the topology of their `medium`."""

    def __init__(self, medium: Meshes, names: list[str], labels: list[int] | None = None):
        super().__init__(medium.load, names, labels)
        self.medium = medium
