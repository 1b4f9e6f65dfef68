"""A prior of another model's latents: it finds where they lie, and leaves the model below it as it is."""

import copy

import pytest
import torch

import zoo
from modalities.data import Arrays, Batch
from modalities.images import Images
from modalities.latents import Latents
from modalities.points import Points
from tests import toys
from tests.toys import generator
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.autoregressive.made import MADE
from zoo.conditions import Classes
from zoo.distributions import DiagonalGaussian, normal_noise
from zoo.latent_prior import LatentPrior
from zoo.linear.pca import PCA
from zoo.model import Explicit, Trainable
from zoo.training import TrainingConfig, train
from zoo.variational.autoencoder import Autoencoder
from zoo.variational.vq import VQVAE


def config(**arguments):
    return TrainingConfig(learning_rate=0.01, ema=0.9, warmup_steps=10, log_every=1, **arguments)


def vector_prior(model, **arguments):
    return LatentPrior(model, MADE(model.latents(), **dict(width=16, layers=1, components=6) | arguments))


class StandardNormal(Explicit, Trainable):
    """N(0, I) of vectors, with nothing to learn: the prior that a VAE was trained with."""

    def __init__(self, modality):
        super().__init__()
        self.modality = modality

    def log_prob(self, x, *, condition=None, samples=1, generator=None):
        return DiagonalGaussian(torch.zeros_like(x), torch.ones(())).log_prob(x)

    def loss(self, batch, *, player="model", progress=1.0, shared=None, generator=None):
        return {"loss": -self.log_prob(batch.x).mean()}

    def sample(self, n, *, condition=None, temperature=1.0, mean=False, generator=None):
        return temperature * normal_noise((n, *self.modality.shape), torch.empty(0), generator)


def test_it_finds_the_clusters_that_a_normal_prior_fills_the_gaps_of():
    centers = torch.tensor([[-4.0, 1.0], [3.0, 5.0], [5.0, -4.0]])
    which = torch.randint(3, (1500,), generator=generator())
    x = centers[which] + 0.3 * torch.randn(1500, 2, generator=generator(1))
    pca = PCA.fit(x, Points(dimensions=2), components=2)
    torch.manual_seed(0)
    model = vector_prior(pca)
    train(model, Arrays(x), config(steps=200, batch_size=250))

    def near(samples):
        return (torch.cdist(samples, centers).min(1).values < 1.2).double().mean().item()

    learned = model.sample(600, generator=generator(2))
    assert near(pca.sample(600, generator=generator(2))) < 0.3 and near(learned) > 0.9
    shares = torch.bincount(torch.cdist(learned, centers).argmin(1), minlength=3) / 600
    assert (shares - 1 / 3).abs().max() < 0.1


def test_it_trains_on_draws_from_q_and_on_points_where_there_is_no_q():
    vae = toys.make("vae")
    x = toys.data_for(vae, 3)
    model = vector_prior(vae)
    draws = torch.stack([model.encode_latents(x, generator=generator(s)) for s in range(400)])
    posterior = vae.encode(x)
    assert torch.allclose(draws.mean(0), posterior.mean, atol=0.2)
    assert torch.allclose(draws.std(0), posterior.stddev, atol=0.15)
    pca = PCA.fit(torch.randn(50, 2, generator=generator()), Points(dimensions=2), components=1)
    points = torch.randn(4, 2)
    assert torch.equal(vector_prior(pca).encode_latents(points), pca.encode(points).mean)


def test_adapting_takes_the_moments_of_the_latents():
    vae = toys.make("vae")
    model, x = vector_prior(vae), toys.data_for(vae, 200)
    model.adapt(x)
    z = model.encode_latents(x, generator=generator())
    assert torch.allclose(model.learned.standardise.mean, z.mean(0), atol=1e-5)
    assert torch.allclose(model.learned.standardise.std, z.std(0, correction=0), atol=1e-5)


@pytest.fixture
def pictures():
    """Black ones and white ones, and a VQ-VAE whose codes tell them apart."""
    medium = Images(1, 4, 4, 2)
    torch.manual_seed(0)
    vq = VQVAE(medium, codes=6, dimensions=3, downsampling=2, width=4, blocks=1)
    x = torch.cat([torch.full((32, 1, 4, 4), -1.0), torch.full((32, 1, 4, 4), 1.0)])
    vq.train().loss(Batch(x), generator=generator())  # codes start at outputs of either
    return vq.eval(), x, torch.arange(64) // 32


def code_prior(vq, **arguments):
    shape = dict(width=16, layers=2, head=8, first_kernel=3, likelihood="categorical", embedding=4)
    return LatentPrior(vq, GatedPixelCNN(vq.latents(), **shape | arguments))


def test_a_class_conditional_prior_draws_the_codes_of_its_class(pictures):
    vq, x, labels = pictures
    torch.manual_seed(0)
    model = code_prior(vq, condition=Classes.numbered(2))
    train(model, Arrays(x, labels), config(steps=120, batch_size=32))
    expected = vq.codes(x)
    assert not torch.equal(expected[0], expected[-1])
    for label in (0, 1):
        drawn = model.learned.sample(100, condition=label, generator=generator())
        hits = (vq.latents().indices(drawn[:, 0]) == expected[32 * label]).double().mean()
        assert hits > 0.9
        # Codes become pictures through the same codebook.
        decoded = model.decode(model.from_latents(model.encode_latents(x[32 * label :][:1]))).mean
        assert torch.equal(decoded, vq.reconstruct(x[32 * label :][:1]))


def test_training_leaves_the_model_below_as_it_was(pictures):
    vq, x, _ = pictures
    before = copy.deepcopy(vq.state_dict())
    model = code_prior(vq)
    assert not vq.train(False).training and not model.train().model.training and model.learned.training
    history = train(model, Arrays(x), config(steps=5, batch_size=16)).history
    assert history[-1]["loss"] != history[0]["loss"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in vq.state_dict().items())
    assert not any(parameter.requires_grad for parameter in vq.parameters())
    assert all(parameter.requires_grad for parameter in model.learned.parameters())


def test_codes_do_not_depend_on_half_precision_training(pictures):
    vq, x, _ = pictures
    model = code_prior(vq)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.encode_latents(x)
    assert torch.equal(half, model.encode_latents(x))


def test_a_condition_goes_to_whichever_part_has_classes():
    vae = toys.make("conditional-vae")
    model = vector_prior(vae)
    assert model.condition == vae.condition and model.learned.condition is None
    x = toys.data_for(vae, 4)
    labels = torch.tensor([0, 1, 2, 0])
    assert torch.isfinite(model.loss(Batch(x, labels), generator=generator())["loss"])
    z = torch.randn(4, 2)
    assert torch.equal(model.decode(z, condition=labels).mean, vae.decode(z, condition=labels).mean)
    with pytest.raises(ValueError, match="the model is told .*'2'.*, the prior .*'1'"):
        vector_prior(toys.make("conditional-vae"), condition=Classes.numbered(2))


@torch.no_grad()
@pytest.mark.parametrize("name", ["vae", "conditional-vae"])
def test_the_prior_that_a_vae_was_trained_with_scores_as_the_vae_does(name):
    vae = toys.make(name)
    model, x = LatentPrior(vae, StandardNormal(vae.latents())), toys.data_for(vae, 256)
    condition = None if vae.condition is None else torch.arange(256) % 3
    assert model.scores and model.discrete and not model.exact
    for samples in (1, 5):  # of so many items the VAE takes one draw after another, as the prior does
        found, expected = (
            judged.log_prob(x, condition=condition, samples=samples, generator=generator(3)) for judged in (model, vae)
        )
        assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_codes_and_what_the_codes_say_of_an_item_are_its_score(pictures):
    vq, x, labels = pictures
    model = code_prior(vq, condition=Classes.numbered(2))
    x, labels = x[::16], labels[::16]
    codes = vq.codes(x)
    of_codes = model.learned.log_prob(vq.latents().values(codes).unsqueeze(1), condition=labels)
    expected = of_codes + vq.decode(vq.embed(codes)).log_prob(x)
    assert torch.allclose(model.log_prob(x, condition=labels, samples=3), expected.double(), atol=1e-5)


def test_what_has_no_likelihood_does_not_score():
    torch.manual_seed(0)
    model = vector_prior(Autoencoder(Points(2), latent=2, hidden=8))
    assert not model.scores
    with pytest.raises(TypeError, match="Autoencoder has no likelihood"):
        model.log_prob(torch.randn(3, 2))


def test_reconstructions_and_walks_are_those_of_the_model_below(pictures):
    vq, x, _ = pictures
    vae = toys.make("conditional-vae")
    rows = toys.data_for(vae, 4)
    for below, model, items, condition in (
        (vq, code_prior(vq), x[::16], None),
        (vae, vector_prior(vae), rows, [0, 1, 2, 0]),
    ):
        expected = below.reconstruct(items, condition=condition)
        assert torch.equal(model.reconstruct(items, condition=condition), expected)
        walk = [judged.interpolate(items, items.flip(0), 5, condition=condition) for judged in (model, below)]
        assert torch.equal(*walk) and torch.allclose(walk[0][:, 0], expected, atol=1e-5)


def test_the_bundled_prior_of_codes_gives_its_items_back():
    model = zoo.load("vq-vae-mnist")
    x = model.sample(3, condition=[0, 1, 7], generator=generator())
    back = model.reconstruct(x)
    assert back.shape == x.shape and ((back > 0) == (x > 0)).double().mean() > 0.97


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 tensors"):
        toys.make("hierarchy").latents()
    with pytest.raises(ValueError, match="the prior must be of"):
        LatentPrior(toys.make("vae"), MADE(Latents((3,)), width=4, layers=1))
