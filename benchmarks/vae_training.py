"""VAE training, images a second: pythae's VAE with its residual networks for MNIST, and ours with the very same layers.

    pip install latent-zoo[benchmarks]
    python -m benchmarks.vae_training

Both take the same layers, batches of 128 binary 28 x 28 images, a Bernoulli likelihood and an Adam optimiser, and step
in turn in one process; times are medians over rounds. Ours runs through `zoo.training.train`, with gradient clipping
and the moving average of the weights, which the peer's loop here does not have; it gains by channels-last memory and in
the last row by bfloat16. Run it without other load.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from modalities.data import Arrays
from modalities.images import Images
from recipes.recipe import machine
from zoo.nn.convolution import channels_last
from zoo.training import TrainingConfig, train
from zoo.variational.vae import VAE

LATENT, BATCH = 16, 128


@dataclasses.dataclass(frozen=True)
class Config:
    """How long."""

    steps: int = 20
    """Training steps a round."""
    rounds: int = 7
    """Rounds, of which the first only warms up."""


class PeerEncoder(nn.Module):
    """The peer's encoder, its two heads as one output."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        channels_last(encoder)

    def forward(self, x: Tensor, condition: None = None) -> Tensor:
        out = self.encoder(x.contiguous(memory_format=torch.channels_last))
        return torch.cat([out.embedding, out.log_covariance / 2], 1)


class PeerDecoder(nn.Module):
    """The peer's decoder without its last sigmoid, which the Bernoulli likelihood includes."""

    def __init__(self, decoder: Any):
        super().__init__()
        decoder.layers[-1] = decoder.layers[-1][0]
        self.layers = decoder.layers.to(memory_format=torch.channels_last)

    def forward(self, z: Tensor, condition: None = None) -> Tensor:
        h = self.layers[0](z).reshape(len(z), 128, 4, 4).contiguous(memory_format=torch.channels_last)
        for layer in self.layers[1:]:
            h = layer(h)
        return h


def networks() -> tuple[Any, Any, Any]:
    """The peer's configuration, encoder and decoder, freshly initialised."""
    from pythae.models import VAEConfig
    from pythae.models.nn.benchmarks.mnist import Decoder_ResNet_AE_MNIST, Encoder_ResNet_VAE_MNIST

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce")
    return config, Encoder_ResNet_VAE_MNIST(config), Decoder_ResNet_AE_MNIST(config)


def peer(x: Tensor) -> Callable[[int], None]:
    """Steps of pythae's VAE."""
    from pythae.models import VAE as PythaeVAE

    config, encoder, decoder = networks()
    model = PythaeVAE(config, encoder=encoder, decoder=decoder).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    items = (x + 1) / 2

    def steps(n: int) -> None:
        for _ in range(n):
            batch = items[torch.randint(len(items), (BATCH,))]
            optimiser.zero_grad()
            model({"data": batch}).loss.backward()
            optimiser.step()

    return steps


def ours(x: Tensor, precision: Any) -> Callable[[int], None]:
    """Steps of the zoo's trainer and VAE, on the peer's layers."""
    model = VAE(Images(1, 28, 28, levels=2), latent=LATENT)
    _, encoder, decoder = networks()
    model.encoder, model.decoder = PeerEncoder(encoder), PeerDecoder(decoder)  # type: ignore[assignment]

    def steps(n: int) -> None:
        train(model, Arrays(x), TrainingConfig(steps=n, batch_size=BATCH, precision=precision, log_every=n))

    return steps


def main(config: Config) -> None:
    """Time both in turn and print images a second."""
    x = torch.where(torch.rand(2000, 1, 28, 28) < 0.2, 1.0, -1.0)
    contenders = {"pythae": peer(x), "latent-zoo": ours(x, "no"), "latent-zoo, bf16": ours(x, "bf16")}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(config.rounds):
        for name, steps in contenders.items():
            start = time.perf_counter()
            steps(config.steps)
            times[name].append(time.perf_counter() - start)
    rates = {name: BATCH * config.steps / statistics.median(found[1:] or found) for name, found in times.items()}
    table = Table("", "images a second", "against pythae", title=f"VAE training, batch {BATCH}, {machine()}")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}", f"{rate / rates['pythae']:.2f}x")
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Config))
