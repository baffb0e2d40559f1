"""The file of bearer tokens and whom it lets in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from armoire.errors import BadSettings, PermissionDenied, Unauthenticated
from armoire.wire.tokens import Tokens

RPCS = frozenset({"Decode", "Encode", "Sample"})


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    file = tmp_path / "tokens"
    file.write_text(
        f"# who may call\n\nalice {digest('a-secret')}   # everything\n  bob\t{digest('b secret')} Encode,Decode\n"
    )
    return Tokens(file, RPCS)


@pytest.mark.parametrize("rpc", sorted(RPCS))
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_token_without_rpcs_may_call_all(tokens: Tokens, rpc: str, scheme: str) -> None:
    """A line of name and hash lets its bearer call everything, the scheme in any case."""
    assert tokens.check(f"{scheme} a-secret", rpc) == "alice"


def test_a_token_with_rpcs_may_call_these_only(tokens: Tokens) -> None:
    """A line with RPCs lets its bearer call them, and another RPC is PermissionDenied with both names."""
    assert tokens.check("Bearer b secret", "Encode") == "bob"
    assert tokens.check("Bearer b secret", "Decode") == "bob"
    with pytest.raises(PermissionDenied, match="'bob' may not call Sample"):
        tokens.check("Bearer b secret", "Sample")


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic a-secret", "a-secret", "Token a-secret"])
def test_no_bearer_token_is_unauthenticated(tokens: Tokens, header: str) -> None:
    """A header without a bearer token is told which metadata to send."""
    with pytest.raises(Unauthenticated, match="authorization: Bearer TOKEN"):
        tokens.check(header, "Encode")


@pytest.mark.parametrize(
    "secret", ["wrong", "a-secre", "a-secret ", "A-SECRET", "alice", digest("a-secret"), "ä" * 1000]
)
def test_an_unknown_token_is_unauthenticated_and_not_repeated(tokens: Tokens, secret: str) -> None:
    """Anything but the secret itself, its hash included, is unknown; the answer does not show it."""
    with pytest.raises(Unauthenticated, match="unknown") as caught:
        tokens.check(f"Bearer {secret}", "Encode")
    assert secret not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        f"{digest('x')}",
        "alice plain-secret",
        f"alice {digest('x')[:-1]}",
        f"alice {digest('x')}0",
        f"alice {digest('x')} Delete",
        f"alice {digest('x')} Encode,",
        f"alice {digest('x')} Encode, Decode",
        f"alice {digest('x')} Encode Decode",
    ],
)
def test_a_line_that_is_not_understood_stops_the_start_and_stays_secret(tmp_path: Path, line: str) -> None:
    """A wrong line is named by its number, with the form that is wanted, and its text is not shown."""
    file = tmp_path / "tokens"
    file.write_text(f"# comment\n{line}\n")
    with pytest.raises(BadSettings) as caught:
        Tokens(file, RPCS)
    assert "line 2: NAME SHA256-HEX [RPC,RPC...] is wanted, with RPCs of Decode, Encode, Sample" in str(
        caught.value
    )
    assert "plain-secret" not in str(caught.value)
    assert digest("x")[:12] not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00alice"])
def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    """A missing or binary file is one line that names the setting and the path."""
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadSettings, match=r"tokens_file .*tokens cannot be read") as caught:
        Tokens(file, RPCS)
    assert "\n" not in str(caught.value)


def test_a_file_without_tokens_lets_nobody_in(tmp_path: Path) -> None:
    """An empty file is no open door."""
    file = tmp_path / "tokens"
    file.write_text("# nobody yet\n")
    with pytest.raises(Unauthenticated):
        Tokens(file, RPCS).check("Bearer a-secret", "Encode")
