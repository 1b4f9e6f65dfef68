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
    x = toys.data_for(model, 90)
    y = None if labels is None else labels[:60], None if labels is None else labels[60:]
    return suite.evaluate(model, Arrays(x[60:], y[1]), "toys", Arrays(x[:60], y[0]), samples=5, **options)


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
    assert families(report("ppca")) == {"likelihood", "distances", "neighbours"}
    assert families(report("gan")) == {"distances", "neighbours"}
    assert families(report("hierarchy", network=NETWORK)) == {"likelihood", "latents", "features", "neighbours"}
    assert families(report("pixelcnn", network=NETWORK)) == {"likelihood", "features", "neighbours"}
    assert families(report("vae", limit=1)) == {"likelihood"}
    assert families(report("vae", limit=5, network=NETWORK)) == {"likelihood", "latents", "neighbours"}


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
    data = {figure.data for figure in report("ppca", metrics=["distances"]).figures}
    assert data == {"toys: 30 real, 30 generated", "toys: 30 real, 30 training items"}
    data = {figure.data for figure in report("ppca", metrics=["distances"], generated=12).figures}
    assert data == {"toys: 12 real, 12 generated", "toys: 12 real, 12 training items"}


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


def test_copies_are_found():
    class Copyist(toys.ToyGAN):
        def sample(self, n, **options):
            return toys.data_for(self, 90)[:n]

    model = Copyist(toys.make("gan").modality)
    x = toys.data_for(model, 90)
    found = suite.evaluate(model, Arrays(x[60:]), "toys", Arrays(x[:60]), metrics=["neighbours"])
    assert found.neighbours.share == 1
    assert torch.equal(found.neighbours.closest, found.neighbours.neighbours)


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
    found = suite.evaluate(
        model, Arrays(x[60:]), "toys", Arrays(x[:60]), metrics=["features", "neighbours"], network=network
    )
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
    assert suite.evaluate(model, data, "toys", data) == ([], None)
    with pytest.raises(ValueError, match="points differ in length"):
        suite.evaluate(model, data, "toys", data, metrics=["neighbours"])


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="metrics are likelihood, latents, .*; got fid"):
        report("vae", metrics=["likelihood", "fid"])
    with pytest.raises(ValueError, match="need a network"):
        report("vae", metrics=["features"])
    with pytest.raises(ValueError, match="not scored by a bound"):
        report("ppca", metrics=["latents"])
    with pytest.raises(ValueError, match="generated must be a positive whole number, got 0"):
        report("vae", generated=0)
    with pytest.raises(ValueError, match="the latter are not given"):
        model = toys.make("vae")
        suite.evaluate(model, Arrays(toys.data_for(model)), "toys", metrics=["neighbours"])
    for metrics in (["likelihood"], ["neighbours"]):
        with pytest.raises(ValueError, match="told a class and the data have no labels"):
            report("conditional-vae", metrics=metrics)
