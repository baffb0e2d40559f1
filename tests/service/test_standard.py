"""Health and reflection: who may ask for them is a setting."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from armoire.cli import main
from armoire.client import Client
from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from tests.service.test_access import line
from tests.service.test_server import NOT_SERVING, SERVICE, SERVING, scrape, value
from tests.serving import Running, serving

# Narrow on purpose: whoever has any token at all may ask for health and reflection.
RIGHTS = "rpcs=Decode models=no-such-model rows_per_second=1"
GOOD = (("authorization", "Bearer good-secret"),)
BAD = ((), (("authorization", "Bearer wrong-secret"),), (("authorization", "good-secret"),))


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    (tmp_path / "tokens").write_text(line("prober", "good-secret", RIGHTS))
    return tmp_path / "tokens"


def check(running: Running, metadata: tuple[tuple[str, str], ...], service: str = SERVICE) -> int:
    with grpc.insecure_channel(running.address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return health_pb2_grpc.HealthStub(channel).Check(request, metadata=metadata, timeout=30).status


def watch(running: Running, metadata: tuple[tuple[str, str], ...]) -> int:
    with grpc.insecure_channel(running.address) as channel:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        return next(health_pb2_grpc.HealthStub(channel).Watch(request, metadata=metadata, timeout=30)).status


def services(running: Running, metadata: tuple[tuple[str, str], ...] = ()) -> set[str]:
    """The services that reflection lists; twice in one stream, as tools ask."""
    with grpc.insecure_channel(running.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="") for _ in range(2)]
        first, second = stub.ServerReflectionInfo(iter(asked), metadata=metadata, timeout=30)
    assert first == second
    return {service.name for service in first.list_services_response.service}


def refused_with(code: grpc.StatusCode, text: str = "") -> pytest.RaisesExc[grpc.RpcError]:
    return pytest.RaisesExc(grpc.RpcError, check=lambda e: e.code() is code and text in e.details())


def test_without_tokens_health_and_reflection_are_for_everybody(server: Running) -> None:
    """The defaults ask for nothing where no tokens are there to be asked for."""
    assert check(server, ()) == watch(server, ()) == SERVING
    assert SERVICE in services(server)


def test_with_tokens_health_is_open_and_reflection_is_not(tokens: Path) -> None:
    """By default probes need no token, and the API's definition is given to bearers of any token only."""
    with serving(tokens_file=tokens) as running:
        assert check(running, ()) == watch(running, ()) == SERVING
        for metadata in BAD:
            with refused_with(grpc.StatusCode.UNAUTHENTICATED, "token"):
                services(running, metadata)
        assert SERVICE in services(running, GOOD)
        assert value(scrape(running), 'armoire_rejected_total{reason="unauthenticated"}') == len(BAD)


def test_reflection_may_be_open_beside_tokens(tokens: Path) -> None:
    """Reflection open is open whatever tokens there are."""
    with serving(tokens_file=tokens, reflection="open") as running:
        assert SERVICE in services(running)


@pytest.mark.parametrize("metadata", [(), GOOD])
def test_reflection_off_is_not_there(tokens: Path, metadata: tuple[tuple[str, str], ...]) -> None:
    """Switched off it is unimplemented for everybody, and the service goes on."""
    with serving(tokens_file=tokens, reflection="off") as running:
        with refused_with(grpc.StatusCode.UNIMPLEMENTED):
            services(running, metadata)
        assert check(running, ()) == SERVING


def test_health_may_ask_for_a_token(tokens: Path) -> None:
    """With health=token Check is Unauthenticated without one; a watch by a channel's own is told that there is none."""
    with serving(tokens_file=tokens, health="token") as running:
        for metadata in BAD:
            with refused_with(grpc.StatusCode.UNAUTHENTICATED, "token"):
                check(running, metadata)
            with refused_with(grpc.StatusCode.UNIMPLEMENTED, "token"):
                watch(running, metadata)
        assert check(running, GOOD) == check(running, GOOD, "") == watch(running, GOOD) == SERVING
        with refused_with(grpc.StatusCode.NOT_FOUND):
            check(running, GOOD, "no.such.Service")


def test_a_client_that_balances_by_health_calls_a_server_that_hides_it(tmp_path: Path) -> None:
    """Its channel watches without the token, is told nothing, and calls all the same."""
    (tmp_path / "tokens").write_text(line("web", "good-secret"))
    with (
        serving(tokens_file=tmp_path / "tokens", health="token") as running,
        Client(running.address, token="good-secret", timeout=30) as client,
    ):
        assert len(client.sample(2).images) == 2


def test_armoire_health_brings_a_token(
    tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`armoire health --token-file` asks a server that wants one."""
    (tmp_path / "secret").write_text("good-secret\n")
    with serving(tokens_file=tokens, health="token") as running:
        assert main(["health", "--address", running.address]) == 1
        assert "no bearer token came" in capsys.readouterr().err
        command = ["health", "--address", running.address, "--token-file", str(tmp_path / "secret")]
        assert main(command) == 0
        assert capsys.readouterr().out == "SERVING\n"


def test_a_guarded_health_tells_of_the_end(tokens: Path) -> None:
    """A watch with a token sees NOT_SERVING when the server stops."""
    running = Running(tokens_file=tokens, health="token")
    with grpc.insecure_channel(running.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        states = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), metadata=GOOD, timeout=60)
        assert next(states).status == SERVING
        stopping = running.submit(running.server.stop())
        assert next(states).status == NOT_SERVING
        states.cancel()
        running.call(running.server.hurry)  # not before: it may end the watch without its last word
    stopping.result(60)


def test_the_metrics_port_is_bound_apart(tmp_path: Path) -> None:
    """Metrics listen where metrics_listen says, with no token, and gRPC is not answered there nor metrics here."""
    (tmp_path / "tokens").write_text(line("web", "good-secret"))
    with serving(tokens_file=tmp_path / "tokens", metrics_listen="127.0.0.2:0") as running:
        host, _, port = running.metrics_address.rpartition(":")
        assert host == "127.0.0.2"
        assert port != running.address.rpartition(":")[2]
        assert "armoire_model_info{" in scrape(running)
        with (
            grpc.insecure_channel(running.metrics_address) as channel,
            refused_with(grpc.StatusCode.UNAVAILABLE),
        ):
            pb_grpc.LatentServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=10)
