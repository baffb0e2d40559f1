"""Where training begins: a linear path is set to the principal components of the images."""

import torch
from torch import Tensor

from training import randomness
from training.data import as_pixels
from training.model import Autoencoder

IMAGES = 10_000  # at most, and each mirrored where training mirrors: a part is enough, and of CelebA all would be 10 GB
# Of the randomised search (Halko et al. 2011): the last directions that it finds are not quite right, so it looks for
# some more than are wanted.
ITERATIONS, SPARE = 4, 16
# Variance of a pixel in [0, 1]: that of a hundredth of full brightness. Few images leave nothing over, and directions
# along which hardly anything varies would be blown up until float32 rounds them.
LEAST_NOISE = 1e-4


@torch.no_grad()
def begin_at_principal_components(model: Autoencoder, images: Tensor) -> None:
    """Set the linear paths of a model to the best linear model, with Gaussian noise, of images uint8 [n, h, w, c].

    Of all linear decoders with Gaussian noise the most likely is probabilistic principal component analysis (Tipping &
    Bishop 1999), and a linear variational autoencoder has no other optimum (Lucas et al. 2019). With the directions
    u_i, the variances l_i along them, the mean image m, and the variance s2 that is left to each pixel, times beta,

        q(z_i|x) = N(sqrt(l_i - s2) / l_i  u_i'(x - m), s2 / l_i),     and the mean of p(x|z) is
        m + sum_i sqrt(l_i - s2) u_i z_i:

    so the latents begin uncorrelated, each with a variance of 1 over the data: as the prior wants them. Found by Adam
    from a random start they stay correlated for long, which costs rate and keeps samples of N(0, I) from being faces.
    What is left is spread over all pixels, not only over the directions that are left, which makes it a little less;
    it is that of the rest alone; with beta the directions themselves add to it, which training finds out.
    Under a Bernoulli likelihood the best is another one; there it is a start like any other, and a good one.
    The decoder's is turned into logits at the mean image, d logit(m) = dm / (m (1 - m)). The convolutions begin with
    nothing to say and learn what is not linear.
    """
    config, encoder, decoder = model.config, model.encoder, model.decoder
    assert encoder.linear is not None
    assert encoder.log_variance is not None
    assert decoder.linear is not None
    rows = randomness.order(config.seed, len(images), 0)[:IMAGES]
    pixels = as_pixels(images[rows.to(images.device)])
    if config.flips:
        pixels = torch.cat([pixels, pixels.flip(3)])
    pixels = pixels.flatten(1)
    mean = pixels.mean(0)
    pixels -= mean
    size = min(config.latent_size, *pixels.shape)
    torch.manual_seed(config.seed)
    sought = min(size + SPARE, *pixels.shape)
    _, values, directions = torch.pca_lowrank(pixels, sought, center=False, niter=ITERATIONS)
    values, directions = values[:size], directions[:, :size]
    variance = values.square() / len(pixels)
    left = (pixels.square().sum() / len(pixels) - variance.sum()) / pixels.shape[1]
    noise = config.beta * left.clamp(min=LEAST_NOISE)
    # A direction that varies less than the noise has no use to the best linear model. It begins nearly as wide as the
    # prior, with a mean and an axis that are small and not zero: the gradient of two zeros would never wake it.
    scale = torch.maximum(variance - noise, 0.1 * variance).sqrt()
    variance = torch.maximum(variance, noise)

    encoder.linear.weight.zero_()[:size] = (directions * (scale / variance)).T
    encoder.linear.bias.copy_(-encoder.linear.weight @ mean)
    middle = mean.clamp(0.01, 0.99)
    decoder.linear.weight.zero_()[:, :size] = directions * scale / (middle * (1 - middle))[:, None]
    decoder.linear.bias.copy_(middle.logit())
    encoder.mean.weight.zero_()
    encoder.log_variance.weight.mul_(0.1)
    encoder.log_variance.bias.zero_()[:size] = (noise / variance).log()
    last = decoder.layers[-1]
    assert isinstance(last, torch.nn.Conv2d | torch.nn.ConvTranspose2d)
    last.weight.zero_()
