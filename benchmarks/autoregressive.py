"""Autoregressive models: seconds to sample beside naive sampling and one forward pass, and images a second in training.

    git clone https://github.com/EugenHotaj/pytorch-generative
    PYTHONPATH=pytorch-generative python -m benchmarks.autoregressive

The networks see binary 28 x 28 images. The peer is pytorch-generative's gated PixelCNN with as many layers of as many
channels; its `sample` runs one full pass for each of the 784 pixels, so its time is 784 times the median of a pass,
which spares a quarter of an hour. Times of ours are whole samples. Without the peer, ours is timed alone. Run it
without other load.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from modalities.data import Batch
from modalities.images import Images
from recipes.recipe import machine
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.autoregressive.pixelcnn import PixelCNN
from zoo.autoregressive.pixelrnn import PixelRNN

BINARY = Images(1, 28, 28, 2)
PIXELS = 784


@dataclasses.dataclass(frozen=True)
class Config:
    """How large and how long."""

    layers: int = 10
    """Gated layers, of the peer too."""
    width: int = 64
    """Channels."""
    batches: tuple[int, ...] = (1, 16, 64)
    """Images at once."""
    runs: int = 5
    """Timed runs of each."""
    training_batch: int = 64
    """Images a training step."""


def peer(config: Config) -> Any:
    """The peer's network, or None where it is not installed."""
    try:
        from pytorch_generative.models import GatedPixelCNN as Peer
    except ImportError:
        return None
    return Peer(n_gated=config.layers, gated_channels=config.width, head_channels=config.width)


def median(run: Callable[[], object], runs: int, device: str) -> float:
    """Seconds, after one run to warm up."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def images(n: int, device: str) -> Tensor:
    """Random binary images."""
    return torch.where(torch.rand(n, *BINARY.shape, device=device) < 0.2, 1.0, -1.0)


@torch.no_grad()
def sampling(config: Config, device: str) -> Table:
    """Incremental sampling against the own forward pass, and against the peer's naive sampling."""
    title = f"Sampling 28 x 28, seconds, {machine()}"
    table = Table("network", "batch", "sample", "own pass", "ratio", "peer, naive", "times faster", title=title)
    networks = {
        f"gated PixelCNN, {config.layers} x {config.width}": GatedPixelCNN(BINARY, config.width, config.layers),
        "PixelCNN, 15 blocks of 16": PixelCNN(BINARY, 16, 15),
        "Row LSTM, 7 x 16": PixelRNN(BINARY, "row", 16, 7),
        "Diagonal BiLSTM, 7 x 16": PixelRNN(BINARY, "diagonal", 16, 7),
    }
    theirs = peer(config)
    for name, network in networks.items():
        model: Any = network.to(device).eval()
        for n in config.batches:
            x = images(n, device)
            whole = median(partial(model.sample, n), config.runs, device)
            own = median(partial(model.outputs, x), config.runs, device)
            row = [name, str(n), f"{whole:.3f}", f"{own:.3f}", f"{whole / own:.2f}"]
            if theirs is not None and isinstance(network, GatedPixelCNN):
                naive = PIXELS * median(partial(theirs.to(device), x), config.runs, device)
                row += [f"{naive:.1f}", f"{naive / whole:.0f}"]
            table.add_row(*row)
    return table


def training(config: Config, device: str) -> Table:
    """Forward and backward passes of the gated network, in turn with the peer's."""
    x = images(config.training_batch, device)
    model, theirs = GatedPixelCNN(BINARY, config.width, config.layers).to(device), peer(config)

    def ours(precision: torch.dtype) -> None:
        with torch.autocast(device, precision, enabled=precision != torch.float32):
            loss = model.loss(Batch(x))["loss"]
        loss.backward()
        model.zero_grad()

    def peers() -> None:
        logits = theirs.to(device)(x)
        torch.nn.functional.binary_cross_entropy_with_logits(logits, (x + 1) / 2, reduction="sum").backward()
        theirs.zero_grad()

    contenders: dict[str, Callable[[], None]] = {} if theirs is None else {"pytorch-generative": peers}
    contenders |= {"latent-zoo": lambda: ours(torch.float32), "latent-zoo, bf16": lambda: ours(torch.bfloat16)}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(config.runs + 1):
        for name, step in contenders.items():
            times[name].append(median(step, 1, device))
    rates = {name: len(x) / statistics.median(found[1:]) for name, found in times.items()}
    table = Table("", "images a second", "against the first", title=f"Training, batch {len(x)}, {machine()}")
    first = next(iter(rates.values()))
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.1f}", f"{rate / first:.2f}x")
    return table


def epochs(config: Config, device: str) -> Table:
    """Forward and backward passes of networks of equal width and depth: recurrent ones against convolutions."""
    x = images(config.training_batch, device)
    networks: dict[str, Any] = {
        "PixelCNN": PixelCNN(BINARY, 16, 7),
        "gated PixelCNN": GatedPixelCNN(BINARY, 16, 7),
        "Row LSTM": PixelRNN(BINARY, "row", 16, 7),
        "Diagonal BiLSTM": PixelRNN(BINARY, "diagonal", 16, 7),
    }

    def step(model: Any) -> None:
        model.loss(Batch(x))["loss"].backward()
        model.zero_grad()

    title = f"Training 7 layers of width 16, batch {len(x)}, an epoch of 60,000 images, {machine()}"
    table = Table("network", "seconds an epoch", "against PixelCNN", title=title)
    first = 0.0
    for name, model in networks.items():
        seconds = median(partial(step, model.to(device)), config.runs, device) * 60_000 / len(x)
        first = first or seconds
        table.add_row(name, f"{seconds:.0f}", f"{seconds / first:.1f}x")
    return table


def main(config: Config) -> None:
    """Time sampling and training."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    console = Console(width=140)
    console.print(sampling(config, device))
    console.print(training(config, device))
    console.print(epochs(config, device))


if __name__ == "__main__":
    main(tyro.cli(Config, description=main.__doc__))
