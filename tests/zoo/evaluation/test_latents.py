"""Rate, distortion and active units of models whose posteriors are known."""

import math

import pytest
import torch

from modalities.data import Arrays
from modalities.images import Images
from modalities.points import Points
from tests import toys
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.autoregressive.made import MADE
from zoo.distributions import DiagonalGaussian
from zoo.evaluation.latents import measure
from zoo.evaluation.samples import fork
from zoo.hierarchy import TopDown
from zoo.latent_prior import LatentPrior
from zoo.model import Variational
from zoo.variational.vae import VAE
from zoo.variational.vq import VQVAE


def figures(model, x, labels=None, **options):
    generator = torch.Generator().manual_seed(0)
    return {f.metric: f for f in measure(model, Arrays(x, labels), "toys", generator=generator, **options)}


class Known(Variational):
    """Two groups whose posteriors are functions of the point: N(a, s^2) with a prior N(0, 4), and N(z1 + b, 1) with a
    prior N(z1, 1)."""

    def __init__(self, modality, a: float, b: float):
        super().__init__()
        self.modality, self.a, self.b = modality, a, b

    def prior(self, condition=None, *, n=1, temperature=1.0):
        def walk():
            z = yield DiagonalGaussian(torch.zeros(n, 2), torch.tensor(2.0))
            yield DiagonalGaussian(z, torch.tensor(1.0))

        return TopDown(walk)

    def encode(self, x, *, condition=None):
        def walk():
            z = yield DiagonalGaussian(self.a * x, torch.tensor(0.5))
            yield DiagonalGaussian(z + self.b * x * torch.tensor([1.0, 0.0]), torch.tensor(1.0))

        return TopDown(walk)

    def decode(self, z, *, condition=None):
        return DiagonalGaussian(z[1] * 0, torch.tensor(1.0))


def test_rate_and_distortion_by_hand_in_every_group():
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    found = figures(Known(Points(dimensions=2), a=1.0, b=0.5), x, batch_size=300)
    first = (0.5 * (0.25 / 4 + x**2 / 4 - 1 - math.log(0.25 / 4))).sum(1).double()
    second = (0.5 * (0.5 * x[:, 0]) ** 2).double()
    assert found["rate of group 1 of 2"].value == pytest.approx(first.mean().item(), rel=1e-5)
    assert found["rate of group 2 of 2"].value == pytest.approx(second.mean().item(), rel=1e-5)
    assert found["rate"].value == pytest.approx((first + second).mean().item(), rel=1e-5)
    assert found["negative ELBO"].value == pytest.approx(found["rate"].value + found["distortion"].value)
    assert found["negative ELBO"].kind == "bound on a density"
    assert found["rate"].error == pytest.approx(((first + second).std() / math.sqrt(1000)).item(), rel=1e-4)
    distortion = (0.5 * x**2).sum(1).mean().item() + math.log(2 * math.pi)
    assert found["distortion"].value == pytest.approx(distortion, rel=1e-5)
    assert (found["distortion"].kind, found["distortion"].unit) == ("density", "nats")
    assert "rate, bits/dim" not in found  # points have no levels
    assert found["active units of 4"].value == 3
    assert found["active units of 2 in group 1 of 2"].value == 2
    assert found["active units of 2 in group 2 of 2"].value == 1


def test_activity_counts_in_the_deviations_of_the_prior():
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    x = (x / x.std(0)).sort(0).values  # batches lie far apart
    # A mean of variance a^2 under a prior of variance 4: active above a = 0.2.
    for a, active in ((0.19, 0), (0.21, 2)):
        found = figures(Known(Points(dimensions=2), a=a, b=0.0), x + 7, batch_size=64)
        assert found["active units of 2 in group 1 of 2"].value == active


@pytest.mark.parametrize("name", ["vae", "hierarchy"])
def test_rate_and_distortion_add_up_to_the_bound(name):
    model = toys.make(name)
    x = toys.data_for(model)
    found = figures(model, x)
    elbo = model.elbo(x, generator=fork(torch.Generator().manual_seed(0)))
    assert found["rate"].value + found["distortion"].value == pytest.approx(-elbo.total.mean().item(), rel=1e-5)
    assert found["distortion"].kind == "mass"
    bits = found["rate, bits/dim"].value + found["distortion, bits/dim"].value
    assert bits == pytest.approx(-elbo.total.mean().item() / (12 * math.log(2)), rel=1e-5)
    groups = [metric for metric in found if metric.startswith("rate of group")]
    assert len(groups) == (0 if name == "vae" else 2)
    if groups:
        assert found["rate of group 2 of 2"].value == pytest.approx(elbo.kl[:, 1].mean().item(), rel=1e-5)


def test_a_learned_prior_has_the_codes_as_its_rate():
    torch.manual_seed(0)
    medium = Images(1, 8, 8, 2)
    x = torch.where(torch.rand(30, *medium.shape) < 0.5, 1.0, -1.0)
    vq = VQVAE(medium, codes=8, dimensions=4, downsampling=4, width=4, blocks=0)
    codes = GatedPixelCNN(vq.latents(), 4, 1, 3, 3, 4, likelihood="categorical", embedding=4)
    model = LatentPrior(vq, codes).eval()
    found = figures(model, x, batch_size=8)
    with torch.no_grad():
        codes = vq.to_latents(vq.encode(x))
        rate, distortion = -model.learned.log_prob(codes), -vq.decode(vq.from_latents(codes)).log_prob(x)
    assert found["rate"].value == pytest.approx(rate.mean().item(), rel=1e-5)
    assert found["distortion"].value == pytest.approx(distortion.mean().item(), rel=1e-5)
    assert found["negative ELBO"].value == pytest.approx(-model.log_prob(x, samples=3).mean().item(), rel=1e-5)
    assert (found["rate"].kind, found["negative ELBO"].kind) == ("", "bound on a mass")
    vae = VAE(medium, latent=2, width=4, blocks=0, hidden=8)
    model = LatentPrior(vae, MADE(vae.latents(), width=8, layers=1)).eval()
    with torch.no_grad():
        elbo, bound = (f(x, generator=torch.Generator().manual_seed(5)) for f in (model.elbo, model.log_prob))
        z = model.encode(x).rsample(generator=torch.Generator().manual_seed(5))
        expected = model.encode(x).log_prob(z) - model.learned.log_prob(z)
    torch.testing.assert_close(elbo.kl, expected.double()[:, None])
    assert torch.equal(elbo.total, bound)


def test_labels_go_to_a_conditional_model():
    model = toys.make("conditional-vae")
    x = toys.data_for(model)
    labels = torch.arange(len(x)) % 3
    elbo = model.elbo(x[:20], condition=labels[:20], generator=torch.Generator().manual_seed(0))
    found = figures(model, x, labels, limit=20)
    assert found["rate"].value == pytest.approx(elbo.kl.sum(1).mean().item(), rel=1e-5)
    assert (found["rate"].kind, found["distortion"].kind) == ("class known", "mass, class known")
    assert (figures(toys.make("vae"), x)["rate"].kind, figures(toys.make("vae"), x)["distortion"].kind) == ("", "mass")
    with pytest.raises(ValueError, match="ToyVAE is told a class and the data have no labels"):
        figures(model, x)


def test_models_without_a_bound_and_single_items_are_refused():
    with pytest.raises(ValueError, match="ToyPixelCNN is not scored by a bound"):
        figures(toys.make("pixelcnn"), torch.ones(4, 1, 4, 3))
    with pytest.raises(ValueError, match="at least 2 items, got 1"):
        figures(toys.make("vae"), torch.ones(4, 1, 4, 3), limit=1)
