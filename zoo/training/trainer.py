"""One trainer for every model: any number of players, processes and interruptions."""

import contextlib
import dataclasses
import json
import math
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from modalities.data import Batch, Items, as_dataset, cut, move, randomise
from modalities.modality import MediaError
from zoo.distributed import broadcast
from zoo.distributions import full_precision
from zoo.model import GenerativeModel, Notes, Optimiser, Player, Trainable
from zoo.training import state
from zoo.training.config import TrainingConfig
from zoo.training.data import load, look_at
from zoo.training.log import Log
from zoo.training.memory import keep_memory
from zoo.training.state import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator

BATCH_NORM = nn.modules.batchnorm._BatchNorm
PROGRESS = ("step", "seconds", "skipped", "norms", "history")
"""What a checkpoint holds of a run besides weights, averages and moments."""


class Run(NamedTuple):
    """What came of a training."""

    history: list[dict[str, float]]
    """The logged scalars, one dictionary every `log_every` steps, those of earlier pieces of the run included."""
    seconds: float
    """What all pieces of the run took together."""
    skipped: int
    """Steps that `skip_above` left out."""


def train(
    model: nn.Module,
    data: object,
    config: TrainingConfig,
    output: str | Path | None = None,
    *,
    resume: bool = True,
) -> Run:
    """Train a model in place, to the moving average of its weights.

    The first items are looked at: the medium's shape, range and levels, and a label where the model needs one. Then the
    model's `adapt` sees the data, once; a run that goes on has done so before.

    Arguments:
        model: a `Trainable` model, or another module whose `forward` takes a `Batch` and answers its losses. Under
            torchrun, every process brings the same one.
        data: a map-style data set of `x` or `(x, label)`; a list of these; a tensor or an array of items.
        config: see `TrainingConfig`.
        output: a folder for checkpoints and TensorBoard logs; without one, nothing is written.
        resume: go on from the newest checkpoint in `output`, if there is one. The numbers are those of a run without
            interruption. Otherwise the first checkpoint of this run takes the place of those of an earlier one. No
            other file or folder in `output` is touched.

    On a processor, the process keeps the memory that a step frees, for the next one: see `zoo.training.memory`.

    Raises `MediaError` for data that are none of the model's medium, and `TrainingError` where the loss is not finite
    and where another training is at work in `output`.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    items, place = as_dataset(data), None if output is None else Path(output)
    # A frozen player's parameters get no gradient in the others' turns, which plain data parallelism takes for an
    # error.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=len(_players(model)) > 1, broadcast_buffers=False)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[parallel])
    if config.accumulate < 1 or config.batch_size % (accelerator.num_processes * config.accumulate):
        parts = f"{accelerator.num_processes} processes times {config.accumulate} parts"
        raise ValueError(f"batch_size {config.batch_size} does not divide over {parts}")
    if isinstance(model, GenerativeModel):
        look_at(model, items)
    model.to(accelerator.device).train()
    keep_memory()
    many_cards = accelerator.num_processes > 1 and accelerator.device.type == "cuda"
    with (
        state.alone(place if accelerator.is_main_process else None),
        _synchronised(model) if many_cards else contextlib.nullcontext(),
    ):
        run = _Run(model, config, place, accelerator)
        found = state.newest(place) if resume else None
        if found is not None:
            run.restore(found)
        elif isinstance(model, Trainable):
            model.adapt(items)
            run.start_alike()
        wrapped = accelerator.prepare(model)
        shown = accelerator.is_main_process
        with Log(model, place, config.steps, run.step, shown) as log:
            run.go(wrapped, items, log)
        run.take_average()
    model.eval()
    return Run(run.history, run.seconds, run.skipped)


def _players(model: nn.Module) -> dict[str, Player]:
    return model.players() if isinstance(model, Trainable) else {"model": Player([model])}


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


class _Turn:
    """One player's own: its parameters, its optimiser and the schedule of its learning rate."""

    optimiser: torch.optim.Optimizer

    def __init__(self, parameters: list[nn.Parameter], settings: Optimiser, steps: int):
        self.parameters, self.settings, self.steps = parameters, settings, steps
        rate, betas, decay = settings.learning_rate, settings.betas, settings.weight_decay
        if settings.kind == "adamw":
            # In one pass over all parameters: a processor needs a sixth of the time for many small ones.
            self.optimiser = torch.optim.AdamW(parameters, rate, betas, weight_decay=decay, fused=True)
        else:
            self.optimiser = torch.optim.Adamax(parameters, rate, betas, eps=1e-3, weight_decay=decay)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        warm = min(1.0, (step + 1) / max(1, self.settings.warmup_steps))
        done = step / self.steps
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
        factors = {"cosine": cosine, "exponential": 0.01**done, "constant": 1.0}
        return self.settings.learning_rate * (warm * factors[self.settings.schedule])

    def take(self, step: int) -> None:
        """Step with the gradients that there are."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step)
        self.optimiser.step()


class _Run:
    """The state of a run: step, weights, average, optimisers, history; what a checkpoint holds."""

    def __init__(self, model: nn.Module, config: TrainingConfig, output: Path | None, accelerator: "Accelerator"):
        self.model, self.config, self.output, self.accelerator = model, config, output, accelerator
        players = _players(model)
        others = {id(p) for name, pl in players.items() if name != "model" for m in pl.modules for p in m.parameters()}
        self.turns: dict[str, _Turn] = {}
        for name, player in players.items():
            own = [p for module in player.modules for p in module.parameters() if p.requires_grad]
            # The model may own the other players as submodules; their parameters are theirs.
            own = [p for p in own if name != "model" or id(p) not in others]
            self.turns[name] = _Turn(own, config.optimiser_of(player), config.steps)
        # The statistics of batch normalisation belong to the weights: they are averaged together.
        measured = [t for m in model.modules() if isinstance(m, BATCH_NORM) for t in (m.running_mean, m.running_var)]
        self.averaged: list[Tensor] = [*self.turns["model"].parameters, *(t for t in measured if t is not None)]
        self.average = [full_precision(tensor.detach()).clone() for tensor in self.averaged]
        self.buffers = list(model.buffers())
        """Among them what a forward pass notes of its batch: statistics, running estimates."""
        self.norms: list[float] = []
        """Gradient norms of the last steps that had finite ones, where some are left out."""
        self.step, self.seconds, self.skipped = 0, 0.0, 0
        self.history: list[dict[str, float]] = []
        self.broken: set[str] = set()

    def start_alike(self) -> None:
        """Have every process start from what the main process has adapted to the data."""
        for tensor in [*self.model.parameters(), *self.buffers]:
            broadcast(tensor.data)
        self.average = [full_precision(tensor.detach()).clone() for tensor in self.averaged]

    def go(self, wrapped: nn.Module, data: Items, log: Log) -> None:
        """Step until the end or the time limit."""
        config, device = self.config, self.accelerator.device
        start, before = time.monotonic(), self.seconds
        pending: list[dict[str, Tensor]] = []
        place = self.accelerator.process_index, self.accelerator.num_processes
        for batch, errors in load(data, self.model, config, self.step, *place, self.noise_seed()):
            for error in {str(error) for error in errors} - self.broken:
                warnings.warn(f"skipped: {error}", stacklevel=2)
                self.broken.add(error)
            if batch is None:
                raise MediaError(f"not one file of a whole batch could be read; the last: {errors[-1]}")
            # Every step has its own noise, whatever came before: this is what makes a resumed run exact. Losses draw
            # from the generator; the global state serves layers that can draw from nothing else, such as dropout.
            generator = torch.Generator(device).manual_seed(self.noise_seed())
            torch.manual_seed(self.noise_seed())
            batch = randomise(data, move(batch, device), generator)
            pending.append(self.take_turns(wrapped, batch, generator))
            self.step += 1
            log.advance()
            self.seconds = before + time.monotonic() - start
            out_of_time = config.minutes is not None and self.seconds - before > 60 * config.minutes
            last = self.step == config.steps or self.agree(out_of_time)
            saves = last or self.step % config.checkpoint_every == 0
            if saves or self.step % config.log_every == 0:
                # Looking at the loss waits for the device, so it is done for many steps at once.
                log.scalars(self.examine(pending))
                pending = []
            if saves:
                self.save()
            if self.step % config.sample_every == 0:
                log.picture()
            if last:
                break
        if self.broken:
            warnings.warn(f"{len(self.broken)} of {len(data)} files were broken and skipped", stacklevel=2)

    def take_turns(self, wrapped: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Every player's step on one batch; returns the terms of their losses."""
        terms: dict[str, Tensor] = {}
        size = len(batch.x) // self.config.accumulate
        parts = [cut(batch, slice(start, start + size)) for start in range(0, len(batch.x), size)]
        # What one player's turn leaves for the next, for every part of the batch; gone after the step.
        shared: list[Notes] = [{} for _ in parts]
        for player, turn in self.turns.items():
            self.release(player)
            may_skip = bool(self.config.skip_above) and player == "model"
            noted = [buffer.clone() for buffer in self.buffers] if may_skip else []
            losses = self.backward(wrapped, player, parts, shared, generator)
            if losses:
                norm = torch.nn.utils.clip_grad_norm_(turn.parameters, turn.settings.clip_norm)
                if may_skip and self.is_outlier(norm.item()):
                    # What the forward pass noted of it goes too: one NaN would stay in an average for ever.
                    for buffer, before in zip(self.buffers, noted, strict=True):
                        buffer.copy_(before)
                else:
                    turn.take(self.step)
                turn.optimiser.zero_grad(set_to_none=True)
                prefix = "" if player == "model" else f"{player}_"
                terms |= {prefix + name: value for name, value in losses.items()}
                terms[f"{prefix}gradient_norm"] = norm.detach()
        if self.config.skip_above:
            terms["skipped"] = torch.tensor(float(self.skipped))
        self.release(*self.turns)
        # A young average follows the weights closely, or it would remember the initialisation.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [full_precision(tensor.detach()) for tensor in self.averaged], 1 - decay)
        return terms

    def release(self, *players: str) -> None:
        """Give these players' parameters gradients, and the others' none."""
        for name, turn in self.turns.items():
            for parameter in turn.parameters:
                parameter.requires_grad_(name in players)

    def backward(
        self, wrapped: nn.Module, player: str, parts: list[Batch], shared: list[Notes], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Add up one player's gradients over the parts of a batch; returns the mean of its terms, or nothing where it
        sits the step out."""
        sums: dict[str, Tensor] = {}
        device, half = self.accelerator.device.type, self.config.precision == "bf16"
        progress = self.step / self.config.steps
        for index, (part, left) in enumerate(zip(parts, shared, strict=True)):
            waits = index < len(parts) - 1  # processes exchange gradients after the last part
            with self.accelerator.no_sync(wrapped) if waits else contextlib.nullcontext():
                with torch.autocast(device, torch.bfloat16, enabled=half):
                    losses = wrapped(part, player=player, progress=progress, shared=left, generator=generator)
                if not losses:
                    return {}
                self.accelerator.backward(losses["loss"] / len(parts))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / len(parts)
        return sums

    def is_outlier(self, norm: float) -> bool:
        """Whether a step with this gradient norm is to be left out (gradient skipping).

        The median counts such steps too: where all norms grow it follows, and training does not come to a halt. It is
        asked once there are twenty.
        """
        outlier = len(self.norms) >= 20 and norm > self.config.skip_above * statistics.median(self.norms)
        if math.isfinite(norm):
            self.norms = [*self.norms[-99:], norm]
        self.skipped += outlier or not math.isfinite(norm)
        return outlier or not math.isfinite(norm)

    def examine(self, pending: list[dict[str, Tensor]]) -> dict[str, float]:
        """The newest terms, their mean over processes.

        Raises `TrainingError` for a loss that is not finite. Where such steps are skipped, only if all of the `pending`
        steps since the last look were like that.
        """
        first = self.step - len(pending) + 1
        nothing = torch.zeros((), device=self.accelerator.device)  # where every player sat out
        losses = [[value.float() for name, value in terms.items() if name.endswith("loss")] for terms in pending]
        table = torch.stack([sum(values, nothing) for values in losses])
        finite = self.accelerator.reduce(torch.isfinite(table).float(), reduction="mean") == 1
        if not (finite.any() if self.config.skip_above else finite.all()):
            index = int((~finite).nonzero()[0])
            found = {name: round(value.item(), 4) for name, value in pending[index].items()}
            raise TrainingError(
                f"the loss is not finite at step {first + index}: {found}; {state.last_good(self.output)}. "
                "Lower the learning rate or look at the data of that step"
            )
        newest = int(finite.nonzero()[-1])
        terms = {name: value.float().mean() for name, value in pending[newest].items()}
        reduced = self.accelerator.reduce(terms, reduction="mean") if terms else {}
        scalars = {"step": float(self.step)} | {name: value.item() for name, value in reduced.items()}
        self.history.append(scalars)
        return scalars

    def agree(self, stop: bool) -> bool:
        """True in every process where one wants to stop."""
        if self.config.minutes is None or self.accelerator.num_processes == 1:
            return stop
        flag = torch.tensor(float(stop), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def noise_seed(self) -> int:
        """A seed of its own for every step and process of a run."""
        return ((self.config.seed * 1_000_003 + self.step) * 1009 + self.accelerator.process_index) % 2**63

    def take_average(self) -> None:
        """Put the averaged weights into the model."""
        if self.config.ema:
            with torch.no_grad():
                for tensor, mean in zip(self.averaged, self.average, strict=True):
                    tensor.copy_(mean)

    def save(self) -> None:
        """Write a checkpoint, in the main process; see `zoo.training.state.write`."""
        if self.output is None:
            return
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            state.write(self.output, self.step, *self.state())
        self.accelerator.wait_for_everyone()

    def state(self) -> state.State:
        """Everything that a resumed run needs."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average/{index}": tensor for index, tensor in enumerate(self.average)}
        groups = {}
        for player, turn in self.turns.items():
            found = turn.optimiser.state_dict()
            groups[player] = found["param_groups"]
            for index, moments in found["state"].items():
                tensors |= {f"optimiser/{player}/{index}/{name}": value for name, value in moments.items()}
        values = {name: getattr(self, name) for name in PROGRESS}
        values |= {"groups": groups, "config": dataclasses.asdict(self.config)}
        return state.State({name: tensor.detach().clone() for name, tensor in tensors.items()}, values)

    def restore(self, folder: Path) -> None:
        """Go back to a checkpoint."""
        tensors, values = state.read(folder)
        then, now = dict(values["config"]), json.loads(json.dumps(dataclasses.asdict(self.config)))
        changed = [name for name in ("steps", "batch_size", "seed") if then[name] != now[name]]
        if changed:
            changes = ", ".join(f"{name} was {then[name]}, is {now[name]}" for name in changed)
            raise TrainingError(f"{folder} belongs to another run ({changes}); choose another output folder")
        if values["step"] > self.config.steps:
            raise TrainingError(f"{folder} is at step {values['step']}, beyond the {self.config.steps} asked for")
        for name in PROGRESS:
            setattr(self, name, values[name])
        self.model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
        for index, average in enumerate(self.average):
            average.copy_(tensors[f"average/{index}"])
        for player, turn in self.turns.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                if key.startswith(f"optimiser/{player}/"):
                    number, name = key.split("/")[2:]
                    like = turn.parameters[int(number)]
                    if tensor.shape == like.shape:  # in the order of memory that the fused step goes by
                        tensor = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
                    moments.setdefault(int(number), {})[name] = tensor
            turn.optimiser.load_state_dict({"state": moments, "param_groups": values["groups"][player]})
