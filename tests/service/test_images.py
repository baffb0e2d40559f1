"""Image files to the model's pixels and back: every kind that people have, and none that does harm."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from armoire.errors import InvalidArgument
from armoire.v1 import armoire_pb2 as pb
from armoire.wire import images
from armoire.wire.images import Preprocessing

# As the bundle of Fashion-MNIST records it: 28 x 28 padded to 32 x 32.
PADDED = Preprocessing(crop=None, resize=(28, 28), pad=2)
GREY, RGB = (32, 32, 1), (32, 32, 3)
SMOOTH = np.add.outer(np.arange(28) * 4, np.arange(28) * 3).astype(np.uint8)


def file(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *chunks: bytes, depth: int = 8, color: int = 0) -> bytes:
    """A PNG file by hand, for what Pillow would not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def decode(
    content: bytes, shape: tuple[int, int, int] = GREY, preprocessing: Preprocessing = PADDED
) -> np.ndarray:
    return images.decode({"images": [content]}, shape, preprocessing)[0][0]


def padded(grey: np.ndarray) -> np.ndarray:
    return np.pad(grey, 2)[..., None]


def luma(rgb: np.ndarray) -> np.ndarray:
    """The grey of ITU-R 601, which is what "L" means."""
    return np.round(rgb @ np.array([0.299, 0.587, 0.114]))


def test_a_grey_png_is_its_pixels_padded() -> None:
    """A 28 x 28 grey file lies in the middle of a 32 x 32 image, unchanged, with two black pixels around it."""
    np.testing.assert_array_equal(decode(file(Image.fromarray(SMOOTH))), padded(SMOOTH))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_colour_png_of_grey_values_is_the_same_garment(mode: str) -> None:
    """RGB, RGBA and grey with alpha that show grey values decode to those values."""
    np.testing.assert_array_equal(decode(file(Image.fromarray(SMOOTH).convert(mode))), padded(SMOOTH))


def test_colours_become_luma_for_a_grey_model_and_stay_for_a_colour_model() -> None:
    """An RGB file is its luma in one channel and itself in three."""
    rgb = np.stack([SMOOTH, SMOOTH[::-1], SMOOTH.T // 2], axis=-1)
    grey = decode(file(Image.fromarray(rgb)))
    np.testing.assert_allclose(grey[2:-2, 2:-2, 0], luma(rgb), atol=1)
    colour = decode(file(Image.fromarray(rgb)), RGB)
    np.testing.assert_array_equal(colour, np.pad(rgb, ((2, 2), (2, 2), (0, 0))))


def test_a_grey_file_fills_the_channels_of_a_colour_model() -> None:
    """A grey file has its value in each of three channels."""
    np.testing.assert_array_equal(
        decode(file(Image.fromarray(SMOOTH)), RGB), padded(SMOOTH).repeat(3, axis=-1)
    )


def test_alpha_is_dropped() -> None:
    """A transparent pixel counts by the colour that it has."""
    picture = Image.fromarray(SMOOTH).convert("RGBA")
    picture.putalpha(0)
    np.testing.assert_array_equal(decode(file(picture)), padded(SMOOTH))


def test_a_palette_means_its_colours() -> None:
    """A palette file decodes to the colours of its palette, not to its indices, at its size and at another."""
    rgb = np.zeros((28, 28, 3), np.uint8)
    rgb[:, :14], rgb[:, 14:] = (200, 100, 0), (0, 50, 250)
    palette = Image.fromarray(rgb).quantize(2)
    np.testing.assert_array_equal(decode(file(palette), RGB)[2:-2, 2:-2], rgb)
    large = Image.fromarray(rgb.repeat(4, 0).repeat(4, 1)).quantize(2)
    np.testing.assert_allclose(decode(file(large), RGB)[4:-4, 4:14].astype(int), rgb[2:-2, 2:12], atol=1)


@pytest.mark.parametrize("transparency", [b"\x10\x20", b"\x00"])
def test_a_palette_with_transparency_is_taken_without_a_warning(transparency: bytes) -> None:
    """A tRNS chunk beside a palette changes no colour."""
    palette = chunk(b"PLTE", bytes([10, 20, 30, 200, 100, 0])) + chunk(b"tRNS", transparency)
    content = png(28, 28, (b"\0" + b"\1" * 28) * 28, palette, color=3)
    np.testing.assert_array_equal(decode(content, RGB)[2:-2, 2:-2], np.full((28, 28, 3), (200, 100, 0)))


def test_one_bit_is_black_and_white() -> None:
    """A 1-bit file has the values 0 and 255."""
    bits = SMOOTH > 90
    np.testing.assert_array_equal(decode(file(Image.fromarray(bits))), padded(bits * np.uint8(255)))


def test_sixteen_bits_are_scaled_to_eight() -> None:
    """A 16-bit grey file keeps the upper byte of each value and clips none of them."""
    wide = SMOOTH.astype(np.uint16) * 256 + (255 - SMOOTH)
    np.testing.assert_array_equal(decode(file(Image.fromarray(wide))), padded(SMOOTH))


@pytest.mark.parametrize(("color", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_a_channel_are_scaled_to_eight(color: int, channels: int) -> None:
    """16-bit RGB, grey with alpha and RGBA keep the upper byte too."""
    content = png(28, 28, (b"\0" + b"\x80\x33" * 28 * channels) * 28, depth=16, color=color)
    np.testing.assert_array_equal(decode(content), padded(np.full((28, 28), 0x80, np.uint8)))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_is_nearly_its_pixels(mode: str) -> None:
    """Grey, colour and CMYK JPEG files of grey values decode to those values up to the compression."""
    content = file(Image.fromarray(SMOOTH).convert("RGB").convert(mode), "JPEG", quality=95)
    np.testing.assert_allclose(decode(content).astype(int), padded(SMOOTH), atol=16)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (8, 1), (3, 2), (6, 3)])
def test_a_turned_camera_is_turned_back(kind: str, orientation: int, turns: int) -> None:
    """The EXIF orientation is applied, so that a photo stands as its viewer sees it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = file(Image.fromarray(SMOOTH), kind, exif=exif, quality=95)
    np.testing.assert_allclose(decode(content).astype(int), padded(np.rot90(SMOOTH, turns)), atol=16)


def test_orientation_comes_before_the_size_is_compared() -> None:
    """A picture that has the model's size only after its turn is taken as it is."""
    pixels = np.random.default_rng(0).integers(0, 255, (30, 20), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = file(Image.fromarray(pixels), exif=exif)
    came = decode(content, (20, 30, 1), Preprocessing(None, (10, 10), 5))
    np.testing.assert_array_equal(came[..., 0], np.rot90(pixels, 3))


def test_a_picture_of_the_models_size_is_taken_as_it_is() -> None:
    """32 x 32 pixels are not padded, cropped or resized again."""
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)
    np.testing.assert_array_equal(decode(file(Image.fromarray(pixels)))[..., 0], pixels)


@pytest.mark.parametrize("factor", [2, 5, 10])
def test_a_larger_picture_is_averaged_down(factor: int) -> None:
    """A picture enlarged by a whole factor comes back to the values that it was made of, not to single pixels."""
    noise = np.random.default_rng(1).integers(-20, 20, (28 * factor, 28 * factor))
    large = (np.kron(SMOOTH, np.ones((factor, factor))) / 2 + 50 + noise).astype(np.uint8)
    came = decode(file(Image.fromarray(large)))[2:-2, 2:-2, 0].astype(int)
    assert np.abs(came - (SMOOTH / 2 + 50)).mean() < 12 / factor
    assert not decode(file(Image.fromarray(large)))[:2].any()


def test_a_smaller_picture_is_enlarged() -> None:
    """A single pixel fills the garment's 28 x 28."""
    came = decode(file(Image.new("L", (1, 1), 77)))
    np.testing.assert_array_equal(came, padded(np.full((28, 28), 77, np.uint8)))


def test_the_centre_is_cropped_first() -> None:
    """Crop cuts a centred square, then resize brings it to its size, then pad surrounds it."""
    pixels = np.zeros((218, 178), np.uint8)
    pixels[59:159, 39:139] = 200
    preprocessing = Preprocessing(crop=100, resize=(16, 8), pad=1)
    came = decode(file(Image.fromarray(pixels)), (18, 10, 1), preprocessing)[..., 0]
    np.testing.assert_array_equal(came, np.pad(np.full((16, 8), 200, np.uint8), 1))


def test_a_picture_smaller_than_the_crop_gives_its_largest_square() -> None:
    """Nothing is added around it, as nothing was in training."""
    picture = Image.new("L", (3, 2), 0)
    picture.paste(255, (0, 0, 2, 2))
    came = decode(file(picture), (4, 4, 1), Preprocessing(crop=4, resize=(4, 4), pad=0))
    assert (came == 255).all()


def test_the_largest_square_of_any_picture_can_be_wanted() -> None:
    """Whatever its size, a picture loses what is left and right of its middle, or above and below, and no more."""
    pixels = np.zeros((200, 300), np.uint8)
    pixels[:, 50:250] = 200
    for picture in (pixels, pixels.T):
        came = decode(file(Image.fromarray(picture)), (20, 20, 1), Preprocessing("square", (20, 20), 0))
        assert (came == 200).all()


@pytest.mark.parametrize("channels", [1, 3])
@settings(max_examples=30)
@given(data=st.data())
def test_a_png_reply_holds_the_exact_pixels(channels: int, data: st.DataObject) -> None:
    """Pixels written as PNG and read again are the same pixels."""
    pixels = data.draw(hnp.arrays(np.uint8, (2, 5, 7, channels)))
    files = images.encode(pixels, pb.IMAGE_FORMAT_PNG)
    assert [content[:8] for content in files] == [b"\x89PNG\r\n\x1a\n"] * 2
    np.testing.assert_array_equal(images.decode({"images": files}, (5, 7, channels), PADDED)[0], pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_reply_is_a_jpeg_of_nearly_these_pixels(channels: int) -> None:
    """Pixels written as JPEG come back up to the compression, with as many channels."""
    pixels = np.repeat(padded(SMOOTH)[None], channels, axis=-1)
    (content,) = images.encode(pixels, pb.IMAGE_FORMAT_JPEG)
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.format, picture.mode) == ("JPEG", {1: "L", 3: "RGB"}[channels])
        np.testing.assert_allclose(
            np.asarray(picture).reshape(pixels.shape[1:]).astype(int), pixels[0], atol=40
        )


def test_files_keep_their_order() -> None:
    """Row i is file i."""
    files = [file(Image.new("L", (28, 28), value)) for value in range(10)]
    (came,) = images.decode({"images": files}, GREY, PADDED)
    assert came.shape == (10, 32, 32, 1)
    assert came[:, 16, 16, 0].tolist() == list(range(10))


GOOD = file(Image.fromarray(SMOOTH))
BLACK = (b"\0" + b"\0" * 28) * 28
REFUSED = {
    "nothing": b"",
    "a text": b"no picture",
    "the PNG signature alone": GOOD[:8],
    "half a PNG": GOOD[: len(GOOD) // 2],
    "a PNG with a wrong checksum": GOOD.replace(b"IDAT", b"IDAU"),
    "half a JPEG": file(Image.fromarray(SMOOTH), "JPEG")[:200],
    "a PNG without width": png(0, 28, BLACK),
    "a PNG without height": png(28, 0, BLACK),
    "a PNG with too few rows": png(28, 28, BLACK[:100]),
    "a text of 100 MB in 100 kB": png(
        28, 28, BLACK, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8), 9))
    ),
    "a profile of 100 MB in 100 kB": png(
        28, 28, BLACK, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8), 9))
    ),
    "a GIF": file(Image.fromarray(SMOOTH), "GIF"),
    "a TIFF": file(Image.fromarray(SMOOTH), "TIFF"),
    "a BMP": file(Image.fromarray(SMOOTH), "BMP"),
    "a WebP": file(Image.fromarray(SMOOTH), "WEBP"),
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_what_is_no_png_or_jpeg_is_refused(content: bytes) -> None:
    """Damaged files and other formats are InvalidArgument with the index of the file."""
    with pytest.raises(InvalidArgument, match="no PNG or JPEG file that can be decoded") as caught:
        images.decode({"images.encoded.images": [GOOD, content]}, GREY, PADDED)
    assert caught.value.field == "images.encoded.images[1]"


@pytest.mark.parametrize(
    ("width", "height"),
    [(4097, 4096), (10_000, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1), (16_385, 1), (1, 16_385)],
)
def test_a_decompression_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    """A picture that claims too many pixels, or one very long side, is refused before anything is decoded."""
    with pytest.raises(InvalidArgument, match=f"at most {4096 * 4096} pixels.* taken") as caught:
        decode(png(width, height, b""))
    assert caught.value.field == "images[0]"


def test_the_largest_picture_is_taken() -> None:
    """4096 x 4096 pixels are no bomb."""
    content = png(4096, 4096, (b"\0" + b"\x40" * 4096) * 4096)
    np.testing.assert_array_equal(decode(content), padded(np.full((28, 28), 0x40, np.uint8)))


def test_many_large_pictures_in_one_call_are_refused() -> None:
    """However small the files are, a call's pictures together are bounded."""
    content = png(4096, 4096, bytes(4097 * 4096))
    with pytest.raises(InvalidArgument, match="pixels together; at most") as caught:
        images.decode({"images": [content] * 1000}, GREY, PADDED)
    assert caught.value.field == "images"


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [
            GOOD,
            file(Image.fromarray(SMOOTH), "JPEG"),
            file(Image.fromarray(SMOOTH).convert("P")),
            png(28, 28, BLACK, chunk(b"tRNS", b"\0\0")),
            png(28, 28, BLACK, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(400)))),
        ]
    ),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_flipped_bytes_are_pixels_or_a_refusal(content: bytes, flips: list[tuple[int, int]]) -> None:
    """Any damage to a file gives an image of the model's shape or InvalidArgument, and nothing else."""
    damaged = bytearray(content)
    for place, value in flips:
        damaged[place % len(damaged)] = value
    with contextlib.suppress(InvalidArgument):
        assert decode(bytes(damaged)).shape == GREY


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    """A progressive JPEG that goes over its pixels thousands of times costs nothing."""
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 128).save(buffer, "JPEG", progressive=True)
    file = buffer.getvalue()
    scan = file[file.rindex(b"\xff\xda") : -2]
    bomb = file[:-2] + scan * 1000 + file[-2:]
    preprocessing = images.Preprocessing(None, (32, 32), 0)
    assert images.decode({"images": [file]}, (32, 32, 1), preprocessing)[0].shape == (1, 32, 32, 1)
    with pytest.raises(InvalidArgument, match="scans; at most 32"):
        images.decode({"images": [bomb]}, (32, 32, 1), preprocessing)


def test_a_call_holds_one_picture_in_memory_at_a_time() -> None:
    """Four pictures of 4096 x 4096 take hardly more memory than one."""
    program = """
import io, sys
from PIL import Image
from armoire.wire.images import Preprocessing, decode
buffer = io.BytesIO()
Image.new("RGB", (4096, 4096)).save(buffer, "PNG")
decode({"images": [buffer.getvalue()] * int(sys.argv[1])}, (32, 32, 3), Preprocessing(None, (32, 32), 0))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    one, four = (
        int(
            subprocess.run(
                [sys.executable, "-c", program, n], capture_output=True, text=True, check=True
            ).stdout
        )
        for n in ("1", "4")
    )
    # Decoded they are 65,536 KiB each.
    assert four - one < 65536, f"{one} KiB for one, {four} KiB for four"
