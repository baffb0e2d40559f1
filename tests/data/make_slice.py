"""Cut the slice of Fashion-MNIST that lies in this folder: `python -m tests.data.make_slice` from the repository root.

The first 150 training and the first 50 test images of each class, in their published order, in the four standard IDX
files: 2,000 images. Prints the SHA-256 of each file's unpacked content, as `training/data/idx.py` lists it.
"""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np

from training.data import Split
from training.data.idx import (
    DEBIAN_FOLDER,
    PADDING,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    load,
)

HERE = Path(__file__).parent


def first_of_each_class(split: Split, count: int) -> tuple[bytes, bytes]:
    labels = split.labels.numpy()
    rows = np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(10)]))
    images = split.images.numpy()[rows, PADDING:-PADDING, PADDING:-PADDING, 0]
    # 0x0803: unsigned bytes in three dimensions; 0x0801: in one.
    return (
        struct.pack(">4I", 0x0803, *images.shape) + images.tobytes(),
        struct.pack(">2I", 0x0801, len(rows)) + labels[rows].astype(np.uint8).tobytes(),
    )


def main() -> None:
    data = load(DEBIAN_FOLDER)
    contents = (*first_of_each_class(data.train, 150), *first_of_each_class(data.test, 50))
    for name, content in zip((TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS), contents, strict=True):
        (HERE / name).write_bytes(gzip.compress(content, 9, mtime=0))
        print(hashlib.sha256(content).hexdigest(), name)


if __name__ == "__main__":
    main()
