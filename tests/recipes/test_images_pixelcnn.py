"""The recipe on scikit-learn's digits, resumed and compared, and on a folder of the user's own colour pictures."""

import dataclasses
import json

import pytest
import torch
from PIL import Image

from modalities.images import Images
from recipes import images_pixelcnn
from recipes.images_pixelcnn import Config, Gated, Mixture, Plain
from recipes.pixels import completions
from zoo import load
from zoo.card import read_figures
from zoo.evaluation.receptive_field import receptive_field
from zoo.training import TrainingConfig, TrainingError

PICTURES = {"samples", "completions", "receptive_field"}
SHORT = TrainingConfig(steps=2, batch_size=16)


@pytest.fixture
def smoke(tmp_path):
    return dataclasses.replace(images_pixelcnn.PRESETS["smoke"][1], output=tmp_path / "run")


def test_smoke_learns_draws_and_resumes_for_nothing(smoke):
    for model, name in (("plain", "pixelcnn-digits"), ("gated", "gated-pixelcnn-digits")):
        config = dataclasses.replace(smoke, model=model)
        images_pixelcnn.main(config)
        folder = smoke.output / model
        assert {path.stem for path in folder.glob("*.png")} == PICTURES
        figures = json.loads((folder / "figures.json").read_text())
        nll = next(value for key, value in figures.items() if key.startswith("NLL (mass)"))
        # Pixels taken one by one, at the training set's frequencies, need 38 nats.
        assert float(nll.split()[0]) < 34
        timed = {key.removeprefix("time_to_sample, "): value for key, value in figures.items() if "time_to" in key}
        assert timed.keys() == {f"batch {n}, {s}" for n in (1, 4) for s in ("incremental", "fixed-point", "naive")}
        assert 1 <= int(timed["batch 4, fixed-point"].split()[0]) <= 64 and timed["batch 4, naive"].startswith("64 ")
        assert nll in (smoke.output / name / "README.md").read_text()

    title, other = images_pixelcnn.counterpart(config)
    assert title == "PixelCNN" and torch.equal(other.last.weight, load(smoke.output / "pixelcnn-digits").last.weight)
    trained = load(smoke.output / name)
    images_pixelcnn.main(config)
    again = load(smoke.output / name)
    assert torch.equal(trained.last.weight, again.last.weight)
    assert json.loads((folder / "figures.json").read_text())["minutes of training"] == figures["minutes of training"]


def test_own_colour_pictures_are_trained_on_and_published(smoke, tmp_path, hub):
    folder = tmp_path / "mine"
    medium = Images(3, 12, 12)
    medium.save(medium.dataset("photographs").x[:60], folder)
    config = dataclasses.replace(
        smoke,
        model="mixture",
        data=str(folder),
        mixture=dataclasses.replace(smoke.mixture, training=SHORT),
        test_items=3,
        batches=(1,),
        push="someone/mine",
    )
    images_pixelcnn.main(config)
    published = load("someone/mine")
    assert published.modality == Images(3, 8, 8)
    assert torch.equal(published.first_u.weight, load(config.output / "pixelcnn-pp-pictures").first_u.weight)
    assert all(figure.published is None for figure in read_figures(config.output / "pixelcnn-pp-pictures"))


def test_published_figures_stand_beside_the_sets_and_metrics_that_they_are_of(smoke, shared_data):
    for model, data, metric, value in (
        ("gated", "mnist", "NLL", 81.50),
        ("plain", "mnist", "NLL", 81.30),
        ("mixture", "cifar10_subset", "bits/dim", 2.92),
    ):
        config = dataclasses.replace(smoke, model=model, data=str(shared_data / data), test_items=4)
        test = config.medium.dataset(config.source, "test")
        figures = images_pixelcnn.measure(images_pixelcnn.build(config, config.medium), test, config)
        assert {figure.metric: figure.published for figure in figures if figure.published} == {metric: value}
        assert "first 4 test images" in figures[0].data and ("seed 0" in figures[0].data) == (model != "mixture")
        assert ("not comparable" in figures[-1].reference) == (model == "mixture")


def test_hidden_halves_are_drawn_and_known_ones_kept(smoke):
    model = images_pixelcnn.build(smoke, smoke.medium)
    x = torch.where(torch.rand(5, 1, 8, 8) < 0.5, 1.0, -1.0)
    original, hidden, *drawn = completions(model, x, 4, torch.Generator().manual_seed(0)).split(5)
    assert torch.equal(original, x) and len(drawn) == 4
    assert torch.equal(hidden[:, :, :4], x[:, :, :4]) and not hidden[:, :, 4:].any()
    for one in drawn:
        assert torch.equal(one[:, :, :4], x[:, :, :4]) and set(one.unique().tolist()) == {-1.0, 1.0}
    assert not torch.equal(drawn[0], drawn[1])


def test_the_gated_network_sees_into_the_blind_spot_of_a_plain_one_of_its_depth(smoke):
    """Row 6 of 14, column 4 of 14: a row up the plain network ends 3 columns to the right, the gated one does not."""
    config = dataclasses.replace(smoke, size=14, gated=Gated(width=8, layers=4, kernel=3, head=8))
    title, plain = images_pixelcnn.counterpart(config)
    assert title == "PixelCNN, as initialised" and len(plain.blocks) == 3
    x = torch.where(torch.rand(20, 1, 14, 14) < 0.5, 1.0, -1.0)
    gated = receptive_field(images_pixelcnn.build(config, config.medium), x, 6, 4)
    seen = receptive_field(plain, x, 6, 4)
    assert (gated[5, :11] > 0).all() and not gated[5, 11:].any()
    assert (seen[5, :8] > 0).all() and not seen[5, 8:].any()
    assert not gated[7:].any() and not gated[6, 4:].any()
    title, other = images_pixelcnn.counterpart(dataclasses.replace(config, model="plain", plain=Plain(blocks=3)))
    assert title == "Gated PixelCNN, as initialised" and len(other.layers) == 4


def test_pictures_are_what_the_model_says(smoke):
    """A receptive field has one panel a design, and hides nothing where the gradient is not zero."""
    model = images_pixelcnn.build(smoke, smoke.medium)
    x = torch.where(torch.rand(4, 1, 8, 8) < 0.5, 1.0, -1.0)
    picture = images_pixelcnn.draw_receptive_fields(smoke, model, x)
    assert isinstance(picture, Image.Image) and len(picture.getcolors(1 << 24)) > 20


def test_another_seed_in_the_same_folder_is_refused(smoke):
    images_pixelcnn.main(dataclasses.replace(smoke, gated=dataclasses.replace(smoke.gated, training=SHORT)))
    other = dataclasses.replace(smoke.gated, training=dataclasses.replace(SHORT, seed=1))
    with pytest.raises(TrainingError, match="another run"):
        images_pixelcnn.main(dataclasses.replace(smoke, gated=other))


def test_every_preset_builds_its_models():
    for _, config in images_pixelcnn.PRESETS.values():
        for model in ("gated", "plain", "mixture"):
            chosen: Config = dataclasses.replace(config, model=model)
            with torch.device("meta"):
                built = images_pixelcnn.build(chosen, chosen.medium)
            assert built.modality.levels == (256 if model == "mixture" else 2)
            assert chosen.training.steps == getattr(config, model).training.steps
    assert images_pixelcnn.PRESETS["laptop"][1].mixture == Mixture()
