"""Morphable models of others: every layout written by hand from known modes, read back, and written again."""

import json
import pickle
import struct

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from modalities import MediaError
from modalities.meshes import Meshes
from modalities.meshes.files import read_mesh
from zoo.morphable import formats
from zoo.morphable.formats import read_model, write_model
from zoo.morphable.model import MorphableModel
from zoo.morphable.modes import Axes

SIDE = 5
VERTICES = SIDE**2
SIZE = 3 * VERTICES
DEVIATION = np.array([30.0, 12.0, 5.0, 2.0])
"""Standard deviations of the modes of shape, millimetres summed over vertices."""
SMILES = np.array([9.0, 4.0])
TINTS = np.array([0.5, 0.2, 0.1])


def orthonormal(count, seed):
    """Rows of length 1 across each other, shape [count, 3 * vertices]."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(SIZE, count)))[0].T


def grid():
    """A curved sheet, 120 mm wide: positions [V, 3] and triangles that look along z."""
    y, x = np.meshgrid(np.linspace(-60, 60, SIDE), np.linspace(-60, 60, SIDE))
    points = np.stack([x, y, 40 - (x**2 + y**2) / 90], axis=-1).reshape(-1, 3)
    corner = (np.arange(SIDE - 1)[:, None] * SIDE + np.arange(SIDE - 1)).ravel()
    upper = np.stack([corner, corner + SIDE, corner + SIDE + 1], 1)
    lower = np.stack([corner, corner + SIDE + 1, corner + 1], 1)
    return points.astype(np.float32).astype(np.float64), np.concatenate([upper, lower])


POINTS, FACES = grid()
SHAPE, SMILE, TINT = orthonormal(4, 0), orthonormal(2, 1), orthonormal(3, 2)
GREY = np.random.default_rng(3).uniform(0.3, 0.7, SIZE)
UV = np.random.default_rng(4).uniform(size=(VERTICES, 2)).astype(np.float32)


def axes(directions, deviation):
    return Axes(torch.from_numpy(directions).float(), torch.from_numpy(deviation**2).float())


def toy(expression=False, colour=False, uv=False, landmarks=(), noise=0.0, attributes=None):
    mean = torch.from_numpy(POINTS).float()
    if colour:
        mean = torch.cat([mean, torch.from_numpy(GREY.reshape(-1, 3)).float()], 1)
    return MorphableModel.assemble(
        Meshes(VERTICES, colour).on(torch.from_numpy(FACES), torch.from_numpy(UV) if uv else None),
        mean,
        axes(SHAPE, DEVIATION),
        axes(SMILE, SMILES) if expression else None,
        axes(TINT, TINTS) if colour else None,
        noise=noise,
        landmarks=torch.tensor(landmarks) if landmarks else None,
        attributes=attributes,
    )


def put_tree(group, mean, directions, deviation, version=(0, 9), scaled=False, points=POINTS):
    """One model in the layout of statismo, by hand."""
    group["model/mean"] = np.float32(mean.ravel())
    group["model/noiseVariance"] = np.float32(0.25)
    group["model/pcaBasis"] = np.float32((directions * (deviation[:, None] if scaled else 1)).T)
    group["model/pcaVariance"] = np.float32(deviation**2)
    group["representer/points"] = np.float32(points.T)
    group["representer/cells"] = np.uint32(FACES.T)
    group["representer"].attrs["name"] = "itkStandardMeshRepresenter"
    group["representer"].attrs["datasetType"] = np.bytes_("POLYGON_MESH\0")
    if version is not None:
        group["version/majorVersion"], group["version/minorVersion"] = (np.int32(number) for number in version)


def statismo(version, scaled=False):
    def write(path):
        with h5py.File(path.with_suffix(".h5"), "w") as file:
            put_tree(file, POINTS, SHAPE, DEVIATION, version, scaled)
        return path.with_suffix(".h5")

    return write


def oldest(path):
    """No version and a name that stands for 0.8; the reference is a VTK file within the file."""
    pyvista = pytest.importorskip("pyvista")
    path = path.with_suffix(".h5")
    mesh = pyvista.PolyData.from_regular_faces(np.float32(POINTS), FACES)
    mesh.save(path.with_suffix(".vtk"))
    with h5py.File(path, "w") as file:
        put_tree(file, POINTS, SHAPE, DEVIATION, None, scaled=True)
        del file["representer"]
        file["representer/reference"] = np.frombuffer(path.with_suffix(".vtk").read_bytes(), np.uint8)
        file["representer"].attrs["name"] = "vtkPolyDataRepresenter"
    return path


def legacy(path):
    path = statismo((0, 9))(path)
    with h5py.File(path, "r+") as file:
        del file["representer/points"], file["representer/cells"]
        file["representer/reference-mesh/vertex-coordinates"] = np.float32(POINTS)
        file["representer/reference-mesh/triangle-list"] = np.int32(FACES)
    return path


def in_metres(path):
    path = path.with_suffix(".h5")
    with h5py.File(path, "w") as file:
        put_tree(file, POINTS / 1000, SHAPE, DEVIATION / 1000, points=POINTS / 1000)
        file["representer/length-unit"] = np.float32(1.0)
    return path


def basel_variables():
    """Micrometres, standard deviations, triangles from 1 that turn the other way round, colours to 255."""
    column = {name: values.reshape(-1, 1) for name, values in (("EV", 1000 * DEVIATION), ("MU", 1000 * POINTS))}
    return {
        "shapeMU": np.float32(column["MU"]),
        "shapePC": np.float32(SHAPE.T),
        "shapeEV": np.float32(column["EV"]),
        "texMU": np.float32(255 * GREY[:, None]),
        "texPC": np.float32(TINT.T),
        "texEV": np.float32(255 * TINTS[:, None]),
        "tl": np.float64(FACES[:, [1, 0, 2]] + 1),
    }


def basel(path):
    scipy.io.savemat(path.with_suffix(".mat"), basel_variables())
    return path.with_suffix(".mat")


def basel_73(path):
    path = path.with_suffix(".mat")
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in basel_variables().items():
            file[name] = values.T
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    return path


def eos_matrix(values):
    values = np.atleast_2d(values)
    return struct.pack("<ii", *values.shape) + values.T.astype("<f4").tobytes()


def eos_faces(faces):
    return struct.pack("<Q", len(faces)) + faces.astype("<i4").tobytes()


def eos_pca(mean, directions, deviation):
    if mean is None:
        return eos_matrix(np.zeros((0, 1))) + struct.pack("<ii", 0, 0) + struct.pack("<ii", 0, 1) + eos_faces(FACES[:0])
    parts = mean.reshape(-1, 1), directions.T, (deviation**2).reshape(-1, 1)
    return b"".join(map(eos_matrix, parts)) + eos_faces(FACES)


def eos_text(name):
    return struct.pack("<Q", len(name)) + name.encode()


def eos_bytes(version, colour=False, expression=b"\1", landmarks=b"\1", uv=UV, uv_faces=FACES):
    data = struct.pack("<I", version) + eos_pca(POINTS, SHAPE, DEVIATION)
    data += eos_pca(GREY, TINT, TINTS) if colour else eos_pca(None, None, None)
    data += expression if version >= 2 else b""
    data += landmarks if version >= 3 else b""
    data += struct.pack("<Q", len(uv)) + (uv * [1, -1] + [0, 1]).astype("<f8").tobytes()
    return data + (eos_faces(uv_faces) if version == 4 else b"")


def eos(version, **parts):
    def write(path):
        path.with_suffix(".bin").write_bytes(eos_bytes(version, **parts))
        return path.with_suffix(".bin")

    return write


def flame_arrays():
    directions, deviation = np.concatenate([SHAPE, SMILE]), np.concatenate([DEVIATION, SMILES])
    offsets = (directions * deviation[:, None] / 1000).T.reshape(VERTICES, 3, -1)
    return {"v_template": POINTS / 1000, "shapedirs": offsets, "f": FACES.astype(np.uint32)}


def flame(path):
    np.savez(path.with_suffix(".npz"), **flame_arrays())
    return path.with_suffix(".npz")


BLENDSHAPES = {"jawOpen": 8 * SMILE[0] + SMILE[1], "mouthSmile_L": 6 * SMILE[0] - 5 * SMILE[1]}


def put_obj(path, offset, faces=FACES):
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in (POINTS + offset.reshape(-1, 3)) / 10]
    lines += [f"vt {u:.9g} {v:.9g}" for u, v in UV]
    lines += ["f " + " ".join(f"{i + 1}/{i + 1}" for i in face) for face in faces]
    path.write_text("\n".join(lines) + "\n")


def facekit(path):
    path.mkdir()
    put_obj(path / "generic_neutral_mesh.obj", np.zeros(SIZE))
    for i, (row, deviation) in enumerate(zip(SHAPE, DEVIATION, strict=True)):
        put_obj(path / f"identity{i:03d}.obj", deviation * row)
    for name, offset in BLENDSHAPES.items():
        put_obj(path / f"{name}.obj", offset)
    (path / "vertex_indices.json").write_text(json.dumps({"idx_to_landmark_verts": [3, 1, 24]}))
    return path


LAYOUTS = {
    "statismo 0.8": statismo((0, 8), scaled=True),
    "statismo 0.9": statismo((0, 9)),
    "statismo 1.0": statismo((1, 0)),
    "statismo without version": statismo(None),
    "statismo with a VTK file": oldest,
    "statismo with a reference mesh": legacy,
    "statismo in metres": in_metres,
    "basel 2009": basel,
    "basel 2009, HDF5": basel_73,
    "eos 1": eos(1),
    "eos 2": eos(2),
    "eos 3": eos(3),
    "eos 4": eos(4),
    "flame": flame,
    "facekit": facekit,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_mean_the_triangles_and_the_variance_of_the_shapes(layout, tmp_path, monkeypatch):
    monkeypatch.setattr(formats.flame, "SHAPE", len(DEVIATION))
    model = read_model(LAYOUTS[layout](tmp_path / "model"))
    np.testing.assert_allclose(model.mean[:, :3], POINTS, atol=1e-4)
    turned = {tuple(np.roll(face, -face.argmin())) for face in FACES}
    assert {tuple(np.roll(face, -face.argmin())) for face in model.modality.triangles.numpy()} == turned
    # Standard deviations taken for variances, or the reverse, would show here.
    z = torch.randn(10_000, sum(model.sizes), generator=torch.Generator().manual_seed(0))
    z[:, len(DEVIATION) :] = 0
    x = model.decode(z).mean[:, :, :3]
    variance = ((DEVIATION[:, None] * SHAPE) ** 2).sum(0).reshape(-1, 3)
    np.testing.assert_allclose(x.var(0), variance, rtol=0.1)
    model.noise.zero_()
    np.testing.assert_allclose(model.encode(model.decode(z[:50]).mean).mean, z[:50], atol=1e-3)
    # The coefficients are those of the file, one by one.
    np.testing.assert_allclose(model.shape_basis, SHAPE, atol=1e-5)
    np.testing.assert_allclose(model.shape_variance.sqrt(), DEVIATION, rtol=1e-4)
    gram = model.expression_basis @ model.expression_basis.T
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)


@pytest.mark.parametrize("write", [basel, basel_73])
def test_colours_of_basel_2009_come_from_0_to_255(write, tmp_path):
    model = read_model(write(tmp_path / "model"))
    np.testing.assert_allclose(model.mean[:, 3:].ravel(), GREY, atol=1e-5)
    np.testing.assert_allclose(model.colour_variance.sqrt(), TINTS, rtol=1e-5)
    np.testing.assert_allclose(model.colour_basis, TINT, atol=1e-6)


def test_parts_of_statismo_add_up(tmp_path):
    offset = np.random.default_rng(5).normal(size=SIZE)
    with h5py.File(tmp_path / "model.h5", "w") as file:
        put_tree(file.create_group("shape"), POINTS, SHAPE, DEVIATION)
        put_tree(file.create_group("color"), GREY, TINT, TINTS, (0, 8), scaled=True)
        put_tree(file.create_group("expression"), offset, SMILE, SMILES, None)
        file["version/majorVersion"], file["version/minorVersion"] = 0, 9
        marks = [{"id": str(i), "coordinates": (POINTS[i] + 0.2).tolist()} for i in (7, 3, 11)]
        file["metadata/landmarks/json"] = json.dumps(marks)
    model = read_model(tmp_path / "model.h5")
    assert model.sizes == (4, 2, 3) and model.landmarks.tolist() == [7, 3, 11]
    np.testing.assert_allclose(model.mean[:, :3].ravel(), POINTS.ravel() + offset, atol=1e-4)
    np.testing.assert_allclose(model.mean[:, 3:].ravel(), GREY, atol=1e-6)
    np.testing.assert_allclose(model.expression_variance.sqrt(), SMILES, rtol=1e-5)
    np.testing.assert_allclose(model.colour_variance.sqrt(), TINTS, rtol=1e-5)
    assert model.noise.item() == pytest.approx(0.5)  # of both, which are independent
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        del file["metadata/landmarks/json"]
        file["metadata/landmarks/text"] = np.bytes_("nose 1 {} {} {}\n\0".format(*POINTS[9]))
    assert read_model(tmp_path / "model.h5").landmarks.tolist() == [9]


def test_parts_of_eos(tmp_path):
    offset = np.random.default_rng(5).normal(size=SIZE)
    pca = struct.pack("<?i", False, 0) + eos_pca(offset, SMILE, SMILES)
    marks = struct.pack("<?Q", False, 3)
    for name, vertex in (("10", 4), ("9", 5), ("nose", 6)):
        marks += eos_text(name) + struct.pack("<i", vertex)
    # The texture's triangles have their own numbers: here those of the vertices, turned round.
    path = eos(4, colour=True, expression=pca, landmarks=marks, uv=UV[::-1], uv_faces=VERTICES - 1 - FACES)(
        tmp_path / "model"
    )
    model = read_model(path)
    assert model.sizes == (4, 2, 3) and model.landmarks.tolist() == [5, 4, 6]
    np.testing.assert_allclose(model.mean[:, :3].ravel(), POINTS.ravel() + offset, atol=1e-4)
    np.testing.assert_allclose(model.mean[:, 3:].ravel(), GREY, atol=1e-6)
    np.testing.assert_allclose(model.expression_variance.sqrt(), SMILES, rtol=1e-5)
    np.testing.assert_allclose(model.modality.uv, UV, atol=1e-6)
    np.testing.assert_allclose(read_model(eos(1)(tmp_path / "plain")).modality.uv, UV, atol=1e-6)


def eos_blendshapes():
    data = struct.pack("<?iQ", False, 1, len(BLENDSHAPES))
    for name, offset in BLENDSHAPES.items():
        data += eos_text(name) + eos_matrix(offset.reshape(-1, 1))
    return data


@pytest.mark.parametrize("write", [facekit, eos(2, expression=eos_blendshapes())], ids=["facekit", "eos"])
def test_blendshapes_become_modes_and_attributes_of_their_names(write, tmp_path):
    model = read_model(write(tmp_path / "model"))
    assert model.attributes == tuple(BLENDSHAPES) and model.sizes == (4, 2, 0)
    moved = model.decode(model.directions).mean - model.mean
    np.testing.assert_allclose(moved.flatten(1), np.stack(list(BLENDSHAPES.values())), atol=1e-3)
    np.testing.assert_allclose(model.modality.uv, UV, atol=1e-6)
    # As much variance as a collection of all expressions has about the neutral face.
    total = np.mean([np.sum(offset**2) for offset in BLENDSHAPES.values()])
    assert model.expression_variance.sum().item() == pytest.approx(total, rel=1e-4)


def test_facekit_keeps_landmarks_and_is_found_in_its_repository(tmp_path):
    facekit(tmp_path / "FaceXModel")
    assert read_model(tmp_path).landmarks.tolist() == [3, 1, 24]
    (tmp_path / "FaceXModel" / "vertex_indices.json").write_text('{"idx_to_landmark_verts": [3, 25]}')
    with pytest.raises(MediaError, match="vertices from 0 to 24"):
        read_model(tmp_path)


def test_flame_has_modes_of_expression_and_no_pose(tmp_path, monkeypatch):
    monkeypatch.setattr(formats.flame, "SHAPE", len(DEVIATION))
    np.savez(tmp_path / "model.npz", **flame_arrays(), weights=np.zeros((VERTICES, 5)), posedirs=np.zeros(3))
    with pytest.warns(UserWarning, match="pose is not modelled: posedirs, weights"):
        model = read_model(tmp_path / "model.npz")
    np.testing.assert_allclose(model.expression_variance.sqrt(), SMILES, rtol=1e-5)


def test_a_unit_overrides_that_of_the_format(tmp_path):
    path = statismo((0, 9))(tmp_path / "model")
    model = read_model(path, unit="cm")
    np.testing.assert_allclose(model.mean, 10 * POINTS, rtol=1e-5)
    np.testing.assert_allclose(model.shape_variance.sqrt(), 10 * DEVIATION, rtol=1e-5)
    assert model.noise.item() == pytest.approx(25.0)
    with pytest.warns(UserWarning, match=r"spans 1.2e\+05 mm if lengths are in m,"):
        read_model(path, unit="m")
    with pytest.raises(ValueError, match="unit is one of um, mm, cm, m, in, got 'feet'"):
        read_model(path, unit="feet")


def test_the_length_of_columns_tells_the_convention(tmp_path):
    with pytest.warns(UserWarning, match="expected columns of length 1, detected a standard deviation"):
        model = read_model(statismo((0, 9), scaled=True)(tmp_path / "a"))
    np.testing.assert_allclose(model.shape_variance.sqrt(), DEVIATION, rtol=1e-5)
    with pytest.warns(UserWarning, match=r"expected columns of length a standard deviation .*, detected 1"):
        model = read_model(statismo((0, 8))(tmp_path / "b"))
    np.testing.assert_allclose(model.shape_variance.sqrt(), DEVIATION, rtol=1e-5)
    path = statismo((0, 9))(tmp_path / "c")
    with h5py.File(path, "r+") as file:
        file["model/pcaBasis"][:] *= np.sqrt(VERTICES)
    with pytest.warns(UserWarning, match="Gaussian process"):
        model = read_model(path)
    np.testing.assert_allclose(model.shape_variance.sqrt(), DEVIATION * np.sqrt(VERTICES), rtol=1e-5)


def test_modes_that_are_not_orthogonal_become_axes_of_the_same_distribution(tmp_path):
    path = statismo((0, 9))(tmp_path / "model")
    skew = (SHAPE[0] + SHAPE[1]) / np.sqrt(2)
    with h5py.File(path, "r+") as file:
        file["model/pcaBasis"][:, 1] = skew
    with pytest.warns(UserWarning, match=r"not orthogonal \(the cosine of 0 and 1 is 0.707\)"):
        model = read_model(path)
    rows = DEVIATION[:, None] * np.stack([SHAPE[0], skew, SHAPE[2], SHAPE[3]])
    found = model.shape_variance.sqrt()[:, None].double() * model.shape_basis.double()
    np.testing.assert_allclose(found.T @ found, rows.T @ rows, atol=1e-2)
    np.testing.assert_allclose(model.shape_basis @ model.shape_basis.T, np.eye(4), atol=1e-5)


def test_modes_without_variance_stay_where_the_file_has_their_direction(tmp_path):
    for version, kept in (((0, 9), 4), ((0, 8), 3)):
        deviation = DEVIATION * [1, 1, 1, 0]
        with h5py.File(tmp_path / "model.h5", "w") as file:
            put_tree(file, POINTS, SHAPE, deviation, version, scaled=version == (0, 8))
        assert read_model(tmp_path / "model.h5").sizes == (kept, 0, 0)


# Files that are refused


def damaged(change, write=None):
    """A file of statismo that was changed."""

    def make(path):
        path = (write or statismo((0, 9)))(path)
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return make


def replace(name, values):
    def change(file):
        del file[name]
        file[name] = values

    return damaged(change)


def poke(name, place, value):
    def change(file):
        file[name][place] = value

    return damaged(change)


def remove(name):
    def change(file):
        del file[name]

    return damaged(change)


def basel_with(**changes):
    def make(path):
        variables = {name: values for name, values in (basel_variables() | changes).items() if values is not None}
        scipy.io.savemat(path.with_suffix(".mat"), variables)
        return path.with_suffix(".mat")

    return make


def flame_with(**changes):
    def make(path):
        arrays = {name: values for name, values in (flame_arrays() | changes).items() if values is not None}
        np.savez(path.with_suffix(".npz"), **arrays)
        return path.with_suffix(".npz")

    return make


def content(suffix, data):
    def make(path):
        path.with_suffix(suffix).write_bytes(data)
        return path.with_suffix(suffix)

    return make


def cut(write, share):
    def make(path):
        path = write(path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        return path

    return make


def facekit_with(name, offset=None, **arguments):
    def make(path):
        facekit(path)
        if offset is None:
            (path / name).unlink()
        else:
            put_obj(path / name, offset, **arguments)
        return path

    return make


def shorter(path):
    facekit(path)
    lines = (path / "identity002.obj").read_text().splitlines()
    (path / "identity002.obj").write_text("\n".join(lines[1:]))
    return path


def two_representers(file):
    file["representer"].attrs["datasetType"] = "POINT_SET"


def other_group(path):
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["weights/layer"] = np.zeros(3)
    return path.with_suffix(".h5")


BAD = {
    "columns of another length": (
        poke("model/pcaBasis", (slice(None), 2), np.float32(3 * SHAPE[2])),
        r"pcaBasis: expected columns of length 1, detected neither 1 nor the root of the variance: column 2 has length "
        "3 at a variance of 25",
    ),
    "a basis that is transposed": (
        replace("model/pcaBasis", np.float32(SHAPE)),
        r"expected a basis of shape \[75, 4\].*got \[4, 75\]; it seems transposed",
    ),
    "a basis of other vertices": (replace("model/pcaBasis", np.float32(SHAPE.T[:72])), r"\[75, 4\].*got \[72, 4\]"),
    "a mean of V x 3": (replace("model/mean", np.float32(POINTS)), r"model/mean.*shape \[25, 3\]"),
    "a mean with NaN": (poke("model/mean", 4, np.nan), "model/mean: 1 of 75 numbers are NaN or infinite"),
    "a basis with NaN": (poke("model/pcaBasis", (0, 0), np.inf), "its basis: 1 of 300 numbers are NaN or infinite"),
    "a negative variance": (poke("model/pcaVariance", 3, -1), "must not be negative, number 3 is -1"),
    "a negative noise": (replace("model/noiseVariance", np.float32([-0.5])), "noiseVariance must not be negative"),
    "triangles from 1": (replace("representer/cells", FACES.T + 1), "counted from 0, detected a count from 1"),
    "a vertex that does not exist": (poke("representer/cells", (1, 1), 99), "from 0 to 24, got 0 to 99"),
    "points of V x 3": (
        replace("representer/points", np.float32(POINTS)),
        r"representer/points.*got the shape \[25, 3\]",
    ),
    "points of other vertices": (replace("representer/points", np.float32(POINTS[:9].T)), "expected 25 points.*got 9"),
    "no triangles": (remove("representer/cells"), "expected points and cells, found points"),
    "no representer": (remove("representer"), "representer: expected a group.*found model, version"),
    "no variances": (remove("model/pcaVariance"), r"root: expected model/mean.*lacks model/pcaVariance"),
    "a set of points": (damaged(two_representers), "datasetType POLYGON_MESH.*got POINT_SET"),
    "a version that is not known": (replace("version/majorVersion", 2), "0.8, 0.9 or 1 of statismo, got 2.9"),
    "another HDF5 file": (other_group, "is no statistical model: expected model/mean.*found weights"),
    "HDF5 cut short": (cut(statismo((0, 9)), 0.5), "cannot be read"),
    "no HDF5": (content(".h5", b"12345678"), "does not begin as a .h5 file does, but with b'12345678'"),
    "landmarks that are not JSON": (
        damaged(lambda file: file.create_dataset("metadata/landmarks/json", data="[{}]")),
        "metadata/landmarks: expected three coordinates",
    ),
    "Basel triangles from 0": (basel_with(tl=FACES.astype(float)), "tl: .*counted from 1, detected a count from 0"),
    "Basel without triangles": (basel_with(tl=None), "lacks tl; its variables: shapeEV, shapeMU, shapePC, texEV"),
    "Basel with a negative deviation": (basel_with(shapeEV=-DEVIATION), "shapeEV holds standard deviations"),
    "Basel with colours up to 1": (basel_with(texMU=GREY), "expected colours from 0 to 255, got none above"),
    "Basel with columns of deviations": (
        basel_with(shapePC=SHAPE.T * 7),
        "expected columns of length 1, detected neither",
    ),
    "Basel cut short": (cut(basel, 0.6), "cannot be read as a MATLAB file"),
    "FLAME without triangles": (flame_with(f=None), r"lacks f; its arrays: \['shapedirs', 'v_template'\]"),
    "FLAME with flat offsets": (flame_with(shapedirs=np.zeros((75, 6))), r"shapedirs.*\[25, 3, modes\], got \[75, 6\]"),
    "FLAME with NaN": (flame_with(v_template=np.full((25, 3), np.nan)), "v_template: 75 of 75"),
    "FLAME triangles from 1": (flame_with(f=FACES + 1), "detected a count from 1"),
    "FLAME with objects": (flame_with(f=np.array([None, 1])), "(?s)holds Python objects.*numpy.savez"),
    "FLAME cut short": (cut(flame, 0.7), "cannot be read as an archive of arrays"),
    "a pickle": (content(".pkl", pickle.dumps({})), "(?s)can run any program.*numpy.savez"),
    "a pickle under another name": (content(".npz", pickle.dumps({})), "can run any program"),
    "eos of version 0": (content(".bin", struct.pack("<I", 0)), "expected version 1, 2, 3 or 4.*got 0"),
    "eos of version 5": (content(".bin", struct.pack("<I", 5)), "expected version 1, 2, 3 or 4.*got 5"),
    "eos with a negative shape": (content(".bin", struct.pack("<Iii", 1, -3, 1)), r"shape_model.mean .*\[-3, 1\]"),
    "eos with a tail": (content(".bin", eos_bytes(2) + b"tail"), "4 bytes follow the model"),
    "eos with another kind of expression": (
        eos(2, expression=struct.pack("<?i", False, 7)),
        "expected the kind 0 or 1, got 7",
    ),
    "eos with an expression of another size": (
        eos(2, expression=struct.pack("<?iQ", False, 1, 1) + eos_text("grin") + eos_matrix(np.zeros((9, 1)))),
        "grin has 9 numbers, expected 75",
    ),
    "eos with a landmark that does not exist": (
        eos(3, landmarks=struct.pack("<?Q", False, 1) + eos_text("nose") + struct.pack("<i", 25)),
        "landmark 'nose' is vertex 25 of 25",
    ),
    "eos with few texture coordinates": (eos(1, uv=UV[:9]), "one for each of 25 vertices, got 9"),
    "eos with a texture triangle that does not exist": (
        eos(4, uv_faces=FACES + 1),
        "texture_triangle_indices: .* do not exist, such as 25",
    ),
    "FaceKit without a neutral mesh": (facekit_with("generic_neutral_mesh.obj"), "expected generic_neutral_mesh.obj"),
    "FaceKit without an identity": (facekit_with("identity001.obj"), "identity001.obj is not there"),
    "FaceKit with other vertices": (shorter, "identity002.obj has 24 vertices, the neutral mesh has 25"),
    "FaceKit with NaN": (facekit_with("jawOpen.obj", np.full(SIZE, np.nan)), "jawOpen.obj: 75 of 75 numbers are NaN"),
    "another format": (content(".fbx", b"Kaydara"), "a .mat, .h5, .bin or .npz file or a folder of .obj.*got .fbx"),
    "no file": (lambda path: path.with_suffix(".h5"), "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("error")
def test_bad_files_are_refused_by_name_and_reason(name, tmp_path):
    make, message = BAD[name]
    path = make(tmp_path / "model")
    with pytest.raises(MediaError, match=message) as error:
        read_model(path)
    assert str(tmp_path) in str(error.value)


def test_a_pickle_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    np.savez(tmp_path / "a.npz", v_template=np.array([Trap()]), shapedirs=np.zeros(1), f=np.zeros(1))
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "c.npz").write_bytes(pickle.dumps(Trap()))
    for name in ("a.npz", "b.pkl", "c.npz"):
        with pytest.raises(MediaError, match="numpy.savez"):
            read_model(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_a_cut_eos_file_names_the_field_and_the_byte(tmp_path):
    marks = struct.pack("<?Q", False, 1) + eos_text("nose") + struct.pack("<i", 2)
    data = eos_bytes(4, colour=True, expression=eos_blendshapes(), landmarks=marks)
    named = set()
    for size in range(0, len(data), 61):
        (tmp_path / "model.bin").write_bytes(data[:size])
        with pytest.raises(MediaError, match=rf"begins at byte \d+ and needs \d+ bytes, the file has {size}") as error:
            read_model(tmp_path / "model.bin")
        named.add(str(error.value).split("model: ", 1)[1].split(" begins")[0])
    fields = {
        "shape_model.orthonormal_pca_basis",
        "color_model.mean",
        "expression_model: jawOpen",
        "texture_coordinates",
    }
    assert fields | {"shape_model.triangle_list", "texture_triangle_indices"} <= named


# Files for others

PARTS = {
    "shape": {},
    "expression": {"expression": True},
    "colour": {"colour": True, "uv": True},
    "everything": {"expression": True, "colour": True, "uv": True, "landmarks": (3, 7, 24), "noise": 0.5},
}
LOST = {".h5": set(), ".bin": {"noise"}}


@pytest.mark.parametrize("suffix", LOST)
@pytest.mark.parametrize("parts", PARTS)
def test_a_model_that_is_written_comes_back(parts, suffix, tmp_path):
    model = toy(**PARTS[parts])
    write_model(model, tmp_path / "new" / f"model{suffix}")
    again = read_model(tmp_path / "new" / f"model{suffix}")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"model{suffix}"]
    expected, found = model.state_dict(), again.state_dict()
    for name in set(expected) - LOST[suffix]:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert torch.equal(again.modality.triangles, model.modality.triangles)
    if suffix == ".bin" and model.modality.uv is not None:
        torch.testing.assert_close(again.modality.uv, model.modality.uv)


def test_eos_files_have_the_lowest_version_that_fits(tmp_path):
    for parts, version in (({}, 1), ({"colour": True}, 1), ({"expression": True}, 2), ({"landmarks": (1, 2)}, 3)):
        write_model(toy(**parts), tmp_path / "model.bin")
        assert struct.unpack("<I", (tmp_path / "model.bin").read_bytes()[:4]) == (version,)


def test_an_eos_file_is_written_to_the_byte(tmp_path):
    write_model(toy(colour=True, uv=True), tmp_path / "model.bin")
    uv = (UV.astype(np.float64) * [1, -1] + [0, 1]) * [1, -1] + [0, 1]
    expected = struct.pack("<I", 1) + eos_pca(POINTS, SHAPE, DEVIATION) + eos_pca(GREY, TINT, TINTS)
    assert (tmp_path / "model.bin").read_bytes()[: len(expected)] == expected
    found = np.frombuffer((tmp_path / "model.bin").read_bytes()[len(expected) + 8 :], "<f8").reshape(-1, 2)
    np.testing.assert_allclose(found * [1, -1] + [0, 1], uv, atol=1e-12)


SCALISMO = {
    "model/mean": (np.float32, (SIZE,)),
    "model/noiseVariance": (np.float32, (1,)),
    "model/pcaBasis": (np.float32, (SIZE, None)),
    "model/pcaVariance": (np.float32, (None,)),
    "representer/points": (np.float32, (3, VERTICES)),
    "representer/cells": (np.int32, (3, len(FACES))),
    "modelinfo/scores": (np.float32, (1, 1)),
}
"""What the readers of scalismo cast to, and fail on anything else."""


@pytest.mark.parametrize("parts", PARTS)
def test_statismo_files_have_what_scalismo_asks_for(parts, tmp_path):
    model = toy(**PARTS[parts])
    write_model(model, tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5") as file:
        for key, number in (("majorVersion", 0), ("minorVersion", 9)):
            assert file["version"][key].dtype == np.int32 and file["version"][key][()] == number
        trees = {"shape": file} if parts == "shape" else {"shape": file["shape"]}
        trees |= {name: file[name] for name in ("color", "expression") if name in file}
        assert len(trees) == sum(size > 0 for size in model.sizes)
        for name, tree in trees.items():
            for path, (kind, shape) in SCALISMO.items():
                assert tree[path].dtype == kind, path
                assert all(s in (None, size) for s, size in zip(shape, tree[path].shape, strict=True)), path
            assert tree["representer"].attrs["datasetType"] == b"POLYGON_MESH"
            assert tree["representer"].attrs["name"].decode().endswith("Representer")
            assert {"build-time", "modelBuilder-0"} <= set(tree["modelinfo"])
            builder = tree["modelinfo/modelBuilder-0"]
            assert set(builder) == {"buildTime", "builderName", "parameters", "dataInfo"}
            np.testing.assert_array_equal(tree["representer/points"][()].T, np.float32(POINTS))
            np.testing.assert_allclose(np.linalg.norm(tree["model/pcaBasis"], axis=0), 1, rtol=1e-5)
            if name == "shape":  # absolute: scalismo subtracts the reference
                np.testing.assert_array_equal(tree["model/mean"], np.float32(POINTS).ravel())
                np.testing.assert_allclose(tree["model/pcaVariance"], DEVIATION**2, rtol=1e-6)
        catalogue = {entry["modelPath"][()].decode() for entry in file["catalog"].values()}
        assert catalogue == {tree.name for tree in trees.values()} | {"/"}
        if "landmarks" in PARTS[parts]:
            marks = json.loads(file["metadata/landmarks/json"][()])
            assert [mark["id"] for mark in marks] == ["1", "2", "3"]
            np.testing.assert_allclose(marks[1]["coordinates"], POINTS[7], rtol=1e-6)


def parse_glb(path):
    """The JSON of a GLB file and a function that gives an accessor's numbers, each checked by the rules of glTF 2.0."""
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON" and size % 4 == 0
    document = json.loads(data[20 : 20 + size])
    length, kind = struct.unpack("<I4s", data[20 + size : 28 + size])
    binary = data[28 + size :]
    assert kind == b"BIN\0" and length == len(binary) == document["buffers"][0]["byteLength"] and length % 4 == 0

    def numbers(index, target):
        accessor = document["accessors"][index]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[accessor["type"]]
        kind = {5126: "<f4", 5125: "<u4"}[accessor["componentType"]]
        if "bufferView" not in accessor:
            return np.zeros((accessor["count"], width))
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0 and view["target"] == target
        assert view["byteLength"] == 4 * width * accessor["count"]
        values = np.frombuffer(binary, kind, width * accessor["count"], view["byteOffset"]).reshape(-1, width)
        if "min" in accessor:
            assert accessor["min"] == values.min(0).tolist() and accessor["max"] == values.max(0).tolist()
        return values

    return document, numbers


def linear(colours):
    colours = np.clip(colours, 0, 1)
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def test_glb_has_a_morph_target_for_every_mode_and_attribute(tmp_path):
    step = torch.arange(9.0) / 4
    model = toy(expression=True, colour=True, uv=True, attributes={"smile": step})
    write_model(model, tmp_path / "model.glb")
    document, numbers = parse_glb(tmp_path / "model.glb")
    (mesh,) = document["meshes"]
    (primitive,) = mesh["primitives"]
    names = [f"shape {i}" for i in (1, 2, 3, 4)] + ["expression 1", "expression 2"] + [f"colour {i}" for i in (1, 2, 3)]
    assert mesh["extras"]["targetNames"] == [*names, "smile"]
    assert mesh["weights"] == [0.0] * 10 and len(primitive["targets"]) == 10
    assert document["materials"][primitive["material"]]["pbrMetallicRoughness"]["metallicFactor"] == 0

    base = {name: numbers(index, 34962) for name, index in primitive["attributes"].items()}
    np.testing.assert_array_equal(numbers(primitive["indices"], 34963).reshape(-1, 3), FACES)
    np.testing.assert_allclose(base["POSITION"], POINTS / 1000, rtol=1e-6)
    np.testing.assert_allclose(base["COLOR_0"], linear(GREY.reshape(-1, 3)), atol=1e-6)
    np.testing.assert_allclose(base["TEXCOORD_0"], UV * [1, -1] + [0, 1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(base["NORMAL"], axis=1), 1, atol=1e-6)
    assert (base["NORMAL"][:, 2] > 0.5).all()

    coefficients = torch.cat([torch.eye(9), step[None]])
    for z, target in zip(coefficients, primitive["targets"], strict=True):
        moved = model.decode(z[None]).mean[0].numpy()
        assert set(target) == {"POSITION", "NORMAL", "COLOR_0"}
        end = {name: base[name] + numbers(index, 34962) for name, index in target.items()}
        np.testing.assert_allclose(end["POSITION"], moved[:, :3] / 1000, atol=1e-7)
        np.testing.assert_allclose(end["COLOR_0"], linear(moved[:, 3:]), atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(end["NORMAL"], axis=1), 1, atol=1e-6)
        assert "min" in document["accessors"][target["POSITION"]]
    first = numbers(primitive["targets"][0]["POSITION"], 34962)
    np.testing.assert_allclose(first.ravel(), DEVIATION[0] * SHAPE[0] / 1000, atol=1e-7)

    mesh = read_mesh(tmp_path / "model.glb")
    np.testing.assert_allclose(mesh.vertices, POINTS, atol=1e-4)
    np.testing.assert_array_equal(mesh.faces, FACES)


def test_glb_without_colours_or_texture(tmp_path):
    write_model(toy(), tmp_path / "model.glb")
    document, _ = parse_glb(tmp_path / "model.glb")
    primitive = document["meshes"][0]["primitives"][0]
    assert set(primitive["attributes"]) == {"POSITION", "NORMAL"} == set(primitive["targets"][0])


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    def fail(model, path):
        path.write_bytes(b"half")
        raise OSError("no space")

    (tmp_path / "model.glb").write_bytes(b"old")
    monkeypatch.setitem(formats.WRITERS, ".glb", fail)
    with pytest.raises(OSError, match="no space"):
        write_model(toy(), tmp_path / "model.glb")
    assert [path.name for path in tmp_path.iterdir()] == ["model.glb"]
    assert (tmp_path / "model.glb").read_bytes() == b"old"
    with pytest.raises(MediaError, match=r"written to .h5, .bin, .glb, got '.npz'"):
        write_model(toy(), tmp_path / "model.npz")
