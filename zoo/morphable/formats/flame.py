"""FLAME: shape and expression of heads, without its joints.

Source: Li, Bolkart, Black, Li, Romero, "Learning a model of facial shape and expression from 4D scans", 2017.
"""

import warnings
from pathlib import Path
from typing import NoReturn

from modalities import MediaError
from modalities.arrays import npz_names, read_npz
from zoo.morphable.formats.parts import Unit, build, finite, principal, triangles
from zoo.morphable.model import MorphableModel

SHAPE, EXPRESSION = 300, 100
"""How many modes of shape stand before those of expression in a whole file."""
ARRAYS = ("v_template", "shapedirs", "f")
POSE = ("J_regressor", "kintree_table", "posedirs", "weights")

HOW_TO_CONVERT = """\
a pickle can run any program when it is read, so it is never read here. Convert it where you trust it (old files need \
the package chumpy):
    import pickle, numpy
    m = pickle.load(open("generic_model.pkl", "rb"), encoding="latin1")
    numpy.savez("generic_model.npz", **{k: numpy.asarray(m[k]) for k in ("v_template", "shapedirs", "f")})"""


def refuse_pickle(path: Path, unit: Unit | None = None) -> NoReturn:
    """Raise `MediaError` that says how to convert the file."""
    raise MediaError(f"{path}: {HOW_TO_CONVERT}")


def read_flame(path: Path, unit: Unit | None = None, shape: int | None = None) -> MorphableModel:
    """Read v_template [V, 3], shapedirs [V, 3, k] and f [F, 3] of an .npz archive, in metres unless `unit` says else.

    The first `shape` modes are shape, the others expression, each scaled by its standard deviation. A whole file has
    300 and 100, one of shape alone 300; others do not say where expression begins. The joints of neck, jaw and eyes are
    left out with a warning.
    """
    try:
        found = set(npz_names(path))
        arrays = read_npz(path, *ARRAYS)
    except MediaError as error:
        if "Python objects" in str(error):
            raise MediaError(f"{path} holds Python objects in place of arrays; {HOW_TO_CONVERT}") from error
        raise
    missing = sorted(set(ARRAYS) - set(arrays))
    if missing:
        raise MediaError(f"{path} is no FLAME model: it lacks {', '.join(missing)}; its arrays: {sorted(found)[:20]}")
    template, offsets, faces = (arrays[name] for name in ARRAYS)
    if template.ndim != 2 or template.shape[1] != 3:
        raise MediaError(f"{path}: v_template: expected the shape [vertices, 3], got {list(template.shape)}")
    if offsets.ndim != 3 or offsets.shape[:2] != template.shape:
        expected = f"[{len(template)}, 3, modes]"
        raise MediaError(f"{path}: shapedirs: expected the shape {expected}, got {list(offsets.shape)}")
    mean = finite(f"{path}: v_template", template).ravel()
    columns = finite(f"{path}: shapedirs", offsets).reshape(len(mean), -1).T
    faces = triangles(f"{path}: f", faces, len(template))
    if shape is None and len(columns) not in (SHAPE, SHAPE + EXPRESSION):
        raise MediaError(
            f"{path}: expected {SHAPE} modes of shape and {EXPRESSION} of expression, got {len(columns)} in all; say "
            "how many of them are shape: read_model(path, shape=...)"
        )
    shape = SHAPE if shape is None else shape
    if not 0 < shape <= len(columns):
        raise MediaError(f"{path}: shape is a number from 1 to its {len(columns)} modes, got {shape}")
    if found & set(POSE):
        warnings.warn(
            f"{path}: pose is not modelled: {', '.join(sorted(found & set(POSE)))} are left out, and the head is as in "
            "the template",
            stacklevel=3,
        )
    return build(
        path,
        unit or "m",
        faces,
        mean,
        principal(f"{path}: shapedirs", columns[:shape]),
        principal(f"{path}: shapedirs", columns[shape:]) if len(columns) > shape else None,
    )
