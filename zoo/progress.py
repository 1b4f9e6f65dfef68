"""The one progress bar of the package."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from zoo.distributed import is_main

Step = TypeVar("Step")


def track(
    steps: Iterable[Step], what: str, total: int | None = None, size: Callable[[Step], int] = lambda step: 1
) -> Iterator[Step]:
    """The steps, with a progress bar on standard error where that is a terminal; of several processes the main one's.

    Arguments:
        what: the words before the bar.
        total: how far it goes; the number of steps where they have one; of others no end is shown.
        size: how far a step leads, 1 if not given.
    """
    if not (sys.stderr.isatty() and is_main()):
        for step in steps:  # not `yield from`, which closes the steps where the caller leaves early
            yield step
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if total is None and isinstance(steps, Sized):
        total = len(steps)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        for step in steps:
            yield step
            progress.advance(task, size(step))
