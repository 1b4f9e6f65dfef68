"""Mesh files: OBJ, PLY, GLB, STL and OFF to arrays and back, with every vertex in its place.

Meshes correspond by the numbers of their vertices, so a reader must not merge, split or sort them. The text formats and
PLY are read here rather than by trimesh, which splits vertices on texture seams, puts triangles before quads and reads
no binary PLY that mixes them; GLB and STL, which have no such freedom, go through trimesh.
"""

import json
import struct
import warnings
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from modalities.files import write_aside
from modalities.modality import MediaError

SUFFIXES = (".obj", ".ply", ".glb", ".stl", ".off")

UNITS = {"um": 0.001, "mm": 1.0, "cm": 10.0, "m": 1000.0, "in": 25.4}
"""Millimetres a unit."""

PLY_TYPES = {
    **{"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2"},
    **{"uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4"},
    **{"double": "f8", "float64": "f8"},
}


class MeshArrays(NamedTuple):
    """A mesh as a file holds it, in millimetres."""

    vertices: np.ndarray
    """Positions, shape [vertices, 3], float32."""
    faces: np.ndarray
    """Triangles, shape [faces, 3], int64."""
    uv: np.ndarray | None = None
    """Texture coordinates, shape [vertices, 2], float32; v grows upwards."""
    colours: np.ndarray | None = None
    """Red, green and blue in [0, 1] (sRGB), shape [vertices, 3], float32."""


def read_mesh(path: str | Path, unit: str = "mm", faces: np.ndarray | None = None) -> MeshArrays:
    """Read a mesh whose vertices and faces stay in the file's order; polygons become fans of triangles.

    The numbers are in `unit`, and metres in GLB. A vertex with several texture coordinates, on a seam, gets the one
    that most of its corners have. Textures are not read.

    STL knows triangles but no vertices. With `faces`, the known triangles, their corners give every vertex back;
    without, equal positions become one vertex, numbered as they first appear.

    Raises `MediaError` that names the file and the reason. Triangles without area are reported in a warning, and so are
    edges and vertices where the surface is no manifold, unless the `faces` are known already.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise MediaError(f"{path}: meshes are read from {', '.join(SUFFIXES)} files, not from {suffix or 'others'}")
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
    return _checked(path, mesh, UNITS["m" if suffix == ".glb" else unit], faces is not None)


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
    if not known:
        edges, points = count_non_manifold(mesh.faces, len(mesh.vertices))
        if edges or points:
            warnings.warn(
                f"{path} is no manifold at {edges} edges (more than two triangles meet) and {points} vertices "
                "(their triangles make more than one fan)",
                stacklevel=4,
            )
    return mesh


def _unit_colours(source: str | Path, colours: np.ndarray) -> np.ndarray:
    """Colours in [0, 1], from bytes, 16-bit numbers, or real numbers, which are bytes where one is above 1."""
    if colours.dtype.kind in "iu" and colours.dtype.itemsize <= 2:
        return colours.astype(np.float32) / np.iinfo(colours.dtype).max
    colours = colours.astype(np.float32)
    if colours.max() > 1:
        colours = colours / 255
    if colours.min() < 0 or colours.max() > 1:
        raise MediaError(f"{source}: expected colours from 0 to 1 or to 255, got some outside")
    return colours


def check_indices(faces: np.ndarray, vertices: int, source: str | Path = "the topology") -> None:
    """Raise `MediaError` if a triangle names a vertex that does not exist."""
    bad = (faces < 0) | (faces >= vertices)
    if bad.any():
        raise MediaError(
            f"{source}: {int(bad.any(axis=1).sum())} triangles name vertices that do not exist, such as "
            f"{int(faces[bad][0])} (counted from 0) of {vertices}"
        )


def without_area(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Which triangles have no area, up to the rounding of float32, shape [faces], bool."""
    corners = vertices[faces].astype(np.float64)
    sides = corners[:, [1, 2, 0]] - corners
    longest = np.linalg.norm(sides, axis=2).max(axis=1)
    height_by_base = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    return height_by_base <= np.finfo(np.float32).eps * np.abs(vertices).max() * longest


def count_non_manifold(faces: np.ndarray, vertices: int) -> tuple[int, int]:
    """How many edges have more than two triangles, and how many vertices join more than one fan of triangles."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    corners = np.arange(faces.size).reshape(faces.shape)
    starts, ends = faces.ravel(), faces[:, [1, 2, 0]].ravel()
    first, second = corners.ravel(), corners[:, [1, 2, 0]].ravel()
    # Every side of a triangle from its lower vertex to its higher one, so that equal edges lie next to each other.
    swap = starts > ends
    low, high = np.where(swap, ends, starts), np.where(swap, starts, ends)
    low_corner, high_corner = np.where(swap, second, first), np.where(swap, first, second)
    order = np.lexsort((high, low))
    same = (np.diff(low[order]) == 0) & (np.diff(high[order]) == 0)
    _, uses = np.unique(low * np.int64(vertices) + high, return_counts=True)
    # Corners at one vertex belong to one fan if their triangles share a side there.
    links = [(corner[order][:-1][same], corner[order][1:][same]) for corner in (low_corner, high_corner)]
    rows, columns = (np.concatenate(parts) for parts in zip(*links, strict=True))
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(faces.size, faces.size))
    _, fan = connected_components(graph, directed=False)
    fans = np.unique(np.stack([starts, fan], axis=1), axis=0)[:, 0]
    return int((uses > 2).sum()), int((np.bincount(fans) > 1).sum())


def fan(counts: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Polygons with `counts` corners each, one after another in `corners`, as triangles in the same order.

    A polygon a, b, c, d, ... becomes a, b, c and a, c, d, and so on.
    """
    if len(counts) and counts.min() < 3:
        raise MediaError(f"a face has {counts.min()} corners, expected at least 3")
    starts = np.cumsum(counts) - counts
    triangles = counts - 2
    first = np.repeat(starts, triangles)
    within = np.arange(triangles.sum()) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    return corners[np.stack([first, first + within + 1, first + within + 2], axis=1)].astype(np.int64)


def vertex_uv(corners: np.ndarray, corner_uv: np.ndarray, uv: np.ndarray, vertices: int) -> np.ndarray:
    """One texture coordinate a vertex, shape [vertices, 2], from one a corner.

    Corner i lies at vertex `corners[i]` and at `uv[corner_uv[i]]` of the texture. A vertex on a seam has several: it
    takes the one that most of its corners have, the first of these if two tie. So the triangles on one side of a seam
    are stretched over the texture; an average would tear those of both sides. Vertices of no polygon get 0.
    """
    pairs, counts = np.unique(corners.astype(np.int64) * len(uv) + corner_uv, return_counts=True)
    vertex, place = np.divmod(pairs, len(uv))
    # Written from the fewest corners to the most, so that the most frequent is what stays.
    order = np.lexsort((-place, counts))
    result = np.zeros((vertices, 2), np.float32)
    result[vertex[order]] = uv[place[order]]
    return result


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
    corners = [vertices[faces].reshape(-1, 3) for vertices, faces, _ in _load_scene(file, "stl")]
    if not corners:
        raise MediaError("holds no complete list of triangles")
    return MeshArrays(np.concatenate(corners), np.zeros((0, 3), np.int64))


def _load_scene(file: IO[bytes], kind: str) -> list[tuple[np.ndarray, np.ndarray, Any]]:
    """Positions, triangles and looks of the meshes of a file in the order of its nodes, each where its node puts it."""
    import trimesh

    scene = trimesh.load_scene(file, file_type=kind, process=False)
    meshes = []
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        mesh = scene.geometry[name]
        if isinstance(mesh, trimesh.Trimesh):
            # What mirrors a mesh turns its triangles inside out.
            faces = np.asarray(mesh.faces)[:, :: -1 if np.linalg.det(transform[:3, :3]) < 0 else 1]
            meshes.append((trimesh.transform_points(mesh.vertices, transform), faces, mesh.visual))
    return meshes


def _read_glb(file: IO[bytes]) -> MeshArrays:
    meshes = _load_scene(file, "glb")
    if not meshes:
        raise MediaError("holds no triangles")
    offsets = np.cumsum([0, *(len(vertices) for vertices, _, _ in meshes)])
    uvs, colours = [], []
    for _, _, look in meshes:
        colour = None
        if look.kind == "texture":
            uvs.append(look.uv)
            colour = look.vertex_attributes.get("color")
        elif look.kind == "vertex":
            colour = look.vertex_colors
        if colour is not None:
            colours.append(_from_linear(_unit_colours("its colours", np.asarray(colour)[:, :3])))
    return MeshArrays(
        np.concatenate([vertices for vertices, _, _ in meshes]),
        np.concatenate([faces + offset for (_, faces, _), offset in zip(meshes, offsets, strict=False)]),
        np.concatenate(uvs) if len(uvs) == len(meshes) and all(uv is not None for uv in uvs) else None,
        np.concatenate(colours) if len(colours) == len(meshes) else None,
    )


def _from_linear(colours: np.ndarray) -> np.ndarray:
    return np.where(colours <= 0.0031308, 12.92 * colours, 1.055 * np.maximum(colours, 0) ** (1 / 2.4) - 0.055)


def _to_linear(colours: np.ndarray) -> np.ndarray:
    return np.where(colours <= 0.04045, colours / 12.92, ((np.maximum(colours, 0) + 0.055) / 1.055) ** 2.4)


def _lines(file: IO[bytes]) -> list[list[str]]:
    """The words of every line that has some, without comments; a backslash at the end joins a line to the next."""
    text = file.read().decode("utf-8", errors="replace").replace("\\\r\n", " ").replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := line.partition("#")[0].split())]


def _numbers(rows: list[list[str]], columns: int) -> np.ndarray:
    """Rows of words as float64, cut to so many columns; fewer in one of them are an error."""
    short = next((row for row in rows if len(row) < columns), None)
    if short is not None:
        raise MediaError(f"expected {columns} numbers, got {' '.join(short)!r}")
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

    for words in _lines(file):
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
    widths = {len(row) for row in positions}
    colours = _numbers(positions, 6)[:, 3:] if widths == {6} else None
    flat = np.array(corners, np.int64)
    faces = fan(np.array(counts, np.int64), flat)
    check_indices(faces, len(vertices), "its faces")
    uv = None
    if corner_uv and len(corner_uv) == len(corners):
        table, places = _numbers(textures, 2), np.array(corner_uv, np.int64)
        if places.min() < 0 or places.max() >= len(table):
            raise MediaError(f"a face names a texture coordinate that does not exist, of {len(table)}")
        uv = vertex_uv(flat, places, table, len(vertices))
    return MeshArrays(vertices, faces, uv, colours)


def _read_off(file: IO[bytes]) -> MeshArrays:
    lines = _lines(file)
    header = lines[0].pop(0) if lines else ""
    if header not in ("OFF", "COFF"):
        raise MediaError(f"expected OFF or COFF at the beginning, got {header!r}")
    if not lines[0]:
        lines.pop(0)
    counts = [int(word) for word in (lines[0] if lines else [])[:2]]
    if len(counts) < 2 or len(lines) < 1 + sum(counts):
        raise MediaError(f"is cut short: it announces {counts} vertices and faces and has {len(lines) - 1} lines")
    rows, polygons = lines[1 : 1 + counts[0]], lines[1 + counts[0] : 1 + sum(counts)]
    sizes = [int(words[0]) for words in polygons]
    short = next((words for words, size in zip(polygons, sizes, strict=True) if len(words) <= size), None)
    if short is not None:
        raise MediaError(f"expected {short[0]} corners, got the face {' '.join(short)!r}")
    corners = [int(word) for words, size in zip(polygons, sizes, strict=True) for word in words[1 : 1 + size]]
    colours = None
    if header == "COFF":
        whole = not any("." in word for words in rows for word in words[3:6])
        colours = _numbers(rows, 6)[:, 3:]
        colours = colours.astype(np.uint8) if whole and colours.max() <= 255 else colours
    faces = fan(np.array(sizes, np.int64), np.array(corners, np.int64))
    return MeshArrays(_numbers(rows, 3), faces, colours=colours)


def _read_ply(file: IO[bytes]) -> MeshArrays:
    order, elements = _ply_header(file)
    tables: dict[str, dict[str, Any]] = {}
    if order == "ascii":
        rows = [line.split() for line in file.read().decode("ascii").splitlines() if line.strip()]
        for name, count, properties in elements:
            if len(rows) < count:
                raise MediaError(f"is cut short: {len(rows)} of {count} lines of {name}")
            tables[name], rows = _ply_text(rows[:count], properties), rows[count:]
    else:
        data, offset = file.read(), 0
        for name, count, properties in elements:
            tables[name], offset = _ply_binary(data, offset, count, properties, order)
    if "vertex" not in tables or any(axis not in tables["vertex"] for axis in "xyz"):
        raise MediaError("has no vertices with x, y and z")
    points = tables["vertex"]
    vertices = np.stack([points[axis] for axis in "xyz"], axis=1)
    colours = None
    if all(name in points for name in ("red", "green", "blue")):
        colours = np.stack([points[name] for name in ("red", "green", "blue")], axis=1)
    uv = None
    for u, v in (("s", "t"), ("u", "v"), ("texture_u", "texture_v")):
        if u in points and v in points:
            uv = np.stack([points[u], points[v]], axis=1)
    polygons = tables.get("face", {})
    counts, corners = polygons.get("vertex_indices", polygons.get("vertex_index", (np.zeros(0, int), np.zeros(0, int))))
    faces = fan(counts, corners)
    if uv is None and len(polygons.get("texcoord", ((), ()))[1]) == 2 * len(corners) > 0:
        check_indices(faces, len(vertices), "its faces")
        table, places = np.unique(polygons["texcoord"][1].reshape(-1, 2), axis=0, return_inverse=True)
        uv = vertex_uv(corners, places.ravel(), table, len(vertices))
    return MeshArrays(vertices, faces, uv, colours)


Properties = list[tuple[str, str, str | None]]
"""The name of each property, numpy's name of its type, and of the type of its count if it is a list."""


def _ply_header(file: IO[bytes]) -> tuple[str, list[tuple[str, int, Properties]]]:
    """The byte order, "ascii", "<" or ">", and the elements of a PLY file: names, counts and properties."""
    if file.readline().strip() != b"ply":
        raise MediaError("does not begin with the word ply")
    order, elements = "", list[tuple[str, int, Properties]]()
    while True:
        line = file.readline()
        if not line:
            raise MediaError("ends within its header")
        words = line.decode("ascii", errors="replace").split()
        if words[:1] == ["end_header"]:
            break
        if words[:1] == ["format"]:
            order = {"ascii": "ascii", "binary_little_endian": "<", "binary_big_endian": ">"}[words[1]]
        elif words[:1] == ["element"]:
            elements.append((words[1], int(words[2]), []))
        elif words[:2] == ["property", "list"]:
            elements[-1][2].append((words[4], PLY_TYPES[words[3]], PLY_TYPES[words[2]]))
        elif words[:1] == ["property"]:
            elements[-1][2].append((words[2], PLY_TYPES[words[1]], None))
    if not order:
        raise MediaError("does not say its format in its header")
    return order, elements


def _ply_text(rows: list[list[str]], properties: Properties) -> dict[str, Any]:
    """A column a property; of a list, the counts and all its numbers."""
    cells = {name: list[str]() for name, _, _ in properties}
    counts = {name: list[int]() for name, _, count in properties if count}
    for words in rows:
        at = 0
        for name, _, count in properties:
            size = 1
            if count:
                size = int(words[at])
                counts[name].append(size)
                at += 1
            if len(words) < at + size:
                raise MediaError(f"has a line that is cut short: {' '.join(words)!r}")
            cells[name] += words[at : at + size]
            at += size
    columns = {name: np.array(cells[name], np.float64).astype(kind) for name, kind, _ in properties}
    return {name: (np.array(counts[name]), column) if name in counts else column for name, column in columns.items()}


def _ply_binary(data: bytes, offset: int, count: int, properties: Properties, order: str) -> tuple[dict[str, Any], int]:
    """The same of a binary element that begins at `offset`, and where it ends."""
    lists = [name for name, _, size in properties if size]

    def layout(sizes: dict[str, int]) -> np.dtype:
        fields: list[Any] = []
        for name, kind, size in properties:
            fields += [(f"{name} count", order + size)] if size else []
            fields.append((name, order + kind, (sizes[name],)) if size else (name, order + kind))
        return np.dtype(fields)

    def row_sizes(at: int) -> dict[str, int]:
        sizes = {}
        for name, kind, size in properties:
            if size:
                sizes[name] = int(np.frombuffer(data, order + size, 1, at)[0])
                at += np.dtype(size).itemsize
            at += np.dtype(kind).itemsize * sizes.get(name, 1)
        return sizes

    if not count:
        return {name: (np.zeros(0, int), np.zeros(0, kind)) if size else [] for name, kind, size in properties}, offset
    # Most files have polygons of one size, which are read at once.
    sizes = row_sizes(offset)
    kind = layout(sizes)
    if offset + count * kind.itemsize <= len(data):
        table = np.frombuffer(data, kind, count, offset)
        if all((table[f"{name} count"] == sizes[name]).all() for name in lists):
            columns = {name: (np.full(count, sizes[name]), table[name].ravel()) for name in lists}
            return {name: columns.get(name, table[name]) for name, _, _ in properties}, offset + count * kind.itemsize
    if not lists:
        raise MediaError(f"is cut short: {count * kind.itemsize} bytes expected, {len(data) - offset} left")
    layouts: dict[tuple[int, ...], np.dtype] = {}
    rows = []
    for _ in range(count):
        sizes = row_sizes(offset)
        key = tuple(sizes.values())
        if key not in layouts:
            layouts[key] = layout(sizes)
        rows.append(np.frombuffer(data, layouts[key], 1, offset)[0])
        offset += layouts[key].itemsize
    return {
        name: (np.array([len(row[name]) for row in rows]), np.concatenate([row[name] for row in rows]))
        if size
        else np.array([row[name] for row in rows])
        for name, _, size in properties
    }, offset


READERS = {".obj": _read_obj, ".ply": _read_ply, ".glb": _read_glb, ".stl": _read_stl, ".off": _read_off}


def write_mesh(mesh: MeshArrays, path: str | Path, unit: str = "mm") -> None:
    """Write a mesh in the format of the suffix, in `unit`, or in metres in GLB.

    OBJ, PLY and GLB hold colours and texture coordinates, OFF holds colours, STL neither. PLY and OFF round colours to
    bytes; all round those outside [0, 1] to the nearest there. STL has no vertices but the corners of its triangles.
    GLB wants colours in linear light, which they become, and normals, which are computed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise MediaError(f"{path}: meshes are written as {', '.join(SUFFIXES)}, not {suffix or 'without a suffix'}")
    vertices = np.asarray(mesh.vertices, np.float64) / UNITS["m" if suffix == ".glb" else unit]
    colours = None if mesh.colours is None else mesh.colours.clip(0, 1)
    data = WRITERS[suffix](MeshArrays(vertices.astype(np.float32), mesh.faces, mesh.uv, colours))
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
    head = f"{len(mesh.vertices)} {len(mesh.faces)} 0\n"
    faces = _text(mesh.faces, "3 %d %d %d\n")
    if mesh.colours is None:
        return ("OFF\n" + head + _text(mesh.vertices, "%.9g %.9g %.9g\n") + faces).encode()
    columns = np.concatenate([mesh.vertices, _bytes(mesh.colours)], axis=1)
    return ("COFF\n" + head + _text(columns, "%.9g %.9g %.9g %d %d %d 255\n") + faces).encode()


def _bytes(colours: np.ndarray) -> np.ndarray:
    return np.rint(255 * colours).astype(np.uint8)


def _write_ply(mesh: MeshArrays) -> bytes:
    fields: list[Any] = [(axis, "<f4") for axis in "xyz"]
    columns = dict(zip("xyz", mesh.vertices.T, strict=True))
    if mesh.uv is not None:
        fields += [("s", "<f4"), ("t", "<f4")]
        columns |= {"s": mesh.uv[:, 0], "t": mesh.uv[:, 1]}
    if mesh.colours is not None:
        names = ("red", "green", "blue")
        fields += [(name, "u1") for name in names]
        columns |= dict(zip(names, _bytes(mesh.colours).T, strict=True))
    points = np.zeros(len(mesh.vertices), fields)
    for name, column in columns.items():
        points[name] = column
    faces = np.zeros(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces
    words = {"f4": "float", "u1": "uchar"}
    properties = "".join(f"property {words[kind[-2:]]} {name}\n" for name, kind in fields)
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{properties}"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    return header.encode() + points.tobytes() + faces.tobytes()


def _write_stl(mesh: MeshArrays) -> bytes:
    import trimesh

    return trimesh.exchange.stl.export_stl(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False))


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals, the mean over a vertex's triangles weighted by their areas; z where there is no area."""
    corners = vertices[faces].astype(np.float64)
    areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros((len(vertices), 3))
    for axis in range(3):
        normals[:, axis] = np.bincount(faces.ravel(), np.repeat(areas[:, axis], 3), len(vertices))
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(lengths > 0, normals / np.where(lengths > 0, lengths, 1), [0.0, 0.0, 1.0]).astype(np.float32)


def _write_glb(mesh: MeshArrays) -> bytes:
    arrays = {"POSITION": mesh.vertices, "NORMAL": vertex_normals(mesh.vertices, mesh.faces)}
    if mesh.uv is not None:
        # The format counts v from the top of the picture.
        arrays["TEXCOORD_0"] = mesh.uv * [1, -1] + [0, 1]
    if mesh.colours is not None:
        arrays["COLOR_0"] = _to_linear(mesh.colours)
    blobs = [np.ascontiguousarray(array, "<f4").tobytes() for array in arrays.values()]
    blobs.append(np.ascontiguousarray(mesh.faces, "<u4").tobytes())
    ends = np.cumsum([len(blob) for blob in blobs]).tolist()
    views = [
        {"buffer": 0, "byteOffset": end - len(blob), "byteLength": len(blob), "target": 34962}
        for end, blob in zip(ends, blobs, strict=True)
    ]
    views[-1]["target"] = 34963
    accessors: list[dict[str, Any]] = [
        {"bufferView": i, "componentType": 5126, "count": len(array), "type": f"VEC{array.shape[1]}"}
        for i, array in enumerate(arrays.values())
    ]
    accessors[0] |= {"min": mesh.vertices.min(axis=0).tolist(), "max": mesh.vertices.max(axis=0).tolist()}
    accessors.append(
        {"bufferView": len(arrays), "componentType": 5125, "count": int(mesh.faces.size), "type": "SCALAR"}
    )
    attributes = {name: i for i, name in enumerate(arrays)}
    tree = {
        "asset": {"version": "2.0", "generator": "latent-zoo"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": len(arrays), "material": 0}]}],
        # Without a material surfaces would be metal and open ones invisible from behind.
        "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 0.8}, "doubleSided": True}],
        "buffers": [{"byteLength": ends[-1]}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    body = b"".join(blobs)
    head = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(body))
    return head + struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(body), b"BIN\0") + body


WRITERS = {".obj": _write_obj, ".ply": _write_ply, ".glb": _write_glb, ".stl": _write_stl, ".off": _write_off}
