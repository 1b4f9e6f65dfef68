"""What the contract asks of every model, for the models of this package and for those of a program's own.

    import zoo.testing

    zoo.testing.check(model)                    # raises ContractError: a sentence for everything that does not hold

A question is put to a copy of the model, so that none sees what another left.
"""

import copy
import dataclasses
import functools
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor

from modalities import MediaError
from modalities.data import Batch, Tree, repeat
from zoo.model import Explicit, Fitted, GenerativeModel, Latent, Trainable, Variational
from zoo.walks import groups, map_latents


class ContractError(AssertionError):
    """A model does not do what its classes promise: a sentence for everything that does not hold."""


@dataclasses.dataclass
class Subject:
    """A model that is asked, and what it is asked with."""

    model: GenerativeModel
    x: Tensor
    """Items of its medium, at least 12."""

    def condition(self, n: int) -> Tree:
        """n conditions as a batch holds them, the examples of the model's condition in turn."""
        told = self.model.condition
        return None if told is None else told.collate(told.examples(n))


Question = Callable[[Subject], None]
QUESTIONS: dict[str, tuple[Callable[[GenerativeModel], bool], Question]] = {}
"""Every question by its name, and which models it is for."""


def questions(model: GenerativeModel) -> list[str]:
    """The names of the questions that suit a model."""
    return [name for name, (suits, _) in QUESTIONS.items() if suits(model)]


def check(model: GenerativeModel, x: Tensor | None = None, only: Sequence[str] | None = None) -> list[str]:
    """Ask a model all that its classes promise, and return the names of the questions.

    Shapes and values of samples, seeds, temperature 0, conditions, gradients, log-probabilities, the latent space and
    walks through it, saving and loading, other precisions and devices, and what is no item of the medium.

    Arguments:
        model: as it is used: adapted to its data or trained, in evaluation mode. It stays as it is.
        x: items of its medium, at least 12, by default its samples; give some of the data where these are far from any.
        only: names of `questions(model)`, to ask those alone.

    Raises `ContractError` with a sentence for everything that does not hold.
    """
    names = questions(model) if only is None else list(only)
    if x is None:
        drawn = copy.deepcopy(model).eval().sample(12, condition=_examples(model, 12), generator=_seeded())
        x, _ = (drawn, None) if isinstance(drawn, Tensor) else model.modality.collate(drawn)
    failures = []
    for name in names:
        try:
            QUESTIONS[name][1](Subject(copy.deepcopy(model).eval(), x))
        except Exception as error:  # whatever a model raises is an answer
            text = str(error) if isinstance(error, ContractError) else f"{type(error).__name__}: {error}"
            failures.append(f"{name}: {text}")
    if failures:
        raise ContractError(f"{type(model).__name__} does not hold the contract:\n" + "\n".join(failures))
    return names


def question(kind: type | tuple[type, ...] = GenerativeModel, where: Callable[..., bool] = lambda model: True):
    """Register a question to the models of a kind, under the name of its function."""

    def register(function: Question) -> Question:
        QUESTIONS[function.__name__] = (lambda model: isinstance(model, kind) and where(model), function)
        return function

    return register


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _examples(model: GenerativeModel, n: int) -> object:
    return None if model.condition is None else model.condition.examples(n)


def _expect(holds: bool | Tensor, sentence: str) -> None:
    if not holds:
        raise ContractError(sentence)


def _shaped(x: object, shape: list[int], what: str) -> None:
    found = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
    _expect(found == shape, f"{what} must be a tensor of shape {shape}, got {found}")


@contextmanager
def _refusal(kind: type[Exception], what: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except kind as error:
        _expect(bool(str(error)), f"{what} is refused without a word")
    except Exception as error:
        raise ContractError(f"{what} must raise {kind.__name__}, got {type(error).__name__}: {error}") from error
    else:
        raise ContractError(f"{what} must raise {kind.__name__}, and passed")


def _draw(ask: Subject, n: int = 3, seed: int = 0, temperature: float = 1.0) -> list[Tensor]:
    """Samples of the first conditions, as a list of items."""
    told = _examples(ask.model, n)
    return list(ask.model.sample(n, condition=told, temperature=temperature, generator=_seeded(seed)))


def _same(a: Sequence[Tensor], b: Sequence[Tensor], tolerance: float = 0.0) -> bool:
    close = functools.partial(torch.allclose, rtol=0, atol=tolerance)
    return len(a) == len(b) and all(p.shape == q.shape and close(p, q) for p, q in zip(a, b, strict=True))


def _scorer(model: GenerativeModel) -> bool:
    return model.scored_by() is model


@question()
def samples_are_items(ask: Subject) -> None:
    """Samples have the shape and the values of the medium."""
    medium = ask.model.modality
    x = ask.model.sample(5, condition=_examples(ask.model, 5), generator=_seeded())
    if medium.ragged:
        _expect(isinstance(x, list) and len(x) == 5, "sample(5) of a ragged medium must be a list of five items")
        items = [item[None] for item in x]
    else:
        _shaped(x, [5, *medium.shape], "sample(5)")
        items = [cast(Tensor, x)]
    for item in items:
        medium.check(item)
        if getattr(ask.model, "discrete", False):
            medium.check_levels(item)


@question()
def a_seed_decides_the_sample(ask: Subject) -> None:
    """The generator alone decides a sample, and torch's random state stays as it is."""
    state = torch.get_rng_state()
    first, again, other = (_draw(ask, 4, seed) for seed in (3, 3, 4))
    _draw(ask, temperature=0.5)
    _expect(torch.equal(state, torch.get_rng_state()), "sample with a generator must leave torch's random state alone")
    _expect(_same(first, again), "the same seed must give the same sample")
    _expect(not _same(first, other), "another seed must give another sample")


@question()
def temperature_0_has_one_result(ask: Subject) -> None:
    """At temperature 0 a sample is the mean or the mode, whatever the seed."""
    condition = None if ask.model.condition is None else [ask.model.condition.examples(1)[0]] * 3
    first, again = (
        list(ask.model.sample(3, condition=condition, temperature=0.0, generator=_seeded(seed))) for seed in (1, 2)
    )
    _expect(_same(first, again), "temperature 0 must not depend on the seed")
    _expect(_same(first[:1], first[2:], 1e-6), "at temperature 0 all items must be one")


@question()
def counts_and_conditions_are_checked(ask: Subject) -> None:
    """What is no number of items and what is no condition is refused."""
    model = ask.model
    for n in (0, -1, 2.5):
        with _refusal(ValueError, f"sample({n})"):
            model.sample(n)  # type: ignore[arg-type]
    if model.condition is None:
        with _refusal(ValueError, "a condition for an unconditional model"):
            model.sample(2, condition=1)
        return
    _expect(len(model.sample(2, condition=_examples(model, 2))) == 2, "sample must take one condition an item")
    for wrong in (object(), [model.condition.examples(1)[0]] * 3, 0.5):
        with _refusal(ValueError, f"the condition {wrong!r:.40} for two items"):
            model.sample(2, condition=wrong)


@question(Trainable)
def gradients_reach_every_parameter(ask: Subject) -> None:
    """The players' losses are finite, and together move every parameter."""
    model = ask.model.train()
    shared: dict[str, Tensor] = {}
    assert isinstance(model, Trainable)
    batch = Batch(repeat(ask.x, 4), ask.condition(4 * len(ask.x)), _lengths(ask, 4))
    for player in model.players():
        terms = model(batch, player=player, shared=shared, generator=_seeded())
        if terms is None:  # this player sits the turn out
            continue
        _expect("loss" in terms, f"loss of the player {player!r} must give a term 'loss'")
        for name, value in terms.items():
            _expect(torch.isfinite(value).all(), f"the term {name!r} of the loss is not finite: {value}")
        terms["loss"].backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            moved = parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad.any()
            _expect(moved, f"the loss gives {name} no finite gradient other than 0")


def _lengths(ask: Subject, times: int) -> Tensor | None:
    return torch.tensor([ask.x.shape[-1]] * len(ask.x) * times) if ask.model.modality.ragged else None


@question(Fitted)
def a_fitted_model_has_a_fit_and_no_loss(ask: Subject) -> None:
    """A fitted model is made by its class, and cannot be trained."""
    _expect(hasattr(type(ask.model), "fit"), "a Fitted model must have a classmethod fit(data, modality, ...)")
    _expect(not hasattr(ask.model, "loss"), "a Fitted model must have no loss")


def _exact_and_trained(model: Explicit) -> bool:
    return _scorer(model) and isinstance(model, Trainable) and model.exact


@question(Explicit, _exact_and_trained)
def an_exact_loss_is_the_mean_negative_log_probability(ask: Subject) -> None:
    """Where the likelihood is exact, it is what training minimises."""
    condition = ask.condition(len(ask.x))
    assert isinstance(ask.model, Explicit) and isinstance(ask.model, Trainable)
    terms = ask.model.loss(Batch(ask.x, condition), generator=_seeded()) or {}
    loss = terms["loss"].item()
    nats = -ask.model.log_prob(ask.x, condition=condition, generator=_seeded()).mean().item()
    _expect(math.isclose(loss, nats, rel_tol=1e-5, abs_tol=1e-5), f"the loss is {loss:.6g} and -log_prob {nats:.6g}")


@question(Explicit, _scorer)
def log_prob_is_one_number_an_item(ask: Subject) -> None:
    """Scores are finite, one an item, and bits per dimension agree with them."""
    model, x, condition = ask.model, ask.x, ask.condition(len(ask.x))
    assert isinstance(model, Explicit)
    score = model.log_prob(x, condition=condition, generator=_seeded())
    _shaped(score, [len(x)], "log_prob")
    _expect(torch.isfinite(score).all(), "log_prob of items of the medium must be finite")
    if model.modality.levels is None:
        with _refusal(ValueError, "bits_per_dim of a medium without levels"):
            model.bits_per_dim(x, condition=condition)
    elif model.discrete and model.exact:
        bits = -score / (model.modality.elements * math.log(2))
        found = model.bits_per_dim(x, condition=condition)
        _expect(torch.allclose(found, bits.to(found)), "bits_per_dim must be -log_prob / (elements * log 2)")


def _enumerable(model: Explicit) -> bool:
    return bool(_scorer(model) and model.discrete) and model.modality.levels == 2 and model.modality.elements <= 12


@question(Explicit, _enumerable)
def masses_sum_to_one(ask: Subject) -> None:
    """Over all items of a small binary medium, masses sum to one; those of a bound to no more."""
    model, d = ask.model, ask.model.modality.elements
    assert isinstance(model, Explicit)
    bits = (torch.arange(2**d)[:, None] >> torch.arange(d)) & 1
    x = (2.0 * bits - 1).reshape(-1, *model.modality.shape)
    condition = None if model.condition is None else [model.condition.examples(1)[0]] * len(x)
    with torch.no_grad():
        score = model.log_prob(x, condition=condition, samples=1 if model.exact else 20, generator=_seeded())
    total, slack = score.double().exp().sum().item(), 1e-4 if model.exact else 0.04
    # A bound with few draws may miss some of the mass, and must not add any.
    _expect(total < 1 + slack and (not model.exact or total > 1 - slack), f"the masses of all items sum to {total:.5g}")


@question(Variational)
def more_draws_tighten_the_bound(ask: Subject) -> None:
    """The importance-weighted bound does not fall where it takes more draws."""
    model, condition = ask.model, ask.condition(len(ask.x))
    assert isinstance(model, Variational)
    means = []
    with torch.no_grad():
        for samples in (1, 8, 32):
            score = functools.partial(model.log_prob, ask.x, condition=condition, samples=samples)
            means.append(torch.stack([score(generator=_seeded(seed)).mean() for seed in range(4)]))
    for few, many in zip(means, means[1:], strict=False):
        slack = 1e-3 + 3 * (few.std() + many.std()).item() / 2
        _expect(few.mean() <= many.mean() + slack, "more samples must not lower log_prob on average")


@question(Variational)
def the_bound_is_that_of_prior_encode_and_decode(ask: Subject) -> None:
    """A family's own `elbo` is the one that its three distributions define."""
    model, condition = ask.model, ask.condition(len(ask.x))
    assert isinstance(model, Variational)
    own = model.elbo(ask.x, condition=condition, generator=_seeded(5))
    generic = Variational.elbo(model, ask.x, condition=condition, generator=_seeded(5))
    _expect(own.kl.ndim == 2 and own.kl.shape[0] == len(ask.x), "elbo's kl must have the shape [batch, groups]")
    _expect(own.reconstruction.shape == (len(ask.x),), "elbo's reconstruction must have the shape [batch]")
    _expect(
        torch.allclose(own.total, generic.total, rtol=1e-4, atol=1e-4), "elbo must be that of prior, encode, decode"
    )


@question(Latent)
def walks_lead_from_item_to_item(ask: Subject) -> None:
    """Interpolations begin and end at reconstructions, and traversals set the latents that are named."""
    model, x, n = ask.model, ask.x[:3], 3
    assert isinstance(model, Latent)
    given, items = ask.condition(n), model.modality.shape
    restored = model.reconstruct(x, condition=given)
    near = 1e-4 * max(1.0, restored.abs().max().item())
    _shaped(restored, list(x.shape), "reconstruct")
    for method in ("spherical", "linear"):
        walk = model.interpolate(x, x.flip(0), 5, method=method, condition=given)
        _expect(
            walk.shape == (n, 5, *items), f"interpolate must have the shape {[n, 5, *items]}, got {list(walk.shape)}"
        )
        _expect(torch.allclose(walk[:, 0], restored, atol=near), f"a {method} walk must begin at the reconstruction")
    if model.condition is None:
        _expect(torch.allclose(walk[:, -1], restored.flip(0), atol=near), "a walk must end at the other reconstruction")
    moved = model.traverse(x, along=[0], values=[-1, 0, 2], condition=given)
    _expect(
        moved.shape == (n, 1, 3, *items), f"traverse must have the shape {[n, 1, 3, *items]}, got {list(moved.shape)}"
    )
    with torch.no_grad():
        told = model.prepare_condition(given, n)
        prior = model.prior(told, n=n)
        noise = map_latents(torch.clone, prior.standardise(model.encode(x, condition=told).mean))
        groups(noise)[0].flatten(1)[:, 0] = 2
        expected = model.decode(prior.reparameterise(noise), condition=told).mean
    _expect(torch.allclose(moved[:, 0, 2], expected, atol=near), "traverse must set a standardised latent to the value")
    with _refusal(ValueError, "a latent dimension that there is not"):
        model.traverse(x, along=[10**9], condition=given)
    with _refusal(ValueError, "a walk of 0 steps"):
        model.interpolate(x, x, 0, condition=given)


@question(Latent)
def an_attribute_direction_is_the_difference_of_group_means(ask: Subject) -> None:
    """For labels 0 and 1 a direction leads from the first group's mean to the second's."""
    model, x, labels = ask.model, ask.x[:12], torch.tensor([0, 1] * 6)
    assert isinstance(model, Latent)
    given = ask.condition(12)
    direction = model.attribute_direction(x, labels, condition=given)
    with torch.no_grad():
        told = model.prepare_condition(given, 12)
        noise = model.prior(told, n=12).standardise(model.encode(x, condition=told).mean)
    for mine, group in zip(groups(direction), groups(noise), strict=True):
        difference = group[1::2].mean(0) - group[::2].mean(0)
        _expect(
            torch.allclose(mine, difference, atol=1e-4), "the direction of labels 0 and 1 must lead from mean to mean"
        )
    with _refusal(ValueError, "labels that are all equal"):
        model.attribute_direction(x, torch.ones(12), condition=given)


@question(Latent)
def standardising_and_reparameterising_undo_each_other(ask: Subject) -> None:
    """Latents are the same after they were noise."""
    model = ask.model
    assert isinstance(model, Latent)
    prior = model.prior(model.prepare_condition(ask.condition(4), 4), n=4)
    with torch.no_grad():
        z = prior.sample(generator=_seeded())
        back = prior.reparameterise(prior.standardise(z))
    near = all(torch.allclose(a, b, atol=1e-5) for a, b in zip(groups(z), groups(back), strict=True))
    _expect(near, "the prior's reparameterise must undo its standardise")


def _one_tensor(model: Latent) -> bool:
    mean = model.prior(model.prepare_condition(_examples(model, 1), 1), n=1).mean
    return isinstance(mean, Tensor)


@question(Latent, _one_tensor)
def latents_are_items_of_a_medium(ask: Subject) -> None:
    """What is encoded fits the medium of the latents, and is decoded again."""
    model, x = ask.model, ask.x[:4]
    assert isinstance(model, Latent)
    told = model.prepare_condition(ask.condition(4), 4)
    with torch.no_grad():
        items = model.to_latents(model.encode(x, condition=told), _seeded())
        model.latents().check_levels(items)
        back = model.decode(model.from_latents(items), condition=told).mean
    _shaped(back, list(x.shape), "decode of latents")


@question()
def a_saved_model_is_the_same(ask: Subject) -> None:
    """A checkpoint gives back the configuration, the samples and the scores."""
    model = ask.model
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = type(model).from_pretrained(folder)
    _expect(not again.training, "a loaded model must be in evaluation mode")
    same = again.modality == model.modality and again.condition == model.condition
    _expect(same, "medium and condition must be saved: they are arguments of the constructor")
    _expect(_same(_draw(ask), _draw(dataclasses.replace(ask, model=again))), "a loaded model must draw the same sample")
    if isinstance(model, Explicit) and isinstance(again, Explicit) and _scorer(model):
        told = ask.condition(len(ask.x))
        scores = [m.log_prob(ask.x, condition=told, generator=_seeded()) for m in (model, again)]
        _expect(torch.equal(*scores), "a loaded model must score the same")


@question()
def other_precisions_work(ask: Subject) -> None:
    """In double and in brain floating-point precision samples are finite."""
    for kind in (torch.float64, torch.bfloat16):
        drawn = _draw(dataclasses.replace(ask, model=ask.model.to(kind)), 2)
        _expect(all(torch.isfinite(item).all() for item in drawn), f"samples of the model in {kind} must be finite")


@question()
def a_model_moves_to_another_device(ask: Subject) -> None:
    """The meta device has shapes and no numbers: every tensor of the computation must have followed the model."""
    kind = "cuda" if torch.cuda.is_available() else "meta"
    moved = ask.model.to(kind)
    _expect({t.device.type for t in moved.state_dict().values()} <= {kind}, "all tensors must follow the model")
    _expect(moved.device.type == kind, "device must say where the parameters are")
    if kind == "cuda":
        _expect(all(item.is_cuda for item in _draw(ask)), "samples must be on the model's device")


ASKED = {
    "log_prob": lambda model, x, told: model.log_prob(x, condition=told),
    "encode": lambda model, x, told: model.encode(x, condition=model.prepare_condition(told, 2)),
    "reconstruct": lambda model, x, told: model.reconstruct(x, condition=told),
    "traverse": lambda model, x, told: model.traverse(x, along=[0], values=[0.0], condition=told),
    "interpolate": lambda model, x, told: model.interpolate(x, x, 2, condition=told),
    "elbo": lambda model, x, told: model.elbo(x, condition=told),
}


def wrong_items(x: Tensor, levels: int | None) -> dict[str, object]:
    """Two items of a medium, made into what are none, by what is wrong."""
    wrong: dict[str, object] = {
        "items of another shape": x[..., :-1],
        "an item without its batch": x[0],
        "an empty batch": x[:0],
        "items with a NaN": torch.where(torch.arange(x.numel()).view_as(x) == 3, math.nan, x),
        "whole numbers": x.int(),
        "a NumPy array": np.asarray(x),
    }
    if levels is not None:
        wrong["values of 0 to 255"] = 127.5 * (x + 1) + 1
    return wrong


@question((Explicit, Latent), lambda model: not model.modality.ragged)
def what_are_no_items_is_refused(ask: Subject) -> None:
    """Other shapes, ranges and types, NaN and empty batches raise `MediaError` in every method that takes items."""
    names = ["log_prob"] * (isinstance(ask.model, Explicit) and _scorer(ask.model))
    names += ["encode", "reconstruct", "traverse", "interpolate"] * isinstance(ask.model, Latent)
    names += ["elbo"] * isinstance(ask.model, Variational)
    x, told = ask.x[:2], ask.condition(2)
    for name in names:
        ASKED[name](ask.model, x, told)
        for what, wrong in wrong_items(x, ask.model.modality.levels).items():
            with _refusal(MediaError, f"{name} of {what}"):
                ASKED[name](ask.model, wrong, told)


@question(Explicit, lambda model: _scorer(model) and model.discrete)
def a_mass_is_of_levels_alone(ask: Subject) -> None:
    """Values between the levels have no mass, and are refused."""
    x, told = ask.x[:2], ask.condition(2)
    assert isinstance(ask.model, Explicit)
    for what, wrong in {"[0, 1]": (x + 1) / 2 + 0.001, "values between the levels": 0.5 * x + 0.003}.items():
        with _refusal(MediaError, f"log_prob of {what}"):
            ask.model.log_prob(wrong, condition=told)
