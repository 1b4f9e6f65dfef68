"""Memory of a training process on a processor."""

import ctypes
import platform


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
