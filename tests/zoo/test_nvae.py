"""NVAE: its wiring, its divergences, its flows, what steadies it, and what moves in a hierarchy."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from modalities.data import Batch
from modalities.images import Images
from modalities.points import Points
from modalities.signals import Signals
from tests import toys
from tests.toys import generator
from zoo.conditions import Classes
from zoo.distributions import DiagonalGaussian
from zoo.hierarchy import TopDown
from zoo.model import Variational
from zoo.nn.cells import Downsample, EncoderCell, Upsample
from zoo.nn.convolution import Convolution, SpectralPenalty
from zoo.nn.depthwise import depthwise
from zoo.nn.flows import Flow, FlowedGaussian
from zoo.variational.nvae import NVAE

SMALL = dict(latent=2, width=4, blocks=1, block_cells=2, cells=1, expansion=2)


def make(medium=toys.BINARY, groups=(2, 1), seed=0, **changes):
    torch.manual_seed(seed)
    return NVAE(medium, groups, **(SMALL | changes)).eval()


def lively(model):
    """Weights far from their start, so that no path of the network is too faint to be seen."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize(
    "medium, full, finer, coarsest",
    [
        (Images(1, 28, 28, 2), (32, 32), (8, 8), (4, 4)),
        (Images(3, 10, 7, 256), (16, 8), (4, 2), (2, 1)),
        (Signals(channels=2, length=21), (1, 24), (1, 6), (1, 3)),
        (toys.Clips(), (4, 8, 8), (1, 2, 2), (1, 1, 1)),
    ],
)
def test_items_of_any_size_and_dimension_are_padded_and_cut_again(medium, full, finer, coarsest):
    model = lively(make(medium, (1, 2), blocks=2))
    assert model.grid == full and tuple(model.start.shape[2:]) == coarsest
    x = model.sample(3, generator=generator())
    assert x.shape == (3, *medium.shape)
    z = model.encode(x).mean
    assert [tuple(group.shape[1:]) for group in z] == [(2, *coarsest), (2, *finer), (2, *finer)]
    x.requires_grad_()
    model.eval()
    (slope,) = torch.autograd.grad(sum(group.sum() for group in model.encode(x).mean), x)
    assert (slope != 0).all()  # every element is read, those at the edges too


def test_vectors_and_strange_arguments_are_refused():
    with pytest.raises(ValueError, match="points have the shape"):
        make(Points(dimensions=2))
    with pytest.raises(ValueError, match="at least 1 at every scale"):
        make(groups=(1, 0))
    with pytest.raises(ValueError, match="normalisation is one of none, batch; got 'layer'"):
        make(normalisation="layer")
    wrong = dict(latent=0, width=0, block_cells=0, cells=2.5, expansion=True, components=0, blocks=-1, flows=-1)
    wrong |= dict(spectral=-0.1, warmup=2.0, progressive=math.nan)
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"^{name}.*{value}"):
            make(**{name: value})
    with pytest.raises(ValueError, match="spectral_start must be above 0, or None, got 0"):
        make(spectral=0.1, spectral_start=0.0)
    with pytest.raises(ValueError, match="is told a class: give the condition of these items"):
        make(condition=Classes.numbered(3)).prior(n=2).sample()
    with pytest.raises(ValueError, match="one for each of 3 groups, got 2"):
        make().sample(1, temperature=[1.0, 0.5])
    with pytest.raises(ValueError, match="at least 0"):
        make().sample(1, temperature=[1.0, 0.5, -1.0])


@pytest.mark.parametrize("scale", [0.3, 3.0, 30.0])
def test_the_divergence_is_that_of_the_clamped_normals_and_for_small_ones_the_papers(scale):
    group = lively(make()).groups[2]
    torch.manual_seed(0)
    s, encoded = scale * torch.randn(4, 8, 2, 2), scale * torch.randn(4, 8, 2, 2)
    prior, posterior = group.prior(s), group.posterior(s, encoded)
    expected = kl_divergence(Normal(posterior.mean, posterior.stddev), Normal(prior.mean, prior.stddev))
    assert torch.allclose(posterior.kl(prior)[:, 0], expected.flatten(1).sum(1), rtol=1e-5)
    # The paper's form, with the change of the mean and of sigma; here they are those between the clamped parameters.
    move, ratio = posterior.mean - prior.mean, posterior.std / prior.std
    paper = 0.5 * ((move / prior.std) ** 2 + ratio**2 - (ratio**2).log() - 1)
    assert torch.allclose(posterior.kl(prior)[:, 0], paper.flatten(1).sum(1), rtol=1e-4, atol=1e-5)
    assert posterior.mean.abs().max() <= 5 and posterior.std.min() >= 0.01 and posterior.std.max() <= math.exp(5) + 0.01
    with torch.no_grad():
        z = posterior.rsample((100_000,), generator=generator())
        draws = posterior.log_prob(z) - prior.log_prob(z)
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - expected.flatten(1).sum(1)).abs() < 5 * error + 1e-3).all()


def test_no_change_told_is_the_prior_itself():
    group = lively(make()).groups[2]
    with torch.no_grad():
        group.posterior_net.weight.zero_()
        group.posterior_net.bias.zero_()
    s = torch.randn(2, 8, 2, 2)
    prior, posterior = group.prior(s), group.posterior(s, torch.randn_like(s))
    assert torch.equal(prior.mean, posterior.mean) and torch.equal(prior.std, posterior.std)
    assert torch.equal(group.prior(s, 0.5).std, prior.std / 2)


def test_the_item_moves_every_groups_posterior_and_no_prior():
    model = lively(make())
    x, y = toys.data_for(model, 2), -toys.data_for(model, 2)
    z = model.prior(n=2).sample(generator=generator())
    for a, b in zip(model.encode(x).conditionals(z), model.encode(y).conditionals(z), strict=True):
        assert (a.mean != b.mean).all() and (a.std != b.std).all()
    drawn = model.sample(2, generator=generator())
    model._bottom_up = None  # to sample must not ask the encoder
    assert torch.equal(model.sample(2, generator=generator()), drawn)


def test_a_group_depends_on_those_above_alone():
    model = lively(make())
    z = model.prior(n=1).sample(generator=generator())
    before = model.prior(n=1).conditionals(z)
    for index in range(3):
        moved = tuple(group + (place == index) for place, group in enumerate(z))
        after = model.prior(n=1).conditionals(moved)
        same = [torch.equal(a.mean, b.mean) for a, b in zip(before, after, strict=True)]
        assert same == [place <= index for place in range(3)]
        assert not torch.equal(model.decode(moved).logits, model.decode(z).logits)


def test_upper_groups_stay_and_lower_ones_are_drawn_anew():
    model = lively(make())
    z = model.prior(n=3).sample(generator=generator(0))
    again = model.prior(n=3).sample(upper=z[:2], generator=generator(1))
    assert torch.equal(again[0], z[0]) and torch.equal(again[1], z[1]) and not torch.equal(again[2], z[2])


def test_temperatures_of_single_groups():
    model = lively(make())
    assert torch.equal(model.sample(3, temperature=0.0), model.sample(3, temperature=[0.0, 0.0, 0.0]))
    same = model.sample(3, temperature=0.7, generator=generator())
    assert torch.equal(same, model.sample(3, temperature=[0.7] * 3, generator=generator()))
    z = model.prior(n=2, temperature=[1.0, 0.0, 1.0]).sample(generator=generator())
    assert torch.equal(z[1], model.prior(n=2).conditionals(z)[1].mean) and not torch.equal(z[0], torch.zeros_like(z[0]))


def test_the_temperature_scales_every_groups_standard_deviation():
    model = lively(make())
    z = model.prior(n=4).sample(generator=generator())
    whole, half = (model.prior(n=4, temperature=t).conditionals(z) for t in (1.0, 0.5))
    for a, b in zip(whole, half, strict=True):
        assert torch.equal(b.mean, a.mean) and torch.allclose(b.std, 0.5 * a.std)
    assert (whole[0].std == 1).all()
    assert torch.equal(model.sample(3, generator=generator()), model.sample(3, temperature=1.0, generator=generator()))
    source = generator()
    by_hand: tuple = ()
    while len(by_hand) < 3:
        rest = tuple(torch.zeros_like(group) for group in z[len(by_hand) :])
        by_hand += (model.prior(n=4).conditionals((*by_hand, *rest))[len(by_hand)].rsample(generator=source),)
    assert all(torch.equal(a, b) for a, b in zip(by_hand, z, strict=True))


def test_progressive_training_holds_finer_scales_back():
    three = make(groups=(1, 1, 1), progressive=0.5)
    assert three.progressive_weights(0.0).tolist() == pytest.approx([1.0, 30**0.5, 30.0])
    model = make(groups=(2, 1), warmup=0.0, progressive=0.5)
    assert model.progressive_weights(0.0).tolist() == pytest.approx([1.0, 1.0, 30.0])
    assert model.progressive_weights(0.25).tolist() == pytest.approx([1.0, 1.0, 30**0.5])
    assert model.progressive_weights(0.5).tolist() == model.progressive_weights(1.0).tolist() == [1.0, 1.0, 1.0]
    x = toys.data_for(model, 8)
    early, late = (model.loss(Batch(x), progress=p, generator=generator()) for p in (0.0, 0.5))
    assert early["kl"] == late["kl"] and late["kl/02"] > 0
    more = (early["loss"] - late["loss"]).item()
    assert more == pytest.approx(29 * late["kl/02"].item(), rel=1e-4)


def test_warm_up_balances_groups_and_ends():
    model = make(groups=(2, 1))
    kl = torch.rand(5, 3, requires_grad=True)
    weights = model.balance(kl, 0.5)
    assert not weights.requires_grad and weights.mean().item() == pytest.approx(1.0)
    assert torch.equal(model.balance(kl, 1.0), torch.ones(3))
    # Two groups on 2 x 1 positions count as one each; one on 4 x 2 as eight: with equal KL it pays an eighth.
    equal = model.balance(torch.ones(5, 3), 0.5)
    assert equal[0].item() == pytest.approx(equal[1].item()) and equal[0] / equal[2] == pytest.approx(8.0)
    idle = model.balance(torch.tensor([[1.0, 0.0, 1.0]]), 0.5)
    assert torch.isfinite(idle).all() and idle[1] < idle[0] / 50
    x = toys.data_for(model, 8)
    early, late = (model.loss(Batch(x), progress=p, generator=generator()) for p in (0.0, 0.5))
    total = early["reconstruction"] + early["kl"]
    assert early["loss"] < early["reconstruction"] + 1e-2 * early["kl"] + 1e-3
    assert late["loss"].item() == pytest.approx(total.item(), rel=1e-5)
    assert sum(late[f"kl/{index:02d}"] for index in range(3)).item() == pytest.approx(late["kl"].item(), rel=1e-5)


def test_the_bound_takes_one_pass_and_agrees_with_the_general_one():
    for model in (lively(make()), lively(make(flows=1)), lively(make(normalisation="batch"))):
        x = toys.data_for(model, 6)
        with torch.no_grad():
            own = model.log_prob(x, samples=3, generator=generator())
            general = Variational.log_prob(model, x, samples=3, generator=generator())
        assert torch.allclose(own, general, atol=1e-3)


class LinearHierarchy(Variational):
    """z1 ~ N(0, 1), z2 ~ N(a z1, s^2), x ~ N(b z2 + c z1, t^2): x is normal, so that its density is known."""

    def __init__(self):
        super().__init__()
        self.modality = Points(dimensions=2)
        self.a, self.s, self.t = 0.7, 0.6, 0.5
        self.register_buffer("b", torch.tensor([1.0, -0.5]))
        self.register_buffer("c", torch.tensor([0.3, 0.8]))

    def prior(self, condition=None, *, n=1, temperature=1.0):
        def walk():
            z = yield DiagonalGaussian(torch.zeros(n, 1), torch.tensor(temperature))
            yield DiagonalGaussian(self.a * z, torch.tensor(self.s * temperature))

        return TopDown(walk)

    def encode(self, x, *, condition=None):
        def walk():
            z = yield DiagonalGaussian(0.3 * x[:, :1], torch.tensor(0.8))
            yield DiagonalGaussian(self.a * z + 0.2 * x[:, :1], torch.tensor(0.6))

        return TopDown(walk)

    def decode(self, z, *, condition=None):
        return DiagonalGaussian(z[1] * self.b + z[0] * self.c, torch.tensor(self.t))


def test_the_importance_weighted_bound_reaches_the_exact_density_of_a_linear_hierarchy():
    model = LinearHierarchy()
    x = torch.tensor([[0.5, -0.2], [1.5, 1.0], [-1.0, 0.3]])
    loading = model.a * model.b + model.c
    covariance = torch.outer(loading, loading) + model.s**2 * torch.outer(model.b, model.b) + model.t**2 * torch.eye(2)
    exact = torch.distributions.MultivariateNormal(torch.zeros(2), covariance).log_prob(x).double()
    few, more = (model.log_prob(x.repeat(4000, 1), samples=k, generator=generator()).reshape(4000, 3) for k in (1, 50))
    assert torch.allclose(torch.logsumexp(more, 0) - math.log(4000), exact, atol=0.01)
    assert (few.mean(0) < more.mean(0)).all() and (more.mean(0) < exact + 0.01).all()


@pytest.mark.parametrize("grid", [(2, 2), (1, 5), (2, 2, 2)])
def test_flows_keep_volumes_and_can_be_inverted(grid):
    torch.manual_seed(0)
    flow = lively(Flow(2, grid, 1)).double()
    z = torch.randn(1, 2, *grid, dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(flow, z).reshape(z.numel(), z.numel())
    assert torch.linalg.det(jacobian).item() == pytest.approx(1.0, abs=1e-9)
    assert not torch.allclose(jacobian, torch.eye(z.numel(), dtype=torch.double), atol=1e-3)
    assert torch.allclose(flow.inverse(flow(z)), z, atol=1e-9)
    # One half sees what comes before alone: positions in raster order, channels within a position.
    half = flow.halves[0]
    order = torch.arange(z.numel()).reshape(2, -1).T.flatten()
    within = torch.autograd.functional.jacobian(half, z).reshape(z.numel(), z.numel())[order][:, order]
    assert (within.triu() == 0).all() and (within.tril(-1) != 0).float().sum() >= z.numel() - 1
    # The other half of the cell sees what comes after: together, elements on both sides.
    both = jacobian[order][:, order]
    assert (both.tril(-1) != 0).sum() >= z.numel() - 1 and (both.triu(1) != 0).sum() >= z.numel() - 1


def test_a_flowed_posterior_scores_any_value():
    torch.manual_seed(0)
    flow = lively(Flow(2, (2, 2), 2))
    q = FlowedGaussian(DiagonalGaussian(torch.randn(3, 2, 2, 2), torch.rand(3, 2, 2, 2) + 0.5), flow)
    z = q.rsample(generator=generator())
    drawn = q.log_prob(z)  # by what it came from
    assert torch.allclose(q.log_prob(z.clone()), drawn, atol=1e-3)  # by the inverse
    assert torch.allclose(q.reparameterise(q.standardise(z.clone())), z, atol=1e-4)
    p = DiagonalGaussian(torch.zeros(3, 2, 2, 2), torch.ones(()))
    assert torch.allclose(q.kl(p, z)[:, 0], drawn - p.log_prob(z))


def test_largest_singular_values_are_found_and_have_their_gradient():
    torch.manual_seed(0)
    layers = [Convolution(3, 6, 3, (4, 4)), Convolution(3, 6, 3, (4, 4)), Convolution(6, 3, 1, (4, 4), normalised=True)]
    penalty = SpectralPenalty(layers)
    found = penalty()
    expected = sorted(torch.linalg.svdvals(layer.filters.flatten(1))[0].item() for layer in layers)
    assert sorted(found.tolist()) == pytest.approx(expected, rel=1e-3)
    found.sum().backward()
    left, _, right = torch.linalg.svd(layers[0].weight.detach().flatten(1), full_matrices=False)
    slope = torch.outer(left[:, 0], right[0])
    assert torch.allclose(layers[0].weight.grad.flatten(1), slope, atol=0.05)
    assert layers[2].log_norm.grad.abs().sum() > 0
    with torch.no_grad():
        layers[0].weight += 0.01 * torch.randn_like(layers[0].weight)
    four = penalty()  # four iterations from where the last ones ended are enough
    expected = sorted(torch.linalg.svdvals(layer.filters.flatten(1))[0].item() for layer in layers)
    assert sorted(four.tolist()) == pytest.approx(expected, rel=1e-3)


def test_the_penalty_takes_the_filters_of_flows_as_they_act():
    model = lively(make(flows=1, spectral=0.1))
    flows = [m for m in model.groups[2].flow.modules() if isinstance(m, Convolution)]
    assert all((layer.filters == 0).any() and (layer.weight != 0).all() for layer in flows)
    found = SpectralPenalty(flows)().sum()
    expected = sum(torch.linalg.svdvals(layer.filters.flatten(1))[0] for layer in flows)
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)
    slopes = torch.autograd.grad(found, [layer.weight for layer in flows])
    assert all((slope[layer.filters == 0] == 0).all() for layer, slope in zip(flows, slopes, strict=True))


def test_the_spectral_weight_anneals_and_scales_of_batch_norm_count():
    x = toys.data_for(make(), 8)
    plain = make(normalisation="batch")
    steady = make(normalisation="batch", spectral=0.1)
    annealed = make(normalisation="batch", spectral=0.1, spectral_start=2.0)

    def extra(model, progress):
        model.eval()
        return (
            model.loss(Batch(x), progress=progress, generator=generator())["loss"]
            - plain.loss(Batch(x), progress=progress, generator=generator())["loss"]
        ).item()

    for model in (steady, annealed):
        model.load_state_dict(plain.state_dict(), strict=False)
    singular = steady.penalty().sum().item()
    norms = [m for m in steady.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    whole = singular + len(norms)  # all scales begin at 1
    assert extra(steady, 1.0) == pytest.approx(0.1 * whole, rel=2e-2)
    assert extra(annealed, 1.0) == pytest.approx(0.1 * whole, rel=2e-2)
    assert extra(annealed, 0.15) == pytest.approx(math.sqrt(0.2) * whole, rel=2e-2)
    assert extra(annealed, 0.0) == pytest.approx(2 * whole, rel=2e-2)


def test_statistics_below_temperature_one_are_those_of_samples_and_the_model_keeps_its_own():
    model = lively(make(normalisation="batch"))
    model.train()
    model.loss(Batch(toys.data_for(model, 16)), generator=generator())
    model.eval()
    before = copy.deepcopy(model.state_dict())
    x = toys.data_for(model, 4)
    score = model.log_prob(x, generator=generator())
    first = next(m for m in model.groups[0].cells.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen = []
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad(), model.at_temperature(0.5):
        seen.clear()
        cool = model.decode(model.prior(n=2000, temperature=0.5).sample(generator=generator())).mean
        mean, var = first.running_mean, first.running_var
    hook.remove()
    s = seen[-1]
    assert torch.allclose(mean, s.mean((0, 2, 3)), atol=0.05)
    assert torch.allclose(var, s.var((0, 2, 3)), rtol=0.1, atol=1e-3)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert torch.equal(model.log_prob(x, generator=generator()), score) and not first.training
    drawn = model.sample(2000, temperature=0.5, mean=True, generator=generator())
    assert torch.equal(drawn, cool)  # sampling takes them by itself, and the same ones again
    as_it_stands = model.decode(model.prior(n=2000, temperature=0.5).sample(generator=generator())).mean
    assert not torch.allclose(drawn, as_it_stands, atol=1e-3)
    for temperature in (0.0, 1.0):
        with model.at_temperature(temperature):
            assert torch.equal(first.running_mean, before[name_of(model, first) + ".running_mean"])
    with torch.no_grad():  # other weights have other samples
        next(model.parameters()).add_(1.0)
    with model.at_temperature(0.5):
        assert not torch.equal(first.running_mean, mean)


def name_of(model, wanted):
    return next(name for name, module in model.named_modules() if module is wanted)


def test_statistics_and_power_iterations_are_saved(tmp_path):
    model = make(normalisation="batch", spectral=0.01)
    model.train()
    model.loss(Batch(toys.data_for(model, 16)), generator=generator())
    model.eval().save_pretrained(tmp_path)
    again = NVAE.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert torch.equal(again.penalty.right0, model.penalty.right0) and "penalty.right0" in model.state_dict()
    assert again.penalty.warm and again.groups[0].cells[0].branch[1].num_batches_tracked == 1


def test_weight_normalised_filters_have_their_learned_lengths():
    torch.manual_seed(0)
    layer, plain = Convolution(3, 5, 3, (4, 4), normalised=True), Convolution(3, 5, 3, (4, 4))
    assert torch.allclose(layer.filters, layer.weight, atol=1e-6)
    with torch.no_grad():
        layer.weight *= 7  # the direction alone counts
        layer.log_norm += math.log(2)
        plain.weight.copy_(layer.weight * 2 / 7)
        plain.bias.copy_(layer.bias)
    x = torch.randn(2, 3, 4, 4)
    assert torch.allclose(layer(x), plain(x), atol=1e-5)


def test_the_skips_of_cells_that_change_the_grid():
    torch.manual_seed(0)
    half = Downsample(3, 8, (4, 6), (2, 2), False)
    x = torch.randn(2, 3, 4, 6)
    out = half(x)
    assert out.shape == (2, 8, 2, 3)
    for index, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        expected = half.convolutions[index](F.silu(x)[:, :, i::2, j::2])
        assert torch.allclose(out[:, 2 * index : 2 * index + 2], expected, atol=1e-6)
    double = Upsample(3, 2, (4, 6), False)
    wide = F.interpolate(x[:, :, ::2, ::2], scale_factor=2, mode="bilinear", align_corners=True)
    assert torch.allclose(double(x[:, :, ::2, ::2]), double.convolution(wide), atol=1e-5)


def test_branches_are_scaled_as_published_or_start_small():
    x = torch.randn(2, 4, 4, 4)
    published = EncoderCell(4, 4, (4, 4), "batch", 16).eval()
    assert torch.allclose(published(x), x + 0.1 * published.excite(published.branch(x)), atol=1e-6)
    cells = []
    for depth in (1, 16):
        torch.manual_seed(0)
        cells.append(EncoderCell(4, 4, (4, 4), "none", depth))
    shallow, deep = cells
    assert torch.allclose(deep(x), x + deep.excite(deep.branch(x)), atol=1e-6)
    assert torch.allclose(deep.branch[-1].weight, shallow.branch[-1].weight / 4)
    assert torch.equal(deep.branch[2].weight, shallow.branch[2].weight)


@pytest.mark.parametrize(
    "shape, kernel", [((3, 6, 7, 5), (5, 5)), ((2, 4, 1, 9), (1, 5)), ((2, 4, 3, 5, 4), (5, 5, 5))]
)
def test_the_quick_gradient_of_depthwise_convolutions(shape, kernel):
    torch.manual_seed(0)
    x = torch.randn(*shape, dtype=torch.double, requires_grad=True)
    weight = torch.randn(shape[1], 1, *kernel, dtype=torch.double, requires_grad=True)
    bias = torch.randn(shape[1], dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(depthwise, (x, weight, bias))
    function = F.conv2d if len(kernel) == 2 else F.conv3d
    padding = [size // 2 for size in kernel]
    assert torch.allclose(depthwise(x, weight, bias), function(x, weight, bias, padding=padding, groups=shape[1]))
    with torch.autocast("cpu", torch.bfloat16):
        single = [t.detach().float().requires_grad_() for t in (x, weight, bias)]
        out = depthwise(*single)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    exact = torch.autograd.grad(depthwise(x, weight, bias).square().sum(), (x, weight, bias))
    for mine, theirs in zip(single, exact, strict=True):
        assert (mine.grad - theirs).abs().max() < 0.03 * theirs.abs().max()


@pytest.mark.parametrize("normalisation", ["none", "batch"])
def test_recomputing_gives_the_same_gradients_and_statistics(normalisation):
    models = [make(recompute=recompute, normalisation=normalisation).train() for recompute in (False, True)]
    x = toys.data_for(models[0], 8)
    for model in models:
        model.loss(Batch(x), generator=generator())["loss"].backward()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-4)
    for a, b in zip(models[0].buffers(), models[1].buffers(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_class_moves_the_samples():
    model = lively(make(condition=Classes.numbered(3)))
    a, b = (model.sample(4, condition=label, temperature=0.0) for label in (0, 1))
    assert not torch.equal(a, b)
    with pytest.raises(ValueError, match="classes run from 0 to 2"):
        model.sample(1, condition=3)


def test_an_encoding_in_parts_is_that_of_the_whole(monkeypatch):
    model = lively(make(condition=Classes.numbered(2)))
    x, labels = toys.data_for(model, 5), torch.tensor([0, 1, 1, 0, 1])
    whole, z = model.encode(x, condition=labels), model.prior(labels, n=5).sample(generator=generator())
    monkeypatch.setattr("zoo.model.MOST_AT_ONCE", 2)
    parts, prior = model.encode(x, condition=labels), model.prior(labels, n=5)
    for a, b in (
        (whole.mean, parts.mean),
        (whole.standardise(z), parts.standardise(z)),
        (whole.reparameterise(z), parts.reparameterise(z)),
        ((whole.kl(prior, z), whole.log_prob(z)), (parts.kl(prior, z), parts.log_prob(z))),
    ):
        assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(a, b, strict=True))
    assert torch.equal(parts.rsample(upper=z[:2])[1], z[1]) and not parts.mean[0].requires_grad
    assert torch.allclose(model.reconstruct(x, condition=labels), model.decode(whole.mean, condition=labels).mean)
    with pytest.raises(ValueError, match=r"z must have the shape \[batch, 2, 1, 1\], .*, got \[5, 2, 1, 1\]"):
        model.decode(z[:1])
