"""A training step of NVAE, images a second and memory: ours, the same layers as plain modules, and the published code.

    git clone https://github.com/NVlabs/NVAE
    python -m benchmarks.nvae --published NVAE

Two scales of three groups, 32 channels, 32 x 32 colour pictures, 8 bits, batches of 16: forward and backward pass with
the spectral terms, and a step of the optimiser, the weight of the KL still rising: Adamax for the published code, AdamW
for ours. Every contender has a process of its own, and they step in turn; figures are medians over rounds. Memory is
the most that the process held beyond what it held before the model was built (Linux only). "Channels first" is our
model with channels apart and the library's own gradient of depthwise convolutions. Ours has what our training does:
freed memory is kept, and AdamW takes one pass over all parameters; "plain" has neither. The published code runs on a
processor after three changes made from outside: `.cuda()` keeps tensors where they are, and batch normalisation, with
Swish and without, takes the path for one process. Its licence allows research alone; without it, ours is timed by
itself.

The two models differ a little. In the published cells that double the grid, the depthwise convolution is wider: as many
times the incoming channels, which are twice the outgoing ones that ours goes by; "wide" is ours with that width. Ours
has cells after every group, the published code between groups alone: those of one group fewer. Run it without other
load.
"""

import argparse
import contextlib
import dataclasses
import gc
import multiprocessing
import statistics
import sys
import time
import types
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from modalities.data import Batch
from modalities.images import Images
from recipes.recipe import machine
from zoo.nn import convolution, depthwise
from zoo.training.process import keep_memory
from zoo.variational import nvae

GROUPS, LATENT, SPECTRAL, PROGRESS = 3, 20, 0.01, 0.1
Step = Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Config:
    """How large and how long."""

    published: Path | None = None
    """A checkout of the published code."""
    width: int = 32
    """Channels at the full resolution."""
    blocks: int = 1
    """How often the grid is halved before the finest scale of latents."""
    block_cells: int = 2
    """Cells in each of these blocks."""
    cells: int = 2
    """Cells a group, in both networks."""
    batch: int = 16
    """Pictures a step."""
    steps: int = 2
    """Steps a round."""
    rounds: int = 7
    """Rounds, of which the first only warms up."""
    threads: int = 0
    """Threads of every process; 0 leaves it to torch."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """One row of the table."""

    name: str
    normalisation: nvae.Normalisation = "batch"
    half: bool = False
    apart: bool = False
    """Channels first."""
    plain: bool = False
    wide: bool = False
    published: bool = False


CONTENDERS = (
    Contender("published code", published=True),
    Contender("plain, channels first", apart=True, plain=True),
    Contender("ours, channels first", apart=True),
    Contender("ours, channels first, bfloat16", apart=True, half=True),
    Contender("ours, wide", wide=True),
    Contender("ours, wide, bfloat16", wide=True, half=True),
    Contender("ours", half=False),
    Contender("ours, bfloat16", half=True),
    Contender("ours, no normalisation, channels first", "none", apart=True),
    Contender("ours, no normalisation", "none"),
    Contender("ours, no normalisation, bfloat16", "none", half=True),
)


class WideCell(nvae.DecoderCell):
    """A cell of the decoder that is as wide as the published one where it doubles the grid."""

    def __init__(self, *arguments: Any):
        *most, expansion, step = arguments if len(arguments) == 7 else (*arguments, None)
        super().__init__(*most, expansion if step is None else 2 * expansion, step)  # type: ignore[call-arg]


def ours(contender: Contender, config: Config) -> tuple[nn.Module, Step]:
    """Our model, and its step."""
    if not contender.plain:
        keep_memory()
    if contender.wide:
        nvae.DecoderCell = WideCell  # type: ignore[assignment, misc]
    if contender.apart:
        convolution.convolve_depthwise = depthwise._convolve
        convolution.FORMATS.update(dict.fromkeys(convolution.FORMATS, torch.contiguous_format))
    spectral = 0.0 if contender.normalisation == "none" else SPECTRAL
    model = nvae.NVAE(
        Images(3, 32, 32),
        groups=(GROUPS, GROUPS),
        latent=LATENT,
        width=config.width,
        blocks=config.blocks,
        block_cells=config.block_cells,
        cells=config.cells,
        normalisation=contender.normalisation,
        spectral=spectral,
    ).train()
    x = 2 * pictures(config) - 1

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=contender.half):
            return model.loss(Batch(x), progress=PROGRESS)["loss"]

    fused = None if contender.plain else True
    return model, stepping(torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.0, fused=fused), loss)


def published(config: Config) -> tuple[nn.Module, Step]:
    """The published model, and its step."""
    sys.path.insert(0, str(config.published))
    with contextlib.suppress(ImportError):
        import tensorboardX  # noqa: F401
    sys.modules.setdefault("tensorboardX", types.SimpleNamespace(SummaryWriter=None))  # type: ignore[arg-type]
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    import neural_operations
    import utils
    from thirdparty import inplaced_sync_batchnorm as norms

    def normalise(self: Any, x: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        x = F.batch_norm(x, mean, variance, self.weight, self.bias, self.training, self.momentum, self.eps)
        return norms.swish.apply(x)

    neural_operations.SYNC_BN = False
    norms.SyncBatchNormSwish.forward = normalise
    from model import AutoEncoder

    arguments = argparse.Namespace(
        dataset="cifar10",
        num_x_bits=8,
        use_se=True,
        res_dist=True,
        num_latent_scales=2,
        num_groups_per_scale=GROUPS,
        num_latent_per_group=LATENT,
        ada_groups=False,
        min_groups_per_scale=1,
        num_channels_enc=config.width,
        num_channels_dec=config.width,
        num_preprocess_blocks=config.blocks,
        num_postprocess_blocks=config.blocks,
        num_preprocess_cells=config.block_cells,
        num_postprocess_cells=config.block_cells,
        num_cell_per_cond_enc=config.cells,
        num_cell_per_cond_dec=config.cells,
        num_mixture_dec=10,
        num_nf=0,
    )
    with contextlib.redirect_stdout(None):
        model = AutoEncoder(arguments, None, utils.get_arch_cells("res_mbconv")).train()
    shares = utils.kl_balancer_coeff(2, model.groups_per_scale, "square")
    x = pictures(config)

    def loss() -> Tensor:
        logits, _, _, kl, _ = model(x)
        reconstruction = utils.reconstruction_loss(model.decoder_output(logits), x)
        weighted, _, _ = utils.kl_balancer(kl, PROGRESS / 0.3, kl_balance=True, alpha_i=shares)
        penalty = model.spectral_norm_parallel() + model.batchnorm_loss()
        return (reconstruction + weighted).mean() + SPECTRAL * penalty

    return model, stepping(torch.optim.Adamax(model.parameters(), 1e-3, eps=1e-3, weight_decay=3e-4), loss)


def stepping(optimiser: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> Step:
    """One step of training, which gives the loss."""

    def step() -> float:
        value = loss()
        value.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return value.item()

    return step


def pictures(config: Config) -> Tensor:
    """Random pictures of 256 levels in [0, 1]."""
    return torch.randint(256, (config.batch, 3, 32, 32)) / 255


def status(name: str) -> int:
    """A line of what Linux says of this process, in kilobytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def serve(pipe: Connection, contender: Contender, config: Config) -> None:
    """Build a contender, and time rounds when asked to; at last tell its parameters, operations and memory."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here
    before = status("VmRSS")
    model, step = published(config) if contender.published else ours(contender, config)
    while pipe.recv():
        start = time.perf_counter()
        for _ in range(config.steps):
            last = step()
        pipe.send(((time.perf_counter() - start) / config.steps, last))
    held = status("VmHWM") - before
    counter = FlopCounterMode(display=False)
    with counter:
        step()
    pipe.send((sum(p.numel() for p in model.parameters()), counter.get_total_flops() / config.batch, held))


def main(config: Config) -> None:
    """Time all contenders in turn and print the table."""
    chosen = [c for c in CONTENDERS if config.published or not c.published]
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    for contender in chosen:
        mine, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, contender, config), daemon=True).start()
        theirs.close()  # so that a contender that ends early is noticed
        pipes.append(cast(Connection, mine))
    found: list[list[tuple[float, float]]] = [[] for _ in chosen]
    for _ in range(config.rounds):
        for pipe, rounds in zip(pipes, found, strict=True):
            pipe.send(True)
            rounds.append(pipe.recv())
    columns = ("images a second", "against the first", "megabytes", "parameters", "GFLOP an image", "loss")
    table = Table("", *columns, title=f"A training step of NVAE, batch {config.batch}, {machine()}")
    first = 0.0
    for contender, pipe, rounds in zip(chosen, pipes, found, strict=True):
        pipe.send(False)
        parameters, operations, held = pipe.recv()
        rate = config.batch / statistics.median(seconds for seconds, _ in rounds[1:] or rounds)
        first = first or rate
        cells = (f"{rate:.1f}", f"{rate / first:.2f}x", f"{held / 1024:.0f}", f"{parameters:,}")
        table.add_row(contender.name, *cells, f"{operations / 1e9:.2f}", f"{rounds[-1][1]:.0f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=main.__doc__))
