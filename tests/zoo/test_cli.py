"""Every command of `zoo`, and that every error is one sentence and exit code 2."""

import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

from modalities.images import Images
from tests import toys
from zoo import catalog
from zoo.card import Card, read_figures
from zoo.cli import main
from zoo.evaluation import classifier
from zoo.hub import save
from zoo.training import TrainingConfig
from zoo.variational.nvae import NVAE

KEYWORDS = classifier.feature_network.__kwdefaults__


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """Toy checkpoints in place of the bundled ones."""
    folder = tmp_path / "checkpoints"
    for name in toys.NAMES:
        save(toys.make(name), folder / f"toy-{name}", Card(f"The toy {name}.", "Made up."))
    monkeypatch.setattr(catalog, "CHECKPOINTS", folder)
    monkeypatch.setenv("COLUMNS", "200")
    return folder


@pytest.fixture
def run(bundled, capsys):
    def run(*arguments, code=0):
        try:
            answer = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            answer = stop.code
        out, err = capsys.readouterr()
        assert answer == code, err
        return out if code == 0 else err

    return run


@pytest.fixture
def pictures(tmp_path):
    """Two files of the toys' medium."""
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, grey in zip(paths, (0, 255), strict=True):
        Image.new("L", (3, 4), grey).save(path)
    return paths


def test_list_shows_every_bundled_model(run):
    out = run("list")
    for name in toys.NAMES:
        assert f"toy-{name}" in out and f"The toy {name}." in out


def test_list_of_none(run, monkeypatch, tmp_path):
    monkeypatch.setattr(catalog, "CHECKPOINTS", tmp_path / "nothing")
    assert "No models" in run("list")


def test_the_list_and_the_package_need_no_torch():
    code = "import sys, zoo; from zoo.cli import main; main(['list']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_info_says_what_a_model_is_and_can_do(run):
    out = run("info", "toy-vae")
    assert "log_prob (a lower bound)" in out and "interpolate" in out and "Made up." in out
    assert "log_prob (exact)" in run("info", "toy-pixelcnn")
    assert "log_prob" not in run("info", "toy-gan")


def test_a_path_with_a_suffix_is_one_file(run, tmp_path):
    assert run("sample", "toy-vae", "-o", tmp_path / "one.png").startswith("1 images in")
    assert Image.open(tmp_path / "one.png").size == (3, 4)
    run("sample", "toy-vae", "-n", "5", "-o", tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size[0] > 100
    run("sample", "toy-ppca", "-n", "5", "-o", tmp_path / "new" / "points.csv")
    assert len((tmp_path / "new" / "points.csv").read_text().splitlines()) == 6
    assert (tmp_path / "new" / "points.png").is_file()
    run("sample", "toy-vae", "-n", "2", "-o", tmp_path / "v1.0")
    assert len(list((tmp_path / "v1.0" / "samples").iterdir())) == 2
    assert "not .glb" in run("sample", "toy-vae", "-o", tmp_path / "face.glb", code=2)


def test_sample_writes_files_and_a_sheet(run, tmp_path):
    out = run("sample", "toy-vae", "-n", "5", "--seed", "1", "-o", tmp_path / "out")
    assert len(list((tmp_path / "out/samples").glob("*.png"))) == 5
    assert (tmp_path / "out/samples.png").is_file() and "5 images" in out
    expected = toys.make("vae").sample(5, generator=torch.Generator().manual_seed(1))
    modality = toys.make("vae").modality
    assert torch.equal(modality.load(tmp_path / "out/samples/00002.png"), expected[2])


def test_cool_samples_of_a_hierarchy_have_statistics_of_their_own(run, tmp_path):
    torch.manual_seed(0)
    sizes = dict(latent=2, width=4, blocks=1, block_cells=1, cells=1, expansion=2)
    model = NVAE(Images(1, 8, 8), (1, 1), normalisation="batch", **sizes).eval()
    save(model, tmp_path / "nvae", Card("A toy.", "Made up."))
    run("sample", tmp_path / "nvae", "-n", "2", "--seed", "1", "--temperature", "0.5", "-o", tmp_path / "out")
    seeds = [torch.Generator().manual_seed(1) for _ in range(2)]
    calm = model.readjusted(0.5, batches=20, n=32, generator=seeds[0])
    expected = calm.sample(2, temperature=0.5, generator=seeds[1])
    assert torch.allclose(model.modality.load(tmp_path / "out/samples/00001.png"), expected[1], atol=1e-6)
    pale = model.sample(2, temperature=0.5, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(pale[1], expected[1], atol=1e-2)


def test_samples_of_points_are_one_table(run, tmp_path):
    run("sample", "toy-ppca", "-n", "5", "-o", tmp_path / "out")
    assert len((tmp_path / "out/samples.csv").read_text().splitlines()) == 6


def test_a_condition_chooses_the_class(run, tmp_path):
    run("sample", "toy-conditional-vae", "-n", "2", "--condition", "0,2", "--temperature", "0", "-o", tmp_path / "out")
    expected = toys.make("conditional-vae").sample(2, condition=[0, 2], temperature=0)
    loaded = toys.BINARY.load(tmp_path / "out/samples/00001.png")
    assert torch.equal(loaded, expected[1].sign())


def test_reconstruct_interpolate_traverse(run, tmp_path, pictures):
    a, b = pictures
    run("reconstruct", "toy-vae", a, b, "-o", tmp_path / "out")
    assert len(list((tmp_path / "out/reconstructions").iterdir())) == 2
    run("interpolate", "toy-hierarchy", a, b, "--steps", "5", "-o", tmp_path / "out")
    assert len(list((tmp_path / "out/interpolation").iterdir())) == 5
    run("traverse", "toy-vae", "-o", tmp_path / "out")
    run("traverse", "toy-vae", a, "-o", tmp_path / "out")
    assert len(list((tmp_path / "out/traversal").iterdir())) == 2 * 7
    assert Image.open(tmp_path / "out/traversal.png").width > Image.open(tmp_path / "out/traversal.png").height


def test_evaluate_prints_the_figures_and_writes_them_into_the_card(run, bundled):
    folder = bundled / "toy-pixelcnn"
    out = run("evaluate", folder, "--data", "digits", "--limit", "20", "--write")
    assert "NLL" in out and "mass" in out and "digits test, first 20" in out
    figures = read_figures(folder)
    assert [figure.metric for figure in figures[:2]] == ["NLL", "bits/dim"]
    assert all(figure.metric.startswith("copies: ") for figure in figures[2:]) and len(figures) == 4
    assert all(figure.measured in (folder / "README.md").read_text() for figure in figures)
    before = (folder / "README.md").read_text()
    run("evaluate", folder, "--data", "digits", "--limit", "20", "--write")
    assert (folder / "README.md").read_text() == before


def test_evaluate_measures_what_is_asked_for(run, tmp_path):
    picture = tmp_path / "new" / "neighbours.png"
    out = run("evaluate", "toy-gan", "--data", "grid", "--generated", "30", "--neighbours", picture)
    assert "sliced Wasserstein" in out and "grid test: 30 real, 30 training items" in out and "NLL" not in out
    assert Image.open(picture).width > 10
    out = run("evaluate", "toy-ppca", "--data", "grid", "--generated", "30", "--metrics", "neighbours", "--mean")
    assert "grid test: 30 real, 30 generated, means" in out
    out = run("evaluate", "toy-hierarchy", "--data", "digits", "--limit", "20", "--metrics", "latents, likelihood")
    assert "rate of group 2 of 2" in out and "copies" not in out
    out = run("evaluate", "toy-ppca", "--data", "grid", "--limit", "20", "--split", "train")
    assert "NLL" in out and "real" not in out


def test_evaluate_trains_a_classifier_where_there_is_none(run, tmp_path, monkeypatch):
    quick = TrainingConfig(steps=3, batch_size=20)
    monkeypatch.setattr(classifier.feature_network, "__kwdefaults__", {**KEYWORDS, "config": quick, "width": 2})
    command = ["evaluate", "toy-vae", "--data", "digits", "--limit", "40", "--classifier", tmp_path / "classifier"]
    out = run(*command)
    name = re.search(r"zoo classifier, accuracy [\d.]+%, [0-9a-f]{8}", out)
    assert name and "Frechet distance" in out and "FID" not in out
    weights = (tmp_path / "classifier" / "model.safetensors").read_bytes()
    assert name[0] in run(*command, "--metrics", "features")
    assert (tmp_path / "classifier" / "model.safetensors").read_bytes() == weights


def test_push_and_pull(run, hub, tmp_path):
    assert "/org/toy/commit/" in run("push", "toy-vae", "org/toy")
    assert str(tmp_path / "pulled") in run("pull", "org/toy", "-o", tmp_path / "pulled")
    assert "toy-vae" in run("info", tmp_path / "pulled")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sample toy-vae -n 0 -o OUT", "n must be a positive whole number, got 0"),
        ("sample toy-vae -n -1 -o OUT", "n must be a positive whole number, got -1"),
        ("sample toy-vea -o OUT", "did you mean toy-vae"),
        ("sample toy-vae --condition 3 -o OUT", "unconditional: it takes no condition, got '3'"),
        ("sample toy-conditional-vae --condition 3 -o OUT", "classes run from 0 to 2, got 3"),
        ("sample toy-conditional-vae --condition dog -o OUT", "class from 0 to 2, or several, got 'dog'"),
        ("sample toy-vae --temperature -1 -o OUT", "temperature must be a number of at least 0, got -1.0"),
        ("sample toy-vae --temperature hot -o OUT", "invalid float value: 'hot'"),
        ("sample toy-vae --device nonsense -o OUT", "nonsense"),
        ("sample toy-vae -o FILE", "FILE"),
        ("reconstruct toy-vae missing.png -o OUT", "missing.png does not exist"),
        ("reconstruct toy-vae FILE -o OUT", "FILE is no picture"),
        ("reconstruct toy-gan FILE -o OUT", "toy-gan is a ToyGAN and has no latent space"),
        ("interpolate toy-vae PICTURE PICTURE --steps 0 -o OUT", "steps must be a positive whole number, got 0"),
        ("evaluate toy-vae --data nothing-of-this-name", "nothing-of-this-name"),
        ("evaluate toy-vae --data digits --limit 0", "limit must be a positive whole number, got 0"),
        ("evaluate toy-vae --data digits --write", "`zoo pull` makes one"),
        ("evaluate toy-gan --data grid --limit 2 --metrics likelihood", "neither a likelihood nor a latent space"),
        (
            "evaluate toy-gan --data grid --metrics fid",
            "metrics are likelihood, latents, features, distances, neighbours",
        ),
        ("evaluate toy-vae --data digits --limit 9 --metrics features", "metrics of features need a network"),
        ("evaluate toy-vae --data digits --limit 9 --mean", "samples of ToyVAE cannot end with means"),
        ("evaluate toy-vae --data digits --split all --metrics neighbours", "with training data beside them"),
        ("evaluate toy-ppca --data grid --limit 9 --classifier OUT", "the points of grid have no labels"),
        ("evaluate toy-ppca --data grid --limit 9 --metrics likelihood --neighbours OUT", "that is not measured"),
        ("evaluate toy-vae --data digits --classifier OUT --inception", "not allowed with argument --classifier"),
        ("push toy-vae ../toy", "is no Hub repository"),
        ("pull org/.. -o OUT", "is no Hub repository"),
        ("info ../nothing", "is no Hub repository"),
        ("nonsense", "invalid choice: 'nonsense'"),
        ("", "COMMAND"),
    ],
)
def test_errors_are_one_sentence(run, tmp_path, pictures, arguments, message):
    places = {"OUT": tmp_path / "out", "FILE": tmp_path / "FILE", "PICTURE": pictures[0]}
    places["FILE"].write_text("no picture")
    err = run(*[places.get(word, word) for word in arguments.split()], code=2)
    assert message in err and err.count("\n") == 1 and err.startswith("zoo: ")


def test_debug_shows_the_traceback(run, bundled, tmp_path):
    with pytest.raises(ValueError, match="positive whole number"):
        main(["sample", "toy-vae", "-n", "0", "-o", str(tmp_path), "--debug"])
    with pytest.raises(ValueError, match="positive whole number"):
        main(["--debug", "sample", "toy-vae", "-n", "0", "-o", str(tmp_path)])


@pytest.mark.parametrize("command", ["", "list", "info", "sample", "evaluate", "push", "pull", "gallery"])
def test_help_explains(run, command):
    out = run(*command.split(), "--help")
    assert "usage: zoo" in out and len(out) > 120
