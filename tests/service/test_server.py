"""How the server behaves for those who run it: health, reflection, metrics, logs, start and shutdown."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from armoire import config
from armoire.client import Client
from armoire.errors import BadSettings
from armoire.loading import Loader
from armoire.server import RPCS, Server
from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.tensors import to_tensor
from tests.serving import ANY_PORT, Running, serving

SERVICE = "armoire.v1.LatentService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
METRICS = {
    "armoire_requests_total",
    "armoire_request_duration_seconds",
    "armoire_queue_duration_seconds",
    "armoire_inference_duration_seconds",
    "armoire_batch_rows",
    "armoire_rows_total",
    "armoire_pending_rows",
    "armoire_padding_rows_total",
    "armoire_rejected_total",
    "armoire_deadline_missed_total",
    "armoire_model_info",
    "process_resident_memory_bytes",
}


@contextmanager
def process(
    *arguments: str, program: str | None = None, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Run `armoire serve` as its user does, on any free port; ``program`` stands in for the command line's."""
    python = ["-m", "armoire.cli"] if program is None else ["-c", program]
    command = [sys.executable, *python, "serve", *arguments]
    variables = {
        "ARMOIRE_LISTEN": "127.0.0.1:0",
        "ARMOIRE_METRICS_LISTEN": "127.0.0.1:0",
        "ARMOIRE_THREADS": "1",
    }
    started = subprocess.Popen(
        command,
        env={**os.environ, **variables, **environment},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def ready(server: subprocess.Popen[str]) -> str:
    """Give the address that the log names once the server is ready."""
    for line in server.stderr:
        if found := re.search(r"serving .* on (127\.0\.0\.1:\d+)", line):
            return found[1]
    raise AssertionError("the server ended before it was ready")


def scrape(running: Running | Server) -> str:
    with urllib.request.urlopen(f"http://{running.metrics_address}/metrics", timeout=10) as reply:
        return reply.read().decode()


def value(text: str, series: str) -> float:
    return next(
        (float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(series)), 0.0
    )


def test_health_says_serving_overall_and_for_the_service(server: Running) -> None:
    """Check answers SERVING for the empty name and for LatentService, NOT_FOUND for others."""
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status == SERVING
        with pytest.raises(grpc.RpcError) as refused:
            health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=10)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_is_not_serving_until_the_graphs_are_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the models warm up Check and Watch say NOT_SERVING and calls are UNAVAILABLE; then SERVING."""
    warm, entered = threading.Event(), threading.Event()
    load = Loader.load

    def held(self: Loader, *arguments: object) -> object:
        entered.set()
        assert warm.wait(30)
        return load(self, *arguments)

    monkeypatch.setattr(Loader, "load", held)
    server = Server(config.load(ANY_PORT))
    start = asyncio.create_task(server.start())
    await asyncio.to_thread(entered.wait, 30)
    async with grpc.aio.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == NOT_SERVING
        for name in ("", SERVICE):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == NOT_SERVING
        stub = pb_grpc.LatentServiceStub(channel)
        for call in (stub.ListModels(pb.ListModelsRequest()), stub.Sample(pb.SampleRequest(count=1))):
            with pytest.raises(grpc.aio.AioRpcError, match="warming up") as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        warm.set()
        await start
        assert (await watch.read()).status == SERVING
        assert len((await stub.ListModels(pb.ListModelsRequest())).models) > 0
        watch.cancel()
    await server.stop()


def test_a_stopping_server_answers_what_it_has_and_refuses_the_rest() -> None:
    """On stop the watch says NOT_SERVING, the calls in flight are answered, and a new one is UNAVAILABLE."""
    running = Running()
    request = pb.DecodeRequest(latents=to_tensor(np.zeros((1024, 16), np.float32)), model="fashion-mnist")
    with grpc.insecure_channel(running.address) as channel, grpc.insecure_channel(running.address) as other:
        stub = pb_grpc.LatentServiceStub(channel)
        watch = health_pb2_grpc.HealthStub(other).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert next(watch).status == SERVING
        with running.holding():
            in_flight = [stub.Decode.future(request, timeout=60) for _ in range(3)]
            running.until_pending("decoder", 3 * 1024)
            closing = threading.Thread(target=running.close)
            closing.start()
            assert next(watch).status == NOT_SERVING
            with pytest.raises(grpc.RpcError) as refused:
                stub.ListModels(pb.ListModelsRequest(), timeout=30)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        shapes = [list(call.result().images.pixels.shape) for call in in_flight]
        assert shapes == [[1024, 32, 32, 1]] * 3
        watch.cancel()
    closing.join(30)
    assert not closing.is_alive()


def test_grace_bounds_the_wait_for_a_call_that_never_ends() -> None:
    """A call that is not done after the grace is cut off, and the server stops."""
    running = Running(grace=0.2)
    with grpc.insecure_channel(running.address) as channel, running.holding():
        stuck = pb_grpc.LatentServiceStub(channel).Sample.future(pb.SampleRequest(count=1), timeout=60)
        running.until_pending("decoder", 1)
        running.run(running.server.stop())
        assert stuck.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


def test_reflection_describes_the_service(server: Running) -> None:
    """A tool without our .proto can list the services and fetch LatentService's definition."""
    with grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        ]
        listed, described = stub.ServerReflectionInfo(iter(requests), timeout=10)
    names = {service.name for service in listed.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= names
    assert b"AddAttribute" in described.file_descriptor_response.file_descriptor_proto[0]


def test_metrics_count_calls_rows_and_refusals(server: Running, client: Client) -> None:
    """Every metric of the design is there, and calls, rows and refusals move those that they should."""
    before = scrape(server)
    client.decode(np.zeros((5, 16), np.float32))
    with pytest.raises(Exception, match="max_rows"):
        client.sample(5000)
    after = scrape(server)
    names = {line.split()[2] for line in after.splitlines() if line.startswith("# TYPE")}
    assert names >= METRICS
    for series, moved in (
        ('armoire_requests_total{code="OK",method="Decode"}', 1),
        ('armoire_requests_total{code="INVALID_ARGUMENT",method="Sample"}', 1),
        ('armoire_request_duration_seconds_count{method="Decode"}', 1),
        ('armoire_request_duration_seconds_count{method="Sample"}', 0),  # it was refused
        ('armoire_rows_total{graph="decoder",model="fashion-mnist"}', 5),
        ('armoire_batch_rows_sum{graph="decoder",model="fashion-mnist"}', 5),
        ('armoire_queue_duration_seconds_count{graph="decoder",model="fashion-mnist"}', 1),
        ('armoire_inference_duration_seconds_count{graph="decoder",model="fashion-mnist"}', 1),
        ('armoire_rejected_total{reason="limit"}', 1),
    ):
        assert value(after, series) - value(before, series) == moved, series
    assert value(after, 'armoire_pending_rows{graph="decoder",model="fashion-mnist"}') == 0
    info = next(line for line in after.splitlines() if line.startswith("armoire_model_info{"))
    assert 'provider="CPUExecutionProvider"' in info


def test_who_asks_the_metrics_port_for_nothing_is_sent_away(server: Running) -> None:
    """A connection without a request, or with half of one, is closed within seconds; metrics are told meanwhile."""
    host, _, port = server.metrics_address.rpartition(":")
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection((host, int(port)), 30)) for _ in range(20)]
        for each in silent[10:]:
            each.sendall(b"GET /met")
        assert "armoire_requests_total" in scrape(server)
        assert {each.recv(1) for each in silent} == {b""}


def test_a_reply_tells_its_times_and_its_request_id(stub: pb_grpc.LatentServiceStub) -> None:
    """Trailing metadata gives queue, run and total milliseconds, and the request id that came."""
    _, call = stub.Sample.with_call(
        pb.SampleRequest(count=4), metadata=(("x-request-id", "night-shift-7"),), timeout=10
    )
    trailing = dict(call.trailing_metadata())
    times = re.fullmatch(r"queue=([\d.]+), run=([\d.]+), total=([\d.]+)", trailing["armoire-timing"])
    queue, run, total = (float(group) for group in times.groups())
    assert 0 < run < total
    assert 0 <= queue < total
    assert trailing["x-request-id"] == "night-shift-7"


@pytest.mark.parametrize("hostile", ["a" * 65, "two words", ""])
def test_a_request_id_that_cannot_be_logged_is_replaced(
    stub: pb_grpc.LatentServiceStub, hostile: str
) -> None:
    """An id that is too long, empty, or holds a space never reaches the log."""
    _, call = stub.ListModels.with_call(
        pb.ListModelsRequest(), metadata=(("x-request-id", hostile),), timeout=10
    )
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", dict(call.trailing_metadata())["x-request-id"])


def test_a_bug_is_internal_with_its_traceback_in_the_log_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unforeseen exception answers INTERNAL with a request id; its text stays in the log."""
    from armoire.wire.servicer import LatentServicer

    def broken(self: LatentServicer, model: object) -> None:
        raise RuntimeError("the secret plan")

    monkeypatch.setattr(LatentServicer, "_describe", broken)
    with serving() as running, grpc.insecure_channel(running.address) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            pb_grpc.LatentServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=10)
        counted = value(scrape(running), 'armoire_requests_total{code="INTERNAL",method="ListModels"}')
    assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in refused.value.details()
    assert "the secret plan" in caplog.text
    assert counted == 1


def test_sigterm_drains_and_exits_zero() -> None:
    """SIGTERM under load: every call in flight is answered or refused as UNAVAILABLE, and the status is 0."""
    with process() as server:
        address = ready(server)
        outcomes: list[str] = []

        def caller() -> None:
            with grpc.insecure_channel(address) as channel:
                decode = pb_grpc.LatentServiceStub(channel).Decode
                while True:
                    try:
                        decode(
                            pb.DecodeRequest(latents=to_tensor(np.zeros((64, 16), np.float32))), timeout=30
                        )
                    except grpc.RpcError as refused:
                        outcomes.append(refused.code().name)
                        return
                    outcomes.append("answered")
                    if len(outcomes) == 50:
                        server.send_signal(signal.SIGTERM)

        callers = [threading.Thread(target=caller) for _ in range(4)]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join(60)
        assert server.wait(30) == 0
        counts = Counter(outcomes)
        assert counts.keys() == {"answered", "UNAVAILABLE"}, counts
        assert counts["UNAVAILABLE"] == len(callers), counts
        assert "stopped" in server.stderr.read()


def test_sigint_stops_as_well() -> None:
    """Ctrl-C ends the server with status 0 and without a traceback."""
    with process() as server:
        ready(server)
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
        assert "Traceback" not in server.stderr.read()


def test_a_second_ctrl_c_cuts_the_drain_short() -> None:
    """While a large call holds up the drain, Ctrl-C once more ends it: the call is cut off, the exit status is 0."""
    # A million rows are minutes of work, far more than this test waits.
    limits = {"MAX_ROWS": "65536", "MAX_QUEUE_ROWS": "1048576", "GRACE": "3600"}
    with process(**{f"ARMOIRE_{name}": text for name, text in limits.items()}) as server:
        line = next(line for line in server.stderr if "serving" in line)
        address = re.search(r" on (127\.0\.0\.1:\d+)", line)[1]
        metrics = re.search(r"http://\S+/metrics", line)[0]
        with grpc.insecure_channel(address) as channel:
            sample = pb_grpc.LatentServiceStub(channel).Sample
            held = [sample.future(pb.SampleRequest(count=65536), timeout=600) for _ in range(16)]
            pending = 'armoire_pending_rows{graph="decoder",model="fashion-mnist"}'
            while not value(urllib.request.urlopen(metrics, timeout=10).read().decode(), pending):
                pass  # bounded by the test's time limit
            server.send_signal(signal.SIGINT)
            assert any("draining" in line for line in server.stderr)
            assert server.poll() is None
            server.send_signal(signal.SIGINT)
            assert server.wait(60) == 0
            cut_off = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
            assert all(call.code() in cut_off for call in held)
        assert "Traceback" not in server.stderr.read()


def test_json_logs_are_one_object_a_line() -> None:
    """With log_format json every line parses, and a call's line has its fields."""
    with process("--log-format", "json") as server:
        lines = [json.loads(server.stderr.readline())]
        while "serving" not in lines[-1]["message"]:
            lines.append(json.loads(server.stderr.readline()))
        address = re.search(r"on (127\.0\.0\.1:\d+)", lines[-1]["message"])[1]
        with Client(address) as client:
            client.sample(2, seed=1)
        line = json.loads(server.stderr.readline())
        server.send_signal(signal.SIGTERM)
        rest = [json.loads(text) for text in server.stderr.read().splitlines()]
    assert (line["method"], line["code"]) == ("Sample", "OK")
    assert line["milliseconds"] > 0
    assert re.fullmatch(r"[0-9a-f]{8}-1", line["request_id"])
    assert rest[-1]["message"] == "stopped"


@pytest.mark.parametrize(
    ("arguments", "environment", "text"),
    [
        (["--listen", "nonsense"], {}, "--listen is 'nonsense'"),
        ([], {"ARMOIRE_MAX_ROW": "5"}, "ARMOIRE_MAX_ROWS"),
        ([], {"ARMOIRE_THREADS": "-1"}, "ARMOIRE_THREADS is '-1'"),
        (["--models", "/nowhere"], {}, "/nowhere is no folder"),
        (["--default-model", "shoes"], {}, "there is fashion-mnist"),
        (["--provider", "cuda"], {}, "provider is cuda, which does not work here"),
        (["--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.pem"], {}, "/nowhere.pem cannot be read"),
        (["--tokens-file", "/nowhere"], {}, "tokens_file /nowhere cannot be read"),
        (["--listen", "192.0.2.1:50051"], {}, "where no server can be bound"),
        (["--metrics-listen", "192.0.2.1:9464"], {}, "where no server can be bound"),
        (["--listen", "a..b:1"], {}, "where no server can be bound"),
        (["--metrics-listen", "a..b:1"], {}, "where no server can be bound"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(
    arguments: list[str], environment: dict[str, str], text: str
) -> None:
    """Bad settings end with status 2 and one line of ours that names the setting."""
    with process(*arguments, **environment) as server:
        _, errors = server.communicate(timeout=60)
    lines = [line for line in errors.splitlines() if " INFO " not in line]
    assert server.returncode == 2
    assert len(lines) == 1
    assert lines[0].startswith("armoire: ")
    assert text in lines[0]


@pytest.mark.parametrize("pair", ["no PEM at all", ""])
def test_a_tls_pair_that_is_none_is_told(tmp_path: Path, pair: str) -> None:
    """Files that hold no certificate are refused with the setting's name."""
    (tmp_path / "pair.pem").write_text(pair)
    file = str(tmp_path / "pair.pem")
    with process("--tls-cert", file, "--tls-key", file) as server:
        _, errors = server.communicate(timeout=60)
    assert server.returncode == 2
    assert f"tls_cert {file} holds no PEM certificate" in errors.splitlines()[-1]


async def test_two_servers_never_share_a_port(server: Running) -> None:
    """A second server on the same address refuses to start instead of taking half the calls."""
    second = Server(config.load(ANY_PORT | {"listen": server.address}))
    with pytest.raises(BadSettings, match="another one running"):
        await second.start()


async def test_a_unix_socket_serves(tmp_path: Path) -> None:
    """A unix: address needs no port at all."""
    address = f"unix:{tmp_path}/armoire.sock"
    server = Server(config.load(ANY_PORT | {"listen": address}))
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        reply = await pb_grpc.LatentServiceStub(channel).Sample(pb.SampleRequest(count=2))
    assert list(reply.latents.shape) == [2, 16]
    await server.stop()


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
async def test_two_servers_never_share_a_unix_socket(tmp_path: Path, form: str) -> None:
    """A second server refuses the socket of a running one, which goes on serving, and takes one that is left over."""
    address = form.format(tmp_path / "armoire.sock")
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "armoire.sock"))
    server = Server(config.load(ANY_PORT | {"listen": address}))
    await server.start()
    with pytest.raises(BadSettings, match="another one running"):
        await Server(config.load(ANY_PORT | {"listen": address})).start()
    async with grpc.aio.insecure_channel(address) as channel:
        reply = await pb_grpc.LatentServiceStub(channel).Sample(pb.SampleRequest(count=2))
    assert list(reply.latents.shape) == [2, 16]
    await server.stop()


def test_the_rpcs_that_tokens_can_name_are_those_of_the_service() -> None:
    """The names are read from the wire contract, so a new RPC is covered by itself."""
    assert {"ListModels", "Encode", "Decode", "Sample", "Interpolate", "AddAttribute"} == RPCS
