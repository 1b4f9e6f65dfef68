"""The recipe on bundled models: what it writes, and what it refuses."""

import dataclasses
import json

import pytest
from PIL import Image

from modalities import MediaError
from recipes import compare

PAGE = "# Side by side\n\n<!-- digits -->\nearlier\n<!-- /digits -->\n\nThe end.\n"


@pytest.fixture
def smoke(tmp_path):
    paths = {"output": tmp_path / "run", "features": tmp_path / "classifier", "page": tmp_path / "page.md"}
    return dataclasses.replace(compare.PRESETS["smoke"][1], **paths)


def test_smoke_writes_a_table_a_picture_figures_and_the_page(smoke):
    smoke.page.write_text(PAGE)
    compare.main(smoke)
    text = (smoke.output / "table.md").read_text()
    figures = json.loads((smoke.output / "figures.json").read_text())
    for name in smoke.models:
        assert f"| `{name}` |" in text and f"{name}: coverage" in figures
    assert figures["vae-mnist: training"] == "78 min" and figures["vae-mnist: bits/dim"] in text
    assert "zoo classifier, accuracy" in text
    assert "the median of 3, on " in text and "want of a checkpoint: NVAE, PixelCNN." in text
    picture = Image.open(smoke.output / "samples.png")
    written = smoke.page.read_text()
    assert written.startswith("# Side by side\n\n<!-- digits -->\n\n![")
    assert written.endswith("digits -->\n\nThe end.\n")
    assert text in written and "earlier" not in written and "(page-digits.png)" in written
    assert Image.open(smoke.page.with_name("page-digits.png")).size == picture.size


def test_what_cannot_be_compared_is_refused_before_anything_is_measured(smoke, monkeypatch):
    monkeypatch.setattr(compare, "compare", lambda *_, **__: pytest.fail("measured"))
    smoke.page.write_text("# No place\n")
    with pytest.raises(MediaError, match="no lines <!-- digits -->"):
        compare.main(smoke)
    for models, message in ((("vae-mnist", "vae-points"), "is of images"), (2 * ("vae-mnist",), "a name each")):
        with pytest.raises(MediaError, match=message):
            compare.main(dataclasses.replace(smoke, page=None, models=models))
