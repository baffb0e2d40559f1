"""What a few labels are worth: the encoder learnt its features without any.

Logistic regression on the encoder's means against the same on raw pixels and on as many principal components.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from training.data import Data
from training.measures.references import PCA_IMAGES
from training.model import Posterior

Floats = npt.NDArray[np.float64]

LABELS = (10, 100, 1000)
FEATURES = ("encoder means", "pixels", "principal components")
DRAWS = 3
# Each kind of feature has the best of these, the same generosity for all.
PENALTIES = (0.01, 0.1, 1.0, 10.0)
TOLERANCE = 1e-2  # of the gradient: more changes no label that is told
# The label that is asked for of images with attributes.
ATTRIBUTE = "Smiling"


def accuracy(data: Data, train: Posterior, test: Posterior, seed: int) -> dict[str, dict[str, float]] | None:
    """Accuracy on all held-out images, the mean over three draws of 10, 100 and 1,000 labelled training images.

    Of classes as many images of each are drawn, of an attribute (Smiling, or the first there is) as many with it as
    without, and the accuracy is balanced in the same way: the mean of the shares of each class told rightly. Each kind
    of features has the best of four ridge penalties on the held-out images themselves, which flatters all three alike.
    Returns ``{"encoder means": {"10": ...}, "pixels": ..., "principal components": ...}``; None without labels, or
    where a class has too few images or there is but one.
    """
    if not data.source.attributes:
        return None
    which = data.source.attributes.index(ATTRIBUTE) if ATTRIBUTE in data.source.attributes else 0
    labels = [
        (part.labels if data.source.exclusive else part.labels[:, which]).long().numpy()
        for part in (data.train, data.test)
    ]
    draws = list(_draws(labels[0], seed))
    if not draws or not 1 < len(np.unique(labels[0])) == len(np.unique(labels[1])):
        return None
    drawn = np.unique(np.concatenate([rows for _, rows in draws]))
    features = _features(data, train, test, drawn, seed)
    found: dict[str, dict[str, float]] = {}
    for name, (known, unseen) in features.items():
        for size in {size: None for size, _ in draws}:
            scores = [
                _scores(known[np.searchsorted(drawn, rows)], labels[0][rows], unseen, labels[1])
                for count, rows in draws
                if count == size
            ]
            found.setdefault(name, {})[str(size)] = float(np.mean(scores, axis=0).max())
    return found


def _features(
    data: Data, train: Posterior, test: Posterior, drawn: npt.NDArray[np.int64], seed: int
) -> dict[str, tuple[Floats, Floats]]:
    """Features of the training images that are drawn, in the places of these, and of all held-out images."""
    unseen = _pixels(data.test.images.numpy())
    components = min(train.mean.shape[1], len(data.train), unseen.shape[1])
    rows = np.random.default_rng(seed).permutation(len(data.train))[:PCA_IMAGES]
    pca = PCA(components, svd_solver="randomized", random_state=seed, whiten=True)
    pca.fit(_pixels(data.train.images.numpy()[np.sort(rows)]))
    # Only what is drawn is looked at: the pixels of all of CelebA would take 8 GB.
    small = _pixels(data.train.images.numpy()[drawn])
    pairs = (
        (train.mean.double().numpy()[drawn], test.mean.double().numpy()),
        (small, unseen),
        (pca.transform(small), pca.transform(unseen)),
    )
    return dict(zip(FEATURES, pairs, strict=True))


def _pixels(images: npt.NDArray[np.uint8]) -> Any:
    return images.reshape(len(images), -1).astype(np.float32) / 255


def _draws(labels: npt.NDArray[np.int64], seed: int) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Rows of balanced sets of labelled images, with their number; of sizes for which there are enough."""
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for size in LABELS:
        each = size // len(classes)
        if not 0 < each <= min(map(len, classes)):
            continue
        for draw in range(DRAWS):
            generator = np.random.default_rng([seed, size, draw])
            yield size, np.concatenate([generator.choice(rows, each, replace=False) for rows in classes])


def _scores(known: Floats, labels: Any, unseen: Floats, wanted: Any) -> list[float]:
    """Balanced accuracy with each penalty."""
    # Brought to a mean square of 1 in each direction that the few images span, so that a penalty means about the same
    # for all kinds of features; and turned into that space, which is all that a ridge penalty lets a regression use.
    centre = known.mean(0)
    known, unseen = known - centre, unseen - centre
    scale = np.sqrt(np.square(known).sum(1).mean()) / np.sqrt(min(known.shape))
    _, _, span = np.linalg.svd(known / scale, full_matrices=False)
    near, far = known / scale @ span.T, unseen / scale @ span.T
    scores = []
    for penalty in PENALTIES:
        told = LogisticRegression(C=penalty, max_iter=1000, tol=TOLERANCE).fit(near, labels).predict(far)
        scores.append(
            float(np.mean([(told[wanted == label] == label).mean() for label in np.unique(wanted)]))
        )
    return scores
