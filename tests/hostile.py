"""Hostile input: what a call answers in a process of its own, with 2 GB of memory and 20 seconds."""

import multiprocessing
import os
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class Answer(NamedTuple):
    """How a call ended."""

    error: str
    """The class of what it raised; "killed" or "late" where it did not end by itself, "" where it went well."""
    words: str
    """What it returned or raised, in words."""


def ask(work: Callable[[], object], memory: int = 2 * 2**30, seconds: float = 20) -> Answer:
    """What `work` answers in a forked process that may take so many bytes more than this one."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(work, memory, there))
    process.start()
    there.close()
    try:
        if not here.poll(seconds):
            process.kill()
            return Answer("late", f"no answer in {seconds} s")
        return here.recv()
    except EOFError:
        process.join()
        return Answer("killed", f"exit {process.exitcode}")
    finally:
        process.join()
        here.close()


def refusal(work: Callable[[], object], name: str) -> str:
    """The one sentence, with `name` in it, in which `work` is refused; fails where it answers anything else."""
    error, words = ask(work)
    assert error in ("MediaError", "CheckpointError"), f"{name}: {error or 'it returned'} {words}"
    assert name in words and "\n" not in words and len(words) < 1000, words
    return words


def mutations(data: bytes, n: int, seed: int = 0) -> Iterator[bytes]:
    """The content of a file, changed in a few places: other bits, numbers beyond all bounds, pieces lost or twice."""
    generator = random.Random(seed)
    beyond = [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\0" * 7 + b"\x7f"]
    words = [b"nan ", b"1e99", b"-1 ", b"9999999999", b"1_0", b"\n", b" ", b"-", b"\0"]
    for _ in range(n):
        changed = bytearray(data)
        for _ in range(generator.choice([1, 1, 2, 5])):
            at = generator.randrange(len(changed) or 1)
            length = generator.choice([1, 4, 16, len(changed)])
            part = generator.choice(beyond + words)
            match generator.choice(["bit", "lose", "repeat", "replace", "insert"]):
                case "bit" if changed:
                    changed[at] ^= 1 << generator.randrange(8)
                case "lose":
                    del changed[at : at + length]
                case "repeat":
                    changed[at:at] = changed[at : at + min(length, 64)]
                case "replace":
                    changed[at : at + len(part)] = part
                case "insert":
                    changed[at:at] = part
        yield bytes(changed)


def _run(work, memory, pipe):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        answer = Answer("", repr(work()))
    except BaseException as error:  # whatever it is, it is the answer
        answer = Answer(type(error).__name__, str(error))
    pipe.send(answer)
