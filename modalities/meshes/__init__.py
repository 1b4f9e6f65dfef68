"""Meshes: triangle surfaces over one topology, in millimetres, with or without a colour at every vertex."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from modalities.data import Files, Items
from modalities.drawing import contact_sheet, save_picture
from modalities.meshes.files import READABLE, SUFFIXES, UNITS, read_mesh, write_mesh
from modalities.meshes.geometry import MeshArrays, check_faces
from modalities.modality import MediaError, Modality
from modalities.sources import Listing, list_files, main_suffix, split_source

if TYPE_CHECKING:
    from PIL.Image import Image

    from modalities.meshes.sets import LinearMeshes

NAMED = ("synthetic-heads",)

EVERY = 5
"""Every fifth mesh is for tests where nothing else is said."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclasses.dataclass(frozen=True)
class Meshes(Modality):
    """Meshes of shape [vertices, 3], positions in millimetres, or with `colours` [vertices, 6]: red, green and blue in
    [0, 1] (sRGB) last.

    x points to the left of the head or body that faces the viewer, y up, z to the viewer.

    Arguments:
        faces: three vertex numbers a triangle, counter-clockwise from outside, shape [faces, 3]. Writing files and
            drawing need them; a data set knows them, as its `medium`.
        uv: where the vertices lie on a texture, shape [vertices, 2]; v grows upwards. In [0, 1], or beyond where a mesh
            has several textures side by side.
        unit: what the numbers in files mean, "um", "mm", "cm", "m" or "in"; GLB is always in metres.

    Without a network, `dataset` knows the generated "synthetic-heads". Media of one shape are equal, whatever their
    triangles and unit.
    """

    vertices: int
    colours: bool = False
    faces: Tensor | None = dataclasses.field(default=None, compare=False, repr=False)
    uv: Tensor | None = dataclasses.field(default=None, compare=False, repr=False)
    unit: str = dataclasses.field(default="mm", compare=False, repr=False)
    kind: ClassVar[str] = "meshes"
    suffix: ClassVar[str] = ".glb"
    sheet: ClassVar[int] = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vertices < 3:
            raise ValueError(f"meshes have at least 3 vertices, got {self.vertices!r}")
        if self.unit not in UNITS:
            raise ValueError(f"unit is one of {', '.join(UNITS)}; got {self.unit!r}")
        faces, uv = self.faces, self.uv
        if faces is not None:
            check_faces(faces, self.vertices)
            object.__setattr__(self, "faces", faces.long())
        if uv is not None and uv.shape != (self.vertices, 2):
            raise MediaError(f"expected texture coordinates of shape [{self.vertices}, 2], got {list(uv.shape)}")

    @classmethod
    def from_file(cls, path: str | Path, unit: str = "mm") -> Self:
        """The medium of a file: its number of vertices, its triangles and texture coordinates, and whether it has
        colours.

        Raises `MediaError` as `load` does, and warns of edges and vertices where the surface is no manifold, and of an
        extent below 1 mm or above 10 m, which another unit would explain.
        """
        if unit not in UNITS:
            raise ValueError(f"unit is one of {', '.join(UNITS)}; got {unit!r}")
        mesh = read_mesh(path, unit)
        uv = None if mesh.uv is None else torch.from_numpy(mesh.uv)
        return cls(len(mesh.vertices), mesh.colours is not None, torch.from_numpy(mesh.faces), uv, unit)

    @classmethod
    def suiting(cls, source: str | Path, **fields: Any) -> Self | None:
        """Meshes as those of the first file, or 500 vertices of a generated head."""
        if source in NAMED:
            return cls(**{"vertices": 500} | fields)
        path, _ = split_source(source, NAMED)
        if not path.is_dir() or main_suffix(path) not in READABLE:
            return None
        unit = str(fields.pop("unit", "mm"))
        return dataclasses.replace(cls.from_file(list_files(path, READABLE).items[0], unit), **fields)

    @property
    def shape(self) -> tuple[int, int]:
        return self.vertices, 6 if self.colours else 3

    @property
    def grid(self) -> tuple[int, ...]:
        """None: vertices have no order, so that networks take a mesh as one vector."""
        return ()

    @property
    def triangles(self) -> Tensor:
        """The `faces`; raises `MediaError` where this medium was given none."""
        if self.faces is None:
            raise MediaError("these meshes have no topology; give them one: medium.on(faces)")
        return self.faces

    def on(self, faces: Tensor, uv: Tensor | None = None) -> "Meshes":
        """The same medium with these triangles, shape [faces, 3], and texture coordinates, shape [vertices, 2]."""
        return dataclasses.replace(self, faces=faces, uv=uv)

    def arrays(self) -> dict[str, Tensor]:
        return super().arrays() | ({} if self.faces is None else {"faces": self.faces.int()})

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
        known = None if self.faces is None else self.faces.cpu().numpy()
        mesh = read_mesh(path, self.unit, known)
        if len(mesh.vertices) != self.vertices:
            raise MediaError(f"{path} has {len(mesh.vertices)} vertices, expected {self.vertices}")
        if known is not None and not np.array_equal(mesh.faces, known):
            difference = f"{len(mesh.faces)} triangles, expected {len(known)}"
            if len(mesh.faces) == len(known):
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
            save_picture(self.show(batch), path)
        elif suffix not in SUFFIXES:
            raise MediaError(f"{path}: meshes are written as {', '.join(SUFFIXES + PICTURES)}, not {suffix}")
        elif single:
            self._write(batch[0], path)
        else:
            raise MediaError(f"{path}: one file holds one mesh, got a batch; name a folder, or a picture for a sheet")

    def _write(self, item: Tensor, path: Path) -> None:
        uv = None if self.uv is None else self.uv.float().cpu().numpy()
        x = item.numpy()
        faces = self.triangles.cpu().numpy()
        write_mesh(MeshArrays(x[:, :3], faces, uv, x[:, 3:] if self.colours else None), path, self.unit)

    @property
    def steps(self) -> int:
        return 5  # each is two views wide

    def show(self, x: Tensor, columns: int | None = None) -> "Image":
        """The meshes of a batch from the front and, next to it, from between front and side, on a contact sheet.

        Surfaces are shaded, in their colours or as clay. All have one camera, so that sizes and places compare. Needs
        no display.
        """
        from modalities.meshes.drawing import draw

        batch = self.drawable(x).numpy()
        colours = batch[..., 3:].clip(0, 1) if self.colours else None
        tiles = draw(batch[..., :3], self.triangles.cpu().numpy(), colours)
        return contact_sheet(tiles, columns or min(len(tiles), max(1, math.ceil(math.sqrt(len(tiles) / 2)))), gap=4)

    def dataset(
        self,
        source: str | Path,
        split: str = "train",
        labels: bool = False,
        *,
        classes: Sequence[str] | None = None,
        groups: str | None = None,
    ) -> Items:
        """A named set, the shared face model or a folder, as items of `shape`, or with `labels` as pairs with class
        numbers. The `medium` of a data set is this one on the topology of its meshes.

        `source` is one of:
            "synthetic-heads": 5,000 generated heads and 500 for tests, of any number of vertices from 12, with or
                without colours, class 0 with small ears, 1 with large ones (see
                `modalities.meshes.sets.synthetic_heads`). Needs no network.
            `ict_face_model_full.npz`, or the folder that holds it: 5,000 generated faces and 500 for tests, without
                colours or labels (see `modalities.meshes.ict.face_weights`); `vertices` cuts the model, and the faces
                of a narrower cut are the beginnings of those of a wider one.
            any folder of .obj, .ply, .glb, .gltf, .stl and .off files in correspondence, with its subfolders; a file's
                label is the name of its folder under the top, or under train/ and test/.
        `split` is "train", "test" or "all". Where nothing says which mesh is which, every fifth is for tests. Classes
        count from 0 in the order of their numbers or names, or of `classes` where they are given;
        `groups` is as in `Modality.dataset`.

        A folder's files are listed now and read when they are asked for, and a broken one raises `MediaError` then, as
        does one of another topology than this medium's or, where it has none, than the first file's that can be read.
        Raises `MediaError` if there is no such source, if it is of another shape or topology, or has no labels where
        they are asked for.
        """
        from modalities.meshes import ict, sets

        if source == "synthetic-heads":
            return self._generated(sets.synthetic_heads(self), source, split, labels, classes or sets.CLASSES, groups)
        path, selector = split_source(source, NAMED)
        if selector is not None:
            raise MediaError(f"{source}: meshes have no selector after a colon")
        if path.suffix.lower() == ".npz" or ict.is_face_model(path):
            if self.colours:
                raise MediaError(f"{source} has no colours; use Meshes({self.vertices})")
            faces = ict.generated_faces(path, self.vertices)
            return self._generated(faces, source, split, labels, classes, groups)
        listing = list_files(path, READABLE, groups)
        chosen, numbers, about = listing.choose(path, split, EVERY, labels, classes)
        medium = self if self.faces is not None else self._on_first(listing.items)
        return MeshFiles(medium, [listing.items[i] for i in chosen], numbers).describe(about)

    def _generated(
        self,
        found: "LinearMeshes",
        source: str | Path,
        split: str,
        labels: bool,
        classes: Sequence[str] | None,
        groups: str | None,
    ) -> Items:
        from modalities.meshes.sets import COUNTS

        if groups:
            raise MediaError(f"the meshes of {source} belong to no groups")
        own = found.medium.triangles
        if self.faces is not None and not torch.equal(self.faces.cpu(), own):
            raise MediaError(f"{source} has another topology than this medium: {len(own)} triangles")
        found.medium = self if self.faces is not None else self.on(own, found.medium.uv)
        splits = [name for name, count in COUNTS.items() for _ in range(count)]
        listing = Listing([f"item {i}" for i in range(len(splits))], found.names, splits)
        return found.choose(*listing.choose(source, split, EVERY, labels, classes))

    def _on_first(self, files: Sequence[str]) -> "Meshes":
        """This medium on the topology of the first file that can be read and has its number of vertices."""
        first: MediaError | None = None
        for file in files:
            try:
                medium = self.from_file(file, self.unit)
                if medium.vertices != self.vertices:
                    raise MediaError(f"{file} has {medium.vertices} vertices, expected {self.vertices}")
                return self.on(medium.triangles, medium.uv)
            except MediaError as error:
                first = first or error
        raise first or MediaError("there is no file")


class MeshFiles(Files):
    """Meshes on disk, read when they are asked for, on the topology of their `medium`."""

    def __init__(self, medium: Meshes, names: list[str], labels: list[int] | None = None):
        super().__init__(medium.load, names, labels)
        self.medium = medium
