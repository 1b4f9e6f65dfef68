"""Hierarchies of latents: distributions whose groups are drawn from the top down, each given those above it."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.distributions import Inference, Rng

if TYPE_CHECKING:
    from zoo.model import Latent

Groups = tuple[Tensor, ...]


Pass = Generator[Inference[Tensor], Tensor, None]


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

    def _pass(self, choose: Callable[[int, Inference[Tensor]], Tensor]) -> tuple[list[Inference[Tensor]], Groups]:
        """One top-down pass in which `choose` gives every group its value."""
        groups: list[Inference[Tensor]] = []
        z: list[Tensor] = []
        walk = self.walk()
        try:
            group = next(walk)
            while True:
                groups.append(group)
                z.append(choose(len(z), group))
                group = walk.send(z[-1])
        except StopIteration:
            return groups, self.tuple_of(z)

    def conditionals(self, z: Groups) -> list[Inference[Tensor]]:
        """Every group's distribution, given the groups of `z` above it."""
        return self._pass(lambda group, _: z[group])[0]

    @property
    def mean(self) -> Groups:
        """The groups' means, each given the means above it."""
        return self._pass(lambda _, group: group.mean)[1]

    def rsample(self, sample_shape: tuple[int, ...] = (), *, upper: Groups = (), generator: Rng = None) -> Groups:
        """A differentiable draw an item, or `sample_shape` of them one after another, since groups depend on each
        other; `upper` gives the first groups, and the others are drawn."""
        if sample_shape:
            draws = [self.rsample(upper=upper, generator=generator) for _ in range(torch.Size(sample_shape).numel())]
            groups = zip(*draws, strict=True)
            return self.tuple_of([torch.stack(group).unflatten(0, sample_shape) for group in groups])

        def choose(index: int, group: Inference[Tensor]) -> Tensor:
            return upper[index] if index < len(upper) else group.rsample(generator=generator)

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
        return self._pass(lambda index, group: group.reparameterise(noise[index]))[1]


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
