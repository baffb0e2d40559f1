"""How a call ended: gRPC's status, read from the header block that ends an answer."""

from __future__ import annotations

from enum import IntEnum
from urllib.parse import unquote

import hpack


class Code(IntEnum):
    """gRPC's codes, for a process that does not load gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


# What gRPC makes of the error of a reset stream; of the others INTERNAL.
RESETS = {7: Code.UNAVAILABLE, 8: Code.CANCELLED, 11: Code.RESOURCE_EXHAUSTED, 12: Code.PERMISSION_DENIED}
# What it makes of HTTP's status where a proxy gives none of gRPC's; of the others UNKNOWN.
HTTP = {
    "400": Code.INTERNAL,
    "401": Code.UNAUTHENTICATED,
    "403": Code.PERMISSION_DENIED,
    "404": Code.UNIMPLEMENTED,
    **dict.fromkeys(("429", "502", "503", "504"), Code.UNAVAILABLE),
}


class StatusReader:
    """Reads the header blocks of a server that was forbidden a dynamic table, in any order and not all of them."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = self._decoder.header_table_size = 0
        # "grpc-status: 0" as a block may write it, each of the two strings plain or by Huffman. That a call went well
        # shows by these bytes; decoding would cost several times what the rest of the call does.
        plain, huffman = (
            hpack.Encoder().encode([("grpc-status", "0")], huffman=huffman)[1:] for huffman in (False, True)
        )
        self._ok = [name[:-2] + value[-2:] for name in (plain, huffman) for value in (plain, huffman)]

    def status(self, block: bytes) -> tuple[Code, str]:
        """Give code and message.

        Raises:
            ConnectionError: the block cannot be decoded.
        """
        for field in self._ok:
            if field in block:
                return Code.OK, ""
        fields = self.fields(block)
        if "grpc-status" not in fields:
            status = fields.get(":status", "no status")
            return HTTP.get(status, Code.UNKNOWN), f"HTTP {status} without a status of gRPC"
        code = fields["grpc-status"]
        known = code.isdecimal() and int(code) < len(Code)
        return Code(int(code)) if known else Code.UNKNOWN, unquote(fields.get("grpc-message", ""))

    def fields(self, block: bytes) -> dict[str, str]:
        """Decode a block; errors as ``status``."""
        try:
            return {str(name): str(value) for name, value in self._decoder.decode(block)}
        except hpack.HPACKError as error:
            raise ConnectionError(f"the server's header block cannot be read: {error}") from None
