"""The operations: model bundles, latent arithmetic, and the five operations on arrays."""
