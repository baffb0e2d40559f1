"""A linear path begins as the best linear model of the images, before a single step."""

from dataclasses import replace

import pytest
import torch

from training.config import Config, preset
from training.data import Data, as_pixels
from training.measures import aggregate, references
from training.model import Autoencoder
from training.running.start import begin_at_principal_components

CONFIG = replace(
    preset("fashion"),
    latent_size=8,
    likelihood="gaussian",
    linear_path=True,
    encoder_hidden=0,
    decoder_hidden=(),
)


def begun(data: Data, config: Config = CONFIG) -> Autoencoder:
    torch.manual_seed(0)
    model = Autoencoder(config)
    begin_at_principal_components(model, data.train.images)
    return model.eval()


@torch.no_grad()
def test_a_linear_path_begins_with_uncorrelated_latents_of_variance_one(data: Data) -> None:
    """Over the training images the aggregate posterior has the moments of N(0, I), up to rounding and sampling."""
    model = begun(data)
    posterior = aggregate.encode(model, data.train.images)
    covariance = torch.cov(posterior.mean.T) + posterior.log_variance.exp().mean(0).diag()
    # The variance of q(z|x) differs a little between images: the convolutions have a word in it from the start.
    torch.testing.assert_close(covariance, torch.eye(8), atol=0.1, rtol=0)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-3
    assert posterior.mean.mean(0).abs().max() < 1e-3
    assert aggregate.gaussian_divergence(posterior, variational=True) < 0.01


@torch.no_grad()
def test_a_linear_path_begins_near_the_error_of_principal_components(data: Data) -> None:
    """Decoding small latents is linear in them, along the principal axes, and the noise is what they leave over."""
    model = begun(data)
    pixels = as_pixels(data.train.images).flatten(1)
    _, _, axes = torch.linalg.svd(pixels - pixels.mean(0), full_matrices=False)
    step = 1e-3 * torch.eye(8)
    means = model.decoder(torch.cat([step, torch.zeros(1, 8)])).sigmoid().flatten(1)
    moves = means[:-1] - means[-1]
    torch.testing.assert_close(means[-1], pixels.mean(0).clamp(0.01, 0.99), atol=1e-5, rtol=0)
    cosines = torch.nn.functional.cosine_similarity(moves, axes[:8])
    # Pixels that are always black have a mean of 0, which no logit reaches.
    assert cosines.abs().min() > 0.99
    rest = references.principal_components(data, 8, seed=1)
    assert rest is not None
    loudest = (moves / 1e-3).norm(dim=1)[0] ** 2
    log_variance = float(model.encoder(as_pixels(data.train.images[:500])).log_variance[:, 0].mean())
    noise = loudest / (1 - torch.tensor(log_variance).exp()) * torch.tensor(log_variance).exp()
    assert float(noise) == pytest.approx(rest, rel=0.15)


def test_beta_widens_the_posterior_at_the_start() -> None:
    """The variance of q(z|x) is the noise over the data's variance, and beta multiplies the noise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (600, 32, 32, 1), generator=generator, dtype=torch.uint8)
    images[:, :16] //= torch.randint(1, 5, (600, 1, 1, 1), generator=generator, dtype=torch.uint8)
    widths = []
    for beta in (1.0, 4.0):
        torch.manual_seed(0)
        model = Autoencoder(replace(CONFIG, latent_size=1, beta=beta))
        begin_at_principal_components(model, images)
        widths.append(model.encoder.log_variance.bias.exp().item())
    assert widths[1] == pytest.approx(4 * widths[0], rel=1e-3)


def test_the_same_images_give_the_same_start(data: Data) -> None:
    """Two processes that begin on their own begin alike."""
    one, two = begun(data).state_dict(), begun(data).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
