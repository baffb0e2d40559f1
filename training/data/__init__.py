"""What a model is trained on: images and labels in two parts, wherever they come from."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Source:
    """What the images are.

    Attributes:
        name: as figures name it.
        slug: stands in the name of a bundle.
        licence: of the data, and so of a model trained on it.
        attributes: the names of the labels.
        exclusive: every image has exactly one of them, a class; else any number.
        held_out: what the part is called that no model learns from.
        preprocessing: how a picture becomes one of these images: as the bundle's manifest has it.
    """

    name: str
    slug: str
    licence: str
    attributes: tuple[str, ...]
    exclusive: bool
    held_out: str
    preprocessing: dict[str, Any]


@dataclass(frozen=True)
class Split:
    """Images uint8 [n, h, w, c]; labels int64 [n], an index into exclusive attributes, or bool [n, attributes]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """A part to learn from and one to be tested on, made together, and what they are."""

    source: Source
    train: Split
    test: Split

    def fingerprint(self) -> str:
        """Tell data of one name apart: SHA-256 of attribute names, all labels, and 64 or more images of each part."""
        digest = hashlib.sha256(repr(self.source.attributes).encode())
        for part in (self.train, self.test):
            digest.update(repr(tuple(part.images.shape)).encode())
            digest.update(part.labels.numpy().tobytes())
            digest.update(part.images[:: max(1, len(part) // 64)].numpy().tobytes())
        return digest.hexdigest()


def as_pixels(images: Tensor) -> Tensor:
    """Scale uint8 [n, h, w, c] to float32 [n, c, h, w] in [0, 1], as the model takes them."""
    return images.permute(0, 3, 1, 2).float() / 255


def named_folder(folder: Path | None, variable: str, default: Path | None = None) -> Path | None:
    """The folder that the caller named, else the environment, else the default."""
    if folder is not None:
        return folder
    named = os.environ.get(variable)
    return Path(named) if named else default
