"""The aggregate posterior, q(z) = mean over images of q(z|x): where a whole split lies on the wall."""

import math

import torch
from torch import Tensor

from training.data import as_pixels
from training.model import Autoencoder, Posterior

ROWS = 500  # images per forward pass; no figure depends on it


@torch.no_grad()
def encode(model: Autoencoder, images: Tensor) -> Posterior:
    """Encode uint8 [n, h, w, c], all of them: mean and log-variance float32 [n, d]."""
    device = next(model.parameters()).device
    parts = [model.encoder(as_pixels(batch.to(device))) for batch in torch.split(images, ROWS)]
    means, log_variances = zip(*parts, strict=True)
    return Posterior(torch.cat(means).float().cpu(), torch.cat(log_variances).float().cpu())


@torch.no_grad()
def decode(model: Autoencoder, latents: Tensor) -> Tensor:
    """Decode float32 [n, d] to the mean images of p(x|z), uint8 [n, h, w, c]."""
    device = next(model.parameters()).device
    parts = [
        (model.decoder(rows.to(device)).sigmoid() * 255).round().to(torch.uint8).cpu()
        for rows in torch.split(latents, ROWS)
    ]
    return torch.cat(parts).permute(0, 2, 3, 1)


def gaussian_divergence(posterior: Posterior, *, variational: bool) -> float:
    """KL(N(m, S) || N(0, I)) in nats, m and S the mean and covariance of the aggregate posterior.

    1/2 (tr S + m'm - d - log det S): what the first two moments alone tell of the distance from the prior.
    """
    means = posterior.mean.double()
    covariance = torch.cov(means.T, correction=0).reshape(means.shape[1], -1)
    if variational:
        covariance = covariance + torch.diag(posterior.log_variance.double().exp().mean(0))
    mean = means.mean(0)
    terms = covariance.trace() + mean.square().sum() - len(mean) - torch.logdet(covariance)
    return float(0.5 * terms)


def maximum_mean_discrepancy(latents: Tensor) -> float:
    """Unbiased squared MMD between rows [n, d] of z ~ q(z) and N(0, I), kernel exp(-|x - y|^2 / 2d).

    Gretton et al. 2012, equation 3, with the two expectations over N(0, I) in closed form. It sees any difference of
    shape, not only moments; 0 up to about 1/n where there is none, and near 1 where the two hardly meet.
    """
    z = latents.double()
    rows, d = z.shape
    within = sum(
        float(torch.exp(-torch.cdist(part, z).square() / (2 * d)).sum()) for part in torch.split(z, 1000)
    )
    within = (within - rows) / (rows * (rows - 1))
    between = (d / (d + 1)) ** (d / 2) * torch.exp(-z.square().sum(1) / (2 * (d + 1))).mean()
    prior = math.exp(d / 2 * math.log(d / (d + 2)))
    return within + prior - 2 * float(between)
