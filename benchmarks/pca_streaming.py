"""PCA of data on disk against scikit-learn's IncrementalPCA: memory, items a second, error; and shared by processes.

    python -m benchmarks.pca_streaming
    python -m benchmarks.pca_streaming --scale 0.1

The data are a signal of as many directions as are asked for, and noise, in a memory-mapped .npy of 2.4 GB that is
deleted afterwards. Every fit has a process of its own: its memory is the peak of the process less what it held after
the imports (Linux only), its seconds are those of the fit alone. IncrementalPCA is timed on 2,000 items, in its default
batches and at the quicker of two other sizes. Errors are mean squares of what a fit leaves of items that none has seen,
over the variance of the noise: 1 would be perfect, but for what the directions take of the noise. Two processes have
half of the threads each; the angle is the largest one between the subspaces that they and one process find.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zoo.linear.principal import PrincipalAxes, principal_axes

NOISE = 0.1
BATCHES = {"peer": (None,), "peer-batched": (256, 1000)}
"""Batch sizes of IncrementalPCA: its default, which takes 2,000 items at once, and two of which the quicker counts."""


@dataclasses.dataclass(frozen=True)
class Config:
    """How large, and where."""

    scale: float = 1.0
    """Shrinks the items, their numbers and the components, for a quick check."""
    folder: Path = Path(tempfile.gettempdir())
    """Where the data are written, and deleted."""
    job: Literal["all", "make", "ours", "few", "shared", "peer", "peer-batched"] = "all"
    """What this process does; "all" starts the others."""

    @property
    def size(self) -> tuple[int, int, int, int]:
        """Items, numbers an item, components, and items for the peer."""
        n, d, k, few = (round(number * self.scale) for number in (50_000, 12_288, 128, 2_000))
        return n, d, max(4, k), max(64, few)


def make(config: Config) -> None:
    """Write the data and 500 items more that no fit sees."""
    n, d, k, _ = config.size
    generator = np.random.default_rng(0)
    directions = np.linalg.qr(generator.standard_normal((d, k), dtype=np.float32))[0].T
    directions *= np.geomspace(30, 6, k, dtype=np.float32)[:, None]
    mean = generator.standard_normal(d, dtype=np.float32)
    for name, items in (("train", n), ("test", 500)):
        file = np.lib.format.open_memmap(config.folder / f"{name}.npy", "w+", np.float32, (items, d))
        for start in range(0, items, 500):
            part = file[start : start + 500]
            part[:] = generator.standard_normal((len(part), k), dtype=np.float32) @ directions + mean
            part += NOISE * generator.standard_normal(part.shape, dtype=np.float32)
        file.flush()


def memory(field: str) -> int:
    """What Linux knows of this process's memory, in bytes: VmRSS now, VmHWM at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def fit(config: Config) -> None:
    """The work of one process: fit, and write what was found and what it took."""
    n, d, k, few = config.size
    data = np.load(config.folder / "train.npy", mmap_mode="r")
    rank = 0
    if config.job == "shared":
        torch.distributed.init_process_group("gloo")
        rank = torch.distributed.get_rank()
        count = torch.distributed.get_world_size()
        data = data[rank * n // count : (rank + 1) * n // count]
    part = np.array(data[:few]) if config.job in ("few", *BATCHES) else None
    if config.job in BATCHES:
        from sklearn.decomposition import IncrementalPCA
    before, found = memory("VmRSS"), {}
    if config.job in BATCHES:
        times = {}
        for size in BATCHES[config.job]:
            start = time.perf_counter()
            peer = IncrementalPCA(k, batch_size=None if size is None else max(k, round(size * config.scale))).fit(part)
            times[time.perf_counter() - start] = peer
        seconds, peer = min(times.items())
        basis, mean = torch.from_numpy(peer.components_), torch.from_numpy(peer.mean_)
    else:
        start = time.perf_counter()
        axes: PrincipalAxes = principal_axes(data if part is None else part, (d,), k)
        seconds = time.perf_counter() - start
        basis, mean = axes.basis, axes.mean
    found = {"seconds": seconds, "memory": memory("VmHWM") - before}
    (config.folder / f"{config.job}-{rank}.json").write_text(json.dumps(found))
    np.savez(config.folder / f"{config.job}-{rank}.npz", basis=basis.numpy(), mean=mean.numpy())
    if config.job == "shared":
        torch.distributed.destroy_process_group()


def start(config: Config, job: str) -> tuple[list[dict[str, float]], Tensor, Tensor]:
    """Run a job in processes of its own: what each took, and the basis and the mean that were found."""
    processes = 2 if job == "shared" else 1
    command = [sys.executable, "-m"]
    if job == "shared":
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command += ["benchmarks.pca_streaming", "--job", job, "--scale", str(config.scale), "--folder", str(config.folder)]
    threads = str(max(1, torch.get_num_threads() // processes))
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": threads})
    if job == "make":
        return [], torch.empty(0), torch.empty(0)
    taken = [json.loads((config.folder / f"{job}-{rank}.json").read_text()) for rank in range(processes)]
    arrays = np.load(config.folder / f"{job}-0.npz")
    return taken, torch.from_numpy(arrays["basis"]).double(), torch.from_numpy(arrays["mean"]).double()


def error(config: Config, basis: Tensor, mean: Tensor) -> float:
    """The mean square of what is left of unseen items, over the variance of the noise."""
    x = torch.from_numpy(np.load(config.folder / "test.npy")).double() - mean
    return (x - x @ basis.T @ basis).square().mean().item() / NOISE**2


def angle(a: Tensor, b: Tensor) -> float:
    """The largest angle between two subspaces, in radians."""
    a, b = torch.linalg.qr(a.T)[0].T, torch.linalg.qr(b.T)[0].T  # rows of single precision are not quite orthonormal
    return torch.linalg.matrix_norm(b.T - a.T @ (a @ b.T), 2).clamp(max=1).asin().item()


def main(config: Config) -> None:
    """Measure the streamed fit beside scikit-learn's."""
    if config.job == "make":
        make(config)
    elif config.job != "all":
        fit(config)
    else:
        folder = Path(tempfile.mkdtemp(prefix="pca-", dir=config.folder))
        try:
            compare(dataclasses.replace(config, folder=folder))
        finally:
            shutil.rmtree(folder)


def compare(config: Config) -> None:
    """Run all jobs and print the table."""
    import sklearn
    from rich.console import Console
    from rich.table import Table

    n, d, k, few = config.size
    start(config, "make")
    names = {
        "ours": f"ours, streamed, {n} items",
        "shared": f"ours, two processes, {n} items",
        "few": f"ours, {few} items",
        "peer": f"scikit-learn {sklearn.__version__} IncrementalPCA, {few} items",
        "peer-batched": f"the same in its quickest batches, {few} items",
    }
    table = Table(
        title=f"PCA of {n} x {d} ({4 * n * d / 1e9:.2g} GB), {k} components; {torch.get_num_threads()} threads"
    )
    for column in ("fit", "seconds", "items a second", "memory, MB a process", "error over the noise"):
        table.add_column(column)
    bases, rates = {}, {}
    for job, name in names.items():
        taken, bases[job], mean = start(config, job)
        seconds = max(process["seconds"] for process in taken)
        rates[job] = (n if job in ("ours", "shared") else few) / seconds
        most = max(process["memory"] for process in taken)
        found = f"{error(config, bases[job], mean):.4f}"
        table.add_row(name, f"{seconds:.1f}", f"{rates[job]:.0f}", f"{most / 1e6:.0f}", found)
    console = Console(width=140)
    console.print(table)
    ratios = [f"{rates['ours'] / rates[job]:.1f}" for job in BATCHES]
    console.print(f"items a second, ours over scikit-learn's: {ratios[0]}, in its quickest batches {ratios[1]}")
    console.print(f"angle between one process and two: {angle(bases['ours'], bases['shared']):.1e} radians")


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=main.__doc__))
