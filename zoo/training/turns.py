"""The players of a training, each with its optimiser and the schedule of its learning rate."""

import math

import torch
from torch import nn

from zoo.model import Optimiser, Player, Trainable
from zoo.training.config import TrainingConfig


def players_of(model: nn.Module) -> dict[str, Player]:
    """Who takes turns in training a module: what a `Trainable` model says, else the module alone."""
    return model.players() if isinstance(model, Trainable) else {"model": Player([model])}


class Turn:
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


def turns_of(model: nn.Module, config: TrainingConfig) -> dict[str, Turn]:
    """Every player's turn."""
    players = players_of(model)
    others = {id(p) for name, pl in players.items() if name != "model" for m in pl.modules for p in m.parameters()}
    turns = {}
    for name, player in players.items():
        own = [p for module in player.modules for p in module.parameters() if p.requires_grad]
        # The model may own the other players as submodules; their parameters are theirs.
        own = [p for p in own if name != "model" or id(p) not in others]
        turns[name] = Turn(own, config.optimiser_of(player), config.steps)
    return turns
