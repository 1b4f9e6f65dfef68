"""The recipe on scikit-learn's digits: measured, drawn, resumed; what every scale codes; its settings build models."""

import dataclasses
import json

import pytest
import torch

from modalities.images import Images
from recipes import images_nvae
from zoo import load
from zoo.training import TrainingConfig
from zoo.variational.nvae import NVAE

PICTURES = {"samples", "temperatures", "scales", "reconstructions", "interpolations"}


@pytest.fixture
def smoke(tmp_path):
    return dataclasses.replace(images_nvae.PRESETS["smoke"][1], output=tmp_path / "run")


def test_smoke_learns_draws_and_resumes_for_nothing(smoke):
    smoke = dataclasses.replace(smoke, nvae=dataclasses.replace(smoke.nvae, steps=250))
    images_nvae.main(smoke)
    assert {path.stem for path in smoke.output.glob("*.png")} == PICTURES
    figures = json.loads((smoke.output / "figures.json").read_text())
    nll = next(value for key, value in figures.items() if key.startswith("NLL (bound on a mass)"))
    # Pixels taken one by one, at the training set's frequencies, need 38 nats.
    assert float(nll.split()[0]) < 36
    card = (smoke.output / smoke.name / "README.md").read_text()
    rates = [value for key, value in figures.items() if key.startswith("rate of group")]
    assert len(rates) == 3 and nll in card and "Vahdat" in card and figures["steps left out"] >= 0
    model = load(smoke.output / smoke.name)
    images_nvae.main(dataclasses.replace(smoke, beside=str(smoke.output / smoke.name)))
    again = load(smoke.output / smoke.name)
    assert torch.equal(model.start, again.start)
    figures = json.loads((smoke.output / "figures.json").read_text())
    ahead = next(value for key, value in figures.items() if key.startswith("nats less than"))
    assert abs(float(ahead.split()[0])) < 0.5  # it stands beside itself


def test_own_pictures_with_batch_normalisation_are_published(smoke, tmp_path, hub):
    folder = tmp_path / "mine"
    medium = Images(1, 8, 8)
    medium.save(medium.dataset("digits").x[:60], folder)
    config = dataclasses.replace(
        smoke,
        data=str(folder),
        name="mine",
        normalisation="batch",
        spectral=0.01,
        nvae=TrainingConfig(steps=5, batch_size=16, optimiser="adamax"),
        test_items=5,
        push="someone/nvae-mine",
    )
    images_nvae.main(config)
    assert isinstance(load("someone/nvae-mine"), NVAE)


def test_rows_share_the_scales_above_and_differ_below():
    torch.manual_seed(0)
    model = NVAE(Images(1, 8, 8, 2), (2, 1, 2), latent=2, width=4, blocks=0, block_cells=1, cells=1, expansion=1).eval()
    seen = []
    decode = model.decode
    model.decode = lambda z: seen.append(z) or decode(z)
    rows = images_nvae.scales(model, 4, 1.0, torch.Generator().manual_seed(0))
    assert [tuple(row.shape) for row in rows] == 3 * [(4, 1, 8, 8)]
    for z, fixed in zip(seen, (0, 2, 3), strict=True):
        same = [bool((group == group[:1]).all()) for group in z]
        assert same == [place < fixed for place in range(5)]
    assert torch.equal(seen[1][0], seen[2][0])


@pytest.mark.parametrize("preset", ["laptop", "gpu", "paper"])
def test_the_larger_presets_have_the_sizes_they_promise(preset):
    config = images_nvae.PRESETS[preset][1]
    expected = {"laptop": (4, 4), "gpu": (5, 10), "paper": (5, 10)}[preset]
    assert config.groups == expected
    with torch.device("meta"):
        model = NVAE(
            Images(1, 28, 28, 2), config.groups, config.latent, config.width, config.blocks, config.block_cells, 1
        )
    assert model.grid == (32, 32) and [tuple(model.start.shape[2:])] == [(4, 4)]
