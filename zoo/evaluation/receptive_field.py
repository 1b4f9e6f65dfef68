"""How much a pixel's distribution depends on every other pixel of an image: the receptive field as it is used."""

import copy

import torch
from torch import Tensor

from zoo.autoregressive.chain import Autoregressive


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
