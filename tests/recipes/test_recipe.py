"""What all recipes share: flags, mistakes on the command line, what a card says of the data, the folder of results."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modalities import image_sets, meshes, signals
from modalities.densities import DENSITIES
from modalities.points import Points
from modalities.signals import Signals
from recipes import recipe
from recipes.recipe import SETS, Recipe, published
from tests.recipes import runs
from zoo import load
from zoo.card import Card, Figure, read_figures, read_temperature
from zoo.settings import arguments, settings
from zoo.showcase import real_items
from zoo.training import TrainingError
from zoo.variational.vae import VAE

SIZES: Any = settings(VAE, "beta", latent=3, width=4)
PICTURE = Image.new("RGB", (8, 8))
POINTS = Points(2).dataset("two-moons")
KNOWN = {("two-moons", "NLL"): (0.5, "a paper")}


@dataclasses.dataclass(frozen=True)
class Config(SIZES, Recipe):
    """A recipe's settings."""

    data: str = "two-moons"
    output: Path = Path("runs/tests")
    items: int | None = None


def start(monkeypatch, main, *words: str) -> None:
    """Run a recipe from the command line."""
    monkeypatch.setattr(sys, "argv", ["recipe", *words])
    recipe.run(main, {"smoke": ("small", Config(latent=1)), "laptop": ("the default", Config())})


def publish(config: Config, *figures: Figure) -> str:
    """Save an untrained model as a recipe does, and return its card."""
    model = VAE(Points(2), **arguments(VAE, config))
    folder = recipe.publish(config, model, "vae", Card("A model.", "Five points.", figures=figures), PICTURE, POINTS)
    return (folder / "README.md").read_text(encoding="utf-8")


def test_flags_are_the_arguments_of_the_constructor(monkeypatch):
    found = []
    start(monkeypatch, found.append, "--latent", "5", "--output", str(Path.cwd()), "--likelihood", "gaussian")
    start(monkeypatch, found.append, "smoke", "--output", str(Path.cwd()))
    assert [(config.latent, config.width) for config in found] == [(5, 4), (1, 4)]
    assert VAE(Points(2), **arguments(VAE, found[0])).likelihood_head.name == "gaussian"
    assert not hasattr(found[0], "beta") and not hasattr(found[0], "condition")
    assert arguments(Signals, Config()) == {}
    with pytest.raises(TypeError, match="VAE has no arguments widht"):
        settings(VAE, widht=3)


def test_help_says_what_a_flag_means(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        start(monkeypatch, print, "laptop", "--help")
    text = " ".join(capsys.readouterr().out.replace("│", " ").replace("|", " ").split())
    assert (
        "width of the linear layers next to the latent" in text
        and "A named set of the medium, or a file or folder of your own." in text
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--data", "no/such.csv"], "'no/such.csv' is neither a file or folder nor one of the named sets: mnist"),
        (["--items", "0"], "--items is a number of items from 1, got 0"),
        (["--output", __file__], f"{__file__} is a file, and results need a folder: choose another --output"),
        (["--output", f"{__file__}/below"], "Not a directory"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_done(monkeypatch, capsys, words, complaint):
    with pytest.raises(SystemExit) as end:
        start(monkeypatch, lambda config: pytest.fail("it was started"), *words)
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("error: ") and complaint in line


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("a width of 0"), 2, "error: a width of 0"),
        (TrainingError("the loss is not finite"), 2, "error: the loss is not finite"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on with what runs/here holds"),
    ],
)
def test_mistakes_and_interruptions_are_one_sentence(monkeypatch, capsys, tmp_path, error, code, said):
    def main(_):
        raise error

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        start(monkeypatch, main, "--output", "runs/here")
    assert end.value.code == code and capsys.readouterr().err.splitlines() == [said]


def test_every_named_set_has_its_text_and_its_licence():
    named = {*image_sets.NAMED, *signals.NAMED, *meshes.NAMED, *DENSITIES}
    assert named <= set(SETS) and all(about.endswith(".") and licence for about, licence in SETS.values())


def test_the_card_of_a_named_set_says_what_it_is(tmp_path):
    config = Config(output=tmp_path)
    card = publish(config, *published([Figure("NLL", 1.0, "test"), Figure("MSE", 1.0, "test")], config, KNOWN))
    assert SETS["two-moons"][0] + " Five points." in card and "license: apache-2.0" in card
    assert [figure.published for figure in read_figures(tmp_path / "vae-two-moons")] == [0.5, None]
    assert publish(dataclasses.replace(config, about="Mine.", licence="mit", name="other")).count("Mine. Five") == 1
    assert "license: mit" in (tmp_path / "other" / "README.md").read_text()


@pytest.mark.parametrize("name", ["two-moons", "mnist", "faces.v2"])
def test_the_card_of_files_of_ones_own_claims_nothing(tmp_path, name):
    """Also where the folder is called like a named set."""
    (tmp_path / name).mkdir()
    config = Config(data=str(tmp_path / name), output=tmp_path / "run")
    card = publish(config, *published([Figure("NLL", 1.0, "test")], config, KNOWN))
    assert "Files given by the user. Five points." in card and "license: other" in card
    (figure,) = read_figures(tmp_path / "run" / f"vae-{name}")
    assert figure.published is None and config.source == name


def test_names_follow_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beats.npz").touch()
    names = {"beats.npz": "vae-beats", "beats.npz:Gun Point": "vae-beats.npz-Gun-Point", ".": f"vae-{tmp_path.name}"}
    assert {data: Config(data=data).checkpoint("vae") for data in names} == names


def test_a_name_that_a_bundled_model_has_is_said(tmp_path, capsys):
    publish(Config(data="points", output=tmp_path, name="vae-points"))
    assert f"load this one by its path, {tmp_path / 'vae-points'}" in capsys.readouterr().out
    publish(Config(output=tmp_path, name="vae-mine"))
    assert not capsys.readouterr().out


def test_a_model_is_published_where_that_is_asked_for(tmp_path, hub):
    publish(Config(output=tmp_path, push="someone/points"))
    kept = load(tmp_path / "vae-two-moons")
    assert torch.equal(load("someone/points").decoder.output.weight, kept.decoder.output.weight)


def test_weights_that_half_precision_would_lose_are_stored_whole(tmp_path):
    model = VAE(Points(2), **arguments(VAE, Config()))
    with torch.no_grad():
        model.decoder.output.bias.fill_(1e-9)
    folder = recipe.publish(Config(output=tmp_path), model, "vae", Card("A model.", ""), PICTURE, None)
    assert torch.equal(load(folder).decoder.output.bias, model.decoder.output.bias)


def test_a_card_shows_items_of_the_data_where_there_are_some_to_compare_with(tmp_path):
    model, card = VAE(Points(2), **arguments(VAE, Config())), Card("A model.", "", temperature=0.5)
    for data in (POINTS, POINTS.x):
        folder = recipe.publish(Config(output=tmp_path), model, "vae", card, PICTURE, data)
        assert np.array_equal(Image.open(folder / "data.png"), real_items(Points(2), POINTS))
        assert "(data.png)" in (folder / "README.md").read_text() and read_temperature(folder) == 0.5
    recipe.publish(Config(output=tmp_path), model, "vae", card, PICTURE, None)
    assert not (folder / "data.png").exists()


def test_items_of_ones_own_are_shown_only_where_the_card_says_where_they_come_from(tmp_path):
    model, own = VAE(Points(2), **arguments(VAE, Config())), Config(data="points", output=tmp_path)
    for about in (None, "Measured by me; CC0."):
        config = dataclasses.replace(own, about=about)
        folder = recipe.publish(config, model, "vae", Card("A model.", ""), PICTURE, POINTS)
        assert (folder / "data.png").exists() == (about is not None)


def test_cards_leave_single_groups_to_the_figures(tmp_path):
    found = [Figure("rate", 3.0, "test", "nats"), Figure("rate of group 1 of 2", 1.0, "test", "nats")]
    publish(Config(output=tmp_path), *found)
    recipe.report(tmp_path, found, {"minutes": 2.5}, {"grey": Image.new("L", (2, 2))})
    assert [figure.metric for figure in read_figures(tmp_path / "vae-two-moons")] == ["rate"]
    measured = {"rate, test": "3 nats", "rate of group 1 of 2, test": "1 nats", "minutes": 2.5}
    assert runs.figures(tmp_path) == measured | {"machine": recipe.machine()}
    assert (tmp_path / "grey.png").is_file()
