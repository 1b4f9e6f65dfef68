"""Shifted convolutions over images, whole or row by row: they see rows above and columns to the left by padding alone.

The other classes run one over the rows of n images; `state` are the tensors that they carry on, zero at the start.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ShiftedConv2d(nn.Conv2d):
    """A convolution that ends at its own row (kernel 2 x 3) or at its own position (kernel 2 x 2).

    Source: Salimans, Karpathy, Chen, Kingma, "PixelCNN++", 2017.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Shape [batch, channels, height, width], in and out, the sizes divided by the stride."""
        return super().forward(F.pad(x, (1, self.kernel_size[1] - 2, 1, 0)))


class ShiftedRow:
    """A convolution of 2 x 3 a row at a time: keeps the row above and the present one, zeros on either side."""

    def __init__(self, conv: nn.Conv2d, n: int, width: int):
        self.weight, self.stride = conv.weight.detach(), conv.stride
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.rows = self.weight.new_zeros(n, 2, width + 2, conv.in_channels).permute(0, 3, 1, 2)
        self.above, self.present = self.rows[:, :, 0], self.rows[:, :, 1]
        self.inside = self.rows[:, :, 1:, 1:-1]
        self.state = [self.rows]

    def write(self, row: Tensor) -> None:
        """Take in the next row, shape [n, channels, 1, width]."""
        self.above.copy_(self.present)
        self.inside.copy_(row)

    def convolve(self) -> Tensor:
        """The outputs of the present row, shape [n, outputs, 1, width / stride]."""
        return F.conv2d(self.rows, self.weight, self.bias, self.stride)

    def __call__(self, row: Tensor) -> Tensor:
        """Take in the next row and convolve it."""
        self.write(row)
        return self.convolve()


class ShiftedPoint:
    """A convolution of 2 x 2 a position at a time: at the start of a row what the row above gives to all its columns.

    `extra`, shape [outputs, extra channels], are the weights of other features, which are added at the position itself.
    """

    def __init__(self, conv: nn.Conv2d, n: int, width: int, extra: Tensor | None = None):
        weight, self.stride = conv.weight.detach(), conv.stride[1]
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.above = weight[:, :, :1].contiguous(memory_format=torch.channels_last)
        others = weight.new_zeros(len(weight), 0) if extra is None else extra
        left, own = weight[:, :, 1].unbind(2)
        # A column is the other features, then its own: so those of the column before end next to this one's.
        self.weight = torch.cat([left, others, own], 1).T.contiguous()
        inputs, size = conv.in_channels, others.shape[1] + conv.in_channels
        self.row = weight.new_zeros(n, (width + 1) * size)
        self.inputs = self.row.unflatten(1, (width + 1, size))[:, :, -inputs:].transpose(1, 2).unsqueeze(2)
        self.base = weight.new_zeros(width // self.stride, n, len(weight))
        # Slices of tensors that stay are made once: making them costs as much as the product.
        ends = [(column + 2) * size for column in range(width)]
        self.own = [self.row[:, end - inputs : end] for end in ends]
        self.others = [self.row[:, end - size : end - inputs] for end in ends]
        self.seen = [self.row[:, end - size - inputs : end] for end in ends[:: self.stride]]
        self.columns = list(self.base)
        self.state = [self.row]

    def begin(self, addition: Tensor | float = 0.0) -> None:
        """Start a row; the addition, broadcast to [n, outputs, 1, width], is added to its outputs."""
        above = F.conv2d(self.inputs, self.above, self.bias, (1, self.stride))
        copy_columns(above + addition, self.base)

    def step(self, column: int, out: Tensor | None = None) -> Tensor:
        """The outputs at a column, shape [n, outputs]."""
        return torch.addmm(self.columns[column], self.seen[column], self.weight, out=out)


class UpsampledRow:
    """A transposed convolution of 2 x 3 and stride 2: a coarse row gives two, which are kept until the next one."""

    def __init__(self, conv: nn.ConvTranspose2d, n: int, width: int):
        self.weight, self.bias = conv.weight.detach(), conv.bias
        self.kept = self.weight.new_zeros(n, conv.out_channels, 2, width)
        self.rows = self.kept.split(1, 2)
        self.state = [self.kept]

    def write(self, row: Tensor) -> None:
        """Take in a coarse row, shape [n, channels, 1, width / 2]."""
        self.kept.copy_(F.conv_transpose2d(row, self.weight, self.bias, stride=2)[..., 1:])


class UpsampledPoint:
    """A transposed convolution of 2 x 2 and stride 2: a coarse feature gives a block of four, kept for two rows."""

    def __init__(self, conv: nn.ConvTranspose2d, n: int, width: int):
        assert conv.bias is not None
        weight = conv.weight.detach()
        self.weight = weight.permute(0, 2, 3, 1).flatten(1).contiguous()
        self.bias = conv.bias.detach().repeat(4)
        self.kept = weight.new_zeros(width // 2, n, 4 * conv.out_channels)
        self.blocks = list(self.kept)
        fine = self.kept.unflatten(2, (2, 2, -1))
        self.pixels = [[fine[column // 2, :, row, column % 2] for column in range(width)] for row in range(2)]
        self.state = [self.kept]

    def write(self, column: int, x: Tensor) -> None:
        """Take in a coarse feature, shape [n, channels]."""
        torch.addmm(self.bias, x, self.weight, out=self.blocks[column])


def copy_columns(row: Tensor, columns: Tensor) -> None:
    """Copy features [n, channels, 1, width] to a tensor [width, n, channels] that stays where it is."""
    columns.copy_(row.squeeze(2).permute(2, 0, 1))
