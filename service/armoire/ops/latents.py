"""Latent arithmetic in numpy: priors, interpolation, attribute edits. Points are rows, float32 [n, d]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from armoire.arrays import Doubles, Floats


def _streams(seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Give the two independent streams of a seed: one for the noise, one for the mixture's choices."""
    noise, choice = np.random.SeedSequence(seed).spawn(2)
    return np.random.default_rng(noise), np.random.default_rng(choice)


def sample_normal(count: int, size: int, seed: int, temperature: float = 1.0) -> Floats:
    """Draw from N(0, temperature^2 I): float32 [count, size], where row i depends on (seed, i) only.

    One generator fills the rows in order, so that the first rows of a longer draw are the shorter draw.
    """
    noise, _ = _streams(seed)
    with np.errstate(over="ignore"):
        return noise.standard_normal((count, size), np.float32) * np.float32(temperature)


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture with full covariances: the fitted prior.

    The exporter fits it to the encoder's means and adds to each covariance the mean posterior variance of the images
    that the component accounts for, so that it describes draws of q(z|x) and not the means alone.

    Attributes:
        weights: [k], positive, sum 1.
        means: [k, d].
        choleskys: [k, d, d], the lower Cholesky factor of each covariance.
    """

    weights: Doubles
    means: Doubles
    choleskys: Doubles

    def sample(self, count: int, seed: int, temperature: float = 1.0) -> Floats:
        """Draw mean_k + temperature L_k e with k by weight: float32 [count, d]; row i depends on (seed, i) only."""
        noise, choice = _streams(seed)
        e = noise.standard_normal((count, self.means.shape[1]), np.float32).astype(np.float64)
        cumulative = np.cumsum(self.weights)
        k = np.searchsorted(cumulative / cumulative[-1], choice.random(count), side="right")
        # Row by row on purpose: a product of matrices rounds differently with the number of its rows.
        spread = np.stack([self.choleskys[j] @ row for j, row in zip(k, e, strict=True)])
        with np.errstate(over="ignore"):
            return (self.means[k] + temperature * spread).astype(np.float32)


def interpolate_linear(start: Floats, end: Floats, steps: int) -> Floats:
    """Walk z = z_a (1 - alpha) + z_b alpha, alpha from 0 to 1 with both ends: [n, d] twice -> [n, steps, d]."""
    alpha = np.linspace(0.0, 1.0, steps, dtype=np.float32)[None, :, None]
    with np.errstate(over="ignore"):
        return start[:, None] * (1 - alpha) + end[:, None] * alpha


def interpolate_spherical(start: Floats, end: Floats, steps: int) -> Floats:
    """Walk along the great circle (Shoemake 1985), the length going linearly: [n, d] twice -> [n, steps, d].

    Where no great circle is defined (a point at the origin, opposite points, or one direction for both) the
    walk is linear. Between points at the edge of float32's range it may overflow to infinity.
    """
    a, b = start.astype(np.float64), end.astype(np.float64)
    length_a, length_b = (np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    with np.errstate(divide="ignore", invalid="ignore"):
        unit_a, unit_b = a / length_a, b / length_b
        cosine = np.clip((unit_a * unit_b).sum(axis=1, keepdims=True), -1.0, 1.0)
        omega = np.arccos(cosine)[:, None]
        alpha = np.linspace(0.0, 1.0, steps)[None, :, None]
        unit = np.sin((1 - alpha) * omega) * unit_a[:, None] + np.sin(alpha * omega) * unit_b[:, None]
        walk = unit / np.sin(omega) * (length_a[:, None] * (1 - alpha) + length_b[:, None] * alpha)
    defined = (length_a > 0) & (length_b > 0) & (np.abs(cosine) < 1 - 1e-9)
    walk = np.where(defined[:, None], walk, interpolate_linear(start, end, steps))
    with np.errstate(over="ignore"):
        return walk.astype(np.float32)


def difference_of_means(positives: Floats, negatives: Floats) -> Floats:
    """Give the direction from the mean of negatives to the mean of positives: [p, d], [m, d] -> [d].

    May overflow to infinity.
    """
    gap: Doubles = positives.mean(axis=0, dtype=np.float64) - negatives.mean(axis=0, dtype=np.float64)
    with np.errstate(over="ignore"):
        return gap.astype(np.float32)


def orthogonal(direction: Floats, others: Floats) -> Floats:
    """Give what is left of a direction [d] orthogonal to each of the others [k, d]: the least squares residual.

    A move along it leaves the projections on the others where they were. Zeros where nothing but rounding is left; not
    finite where the direction is not; may overflow to infinity.
    """
    wide, basis = direction.astype(np.float64), others.astype(np.float64).T
    if not np.isfinite(wide).all():
        return direction
    # Directions of any length: the fit would call the shorter ones rounding of the longer.
    lengths = np.linalg.norm(basis, axis=0)
    basis = basis / np.where(lengths > 0, lengths, 1.0)
    left = wide - basis @ np.linalg.lstsq(basis, wide, rcond=None)[0]
    if np.linalg.norm(left) <= 1e-6 * np.linalg.norm(wide):
        return np.zeros_like(direction)
    with np.errstate(over="ignore"):  # of directions near float32's largest something larger may be left
        return left.astype(np.float32)


def unit(direction: Floats) -> Floats:
    """Bring a direction [d] to length 1; one that is infinite becomes NaN.

    Raises:
        ValueError: a direction of length 0.
    """
    # In float64 no finite direction is too long or too short.
    wide = direction.astype(np.float64)
    length = np.linalg.norm(wide)
    if length == 0:
        raise ValueError("a direction of length 0 has no unit vector")
    with np.errstate(invalid="ignore"):
        return np.asarray(wide / length, np.float32)


def shift(points: Floats, strengths: list[float], directions: list[Floats]) -> Floats:
    """Move points by the sum of strength x direction: [n, d] -> [n, d]; may overflow to infinity."""
    with np.errstate(over="ignore", invalid="ignore"):
        moved = points
        for strength, direction in zip(strengths, directions, strict=True):
            moved = moved + np.float32(strength) * direction
        return moved
