"""Morphable models in files of others: Basel, statismo, eos, FLAME and ICT FaceKit in; statismo, eos and GLB out."""

import warnings
from collections.abc import Callable
from pathlib import Path

from modalities import MediaError
from modalities.files import write_aside
from zoo.morphable.formats.basel import read_basel
from zoo.morphable.formats.eos import read_eos, write_eos
from zoo.morphable.formats.flame import read_flame, refuse_pickle
from zoo.morphable.formats.gltf import write_glb
from zoo.morphable.formats.ict import read_ict
from zoo.morphable.formats.parts import UNITS, Unit
from zoo.morphable.formats.statismo import read_statismo, write_statismo
from zoo.morphable.model import MorphableModel

READABLE = "a .mat, .h5, .bin or .npz file or a folder of .obj files"
BEGINNINGS: dict[bytes, tuple[str, Callable[[Path, Unit | None], MorphableModel]]] = {
    b"MATLAB": (".mat", read_basel),
    b"\x89HDF\r\n\x1a\n": (".h5", read_statismo),
    b"PK\x03\x04": (".npz", read_flame),
    b"\x80": (".pkl", refuse_pickle),
}
"""The first bytes of a file, its usual suffix and its reader. eos files begin with a number alone."""

WRITERS: dict[str, Callable[[MorphableModel, Path], None]] = {
    ".h5": write_statismo,
    ".bin": write_eos,
    ".glb": write_glb,
}
LOST = {".h5": ("segments", "attributes", "texture coordinates"), ".bin": ("segments", "attributes", "noise")}
"""What a format of models has no place for."""


def read_model(path: str | Path, unit: Unit | None = None, *, shape: int | None = None) -> MorphableModel:
    """Read a morphable model of others; lengths become millimetres.

    | file | what | lengths are in |
    | --- | --- | --- |
    | .mat | Basel Face Model 2009, `01_MorphableModel.mat` | micrometres |
    | .h5 | Basel Face Model 2017 and 2019, any mesh model of statismo or scalismo | what it says, else millimetres |
    | .bin | eos, versions 1 to 4, such as the Surrey Face Model | millimetres |
    | .npz | FLAME: modes of shape, then of expression, and no pose | metres |
    | folder | ICT FaceKit: `generic_neutral_mesh.obj`, `identity000.obj`, ... and expressions | centimetres |

    Modes stay in the file's order, one coefficient of N(0, 1) each, so that coefficients mean what they mean elsewhere.
    Only modes that are not orthogonal to each other are replaced by principal axes that span the same shapes, with a
    warning. Expressions that are blendshapes with a weight in [0, 1], as in ICT FaceKit and some eos files, become the
    principal axes of all of them about the neutral face; each is an attribute of the model, by its name: the step in z
    of weight 1.

    Nothing is ever unpickled.

    Arguments:
        path: a file, whose first bytes tell its format, or a folder.
        unit: "um", "mm", "cm", "m" or "in", where the file's lengths are in another unit than in the table.
        shape: how many columns of a FLAME file are modes of shape. A whole file has 300, and 100 of expression after
            them; one that was cut does not say it.

    Raises `MediaError` that names the file and what is wrong: a format or layout that is not known, arrays that do not
    fit together, NaN, vertices that do not exist, negative variances, columns of a basis that are neither of length 1
    nor of a standard deviation, a file cut short, a pickle.
    """
    path = Path(path).expanduser()
    if unit is not None and unit not in UNITS:
        raise ValueError(f"unit is one of {', '.join(UNITS)}, got {unit!r}")
    if path.exists() and not path.is_dir() and not path.is_file():
        raise MediaError(f"{path} is no regular file")
    try:
        reader = _reader(path)
        if shape is not None and reader is not read_flame:
            raise MediaError(f"{path}: shape= is for FLAME; this file says itself what its modes are")
        return read_flame(path, unit, shape) if reader is read_flame else reader(path, unit)
    except MediaError as error:
        raise MediaError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    # The readers below fail in many ways on broken files.
    except Exception as error:
        raise MediaError(f"{path} cannot be read as a morphable model: {error!r}") from error


def _reader(path: Path) -> Callable[[Path, Unit | None], MorphableModel]:
    suffix = path.suffix.lower()
    if path.is_dir():
        return read_ict
    if suffix in (".pkl", ".pickle"):
        return refuse_pickle
    with path.open("rb") as file:
        beginning = file.read(8)
    for first, (_, reader) in BEGINNINGS.items():
        if beginning.startswith(first) and suffix != ".bin":
            return reader
    if suffix == ".bin":
        return read_eos
    if suffix in {usual for usual, _ in BEGINNINGS.values()} | {".hdf5"}:
        raise MediaError(f"{path} does not begin as a {suffix} file does, but with {beginning!r}")
    raise MediaError(f"{path}: a morphable model is {READABLE}, got {suffix or 'no suffix'}")


def write_model(model: MorphableModel, path: str | Path) -> None:
    """Write a morphable model for other programs; the suffix picks the format.

    - .h5: statismo 0.9, as scalismo reads it, in millimetres. A model of shape alone stands at the root; with colours
      or expressions the parts stand in shape/, color/ and expression/, as in the Basel Face Model.
    - .bin: eos, in millimetres; version 1, with expressions 2, with landmarks 3.
    - .glb: the mean with a morph target for every mode, moved by one standard deviation, and for every attribute, for
      any web viewer; metres. Landmarks and the noise are not in it.

    Segments are in none of them, attributes in .glb alone; a warning says what .h5 and .bin leave out. A file that is
    there is replaced when the new one is complete.
    """
    path = Path(path).expanduser()
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise MediaError(f"{path}: morphable models are written to {', '.join(WRITERS)}, got {path.suffix!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_aside(path) as part:
        writer(model, part)
    held = {"segments": len(model.segments), "attributes": len(model.attributes), "noise": float(model.noise)}
    if model.modality.uv is not None:
        held["texture coordinates"] = 1
    lost = [name for name in LOST.get(path.suffix.lower(), ()) if held.get(name)]
    if lost:
        warnings.warn(f"{path} holds no {', no '.join(lost)}: this format has no place for them", stacklevel=2)
