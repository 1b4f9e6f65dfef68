"""One trainer for every model: any number of players, processes and interruptions."""

import contextlib
import math
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from modalities.data import Batch, Items, as_dataset, batches, cut, move, randomise
from modalities.modality import MediaError
from zoo.distributed import broadcast
from zoo.distributions import full_precision
from zoo.model import GenerativeModel, Notes, Trainable
from zoo.training import state
from zoo.training.config import TrainingConfig
from zoo.training.data import load, look_at
from zoo.training.log import Log
from zoo.training.process import keep_memory, noting_interrupts
from zoo.training.record import differences, record
from zoo.training.state import TrainingError
from zoo.training.turns import players_of, turns_of

if TYPE_CHECKING:
    from accelerate import Accelerator

BATCH_NORM = nn.modules.batchnorm._BatchNorm
PROGRESS = ("step", "seconds", "skipped", "norms", "history", "best_step", "best_loss")
"""What a checkpoint holds of a run besides weights, averages and moments."""


class Run(NamedTuple):
    """What came of a training."""

    history: list[dict[str, float]]
    """The logged scalars, one dictionary every `log_every` steps, those of earlier pieces of the run included. Where
    there are validation data, "validation_loss" every `validate_every` steps."""
    seconds: float
    """What all pieces of the run took together."""
    skipped: int
    """Steps that `skip_above` left out."""
    trained: int
    """Steps that this call trained; 0 where the run was finished before."""
    best_step: int | None
    """The step of the lowest validation loss; None without validation data."""


def train(
    model: nn.Module,
    data: object,
    config: TrainingConfig,
    output: str | Path | None = None,
    *,
    validation: object = None,
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
        validation: a data set that is not trained on. Every `validate_every` steps the loss of the averaged weights on
            all of it is logged, always with the same noise; the weights of its lowest value are kept in the checkpoint,
            and are what is returned if the configuration says `best`; see also its `patience`.
        resume: go on from the newest checkpoint in `output`, if there is one. The numbers are those of a run without
            interruption. More `steps` than before train on, from the learning rate that the longer run has there;
            otherwise settings, model and data must be those of the checkpoint. With False, the first checkpoint of this
            run takes the place of those of an earlier one. No other file or folder in `output` is touched.

    It says where it resumed, what it trained, and that a finished run trained nothing. Ctrl-C ends the step, writes a
    checkpoint, and raises KeyboardInterrupt with a sentence; a second one interrupts at once. Where several processes
    train, it interrupts at once. On a processor, the process keeps the memory that a step frees, for the next one: see
    `zoo.training.process`.

    Raises `MediaError` for data that are none of the model's medium, and `TrainingError` where the loss is not finite,
    where another training is at work in `output`, and where its checkpoint is of other settings, models or data.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    items, place = as_dataset(data), None if output is None else Path(output)
    unseen = None if validation is None else as_dataset(validation)
    # A frozen player's parameters get no gradient in the others' turns, which plain data parallelism takes for an
    # error.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=len(players_of(model)) > 1, broadcast_buffers=False)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[parallel])
    if config.accumulate < 1 or config.batch_size % (accelerator.num_processes * config.accumulate):
        parts = f"{accelerator.num_processes} processes times {config.accumulate} parts"
        raise ValueError(f"batch_size {config.batch_size} does not divide over {parts}")
    for part in (items, unseen):
        if isinstance(model, GenerativeModel) and part is not None:
            look_at(model, part)
    if unseen is not None and len(players_of(model)) > 1:
        raise ValueError(
            f"the loss of {type(model).__name__} is a game between its players, and says nothing on validation data; "
            "leave them out"
        )
    if unseen is None and config.patience is not None:
        raise ValueError("patience waits for a lower validation loss, and there are no validation data; give some")
    model.to(accelerator.device).train()
    keep_memory()
    many_cards = accelerator.num_processes > 1 and accelerator.device.type == "cuda"
    with (
        state.alone(place if accelerator.is_main_process else None),
        _synchronised(model) if many_cards else contextlib.nullcontext(),
    ):
        run = _Run(model, config, place, accelerator, record(model, config, items, unseen))
        found = state.newest(place) if resume else None
        if found is not None:
            run.restore(found)
        elif isinstance(model, Trainable):
            model.adapt(items)
            run.start_alike()
        wrapped = accelerator.prepare(model)
        start, shown = run.step, accelerator.is_main_process
        with Log(model, place, config.steps, start, shown) as log:
            if found is not None and not run.finished():
                log.say(f"resumed at step {start:,} of {config.steps:,}")
            run.go(wrapped, items, unseen, log)
            run.end(start, log)
    model.eval()
    return Run(run.history, run.seconds, run.skipped, run.step - start, run.best_step if run.best else None)


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


class _Run:
    """The state of a run: step, weights, average, optimisers, history; what a checkpoint holds."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        output: Path | None,
        accelerator: "Accelerator",
        record: dict[str, object],
    ):
        self.model, self.config, self.output, self.accelerator = model, config, output, accelerator
        self.record = record
        self.turns = turns_of(model, config)
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
        self.best: list[Tensor] = []
        """The averaged weights of the lowest validation loss."""
        self.best_step, self.best_loss = 0, math.inf
        self.broken: set[str] = set()

    def start_alike(self) -> None:
        """Have every process start from what the main process has adapted to the data."""
        for tensor in [*self.model.parameters(), *self.buffers]:
            broadcast(tensor.data)
        self.average = [full_precision(tensor.detach()).clone() for tensor in self.averaged]

    def finished(self) -> bool:
        """Whether all steps are done, or the patience with the validation loss is at its end."""
        waited = (self.step - self.best_step) // self.config.validate_every
        patience = self.config.patience if self.best else None
        return self.step >= self.config.steps or (patience is not None and waited >= patience)

    def go(self, wrapped: nn.Module, data: Items, validation: Items | None, log: Log) -> None:
        """Step until the end, the time limit or Ctrl-C."""
        if self.finished():
            return
        with noting_interrupts(self.accelerator.num_processes == 1) as interrupted:
            self.take_steps(wrapped, data, validation, log, interrupted)
        if self.broken:
            warnings.warn(f"{len(self.broken)} of {len(data)} files were broken and skipped", stacklevel=2)
        if interrupted.is_set() and not self.finished():
            kept = "nothing is kept without an output folder"
            if self.output is not None:
                kept = f"start it again to go on: {state.last_good(self.output)}"
            raise KeyboardInterrupt(f"training stopped at step {self.step:,} of {self.config.steps:,}; {kept}")

    def take_steps(
        self, wrapped: nn.Module, data: Items, validation: Items | None, log: Log, interrupted: Event
    ) -> None:
        """Step until there is a reason to stop, with a checkpoint at the end."""
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
            validates = self.step % config.validate_every == 0 or self.step == config.steps
            stops = self.step == config.steps or self.agree(out_of_time) or interrupted.is_set()
            saves = stops or self.step % config.checkpoint_every == 0
            if saves or self.step % config.log_every == 0 or (validation is not None and validates):
                # Looking at the loss waits for the device, so it is done for many steps at once.
                scalars, pending = self.examine(pending), []
                if validation is not None and validates:
                    scalars["validation_loss"] = self.validate(validation)
                log.scalars(scalars)
            if saves or self.finished():
                self.save()
            if self.step % config.sample_every == 0:
                log.picture()
            if stops or self.finished():
                break

    @torch.no_grad()
    def validate(self, data: Items) -> float:
        """The loss of the averaged weights on validation data; those of the lowest one are kept."""
        model, total = self.model, torch.zeros((), dtype=torch.float64)
        device, half = self.accelerator.device, self.config.precision == "bf16"
        size = max(1, self.config.batch_size // (self.accelerator.num_processes * self.config.accumulate))
        noise = torch.Generator(device).manual_seed(self.config.seed)
        medium, condition = getattr(model, "modality", None), getattr(model, "condition", None)
        count, last = 0, [tensor.clone() for tensor in self.averaged]
        noted = [buffer.clone() for buffer in self.buffers]
        self.take(self.average)
        model.eval()
        for batch in batches(data, size, torch.Generator().manual_seed(self.config.seed), medium, condition):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                losses = model(move(batch, device), player="model", progress=1.0, shared=None, generator=noise)
            if not losses:
                raise ValueError(f"{type(model).__name__} answers no loss on validation data; leave them out")
            total += losses["loss"].double().cpu() * len(batch.x)
            count += len(batch.x)
        self.take(last)
        for buffer, before in zip(self.buffers, noted, strict=True):  # running estimates are those of training
            buffer.copy_(before)
        model.train()
        loss = broadcast(total / count).item()
        if loss < self.best_loss or not self.best:
            self.best, self.best_step = [tensor.clone() for tensor in self.average], self.step
            self.best_loss = math.inf if math.isnan(loss) else loss
        return loss

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
        for player, turn in self.turns.items():
            scalars[f"{'' if player == 'model' else player + '_'}learning_rate"] = turn.rate(self.step - 1)
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

    @torch.no_grad()
    def take(self, weights: list[Tensor]) -> None:
        """Put these weights into the model."""
        for tensor, new in zip(self.averaged, weights, strict=True):
            tensor.copy_(new)

    def end(self, start: int, log: Log) -> None:
        """Put the averaged weights into the model, or the best ones, and say what was done since a step."""
        best = self.best if self.config.best else []
        self.take(best or self.average)
        steps = self.config.steps
        if self.step == start:
            log.say(f"this run was finished before, at step {start:,}: nothing was trained")
        elif start and self.finished():
            log.say(f"trained {self.step - start:,} steps more, {self.step:,} in all")
        elif not self.finished():
            log.say(f"the time is over at step {self.step:,} of {steps:,}; start it again to go on")
        if self.finished() and self.step < steps:
            log.say(f"stopped at step {self.step:,} of {steps:,}: the validation loss was lowest at {self.best_step:,}")
        if best:
            log.say(f"the weights are those of step {self.best_step:,}, of validation loss {self.best_loss:.4g}")

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
        for name, weights in (("average", self.average), ("best", self.best)):
            tensors |= {f"{name}/{index}": tensor for index, tensor in enumerate(weights)}
        groups = {}
        for player, turn in self.turns.items():
            found = turn.optimiser.state_dict()
            groups[player] = found["param_groups"]
            for index, moments in found["state"].items():
                tensors |= {f"optimiser/{player}/{index}/{name}": value for name, value in moments.items()}
        values = {name: getattr(self, name) for name in PROGRESS}
        values |= {"groups": groups, "record": self.record}
        return state.State({name: tensor.detach().clone() for name, tensor in tensors.items()}, values)

    def restore(self, folder: Path) -> None:
        """Go back to a checkpoint. Raises `TrainingError` where it is of other settings, models or data."""
        tensors, values = state.read(folder, [*PROGRESS, "groups", "record"])
        changed = differences(values["record"], self.record)
        if changed:
            raise TrainingError(
                f"{folder} belongs to another run: {'; '.join(changed)}; choose another output folder, or begin anew "
                "(resume=False, or `zoo train` with --anew)"
            )
        if values["step"] > self.config.steps:
            raise TrainingError(f"{folder} is at step {values['step']}, beyond the {self.config.steps} asked for")
        for name in PROGRESS:
            setattr(self, name, values[name])
        self.model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
        for index, average in enumerate(self.average):
            average.copy_(tensors[f"average/{index}"])
        if "best/0" in tensors:
            self.best = [tensors[f"best/{index}"].to(tensor.device) for index, tensor in enumerate(self.average)]
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
