"""Batches: what data sets give, how it is collated, and trees of tensors."""

import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch

from modalities import MediaError
from modalities.data import Arrays, as_dataset, batches, cut, fetch, move, repeat
from tests.speech import Sounds, Spelling
from zoo.conditions import Classes
from zoo.linear.pca import PCA


class Pair(NamedTuple):
    a: torch.Tensor
    b: tuple


def test_trees_keep_their_form():
    tree = Pair(torch.arange(4.0), (torch.arange(8.0).reshape(4, 2), None))
    part = cut(tree, slice(2))
    assert isinstance(part, Pair) and part.a.tolist() == [0, 1] and part.b[0].shape == (2, 2) and part.b[1] is None
    assert repeat(part, 2).a.tolist() == [0, 1, 0, 1]
    assert move(tree, "meta").b[0].device.type == "meta" and move(None, "cpu") is None


def test_a_ragged_medium_pads_and_knows_the_lengths():
    sounds = [torch.ones(1, 3), torch.ones(1, 5), torch.ones(1, 2)]
    batch, errors = fetch(list(zip(sounds, ["a", "bc", "def"], strict=True)), range(3), Sounds(), Spelling())
    assert not errors and batch.x.shape == (3, 1, 5) and batch.lengths.tolist() == [3, 5, 2]
    assert batch.x.sum((1, 2)).tolist() == [3, 5, 2]
    assert batch.condition.lengths.tolist() == [1, 2, 3] and batch.condition.letters[2].tolist() == [3, 4, 5]
    with pytest.raises(MediaError, match="differ in shape"):
        fetch(sounds, range(3))


def test_labels_go_by_the_condition_and_texts_alone_stay_texts():
    x = torch.zeros(2, 3)
    told, _ = fetch(Arrays(x, ["dog", "cat"]), [1, 0], None, Classes(("cat", "dog")))
    assert told.condition.tolist() == [0, 1]
    assert fetch(Arrays(x, ["dog", "cat"]), [0, 1])[0].condition == ["dog", "cat"]
    assert fetch([(x[0], 2), (x[1], 5)], [0, 1])[0].condition.tolist() == [2, 5]
    from modalities.points import Points

    points = Arrays(torch.randn(20, 2), ["left", "right"] * 10)
    assert PCA.fit(points, Points(2), components=1).count == 20


def test_broken_items_are_left_out_named_and_counted():
    class Folder:
        def __len__(self):
            return 5

        def __getitem__(self, index):
            if index in (1, 4):
                raise MediaError(f"file-{index} is broken")
            return torch.full((2,), float(index)), index

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = list(batches(Folder(), 3))
    assert [batch.x[:, 0].tolist() for batch in found] == [[0, 2], [3]]
    assert [batch.condition.tolist() for batch in found] == [[0, 2], [3]]
    assert [str(w.message) for w in caught][-1] == "skipped 2 broken files of 5" and "file-4" in str(caught[1].message)


def test_doubles_become_the_default_type_unless_they_are_beyond_it():
    assert as_dataset(np.ones((2, 2))).x.dtype == torch.float32
    assert as_dataset(np.full((2, 2), 1e300)).x.dtype == torch.float64
    with pytest.raises(MediaError, match="empty"):
        as_dataset(torch.zeros(0, 2))
