"""Who may call: bearer tokens, kept as SHA-256 hashes in a file.

A line is NAME SHA256-HEX [RPC,RPC...]; without RPCs the token may call all of them; # starts a comment.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from pathlib import Path

from armoire.errors import BadSettings, PermissionDenied, Unauthenticated

LINE = re.compile(r"(?P<name>\S+)\s+(?P<digest>[0-9a-f]{64})(\s+(?P<rpcs>[A-Za-z,]+))?")


@dataclass(frozen=True)
class _Token:
    name: str
    digest: bytes
    rpcs: frozenset[str]


class Tokens:
    """The tokens of one file."""

    def __init__(self, path: Path, rpcs: frozenset[str]) -> None:
        """Read the file; ``rpcs`` are the names that a line may give.

        Raises:
            BadSettings: the file cannot be read, or a line is not understood. The line is not shown.
        """
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadSettings(f"tokens_file {path} cannot be read: {error}") from None
        self._tokens = []
        for number, line in enumerate(lines, start=1):
            line = line.partition("#")[0].strip()
            if not line:
                continue
            match = LINE.fullmatch(line)
            allowed = frozenset((match["rpcs"] or ",".join(rpcs)).split(",")) if match else frozenset()
            if match is None or not allowed <= rpcs:
                raise BadSettings(
                    f"tokens_file {path}, line {number}: NAME SHA256-HEX [RPC,RPC...] is wanted, with RPCs "
                    f"of {', '.join(sorted(rpcs))}"
                )
            self._tokens.append(_Token(match["name"], bytes.fromhex(match["digest"]), allowed))

    def check(self, authorization: str, rpc: str) -> str:
        """Give the name of the token in an authorization header that may call ``rpc``.

        Raises:
            Unauthenticated: no bearer token, or an unknown one.
            PermissionDenied: it may not call this RPC.
        """
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise Unauthenticated("no bearer token came; send the metadata authorization: Bearer TOKEN")
        digest = hashlib.sha256(secret.encode()).digest()
        # Every token is compared, in constant time, so that the time tells nothing.
        found = [token for token in self._tokens if hmac.compare_digest(token.digest, digest)]
        if not found:
            raise Unauthenticated("the token is unknown; ask the operator for one")
        if rpc not in found[0].rpcs:
            raise PermissionDenied(f"token {found[0].name!r} may not call {rpc}")
        return found[0].name
