"""Latents: arrays of another model's latent space, as a medium of their own, for priors over them."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from modalities.drawing import contact_sheet
from modalities.modality import Modality

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclasses.dataclass(frozen=True)
class Latents(Modality):
    """Vectors [elements] or grids [channels, height, width] of real numbers, or of codes.

    `levels` is the number of codes, None for real numbers. Codes are spaced evenly over [-1, 1] as the levels of images
    are: code k of K is 2k / (K - 1) - 1. Latents mean nothing without the model that made them, so they have no files
    and no data sets.
    """

    dimensions: Sequence[int] = (1, 7, 7)
    levels: int | None = None
    kind: ClassVar[str] = "latents"

    def __post_init__(self) -> None:
        if isinstance(self.dimensions, list):  # as JSON has them
            object.__setattr__(self, "dimensions", tuple(self.dimensions))
        super().__post_init__()
        if len(self.dimensions) not in (1, 3) or min(self.dimensions) < 1:
            raise ValueError(f"dimensions are [elements] or [channels, height, width], got {list(self.dimensions)}")
        if self.levels is not None and self.levels < 2:
            raise ValueError(f"levels are None (real numbers) or at least 2 codes, got {self.levels!r}")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.dimensions)

    def values(self, indices: Tensor) -> Tensor:
        """Codes as indices from 0, any shape, as values in [-1, 1]."""
        return 2 * indices.to(torch.get_default_dtype()) / self._last - 1

    def indices(self, x: Tensor) -> Tensor:
        """Values in [-1, 1], any shape, as the indices of the nearest codes."""
        return ((x.float() + 1) * self._last / 2).round().long().clamp(0, self._last)

    @property
    def _last(self) -> int:
        """The last code."""
        if self.levels is None:
            raise TypeError("these latents are real numbers: they have no codes")
        return self.levels - 1

    def show(self, x: Tensor, columns: int | None = None) -> "Image":
        """A sheet of grey maps of a batch, one for every channel of every item; a vector is a map of one row.

        Real numbers are scaled so that 0 is the middle grey and the largest is white or black.
        """
        batch = self.drawable(x)
        height, width = self.shape[1:] if len(self.shape) == 3 else (1, math.prod(self.shape))
        scale = 1.0 if self.levels else batch.abs().max().clamp(min=1e-12)
        grey = ((batch / scale).clamp(-1, 1) + 1) * 127.5
        return contact_sheet(grey.round().byte().reshape(-1, height, width).numpy(), columns)
