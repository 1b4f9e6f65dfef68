"""What a run is of: its settings, its model and its data. A checkpoint holds this, and what differs is named."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from modalities.data import Items
from modalities.modality import MediaError
from zoo.configuration import describe
from zoo.model import GenerativeModel
from zoo.training.config import TrainingConfig

FREE = ("steps", "minutes", "workers", "log_every", "checkpoint_every", "sample_every", "patience", "best")
"""The settings that may be others when a run goes on."""
HASHED, STATED = 16, 10_000
"""How many items of a data set are hashed, and of how many files the size is asked for: in a network, each takes a
millisecond."""


def record(model: nn.Module, config: TrainingConfig, data: Items, validation: Items | None) -> dict[str, object]:
    """The settings, the model and fingerprints of the data, as JSON values."""
    made: dict[str, object] = {"family": f"{type(model).__module__}:{type(model).__qualname__}"}
    if isinstance(model, GenerativeModel):
        described, _ = describe(model)
        made = {"family": described["family"], **described["arguments"]}
    found = {
        "settings": dataclasses.asdict(config),
        "model": made,
        "data": fingerprint(data),
        "validation data": None if validation is None else fingerprint(validation),
    }
    return json.loads(json.dumps(found))


def differences(then: dict[str, object], now: dict[str, object]) -> list[str]:
    """What tells two records apart, in words, but for settings that may change."""
    found = []
    for part in ("settings", "model"):
        found += [words for name, words in _changes(then[part], now[part]) if part == "model" or name not in FREE]
    for part in ("data", "validation data"):
        old, new = then[part], now[part]
        if isinstance(old, dict) and isinstance(new, dict):
            names = [name for name in old.keys() & new.keys() if old[name] != new[name]]
            counts = f" ({old['items']:,} items then, {new['items']:,} now)" if "items" in names else ""
            found += [f"the {part} are others{counts or ', by their ' + ' and '.join(sorted(names))}"] if names else []
        elif old != new:
            found.append(
                f"there were {'no ' if old is None else ''}{part}, and now there are {'some' if new else 'none'}"
            )
    return found


def _changes(then: object, now: object, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in then | now:
            yield from _changes(then.get(key), now.get(key), key)
    elif then != now:
        yield name, f"{name} was {then!r:.60}, is {now!r:.60}"


def fingerprint(data: Items) -> dict[str, object]:
    """How many items there are, and hashes: of files their names, sizes and some contents; of others some items.

    Items that differ from one visit to the next, as those of a data set that flips pictures itself do, are not hashed.
    """
    chosen = range(0, len(data), -(-len(data) // HASHED))
    found: dict[str, object] = {"items": len(data)}
    names, labels = getattr(data, "names", []), getattr(data, "labels", None)
    if labels is not None:
        found["labels"] = _hash([labels])
    some = names[:: max(1, len(names) // STATED)] if isinstance(names, list) else []
    if some and all(isinstance(name, str) and os.path.isfile(name) for name in some):
        common = os.path.commonpath({os.path.dirname(name) for name in names})  # the folder may have moved
        found["names"] = _hash([os.path.normpath(name)[len(common) :] for name in names])
        found["sizes"] = _hash([os.path.getsize(name) for name in some])
        found["contents"] = _hash([_read(names[index]) for index in chosen])
    else:
        contents, again = (_hash([_item(data, index) for index in chosen]) for _ in range(2))
        if contents == again:
            found["contents"] = contents
    return found


def _read(name: str, most: int = 2**20) -> bytes:
    try:
        with open(name, "rb") as file:
            return file.read(most)
    except OSError:  # it is skipped and named when its turn comes
        return b"broken"


def _item(data: Items, index: int) -> object:
    try:
        return data[index]
    except MediaError:
        return "broken"


def _hash(parts: Sequence[object]) -> str:
    """A hash of numbers, texts, bytes, tensors and arrays, and of tuples and lists of these."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, (tuple, list)):
            content = _hash(part).encode()
        elif isinstance(part, (Tensor, np.ndarray)):
            tensor = torch.as_tensor(part).detach().cpu()
            content = str(tuple(tensor.shape)).encode() + bytes(tensor.flatten().contiguous().view(torch.uint8).numpy())
        else:
            plain = isinstance(part, (str, int, float, np.generic)) or part is None
            content = part if isinstance(part, bytes) else str(part if plain else type(part)).encode()
        digest.update(len(content).to_bytes(8) + content)
    return digest.hexdigest()[:32]
