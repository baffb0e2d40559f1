"""Where a preset's data comes from."""

import functools
from pathlib import Path

from training.config import Config, Crop
from training.data import Data, celeba, idx, image_folder, named_folder


def load(config: Config, folder: Path | None) -> Data:
    """Read the data that ``config`` is trained on, from ``folder`` or where its kind is looked for.

    Raises:
        TrainingError: it is missing or damaged; the message says how to get it.
    """
    return _load(config.data, folder, config.crop, config.image_size)


def default_crop(config: Config, folder: Path | None) -> Crop:
    """The preset's crop; but one in pixels fits CelebA's photographs only: of other pictures the largest square."""
    in_pixels = isinstance(config.crop, int)
    return "square" if in_pixels and not _is_celeba(named_folder(folder, "ARMOIRE_CELEBA")) else config.crop


@functools.lru_cache(maxsize=1)  # several presets of one command share theirs
def _load(kind: str, folder: Path | None, crop: Crop, size: int) -> Data:
    if kind == "fashion-mnist":
        return idx.load(folder)
    folder = named_folder(folder, "ARMOIRE_CELEBA")
    return celeba.load(folder, crop, size) if _is_celeba(folder) else image_folder.load(folder, crop, size)


def _is_celeba(folder: Path | None) -> bool:
    """Whether the folder is laid out as CelebA, or none is named, which ``celeba.load`` has an answer to."""
    names = (celeba.IMAGES, celeba.ATTRIBUTES, celeba.PARTITION)
    return folder is None or any((folder / name).exists() for name in names)
