"""Morphable models of others: every layout written by hand from known modes, read back, and written again."""

import json
import os
import pickle
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from functools import partial

import h5py
import numpy as np
import pytest
import torch

from modalities import MediaError
from modalities.meshes import Meshes
from modalities.meshes.files import read_mesh
from modalities.meshes.ict import face_weights, read_face_model
from tests.hostile import ask, mutations, refusal
from tests.zoo.morphable.model_files import (
    BLENDSHAPES,
    DEVIATION,
    FACES,
    GREY,
    LEGACY,
    POINTS,
    SHAPE,
    SIZE,
    SMILE,
    SMILES,
    TINT,
    TINTS,
    UV,
    VERTICES,
    basel,
    basel_73,
    content,
    cut,
    eos,
    eos_blendshapes,
    eos_bytes,
    eos_landmarks,
    eos_pca,
    facekit,
    flame,
    hdf5,
    oldest,
    parse_glb,
    poked,
    shorter_facekit,
    statismo,
    tree,
)
from zoo.morphable import formats
from zoo.morphable.formats import read_model, write_model
from zoo.morphable.formats.ict import from_face_model
from zoo.morphable.formats.statismo import _vtk
from zoo.morphable.model import MorphableModel
from zoo.morphable.modes import Axes


def toy(expression=False, colour=False, uv=False, landmarks=(), noise=0.0, attributes=None):
    def axes(directions, deviation, wanted=True):
        parts = torch.from_numpy(directions).float(), torch.from_numpy(deviation**2).float()
        return Axes(*parts) if wanted else None

    mean = torch.from_numpy(POINTS).float()
    if colour:
        mean = torch.cat([mean, torch.from_numpy(GREY.reshape(-1, 3)).float()], 1)
    return MorphableModel.assemble(
        Meshes(VERTICES, colour).on(torch.from_numpy(FACES), torch.from_numpy(UV) if uv else None),
        mean,
        axes(SHAPE, DEVIATION),
        axes(SMILE, SMILES, expression),
        axes(TINT, TINTS, colour),
        noise=noise,
        landmarks=torch.tensor(landmarks) if landmarks else None,
        attributes=attributes,
    )


LAYOUTS = {
    "statismo 0.8": statismo((0, 8), scaled=True),
    "statismo 0.9": statismo((0, 9)),
    "statismo 1.0": statismo((1, 0)),
    "statismo without version": statismo(None),
    "statismo with a VTK file": oldest,
    "statismo with a reference mesh": statismo(changes=LEGACY),
    "statismo in metres": hdf5(tree(unit=0.001) | {"representer/length-unit": np.float32(1.0)}),
    "basel 2009": basel(),
    "basel 2009, packed": basel(packed=True),
    "basel 2009, HDF5": basel_73,
    **{f"eos {version}": eos(version) for version in (1, 2, 3, 4)},
    "flame": flame(),
    "facekit": facekit,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_mean_the_triangles_and_the_variance_of_the_shapes(layout, tmp_path):
    model = read_model(LAYOUTS[layout](tmp_path / "model"), shape=len(DEVIATION) if layout == "flame" else None)
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
    if model.modality.colours:
        check_colours(model)


def check_colours(model):
    np.testing.assert_allclose(model.mean[:, 3:].ravel(), GREY, atol=1e-5)
    np.testing.assert_allclose(model.colour_variance.sqrt(), TINTS, rtol=1e-5)
    np.testing.assert_allclose(model.colour_basis, TINT, atol=1e-6)


def test_parts_of_statismo_add_up(tmp_path):
    offset = np.random.default_rng(5).normal(size=SIZE)
    parts = {
        "shape": tree(),
        "color": tree(GREY, TINT, TINTS, (0, 8), scaled=True),
        "expression": tree(offset, SMILE, SMILES, None),
    }
    arrays = {f"{part}/{name}": values for part, found in parts.items() for name, values in found.items()}
    marks = [{"id": str(i), "coordinates": (POINTS[i] + 0.2).tolist()} for i in (7, 3, 11)]
    arrays |= {"version/majorVersion": 0, "version/minorVersion": 9, "metadata/landmarks/json": json.dumps(marks)}
    model = read_model(hdf5(arrays)(tmp_path / "model"))
    assert model.sizes == (4, 2, 3) and model.landmarks.tolist() == [7, 3, 11]
    np.testing.assert_allclose(model.mean[:, :3].ravel(), POINTS.ravel() + offset, atol=1e-4)
    np.testing.assert_allclose(model.expression_variance.sqrt(), SMILES, rtol=1e-5)
    check_colours(model)
    assert model.noise.item() == pytest.approx(0.5)  # of both, which are independent
    text = np.bytes_("nose 1 {} {} {}\n\0".format(*POINTS[9]))
    arrays |= {"metadata/landmarks/json": None, "metadata/landmarks/text": text}
    assert read_model(hdf5(arrays)(tmp_path / "text")).landmarks.tolist() == [9]


def test_parts_of_eos(tmp_path):
    offset = np.random.default_rng(5).normal(size=SIZE)
    pca = struct.pack("<?i", False, 0) + eos_pca(offset, SMILE, SMILES)
    marks = eos_landmarks(_10=4, _9=5, nose=6)
    # The texture's triangles have their own numbers: here those of the vertices, turned round.
    path = eos(4, colour=True, expression=pca, landmarks=marks, uv=UV[::-1], uv_faces=VERTICES - 1 - FACES)(
        tmp_path / "model"
    )
    model = read_model(path)
    assert model.sizes == (4, 2, 3) and model.landmarks.tolist() == [5, 4, 6]
    np.testing.assert_allclose(model.mean[:, :3].ravel(), POINTS.ravel() + offset, atol=1e-4)
    np.testing.assert_allclose(model.expression_variance.sqrt(), SMILES, rtol=1e-5)
    check_colours(model)
    np.testing.assert_allclose(model.modality.uv, UV, atol=1e-6)
    np.testing.assert_allclose(read_model(eos(1)(tmp_path / "plain")).modality.uv, UV, atol=1e-6)


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


def test_flame_has_modes_of_expression_and_no_pose(tmp_path):
    path = flame(weights=np.zeros((VERTICES, 5)), posedirs=np.zeros(3))(tmp_path / "model")
    with pytest.warns(UserWarning, match="pose is not modelled: posedirs, weights"):
        model = read_model(path, shape=4)
    np.testing.assert_allclose(model.expression_variance.sqrt(), SMILES, rtol=1e-5)


def test_the_modes_of_shape_of_a_flame_that_was_cut_are_asked_for(tmp_path):
    path = flame()(tmp_path / "model")
    with pytest.raises(MediaError, match=r"300 modes of shape and 100 of expression, got 6 in all; .*shape=\.\.\."):
        read_model(path)
    for shape in (0, 7):
        with pytest.raises(MediaError, match=f"a number from 1 to its 6 modes, got {shape}"):
            read_model(path, shape=shape)
    with pytest.raises(MediaError, match="shape= is for FLAME"):
        read_model(eos(1)(tmp_path / "model"), shape=4)
    # A whole file says it by its 400 columns: a corner of the sheet moves by one mode each.
    offsets = np.zeros((VERTICES, 3, 400))
    offsets.reshape(SIZE, 400)[np.arange(75), np.arange(75)] = 0.01
    offsets.reshape(SIZE, 400)[np.arange(5), 300 + np.arange(5)] = 0.01
    assert read_model(flame(shapedirs=offsets)(tmp_path / "whole")).sizes == (75, 5, 0)


def test_a_unit_overrides_that_of_the_format(tmp_path):
    path = statismo()(tmp_path / "model")
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
    path = statismo(changes={"model/pcaBasis": SHAPE.T * np.sqrt(VERTICES)})(tmp_path / "c")
    with pytest.warns(UserWarning, match="Gaussian process"):
        model = read_model(path)
    np.testing.assert_allclose(model.shape_variance.sqrt(), DEVIATION * np.sqrt(VERTICES), rtol=1e-5)


def test_modes_that_are_not_orthogonal_become_axes_of_the_same_distribution(tmp_path):
    skew = (SHAPE[0] + SHAPE[1]) / np.sqrt(2)
    basis = np.stack([SHAPE[0], skew, SHAPE[2], SHAPE[3]], 1)
    path = statismo(changes={"model/pcaBasis": basis})(tmp_path / "model")
    with pytest.warns(UserWarning, match=r"not orthogonal \(the cosine of 0 and 1 is 0.707\)"):
        model = read_model(path)
    rows = DEVIATION[:, None] * basis.T
    found = model.shape_variance.sqrt()[:, None].double() * model.shape_basis.double()
    np.testing.assert_allclose(found.T @ found, rows.T @ rows, atol=1e-2)
    np.testing.assert_allclose(model.shape_basis @ model.shape_basis.T, np.eye(4), atol=1e-5)


def test_modes_without_variance_stay_where_the_file_has_their_direction(tmp_path):
    for version, kept in (((0, 9), 4), ((0, 8), 3)):
        arrays = tree(deviation=DEVIATION * [1, 1, 1, 0], version=version, scaled=version == (0, 8))
        assert read_model(hdf5(arrays)(tmp_path / "model")).sizes == (kept, 0, 0)


# Files that are refused


def changed(name, values):
    """A file of statismo with one array changed."""
    return statismo(changes={name: values})


BAD = [
    (
        changed("model/pcaBasis", poked(SHAPE.T, (slice(None), 2), 3 * SHAPE[2])),
        r"pcaBasis: expected columns of length 1, detected neither 1 nor the root of the variance: column 2 has length "
        "3 at a variance of 25",
    ),
    (
        changed("model/pcaBasis", np.float32(SHAPE)),
        r"expected a basis of shape \[75, 4\].*got \[4, 75\]; it seems transposed",
    ),
    (changed("model/pcaBasis", np.float32(SHAPE.T[:72])), r"\[75, 4\].*got \[72, 4\]"),
    (changed("model/mean", np.float32(POINTS)), r"model/mean.*shape \[25, 3\]"),
    (changed("model/mean", poked(POINTS.ravel(), 4, np.nan)), "model/mean: 1 of 75 numbers are NaN or infinite"),
    (changed("model/pcaBasis", poked(SHAPE.T, (0, 0), np.inf)), "its basis: 1 of 300 numbers are NaN or infinite"),
    (changed("model/pcaVariance", poked(DEVIATION**2, 3, -1)), "must not be negative, number 3 is -1"),
    (changed("model/noiseVariance", np.float32([-0.5])), "noiseVariance must not be negative"),
    (changed("representer/cells", FACES.T + 1), "counted from 0, detected a count from 1"),
    (changed("representer/cells", poked(FACES.T, (1, 1), 99)), "from 0 to 24, got 0 to 99"),
    (changed("representer/points", np.float32(POINTS)), r"representer/points.*got the shape \[25, 3\]"),
    (changed("representer/points", np.float32(POINTS[:9].T)), "expected 25 points.*got 9"),
    (changed("representer/cells", None), "expected points and cells, found points"),
    (
        statismo(changes=dict.fromkeys(name for name in tree() if name.startswith("representer"))),
        "representer: expected a group.*found model, version",
    ),
    (changed("model/pcaVariance", None), r"root: expected model/mean.*lacks model/pcaVariance"),
    (changed("representer@datasetType", "POINT_SET"), "datasetType POLYGON_MESH.*got POINT_SET"),
    (changed("version/majorVersion", 2), "0.8, 0.9 or 1 of statismo, got 2.9"),
    (hdf5({"weights/layer": np.zeros(3)}), "is no statistical model: expected model/mean.*found weights"),
    (cut(statismo(), 0.5), "cannot be read"),
    (content(".h5", b"12345678"), "does not begin as a .h5 file does, but with b'12345678'"),
    (changed("metadata/landmarks/json", "[{}]"), "metadata/landmarks: expected three coordinates"),
    (basel(tl=FACES.astype(float)), "tl: .*counted from 1, detected a count from 0"),
    (basel(tl=None), "lacks tl; its variables: shapeEV, shapeMU, shapePC, texEV"),
    (basel(shapeEV=-DEVIATION), "shapeEV holds standard deviations"),
    (basel(texMU=GREY), "expected colours from 0 to 255, got none above"),
    (basel(shapePC=SHAPE.T * 7), "expected columns of length 1, detected neither"),
    (cut(basel(), 0.6), "cannot be read as a MATLAB file"),
    (flame(f=None), r"lacks f; its arrays: \['shapedirs', 'v_template'\]"),
    (flame(shapedirs=np.zeros((75, 6))), r"shapedirs.*\[25, 3, modes\], got \[75, 6\]"),
    (flame(v_template=np.full((25, 3), np.nan)), "v_template: 75 of 75"),
    (flame(f=FACES + 1), "detected a count from 1"),
    (flame(f=np.array([None, 1])), "(?s)holds Python objects.*numpy.savez"),
    (cut(flame(), 0.7), "cannot be read as arrays of numbers"),
    (content(".pkl", pickle.dumps({})), "(?s)can run any program.*numpy.savez"),
    (content(".npz", pickle.dumps({})), "can run any program"),
    (content(".bin", struct.pack("<I", 0)), "expected version 1, 2, 3 or 4.*got 0"),
    (content(".bin", struct.pack("<I", 5)), "expected version 1, 2, 3 or 4.*got 5"),
    (content(".bin", struct.pack("<Iii", 1, -3, 1)), r"shape_model.mean .*\[-3, 1\]"),
    (content(".bin", eos_bytes(2) + b"tail"), "4 bytes follow the model"),
    (eos(2, expression=struct.pack("<?i", False, 7)), "expected the kind 0 or 1, got 7"),
    (eos(2, expression=eos_blendshapes({"grin": np.zeros(9)})), "grin has 9 numbers, expected 75"),
    (eos(3, landmarks=eos_landmarks(nose=25)), "landmark 'nose' is vertex 25 of 25"),
    (eos(1, uv=UV[:9]), "one for each of 25 vertices, got 9"),
    (eos(4, uv_faces=FACES + 1), "texture_triangle_indices: .* do not exist, such as 25"),
    (partial(facekit, without="generic_neutral_mesh"), "expected generic_neutral_mesh.obj"),
    (partial(facekit, without="identity001"), "identity001.obj is not there"),
    (shorter_facekit, "identity002.obj has 24 vertices, the neutral mesh has 25"),
    (partial(facekit, jawOpen=np.full(SIZE, np.nan)), "jawOpen.obj: 75 of 75 numbers are NaN"),
    (content(".fbx", b"Kaydara"), "a .mat, .h5, .bin or .npz file or a folder of .obj.*got .fbx"),
    (lambda path: path.with_suffix(".h5"), "cannot be read"),
]


@pytest.mark.parametrize("make, message", BAD)
@pytest.mark.filterwarnings("error")
def test_bad_files_are_refused_by_name_and_reason(make, message, tmp_path):
    path = make(tmp_path / "model")
    with pytest.raises(MediaError, match=message) as error:
        read_model(path)
    assert str(tmp_path) in str(error.value)


def linked(kind):
    """A model of statismo whose mean lies in another file."""

    def write(path):
        statismo()(path.with_name("other"))
        other = str(path.with_name("other.h5"))
        with h5py.File(statismo()(path), "r+") as file:
            del file["model/mean"]
            if kind == "link":
                file["model/mean"] = h5py.ExternalLink(other, "model/mean")
            elif kind == "storage":
                (path.parent / "raw").write_bytes(bytes(4 * SIZE))
                space = [(str(path.parent / "raw"), 0, 4 * SIZE)]
                file["model"].create_dataset("mean", (SIZE,), "f4", external=space)
            else:
                layout = h5py.VirtualLayout((SIZE,), "f4")
                layout[:] = h5py.VirtualSource(other, "model/mean", (SIZE,))
                file["model"].create_virtual_dataset("mean", layout)
        return path.with_suffix(".h5")

    return write


def bomb(name, shape, filled=True):
    """A model of statismo with an array that unpacks to far more than the file has."""

    def write(path):
        with h5py.File(statismo(changes={name: None})(path), "r+") as file:
            data = file.create_dataset(name, shape, "f4", compression="gzip", chunks=(2**20, 1)[: len(shape)])
            if filled:
                data[: 2**20] = np.zeros((2**20, *shape[1:]), np.float32)
        return path.with_suffix(".h5")

    return write


def mat_bomb(path):
    element = struct.pack("<II", 14, 2**29) + bytes(2**28)
    packed = zlib.compress(element, 1)
    data = b"MATLAB 5.0".ljust(126) + b"IM" + struct.pack("<II", 15, len(packed)) + packed
    return content(".mat", data)(path)


def npz_bomb(path):
    header = np.lib.format.header_data_from_array_1_0(np.zeros(1)) | {"shape": (2**30,)}
    with zipfile.ZipFile(path.with_suffix(".npz"), "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("v_template", "shapedirs", "f"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, header)
                file.write(bytes(2**20))
    return path.with_suffix(".npz")


def pipe(suffix):
    def write(path):
        os.mkfifo(path.with_suffix(suffix))
        return path.with_suffix(suffix)

    return write


def piped_facekit(path):
    (facekit(path) / "identity002.obj").unlink()
    os.mkfifo(path / "identity002.obj")
    return path


HOSTILE = [
    (linked("link"), "model/mean is a link into another file, which is not followed"),
    (linked("storage"), "model/mean lies in another file, which is not opened"),
    (linked("virtual"), "model/mean lies in another file, which is not opened"),
    (bomb("model/pcaBasis", (2**28, 4)), "unpacks from"),
    (bomb("model/pcaBasis", (2**40, 4), filled=False), "unpacks from 0 to"),
    (bomb("unused", (2**40,), filled=False), "unpacks from 0 to"),
    (mat_bomb, "cannot be read as a MATLAB file"),
    (npz_bomb, "announces"),
    (content(".bin", struct.pack("<Iii", 1, 2**31 - 1, 2**31 - 1)), "is cut short or no eos model"),
    (content(".bin", eos_bytes(3, landmarks=eos_landmarks(**{"9" * 5000: 1}))[:-8]), "cut short"),
    (eos(3, landmarks=eos_landmarks(**{"9" * 5000: 1})), "cannot be read as a morphable model"),
    (changed("metadata/landmarks/json", "[" * 10**5), "cannot be read"),
    (
        statismo(changes=dict.fromkeys(LEGACY) | {"representer/reference": np.zeros(99, np.uint8)}),
        "reference cannot be read as a VTK mesh",
    ),
    (pipe(".bin"), "is no regular file"),
    (pipe(".h5"), "is no regular file"),
    (piped_facekit, "identity002.obj is not there"),
    (statismo(changes={"model/pcaVariance": np.float64(DEVIATION**2 * 1e40)}), "beyond the range of float32"),
]


@pytest.mark.parametrize("make, message", HOSTILE)
def test_hostile_models_are_refused_in_one_sentence(make, message, tmp_path):
    path = make(tmp_path / "model")
    assert message in refusal(lambda: read_model(path), str(path))


MUTATED = {
    "statismo": statismo(),
    "basel": basel(),
    "basel, packed": basel(packed=True),
    "basel, HDF5": basel_73,
    "eos": eos(4, colour=True, expression=eos_blendshapes(), landmarks=eos_landmarks(nose=2)),
    "flame": flame(),
}


def test_mutated_meshes_of_vtk_are_read_or_refused(tmp_path):
    with h5py.File(oldest(tmp_path / "model")) as file:
        content = file["representer/reference"][()].tobytes()
    counts = Counter()
    for data in mutations(content, 300):
        try:
            points, cells = _vtk("a.h5", data)
            assert points.shape[1] == cells.shape[1] == 3
            counts["read"] += 1
        except MediaError as error:
            assert "a.h5/reference cannot be read as a VTK mesh" in str(error)
            counts["refused"] += 1
    assert counts["read"] > 50 and counts["refused"] > 50


@pytest.mark.parametrize("name", MUTATED)
def test_mutated_models_are_read_or_refused(name, tmp_path):
    path = MUTATED[name](tmp_path / "model")

    def read_all():
        warnings.simplefilter("ignore")
        counts = Counter()
        for data in mutations(path.read_bytes(), 300):
            path.write_bytes(data)
            try:
                model = read_model(path, shape=4 if name == "flame" else None)
                assert all(values.isfinite().all() for values in model.state_dict().values())
                counts["read"] += 1
            except MediaError as error:
                assert str(path) in str(error) and "\n" not in str(error)
                counts["refused"] += 1
        return f"{counts['read'] > 0} {counts['refused'] > 50}"

    assert ask(read_all, seconds=60) == ("", "'True True'")


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
    data = eos_bytes(4, colour=True, expression=eos_blendshapes(), landmarks=eos_landmarks(nose=2))
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


@pytest.mark.parametrize(
    "suffix, lost", [(".h5", "attributes, no texture coordinates"), (".bin", "attributes, no noise")]
)
def test_what_a_format_does_not_hold_is_said(suffix, lost, tmp_path):
    model = toy(uv=True, noise=0.5, attributes={"smile": torch.ones(4)})
    with pytest.warns(UserWarning, match=f"model{suffix} holds no {lost}: this format"):
        write_model(model, tmp_path / f"model{suffix}")


def test_landmarks_far_from_the_mesh_are_reported(tmp_path):
    text = np.bytes_("nose 1 {} {} {}\n\0".format(*(POINTS[12] + [0, 0, 30])))
    with pytest.warns(UserWarning, match="the landmark farthest from the mesh moved by 30 to its nearest vertex"):
        assert read_model(statismo(changes={"metadata/landmarks/text": text})(tmp_path / "a")).landmarks.tolist() == [
            12
        ]


def test_eos_files_have_the_lowest_version_that_fits_and_are_right_to_the_byte(tmp_path):
    smile = {"expression": struct.pack("<?i", False, 0) + eos_pca(np.zeros(SIZE), SMILE, SMILES)}
    marks = {"landmarks": eos_landmarks(_1=1, _2=2)}
    for parts, expected in (
        ({"colour": True}, eos_bytes(1, colour=True)),
        ({"expression": True}, eos_bytes(2, **smile)),
        ({"landmarks": (1, 2)}, eos_bytes(3, **marks)),
    ):
        write_model(toy(uv=True, **parts), tmp_path / "model.bin")
        assert (tmp_path / "model.bin").read_bytes() == expected


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
            own = "itkStandardMesh" if parts == "shape" else f"gravis::Mesh{name.capitalize()}"
            assert tree["representer"].attrs["name"].decode() == f"{own}Representer"
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
    still = document["accessors"][primitive["targets"][-2]["POSITION"]]
    assert "bufferView" not in still  # a mode of colour moves nothing, and takes no room
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


def test_expressions_of_the_face_model_open_the_jaw_and_leave_the_neutral_face(shared_data):
    source = read_face_model(shared_data / "ict_facekit")
    model = from_face_model(source, 100, 20)
    torch.testing.assert_close(model.decode(torch.zeros(1, 120)).mean[0], source.mean)
    x = source.mean + 1.5 * source.identity[3] - source.identity[70]
    assert (model.reconstruct(x[None]) - x).norm(dim=2).max() < 0.05
    opened = model.edit(x[None], "jawOpen", 1.0)[0] - x
    wanted = source.expressions[source.expression_names.index("jawOpen")]
    assert (opened - wanted).norm(dim=1).mean() < 0.1 * wanted.norm(dim=1).mean()
    offsets = face_weights(source.expression_names)[:5000, 100:] @ source.expressions.flatten(1)
    assert 0.95 < model.expression_variance.sum() / offsets.square().sum(1).mean() < 1
    assert model.segments == ("eyes", "nose", "mouth", "surrounding")
    assert model.weights[2, model.face_landmarks[57]] > 0.9
