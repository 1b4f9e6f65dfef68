"""The VQ-VAE: its codebook against a step by hand, straight-through gradients, restarts, training."""

import math

import pytest
import torch
from torch import nn

from modalities.data import Arrays, Batch
from modalities.images import Images
from tests.toys import data_for, generator
from zoo.distributions import Bernoulli, DiscretizedLogistic
from zoo.training import TrainingConfig, train
from zoo.variational.vq import VQVAE, UniformCodes

GRID = Images(1, 4, 4, 2)


def small(medium=GRID, **changes):
    torch.manual_seed(0)
    return VQVAE(medium, **dict(codes=5, dimensions=3, downsampling=2, width=4, blocks=1) | changes)


class Fixed(nn.Module):
    """An encoder that answers the same vectors, whatever the items."""

    def __init__(self, z):
        super().__init__()
        self.z = nn.Parameter(z)

    def forward(self, x):
        return self.z


def test_a_step_of_the_codebook_is_the_one_by_hand():
    model = small(Images(1, 2, 4, 2), codes=3, dimensions=2, decay=0.9).train()
    model.codebook.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]))
    model.usage.copy_(torch.tensor([4.0, 1.0, 2.0]))
    # Two positions, [batch, dimensions, 1, 2]: the vectors are (1, 0), (9, 1), (11, 3), (-1, 2).
    model.encoder = Fixed(torch.tensor([[[[1.0, 9.0]], [[0.0, 1.0]]], [[[11.0, -1.0]], [[3.0, 2.0]]]]))
    x = torch.ones(2, 1, 2, 4)
    terms = model.loss(Batch(x))
    assert model.usage.tolist() == pytest.approx([0.9 * 4 + 0.1 * 2, 0.9 * 1 + 0.1 * 2, 0.9 * 2])
    first = [0.1 * (1 - 1) / 3.8, 0.1 * (0 + 2) / 3.8]
    second = [(0.9 * 10 + 0.1 * (9 + 11)) / 1.1, 0.1 * (1 + 3) / 1.1]
    assert torch.allclose(model.codebook, torch.tensor([first, second, [0.0, 10.0]]), atol=1e-6)
    assert terms["log_perplexity"].item() == pytest.approx(math.log(2))
    # To the codes as they were before the step: 1 + (1 + 1) and (1 + 9) + (1 + 4), averaged over two items.
    assert terms["distance"].item() == pytest.approx(9)
    assert terms["loss"].item() == pytest.approx(terms["reconstruction"].item() + 0.25 * 9, rel=1e-5)


def test_the_codebook_stays_where_it_is_in_evaluation():
    model = small().eval()
    before = model.codebook.clone()
    model.loss(Batch(data_for(model, 8)))
    assert torch.equal(model.codebook, before) and model.usage.sum() == 0


def test_the_gradient_goes_straight_through_the_rounding():
    model = small(commitment=0.7)
    model.usage.fill_(1e6)
    x = data_for(model, 6)
    model.encoder = Fixed(model.encoder(x).detach() + torch.randn(6, 3, 2, 2))
    z = model.encoder.z
    rounded = model.embed(model.codes(x)).requires_grad_()
    expected = torch.autograd.grad(-model._likelihood(rounded).log_prob(x).mean(), rounded)[0]
    model.train().loss(Batch(x))["loss"].backward()
    assert torch.allclose(z.grad, expected + 0.7 * 2 * (z - rounded).detach() / 6, atol=1e-6)
    assert not torch.allclose(expected, torch.zeros(()), atol=1e-3)
    again = torch.autograd.grad(-model.eval().decode(z).log_prob(x).mean(), z)[0]
    moved = model.embed(model.codes(x)).requires_grad_()
    assert torch.allclose(again, torch.autograd.grad(-model._likelihood(moved).log_prob(x).mean(), moved)[0], atol=1e-6)


def test_codes_that_are_not_used_start_again_at_encoder_outputs():
    model = small(revival=0.1)
    z = torch.randn(10, 3, 2, 2, generator=generator())
    # An even use is 40 vectors over 5 codes: 8; a tenth of it 0.8.
    model.usage.copy_(torch.tensor([8.0, 0.79, 0.81, 0.0, 100.0]))
    before = model.codebook.clone()
    model._revive(z, generator())
    vectors = z.movedim(1, -1).reshape(-1, 3)
    for code, alive in enumerate([True, False, True, False, True]):
        found = (vectors == model.codebook[code]).all(1).any()
        assert torch.equal(model.codebook[code], before[code]) if alive else found
    assert model.usage.tolist() == pytest.approx([8.0, 1.6, 0.81, 1.6, 100.0])


def test_the_first_step_starts_all_codes_and_later_ones_keep_them_in_use():
    model, x = small(codes=16).train(), data_for(small(), 64)
    first = model.loss(Batch(x), generator=generator())
    z = model.encode(x).mean
    assert (z - model.embed(model.codes(x))).square().mean() < 0.3 * z.var()  # random codes would be far away
    assert first["log_perplexity"] > math.log(2) and (model.usage > 0).all()


def test_codes_go_to_vectors_and_back():
    model = small(Images(3, 8, 4, 256)).eval()
    assert model.grid == (4, 2) and model.latents().shape == (1, 4, 2) and model.latents().levels == 5
    codes = torch.randint(5, (7, 4, 2), generator=generator())
    assert torch.equal(model.nearest(model.embed(codes)), codes)
    x = data_for(model, 7)
    found = model.codes(x)
    assert found.shape == (7, 4, 2)
    assert torch.equal(model.reconstruct(x), model.decode(model.embed(found)).mean)
    for item, row, column in [(0, 0, 0), (6, 3, 1)]:
        vector = model.encode(x).mean[item, :, row, column]
        assert (model.codebook - vector).norm(dim=1).argmin() == found[item, row, column]


def test_near_codes_are_told_apart_in_half_precision_training():
    model = small()
    model.codebook.copy_(10 + 0.03 * torch.arange(5)[:, None].expand(5, 3))
    codes = torch.randint(5, (2, 2, 2), generator=generator())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.nearest(model.embed(codes)), codes)


@pytest.mark.parametrize("downsampling, grid", [(2, (8, 4)), (4, (4, 2)), (8, (2, 1))])
def test_grids_and_likelihoods_follow_the_medium(downsampling, grid):
    binary = small(Images(1, 16, 8, 2), downsampling=downsampling)
    grey = small(Images(3, 16, 8, 32), downsampling=downsampling)
    assert binary.grid == grey.grid == grid
    assert binary.encode(torch.ones(2, 1, 16, 8)).mean.shape == (2, 3, *grid)
    likelihood, other = binary.decode(torch.zeros(2, 3, *grid)), grey.decode(torch.zeros(2, 3, *grid))
    assert isinstance(likelihood, Bernoulli) and likelihood.event_shape == (1, 16, 8)
    assert isinstance(other, DiscretizedLogistic) and other.event_shape == (3, 16, 8) and other.levels == 32


def test_uniform_codes_are_uniform_and_narrow_with_the_temperature():
    book = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0], [6.0, 1.0]])
    drawn = UniformCodes(book, (500, 2, 2)).sample(generator=generator())
    values, counts = drawn[:, 0].unique(return_counts=True)
    assert values.tolist() == [0, 2, 4, 6] and ((counts - 500).abs() < 80).all()
    prior = UniformCodes(book, (2, 1, 1), 0.5)
    assert set(prior.sample(generator=generator()).unique().tolist()) <= {1.0, 1.5, 2.5, 3.5, 4.5}
    assert prior.standardise(prior.mean).abs().max() == 0  # the second dimension, which never varies, included
    full = UniformCodes(book, (4, 1, 1))
    noise = full.standardise(book[:, :, None, None])[:, 0]
    assert noise.mean().item() == pytest.approx(0, abs=1e-6) and noise.std(correction=0).item() == pytest.approx(1)


@pytest.mark.parametrize(
    "medium, arguments, reason",
    [
        (Images(1, 5, 4, 2), {}, "multiples of 2, got 5 x 4"),
        (GRID, dict(downsampling=3), "power of 2"),
        (GRID, dict(downsampling=1), "downsampling must be"),
        (GRID, dict(codes=1), "at least 2, at most 1,000,000, got 1"),
        (GRID, dict(revival=0.0), "revival must lie between"),
    ],
)
def test_impossible_sizes_are_refused(medium, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        small(medium, **arguments)


def config(**changes):
    return TrainingConfig(**dict(steps=12, batch_size=16, log_every=1, warmup_steps=2, sample_every=10**9) | changes)


def test_a_resumed_run_has_the_codebook_of_an_uninterrupted_one(tmp_path):
    whole, part, again = small(), small(), small()
    data = Arrays(data_for(whole))
    expected = train(whole, data, config()).history
    train(part, data, config(minutes=0.0), tmp_path)
    assert train(again, data, config(), tmp_path).history == expected
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(whole.codebook, small().codebook)


def test_rows_are_learned_with_the_averaged_weights_in_place():
    torch.manual_seed(0)
    model = VQVAE(GRID, codes=8, dimensions=4, downsampling=2, width=16, blocks=1)
    x = data_for(model, 256)
    train(model, Arrays(x), config(steps=150, batch_size=64, learning_rate=5e-3, log_every=50, ema=0.95))
    with torch.no_grad():
        nats = model.loss(Batch(x))["reconstruction"].item()
    assert nats < 1  # 16 pixels of one bit each are 11.1 nats; rows fit into 4 positions of 8 codes
    assert torch.equal(model.reconstruct(x).sign(), x)
