"""How learning rate and KL weight run over a training, as functions of the step: nothing to save, nothing to resume."""

import math

from training.config import Config


def learning_rate(config: Config, step: int, steps: int) -> float:
    """Linear warm-up from near zero, then constant or half a cosine down to zero; ``step`` counts from 0."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay = 0.5 * (1 + math.cos(math.pi * step / steps)) if config.schedule == "cosine" else 1.0
    return config.learning_rate * warmup * decay


def beta(config: Config, step: int, steps_per_epoch: int) -> float:
    """The weight of the rate: up from near zero, so that the latents carry something before the prior pulls on them."""
    warmup = config.kl_warmup_epochs * steps_per_epoch
    return config.beta * (min(1.0, (step + 1) / warmup) if warmup else 1.0)


def average_decay(config: Config, step: int) -> float:
    """The averaged weights' decay: short memory at first, when the weights move far."""
    return min(config.ema_decay, (1 + step) / (10 + step))
