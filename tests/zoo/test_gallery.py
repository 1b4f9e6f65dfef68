"""The gallery over toy models: its pages, their pictures, and that the printed code makes them."""

import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from modalities import MediaError
from modalities.data import Arrays, Files
from modalities.points import Points
from tests import toys
from zoo import catalog
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.card import Card, Figure
from zoo.cli import main
from zoo.conditions import Classes
from zoo.gallery import write_gallery
from zoo.hub import load, save
from zoo.showcase import draw, real_items
from zoo.variational.autoencoder import Autoencoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A gallery of toys, in place of the bundled models."""
    place = tmp_path_factory.mktemp("gallery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "CHECKPOINTS", place / "checkpoints")
        figure = Figure("NLL", 81.25, "MNIST test", "nats", "bound on a mass", 0.125, 80.5, "Burda et al., 2016")
        for name in toys.NAMES:
            card = Card(f"<The toy> {name}.", "Made up by <b>me</b>.", figures=(figure,) if name == "vae" else ())
            save(toys.make(name), place / "checkpoints" / name, card)
        for name, condition in (("chain", None), ("conditional-chain", Classes.numbered(3))):
            model = GatedPixelCNN(toys.BINARY, width=4, layers=2, head=4, condition=condition).eval()
            save(model, place / "checkpoints" / name, Card("A chain.", "Made up."))
        fragments = Autoencoder(toys.BINARY, latent=2, width=2, hidden=4).eval()
        save(fragments, place / "checkpoints" / "a-first", Card("Bad.", "Made up."))
        write_gallery(place / "out")
    return place / "out"


def page(folder, name=""):
    return (folder / name / "index.html").read_text()


def pictures(folder, name):
    """Every picture's file on a model's page with its code."""
    found = re.findall(r'<img src="([^"]+)".*?<pre><code>(.*?)</code>', page(folder, name), re.DOTALL)
    return {file: html.unescape(code) for file, code in found}


def test_every_model_has_its_pictures(folder):
    shown = {name: set(pictures(folder, name)) for name in toys.NAMES}
    walks = {"samples.png", "temperature.png", "interpolation.png", "traversal.png"}
    assert shown["vae"] == shown["conditional-vae"] == shown["hierarchy"] == walks
    assert shown["ppca"] == walks - {"temperature.png"} and shown["gan"] == {"samples.png"}
    assert set(pictures(folder, "chain")) == {"samples.png", "completion.png"}
    for name, files in shown.items():
        assert files == {path.name for path in (folder / name).glob("*.png")}


@pytest.mark.parametrize("name", ["vae", "conditional-vae", "hierarchy", "ppca", "chain", "conditional-chain"])
def test_the_printed_code_makes_the_picture(folder, name, monkeypatch):
    monkeypatch.setattr(catalog, "CHECKPOINTS", folder.parent / "checkpoints")
    scope = {"load": load, "torch": torch}
    exec(html.unescape(re.search(r"<pre><code>(.*?)</code>", page(folder, name), re.DOTALL)[1]), scope)
    for file, code in pictures(folder, name).items():
        assert np.array_equal(eval(code, scope), Image.open(folder / name / file))


def test_the_pages_are_well_formed_and_need_no_network(folder):
    assert "81.25 ± 0.12 nats" in page(folder, "vae") and "80.5 nats (Burda et al., 2016)" in page(folder, "vae")
    assert "&lt;The toy&gt; vae." in page(folder) and "Made up by &lt;b&gt;me&lt;/b&gt;." in page(folder, "vae")
    for name in ("", *toys.NAMES):
        text, open_tags = page(folder, name), []
        assert "http" not in text and "<The toy>" not in text and "<b>" not in text

        class Checker(HTMLParser):
            def handle_starttag(self, tag, attributes, open_tags=open_tags):
                if tag not in ("meta", "img"):
                    open_tags.append(tag)

            def handle_endtag(self, tag, open_tags=open_tags):
                assert open_tags.pop() == tag

        Checker().feed(text)
        assert not open_tags
        links = re.findall(r'(?:href|src)="([^"#]+)"', text)
        assert len(links) > 1 and all((folder / name / link).is_file() for link in links)
        assert text.count("<img ") == text.count('loading="lazy"') > 0


def test_models_stand_by_medium_the_best_first_and_bad_examples_are_said_to_be_so(folder):
    text = page(folder)
    assert re.findall(r'<h2 class="medium" id="(\w+)">', text) == ["images", "points"]
    images, points = (re.findall(r'<article id="([^"]+)">', part) for part in text.split('id="points"'))
    assert set(points) == {"ppca", "gan"} and images[0] == "vae"  # the one with a measured likelihood
    assert images[-1] == "a-first" and text.count("A negative example") == 1
    assert "A negative example" in page(folder, "a-first") and "scores exactly, completes what has begun" in text


def test_points_come_as_a_picture_and_a_table(folder):
    assert '<a href="samples.csv">samples.csv</a>' in page(folder, "ppca")
    assert len((folder / "ppca" / "samples.csv").read_text().splitlines()) == 1001


def test_own_checkpoints_at_their_temperature_beside_real_items(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real = Image.new("RGB", (9, 9), "red")
    for run in ("a", "b"):
        card = Card("Mine.", "Made up.", temperature=0.5)
        save(toys.make("vae"), f"runs/{run}/mine", card, real=real)
    assert main(["gallery", "runs/a/mine", "runs/b/mine", "-o", "out"]) == 0
    assert len(re.findall("<article", page(tmp_path / "out"))) == 2
    mine, other = page(tmp_path / "out", "mine"), page(tmp_path / "out", "mine-2")
    assert 'load("runs/a/mine")' in html.unescape(mine) and 'load("runs/b/mine")' in html.unescape(other)
    assert "model.sample(36, temperature=0.5, mean=True" in mine and 'src="data.png"' in mine
    assert Image.open(tmp_path / "out" / "mine" / "data.png").size == (9, 9)
    card = (tmp_path / "runs" / "a" / "mine" / "README.md").read_text()
    assert "![Real items to compare with](data.png)" in card and "model.sample(16, temperature=0.5)" in card
    (tmp_path / "runs" / "a" / "mine" / "README.md").write_text(card.replace("temperature: 0.5", "temperature: cold"))
    with pytest.raises(ValueError, match="sampling_temperature is a number of at least 0, got 'cold'"):
        write_gallery(tmp_path / "out", ["runs/a/mine"])


def test_real_items_are_from_all_over_the_data_and_broken_ones_are_left_out():
    x = torch.linspace(-1, 1, 100)[:, None].expand(100, 2)
    medium = Points(2)
    assert np.array_equal(real_items(medium, Arrays(x)), medium.show(x))

    def read(name):
        if name == "b":
            raise MediaError("b is broken")
        return torch.zeros(1, 4, 3)

    assert real_items(toys.BINARY, Files(read, ["a", "b", "c"])).width > 10
    assert real_items(toys.BINARY, Files(read, ["b", "b"])) is None


@pytest.mark.parametrize("path", ["index.html", "toy/notes.txt"])
def test_nothing_else_is_written_over(path, tmp_path):
    save(toys.make("vae"), tmp_path / "toy")
    (tmp_path / "out" / path).parent.mkdir(parents=True)
    (tmp_path / "out" / path).write_text("<h1>mine</h1>")
    with pytest.raises(ValueError, match="another page|no part of a gallery"):
        write_gallery(tmp_path / "out", [str(tmp_path / "toy")])
    assert [file.name for file in (tmp_path / "out").rglob("*") if file.is_file()] == [path.rpartition("/")[2]]


def test_the_groups_of_a_hierarchy_move(folder):
    model = toys.make("hierarchy")
    x = model.sample(1, generator=torch.Generator().manual_seed(0))
    moved = model.traverse(x, along="groups")
    with torch.no_grad():
        posterior, prior = model.encode(x), model.prior(n=1)
        first = posterior.kl(prior, posterior.mean)[0].argmax()
        z = list(prior.standardise(posterior.mean))
        z[first] = z[first] + torch.randn(z[first].shape, generator=torch.Generator().manual_seed(int(first)))
        assert torch.allclose(model.decode(prior.reparameterise(tuple(z))).mean, moved[:, 0, -1], atol=1e-5)
    assert moved.shape[1:3] == (2, 7) and torch.allclose(moved[:, :, 3], model.reconstruct(x)[:, None], atol=1e-5)


@pytest.mark.parametrize("classes", [2, 30])
def test_a_conditional_model_is_shown_with_its_conditions_side_by_side(classes):
    condition = Classes.numbered(classes)
    model = GatedPixelCNN(toys.BINARY, width=4, layers=2, head=4, condition=condition).eval()
    samples, completion = model.exhibits()
    columns = min(classes, 10)
    assert samples.columns == columns and f"0, 1{', 2' * (classes > 2)}" in samples.caption
    shown = dict(draw(model))
    assert len(shown[samples]) == 4 * columns and len(shown[completion]) == 8 * 4
    begun, rest = shown[completion].split(model.positions[0] // 2, 2)
    assert torch.equal(begun, shown[samples][:4].repeat_interleave(8, 0)[:, :, : model.positions[0] // 2])
    assert not rest[::8].any() and rest[1:8].all()  # in front what is given


def test_the_last_line_says_where_the_page_lies(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(catalog, "CHECKPOINTS", folder.parent / "checkpoints")
    assert main(["gallery", "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"The gallery is {tmp_path / 'out' / 'index.html'}"


def test_without_bundled_models_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(catalog, "CHECKPOINTS", tmp_path)
    assert main(["gallery", "-o", str(tmp_path / "out")]) == 2
    assert "no models are bundled" in capsys.readouterr().err
