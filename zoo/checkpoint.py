"""Checkpoint folders: a configuration in JSON, weights in safetensors, and nothing that runs code when it is read."""

import difflib
import importlib
import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modalities import Modality, from_config
from modalities.files import Refused, replace_folder, write_aside
from zoo import conditions
from zoo.catalog import FAMILIES
from zoo.conditions import Classes, Condition

CONFIG, WEIGHTS = "config.json", "model.safetensors"
BEFORE_LISTS = [CONFIG, WEIGHTS, "README.md", "samples.png"]
"""The files of a checkpoint that does not list its own, as those up to version 0.1.0."""
FILE_NAME = re.compile(r"[^./\\\0][^/\\\0]*")
"""A name of a file in the folder itself, and none that is hidden."""
CONFIG_BYTES = 1_000_000
"""The largest configuration that is read."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded: the message names the file and what is wrong with it."""


def write_files(folder: Path, config: Any, tensors: Mapping[str, Tensor]) -> None:
    """Write both files aside and rename them: a kill or a full disk leaves those that were there before."""
    with write_aside(folder / WEIGHTS) as part:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    write_config(folder, config)


def write_config(folder: Path, config: Any) -> None:
    """Write the configuration of a checkpoint folder aside and rename it."""
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
            write_config(part, read_config(part) | {"files": sorted(path.name for path in part.iterdir())})
    except Refused as error:
        raise CheckpointError(str(error)) from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{Path(folder).resolve()} cannot be written: {error}") from error


def listed_files(config: Mapping[str, Any]) -> list[str]:
    """The names of the files of a checkpoint, config.json first, as its configuration lists them."""
    names = config.get("files", BEFORE_LISTS)
    if not isinstance(names, list) or not all(isinstance(name, str) and FILE_NAME.fullmatch(name) for name in names):
        raise CheckpointError(f'"files" in {CONFIG} must be a list of names of files, got {names!r}')
    return [CONFIG, *(name for name in names if name != CONFIG)]


def _ours(folder: Path) -> list[str]:
    """The files of a checkpoint folder; none where there is no configuration of this package."""
    try:
        config = read_config(folder)
        _check_fields(config)
        return listed_files(config)
    except CheckpointError:
        return []


def in_main_process(name: str, work: Callable[[], str]) -> str:
    """Do something in one process of those of torch.distributed, and give its result to all that ask for it.

    The others wait, and raise `CheckpointError` where it failed. The main process waits for nobody, so that it may also
    be the only one to ask. Without torch.distributed, and in one process, this is `work()`.

    Arguments:
        name: of what is done, the same in every process.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return work()
    store = distributed.distributed_c10d._get_default_store()
    _times[name] += 1
    key = f"latent-zoo/{name}/{_times[name]}"
    if distributed.get_rank() > 0:
        answer = json.loads(store.get(key))  # waits
        if "error" in answer:
            raise CheckpointError(f"the main process could not do it: {answer['error']}")
        return answer["result"]
    try:
        result = work()
    except BaseException as error:
        store.set(key, json.dumps({"error": str(error) or type(error).__name__}))
        raise
    store.set(key, json.dumps({"result": result}))
    return result


_times: Counter[str] = Counter()
"""How often each name was asked for in this process."""


def family_name(cls: type) -> str:
    """The catalogue's name of a class, or "module:Class" for one that the catalogue does not have."""
    qualified = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for name, target in FAMILIES.items() if target == qualified), qualified)


def family_class(name: Any) -> type:
    """The class of a family of the catalogue; `CheckpointError` for any other name, which is never imported."""
    if not isinstance(name, str) or name not in FAMILIES:
        near = difflib.get_close_matches(str(name), FAMILIES, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; this version knows {', '.join(sorted(FAMILIES))}"
        raise CheckpointError(f"unknown family {name!r}{hint}")
    module, qualified = FAMILIES[name].split(":")
    return getattr(importlib.import_module(module), qualified)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a checkpoint folder."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} is no checkpoint: it has no {CONFIG}")
    if path.stat().st_size > CONFIG_BYTES:
        raise CheckpointError(f"{path} has more than {CONFIG_BYTES:,} bytes, and no configuration needs so many")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} must hold an object, got {type(config).__name__}")
    return config


def build(config: Mapping[str, Any], expected: type | None = None) -> Any:
    """A new model from a configuration, its weights fresh.

    `expected` is the class whose `from_pretrained` was called. Only it and the catalogue's families are constructed.
    """
    _check_fields(config)
    named = expected is not None and config["family"] == family_name(expected)
    cls = expected if named else family_class(config["family"])
    if expected is not None and not issubclass(cls, expected):  # type: ignore[arg-type]
        raise CheckpointError(f"the checkpoint holds the family {config['family']!r}, not a {expected.__name__}")
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    arguments = dict(config["arguments"])
    if "classes" in arguments and "classes" not in parameters:  # version 0.1.0
        classes = arguments.pop("classes")
        arguments["condition"] = None if classes is None else {"condition": Classes.numbered(classes).config()}
    extra = set(arguments) - set(parameters)
    if extra:
        raise CheckpointError(f"{config['family']} takes no argument {', '.join(sorted(extra))}")
    try:
        return cls(**{name: _decode(value) for name, value in arguments.items()})  # type: ignore[misc]
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the arguments in {CONFIG} do not build a {config['family']}: {error}") from error


def _check_fields(config: Mapping[str, Any]) -> None:
    """Refuse a configuration that is none of this package."""
    unknown = set(config) - {"family", "arguments", "version", "files"}
    if unknown or "family" not in config or not isinstance(config.get("arguments"), dict):
        problem = f"unknown fields {sorted(unknown)}" if unknown else "family or arguments are missing"
        raise CheckpointError(f"{CONFIG} is not one of this package: {problem}")


def load_weights(wanted: Mapping[str, Tensor], path: Path) -> None:
    """Copy a safetensors file into a model's tensors; missing, unexpected and wrongly shaped tensors are errors."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; weights are read from safetensors only, never from a pickle")
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is no readable safetensors file (truncated or of another format): {error}"
        ) from error
    problems = [f"missing {name}" for name in wanted.keys() - found.keys()]
    problems += [f"unexpected {name}" for name in found.keys() - wanted.keys()]
    problems += [
        f"{name} has shape {list(found[name].shape)}, expected {list(wanted[name].shape)}"
        for name in wanted.keys() & found.keys()
        if found[name].shape != wanted[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"{path} does not fit its {CONFIG}: {'; '.join(sorted(problems)[:5])}{more}")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(found[name])


def encode(name: str, value: Any) -> Any:
    """The JSON form of a constructor argument."""
    if isinstance(value, Modality):
        return {"modality": value.config()}
    if isinstance(value, Condition):
        return {"condition": value.config()}
    if getattr(value, "_hub_mixin_config", None) is not None:
        return {"model": value._hub_mixin_config}
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is part of the configuration and must be a JSON value, got {value!r}") from error


def _decode(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"modality"}:
        return from_config(value["modality"])
    if isinstance(value, dict) and set(value) == {"condition"}:
        return conditions.from_config(value["condition"])
    if isinstance(value, dict) and set(value) == {"model"}:
        return build(value["model"])
    return value
