"""What PixelCNN++ alone promises: nothing unseen, dropout in training alone, and a start of even size."""

import itertools

import pytest
import torch

from modalities.images import Images
from modalities.points import Points
from tests.zoo.autoregressive.models import binary, generator, items, make
from zoo.autoregressive.pixelcnn_pp import PixelCNNPlusPlus
from zoo.conditions import Classes

THREE = Classes.numbered(3)


@pytest.mark.parametrize("blocks", [1, 3])
def test_every_earlier_pixel_is_seen_but_for_the_far_ends_of_odd_rows(blocks):
    rows, columns = 8, 12
    model = make(lambda: PixelCNNPlusPlus(Images(3, rows, columns, 32), width=3, blocks=blocks, components=2))
    total = rows * columns
    x = items(model, 1).repeat(total, 1, 1, 1).requires_grad_()
    numbers = model.outputs(x).flatten(2)
    # Item t gives the gradient of position t's numbers: all rows of the Jacobian by one backward pass.
    numbers[range(total), :, range(total)].mul(torch.randn(numbers.shape[1], generator=generator())).sum().backward()
    seen = x.grad.flatten(2) != 0
    row, column = torch.arange(total) // columns, torch.arange(total) % columns
    up, left = row[:, None] - row, column[:, None] - column
    reach = 4 * blocks + 2
    far = (row[:, None] % 2 == 1) & (((up == 0) & (left > reach)) | ((up == 1) & (left < -reach)))
    earlier = torch.ones(total, total, dtype=torch.bool).tril(-1)
    assert far.any() == (blocks == 1)
    assert torch.equal(seen, (earlier & ~far)[:, None].expand_as(seen))


@torch.no_grad()
def test_incremental_numbers_are_right_over_many_blocks_of_coarse_pixels():
    """The shared questions ask small images; these have several rows and columns at the coarsest resolution."""
    model = make(lambda: PixelCNNPlusPlus(Images(3, 12, 8, 32), width=4, blocks=2, components=2, condition=THREE))
    x, labels = items(model, 2), torch.tensor([0, 2])
    expected = model.outputs(x, labels).flatten(2)
    run = model.incremental(2, labels)
    for position, value in enumerate(x.flatten(2).unbind(2)):
        row, column = divmod(position, run.width)
        if column == 0:
            run.begin(row % run.period)
        assert torch.allclose(run.step(column, 0), expected[:, :, position], atol=1e-9)
        run.write(column, 0, value)


@torch.no_grad()
def test_all_that_can_follow_a_row_sums_to_the_row():
    """Items of 4 x 4 pixels, the smallest there are, are too many to list: the first row's 16 and what follows one."""
    model = make(lambda: PixelCNNPlusPlus(binary(4, 4), width=3, blocks=1))
    firsts = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4))).double().reshape(-1, 1, 1, 4)
    rests = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=12))).double().reshape(-1, 1, 3, 4)
    logits = model.outputs(torch.cat([firsts, rests[: len(firsts)]], 2))[:, :, :1]
    rows = torch.sigmoid(logits * firsts).flatten(1).prod(1)
    assert rows.sum().item() == pytest.approx(1, abs=1e-12)
    following = model.log_prob(torch.cat([firsts[6:7].expand(len(rests), -1, -1, -1), rests], 2)).exp().sum()
    assert following.item() == pytest.approx(rows[6].item(), rel=1e-12)


def test_dropout_acts_in_training_alone():
    model = make(lambda: PixelCNNPlusPlus(Images(1, 4, 8, 32), width=4, blocks=1, dropout=0.5))
    plain = make(lambda: PixelCNNPlusPlus(Images(1, 4, 8, 32), width=4, blocks=1))
    x = items(model, 2)
    with torch.no_grad():
        assert torch.equal(model.log_prob(x), plain.log_prob(x))
        model.train(), plain.train()
        torch.manual_seed(0)
        assert not torch.isclose(model.log_prob(x), model.log_prob(x)).any()
        assert torch.equal(plain.log_prob(x), plain.eval().log_prob(x))


@torch.no_grad()
def test_features_start_with_one_size_at_every_depth():
    torch.manual_seed(0)
    model = PixelCNNPlusPlus(Images(3, 16, 16), width=32, blocks=3)
    sizes = []
    for module in model.modules():
        if hasattr(module, "u"):
            module.register_forward_hook(lambda _, __, streams: sizes.extend(s.square().mean().sqrt() for s in streams))
    numbers = model.outputs(items(model, 8).float())
    assert len(sizes) == 2 * (3 * 3 + 2 + 2 + 4 + 4 + 3)
    assert all(0.4 < size < 2 for size in [*sizes, numbers.square().mean().sqrt()])


def test_the_published_size():
    """160 feature maps and 5 blocks have 53.6 million parameters, which grow with the width's square and the blocks."""

    def count(width, blocks):
        model = PixelCNNPlusPlus(Images(3, 32, 32), width, blocks)
        return sum(parameter.numel() for parameter in model.parameters())

    one, two, three = (count(width, 1) + 4 * (count(width, 2) - count(width, 1)) for width in (1, 2, 3))
    total = one + 159 * (two - one) + 159 * 158 // 2 * (three - 2 * two + one)
    assert 53.6e6 < total < 53.7e6


def test_what_does_not_fit_is_refused():
    for medium, reason in ((Images(1, 8, 6), "by 4"), (Images(1, 10, 8), "by 4"), (Points(2), "takes items")):
        with pytest.raises(ValueError, match=reason):
            PixelCNNPlusPlus(medium)
    with pytest.raises(ValueError, match="3 channels of 2 levels"):
        PixelCNNPlusPlus(binary(8, 8, 3))
    for wrong in ({"width": 0}, {"blocks": 0}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a "):
            PixelCNNPlusPlus(binary(8, 8), **wrong)
