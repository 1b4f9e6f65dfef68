"""The transformer passes scikit-learn's own checks, and gives what its model gives."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from modalities.images import Images
from zoo.hub import load
from zoo.linear.pca import PCA
from zoo.sklearn import Transformer
from zoo.training import TrainingConfig

QUICK = TrainingConfig(steps=3, batch_size=8, warmup_steps=1)
SMALL = {"latent": 2, "width": 4, "blocks": 0, "hidden": 8}
ROWS = np.random.default_rng(0).normal(size=(60, 5)) @ np.diag([3.0, 2, 1, 0.5, 0.1]) + 7
BY_DRAWS = "a bound is estimated by draws, which depend on the rows beside a row"


def expected_failures(estimator):
    """Checks that cannot hold, and why."""
    if estimator.family == "probabilistic-pca":
        return {"check_fit2d_1feature": "one dimension leaves none for the noise, which is said in other words"}
    if estimator.family == "vae":
        return {"check_methods_subset_invariance": BY_DRAWS, "check_methods_sample_order_invariance": BY_DRAWS}
    return {}


@parametrize_with_checks(
    [
        Transformer(),
        Transformer("probabilistic-pca", {"components": 1}),
        Transformer("vae", SMALL, training=QUICK),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_principal_components_are_those_of_the_model():
    transformer = Transformer("pca", {"components": 3}).fit(ROWS)
    z = transformer.transform(ROWS)
    model = PCA.fit(torch.from_numpy(ROWS), transformer.model_.modality, components=3)
    np.testing.assert_allclose(z, model.encode(torch.from_numpy(ROWS)).mean.numpy(), rtol=1e-6)
    rebuilt = model.reconstruct(torch.from_numpy(ROWS)).numpy()
    np.testing.assert_allclose(transformer.inverse_transform(z), rebuilt, rtol=1e-6)
    scores = model.scored_by().log_prob(torch.from_numpy(ROWS)).numpy()
    np.testing.assert_allclose(transformer.score_samples(ROWS), scores, rtol=1e-6)
    assert transformer.score(ROWS) == pytest.approx(scores.mean())
    assert list(transformer.get_feature_names_out()) == ["transformer0", "transformer1", "transformer2"]
    assert Transformer().fit(ROWS).transform(ROWS).shape[1] == 2  # nine tenths of the variance
    assert not hasattr(Transformer("pca", {"components": 5}).fit(ROWS), "score_samples")  # nothing left for noise


def test_a_bundled_model_and_groups_of_latents():
    transformer = Transformer.of("vae-mnist")
    x = load("vae-mnist").sample(7, generator=torch.Generator().manual_seed(0))
    rows = x.flatten(1).numpy()
    rebuilt = transformer.inverse_transform(transformer.transform(rows))
    np.testing.assert_allclose(rebuilt, load("vae-mnist").reconstruct(x).flatten(1).numpy(), rtol=1e-4, atol=1e-5)
    sizes = {"groups": (1, 1), "latent": 2, "width": 4, "blocks": 0, "block_cells": 1, "cells": 1, "expansion": 1}
    digits = 2.0 * (load_digits().data[:40] > 7) - 1
    nvae = Transformer("nvae", sizes, Images(1, 8, 8, 2), QUICK).fit(digits)
    z = nvae.transform(digits)
    groups = nvae.model_.encode(torch.tensor(digits).float().reshape(-1, 1, 8, 8)).mean
    assert z.shape[1] == sum(group[0].numel() for group in groups)
    assert nvae.inverse_transform(z).shape == digits.shape and np.isfinite(nvae.score_samples(digits)).all()


def test_it_stands_in_a_search_over_a_pipeline():
    x, y = load_digits(return_X_y=True)
    pipeline = make_pipeline(Transformer("pca", {"components": 2}), LogisticRegression(max_iter=500))
    search = GridSearchCV(pipeline, {"transformer__arguments": [{"components": k} for k in (2, 20)]}, cv=3)
    search.fit(x[:600], y[:600])
    assert search.best_params_ == {"transformer__arguments": {"components": 20}}
    assert search.score(x[600:], y[600:]) > 0.85


def test_what_takes_no_rows_to_latents_is_refused():
    for work, message in (
        (lambda: Transformer("made").fit(ROWS), "models of the family 'made' have no latent space"),
        (lambda: Transformer(modality=Images(1, 8, 8)).fit(ROWS), r"X has 5 features, but images of shape \[1, 8, 8\]"),
        (
            lambda: Transformer().fit(ROWS).inverse_transform(ROWS),
            "X has 5 features, but the latents of this model have 2",
        ),
        (lambda: Transformer.of("pixelcnn-mnist"), "PixelCNN does not"),
        (lambda: Transformer.of("vq-vae-mnist"), "LatentPrior does not"),
    ):
        with pytest.raises(ValueError, match=message):
            work()
