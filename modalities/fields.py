"""The types of arguments and fields, which JSON, a command line and a caller may all get wrong."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args, get_origin, get_type_hints


def check_types(owner: object, values: Mapping[str, object]) -> None:
    """Refuse values of other types than a function or a class says for these names, and numbers that are not finite.

    Raises ValueError, in one sentence that begins with the name.
    """
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

    hints = get_type_hints(owner)
    for name, value in values.items():
        hint = hints.get(name, object)
        literals = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
        options = [option for literal in literals for option in get_args(literal)]
        try:
            check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
        except TypeCheckError as error:
            if options:
                raise ValueError(f"{name} is one of {', '.join(map(str, options))}; got {value!r:.60}") from error
            raise ValueError(f"{name}: {' '.join(str(error).split())}: {value!r:.60}") from error
        if isinstance(value, (str, bytes)) and get_origin(hint) in (Sequence, tuple):
            raise ValueError(f"{name}: a list is wanted, got {value!r:.60}")
        if isinstance(value, bool) and not {bool, object} & {hint, *get_args(hint)}:
            raise ValueError(f"{name}: {value} is no number")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}: {value} is not finite")
