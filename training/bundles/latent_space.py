"""``latent_space.npz``: what a bundle knows about its latents."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.measures.attributes import Attribute, Floats
from training.measures.mixture import Mixture


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
