"""Everything at once: what suits which model, and what is compared with what."""

import pytest
import torch

from modalities.data import Arrays
from modalities.images import Images
from modalities.points import Points
from tests import toys
from zoo.evaluation import latents, likelihood, samples, suite
from zoo.evaluation.features import FeatureNetwork
from zoo.evaluation.neighbours import compare_neighbours
from zoo.linear.pca import ProbabilisticPCA

NETWORK = FeatureNetwork("pixels", lambda x: x.flatten(1)[:, :3])


def report(name, labels=None, **options):
    model = toys.make(name)
    data = [(part,) for part in toys.data_for(model, 90).split([60, 30])]
    if labels is not None:
        data = [(*part, some) for part, some in zip(data, labels.split([60, 30]), strict=True)]
    return suite.evaluate(model, Arrays(*data[1]), "toys", Arrays(*data[0]), samples=5, **options)


def families(found):
    """Which metrics were measured, by a figure that only they give."""
    telling = {
        "NLL": "likelihood",
        "reconstruction MSE": "likelihood",
        "rate": "latents",
        "recall": "features",
        "squared MMD": "distances",
        "nearest neighbour: p-value of that (Mann-Whitney)": "neighbours",
    }
    return {telling[figure.metric] for figure in found.figures if figure.metric in telling}


def test_what_suits_is_measured():
    for name, options, expected in (
        ("ppca", {}, "likelihood distances neighbours"),
        ("gan", {}, "distances neighbours"),
        ("hierarchy", {"network": NETWORK}, "likelihood latents features neighbours"),
        ("pixelcnn", {"network": NETWORK}, "likelihood features neighbours"),
        ("vae", {"limit": 1}, "likelihood"),
        ("vae", {"limit": 5, "network": NETWORK}, "likelihood latents neighbours"),
    ):
        found = report(name, **options)
        assert families(found) == set(expected.split())
        assert not set(expected.split()) & found.left_out.keys()
    assert found.left_out == {"features": "5 samples are too few", "distances": "they say little of images"}
    model = toys.make("vae")
    alone = suite.evaluate(model, toys.data_for(model, 9), "toys", samples=2)
    assert alone.left_out["neighbours"] == "there are no training data beside the test data"


def test_what_is_asked_for_alone_is_measured_with_the_same_numbers():
    whole = report("vae", network=NETWORK)
    for name in ("likelihood", "latents", "features", "neighbours"):
        alone = report("vae", network=NETWORK, metrics=[name])
        assert families(alone) == {name} and set(alone.figures) < set(whole.figures)
        assert (alone.neighbours is None) == (name != "neighbours")


def test_figures_are_those_of_the_modules():
    model = toys.make("vae")
    x = toys.data_for(model, 90)
    found = report("vae", limit=20).figures

    def generator():
        return torch.Generator().manual_seed(0)

    name = "toys, first 20"
    expected = likelihood.measure(model, Arrays(x[60:80]), name, samples=5, generator=generator())
    expected += latents.measure(model, Arrays(x[60:80]), name, generator=generator())
    assert found[: len(expected)] == expected
    assert {figure.data for figure in found[len(expected) :]} == {"toys: 20 real, 20 generated"}


def test_samples_are_as_many_as_there_are_items_of_both_sides():
    for n in (30, 12):
        data = {
            figure.data for figure in report("ppca", metrics=["distances"], generated=n if n < 30 else 1000).figures
        }
        assert data == {f"toys: {n} real, {n} generated", f"toys: {n} real, {n} training items"}


def test_a_conditional_model_draws_the_classes_of_the_test_items(monkeypatch):
    seen = []
    model = toys.make("conditional-vae")
    sample = type(model).sample

    def spy(self, n, *, condition=None, **options):
        seen.append(condition)
        return sample(self, n, condition=condition, **options)

    monkeypatch.setattr(type(model), "sample", spy)
    labels = torch.arange(90) % 3
    report("conditional-vae", labels, metrics=["neighbours"], generated=20)
    assert torch.equal(torch.cat(seen), labels[60:][[i * 30 // 20 for i in range(20)]])


def test_samples_can_end_with_means_and_the_figures_say_so():
    model = toys.make("ppca")
    x = toys.data_for(model, 90)
    found = report("ppca", mean=True)
    drawn = samples.draw(model, 30, mean=True, generator=torch.Generator().manual_seed(0))
    expected = compare_neighbours(drawn, x[60:], Arrays(x[:60]))
    assert torch.equal(found.neighbours.generated, expected.generated)
    assert not torch.equal(found.neighbours.generated, report("ppca").neighbours.generated)
    names = {figure.data for figure in found.figures}
    assert names == {"toys", "toys: 30 real, 30 generated, means", "toys: 30 real, 30 training items"}
    for name in ("vae", "pixelcnn", "gan"):  # binary, without latents, without a likelihood
        with pytest.raises(ValueError, match="cannot end with means"):
            report(name, mean=True)


def test_samples_have_the_levels_of_the_items():
    medium, seen = Images(channels=1, height=4, width=3), []
    x = medium.dataset("digits").x[:90]
    model = ProbabilisticPCA.fit(x, medium, components=2)
    network = FeatureNetwork("record", lambda x: seen.append(x) or x.flatten(1)[:, :3])
    metrics = ["features", "neighbours"]
    found = suite.evaluate(model, x[60:], "toys", x[:60], metrics=metrics, network=network)
    plain = samples.draw(model, 30, generator=torch.Generator().manual_seed(0))
    assert plain.abs().max() > 1.01
    drawn = seen[1]
    levels = (drawn + 1) * 127.5
    assert drawn.abs().max() == 1 and torch.allclose(levels, levels.round(), atol=1e-4)
    assert (drawn - plain.clamp(-1, 1)).abs().max() < 1.01 / 255
    assert found.neighbours.closest.abs().max() <= 1


def test_tensors_and_pairs_of_them_are_data_sets_too():
    model, told = toys.make("ppca"), toys.make("conditional-vae")
    x = toys.data_for(model, 90)
    found = suite.evaluate(model, x[60:], "toys", x[:60])
    expected = suite.evaluate(model, Arrays(x[60:]), "toys", Arrays(x[:60]))
    assert found.figures == expected.figures
    x, labels = toys.data_for(told, 20), torch.arange(20) % 3
    found = suite.evaluate(told, (x, labels), "toys", samples=2)
    assert found.figures == suite.evaluate(told, Arrays(x, labels), "toys", samples=2).figures


def test_samples_of_several_lengths_are_not_compared():
    class Ragged(Points):
        ragged = True

    model = toys.make("gan")
    model.modality = Ragged(2)
    data = Arrays(torch.randn(9, 2))
    found = suite.evaluate(model, data, "toys", data)
    assert found.figures == [] and found.neighbours is None
    assert found.left_out["likelihood"] == "no likelihood and no latents"
    assert found.left_out["neighbours"] == "points differ in length"
    with pytest.raises(ValueError, match="points differ in length"):
        suite.evaluate(model, data, "toys", data, metrics=["neighbours"])


def test_what_cannot_be_measured_is_refused():
    for name, options, message in (
        ("vae", {"metrics": ["likelihood", "fid"]}, "metrics are likelihood, latents, .*; got fid"),
        ("vae", {"metrics": ["features"]}, "need a network"),
        ("ppca", {"metrics": ["latents"]}, "not scored by a bound"),
        ("vae", {"generated": 0}, "generated must be a positive whole number, got 0"),
        ("conditional-vae", {"metrics": ["likelihood"]}, "told a class and the data have no labels"),
        ("conditional-vae", {"metrics": ["neighbours"]}, "told a class and the data have no labels"),
    ):
        with pytest.raises(ValueError, match=message):
            report(name, **options)
    with pytest.raises(ValueError, match="the latter are not given"):
        model = toys.make("vae")
        suite.evaluate(model, Arrays(toys.data_for(model)), "toys", metrics=["neighbours"])
