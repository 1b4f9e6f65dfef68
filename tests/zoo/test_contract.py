"""The same questions to every model of the zoo. A new model is one more name in `MODELS`."""

import copy
import json
import math
import types

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from modalities.images import Images
from modalities.meshes import Meshes
from modalities.points import Points
from modalities.signals import Signals
from tests import toys
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.autoregressive.made import MADE
from zoo.autoregressive.pixelcnn import PixelCNN
from zoo.autoregressive.pixelcnn_pp import PixelCNNPlusPlus
from zoo.autoregressive.pixelrnn import PixelRNN
from zoo.autoregressive.prior import LatentPrior, latent_medium
from zoo.autoregressive.wavenet import WaveNet
from zoo.baselines import GaussianMixture, KernelDensity
from zoo.checkpoint import CheckpointError, build, family_name
from zoo.distributions import Path
from zoo.linear.pca import PCA, ProbabilisticPCA
from zoo.model import Explicit, Latent, Variational, point
from zoo.morphable.model import MorphableModel
from zoo.variational.autoencoder import Autoencoder
from zoo.variational.nvae import NVAE
from zoo.variational.vae import VAE
from zoo.variational.vq import VQVAE

GREY = Images(1, 6, 5, 256)
SERIES = Signals(channels=2, length=9)
PLANE = Points(dimensions=2)
SMALL = dict(latent=3, width=4, hidden=8)
DEEP = dict(latent=2, width=4, blocks=1, block_cells=2, cells=1, expansion=2)
CODES = dict(codes=5, dimensions=3, downsampling=2, width=4, blocks=1)


def seeded(make):
    """A model that is the same every time, and real-valued data standardised."""
    torch.manual_seed(0)
    model = make().eval()
    if hasattr(model, "standardise") and model.modality.levels is None:
        model.standardise.fit(toys.data_for(model, 50) * 3 + 1)
    return model


def fitted(cls, medium, **arguments):
    return cls.fit(toys.data_for(cls_with(medium), 60), medium, **arguments)


def face(colours):
    """A morphable model with all of its parts, or with shape alone."""
    _, faces = toys.grid(3, 4)
    medium = Meshes(12, colours).on(faces, torch.rand(12, 2) if colours else None)
    if not colours:
        return fitted(MorphableModel, medium, shape=5)
    x = toys.data_for(cls_with(medium), 60)
    pairs = (x[:20] + 5 * torch.randn_like(x[:20]), x[:20])
    model = MorphableModel.fit(x, medium, shape=4, colour=2, expression=3, expressions=pairs, landmarks=torch.arange(3))
    return model.with_segments({"nose": torch.arange(5)}).with_attributes(x, {"age": torch.randn(60)})


def cls_with(medium):
    """Something that `data_for` takes the medium of."""
    return types.SimpleNamespace(modality=medium)


def prior_of(model, classes=None):
    """A small prior of a model's latents: a network over a grid of codes, or over a vector."""
    medium = latent_medium(model)
    if medium.levels is None:
        return LatentPrior(model, MADE(medium, width=4, layers=1, components=2, classes=classes))
    shape = dict(width=6, layers=2, head=6, first_kernel=3, likelihood="categorical", embedding=3)
    return LatentPrior(model, GatedPixelCNN(medium, classes=classes, **shape))


REAL = {
    "vae-binary": lambda: VAE(toys.BINARY, **SMALL),
    "vae-conditional": lambda: VAE(toys.BINARY, classes=3, **SMALL),
    "vae-grey": lambda: VAE(GREY, **SMALL),
    "vae-mixture": lambda: VAE(Images(3, 6, 5, 32), likelihood="logistic-mixture", **SMALL),
    "vae-points": lambda: VAE(PLANE, **SMALL),
    "vae-series": lambda: VAE(SERIES, **SMALL),
    "autoencoder-images": lambda: Autoencoder(GREY, **SMALL),
    "autoencoder-series": lambda: Autoencoder(SERIES, **SMALL),
    "gated-pixelcnn": lambda: GatedPixelCNN(toys.BINARY, width=6, layers=2, head=6),
    "gated-pixelcnn-conditional": lambda: GatedPixelCNN(Images(3, 4, 3, 32), 6, 2, head=6, classes=3, components=2),
    "pixelcnn": lambda: PixelCNN(toys.BINARY, width=6, blocks=2, head=6),
    "wavenet": lambda: WaveNet(SERIES, width=4, layers=3, skip=6, components=2),
    "wavenet-conditional": lambda: WaveNet(SERIES, width=4, layers=2, skip=6, components=2, classes=3),
    "made": lambda: MADE(PLANE, width=8, layers=2, components=3),
    "made-conditional": lambda: MADE(PLANE, width=8, layers=1, components=2, classes=3),
    "nvae": lambda: NVAE(toys.BINARY, [1, 2], **DEEP),
    "nvae-batch-norm": lambda: NVAE(toys.BINARY, [1, 1], normalisation="batch", **DEEP),
    "nvae-conditional-flows": lambda: NVAE(toys.BINARY, [1, 1], flows=1, classes=3, **DEEP),
    "nvae-series": lambda: NVAE(SERIES, [1, 1], **DEEP),
    "vq-vae": lambda: VQVAE(Images(1, 4, 8, 2), **CODES),
    "vq-vae-grey": lambda: VQVAE(Images(3, 8, 4, 256), **CODES),
    "latent-prior-codes": lambda: prior_of(VQVAE(Images(1, 4, 8, 2), **CODES), classes=3),
    "latent-prior": lambda: prior_of(VAE(toys.BINARY, **SMALL)),
    "pixelrnn-row": lambda: PixelRNN(toys.BINARY, "row", width=4, layers=2, head=6),
    "pixelrnn-diagonal": lambda: PixelRNN(Images(3, 4, 3, 32), width=4, layers=2, head=6, components=2),
    "pixelcnn-pp": lambda: PixelCNNPlusPlus(Images(3, 8, 8, 32), 4, 1, dropout=0.5, classes=3, components=2),
    "pca": lambda: fitted(PCA, GREY, components=4),
    "probabilistic-pca-images": lambda: fitted(ProbabilisticPCA, GREY, components=2),
    "probabilistic-pca-points": lambda: fitted(ProbabilisticPCA, PLANE, components=1),
    "morphable-model": lambda: face(colours=True),
    "morphable-model-shape": lambda: face(colours=False),
    "gaussian-mixture": lambda: fitted(GaussianMixture, PLANE, components=2),
    "kernel-density": lambda: fitted(KernelDensity, PLANE, bandwidth=0.3),
}
MODELS = {f"toy-{name}": (lambda name=name: toys.make(name)) for name in toys.NAMES} | {
    name: (lambda make=make: seeded(make)) for name, make in REAL.items()
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def need(model, kind):
    """Questions for one kind are answered by that kind alone."""
    return isinstance(model, kind)


def trains(model):
    return bool(list(model.parameters()))


def test_samples_have_the_documented_shape_and_values(model):
    x = model.sample(5, generator=generator())
    assert x.shape == (5, *model.modality.shape) and x.is_floating_point()
    model.modality.check(x)
    if model.modality.levels == 2 and need(model, Explicit) and model.discrete:
        assert set(x.unique().tolist()) <= {-1.0, 1.0}


def test_same_seed_same_sample(model):
    first, again = model.sample(4, generator=generator(3)), model.sample(4, generator=generator(3))
    other = model.sample(4, generator=generator(4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_sampling_leaves_the_global_random_state_alone(model):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model.sample(3, generator=generator())
    assert torch.equal(before, torch.get_rng_state())


def test_temperature_zero_is_deterministic(model):
    condition = 1 if model.classes else None
    first = model.sample(3, condition=condition, temperature=0.0, generator=generator(1))
    again = model.sample(3, condition=condition, temperature=0.0, generator=generator(2))
    assert torch.equal(first, again) and torch.allclose(first[0], first[2], atol=1e-6)


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_a_count_must_be_a_positive_whole_number(model, n):
    with pytest.raises(ValueError, match="n must be a positive whole number"):
        model.sample(n)


def test_conditions_are_refused_or_checked(model):
    if model.classes is None:
        with pytest.raises(ValueError, match="unconditional"):
            model.sample(2, condition=1)
        return
    assert len(model.sample(2, condition=1)) == len(model.sample(2, condition=[0, 1])) == len(model.sample(2)) == 2
    for wrong in (model.classes, -1, [0, 1, 0], 0.5):
        with pytest.raises(ValueError):
            model.sample(2, condition=wrong)


def test_loss_is_finite_and_gradients_reach_every_parameter(model):
    if not trains(model):
        with pytest.raises(TypeError, match="fit"):
            model.loss(toys.data_for(model))
        return
    model.train()
    x = toys.data_for(model)
    batch = (x, torch.arange(len(x)) % model.classes) if model.classes else x
    for player in model.players():
        terms = model(batch, player=player, generator=generator())
        assert all(torch.isfinite(value) for value in terms.values())
        terms["loss"].backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:  # the model below a prior
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_explicit_loss_is_the_mean_negative_log_probability(model):
    if not need(model, Explicit) or not trains(model):
        return
    x = toys.data_for(model, 8)
    condition = torch.zeros(8, dtype=torch.long) if model.classes else None
    loss = model.loss((x, condition), generator=generator())["loss"].item()
    if model.exact:
        assert loss == pytest.approx(-model.log_prob(x, condition=condition).mean().item(), abs=1e-5)
    else:
        with torch.no_grad():
            draws = [model.log_prob(x, condition=condition, generator=generator(s)).mean().item() for s in range(100)]
            losses = [model.loss((x, condition), generator=generator(s))["loss"].item() for s in range(100)]
        spread = (torch.tensor(draws).std() + torch.tensor(losses).std()).item() / 10
        assert sum(losses) / 100 == pytest.approx(-sum(draws) / 100, abs=4 * spread + 1e-4)


def test_log_prob_has_one_number_an_item_and_bits_per_dim_agree(model):
    if not need(model, Explicit):
        return
    x = toys.data_for(model, 6)
    condition = 0 if model.classes else None
    score = model.log_prob(x, condition=condition, generator=generator())
    assert score.shape == (6,) and torch.isfinite(score).all()
    if model.modality.levels is None:
        with pytest.raises(ValueError, match="no levels"):
            model.bits_per_dim(x)
    elif model.discrete and model.exact:
        bits = -score / (math.prod(model.modality.shape) * math.log(2))
        assert torch.allclose(model.bits_per_dim(x, condition=condition), bits)


def test_masses_sum_to_one_over_all_items(model):
    if not (need(model, Explicit) and model.discrete and model.modality.levels == 2):
        return
    d = math.prod(model.modality.shape)
    if d > 12:
        return
    codes = torch.arange(2**d)
    x = (codes[:, None] >> torch.arange(d) & 1).float().mul(2).sub(1).reshape(-1, *model.modality.shape)
    condition = 0 if model.classes else None
    samples = 1 if model.exact else 100
    with torch.no_grad():
        total = model.log_prob(x, condition=condition, samples=samples, generator=generator()).exp().sum().item()
    assert total == pytest.approx(1.0, abs=1e-4 if model.exact else 0.04)


def test_more_importance_samples_tighten_the_bound(model):
    if not need(model, Variational):
        return
    x, condition = toys.data_for(model, 32), 0 if model.classes else None
    with torch.no_grad():
        draws = [
            [model.log_prob(x, condition=condition, samples=k, generator=generator(s)).mean() for s in range(8)]
            for k in (1, 8, 200)
        ]
    bounds, errors = [sum(row) / 8 for row in draws], [torch.stack(row).std() / 8**0.5 for row in draws]
    assert bounds[0] <= bounds[1] + 1e-3 + 3 * errors[0] and bounds[1] <= bounds[2] + 1e-3 + 3 * errors[1]


def test_log_prob_does_not_depend_on_how_draws_are_chunked(model):
    if not need(model, Variational):
        return
    x, condition = toys.data_for(model, 3), 0 if model.classes else None
    with torch.no_grad():
        many = model.log_prob(x, condition=condition, samples=500, generator=generator(0))
        alone = torch.cat(
            [model.log_prob(x[i : i + 1], condition=condition, samples=500, generator=generator(i)) for i in range(3)]
        )
    assert torch.allclose(many, alone, atol=0.5)  # items paired with the draws of others would be nats away


def test_elbo_equals_the_generic_one(model):
    if not need(model, Variational):
        return
    x, condition = toys.data_for(model, 8), 0 if model.classes else None
    own = model.elbo(x, condition=condition, generator=generator(5))
    generic = Variational.elbo(model, x, condition=condition, generator=generator(5))
    assert torch.allclose(own.total, generic.total, atol=1e-4)
    assert own.kl.ndim == 2 and own.reconstruction.shape == (8,)


def test_latent_moves_have_the_documented_shapes(model):
    if not need(model, Latent):
        return
    x = model.sample(3, generator=generator())
    condition = 0 if model.classes else None
    items = model.modality.shape
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
        noise = prior.noise(point(model.encode(x, condition=prepared)))
        (noise if isinstance(noise, torch.Tensor) else noise[0]).flatten(1)[:, 0] = 2
        moved = model.decode(prior.from_noise(noise), condition=prepared).mean
    assert torch.allclose(swept[:, 0, 2], moved, atol=1e-4)
    assert model.traverse(condition=condition).shape[0] == 1
    with pytest.raises(ValueError, match="dimensions"):
        model.traverse(x, along=[10**9], condition=condition)
    with pytest.raises(ValueError, match="steps"):
        model.interpolate(x, x, 0, condition=condition)


def test_an_attribute_direction_is_the_difference_of_the_groups_means(model):
    if not need(model, Latent):
        return
    x = toys.data_for(model, 12)
    labels = torch.tensor([0, 1] * 6)
    condition = 0 if model.classes else None
    direction = model.attribute_direction(x, labels, condition=condition)
    with torch.no_grad():
        prepared = model.prepare_condition(condition, 12)
        noise = model.prior(prepared, n=12).noise(point(model.encode(x, condition=prepared)))
    for mine, group in zip(*[(v,) if isinstance(v, torch.Tensor) else v for v in (direction, noise)], strict=True):
        assert torch.allclose(mine, group[1::2].mean(0) - group[::2].mean(0), atol=1e-4)
    moved = model.traverse(x, along=[direction], values=[0.0], condition=condition)[:, 0, 0]
    assert torch.allclose(moved, model.reconstruct(x, condition=condition), atol=1e-4)
    with pytest.raises(ValueError, match="never changes"):
        model.attribute_direction(x, torch.ones(12), condition=condition)


def test_the_prior_noise_round_trip(model):
    if not need(model, Latent):
        return
    prior = model.prior(model.prepare_condition(0 if model.classes else None, 4), n=4)
    with torch.no_grad():
        z = prior.sample(generator=generator())
        back = prior.from_noise(prior.noise(z))
    for a, b in zip(*[(v,) if isinstance(v, torch.Tensor) else v for v in (z, back)], strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert isinstance(prior, Path) == isinstance(z, tuple)


def test_save_and_load_give_equal_outputs(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert not again.training
    assert torch.equal(model.sample(3, generator=generator()), again.sample(3, generator=generator()))
    assert again.modality == model.modality
    if need(model, Explicit):
        x = toys.data_for(model, 4)
        assert torch.equal(model.log_prob(x, generator=generator()), again.log_prob(x, generator=generator()))
    assert json.loads((tmp_path / "config.json").read_text())["family"] == family_name(type(model))


def test_only_the_model_is_saved(tmp_path):
    toys.make("gan").save_pretrained(tmp_path)
    assert all(name.startswith("generator.") for name in load_file(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("damage", ["missing", "extra", "shape", "truncated", "pickle", "absent"])
def test_damaged_weights_are_refused(model, tmp_path, damage):
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load(path.read_bytes())  # not load_file, whose memory map would break when the file is overwritten
    name = sorted(tensors)[0]
    if damage == "missing":
        save_file({k: v for k, v in tensors.items() if k != name}, path)
    elif damage == "extra":
        save_file(tensors | {"surplus": torch.zeros(1)}, path)
    elif damage == "shape":
        save_file(tensors | {name: torch.zeros(7, 7, 7)}, path)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "pickle":
        torch.save(tensors, path)
    else:
        path.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="model.safetensors"):
        type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"family": "os.system"}, "unknown family"),
        ({"family": "os:system"}, "unknown family"),
        ({"family": None}, "unknown family"),
        ({"arguments": {"surprise": 1}}, "takes no argument"),
        ({"arguments": {}}, "do not build"),
        ({"arguments": None}, "missing"),
        ({"code": "x"}, "unknown fields"),
    ],
)
def test_a_strange_config_is_refused(tmp_path, change, reason):
    model = toys.make("vae")
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=reason):
        type(model).from_pretrained(tmp_path)


def test_a_strange_medium_is_refused(tmp_path):
    config = toys.make("vae")._hub_mixin_config
    for modality in ({"kind": "smells"}, {"kind": "images", "surprise": 1}):
        with pytest.raises(CheckpointError, match="do not build"):
            build(config | {"arguments": {"modality": {"modality": modality}}})


def test_another_familys_checkpoint_is_refused(tmp_path):
    toys.make("gan").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="not a ToyVAE"):
        toys.ToyVAE.from_pretrained(tmp_path)


def test_loading_takes_no_overrides(tmp_path):
    toys.make("vae").save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="latent"):
        toys.ToyVAE.from_pretrained(tmp_path, latent=5)


def test_arguments_that_json_cannot_hold_are_refused():
    with pytest.raises(TypeError, match="latent is part of the configuration"):
        toys.ToyVAE(toys.BINARY, latent=torch.zeros(1))


def test_deepcopy_keeps_the_configuration(model):
    clone = copy.deepcopy(model)
    assert clone._hub_mixin_config == model._hub_mixin_config
    assert torch.equal(model.sample(2, generator=generator()), clone.sample(2, generator=generator()))


def test_other_types_work(model):
    doubled = copy.deepcopy(model).double()
    assert torch.isfinite(doubled.sample(2, generator=generator())).all()
    half = copy.deepcopy(model).bfloat16()
    x = half.sample(2, generator=generator())
    assert x.shape == (2, *model.modality.shape) and torch.isfinite(x).all()
    if need(model, Explicit) and trains(model):
        items = toys.data_for(model, 4)
        condition = 0 if model.classes else None
        exact = model.log_prob(items, condition=condition, samples=50, generator=generator()).mean().item()
        rough = half.log_prob(items, condition=condition, samples=50, generator=generator()).mean().item()
        assert rough == pytest.approx(exact, rel=0.05, abs=0.5)


def test_moves_to_another_device(model):
    if torch.cuda.is_available():
        moved = copy.deepcopy(model).cuda()
        assert moved.sample(2, generator=generator()).device.type == "cuda"
    else:  # the meta device has shapes and no numbers: every tensor of the computation must have followed the model
        moved = copy.deepcopy(model).to("meta")
        assert moved.device.type == "meta" and {t.device.type for t in moved.state_dict().values()} == {"meta"}


def test_wrong_shapes_and_nan_are_refused(model):
    x = toys.data_for(model, 2)
    with pytest.raises(ValueError, match="shape"):
        model.modality.check(x[:, :, :1] if x.ndim > 2 else x[:, :1])
    with pytest.raises(ValueError, match="NaN"):
        model.modality.check(torch.full_like(x, math.nan))
    with pytest.raises(ValueError, match="floating"):
        model.modality.check(x.int())
