r"""The loss of a variational autoencoder, from the definitions up.

For one image x with D pixels in [0, 1], q(z|x) = N(mean, diag(exp(log_variance))) and prior N(0, I) in d dimensions:

    distortion = -log p(x|z), one z ~ q(z|x)          summed over the D pixels
    rate       = KL(q(z|x) || N(0, I))                summed over the d dimensions
               = 1/2 sum_i (mean_i^2 + exp(log_variance_i) - 1 - log_variance_i)     Kingma & Welling 2014, appendix B
    loss       = distortion + beta x rate             averaged over the batch, in nats; beta = 1 is the negative ELBO

With the grey-level Bernoulli likelihood, distortion is binary cross-entropy: "BCE + KL" then compares models on the
same data and loss only. It lacks the continuous Bernoulli's normalising constant (Loaiza-Ganem & Cunningham 2019), so
that it bounds no log-likelihood.

**The weight that books put on the reconstruction.** Sums and means differ by D, so a factor w on the *mean* squared
error does not weigh the KL by 1/w. Against a Gaussian of unit variance, whose distortion is D/2 x mean squared error
(plus a constant),

    w x mean_squared_error + KL  =  (2w/D) x (D/2 x mean_squared_error  +  D/(2w) x KL),    so  beta = D / (2w).

*Generative Deep Learning* (2nd ed.) takes w = 2000 for faces: "2000" multiplies the mean squared error, not the KL,
and amounts to beta = 3072/4000 = 0.77 at 32x32x3 and 12288/4000 = 3.07 at 64x64x3. For Fashion-MNIST it takes w = 500
on the mean cross-entropy; there is no 1/2 in a cross-entropy, so beta = D/w = 1024/500 = 2.05.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, distributed


def rate_per_dimension(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of N(mean, exp(log_variance)) from N(0, 1), in nats: [n, d] and [n, d] -> [n, d]."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def bernoulli_distortion(logits: Tensor, pixels: Tensor) -> Tensor:
    """Binary cross-entropy summed over pixels, in nats: [n, ...] and [n, ...] in [0, 1] -> [n]."""
    return F.binary_cross_entropy_with_logits(logits, pixels, reduction="none").flatten(1).sum(1)


def gaussian_distortion(means: Tensor, pixels: Tensor, log_variance: Tensor) -> Tensor:
    """The full negative log-density of N(means, exp(log_variance)), in nats: [n, ...], [n, ...], scalar -> [n].

    D/2 log(2 pi sigma^2) + (sum of squared errors) / (2 sigma^2). Where sigma^2 is the mean squared error of these
    very rows, their average is D/2 log(2 pi e sigma^2), the least that any shared sigma can reach (Rybkin et al. 2021,
    sigma-VAE): training takes that sigma. Testing takes the one that training left, never the test batch's own.
    """
    squared_error = (means - pixels).square().flatten(1)
    constant = squared_error.shape[1] * (math.log(2 * math.pi) + log_variance)
    return 0.5 * (constant + squared_error.sum(1) * torch.exp(-log_variance))


def sample(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Draw z from q(z|x) with noise from N(0, I), all [n, d]: the reparameterisation that gradients pass through."""
    return mean + torch.exp(0.5 * log_variance) * noise


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes that train together; without gradient. Itself where there is one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
