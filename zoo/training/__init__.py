"""Training: one trainer for every model, its runs that can be interrupted, and its log."""

from zoo.training.config import TrainingConfig
from zoo.training.state import TrainingError
from zoo.training.trainer import Run, train

__all__ = ["Run", "TrainingConfig", "TrainingError", "train"]
