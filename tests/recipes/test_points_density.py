"""The recipe on generated points and on the user's own table."""

import dataclasses
import json
import re

import pytest
import torch

from modalities import MediaError
from modalities.points import Points
from recipes import points_density
from zoo import load
from zoo.baselines import GaussianMixture
from zoo.card import read_figures

MODELS = ["the truth", "Gaussian mixture", "kernel density", "VAE"]


def column(line):
    return [cell.strip() for cell in line.strip("|\n").split("|")]


@pytest.fixture
def smoke(tmp_path):
    return dataclasses.replace(points_density.PRESETS["smoke"][1], output=tmp_path / "run")


def test_smoke_writes_one_table_one_picture_and_two_models(smoke):
    from PIL import Image

    points_density.main(smoke)
    header, _, *lines = map(column, (smoke.output / "table.md").read_text().splitlines())
    assert all(len(line) == len(header) for line in lines)
    nll = {(line[0], re.sub(",.*", "", line[1])): line[2] for line in lines}
    for data in ("two-gaussians", "two-moons"):
        assert all(nll[data, model] for model in MODELS)
    assert all(nll["two-moons", model] == "" for model in ("K-means", "PCA", "autoencoder"))
    score = {key: float(value.split()[0]) for key, value in nll.items() if value}
    # A mixture of two components is the family that generated the line; the entropy bounds every model.
    assert score["two-gaussians", "Gaussian mixture"] == pytest.approx(score["two-gaussians", "the truth"], abs=0.05)
    assert score["two-gaussians", "one Gaussian"] > score["two-gaussians", "Gaussian mixture"] + 0.5
    assert min(score.values()) == score["two-moons", "the truth"]

    picture = Image.open(smoke.output / "densities.png").convert("L")
    assert picture.getextrema()[0] < picture.getextrema()[1]
    figures = json.loads((smoke.output / "figures.json").read_text())
    assert any(name.startswith("K-means, reconstruction MSE, two-moons") for name in figures)

    test = Points(2).dataset("two-moons", "test").x
    mixture = load(smoke.output / "gaussian-mixture-points")
    assert -mixture.log_prob(test).mean().item() == pytest.approx(score["two-moons", "Gaussian mixture"], abs=1e-3)
    vae = load(smoke.output / "vae-points")
    bound = -vae.log_prob(test, samples=smoke.samples, generator=points_density.seeded(smoke)).mean().item()
    assert bound == pytest.approx(score["two-moons", "VAE"], abs=2e-3)
    card = next(f for f in read_figures(smoke.output / "vae-points") if f.metric == "NLL")
    assert card.kind == "bound on a density" and card.value == pytest.approx(bound, abs=2e-3)


def test_a_table_of_ones_own_is_fitted_and_published(smoke, tmp_path, hub):
    generator = torch.Generator().manual_seed(0)
    group = torch.rand(200, 1, generator=generator) < 0.5
    table = torch.where(group, 0.0, torch.tensor([4.0, 400])) + torch.randn(200, 2, generator=generator)
    path = tmp_path / "own.csv"
    Points(2).save(table, path)
    config = dataclasses.replace(
        smoke, data=str(path), line=f"{path}:y", components=(1, 2), name="own", push="someone/points"
    )
    points_density.main(config)
    published, kept = load("someone/points"), load(config.output / "vae-own")
    assert torch.equal(published.standardise.mean, kept.standardise.mean)
    assert published.sample(3).shape == (3, 2)
    lines = (config.output / "table.md").read_text()
    assert "the truth" not in lines and "own.csv:y" in lines and "| own.csv |" in lines


def test_the_size_of_the_mixture_is_chosen_on_points_left_out():
    x = Points(2).dataset("eight-gaussians").x[:600]
    chosen = points_density.likeliest_mixture(x, Points(2), (1, 2, 8, 60, 61), seed=0)
    assert isinstance(chosen, GaussianMixture) and len(chosen.weights) == 8


def test_a_missing_table_is_named(smoke):
    with pytest.raises(MediaError, match="no/such.csv"):
        points_density.main(dataclasses.replace(smoke, line="no/such.csv"))
