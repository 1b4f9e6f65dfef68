"""Writing that leaves whole files behind, and never takes a file away that this package did not write."""

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PART = re.compile(r"\.part-[0-9a-f]{8}-(.+)")
"""The name of what `write_aside` is writing, and of what it leaves where it is killed."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What a file system answers that knows no locks."""


class Refused(OSError):
    """What stands at a path is not this package's to replace: the message says what it is."""


@contextmanager
def write_aside(path: str | Path) -> Iterator[Path]:
    """A path of the caller's own beside `path`, with its ending; what is written there takes its place at the end.

    Its folder is made. Whatever goes wrong, a full disk or a kill, `path` holds what it held before, or all that was
    written. Where it is a link, what it leads to is replaced. Raises OSError, and `Refused` where `path` is a folder, a
    pipe or a device.
    """
    target = Path(os.path.realpath(Path(path).expanduser()))
    if target.exists() and not target.is_file():
        raise Refused(f"{target} is no file that can be replaced")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".part-{uuid.uuid4().hex[:8]}-{target.name}")
    part.touch(exist_ok=False)
    mode = part.stat().st_mode
    try:
        yield part
        part.chmod(mode)  # some writers make a file anew, for its owner alone
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replace_folder(target: Path, ours: Callable[[Path], Sequence[str]]) -> Iterator[Path]:
    """An empty folder beside `target` to write into; it takes the place of `target` when all is written.

    A folder cannot be renamed onto one that is not empty, so the former one steps aside for a moment. A kill in that
    moment leaves it there, complete: `standing` finds it, and the next `replace_folder` puts it back. Any number of
    processes may write to one target: each waits until those before it are done, ten minutes at most.

    Arguments:
        target: made with its parents, or replaced where it is empty or `ours`.
        ours: the names of the files of a folder that this package wrote, what tells it apart first; empty for any other
            folder. One that holds anything else is refused, whatever it is called.

    Raises OSError, and `Refused` where something stands there that is not this package's.
    """
    target = Path(os.path.realpath(target.expanduser()))
    former = _beside(target, "former")
    target.parent.mkdir(parents=True, exist_ok=True)
    with lock(_beside(target, "lock"), wait=600) as alone:
        _check(target, ours)
        if alone:
            _remove_dead(target)
        if former.is_dir():
            _put_back(former, target, ours)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        part.mkdir()
        try:
            if target.exists():
                shutil.copymode(target, part)
            yield part
            _check(target, ours)  # again, for it took a while to write
            if target.exists():
                os.rename(target, former)
            os.rename(part, target)
        finally:
            if former.is_dir():
                _put_back(former, target, ours)
            shutil.rmtree(part, ignore_errors=True)  # its name is this call's own


def standing(folder: Path) -> Path | None:
    """The folder, or the one that stepped aside for it if a kill came while the two changed places; None without one.

    Where a writer is at work, what is found may have another place a moment later: see `undisturbed`.
    """
    target = Path(os.path.realpath(folder))
    writing, former = _beside(target, "lock"), _beside(target, "former")
    quiet = 0
    for _ in range(500):
        found = next((path for path in (folder, former) if path.is_dir()), None)
        if found is not None:
            return found
        # A writer may be changing their places right now, or one after another: it has to be quiet for a while.
        quiet = 0 if writing.exists() else quiet + 1
        if quiet == 5:
            break
        time.sleep(0.002)
    return None


def undisturbed(find: Callable[[], Path], work: Callable[[Path], T]) -> T:
    """What `work` makes of the folder that `find` gives, done again where a writer replaced it in the meantime."""
    while True:
        folder = find()
        before = _state(folder)
        try:
            result = work(folder)
        except (OSError, ValueError):
            same = _state(folder) == before
            if same and (before is not None or not _appears(find)):
                raise
        else:
            if _state(folder) == before:
                return result


def _appears(find: Callable[[], Path]) -> bool:
    """Whether there is a folder after all, within a tenth of a second: a writer may have moved it aside."""
    for _ in range(50):
        if find().is_dir():
            return True
        time.sleep(0.002)
    return False


def foreign(folder: Path, names: Sequence[str]) -> str | None:
    """The first thing in a folder that is no regular file of one of these names; None where there is no such thing.

    What a killed `write_aside` left of such a file counts as that file.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not entry.is_file(follow_symlinks=False) or PART.sub(r"\1", entry.name) not in names:
                return entry.name
    return None


def remove_folder(folder: Path, names: Sequence[str]) -> bool:
    """Remove a folder that holds regular files of these names and nothing else; whether that was so."""
    if folder.is_symlink() or not folder.is_dir() or foreign(folder, names) is not None:
        return False
    for path in sorted(folder.iterdir(), key=lambda path: path.name == names[0]):
        path.unlink()
    folder.rmdir()
    return True


@contextmanager
def lock(path: Path, wait: float) -> Iterator[bool]:
    """Inside, no other process, and no other caller in this one, holds the lock of this path.

    The system takes it back when the process ends, also by a kill. Yields whether there is a lock: where the system or
    the file system has none, this goes on without. Raises TimeoutError where another holds it for `wait` seconds.
    """
    deadline = time.monotonic() + wait
    while (acquired := _acquire(path)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "another process is at work there", str(path))
        time.sleep(0.02)
    descriptor, locked = acquired
    owner = os.getpid()
    _held.add(descriptor)
    try:
        yield locked
    finally:
        if os.getpid() == owner:  # a forked child leaves the lock to its parent
            with suppress(OSError):
                path.unlink()  # while it is still held: who waits sees that its file is gone, and makes a new one
            _held.discard(descriptor)
            os.close(descriptor)


def _acquire(path: Path) -> tuple[int, bool] | None:
    """The descriptor of a lock that is now held, and whether there is one at all; None where another holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    ours = False
    with suppress(BlockingIOError, FileNotFoundError):  # held by another; or its holder has just removed it
        try:
            locked = _lock(descriptor)
            ours = os.path.samestat(os.fstat(descriptor), os.stat(path))
        finally:
            if not ours:
                os.close(descriptor)
    return (descriptor, locked) if ours else None


def _lock(descriptor: int) -> bool:
    """Lock an open file; False where the system or the file system knows no locks, BlockingIOError where it is held."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


_held: set[int] = set()
"""The descriptors of the locks that this process holds."""


def _close_in_child() -> None:
    # A child that outlives a killed parent, as one that reads data ahead may, would keep its lock.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _check(target: Path, ours: Callable[[Path], Sequence[str]]) -> None:
    """Refuse to replace what this package did not write: it would be lost."""
    if not target.exists():
        return
    if not target.is_dir():
        raise Refused(f"{target} is a file, and a folder is to be written")
    other = foreign(target, ours(target))
    if other is not None:
        raise Refused(f"{target} holds {other}, which this package did not write; choose another folder")
    if target == Path.cwd() or os.path.ismount(target):
        place = "the current folder" if target == Path.cwd() else "the root of a file system"
        raise Refused(f"{target} is {place} and cannot be replaced in one step; name a folder inside it")


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(f".{target.name}.{ending}")


def _state(folder: Path) -> tuple[int, ...] | None:
    """Numbers that are others after a folder was replaced."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _put_back(former: Path, target: Path, ours: Callable[[Path], Sequence[str]]) -> None:
    """Put a folder that stepped aside back, or, where another has its place, remove what is `ours` in it.

    A file that came into it meanwhile goes on to the new folder.
    """
    names = ours(former)
    if not names and any(former.iterdir()):
        raise Refused(f"{former} is in the way, and this package did not write it; move it")
    if not target.exists():
        os.rename(former, target)
        return
    while (other := foreign(former, names)) is not None:
        free = other if not (target / other).exists() else f"{other}.{uuid.uuid4().hex[:8]}"
        os.rename(former / other, target / free)
    remove_folder(former, names)


def _remove_dead(target: Path) -> None:
    """Remove what writers that were killed left beside `target`; none is alive, for their lock is held by this one."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.part")
    for path in target.parent.iterdir():
        if name.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            for file in path.iterdir():
                if file.is_file() and not file.is_symlink():
                    file.unlink()
            with suppress(OSError):
                path.rmdir()
