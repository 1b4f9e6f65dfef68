"""The VAE against closed forms: the linear one is probabilistic PCA; the linear autoencoder spans the PCA subspace."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modalities.data import Arrays, Batch
from modalities.images import Images
from modalities.points import Points
from modalities.signals import Signals
from tests.toys import ToyPPCA, generator
from zoo.conditions import Classes
from zoo.distributions import DiagonalGaussian, OptimalGaussian
from zoo.nn.normalisation import Standardise
from zoo.nn.residual import Decoder, Encoder
from zoo.training import TrainingConfig, train
from zoo.variational.autoencoder import Autoencoder
from zoo.variational.vae import VAE


def gaussian_data(n=2000):
    mix = torch.tensor([[2.0, 0.5, 0.0], [0.0, 0.4, 0.3]])
    return torch.randn(n, 2, generator=generator()) @ mix + 0.3 * torch.randn(n, 3, generator=generator(1))


class LinearVAE(VAE):
    """One linear layer each way, so that the best possible bound is known."""

    def __init__(self, dimensions: int, latent: int):
        class Flat(Points):
            shape = (dimensions,)

        super().__init__(Flat(dimensions=2), latent=latent, likelihood="optimal-gaussian", warmup=0.0)
        self.encoder, self.decoder = _Affine(dimensions, 2 * latent), _Affine(latent, dimensions)

    def adapt(self, data):
        """Nothing: the noise of probabilistic PCA is one in the data's own units."""


class _Affine(nn.Linear):
    def forward(self, x, condition=None):
        return super().forward(x)


def test_the_linear_vae_reaches_the_likelihood_of_probabilistic_pca():
    x = gaussian_data()
    exact = ToyPPCA.fit(x.double(), Points(dimensions=2), 1)
    d = torch.distributions.MultivariateNormal(
        exact.mu, exact.w @ exact.w.T + exact.noise * torch.eye(3, dtype=torch.float64)
    )
    best = d.log_prob(x.double()).mean().item()
    torch.manual_seed(0)
    model = LinearVAE(3, 1)
    train(model, Arrays(x), TrainingConfig(steps=1500, batch_size=500, learning_rate=0.02, ema=0.99))
    with torch.no_grad():
        bound = sum(model.elbo(x, generator=generator(s)).total.mean().item() for s in range(20)) / 20
        tight = model.log_prob(x, samples=50, generator=generator()).mean().item()
    assert best - 0.02 < bound <= best + 0.005
    assert bound - 0.003 <= tight <= best + 0.005
    assert model.sigma.item() == pytest.approx(exact.noise.sqrt().item(), rel=0.05)


def test_the_linear_autoencoder_spans_the_pca_subspace():
    x = gaussian_data()
    x = x - x.mean(0)

    class Flat(Points):
        shape = (3,)

    torch.manual_seed(0)
    model = Autoencoder(Flat(dimensions=2), latent=2)
    model.encoder, model.decoder = _Affine(3, 2), _Affine(2, 3)
    model.adapt = lambda data: None  # principal directions of the data as they are
    train(model, Arrays(x), TrainingConfig(steps=1500, batch_size=500, learning_rate=0.02, ema=0.99))
    ours = torch.linalg.qr(model.decoder.weight.detach().double()).Q
    theirs = torch.linalg.svd(x.double(), full_matrices=False).Vh[:2].T
    assert torch.linalg.svdvals(ours.T @ theirs).min() > 0.9999


def test_the_importance_weighted_bound_reaches_the_exact_likelihood():
    torch.manual_seed(0)
    model = LinearVAE(3, 1).eval()
    with torch.no_grad():
        model.sigma.fill_(0.5)
        model.encoder.weight.mul_(0.3)
    x = gaussian_data(20)
    covariance = model.decoder.weight @ model.decoder.weight.T + 0.25 * torch.eye(3)
    exact = torch.distributions.MultivariateNormal(model.decoder.bias, covariance).log_prob(x)
    with torch.no_grad():
        bounds = [model.log_prob(x, samples=k, generator=generator()) for k in (1, 20, 20_000)]
    assert bounds[0].mean() < bounds[1].mean() < exact.mean() + 0.05
    assert torch.allclose(bounds[2].float(), exact.detach(), atol=0.04)


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (9, 14)])
@pytest.mark.parametrize(
    "levels, channels, likelihood",
    [(2, 1, None), (256, 3, None), (32, 3, "logistic-mixture"), (256, 1, "optimal-gaussian"), (256, 1, "gaussian")],
)
def test_every_likelihood_takes_images_of_any_size(size, levels, channels, likelihood):
    medium = Images(channels, *size, levels)
    model = VAE(medium, latent=3, width=4, hidden=16, likelihood=likelihood).train()
    x = torch.where(torch.rand(2, *medium.shape, generator=generator()) < 0.5, 1.0, -1.0)
    model.loss(Batch(x), generator=generator())["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.eval()
    assert model.sample(2, generator=generator()).shape == x.shape
    assert torch.isfinite(model.bits_per_dim(x, generator=generator())).all()


@pytest.mark.parametrize("shape", [(1,), (2,), (3, 24), (1, 140), (1, 9, 14), (3, 64, 64), (1, 4, 9, 20)])
def test_networks_take_their_size_from_the_medium(shape):
    x = torch.randn(2, *shape, generator=generator())
    code = Encoder(shape, 5, width=4, blocks=1, hidden=16, classes=3)(x, torch.tensor([0, 2]))
    assert code.shape == (2, 5)
    decoder = Decoder(shape, 5, outputs=7, width=4, blocks=1, hidden=16, classes=3)
    assert decoder(code, torch.tensor([0, 2])).shape == (2, 7, *shape[1:])
    assert not torch.equal(decoder(code, torch.tensor([0, 2])), decoder(code, torch.tensor([1, 2])))


def test_standardisation_is_undone_and_its_determinant_counted():
    x = gaussian_data()[:, :2] * torch.tensor([100.0, 0.01]) + torch.tensor([5.0, -3.0])
    torch.manual_seed(0)
    plain, scaled = VAE(Points(dimensions=2), latent=2, width=8), VAE(Points(dimensions=2), latent=2, width=8)
    scaled.load_state_dict(plain.state_dict())
    scaled.standardise.fit(x)
    y = scaled.standardise(x)
    assert torch.allclose(y.mean(0), torch.zeros(2), atol=1e-4) and torch.allclose(y.std(0), torch.ones(2), atol=1e-2)
    difference = plain.log_prob(y, generator=generator()) - scaled.log_prob(x, generator=generator())
    assert torch.allclose(difference, scaled.standardise.std.log().sum().double().expand(len(x)), atol=1e-3)
    assert torch.allclose(scaled.standardise.inverse(y), x, rtol=1e-4, atol=1e-4)
    assert torch.allclose(
        scaled.sample(5, generator=generator()),
        scaled.standardise.inverse(plain.sample(5, generator=generator())),
        rtol=1e-4,
        atol=1e-3,
    )


def test_standardisation_is_per_channel_of_a_series_and_keeps_constants():
    x = torch.randn(50, 2, 30, generator=generator()) * 3 + 1
    x[:, 1] = 7.0
    standardise = Standardise((2, 30))
    standardise.fit(x)
    assert standardise.mean.shape == (2, 1) and standardise.std[1] == 1
    assert torch.allclose(standardise(x)[:, 1], torch.zeros(50, 30))


def test_beta_warmup_and_free_bits_weigh_the_kl():
    medium = Images(1, 8, 8, 2)
    x = torch.where(torch.rand(16, *medium.shape, generator=generator()) < 0.5, 1.0, -1.0)

    def terms(progress=1.0, **options):
        torch.manual_seed(0)
        return VAE(medium, latent=4, width=4, hidden=16, **options).loss(
            Batch(x), progress=progress, generator=generator()
        )

    plain = terms()
    assert plain["loss"].item() == pytest.approx((plain["reconstruction"] + plain["kl"]).item(), rel=1e-5)
    heavy = terms(beta=4.0)
    assert heavy["loss"].item() == pytest.approx((plain["reconstruction"] + 4 * plain["kl"]).item(), rel=1e-5)
    cold = terms(progress=0.05, warmup=0.1)
    assert cold["loss"].item() == pytest.approx((plain["reconstruction"] + 0.5 * plain["kl"]).item(), rel=1e-5)
    assert terms(progress=0.0, warmup=0.1)["loss"].item() == pytest.approx(plain["reconstruction"].item(), rel=1e-5)
    freed = terms(free_bits=10.0)
    assert freed["loss"].item() == pytest.approx((plain["reconstruction"] + 40).item(), rel=1e-4)


def test_a_class_conditional_vae_learns_its_classes():
    medium = Images(1, 8, 8, 2)
    labels = torch.arange(256) % 2
    x = torch.where(labels[:, None, None, None] == 1, 1.0, -1.0).expand(256, 1, 8, 8).contiguous()
    torch.manual_seed(0)
    model = VAE(medium, latent=2, width=4, hidden=16, condition=Classes.numbered(2))
    train(model, Arrays(x, labels), TrainingConfig(steps=150, batch_size=64, learning_rate=0.01, ema=0.9))
    drawn = model.sample(20, condition=[0] * 10 + [1] * 10, generator=generator())
    assert drawn[:10].mean() < -0.9 and drawn[10:].mean() > 0.9


def test_optimal_sigma_tracks_the_residual_of_a_series():
    medium = Signals(channels=1, length=24)
    torch.manual_seed(0)
    x = 5 * torch.sin(torch.linspace(0, 6, 24)) + 0.5 * torch.randn(256, 1, 24)
    model = VAE(medium, latent=1, width=8, hidden=16)
    train(model, Arrays(x), TrainingConfig(steps=400, batch_size=128, learning_rate=5e-3, ema=0.9))
    assert (model.sigma * model.standardise.std).item() == pytest.approx(0.5, rel=0.15)
    likelihood = model.decode(torch.zeros(1, 1))
    assert isinstance(likelihood, DiagonalGaussian) and not isinstance(likelihood, OptimalGaussian)


def test_half_precision_autocast_keeps_the_likelihood_in_float32():
    model = VAE(Images(1, 8, 8, 2), latent=2, width=4, hidden=16)
    x = torch.ones(4, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.loss(Batch(x), generator=generator())
    assert all(value.dtype == torch.float32 for value in terms.values())
    exact = F.binary_cross_entropy_with_logits  # the reference in double precision
    with torch.no_grad():
        z = model.encode(x).mean
        logits = model.decode(z).logits.double()
        ours = model.decode(z).log_prob(x).double()
    theirs = -exact(logits, torch.ones_like(logits), reduction="none").flatten(1).sum(1)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_latents_of_another_shape_are_refused():
    model = VAE(Points(2), latent=3, width=4, hidden=8)
    for z in (torch.zeros(2, 4), torch.zeros(3), (torch.zeros(2, 3), torch.zeros(2, 3))):
        with pytest.raises(ValueError, match=r"z must have the shape \[batch, 3\], got "):
            model.decode(z)


MANY = """
import resource, torch
from modalities.images import Images
from zoo.variational.vae import VAE

model = VAE(Images(1, 16, 16, 2), latent=4, width=8, hidden=16).eval()
x = torch.where(torch.rand(20_000, 1, 16, 16) < 0.5, 1.0, -1.0)
model.log_prob(x[:100])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
score, z = model.log_prob(x, samples=3), model.encode(x)
assert not score.requires_grad and not z.mean.requires_grad and model.reconstruct(x).shape == x.shape
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_many_items_are_scored_and_encoded_in_little_memory():
    done = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150_000  # kilobytes; the features of one layer alone would be 164,000


def test_a_gradient_is_kept_where_it_is_asked_for():
    model = VAE(Images(1, 8, 8, 2), latent=2, width=4, hidden=16).eval()
    x = torch.ones(2, 1, 8, 8)
    assert not model.log_prob(x).requires_grad and not model.encode(x).mean.requires_grad
    x.requires_grad_()
    assert torch.autograd.grad(model.log_prob(x, generator=generator()).sum(), x)[0].any()
    assert model.train().log_prob(x.detach()).requires_grad


@pytest.mark.parametrize("items", [1, 5])
def test_parts_of_a_batch_score_as_the_items_alone(items, monkeypatch):
    monkeypatch.setattr("zoo.model.MOST_AT_ONCE", items)
    model = LinearVAE(3, 1).eval()
    x = 0.3 * gaussian_data(12)
    with torch.no_grad():  # the posterior is near the prior, so that weights of draws differ little
        for tensor in (model.encoder.weight, model.encoder.bias, model.decoder.weight):
            tensor.mul_(0.1)
    q = model.encode(x)
    assert torch.allclose(q.mean, model.encoder(x)[:, :1], atol=1e-6)
    whole = torch.cat([model.log_prob(part, samples=400, generator=generator()) for part in x.split(1)])
    assert torch.allclose(model.log_prob(x, samples=400, generator=generator()), whole, atol=0.1)


def test_parts_of_a_batch_keep_their_conditions(monkeypatch):
    model = VAE(Images(1, 8, 8, 2), latent=2, width=4, hidden=16, condition=Classes.numbered(3)).eval()
    for parameter in model.parameters():  # at the start, classes mean nothing
        torch.nn.init.normal_(parameter, std=0.2, generator=generator())
    x, classes = torch.ones(7, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    means, rebuilt = model.encode(x, condition=classes).mean, model.reconstruct(x, condition=classes)
    assert not torch.allclose(means[0], means[1]) and not torch.allclose(rebuilt[0], rebuilt[1])
    monkeypatch.setattr("zoo.model.MOST_AT_ONCE", 2)
    assert torch.allclose(model.encode(x, condition=classes).mean, means, atol=1e-6)
    assert torch.allclose(model.reconstruct(x, condition=classes), rebuilt, atol=1e-6)
    assert model.log_prob(x, condition=classes, samples=3).shape == (7,)


def test_encoding_and_decoding_take_classes_by_name_and_ask_for_them():
    named = VAE(Images(1, 8, 8, 2), latent=2, width=4, hidden=16, condition=Classes(("boot", "bag"))).eval()
    x = torch.ones(2, 1, 8, 8)
    q = named.encode(x, condition=["bag", "boot"])
    assert torch.equal(q.mean, named.encode(x, condition=torch.tensor([1, 0])).mean)
    assert named.decode(q.mean, condition="bag").mean.shape == x.shape
    with pytest.raises(ValueError, match="is told a class: give the condition of these items"):
        named.encode(x)
    with pytest.raises(ValueError, match="unconditional"):
        VAE(Images(1, 8, 8, 2), latent=2, width=4, hidden=16).eval().encode(x, condition=[0, 1])
