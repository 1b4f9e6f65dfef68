"""The same questions to every model that can answer them. A new model is one more name in `REAL`."""

import copy
import functools
import json
import math
import types

import pytest
import torch
from safetensors.torch import load_file

from modalities import MediaError
from modalities.data import Batch
from modalities.images import Images
from modalities.meshes import Meshes
from modalities.points import Points
from modalities.signals import Signals
from tests import toys
from tests.toys import generator
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.autoregressive.made import MADE
from zoo.autoregressive.pixelcnn import PixelCNN
from zoo.autoregressive.pixelcnn_pp import PixelCNNPlusPlus
from zoo.autoregressive.pixelrnn import PixelRNN
from zoo.autoregressive.wavenet import WaveNet
from zoo.baselines import GaussianMixture, KernelDensity
from zoo.conditions import Classes
from zoo.configuration import family_name
from zoo.hierarchy import TopDown
from zoo.latent_prior import LatentPrior
from zoo.linear.pca import PCA, ProbabilisticPCA
from zoo.model import Explicit, Fitted, GenerativeModel, Latent, Trainable, Variational
from zoo.morphable.model import MorphableModel
from zoo.variational.autoencoder import Autoencoder
from zoo.variational.nvae import NVAE
from zoo.variational.vae import VAE
from zoo.variational.vq import VQVAE
from zoo.walks import map_latents

GREY = Images(1, 6, 5, 256)
SERIES = Signals(channels=2, length=9)
PLANE = Points(dimensions=2)
SHEET = Meshes(12).on(toys.grid(3, 4)[1])
THREE = Classes(("cat", "dog", "fox"))
SMALL = dict(latent=3, width=4, hidden=8)
DEEP = dict(latent=2, width=4, blocks=1, block_cells=2, cells=1, expansion=2)
CODES = dict(codes=5, dimensions=3, downsampling=2, width=4, blocks=1)


def fitted(cls, medium, **arguments):
    return cls.fit(toys.data_for(with_medium(medium), 60), medium, **arguments)


def with_medium(medium):
    """Something that `data_for` takes the medium of."""
    return types.SimpleNamespace(modality=medium)


def face(colours):
    """A morphable model with all of its parts, or with shape alone."""
    _, faces = toys.grid(3, 4)
    medium = Meshes(12, colours).on(faces, torch.rand(12, 2) if colours else None)
    if not colours:
        return fitted(MorphableModel, medium, shape=5)
    x = toys.data_for(with_medium(medium), 60)
    pairs = (x[:20] + 5 * torch.randn_like(x[:20]), x[:20])
    model = MorphableModel.fit(x, medium, shape=4, colour=2, expression=3, expressions=pairs, landmarks=torch.arange(3))
    return model.with_segments({"nose": torch.arange(5)}).with_attributes(x, {"age": torch.randn(60)})


def prior_of(model, condition=None):
    """A small prior of a model's latents: a network over a grid of codes, or over a vector."""
    medium = model.latents()
    if medium.levels is None:
        return LatentPrior(model, MADE(medium, width=4, layers=1, components=2, condition=condition))
    shape = dict(width=6, layers=2, head=6, first_kernel=3, likelihood="categorical", embedding=3)
    return LatentPrior(model, GatedPixelCNN(medium, condition=condition, **shape))


REAL = {
    "vae-binary": lambda: VAE(toys.BINARY, **SMALL),
    "vae-conditional": lambda: VAE(toys.BINARY, condition=THREE, **SMALL),
    "vae-grey": lambda: VAE(GREY, **SMALL),
    "vae-mixture": lambda: VAE(Images(3, 6, 5, 32), likelihood="logistic-mixture", **SMALL),
    "vae-points": lambda: VAE(PLANE, **SMALL),
    "vae-series": lambda: VAE(SERIES, **SMALL),
    "vae-meshes": lambda: VAE(SHEET, **SMALL),
    "vae-clips": lambda: VAE(toys.Clips(), **SMALL),
    "autoencoder-images": lambda: Autoencoder(GREY, **SMALL),
    "autoencoder-series": lambda: Autoencoder(SERIES, **SMALL),
    "gated-pixelcnn": lambda: GatedPixelCNN(toys.BINARY, width=6, layers=2, head=6),
    "gated-pixelcnn-conditional": lambda: GatedPixelCNN(
        Images(3, 4, 3, 32), 6, 2, head=6, condition=THREE, components=2
    ),
    "pixelcnn": lambda: PixelCNN(toys.BINARY, width=6, blocks=2, head=6),
    "wavenet": lambda: WaveNet(SERIES, width=4, layers=3, skip=6, components=2),
    "wavenet-conditional": lambda: WaveNet(SERIES, width=4, layers=2, skip=6, components=2, condition=THREE),
    "made": lambda: MADE(PLANE, width=8, layers=2, components=3),
    "made-conditional": lambda: MADE(PLANE, width=8, layers=1, components=2, condition=THREE),
    "nvae": lambda: NVAE(toys.BINARY, [1, 2], **DEEP),
    "nvae-batch-norm": lambda: NVAE(toys.BINARY, [1, 1], normalisation="batch", **DEEP),
    "nvae-conditional-flows": lambda: NVAE(toys.BINARY, [1, 1], flows=1, condition=THREE, **DEEP),
    "nvae-series": lambda: NVAE(SERIES, [1, 1], **DEEP),
    "vq-vae": lambda: VQVAE(Images(1, 4, 8, 2), **CODES),
    "vq-vae-grey": lambda: VQVAE(Images(3, 8, 4, 256), **CODES),
    "latent-prior-codes": lambda: prior_of(VQVAE(Images(1, 4, 8, 2), **CODES), THREE),
    "latent-prior": lambda: prior_of(VAE(toys.BINARY, **SMALL)),
    "pixelrnn-row": lambda: PixelRNN(toys.BINARY, "row", width=4, layers=2, head=6),
    "pixelrnn-diagonal": lambda: PixelRNN(Images(3, 4, 3, 32), width=4, layers=2, head=6, components=2),
    "pixelcnn-pp": lambda: PixelCNNPlusPlus(Images(3, 8, 8, 32), 4, 1, dropout=0.5, condition=THREE, components=2),
    "pca": lambda: fitted(PCA, GREY, components=4),
    "probabilistic-pca-images": lambda: fitted(ProbabilisticPCA, GREY, components=2),
    "probabilistic-pca-points": lambda: fitted(ProbabilisticPCA, PLANE, components=1),
    "morphable-model": lambda: face(colours=True),
    "morphable-model-shape": lambda: face(colours=False),
    "gaussian-mixture": lambda: fitted(GaussianMixture, PLANE, components=2),
    "kernel-density": lambda: fitted(KernelDensity, PLANE, bandwidth=0.3),
}


@functools.cache
def made(name: str) -> GenerativeModel:
    """A model by name, the same every time, adapted to its data where they are real numbers."""
    if name.startswith("toy-"):
        return toys.make(name.removeprefix("toy-"))
    torch.manual_seed(0)
    model = REAL[name]().eval()
    if isinstance(model, Trainable):
        scale, shift = (3, 1) if model.modality.levels is None else (1, 0)
        model.adapt(toys.data_for(model, 50) * scale + shift)
    return model


NAMES = [f"toy-{name}" for name in toys.NAMES] + list(REAL)


def ask(kind=GenerativeModel, where=lambda model: True):
    """The question goes to the models of a kind alone."""
    names = [name for name in NAMES if isinstance(made(name), kind) and where(made(name))]
    assert names
    return pytest.mark.parametrize("model", names, indirect=True)


@pytest.fixture
def model(request):
    return copy.deepcopy(made(request.param))


def told(model, n=None):
    """A condition for a model that takes one: the first, or n of them in turn as a batch holds them."""
    if model.condition is None:
        return None
    return 0 if n is None else torch.arange(n) % len(model.condition)


def batch_for(model, n=64):
    return Batch(toys.data_for(model, n), told(model, n))


def parts(z):
    return (z,) if isinstance(z, torch.Tensor) else z


@ask()
def test_samples_have_the_documented_shape_and_values(model):
    x = model.sample(5, generator=generator())
    assert x.shape == (5, *model.modality.shape) and x.is_floating_point()
    model.modality.check(x)
    if getattr(model, "discrete", False):
        model.modality.check_levels(x)


@ask()
def test_same_seed_same_sample(model):
    first, again = model.sample(4, generator=generator(3)), model.sample(4, generator=generator(3))
    other = model.sample(4, generator=generator(4))
    assert torch.equal(first, again) and not torch.equal(first, other)


@ask()
def test_sampling_leaves_the_global_random_state_alone(model):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model.sample(3, generator=generator())
    model.sample(3, temperature=0.5, generator=generator())
    assert torch.equal(before, torch.get_rng_state())


@ask()
def test_temperature_zero_is_deterministic(model):
    first = model.sample(3, condition=told(model), temperature=0.0, generator=generator(1))
    again = model.sample(3, condition=told(model), temperature=0.0, generator=generator(2))
    assert torch.equal(first, again) and torch.allclose(first[0], first[2], atol=1e-6)


@ask()
def test_a_count_is_checked(model):
    with pytest.raises(ValueError, match="n must be a positive whole number"):
        model.sample(0)


@ask(where=lambda model: model.condition is None)
def test_an_unconditional_model_refuses_a_condition(model):
    with pytest.raises(ValueError, match="unconditional"):
        model.sample(2, condition=1)


@ask(where=lambda model: model.condition is not None)
def test_conditions_are_classes_by_name_or_number(model):
    names, size = model.condition.names, len(model.condition)
    by_name, by_number = (model.sample(2, condition=c, generator=generator()) for c in (names[1], 1))
    assert torch.equal(by_name, by_number)
    assert len(model.sample(2, condition=[names[0], names[1]])) == len(model.sample(2, condition=[0, 1])) == 2
    assert len(model.sample(2)) == len(model.sample(2, condition=model.condition.examples(2))) == 2
    for wrong in (size, -1, [0, 1, 0], 0.5, "bird", ["bird", 0]):
        with pytest.raises(ValueError):
            model.sample(2, condition=wrong)


@ask(Trainable)
def test_loss_is_finite_and_gradients_reach_every_parameter(model):
    model.train()
    shared = {}
    for player in model.players():
        terms = model(batch_for(model), player=player, shared=shared, generator=generator())
        assert all(torch.isfinite(value) for value in terms.values())
        terms["loss"].backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:  # the model below a prior
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@ask(Fitted)
def test_a_fitted_model_has_no_loss(model):
    assert not hasattr(model, "loss") and hasattr(type(model), "fit")


@ask((Explicit,), lambda model: isinstance(model, Trainable) and not isinstance(model, LatentPrior))
def test_explicit_loss_is_the_mean_negative_log_probability(model):
    batch = batch_for(model, 8)
    score = functools.partial(model.log_prob, batch.x, condition=batch.condition)
    loss = model.loss(batch, generator=generator())["loss"].item()
    if model.exact:
        assert loss == pytest.approx(-score().mean().item(), abs=1e-5)
        return
    with torch.no_grad():
        draws = torch.stack([score(generator=generator(s)).mean() for s in range(100)])
        losses = torch.stack([model.loss(batch, generator=generator(s))["loss"] for s in range(100)])
    spread = (draws.std() + losses.std()).item() / 10
    assert losses.mean().item() == pytest.approx(-draws.mean().item(), abs=4 * spread + 1e-4)


@ask(Explicit)
def test_log_prob_has_one_number_an_item_and_bits_per_dim_agree(model):
    x = toys.data_for(model, 6)
    score = model.log_prob(x, condition=told(model), generator=generator())
    assert score.shape == (6,) and torch.isfinite(score).all()
    if model.modality.levels is None:
        with pytest.raises(ValueError, match="no levels"):
            model.bits_per_dim(x)
    elif model.discrete and model.exact:
        bits = -score / (model.modality.elements * math.log(2))
        assert torch.allclose(model.bits_per_dim(x, condition=told(model)), bits)


def is_enumerable(model):
    return model.discrete and model.modality.levels == 2 and model.modality.elements <= 12


@ask(Explicit, lambda model: is_enumerable(model) and not isinstance(model, LatentPrior))
def test_masses_sum_to_one_over_all_items(model):
    d = model.modality.elements
    codes = torch.arange(2**d)
    x = (codes[:, None] >> torch.arange(d) & 1).float().mul(2).sub(1).reshape(-1, *model.modality.shape)
    samples = 1 if model.exact else 100
    with torch.no_grad():
        score = model.log_prob(x, condition=told(model), samples=samples, generator=generator())
    assert score.exp().sum().item() == pytest.approx(1.0, abs=1e-4 if model.exact else 0.04)


@ask(Variational)
def test_more_importance_samples_tighten_the_bound(model):
    score = functools.partial(model.log_prob, toys.data_for(model, 16), condition=told(model))
    with torch.no_grad():
        draws = [[score(samples=k, generator=generator(s)).mean() for s in range(6)] for k in (1, 8, 64)]
    bounds, errors = [sum(row) / 6 for row in draws], [torch.stack(row).std() / 6**0.5 for row in draws]
    assert bounds[0] <= bounds[1] + 1e-3 + 3 * errors[0] and bounds[1] <= bounds[2] + 1e-3 + 3 * errors[1]


@ask(Variational)
def test_log_prob_does_not_depend_on_how_draws_are_chunked(model):
    x = toys.data_for(model, 3)
    with torch.no_grad():
        many, *alone = (
            model.log_prob(part, condition=told(model), samples=300, generator=generator(i))
            for i, part in enumerate([x, *x.split(1)])
        )
    assert torch.allclose(many, torch.cat(alone), atol=0.5)  # items paired with draws of others would be nats away


@ask(Variational)
def test_elbo_equals_the_generic_one(model):
    x = toys.data_for(model, 8)
    own = model.elbo(x, condition=told(model), generator=generator(5))
    generic = Variational.elbo(model, x, condition=told(model), generator=generator(5))
    assert torch.allclose(own.total, generic.total, atol=1e-4)
    assert own.kl.ndim == 2 and own.reconstruction.shape == (8,)


@ask(Latent)
def test_latent_moves_have_the_documented_shapes(model):
    x, condition, items = model.sample(3, generator=generator()), told(model), model.modality.shape
    restored = model.reconstruct(x, condition=condition)
    assert restored.shape == x.shape
    for method in ("spherical", "linear"):
        walk = model.interpolate(x, x.flip(0), 5, method=method, condition=condition)
        assert walk.shape == (3, 5, *items)
        assert torch.allclose(walk[:, 0], restored, atol=1e-4)
        assert torch.allclose(walk[:, -1], restored.flip(0), atol=1e-4)
    swept = model.traverse(x, along=[0], values=[-1, 0, 2], condition=condition)
    assert swept.shape == (3, 1, 3, *items)
    prepared = model.prepare_condition(condition, 3)
    with torch.no_grad():
        prior = model.prior(prepared, n=3)
        noise = map_latents(torch.clone, prior.standardise(model.encode(x, condition=prepared).mean))
        parts(noise)[0].flatten(1)[:, 0] = 2
        moved = model.decode(prior.reparameterise(noise), condition=prepared).mean
    assert torch.allclose(swept[:, 0, 2], moved, atol=1e-4)
    assert model.traverse(condition=condition).shape[0] == 1
    with pytest.raises(ValueError, match="dimensions"):
        model.traverse(x, along=[10**9], condition=condition)
    with pytest.raises(ValueError, match="steps"):
        model.interpolate(x, x, 0, condition=condition)


@ask(Latent)
def test_an_attribute_direction_is_the_difference_of_the_groups_means(model):
    x, labels, condition = toys.data_for(model, 12), torch.tensor([0, 1] * 6), told(model)
    direction = model.attribute_direction(x, labels, condition=condition)
    with torch.no_grad():
        prepared = model.prepare_condition(condition, 12)
        noise = model.prior(prepared, n=12).standardise(model.encode(x, condition=prepared).mean)
    for mine, group in zip(parts(direction), parts(noise), strict=True):
        assert torch.allclose(mine, group[1::2].mean(0) - group[::2].mean(0), atol=1e-4)
    moved = model.traverse(x, along=[direction], values=[0.0], condition=condition)[:, 0, 0]
    assert torch.allclose(moved, model.reconstruct(x, condition=condition), atol=1e-4)
    with pytest.raises(ValueError, match="never changes"):
        model.attribute_direction(x, torch.ones(12), condition=condition)


@ask(Latent)
def test_standardising_and_reparameterising_undo_each_other(model):
    prior = model.prior(model.prepare_condition(told(model), 4), n=4)
    with torch.no_grad():
        z = prior.sample(generator=generator())
        back = prior.reparameterise(prior.standardise(z))
    for a, b in zip(parts(z), parts(back), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert isinstance(prior, TopDown) == (type(z) is tuple)


def is_one_tensor(model):
    return not isinstance(model.prior(model.prepare_condition(told(model), 1), n=1), TopDown)


@ask(Latent, is_one_tensor)
def test_latents_are_items_of_their_own_medium(model):
    x = toys.data_for(model, 4)
    medium = model.latents()
    with torch.no_grad():
        posterior = model.encode(x, condition=model.prepare_condition(told(model), 4))
        items = model.to_latents(posterior, generator())
        medium.check_levels(items)
        likelihood = model.decode(model.from_latents(items), condition=model.prepare_condition(told(model), 4))
    assert likelihood.mean.shape == x.shape


@ask()
def test_save_and_load_give_equal_outputs(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert not again.training
    assert torch.equal(model.sample(3, generator=generator()), again.sample(3, generator=generator()))
    assert again.modality == model.modality and again.condition == model.condition
    if isinstance(model, Explicit):
        x = toys.data_for(model, 4)
        assert torch.equal(*(m.log_prob(x, condition=told(m), generator=generator()) for m in (model, again)))
    assert json.loads((tmp_path / "config.json").read_text())["family"] == family_name(type(model))


def test_only_the_model_is_saved(tmp_path):
    toys.make("gan").save_pretrained(tmp_path)
    assert all(name.startswith("generator.") for name in load_file(tmp_path / "model.safetensors"))


@ask()
def test_a_copy_is_saved_alike(model, tmp_path):
    copy.deepcopy(model).save_pretrained(tmp_path / "copy")
    model.save_pretrained(tmp_path / "own")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()


@ask()
def test_other_types_work(model):
    doubled = copy.deepcopy(model).double()
    assert torch.isfinite(doubled.sample(2, generator=generator())).all()
    half = copy.deepcopy(model).bfloat16()
    x = half.sample(2, generator=generator())
    assert x.shape == (2, *model.modality.shape) and torch.isfinite(x).all()
    if isinstance(model, Explicit) and isinstance(model, Trainable):
        items = toys.data_for(model, 4)
        exact, rough = (
            m.log_prob(items, condition=told(m), samples=50, generator=generator()).mean().item() for m in (model, half)
        )
        assert rough == pytest.approx(exact, rel=0.05, abs=0.5)


@ask()
def test_moves_to_another_device(model):
    if torch.cuda.is_available():
        moved = copy.deepcopy(model).cuda()
        assert moved.sample(2, generator=generator()).device.type == "cuda"
    else:  # the meta device has shapes and no numbers: every tensor of the computation must have followed the model
        moved = copy.deepcopy(model).to("meta")
        assert moved.device.type == "meta" and {t.device.type for t in moved.state_dict().values()} == {"meta"}


SCORE = {
    "log_prob": lambda model, x: model.log_prob(x, condition=told(model)),
    "encode": lambda model, x: model.encode(x, condition=model.prepare_condition(told(model), len(x))),
    "reconstruct": lambda model, x: model.reconstruct(x, condition=told(model)),
}


@ask((Explicit, Latent))
def test_what_are_no_items_is_refused_everywhere(model):
    methods = ["log_prob"] * isinstance(model, Explicit) + ["encode", "reconstruct"] * isinstance(model, Latent)
    x = toys.data_for(model, 2)
    for score in map(SCORE.get, methods):
        score(model, x)
        with pytest.raises(MediaError, match="shape"):
            score(model, x[:, :, :-1] if x.ndim > 2 else x[:, :-1])
        with pytest.raises(MediaError, match="shape"):
            score(model, x[0])
        with pytest.raises(MediaError, match="NaN"):
            score(model, torch.where(torch.arange(x.numel()).view_as(x) == 3, math.nan, x))
        with pytest.raises(MediaError, match="floating"):
            score(model, x.int())


@ask(Explicit, lambda model: model.discrete)
def test_a_mass_is_of_levels_alone(model):
    x = toys.data_for(model, 2)
    for wrong in ((x + 1) / 2 + 0.001, 127.5 * (x + 1), 0.5 * x + 0.003):  # [0, 1], bytes, grey on a binary model
        with pytest.raises(MediaError, match="levels"):
            model.log_prob(wrong, condition=told(model))
