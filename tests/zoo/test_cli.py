"""Every command of `zoo`, and that every error is one sentence and exit code 2."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from tests import toys
from zoo import catalog
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.card import Card, read_figures
from zoo.cli import COMMANDS, main, parse
from zoo.conditions import Classes
from zoo.evaluation import classifier
from zoo.hub import load, save
from zoo.training import TrainingConfig

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


def contents(folder):
    """The files in a folder and what they hold, without the toys' checkpoints."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith("checkpoints")}


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
    assert "scores by a lower bound, has a latent space" in out and "unconditional" in out and "Made up." in out
    assert "scores exactly" in run("info", "toy-pixelcnn") and "classes: 0, 1, 2" in run("info", "toy-conditional-vae")
    assert "scores" not in run("info", "toy-gan")


def test_square_brackets_and_colons_are_no_markup(run, bundled, tmp_path):
    place = tmp_path / "runs[/y] :smile: [bold]"
    save(toys.make("vae"), place, Card("Of [red]digits[/red].", "Made up."))
    out = run("info", place)
    assert str(place) in out and "Of [red]digits[/red]." in out
    assert "[/out]" in run("sample", place, "-n", "1", "-o", tmp_path / "[/out]")
    assert (tmp_path / "[/out]" / "samples" / "00000.png").is_file()
    assert "'runs[/y]'" in run("sample", "runs[/y]", "-o", tmp_path, code=2)
    place.rename(bundled / "[bold]toy")
    assert "[bold]toy" in run("list") and "Of [red]digits[/red]." in run("list")


def test_a_card_does_not_steer_the_terminal(run, tmp_path):
    save(toys.make("vae"), tmp_path / "toy", Card("Clears \x1b[2J the screen.", "Made up."))
    out = run("info", tmp_path / "toy")
    assert "\x1b[2J" not in out and "the screen." in out
    config = json.loads((tmp_path / "toy" / "config.json").read_text())
    config["arguments"]["\x1b[2Jcolour"] = 1
    (tmp_path / "toy" / "config.json").write_text(json.dumps(config))
    err = run("info", tmp_path / "toy", code=2)
    assert "\x1b" not in err and "takes no argument" in err and "colour" in err


def test_info_names_all_classes(run, bundled):
    names = tuple(f"kind{i}" for i in range(30))
    save(toys.ToyVAE(toys.BINARY, condition=Classes(names)), bundled / "many")
    assert ", ".join(names) in " ".join(run("info", "many").split())


def test_a_path_with_a_suffix_is_one_file(run, tmp_path):
    assert run("sample", "toy-vae", "-o", tmp_path / "one.png").startswith("1 images in")
    assert Image.open(tmp_path / "one.png").size == (3, 4)
    run("sample", "toy-vae", "-n", "5", "-o", tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").size[0] > 100
    run("sample", "toy-ppca", "-n", "5", "-o", tmp_path / "new" / "points.csv")
    assert len((tmp_path / "new" / "points.csv").read_text().splitlines()) == 6
    assert (tmp_path / "new" / "points.png").is_file()
    run("sample", "toy-ppca", "-o", tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").width > 300 and not (tmp_path / "plot.csv").exists()
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


def test_the_same_seed_gives_the_same_cool_samples_here_and_there(capsys, tmp_path):
    command = ["sample", "nvae-mnist", "-n", "2", "--seed", "1", "--temperature", "0.5", "-o", str(tmp_path / "out")]
    assert main(command) == 0
    model = load("nvae-mnist")
    expected = model.sample(2, temperature=0.5, generator=torch.Generator().manual_seed(1))
    for i in range(2):
        assert torch.equal(model.modality.load(tmp_path / f"out/samples/0000{i}.png"), expected[i])


def test_samples_of_a_former_run_give_way(run, tmp_path):
    run("sample", "toy-vae", "-n", "6", "-o", tmp_path)
    assert "2 images in" in (out := run("sample", "toy-vae", "-n", "2", "-o", tmp_path)) and "in place of 6" in out
    assert list(contents(tmp_path)) == ["samples/00000.png", "samples/00001.png", "samples.png"]


def test_nothing_of_the_users_is_written_over(run, tmp_path, pictures):
    for path in (
        "out/samples/cat.png",
        "photo.png",
        "other/samples.png",
        "mine/samples/00007.png",
        "set/samples/00000.png",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("mine")
    before = contents(tmp_path)
    a, b = pictures
    for command in (
        ["sample", "toy-vae", "-o", tmp_path / "out"],
        ["sample", "toy-vae", "-o", tmp_path / "mine"],
        ["sample", "toy-vae", "-o", tmp_path / "other"],
        ["sample", "toy-vae", "-o", tmp_path / "set"],
        ["sample", "toy-ppca", "-o", tmp_path / "photo.csv"],
        ["reconstruct", "toy-vae", a, "-o", a],
        ["reconstruct", "toy-vae", tmp_path / "out" / ".." / "a.png", "-o", a],
        ["interpolate", "toy-vae", a, b, "-o", b],
        ["traverse", "toy-vae", a, "-o", a],
    ):
        assert "written over" in (err := run(*command, code=2)) or "holds other files" in err
    assert contents(tmp_path) == before
    run("reconstruct", "toy-vae", a, "-o", tmp_path / "walk")
    made = tmp_path / "walk" / "reconstructions" / "a.png"
    assert "would be written over" in run("reconstruct", "toy-vae", made, "-o", tmp_path / "walk", code=2)


def test_a_full_disk_leaves_what_was_there(run, tmp_path, monkeypatch):
    run("sample", "toy-vae", "-n", "3", "--seed", "1", "-o", tmp_path / "out")
    run("sample", "toy-vae", "--seed", "1", "-o", tmp_path / "one.png")
    before = contents(tmp_path)
    whole = Image.Image.save

    def cut(picture, path, **options):
        whole(picture, path, **options)
        with open(path, "rb+") as file:
            file.truncate(20)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", cut)
    assert "No space left" in run("sample", "toy-vae", "-n", "2", "--seed", "2", "-o", tmp_path / "out", code=2)
    assert "No space left" in run("sample", "toy-vae", "--seed", "2", "-o", tmp_path / "one.png", code=2)
    assert contents(tmp_path) == before


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


def test_files_of_a_folder_keep_their_names(run, tmp_path, pictures):
    a, b = pictures
    photos = tmp_path / "photos"
    for path in (photos / "cat.v2.png", photos / "more" / "dog.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(a.read_bytes())
    (photos / "notes.txt").write_text("no picture")
    assert "3 images" in run("reconstruct", "toy-vae", photos, b, "-o", tmp_path / "out")
    assert list(contents(tmp_path / "out" / "reconstructions")) == ["b.png", "cat.v2.png", "more/dog.png"]
    model = toys.make("vae")
    expected = model.reconstruct(model.modality.load(b)[None])[0]
    loaded = model.modality.load(tmp_path / "out" / "reconstructions" / "b.png")
    assert torch.equal(loaded, torch.where(expected > 0, 1.0, -1.0))
    assert "have one name" in run("reconstruct", "toy-vae", a, a, "-o", tmp_path / "out", code=2)
    assert main(["reconstruct", "toy-vae", str(photos), "-o", str(tmp_path / "out")]) == 0


def test_what_is_left_out_of_a_folder_is_said(run, tmp_path, pictures, capsys):
    pictures[1].write_text("no picture")
    assert main(["reconstruct", "toy-vae", str(tmp_path), "-o", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert "b.png is no picture" in err and err.startswith("zoo: warning: left out: ") and "images in" in out


def test_latents_and_scores_are_tables_with_the_names_of_the_files(run, tmp_path, pictures):
    model, (a, b) = toys.make("vae"), pictures
    x = torch.stack([model.modality.load(path) for path in pictures])
    latents, log_prob = model.encode(x).mean.detach(), toys.make("pixelcnn").log_prob(x).detach()
    assert "2 images as 2 latents each" in run("encode", "toy-vae", a, b, "-o", tmp_path / "latents.csv")
    header, *rows = [line.split(",") for line in (tmp_path / "latents.csv").read_text().splitlines()]
    assert header == ["file", "z0", "z1"] and [row[0] for row in rows] == ["a", "b"]
    assert torch.allclose(torch.tensor([[float(value) for value in row[1:]] for row in rows]), latents)
    (tmp_path / "photos").mkdir()
    a.rename(tmp_path / "photos" / "a.png"), (tmp_path / "photos" / ".b.png").write_bytes(b.read_bytes())
    for i in range(70):  # more than a batch
        (tmp_path / "photos" / f"b{i:02d}.png").write_bytes(b.read_bytes())
    (tmp_path / "photos" / "b03.png").write_text("no picture")
    run("encode", "toy-vae", tmp_path / "photos", "-o", tmp_path / "latents.npy")
    table = np.load(tmp_path / "latents.npy")
    assert table.dtype == np.float32 and table.shape == (70, 2)
    assert np.allclose(table[0], latents[0]) and np.allclose(table[1:], latents[1:])
    assert (tmp_path / "latents.txt").read_text().split() == ["a", *(f"b{i:02d}" for i in range(70) if i != 3)]
    out = run("score", "toy-pixelcnn", b)
    nats, bits = (float(word) for word in out.split()[-2:])
    assert "a mass, nats" in out and nats == pytest.approx(log_prob[1].item(), rel=1e-5)
    assert bits == pytest.approx(-nats / 12 / np.log(2), rel=1e-4)
    assert "log_prob is a bound on a mass" in run("score", "toy-hierarchy", b, "-o", tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text().startswith("file,log_prob,bits_per_dim\nb,-")
    run("encode", "toy-hierarchy", b, "-o", tmp_path / "groups.csv")
    assert (tmp_path / "groups.csv").read_text().startswith("file,z0_0,z0_1,z1_0,z1_1\n")


def test_a_table_replaces_that_of_a_former_run_alone(run, tmp_path, pictures):
    for name in ("mine.csv", "mine.npy", "other.txt"):
        (tmp_path / name).write_text("years of work")
    before = contents(tmp_path)
    for output in ("mine.csv", "mine.npy", "other.npy"):
        assert "no former run made it" in run("encode", "toy-vae", *pictures, "-o", tmp_path / output, code=2)
    assert contents(tmp_path) == before
    for output in ("new.csv", "new.npy"):
        run("encode", "toy-vae", *pictures, "-o", tmp_path / output)
        assert "1 images" in run("encode", "toy-vae", pictures[0], "-o", tmp_path / output)
    assert (tmp_path / "new.txt").read_text() == "a\n" and len(np.load(tmp_path / "new.npy")) == 1


def test_every_row_of_a_table_of_points_is_an_item(run, tmp_path):
    (tmp_path / "points.csv").write_text("x,y\n1,2\n3,4\n")
    run("encode", "toy-ppca", tmp_path / "points.csv", "-o", tmp_path / "latents.csv")
    model = toys.make("ppca")
    rows = [line.split(",") for line in (tmp_path / "latents.csv").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == ["points-1", "points-2"]
    assert float(rows[1][1]) == pytest.approx(model.encode(torch.tensor([[3.0, 4.0]])).mean[0, 0].item(), rel=1e-6)
    out = run("reconstruct", "toy-ppca", tmp_path / "points.csv", "-o", tmp_path / "out")
    assert "2 points" in out and len((tmp_path / "out" / "reconstructions.csv").read_text().splitlines()) == 3


def test_complete_keeps_the_beginning(run, tmp_path, pictures, bundled):
    model = GatedPixelCNN(toys.BINARY, width=4, layers=2, head=4, condition=Classes(("boot", "shirt"))).eval()
    save(model, bundled / "chain")
    command = ["complete", "chain", *pictures, "-n", "3", "--known", "0.25", "--seed", "1", "-o"]
    assert "6 images" in run(*command, tmp_path / "out", "--condition", "boot,shirt")
    names = [f"{name}-{i}.png" for name in "ab" for i in (1, 2, 3)]
    assert list(contents(tmp_path / "out" / "completions")) == names
    x = torch.stack([toys.BINARY.load(path) for path in pictures]).repeat_interleave(3, 0)
    known = torch.tensor([True, False, False, False])[:, None]
    expected = model.complete(x, known, condition=[0] * 3 + [1] * 3, generator=torch.Generator().manual_seed(1))
    made = torch.stack([toys.BINARY.load(tmp_path / "out" / "completions" / name) for name in names])
    assert torch.equal(made, expected) and torch.equal(made[:, :, 0], x[:, :, 0])
    assert "chain is told a class: give --condition" in run(*command, tmp_path / "more", code=2)


def test_the_version(run):
    assert run("--version") == f"latent-zoo {zoo.__version__}\n"


def test_a_bundled_model_is_not_measured_into_the_card_of_a_folder_of_its_name(run, bundled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(toys.make("vae"), "toy-pixelcnn", Card("Mine.", "Made up."))
    command = ["evaluate", "toy-pixelcnn", "--data", "digits", "--limit", "9", "--metrics", "likelihood", "--write"]
    assert "'toy-pixelcnn' is none" in run(*command, code=2).splitlines()[-1]
    run("evaluate", "./toy-pixelcnn", *command[2:])
    assert "NLL" in (tmp_path / "toy-pixelcnn" / "README.md").read_text()


def test_a_card_that_cannot_be_read_is_said_before_anything_is_measured(run, bundled, monkeypatch):
    monkeypatch.setattr("zoo.evaluation.suite.evaluate", lambda *arguments, **options: pytest.fail("measured"))
    (bundled / "toy-vae" / "README.md").write_text("---\na: [\n---\n# Toy\n")
    assert "README.md cannot be read" in run("evaluate", bundled / "toy-vae", "--data", "digits", "--write", code=2)


def test_evaluate_prints_the_figures_and_writes_them_into_the_card(run, bundled):
    folder = bundled / "toy-pixelcnn"
    out = run("evaluate", folder, "--data", "digits", "--limit", "20", "--write")
    assert "NLL" in out and "mass" in out and "digits test, first 20" in out
    figures = read_figures(folder)
    assert [figure.metric for figure in figures[:2]] == ["NLL", "bits/dim"]
    assert all(figure.metric.startswith("nearest neighbour: ") for figure in figures[2:]) and len(figures) == 4
    assert all(figure.measured in (folder / "README.md").read_text() for figure in figures)
    before = (folder / "README.md").read_text()
    run("evaluate", folder, "--data", "digits", "--limit", "20", "--write")
    assert (folder / "README.md").read_text() == before


def test_evaluate_matches_classes_by_their_names(run, bundled, tmp_path, pictures):
    model = toys.ToyVAE(toys.BINARY, condition=Classes(("boot", "shirt", "coat"))).eval()
    save(model, bundled / "clothes")
    for name, picture in (("coat", pictures[0]), ("shirt", pictures[1])):  # no boot
        (tmp_path / "test" / name).mkdir(parents=True)
        picture.rename(tmp_path / "test" / name / "a.png")
    command = ["evaluate", "clothes", "--data", tmp_path / "test", "--split", "all", "--metrics", "likelihood"]
    nll = float(run(*command, "--samples", "2000").split("class known")[1].split()[0])
    x = torch.stack([toys.BINARY.load(path) for path in sorted((tmp_path / "test").rglob("*.png"))])
    with torch.no_grad():
        right, wrong = (-model.log_prob(x, condition=c, samples=9999).mean() for c in ([2, 1], [0, 1]))
    assert abs(nll - right) < 0.02 < abs(right - wrong)


@pytest.mark.parametrize(
    ("known", "given", "unknown"),
    [(("0", "1", "2"), ("boot", "coat"), "boot"), (("boot", "shirt", "coat"), ("1", "coat"), "1")],
    ids=["numbered classes, named folders", "named classes, a numbered folder"],
)
def test_evaluate_guesses_no_class_that_the_model_does_not_know(
    run, bundled, tmp_path, pictures, known, given, unknown
):
    save(toys.ToyVAE(toys.BINARY, condition=Classes(known)), bundled / "clothes")
    for name, picture in zip(given, pictures, strict=True):
        (tmp_path / "test" / name).mkdir(parents=True)
        picture.rename(tmp_path / "test" / name / "a.png")
    command = ["evaluate", "clothes", "--data", tmp_path / "test", "--split", "all", "--metrics", "likelihood"]
    assert f"the class {unknown!r}; the classes are {', '.join(known)}" in run(*command, code=2)


def test_evaluate_measures_what_is_asked_for(run, tmp_path):
    picture = tmp_path / "new" / "neighbours.png"
    out = run("evaluate", "toy-gan", "--data", "grid", "--generated", "30", "--neighbours", picture)
    assert "sliced Wasserstein" in out and "grid test: 30 real, 30 training items" in out and "NLL" not in out
    assert Image.open(picture).width > 10
    out = run("evaluate", "toy-ppca", "--data", "grid", "--generated", "30", "--metrics", "neighbours", "--mean")
    assert "grid test: 30 real, 30 generated, means" in out
    out = run("evaluate", "toy-hierarchy", "--data", "digits", "--limit", "20", "--metrics", "latents, likelihood")
    assert "rate of group 2 of 2" in out and "nearest neighbour" not in out
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
        ("sample toy-conditional-vae --condition 3 -o OUT", "there is no class '3'; the classes are 0, 1, 2"),
        ("sample toy-conditional-vae --condition dog -o OUT", "there is no class 'dog'; the classes are 0, 1, 2"),
        ("sample toy-vae --temperature -1 -o OUT", "temperature must be a number of at least 0, got -1.0"),
        ("sample toy-vae --temperature hot -o OUT", "--temperature: could not convert string to float: 'hot'"),
        ("sample toy-vae --device nonsense -o OUT", "nonsense"),
        ("sample toy-vae -o FILE", "FILE is a file; name a folder"),
        ("sample toy-vae", "Missing from zoo sample: -o PATH"),
        ("sample toy-vae -o OUT --colour red", "Unrecognized options: --colour"),
        ("reconstruct toy-vae -o OUT", "there is no file to read"),
        (
            "reconstruct toy-conditional-vae PICTURE -o OUT",
            "is told a class: give --condition, one class or one for each",
        ),
        ("encode toy-gan PICTURE -o OUT.csv", "toy-gan is a ToyGAN and has no latent space"),
        ("encode toy-vae PICTURE -o OUT", "a table is written as .csv or .npy"),
        ("encode toy-vae FILE -o OUT.csv", "FILE is no picture"),
        ("encode toy-ppca TABLE -o TABLE", "would be written over"),
        ("score toy-gan PICTURE", "toy-gan is a ToyGAN and has no likelihood"),
        ("complete toy-vae PICTURE -o OUT", "toy-vae is a ToyVAE and completes nothing"),
        ("complete toy-pixelcnn PICTURE -n 0 -o OUT", "n must be a positive whole number, got 0"),
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
        ("evaluate toy-vae --data digits --split all --metrics neighbours", "and the latter are not given"),
        ("evaluate toy-ppca --data grid --limit 9 --classifier OUT", "grid has no labels"),
        ("evaluate toy-ppca --data grid --limit 9 --metrics likelihood --neighbours OUT", "that is not measured"),
        (
            "evaluate toy-vae --data digits --classifier OUT --inception",
            "--classifier and --inception are not allowed together",
        ),
        ("push toy-vae ../toy", "is no Hub repository"),
        ("pull org/.. -o OUT", "is no Hub repository"),
        ("info ../nothing", "is no Hub repository"),
        ("evaluate toy-vae --data digits --split half", "invalid choice 'half' for argument '--split'"),
        ("evaluate toy-vae --data digits --inception a b", "--inception takes one file of weights, got a and b"),
        ("nonsense", "Unrecognized options: nonsense; `zoo --help` explains"),
        ("", "Expected one of {list, info, train, "),
    ],
)
def test_errors_are_one_sentence(run, tmp_path, pictures, arguments, message):
    places = {"OUT": tmp_path / "out", "FILE": tmp_path / "FILE", "PICTURE": pictures[0]}
    places |= {"OUT.csv": tmp_path / "out.csv", "TABLE": tmp_path / "points.csv"}
    places["TABLE"].write_text("x,y\n1,2\n")
    places["FILE"].write_text("no picture")
    err = run(*[places.get(word, word) for word in arguments.split()], code=2)
    assert message in err and err.count("\n") == 1 and err.startswith("zoo: ")


def test_debug_shows_the_traceback(run, bundled, tmp_path):
    with pytest.raises(ValueError, match="positive whole number"):
        main(["sample", "toy-vae", "-n", "0", "-o", str(tmp_path), "--debug"])
    with pytest.raises(ValueError, match="positive whole number"):
        main(["--debug", "sample", "toy-vae", "-n", "0", "-o", str(tmp_path)])


def test_what_nobody_foresaw_is_a_sentence_too(run, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise KeyError("colour")

    monkeypatch.setattr(toys.ToyVAE, "sample", fail)
    assert run("sample", "toy-vae", "-o", tmp_path, code=2) == "zoo: KeyError: 'colour'; --debug shows where\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains(run, command):
    out, (first, *_) = run(command, "--help"), COMMANDS[command].__doc__.splitlines()
    assert f"usage: zoo {command}" in out and first in out
    assert first.endswith(".")  # in the list of commands it stands alone
    assert command in run("--help")


def test_help_teaches_with_examples_that_are_understood(run):
    texts = [run("--help"), *(run(command, "--help") for command in COMMANDS)]
    lines = [re.sub(r"  +.*", "", line.strip()) for text in texts for line in text.splitlines()]
    examples = [line for line in lines if line.startswith("zoo ")]
    assert len(examples) > 12
    for _, *words in map(str.split, examples):
        if "--help" not in words:
            assert isinstance(parse(words), COMMANDS[words[0]])
