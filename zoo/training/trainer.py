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
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from modalities.data import Batch, as_dataset, cut, fetch, move, randomise
from modalities.modality import MediaError
from zoo.distributed import broadcast
from zoo.distributions import full_precision
from zoo.model import GenerativeModel, Optimiser, Player, Trainable
from zoo.training import state
from zoo.training.config import TrainingConfig
from zoo.training.log import Log
from zoo.training.memory import keep_memory
from zoo.training.state import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator

BATCH_NORM = nn.modules.batchnorm._BatchNorm
LOOKED_AT = 64
"""How many items of a data set are looked at before training."""


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
    data: Any,
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

    data, place = as_dataset(data), None if output is None else Path(output)
    players = model.players() if isinstance(model, Trainable) else {"model": Player([model])}
    # A frozen player's parameters get no gradient in the others' turns, which plain data parallelism takes for an
    # error.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=len(players) > 1, broadcast_buffers=False)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[parallel])
    if config.accumulate < 1 or config.batch_size % (accelerator.num_processes * config.accumulate):
        parts = f"{accelerator.num_processes} processes times {config.accumulate} parts"
        raise ValueError(f"batch_size {config.batch_size} does not divide over {parts}")
    if isinstance(model, GenerativeModel):
        look_at(model, data)
    model.to(accelerator.device).train()
    keep_memory()
    many_cards = accelerator.num_processes > 1 and accelerator.device.type == "cuda"
    with (
        state.alone(place if accelerator.is_main_process else None),
        _synchronised(model) if many_cards else contextlib.nullcontext(),
    ):
        run = _Run(model, players, config, place, accelerator)
        found = state.newest(place) if resume else None
        if found is not None:
            run.restore(found)
        elif isinstance(model, Trainable):
            model.adapt(data)
            run.start_alike()
        wrapped = accelerator.prepare(model)
        shown = accelerator.is_main_process
        with Log(model, place, config.steps, run.step, shown) as log:
            run.go(wrapped, data, log)
        run.take_average()
    model.eval()
    return Run(run.history, run.seconds, run.skipped)


def look_at(model: GenerativeModel, data: Any) -> None:
    """Refuse data that are none of the model's medium, by some items evenly spaced over them.

    Raises `MediaError` for another shape, NaN, values beyond the medium's range, for a model of a mass also values
    between its levels; ValueError for labels that the model cannot take, and where it needs one and there is none.
    """
    chosen = range(0, len(data), -(-len(data) // LOOKED_AT))
    batch, errors = fetch(data, chosen, model.modality, model.condition)
    if batch is None:
        raise MediaError(f"not one of {len(chosen)} items could be read; the last: {errors[-1]}")
    x = randomise(data, batch, torch.Generator().manual_seed(0)).x
    if getattr(model, "discrete", False):
        model.modality.check_levels(x)
    else:
        model.modality.check_range(x)
    if model.condition is None and batch.condition is not None:
        raise ValueError(
            f"{type(model).__name__} is unconditional and the data have labels; leave them out, or give the model a "
            "condition"
        )
    if model.condition is not None and batch.condition is None:
        raise ValueError(
            f"{type(model).__name__} is told {model.condition.kind} and the data have no labels; give pairs of an item "
            "and its label"
        )


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

    def __init__(self, parameters: list[nn.Parameter], settings: Optimiser, steps: int):
        self.parameters, self.settings, self.steps = parameters, settings, steps
        kind: Any = torch.optim.AdamW if settings.kind == "adamw" else torch.optim.Adamax
        choices: dict[str, Any] = {"lr": settings.learning_rate, "betas": settings.betas}
        # AdamW in one pass over all parameters: a processor needs a sixth of the time for many small ones.
        choices |= {"weight_decay": settings.weight_decay}
        choices |= {"fused": True} if settings.kind == "adamw" else {"eps": 1e-3}
        self.optimiser = kind(parameters, **choices)
        self.schedule_from(0)

    def schedule_from(self, step: int) -> None:
        """Set the learning rate of a step, and those after it."""
        for group in self.optimiser.param_groups:
            group["initial_lr"] = self.settings.learning_rate
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._factor, last_epoch=step - 1)

    def _factor(self, step: int) -> float:
        """The learning rate of a step, as a fraction of its peak."""
        warm = min(1.0, (step + 1) / max(1, self.settings.warmup_steps))
        done = step / self.steps
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
        return warm * {"cosine": cosine, "exponential": 0.01**done, "constant": 1.0}[self.settings.schedule]


class _Run:
    """The state of a run: step, weights, average, optimisers, history; what a checkpoint holds."""

    def __init__(
        self,
        model: nn.Module,
        players: dict[str, Player],
        config: TrainingConfig,
        output: Path | None,
        accelerator: "Accelerator",
    ):
        self.model, self.config, self.output, self.accelerator = model, config, output, accelerator
        others = {id(p) for name, pl in players.items() if name != "model" for m in pl.modules for p in m.parameters()}
        self.turns: dict[str, _Turn] = {}
        for name, player in players.items():
            own = [p for module in player.modules for p in module.parameters() if p.requires_grad]
            # The model may own the other players as submodules; their parameters are theirs.
            own = [p for p in own if name != "model" or id(p) not in others]
            self.turns[name] = _Turn(own, config.optimiser_of(player), config.steps)
        batch_norms = [m for m in model.modules() if isinstance(m, BATCH_NORM)]
        # The statistics of batch normalisation belong to the weights: they are averaged together.
        measured = [tensor for m in batch_norms for tensor in (m.running_mean, m.running_var) if tensor is not None]
        self.averaged: list[Tensor] = [*self.turns["model"].parameters, *measured]
        self.average = [full_precision(tensor.detach()).clone() for tensor in self.averaged]
        self.buffers = list(model.buffers())
        """Among them what a forward pass notes of its batch: statistics, running estimates."""
        self.norms: list[float] = []
        """Gradient norms of the last steps that had finite ones, where some are left out."""
        self.skipped = 0
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.broken: set[str] = set()

    def start_alike(self) -> None:
        """Have every process start from what the main process has adapted to the data."""
        for tensor in [*self.model.parameters(), *self.buffers]:
            broadcast(tensor.data)
        self.average = [full_precision(tensor.detach()).clone() for tensor in self.averaged]

    def go(self, wrapped: nn.Module, data: Any, log: Log) -> None:
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
            batch = randomise(data, move(batch, device), generator)
            pending.append(self.take_turns(wrapped, batch, generator))
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

    def take_turns(self, wrapped: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Every player's step on one batch; returns the terms of their losses."""
        terms: dict[str, Tensor] = {}
        size = len(batch.x) // self.config.accumulate
        parts = [cut(batch, slice(start, start + size)) for start in range(0, len(batch.x), size)]
        # What one player's turn leaves for the next, for every part of the batch; gone after the step.
        shared: list[dict[str, Any]] = [{} for _ in parts]
        for player, turn in self.turns.items():
            for other, theirs in self.turns.items():
                for parameter in theirs.parameters:
                    parameter.requires_grad_(other == player)
            may_skip = bool(self.config.skip_above) and player == "model"
            noted = [buffer.clone() for buffer in self.buffers] if may_skip else []
            losses = self.backward(wrapped, player, parts, shared, generator)
            if losses:
                norm = torch.nn.utils.clip_grad_norm_(turn.parameters, turn.settings.clip_norm)
                if may_skip and self.is_outlier(norm.item()):
                    # What the forward pass noted of such a batch goes with it: one NaN would stay in an average for
                    # ever.
                    for buffer, before in zip(self.buffers, noted, strict=True):
                        buffer.copy_(before)
                else:
                    turn.optimiser.step()
                turn.optimiser.zero_grad(set_to_none=True)
                prefix = "" if player == "model" else f"{player}_"
                terms |= {prefix + name: value for name, value in losses.items()}
                terms[f"{prefix}gradient_norm"] = norm.detach()
            with warnings.catch_warnings():  # of a step that was left out: the schedule goes on all the same
                warnings.simplefilter("ignore", UserWarning)
                turn.schedule.step()
        if self.config.skip_above:
            terms["skipped"] = torch.tensor(float(self.skipped))
        for turn in self.turns.values():
            for parameter in turn.parameters:
                parameter.requires_grad_(True)
        # A young average follows the weights closely, or it would remember the initialisation.
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [full_precision(tensor.detach()) for tensor in self.averaged], 1 - decay)
        return terms

    def backward(
        self,
        wrapped: nn.Module,
        player: str,
        parts: list[Batch],
        shared: list[dict[str, Any]],
        generator: torch.Generator,
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
        outlier = not math.isfinite(norm)
        if not outlier:
            outlier = len(self.norms) >= 20 and norm > self.config.skip_above * statistics.median(self.norms)
            self.norms = [*self.norms[-99:], norm]
        self.skipped += outlier
        return outlier

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

    def loader(self, data: Any) -> Iterator[tuple[Batch | None, list[MediaError]]]:
        """The batches from the present step on, those of this process."""
        from torch.utils.data import DataLoader

        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        return iter(
            DataLoader(
                _Fetch(data, self.model),
                batch_sampler=_Order(len(data), self.config, self.step, process, processes),
                collate_fn=_identity,
                num_workers=self.config.workers,
                generator=torch.Generator().manual_seed(self.noise_seed()),
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
        values = {
            "step": self.step,
            "seconds": self.seconds,
            "groups": groups,
            "norms": self.norms,
            "skipped": self.skipped,
            "history": self.history,
            "config": dataclasses.asdict(self.config),
        }
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
        self.step, self.seconds, self.history = values["step"], values["seconds"], values["history"]
        self.norms, self.skipped = values.get("norms", []), values.get("skipped", 0)
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
            turn.schedule_from(self.step)


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
    """A data set that is asked for whole batches, collated by the model's medium and condition if it has any."""

    def __init__(self, data: Any, model: nn.Module):
        self.data = data
        self.medium, self.condition = getattr(model, "modality", None), getattr(model, "condition", None)

    def __getitems__(self, indices: list[int]) -> tuple[Batch | None, list[MediaError]]:
        return fetch(self.data, indices, self.medium, self.condition)


def _identity(batch: Any) -> Any:
    return batch
