"""Image files to pixels and back: PNG and JPEG, checked before they are decoded."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from armoire.arrays import Pixels
from armoire.errors import InvalidArgument
from armoire.v1 import armoire_pb2 as pb

# A file of a few kilobytes can claim a huge picture: 16 million pixels (4096 x 4096) are 48 MB decoded.
MAX_PIXELS = 4096 * 4096
PIL_FORMATS = {pb.IMAGE_FORMAT_PNG: "PNG", pb.IMAGE_FORMAT_JPEG: "JPEG"}
MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Preprocessing:
    """How a picture of another size becomes one of the model's: crop, then resize, then pad.

    Attributes:
        crop: side in pixels of the centred square that is cut out first; None: the whole picture.
        resize: (height, width) in pixels that the rest is brought to, bilinear and antialiased.
        pad: pixels of black on every side.
    """

    crop: int | None
    resize: tuple[int, int]
    pad: int

    def apply(self, image: Image.Image) -> Image.Image:
        """Bring ``image`` to the model's size."""
        if self.crop is not None:
            left, top = (image.width - self.crop) // 2, (image.height - self.crop) // 2
            image = image.crop((left, top, left + self.crop, top + self.crop))
        height, width = self.resize
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return ImageOps.expand(image, self.pad)


def decode(
    files: Sequence[bytes], shape: tuple[int, int, int], preprocessing: Preprocessing, field: str
) -> Pixels:
    """Decode image files into uint8 [n, height, width, channels].

    Args:
        files: each a whole PNG or JPEG file; n of them.
        shape: (height, width, channels) of the model; channels is 1 or 3.
        preprocessing: for pictures of another size.
        field: the field's name as the caller wrote it.

    Raises:
        InvalidArgument: a file that is no PNG or JPEG, is damaged, or claims more than MAX_PIXELS.
    """
    height, width, channels = shape
    pixels = np.empty((len(files), height, width, channels), np.uint8)
    for index, file in enumerate(files):
        image = _open(file, f"{field}[{index}]")
        if image.size != (width, height):
            image = preprocessing.apply(image)
        pixels[index] = np.asarray(image.convert(MODES[channels])).reshape(shape)
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
    try:
        image: Image.Image = Image.open(io.BytesIO(file), formats=("PNG", "JPEG"))
        if image.width * image.height > MAX_PIXELS:
            raise InvalidArgument(
                f"the picture is {image.width} x {image.height}; at most {MAX_PIXELS} pixels are taken", field
            )
        image.load()
        image = ImageOps.exif_transpose(image)
    except InvalidArgument:
        raise
    except Exception as error:  # a decoder fed hostile bytes raises what it likes: each means a bad file
        raise InvalidArgument(
            f"no PNG or JPEG file that can be decoded ({len(file)} bytes)", field
        ) from error
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255 instead of scaling it.
        image = Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8))
    # "L" or "RGB" before any resize: a palette's indices must not be averaged.
    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
