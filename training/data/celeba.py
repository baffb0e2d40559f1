"""CelebA: photographs of faces with 40 attributes, from the files as they are downloaded."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.config import Crop
from training.data import Data, Source, named_folder, packed
from training.errors import TrainingError

HOW_TO_GET = (
    "get CelebA from http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (for non-commercial research only) "
    "and name its folder with --data or ARMOIRE_CELEBA"
)
LICENCE = "CelebA: non-commercial research only, no redistribution"
WHOLE = 202_599

IMAGES = "img_align_celeba"
ATTRIBUTES = "list_attr_celeba.txt"
PARTITION = "list_eval_partition.txt"

LEAST = 2  # images of each part
TRAIN, VALIDATION, TEST = "0", "1", "2"
PARTS = {TRAIN: "training", VALIDATION: "validation"}

_log = logging.getLogger(__name__)


def load(folder: Path | None, crop: Crop, size: int) -> Data:
    """Read CelebA, or a part of it in the same layout: partition 0 to learn from, 1 held out; 2 is never read.

    Args:
        folder: that holds img_align_celeba and the two lists; None: the one that ``ARMOIRE_CELEBA`` names.
        crop: what is cut out of each photograph first.
        size: height and width in pixels of the images.

    Returns:
        Images uint8 [n, size, size, 3], labels bool [n, attributes].

    Raises:
        TrainingError: no folder is named, a file is missing or not as CelebA's, more than 1 % of the images are
            missing or damaged, or the cache cannot be written.
    """
    found = named_folder(folder, "ARMOIRE_CELEBA")
    if found is None:
        raise TrainingError(f"no folder of CelebA is named: {HOW_TO_GET}")
    names, labels = _read_attributes(found / ATTRIBUTES)
    partition = _read_partition(found / PARTITION)
    _require_same_images(found, labels, partition)
    train, held_out = (
        {name: labels[name] for name in sorted(labels) if partition[name] == part} for part in PARTS
    )
    for part, images in ((TRAIN, train), (VALIDATION, held_out)):
        if not images:
            raise TrainingError(
                f"{found / PARTITION} has no image of partition {part} ({PARTS[part]}): {HOW_TO_GET}"
            )
    _warn_of_unlisted(found / IMAGES, labels)
    source = Source(
        name="CelebA" if len(labels) == WHOLE else f"CelebA (a part of {len(labels):,})",
        slug="celeba",
        licence=LICENCE,
        attributes=names,
        exclusive=False,
        held_out="validation",
        preprocessing={"crop": crop, "resize": [size, size], "pad": 0},
    )
    parts = packed.pack(found / IMAGES, train, held_out, crop, size)
    for part, split in zip(PARTS, parts, strict=True):
        if len(split) < LEAST:
            raise TrainingError(
                f"partition {part} ({PARTS[part]}) in {found / IMAGES} has {len(split)} whole images, and {LEAST} are "
                f"wanted: {HOW_TO_GET}"
            )
    return Data(source, *parts)


def _read_attributes(path: Path) -> tuple[tuple[str, ...], dict[str, NDArray[np.bool_]]]:
    """The attributes' names, and file name -> bool [attributes] of every image, in the file's order."""
    lines = _lines(path)
    if len(lines) < 2 or not lines[0].strip().isdecimal():
        raise _bad(path, 1, "the number of images is wanted here, and the attributes' names in line 2")
    names = tuple(lines[1].split())
    if not names or len(set(names)) < len(names):
        raise _bad(path, 2, "the attributes' names are wanted here, each once")
    labels: dict[str, NDArray[np.bool_]] = {}
    for number, line in enumerate(lines[2:], 3):
        file, *values = line.split() or [""]
        if len(values) != len(names):
            raise _bad(path, number, f"has {len(values)} values, {len(names)} are wanted")
        if not {"1", "-1"}.issuperset(values):
            wrong = next(value for value in values if value not in ("1", "-1"))
            raise _bad(path, number, f"has the value {wrong!r}, 1 or -1 is wanted")
        if file in labels:
            raise _bad(path, number, f"{file} has been listed before")
        labels[file] = np.array([value == "1" for value in values])
    if int(lines[0]) != len(labels):
        raise _bad(path, 1, f"says {lines[0].strip()} images, but {len(labels)} follow")
    return names, labels


def _read_partition(path: Path) -> dict[str, str]:
    """File name -> partition of every image."""
    partition: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        columns = line.split()
        if len(columns) != 2:
            raise _bad(path, number, f"has {len(columns)} columns, a file name and 0, 1 or 2 are wanted")
        file, part = columns
        if part not in (TRAIN, VALIDATION, TEST):
            raise _bad(path, number, f"has the partition {part!r}, 0, 1 or 2 is wanted")
        if file in partition:
            raise _bad(path, number, f"{file} has been listed before")
        partition[file] = part
    return partition


def _require_same_images(
    folder: Path, labels: dict[str, NDArray[np.bool_]], partition: dict[str, str]
) -> None:
    """Every image has attributes and a partition; the lines of both lists are counted for the message."""
    for number, file in enumerate(labels, 3):
        if file not in partition:
            raise _bad(folder / ATTRIBUTES, number, f"{file} is not in {PARTITION}")
    for number, file in enumerate(partition, 1):
        if file not in labels:
            raise _bad(folder / PARTITION, number, f"{file} is not in {ATTRIBUTES}")


def _warn_of_unlisted(images: Path, labels: dict[str, NDArray[np.bool_]]) -> None:
    try:
        unlisted = {path.name for path in images.iterdir() if path.suffix.lower() == ".jpg"} - labels.keys()
    except (FileNotFoundError, NotADirectoryError):
        raise TrainingError(f"{images} is missing: {HOW_TO_GET}") from None
    except OSError as error:
        raise TrainingError(f"{images} cannot be read ({error.strerror}): {HOW_TO_GET}") from None
    if unlisted:
        _log.warning("%s images of %s are left out: %s does not list them", len(unlisted), images, ATTRIBUTES)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").rstrip().split("\n")
    except (FileNotFoundError, NotADirectoryError):
        raise TrainingError(f"{path} is missing: {HOW_TO_GET}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} cannot be read ({error}): {HOW_TO_GET}") from None


def _bad(path: Path, line: int, fault: str) -> TrainingError:
    return TrainingError(f"{path}, line {line}: {fault}; correct it or {HOW_TO_GET}")
