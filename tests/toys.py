"""One small model of every kind: that each fits in under 40 lines shows that the contract is small."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from modalities import Modality
from modalities.images import Images
from modalities.meshes import Meshes
from modalities.points import Points
from zoo.catalog import FAMILIES
from zoo.conditions import Classes
from zoo.distributions import Bernoulli, DiagonalGaussian, normal_noise
from zoo.hierarchy import TopDown
from zoo.model import Explicit, Fitted, GenerativeModel, Latent, Player, Trainable, Variational, check_count


@dataclasses.dataclass(frozen=True)
class Clips(Modality):
    """Grey clips, enough of a medium for a model."""

    frames: int = 4
    side: int = 6
    kind = "clips"
    levels = 256

    @property
    def shape(self):
        return (1, self.frames, self.side, self.side)


class ToyPPCA(Latent, Explicit, Fitted):
    """Probabilistic PCA: exact score, exact posterior, fitted."""

    def __init__(self, modality: Modality, components: int):
        super().__init__()
        self.modality = modality
        d = modality.elements
        self.register_buffer("mu", torch.zeros(d))
        self.register_buffer("w", torch.eye(d, components))
        self.register_buffer("noise", torch.ones(()))

    @classmethod
    def fit(cls, x, modality, components):
        model, flat = cls(modality, components), x.flatten(1)
        model.mu = flat.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(flat.T, correction=0))
        model.noise = values[:-components].mean()
        model.w = vectors[:, -components:] * (values[-components:] - model.noise).sqrt()
        return model

    def prior(self, condition=None, *, n=1, temperature=1.0):
        zeros = self.w.new_zeros(n, self.w.shape[1])
        return DiagonalGaussian(zeros, torch.full_like(zeros, temperature))

    def encode(self, x, *, condition=None):
        x = self.check_items(x)
        m = (self.w**2).sum(0) + self.noise  # W'W is diagonal for eigenvectors
        return DiagonalGaussian(
            (x.flatten(1).to(self.dtype) - self.mu) @ self.w / m, (self.noise / m).sqrt().expand(len(x), -1)
        )

    def decode(self, z, *, condition=None):
        mean = (self.mu + z.to(self.dtype) @ self.w.T).unflatten(1, self.modality.shape)
        return DiagonalGaussian(mean, self.noise.sqrt())

    def log_prob(self, x, *, condition=None, samples=1, generator=None):
        covariance = self.w @ self.w.T + self.noise * torch.eye(len(self.mu))
        return torch.distributions.MultivariateNormal(self.mu, covariance).log_prob(self.check_items(x).flatten(1))


class ToyVAE(Variational):
    """A class-conditional VAE of linear layers on binary images."""

    discrete = True

    def __init__(self, modality: Modality, latent: int = 2, condition: Classes | None = None):
        super().__init__()
        self.modality, self.condition, self.latent = modality, condition, latent
        d, classes = modality.elements, len(condition or ())
        self.encoder = nn.Linear(d + classes, 2 * latent)
        self.decoder = nn.Linear(latent + classes, d)
        with torch.no_grad():  # a posterior near the prior, so that few importance samples are exact
            self.encoder.weight *= 0.2

    def _join(self, h, condition):
        h = h.flatten(1).to(self.dtype)
        return h if self.condition is None else torch.cat([h, F.one_hot(condition, len(self.condition)).to(h)], 1)

    def prior(self, condition=None, *, n=1, temperature=1.0):
        zeros = torch.zeros(n, self.latent, device=self.device)
        return DiagonalGaussian(zeros, torch.full_like(zeros, temperature))

    def encode(self, x, *, condition=None):
        mean, log_std = self.encoder(self._join(self.check_items(x), condition)).chunk(2, 1)
        return DiagonalGaussian(mean, log_std.exp())

    def decode(self, z, *, condition=None):
        return Bernoulli(self.decoder(self._join(z, condition)).unflatten(1, self.modality.shape))


class ToyHierarchy(Variational):
    """Two groups of latents; the posterior is the prior moved by a learned residual."""

    discrete = True

    def __init__(self, modality: Modality, latent: int = 2):
        super().__init__()
        self.modality, self.latent, d = modality, latent, modality.elements
        self.start = nn.Parameter(torch.randn(latent))
        self.priors = nn.ModuleList(nn.Linear(latent, 2 * latent) for _ in range(2))
        self.residuals = nn.ModuleList(nn.Linear(latent + d, 2 * latent) for _ in range(2))
        self.updates = nn.ModuleList(nn.Linear(2 * latent, latent) for _ in range(2))
        self.output = nn.Linear(latent, d)
        with torch.no_grad():
            for residual in self.residuals:
                residual.weight *= 0.2

    def _walk(self, n, features=None, temperature=1.0):
        state = self.start.expand(n, -1)
        for prior, residual, update in zip(self.priors, self.residuals, self.updates, strict=True):
            mean, log_std = prior(state).chunk(2, 1)
            if features is not None:
                move, log_ratio = residual(torch.cat([state, features], 1)).chunk(2, 1)
                mean, log_std = mean + move, log_std + log_ratio
            z = yield DiagonalGaussian(mean, log_std.exp() * temperature)
            state = update(torch.cat([state, z.to(state)], 1))

    def prior(self, condition=None, *, n=1, temperature=1.0):
        return TopDown(lambda: self._walk(n, temperature=temperature))

    def encode(self, x, *, condition=None):
        features = self.check_items(x).flatten(1).to(self.dtype)
        return TopDown(lambda: self._walk(len(x), features))

    def decode(self, z, *, condition=None):
        state = self.start.expand(len(z[0]), -1)
        for update, group in zip(self.updates, z, strict=True):
            state = update(torch.cat([state, group.to(state)], 1))
        return Bernoulli(self.output(state).unflatten(1, self.modality.shape))


class ToyPixelCNN(Explicit, Trainable):
    """Two masked convolutions on binary images: exact score, no latent space."""

    discrete = True

    def __init__(self, modality: Modality, width: int = 8):
        super().__init__()
        self.modality = modality
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, 1, 3, padding=1)
        mask = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0, 0]])
        self.register_buffer("past", mask)
        self.register_buffer("past_and_present", mask + torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]))

    def logits(self, x):
        h = F.conv2d(x.to(self.dtype), self.first.weight * self.past, self.first.bias, padding=1)
        return F.conv2d(F.elu(h), self.second.weight * self.past_and_present, self.second.bias, padding=1)

    def log_prob(self, x, *, condition=None, samples=1, generator=None):
        self.prepare_condition(condition, len(x))
        return Bernoulli(self.logits(self.check_items(x, levels=True))).log_prob(x)

    def loss(self, batch, *, player="model", progress=1.0, shared=None, generator=None):
        return {"loss": -self.log_prob(batch.x, condition=batch.condition).mean()}

    @torch.no_grad()
    def sample(self, n, *, condition=None, temperature=1.0, mean=False, generator=None):
        check_count(n)
        self.prepare_condition(condition, n)
        x = torch.zeros(n, *self.modality.shape, device=self.device)
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                pixel = Bernoulli(self.logits(x)[:, :, i, j] / (temperature or 1))
                x[:, :, i, j] = pixel.sample(generator=generator) if temperature else pixel.mode
        return x


class ToyGAN(Trainable):
    """Non-saturating GAN on points: an implicit model, with a second player that is trained but not saved."""

    def __init__(self, modality: Modality, width: int = 16):
        super().__init__()
        self.modality, d = modality, modality.elements
        self.generator = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, d))
        self.discriminator = nn.Sequential(nn.Linear(d, width), nn.ReLU(), nn.Linear(width, 1))

    def players(self):
        return {"model": Player([self.generator]), "discriminator": Player([self.discriminator])}

    def _fake(self, n, temperature=1.0, generator=None):
        noise = normal_noise((n, 2), torch.empty(0, device=self.device), generator)
        return self.generator((temperature * noise).to(self.dtype))

    def loss(self, batch, *, player="model", progress=1.0, shared=None, generator=None):
        if player == "model":
            fake = self._fake(len(batch.x), generator=generator)
            shared["fake"] = fake.detach()  # for the other player's turn
            return {"loss": F.softplus(-self.discriminator(fake)).mean()}
        real, fooled = self.discriminator(batch.x.to(self.dtype)), self.discriminator(shared["fake"])
        return {"loss": F.softplus(-real).mean() + F.softplus(fooled).mean()}

    @torch.no_grad()
    def sample(self, n, *, condition=None, temperature=1.0, mean=False, generator=None):
        check_count(n)
        self.prepare_condition(condition, n)
        return self._fake(n, temperature, generator)


TOYS = [ToyPPCA, ToyVAE, ToyHierarchy, ToyPixelCNN, ToyGAN]
FAMILIES.update({f"toy-{cls.__name__[3:].lower()}": f"tests.toys:{cls.__name__}" for cls in TOYS})

BINARY = Images(channels=1, height=4, width=3, levels=2)


def make(name: str) -> GenerativeModel:
    """A toy by name, with the same weights every time."""
    torch.manual_seed(0)
    if name == "ppca":
        data = torch.randn(200, 2) @ torch.tensor([[2.0, 1.0], [0.0, 0.3]]) + torch.tensor([1.0, -1.0])
        return ToyPPCA.fit(data, Points(dimensions=2), 1).eval()
    if name == "conditional-vae":
        return ToyVAE(BINARY, condition=Classes.numbered(3)).eval()
    if name == "gan":
        return ToyGAN(Points(dimensions=2)).eval()
    return {"vae": ToyVAE, "hierarchy": ToyHierarchy, "pixelcnn": ToyPixelCNN}[name](BINARY).eval()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grid(rows: int, columns: int, spacing: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A flat sheet: its vertices [rows * columns, 3] and its triangles."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    number = torch.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (part.flatten() for part in (number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]))
    faces = torch.cat([torch.stack([a, b, d], 1), torch.stack([a, d, c], 1)])
    return spacing * torch.stack([x, y, torch.zeros_like(x)], 2).reshape(-1, 3).float(), faces


def data_for(model: GenerativeModel, n: int = 64) -> torch.Tensor:
    """Items of the model's medium; the binary ones have structure to learn: rows are all one value."""
    torch.manual_seed(1)
    if isinstance(model.modality, Clips):
        return torch.where(torch.rand(n, *model.modality.shape) < 0.5, 1.0, -1.0)
    if isinstance(model.modality, Images):
        rows = torch.rand(n, 1, model.modality.height, 1) < 0.5
        return torch.where(rows, 1.0, -1.0).expand(n, *model.modality.shape).contiguous()
    if isinstance(model.modality, Meshes):
        positions, colours = torch.randn(n, model.modality.vertices, 3), torch.rand(n, model.modality.vertices, 3)
        return torch.cat([20 * positions, colours], 2) if model.modality.colours else 20 * positions
    return torch.randn(n, *model.modality.shape)


NAMES = ["ppca", "vae", "conditional-vae", "hierarchy", "pixelcnn", "gan"]
