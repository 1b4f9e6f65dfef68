"""Depthwise convolution with a quick gradient on processors."""

import itertools
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

CONVOLVE = {4: F.conv2d, 5: F.conv3d}
"""By the axes of features with batch and channels."""


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Every channel convolved with a kernel of its own, over a grid of two or three axes that it keeps.

    Arguments: `x`, shape [batch, channels, *grid]; `weight`, shape [channels, 1, *kernel], of odd sizes.

    On a processor the library takes longer for the gradient of the kernel than for all else together: it looks at one
    channel after another. See `_kernel_gradient`.
    """
    if x.device.type == "cpu" and torch.is_grad_enabled() and weight.requires_grad:
        return cast(Tensor, _Depthwise.apply(x, weight, bias))
    return _convolve(x, weight, bias)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return CONVOLVE[x.ndim](x, weight, bias, padding=[size // 2 for size in weight.shape[2:]], groups=len(weight))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        moved = None
        if ctx.needs_input_grad[0]:
            # The transposed convolution is one with the kernel turned round.
            moved = _convolve(gradient, weight.flip(tuple(range(2, weight.ndim))), None)
        bias = gradient.sum((0, *range(2, x.ndim))) if ctx.needs_input_grad[2] else None
        return moved, _kernel_gradient(x, gradient, weight), bias


def _kernel_gradient(x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """What a convolution's kernel is moved by: at every shift, the sum over positions of input times slope.

    That is a depthwise convolution again, of every channel of every item with its slopes for a kernel, and the quick
    forward code computes it. A kernel along one axis has so few shifts that to take them in turn is quicker.
    """
    batch, channels, *grid = x.shape
    sizes = weight.shape[2:]
    if sum(size > 1 for size in sizes) > 1:
        # Channels and items lie next to each other, in strides that the library knows for the quick layout.
        flat = x.permute(*range(2, x.ndim), 0, 1).reshape(1, *grid, -1).movedim(-1, 1)
        slopes = gradient.reshape(-1, 1, *grid)
        padding = [size // 2 for size in sizes]
        found = CONVOLVE[x.ndim](flat, slopes, padding=padding, groups=len(slopes))
        return found.reshape(batch, *weight.shape).sum(0, dtype=torch.promote_types(x.dtype, torch.float32)).to(weight)
    last = (0, *range(2, x.ndim), 1)
    values, slopes = x.permute(last), gradient.permute(last).contiguous()
    margins = [side for size in reversed(sizes) for side in (size // 2, size // 2)]
    padded = F.pad(values, [0, 0, *margins])
    product = torch.empty_like(slopes)
    rows = []
    for shift in itertools.product(*[range(size) for size in sizes]):
        window = [slice(start, start + size) for start, size in zip(shift, grid, strict=True)]
        torch.mul(padded[(slice(None), *window)], slopes, out=product)
        rows.append(product.view(-1, channels).sum(0))
    return torch.stack(rows, 1).reshape(weight.shape).to(weight.dtype)
