"""A zoo of deep generative models for every medium, behind one contract.

from zoo import load

model = load("vae-mnist")
x = model.sample(16)
model.modality.save(x, "digits.png")
"""

from typing import TYPE_CHECKING

from zoo.catalog import models, register

if TYPE_CHECKING:
    from zoo.hub import load, pull, push, save

__version__ = "0.2.0"
__all__ = ["load", "models", "pull", "push", "register", "save"]


def __getattr__(name: str) -> object:
    # torch takes seconds to import; `import zoo` and `zoo list` need none of it.
    if name in __all__:
        from zoo import hub

        return getattr(hub, name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
