"""What the metrics share: levels of samples, generators, and which samples may end with means."""

import numpy as np
import pytest
import torch

from modalities.data import Arrays
from modalities.images import Images
from modalities.modality import MediaError
from modalities.points import Points
from modalities.signals import Signals
from tests import toys
from zoo.autoregressive.made import MADE
from zoo.conditions import Classes
from zoo.evaluation import suite
from zoo.evaluation.samples import draw, evenly_spaced, fork, has_means, one_of_each, quantise, subset
from zoo.latent_prior import LatentPrior
from zoo.linear.pca import PCA
from zoo.variational.vae import VAE

BINARY, COLOUR = Images(1, 8, 8, 2), Images(3, 8, 8)


def seeded():
    return torch.Generator().manual_seed(0)


def test_values_go_to_the_nearest_level_of_their_own():
    x = torch.tensor([-3.0, -0.5, 0.013, 0.5, 3.0])
    found = quantise(x, 256, COLOUR)
    levels = (found + 1) * 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-4) and (found - x.clamp(-1, 1)).abs().max() <= 1 / 255
    assert torch.equal(quantise(found, 256, COLOUR), found)
    assert quantise(x, 2, BINARY).tolist() == [-1, -1, 1, 1, 1]
    coarse = Images(1, 8, 8, 32)
    near, levels = (torch.tensor(steps) * 2 / 31 - 1 for steps in ([3.9, 30.4], [4, 30]))
    torch.testing.assert_close(quantise(near, 32, coarse), levels)
    assert torch.equal(quantise(x, None, Points(dimensions=1)), x)


@pytest.mark.parametrize("levels", [32, 256])
def test_bytes_become_the_levels_that_a_picture_of_them_is_read_with(levels, tmp_path):
    from PIL import Image

    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "all.png")
    fine, medium = Images(1, 16, 16).load(tmp_path / "all.png"), Images(1, 16, 16, levels)
    assert torch.equal(quantise(fine, 256, medium), medium.load(tmp_path / "all.png"))


def test_grey_values_are_binarised_where_the_items_are():
    grey = torch.tensor([-3.0, -0.5, 0.013, 0.5, 3.0]).expand(2000, 1, 1, 5)
    white = (quantise(grey, 256, BINARY, seeded()) > 0).double().mean(0).flatten()
    assert white.tolist() == pytest.approx([0, 0.25, 0.507, 0.75, 1], abs=0.04) and white[0] == 0 and white[4] == 1


def test_a_generator_for_draws_is_another_one_and_moves_none():
    generator = seeded()
    first, second = fork(generator), fork(generator)
    assert torch.equal(generator.get_state(), seeded().get_state())
    drawn = torch.rand(5, generator=first)
    assert torch.equal(drawn, torch.rand(5, generator=second))
    assert not torch.equal(drawn, torch.rand(5, generator=generator))
    assert not torch.equal(drawn, torch.rand(5, generator=fork(generator)))  # which has moved on
    torch.manual_seed(3)
    some = [torch.rand(5, generator=fork(None)) for _ in range(2)]
    torch.manual_seed(3)
    assert torch.equal(some[0], torch.rand(5, generator=fork(None))) and not torch.equal(some[0], some[1])


def test_means_are_items_of_latents_and_of_more_levels_than_two():
    sizes = {"latent": 2, "width": 4, "blocks": 0, "hidden": 8}
    vae = VAE(COLOUR, likelihood="logistic", **sizes)
    prior = MADE(vae.latents(), width=4, layers=1)
    for model in (vae, PCA(COLOUR, 2), toys.make("ppca"), LatentPrior(vae, prior)):
        assert has_means(model)
    for model in (VAE(BINARY, **sizes), toys.make("gan"), toys.make("pixelcnn"), prior):
        assert not has_means(model)


def test_a_subset_is_evenly_spaced_over_a_sorted_set():
    assert evenly_spaced(10, 4) == [0, 2, 5, 7] and evenly_spaced(4, 4) == [0, 1, 2, 3]
    x = torch.arange(250.0)[:, None]
    found, labels, _ = subset(Arrays(x, torch.arange(250) // 25), 125)
    assert torch.equal(found, x[::2])
    assert torch.equal(labels, torch.arange(0, 250, 2) // 25)
    assert labels.bincount().tolist() == [13, 12] * 5
    assert subset(Arrays(x), 250).condition is None
    noisy = Arrays(x, noise=lambda x, generator: x + torch.rand(x.shape, generator=generator))
    drawn = [subset(noisy, 10, torch.Generator().manual_seed(seed)).x for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    with pytest.raises(ValueError, match="the data set has 250 items, 251 are asked for"):
        subset(Arrays(x), 251)


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
        found = subset(Set({4, 5}), 10).x
    assert found[:, 0].tolist() == [0, 2, 6, 8, 10, 12, 14, 16, 18]
    with pytest.raises(MediaError, match="not one of the 20 files"), pytest.warns(UserWarning):
        subset(Set(range(20)), 20)


def test_samples_are_drawn_in_batches_each_with_its_own_classes():
    gan, told = toys.make("gan"), toys.make("conditional-vae")
    generator = seeded()
    expected = torch.cat([gan.sample(n, generator=generator) for n in (100, 100, 30)])
    assert torch.equal(draw(gan, 230, generator=seeded()), expected)
    generator, labels = seeded(), torch.arange(230) // 80
    expected = [told.sample(len(part), condition=part, generator=generator) for part in labels.split(100)]
    assert torch.equal(draw(told, 230, labels, generator=seeded()), torch.cat(expected))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_no_numbers_are_refused(value):
    class Broken(toys.ToyGAN):
        def sample(self, n, **options):
            x = super().sample(n, **options)
            x[::50, 1] = value
            return x

    model = Broken(toys.make("gan").modality)
    with pytest.raises(ValueError, match="5 of 230 samples of Broken hold NaN or infinite values"):
        draw(model, 230)


def test_broken_files_on_either_side_leave_the_sets_equally_large():
    model = toys.make("gan")
    for broken in ((set(), {3, 7}), ({3, 7}, set())):
        with pytest.warns(UserWarning, match="file 7 is broken"):
            found = suite.evaluate(model, Set(broken[0]), "toys", Set(broken[1]), metrics=["distances"])
        names = {figure.data for figure in found.figures}
        assert names == {"toys: 18 real, 18 generated", "toys: 18 real, 18 training items"}


def test_one_of_each_class_comes_the_commonest_first(tmp_path):
    medium = Signals(1, 8)
    for label, value, count in (("ectopic", 1.0, 2), ("normal", 0.0, 5), ("paced", 2.0, 1)):
        for split in ("train", "test"):
            medium.save(torch.full((count, 1, 8), value), tmp_path / split / label)
    assert one_of_each(medium.dataset(tmp_path, labels=True))[:, 0, 0].tolist() == [0, 1, 2]


def test_classes_of_a_test_set_are_matched_by_their_names(tmp_path):
    medium = Images(1, 8, 8)
    for name in ("3", "7"):
        for split in ("train", "test"):
            medium.save(torch.zeros(2, 1, 8, 8), tmp_path / split / name)
    data = medium.dataset(tmp_path, "test", labels=True)
    digits, words = Classes.numbered(10), Classes(("seven", "7", "3"))
    assert [data[i][1] for i in range(4)] == [0, 0, 1, 1]
    assert subset(data, 4, condition=digits).labels.tolist() == [3, 3, 7, 7]
    assert subset(data, 4, condition=words).labels.tolist() == [2, 2, 1, 1]
    with pytest.raises(ValueError, match="'3'.*cat"):
        subset(data, 4, condition=Classes(("cat", "7")))
    named = medium.dataset(tmp_path, "test", labels=True)
    named.classes = ("boot", "shirt")  # a model that knows numbers alone takes numbers
    assert subset(named, 4, condition=digits).labels.tolist() == [0, 0, 1, 1]
