"""The recipe on small models: every number is what the models themselves say, and every number says what it is."""

import dataclasses
import json
import math

import pytest
import torch

from modalities import MediaError
from modalities.images import Images
from modalities.latents import Latents
from recipes import compare
from zoo import load, save
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.autoregressive.pixelcnn import PixelCNN
from zoo.card import Card
from zoo.conditions import Classes
from zoo.latent_prior import LatentPrior
from zoo.linear.pca import PCA, ProbabilisticPCA
from zoo.training import TrainingConfig
from zoo.variational.nvae import NVAE
from zoo.variational.vae import VAE
from zoo.variational.vq import VQVAE

BINARY, GREY, COLOUR = Images(1, 8, 8, 2), Images(1, 8, 8), Images(3, 16, 16)
PAGE = "# Side by side\n\n<!-- digits -->\nold\n<!-- /digits -->\n\nThe end.\n"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of every kind."""
    top = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    vq = VQVAE(BINARY, codes=8, dimensions=4, downsampling=4, width=4, blocks=0)
    codes = GatedPixelCNN(
        Latents((1, 2, 2), 8), 4, 1, 3, 3, 4, condition=Classes.numbered(10), likelihood="categorical", embedding=4
    )
    photographs = COLOUR.dataset("photographs").x
    models = {
        "pca": PCA.fit(GREY.dataset("digits"), GREY, components=8),
        "vae": VAE(BINARY, latent=2, width=4, blocks=0, hidden=8),
        "nvae": NVAE(BINARY, (1, 1), latent=2, width=4, blocks=0, block_cells=1, cells=1, expansion=1),
        "pixelcnn": PixelCNN(BINARY, width=4, blocks=1, head=4),
        "vq-vae": LatentPrior(vq, codes),
        "pca-colour": PCA.fit(photographs, COLOUR, components=16),
        "vae-colour": VAE(COLOUR, latent=2, likelihood="logistic", width=4, blocks=0, hidden=8),
    }
    for name, model in models.items():
        save(model, top / name, Card("A model.", "Some data.", trained="9 steps in 1.5 minutes on 1 core, seed 0."))
    return top


@pytest.fixture
def digits(folders, tmp_path):
    names = ("pca", "vae", "nvae", "pixelcnn", "vq-vae")
    return compare.Config(
        data="digits",
        models=tuple(str(folders / name) for name in names),
        output=tmp_path / "run",
        test_items=12,
        draws=3,
        samples=150,
        features=tmp_path / "classifier",
        classifier=TrainingConfig(steps=80, batch_size=32, learning_rate=5e-3, ema=0.9),
    )


def lines(text):
    """The cells of a Markdown table by model and column."""
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def number(cell):
    return float(cell.split()[0])


def test_every_kind_of_model_stands_in_one_table_with_what_its_numbers_are(digits, folders, tmp_path):
    from PIL import Image

    page = tmp_path / "page.md"
    page.write_text(PAGE)
    digits = dataclasses.replace(digits, page=page)
    compare.main(digits)
    text = (digits.output / "table.md").read_text()
    found = lines(text)
    assert list(found) == [compare.CEILING, "pca", "vae", "nvae", "pixelcnn", "vq-vae", compare.FLOOR]
    kinds = {name: line["bits/dim"].partition("(")[2].rstrip(")") for name, line in found.items()}
    assert kinds == {
        compare.CEILING: "",
        "pca": "",
        "vae": "bound on a mass, 3 draws",
        "nvae": "bound on a mass, 3 draws",
        "pixelcnn": "mass",
        "vq-vae": "bound on a mass by one code an item, class known",
        compare.FLOOR: "mass",
    }
    assert "Samples of `vq-vae` are of the classes" in text and "are means of" not in text
    assert "`pca` is of pixels of 256 levels" in text and "for want of" not in text and "probabilistic" not in text

    # One set of items for all.
    items = compare.read(digits, BINARY, labelled=True)
    assert items.scored.shape == (12, 1, 8, 8) and set(items.scored.unique().tolist()) == {-1, 1}
    own = load(folders / "pixelcnn").bits_per_dim(items.scored).mean().item()
    assert number(found["pixelcnn"]["bits/dim"]) == pytest.approx(own, rel=1e-3)
    model = load(folders / "vq-vae")
    z = model.latents(items.scored)
    nats = model.prior.log_prob(z, condition=items.scored_labels) + model.decode(z).log_prob(items.scored)
    assert number(found["vq-vae"]["bits/dim"]) == pytest.approx(-nats.mean().item() / 64 / math.log(2), rel=1e-3)

    columns = ["Frechet distance", "precision", "recall", "density", "coverage"]
    best, worst = (found[name] for name in (compare.CEILING, compare.FLOOR))
    assert number(best["Frechet distance"]) < number(worst["Frechet distance"])
    assert number(best["coverage"]) > number(worst["coverage"])
    for name in ("pca", "vae", "nvae", "pixelcnn", "vq-vae"):
        line = found[name]
        assert line["training"] == "90 s" and all(math.isfinite(number(line[column])) for column in columns)
        assert line["64 samples"].endswith("s") and line["file"].endswith("kB")
        numbers = sum(tensor.numel() for tensor in load(folders / name).checkpoint().values())
        assert line["parameters"] == f"{numbers:,}"
    assert "zoo classifier, accuracy" in text and "9 steps in 1.5 minutes on 1 core" in text
    figures = json.loads((digits.output / "figures.json").read_text())
    assert figures["pixelcnn: bits/dim"] == found["pixelcnn"]["bits/dim"]

    # Test items, five models, the floor: seven strips of tiles, 96 pixels high, with gaps of 8.
    picture = Image.open(digits.output / "samples.png")
    assert picture.height == 7 * 96 + 6 * 8 and picture.width > 10 * 96 + 9 * 2
    written = page.read_text()
    assert written.startswith("# Side by side\n\n<!-- digits -->\n\n![") and written.endswith(
        "digits -->\n\nThe end.\n"
    )
    assert text in written and "old" not in written and "(page-digits.png)" in written
    assert Image.open(tmp_path / "page-digits.png").size == picture.size


def test_colours_have_densities_beside_masses_and_what_is_missing_is_said(digits, folders):
    models = tuple(str(folders / name) for name in ("pca-colour", "vae-colour"))
    config = dataclasses.replace(digits, data="photographs", models=models, features=None, samples=8, mean=True)
    compare.main(config)
    text = (config.output / "table.md").read_text()
    found = lines(text)
    kind = "bound on a mass by the density of dequantised pixels plus the bin width"
    assert found["pca-colour"]["bits/dim"].endswith(f"({kind})")
    assert found["vae-colour"]["bits/dim"].endswith("(bound on a mass, 3 draws)")
    assert list(found) == ["pca-colour", "vae-colour", compare.FLOOR]
    assert "coverage" not in found["pca-colour"] and "not compared in features" in text
    assert "want of a checkpoint: NVAE, PixelCNN, VQ-VAE with a learned prior." in text
    assert "Samples of `vae-colour` are means of p(x given z)" in text
    assert "Bits/dim of PCA are those of probabilistic PCA" in text
    items = compare.read(config, COLOUR, labelled=False)
    same = ProbabilisticPCA.fit(COLOUR.dataset("photographs").x, COLOUR, components=16)
    bits = same.bits_per_dim(items.scored, generator=compare.seeded(config)).mean().item()
    assert number(found["pca-colour"]["bits/dim"]) == pytest.approx(bits, abs=0.01)


def test_the_floor_is_the_mass_of_independent_pixels(digits):
    items = compare.read(digits, BINARY, labelled=False)
    row = compare.floor(BINARY, items, None, None, digits)
    grey = (BINARY.dataset("digits").x + 1) / 2
    white = (grey.sum(0) + 1) / (len(grey) + 2)
    bits = -torch.where(items.scored > 0, white, 1 - white).log2().mean().item()
    assert row.bits.value == pytest.approx(bits, abs=0.01)  # the training items are binarised, not grey
    assert ((row.pictures > 0).float().mean(0) - white).abs().max() < 0.2


def test_samples_end_with_a_mean_where_that_is_asked_for_and_is_an_item(digits, folders):
    smooth = dataclasses.replace(digits, mean=True)
    noisy, clean = (
        compare.sample(load(folders / "vae-colour"), 120, None, config)[:, :, 1:] for config in (digits, smooth)
    )
    assert len(noisy) == len(clean) == 120
    assert noisy.diff(dim=2).abs().mean() > 2 * clean.diff(dim=2).abs().mean()
    binary = load(folders / "vae")
    assert torch.equal(compare.sample(binary, 20, None, smooth), compare.sample(binary, 20, None, digits))


def test_samples_are_compared_with_the_levels_of_the_items(digits, folders, monkeypatch):
    seen = []
    monkeypatch.setattr(compare, "compare", lambda base, x, network: seen.append(x) or {})
    folder = folders / "vae-colour"
    entry = compare.Entry("vae-colour", folder, load(folder))
    coarse = dataclasses.replace(COLOUR, levels=32)
    items = compare.read(dataclasses.replace(digits, data="photographs", samples=8), coarse, labelled=False)
    row = compare.measure(entry, coarse, items, None, None, digits)
    kept = ((row.pictures + 1) * 127.5).round() // 8
    assert torch.equal(seen[0], 2 * kept / 31 - 1) and not torch.equal(seen[0], row.pictures)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("24,000 steps of 128 with recipes/images_vae.py in 78 minutes on one thread, seed 0.", 4680),
        ("60000 pictures in 2 s with recipes/faces_pca.py.", 2),
        ("Trained in 1.5 hours.", 5400),
        ("2,350 steps of 128 pictures with recipes/images_autoencoder.py.", None),
        ("", None),
    ],
)
def test_the_time_of_training_is_in_the_words_of_the_card(said, seconds, tmp_path):
    assert compare.seconds_trained(said) == seconds
    save(PCA(GREY, 2), tmp_path / "model", Card("A model.", "Some data.", trained=said), half=True)
    assert compare.trained(tmp_path / "model") == said


def test_what_cannot_be_compared_is_refused_before_anything_is_measured(digits, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "measure", lambda *_: pytest.fail("measured"))
    page = tmp_path / "page.md"
    page.write_text("# No place\n")
    with pytest.raises(MediaError, match="no lines <!-- digits -->"):
        compare.main(dataclasses.replace(digits, page=page))
    with pytest.raises(MediaError, match=r"of vae is \[1, 8, 8\], of vae-colour \[3, 16, 16\]"):
        compare.main(dataclasses.replace(digits, models=(str(folders / "vae"), str(folders / "vae-colour"))))
    with pytest.raises(MediaError, match="vae-points is a model of points"):
        compare.main(dataclasses.replace(digits, models=("vae-points",)))
    with pytest.raises(MediaError, match="a name each, got vae, vae"):
        compare.main(dataclasses.replace(digits, models=2 * (str(folders / "vae"),)))


def test_smoke_runs(tmp_path):
    config = compare.PRESETS["smoke"][1]
    compare.main(dataclasses.replace(config, output=tmp_path / "run", features=tmp_path / "classifier"))
    found = lines((tmp_path / "run" / "table.md").read_text())
    assert {"pca-mnist", "vae-mnist", "vq-vae-mnist"} <= set(found) and found["vae-mnist"]["training"] == "78 min"
