"""Train toys in a process of their own: `python -m tests.zoo.worker NAME,... FOLDER STEPS [PAUSE]`, or torchrun."""

import json
import os
import sys
import time
from pathlib import Path

import torch

from modalities.data import Arrays
from modalities.images import Images
from tests import toys
from zoo.model import Optimiser, Player
from zoo.training import TrainingConfig, train
from zoo.variational.vq import VQVAE


class Sometimes(toys.ToyGAN):
    """A GAN whose discriminator sits out every other one of 50 steps."""

    def loss(self, batch, *, player="model", progress=1.0, **others):
        if player == "discriminator" and round(progress * 50) % 2:
            return None
        return super().loss(batch, player=player, progress=progress, **others)


class Adversaries(toys.ToyGAN):
    """A GAN whose noise is a function of the items, and whose discriminator has an optimiser of its own."""

    def _fake(self, n, temperature=1.0, generator=None):
        return self.generator(torch.sin(100 * self.items).to(self.dtype))

    def loss(self, batch, **others):
        self.items = batch.x
        return super().loss(batch, **others)

    def players(self):
        players = super().players()
        own = Optimiser(2e-3, betas=(0.5, 0.9), schedule="constant", warmup_steps=0)
        return players | {"discriminator": Player(players["discriminator"].modules, own)}


class Autoencoder(toys.ToyVAE):
    """Squared error, no noise: its losses must not depend on the number of processes."""

    def loss(self, batch, **others):
        x = batch.x
        return {"loss": (self.decode(self.encode(x).mean).mean - x).square().flatten(1).sum(1).mean()}


class Slow(Arrays):
    """Data that take a while to fetch, so that a kill finds the run at work."""

    def __init__(self, x, pause):
        super().__init__(x)
        self.pause = pause

    def take(self, indices):
        time.sleep(self.pause)
        return super().take(indices)


def run(name, folder, steps=50, pause=0.0, seed=0):
    """Train a toy and write what it logged to `folder`."""
    torch.manual_seed(0)
    if name == "autoencoder":
        model = Autoencoder(toys.BINARY)
    elif name in ("sometimes", "adversaries"):
        model = {"sometimes": Sometimes, "adversaries": Adversaries}[name](toys.Points(dimensions=2))
    else:
        model = toys.make(name) if name in toys.NAMES else codebook(name)
    config = TrainingConfig(steps=steps, batch_size=16, log_every=1, checkpoint_every=5, sample_every=10**9, seed=seed)
    history = train(model, Slow(toys.data_for(model), pause), config, folder).history
    rank = int(os.environ.get("RANK", 0))
    if rank == 0:
        (folder / "history.json").write_text(json.dumps(history))
    if isinstance(model, VQVAE):
        (folder / f"codebook-{rank}.json").write_text(json.dumps([model.codebook.tolist(), model.usage.tolist()]))


def codebook(name):
    """A VQ-VAE: "codes", all in use from the start; or "restarts", where all start at outputs chosen at random."""
    model = VQVAE(Images(1, 4, 4, 2), codes=5, dimensions=3, downsampling=2, width=4, blocks=1)
    if name == "codes":
        model.codebook *= 0.3
        model.usage += 20
    return model


if __name__ == "__main__":
    torch.set_num_threads(1)
    for toy in sys.argv[1].split(","):
        run(toy, Path(sys.argv[2]) / toy, int(sys.argv[3]), float(sys.argv[4]) if len(sys.argv) > 4 else 0.0)
    if torch.distributed.is_initialized():  # or its threads may still run when the interpreter ends, which aborts
        torch.distributed.destroy_process_group()
