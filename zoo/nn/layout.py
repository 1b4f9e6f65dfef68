"""How networks lie in memory."""

import torch
from torch import nn


def channels_last(module: nn.Module, format: torch.memory_format = torch.channels_last) -> None:
    """Lay the weights of convolutions out with their channels last, the fast form where features lie so too."""
    module.to(memory_format=format)  # type: ignore[call-overload]
