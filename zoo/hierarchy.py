"""Hierarchies of latents: distributions whose groups are drawn from the top down, each given those above it."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.distributions import DiagonalGaussian, Inference, Rng

if TYPE_CHECKING:
    from zoo.model import Latent

Groups = tuple[Tensor, ...]
Pass = Generator[Inference[Tensor], Tensor, None]
Choice = Callable[[int, Inference[Tensor], slice], Tensor]
"""The value of a group, by its number, its distribution, and which items they are of."""
WHOLE = slice(None)


class TopDown:
    """A hierarchical distribution over z = (z_1, ..., z_L): p(z) = p(z_1) p(z_2 | z_1) ... p(z_L | z_<L).

    Argument: `walk`, a function that starts one top-down pass, written as a Python generator: it yields the
    distribution of a group (a `DiagonalGaussian`), is sent the group's value, and yields the next, so that the pass
    reads like the paper:

        def walk():
            state = start
            for group in groups:
                z = yield group.prior(state)
                state = group.update(state, z)
    """

    def __init__(self, walk: Callable[[], Pass]):
        self.walk = walk
        self.tuple_of: Callable[[list[Tensor]], Groups] = tuple

    def _pass(self, choose: Choice) -> tuple[list[Inference[Tensor]], Groups]:
        """One top-down pass in which `choose` gives every group its value."""
        groups, z = _follow(self.walk(), choose, WHOLE)
        return groups, self.tuple_of(z)

    def conditionals(self, z: Groups) -> list[Inference[Tensor]]:
        """Every group's distribution, given the groups of `z` above it."""
        return self._pass(lambda index, _, part: z[index][part])[0]

    @property
    def mean(self) -> Groups:
        """The groups' means, each given the means above it."""
        return self._pass(lambda _, group, part: group.mean)[1]

    def rsample(self, sample_shape: tuple[int, ...] = (), *, upper: Groups = (), generator: Rng = None) -> Groups:
        """A differentiable draw an item, or `sample_shape` of them one after another, since groups depend on each
        other; `upper` gives the first groups, and the others are drawn."""
        if sample_shape:
            draws = [self.rsample(upper=upper, generator=generator) for _ in range(torch.Size(sample_shape).numel())]
            groups = zip(*draws, strict=True)
            return self.tuple_of([torch.stack(group).unflatten(0, sample_shape) for group in groups])

        def choose(index: int, group: Inference[Tensor], part: slice) -> Tensor:
            return upper[index][part] if index < len(upper) else group.rsample(generator=generator)

        return self._pass(choose)[1]

    def sample(self, sample_shape: tuple[int, ...] = (), *, upper: Groups = (), generator: Rng = None) -> Groups:
        """As `rsample`, without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape, upper=upper, generator=generator)

    def log_prob(self, z: Groups) -> Tensor:
        """Density in nats an item, shape [batch]; of several draws an item, [draws, batch]."""
        single = next(self.walk()).mean.ndim
        if z[0].ndim > single:
            return torch.stack([self.log_prob(draw) for draw in zip(*z, strict=True)])
        return torch.stack([p.log_prob(value) for p, value in zip(self.conditionals(z), z, strict=True)]).sum(0)

    def kl(self, prior: "TopDown", z: Groups) -> Tensor:
        """KL(self || prior) of every group given the draw z, nats, shape [batch, groups]."""
        groups = zip(self.conditionals(z), prior.conditionals(z), z, strict=True)
        return torch.cat([q.kl(p, value) for q, p, value in groups], 1)

    def information(self, prior: "TopDown") -> Tensor:
        """How much every element says at the mean, in nats averaged over the batch, all groups flattened in turn."""
        z = self.mean
        pairs = zip(self.conditionals(z), prior.conditionals(z), strict=True)
        return torch.cat([q.information(p) for q, p in pairs])

    def standardise(self, z: Groups) -> Groups:
        """The standard normal noise of every group that `reparameterise` turns into z."""
        return self.tuple_of([p.standardise(value) for p, value in zip(self.conditionals(z), z, strict=True)])

    def reparameterise(self, noise: Groups) -> Groups:
        """The values that this noise leads to, from the top down."""
        return self._pass(lambda index, group, part: group.reparameterise(noise[index][part]))[1]


def _follow(walk: Pass, choose: Choice, part: slice) -> tuple[list[Inference[Tensor]], list[Tensor]]:
    groups: list[Inference[Tensor]] = []
    z: list[Tensor] = []
    try:
        group = next(walk)
        while True:
            groups.append(group)
            z.append(choose(len(z), group, part))
            group = walk.send(z[-1])
    except StopIteration:
        return groups, z


class InParts(TopDown):
    """A hierarchy over items of which so many are computed at a time, without a graph; its groups are normal.

    Arguments: `walk`, which starts the pass of a slice of the items; `items`, how many there are; `at_once`.
    """

    def __init__(self, walk: Callable[[slice], Pass], items: int, at_once: int):
        self.parts = [slice(start, start + at_once) for start in range(0, items, at_once)]
        self.walk_of = walk
        super().__init__(lambda: walk(self.parts[0]))

    @torch.no_grad()
    def _pass(self, choose: Choice) -> tuple[list[Inference[Tensor]], Groups]:
        answers = [_follow(self.walk_of(part), choose, part) for part in self.parts]
        groups, z = (zip(*found, strict=True) for found in zip(*answers, strict=True))
        joined: list[Inference[Tensor]] = []
        for parts in groups:
            means, stds = zip(*((part.mean, part.std.expand_as(part.mean)) for part in parts), strict=True)
            joined.append(DiagonalGaussian(torch.cat(means), torch.cat(stds)))
        return joined, tuple(torch.cat(parts) for parts in z)


class Joint(TopDown):
    """Independent latents with names: a distribution for every field of a NamedTuple.

        Joint(Codes(identity=DiagonalGaussian(...), expression=DiagonalGaussian(...)))

    What it draws is a NamedTuple of the same type.
    """

    def __init__(self, parts: Any):
        def walk() -> Pass:
            for part in parts:
                _ = yield part  # the parts do not depend on each other

        super().__init__(walk)
        self.tuple_of = type(parts)._make


@torch.no_grad()
def redraw(
    model: "Latent[Groups]", z: Groups, kept: int, n: int, temperature: float = 1.0, generator: Rng = None
) -> Tensor:
    """Items whose first `kept` groups of latents are those of z and whose others are drawn anew, n times for each: what
    the groups that are drawn anew code. Means, shape [n * batch, ...], the whole batch once after another."""
    upper = tuple(group.repeat(n, *[1] * (group.ndim - 1)) for group in z[:kept])
    prior = model.prior(n=n * len(z[0]), temperature=temperature)
    if not isinstance(prior, TopDown):
        raise TypeError(f"{type(model).__name__} has no groups of latents of which some could be kept")
    return model.decode(prior.sample(upper=upper, generator=generator)).mean


def scales(z: Groups) -> list[int]:
    """Where every scale of a hierarchy begins: the numbers of the groups whose grid is not that of the one before."""
    grids = [tuple(group.shape[2:]) for group in z]
    return [i for i in range(len(grids)) if i == 0 or grids[i] != grids[i - 1]]
