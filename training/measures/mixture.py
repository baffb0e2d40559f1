"""The fitted prior: a Gaussian mixture on the latents of the training images."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.mixture import GaussianMixture

from training.model import Posterior

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture: weights [k], means [k, d] and lower Cholesky factors of the covariances [k, d, d]."""

    weights: Floats
    means: Floats
    choleskys: Floats

    def log_density(self, latents: Floats) -> Floats:
        """Log-density of each row [n, d] -> [n], in nats."""
        parts = []
        for weight, mean, cholesky in zip(self.weights, self.means, self.choleskys, strict=True):
            white = np.linalg.solve(cholesky, (latents - mean).T)
            log_determinant = np.log(np.diag(cholesky)).sum()
            parts.append(math.log(weight) - log_determinant - 0.5 * (white**2).sum(0))
        constant = 0.5 * latents.shape[1] * math.log(2 * math.pi)
        densities: Floats = np.logaddexp.reduce(parts) - constant
        return densities

    def sample(self, count: int, seed: int) -> Floats:
        """Draw rows [count, d]."""
        generator = np.random.default_rng(seed)
        choices = generator.choice(len(self.weights), size=count, p=self.weights)
        noise = generator.standard_normal((count, self.means.shape[1]))
        drawn: Floats = self.means[choices]
        for component, cholesky in enumerate(self.choleskys):
            rows = choices == component
            drawn[rows] += noise[rows] @ cholesky.T
        return drawn


def fit(posterior: Posterior, components: int, seed: int) -> Mixture:
    """Fit a full-covariance mixture to the aggregate posterior of a training split.

    The mixture is fitted to the encoder's means. A latent is more than a mean, it spreads around it by the posterior's
    own variance; so each component's covariance gets the average variance of the images it accounts for (the law of
    total covariance). Without that, a dimension whose means hardly move would be pinched to a point.
    """
    means = posterior.mean.double().numpy()
    # A full covariance wants more rows than dimensions.
    components = max(1, min(components, len(means) // (2 * means.shape[1])))
    mixture = GaussianMixture(components, covariance_type="full", random_state=seed, max_iter=100, tol=1e-2)
    mixture.fit(means)
    share = mixture.predict_proba(means)
    spread = (share.T @ posterior.log_variance.double().exp().numpy()) / share.sum(0)[:, None]
    covariances = mixture.covariances_ + np.stack([np.diag(row) for row in spread])
    return Mixture(mixture.weights_, mixture.means_, np.linalg.cholesky(covariances))


def rate_under(mixture: Mixture, posterior: Posterior, latents: Floats) -> float:
    """KL(q(z|x) || mixture) in nats, averaged over rows: one draw ``latents`` [n, d] of each q(z|x).

    Whatever the prior, distortion + rate bounds the same thing: the prior with the lower rate is the better model of
    the latents that the decoder was trained on.
    """
    mean = posterior.mean.double().numpy()
    log_variance = posterior.log_variance.double().numpy()
    log_q = -0.5 * ((latents - mean) ** 2 / np.exp(log_variance) + log_variance + math.log(2 * math.pi)).sum(
        1
    )
    return float((log_q - mixture.log_density(latents)).mean())
