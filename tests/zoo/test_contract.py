"""The questions of `zoo.testing` to every model, and some more. A new model is one more name in `REAL`."""

import copy
import functools
import json
import types

import pytest
import torch
from safetensors.torch import load_file

import zoo.testing
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
from zoo.latent_prior import LatentPrior
from zoo.linear.pca import PCA, ProbabilisticPCA
from zoo.model import Explicit, GenerativeModel, Trainable, Variational
from zoo.morphable.model import MorphableModel
from zoo.variational.autoencoder import Autoencoder
from zoo.variational.nvae import NVAE
from zoo.variational.vae import VAE
from zoo.variational.vq import VQVAE

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


def told(model, n):
    """Conditions as a batch holds them, in turn."""
    return None if model.condition is None else torch.arange(n) % len(model.condition)


@pytest.mark.parametrize("name, question", [(name, q) for name in NAMES for q in zoo.testing.questions(made(name))])
def test_every_model_holds_the_contract(name, question):
    assert zoo.testing.check(made(name), toys.data_for(made(name), 16), [question]) == [question]


def unseeded(n, **options):
    return torch.where(torch.rand(n, *toys.BINARY.shape) < 0.5, 1.0, -1.0)


@pytest.mark.parametrize(
    "method, broken, question, sentence",
    [
        ("sample", unseeded, "a_seed_decides_the_sample", "must leave torch's random state alone"),
        (
            "sample",
            lambda n, **options: unseeded(n)[:, 0],
            "samples_are_items",
            r"of shape \[5, 1, 4, 3\], got \[5, 4, 3\]",
        ),
        (
            "sample",
            lambda n, **options: unseeded(abs(int(n))),
            "counts_and_conditions_are_checked",
            "sample.0. must raise",
        ),
        ("log_prob", lambda x, **options: x.flatten(1), "log_prob_is_one_number_an_item", r"log_prob must be .*\[16\]"),
        ("log_prob", lambda x, **options: x.sum((1, 2, 3)), "masses_sum_to_one", "the masses of all items sum to"),
        ("check_items", lambda x, **options: x, "what_are_no_items_is_refused", "log_prob of .* must raise MediaError"),
        ("reconstruct", lambda x, **options: -x, "walks_lead_from_item_to_item", "must begin at the reconstruction"),
        ("encoder", None, "a_saved_model_is_the_same", "TypeError: 'NoneType'|CheckpointError"),
    ],
)
def test_what_does_not_hold_is_said_in_a_sentence(method, broken, question, sentence):
    model = copy.deepcopy(made("toy-vae"))
    setattr(model, method, broken)
    with pytest.raises(zoo.testing.ContractError, match=f"ToyVAE does not hold .*\n{question}: .*(?:{sentence})"):
        zoo.testing.check(model, toys.data_for(model, 16), [question])


@ask(where=lambda model: model.condition is not None)
def test_conditions_are_classes_by_name_or_number(model):
    names, size = model.condition.names, len(model.condition)
    by_name, by_number = (model.sample(2, condition=c, generator=generator()) for c in (names[1], 1))
    assert torch.equal(by_name, by_number)
    assert len(model.sample(2, condition=[names[0], names[1]])) == len(model.sample(2, condition=[0, 1])) == 2
    for wrong in (size, -1, "bird", ["bird", 0]):
        with pytest.raises(ValueError):
            model.sample(2, condition=wrong)


@ask(Variational)
def test_the_loss_is_the_mean_negative_bound(model):
    batch = Batch(toys.data_for(model, 8), told(model, 8))
    with torch.no_grad():
        score = functools.partial(model.log_prob, batch.x, condition=batch.condition)
        draws = torch.stack([score(generator=generator(s)).mean() for s in range(50)])
        losses = torch.stack([model.loss(batch, generator=generator(s))["loss"] for s in range(50)])
    spread = (draws.std() + losses.std()).item() / 50**0.5
    assert losses.mean().item() == pytest.approx(-draws.mean().item(), abs=4 * spread + 1e-4)


@ask(Variational, lambda model: type(model)._bound is Variational._bound)
def test_log_prob_does_not_depend_on_how_draws_are_chunked(model):
    x = toys.data_for(model, 3)
    many, *alone = (
        model.log_prob(part, condition=None if model.condition is None else 0, samples=300, generator=generator(i))
        for i, part in enumerate([x, *x.split(1)])
    )
    assert torch.allclose(many, torch.cat(alone), atol=0.5)  # items paired with draws of others would be nats away


def test_only_the_model_is_saved(tmp_path):
    toys.make("gan").save_pretrained(tmp_path)
    assert all(name.startswith("generator.") for name in load_file(tmp_path / "model.safetensors"))


@ask()
def test_a_copy_is_saved_alike(model, tmp_path):
    copy.deepcopy(model).save_pretrained(tmp_path / "copy")
    model.save_pretrained(tmp_path / "own")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
    assert json.loads((tmp_path / "own" / "config.json").read_text())["family"] == family_name(type(model))


@ask(Explicit, lambda model: isinstance(model, Trainable))
def test_half_precision_scores_nearly_the_same(model):
    x = toys.data_for(model, 4)
    exact, rough = (
        m.log_prob(x, condition=told(m, 4), samples=50, generator=generator()).mean().item()
        for m in (model, copy.deepcopy(model).bfloat16())
    )
    assert rough == pytest.approx(exact, rel=0.05, abs=0.5)
