"""What a pixel of an image depends on, measured and drawn."""

import numpy as np
import torch

from modalities.images import Images
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.autoregressive.pixelcnn import PixelCNN
from zoo.evaluation.receptive_field import draw_receptive_fields, receptive_field

MEDIUM = Images(1, 12, 12, 2)


def test_the_picture_marks_blind_spots_alone():
    """Networks of a depth: the plain one has a blind spot within the rows that it sees, the gated one none there."""
    torch.manual_seed(0)
    plain, gated = PixelCNN(MEDIUM, width=8, blocks=2, head=8), GatedPixelCNN(MEDIUM, 8, 12, 3, head=8)
    x = torch.where(torch.rand(4, 1, 12, 12) < 0.5, 1.0, -1.0)
    seen = [receptive_field(model, x, 8, 4).flatten() for model in (plain, gated)]
    assert all(not field[8 * 12 + 4 :].any() for field in seen)  # no pixel sees itself or later ones
    blind = [int((field[: 8 * 12 + 4] == 0).sum()) for field in seen]
    assert blind[0] > 20 and blind[1] == 0
    coral = [240, 128, 128]
    shares = []
    for model in (plain, gated):
        pixels = np.asarray(draw_receptive_fields({"it": model}, x))
        shares.append((np.abs(pixels.astype(int) - coral).max(-1) < 3).mean())
    assert shares[0] > 0.05 and shares[1] < 0.005  # of the second, the mark in the legend
    both = draw_receptive_fields({"plain": plain, "gated": gated}, x)
    assert both.width > 1.5 * draw_receptive_fields({"it": plain}, x).width
