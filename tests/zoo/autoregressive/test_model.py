"""What must hold for every autoregressive model, whatever its network."""

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare
from torch.utils.flop_counter import FlopCounterMode

from modalities import MediaError
from modalities.data import Batch
from modalities.images import Images
from tests.zoo.autoregressive.models import ENUMERABLE, MODELS, REAL, condition, generator, items, make


@pytest.fixture(params=MODELS)
def model(request):
    return make(MODELS[request.param])


def draws(model, **arguments):
    return model.sample(3, condition=condition(model), generator=generator(5), **arguments)


def numbers(model, x):
    """The likelihood head's numbers at every position, for items in the network's own form."""
    return model.outputs(model.to_unit(x)[0], model.prepare_condition(condition(model), len(x)))


def same(model, a, b):
    return torch.equal(a, b) if model.discrete else torch.allclose(a, b, atol=1e-9, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_all_samplers_give_the_same_item_from_the_same_noise(model, temperature):
    with torch.no_grad():
        slow = draws(model, temperature=temperature, sampler="naive")
    assert same(model, draws(model, temperature=temperature), slow)
    assert same(model, draws(model, temperature=temperature, sampler="fixed-point"), slow)


@torch.no_grad()
def test_incremental_numbers_are_those_of_the_full_pass(model):
    x = model.to_unit(items(model, 2))[0]
    labels = model.prepare_condition(condition(model), 2)
    full = model.outputs(x, labels).flatten(2)
    run, head, flat = model.incremental(2, labels), model.likelihood_head, x.flatten(2)
    size = head.size // head.groups
    for position in range(flat.shape[2]):
        row, column = divmod(position, run.width)
        if column == 0:
            run.begin(row % run.period)
        for group, channels in enumerate(head.slices):
            expected = full[:, group * size : (group + 1) * size, position]
            assert torch.allclose(run.step(column, group), expected, atol=1e-9, rtol=1e-9)
            run.write(column, group, flat[:, channels, position])


@torch.no_grad()
def test_the_incremental_sampler_multiplies_no_more_than_one_full_pass(model):
    x, n = items(model, 2), 2
    with FlopCounterMode(display=False) as full:
        numbers(model, x)
    with FlopCounterMode(display=False) as incremental:
        model.sample(n, condition=condition(model))
    assert 0 < incremental.get_total_flops() <= full.get_total_flops()


@torch.no_grad()
def test_numbers_depend_on_earlier_values_alone(model):
    """Causality, exactly: changing a value moves no number before it in the order, nor its own."""
    x = items(model, 1)
    head, total = model.likelihood_head, math.prod(model.positions)
    size = head.size // head.groups
    inward = model.to_unit(x)[0]
    labels = model.prepare_condition(condition(model), 1)
    before = model.outputs(inward, labels).flatten(2)
    for position in range(total):
        for channel in range(head.channels):
            moved = inward.clone().flatten(2)
            moved[0, channel, position] *= -1
            moved[0, channel, position] += 0.0 if head.levels else 0.37
            after = model.outputs(moved.reshape(inward.shape), labels).flatten(2)
            changed = ~torch.isclose(after, before, rtol=0, atol=0)[0]
            group = channel if head.groups > 1 else 0
            assert not changed[:, :position].any()
            assert not changed[: (group + 1) * size, position].any()


def test_gradients_of_the_loss_are_finite_for_values_at_the_edges(model):
    levels = model.modality.levels
    if levels is None:
        x = torch.cat([items(model, 2), 1e3 * items(model, 2)])
    else:
        steps = torch.tensor([0, min(1, levels - 1), levels - 1])
        x = (steps.double() * 2 / (levels - 1) - 1).reshape(3, *[1] * len(model.modality.shape))
        x = x.expand(3, *model.modality.shape).clone()
    model.loss(Batch(x, model.prepare_condition(condition(model), len(x))))["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@torch.no_grad()
def test_completion_keeps_the_known_and_draws_the_rest_as_ancestral_sampling_does(model):
    whole = draws(model)
    total = math.prod(model.positions)
    known = (torch.arange(total) < total // 2).reshape(1, *model.positions).expand(1, *model.positions)
    known = known.reshape(model.modality.shape) if len(model.modality.shape) == 1 else known
    damaged = torch.where(known, whole, -whole if model.discrete else whole + 9)
    for sampler in ("incremental", "fixed-point", "naive"):
        done = model.complete(damaged, known, condition=condition(model), generator=generator(5), sampler=sampler)
        assert same(model, done, whole)


@torch.no_grad()
def test_completions_of_items_that_the_noise_would_not_give_go_on_from_them(model):
    x = items(model, 3, seed=8)
    known = (torch.arange(math.prod(model.positions)) < math.prod(model.positions) // 2).reshape(model.positions)
    naive, fixed, done = (
        model.complete(x, known, condition=condition(model), generator=generator(5), sampler=sampler)
        for sampler in ("naive", "fixed-point", "incremental")
    )
    mask = known.expand(x.shape)
    assert torch.equal(done[mask], x[mask]) and same(model, done, naive) and same(model, fixed, naive)


@torch.no_grad()
@pytest.mark.parametrize("model", REAL, indirect=True)
def test_densities_follow_the_scale_of_the_data(model):
    x = items(model, 2)
    before = model.log_prob(x, condition=condition(model))
    model.standardise.mean *= 2
    model.standardise.std *= 2
    after = model.log_prob(2 * x, condition=condition(model))
    assert torch.allclose(after, before - x[0].numel() * math.log(2))


def test_what_is_known_must_be_a_prefix(model):
    x = items(model, 2)
    shape = model.modality.shape
    hole = torch.ones(shape, dtype=torch.bool)
    hole.view(-1)[0] = False
    with pytest.raises(ValueError, match="prefix|together"):
        model.complete(x, hole, condition=condition(model))
    with pytest.raises(ValueError, match="booleans"):
        model.complete(x, torch.ones(shape))
    with pytest.raises(ValueError, match="broadcast"):
        model.complete(x, torch.ones((7, 7, 7, 7), dtype=torch.bool))


def passes(model, sampler):
    """How often a sampler runs the whole network."""
    outputs, count = model.outputs, []
    model.outputs = lambda *arguments: count.append(1) or outputs(*arguments)
    draws(model, sampler=sampler)
    model.outputs = outputs
    return len(count)


def test_a_fixed_point_takes_at_most_one_pass_a_draw_and_the_naive_sampler_just_that(model):
    assert 1 <= passes(model, "fixed-point") <= passes(model, "naive") == model.draws


@torch.no_grad()
def test_the_fixed_point_is_known_as_soon_as_nothing_changes():
    model = make(MODELS["gated"])
    model.last.weight.zero_()  # no position depends on another, so that the second pass changes nothing
    assert passes(model, "fixed-point") == 2


@pytest.fixture(params=ENUMERABLE)
def small(request):
    return make(ENUMERABLE[request.param])


def all_items(model):
    elements = math.prod(model.modality.shape)
    grid = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=elements)), dtype=torch.float64)
    return grid.reshape(-1, *model.modality.shape)


@torch.no_grad()
def test_probabilities_sum_to_one(small):
    assert small.log_prob(all_items(small)).exp().sum().item() == pytest.approx(1, abs=1e-12)


@torch.no_grad()
def test_samples_are_as_frequent_as_the_likelihood_says(small):
    n = 50_000
    x = small.float().sample(n, generator=generator(1))
    weights = 2 ** torch.arange(x[0].numel() - 1, -1, -1)
    counts = torch.bincount(((x.flatten(1) > 0) * weights).sum(1), minlength=int(2 ** x[0].numel()))
    expected = small.log_prob(all_items(small).float()).double().exp() * n
    rare = expected < 5
    observed = torch.cat([counts[~rare].double(), counts[rare].sum()[None].double()])
    predicted = torch.cat([expected[~rare], expected[rare].sum()[None]])
    kept = predicted > 0
    assert chisquare(observed[kept], predicted[kept] * observed[kept].sum() / predicted[kept].sum()).pvalue > 1e-3


def test_the_model_of_another_bit_depth_refuses_the_pixels():
    model = make(MODELS["gated-mixture"])
    fine = torch.full((1, *model.modality.shape), Images(3, 4, 5).levels / 255 - 1, dtype=torch.float64)
    with pytest.raises(MediaError, match="32 levels"):
        model.log_prob(fine)
