"""Fashion-MNIST and MNIST from their IDX files, checked and padded to 32x32."""

import gzip
import hashlib
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.data import Data, Source, Split, named_folder
from training.errors import TrainingError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
HOW_TO_GET = (
    "get it with `apt install dataset-fashion-mnist`, or download it from "
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/ and name its folder with --data or ARMOIRE_DATA"
)
PADDING = 2
SIZE = 28 + 2 * PADDING

TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
TRAIN_LABELS = "train-labels-idx1-ubyte.gz"
TEST_IMAGES = "t10k-images-idx3-ubyte.gz"
TEST_LABELS = "t10k-labels-idx1-ubyte.gz"

FASHION_CLASSES = (
    "t_shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle_boot",
)


@dataclass(frozen=True)
class Edition:
    """A known set of four files: what it is called and the SHA-256 of each file's *unpacked* content.

    The content is what counts: Debian packs the same bytes anew, so the .gz files differ from the download.
    """

    name: str
    slug: str  # stands in the name of a bundle
    licence: str
    classes: tuple[str, ...]
    sha256: dict[str, str]

    def source(self) -> Source:
        """What the rest of the package knows of it."""
        preprocessing = {"crop": None, "resize": [SIZE - 2 * PADDING] * 2, "pad": PADDING}
        return Source(
            self.name,
            self.slug,
            self.licence,
            self.classes,
            exclusive=True,
            held_out="test",
            preprocessing=preprocessing,
        )


EDITIONS = (
    Edition(
        "Fashion-MNIST",
        "fashion-mnist",
        "MIT",
        FASHION_CLASSES,
        {
            TRAIN_IMAGES: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            TRAIN_LABELS: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            TEST_IMAGES: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            TEST_LABELS: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    ),
    Edition(
        "MNIST",
        "mnist",
        "CC-BY-SA-3.0",
        tuple(f"digit_{digit}" for digit in range(10)),
        {
            TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    Edition(  # tests/data, cut by make_slice.py there
        "Fashion-MNIST (a slice of 2,000)",
        "fashion-mnist-slice",
        "MIT",
        FASHION_CLASSES,
        {
            TRAIN_IMAGES: "1fd0769cad235f8cfb0c3ed6f7e52fd005c4c50088f9dc43d52051ca70ecc672",
            TRAIN_LABELS: "3317de950899d958f766f29ecbead3f0364f40cd4fd0659d2ae0244c4fa5d0a2",
            TEST_IMAGES: "8fdf02ada67d92f4db5ba3c2f6c5b1cc6186ba6e0efd4914661e4389e103b81e",
            TEST_LABELS: "9c71808b3a0ebfc091442c0009a7aa35be2d9622bf6aaf6891ce9a0088e96c07",
        },
    ),
)


def find_folder(folder: Path | None) -> Path:
    """The folder named by the caller, else by ``ARMOIRE_DATA``, else where Debian's package puts the files."""
    found = named_folder(folder, "ARMOIRE_DATA", DEBIAN_FOLDER)
    assert found is not None
    return found


def load(folder: Path | None = None) -> Data:
    """Read and verify the four files of ``find_folder(folder)``; pad every image to 32x32 with zeros.

    Raises:
        TrainingError: a file is missing, cannot be unpacked, or is not the file that was published.
    """
    folder = find_folder(folder)
    contents = {name: _unpack(folder / name) for name in EDITIONS[0].sha256}
    edition = _edition_of(contents, folder)
    return Data(
        edition.source(),
        Split(_images(contents[TRAIN_IMAGES]), _labels(contents[TRAIN_LABELS])),
        Split(_images(contents[TEST_IMAGES]), _labels(contents[TEST_LABELS])),
    )


def _unpack(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise TrainingError(f"{path} is missing: {HOW_TO_GET}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise TrainingError(f"{path} is damaged ({error}): {HOW_TO_GET}") from None


def _edition_of(contents: dict[str, bytes], folder: Path) -> Edition:
    """The edition that most files belong to; every file must."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    edition = max(EDITIONS, key=lambda known: len(known.sha256.items() & digests.items()))
    for name, digest in digests.items():
        if edition.sha256[name] != digest:
            raise TrainingError(
                f"{folder / name} is damaged (SHA-256 of its content is {digest}, "
                f"{edition.name} has {edition.sha256[name]}): {HOW_TO_GET}"
            )
    return edition


# The two formats are described at http://yann.lecun.com/exdb/mnist/: big-endian sizes, then bytes. The checksum has
# already vouched for every byte, so that nothing is checked twice here.
def _images(content: bytes) -> Tensor:
    count, height, width = struct.unpack_from(">3I", content, 4)
    pixels = np.frombuffer(content, np.uint8, offset=16).reshape(count, height, width, 1)
    margin = (PADDING, PADDING)
    return torch.from_numpy(np.pad(pixels, ((0, 0), margin, margin, (0, 0))))


def _labels(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=8).astype(np.int64))
