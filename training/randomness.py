"""Random numbers that depend on (seed, purpose, index) alone, so that a resumed run meets the same ones."""

import zlib

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """An independent CPU generator for each (seed, purpose, index)."""
    entropy = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), index])
    return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))


def noise(seed: int, purpose: str, rows: int, size: int, index: int = 0) -> Tensor:
    """float32 [rows, size] from N(0, I)."""
    return torch.randn(rows, size, generator=generator(seed, purpose, index))


def coins(seed: int, purpose: str, rows: int, index: int = 0) -> Tensor:
    """Bool [rows], each true with probability 1/2."""
    return torch.rand(rows, generator=generator(seed, purpose, index)) < 0.5


def order(seed: int, rows: int, epoch: int) -> Tensor:
    """The order in which an epoch visits the training images: a permutation of range(rows), int64."""
    return torch.randperm(rows, generator=generator(seed, "order", epoch))
