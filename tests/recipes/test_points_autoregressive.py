"""The recipe on generated points."""

import dataclasses

import pytest
import torch

from modalities import MediaError
from modalities.densities import DENSITIES
from modalities.points import Points
from recipes import points_autoregressive as recipe
from tests.recipes import runs
from zoo import load
from zoo.card import read_figures

SMOKE = recipe.PRESETS["smoke"][1]


def test_a_run_measures_every_set_and_keeps_the_first_model(done):
    for name in done.data:
        score = runs.number(done.output, f"NLL (density), {name}, 2,000 test points")
        truth = runs.number(done.output, f"the truth, {name}, 2,000 test points")
        test = Points(2).dataset(name, "test").x
        assert truth == pytest.approx(-DENSITIES[name]().log_prob(test).mean().item(), rel=1e-3)
        gaussian = torch.distributions.MultivariateNormal(test.mean(0), torch.cov(test.T)).log_prob(test)
        assert truth < score < -gaussian.mean().item()
    assert runs.pictures(done.output) == {"densities"}
    model, (figure,) = load(done.output / "made-two-moons"), read_figures(done.output / "made-two-moons")
    assert figure.data == "two-moons, 2,000 test points" and figure.kind == "density"
    test = Points(2).dataset("two-moons", "test").x
    assert figure.value == pytest.approx(-model.log_prob(test).mean().item(), abs=1e-3)


def test_points_of_one_dimension_are_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(MediaError, match="expected 2"):
        recipe.main(dataclasses.replace(SMOKE, data=("two-moons", "two-gaussians"), output=tmp_path))
    assert not list(tmp_path.iterdir())
