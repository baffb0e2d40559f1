"""What a bundle knows about its latents: attribute directions, the fitted prior, and where the data lies."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture

from training.data import Source
from training.model import Posterior

Floats = npt.NDArray[np.float64]

STRATA = ("Male", "Young")
LEAST_IN_STRATUM = 20
QUANTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True)
class Attribute:
    """A direction from the rest to the members of a class.

    ``direction`` [d] is the difference of the two means, so that a strength of 1 goes from one to the other; ``auc`` is
    how well the projection on it tells members from the rest, on images that it was not made from (0.5: not at all).
    ``strata`` are those that the difference was taken within, where it was; ``quantiles`` (percent to value) say where
    the training images lie along the direction, in units of it and from their mean: the sensible range of a slider.
    """

    name: str
    direction: Floats
    auc: float
    positives: int
    negatives: int
    strata: tuple[str, ...] = ()
    quantiles: dict[str, float] = field(default_factory=dict)

    @property
    def norm(self) -> float:
        """Distance between the two means."""
        return float(np.linalg.norm(self.direction))

    def as_dict(self) -> dict[str, Any]:
        """What the manifest says of it; the direction itself is an array of the bundle."""
        return {
            "name": self.name,
            "norm": self.norm,
            "auc": self.auc,
            "positives": self.positives,
            "negatives": self.negatives,
            "strata": list(self.strata),
            "projection_quantiles": self.quantiles,
        }


def attributes(
    source: Source, train: Floats, train_labels: Any, test: Floats, test_labels: Any
) -> list[Attribute]:
    """Find the direction of each attribute from the encoder's means [n, d] and the labels of both splits."""
    find = _of_classes if source.exclusive else _stratified
    found = find(source.attributes, train, train_labels, test, test_labels)
    return [replace(each, quantiles=_quantiles(train, each.direction)) for each in found]


def _quantiles(means: Floats, direction: Floats) -> dict[str, float]:
    along = (means - means.mean(0)) @ direction / (direction @ direction)
    return {f"{percent:g}": float(np.quantile(along, percent / 100)) for percent in QUANTILES}


def _stratified(
    names: tuple[str, ...], train: Floats, train_labels: Any, test: Floats, test_labels: Any
) -> list[Attribute]:
    """Attributes that go together in the data must not go together in the directions.

    Most who smile in a photograph may be women: the plain difference of means would make faces both. So it is taken
    within each combination of the attributes ``STRATA``, the attribute itself left out, that holds at least
    ``LEAST_IN_STRATUM`` images with and as many without it, and averaged over them, each counting the same. Where none
    does, the plain difference is what there is.
    """
    found = []
    for index, name in enumerate(names):
        member = train_labels[:, index]
        strata = [other for other in STRATA if other in names and other != name]
        differences, used = [], []
        for values in itertools.product((False, True), repeat=len(strata)):
            inside = np.ones(len(member), bool)
            for other, value in zip(strata, values, strict=True):
                inside &= train_labels[:, names.index(other)] == value
            with_it, without = train[inside & member], train[inside & ~member]
            if min(len(with_it), len(without)) >= LEAST_IN_STRATUM:
                differences.append(with_it.mean(0) - without.mean(0))
                used.append(
                    " ".join(
                        f"{'+' if value else '-'}{other}" for other, value in zip(strata, values, strict=True)
                    )
                )
        used = used if strata else []
        if not differences:
            if not 0 < member.sum() < len(member):
                continue  # nobody has it, or everybody: it has no direction
            differences = [train[member].mean(0) - train[~member].mean(0)]
        direction = np.mean(differences, axis=0)
        seen = test_labels[:, index]
        auc = roc_auc_score(seen, test @ direction) if 0 < seen.sum() < len(seen) else 0.5
        found.append(
            Attribute(name, direction, float(auc), int(member.sum()), int((~member).sum()), tuple(used))
        )
    return found


def _of_classes(
    classes: tuple[str, ...], train: Floats, train_labels: Floats, test: Floats, test_labels: Floats
) -> list[Attribute]:
    """Find the direction of each class from the encoder's means [n, d] and labels [n] of both splits.

    "The rest" is balanced: every other class counts the same, however many images it has.
    """
    centres = np.stack([train[train_labels == label].mean(0) for label in range(len(classes))])
    found = []
    for label, name in enumerate(classes):
        direction = centres[label] - np.delete(centres, label, axis=0).mean(0)
        members = train_labels == label
        auc = roc_auc_score(test_labels == label, test @ direction)
        found.append(Attribute(name, direction, float(auc), int(members.sum()), int((~members).sum())))
    return found


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
        drawn: Floats = self.means[choices] + np.einsum("nij,nj->ni", self.choleskys[choices], noise)
        return drawn


def fit_mixture(posterior: Posterior, components: int, seed: int) -> Mixture:
    """Fit a full-covariance mixture to the aggregate posterior of a training split.

    The mixture is fitted to the encoder's means. A latent is more than a mean, it spreads around it by the posterior's
    own variance; so each component's covariance gets the average variance of the images it accounts for (the law of
    total covariance). Without that, a dimension whose means hardly move would be pinched to a point.
    """
    means = posterior.mean.double().numpy()
    # A full covariance wants more rows than dimensions.
    components = max(1, min(components, len(means) // (2 * means.shape[1])))
    mixture = GaussianMixture(components, covariance_type="full", random_state=seed, max_iter=300, tol=1e-3)
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


def save(path: Path, means: Floats, attributes: Sequence[Attribute], mixture: Mixture | None) -> None:
    """Write the bundle's latent_space.npz: directions and their cosines, the fitted prior, moments of the means."""
    directions = np.array([attribute.direction for attribute in attributes]).reshape(-1, means.shape[1])
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    prior = {} if mixture is None else {f"mixture_{name}": array for name, array in vars(mixture).items()}
    np.savez(
        path,
        attribute_directions=directions.astype(np.float32),
        attribute_cosines=(unit @ unit.T).astype(np.float32),
        posterior_mean=means.mean(0).astype(np.float32),
        posterior_std=means.std(0).astype(np.float32),
        **prior,
    )
