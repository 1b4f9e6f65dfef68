"""The checkpoints of a run: what a kill leaves, and what it goes on from."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from modalities.files import foreign, lock, remove_folder, replace_folder, write_aside

TENSORS, VALUES = "state.safetensors", "state.json"
FILES = [VALUES, TENSORS]
"""The files of a checkpoint of a run."""


class TrainingError(RuntimeError):
    """A run that cannot go on: the message says at which step, why, and what is left to continue from."""


class State(NamedTuple):
    """What a run needs to go on as if it had not been interrupted."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]
    """JSON values."""


def newest(output: Path | None) -> Path | None:
    """The newest checkpoint of a run in a folder."""
    folders = _checkpoints(output) if output is not None else []
    return folders[-1] if folders else None


def last_good(output: Path | None) -> str:
    """Where the newest checkpoint lies, in words."""
    found = newest(output)
    return f"the last good checkpoint is {found}" if found else "there is no checkpoint to go back to"


def _checkpoints(output: Path) -> list[Path]:
    """The checkpoints of a run in a folder, the oldest first: what only looks like one is not touched."""
    named = sorted(path for path in output.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d{8}", path.name))
    return [path for path in named if path.is_dir() and {file.name for file in path.iterdir()} == set(FILES)]


def write(output: Path, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write the checkpoint of a step beside the last one, then remove that: a kill at any moment leaves a whole one.

    Raises `TrainingError` where it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    final = output / f"checkpoint-{step:08d}"
    try:
        with replace_folder(final, lambda folder: FILES if foreign(folder, FILES) is None else []) as part:
            with write_aside(part / TENSORS) as path:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
            with write_aside(part / VALUES) as path:
                path.write_text(json.dumps(values), encoding="utf-8")
        for old in _checkpoints(output):
            if old.name != final.name:
                remove_folder(old, FILES)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"no checkpoint of step {step} can be written to {output}: {error}; {last_good(output)}"
        ) from error


def read(folder: Path, needed: Sequence[str]) -> State:
    """A checkpoint that `write` wrote, with at least the `needed` values.

    Raises `TrainingError` where it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = State(load_file(folder / TENSORS), json.loads((folder / VALUES).read_text(encoding="utf-8")))
        missing = [name for name in needed if name not in state.values]
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise TrainingError(f"{folder} cannot be read: {error}; remove it, or choose another output folder") from error
    if missing:
        raise TrainingError(
            f"{folder} has no {', '.join(missing)}: another version wrote it; choose another output folder"
        )
    return state


@contextlib.contextmanager
def alone(output: Path | None) -> Iterator[None]:
    """Inside, no other training may begin in this folder: each would remove the checkpoints of the other."""
    with contextlib.ExitStack() as stack:
        if output is not None:
            try:
                output.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock(output / ".training.lock", wait=0.5))
            except TimeoutError as error:
                raise TrainingError(f"another training is at work in {output}; choose another folder") from error
            except OSError as error:
                raise TrainingError(f"nothing can be written to {output}: {error}") from error
        yield
