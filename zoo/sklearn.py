"""Any model with a latent space as a transformer of scikit-learn: rows of a table to latents and back."""

from collections.abc import Callable, Mapping
from typing import Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from modalities import Modality
from modalities.latents import Latents
from zoo.configuration import family_class
from zoo.hub import load
from zoo.model import Explicit, Fitted, GenerativeModel, Latent, Trainable
from zoo.training import TrainingConfig, train
from zoo.walks import Z, groups

CHUNK = 512
"""How many rows are looked at once, so that memory does not grow with them."""


def _scores(transformer: "Transformer") -> bool:
    """Whether there is a likelihood: of the fitted model, or, before, of the family."""
    if hasattr(transformer, "model_"):
        return transformer.model_.scored_by() is not None
    return hasattr(family_class(transformer.family), "log_prob")


class Transformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Fit a model of a family to rows [n, d] of real numbers; they become latents [n, k] and come back from them.

        from sklearn.pipeline import make_pipeline
        from sklearn.svm import SVC

        pipeline = make_pipeline(Transformer("pca", {"components": 16}), SVC())

    A model of the zoo that is there already takes the place of a fit: `Transformer.of("vae-mnist")`, whose rows are
    pictures of 784 numbers in [-1, 1].

    Arguments:
        family: a name of `zoo.catalog.FAMILIES`, or one that `zoo.register` knows, whose models have a latent space.
        arguments: of the family's constructor or of its `fit`; None for "pca" keeps nine tenths of the variance.
        modality: the medium whose items the rows are, flattened; None takes vectors of d real numbers.
        training: of a family that is trained: None for 1,000 steps of 128 rows.
        random_state: a whole number or NumPy's generator, of the fit.

    Attributes:
        model_: the model, in its medium's units; rows of double precision give one of double precision where it is
            fitted, training is in single precision.
        n_features_in_: d.
    """

    def __init__(
        self,
        family: str = "pca",
        arguments: Mapping[str, object] | None = None,
        modality: Modality | None = None,
        training: TrainingConfig | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.family, self.arguments, self.modality = family, arguments, modality
        self.training, self.random_state = training, random_state

    @classmethod
    def of(cls, model: str | GenerativeModel) -> Self:
        """A transformer with a model that is there already, or with what `zoo.load` finds under a name."""
        found = load(model) if isinstance(model, str) else model
        if not isinstance(found, Latent) or found.modality.ragged or found.condition is not None:
            raise ValueError(
                f"a transformer takes rows to latents without a condition; {type(found).__name__} does not"
            )
        transformer = cls(modality=found.modality)
        transformer.model_, transformer.n_features_in_ = found.eval(), found.modality.elements
        return transformer

    def fit(self, X: object, y: object = None) -> Self:
        """Fit the model to rows [n, d]; `y` is not looked at."""
        rows = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        family = family_class(self.family)
        medium = self.modality or Latents((rows.shape[1],))
        given = dict(self.arguments or ({"components": 0.9} if self.family == "pca" else {}))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if not issubclass(family, Latent):
            raise ValueError(f"models of the family {self.family!r} have no latent space")
        if issubclass(family, Fitted):
            fit: Callable[..., Latent] = getattr(family, "fit")  # noqa: B009
            self.model_ = fit(_items(rows, medium, rows.dtype), medium, **{"seed": seed, **given})
        else:
            torch.manual_seed(seed)
            model = family(medium, **given)
            config = self.training or TrainingConfig(steps=1000, batch_size=128, seed=seed)
            assert isinstance(model, Trainable)
            train(model, _items(rows, medium, np.float32), config)
            self.model_ = model.cpu().eval()
        return self

    def transform(self, X: object) -> np.ndarray:
        """The means of q(z given x), the groups of a hierarchy side by side, shape [n, k]."""
        return self._each(X, lambda x: torch.cat([group.flatten(1) for group in groups(self.model_.encode(x).mean)], 1))

    def inverse_transform(self, X: object) -> np.ndarray:
        """The means of p(x given z) of latents [n, k], shape [n, d]."""
        check_is_fitted(self)
        latents = check_array(X, dtype=[np.float64, np.float32])
        shapes = [tuple(part.shape[1:]) for part in groups(self._latents())]
        sizes = [int(np.prod(shape)) for shape in shapes]
        if latents.shape[1] != sum(sizes):
            raise ValueError(f"X has {latents.shape[1]} features, but the latents of this model have {sum(sizes)}")

        def decode(rows: Tensor) -> Tensor:
            z = [part.reshape(-1, *shape) for part, shape in zip(rows.split(sizes, 1), shapes, strict=True)]
            return self.model_.decode(z[0] if len(z) == 1 else tuple(z)).mean.flatten(1)

        return _in_chunks(torch.tensor(latents, dtype=self.model_.dtype), decode)

    @available_if(_scores)
    def score_samples(self, X: object) -> np.ndarray:
        """The log-likelihood of rows, or its bound by one draw, in nats, shape [n]; where the model has one."""
        check_is_fitted(self)
        scorer = self.model_.scored_by()
        assert isinstance(scorer, Explicit)
        generator = torch.Generator().manual_seed(0)
        return self._each(X, lambda x: scorer.log_prob(x, generator=generator).double())

    @available_if(_scores)
    def score(self, X: object, y: object = None) -> float:
        """The mean of `score_samples`."""
        return float(self.score_samples(X).mean())

    @property
    def _n_features_out(self) -> int:
        return sum(part[0].numel() for part in groups(self._latents()))

    def _latents(self) -> Z:
        """The latents of one item."""
        medium = self.model_.modality
        with torch.no_grad():
            value = 0.0 if medium.levels is None else -1.0
            return self.model_.encode(torch.full((1, *medium.shape), value, dtype=self.model_.dtype)).mean

    def _each(self, X: object, work: Callable[[Tensor], Tensor]) -> np.ndarray:
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return _in_chunks(_items(rows, self.model_.modality, self.model_.dtype), work)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


@torch.no_grad()
def _in_chunks(x: Tensor, work: Callable[[Tensor], Tensor]) -> np.ndarray:
    return torch.cat([work(part) for part in x.split(CHUNK)]).numpy()


def _items(rows: np.ndarray, medium: Modality, dtype: object) -> Tensor:
    """Rows [n, d] as a batch of a medium, which are a copy."""
    if rows.shape[1] != medium.elements:
        raise ValueError(f"X has {rows.shape[1]} features, but {medium.kind} of shape {list(medium.shape)} have others")
    kind = dtype if isinstance(dtype, torch.dtype) else torch.from_numpy(np.empty(0, dtype)).dtype
    return torch.tensor(rows).to(kind).reshape(-1, *medium.shape)
