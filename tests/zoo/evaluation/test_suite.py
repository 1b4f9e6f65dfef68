"""Everything at once: what suits which model, and what is compared with what."""

import pytest
import torch

from modalities.data import Arrays
from modalities.images import Images
from modalities.modality import MediaError
from tests import toys
from zoo.evaluation import items, latents, likelihood, suite
from zoo.evaluation.features import FeatureNetwork
from zoo.evaluation.memorisation import memorisation
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
        "copies: p-value of that (Mann-Whitney)": "copies",
    }
    return {telling[figure.metric] for figure in found.figures if figure.metric in telling}


def test_what_suits_is_measured():
    assert families(report("ppca")) == {"likelihood", "distances", "copies"}
    assert families(report("gan")) == {"distances", "copies"}
    assert families(report("hierarchy", network=NETWORK)) == {"likelihood", "latents", "features", "copies"}
    assert families(report("pixelcnn", network=NETWORK)) == {"likelihood", "features", "copies"}
    assert families(report("vae", limit=1)) == {"likelihood"}
    assert families(report("vae", limit=5, network=NETWORK)) == {"likelihood", "latents", "copies"}


def test_what_is_asked_for_alone_is_measured_with_the_same_numbers():
    whole = report("vae", network=NETWORK)
    for name in ("likelihood", "latents", "features", "copies"):
        alone = report("vae", network=NETWORK, metrics=[name])
        assert families(alone) == {name} and set(alone.figures) < set(whole.figures)
        assert (alone.copies is None) == (name != "copies")


def test_figures_are_those_of_the_modules():
    model = toys.make("vae")
    x = toys.data_for(model, 90)
    found = report("vae", limit=20).figures

    def generator():
        return torch.Generator().manual_seed(0)

    name = "toys, first 20"
    expected = likelihood.evaluate(model, Arrays(x[60:80]), name, samples=5, generator=generator())
    expected += latents.evaluate(model, Arrays(x[60:80]), name, generator=generator())
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
    report("conditional-vae", labels, metrics=["copies"], generated=20)
    assert torch.equal(torch.cat(seen), labels[60:][[i * 30 // 20 for i in range(20)]])


def test_copies_are_found():
    class Copyist(toys.ToyGAN):
        def sample(self, n, **options):
            return toys.data_for(self, 90)[:n]

    model = Copyist(toys.make("gan").modality)
    x = toys.data_for(model, 90)
    found = suite.evaluate(model, Arrays(x[60:]), "toys", Arrays(x[:60]), metrics=["copies"])
    assert found.copies.share == 1
    assert torch.equal(found.copies.closest, found.copies.neighbours)


def test_samples_can_end_with_means_and_the_figures_say_so():
    model = toys.make("ppca")
    x = toys.data_for(model, 90)
    found = report("ppca", mean=True)
    drawn = items.draw(model, 30, mean=True, generator=torch.Generator().manual_seed(0))
    expected = memorisation(drawn, x[60:], Arrays(x[:60]))
    assert torch.equal(found.copies.generated, expected.generated)
    assert not torch.equal(found.copies.generated, report("ppca").copies.generated)
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
        model, Arrays(x[60:]), "toys", Arrays(x[:60]), metrics=["features", "copies"], network=network
    )
    plain = items.draw(model, 30, generator=torch.Generator().manual_seed(0))
    assert plain.abs().max() > 1.01
    drawn = seen[1]
    levels = (drawn + 1) * 127.5
    assert drawn.abs().max() == 1 and torch.allclose(levels, levels.round(), atol=1e-4)
    assert (drawn - plain.clamp(-1, 1)).abs().max() < 1.01 / 255
    assert found.copies.closest.abs().max() <= 1


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="metrics are likelihood, latents, .*; got fid"):
        report("vae", metrics=["likelihood", "fid"])
    with pytest.raises(ValueError, match="need a network"):
        report("vae", metrics=["features"])
    with pytest.raises(ValueError, match="not trained by a bound"):
        report("ppca", metrics=["latents"])
    with pytest.raises(ValueError, match="generated must be a positive whole number, got 0"):
        report("vae", generated=0)
    with pytest.raises(ValueError, match="which are not given"):
        model = toys.make("vae")
        suite.evaluate(model, Arrays(toys.data_for(model)), "toys", metrics=["copies"])
    for metrics in (["likelihood"], ["copies"]):
        with pytest.raises(ValueError, match="class-conditional and the data have no labels"):
            report("conditional-vae", metrics=metrics)


def test_items_are_spread_over_a_sorted_set():
    x = torch.arange(250.0)[:, None]
    found, labels = items.spread(Arrays(x, torch.arange(250) // 25), 125)
    assert torch.equal(found, x[::2])
    assert torch.equal(labels, torch.arange(0, 250, 2) // 25)
    assert labels.bincount().tolist() == [13, 12] * 5
    assert items.spread(Arrays(x), 250)[1] is None
    noisy = Arrays(x, noise=lambda x, generator: x + torch.rand(x.shape, generator=generator))
    drawn = [items.spread(noisy, 10, torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    with pytest.raises(ValueError, match="the data set has 250 items, 251 are asked for"):
        items.spread(Arrays(x), 251)


class Set(torch.utils.data.Dataset):
    """Twenty points, some of whose files are broken."""

    def __init__(self, broken):
        self.broken = broken

    def __len__(self):
        return 20

    def __getitem__(self, index):
        if index in self.broken:
            raise MediaError(f"file {index} is broken")
        return torch.tensor([float(index), index % 3])


def test_broken_files_are_left_out_with_a_warning():
    with pytest.warns(UserWarning, match="skipped: file 4 is broken"):
        found, _ = items.spread(Set({4, 5}), 10)
    assert found[:, 0].tolist() == [0, 2, 6, 8, 10, 12, 14, 16, 18]
    with pytest.raises(MediaError, match="not one of the 20 files"), pytest.warns(UserWarning):
        items.spread(Set(range(20)), 20)


def test_samples_are_drawn_in_batches():
    model = toys.make("gan")
    found = items.draw(model, 230, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    expected = torch.cat([model.sample(n, generator=generator) for n in (100, 100, 30)])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_no_numbers_are_refused(value):
    class Broken(toys.ToyGAN):
        def sample(self, n, **options):
            x = super().sample(n, **options)
            x[::50, 1] = value
            return x

    model = Broken(toys.make("gan").modality)
    with pytest.raises(ValueError, match="5 of 230 samples of Broken hold NaN or infinite values"):
        items.draw(model, 230)
    x = toys.data_for(model, 90)
    with pytest.raises(ValueError, match="1 of 30 samples of Broken"):
        suite.evaluate(model, Arrays(x[60:]), "toys", Arrays(x[:60]))


def test_broken_files_on_either_side_leave_the_sets_equally_large():
    model = toys.make("gan")
    for broken in ((set(), {3, 7}), ({3, 7}, set())):
        with pytest.warns(UserWarning, match="file 7 is broken"):
            found = suite.evaluate(model, Set(broken[0]), "toys", Set(broken[1]), metrics=["distances"])
        assert {figure.data for figure in found.figures} == {
            "toys: 18 real, 18 generated",
            "toys: 18 real, 18 training items",
        }


def test_every_batch_of_samples_has_its_own_classes():
    model = toys.make("conditional-vae")
    labels = torch.arange(230) // 80
    found = items.draw(model, 230, labels, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    expected = [model.sample(len(part), condition=part, generator=generator) for part in labels.split(100)]
    assert torch.equal(found, torch.cat(expected))
