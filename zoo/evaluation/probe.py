"""What a representation is worth: a linear probe on it, from few labels."""

import torch
from torch import Tensor

from modalities import MediaError

SEARCH = 5000
"""Labels that the strength of the regularisation is chosen on, at most."""


def choose_labelled(labels: Tensor, count: int, seed: int) -> Tensor:
    """The indices of `count` labelled items in random order, the same number of every class; or of all items.

    Raises `MediaError` where a class is too small.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    if count == len(labels):
        return order
    sizes = labels.bincount()
    share = count // len(sizes)
    if not 1 <= share <= sizes.min():
        raise MediaError(
            f"{count} labels are {share} of each of {len(sizes)} classes; the smallest class has {int(sizes.min())}: "
            "choose another number of labels"
        )
    chosen = torch.cat([order[labels[order] == k][:share] for k in range(len(sizes))])
    return chosen[torch.randperm(len(chosen), generator=generator)]


def standardise(seen: Tensor, unseen: Tensor) -> tuple[Tensor, Tensor]:
    """Features [n, d] and unseen ones with the means of the former taken off and divided by their deviations."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(seen.numpy())
    return torch.from_numpy(scaler.transform(seen.numpy())), torch.from_numpy(scaler.transform(unseen.numpy()))


def linear_probe(x: Tensor, labels: Tensor, unseen: Tensor, truth: Tensor, *, seed: int = 0) -> float:
    """The accuracy of logistic regression on unseen features, in [0, 1].

    It is regularised as five-fold cross-validation on the first 5,000 labels asks for; standardise the features.

    Arguments: features [n, d] and class numbers [n], in random order, and as many as there are of unseen ones.

    Source: Alain, Bengio, "Understanding Intermediate Layers Using Linear Classifier Probes", 2016.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    strengths = {"C": [10.0**power for power in range(-4, 2)]}
    search = GridSearchCV(LogisticRegression(max_iter=1000), strengths, cv=folds, refit=False)
    search.fit(x[:SEARCH].numpy(), labels[:SEARCH].numpy())
    regression = LogisticRegression(max_iter=1000, **search.best_params_).fit(x.numpy(), labels.numpy())
    return float(regression.score(unseen.numpy(), truth.numpy()))
