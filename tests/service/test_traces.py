"""What a collector sees of calls and batches, and what calls see of a collector: nothing."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from armoire.engine.graph import Graph
from armoire.spans import ERRORS, FLUSH_SECONDS
from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.tensors import to_tensor
from tests.collector import Collector, Span, collecting
from tests.service.test_server import process, ready
from tests.serving import Running, serving

SERVICE = "armoire.v1.LatentService"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = ("traceparent", f"00-{TRACE}-{PARENT}-01")
UNSAMPLED = ("traceparent", f"00-{TRACE}-{PARENT}-00")
# No bound on a batch, so that a busy machine cannot make it smaller than a test wants it.
UNBOUND = {"latency_goal_ms": 0}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that the servers of a test send to; a server that has stopped has sent all it had."""
    with collecting() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.endpoint)
        yield running


def stub(channel: grpc.Channel) -> pb_grpc.LatentServiceStub:
    return pb_grpc.LatentServiceStub(channel)


def decode(rows: int) -> pb.DecodeRequest:
    return pb.DecodeRequest(latents=to_tensor(np.zeros((rows, 16), np.float32)))


def call(running: Running, request: pb.DecodeRequest, *metadata: tuple[str, str]) -> None:
    with grpc.insecure_channel(running.address) as channel:
        stub(channel).Decode(request, metadata=metadata, timeout=30)


def refused(running: Running, request: pb.DecodeRequest, **options: object) -> grpc.StatusCode:
    with grpc.insecure_channel(running.address) as channel, pytest.raises(grpc.RpcError) as error:
        stub(channel).Decode(request, **{"timeout": 30, **options})
    return error.value.code()


def in_order(*times: int) -> bool:
    return list(times) == sorted(times)


def test_a_call_is_a_span_under_its_callers_with_its_wait_and_its_run(collector: Collector) -> None:
    """The span has the caller's as parent and the conventions' names, and its children lie in it in order."""
    before = time.time_ns()
    with serving() as running:
        call(running, decode(3), SAMPLED, ("tracestate", "vendor=1"), ("x-request-id", "night-shift-7"))
    (server,) = collector.named(f"{SERVICE}/Decode")
    assert (server.trace, server.parent) == (TRACE, PARENT)
    assert server.message.trace_state == "vendor=1"
    assert server.message.kind == server.message.SPAN_KIND_SERVER
    assert server.attributes == {
        "rpc.system.name": "grpc",
        "rpc.system": "grpc",
        "rpc.service": SERVICE,
        "rpc.method": f"{SERVICE}/Decode",
        "rpc.response.status_code": "OK",
        "rpc.grpc.status_code": 0,
        "server.address": "127.0.0.1",
        "armoire.request_id": "night-shift-7",
    }
    assert not server.failed
    (queue,), (run,), (batch,) = map(collector.named, ("armoire.queue", "armoire.run", "armoire.batch"))
    for child in (queue, run):
        assert (child.trace, child.parent) == (TRACE, server.id)
        assert child.attributes == {
            "armoire.model": "fashion-mnist",
            "armoire.graph": "decoder",
            "armoire.rows": 3,
        }
    assert in_order(
        before, server.start, queue.start, queue.end, run.start, run.end, server.end, time.time_ns()
    )
    assert run.links == {batch.id}
    assert batch.links == {server.id}
    assert len(collector.spans) == 4


def test_calls_of_one_batch_share_its_span(collector: Collector) -> None:
    """Four calls that ran together are linked to one span of a trace of its own, and it to all of them."""
    with serving(**UNBOUND) as running, grpc.insecure_channel(running.address) as channel:
        with running.holding():
            calls = [stub(channel).Decode.future(decode(rows), timeout=30) for rows in (1, 2, 2, 3)]
            running.until_pending("decoder", 8)
        for each in calls:
            each.result()
    (batch,) = collector.named("armoire.batch")
    servers, runs = collector.named(f"{SERVICE}/Decode"), collector.named("armoire.run")
    assert batch.parent == ""
    assert batch.trace not in {span.trace for span in servers}
    assert batch.links == {span.id for span in servers}
    assert len({span.trace for span in servers}) == len(servers) == 4
    assert batch.attributes == {
        "armoire.model": "fashion-mnist",
        "armoire.graph": "decoder",
        "armoire.rows": 8,
        "armoire.padding": 0,
        "armoire.calls": 4,
    }
    assert [run.links for run in runs] == [{batch.id}] * 4
    assert {run.parent for run in runs} == batch.links


def test_a_call_of_several_batches_has_one_run_that_is_linked_to_each(collector: Collector) -> None:
    """Its run begins with the first of them and ends with the last."""
    with serving(max_batch=8, **UNBOUND) as running:
        call(running, decode(40))
    (run,), batches = collector.named("armoire.run"), collector.named("armoire.batch")
    assert len(batches) == 5
    assert run.links == {batch.id for batch in batches}
    assert (run.start, run.end) == (batches[0].start, batches[-1].end)
    assert run.attributes["armoire.rows"] == 40


def test_links_are_as_many_as_the_variable_allows(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_SPAN_LINK_COUNT_LIMIT bounds what a call of many batches keeps, and the span says what is left out."""
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "3")
    with serving(max_batch=8, **UNBOUND) as running:
        batches = -(-40 // running.cost("decoder").max_batch)
        call(running, decode(40))
    (run,) = collector.named("armoire.run")
    assert (len(run.links), run.message.dropped_links_count) == (3, batches - 3)


def test_a_call_through_both_graphs_waits_and_runs_twice(collector: Collector) -> None:
    """A walk between images is encoded, then decoded, one after the other."""
    images = pb.Points(images=pb.Images(pixels=to_tensor(np.zeros((1, 32, 32, 1), np.uint8))))
    request = pb.InterpolateRequest(start=images, end=images, steps=5)
    with serving() as running, grpc.insecure_channel(running.address) as channel:
        stub(channel).Interpolate(request, timeout=30)
    queues, runs = collector.named("armoire.queue"), collector.named("armoire.run")
    for spans in (queues, runs):
        graphs = [(span.attributes["armoire.graph"], span.attributes["armoire.rows"]) for span in spans]
        assert graphs == [("encoder", 2), ("decoder", 5)]
    assert in_order(
        *(time for pair in zip(queues, runs, strict=True) for span in pair for time in ends(span))
    )


def ends(span: Span) -> tuple[int, int]:
    return span.start, span.end


def test_a_callers_mistake_is_no_error_of_the_server(collector: Collector, tmp_path: Path) -> None:
    """INVALID_ARGUMENT, NOT_FOUND and UNAUTHENTICATED leave the status unset, and no token leaves the server."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"web {'0' * 64}\n")
    with serving(tokens_file=str(tokens)) as running:
        metadata = (("authorization", "Bearer the-secret-token"),)
        assert refused(running, decode(1), metadata=metadata) is grpc.StatusCode.UNAUTHENTICATED
    with serving() as running:
        assert refused(running, pb.DecodeRequest()) is grpc.StatusCode.INVALID_ARGUMENT
        assert refused(running, pb.DecodeRequest(model="shoes")) is grpc.StatusCode.NOT_FOUND
    servers = collector.named(f"{SERVICE}/Decode")
    codes = ("UNAUTHENTICATED", 16), ("INVALID_ARGUMENT", 3), ("NOT_FOUND", 5)
    told = [(s.attributes["rpc.response.status_code"], s.attributes["rpc.grpc.status_code"]) for s in servers]
    assert told == list(codes)
    assert not any(span.failed or "error.type" in span.attributes for span in servers)
    assert b"the-secret-token" not in collector.bodies


def test_a_failed_batch_is_an_error_of_all_its_spans(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INTERNAL marks the call, its run and the batch; the call's span has the message that the caller has."""
    with serving() as running:
        monkeypatch.setattr(Graph, "run", lambda *_: 1 / 0)
        assert refused(running, decode(1)) is grpc.StatusCode.INTERNAL
    (server,), (run,), (batch,) = map(collector.named, (f"{SERVICE}/Decode", "armoire.run", "armoire.batch"))
    assert server.attributes["error.type"] == "INTERNAL"
    assert "incident" in server.message.status.message
    assert batch.message.status.message == "ZeroDivisionError"
    assert server.failed
    assert run.failed
    assert batch.failed
    assert not collector.named("armoire.queue")[0].failed
    assert run.links == {batch.id}
    assert in_order(server.start, run.start, run.end, server.end)


def test_a_deadline_that_passes_in_the_queue_is_an_error_and_its_wait_is_seen(collector: Collector) -> None:
    """DEADLINE_EXCEEDED fails the call's span, whose only child is the wait."""
    with serving(**UNBOUND) as running, running.holding():
        assert refused(running, decode(1), timeout=0.5) is grpc.StatusCode.DEADLINE_EXCEEDED
        running.until_pending("decoder", 0)
    (server,) = collector.named(f"{SERVICE}/Decode")
    assert server.attributes["rpc.response.status_code"] == "DEADLINE_EXCEEDED"
    assert server.failed
    (child,) = (span for span in collector.spans if span.parent == server.id)
    assert child.name == "armoire.queue"
    assert in_order(server.start, child.start, child.end, server.end)
    assert child.end - child.start > 1e8


def test_a_server_that_is_not_ready_to_answer_is_an_error(collector: Collector) -> None:
    """UNAVAILABLE of a server that drains fails the span."""
    with serving(grace=30) as running, grpc.insecure_channel(running.address) as channel:
        with running.holding():
            kept = stub(channel).Decode.future(decode(1), timeout=30)
            running.until_pending("decoder", 1)
            draining = running.submit(running.server.stop())
            while not running.server._interceptor._draining:
                running.run(noop())
            assert refused(running, decode(1)) is grpc.StatusCode.UNAVAILABLE
        kept.result()
        draining.result(30)
    failed = [span for span in collector.named(f"{SERVICE}/Decode") if span.failed]
    assert [span.attributes["error.type"] for span in failed] == ["UNAVAILABLE"]


async def noop() -> None:
    pass


def test_the_errors_are_those_of_the_conventions() -> None:
    """Of all status codes six are a server's errors by the semantic conventions for gRPC."""
    names = "UNKNOWN DEADLINE_EXCEEDED UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS"
    assert {code.name for code in ERRORS} == set(names.split())


def test_a_cancelled_call_is_no_error(collector: Collector) -> None:
    """A caller that goes while its rows wait leaves a span CANCELLED without error, with its wait and no run."""
    with serving(**UNBOUND) as running, grpc.insecure_channel(running.address) as channel, running.holding():
        gone = stub(channel).Decode.future(decode(2), timeout=30)
        running.until_pending("decoder", 2)
        gone.cancel()
        running.until_pending("decoder", 0)
    (server,) = collector.named(f"{SERVICE}/Decode")
    assert server.attributes["rpc.response.status_code"] == "CANCELLED"
    assert not server.failed
    (queue,) = [span for span in collector.spans if span.parent == server.id]
    assert queue.name == "armoire.queue"
    assert queue.attributes["armoire.rows"] == 2
    assert collector.named("armoire.batch") == []


def test_a_call_that_goes_while_it_runs_ends_before_its_batch(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run ends with it, and the batch is linked to it all the same."""
    begun, go = threading.Event(), threading.Event()
    run = Graph.run

    def held(self: Graph, *arguments: object) -> None:
        begun.set()
        assert go.wait(30)
        run(self, *arguments)

    with serving() as running, grpc.insecure_channel(running.address) as channel:
        monkeypatch.setattr(Graph, "run", held)
        gone = stub(channel).Decode.future(decode(2), timeout=30)
        assert begun.wait(30)
        gone.cancel()
        running.until_pending("decoder", 0)
        go.set()
    (server,), (ran,), (batch,) = map(collector.named, (f"{SERVICE}/Decode", "armoire.run", "armoire.batch"))
    assert batch.links == {server.id}
    assert ran.links == set()
    assert in_order(server.start, ran.start, ran.end, server.end, batch.end)


def test_the_sampler_decides(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only sampled callers are traced, a batch of one such and two others has one link, and they no span."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    with serving(**UNBOUND) as running, grpc.insecure_channel(running.address) as channel:
        call(running, decode(1))
        with running.holding():
            calls = [
                stub(channel).Decode.future(decode(1), timeout=30, metadata=metadata)
                for metadata in ((UNSAMPLED,), (SAMPLED,), ())
            ]
            running.until_pending("decoder", 3)
        for each in calls:
            each.result()
    (server,), (batch,) = collector.named(f"{SERVICE}/Decode"), collector.named("armoire.batch")
    assert server.parent == PARENT
    assert batch.links == {server.id}
    assert (batch.attributes["armoire.rows"], batch.attributes["armoire.calls"]) == (3, 3)


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "armoire"),
        ({"OTEL_SERVICE_NAME": "wardrobe"}, "wardrobe"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=chest,deployment.environment.name=test"}, "chest"),
    ],
)
def test_the_service_has_the_name_that_the_variables_give(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str
) -> None:
    """The sender is called armoire unless OpenTelemetry's variables say otherwise."""
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with serving() as running:
        call(running, decode(1))
    assert collector.resource["service.name"] == name
    assert collector.resource["service.version"]
    assert collector.resource["telemetry.sdk.name"] == "opentelemetry"
    assert ("deployment.environment.name" in collector.resource) == (name == "chest")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_log_line_has_the_trace_of_a_call_that_is_sampled(
    collector: Collector,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    log_format: str,
) -> None:
    """The trace's id and the caller's own stand in the line of a sampled call, and no trace in that of another."""
    caplog.set_level(logging.INFO, "armoire.calls")
    with serving(log_format=log_format) as running:
        for parent in (SAMPLED, UNSAMPLED):
            call(running, decode(1), parent, ("x-request-id", "night-shift-7"))
    lines = [line for line in capsys.readouterr().err.splitlines() if "Decode OK" in line]
    sampled, unsampled = lines
    if log_format == "json":
        assert json.loads(sampled)["request_id"] == "night-shift-7"
        assert json.loads(sampled)["trace_id"] == TRACE
        assert "trace_id" not in json.loads(unsampled)
    else:
        assert re.search(rf" request=night-shift-7 trace={TRACE}$", sampled)
        assert "trace" not in unsampled


def scrape(running: Running, accept: str) -> tuple[str, str]:
    request = urllib.request.Request(f"http://{running.metrics_address}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return reply.headers["Content-Type"], reply.read().decode()


def test_the_metrics_lead_to_traces(collector: Collector) -> None:
    """In OpenMetrics the histograms of times have the trace of a sampled call as exemplar, in plain text none."""
    openmetrics = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    with serving() as running:
        call(running, decode(1), UNSAMPLED)
        assert " # {" not in scrape(running, openmetrics)[1]
        call(running, decode(1), SAMPLED)
        kind, text = scrape(running, openmetrics)
        plain_kind, plain = scrape(running, "text/plain;version=0.0.4")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert plain_kind.startswith("text/plain; version=0.0.4")
    assert " # {" not in plain
    assert "armoire_request_duration_seconds_bucket" in plain
    exemplars = {
        family.name: sample.exemplar.labels
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.exemplar
    }
    (server,), (batch,) = collector.named(f"{SERVICE}/Decode"), collector.named("armoire.batch")
    assert exemplars == {
        "armoire_request_duration_seconds": {"trace_id": TRACE, "span_id": server.id},
        "armoire_queue_duration_seconds": {"trace_id": TRACE, "span_id": server.id},
        "armoire_inference_duration_seconds": {"trace_id": batch.trace, "span_id": batch.id},
    }


@pytest.fixture(scope="module")
def traced() -> Iterator[Running]:
    """A server that traces, for the examples of one property."""
    with collecting() as collector:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
            running = Running()
        yield running
        running.call(running.server.hurry)
        running.close()


WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80)


# The server's thread draws ids of spans while the strategies draw: hypothesis takes it for theirs.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@settings(max_examples=50)
@given(
    parent=WORDS | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True),
    state=WORDS,
)
def test_no_trace_context_fails_a_call(traced: Running, parent: str, state: str) -> None:
    """Whatever comes as traceparent and tracestate, the call is answered."""
    call(traced, decode(1), ("traceparent", parent), ("tracestate", state))


def test_what_a_caller_sends_as_its_trace_is_not_logged() -> None:
    """OpenTelemetry warns of a tracestate that it cannot read, and shows it: anybody could fill the log."""
    with process(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") as server:
        address = ready(server)
        with grpc.insecure_channel(address) as channel:
            stub = pb_grpc.LatentServiceStub(channel)
            stub.Decode(decode(1), metadata=[SAMPLED, ("tracestate", "HuSh HuSh")], timeout=30)
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=60)
    assert "Decode OK" in log
    assert "HuSh" not in log


PROGRAM = """
import asyncio, sys
import grpc
from armoire import config
from armoire.server import Server
from armoire.v1 import armoire_pb2 as pb, armoire_pb2_grpc as pb_grpc

async def main():
    server = Server(config.load({"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0", "provider": "cpu"}))
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = pb_grpc.LatentServiceStub(channel).Sample(pb.SampleRequest(count=1), metadata=[%r])
        await call
    await server.stop()
    print([name for name in sys.modules if name.partition(".")[0] in ("opentelemetry", "requests")])

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SERVICE_NAME": "wardrobe", "OTEL_TRACES_SAMPLER": "always_on"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "True"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_what_nobody_asks_for_is_not_loaded(variables: dict[str, str]) -> None:
    """Without a collector, or where the variables turn it off, a server that was called has no opentelemetry."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM % (SAMPLED,)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout == "[]\n"
    assert "traced" not in ran.stderr


def test_the_program_of_that_test_finds_what_is_loaded(collector: Collector) -> None:
    """With a collector the same program says that opentelemetry is there, and its call arrives."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM % (SAMPLED,)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "opentelemetry.sdk.trace" in ran.stdout
    assert [span.parent for span in collector.named(f"{SERVICE}/Sample")] == [PARENT]


@pytest.mark.parametrize(
    ("variables", "missing", "text"),
    [
        ({}, "opentelemetry", "install armoire[traces]"),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "",
            "OTEL_EXPORTER_OTLP_PROTOCOL is grpc; http/protobuf is wanted",
        ),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "", "OTEL_TRACES_EXPORTER is zipkin; otlp or none is wanted"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "user:pass@host:4318"},
            "",
            "begins with neither http:// nor https://",
        ),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "1"}, "", "max_export_batch_size must be less than"),
        ({"OTEL_SPAN_LINK_COUNT_LIMIT": "many"}, "", "OTEL_SPAN_LINK_COUNT_LIMIT"),
    ],
)
def test_what_cannot_be_traced_is_served(variables: dict[str, str], missing: str, text: str) -> None:
    """One line says why nothing is traced and names the variable, no address is shown, and calls are answered."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing.split()!r}))\n"
        "from armoire.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    with process(
        program=program, **{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", **variables}
    ) as server:
        lines = []
        for line in server.stderr:
            lines.append(line)
            if found := re.search(r"serving .* on (127\.0\.0\.1:\d+)", line):
                break
        with grpc.insecure_channel(found[1]) as channel:
            stub(channel).Decode(decode(1), metadata=(SAMPLED,), timeout=30)
        server.send_signal(signal.SIGTERM)
        rest = server.stderr.read()
        assert server.wait(30) == 0
    warnings = [line for line in [*lines, *rest.splitlines()] if " WARNING " in line]
    assert len(warnings) == 1
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set, but nothing is traced" in warnings[0]
    assert text in warnings[0]
    assert "user:pass" not in "".join(lines) + rest
    assert "Traceback" not in "".join(lines) + rest


def test_the_last_spans_are_sent_before_the_server_goes(collector: Collector) -> None:
    """A call that was answered just before SIGTERM is with the collector when the process has ended."""
    with process() as server, grpc.insecure_channel(ready(server)) as channel:
        stub(channel).Decode(decode(1), metadata=(SAMPLED,), timeout=30)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    assert [span.parent for span in collector.named(f"{SERVICE}/Decode")] == [PARENT]


@pytest.mark.parametrize("way", ["refuses", "is silent"])
def test_a_collector_that_is_away_is_not_felt(way: str) -> None:
    """More calls than its queue holds are answered, the log has a few words, and shutdown takes its time at most."""
    with collecting(silent=True) as silent, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: refused
        endpoint = silent.endpoint if way == "is silent" else f"http://127.0.0.1:{nobody.getsockname()[1]}"
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_MAX_QUEUE_SIZE": "512"}
        with process(**variables) as server, grpc.insecure_channel(ready(server)) as channel:
            for _ in range(400):  # four spans each
                stub(channel).Decode(decode(1), timeout=10)
            assert way == "refuses" or silent.asked.wait(30)
            assert silent.requests == []
            server.send_signal(signal.SIGTERM)
            drained = 0.0
            lines = []
            for line in server.stderr:
                lines.append(line)
                if "draining" in line:
                    drained = time.monotonic()
            assert server.wait(30) == 0
            # The drain waits for QUIET_SECONDS of its own.
            assert time.monotonic() - drained < FLUSH_SECONDS + 5
    ours = [line for line in lines if " request=" not in line]
    assert sum(" request=" in line for line in lines) == 400
    assert not any("Traceback" in line for line in ours)
    warnings = [line for line in ours if " INFO " not in line]
    assert len(warnings) <= 3, warnings
    assert any("they are lost" in line for line in warnings)
