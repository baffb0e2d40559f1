"""The file of bearer tokens and whom it lets in."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
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
    assert tokens.check(f"{scheme} a-secret", rpc).name == "alice"


def test_a_token_with_rpcs_may_call_these_only(tokens: Tokens) -> None:
    """A line with RPCs lets its bearer call them, and another RPC is PermissionDenied with both names."""
    assert tokens.check("Bearer b secret", "Encode").name == "bob"
    assert tokens.check("Bearer b secret", "Decode").name == "bob"
    with pytest.raises(PermissionDenied, match="'bob' may not call Sample"):
        tokens.check("Bearer b secret", "Sample")


@pytest.mark.parametrize("secret", ["a-secret", "b secret", "c-secret"])
def test_every_token_is_compared_whichever_came(
    tokens: Tokens, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In constant time each, and no fewer for the first than for one that nobody knows: the time tells nothing."""
    compared = []

    def counting(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", counting)
    with contextlib.suppress(Unauthenticated):
        tokens.check(f"Bearer {secret}", "Encode")
    assert len(compared) == 2


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
        f"alice {digest('x')} rpcs=",
        f"alice {digest('x')} rpcs=Encode,,Decode",
        f"alice {digest('x')} rpcs=Delete",
        f"alice {digest('x')} rpcs=Encode rpcs=Decode",
        f"alice {digest('x')} Encode rpcs=Decode",
        f"alice {digest('x')} models=",
        f"alice {digest('x')} models=a, models=b",
        f"alice {digest('x')} models=a=b",
        f"alice {digest('x')} rows_per_second=0",
        f"alice {digest('x')} rows_per_second=-5",
        f"alice {digest('x')} rows_per_second=1e3",
        f"alice {digest('x')} rows_per_second=many",
        f"alice {digest('x')} rows=5",
        f"alice {digest('x')} model=a",
        f"alice {digest('x')} =Encode",
    ],
)
def test_a_line_that_is_not_understood_stops_the_start_and_stays_secret(tmp_path: Path, line: str) -> None:
    """A wrong line is named by its number, with the form that is wanted, and its text is not shown."""
    file = tmp_path / "tokens"
    file.write_text(f"# comment\n{line}\n")
    with pytest.raises(BadSettings) as caught:
        Tokens(file, RPCS)
    wanted = "NAME SHA256-HEX [rpcs=RPC,...] [models=NAME,...] [rows_per_second=N] is wanted"
    assert f"line 2: {wanted}, with RPCs of Decode, Encode, Sample" in str(caught.value)
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


def test_rights_may_stand_in_any_order_and_each_on_its_own(tmp_path: Path) -> None:
    """RPCs, models and rows a second are each limited where the line says so, and nowhere else."""
    file = tmp_path / "tokens"
    file.write_text(
        f"a {digest('1')} rows_per_second=5 models=faces,clothes rpcs=Encode,Decode  # all of them\n"
        f"b {digest('2')} Sample models=faces\n"
        f"c {digest('3')} rows_per_second=7\n"
    )
    tokens = Tokens(file, RPCS)
    a, b, c = (
        tokens.check(f"Bearer {secret}", rpc)
        for secret, rpc in (("1", "Encode"), ("2", "Sample"), ("3", "Decode"))
    )
    assert (a.models, b.models, c.models) == ({"faces", "clothes"}, {"faces"}, None)
    assert [caller.rate and caller.rate.rows_per_second for caller in (a, b, c)] == [5, None, 7]
    for secret, rpc in (("1", "Sample"), ("2", "Encode")):
        with pytest.raises(PermissionDenied, match=f"may not call {rpc}"):
            tokens.check(f"Bearer {secret}", rpc)


def test_one_hash_in_two_lines_is_refused(tmp_path: Path) -> None:
    """Which rights such a token had would be a guess."""
    file = tmp_path / "tokens"
    file.write_text(f"a {digest('1')} rpcs=Encode\n\nb {digest('1')}\n")
    with pytest.raises(BadSettings, match="line 3: its hash stands in a line before"):
        Tokens(file, RPCS)


def test_a_changed_file_is_taken_whole(tmp_path: Path) -> None:
    """After a reload a new token is known, one that is gone is refused, and other rights hold."""
    file = tmp_path / "tokens"
    file.write_text(f"gone {digest('1')}\nstays {digest('2')}\n")
    tokens = Tokens(file, RPCS)
    assert tokens.check("Bearer 1", "Encode").name == "gone"
    file.write_text(f"stays {digest('2')} rpcs=Decode\nnew {digest('3')}\n")
    tokens.reload()
    assert tokens.check("Bearer 3", "Encode").name == "new"
    with pytest.raises(Unauthenticated):
        tokens.check("Bearer 1", "Encode")
    with pytest.raises(PermissionDenied):
        tokens.check("Bearer 2", "Encode")


def test_a_reload_forgives_no_rows(tmp_path: Path) -> None:
    """A token that is still there with the same rate has no fresh second; another rate begins anew."""
    file = tmp_path / "tokens"
    file.write_text(
        f"a {digest('1')} rows_per_second=5\nb {digest('2')} rows_per_second=5\nc {digest('3')}\n"
    )
    tokens = Tokens(file, RPCS)
    before = [tokens.check(f"Bearer {secret}", "Encode").rate for secret in "123"]
    file.write_text(
        f"z {digest('1')} rows_per_second=5\nb {digest('2')} rows_per_second=6\nc {digest('3')} rows_per_second=7\n"
    )
    tokens.reload()
    after = [tokens.check(f"Bearer {secret}", "Encode").rate for secret in "123"]
    assert after[0] is before[0]
    assert [rate.rows_per_second for rate in after] == [5, 6, 7]
    file.write_text(f"a {digest('1')}\n")
    tokens.reload()
    assert tokens.check("Bearer 1", "Encode").rate is None


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (b"a %(hash)s\noops plain-secret\n", "line 2: NAME"),
        (b"a %(hash)s Delete\n", "line 1: NAME"),
        (b"\xff\xfe\x00", "no text in UTF-8"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_damaged_file_is_told_once_and_the_old_tokens_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes | None, told: str
) -> None:
    """The error names file and line but shows nothing of it, and a file in order is taken again."""
    file = tmp_path / "tokens"
    file.write_text(f"a {digest('1')}\n")
    tokens = Tokens(file, RPCS)
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage.replace(b"%(hash)s", digest("2").encode()))
    for _ in range(3):
        tokens.reload()
    assert tokens.check("Bearer 1", "Encode").name == "a"
    (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert f"tokens_file {file}" in line.getMessage()
    assert told in line.getMessage()
    assert "the 1 tokens of before stay in use" in line.getMessage()
    assert not [part for part in ("oops", "plain-secret", digest("2")[:8]) if part in caplog.text]
    file.write_text(f"b {digest('2')}\n")
    tokens.reload()
    assert tokens.check("Bearer 2", "Encode").name == "b"
    with pytest.raises(Unauthenticated):
        tokens.check("Bearer 1", "Encode")
