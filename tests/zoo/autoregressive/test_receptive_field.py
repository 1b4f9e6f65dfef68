"""Which earlier pixels a pixel's distribution can depend on, found by derivatives and compared with what paths allow.

`sees` measures any network; a new one is one more line of `CONES`, or calls it in a file of its own.
"""

from pathlib import Path

import pytest
import torch

from tests.zoo.autoregressive.models import binary, generator, make
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.autoregressive.pixelcnn import PixelCNN

HEIGHT, WIDTH = 9, 13


def sees(build, draws=3):
    """Which pixels every pixel's numbers depend on: booleans [pixels, pixels], row t for pixel t in raster order.

    A derivative that is not zero proves a path. ReLUs close paths for some weights and items and open them for others,
    so several random ones of both are tried.
    """
    found = torch.zeros((), dtype=torch.bool)
    for draw in range(draws):
        model = make(build, draw)
        shape = model.modality.shape
        x = torch.randn(shape[1] * shape[2], *shape, generator=generator(draw), dtype=torch.float64).requires_grad_()
        numbers = model.outputs(x).flatten(2)  # item t of the batch asks for pixel t
        weights = torch.randn(numbers.shape[1], generator=generator(draw), dtype=torch.float64)
        (gradient,) = torch.autograd.grad(torch.einsum("tct,c->", numbers, weights), x)
        found = found | (gradient != 0).any(1).flatten(1)
    return found


def pixels(rule, height=HEIGHT, width=WIDTH):
    """The same shape from a rule (rows up, columns right): whether a pixel there is seen; later pixels never are."""
    places = [divmod(pixel, width) for pixel in range(height * width)]
    offsets = [[(i - up, right - j) for up, right in places] for i, j in places]
    return torch.tensor([[(d > 0 or d == 0 > e) and rule(d, e) for d, e in row] for row in offsets])


def every(d, e):
    return True


def plain(blocks):
    """Left: 3 columns by the 7 x 7 convolution and one a block. Right: 3 by the 7 x 7 once it goes up a row, and one
    with every further row up, each of which takes a block until the 7 x 7 has to give its other two.
    """
    side = 3 + blocks
    return lambda d, e: d <= side and -side <= e <= (min(3 + (d - 1), side) if d > 0 else -1)


def gated(layers, kernel, first_kernel):
    """A rectangle: the vertical stack goes right as freely as left, and up one row more, since it starts one above."""
    side = first_kernel // 2 + (layers - 1) * (kernel // 2)
    return lambda d, e: d <= side + 1 and -side <= e <= side


def plain_model(blocks):
    return lambda: PixelCNN(binary(HEIGHT, WIDTH), width=6, blocks=blocks, head=12)


def gated_model(layers, kernel=3, first_kernel=7):
    medium = binary(HEIGHT, WIDTH)
    return lambda: GatedPixelCNN(medium, width=4, layers=layers, kernel=kernel, first_kernel=first_kernel, head=12)


CONES = {
    "plain-1": (plain_model(1), plain(1)),
    "plain-2": (plain_model(2), plain(2)),
    "plain-5": (plain_model(5), plain(5)),
    "gated-1": (gated_model(1), gated(1, 3, 7)),
    "gated-2": (gated_model(2, 3, 3), gated(2, 3, 3)),
    "gated-5x5": (gated_model(3, 5, 3), gated(3, 5, 3)),
}
"""Networks, and exactly what they see."""


@pytest.mark.parametrize("name", CONES)
def test_a_network_sees_exactly_what_its_paths_reach(name):
    build, rule = CONES[name]
    assert torch.equal(sees(build), pixels(rule))


def test_the_gated_network_sees_every_earlier_pixel_once_deep_enough():
    """From the middle of the picture four layers see all that precedes; ten do from its last pixel, 12 columns on."""
    middle = HEIGHT // 2 * WIDTH + WIDTH // 2
    assert torch.equal(sees(gated_model(4))[middle], pixels(every)[middle])
    assert torch.equal(sees(gated_model(10)), pixels(every))


def test_the_last_pixel_of_the_bundled_networks_sees_as_many_as_the_page_says():
    page = (Path(__file__).parents[3] / "docs" / "autoregressive.md").read_text(encoding="utf-8")
    for name, rule in (("pixelcnn-mnist", plain(15)), ("gated-pixelcnn-mnist", gated(8, 5, 7))):
        assert f"| `{name}` | {pixels(rule, 28, 28)[-1].sum()} of 783 |" in page


def test_the_plain_network_has_a_blind_spot_at_any_depth():
    """Twelve blocks reach all of the picture to the left, and still nothing beyond d + 2 columns right, d rows up."""
    found, blind = sees(plain_model(12)), pixels(lambda d, e: e > d + 2)
    assert blind.sum() == 990 and torch.equal(found, pixels(every) & ~blind)


def test_a_colour_sees_the_earlier_colours_of_its_pixel_and_all_colours_before_it():
    model = make(lambda: PixelCNN(binary(3, 4, 3), width=6, blocks=2, head=12))
    x = torch.randn(8, 3, 3, 4, generator=generator(), dtype=torch.float64).requires_grad_()
    numbers = model.outputs(x)
    for colour in range(3):
        (gradient,) = torch.autograd.grad(numbers[:, colour, 1, 2].sum(), x, retain_graph=True)
        found = (gradient != 0).any(0)
        assert found[:, 1, 2].tolist() == [earlier < colour for earlier in range(3)]
        assert found[:, 1, 1].all() and found[:, 0].all() and not found[:, 2].any()


def test_masks_keep_the_published_halves_of_the_kernels():
    """(k^2 - 1) / 2 of k^2 weights with mask A, (k^2 + 1) / 2 with B."""
    model = PixelCNN(binary(5, 5), width=4, blocks=1, head=3)
    assert model.first.mask.sum() == 8 * 1 * 24
    assert model.blocks[0].spread.mask.sum() == 4 * 4 * 5
    points = [model.blocks[0].reduce, model.blocks[0].restore, model.hidden, model.last]
    assert all(conv.mask.all() for conv in points)
