"""Protobuf's wire format with everything that can be wrong with it, as hypothesis strategies.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

VARINT, FIXED64, LENGTH_DELIMITED, START_GROUP, END_GROUP, FIXED32 = range(6)
HUGE_LENGTHS = (2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
Draw = Callable[[st.SearchStrategy], object]

field_numbers = st.one_of(
    st.integers(1, 8), st.sampled_from([0, 9, 15, 16, 18999, 19000, 2**29 - 1, 2**29, 2**32])
)
field_bytes = st.one_of(st.binary(max_size=40), st.sampled_from([b"\xff" * 4, b"\0" * 64, b"fashion-mnist"]))
varints = st.one_of(
    st.integers(0, 64), st.sampled_from([127, 128, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
)


def varint(value: int, *, surplus: int = 0) -> bytes:
    """Encode a number, with ``surplus`` bytes more than it needs."""
    groups = bytearray()
    while value > 0x7F or surplus:
        surplus -= value <= 0x7F
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def field(number: int, content: bytes) -> bytes:
    """Encode a field of bytes, text or a message."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(len(content)) + content


def split(message: bytes) -> list[tuple[int, int, bytes]]:
    """Take a well-formed message without groups apart: number, wire type and value of each field."""
    found, at = [], 0

    def read() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = read()
        start = at
        if tag & 7 == VARINT:
            read()
        elif tag & 7 == LENGTH_DELIMITED:
            length = read()
            start, at = at, at + length
        else:
            at += 8 if tag & 7 == FIXED64 else 4
        found.append((tag >> 3, tag & 7, message[start:at]))
    return found


def join(fields: list[tuple[int, int, bytes]]) -> bytes:
    """Put a message together."""
    return b"".join(
        field(number, value) if kind == LENGTH_DELIMITED else varint(number << 3 | kind) + value
        for number, kind, value in fields
    )


def _value(kind: int) -> st.SearchStrategy[bytes]:
    if kind == VARINT:
        return st.builds(varint, varints, surplus=st.sampled_from([0, 0, 0, 1, 3, 9, 12]))
    if kind in (FIXED32, FIXED64):
        size = 4 if kind == FIXED32 else 8
        return st.binary(min_size=size, max_size=size)
    if kind == LENGTH_DELIMITED:
        lying = st.builds(
            lambda length, content: varint(length) + content, st.sampled_from(HUGE_LENGTHS), field_bytes
        )
        honest = st.one_of(field_bytes, messages).map(lambda content: varint(len(content)) + content)
        return st.one_of(honest, honest, honest, lying)
    return st.just(b"")  # the ends of groups, and wire types that there are not


one_field = st.one_of(st.integers(0, 7), st.sampled_from([VARINT, LENGTH_DELIMITED])).flatmap(
    lambda kind: st.builds(
        lambda number, value: varint(number << 3 | kind) + value, field_numbers, _value(kind)
    )
)
#: Any message: fields of any number and wire type, nested.
messages: st.SearchStrategy[bytes] = st.deferred(
    lambda: st.lists(one_field, max_size=4).map(b"".join),
)
#: A field in a field in a field, as deep as parsers refuse and deeper; the innermost may end where it should not.
nests = st.builds(
    lambda number, depth, core: _nest(number, depth, core),
    st.integers(1, 7),
    st.sampled_from([2, 30, 99, 100, 101, 150, 1000]),
    field_bytes,
)
#: The same with groups, of which none is ended.
open_groups = st.builds(
    lambda number, depth: varint(number << 3 | START_GROUP) * depth,
    field_numbers,
    st.sampled_from([1, 99, 101, 10_000]),
)


def _nest(number: int, depth: int, core: bytes) -> bytes:
    for _ in range(depth):
        core = field(number, core)
    return core


@st.composite
def flipped(draw: Callable[..., int], message: bytes) -> bytes:
    """Flip bits, cut and insert: what a bad line does."""
    content = bytearray(message)
    for place, value in draw(  # type: ignore[attr-defined]
        st.lists(st.tuples(st.integers(0, max(0, len(content) - 1)), st.integers(1, 255)), max_size=6)
    ):
        if content:
            content[place] ^= value
    at = draw(st.integers(0, len(content)))
    content[at:at] = draw(st.sampled_from([b"", b"", b"\0", b"\xff" * 10, b"\x80" * 11]))
    return bytes(content[: draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])


@st.composite
def mutated(draw: Callable[..., int], message: bytes, depth: int = 4) -> bytes:
    """Change one thing somewhere in a well-formed message; the lengths around it stay right."""
    fields = split(message)
    if not fields:
        return bytes(draw(messages))
    index = draw(st.integers(0, len(fields) - 1))
    number, kind, value = fields[index]
    if depth and kind == LENGTH_DELIMITED and draw(st.booleans()):
        try:
            inner = draw(mutated(value, depth - 1))
        except IndexError:  # text or pixels, no message
            inner = draw(flipped(value[:2000]))
        fields[index] = number, kind, bytes(inner)
        return join(fields)
    before, after = join(fields[:index]), join(fields[index + 1 :])
    changes: list[st.SearchStrategy[bytes]] = [
        st.just(b""),
        st.integers(2, 50).map(lambda times: join([fields[index]]) * times),
        one_field,
        nests,
        open_groups,
        messages.map(lambda content: join([(number, LENGTH_DELIMITED, content)])),
        field_numbers.map(lambda other: join([(other, kind, value)])),
        st.integers(0, 7).map(lambda other: varint(number << 3 | other) + value),
        st.sampled_from(HUGE_LENGTHS).map(
            lambda length: varint(number << 3 | LENGTH_DELIMITED) + varint(length) + value
        ),
        # Repeated numbers unpacked, which are packed by default, and packed where only one is wanted.
        st.lists(varints, max_size=6).map(
            lambda values: b"".join(varint(number << 3 | VARINT) + varint(each) for each in values)
        ),
        st.lists(varints, max_size=6).map(lambda values: field(number, b"".join(map(varint, values)))),
        flipped(join([fields[index]])),
    ]
    return before + bytes(draw(st.one_of(changes))) + after
