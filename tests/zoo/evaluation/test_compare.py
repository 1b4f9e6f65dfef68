"""Small models side by side: every number is what the models themselves say, and every number says what it is."""

import math

import pytest
import torch

from modalities import MediaError
from modalities.data import batches
from modalities.images import Images
from modalities.latents import Latents
from modalities.points import Points
from zoo import load, save
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.autoregressive.pixelcnn import PixelCNN
from zoo.card import Card
from zoo.conditions import Classes
from zoo.evaluation.compare import CEILING, FLOOR, Entry, common_medium, compare, seconds_trained, trained
from zoo.evaluation.features import FeatureNetwork
from zoo.hub import find
from zoo.latent_prior import LatentPrior
from zoo.linear.pca import PCA, ProbabilisticPCA
from zoo.variational.nvae import NVAE
from zoo.variational.vae import VAE
from zoo.variational.vq import VQVAE

BINARY, GREY, COLOUR = Images(1, 8, 8, 2), Images(1, 8, 8), Images(3, 16, 16)
NETWORK = FeatureNetwork("rows and columns", lambda x: torch.cat([x.mean((1, 2)), x.mean((1, 3))], 1))


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """A checkpoint of every kind, by name."""
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
    return {name: Entry(name, top / name, load(top / name)) for name in models}


def beside(chosen, data, **options):
    """The comparison of some entries on a named set."""
    medium = common_medium(chosen)
    labels = any(entry.model.condition for entry in chosen)
    test, training = (medium.dataset(data, split, labels=labels) for split in ("test", "train"))
    return compare(chosen, test, training, f"the test split of {data}", **options)


@pytest.fixture(scope="module")
def digits(entries):
    names = ("pca", "vae", "nvae", "pixelcnn", "vq-vae")
    return beside([entries[name] for name in names], "digits", items=150, draws=3, network=NETWORK)


def number(cell):
    return float(cell.split()[0])


def test_every_number_says_what_it_is(digits):
    found = {row.name: row.cells for row in digits.rows}
    assert list(found) == [CEILING, "pca", "vae", "nvae", "pixelcnn", "vq-vae", FLOOR]
    bits = {name: cells["bits/dim"] for name, cells in found.items() if "bits/dim" in cells}
    assert {name: cell.partition("(")[2].rstrip(")") for name, cell in bits.items()} == {
        "vae": "bound on a mass",
        "nvae": "bound on a mass",
        "pixelcnn": "mass",
        "vq-vae": "bound on a mass, class known",
        FLOOR: "mass",
    }
    assert found["vq-vae"]["family"] == "latent-prior (vq-vae, gated-pixelcnn)"
    notes = "\n".join(digits.notes)
    assert "`vq-vae`: samples are told what the test items come with" in notes and "end with the mean" not in notes
    assert "`pca`: other levels" in notes and "same parameters" not in notes
    assert "features of: rows and columns" in notes and "9 steps in 1.5 minutes on 1 core" in notes


def test_all_models_see_the_same_items_and_numbers_are_their_own(digits, entries):
    real, labels = digits.setting.real, digits.setting.labels
    assert real.shape == (150, 1, 8, 8) and set(real.unique().tolist()) == {-1, 1}
    found = {row.name: row.cells for row in digits.rows}
    own = entries["pixelcnn"].model.bits_per_dim(real).mean().item()
    assert number(found["pixelcnn"]["bits/dim"]) == pytest.approx(own, rel=1e-3)
    nats = entries["vq-vae"].model.log_prob(real, condition=labels)
    assert number(found["vq-vae"]["bits/dim"]) == pytest.approx(-nats.mean().item() / 64 / math.log(2), rel=1e-3)
    assert number(found[CEILING]["Frechet distance"]) < number(found[FLOOR]["Frechet distance"])
    for name, entry in list(entries.items())[:5]:
        cells = found[name]
        assert cells["training"] == "90 s" and cells["64 samples"].endswith("s") and cells["file"].endswith("kB")
        assert all(math.isfinite(number(cells[name])) for name in ("precision", "recall", "density", "coverage"))
        assert cells["parameters"] == f"{sum(tensor.numel() for tensor in entry.model.checkpoint().values()):,}"


def test_table_and_picture_show_every_row(digits):
    table, _, notes = digits.table().partition("\n\n")
    lines = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.split("\n")]
    assert notes.count("\n- ") == len(digits.notes) - 1
    assert [line[0] for line in lines] == ["model", "---", *(row.name for row in digits.rows)]
    column = lines[0].index("bits/dim")
    assert lines[6][column] == digits.figures()["pixelcnn: bits/dim"] and lines[2][column] == "–"
    # Test items, five models, the floor: seven strips of tiles, 96 pixels high, with gaps of 8.
    picture = digits.show()
    assert picture.height == 7 * 96 + 6 * 8 and picture.width > 10 * 96 + 9 * 2


def test_a_density_of_pixels_stands_as_the_bound_on_their_mass(entries):
    chosen = [entries["pca-colour"], entries["vae-colour"]]
    found = beside(chosen, "photographs", items=8, draws=3, mean=True)
    cells = {row.name: row.cells for row in found.rows}
    assert all(cells[entry.name]["bits/dim"].endswith("(bound on a mass)") for entry in chosen)
    assert "coverage" not in cells["pca-colour"] and cells[CEILING] == {} and CEILING not in found.table()
    notes = "\n".join(found.notes)
    assert "Samples are not compared in features" in notes
    assert "`pca-colour`: scored by the density of the same parameters" in notes
    assert "`pca-colour`: scored by the density of dequantised elements" in notes
    assert "`pca-colour`, `vae-colour`: samples end with the mean of p(x given z)" in notes
    same = ProbabilisticPCA.fit(COLOUR.dataset("photographs").x, COLOUR, components=16)
    bits = same.bits_per_dim(found.setting.real, generator=torch.Generator().manual_seed(0)).mean().item()
    assert number(cells["pca-colour"]["bits/dim"]) == pytest.approx(bits, abs=0.01)


def test_the_floor_is_the_mass_of_independent_pixels(digits):
    row = digits.rows[-1]
    data = BINARY.dataset("digits")
    x = torch.cat([batch.x for batch in batches(data, 500, torch.Generator().manual_seed(0))])
    white = ((x > 0).double().sum(0) + 1) / (len(x) + 2)
    bits = -torch.where(digits.setting.real > 0, white, 1 - white).log2().mean().item()
    assert number(row.cells["bits/dim"]) == pytest.approx(bits, rel=1e-4)
    assert ((row.samples > 0).float().mean(0) - white).abs().max() < 0.2


def test_samples_end_with_a_mean_where_that_is_asked_for_and_is_an_item(entries):
    noisy, clean = (
        beside([entries["vae-colour"]], "photographs", items=30, draws=1, mean=mean).rows[1].samples
        for mean in (False, True)
    )
    assert noisy.diff(dim=3).abs().mean() > 2 * clean.diff(dim=3).abs().mean()
    binary = [beside([entries["vae"]], "digits", items=20, draws=1, mean=mean).rows[1] for mean in (False, True)]
    assert torch.equal(binary[0].samples, binary[1].samples)


def test_samples_are_compared_with_the_levels_of_the_items(entries):
    seen = []
    network = FeatureNetwork("record", lambda x: seen.append(x) or x.flatten(1)[:, :2])
    coarse = Entry("coarse", entries["vae"].folder, VAE(Images(3, 16, 16, 32), latent=2, width=4, blocks=0, hidden=8))
    found = beside([entries["vae-colour"], coarse], "photographs", items=8, draws=1, network=network)
    drawn = found.rows[1].samples
    assert found.setting.medium.levels == 32
    assert torch.equal(seen[2], 2 * (((drawn + 1) * 127.5).round() // 8) / 31 - 1) and not torch.equal(seen[2], drawn)


def test_media_without_levels_are_compared_in_nats():
    names = ("vae-points", "made-points")
    found = beside([Entry(name, find(name), load(name)) for name in names], "two-moons", items=40, draws=5)
    assert [row.name for row in found.rows] == [CEILING, *names]
    assert found.rows[2].cells["NLL"].endswith("nats (density)") and found.show().width > 100


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
    assert seconds_trained(said) == seconds
    save(PCA(GREY, 2), tmp_path / "model", Card("A model.", "Some data.", trained=said), half=True)
    assert trained(tmp_path / "model") == said


def test_models_of_different_things_are_refused(entries):
    with pytest.raises(MediaError, match=r"vae is of images of shape \[1, 8, 8\], vae-colour of images of shape"):
        common_medium([entries["vae"], entries["vae-colour"]])
    told = (
        Entry(name, entries["vae"].folder, VAE(BINARY, latent=2, width=4, blocks=0, hidden=8, condition=Classes(names)))
        for name, names in (("one", ("a", "b")), ("other", ("b", "a")))
    )
    with pytest.raises(MediaError, match="one and other are told different things"):
        beside(list(told), "digits", items=8)
    points = Entry("points", entries["vae"].folder, PCA(Points(dimensions=2), 1))
    with pytest.raises(MediaError, match="points of points"):
        common_medium([entries["vae"], points])
