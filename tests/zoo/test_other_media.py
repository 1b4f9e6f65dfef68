"""What the contract is for: media, conditions and models that the package does not have, with no edit to it."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zoo
from modalities.data import Arrays
from modalities.meshes import Meshes
from modalities.points import Points
from tests import toys
from tests.speech import HOP, Sounds, Speaker, Spelling
from tests.toys import generator
from zoo.conditions import Classes
from zoo.distributions import DiagonalGaussian
from zoo.hierarchy import Joint
from zoo.model import Variational
from zoo.training import TrainingConfig, train

ROOT = Path(__file__).parents[2]
FAMILY_OR_KIND = re.compile(
    r"isinstance\([^)]*\b(PCA|ProbabilisticPCA|MorphableModel|Autoencoder|VAE|NVAE|VQVAE|PixelCNN|GatedPixelCNN|PixelRNN|"
    r"PixelCNNPlusPlus|WaveNet|MADE|Autoregressive|LatentPrior|GaussianMixture|KernelDensity|"
    r"Points|Signals|Images|Latents|Meshes|Classes|Text)\b|\b(modality|medium|condition)\.kind (==|!=|in|not in)"
)
HOMES = ("zoo/variational/", "zoo/autoregressive/", "zoo/linear/", "zoo/morphable/", "zoo/latent_prior.py")
HOMES += ("zoo/baselines.py", "zoo/conditions.py", "modalities/")


def test_no_family_or_medium_is_named_outside_of_its_home():
    files = [path for folder in ("zoo", "recipes") for path in sorted((ROOT / folder).rglob("*.py"))]
    named = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        if not str(path.relative_to(ROOT)).startswith(HOMES)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FAMILY_OR_KIND.search(line)
    ]
    assert not named, "a concept is missing from the contract"


def config(**changes):
    return TrainingConfig(**dict(steps=150, batch_size=16, learning_rate=0.02, log_every=50, ema=0.9) | changes)


def reloaded(model, folder):
    zoo.save(model, folder)
    return zoo.load(folder)


@pytest.fixture(scope="module")
def speech():
    """Four words, spoken by one wave a letter, and a model that has learned to speak them."""
    waves = torch.rand(26, HOP, generator=generator()) * 2 - 1
    spoken = {
        word: torch.cat([waves[ord(letter) - ord("a")] for letter in word])[None]
        for word in ("zoo", "hello", "speak", "at")
    }
    torch.manual_seed(0)
    model = Speaker(Sounds(), Spelling())
    train(model, [(wave, word) for word, wave in spoken.items()] * 20, config(steps=1000, learning_rate=0.05))
    return model, spoken


def test_a_toy_speaks(speech, tmp_path):
    model, spoken = speech
    words = ["at", "zoo", "hello"]
    for heard, word in zip(model.sample(3, condition=words), words, strict=True):
        assert heard.shape == (1, HOP * len(word)) and torch.allclose(heard, spoken[word], atol=0.05)
    again = reloaded(model, tmp_path / "speaker")
    assert again.modality == model.modality and again.condition == model.condition
    told = again.sample(2, condition="lap")  # a word that it never heard, of letters that it did
    assert all(torch.equal(a, b) for a, b in zip(told, model.sample(2, condition="lap"), strict=True))
    with pytest.raises(ValueError, match="give one as the condition"):
        again.sample(1)


def test_a_toy_that_speaks_is_shown_while_it_trains_and_on_the_command_line(speech, tmp_path, capsys):
    model, spoken = speech
    settings = config(steps=2, sample_every=1)
    run = train(Speaker(Sounds(), Spelling()), [(spoken["zoo"], "zoo")] * 16, settings, tmp_path / "run")
    assert len(run.history) == 1 and list((tmp_path / "run" / "logs").iterdir())
    zoo.save(model, tmp_path / "speaker")
    from zoo.cli import main

    assert main(["info", str(tmp_path / "speaker")]) == 0
    assert "sounds" in capsys.readouterr().out


class ConditionalGAN(toys.ToyGAN):
    """A GAN whose two players are told the class."""

    def __init__(self, modality: Points, condition: Classes, width: int = 32):
        super().__init__(modality, width)
        self.condition, d, classes = condition, modality.elements, len(condition)
        self.generator = nn.Sequential(nn.Linear(2 + classes, width), nn.ReLU(), nn.Linear(width, d))
        self.discriminator = nn.Sequential(nn.Linear(d + classes, width), nn.ReLU(), nn.Linear(width, 1))

    def _tell(self, x, condition):
        return torch.cat([x, F.one_hot(condition, len(self.condition)).to(x)], 1)

    def _fake(self, n, temperature=1.0, generator=None, condition=None):
        noise = temperature * torch.randn(n, 2, generator=generator)
        return self.generator(self._tell(noise, condition))

    def loss(self, batch, *, player="model", progress=1.0, shared=None, generator=None):
        labels = self.prepare_condition(batch.condition, len(batch.x))
        if player == "model":
            fake = self._fake(len(batch.x), generator=generator, condition=labels)
            shared["fake"] = fake.detach()
            return {"loss": F.softplus(-self.discriminator(self._tell(fake, labels))).mean()}
        real, fooled = (self.discriminator(self._tell(x, labels)) for x in (batch.x, shared["fake"]))
        return {"loss": F.softplus(-real).mean() + F.softplus(fooled).mean()}

    @torch.no_grad()
    def sample(self, n, *, condition=None, temperature=1.0, mean=False, generator=None):
        return self._fake(n, temperature, generator, self.prepare_condition(condition, n, generator))


def test_a_toy_gan_is_told_its_class(tmp_path):
    zoo.register("conditional-gan", ConditionalGAN)
    labels = torch.arange(400) % 2
    x = 0.1 * torch.randn(400, 2, generator=generator()) + 2.0 * labels[:, None] - 1
    torch.manual_seed(0)
    model = ConditionalGAN(Points(2), Classes(("left", "right")))
    train(model, Arrays(x, labels), config(steps=400, batch_size=64, learning_rate=5e-3))
    again = reloaded(model, tmp_path / "gan")
    left, right = (again.sample(200, condition=name, generator=generator()).mean().item() for name in ("left", "right"))
    assert left < -0.5 and right > 0.5
    stored = (tmp_path / "gan" / "model.safetensors").read_bytes()
    assert b"generator" in stored and b"discriminator" not in stored


class Codes(NamedTuple):
    identity: torch.Tensor
    expression: torch.Tensor


class TwoLatents(Variational):
    """A linear VAE of meshes with two named latents."""

    def __init__(self, modality: Meshes, identity: int = 2, expression: int = 1):
        super().__init__()
        self.modality, self.sizes = modality, Codes(identity, expression)
        d = modality.elements
        self.encoder, self.decoder = nn.Linear(d, 2 * sum(self.sizes)), nn.Linear(sum(self.sizes), d)

    def prior(self, condition=None, *, n=1, temperature=1.0):
        zeros = [torch.zeros(n, size, device=self.device) for size in self.sizes]
        return Joint(Codes(*(DiagonalGaussian(zero, torch.full_like(zero, temperature)) for zero in zeros)))

    def encode(self, x, *, condition=None):
        numbers = self.encoder(self.check_items(x).flatten(1) / 20).split([2 * size for size in self.sizes], 1)
        pairs = (part.chunk(2, 1) for part in numbers)
        return Joint(Codes(*(DiagonalGaussian(mean, log_std.exp()) for mean, log_std in pairs)))

    def decode(self, z, *, condition=None):
        mean = 20 * self.decoder(torch.cat(z, 1)).unflatten(1, self.modality.shape)
        return DiagonalGaussian(mean, torch.tensor(5.0))


def test_a_toy_has_two_named_latents_on_meshes(tmp_path):
    zoo.register("two-latents", TwoLatents)
    vertices, triangles = toys.grid(3, 4, spacing=20.0)
    x = vertices + 20 * torch.randn(200, 1, 3, generator=generator())  # the sheet, moved about
    torch.manual_seed(0)
    model = TwoLatents(Meshes(12, faces=triangles))
    train(model, x, config(steps=300))
    again = reloaded(model, tmp_path / "faces")
    assert torch.equal(again.modality.triangles, triangles) and again.modality.show(again.sample(2)).width > 50
    assert (again.reconstruct(x[:20]) - x[:20]).square().mean().sqrt() < 8
    z = again.encode(x[:2]).mean
    assert isinstance(z, Codes) and z.identity.shape == (2, 2) and z.expression.shape == (2, 1)
    swapped = again.decode(Codes(z.identity, z.expression.flip(0))).mean
    assert swapped.shape == (2, 12, 3) and not torch.allclose(swapped, again.reconstruct(x[:2]))
    direction = again.attribute_direction(x, x[:, 0, 0])
    moved = again.traverse(x[:1], along=[direction], values=[0.0, 30.0])[0, 0]
    assert isinstance(direction, Codes) and (moved[1] - moved[0])[:, 0].mean() > 5
    walk = again.interpolate(x[:2], x[2:4], 3)
    assert torch.allclose(walk[:, 0], again.reconstruct(x[:2]), atol=1e-3)
    with torch.no_grad():
        assert again.elbo(x[:4]).kl.shape == (4, 2) and again.log_prob(x[:4], samples=5).shape == (4,)
