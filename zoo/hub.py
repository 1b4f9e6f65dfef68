"""Load, save and publish checkpoints.

A checkpoint is a folder: config.json (family, constructor arguments, medium), model.safetensors, README.md (the card)
and what it lists besides, such as pictures and sounds. Loading is strict and constructs the catalogue's families only,
and those that the program registered; nothing is ever unpickled.
"""

import difflib
import hashlib
import importlib
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from modalities.files import standing, undisturbed
from zoo import checkpoint
from zoo.card import CARD, DATA, PICTURE, Card, render
from zoo.catalog import models
from zoo.checkpoint import WEIGHTS, check_held, listed_files, read, read_config
from zoo.configuration import CONFIG, CheckpointError, family_name
from zoo.distributed import in_main_process
from zoo.model import GenerativeModel

if TYPE_CHECKING:
    from httpx import Request
    from PIL.Image import Image

__all__ = ["load", "models", "pull", "push", "save"]

IMPORTERS = {
    suffix: "zoo.morphable.formats:read_model" for suffix in (".mat", ".h5", ".hdf5", ".bin", ".npz", ".pkl", ".pickle")
} | {"generic_neutral_mesh.obj": "zoo.morphable.formats:read_model"}
"""Formats of others that `load` reads: the suffix of a file, or the name of a file that a folder has, and the reader as
"module:function", imported when it is needed."""


PATIENCE = 30.0
"""Seconds until a Hub that does not answer is given up, where its client would wait for ever."""


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> GenerativeModel:
    """Load a model in evaluation mode, by a bundled name, else a folder, else a Hub repository "org/name".

    A path may also lead to a model in a format of others: Basel Face Models and what else
    `zoo.morphable.formats.read_model` knows.

    Arguments:
        name: `models` lists the bundled names. A `Path` is a folder first.
        revision: branch, tag or commit hash of a Hub repository; pin the hash where results must stay the same.
        device: where to put the model.
        dtype: type of its floating-point tensors, but for what the model keeps precise; None gives float32, also where
            the file stores half precision. A type that does not hold the weights is refused.

    Raises `CheckpointError` for a name that leads nowhere and for a checkpoint that is damaged or does not fit, and
    `modalities.MediaError` for a file of others that cannot be read.
    """
    importer = _importer(Path(name).expanduser())
    if importer is not None:
        module, function = importer.split(":")
        model = getattr(importlib.import_module(module), function)(name)
    else:
        model = undisturbed(lambda: find(name, revision), read)
    before = model.state_dict()
    model = model.to(device=device, dtype=dtype).eval()
    for key, tensor in model.state_dict().items():
        if tensor.dtype != before[key].dtype:
            check_held(key, before[key], tensor.to(before[key].device), "load it in float32 or bfloat16")
    return model


def find(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: bundled, the user's own, or the cache of a Hub repository, downloaded if need be."""
    given = str(name)
    bundled = {model.name: model.folder for model in models()}
    path = Path(name).expanduser()
    folder = standing(path)
    if folder is not None and given in bundled and isinstance(name, str):
        warnings.warn(
            f'{given!r} is the bundled model, not the folder {folder.resolve()}; write "./{given}" for that one',
            stacklevel=3,
        )
    if given in bundled and (folder is None or isinstance(name, str)):
        folder = bundled[given]
    if folder is None:
        if isinstance(name, str) and re.fullmatch(r"[^/\\]+/[^/\\]+", name) and not path.exists():
            return _download(name, revision)
        if path.is_file():
            raise CheckpointError(f"{given!r} is a file of no format that is known, and a checkpoint is a folder")
        near = difflib.get_close_matches(given, bundled, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`zoo list` shows the bundled ones"
        raise CheckpointError(f"no bundled model, folder or Hub repository is called {given!r}; {hint}")
    if revision is not None:
        raise CheckpointError(f"a revision is for Hub repositories, and {given!r} is on this machine; leave it out")
    return folder


def _importer(path: Path) -> str | None:
    """What reads a path that holds a model in a format of others; None for any other."""
    if path.is_dir() and not (path / CONFIG).exists():
        return next((reader for name, reader in IMPORTERS.items() if name[0] != "." and (path / name).is_file()), None)
    return IMPORTERS.get(path.suffix.lower()) if path.is_file() else None


def save(
    model: GenerativeModel,
    folder: str | Path,
    card: Card | None = None,
    *,
    picture: "Image | None" = None,
    real: "Image | None" = None,
    files: Mapping[str, str | Path | bytes] | None = None,
    half: bool = False,
) -> Path:
    """Write a checkpoint folder in one step: a kill or a full disk at any time leaves the former one or the new one.

    Several processes may save to one folder. Those of torch.distributed (torchrun) that do so together have one of them
    write, the main one, and wait for it.

    Arguments:
        folder: made, or replaced where it holds a checkpoint of this package and no other file. Any other folder is
            refused, and nothing in it is touched.
        card: what README.md says; None says what the model knows of itself.
        picture: samples, shown on the card.
        real: items of the data (`zoo.showcase.real_items`), which card and gallery show beside the samples.
        files: what else the checkpoint holds, by name: the path of a file to copy, or its content. `push` and `pull`
            carry them.
        half: store floating-point tensors as float16, half the size, but for what the model keeps precise. `load`
            gives float32 again.

    Returns the folder. Raises `CheckpointError` where it cannot be written.
    """
    card = card or Card(summary=_first_line(model), data="Not recorded.", licence="other")
    pictures = {name: drawn for name, drawn in ((PICTURE, picture), (DATA, real)) if drawn is not None}
    taken = {CONFIG, WEIGHTS, CARD, *pictures}
    for name in files or {}:
        if name in taken or not checkpoint.FILE_NAME.fullmatch(name):
            raise CheckpointError(f"{name!r} cannot be a further file of a checkpoint; give it another name")

    def write() -> str:
        with checkpoint.replace(Path(folder)) as part:
            checkpoint.write(part, model, half=half)
            for name, drawn in pictures.items():
                drawn.save(part / name)
            for name, content in (files or {}).items():
                if isinstance(content, bytes):
                    (part / name).write_bytes(content)
                else:
                    shutil.copyfile(content, part / name)
            text = render(
                card,
                name=Path(folder).resolve().name,
                family=family_name(type(model)),
                medium=model.modality.kind,
                parameters=sum(tensor.numel() for tensor in model.checkpoint().values()),
                half=half,
                files=taken | set(files or {}),
            )
            (part / CARD).write_text(text, encoding="utf-8")
        return str(folder)

    return Path(in_main_process(f"save {folder}", write, CheckpointError))


def push(model: GenerativeModel | str | Path, repo_id: str, *, private: bool | None = None) -> str:
    """Publish a model, or a checkpoint by its folder or bundled name, as the Hub repository "org/name".

    The files that go out, those that the checkpoint lists, are loaded first, strictly, and go out in one commit; there
    is none where the repository holds the same files already. Returns the commit's address.

    Log in with `hf auth login` before. Raises `CheckpointError` with the reason where the Hub does not take it.
    """
    _check_repo_id(repo_id)
    return in_main_process(f"push {repo_id}", lambda: _push(model, repo_id, private), CheckpointError)


def _push(model: GenerativeModel | str | Path, repo_id: str, private: bool | None) -> str:
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch) / repo_id.split("/")[1]
        if isinstance(model, GenerativeModel):
            save(model, staged)
        else:
            undisturbed(lambda: find(model), lambda source: _copy(source, staged))
        read(staged)
        card = staged / CARD
        if card.is_file():
            loading = re.sub(r'load\("[^"]*"\)', f'load("{repo_id}")', card.read_text(encoding="utf-8"), count=1)
            card.write_text(loading, encoding="utf-8")
        with _hub_errors(repo_id, None):
            api = HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            message = "Publish a latent-zoo checkpoint"
            commit = api.upload_folder(repo_id=repo_id, folder_path=staged, commit_message=message)
    return commit.commit_url


def pull(repo_id: str, folder: str | Path, *, revision: str | None = None) -> Path:
    """Download the Hub repository "org/name" into a folder, with all files that it lists, after loading it strictly.

    The folder is made or replaced as by `save`.
    """

    def write() -> str:
        source = _download(repo_id, revision, everything=True)
        read(source)
        with checkpoint.replace(Path(folder)) as part:
            _copy(source, part)
        return str(folder)

    return Path(in_main_process(f"pull {repo_id} {folder}", write, CheckpointError))


def _copy(source: Path, target: Path) -> None:
    """Copy the files that a checkpoint lists and nothing else."""
    shutil.rmtree(target, ignore_errors=True)  # a folder of this call's own, from an earlier try
    target.mkdir()
    config = read_config(source)
    for name in listed_files(config):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
        elif "files" in config:
            raise CheckpointError(f"{source} lists {name}, and has no such file")


def _first_line(model: GenerativeModel) -> str:
    return (type(model).__doc__ or type(model).__name__).strip().splitlines()[0]


def _check_repo_id(repo_id: str) -> None:
    """Refuse what is no "org/name" before anything is asked of the network."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        fits = False
    else:
        fits = "/" in repo_id
    if not fits:
        raise CheckpointError(f'{repo_id!r} is no Hub repository: that is "org/name" of letters, digits, "-", "_", "."')


def _download(repo_id: str, revision: str | None, *, everything: bool = False) -> Path:
    """The cached folder of a Hub repository, its files compared with the hashes that the Hub gave for them.

    Without `everything`, what a model is loaded from and its card.
    """
    from huggingface_hub import snapshot_download

    _check_repo_id(repo_id)
    with _hub_errors(repo_id, revision):
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=[CONFIG, WEIGHTS, CARD]))
        names = listed_files(read_config(folder)) if everything else []
        if names:  # of the same commit, which the folder is called by
            patterns = [re.sub(r"([*?[])", r"[\1]", name) for name in names]
            snapshot_download(repo_id, revision=folder.name, allow_patterns=patterns)
    for path in folder.iterdir():
        _verify(path)
    return folder


def _verify(path: Path) -> None:
    """Compare a cached file with its hash: the client checks the size only, and a disk can go wrong later.

    The cache links to a file named by the Hub's ETag: the SHA-256 of a large file, git's SHA-1 of a small one. Where
    the file system has no links the name says nothing, and nothing is compared.
    """
    blob = path.resolve()
    if blob.parent.name != "blobs":
        return
    if len(blob.name) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size)
    with blob.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != blob.name:
        raise CheckpointError(f"{path} is damaged: its hash is not the Hub's; delete {blob} and load again")


@contextmanager
def _hub_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn the client's errors into one sentence each, and have no request wait for an answer for ever."""
    from huggingface_hub import errors, get_session

    def limit(request: "Request") -> None:
        limits = request.extensions["timeout"]
        limits |= {name: PATIENCE for name, seconds in limits.items() if seconds is None}

    hooks = get_session().event_hooks["request"]
    hooks.append(limit)
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, errors.HTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        match error, error.__cause__:
            case errors.GatedRepoError(), _:
                told = f"{repo_id} is gated: ask for access on its page, then run `hf auth login`"
            case errors.RepositoryNotFoundError(), _:
                told = f"the Hub has no model {repo_id}, or it is private and you are not logged in (`hf auth login`)"
            case errors.RevisionNotFoundError(), _:
                told = f"{repo_id} has no revision {revision!r}; name a branch, a tag or a full hash"
            case errors.LocalEntryNotFoundError(), errors.HfHubHTTPError(response=answer):
                told = f"the Hub answered {repo_id} with error {answer.status_code}; try again later"
            case ((errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled()), _):
                told = f"{repo_id} is not in the cache and the Hub cannot be reached; connect once to download it"
            case errors.HfHubHTTPError(server_message=reason, response=answer), _:
                told = f"the Hub refused {repo_id}: {reason or f'error {answer.status_code}'}"
            case errors.HTTPError(), _:  # the client's HTTP library could not connect
                told = f"the Hub cannot be reached for {repo_id}: {error or 'it does not answer'}"
            case _:  # a page of HTML, as the portal of a public network sends it
                told = f"what answered for {repo_id} is not the Hub; is a login page in the way?"
        raise CheckpointError(told) from error
    finally:
        hooks.remove(limit)
