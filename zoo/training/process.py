"""What a training asks of its process: to keep its memory, and to end a step before Ctrl-C ends the run."""

import contextlib
import ctypes
import platform
import signal
import threading
from collections.abc import Iterator


def keep_memory() -> None:
    """Have this process keep the memory that a step of training frees, for the next step.

    glibc gives large pieces back to the system, which clears every page of them when they are taken again: a fifth of
    a step on a processor. Elsewhere this does nothing. What the process holds at most does not change.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, map_threshold = -1, -3  # the numbers in malloc.h
        library = ctypes.CDLL(None)
        library.mallopt(trim_threshold, 2**31 - 1)
        library.mallopt(map_threshold, 2**25)  # the largest that is taken


@contextlib.contextmanager
def noting_interrupts(noting: bool = True) -> Iterator[threading.Event]:
    """Inside, the first Ctrl-C sets the event that this yields, and only the next one interrupts.

    Where `noting` is False, where the program has a handler of its own, and outside of the main thread, nothing
    changes.
    """
    came = threading.Event()

    def note(*_: object) -> None:
        if came.is_set():
            raise KeyboardInterrupt
        came.set()

    former = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not (noting and main and former is signal.default_int_handler):
        yield came
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, former)


def ignore_interrupts(_: int = 0) -> None:
    """Leave Ctrl-C to the main process: a process that reads ahead would be missing when the last step ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
