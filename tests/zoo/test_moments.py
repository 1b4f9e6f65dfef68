"""Streamed moments against those of all items at once, also of several processes."""

import pytest
import torch

from tests.processes import in_processes
from zoo.moments import Moments


def rows(n=50, d=7):
    """Correlated rows whose mean lies far from zero."""
    generator = torch.Generator().manual_seed(0)
    x, mixing = (torch.randn(size, d, dtype=torch.float64, generator=generator) for size in (n, d))
    return 0.01 * x @ mixing + 1000


def moments_of(x, squares):
    deviation = x - x.mean(0)
    found = {"elements": deviation.square().sum(0), "total": deviation.square().sum()}
    return Moments(len(x), x.mean(0), (found | {"scatter": deviation.T @ deviation})[squares])


@pytest.mark.parametrize("squares", ["elements", "total", "scatter"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_moments_merge_in_any_order(squares, order):
    x = rows()
    parts = x.split([20, 5, 25])
    first, *others = [moments_of(parts[i], squares) for i in order]
    scatter = sum(moments_of(part, "scatter").squares for part in parts)
    for other in others:
        step, weight = first.merge(other)
        scatter += weight * torch.outer(step, step)
    whole = moments_of(x, squares)
    assert first.count == 50
    torch.testing.assert_close(first.mean, whole.mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(first.squares, whole.squares, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(scatter, moments_of(x, "scatter").squares, rtol=1e-9, atol=1e-12)


def test_batches_of_any_shape_have_the_variance_of_all():
    x = rows(60, 12).unflatten(1, (3, 4)).float()
    found = Moments.zeros((3, 4))
    with pytest.raises(ValueError, match="at least 2 items, got 0"):
        found.variance()
    for batch in x.split([1, 0, 40, 19]):
        found.update(batch)
    for correction in (0, 1):
        torch.testing.assert_close(found.variance(correction), x.double().var(0, correction=correction))
        torch.testing.assert_close(found.std(correction), x.double().std(0, correction=correction))
    assert found.count == 60 and found.mean.dtype == torch.float64
    scalar = Moments.zeros(())
    scalar.update(x.flatten())
    assert scalar.std().item() == pytest.approx(x.double().std().item(), rel=1e-9)


def share(rank):
    """What one of three processes finds of its share; the second has no items."""
    x = rows()
    part, found = [x[:30], x[:0], x[30:]][rank], {}
    for squares in ("elements", "total", "scatter"):
        like = moments_of(x, squares)
        own = moments_of(part, squares) if len(part) else Moments(0, 0 * like.mean, 0 * like.squares)
        own.all_reduce()
        found[squares] = own.squares
        found |= {"count": torch.tensor(own.count), "mean": own.mean}
    return found


def test_processes_share_their_moments(tmp_path):
    x = rows()
    for found in in_processes(share, 3, tmp_path):
        assert found["count"] == 50
        torch.testing.assert_close(found["mean"], x.mean(0), rtol=1e-14, atol=0)
        for squares in ("elements", "total", "scatter"):
            torch.testing.assert_close(found[squares], moments_of(x, squares).squares, rtol=1e-9, atol=1e-12)


def test_one_process_has_what_it_had():
    own, x = moments_of(rows(), "total"), moments_of(rows(), "total")
    step, weight = own.all_reduce()
    assert (weight, own.count, own.squares) == (0, x.count, x.squares) and not step.any()
