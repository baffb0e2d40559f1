"""Image files decoded, cropped and resized once, and kept in a file that is mapped into memory."""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Never

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from training import files, progress
from training.config import Crop
from training.data import Split, named_folder
from training.errors import TrainingError

FORMATS = ("JPEG", "PNG", "WEBP")
TOLERATED = 0.01  # of all images may be damaged
NAMED = 10  # of them in warnings: 1 % of CelebA are 2,000
BATCH = 256  # images that are decoded before the next are begun: bounds what waits in memory
# A change of what is made of a file raises it, so that no cache of before is taken.
VERSION = 2

_log = logging.getLogger(__name__)


def pack(
    folder: Path,
    train: Mapping[str, NDArray[np.bool_]],
    test: Mapping[str, NDArray[np.bool_]],
    crop: Crop,
    size: int,
) -> tuple[Split, Split]:
    """Read the two parts' images, from the cache if the files are still what they were when it was written.

    The cache is in ``ARMOIRE_CACHE``, else in ~/.cache/armoire: one file that both parts are views of, mapped into
    memory, so that pages come from the disk as they are needed. Damaged images are left out with a warning.

    Args:
        folder: of the images.
        train: name within ``folder`` -> labels bool [attributes] of each image to learn from, in order.
        test: the same of the held-out part; it shares no name with ``train``.
        crop: what is cut out of each picture first.
        size: height and width in pixels that the rest is brought to, as the service does: bilinear and antialiased.

    Returns:
        Images uint8 [n, size, size, 3] in RGB, labels bool [n, attributes].

    Raises:
        TrainingError: more than 1 % of the images are damaged, or the cache cannot be written.
    """
    names = [*train, *test]
    images, skipped, told = _images(folder, names, crop, size)
    for name, reason in islice(skipped.items(), NAMED):
        _log.warning("%s is left out: %s", folder / name, reason)
    if skipped:
        _log.warning(
            "%s of %s images are left out, listed in %s", f"{len(skipped):,}", f"{len(names):,}", told
        )
    kept_train, kept_test = ([name for name in part if name not in skipped] for part in (train, test))
    boundary = len(kept_train)
    return (
        Split(images[:boundary], _labels(train, kept_train)),
        Split(images[boundary:], _labels(test, kept_test)),
    )


def _labels(part: Mapping[str, NDArray[np.bool_]], kept: Sequence[str]) -> Tensor:
    width = next((len(row) for row in part.values()), 0)
    # Stacked by hand, since of no images, or no attributes, the shape would be lost.
    labels = np.empty((len(kept), width), np.bool_)
    for index, name in enumerate(kept):
        labels[index] = part[name]
    return torch.from_numpy(labels)


def _images(folder: Path, names: Sequence[str], crop: Crop, size: int) -> tuple[Tensor, dict[str, str], Path]:
    """Images uint8 [n, size, size, 3] of the files that can be read, name -> reason of the others, and their list."""
    fingerprint = _fingerprint(folder, names, crop, size)
    description = {"fingerprint": fingerprint, "crop": crop, "size": size}
    cache = named_folder(None, "ARMOIRE_CACHE", Path("~/.cache/armoire").expanduser())
    assert cache is not None
    path = cache / f"{fingerprint[:16]}.npy"
    told = path.with_suffix(".json")
    stored = _stored(path, description, len(names))
    if stored is not None:
        return *stored, told
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache):
            stored = _stored(path, description, len(names))  # by the process that this one waited for
            if stored is None:
                _write(path, description, folder, names)
                stored = _stored(path, description, len(names))
    except OSError as error:
        raise TrainingError(
            f"the cache of images cannot be written to {cache} ({error.strerror or error}): "
            "make room there or name another folder with ARMOIRE_CACHE"
        ) from None
    assert stored is not None
    return *stored, told


def _fingerprint(folder: Path, names: Iterable[str], crop: Crop, size: int) -> str:
    """SHA-256 of what the cache is made from: names in order, sizes and times of the files, and the settings."""
    digest = hashlib.sha256(repr((VERSION, crop, size)).encode())
    for name in names:
        try:
            status = (folder / name).stat()
            file = (status.st_size, status.st_mtime_ns)
        except OSError:
            file = None
        digest.update(repr((name, file)).encode())
    return digest.hexdigest()


def _stored(path: Path, description: dict[str, Any], count: int) -> tuple[Tensor, dict[str, str]] | None:
    """What the cache at ``path`` holds, None where there is none, or not of ``description``."""
    try:
        told = json.loads(path.with_suffix(".json").read_bytes())
        # Mapped copy-on-write: nothing is written to the file, and torch is not given a read-only array.
        images = np.lib.format.open_memmap(path, mode="c")
        skipped: dict[str, str] = told.pop("skipped")
        same = told == description and images.dtype == np.uint8
        shape = (count - len(skipped), description["size"], description["size"], 3)
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None
    return (torch.from_numpy(images), skipped) if same and images.shape == shape else None


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Let one process at a time write to ``cache``: those that torchrun starts would all decode everything."""
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, description: dict[str, Any], folder: Path, names: Sequence[str]) -> None:
    """Write the images to ``path`` and what they are beside it, both or neither."""
    # Of a process that was killed, since none but this one writes now; other files of the folder are not ours.
    for leftover in path.parent.glob("[0-9a-f]" * 16 + ".*.part"):
        leftover.unlink()
    unfinished = path.with_name(f"{path.name}.part")
    told = path.with_suffix(".json")
    try:
        skipped = _write_images(unfinished, folder, names, description["crop"], description["size"])
        files.write(told, json.dumps({**description, "skipped": skipped}, indent=2).encode())
        unfinished.replace(path)
    except BaseException:
        told.unlink(missing_ok=True)
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def _write_images(path: Path, folder: Path, names: Sequence[str], crop: Crop, size: int) -> dict[str, str]:
    """Write the images that can be read, uint8 [n, size, size, 3]; returns name -> reason of the others."""
    skipped: dict[str, str] = {}

    def decode(name: str) -> NDArray[np.uint8] | str:
        return _decode(folder / name, crop, size)

    # Written, not mapped: on a full disk a write fails with an error, but a store to mapped memory kills the process.
    with path.open("wb") as file, ThreadPoolExecutor(_cores()) as pool, _bar(len(names)) as bar:
        _write_header(file, (len(names), size, size, 3))
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            for name, image in zip(batch, pool.map(decode, batch), strict=True):
                if isinstance(image, str):
                    skipped[name] = image
                else:
                    file.write(image.data)
            if len(skipped) > TOLERATED * len(names):
                raise TrainingError(_too_many(folder, skipped, start + len(batch), len(names)))
            bar.update(len(batch))
        file.seek(0)
        _write_header(file, (len(names) - len(skipped), size, size, 3))
    return skipped


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    # NumPy leaves room for any length of the first axis, so that the header can be written over.
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _too_many(folder: Path, skipped: dict[str, str], read: int, count: int) -> str:
    first = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
    return (
        f"{len(skipped):,} of the first {read:,} images of {folder} are missing or damaged, more than "
        f"{TOLERATED:.0%} of all {count:,} ({first}): put whole files in their place"
    )


def _decode(path: Path, crop: Crop, size: int) -> NDArray[np.uint8] | str:
    """The image in RGB, upright, uint8 [size, size, 3], or in one line why it cannot be had."""
    try:
        with Image.open(path, formats=FORMATS) as opened:
            image = _rgb(ImageOps.exif_transpose(opened))
    except FileNotFoundError:
        return "the file is missing"
    except Exception as error:  # a decoder of damaged bytes raises what it likes
        return " ".join(str(error).split()) or type(error).__name__
    if image.size == (size, size):
        return np.asarray(image)  # not cropped: the service takes it for one of the model's own images
    if crop is not None:
        side = min(image.size) if crop == "square" else min(crop, *image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _rgb(image: Image.Image) -> Image.Image:
    # Transparent pixels have a colour too; Pillow would warn of what it drops.
    image.info.pop("transparency", None)
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255 instead of scaling it.
        image = Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _cores() -> int:
    """Decoding and resizing run beside each other: Pillow lets other threads go on meanwhile."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bar(total: int) -> "tqdm[Never]":
    """Images done, images/s and the time left."""
    return progress.bar(total=total, desc="packing", unit=" images", unit_scale=True)
