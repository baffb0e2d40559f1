"""What a model's figures are compared with: principal components, and distances in a classifier's features."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from training import randomness
from training.data import Data
from training.measures import aggregate, classifier
from training.measures.inception import Inception
from training.measures.subject import Subject

PCA_IMAGES = 20_000  # at most: a part is enough for 200 components, and all of CelebA would take 10 GB


def principal_components(data: Data, components: int, seed: int) -> float | None:
    """Mean squared error of the held-out images, pixels in [0, 1], from their first principal components.

    The components are those of the training images (of 20,000 at random where there are more); None where there are
    fewer images or pixels than components.
    """
    rows = randomness.order(seed, len(data.train), 0)[:PCA_IMAGES]
    train, test = (
        images.flatten(1).numpy().astype(np.float32) / 255
        for images in (data.train.images[rows], data.test.images)
    )
    if components > min(train.shape):
        return None
    # The randomised solver finds them up to a small part of the error, in a fraction of the time.
    found = PCA(components, svd_solver="randomized", random_state=seed).fit(train)
    rest = test - found.inverse_transform(found.transform(test))
    return float(np.square(rest, dtype=np.float64).mean())


def frechet_distances(subject: Subject, inception: Inception | None = None) -> dict[str, dict[str, Any]]:
    """Fréchet distances from the held-out images, as many images on each side.

    Of reconstructions from the posterior mean, of samples from each prior, and ``floor``: of as many training images,
    which nothing is expected to be much under. ``frechet``: in the features of a small classifier, empty where the
    images have no labels. ``fid``: in those of ``inception``, empty without it.
    """
    model, data, judge = subject.model, subject.data, subject.judge
    found: dict[str, dict[str, Any]] = {"frechet": {}, "fid": {}}
    if judge is None and inception is None:
        return found
    config, count = model.config, min(len(data.test), len(data.train))
    real = data.test.images[:count]
    drawn = {"reconstructions": subject.reconstructions[:count]}
    if config.variational:  # a plain autoencoder has nothing to sample from
        fitted = torch.from_numpy(subject.mixture.sample(count, config.seed)).float()
        drawn["normal"] = aggregate.decode(model, subject.normal_latents(count, "judged"))
        drawn["fitted"] = aggregate.decode(model, fitted)
    some = randomness.order(config.seed, len(data.train), 0)[:count]
    drawn["floor"] = data.train.images[some]
    if judge is not None:
        found["frechet"] = _distances(judge.features, drawn, real) | {
            "classifier_accuracy": judge.accuracy(data.source, data.test),
            "images": count,
        }
    if inception is not None:
        found["fid"] = _distances(inception.features, drawn, real) | {"images": count}
    return found


def _distances(
    features: Callable[[Tensor], Tensor], drawn: dict[str, Tensor], real: Tensor
) -> dict[str, float]:
    known = features(real)
    return {name: classifier.frechet_distance(features(images), known) for name, images in drawn.items()}


def peak_signal_to_noise(mse: float) -> float:
    """PSNR in dB of a mean squared error of pixels in [0, 1]."""
    return 10 * math.log10(1 / mse)


def bits_per_dimension(nats: float, dimensions: int) -> float:
    """Bits for each of the pixels' 255 steps, of a bound in nats on the density of pixels in [0, 1]."""
    return nats / dimensions / math.log(2) + math.log2(255)
