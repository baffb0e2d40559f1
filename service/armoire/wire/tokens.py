"""Who may call: bearer tokens, kept as SHA-256 hashes in a file that is read again when it changes.

A line is NAME SHA256-HEX and, each where wanted, rpcs=RPC,... models=NAME,... rows_per_second=N; without rpcs the token
may call all of them, without models use all of them, without rows_per_second ask for as many rows as it likes. RPCs may
stand without their rpcs=. # starts a comment.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from armoire.errors import BadSettings, PermissionDenied, Unauthenticated
from armoire.wire.caller import Caller
from armoire.wire.rate import RateLimit

logger = logging.getLogger("armoire.tokens")
FORM = "NAME SHA256-HEX [rpcs=RPC,...] [models=NAME,...] [rows_per_second=N]"
DIGEST = re.compile(r"[0-9a-f]{64}")
WORD = r"[^\s,=]+"
RIGHTS = {
    "rpcs": re.compile(r"[A-Za-z]+(,[A-Za-z]+)*"),
    "models": re.compile(rf"{WORD}(,{WORD})*"),
    "rows_per_second": re.compile(r"[1-9][0-9]{0,8}"),
}


@dataclass(frozen=True)
class _Token:
    digest: bytes
    rpcs: frozenset[str]
    caller: Caller


class Tokens:
    """The tokens of one file."""

    def __init__(self, path: Path, rpcs: frozenset[str]) -> None:
        """Read the file; ``rpcs`` are the names that a line may give.

        Raises:
            BadSettings: the file cannot be read, or a line is not understood. The line is not shown.
        """
        self._path, self._rpcs = path, rpcs
        self._tokens: tuple[_Token, ...] = ()
        self._text = self._read()
        self._tokens = self._parse(self._text)
        self._told = ""

    def reload(self) -> None:
        """Read the file again, from any thread; one that cannot be used is told once, and the old tokens stay."""
        try:
            text = self._read()
            if text != self._text:
                self._tokens, self._text = self._parse(text), text
                logger.info("tokens_file %s was read again: %d tokens", self._path, len(self._tokens))
            self._told = ""
        except BadSettings as error:
            if str(error) != self._told:
                logger.error("%s; the %d tokens of before stay in use", error, len(self._tokens))
            self._told = str(error)

    def check(self, authorization: str, rpc: str) -> Caller:
        """Give the bearer of the token in an authorization header, who may call ``rpc``.

        Raises:
            Unauthenticated: no bearer token, or an unknown one.
            PermissionDenied: it may not call this RPC.
        """
        token = self._find(authorization)
        if rpc not in token.rpcs:
            raise PermissionDenied(f"token {token.caller.name!r} may not call {rpc}")
        return token.caller

    def require(self, authorization: str) -> None:
        """Let the bearer of any token pass.

        Raises:
            Unauthenticated: no bearer token, or an unknown one.
        """
        self._find(authorization)

    def _find(self, authorization: str) -> _Token:
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise Unauthenticated("no bearer token came; send the metadata authorization: Bearer TOKEN")
        digest = hashlib.sha256(secret.encode()).digest()
        # Every token is compared, in constant time, so that the time tells nothing.
        found = [token for token in self._tokens if hmac.compare_digest(token.digest, digest)]
        if not found:
            raise Unauthenticated("the token is unknown; ask the operator for one")
        return found[0]

    def _read(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8")
        except OSError as error:
            raise BadSettings(f"tokens_file {self._path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise BadSettings(f"tokens_file {self._path} cannot be read: it is no text in UTF-8") from None

    def _parse(self, text: str) -> tuple[_Token, ...]:
        # A token that is still there with the same rate goes on counting where it was.
        old = {token.digest: token.caller.rate for token in self._tokens}
        tokens: dict[bytes, _Token] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            where = f"tokens_file {self._path}, line {number}"
            token = self._token(words, old)
            if token is None:
                raise BadSettings(f"{where}: {FORM} is wanted, with RPCs of {', '.join(sorted(self._rpcs))}")
            if token.digest in tokens:
                raise BadSettings(
                    f"{where}: its hash stands in a line before; one line for each token is wanted"
                )
            tokens[token.digest] = token
        return tuple(tokens.values())

    def _token(self, words: list[str], old: dict[bytes, RateLimit | None]) -> _Token | None:
        """Understand the words of a line; None: they are not to be understood."""
        name, digest = (words[0], words[1]) if len(words) > 1 else (words[0], "")
        rights: dict[str, str] = {}
        for word in words[2:]:
            key, equals, value = word.partition("=")
            key, value = (key, value) if equals else ("rpcs", word)
            if key in rights or key not in RIGHTS or not RIGHTS[key].fullmatch(value):
                return None
            rights[key] = value
        rpcs = frozenset(rights["rpcs"].split(",")) if "rpcs" in rights else self._rpcs
        if not DIGEST.fullmatch(digest) or not rpcs <= self._rpcs:
            return None
        known = bytes.fromhex(digest)
        models = frozenset(rights["models"].split(",")) if "models" in rights else None
        rate, wanted = old.get(known), int(rights.get("rows_per_second", 0))
        if wanted != (rate.rows_per_second if rate else 0):
            rate = RateLimit(wanted) if wanted else None
        return _Token(known, rpcs, Caller(name, models, rate))
