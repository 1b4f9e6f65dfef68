"""What WaveNet alone promises: how far it sees, and a sampler of rings that turn over many rows."""

import pytest
import torch

from modalities.images import Images
from modalities.points import Points
from modalities.signals import Signals
from tests.zoo.autoregressive.models import Steps, generator, items, make
from zoo.autoregressive.wavenet import WaveNet
from zoo.conditions import Classes

TWO = Classes.numbered(2)
THREE = Classes.numbered(3)


@pytest.mark.parametrize("layers, cycles, field", [(1, 1, 2), (3, 1, 8), (3, 2, 15)])
def test_a_step_sees_the_sum_of_the_dilations_and_one_step_before_it_and_no_others(layers, cycles, field):
    # A wide head: nothing may be hidden because no ReLU lets it through.
    model = make(lambda: WaveNet(Signals(1, 20), width=5, layers=layers, cycles=cycles, skip=40, components=2))
    assert model.receptive_field == field
    x = torch.randn(1, 1, 20, generator=generator(), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: model.outputs(x)[0], x)[:, :, 0, 0]  # [size, of, by]
    seen = jacobian.abs().sum(0) > 0
    time = torch.arange(20)
    back = time[:, None] - time[None]
    assert torch.equal(seen, (back >= 1) & (back <= field))


@torch.no_grad()
def test_the_rings_turn_over_many_rows_and_a_part_of_one():
    model = make(lambda: WaveNet(Signals(2, 30), width=5, layers=3, cycles=2, skip=6, components=3, condition=THREE))
    run = model.incremental(2, torch.tensor([0, 2]))
    assert run.width == 4 and run.period == 1
    labels = torch.tensor([0, 2, 1])
    drawn = model.sample(3, condition=labels, generator=generator(5))
    slow = model.sample(3, condition=labels, generator=generator(5), sampler="naive")
    assert torch.allclose(drawn, slow, atol=1e-9, rtol=0)


@torch.no_grad()
def test_the_state_stays_where_it_is_and_holds_all_that_is_carried_on():
    """A run goes on elsewhere from a copy of the state: what a recorded graph takes for granted."""
    model = make(lambda: WaveNet(Signals(1, 24), width=5, layers=3, cycles=2, skip=6, components=3))
    x = model.to_unit(items(model, 2))[0]
    one, other = model.incremental(2), model.incremental(2)
    places = [tensor.data_ptr() for tensor in one.state]
    for position in range(13):
        one.step(position % one.width, 0)
        one.write(position % one.width, 0, x[:, :, position])
    assert places == [tensor.data_ptr() for tensor in one.state]
    for mine, theirs in zip(other.state, one.state, strict=True):
        mine.copy_(theirs)
    for position in range(13, 24):
        assert torch.equal(one.step(position % one.width, 0), other.step(position % one.width, 0))
        for run in (one, other):
            run.write(position % run.width, 0, x[:, :, position])


def test_classes_change_every_step():
    model = make(lambda: WaveNet(Signals(1, 6), width=5, layers=2, cycles=1, skip=6, components=2, condition=TWO))
    x = model.to_unit(items(model, 1))[0]
    a, b = (model.outputs(x, torch.tensor([label])) for label in (0, 1))
    assert ((a - b).abs().amax(1) > 1e-6).all()


def test_other_media_and_channels_in_turn_are_refused():
    with pytest.raises(ValueError, match=r"\[channels, time\].*\[2\]"):
        WaveNet(Points(2))
    with pytest.raises(ValueError, match=r"\[channels, time\].*\[1, 28, 28\]"):
        WaveNet(Images())
    with pytest.raises(ValueError, match="in turn"):
        WaveNet(Steps(2, 9, 2))
    with pytest.raises(ValueError, match="layers must be a positive whole number"):
        WaveNet(Signals(1, 9), layers=0)
