"""Fixtures that the whole suite shares."""

import atexit
import os
import shutil
import socket
import tempfile

# huggingface_hub reads its settings once, when it is imported: the tests' Hub (tests/zoo/hub_server.py) has a free port
# of this machine, and the cache is a fresh folder.
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{probe.getsockname()[1]}"
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["NO_PROXY"] = "127.0.0.1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hub-cache-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

import pytest  # noqa: E402

if TYPE_CHECKING:
    from tests.zoo.hub_server import Hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[Hub]":
    """An empty Hub on loopback and an empty cache."""
    from tests.zoo.hub_server import serve

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    with serve(os.environ["HF_ENDPOINT"]) as server:
        yield server


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped where it does not exist."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder} with real data")
    return folder


@pytest.fixture(scope="session")
def drawn_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 120 drawn faces of 16 x 16 with labels and landmarks, every fifth for tests."""
    from tests.faces import draw_faces

    return draw_faces(tmp_path_factory.mktemp("faces"))
