"""The recipe on generated points."""

import dataclasses
import re

import pytest

from modalities import MediaError
from modalities.points import Points
from recipes import points_density as recipe
from recipes.recipe import seeded
from tests.recipes import runs
from zoo import load
from zoo.card import read_figures

SMOKE = recipe.PRESETS["smoke"][1]


def table(config):
    """The cells of every line by the data and the model."""
    header, _, *lines = (
        line.strip("| ").split(" | ") for line in (config.output / "table.md").read_text().splitlines()
    )
    assert header[0] == "data" and len(header) == 8
    return {(line[0], re.sub(",.*", "", line[1])): [cell.strip() for cell in line] for line in lines}


def test_a_run_writes_one_table_and_one_picture(done):
    lines = table(done)
    score = {key: float(line[2].split()[0]) for key, line in lines.items() if line[2]}
    for data in ("two-gaussians", "two-moons"):
        assert {(data, model) for model in ("the truth", "Gaussian mixture", "kernel density", "VAE")} <= set(score)
    assert all(lines["two-moons", model][2] == "" for model in ("K-means", "PCA", "autoencoder"))
    assert {line[3] for key, line in lines.items() if key in score and "VAE" not in key} == {"exact"}
    assert lines["two-moons", "VAE"][3:5] == ["upper bound", "2 numbers"]
    assert lines["two-moons", "K-means"][4] == "1 of 2 centres"
    # A mixture of two components is the family that generated the line; the entropy bounds every model.
    assert score["two-gaussians", "Gaussian mixture"] == pytest.approx(score["two-gaussians", "the truth"], abs=0.05)
    assert score["two-gaussians", "one Gaussian"] > score["two-gaussians", "Gaussian mixture"] + 0.5
    assert min(score.values()) == score["two-moons", "the truth"]
    assert any(name.startswith("K-means, reconstruction MSE, two-moons") for name in runs.figures(done.output))
    assert runs.pictures(done.output) == {"densities"}


def test_the_mixture_and_the_vae_of_the_plane_are_kept(done):
    lines, test = table(done), Points(2).dataset("two-moons", "test").x
    mixture, vae = (load(done.output / f"{family}-two-moons") for family in ("gaussian-mixture", "vae"))
    score = {name: float(lines["two-moons", name][2].split()[0]) for name in ("Gaussian mixture", "VAE")}
    assert -mixture.log_prob(test).mean().item() == pytest.approx(score["Gaussian mixture"], abs=1e-3)
    bound = -vae.log_prob(test, samples=done.samples, generator=seeded(done.vae.seed)).mean().item()
    assert bound == pytest.approx(score["VAE"], abs=0.05)
    card = next(f for f in read_figures(done.output / "vae-two-moons") if f.metric == "NLL")
    assert card.kind == "bound on a density" and card.value == pytest.approx(score["VAE"], abs=1e-3)


@pytest.mark.parametrize("wrong", ["data", "line"])
def test_a_missing_table_is_named_before_anything_is_fitted(tmp_path, wrong):
    with pytest.raises(MediaError, match="no/such.csv"):
        recipe.main(dataclasses.replace(SMOKE, output=tmp_path, **{wrong: "no/such.csv"}))
    assert not list(tmp_path.iterdir())
