"""Likelihood heads, of decoders and of the chain rule."""

import math

import pytest
import torch

from modalities.images import Images
from modalities.points import Points
from zoo.nn.likelihood import ChainHead, DecoderHead


def test_uniform_models_have_the_bits_that_arithmetic_says():
    x = torch.zeros(2, 1, 28, 28)
    flat = ChainHead(1, 256, "categorical")(torch.zeros(2, 256, 28, 28)).log_prob(x - 1 / 255)
    assert torch.allclose(-flat / (784 * math.log(2)), torch.full((2,), 8.0))
    coin = ChainHead(1, 2)(torch.zeros(2, 1, 28, 28)).log_prob(torch.ones(2, 1, 28, 28))
    assert torch.allclose(-coin, torch.full((2,), 784 * math.log(2)))


def test_a_temperature_divides_logits_and_multiplies_scales():
    for levels in (None, 32):
        numbers = torch.randn(2, 3 * (1 + 2 * 3 + 3), 4)
        warm, cool = (ChainHead(3, levels, components=3)(numbers, t) for t in (1.0, 0.5))
        assert torch.allclose(cool.logits, 2 * warm.logits) and torch.equal(cool.location, warm.location)
        assert torch.allclose(cool.log_scale, warm.log_scale - math.log(2))
    for likelihood in ("bernoulli", "categorical"):
        numbers = torch.randn(2, 3 * (2 if likelihood == "categorical" else 1), 4)
        warm, cool = (ChainHead(3, 2, likelihood)(numbers, t) for t in (1.0, 0.5))
        assert torch.allclose(cool.logits, 2 * warm.logits)


def test_a_likelihood_that_does_not_suit_is_refused():
    for levels, likelihood in ((256, "bernoulli"), (2, "logistic-mixture"), (None, "categorical"), (2, "gaussian")):
        with pytest.raises(ValueError, match="is one of"):
            ChainHead(1, levels, likelihood)


def test_decoders_and_chains_read_one_mixture_from_the_same_numbers():
    """But that of a fresh decoder, whose numbers are about 0, has logistics narrower by exp(-2)."""
    chain, decoder = ChainHead(3, 32, "logistic-mixture", 4), DecoderHead(Images(3, 5, 5, 32), "logistic-mixture", 4)
    assert chain.size == decoder.size == 4 * (1 + 2 * 3 + 3)
    numbers = torch.randn(2, chain.size, 5, 5)
    one, other = chain(numbers), decoder(numbers)
    for name in ("logits", "location", "coefficients"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert torch.allclose(other.log_scale, one.log_scale - 2)


def test_a_decoder_that_does_not_suit_is_refused():
    for medium, likelihood in (
        (Images(levels=256), "bernoulli"),
        (Images(levels=2), "logistic"),
        (Points(2), "logistic"),
    ):
        with pytest.raises(ValueError, match="is one of .*gaussian"):
            DecoderHead(medium, likelihood)
    assert [DecoderHead(medium).name for medium in (Images(levels=2), Images(), Points(2))] == [
        "bernoulli",
        "logistic",
        "gaussian",
    ]
