"""What a linear probe finds, and which labels it gets."""

import pytest
import torch

from modalities import MediaError
from zoo.evaluation.probe import choose_labelled, linear_probe, standardise


def test_labels_are_chosen_evenly_at_random_and_by_the_seed():
    labels = torch.arange(300) % 3
    chosen = choose_labelled(labels, 31, seed=0)
    assert labels[chosen].bincount().tolist() == [10, 10, 10]
    assert len(set(chosen.tolist())) == 30
    assert labels[chosen].tolist() != sorted(labels[chosen].tolist())
    assert torch.equal(chosen, choose_labelled(labels, 31, seed=0))
    assert set(chosen.tolist()) != set(choose_labelled(labels, 31, seed=1).tolist())
    assert sorted(choose_labelled(labels, 300, seed=0).tolist()) == list(range(300))


@pytest.mark.parametrize("count", [2, 300, 402])
def test_labels_that_the_classes_cannot_give_evenly_are_refused(count):
    labels = torch.cat([torch.arange(297) % 3, torch.zeros(104, dtype=torch.long)])
    assert labels[choose_labelled(labels, 299, seed=0)].bincount().tolist() == [99, 99, 99]
    with pytest.raises(MediaError, match="smallest class has 99: choose another number of labels"):
        choose_labelled(labels, count, seed=0)


def test_features_are_standardised_with_the_training_set_alone():
    scaled, unseen = standardise(torch.tensor([[0.0, 7.0], [2.0, 7.0]]), torch.tensor([[3.0, 8.0]]))
    torch.testing.assert_close(scaled, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(unseen, torch.tensor([[2.0, 1.0]]))


def test_a_probe_finds_what_is_linear_and_nothing_in_noise():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(600, 60, generator=generator), torch.arange(600) % 2
    signal = torch.cat([x, 4.0 * labels[:, None] + torch.randn(600, 1, generator=generator)], 1)
    found = [linear_probe(some[::3], labels[::3], some[1::3], labels[1::3]) for some in (x, signal)]
    assert found[0] < 0.6 and found[1] > 0.95
