"""``python -m tests.load.training``: what a step of training costs beside its arithmetic.

Training as ``fit`` does it (batches from the loader, the check for finite numbers, the averaged weights)
against a plain loop over the same model and the same optimiser on batches that are there already: forwards, backwards,
step. The two take turns, and the ratio of their medians is what counts: images a second of training over those of the
plain loop. Both run where ``fit`` would: on a GPU, in bf16, where there is one.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice

import torch
from lightning_fabric import Fabric
from tqdm import tqdm

from training import randomness
from training.config import Config, preset
from training.data import as_pixels
from training.fit import launch
from training.model import Autoencoder
from training.running.loader import Batch, Loader
from training.running.start import begin_at_principal_components
from training.running.trainer import Trainer, adam

IMAGES = 2048
GOAL = 0.95


def main() -> int:
    """Measure, print, and fail below the goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="celeba")
    parser.add_argument("--batch-size", type=int, help="(default: the preset's)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="steps in a turn (default: %(default)s)")
    arguments = parser.parse_args()
    config = replace(preset(arguments.preset), epochs=1000)
    config = replace(config, batch_size=arguments.batch_size or config.batch_size)
    fabric = launch()
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, config.image_size, config.image_size, config.image_channels)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    turns = {"training": training(fabric, config, images), "plain loop": plain(fabric, config, images)}
    speeds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in tqdm(range(arguments.rounds + 1), unit=" rounds"):
        for name, step in turns.items():
            began = time.perf_counter()
            for _ in range(arguments.steps):
                step()
            finish(fabric)
            speeds[name].append(config.batch_size * arguments.steps / (time.perf_counter() - began))
    medians = {
        name: statistics.median(values[1:]) for name, values in speeds.items()
    }  # the first turn warms up
    for name, value in medians.items():
        print(f"{name:12} {value:8.1f} images/s")
    ratio = medians["training"] / medians["plain loop"]
    print(f"{config.preset}, batches of {config.batch_size}, on {fabric.device.type}")
    print(f"ratio {ratio:.3f}; {GOAL} is wanted")
    return int(ratio < GOAL)


def finish(fabric: Fabric) -> None:
    """Wait for what a GPU still has to do."""
    if fabric.device.type == "cuda":
        torch.cuda.synchronize(fabric.device)


def training(fabric: Fabric, config: Config, images: torch.Tensor) -> Callable[[], None]:
    """One step as ``fit`` takes it."""
    loader = Loader(config, images, fabric.device)
    trainer = Trainer(config, fabric, loader.steps_per_epoch, images)

    def batches() -> Iterator[Batch]:
        while True:
            yield from loader.epoch(trainer.step_count)

    source = batches()

    def step() -> None:
        trainer.step(*next(source))

    return step


def plain(fabric: Fabric, config: Config, images: torch.Tensor) -> Callable[[], None]:
    """Arithmetic alone: float pixels and noise are there before the clock starts."""
    torch.manual_seed(config.seed)
    model = Autoencoder(config)
    if config.linear_path:
        begin_at_principal_components(model, images)
    if fabric.device.type == "cuda" or config.batch_norm:  # as Trainer does
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model, optimizer = fabric.setup(model, adam(model))
    pixels = as_pixels(images.to(fabric.device)).split(config.batch_size)
    noise = randomness.noise(0, "plain", config.batch_size, config.latent_size).to(fabric.device)
    source = cycle(list(islice(pixels, len(images) // config.batch_size)))

    def step() -> None:
        losses = model(next(source), noise, config.beta)
        fabric.backward(losses.total)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    sys.exit(main())
