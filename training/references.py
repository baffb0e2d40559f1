"""What a model's figures are compared with: principal components, and distances in a classifier's features."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from training import aggregate, classifier, latent_space, pictures, randomness
from training.data import Data
from training.model import Autoencoder

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


def frechet_distances(model: Autoencoder, data: Data, runs: Path) -> dict[str, Any]:
    """Fréchet distances from the held-out images in the features of a small classifier, as many images on each side.

    Of reconstructions from the posterior mean, of samples from both priors, and ``floor``: of as many training images,
    which nothing is expected to be much under. Empty where the images have no labels.
    """
    if not data.source.attributes:
        return {}
    judge, config = classifier.of(data, runs), model.config
    count = min(len(data.test), len(data.train))
    real = judge.features(data.test.images[:count])
    posterior = aggregate.encode(model, data.test.images[:count])
    latents = {"reconstructions": posterior.mean}
    if config.variational:  # a plain autoencoder has nothing to sample from
        train = aggregate.encode(model, data.train.images)
        mixture = latent_space.fit_mixture(train, config.mixture_components, config.seed)
        latents["normal"] = randomness.noise(config.seed, "judged", count, config.latent_size)
        latents["fitted"] = torch.from_numpy(mixture.sample(count, config.seed)).float()
    some = randomness.order(config.seed, len(data.train), 0)[:count]
    found = {
        name: classifier.frechet_distance(judge.features(_decoded(model, rows)), real)
        for name, rows in latents.items()
    }
    return found | {
        "floor": classifier.frechet_distance(judge.features(data.train.images[some]), real),
        "classifier_accuracy": judge.accuracy(data.source, data.test),
        "images": count,
    }


def peak_signal_to_noise(mse: float) -> float:
    """PSNR in dB of a mean squared error of pixels in [0, 1]."""
    return 10 * math.log10(1 / mse)


def bits_per_dimension(nats: float, dimensions: int) -> float:
    """Bits for each of the pixels' 255 steps, of a bound in nats on the density of pixels in [0, 1]."""
    return nats / dimensions / math.log(2) + math.log2(255)


def _decoded(model: Autoencoder, latents: Tensor) -> Tensor:
    return torch.from_numpy(pictures.decode(model, latents))
