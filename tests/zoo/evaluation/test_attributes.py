"""Directions of attributes in a hierarchy whose latents are known."""

import math
from types import SimpleNamespace

import pytest
import torch

from modalities.images import Images
from zoo.distributions import DiagonalGaussian, Point
from zoo.evaluation.attributes import (
    correlation,
    learn_directions,
    linear_probe,
    measure_directions,
    partial_out,
    project,
    show_sliders,
)
from zoo.hierarchy import TopDown
from zoo.linear.pca import PCA
from zoo.model import Latent


class Hierarchy(Latent):
    """Two groups of latents: the first shifts all pixels, the second the left column."""

    def __init__(self):
        super().__init__()
        self.modality = Images(3, 4, 4)

    def prior(self, condition=None, *, n=1, temperature=1.0):
        def walk():
            yield DiagonalGaussian(torch.zeros(n, 1), torch.full((n, 1), temperature))
            yield DiagonalGaussian(torch.zeros(n, 1, 2), torch.full((n, 1, 2), temperature))

        return TopDown(walk)

    def encode(self, x, *, condition=None):
        column = (x[:, :, :, 0] - x[:, :, :, 1]).mean((1, 2))[:, None]
        return SimpleNamespace(mean=(x[:, 0, 0, 1:2], torch.stack([column, torch.zeros_like(column)], 2)))

    def decode(self, z, *, condition=None):
        x = z[0][:, :, None, None].expand(-1, 3, 4, 4).clone()
        x[..., 0] += z[1][:, 0, :1, None]
        return Point(x)


def test_directions_of_hierarchies_hold_the_other_attributes():
    torch.manual_seed(0)
    level = torch.randn(500) / 2
    column = 0.8 * level + 0.3 * torch.randn(500)  # the two attributes go together
    x = level[:, None, None, None].expand(-1, 3, 4, 4).clone()
    x[..., 0] += column[:, None, None]
    labels = {"level": 10 * level.double() + 3, "column": column.double()}
    labels["column"][4] = math.nan
    model = Hierarchy()
    directions = learn_directions(model, x, labels)
    assert torch.allclose(directions["level"][0], level.std(), rtol=0.02) and directions["level"][1].abs().max() < 1e-3
    assert directions["column"][0].abs() < 1e-3
    assert torch.allclose(directions["column"][1][0, 0], column.std(), rtol=0.02)
    places = project(model, x, directions)
    assert all(correlation(places[name], labels[name]) > 0.999 for name in labels)
    probe = linear_probe(PCA.fit(x, model.modality, components=2), x, labels)
    some = {name: values[:50] for name, values in labels.items()} | {"unknown": torch.full((50,), math.nan)}
    along, known = directions | {"unknown": directions["level"]}, {"level": lambda x: x[:, 0, 0, 3]}
    found = measure_directions(model, along, x[:50], some, probe, known=known)
    readings = found["column: reading in standard deviations as its slider goes from -3 to 3"]
    assert readings[-1] - readings[0] == pytest.approx(6, abs=1)
    levels = found["level: level as its slider goes from -3 to 3"]
    assert levels[-1] - levels[0] == pytest.approx(6 * level.std().item(), rel=0.02)
    assert found["level: that of a linear probe of the items"] > 0.99 and len(found) == 6
    one, three = (show_sliders(model, directions, x[:n]) for n in (1, 3))
    assert three.height > 2 * one.height and three.width == one.width and len(three.getcolors(10**6)) > 20


def test_what_is_left_of_an_attribute_does_not_depend_on_the_others():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 400, generator=generator)
    attributes = {"a": first, "b": first + second, "c": torch.where(torch.arange(400) == 7, math.nan, second.cumsum(0))}
    complete, left = partial_out(attributes)
    assert complete.sum() == 399 and not complete[7]
    for name, rest in left.items():
        others = torch.stack([values[complete] for other, values in attributes.items() if other != name])
        assert torch.corrcoef(torch.cat([rest[None], others.double()]))[0, 1:].abs().max() < 1e-6
    assert correlation(left["a"], attributes["a"][complete]) > 0.5
    assert partial_out({"a": 3 * first + 5})[1]["a"].std() == pytest.approx(1)
