"""The arguments of a function or a constructor as a dataclass, whose fields are flags of a command line."""

import dataclasses
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, Union, get_args, get_origin

PLAIN = (int, float, str, bool, type(None))


def settings(function: Callable[..., object], *fixed: str, **defaults: object) -> type:
    """The arguments of a family's or a medium's constructor as a dataclass whose fields are flags, but for medium,
    condition, and those that are `fixed`: the program gives them itself.

    `defaults` stand in the place of the constructor's own; `--help` shows what the class's docstring says of each.
    """
    signature = inspect.signature(function)
    fields, required = [], False
    for name, parameter in signature.parameters.items():
        if name not in ("modality", "condition", *fixed):
            default = defaults.pop(name, parameter.default)
            required |= default is inspect.Parameter.empty
            field = dataclasses.field() if default is inspect.Parameter.empty else dataclasses.field(default=default)
            fields.append((name, parameter.annotation, field))
    if defaults:
        raise TypeError(f"{function.__name__} has no arguments {', '.join(defaults)}")
    options: Any = {"frozen": True, "kw_only": required, "namespace": {"__doc__": function.__doc__}}
    return dataclasses.make_dataclass(f"{function.__name__}Settings", fields, **options)


def arguments(function: Callable[..., object], config: object) -> dict[str, Any]:
    """A function's arguments out of a configuration that `settings` gave its fields to."""
    names = inspect.signature(function).parameters
    return {name: getattr(config, name) for name in names if hasattr(config, name)}


def is_flag(annotation: object) -> bool:
    """Whether a value of this type can be given on a command line: numbers, texts, and sequences of them."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return True
    if origin in (Union, types.UnionType, tuple, list, Sequence):
        return all(part is Ellipsis or is_flag(part) for part in inner)
    return annotation in PLAIN
