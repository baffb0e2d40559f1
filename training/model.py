"""The encoder, the decoder, and both together. Images are float [n, c, h, w] here, in [0, 1]."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from training import loss
from training.config import Config


class Posterior(NamedTuple):
    """q(z|x) = N(mean, diag(exp(log_variance))), each float [n, d]."""

    mean: Tensor
    log_variance: Tensor


class Encoder(nn.Module):
    """Pixels [n, c, h, w] to q(z|x): convolutions of stride 2 down to a small map, then dense layers.

    With ``linear_path`` a linear map of the pixels is added to the mean: see ``training.running.start``.

    A plain autoencoder has no variance; its encoder gives zeros there, which stand for nothing and are never used.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = config.image_channels
        for width in config.encoder_channels:
            layers += [
                nn.Conv2d(channels, width, kernel_size=3, stride=2, padding=1),
                *activation(config, width),
            ]
            channels = width
        layers.append(nn.Flatten())
        features = channels * map_size(config) ** 2
        if config.encoder_hidden:
            layers += [nn.Linear(features, config.encoder_hidden), nn.ReLU()]
            features = config.encoder_hidden
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(config.values, config.latent_size) if config.linear_path else None
        self.mean = nn.Linear(features, config.latent_size)
        self.log_variance = nn.Linear(features, config.latent_size) if config.variational else None

    def forward(self, pixels: Tensor) -> Posterior:
        """[n, c, h, w] -> mean and log-variance, each [n, d]."""
        features = self.features(pixels)
        mean = self.mean(features)
        if self.linear is not None:
            mean = mean + self.linear(pixels.flatten(1))
        if self.log_variance is None:
            return Posterior(mean, torch.zeros_like(mean))
        return Posterior(mean, self.log_variance(features))


class Decoder(nn.Module):
    """Latents [n, d] to logits [n, c, h, w]; their sigmoid is the mean of p(x|z) under either likelihood.

    Upsampling is a transposed convolution k3 s2: in ONNX Runtime it is faster than k4 s2 or a pixel shuffle of the
    same width (``python -m training.bundles.upsampling`` measures it). The layer that makes the image doubles the size
    where that is still to be done, and is a plain convolution where it is not.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        features = config.latent_size
        for width in config.decoder_hidden:
            layers += [nn.Linear(features, width), nn.ReLU()]
            features = width
        channels, *widths = config.decoder_channels
        size = map_size(config)
        layers += [
            nn.Linear(features, channels * size * size),
            *activation(config, channels * size * size, dense=True),
            nn.Unflatten(1, (channels, size, size)),
        ]
        for width in widths:
            layers += [upsampling(channels, width), *activation(config, width)]
            channels = width
        if size * 2 ** len(widths) < config.image_size:
            layers.append(upsampling(channels, config.image_channels))
        else:
            layers.append(nn.Conv2d(channels, config.image_channels, kernel_size=3, padding=1))
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(config.latent_size, config.values) if config.linear_path else None

    def forward(self, latents: Tensor) -> Tensor:
        """[n, d] -> logits [n, c, h, w]."""
        logits: Tensor = self.layers(latents)
        if self.linear is not None:
            logits = logits + self.linear(latents).unflatten(1, logits.shape[1:])
        return logits


def map_size(config: Config) -> int:
    """Height and width of the map that the encoder ends with, and that the decoder begins with."""
    return config.image_size >> len(config.encoder_channels)


def activation(config: Config, width: int, *, dense: bool = False) -> list[nn.Module]:
    """What follows a layer of ``width`` channels or, ``dense``, features.

    With batch normalisation it is as in the book's recipe: Keras's epsilon, and Keras's momentum of 0.99, which PyTorch
    writes as 0.01; the slope is that of Keras's LeakyReLU.
    """
    if not config.batch_norm:
        return [nn.ReLU()]
    kind = nn.BatchNorm1d if dense else nn.BatchNorm2d
    return [kind(width, eps=1e-3, momentum=0.01), nn.LeakyReLU(0.3)]


def upsampling(channels: int, width: int) -> nn.ConvTranspose2d:
    """Twice the height and width: [n, channels, h, w] -> [n, width, 2h, 2w]."""
    return nn.ConvTranspose2d(channels, width, kernel_size=3, stride=2, padding=1, output_padding=1)


class Losses(NamedTuple):
    """Means over the batch, in nats; ``total`` is what the optimiser sees.

    ``sigma_log_variance`` is the log sigma^2 that the Gaussian distortion was taken with; nothing to the Bernoulli's.
    The total is ``distortion + beta x rate``; only where sigma is not calibrated is its distortion another, that of
    unit variance.
    """

    total: Tensor
    distortion: Tensor
    rate: Tensor
    sigma_log_variance: Tensor


class Autoencoder(nn.Module):
    """Encoder and decoder with the loss between them; ``variational=False`` makes it a plain autoencoder."""

    sigma_log_variance: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        # The Gaussian likelihood's log sigma^2, a running mean over training batches: see follow_sigma.
        self.register_buffer("sigma_log_variance", torch.zeros(()))
        self.apply(initialise)

    def latents(self, posterior: Posterior, noise: Tensor) -> Tensor:
        """One z ~ q(z|x) per row, or the code itself in a plain autoencoder: [n, d]."""
        return loss.sample(*posterior, noise) if self.config.variational else posterior.mean

    def distortion(self, logits: Tensor, pixels: Tensor) -> Tensor:
        """-log p(x|z) per row under the configured likelihood, in nats: two [n, c, h, w] -> [n]."""
        return self._distortion(logits, pixels)[0]

    def follow_sigma(self, log_variance: Tensor, taken: int) -> None:
        """Let the running mean, which has ``taken`` in so many, take in one batch's log sigma^2.

        It is the mean of the first hundred and forgets from then on. The trainer leaves out those that are not finite.
        """
        self.sigma_log_variance.lerp_(log_variance, max(0.01, 1 / (taken + 1)))

    def rate(self, posterior: Posterior) -> Tensor:
        """KL per row and dimension, in nats: [n, d]; zeros in a plain autoencoder, which has no such term."""
        if not self.config.variational:
            return torch.zeros_like(posterior.mean)
        return loss.rate_per_dimension(*posterior)

    def forward(self, pixels: Tensor, noise: Tensor, beta: float) -> Losses:
        """The loss of pixels [n, c, h, w] in [0, 1] with noise [n, d] from N(0, I)."""
        posterior = Posterior(*(part.float() for part in self.encoder(pixels)))
        logits = self.decoder(self.latents(posterior, noise)).float()
        rows, log_variance = self._distortion(logits, pixels)
        distortion, rate = rows.mean(), self.rate(posterior).sum(1).mean()
        learnt = distortion
        if self.config.likelihood == "gaussian" and not self.config.calibrated:
            unit = torch.zeros_like(log_variance)
            learnt = loss.gaussian_distortion(logits.sigmoid(), pixels, unit).mean()
        return Losses(learnt + beta * rate, distortion, rate, log_variance)

    def _distortion(self, logits: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """-log p(x|z) per row [n], and the Gaussian's log sigma^2: the batch's own in training.

        No gradient goes through that sigma. It is where the distortion is least, so none is lost (the derivative there
        is zero); and as it is the sigma of all processes' batches together, the mean of their gradients is the gradient
        that one process with the whole batch would find: that of D/2 log(mean squared error).
        """
        if self.config.likelihood == "bernoulli":
            return loss.bernoulli_distortion(logits, pixels), self.sigma_log_variance
        means, log_variance = logits.sigmoid(), self.sigma_log_variance
        if self.training:
            error = (means - pixels).square().mean().detach()
            log_variance = loss.mean_over_processes(error).log()
        return loss.gaussian_distortion(means, pixels, log_variance), log_variance


def initialise(layer: nn.Module) -> None:
    """Glorot's uniform weights and zero biases, as Keras does it (and so the book's recipe)."""
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
