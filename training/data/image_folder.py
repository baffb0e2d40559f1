"""Any folder of images, with labels where attributes.csv is in it."""

import csv
import hashlib
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.config import Crop
from training.data import Data, Source, Split, packed
from training.errors import TrainingError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
ATTRIBUTES = "attributes.csv"
HELD_OUT_SHARE = 10  # one in so many images is held out
LEAST = 2  # images of each part


def load(folder: Path | None, crop: Crop, size: int) -> Data:
    """Read every image in and below ``folder``; links to folders are not followed.

    An image is held out or not by its own name, so that it stays so when others are added. Labels come from
    attributes.csv in ``folder``: a header ``file,name,name...``, then a line for every image with its path within
    ``folder`` (with slashes) and 0 or 1 for every name.

    Args:
        folder: as --data names it.
        crop: what is cut out of each picture first.
        size: height and width in pixels of the images.

    Returns:
        Images uint8 [n, size, size, 3], labels bool [n, attributes], without attributes.csv bool [n, 0].

    Raises:
        TrainingError: no folder is named, it holds too few images, attributes.csv is wrong, more than 1 % of the
            images are damaged, or the cache cannot be written.
    """
    if folder is None:
        raise TrainingError("no folder of images is named: name it with --data DIR")
    files = _find_images(folder)
    held_out = [file for file in files if _is_held_out(file)]
    _require_enough(folder, len(files) - len(held_out), len(held_out))
    names, labels = _read_attributes(folder / ATTRIBUTES, files)
    test = {file: labels[file] for file in held_out}
    train = {file: labels[file] for file in files if file not in test}
    name = folder.resolve().name
    source = Source(
        name=name,
        slug=re.sub("[^a-z0-9]+", "-", name.lower()).strip("-") or "images",
        licence=f"that of the images in {name}",
        attributes=names,
        exclusive=False,
        held_out="held-out part",
        preprocessing={"crop": crop, "resize": [size, size], "pad": 0},
    )
    parts: tuple[Split, Split] = packed.pack(folder, train, test, crop, size)
    _require_enough(folder, *map(len, parts))
    return Data(source, *parts)


def _find_images(folder: Path) -> list[str]:
    """Paths of the images within ``folder``, with slashes, in order; what is hidden (by a dot) is none of them."""
    if not folder.is_dir():
        raise TrainingError(f"{folder} is no folder: name a folder of images with --data DIR")
    found = (
        (Path(parent) / name).relative_to(folder) for parent, _, names in os.walk(folder) for name in names
    )
    files = sorted(
        path.as_posix()
        for path in found
        if path.name.lower().endswith(SUFFIXES) and not any(part.startswith(".") for part in path.parts)
    )
    if not files:
        raise TrainingError(
            f"{folder} holds no image ({', '.join(SUFFIXES)}): name a folder of images with --data DIR"
        )
    return files


def _is_held_out(file: str) -> bool:
    return int(hashlib.sha256(os.fsencode(file)).hexdigest(), 16) % HELD_OUT_SHARE == 0


def _require_enough(folder: Path, train: int, held_out: int) -> None:
    if min(train, held_out) < LEAST:
        raise TrainingError(
            f"{folder} has {train} images to learn from and {held_out} in the held-out part (about one in "
            f"{HELD_OUT_SHARE}, chosen by name); add images until each has {LEAST}"
        )


def _read_attributes(path: Path, files: list[str]) -> tuple[tuple[str, ...], dict[str, NDArray[np.bool_]]]:
    """The attributes' names, and file -> bool [attributes] of each of ``files``; none where there is no list."""
    if not path.exists():
        return (), dict.fromkeys(files, np.empty(0, np.bool_))
    known = set(files)
    labels: dict[str, NDArray[np.bool_]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            head, *names = next(rows, []) or [""]
            if head != "file" or not all(names) or not names or len(set(names)) < len(names):
                raise _bad(path, 1, "the header `file,name,name...` is wanted, with every name once")
            for row in rows:
                if not row:
                    continue
                if len(row) != 1 + len(names):
                    raise _bad(path, rows.line_num, f"has {len(row)} columns, {1 + len(names)} are wanted")
                image, *values = row
                if image not in known:
                    raise _bad(path, rows.line_num, f"there is no image {image!r} in {path.parent}")
                if image in labels:
                    raise _bad(path, rows.line_num, f"{image} has been listed before")
                for value in values:
                    if value not in ("0", "1"):
                        raise _bad(path, rows.line_num, f"has the value {value!r}, 0 or 1 is wanted")
                labels[image] = np.array([value == "1" for value in values])
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} cannot be read ({error}): write it as UTF-8 text") from None
    except csv.Error as error:
        raise _bad(path, rows.line_num, str(error)) from None
    missing = [image for image in files if image not in labels]
    if missing:
        raise _bad(
            path, rows.line_num + 1, f"{len(missing)} images are not listed, {missing[0]} the first of them"
        )
    return tuple(names), labels


def _bad(path: Path, line: int, fault: str) -> TrainingError:
    return TrainingError(
        f"{path}, line {line}: {fault}; correct it, or take the file away to do without labels"
    )
