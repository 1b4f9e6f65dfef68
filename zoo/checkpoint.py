"""Checkpoint folders: a configuration in JSON, weights in safetensors, and nothing that runs code when it is read."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from modalities.files import Refused, replace_folder, write_aside
from zoo.configuration import (
    ARRAYS,
    CONFIG,
    CheckpointError,
    ComputesWithValues,
    build,
    check_fields,
    describe,
    is_model,
    upgrade,
)

if TYPE_CHECKING:
    from zoo.model import GenerativeModel

WEIGHTS = "model.safetensors"
BEFORE_LISTS = [CONFIG, WEIGHTS, "README.md", "samples.png"]
"""The files of a checkpoint that does not list its own, as those of version 0.1.0."""
FILE_NAME = re.compile(r"[^./\\\0][^/\\\0]*")
"""A name of a file in the folder itself, and none that is hidden."""
CONFIG_BYTES = 1_000_000
"""The largest configuration that is read."""
SPARE_NUMBERS, SPARE_MODULES = 10**8, 1000
"""How much of a model may not be in its file: what is computed, or belongs to other players of its training."""


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a checkpoint folder."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} is no checkpoint: it has no {CONFIG}")
    if path.stat().st_size > CONFIG_BYTES:
        raise CheckpointError(f"{path} has more than {CONFIG_BYTES:,} bytes, and no configuration needs so many")
    try:
        config = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_infinity)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} must hold an object, got {type(config).__name__}")
    return config


def _refuse_infinity(name: str) -> None:
    raise ValueError(f"it has no number {name}")


def read(folder: Path) -> "GenerativeModel":
    """The model of a checkpoint folder.

    What the configuration describes is compared with the file before anything of its size is made. Raises
    `CheckpointError` for whatever is damaged, unknown, or does not fit.
    """
    config = read_config(folder)
    path = folder / WEIGHTS
    moved = upgrade(config)
    with _opened(path) as stored:
        names = {name: moved.get(name, name) for name in stored.keys()}
        arrays = {new: stored.get_tensor(old) for old, new in names.items() if new.startswith(f"{ARRAYS}/")}
        for name, tensor in arrays.items():
            _check_finite(name, tensor, path)
        with _few_modules(len(stored.keys()), path), suppress(ComputesWithValues):
            sketch = build(config, arrays, device="meta")
            _compare(_wanted(sketch, stored), stored, path, moved)
            numbers = sum(tensor.numel() for tensor in [*sketch.parameters(), *sketch.buffers()])
            if numbers > SPARE_NUMBERS + 10 * path.stat().st_size:
                raise CheckpointError(f"{folder / CONFIG} describes {numbers:,} numbers, far more than {path} holds")
        model = build(config, arrays)
        _compare(wanted := _wanted(model, stored), stored, path, moved)
        _fill(wanted, stored, path)
    for name, module in model.named_modules():
        try:
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                check_not_negative(running_var=module.running_var)
            if hasattr(module, "check_weights"):
                module.check_weights()
        except ValueError as error:
            raise CheckpointError(f"{path} holds no sound weights: {f'{name}: ' if name else ''}{error}") from error
    return model


def _wanted(model: "GenerativeModel", stored: safe_open) -> dict[str, Tensor]:
    """The tensors of a model, by the names that they have in a file, which may be those of an earlier version.

    A module that was renamed stands in `former_names` of the module that has it: its name, and what it was.
    """
    wanted, names = dict(model.checkpoint()), set(stored.keys())
    for path, module in model.named_modules():
        for name, former in getattr(module, "former_names", {}).items():
            now, then = (f"{path}.{part}.".removeprefix(".") for part in (name, former))
            old = {key: then + key.removeprefix(now) for key in wanted.keys() - names if key.startswith(now)}
            wanted = {old[key] if old.get(key) in names else key: tensor for key, tensor in wanted.items()}
    return wanted


def load_weights(wanted: Mapping[str, Tensor], path: Path) -> None:
    """Copy a safetensors file into tensors; missing, unexpected, wrongly shaped and infinite ones are errors."""
    with _opened(path) as stored:
        _compare(wanted, stored, path)
        _fill(wanted, stored, path)


def check_not_negative(**tensors: Tensor | None) -> None:
    """Raise ValueError for a variance, a deviation or a weight below 0."""
    for name, tensor in tensors.items():
        if tensor is not None and (tensor < 0).any():
            raise ValueError(f"{name} is {tensor.min():.4g} somewhere, and cannot be below 0")


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    """An open safetensors file; the library checks that the sizes in its header are those of the file."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; weights are read from safetensors only, never from a pickle")
    try:
        with safe_open(path, "pt") as stored:
            yield stored
    except (SafetensorError, OSError, RuntimeError) as error:  # the last where it has gone in the meantime
        raise CheckpointError(
            f"{path} is no readable safetensors file (truncated or of another format): {error}"
        ) from error


@contextmanager
def _few_modules(tensors: int, path: Path) -> Iterator[None]:
    """Inside, a constructor that makes far more modules than a file with so many tensors can be of is stopped."""
    left = SPARE_MODULES + 10 * tensors

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise CheckpointError(f"{path.parent / CONFIG} describes far more modules than {path} has tensors for")

    kinds = ("module", "parameter", "buffer")
    hooks = [getattr(nn.modules.module, f"register_module_{kind}_registration_hook")(count) for kind in kinds]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _compare(wanted: Mapping[str, Tensor], stored: safe_open, path: Path, media: Collection[str] = ()) -> None:
    """Refuse a file whose names and shapes are others, by its header alone; `media` are names of media's tensors."""
    names = [name for name in stored.keys() if not name.startswith(f"{ARRAYS}/") and name not in media]
    shapes = {name: stored.get_slice(name).get_shape() for name in names}
    problems = [f"missing {name}" for name in wanted.keys() - shapes.keys()]
    problems += [f"unexpected {name}" for name in shapes.keys() - wanted.keys()]
    problems += [
        f"{name} has shape {shapes[name]}, expected {list(wanted[name].shape)}"
        for name in wanted.keys() & shapes.keys()
        if shapes[name] != list(wanted[name].shape)
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"{path} does not fit its {CONFIG}: {'; '.join(sorted(problems)[:5])}{more}")


def _fill(wanted: Mapping[str, Tensor], stored: safe_open, path: Path) -> None:
    """Copy a file into tensors. Floating-point numbers may have another precision there, others must be of one type."""
    with torch.no_grad():
        for name, tensor in wanted.items():
            found = stored.get_tensor(name)
            if found.dtype != tensor.dtype and not (found.is_floating_point() and tensor.is_floating_point()):
                raise CheckpointError(f"{path}: {name} holds {found.dtype}, expected {tensor.dtype}")
            tensor.copy_(found)
            _check_finite(name, tensor, path)


def _check_finite(name: str, tensor: Tensor, path: Path) -> None:
    # The sum is many times faster, and a finite one has finite terms.
    if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
        raise CheckpointError(f"{path}: {name} holds NaN or infinite values")


def write(folder: Path, model: object, *, half: bool = False) -> None:
    """Write the configuration and the weights of a model into a folder; see `zoo.save` for `half`."""
    if not is_model(model):
        raise CheckpointError(f"a checkpoint is of a GenerativeModel, got {type(model).__name__}")
    config, arrays = describe(model)
    try:
        size = len(json.dumps(config, allow_nan=False))
    except ValueError as error:
        raise CheckpointError(f"an argument of this {type(model).__name__} is no number of JSON: {error}") from error
    if size > CONFIG_BYTES // 2:  # with indents it is longer
        raise CheckpointError(f"the arguments of this {type(model).__name__} take over {CONFIG_BYTES // 2:,} bytes")
    write_files(folder, config, (_halved(model) if half else model.checkpoint()) | arrays)


def _halved(model: "GenerativeModel") -> dict[str, Tensor]:
    """The weights in float16, but for what a module keeps `precise`."""
    precise = {
        f"{path}.{name}".removeprefix(".")
        for path, module in model.named_modules()
        for name in getattr(module, "precise", ())
    }
    tensors = dict(model.checkpoint())
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and name not in precise:
            tensors[name] = tensor.half()
            check_held(name, tensor, tensors[name], "save without half precision")
    return tensors


def check_held(name: str, tensor: Tensor, rounded: Tensor, advice: str) -> None:
    """Raise `CheckpointError` where a shorter floating-point type does not hold a tensor's numbers."""
    kind = str(rounded.dtype).removeprefix("torch.")
    if not torch.isfinite(rounded).all():
        raise CheckpointError(f"{name} has values beyond {kind}'s {torch.finfo(rounded.dtype).max:,.5g}; {advice}")
    if (rounded.double() - tensor).norm() > 0.01 * tensor.double().norm():
        raise CheckpointError(f"{name} has values too small for {kind}; {advice}")


def write_files(folder: Path, config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
    """Write both files aside and rename them: a kill or a full disk leaves those that were there before."""
    with write_aside(folder / WEIGHTS) as part:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    _write_config(folder, config)


def _write_config(folder: Path, config: Mapping[str, object]) -> None:
    with write_aside(folder / CONFIG) as part:
        part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@contextmanager
def replace(folder: Path) -> Iterator[Path]:
    """An empty folder to write a checkpoint into, which takes the place of `folder` when all is written.

    It is written down in its configuration which files it holds. See `modalities.files.replace_folder`: what is no
    checkpoint, or holds a file that is not listed, is refused with `CheckpointError`.
    """
    try:
        with replace_folder(folder, _ours) as part:
            yield part
            _write_config(part, read_config(part) | {"files": sorted(path.name for path in part.iterdir())})
    except Refused as error:
        raise CheckpointError(str(error)) from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{Path(folder).resolve()} cannot be written: {error}") from error


def listed_files(config: Mapping[str, object]) -> list[str]:
    """The names of the files of a checkpoint, config.json first, as its configuration lists them."""
    names = config.get("files", BEFORE_LISTS)
    if not isinstance(names, list) or not all(isinstance(name, str) and FILE_NAME.fullmatch(name) for name in names):
        raise CheckpointError(f'"files" in {CONFIG} must be a list of names of files, got {names!r:.80}')
    return [CONFIG, *(name for name in names if name != CONFIG)]


def _ours(folder: Path) -> list[str]:
    """The files of a checkpoint folder; none where there is no configuration of this package."""
    try:
        config = read_config(folder)
        check_fields(config)
        return listed_files(config)
    except CheckpointError:
        return []
