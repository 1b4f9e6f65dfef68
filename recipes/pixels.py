"""What recipes on pixel models share: samples, and completions of images whose lower half is hidden."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.autoregressive.chain import Autoregressive

if TYPE_CHECKING:
    from PIL.Image import Image


def completions(model: Autoregressive, x: Tensor, times: int, generator: torch.Generator) -> Tensor:
    """Images, the same with their lower halves hidden in grey, and so many rows of completions of what is left."""
    known = torch.arange(x.shape[2])[:, None] < x.shape[2] // 2
    drawn = model.complete(x.repeat(times, 1, 1, 1), known, generator=generator).cpu()
    return torch.cat([x, torch.where(known, x, 0.0), drawn.to(x.dtype)])


def draw_pixel_model(
    model: Autoregressive, x: Tensor, receptive_field: "Image", folder: Path, generator: torch.Generator
) -> "Image":
    """Write samples, completions of the first images of `x` and the given picture; return the samples."""
    columns = min(10, len(x))
    pictures = {
        "samples": model.modality.show(model.sample(60, generator=generator), 10),
        "completions": model.modality.show(completions(model, x[:columns], 4, generator), columns),
        "receptive_field": receptive_field,
    }
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
    return pictures["samples"]
