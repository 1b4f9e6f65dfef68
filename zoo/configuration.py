"""What a model was made of, as JSON: its family and the arguments of its constructor, with media and models among them.

    config, arrays = describe(model)    # arrays: the tensors of its media
    again = build(config, arrays)       # with fresh weights

A configuration names no code to run: only families of the catalogue, and those that the program registered, are built.
"""

import difflib
import functools
import importlib
import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypedDict, TypeGuard, cast

import numpy
import torch
from torch import Tensor, nn

from modalities import Modality, from_config
from modalities.fields import check_types
from zoo import __version__, conditions
from zoo.catalog import FAMILIES, OWN
from zoo.conditions import Classes, Condition

if TYPE_CHECKING:
    from zoo.model import GenerativeModel

CONFIG = "config.json"
ARRAYS = "arguments"
"""What the names of the media's tensors begin with; no parameter's does."""
CODECS: dict[str, type[Modality] | type[Condition]] = {"modality": Modality, "condition": Condition}
"""What an argument may be besides JSON values and models: the key it stands under, and its class, with a `config`."""
MOST_CLASSES = 10**5

Arguments = dict[str, object]


class Config(TypedDict, total=False):
    """What config.json holds; all but the first two may be missing."""

    family: str
    arguments: Arguments
    medium: str
    version: str
    files: list[str]


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded or written: the message names the file and what is wrong with it."""


class ComputesWithValues(Exception):
    """A program's own constructor that needs the values of its tensors."""


def family_name(cls: type) -> str:
    """The catalogue's name of a class, or the one it was registered by, else "module:Class"."""
    qualified = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for name, known in [*FAMILIES.items(), *OWN.items()] if known in (qualified, cls)), qualified)


def family_class(name: object) -> "type[GenerativeModel]":
    """The class of a family of the catalogue, or of one that this program registered.

    Raises `CheckpointError` for any other name, which is never imported.
    """
    if isinstance(name, str) and name in OWN:
        return OWN[name]
    if not isinstance(name, str) or name not in FAMILIES:
        near = difflib.get_close_matches(str(name), [*FAMILIES, *OWN], n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; this version knows {', '.join(sorted(FAMILIES))}"
        raise CheckpointError(f"unknown family {name!r:.60}{hint}; `zoo.register` adds a program's own")
    module, qualified = FAMILIES[name].split(":")
    return getattr(importlib.import_module(module), qualified)


def record_arguments(cls: type) -> None:
    """Have the constructor of a class note its arguments: they are the configuration of the model.

    They are JSON values, media, conditions and models, or lists and dictionaries of them; numbers of NumPy become plain
    ones. The constructor raises TypeError for anything else.
    """
    init = cls.__dict__.get("__init__")
    if init is None:
        return
    signature = inspect.signature(init)

    @functools.wraps(init)
    def noting(self: nn.Module, *args: object, **kwargs: object) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        _, *given = bound.arguments.items()
        arguments = {name: _plain(name, value) for name, value in given}
        if cls.__module__.startswith("zoo."):  # a program's own may say less than it takes
            check_types(init, arguments)
        # A subclass notes its own before it calls its parent's constructor.
        self.__dict__.setdefault("_arguments", arguments)
        init(self, *args, **kwargs)

    type.__setattr__(cls, "__init__", noting)


def _plain(name: str, value: object) -> object:
    if value is None or isinstance(value, (str, bool, int, float, *CODECS.values())) or is_model(value):
        return value
    if isinstance(value, numpy.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(name, item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(name, item) for key, item in value.items()}
    raise TypeError(f"{name} is part of the configuration and must be a JSON value, got {value!r:.80}")


def is_model(value: object) -> "TypeGuard[GenerativeModel]":
    """Whether a value is a model that noted its constructor's arguments."""
    return isinstance(value, nn.Module) and hasattr(value, "_arguments")


def describe(model: "GenerativeModel") -> tuple[Config, dict[str, Tensor]]:
    """The configuration of a model, and the tensors of its media under names that begin with "arguments/"."""
    arrays: dict[str, Tensor] = {}
    arguments = {name: _encode(value, f"{ARRAYS}/{name}", arrays) for name, value in model._arguments.items()}
    family = family_name(type(model))
    return Config(family=family, medium=model.modality.kind, version=__version__, arguments=arguments), arrays


def _encode(value: object, place: str, arrays: dict[str, Tensor]) -> object:
    if isinstance(value, Modality):
        arrays |= {f"{place}/{name}": tensor for name, tensor in value.arrays().items()}
    for name, kind in CODECS.items():
        if isinstance(value, kind):
            return {name: value.config()}
    if is_model(value):
        return {"model": {"family": family_name(type(value)), "arguments": _encode(value._arguments, place, arrays)}}
    if isinstance(value, list):
        return [_encode(item, f"{place}/{index}", arrays) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {name: _encode(item, f"{place}/{name}", arrays) for name, item in value.items()}
    return value


def check_fields(config: object) -> Config:
    """The configuration itself. Raises `CheckpointError` for what is none of this package."""
    if not isinstance(config, dict) or "family" not in config or not isinstance(config.get("arguments"), dict):
        raise CheckpointError(f"{CONFIG} is not one of this package: family or arguments are missing")
    unknown = config.keys() - Config.__annotations__.keys()
    if unknown:
        raise CheckpointError(f"{CONFIG} is not one of this package: unknown fields {sorted(unknown)}")
    return cast(Config, config)


def upgrade(config: Mapping[str, object]) -> dict[str, str]:
    """Bring the arguments of an earlier version up to date, in place, by the `upgrade` of the family, if it has one.

    Returns the names in the file of tensors that belong to a medium since then, and the names that they have now.
    """
    known = check_fields(config)
    change = getattr(family_class(known["family"]), "upgrade", None)
    return {} if change is None else change(known["arguments"])


def build(
    config: Mapping[str, object], arrays: Mapping[str, Tensor] | None = None, *, device: str | None = None
) -> "GenerativeModel":
    """A new model from a configuration and the tensors of its media, its weights fresh.

    Only classes of the catalogue and those that this program registered are constructed. On the device "meta" no weight
    takes memory. Raises `CheckpointError` where the configuration is none of this package or does not fit.
    """
    left = dict(arrays or {})
    model = _build(config, ARRAYS, left, device)
    if left:
        raise CheckpointError(f"the weights have {', '.join(sorted(left))}, which belongs to no medium of {CONFIG}")
    return model


def _build(described: object, place: str, arrays: dict[str, Tensor], device: str | None) -> "GenerativeModel":
    config = check_fields(described)
    family = config["family"]
    cls = family_class(family)
    signature = inspect.signature(cls.__init__)
    try:
        arguments = {k: _decode(v, f"{place}/{k}", arrays, device) for k, v in config["arguments"].items()}
        if "classes" in arguments and "condition" in signature.parameters.keys() - {"classes"}:
            arguments["condition"] = _numbered(arguments.pop("classes"))
        unknown = arguments.keys() - signature.parameters.keys()
        if unknown:
            raise CheckpointError(f"{family} takes no argument {', '.join(sorted(unknown))}")
        if family not in OWN:
            check_types(cls.__init__, arguments)
        bound = inspect.BoundArguments(signature, {next(iter(signature.parameters)): None} | arguments)
        with torch.device(device) if device else nullcontext():
            return cls(*bound.args[1:], **bound.kwargs)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a constructor makes of values that nobody has checked
        if device == "meta" and family in OWN:
            raise ComputesWithValues from error
        raise CheckpointError(f"the arguments in {CONFIG} do not build a {family}: {error}") from error


def _numbered(count: object) -> Classes | None:
    """The condition of a model of version 0.1.0, which told the number of its classes alone."""
    if count is None:
        return None
    if not isinstance(count, int) or count > MOST_CLASSES:
        raise ValueError(f"expected at most {MOST_CLASSES:,} classes, got {count!r:.60}")
    return Classes.numbered(count)


def _decode(value: object, place: str, arrays: dict[str, Tensor], device: str | None) -> object:
    if isinstance(value, list):
        return [_decode(item, f"{place}/{index}", arrays, device) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    match list(value.items()):
        case [("modality", fields)]:
            own = [name for name in arrays if name.rpartition("/")[0] == place]
            return from_config(fields, {name.rpartition("/")[2]: arrays.pop(name) for name in own})
        case [("condition", fields)]:
            return conditions.from_config(fields)
        case [("model", config)]:
            return _build(config, place, arrays, device)
    return {name: _decode(item, f"{place}/{name}", arrays, device) for name, item in value.items()}
