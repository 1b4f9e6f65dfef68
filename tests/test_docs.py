"""What README.md and docs/ say is true: their code runs, and what they name is there."""

import dataclasses
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from modalities import KINDS
from zoo import catalog, cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Every fenced block of a language: the line where its code begins, and the code."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(2)) + 1, m[2]) for m in FENCE.finditer(text) if m[1] == language]


def commands(page: Path, program: str) -> list[list[str]]:
    """The command lines of a page that start a program, as words, from shell blocks and from `code` in the text."""
    text = page.read_text(encoding="utf-8")
    lines = [line for _, block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCE.sub("", text))]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]


@pytest.fixture
def photos(tmp_path):
    """A user's folder of forty pictures."""
    from modalities.images import Images

    medium = Images(channels=3, height=48, width=64)
    medium.save(medium.dataset("photographs", "train").x[:40], tmp_path / "photos")


@pytest.fixture
def sensor(tmp_path):
    """A user's recording of a day, a row a minute."""
    from datetime import datetime, timedelta

    times = [datetime(2024, 5, 1) + timedelta(minutes=i) for i in range(2000)]
    rows = [f"{time.isoformat()},{i % 60},{i % 7}" for i, time in enumerate(times)]
    (tmp_path / "sensor.csv").write_text("\n".join(["time,temperature,humidity", *rows]), encoding="utf-8")


@pytest.fixture
def scans(tmp_path):
    """A user's folder of five meshes in correspondence."""
    from modalities.meshes import Meshes

    data = Meshes(100).dataset("synthetic-heads")
    data.medium.save(data.take(range(5)), tmp_path / "scans" / ".ply")


@pages
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, hub, photos, scans, sensor):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_reader")
    scope = {"__name__": "snippet"}
    for line, code in blocks(page, "python"):
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), scope)


def test_the_model_to_add_is_complete_in_under_forty_lines():
    _, code = blocks(ROOT / "docs" / "add-a-model.md", "python")[0]
    assert "class PlainVAE(Variational)" in code and len(code.splitlines()) < 40


def test_the_tables_are_those_of_the_code(monkeypatch):
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    monkeypatch.setattr(tables, "FAMILIES", [n for n, at in catalog.FAMILIES.items() if not at.startswith("tests.")])
    for page, name, table in tables.tables():
        text = page.read_text(encoding="utf-8")
        assert f"<!-- {name} -->" in text and text == tables.put(text, name, table), "run python docs/tables.py"


def test_the_table_of_families_says_what_the_classes_are():
    text = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    assert "| `probabilistic-pca` | Explicit, Latent | exact | yes | `ProbabilisticPCA.fit` |" in text
    assert "| `vae` | Variational | a lower bound | yes | `train` |" in text
    assert "| `autoencoder` | Latent | no | yes | `train` |" in text


@pages
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if not re.match(r"\w+:", t) and not (page.parent / t).exists()]
    assert not missing


@pages
def test_models_that_are_loaded_by_name_are_bundled(page):
    names = re.findall(r'load\("([^"/]+)"\)', page.read_text(encoding="utf-8"))
    bundled = {model.name for model in catalog.models()} | {"my-vae"}  # saved by the page itself
    assert set(names) <= bundled


@pages
def test_zoo_commands_are_understood(page):
    for words in commands(page, "zoo"):
        try:
            cli.parse(words[1:])
        except SystemExit as end:  # after --help
            assert not end.code, words


@pages
def test_scripts_and_targets_exist(page):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {words[1] for words in commands(page, "make")} <= set(targets)
    for _, script, *arguments in commands(page, "python"):
        if script != "-m":
            assert (ROOT / script).is_file(), script
            continue
        recipe = importlib.import_module(arguments[0])
        for flag in (word.removeprefix("--").replace("-", "_") for word in arguments if word.startswith("--")):
            settings = recipe.Config
            for name in flag.split("."):
                found = {field.name: field for field in dataclasses.fields(settings)}
                assert name in found, arguments
                settings = type(found[name].default)


def test_the_pages_of_functions_name_what_there_is_and_leave_out_no_family_and_no_medium():
    text = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("api.md", "evaluation.md"))
    described = dict(re.findall(r"^::: ([\w.]+)\n((?: .*\n)*)", text, re.MULTILINE))
    for name, options in described.items():
        module = importlib.import_module(name)
        members = re.search(r"members: \[(.*?)\]", options)
        for member in members[1].split(", ") if members else []:
            assert getattr(module, member).__doc__, f"{name}.{member}"
    targets = [target for target in [*catalog.FAMILIES.values(), *KINDS.values()] if not target.startswith("tests.")]
    assert {target.partition(":")[0] for target in targets} <= described.keys()


def test_the_citation_is_of_this_version_and_the_changes_tell_of_it():
    version = importlib.import_module("zoo").__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_script_of_own_files_runs_on_two_processes(tmp_path, monkeypatch, hub, photos, scans, sensor):
    script = "\n".join(code for _, code in blocks(ROOT / "docs" / "own-files.md", "python"))
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_TOKEN": "hf_of_the_reader"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "script.py"],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in (tmp_path / "my-vae").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
        "samples.png",
    }
    assert len(hub.repositories["my-name/my-vae"].commits) == 2  # an empty one and the checkpoint
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
