"""Where a preset's data comes from."""

import functools
from pathlib import Path

from training.config import Config
from training.data import Data, celeba, idx, image_folder, named_folder


def load(config: Config, folder: Path | None) -> Data:
    """Read the data that ``config`` is trained on, from ``folder`` or where its kind is looked for.

    Raises:
        TrainingError: it is missing or damaged; the message says how to get it.
    """
    return _load(config.data, folder, config.crop, config.image_size)


@functools.lru_cache(maxsize=1)  # several presets of one command share theirs
def _load(kind: str, folder: Path | None, crop: int | None, size: int) -> Data:
    if kind == "fashion-mnist":
        return idx.load(folder)
    folder = named_folder(folder, "ARMOIRE_CELEBA")
    as_celeba = folder is None or any(
        (folder / name).exists() for name in (celeba.IMAGES, celeba.ATTRIBUTES, celeba.PARTITION)
    )
    return celeba.load(folder, crop, size) if as_celeba else image_folder.load(folder, crop, size)
