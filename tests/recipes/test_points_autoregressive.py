"""The recipe on generated points and on the user's own table."""

import dataclasses
import json

import pytest
import torch

from modalities import MediaError
from modalities.densities import DENSITIES
from modalities.points import Points
from recipes import points_autoregressive as recipe
from zoo import load
from zoo.card import read_figures


@pytest.fixture
def smoke(tmp_path):
    return dataclasses.replace(recipe.PRESETS["smoke"][1], output=tmp_path / "run")


def test_smoke_writes_figures_one_picture_and_the_first_model(smoke):
    from PIL import Image

    recipe.main(smoke)
    figures = json.loads((smoke.output / "figures.json").read_text())
    for name in smoke.data:
        score = float(figures[f"NLL (density), {name}, 2,000 test points"].split()[0])
        truth = float(figures[f"the truth, {name}, 2,000 test points"].split()[0])
        test = Points(2).dataset(name, "test").x
        assert truth == pytest.approx(-DENSITIES[name]().log_prob(test).mean().item(), rel=1e-3)
        gaussian = torch.distributions.MultivariateNormal(test.mean(0), torch.cov(test.T)).log_prob(test)
        assert truth < score < -gaussian.mean().item()
    picture = Image.open(smoke.output / "densities.png").convert("L")
    assert picture.getextrema()[0] < picture.getextrema()[1]

    model = load(smoke.output / smoke.name)
    (figure,) = read_figures(smoke.output / smoke.name)
    assert figure.data == "two-moons, 2,000 test points" and figure.kind == "density"
    test = Points(2).dataset("two-moons", "test").x
    assert figure.value == pytest.approx(-model.log_prob(test).mean().item(), abs=1e-3)


def test_a_table_of_ones_own_is_learned_and_published(smoke, tmp_path, hub):
    group = torch.rand(200, 1, generator=torch.Generator().manual_seed(0)) < 0.5
    path = tmp_path / "own.csv"
    Points(2).save(torch.where(group, 0.0, torch.tensor([4.0, 400])) + torch.randn(200, 2), path)
    training = dataclasses.replace(smoke.training, steps=10)
    recipe.main(dataclasses.replace(smoke, data=(str(path),), name="own", training=training, push="someone/points"))
    published, kept = load("someone/points"), load(smoke.output / "own")
    assert torch.equal(published.standardise.mean, kept.standardise.mean)
    assert published.sample(3).shape == (3, 2)
    figures = json.loads((smoke.output / "figures.json").read_text())
    assert not any("truth" in name for name in figures)


def test_points_of_one_dimension_are_refused(smoke):
    with pytest.raises(MediaError, match="expected 2"):
        recipe.main(dataclasses.replace(smoke, data=("two-gaussians",)))
