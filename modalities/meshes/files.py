"""Mesh files: OBJ, PLY, GLB, STL and OFF to arrays and back, with every vertex in its place.

Meshes correspond by the numbers of their vertices, so a reader must not merge, split or sort them. trimesh begins the
triangles of OBJ quads elsewhere, puts the triangles of OFF before its quads, and logs what is wrong with a file.
"""

import re
import warnings
from pathlib import Path
from typing import IO

import numpy as np
import torch

from modalities.files import write_aside
from modalities.meshes.geometry import (
    MeshArrays,
    check_indices,
    colour_bytes,
    count_non_manifold,
    join_polygons,
    triangle_normals,
    without_area,
)
from modalities.meshes.gltf import read_gltf, write_glb
from modalities.meshes.ply import read_ply, write_ply
from modalities.modality import MediaError

SUFFIXES = (".obj", ".ply", ".glb", ".stl", ".off")
READABLE = (*SUFFIXES, ".gltf")

EXTENT = (1.0, 10_000.0)
"""Millimetres that a mesh is expected to span; outside, its unit is doubted."""

STL = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")])
"""A triangle of a binary file."""

UNITS = {"um": 0.001, "mm": 1.0, "cm": 10.0, "m": 1000.0, "in": 25.4}
"""Millimetres a unit."""


def read_mesh(path: str | Path, unit: str = "mm", faces: np.ndarray | None = None) -> MeshArrays:
    """Read a mesh whose vertices and faces stay in the file's order; polygons become fans of triangles.

    The numbers are in `unit`, and metres in GLB. A vertex with several texture coordinates, on a seam, gets the one
    that most of its corners have. Textures are not read.

    STL knows triangles but no vertices. With `faces`, the known triangles, their corners give every vertex back;
    without, equal positions become one vertex, numbered as they first appear.

    Raises `MediaError` that names the file and the reason. Triangles without area are reported in a warning, and so are
    edges and vertices where the surface is no manifold, and an extent that makes the unit doubtful, unless the `faces`
    are known already.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise MediaError(f"{path}: meshes are read from {', '.join(READABLE)} files, not from {suffix or 'others'}")
    try:
        if not path.stat().st_size:
            raise MediaError(f"{path} is empty")
        with open(path, "rb") as file:
            mesh = READERS[suffix](file)
        if suffix == ".stl":
            mesh = _join_corners(mesh.vertices, faces)
    except MediaError as error:
        raise MediaError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    # The readers of others fail in many ways on broken files.
    except Exception as error:
        raise MediaError(f"{path} cannot be read as {suffix[1:].upper()}: {error}") from error
    return _checked(path, mesh, UNITS["m" if suffix in (".glb", ".gltf") else unit], faces is not None)


def _checked(path: Path, mesh: MeshArrays, scale: float, known: bool) -> MeshArrays:
    if not len(mesh.vertices):
        raise MediaError(f"{path} has no vertices")
    if not len(mesh.faces):
        raise MediaError(f"{path} has {len(mesh.vertices)} vertices but no faces")
    with np.errstate(over="ignore"):
        vertices = (np.asarray(mesh.vertices, np.float64) * scale).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(vertices).all(axis=1))
    if len(bad):
        raise MediaError(f"{path}: {len(bad)} vertices hold NaN or infinite values, the first is number {bad[0]}")
    for name, values in (("texture coordinates", mesh.uv), ("colours", mesh.colours)):
        if values is not None and not np.isfinite(values).all():
            raise MediaError(f"{path}: its {name} hold NaN or infinite values")
    check_indices(mesh.faces, len(vertices), path)
    uv = None if mesh.uv is None else np.asarray(mesh.uv, np.float32)
    colours = None if mesh.colours is None else _unit_colours(path, mesh.colours)
    mesh = MeshArrays(vertices, mesh.faces.astype(np.int64), uv, colours)
    if flat := int(without_area(mesh.vertices, mesh.faces).sum()):
        warnings.warn(f"{path}: {flat} of {len(mesh.faces)} triangles have no area", stacklevel=4)
    extent = np.ptp(mesh.vertices, axis=0).max()
    if not known and not EXTENT[0] <= extent <= EXTENT[1]:
        warnings.warn(f"{path} spans {extent:.3g} mm; is its unit another one? unit= says it", stacklevel=4)
    if not known:
        edges, points = count_non_manifold(mesh.faces, len(mesh.vertices))
        if edges or points:
            warnings.warn(
                f"{path} is no manifold at {edges} edges (more than two triangles meet) and {points} vertices "
                "(their triangles make more than one fan)",
                stacklevel=4,
            )
    return mesh


def _unit_colours(path: Path, colours: np.ndarray) -> np.ndarray:
    """Colours in [0, 1], shape [vertices, 3], from such with 3 columns or 4, the last of which helps to tell the range.

    Whole numbers of one byte count to 255, larger ones to 255 or, where one is above, to 65,535; real numbers count to
    1 or, where all are whole or one is 2 or more, to 255. A warning says what was a guess.
    """
    if colours.dtype.itemsize == 1:
        colours = colours.view(np.uint8)
    most, whole = float(colours.max(initial=0)), bool((colours == np.rint(colours)).all())
    if colours.dtype.kind in "iu":
        scale, sure = 255 if most <= 255 else 65_535, colours.dtype.itemsize == 1 + (most > 255)
    else:
        # Rounding may take real numbers a little beyond 1.
        scale, sure = 1 if most <= 1.0001 else 255, most <= 1.0001 or (whole and path.suffix.lower() == ".off")
    if colours.min(initial=0) < -0.0001 or most > 1.0001 * scale or (scale == 255 and not whole and most < 2):
        raise MediaError(
            f"{path}: expected colours from 0 to 1, to 255 or to 65535, got {colours.min():.6g} to {most:.6g}"
        )
    if not sure:
        warnings.warn(f"{path}: its colours, at most {most:.6g}, are taken for numbers up to {scale}", stacklevel=5)
    return (colours[:, :3].astype(np.float32) / scale).clip(0, 1)


def _join_corners(corners: np.ndarray, faces: np.ndarray | None) -> MeshArrays:
    """The mesh of triangles that are given by their corners, shape [3 * faces, 3]; see `read_mesh`."""
    if faces is None:
        # Adding 0 turns -0 into 0.
        _, first, inverse = np.unique(corners + 0.0, axis=0, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        return MeshArrays(corners[np.sort(first)], rank[inverse.ravel()].reshape(-1, 3))
    if len(corners) != faces.size:
        raise MediaError(f"has another topology: {len(corners) // 3} triangles, expected {len(faces)}")
    flat = faces.ravel()
    if unused := int((np.bincount(flat) == 0).sum()):
        raise MediaError(f"cannot hold {unused} vertices of the topology that no triangle uses")
    vertices = np.zeros((flat.max() + 1, 3))
    vertices[flat] = corners
    apart = int((vertices[flat] != corners).any(axis=1).sum())
    if apart:
        raise MediaError(f"has another topology: {apart} corners of its {len(faces)} triangles do not meet")
    return MeshArrays(vertices, faces)


def _read_stl(file: IO[bytes]) -> MeshArrays:
    data = file.read()
    count = int.from_bytes(data[80:84], "little")
    if len(data) == 84 + count * STL.itemsize:
        rows = np.frombuffer(data, STL, count, 84)
        corners = rows["corners"].reshape(-1, 3)
        if b"COLOR=" in data[:80] or (rows["rest"] & 0x8000).any():
            _left_out(file, "colours of faces")
    else:
        lines = _lines(data)
        words = [line[0].lower() for line in lines]
        corners = _numbers([line[1:] for line in lines if line[0].lower() == "vertex"], 3)
        complete = len(corners) == 3 * words.count("facet") == 3 * words.count("endfacet") > 0
        if words[:1] != ["solid"] or not complete or words[-1] != "endsolid":
            raise MediaError(f"holds no complete list of triangles, neither {count} binary ones nor a solid of text")
    return MeshArrays(corners, np.zeros((0, 3), np.int64))


def _lines(content: bytes) -> list[list[str]]:
    """The words of every line that has some, without comments; a backslash at the end joins a line to the next."""
    text = content.decode("utf-8", errors="replace").replace("\\\r\n", " ").replace("\\\n", " ")
    lines = [words for line in text.splitlines() if (words := line.partition("#")[0].split())]
    for words in lines if re.search(rb"\d_\d", content) else []:
        # For Python 1_0 is 10; names may have it.
        if "_" in "".join(words) and (words[0] in ("v", "vt", "f", "vertex") or not words[0][0].isalpha()):
            raise MediaError(f"expected numbers, got {' '.join(words)!r}")
    return lines


def _numbers(rows: list[list[str]], columns: int) -> np.ndarray:
    """Rows of words as float64, cut to so many columns; fewer in one of them are an error."""
    for row in rows:
        if len(row) < columns:
            raise MediaError(f"expected {columns} numbers, got {' '.join(row)!r}")
    # Python's float is faster on words than numpy's.
    return np.array([float(word) for row in rows for word in row[:columns]]).reshape(len(rows), columns)


def _read_obj(file: IO[bytes]) -> MeshArrays:
    positions: list[list[str]] = []
    textures: list[list[str]] = []
    counts: list[int] = []
    corners: list[int] = []
    corner_uv: list[int] = []

    def number(word: str, known: int) -> int:
        # From 1, or from the last one backwards; 0 becomes -1, which is refused later.
        index = int(word)
        return index + known if index < 0 else index - 1

    content = file.read()
    for words in _lines(content):
        if words[0] == "v":
            positions.append(words[1:])
        elif words[0] == "vt":
            textures.append(words[1:])
        elif words[0] == "f":
            counts.append(len(words) - 1)
            for word in words[1:]:
                parts = word.split("/")
                corners.append(number(parts[0], len(positions)))
                if len(parts) > 1 and parts[1]:
                    corner_uv.append(number(parts[1], len(textures)))
    vertices = _numbers(positions, 3)
    bare = sum(len(row) < 6 for row in positions)
    # Red, green and blue, and sometimes how opaque they are.
    opaque = min(map(len, positions), default=0) > 6
    colours = None if bare else _numbers(positions, 7 if opaque else 6)[:, 3:]
    if 0 < bare < len(positions):
        _left_out(file, f"{bare} of {len(positions)} vertices have no colour, so all colours")
    if b"\n#MRGB " in content:
        _left_out(file, "colours in comments (#MRGB)")
    if 0 < len(corner_uv) < len(corners):
        lacking = len(corners) - len(corner_uv)
        _left_out(file, f"{lacking} of {len(corners)} corners have no texture coordinates, so all of these")
    polygons = np.array(counts, np.int64), np.array(corners, np.int64)
    uv = _numbers(textures, 2) if corner_uv and len(corner_uv) == len(corners) else None
    return join_polygons(vertices, *polygons, uv, np.array(corner_uv, np.int64), colours)


def _left_out(file: IO[bytes], what: str) -> None:
    warnings.warn(f"{file.name}: {what} are left out", stacklevel=5)


def _read_off(file: IO[bytes]) -> MeshArrays:
    lines = _lines(file.read())
    header = lines[0].pop(0) if lines else ""
    # What a vertex has besides its position: normals after it, then colours, then a texture coordinate.
    known = re.fullmatch(r"(ST)?(C?)(N?)OFF(\d*)", header, re.IGNORECASE)
    if known is None:
        raise MediaError(f"expected OFF or COFF at the beginning, got {header!r}")
    textured, coloured, normals, glued = known.groups()
    lines[0][:0] = [glued] if glued else []
    if not lines[0]:
        lines.pop(0)
    if lines and lines[0][0].upper() == "BINARY":
        raise MediaError("is a binary OFF file, which is not read; export it as text")
    counts = [int(word) for word in (lines[0] if lines else [])[:2]]
    if len(counts) < 2 or min(counts) < 0 or len(lines) < 1 + sum(counts):
        raise MediaError(f"is cut short: it announces {counts} vertices and faces and has {len(lines) - 1} lines")
    if len(lines) > 1 + sum(counts):
        _left_out(file, f"{len(lines) - 1 - sum(counts)} lines after the last face")
    rows, polygons = lines[1 : 1 + counts[0]], lines[1 + counts[0] : 1 + sum(counts)]
    sizes = [int(words[0]) for words in polygons]
    corners = list[int]()
    for words, size in zip(polygons, sizes, strict=True):
        if len(words) <= size:
            raise MediaError(f"expected {size} corners, got the face {' '.join(words)!r}")
        corners += map(int, words[1 : 1 + size])
    if any(len(words) > 2 + size for words, size in zip(polygons, sizes, strict=True)):
        _left_out(file, "colours of faces")
    start = 6 if normals else 3
    if rows and not coloured and not normals and min(map(len, rows)) >= 6:
        _left_out(file, "numbers after the positions (colours need the header COFF)")
    opaque = min(map(len, rows), default=0) > start + 3 + 2 * bool(textured)
    colours = _numbers(rows, start + 3 + opaque)[:, start:] if coloured else None
    uv = np.array([row[-2:] for row in rows], np.float64) if textured else None
    return join_polygons(_numbers(rows, 3), np.array(sizes, np.int64), np.array(corners, np.int64), uv, colours=colours)


READERS = {
    ".obj": _read_obj,
    ".ply": read_ply,
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".stl": _read_stl,
    ".off": _read_off,
}


def write_mesh(mesh: MeshArrays, path: str | Path, unit: str = "mm") -> None:
    """Write a mesh in the format of the suffix, in `unit`, or in metres in GLB.

    OBJ, PLY and GLB hold colours and texture coordinates, OFF holds colours, STL neither. PLY and OFF round colours to
    bytes; all round those outside [0, 1] to the nearest there. STL has no vertices but the corners of its triangles.
    GLB wants colours in linear light, which they become, and normals, which are computed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise MediaError(f"{path}: meshes are written as {', '.join(SUFFIXES)}, not {suffix or 'without a suffix'}")
    if suffix == ".glb":
        data = write_glb(mesh)
    else:
        colours = None if mesh.colours is None else mesh.colours.clip(0, 1)
        vertices = (np.asarray(mesh.vertices, np.float64) / UNITS[unit]).astype(np.float32)
        data = WRITERS[suffix](MeshArrays(vertices, mesh.faces, mesh.uv, colours))
        lost = [what for what, values in (("colours", colours), ("texture coordinates", mesh.uv)) if values is not None]
        lost = lost[suffix == ".off" and colours is not None :] if suffix in (".off", ".stl") else []
        if lost:
            warnings.warn(f"{path}: {suffix[1:].upper()} holds no {' and no '.join(lost)}", stacklevel=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(path) as part:
        part.write_bytes(data)


def _text(rows: np.ndarray, form: str) -> str:
    return "".join(form % tuple(row) for row in rows.tolist())


def _write_obj(mesh: MeshArrays) -> bytes:
    # Nine digits give every float32 back.
    columns = mesh.vertices if mesh.colours is None else np.concatenate([mesh.vertices, mesh.colours], axis=1)
    text = _text(columns, "v" + " %.9g" * columns.shape[1] + "\n")
    if mesh.uv is None:
        return (text + _text(mesh.faces + 1, "f %d %d %d\n")).encode()
    faces = _text(mesh.faces.repeat(2, axis=1) + 1, "f %d/%d %d/%d %d/%d\n")
    return (text + _text(mesh.uv, "vt %.9g %.9g\n") + faces).encode()


def _write_off(mesh: MeshArrays) -> bytes:
    rows, form, word = mesh.vertices, "%.9g %.9g %.9g", "OFF"
    if mesh.colours is not None:
        rows, form, word = np.concatenate([rows, colour_bytes(mesh.colours)], axis=1), f"{form} %d %d %d 255", "COFF"
    head = f"{word}\n{len(rows)} {len(mesh.faces)} 0\n"
    return (head + _text(rows, f"{form}\n") + _text(mesh.faces, "3 %d %d %d\n")).encode()


def _write_stl(mesh: MeshArrays) -> bytes:
    rows = np.zeros(len(mesh.faces), STL)
    rows["corners"] = mesh.vertices[mesh.faces]
    across = triangle_normals(torch.from_numpy(rows["corners"].astype(np.float64)))
    rows["normal"] = torch.nn.functional.normalize(across, dim=1, eps=1e-30).numpy()
    return bytes(80) + len(rows).to_bytes(4, "little") + rows.tobytes()


WRITERS = {".obj": _write_obj, ".ply": write_ply, ".stl": _write_stl, ".off": _write_off}
