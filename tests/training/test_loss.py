"""The loss against torch.distributions, against Monte Carlo, and against the book's way of writing it."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions

from training import loss
from training.config import PRESETS, Config, preset, with_mean_distortion
from training.model import Autoencoder


def gaussians(seed: int, spread: float, shape: tuple[int, ...] = (5, 3)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean, log_variance = torch.randn(2, *shape, generator=generator, dtype=torch.float64) * spread
    return mean, log_variance


@given(seed=st.integers(0, 2**32), spread=st.floats(0, 4))
def test_rate_is_the_divergence_of_torch_distributions(seed: int, spread: float) -> None:
    """The rate of each row and dimension equals torch's KL of two normal distributions."""
    mean, log_variance = gaussians(seed, spread)
    posterior = distributions.Normal(mean, torch.exp(0.5 * log_variance))
    expected = distributions.kl_divergence(posterior, distributions.Normal(torch.zeros(()), torch.ones(())))
    torch.testing.assert_close(loss.rate_per_dimension(mean, log_variance), expected)


def test_rate_is_what_monte_carlo_finds() -> None:
    """The average of log q(z) - log p(z) over draws of z ~ q is the rate, within five standard errors."""
    mean, log_variance = gaussians(seed=1, spread=1.0, shape=(1, 3))
    noise = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z = loss.sample(mean, log_variance, noise)
    posterior = distributions.Normal(mean, torch.exp(0.5 * log_variance))
    ratios = (posterior.log_prob(z) - distributions.Normal(0.0, 1.0).log_prob(z)).sum(1)
    error = 5 * ratios.std() / math.sqrt(len(ratios))
    assert abs(ratios.mean() - loss.rate_per_dimension(mean, log_variance).sum()) < error


@given(seed=st.integers(0, 2**32), scale=st.floats(0, 30))
def test_bernoulli_distortion_is_minus_the_log_probability_of_black_and_white(
    seed: int, scale: float
) -> None:
    """On pixels that are 0 or 1 the distortion is minus the log-probability of torch's Bernoulli, summed."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 1, 6, 6, generator=generator, dtype=torch.float64) * scale
    pixels = torch.randint(0, 2, (4, 1, 6, 6), generator=generator).double()
    expected = -distributions.Bernoulli(logits=logits).log_prob(pixels).flatten(1).sum(1)
    torch.testing.assert_close(loss.bernoulli_distortion(logits, pixels), expected)


def test_bernoulli_distortion_of_a_grey_pixel_lies_between_those_of_black_and_white() -> None:
    """A pixel of 0.25 costs three quarters of what black costs and one quarter of what white costs."""
    logits = torch.tensor([[1.5]])
    black, grey, white = (
        loss.bernoulli_distortion(logits, torch.full((1, 1), value)) for value in (0.0, 0.25, 1.0)
    )
    torch.testing.assert_close(grey, 0.75 * black + 0.25 * white)


@given(seed=st.integers(0, 2**32), log_variance=st.floats(-5, 3))
def test_gaussian_distortion_is_the_whole_log_density(seed: int, log_variance: float) -> None:
    """The Gaussian distortion is minus torch's log-density with every constant in it, summed over pixels."""
    generator = torch.Generator().manual_seed(seed)
    means, pixels = torch.rand(2, 4, 3, 5, 5, generator=generator, dtype=torch.float64)
    expected = -distributions.Normal(means, math.exp(log_variance / 2)).log_prob(pixels).flatten(1).sum(1)
    got = loss.gaussian_distortion(means, pixels, torch.tensor(log_variance, dtype=torch.float64))
    torch.testing.assert_close(got, expected)


def test_gaussian_distortion_at_its_best_sigma_is_the_entropy() -> None:
    """With sigma^2 equal to the mean squared error the average distortion is D/2 log(2 pi e sigma^2)."""
    means, pixels = torch.rand(2, 8, 1, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    variance = (means - pixels).square().mean()
    got = loss.gaussian_distortion(means, pixels, variance.log()).mean()
    torch.testing.assert_close(got, 8 * torch.log(2 * math.pi * math.e * variance))


@pytest.mark.parametrize(("pixels", "beta"), [(32 * 32 * 3, 0.768), (64 * 64 * 3, 3.072)])
def test_two_thousand_multiplies_the_squared_error_and_not_the_divergence(pixels: int, beta: float) -> None:
    """2000 x mean squared error + KL is proportional to a unit-variance Gaussian's distortion + D/4000 x KL."""
    generator = torch.Generator().manual_seed(4)
    means, targets = torch.rand(2, 6, pixels, generator=generator, dtype=torch.float64)
    rate = torch.rand(6, generator=generator, dtype=torch.float64)
    book = 2000 * (means - targets).square().mean() + rate.mean()
    constant = pixels / 2 * math.log(2 * math.pi)
    ours = loss.gaussian_distortion(means, targets, torch.zeros((), dtype=torch.float64)).mean() - constant
    torch.testing.assert_close(book, 4000 / pixels * (ours + beta * rate.mean()))


def test_the_books_preset_is_the_books_loss() -> None:
    """The preset's loss times 500/1024 is 500 x mean binary cross-entropy + summed KL, as the book writes it."""
    config = preset("book-fashion-2d")
    torch.manual_seed(0)
    model = Autoencoder(config)
    pixels, noise = torch.rand(7, 1, 32, 32), torch.randn(7, 2)
    posterior = model.encoder(pixels)
    means = model.decoder(model.latents(posterior, noise)).sigmoid()
    cross_entropy = torch.nn.functional.binary_cross_entropy(means, pixels)
    divergence = -0.5 * (1 + posterior.log_variance - posterior.mean**2 - posterior.log_variance.exp())
    book = 500 * cross_entropy + divergence.sum(1).mean()
    total, distortion, rate, _ = model(pixels, noise, config.beta)
    torch.testing.assert_close(total * 500 / 1024, book)
    torch.testing.assert_close(total, distortion + 2.048 * rate)


def test_the_books_preset_of_faces_is_the_books_loss() -> None:
    """The preset's loss times 4000/12288 is 2000 x mean squared error + summed KL, but for a constant."""
    config = preset("book-celeba")
    torch.manual_seed(0)
    model = Autoencoder(config)
    pixels, noise = torch.rand(5, 3, 64, 64), torch.randn(5, 200)
    posterior = model.encoder(pixels)
    means = model.decoder(model.latents(posterior, noise)).sigmoid()
    divergence = -0.5 * (1 + posterior.log_variance - posterior.mean**2 - posterior.log_variance.exp())
    book = 2000 * (means - pixels).square().mean() + divergence.sum(1).mean()
    found = model(pixels, noise, config.beta)
    constant = 12288 / 2 * math.log(2 * math.pi)
    torch.testing.assert_close((found.total - constant) * 4000 / 12288, book)
    # What is told of it is the density at the best sigma all the same, so that it compares with other presets.
    torch.testing.assert_close(
        found.distortion, 12288 / 2 * (math.log(2 * math.pi) + 1 + (means - pixels).square().mean().log())
    )


@pytest.mark.parametrize(("name", "weight"), [("book-fashion-2d", 500), ("book-celeba", 4000)])
def test_the_books_beta_follows_the_size_of_the_image(name: str, weight: float) -> None:
    """The preset's is that of its own size, and of twice the height and width it is four times as much."""
    config = preset(name)
    assert with_mean_distortion(config, weight) == config
    larger = with_mean_distortion(replace(config, image_size=2 * config.image_size), weight)
    assert larger.beta == 4 * config.beta


def test_a_calibrated_sigma_has_the_gradient_of_half_the_log_of_the_squared_error() -> None:
    """Though no gradient goes through sigma itself, every weight gets that of D/2 log(mean squared error)."""
    torch.manual_seed(0)
    model = Autoencoder(Config(preset="fashion", latent_size=2, likelihood="gaussian"))
    pixels, noise = torch.rand(7, 1, 32, 32), torch.randn(7, 2)
    model(pixels, noise, 0.0).total.backward()
    ours = [weight.grad.clone() for weight in model.decoder.parameters() if weight.grad is not None]
    model.zero_grad()
    means = model.decoder(model.latents(model.encoder(pixels), noise)).sigmoid()
    (1024 / 2 * (means - pixels).square().mean().log()).backward()
    theirs = [weight.grad for weight in model.decoder.parameters() if weight.grad is not None]
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_sampling_scales_the_noise_by_the_standard_deviation(seed: int) -> None:
    """Noise of one gives the mean plus one standard deviation, noise of zero the mean itself."""
    mean, log_variance = gaussians(seed, 2.0)
    ones = torch.ones_like(mean)
    torch.testing.assert_close(loss.sample(mean, log_variance, 0 * ones), mean)
    torch.testing.assert_close((loss.sample(mean, log_variance, ones) - mean).square(), log_variance.exp())


def test_sigma_is_learnt_in_training_and_frozen_in_evaluation() -> None:
    """In evaluation a row's Gaussian distortion does not depend on the rest of its batch, and sigma stays put."""
    model = Autoencoder(Config(preset="fashion", latent_size=2, likelihood="gaussian"))
    generator = torch.Generator().manual_seed(5)
    logits, pixels = (
        torch.randn(9, 1, 32, 32, generator=generator),
        torch.rand(9, 1, 32, 32, generator=generator),
    )
    squared_error = (logits.sigmoid() - pixels).square().mean()
    trained = model.train().distortion(logits, pixels)
    torch.testing.assert_close(
        trained, loss.gaussian_distortion(logits.sigmoid(), pixels, squared_error.log())
    )
    model.follow_sigma(squared_error.log(), 0)
    learnt = model.sigma_log_variance.clone()
    assert learnt == squared_error.log()
    whole = model.eval().distortion(logits, pixels)
    torch.testing.assert_close(whole[:2], model.distortion(logits[:2], pixels[:2]))
    assert model.sigma_log_variance == learnt


def test_the_running_sigma_is_the_mean_of_the_first_batches() -> None:
    """What it began as has no part in it: of 3, 5 and 7 it is 5, and after a hundred one more weighs a hundredth."""
    model = Autoencoder(Config(preset="fashion", latent_size=2, likelihood="gaussian"))
    for taken, value in enumerate((3.0, 5.0, 7.0)):
        model.follow_sigma(torch.tensor(value), taken)
    torch.testing.assert_close(model.sigma_log_variance, torch.tensor(5.0))
    model.follow_sigma(torch.tensor(105.0), 1000)
    torch.testing.assert_close(model.sigma_log_variance, torch.tensor(6.0))


def test_presets_of_clothes_but_the_books_train_on_the_bound_itself() -> None:
    """Beta is 1 where nothing says otherwise, so that the loss is the sum that evaluate reports."""
    betas = {name: config.beta for name, config in PRESETS.items()}
    assert betas == {
        "fashion": 1,
        "fashion-2d": 1,
        "fashion-autoencoder-2d": 0,
        "book-fashion-2d": 2.048,
        "celeba": PRESETS["celeba"].beta,
        "book-celeba": 3.072,
    }
