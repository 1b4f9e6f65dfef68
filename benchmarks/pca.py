"""PCA against scikit-learn's default choice: seconds, reconstruction error and memory, on pictures with a 1/f spectrum.

    python -m benchmarks.pca
    python -m benchmarks.pca --scale 0.1 --runs 1

Both fit the same float32 array in one process, in turn; times are medians. The residual is the squared error left over
the least possible one with as many components. Memory is the peak of the process during the fit less what it held
before, over the size of the data (Linux only). The lower bound is the time that the multiplications and additions which
the route cannot do without would take at the rate of one large float32 product on this machine, measured in the same
run. Run it without other load: a busy core slows threaded products by far more than its share.
"""

import dataclasses
import gc
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from zoo.linear.principal import choose, principal_axes


@dataclasses.dataclass(frozen=True)
class Case:
    """n pictures of this many channels, square, and how many components are asked for."""

    n: int
    channels: int
    side: int
    components: int


CASES = (Case(4_000, 3, 64, 128), Case(60_000, 1, 28, 64), Case(1_000, 3, 256, 100))


@dataclasses.dataclass(frozen=True)
class Config:
    """How long and how large."""

    scale: float = 1.0
    """Shrinks the number of items, the side of the pictures and the components, for a quick check."""
    runs: int = 5
    """Interleaved runs of each."""


def pictures(case: Case) -> Tensor:
    """Random fields whose amplitudes fall like 1/f, as those of photographs do, shape [n, channels * side * side]."""
    generator = torch.Generator().manual_seed(0)
    down, across = torch.fft.fftfreq(case.side)[:, None], torch.fft.rfftfreq(case.side)[None]
    frequency = (down.square() + across.square()).sqrt().clamp(min=1 / case.side)
    x = torch.empty(case.n, case.channels, case.side, case.side)
    for part in x.split(100):
        noise = torch.randn(part.shape, generator=generator)
        part.copy_(torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=part.shape[2:]))
        part.div_(3 * part.std())
    return x.flatten(1)


def least_error(x: Tensor, components: int) -> tuple[float, float]:
    """The total of squared deviations, and what the best `components` directions leave of it, in float64 sums."""
    centred = (x - x.mean(0)).numpy()
    smaller = centred @ centred.T if len(x) <= x.shape[1] else centred.T @ centred
    values = torch.linalg.eigvalsh(torch.from_numpy(smaller).double())
    return values.sum().item(), values[:-components].sum().item()


def error(x: Tensor, basis: Tensor, total: float) -> float:
    """What is left of the total of squared deviations outside the directions."""
    scores = x @ basis.T - x.mean(0) @ basis.T
    return total - scores.double().square().sum().item()


def resident() -> int:
    """The memory that the process holds, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def measure(fit: Callable[[], Any]) -> tuple[Any, float, int]:
    """What a fit gives, its seconds, and the most memory that it held beyond what was held before."""
    gc.collect()
    before, peak, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    basis = fit()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return basis, seconds, max(0, peak[0] - before)


def ceiling(size: int) -> float:
    """Multiplications and additions a second of one large float32 product, by the quicker of torch and NumPy."""
    a = torch.rand(size, size)
    b = a.numpy()
    products = (lambda: a @ a, lambda: b @ b)
    return max(2 * size**3 / measure(product)[1] for product in products for _ in range(4))


def directions(x: Tensor, components: int) -> int:
    """How many directions the randomized route multiplies the data with: its last state holds them all."""
    with tempfile.TemporaryDirectory() as folder:
        principal_axes(x, (x.shape[1],), components, "randomized", checkpoint=folder)
        with safe_open(Path(folder) / "fit.safetensors", "pt") as state:
            return state.get_slice("projected").get_shape()[0]


def least_work(route: str, n: int, d: int, k: int, columns: int) -> float:
    """The multiplications and additions that a route cannot do without.

    Half a product for a symmetric matrix and 4/3 m^3 to make it tridiagonal, 2 n d k for the axes from a Gram matrix,
    and two products with every direction of the randomized route.
    """
    symmetric = {"covariance": n * d**2 + 4 / 3 * d**3, "gram": d * n**2 + 4 / 3 * n**3 + 2 * n * d * k}
    return symmetric.get(route, 4.0 * n * d * columns)


def compare(case: Case, runs: int, rate: float) -> list[str]:
    """One row of the table."""
    from sklearn.decomposition import PCA

    x = pictures(case)
    n, d = x.shape
    total, least = least_error(x, case.components)

    def ours() -> Tensor:
        return principal_axes(x, (d,), case.components).basis

    def peer() -> Tensor:
        fitted = PCA(case.components, random_state=0).fit(x.numpy())
        return torch.from_numpy(np.asarray(fitted.components_))

    # What libraries import and set aside for their threads at the first call is not a fit's memory.
    principal_axes(x[:600].contiguous(), (d,), 8, solver="randomized")
    PCA(8, random_state=0, svd_solver="randomized").fit(x[:600].numpy())
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    residual, memory = {}, {}
    for _ in range(runs):
        for name, fit in (("ours", ours), ("peer", peer)):
            basis, seconds, held = measure(fit)
            times[name].append(seconds)
            residual[name] = error(x, basis, total) / least
            memory[name] = max(held, memory.get(name, 0))
    ours_s, peer_s = (statistics.median(times[name]) for name in ("ours", "peer"))
    size = x.numel() * x.element_size()
    route = choose(n, d, case.components, in_memory=True)
    columns = directions(x, case.components) if route == "randomized" else 0
    bound = least_work(route, n, d, case.components, columns) / rate
    return [
        f"{n} x {d}, {case.components}",
        route,
        f"{ours_s:.2f}",
        f"{ours_s / bound:.2f}" if route != "svd" else "",
        f"{peer_s:.2f}",
        f"{peer_s / ours_s:.2f}",
        f"{residual['ours']:.4f}",
        f"{residual['peer']:.4f}",
        f"{memory['ours'] / size:.2f}",
        f"{memory['peer'] / size:.2f}",
    ]


def main(config: Config) -> None:
    """Time PCA beside scikit-learn's."""
    import sklearn
    from rich.console import Console
    from rich.table import Table

    rate = ceiling(max(256, round(4096 * config.scale)))
    threads = f"{torch.get_num_threads()} threads, {rate / 1e9:.0f} GFLOP/s at most"
    title = f"PCA, medians of {config.runs}; scikit-learn {sklearn.__version__}, {threads}"
    table = Table(title=title)
    columns = ("data, components", "route", "ours s", "over the bound", "sklearn s", "times faster")
    for name in (*columns, "residual ours", "residual sklearn", "memory ours", "memory sklearn"):
        table.add_column(name)
    for case in CASES:
        small = dataclasses.replace(
            case,
            n=max(64, round(case.n * config.scale)),
            side=max(8, round(case.side * config.scale)),
            components=max(4, round(case.components * config.scale)),
        )
        table.add_row(*compare(small, config.runs, rate))
    Console(width=160).print(table)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=main.__doc__))
