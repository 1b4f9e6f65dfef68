"""How much a pixel's distribution depends on every other pixel of an image: the receptive field as it is used."""

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.autoregressive.model import Autoregressive

if TYPE_CHECKING:
    from PIL.Image import Image


def receptive_field(model: Autoregressive, x: Tensor, row: int, column: int) -> Tensor:
    """The mean absolute derivative of the outputs at a pixel with respect to every pixel, shape [height, width].

    `x` holds images [batch, channels, height, width], over which it is averaged; 0 is where the network has no path.

    Source: Luo, Li, Urtasun, Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural
    Networks", 2016.
    """
    model = copy.deepcopy(model).double()  # in single precision a faint path may give exactly zero
    x = x.to(model.device, torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(model.outputs(x)[:, :, row, column].sum(), x)
    return gradient.abs().mean((0, 1)).cpu()


def draw_receptive_fields(models: Mapping[str, Autoregressive], x: Tensor) -> "Image":
    """The receptive fields of one pixel in several models, by their titles, on one scale; its blind spot is marked: the
    earlier pixels that the pixel should depend on and does not."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure as Drawing

    from modalities.drawing import render

    height, width = x.shape[2:]
    row, column = 2 * height // 3, width // 3
    strengths = [receptive_field(model, x, row, column) for model in models.values()]
    logs = [torch.where(strength > 0, strength, math.nan).log10() for strength in strengths]
    finite = torch.cat([log[log.isfinite()] for log in logs])
    earlier = torch.arange(height * width).reshape(height, width) < row * width + column

    drawing = Drawing(figsize=(5 * len(models), 4.8), layout="constrained")
    panels = drawing.subplots(1, len(models), squeeze=False)[0]
    for panel, title, strength, log in zip(panels, models, strengths, logs, strict=True):
        image = panel.imshow(log, cmap="viridis", vmin=finite.min().item(), vmax=finite.max().item())
        panel.imshow(torch.where(earlier & (strength == 0), 0.0, math.nan), cmap=ListedColormap(["lightcoral"]))
        panel.plot(column, row, "s", color="red", markersize=6, label="the pixel that is predicted")
        panel.plot([], [], "s", color="lightcoral", label="earlier pixels that it does not depend on")
        panel.set(title=title, xlabel="column", ylabel="row")
    panels[0].legend(loc="lower right", fontsize=8)
    drawing.colorbar(image, ax=list(panels), label="log10 of the mean absolute derivative")
    return render(drawing)
