"""Rules that hold for the whole repository."""

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tyro

from modalities import KINDS
from zoo import catalog
from zoo.model import GenerativeModel

ROOT = Path(__file__).parents[1]
FOLDERS = ("zoo", "modalities", "recipes", "benchmarks", "tests", "docs")
CODE = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
RECIPES = sorted(p.stem for p in (ROOT / "recipes").glob("*.py") if "PRESETS" in p.read_text(encoding="utf-8"))
BENCHMARKS = sorted(p.stem for p in (ROOT / "benchmarks").glob("[!_]*.py"))
FAMILIES = {name: target for name, target in catalog.FAMILIES.items() if not target.startswith("tests.")}

HEAVY = {"accelerate", "av", "diffusers", "matplotlib", "PIL", "scipy", "sklearn", "tensorboard", "torchaudio"}
HEAVY |= {"torchmetrics", "torchvision", "trimesh", "tyro"}


def imported_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter holds after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(process.stdout.split())


@pytest.mark.parametrize("statement", ["import zoo", "import zoo.cli", "import modalities"])
def test_torch_is_not_imported_before_it_is_needed(statement):
    own = {"tyro"} if statement == "import zoo.cli" else set()  # the command line is made of it
    assert not imported_by(statement) & (HEAVY | {"torch"}) - own


def test_models_and_media_import_nothing_heavy_but_torch():
    modules = {target.split(":")[0] for target in [*FAMILIES.values(), *KINDS.values()]} | {"zoo.hub", "zoo.training"}
    imported = imported_by(f"import {', '.join(sorted(modules))}")
    assert modules | {"torch"} <= imported and not imported & HEAVY


def test_the_package_is_what_its_metadata_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["name"] == "latent-zoo"
    assert project["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert project["project"]["version"] == importlib.import_module("zoo").__version__
    module, function = project["project"]["scripts"]["zoo"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_the_catalogue_is_a_model(name):
    module, qualified = FAMILIES[name].split(":")
    cls = getattr(importlib.import_module(module), qualified)
    assert issubclass(cls, GenerativeModel) and not cls.__abstractmethods__


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_opens_with_its_command_and_time_and_has_the_four_presets(name):
    recipe = importlib.import_module(f"recipes.{name}")
    assert f"python -m recipes.{name}" in recipe.__doc__
    assert re.search(r"\d (s|seconds|min|minutes|h|hours)\b", recipe.__doc__), "say how long it took"
    assert list(recipe.PRESETS) == ["smoke", "laptop", "gpu", "paper"]
    for explanation, config in recipe.PRESETS.values():
        assert explanation and isinstance(config, recipe.Config)
        assert hasattr(config, "data")
        makes_a_model = hasattr(recipe, "finish") or hasattr(recipe, "publish")
        assert hasattr(config, "push") == makes_a_model, "what makes a model can publish it"
    given = dict(recipe.PRESETS)
    assert tyro.extras.overridable_config_cli(given, args=["smoke"]) == given["smoke"][1]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_stands_alone_but_for_what_all_share_and_is_read_in_minutes(name):
    text = (ROOT / "recipes" / f"{name}.py").read_text(encoding="utf-8")
    assert set(re.findall(r"^(?:from|import) recipes\.(\w+)", text, re.MULTILINE)) <= {"recipe"}
    assert len(text.splitlines()) <= 240


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_opens_with_its_command(name):
    tree = ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8"))
    assert f"python -m benchmarks.{name}" in (ast.get_docstring(tree) or "")


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled(path):
    dangerous = {"pickle.load", "pickle.loads", "torch.load", "joblib.load"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in dangerous, f"line {node.lineno}"
            allowed = [k.value for k in node.keywords if k.arg == "allow_pickle"]
            assert not any(not isinstance(v, ast.Constant) or v.value for v in allowed), f"line {node.lineno}"


def test_texts_name_no_path_of_a_machine_and_no_package_host():
    # Spelled in pieces, so that this file passes its own test.
    hosts = [f"{name}.{end}" for name, end in [("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org")]]
    hosts += [f"{name}.{end}" for name, end in [("pytorch", "org/whl"), ("anaconda", "org"), ("jsdelivr", "net")]]
    machine = re.compile(r"(?<![\w.~-])/(work|root|home|tmp|Users)\b")
    others = [ROOT / name for name in ("README.md", "Makefile", "mkdocs.yml", "pyproject.toml", ".ci/run")]
    others += sorted((ROOT / "docs").glob("*.md")) + sorted(catalog.CHECKPOINTS.rglob("*.md"))
    for path in CODE + others:
        text = path.read_text(encoding="utf-8")
        found = [host for host in hosts if host in text] + [m[0] for m in machine.finditer(text)]
        assert not found, f"{path}: {found}"


def test_continuous_integration_runs_the_suite():
    script = ROOT / ".ci" / "run"
    commands = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK) and "make test" in commands and "make lint" in commands
