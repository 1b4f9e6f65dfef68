"""One trainer for every model: any number of players, processes and interruptions."""

import contextlib
import ctypes
import dataclasses
import json
import math
import platform
import re
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from modalities.files import foreign, lock, remove_folder, replace_folder, write_aside
from modalities.modality import MediaError, fetch, randomise
from zoo.distributions import full_precision
from zoo.model import GenerativeModel

if TYPE_CHECKING:
    from accelerate import Accelerator

STATE = ["state.json", "state.safetensors"]
"""The files of a checkpoint of a run."""
BATCH_NORM = nn.modules.batchnorm._BatchNorm


class TrainingError(RuntimeError):
    """A run that cannot go on: the message says at which step, why, and what is left to continue from."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How to train. A step is one turn of every player on one global batch."""

    steps: int = 10_000
    """Optimiser steps of the whole run; the learning rate and the schedules of the loss end there."""
    batch_size: int = 128
    """Items a step, over all processes together."""
    learning_rate: float = 1e-3
    """Peak learning rate, reached after the warm-up and lowered along a cosine to a hundredth."""
    optimiser: Literal["adamw", "adamax"] = "adamw"
    """AdamW, or Adamax with an epsilon of 0.001, as NVAE was published with."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from 0."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the optimiser's two moments."""
    weight_decay: float = 0.0
    """Weight decay, decoupled from the gradient with AdamW."""
    clip_norm: float = 100.0
    """Gradients with a larger norm are scaled down to it."""
    skip_above: float = 0.0
    """Leave a step out whose gradient norm is not finite, or is so many times the median of the last hundred; 0 takes
    every step. Deep hierarchies of latents need it (Child, "Very Deep VAEs", 2021, with a fixed threshold)."""
    ema: float = 0.999
    """Decay of the exponential moving average of the weights, which is what is returned; 0 takes the last weights."""
    precision: Literal["no", "bf16"] = "no"
    """bf16 runs the networks in bfloat16; likelihoods and weights stay in float32."""
    workers: int = 0
    """Processes that read files ahead; 0 reads in the training process, best for data in memory."""
    seed: int = 0
    """Seeds the order of the data and all noise: the same seed gives the same run."""
    log_every: int = 50
    """Steps between scalars and checks for a loss that is not finite."""
    checkpoint_every: int = 1000
    """Steps between checkpoints: what a kill can lose."""
    sample_every: int = 2000
    """Steps between sample pictures in TensorBoard."""
    minutes: float | None = None
    """Stop with a checkpoint after this time, to be resumed later; None runs to the end."""


def train(
    model: nn.Module,
    data: Any,
    config: TrainingConfig,
    output: str | Path | None = None,
    *,
    resume: bool = True,
) -> list[dict[str, float]]:
    """Train a model in place, to the moving average of its weights.

    Arguments:
        model: any model with a loss, or another module that has `players` and a loss as its `forward`. Under torchrun,
            every process brings the same one.
        data: a map-style data set of `x` or `(x, condition)`.
        config: see `TrainingConfig`.
        output: a folder for checkpoints and TensorBoard logs; without one, nothing is written.
        resume: go on from the newest checkpoint in `output`, if there is one. The numbers are those of a run without
            interruption. Otherwise the first checkpoint of this run takes the place of those of an earlier one. No
            other file or folder in `output` is touched.

    Returns the logged scalars, one dictionary every `log_every` steps, those of earlier pieces of the run included.
    Raises `TrainingError` where the loss is not finite, and where another training is at work in `output`.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    if len(data) == 0:
        raise MediaError("the data set is empty")
    players: dict[str, list[nn.Module]] = model.players()  # type: ignore[operator]
    # A frozen player's parameters get no gradient in the others' turns, which plain data parallelism takes for an
    # error.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=len(players) > 1, broadcast_buffers=False)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[parallel])
    if config.batch_size % accelerator.num_processes:
        raise ValueError(f"batch_size {config.batch_size} does not divide over {accelerator.num_processes} processes")
    model.to(accelerator.device).train()
    keep_memory()
    many_cards = accelerator.num_processes > 1 and accelerator.device.type == "cuda"
    place = Path(output) if output is not None and accelerator.is_main_process else None
    with _alone(place), _synchronised(model) if many_cards else contextlib.nullcontext():
        run = _Run(model, players, config, Path(output) if output is not None else None, accelerator)
        if resume and run.output is not None:
            run.restore()
        wrapped = accelerator.prepare(model)
        with _Log(run) as log:
            run.go(wrapped, data, log)
        run.take_average()
    model.eval()
    return run.history


@contextlib.contextmanager
def _alone(output: Path | None) -> Iterator[None]:
    """Inside, no other training may begin in this folder: each would remove the checkpoints of the other."""
    with contextlib.ExitStack() as stack:
        if output is not None:
            try:
                output.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock(output / ".training.lock", wait=0.5))
            except TimeoutError as error:
                raise TrainingError(f"another training is at work in {output}; choose another folder") from error
            except OSError as error:
                raise TrainingError(f"nothing can be written to {output}: {error}") from error
        yield


@contextlib.contextmanager
def _synchronised(model: nn.Module) -> Iterator[None]:
    """Batch normalisation over the batches of all processes, inside; after it as before, for that of many processes
    runs on cards alone. Both have the same tensors."""
    plain = {name: module for name, module in model.named_modules() if isinstance(module, BATCH_NORM)}
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    try:
        yield
    finally:
        for name, module in plain.items():
            model.set_submodule(name, module)


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


def seconds_trained(output: str | Path) -> float:
    """The time that the run in this folder has taken to its newest checkpoint, all its pieces together."""
    newest = _newest(Path(output))
    if newest is None:
        raise FileNotFoundError(f"{output} holds no checkpoint of a run")
    return json.loads((newest / "state.json").read_text(encoding="utf-8"))["seconds"]


class _Run:
    """The state of a run: step, weights, average, optimisers, history; what a checkpoint holds."""

    def __init__(
        self,
        model: nn.Module,
        players: dict[str, list[nn.Module]],
        config: TrainingConfig,
        output: Path | None,
        accelerator: "Accelerator",
    ):
        self.model, self.config, self.output, self.accelerator = model, config, output, accelerator
        others = {id(p) for name, ms in players.items() if name != "model" for m in ms for p in m.parameters()}
        self.parameters: dict[str, list[nn.Parameter]] = {}
        for name, modules in players.items():
            own = [p for module in modules for p in module.parameters() if p.requires_grad]
            # The model may own the other players as submodules; their parameters are theirs.
            self.parameters[name] = [p for p in own if name != "model" or id(p) not in others]
        kind: Any = torch.optim.AdamW if config.optimiser == "adamw" else torch.optim.Adamax
        choices: dict[str, Any] = {"lr": config.learning_rate, "betas": config.betas}
        # AdamW in one pass over all parameters: a processor needs a sixth of the time for many small ones.
        choices |= {"weight_decay": config.weight_decay}
        choices |= {"fused": True} if config.optimiser == "adamw" else {"eps": 1e-3}
        self.optimisers = {name: kind(parameters, **choices) for name, parameters in self.parameters.items()}
        batch_norms = [m for m in model.modules() if isinstance(m, BATCH_NORM)]
        # The statistics of batch normalisation belong to the weights: they are averaged together.
        measured = [tensor for m in batch_norms for tensor in (m.running_mean, m.running_var) if tensor is not None]
        self.averaged: list[Tensor] = [*self.parameters["model"], *measured]
        self.average = [full_precision(tensor.detach()).clone() for tensor in self.averaged]
        self.buffers = list(model.buffers())
        """Among them what a forward pass notes of its batch: statistics, running estimates."""
        self.norms: list[float] = []
        """Gradient norms of the last steps that had finite ones, where some are left out."""
        self.skipped = 0
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.broken: set[str] = set()

    def go(self, wrapped: nn.Module, data: Any, log: "_Log") -> None:
        """Step until the end or the time limit."""
        config, device = self.config, self.accelerator.device
        start, before = time.monotonic(), self.seconds
        pending: list[dict[str, Tensor]] = []
        for batch, errors in self.loader(data):
            for error in errors:
                if str(error) not in self.broken:
                    self.broken.add(str(error))
                    warnings.warn(f"skipped: {error}", stacklevel=2)
            if batch is None:
                raise MediaError(f"not one file of a whole batch could be read; the last: {errors[-1]}")
            # Every step has its own noise, whatever came before: this is what makes a resumed run exact. Losses draw
            # from the generator; the global state serves layers that can draw from nothing else, such as dropout.
            generator = torch.Generator(device).manual_seed(self.noise_seed())
            torch.manual_seed(self.noise_seed())
            batch = randomise(data, _to(batch, device), generator)
            pending.append(self.turn(wrapped, batch, generator))
            self.step += 1
            log.advance()
            self.seconds = before + time.monotonic() - start
            out_of_time = config.minutes is not None and self.seconds - before > 60 * config.minutes
            last = self.step == config.steps or self.agree(out_of_time)
            if last or self.step % config.log_every == 0 or self.step % config.checkpoint_every == 0:
                # Looking at the loss waits for the device, so it is done for many steps at once.
                log.scalars(self.examine(pending))
                pending = []
            if last or self.step % config.checkpoint_every == 0:
                self.save()
            if self.step % config.sample_every == 0:
                log.picture()
            if last:
                break
        if self.broken:
            warnings.warn(f"{len(self.broken)} of {len(data)} files were broken and skipped", stacklevel=2)

    def turn(self, wrapped: nn.Module, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Every player's step on one batch; returns the terms of their losses."""
        config = self.config
        terms: dict[str, Tensor] = {}
        warm = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / config.steps))
        rate = config.learning_rate * warm * (0.01 + 0.99 * cosine)
        for player, parameters in self.parameters.items():
            for other, theirs in self.parameters.items():
                for parameter in theirs:
                    parameter.requires_grad_(other == player)
            may_skip = bool(config.skip_above) and player == "model"
            noted = [buffer.clone() for buffer in self.buffers] if may_skip else []
            with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                losses = wrapped(batch, player=player, progress=self.step / config.steps, generator=generator)
            if not losses:  # this player sits the step out
                continue
            self.accelerator.backward(losses["loss"])
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            for group in self.optimisers[player].param_groups:
                group["lr"] = rate
            if may_skip and self.outlying(norm.item()):
                # What the forward pass noted of such a batch goes with it: one NaN would stay in an average for ever.
                for buffer, before in zip(self.buffers, noted, strict=True):
                    buffer.copy_(before)
            else:
                self.optimisers[player].step()
            self.optimisers[player].zero_grad(set_to_none=True)
            prefix = "" if player == "model" else f"{player}_"
            terms |= {prefix + name: value.detach() for name, value in losses.items()}
            terms[f"{prefix}gradient_norm"] = norm.detach()
        if config.skip_above:
            terms["skipped"] = torch.tensor(float(self.skipped))
        for parameters in self.parameters.values():
            for parameter in parameters:
                parameter.requires_grad_(True)
        # A young average follows the weights closely, or it would remember the initialisation.
        decay = min(config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [full_precision(tensor.detach()) for tensor in self.averaged], 1 - decay)
        return terms

    def outlying(self, norm: float) -> bool:
        """Whether a step with this gradient norm is to be left out.

        The median counts such steps too: where all norms grow it follows, and training does not come to a halt. It is
        asked once there are twenty.
        """
        outlying = not math.isfinite(norm)
        if not outlying:
            outlying = len(self.norms) >= 20 and norm > self.config.skip_above * statistics.median(self.norms)
            self.norms = [*self.norms[-99:], norm]
        self.skipped += outlying
        return outlying

    def examine(self, pending: list[dict[str, Tensor]]) -> dict[str, float]:
        """The mean over processes of the newest terms; a loss that is not finite ends the run; where such
        steps are left out, only a row of nothing else does."""
        first = self.step - len(pending) + 1
        totals = [sum(value.float() for name, value in terms.items() if name.endswith("loss")) for terms in pending]
        table = torch.stack([torch.as_tensor(total, device=self.accelerator.device) for total in totals])
        finite = self.accelerator.reduce(torch.isfinite(table).float(), reduction="mean") == 1
        if not (finite.any() if self.config.skip_above else finite.all()):
            index = int((~finite).nonzero()[0])
            found = {name: round(value.item(), 4) for name, value in pending[index].items()}
            raise TrainingError(
                f"the loss is not finite at step {first + index}: {found}; {self.last_good()}. "
                "Lower the learning rate or look at the data of that step"
            )
        newest = int(finite.nonzero()[-1])
        terms = {name: value.float().mean() for name, value in pending[newest].items()}
        reduced = self.accelerator.reduce(terms, reduction="mean")
        scalars = {"step": float(self.step)} | {name: value.item() for name, value in reduced.items()}
        self.history.append(scalars)
        return scalars

    def last_good(self) -> str:
        """Where the newest checkpoint lies, in words."""
        newest = _newest(self.output)
        return f"the last good checkpoint is {newest}" if newest else "there is no checkpoint to go back to"

    def agree(self, stop: bool) -> bool:
        """True in every process where one wants to stop."""
        if self.config.minutes is None or self.accelerator.num_processes == 1:
            return stop
        flag = torch.tensor(float(stop), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def noise_seed(self) -> int:
        """A seed of its own for every step and process of a run."""
        return ((self.config.seed * 1_000_003 + self.step) * 1009 + self.accelerator.process_index) % 2**63

    def loader(self, data: Any) -> Iterator[tuple[Any, list[MediaError]]]:
        """The batches from the present step on, those of this process."""
        from torch.utils.data import DataLoader

        order = _Order(
            len(data), self.config, self.step, self.accelerator.process_index, self.accelerator.num_processes
        )
        generator = torch.Generator().manual_seed(self.noise_seed())
        return iter(
            DataLoader(
                _Fetch(data),
                batch_sampler=order,
                collate_fn=_identity,
                num_workers=self.config.workers,
                generator=generator,
                persistent_workers=False,
            )
        )

    def take_average(self) -> None:
        """Put the averaged weights into the model."""
        if self.config.ema:
            with torch.no_grad():
                for tensor, mean in zip(self.averaged, self.average, strict=True):
                    tensor.copy_(mean)

    def save(self) -> None:
        """Write a checkpoint beside the last one, then remove that: a kill at any moment leaves a whole one."""
        if self.output is None:
            return
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            from safetensors import SafetensorError

            try:
                self.write(self.output / f"checkpoint-{self.step:08d}")
            except (OSError, SafetensorError) as error:
                raise TrainingError(
                    f"no checkpoint of step {self.step} can be written to {self.output}: {error}; {self.last_good()}"
                ) from error
        self.accelerator.wait_for_everyone()

    def write(self, final: Path) -> None:
        """Write a checkpoint to a folder of another name, rename it, and remove the others of this output."""
        from safetensors.torch import save_file

        with replace_folder(final, lambda folder: STATE if foreign(folder, STATE) is None else []) as part:
            tensors, groups = self.tensors()
            with write_aside(part / "state.safetensors") as path:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
            state = {
                "step": self.step,
                "seconds": self.seconds,
                "groups": groups,
                "norms": self.norms,
                "skipped": self.skipped,
                "history": self.history,
                "config": dataclasses.asdict(self.config),
            }
            with write_aside(part / "state.json") as path:
                path.write_text(json.dumps(state), encoding="utf-8")
        for old in _checkpoints(final.parent):
            if old.name != final.name:
                remove_folder(old, STATE)

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that a resumed run needs, as named tensors and JSON values."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average/{index}": tensor for index, tensor in enumerate(self.average)}
        groups = {}
        for player, optimiser in self.optimisers.items():
            state = optimiser.state_dict()
            groups[player] = state["param_groups"]
            for index, values in state["state"].items():
                tensors |= {f"optimiser/{player}/{index}/{name}": value for name, value in values.items()}
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}, groups

    def restore(self) -> None:
        """Go back to the newest checkpoint, if there is one."""
        from safetensors.torch import load_file

        newest = _newest(self.output)
        if newest is None:
            return
        state = json.loads((newest / "state.json").read_text(encoding="utf-8"))
        then, now = dict(state["config"]), json.loads(json.dumps(dataclasses.asdict(self.config)))
        changed = [name for name in ("steps", "batch_size", "seed") if then[name] != now[name]]
        if changed:
            changes = ", ".join(f"{name} was {then[name]}, is {now[name]}" for name in changed)
            raise TrainingError(f"{newest} belongs to another run ({changes}); choose another output folder")
        if state["step"] > self.config.steps:
            raise TrainingError(f"{newest} is at step {state['step']}, beyond the {self.config.steps} asked for")
        tensors = load_file(newest / "state.safetensors")
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        self.norms, self.skipped = state.get("norms", []), state.get("skipped", 0)
        self.model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
        for index, average in enumerate(self.average):
            average.copy_(tensors[f"average/{index}"])
        for player, optimiser in self.optimisers.items():
            values: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                if key.startswith(f"optimiser/{player}/"):
                    number, name = key.split("/")[2:]
                    like = self.parameters[player][int(number)]
                    if tensor.shape == like.shape:  # in the order of memory that the fused step goes by
                        tensor = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
                    values.setdefault(int(number), {})[name] = tensor
            optimiser.load_state_dict({"state": values, "param_groups": state["groups"][player]})


class _Order:
    """The indices of every batch from a step on: an endless row of shuffled epochs, cut evenly over the processes.

    The global batch of a step depends on the seed and the step alone, not on the number of processes.
    """

    def __init__(self, items: int, config: TrainingConfig, start: int, process: int, processes: int):
        self.items, self.config, self.start, self.process, self.processes = items, config, start, process, processes

    def __len__(self) -> int:
        return self.config.steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        size = self.config.batch_size
        share = size // self.processes
        epoch, order = -1, []
        for step in range(self.start, self.config.steps):
            batch: list[int] = []
            for position in range(step * size + self.process * share, step * size + (self.process + 1) * share):
                if position // self.items != epoch:
                    epoch = position // self.items
                    seeded = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
                    order = torch.randperm(self.items, generator=seeded).tolist()
                batch.append(order[position % self.items])
            yield batch


class _Fetch(torch.utils.data.Dataset):
    """A data set that is asked for whole batches."""

    def __init__(self, data: Any):
        self.data = data

    def __getitems__(self, indices: list[int]) -> tuple[Any, list[MediaError]]:
        return fetch(self.data, indices)


class _Log:
    """Progress bar and TensorBoard, in the main process."""

    def __init__(self, run: _Run):
        self.run, self.main = run, run.accelerator.is_main_process
        self.writer: Any = None

    def __enter__(self) -> "_Log":
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        self.progress = Progress(*columns, TextColumn("{task.fields[loss]}"), disable=not self.main)
        self.task = self.progress.add_task("", total=self.run.config.steps, completed=self.run.step, loss="")
        self.progress.start()
        if self.main and self.run.output is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.run.output / "logs"), purge_step=self.run.step)
        return self

    def __exit__(self, *error: Any) -> None:
        self.progress.stop()
        if self.writer is not None:
            self.writer.close()

    def advance(self) -> None:
        """One step is done."""
        self.progress.update(self.task, completed=self.run.step)

    def scalars(self, scalars: dict[str, float]) -> None:
        """Show the loss and write the scalars."""
        self.progress.update(self.task, loss=f"loss {scalars['loss']:.4g}")
        if self.writer is not None:
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, self.run.step)

    def picture(self) -> None:
        """Write a sheet of samples with the present weights, if the model can sample."""
        if self.writer is None or not isinstance(self.run.model, GenerativeModel):
            return
        import numpy

        model = self.run.model.eval()
        generator = torch.Generator(model.device).manual_seed(self.run.config.seed)
        image = model.modality.show(model.sample(16, generator=generator).cpu())
        model.train()
        self.writer.add_image("samples", numpy.asarray(image.convert("RGB")), self.run.step, dataformats="HWC")


def _newest(output: Path | None) -> Path | None:
    folders = _checkpoints(output) if output is not None else []
    return folders[-1] if folders else None


def _checkpoints(output: Path) -> list[Path]:
    """The checkpoints of a run in a folder, the oldest first: what only looks like one is not touched."""
    named = sorted(path for path in output.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d{8}", path.name))
    return [path for path in named if path.is_dir() and {file.name for file in path.iterdir()} == set(STATE)]


def _identity(batch: Any) -> Any:
    return batch


def _to(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    return [_to(part, device) for part in batch] if isinstance(batch, (tuple, list)) else batch
