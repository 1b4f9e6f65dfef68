"""One run of a recipe for all the tests of its module."""

import dataclasses

import pytest


@pytest.fixture(scope="module")
def done(request, tmp_path_factory):
    """The configuration of a finished run: the module's `recipe` at its `SMOKE`."""
    config = dataclasses.replace(request.module.SMOKE, output=tmp_path_factory.mktemp("run"))
    request.module.recipe.main(config)
    return config
