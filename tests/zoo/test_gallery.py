"""The gallery over toy models: the page, its pictures, and that the printed code makes them."""

import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from tests import toys
from zoo import catalog
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.card import Card, Figure
from zoo.cli import main
from zoo.conditions import Classes
from zoo.gallery import write_gallery
from zoo.hub import load, save
from zoo.showcase import draw


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("gallery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "CHECKPOINTS", place / "checkpoints")
        figure = Figure("NLL", 81.25, "MNIST test", "nats", "bound on a mass", 0.125, 80.5, "Burda et al., 2016")
        for name in toys.NAMES:
            card = Card(f"<The toy> {name}.", "Made up.", figures=(figure,) if name == "vae" else ())
            save(toys.make(name), place / "checkpoints" / name, card)
        for name, condition in (("chain", None), ("conditional-chain", Classes.numbered(3))):
            model = GatedPixelCNN(toys.BINARY, width=4, layers=2, head=4, condition=condition).eval()
            save(model, place / "checkpoints" / name, Card("A chain.", "Made up."))
        write_gallery(place / "out")
    return place / "out"


def pictures(folder):
    """Every picture's file with its code on the page."""
    page = (folder / "index.html").read_text()
    found = re.findall(r'<img src="([^"]+)".*?<pre><code>(.*?)</code>', page, re.DOTALL)
    return [(file, html.unescape(code)) for file, code in found]


def test_every_model_has_its_pictures(folder):
    files = [file for file, _ in pictures(folder)]
    for name in toys.NAMES:
        shown = {"ppca": 3, "vae": 4, "conditional-vae": 4, "hierarchy": 3}.get(name, 1)
        assert sum(file.startswith(f"{name}-") for file in files) == shown
    assert "vae-traversal.png" in files and "hierarchy-traversal.png" not in files
    assert "vae-temperature.png" in files and "ppca-temperature.png" not in files
    assert {"chain-samples.png", "chain-completion.png", "conditional-chain-completion.png"} <= set(files)
    assert sorted(files) == sorted(path.name for path in folder.glob("*.png"))


@pytest.mark.parametrize("name", ["vae", "conditional-vae", "hierarchy", "ppca", "chain", "conditional-chain"])
def test_the_printed_code_makes_the_picture(folder, name, monkeypatch):
    monkeypatch.setattr(catalog, "CHECKPOINTS", folder.parent / "checkpoints")
    page = (folder / "index.html").read_text()
    setup = html.unescape(re.search(rf'<section id="{name}">.*?<pre><code>(.*?)</code>', page, re.DOTALL)[1])
    scope = {"load": load, "torch": torch}
    exec(setup, scope)
    for file, code in pictures(folder):
        if file.startswith(f"{name}-"):
            assert np.array_equal(eval(code, scope), Image.open(folder / file))


def test_the_page_is_well_formed_and_needs_no_network(folder):
    page = (folder / "index.html").read_text()
    assert "http" not in page and "&lt;The toy&gt; vae." in page and "<The toy>" not in page
    assert "81.25 ± 0.12 nats" in page and "80.5 nats (Burda et al., 2016)" in page and "bound on a mass" in page
    open_tags = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "img"):
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Checker().feed(page)
    assert not open_tags


def test_models_stand_by_medium_and_pictures_wait_to_be_seen(folder):
    page = (folder / "index.html").read_text()
    assert re.findall(r"<h2>(\w+)</h2>", page) == ["images", "points"]
    images, points = page.split("<h2>points</h2>")
    assert 'id="vae"' in images and 'id="ppca"' in points and 'id="gan"' in points
    assert page.count("<img ") == page.count('loading="lazy"') > 10
    assert "probabilistic" not in page and "scores by a lower bound, has a latent space" in images
    assert (
        "scores exactly, completes what has begun" in images and '<p class="facts">toy-gan &middot; samples &' in points
    )


def test_points_come_as_a_picture_and_a_table(folder):
    assert '<a href="ppca-samples.csv">ppca-samples.csv</a>' in (folder / "index.html").read_text()
    assert len((folder / "ppca-samples.csv").read_text().splitlines()) == 1001


def test_another_page_is_not_written_over(tmp_path):
    (tmp_path / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(ValueError, match="another page"):
        write_gallery(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.parametrize("classes", [2, 30])
def test_a_conditional_model_is_shown_with_its_conditions_side_by_side(classes):
    condition = Classes.numbered(classes)
    model = GatedPixelCNN(toys.BINARY, width=4, layers=2, head=4, condition=condition).eval()
    samples, completion = model.exhibits()
    columns = min(classes, 10)
    assert samples.columns == columns and f"0, 1{', 2' * (classes > 2)}" in samples.caption
    shown = dict(draw(model))
    assert len(shown[samples]) == 4 * columns and len(shown[completion]) == 8 * 4
    kept = shown[completion][:, :, : model.positions[0] // 2]
    assert torch.equal(kept, shown[samples][:4].repeat_interleave(8, 0)[:, :, : model.positions[0] // 2])


def test_the_last_line_says_where_the_page_lies(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(catalog, "CHECKPOINTS", folder.parent / "checkpoints")
    assert main(["gallery", "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"The gallery is {tmp_path / 'out' / 'index.html'}"


def test_without_bundled_models_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(catalog, "CHECKPOINTS", tmp_path)
    assert main(["gallery", "-o", str(tmp_path / "out")]) == 2
    assert "no models are bundled" in capsys.readouterr().err
