"""The client: arrays in and out, errors by their class, replicas, TLS and tokens."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme

from armoire import client as client_module
from armoire import errors
from armoire.client import Client
from tests.serving import Running, serving


def answered(running: Running) -> float:
    """Tell how many Decode calls a server has answered."""
    registry = running.server._metrics.registry
    return registry.get_sample_value("armoire_requests_total", {"method": "Decode", "code": "OK"}) or 0


def test_errors_come_back_as_their_class(client: Client) -> None:
    """A refusal is raised as the error class that carries its code, with the field's name."""
    with pytest.raises(errors.InvalidArgument, match="16") as refused:
        client.decode(np.zeros((2, 3), np.float32))
    assert refused.value.field == "latents"
    with pytest.raises(errors.NotFound, match="ankle_boot"):
        client.add_attribute(np.zeros((1, 16), np.float32), "smiling")


def test_a_refusal_for_load_tells_when_to_come_back() -> None:
    """The client's Overloaded carries the server's RetryInfo."""
    with serving(max_rows=1024, max_queue_rows=1024) as running, Client(running.address) as client:
        z = np.zeros((1024, 16), np.float32)
        with ThreadPoolExecutor(1) as caller:
            with running.holding():
                full = caller.submit(client.decode, z)
                running.until_pending("decoder", 1024)
                with pytest.raises(errors.Overloaded, match="max_queue_rows") as refused:
                    client.decode(z)
            full.result(30)
    assert 0 < refused.value.retry_after < 10


def test_wrong_types_are_told_before_they_are_sent(client: Client) -> None:
    """Float pixels and an unknown path are refused by the client itself."""
    with pytest.raises(errors.InvalidArgument, match="uint8"):
        client.encode(np.zeros((1, 32, 32, 1)))
    with pytest.raises(errors.InvalidArgument, match="linear or spherical"):
        client.interpolate(np.zeros((1, 16)), np.zeros((1, 16)), path="curly")


def test_no_server_is_told_with_what_to_do() -> None:
    """Without a server the error is Unavailable and names the command that starts one."""
    with Client("127.0.0.1:1", timeout=5) as client, pytest.raises(errors.Unavailable, match="armoire serve"):
        client.models()


def test_a_deadline_is_the_clients() -> None:
    """A timeout that no server could meet is DeadlineExceeded."""
    with (
        serving() as running,
        Client(running.address, timeout=0.002) as client,
        pytest.raises(errors.DeadlineExceeded),
    ):
        client.decode(np.zeros((1024, 16), np.float32))


def test_replies_are_the_callers_own_arrays(client: Client) -> None:
    """What the client gives can be written to."""
    drawn = client.sample(2, seed=1)
    drawn.images[:] = 0
    drawn.latents[:] = 0


def test_replicas_share_the_calls_and_one_may_leave() -> None:
    """Calls go round both replicas; when one drains, the other answers all and none fails."""
    z = np.zeros((1, 16), np.float32)
    with serving() as stays:
        leaves = Running()
        ports = ",".join(replica.address for replica in (stays, leaves))
        with Client(f"ipv4:{ports}") as client:
            while not (answered(stays) and answered(leaves)):
                client.decode(z)  # bounded by the test's time limit
            before = [answered(replica) for replica in (stays, leaves)]
            for _ in range(40):
                client.decode(z)
            shares = [answered(replica) - old for replica, old in zip((stays, leaves), before, strict=True)]
            assert shares == [20, 20]
            leaves.close()
            for _ in range(40):
                client.decode(z)
        assert answered(stays) == before[0] + 60


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path) -> Iterator[Running]:
    pair = authority.issue_cert("127.0.0.1")
    (tmp_path / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
    (tmp_path / "key.pem").write_bytes(pair.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with serving(
        tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem", tls_client_ca=tmp_path / "ca.pem"
    ) as running:
        yield running


def test_mutual_tls_lets_in_those_whom_the_authority_signed(tls: Running, authority: trustme.CA) -> None:
    """A client with a certificate is answered; one without, or one that speaks plain text, is not."""
    mine = authority.issue_cert("caller@example.com")
    root = authority.cert_pem.bytes()
    good = grpc.ssl_channel_credentials(root, mine.private_key_pem.bytes(), mine.cert_chain_pems[0].bytes())
    with Client(tls.address, credentials=good) as client:
        assert len(client.sample(2, seed=1).images) == 2
    for bad in (
        grpc.ssl_channel_credentials(root),
        grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes()),
        None,
    ):
        with (
            Client(tls.address, credentials=bad, timeout=2) as client,
            pytest.raises(errors.ArmoireError) as refused,
        ):
            client.models()
        assert refused.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_tokens_say_who_may_call_what(tmp_path: Path) -> None:
    """Without a known token a call is Unauthenticated; without the right to the RPC it is PermissionDenied."""
    hashed = {
        secret: hashlib.sha256(secret.encode()).hexdigest() for secret in ("open-sesame", "decode-only")
    }
    file = tmp_path / "tokens"
    file.write_text(f"web {hashed['open-sesame']}\nworker {hashed['decode-only']} Decode,ListModels\n")
    z = np.zeros((1, 16), np.float32)
    with serving(tokens_file=file) as running:
        with Client(running.address, token="open-sesame") as client:
            client.sample(1)
        with Client(running.address, token="decode-only") as client:
            client.decode(z)
            with pytest.raises(errors.PermissionDenied, match="'worker' may not call Sample"):
                client.sample(1)
        for token in (None, "guess"):
            with (
                Client(running.address, token=token) as client,
                pytest.raises(errors.Unauthenticated) as refused,
            ):
                client.decode(z)
            assert token is None or token not in str(refused.value)


def test_a_caller_loads_no_server() -> None:
    """Importing the client brings neither ONNX Runtime nor Prometheus nor msgspec; the server brings no torch."""
    look = "import sys, {0}; print(*sorted({1} & set(sys.modules)))"
    for module, unwanted in (
        ("armoire.client", {"onnxruntime", "prometheus_client", "msgspec", "torch"}),
        ("armoire.server", {"torch"}),
    ):
        ran = subprocess.run(
            [sys.executable, "-c", look.format(module, unwanted)], capture_output=True, text=True, check=True
        )
        assert ran.stdout.strip() == ""


def test_all_names_are_there() -> None:
    """Every name in __all__ exists, and the error tree's docstring draws every class."""
    for module in (client_module, errors):
        for name in module.__all__:
            assert hasattr(module, name)
    for name in errors.__all__:
        assert name in errors.__doc__


def test_a_large_request_is_tried_again_too() -> None:
    """A call over gRPC's 256 KiB of retry buffer moves to the other replica when its own one drains."""
    with serving() as stays:
        leaves = Running()
        with Client(f"ipv4:{stays.address},{leaves.address}") as client:
            pixels = np.zeros((1024, 32, 32, 1), np.uint8)
            while not all(
                running.server._metrics.registry.get_sample_value(
                    "armoire_requests_total", {"method": "ListModels", "code": "OK"}
                )
                for running in (stays, leaves)
            ):
                client.models()
            # Draining while health still says SERVING: what a client sees that has not heard of it yet.
            draining = leaves.submit(leaves.server._interceptor.drain(5))
            for _ in range(4):
                assert len(client.encode(pixels).means) == 1024
            draining.result(30)
        leaves.close()


def test_a_limit_is_its_own_class(client: Client) -> None:
    """More rows than a limit is LimitExceeded on the caller's side too, with the field's name."""
    with pytest.raises(errors.LimitExceeded, match="max_rows") as refused:
        client.sample(5000)
    assert refused.value.field == "count"


@pytest.mark.parametrize("numbers", [{"seed": -1}, {"seed": 1 << 64}, {"count": 1 << 40}])
def test_numbers_that_protobuf_cannot_hold_are_told(client: Client, numbers: dict[str, int]) -> None:
    """A count or seed out of range is InvalidArgument instead of protobuf's own exception."""
    with pytest.raises(errors.InvalidArgument, match="is wanted"):
        client.sample(**{"count": 1, **numbers})
