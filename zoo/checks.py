"""What arguments may be: refusals by name, in one sentence."""

import math
from numbers import Integral, Real


def check_count(n: object, name: str = "n", least: int = 1, most: int | None = None) -> None:
    """Refuse what is not a positive whole number, or a whole number from `least` to `most`."""
    whole = isinstance(n, Integral) and not isinstance(n, bool)
    if not whole or int(n) < least or (most is not None and int(n) > most):  # type: ignore[call-overload]
        wanted = "a positive whole number" if least == 1 else f"a whole number of at least {least}"
        wanted += "" if most is None else f", at most {most:,}"
        raise ValueError(f"{name} must be {wanted}, got {n!r:.60}")


def check_counts(least: int = 1, **counts: object) -> None:
    """Refuse what are not whole numbers of at least `least`, or are beyond the size of any network."""
    for name, n in counts.items():
        check_count(n, name, least, most=10**6)


def check_numbers(least: float = 0.0, most: float = math.inf, **numbers: object) -> None:
    """Refuse what are not finite numbers from `least` to `most`."""
    for name, value in numbers.items():
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not least <= float(value) <= most:  # type: ignore[arg-type]
            wanted = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
            raise ValueError(f"{name} must be a number {wanted}, got {value!r:.60}")


def check_latents(z: object, *shapes: tuple[int, ...]) -> None:
    """Refuse latents that are not one tensor of [batch, *shape] for every shape, and all of one batch."""
    groups = z if isinstance(z, (tuple, list)) else (z,)
    found = [tuple(getattr(group, "shape", ())) for group in groups]
    if [shape[1:] for shape in found] != list(shapes) or any(shape[0] != found[0][0] for shape in found):
        wanted = ", ".join(f"[batch, {', '.join(map(str, shape))}]" for shape in shapes)
        raise ValueError(f"z must have the shape {wanted}, got {', '.join(str(list(shape)) for shape in found)}")


def check_temperature(temperature: float) -> None:
    """Refuse what is not a number of at least 0."""
    check_numbers(temperature=temperature)
