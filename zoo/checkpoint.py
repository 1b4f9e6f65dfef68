"""Checkpoint folders: a configuration in JSON, weights in safetensors, and nothing that runs code when it is read."""

import difflib
import importlib
import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modalities import Modality, from_config
from zoo.catalog import FAMILIES

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded: the message names the file and what is wrong with it."""


def write_files(folder: Path, config: Any, tensors: Mapping[str, Tensor]) -> None:
    """Write both files aside and rename them: a kill or a full disk leaves those that were there before."""
    for name, write in {
        WEIGHTS: lambda path: save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path),
        CONFIG: lambda path: path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8"),
    }.items():
        part = folder / f".{name}.part"
        try:
            write(part)
            os.replace(part, folder / name)
        finally:
            part.unlink(missing_ok=True)


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
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} must hold an object, got {type(config).__name__}")
    return config


def build(config: Mapping[str, Any], expected: type | None = None) -> Any:
    """A new model from a configuration, its weights fresh.

    `expected` is the class whose `from_pretrained` was called. Only it and the catalogue's families are constructed.
    """
    unknown = set(config) - {"family", "arguments", "version"}
    if unknown or "family" not in config or not isinstance(config.get("arguments"), dict):
        problem = f"unknown fields {sorted(unknown)}" if unknown else "family or arguments are missing"
        raise CheckpointError(f"{CONFIG} is not one of this package: {problem}")
    named = expected is not None and config["family"] == family_name(expected)
    cls = expected if named else family_class(config["family"])
    if expected is not None and not issubclass(cls, expected):  # type: ignore[arg-type]
        raise CheckpointError(f"the checkpoint holds the family {config['family']!r}, not a {expected.__name__}")
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    extra = set(config["arguments"]) - set(parameters)
    if extra:
        raise CheckpointError(f"{config['family']} takes no argument {', '.join(sorted(extra))}")
    try:
        return cls(**{name: _decode(value) for name, value in config["arguments"].items()})  # type: ignore[misc]
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the arguments in {CONFIG} do not build a {config['family']}: {error}") from error


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
    if getattr(value, "_hub_mixin_config", None) is not None:
        return {"model": value._hub_mixin_config}
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is part of the configuration and must be a JSON value, got {value!r}") from error


def _decode(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"modality"}:
        return from_config(value["modality"])
    if isinstance(value, dict) and set(value) == {"model"}:
        return build(value["model"])
    return value
