"""The batches of one process, each made while the one before it is learnt from."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from training import randomness
from training.config import Config

Batch = tuple[Tensor, Tensor]


class Loader:
    """Which images, mirrored or not, and which noise depends on the seed and the step alone, and not on the processes.

    Each of ``processes`` draws the same numbers for a whole batch and takes its own share of it, every n-th row: only
    those images are read, from memory or from the mapped cache of packed images.
    """

    def __init__(
        self, config: Config, images: Tensor, device: torch.device, rank: int = 0, processes: int = 1
    ) -> None:
        """``images`` uint8 [n, h, w, c] are in the host's memory or mapped into it; batches come on ``device``."""
        self._config, self._images, self._device = config, images.numpy(), device
        self._share = slice(rank, None, processes)
        self.steps_per_epoch = len(images) // config.batch_size
        #: Seconds that training has waited for batches so far.
        self.waited = 0.0

    def epoch(self, step: int) -> Iterator[Batch]:
        """What is left at ``step`` of its epoch: images uint8 [b, h, w, c] and noise float32 [b, d] of each batch.

        The images that fill no batch wait for the next epoch.
        """
        epoch, done = divmod(step, self.steps_per_epoch)
        order = randomness.order(self._config.seed, len(self._images), epoch).numpy()
        size = self._config.batch_size
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
            ahead: Future[Batch] | None = None
            for batch in range(done, self.steps_per_epoch + 1):
                ready = ahead
                if batch < self.steps_per_epoch:
                    rows = order[batch * size : (batch + 1) * size]
                    ahead = pool.submit(self._batch, rows, step - done + batch)
                if ready is not None:
                    began = time.monotonic()
                    prepared = ready.result()
                    self.waited += time.monotonic() - began
                    yield prepared

    def _batch(self, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]", step: int) -> Batch:
        config, size = self._config, self._config.batch_size
        # In NumPy, which does not split such small work among threads that the step itself is using.
        images = self._images[rows[self._share]]
        if config.flips:
            mirrored = randomness.coins(config.seed, "flip", size, step)[self._share].numpy()
            # As pixels and not as their channels, which takes twice as long.
            pixels = images.view(np.dtype((np.void, images.shape[-1])))[..., 0]
            pixels[mirrored] = pixels[mirrored, :, ::-1]
        noise = randomness.noise(config.seed, "latent", size, config.latent_size, step)[self._share]
        return self._on_device(torch.from_numpy(images)), self._on_device(noise.contiguous())

    def _on_device(self, values: Tensor) -> Tensor:
        if self._device.type != "cuda":
            return values
        return values.pin_memory().to(self._device, non_blocking=True)
