"""Image files that should not be, as hypothesis strategies: PNG by its chunks, JPEG by its segments."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.soak.wire_format import flipped

SIGNATURE = b"\x89PNG\r\n\x1a\n"
sides = st.one_of(
    st.integers(0, 40), st.sampled_from([4096, 4097, 16384, 16385, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1])
)


def chunk(kind: bytes, data: bytes, length: int | None = None, crc: int | None = None) -> bytes:
    """Give a chunk of PNG, whose length and checksum may lie."""
    return (
        struct.pack(">I", len(data) if length is None else length)
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
    )


BOMB = zlib.compress(bytes(20_000_000), 9)
TEXTS = b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf"
EXIF = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
contents = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"a\0\0" + BOMB, b"a\0\0\1\0\0\0" + BOMB, b"icc\0\0" + zlib.compress(b"no profile"), EXIF, EXIF[:-9]]
    ),
)
ancillary = st.builds(
    chunk,
    st.one_of(
        st.sampled_from([*TEXTS, b"PLTE", b"tRNS", b"gAMA", b"pHYs", b"acTL", b"fcTL", b"fdAT", b"IEND"]),
        st.binary(min_size=4, max_size=4),
    ),
    contents,
    st.one_of(st.none(), st.none(), st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1])),
    st.one_of(st.none(), st.none(), st.integers(0, 2**32 - 1)),
)


@st.composite
def pngs(draw: Callable[..., Any]) -> bytes:
    """Any depth, colour type and interlacing, any size, data that may not fit, chunks between that may lie."""
    width, height = draw(sides), draw(sides)
    depth, colour = draw(
        st.one_of(
            st.sampled_from(
                [(1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 3), (1, 3), (8, 4), (16, 4), (16, 6)]
            ),
            st.tuples(st.integers(0, 255), st.integers(0, 255)),
        )
    )
    interlaced, method = draw(st.sampled_from([0, 0, 1, 2])), draw(st.sampled_from([0, 0, 0, 1]))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, method, method, interlaced)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    row = -(-width * channels * depth // 8) + 1
    honest = min(row * height, 60_000)
    plain = draw(
        st.one_of(
            st.just(bytes(honest)),
            st.integers(0, honest).map(bytes),
            st.just(bytes(honest + 100)),
            st.binary(max_size=60),
        )
    )
    packed = draw(
        st.one_of(st.just(zlib.compress(plain)), st.just(BOMB), st.just(plain), flipped(zlib.compress(plain)))
    )
    middle = draw(st.lists(ancillary, max_size=3))
    cut = draw(st.integers(0, len(packed)))
    data = draw(
        st.sampled_from([chunk(b"IDAT", packed), chunk(b"IDAT", packed[:cut]) + chunk(b"IDAT", packed[cut:])])
    )
    palette = [chunk(b"PLTE", bytes(range(48)))] if colour == 3 and draw(st.booleans()) else []
    parts = [chunk(b"IHDR", header), *palette, *middle, data, chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(parts)


def segment(marker: int, data: bytes, length: int | None = None) -> bytes:
    """Give a segment of JPEG, whose length may lie."""
    return bytes([0xFF, marker]) + struct.pack(">H", (len(data) + 2) if length is None else length) + data


def _saved(mode: str, kind: str, size: tuple[int, int] = (28, 28), **how: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, kind, **how)
    return buffer.getvalue()


def _sixteen_bits() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(784, dtype=np.uint16).reshape(28, 28) * 80).save(buffer, "PNG")
    return buffer.getvalue()


def _animated() -> bytes:
    first, *more = (Image.fromarray(np.full((28, 28), grey, np.uint8)) for grey in (0, 99, 255))
    buffer = io.BytesIO()
    first.save(buffer, "PNG", save_all=True, append_images=more)
    return buffer.getvalue()


@functools.cache
def originals() -> Sequence[bytes]:
    """Give good files of every kind, small ones."""
    return (
        _saved("L", "JPEG"),
        _saved("RGB", "JPEG", progressive=True),
        _saved("CMYK", "JPEG"),
        _saved("RGB", "JPEG", exif=EXIF, icc_profile=b"no profile" * 20),
        _saved("L", "PNG"),
        _saved("RGBA", "PNG"),
        _saved("P", "PNG"),
        _saved("1", "PNG"),
        _saved("L", "PNG", (40, 3)),
        _sixteen_bits(),
        _animated(),
        _saved("L", "GIF"),
        _saved("RGB", "BMP"),
        _saved("RGB", "TIFF"),
        _saved("RGB", "WEBP"),
    )


@st.composite
def jpegs(draw: Callable[..., Any]) -> bytes:
    """A good file with another size in its frame header, and segments put in that may lie."""
    content = draw(st.sampled_from(originals()[:4]))
    at = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    size = struct.pack(">HH", draw(sides) & 0xFFFF, draw(sides) & 0xFFFF)
    if draw(st.booleans()):
        content = content[: at + 5] + size + content[at + 9 :]
    extra = draw(
        st.lists(
            st.builds(
                segment,
                st.one_of(
                    st.sampled_from([0xE0, 0xE1, 0xE2, 0xEE, 0xFE, 0xDA, 0xC4, 0xDB]), st.integers(0, 255)
                ),
                st.one_of(
                    st.binary(max_size=60), st.sampled_from([b"Exif\0\0" + EXIF, b"ICC_PROFILE\0\1\1x"])
                ),
                st.one_of(st.none(), st.sampled_from([0, 1, 2, 65535])),
            ),
            max_size=3,
        )
    )
    times = draw(st.sampled_from([1, 1, 1, 40, 500]))
    return content[:2] + b"".join(extra) * times + content[2:]


files = st.one_of(
    pngs(),
    jpegs(),
    st.deferred(lambda: st.sampled_from(originals())),
    st.deferred(lambda: st.sampled_from(originals()).flatmap(flipped)),
    st.binary(max_size=30),
)
