"""Seconds to start: `import zoo`, `zoo list`, and from `import torch` to a first sample of a bundled model.

    python -m benchmarks.startup

Every figure is the median of fresh processes; the first is what the import takes inside a running interpreter.
"""

import dataclasses
import statistics
import subprocess
import sys
import time

import tyro
from rich.console import Console
from rich.table import Table

from recipes.recipe import machine

CLOCK = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
IMPORT = CLOCK.format("import zoo")
TORCH = CLOCK.format("import torch")
SAMPLE = "import torch; " + CLOCK.format("from zoo import load; load('{name}').sample(1)")


@dataclasses.dataclass(frozen=True)
class Config:
    """What to time, how often."""

    name: str = "vae-mnist"
    """The bundled model that is sampled."""
    runs: int = 7
    """Processes for each figure, after one that warms the disk's cache."""


def seconds(code: str, runs: int) -> float:
    """The median of what `code` prints last, over fresh processes."""
    found = []
    for _ in range(runs + 1):
        output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        found.append(float(output.splitlines()[-1]))
    return statistics.median(found[1:])


def whole(command: list[str], runs: int) -> float:
    """The median time of a whole process."""
    found = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def main(config: Config) -> None:
    """Time each and print a table."""
    table = Table("", "seconds", "wanted", title=f"Start-up, {machine()}")
    table.add_row("import zoo", f"{seconds(IMPORT, config.runs):.3f}", "under 0.1")
    table.add_row(
        "zoo list, whole process", f"{whole([sys.executable, '-m', 'zoo.cli', 'list'], config.runs):.3f}", "under 0.5"
    )
    table.add_row("import torch", f"{seconds(TORCH, config.runs):.2f}", "")
    first = seconds(SAMPLE.format(name=config.name), config.runs)
    table.add_row(f"load {config.name} and sample, after import torch", f"{first:.2f}", "under 1")
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Config))
