"""Who may call, and when: no token, a wrong one, a server that leaves."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from armoire.v1 import armoire_pb2 as pb
from tests.service.refused import GOOD, MANY, RPCS, SERVICE, UNAVAILABLE, check_no_bug, refusal, stub_of, z
from tests.serving import Running, serving


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that knows two tokens, one of them for ListModels only."""
    tokens: Path = tmp_path_factory.mktemp("tokens") / "tokens"
    lines = [("all", "everything", ""), ("some", "one-thing", "ListModels")]
    tokens.write_text(
        "".join(
            f"{name} {hashlib.sha256(secret.encode()).hexdigest()} {rpcs}\n" for name, secret, rpcs in lines
        )
    )
    with serving(tokens_file=str(tokens)) as running:
        yield running
        check_no_bug(running)


@pytest.mark.parametrize("rpc", RPCS)
def test_credentials_are_asked_for_by_every_rpc(guarded: Running, rpc: str) -> None:
    """Without a token, with an unknown one, and with one that lacks the right, each RPC says which it was."""
    with stub_of(guarded) as stub:
        for header, words in (
            ((), "no bearer token came"),
            ((("authorization", "Basic everything"),), "no bearer token came"),
            ((("authorization", "Bearer wrong"),), "the token is unknown"),
        ):
            code, text, _, _ = refusal(stub, rpc, GOOD[rpc], metadata=header)
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert words in text
            assert "wrong" not in text
        some, everything = ((("authorization", f"Bearer {s}"),) for s in ("one-thing", "everything"))
        if rpc == "ListModels":
            stub.ListModels(GOOD[rpc], metadata=some, timeout=30)
        else:
            code, text, _, _ = refusal(stub, rpc, GOOD[rpc], metadata=some)
            assert code is grpc.StatusCode.PERMISSION_DENIED
            assert f"'some' may not call {rpc}" in text
        getattr(stub, rpc)(GOOD[rpc], metadata=everything, timeout=30)


def test_a_stranger_learns_nothing_from_bad_bytes(guarded: Running) -> None:
    """Who has no token is UNAUTHENTICATED whatever the bytes are."""
    with grpc.insecure_channel(guarded.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE.full_name}/Decode")(b"\xff", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_while_draining_every_rpc_is_unavailable() -> None:
    """From the moment that health says NOT_SERVING new calls are UNAVAILABLE, though one is still in flight."""
    running = Running(max_rows=MANY, max_queue_rows=MANY, max_batch=1)
    with stub_of(running) as stub, grpc.insecure_channel(running.address) as other:
        watch = health_pb2_grpc.HealthStub(other).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        with running.holding():
            held = stub.Decode.future(pb.DecodeRequest(latents=z(MANY)), timeout=60)
            running.until_pending("decoder", MANY)
            closing = threading.Thread(target=running.close)
            closing.start()
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            refusals = [refusal(stub, rpc, GOOD[rpc]) for rpc in RPCS]
            assert not held.done()
            held.cancel()
        watch.cancel()
        closing.join(30)
    assert not closing.is_alive()
    assert {code for code, *_ in refusals} == {UNAVAILABLE}
