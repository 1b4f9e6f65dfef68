"""Densities of one and two dimensions: classical estimators beside a VAE, in one picture and one table.

    python -m recipes.points_density
    python -m recipes.points_density --data old_faithful.csv --line old_faithful.csv:waiting

The defaults took 16 minutes on a shared core of an AMD EPYC, nearly all of it for the three networks. The truth gives
2,000 test points of two Gaussians in one dimension 1.419 nats: mixture of 2 at 1.420, kernel density 1.421, VAE at most
1.437 (bound, 500 draws), one Gaussian 2.131. Those of two moons 0.302: mixture of 32 at 0.309, kernel density 0.320,
VAE at most 0.501, probabilistic PCA 1.878. The classical estimators win and cost seconds: the VAE maps one connected
normal distribution onto separate pieces and leaves a bridge between them. But a code of one number keeps the moons to
0.041 in an autoencoder and to 0.297 in PCA.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modalities.densities import DENSITIES, Density
from modalities.drawing import render
from modalities.points import Points, draw_densities
from recipes.recipe import Pictures, Recipe, made, publish, report, run, seconds, seeded
from zoo.baselines import Clusters, GaussianMixture, KernelDensity, k_means
from zoo.card import Card, Figure
from zoo.evaluation.likelihood import mean_figure
from zoo.evaluation.samples import subset
from zoo.evaluation.suite import evaluate
from zoo.linear.pca import PCA, ProbabilisticPCA
from zoo.model import GenerativeModel, Latent
from zoo.settings import arguments, settings
from zoo.training import TrainingConfig, train
from zoo.variational.autoencoder import Autoencoder
from zoo.variational.vae import VAE

SIZES: Any = settings(Autoencoder, "latent", width=64, hidden=128)
SAMPLES = 1000
HEADER = f"data | model | test NLL, nats | NLL is | code | RMSE from the code | fit, s | {SAMPLES:,} samples, ms"
DEMPSTER = "Dempster, Laird, Rubin, Maximum Likelihood from Incomplete Data via the EM Algorithm, 1977."
KINGMA = "Kingma, Welling, Auto-Encoding Variational Bayes, 2014."
CARDS = {
    "Gaussian mixture": ("Mixture of Gaussians with full covariances on points of the plane.", DEMPSTER),
    "VAE": ("VAE with residual layers and a learned sigma on points of the plane.", KINGMA),
}


@dataclass(frozen=True)
class Config(SIZES, Recipe):
    """Data, models and where results go. The checkpoints are called "vae-NAME" and "gaussian-mixture-NAME"."""

    data: str = "two-moons"
    """Points of two dimensions: a synthetic family, or a table of two columns ("FILE.csv:A,B" picks them)."""
    line: str = "two-gaussians"
    """Points of one dimension: "two-gaussians", or a table of one column ("FILE.csv:A" picks it)."""
    output: Path = Path("runs/points_density")
    items: int = 10_000
    """Training points, at most."""
    components: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Sizes of the Gaussian mixture, of which the likeliest on a fifth of the training points is taken."""
    clusters: int = 2
    """Clusters of K-means."""
    samples: int = 500
    """Importance samples of the VAE's likelihood."""
    resolution: int = 120
    """Points along an axis of a drawn density."""
    vae: TrainingConfig = TrainingConfig(steps=6_000, batch_size=256, learning_rate=2e-3)
    """Training of both VAEs; its seed is that of all else."""
    autoencoder: TrainingConfig = TrainingConfig(steps=2_000, batch_size=256, learning_rate=2e-3)
    """Training of the autoencoder with a code of one number."""


Model = GenerativeModel | Clusters | Density


class Fit(NamedTuple):
    """A model, or the true density: how it was made, in how long, and what was measured on the test points."""

    model: Any
    how: str
    seconds: float
    figures: dict[str, Figure]


def main(config: Config) -> None:
    """Fit K-means, PCA, a Gaussian mixture, a kernel density and deep models to points, and compare them."""
    sets: list[tuple[Config, Points, Tensor, Tensor]] = []  # all are read before anything is fitted
    for source, medium in ((config.line, Points(1)), (config.data, Points(2))):
        x, test = (subset(data, len(data)).x for data in map(partial(medium.dataset, source), ("train", "test")))
        sets.append((replace(config, data=source), medium, x[: config.items], test))
    studies = [study(*part) for part in sets]
    named = [(part[0], *found) for part, fits in zip(sets, studies, strict=True) for found in fits.items()]
    table = "".join(f"| {line} |\n" for line in [HEADER, " | ".join(["---"] * 8), *(row(*found) for found in named)])
    (config.output / "table.md").write_text(table, encoding="utf-8")
    print(table)
    notes = {f"{name}, {f.label}, {f.data}": f.measured for _, name, fit in named for f in fit.figures.values()}
    report(config.output, [], notes, draw(sets, studies))
    for name, (summary, paper) in CARDS.items():
        fit, family, push = studies[1][name], name.lower().replace(" ", "-"), config.push if name == "VAE" else None
        how, count = made(config, fit.how, fit.seconds, config.vae.seed), len(sets[1][2])
        figures = tuple(fit.figures.values())
        card = Card(summary, f"{count:,} points to train.", figures=figures, paper=paper, trained=how)
        named = replace(config, name=config.name and f"{family}-{config.name}", push=push)
        picture = Points(2).show(sample(config, fit, 2 * SAMPLES))
        publish(named, fit.model, family, card, picture, sets[1][2], half=False)


def study(config: Config, medium: Points, x: Tensor, test: Tensor) -> dict[str, Fit]:
    """Fit every model that these points can take, and measure it on the test points; the truth first, where known."""
    seed, plane = config.vae.seed, medium.dimensions == 2
    found: dict[str, Fit] = {}

    def fit(name: str, work: Callable[..., Model], *given: object, **options: object) -> None:
        start = time.perf_counter()
        model = work(x, *given, **options)
        found[name] = Fit(model, "Fitted", time.perf_counter() - start, measure(config, model, test))

    def learn(name: str, family: type[VAE | Autoencoder], latent: int, training: TrainingConfig) -> None:
        torch.manual_seed(training.seed)
        model = family(medium, latent=latent, **arguments(Autoencoder, config))
        done = train(model, x, training, config.output / f"{family.__name__.lower()}-{medium.dimensions}d")
        steps = f"{training.steps:,} steps of {training.batch_size}"
        found[name] = Fit(model.cpu(), steps, done.seconds, measure(config, model, test))

    if config.data in DENSITIES:
        fit("the truth", lambda _: DENSITIES[config.data]())
    if plane:
        fit("probabilistic PCA", ProbabilisticPCA.fit, medium, components=1)
    else:
        fit("one Gaussian", GaussianMixture.fit, medium, components=1, seed=seed)
    fit("Gaussian mixture", GaussianMixture.fit_likeliest, medium, sizes=config.components, seed=seed)
    fit("kernel density", KernelDensity.fit, medium, seed=seed)
    learn("VAE", VAE, 2, config.vae)
    if plane:
        fit("K-means", k_means, config.clusters, seed)
        fit("PCA", PCA.fit, medium, components=1)
        learn("autoencoder", Autoencoder, 1, config.autoencoder)
    return found


def measure(config: Config, model: Model, test: Tensor) -> dict[str, Figure]:
    """Likelihood, and the squared error of what a code keeps, by the metric."""
    name, seed = f"{config.source}, {len(test):,} test points", config.vae.seed
    if isinstance(model, Clusters):
        error = torch.cdist(test, model.centres).amin(1).square() / test.shape[1]
        found = [mean_figure("reconstruction MSE", error, name)]
    elif isinstance(model, GenerativeModel):
        found = evaluate(model, test, name, metrics=["likelihood"], samples=config.samples, seed=seed).figures
    else:
        found = [mean_figure("NLL", -model.log_prob(test), name, "nats", "density")]
    return {figure.metric: figure for figure in found}


def row(config: Config, name: str, fit: Fit) -> str:
    """A model's line of the table."""
    nll, mse = fit.figures.get("NLL"), fit.figures.get("reconstruction MSE")
    score = kind = code = drawing = ""
    if nll:
        score, kind = f"{nll.value:.3f} ± {nll.error:.3f}", "upper bound" if "bound" in nll.kind else "exact"
    rmse = f"{math.sqrt(mse.value):.3f}" if mse else ""
    if isinstance(fit.model, Clusters):
        code = f"1 of {len(fit.model.centres)} centres"
    else:
        drawing = f"{1000 * seconds(fit.model.sample, SAMPLES):.1f}"
    if isinstance(fit.model, Latent):
        code = "1 number" if fit.model.prior().mean.numel() == 1 else "2 numbers"
    components = len(getattr(fit.model, "weights", ()))  # of a mixture
    name += f", {components} components" if components > 1 else ""
    return " | ".join([config.source, name, score, kind, code, rmse, f"{fit.seconds:.2f}", drawing])


@torch.no_grad()
def draw(sets: list[tuple[Config, Points, Tensor, Tensor]], studies: list[dict[str, Fit]]) -> Pictures:
    """Densities of one dimension, of two above samples, and the structure that each kind of model finds."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(17, 13), layout="constrained")
    line, plane, last = np.asarray(drawing.subfigures(3, 1, height_ratios=(1, 2, 1)))
    for part, (config, _, x, test), fits in zip((line, plane), sets, studies, strict=True):
        scored = {name: fit for name, fit in fits.items() if "NLL" in fit.figures}
        truth = "the truth" if "the truth" in scored else "data"
        samples = {truth: test[:SAMPLES]} | {n: sample(config, f) for n, f in scored.items() if n != truth}
        densities = {name: partial(density, config, fit) for name, fit in scored.items()}
        draw_densities(part, config.source, x, densities, samples, config.resolution)
    draw_structure(last.subplots(1, 5), test[:SAMPLES], {name: fit.model for name, fit in fits.items()})
    return {"densities": render(drawing)}


def sample(config: Config, fit: Fit, n: int = SAMPLES) -> Tensor:
    """Points drawn with fresh noise, the same in every call."""
    return fit.model.sample(n, generator=seeded(config.vae.seed))


def density(config: Config, fit: Fit, x: Tensor) -> Tensor:
    """The density at points, for a picture: a bound takes a fifth of the draws that a figure takes."""
    options = {"samples": max(1, config.samples // 5), "generator": seeded(config.vae.seed)}
    return fit.model.log_prob(x, **(options if isinstance(fit.model, GenerativeModel) else {})).exp()


def draw_structure(panels: np.ndarray, x: Tensor, models: dict[str, Any]) -> None:
    """Clusters, the line of PCA, the components of the mixture, the autoencoder's curve and the VAE's latent space."""
    group = torch.cdist(x, models["K-means"].centres).argmin(1)
    panels[0].scatter(*x.T, s=2, c=group, cmap="tab10", vmin=0, vmax=9)
    panels[0].plot(*models["K-means"].centres.T, "k*", markersize=12)
    for panel in panels[1:4]:
        panel.scatter(*x.T, s=2, color="lightgrey")
    panels[1].plot(*models["PCA"].reconstruct(x).T, ".", markersize=2, color="tab:blue")
    turn = torch.linspace(0, 2 * math.pi, 60)
    mixture, circle = models["Gaussian mixture"], torch.stack([turn.cos(), turn.sin()])
    for centre, scale in zip(mixture.centres, mixture.scale, strict=True):
        panels[2].plot(*(centre[:, None] + scale @ circle), color="tab:blue", linewidth=1)
    codes = models["autoencoder"].encode(x).mean
    curve = torch.linspace(codes.min().item(), codes.max().item(), 2000)[:, None]
    panels[3].plot(*models["autoencoder"].decode(curve).mean.T, color="tab:blue", linewidth=1)
    panels[4].scatter(*models["VAE"].encode(x).mean.T, s=2, c=group, cmap="tab10", vmin=0, vmax=9)
    titles = "K-means; PCA, one direction; mixture, one sigma; autoencoder, one number; VAE's latent, by cluster"
    for panel, title in zip(panels, titles.split("; "), strict=True):
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=7)


SHORT = TrainingConfig(steps=30, batch_size=64, log_every=10)
QUICK = Config(items=400, width=8, hidden=16, vae=SHORT, autoencoder=SHORT)
PRESETS = {
    "smoke": ("seconds, too short to learn", replace(QUICK, components=(1, 2, 8), samples=10, resolution=30)),
    "laptop": ("minutes on two cores", Config()),
    "gpu": ("wider, on any card", Config(width=128, hidden=256, samples=5000, vae=TrainingConfig(30_000, 2048))),
    "paper": (
        "the width and the batches of Kingma and Welling 2014, who have no points: 500 units, 100 items",
        Config(width=500, blocks=0, hidden=500, samples=5000, vae=TrainingConfig(100_000, 100, 3e-4)),
    ),
}

if __name__ == "__main__":
    run(main, PRESETS)
