"""Image files to pixels and back: PNG and JPEG, checked before they are decoded."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from armoire.arrays import Pixels
from armoire.errors import InvalidArgument
from armoire.v1 import armoire_pb2 as pb

# A file of a few kilobytes can claim a huge picture: 16 million pixels (4096 x 4096) are 48 MB decoded.
MAX_PIXELS = 4096 * 4096
# A resize from one very long line takes memory by the length of the line.
MAX_SIDE = 16384
# All pictures of one call together: a second or a few of one core, by their kind.
MAX_CALL_PIXELS = 4 * MAX_PIXELS
# A progressive JPEG goes over all its pixels with every scan; encoders write about ten.
MAX_SCANS = 32
START_OF_SCAN = b"\xff\xda"
PIL_FORMATS = {pb.IMAGE_FORMAT_PNG: "PNG", pb.IMAGE_FORMAT_JPEG: "JPEG"}
MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Preprocessing:
    """How a picture of another size becomes one of the model's: crop, then resize, then pad.

    Attributes:
        crop: side in pixels of the centred square that is cut out first, of a smaller picture the largest square;
            "square": the largest square of any picture; None: the whole picture.
        resize: (height, width) in pixels that the rest is brought to, bilinear and antialiased.
        pad: pixels of black on every side.
    """

    crop: int | Literal["square"] | None
    resize: tuple[int, int]
    pad: int

    def apply(self, image: Image.Image) -> Image.Image:
        """Bring ``image`` to the model's size."""
        if self.crop is not None:
            side = min(image.size) if self.crop == "square" else min(self.crop, *image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        height, width = self.resize
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return ImageOps.expand(image, self.pad)


def decode(
    messages: Mapping[str, Sequence[bytes]], shape: tuple[int, int, int], preprocessing: Preprocessing
) -> list[Pixels]:
    """Decode the image files of one call into uint8 [n, height, width, channels] for each of its messages.

    Args:
        messages: the fields' names as the caller wrote them, and what stands there: n whole PNG or JPEG files.
        shape: (height, width, channels) of the model; channels is 1 or 3.
        preprocessing: for pictures of another size.

    Raises:
        InvalidArgument: a file that is no PNG or JPEG, is damaged, or claims too many pixels.
    """
    # All headers first: nothing is decoded for a call that is refused.
    opened = {
        field: [_open(file, f"{field}[{index}]") for index, file in enumerate(files)]
        for field, files in messages.items()
    }
    claimed = 0
    for field, pictures in opened.items():
        claimed += sum(image.width * image.height for image in pictures)
        if claimed > MAX_CALL_PIXELS:
            raise InvalidArgument(
                f"with these the call's pictures are {claimed} pixels together; at most {MAX_CALL_PIXELS} are taken",
                field,
            )
    return [_decode(pictures, shape, preprocessing, field) for field, pictures in opened.items()]


def _decode(
    pictures: Sequence[Image.Image], shape: tuple[int, int, int], preprocessing: Preprocessing, field: str
) -> Pixels:
    height, width, channels = shape
    pixels = np.empty((len(pictures), height, width, channels), np.uint8)
    for index, picture in enumerate(pictures):
        image = _load(picture, f"{field}[{index}]")
        if image.size != (width, height):
            image = preprocessing.apply(image)
        pixels[index] = np.asarray(image.convert(MODES[channels])).reshape(shape)
        # The list would keep every picture of the call in memory, and a picture can be 64 MB.
        picture.close()
    return pixels


def encode(pixels: Pixels, image_format: pb.ImageFormat) -> list[bytes]:
    """Encode uint8 [n, height, width, channels] as n PNG or JPEG files."""
    files = []
    for row in pixels:
        buffer = io.BytesIO()
        image = Image.fromarray(row[:, :, 0] if row.shape[-1] == 1 else row)
        # Small pictures: the least compression costs a few percent of bytes and saves most of the time.
        image.save(buffer, PIL_FORMATS[image_format], compress_level=1, quality=90)
        files.append(buffer.getvalue())
    return files


def _open(file: bytes, field: str) -> Image.Image:
    """Read the header only."""
    try:
        image = Image.open(io.BytesIO(file), formats=("PNG", "JPEG"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidArgument(
            f"the picture is too large: at most {MAX_PIXELS} pixels are taken", field
        ) from error
    except Exception as error:
        raise _undecodable(field) from error
    if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
        raise InvalidArgument(
            f"the picture is {image.width} x {image.height}; at most {MAX_PIXELS} pixels, and {MAX_SIDE} on a "
            "side, are taken",
            field,
        )
    scans = file.count(START_OF_SCAN) if image.format == "JPEG" else 1
    if scans > MAX_SCANS:
        raise InvalidArgument(f"the JPEG has {scans} scans; at most {MAX_SCANS} are taken", field)
    return image


def _load(opened: Image.Image, field: str) -> Image.Image:
    """Decode a picture as "L" or "RGB", upright."""
    try:
        opened.load()
        image = ImageOps.exif_transpose(opened)
        # Transparent pixels have a colour too; Pillow would warn of what it drops.
        image.info.pop("transparency", None)
        if image.mode.startswith("I"):
            # Pillow clips 16-bit grey at 255 instead of scaling it.
            return Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8))
        # Before any resize: a palette's indices must not be averaged.
        return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    except Exception as error:
        raise _undecodable(field) from error


def _undecodable(field: str) -> InvalidArgument:
    # A decoder fed hostile bytes raises what it likes: each means a bad file.
    return InvalidArgument("the bytes are no PNG or JPEG file that can be decoded", field)
