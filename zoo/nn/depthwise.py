"""Depthwise convolution with a quick gradient on processors."""

import itertools
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Every channel convolved with a kernel of its own, over a grid of two or three axes that it keeps.

    Arguments: `x`, shape [batch, channels, *grid]; `weight`, shape [channels, 1, *kernel], of odd sizes.

    On a processor the library takes longer for the gradient of the kernel than for all else together: it looks at one
    channel after another. Here the channels lie next to each other, and the kernel's positions are taken in turn.
    """
    if x.device.type == "cpu" and torch.is_grad_enabled() and weight.requires_grad:
        return cast(Tensor, _Depthwise.apply(x, weight, bias))
    return _convolve(x, weight, bias)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    function = F.conv2d if x.ndim == 4 else F.conv3d
    return function(x, weight, bias, padding=[size // 2 for size in weight.shape[2:]], groups=len(weight))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        moved = None
        if ctx.needs_input_grad[0]:
            # The transposed convolution is one with the kernel turned round.
            moved = _convolve(gradient, weight.flip(tuple(range(2, weight.ndim))), None)
        last = (0, *range(2, x.ndim), 1)
        values, slopes = x.permute(last), gradient.permute(last).contiguous()
        margins = [side for size in reversed(weight.shape[2:]) for side in (size // 2, size // 2)]
        padded = F.pad(values, [0, 0, *margins])
        product = torch.empty_like(slopes)
        rows = []
        for shift in itertools.product(*[range(size) for size in weight.shape[2:]]):
            window = [slice(start, start + size) for start, size in zip(shift, x.shape[2:], strict=True)]
            torch.mul(padded[(slice(None), *window)], slopes, out=product)
            rows.append(product.view(-1, len(weight)).sum(0))
        kernel = torch.stack(rows, 1).reshape(weight.shape).to(weight.dtype)
        bias = slopes.view(-1, len(weight)).sum(0) if ctx.needs_input_grad[2] else None
        return moved, kernel, bias
