"""Load tests of real servers: what is counted is what happened there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import trustme

from armoire.errors import (
    ArmoireError,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from armoire.load import session
from armoire.load.order import Order
from armoire.load.plan import RPCS, Closed, Open, Plan, Saturation, Target, Tls
from armoire.load.report import Report
from tests.serving import Running, serving
from tests.stranger import Stranger, images, stranger


def answered(running: Running, rpc: str, code: str = "OK") -> float:
    labels = {"method": rpc, "code": code}
    return running.server._metrics.registry.get_sample_value("armoire_requests_total", labels) or 0


@contextmanager
def running_load(plan: Plan, calls: int = 1) -> Iterator[list[Report]]:
    """Run a load test beside the block, which begins once so many calls are answered; the report is there after it."""
    going, reports = threading.Event(), []

    def watch(progress: session.Progress) -> None:
        if progress.done >= calls:
            going.set()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(session.run, plan, watch)
        assert going.wait(30), future.exception(30)
        yield reports
        reports.append(future.result(60))


def until(condition) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        os.sched_yield()


@pytest.mark.parametrize("processes", [1, 2])
def test_every_call_is_counted_once(server: Running, processes: int) -> None:
    """The server has answered the first call, those of the warm-up and those reported, and no others."""
    before = answered(server, "Decode")
    plan = Plan(
        (Closed(4, rows=2, seconds=0.4),),
        Target(server.address),
        warm_up=0.2,
        processes=processes,
        connections=2,
    )
    report = session.run(plan)
    (result,) = report.results
    assert answered(server, "Decode") - before == 1 + result.warm_up_calls + result.calls
    assert result.warm_up_calls > 0
    assert result.calls == result.answered > 4
    assert not result.errors
    assert report.failed == result.failed == result.unanswered == 0
    assert result.seconds == pytest.approx(0.4)
    # What is answered within the window differs from what is begun within it by the calls at its two ends.
    assert abs(result.calls_per_second * 0.4 - result.calls) <= 4
    assert result.images_per_second == pytest.approx(2 * result.calls_per_second)
    # A row of the bundled model is 16 float32 there and 32 x 32 bytes back.
    assert result.received_mb_per_second * 0.4e6 / result.answered == pytest.approx(2 * 1024, abs=40)
    assert result.sent_mb_per_second * 0.4e6 / result.calls == pytest.approx(2 * 64, abs=40)
    assert result.client_cpu > 0


@pytest.mark.parametrize("rpc", RPCS)
def test_every_rpc_is_called(rpc: str) -> None:
    """Each RPC is called exactly as often as told, even by more callers than that, and has its own server times."""
    with serving() as server:  # whose calls are all of this test
        plan = Plan(
            (Closed(64, rows=3, seconds=30),),
            Target(server.address),
            rpc=rpc,
            warm_up=0,
            processes=2,
            most_calls=21,
        )
        (result,) = session.run(plan).results
        assert (result.warm_up_calls, result.calls, result.answered) == (0, 21, 21)
        assert answered(server, rpc) == 21 + (2 if rpc == "ListModels" else 1)
    assert result.seconds < 30
    assert result.calls_per_second * result.seconds == pytest.approx(21)
    quantiles = [result.latency_ms.p50, result.latency_ms.p90, result.latency_ms.p99, result.latency_ms.p999]
    assert quantiles == sorted(quantiles)
    assert result.latency_ms.p999 <= result.latency_ms.max
    assert result.queue_ms.p50 >= 0
    assert result.queue_ms.p50 + result.run_ms.p50 <= result.latency_ms.max
    assert (result.run_ms.p50 > 0) == (rpc != "ListModels")
    assert (result.images_per_second == 0) == (rpc == "ListModels")


def test_a_fixed_rate_is_a_metronome_over_all_processes(server: Running) -> None:
    """An open loop sends what its rate says in the window, whatever the number of processes."""
    plan = Plan(
        (Open(40, rows=1, seconds=0.5, arrivals="fixed"), Open(80, rows=1, seconds=0.5, arrivals="fixed")),
        Target(server.address),
        warm_up=0.1,
        processes=2,
    )
    slow, fast = session.run(plan).results
    assert (slow.warm_up_calls, slow.calls, fast.warm_up_calls, fast.calls) == (4, 20, 8, 40)
    assert slow.answered == 20
    assert slow.lag_ms.p50 is not None


def test_a_poisson_process_has_its_rate(server: Running) -> None:
    """Poisson arrivals come in the number that their rate makes likely, and not evenly."""
    plan = Plan((Open(150, rows=1, seconds=2),), Target(server.address), warm_up=0)
    (result,) = session.run(plan).results
    # Five standard deviations of a Poisson variable of mean 300.
    assert 300 - 87 < result.calls < 300 + 87
    assert result.answered == result.calls


def test_a_stall_is_seen_by_all_calls_that_were_due_in_it(server: Running) -> None:
    """While the engine stands still 40 calls become due; their waits are in the quantiles of an open loop."""
    # It ends by its calls: the stall may begin late on a busy machine, and 40 of them must be left for it.
    plan = Plan(
        (Open(40, rows=1, seconds=60, arrivals="fixed"),), Target(server.address), warm_up=0, most_calls=320
    )
    with running_load(plan) as reports, server.holding():
        until(lambda: server.pending("decoder") >= 40)
    (result,) = reports[0].results
    assert result.calls == result.answered == 320
    # The first of the 40 waited for 39 intervals of 25 ms, the middle one for half of that.
    assert result.latency_ms.max >= 39 * 25 * 0.9
    # The tenth of all calls that waited longest are 32 of those 40.
    assert result.latency_ms.p90 >= 7 * 25 * 0.9
    # One caller that waits for its answer would have had one slow call only, out of many.
    assert result.queue_ms.max >= 39 * 25 * 0.9


def test_waiting_for_the_servers_limit_is_latency_too() -> None:
    """Where a server takes one call at a time, latency counts from when the others were due."""
    gate = threading.Event()

    def decode(number: int, context: grpc.ServicerContext):
        if number == 5:
            gate.wait(0.4)
        return images(1)

    with stranger(decode, max_concurrent_streams=1) as other:
        plan = Plan((Open(50, rows=1, seconds=0.6, arrivals="fixed"),), Target(other.address), warm_up=0)
        (result,) = session.run(plan).results
    assert result.calls == result.answered == 30
    assert result.latency_ms.max >= 300
    assert result.latency_ms.p50 >= 50


def test_errors_are_counted_by_code() -> None:
    """Each refusal is counted under its code with one of its messages; its latency is apart from the good answers'."""
    answered = threading.Event()
    codes = {1: grpc.StatusCode.RESOURCE_EXHAUSTED, 2: grpc.StatusCode.INTERNAL}

    def decode(number: int, context: grpc.ServicerContext):
        if number % 4 in codes and number:
            answered.wait(0.05)
            context.abort(codes[number % 4], f"no, number {number % 4}: 100 %")
        return images(8)

    with stranger(decode) as other:
        plan = Plan((Closed(3, seconds=30),), Target(other.address), warm_up=0, most_calls=40)
        report = session.run(plan)
        assert other.calls == 41
    (result,) = report.results
    assert result.errors == {"RESOURCE_EXHAUSTED": 10, "INTERNAL": 10}
    assert (result.calls, result.answered, result.failed, report.failed) == (40, 20, 20, 20)
    assert re.fullmatch(r"no, number \d+: 100 %", result.examples["INTERNAL"])
    assert re.search(r"10 RESOURCE_EXHAUSTED \(no, number \d+: 100 %\)", report.failures())
    # That server tells no times of its own.
    assert result.queue_ms.p50 is None
    assert 0 < result.latency_ms.p50 < 50 <= result.failed_ms.p50


def test_an_answer_of_another_size_is_no_answer() -> None:
    """Rows that are missing from an answer are found although nothing of it is parsed."""
    with stranger(lambda number, _: images(8 if number % 2 == 0 else 7)) as other:
        plan = Plan((Closed(1, seconds=30),), Target(other.address), warm_up=0, most_calls=10)
        (result,) = session.run(plan).results
    assert result.errors == {"WRONG_SIZE": 5}
    assert "bytes came" in result.examples["WRONG_SIZE"]
    with (
        stranger(lambda *_: images(7)) as other,
        pytest.raises(ArmoireError, match="8 rows was answered with 7"),
    ):
        session.run(Plan((Closed(1, seconds=1),), Target(other.address)))


def test_a_call_that_nobody_answers_ends_with_its_deadline() -> None:
    """The test itself gives a call up when its time is over, and goes on to the end."""
    gate = threading.Event()

    def decode(number: int, context: grpc.ServicerContext):
        if number:
            gate.wait(30)
        return images(1)

    with stranger(decode) as other:
        plan = Plan((Closed(2, rows=1, seconds=0.5),), Target(other.address, timeout=0.2), warm_up=0)
        (result,) = session.run(plan).results
        gate.set()
    assert set(result.errors) == {"DEADLINE_EXCEEDED"}
    assert result.failed == result.calls >= 2
    assert result.answered == result.calls_per_second == 0
    assert result.latency_ms.p99 is None


def test_a_server_that_goes_is_unavailable_until_it_is_back() -> None:
    """Calls fail as UNAVAILABLE while there is no server, and the test goes on when there is one again."""
    with stranger(lambda *_: images(1)) as first:
        # It ends by its calls, most of which the second server answers, however long that one takes to come.
        plan = Plan((Closed(2, rows=1, seconds=60),), Target(first.address), warm_up=0, most_calls=3000)
        with running_load(plan, calls=20) as reports:
            first.close()
            second = Stranger(lambda *_: images(1), first.port)
            until(lambda: second.calls >= 20)
    second.close()
    (result,) = reports[0].results
    assert set(result.errors) <= {"UNAVAILABLE", "CANCELLED"}
    assert result.errors["UNAVAILABLE"] >= 1
    assert result.answered >= 40
    assert result.calls == result.answered + result.failed


def test_a_server_that_drains_answers_what_it_has() -> None:
    """GOAWAY in the middle of a test loses no call that the server took; those after it are refused."""
    with serving(grace=5) as running:
        plan = Plan((Closed(4, rows=1, seconds=4),), Target(running.address), warm_up=0)
        before = answered(running, "Decode")
        with running_load(plan, calls=20) as reports:
            running.run(running.server.stop())
        (result,) = reports[0].results
        # CANCELLED is what gRPC says to the calls that arrive in its very last moment.
        assert "UNAVAILABLE" in result.errors
        assert set(result.errors) <= {"UNAVAILABLE", "CANCELLED"}
        assert answered(running, "Decode") - before == 1 + result.answered
    assert result.calls == result.answered + result.failed


def test_refusals_before_the_test_are_errors(server: Running) -> None:
    """What the server will not do at all is told as the client tells it, and nothing is measured."""
    before = answered(server, "Decode")
    target = Target(server.address)
    for plan, error in (
        (Plan((Closed(1, rows=1025),), target), LimitExceeded),
        (Plan((Closed(1),), Target(server.address, model="faces")), NotFound),
        (Plan((Closed(1),), Target(server.address, version="99")), NotFound),
        (Plan((Closed(1, rows=1),), target, rpc="Interpolate"), InvalidArgument),
        (Plan((Closed(1),), Target("127.0.0.1:1", timeout=5)), Unavailable),
    ):
        with pytest.raises(error):
            session.run(plan)
    assert answered(server, "Decode") == before


def test_a_plan_that_cannot_be_is_refused() -> None:
    """Counts, times and names out of their range are told with the range."""
    for make, text in (
        (lambda: Closed(0), "callers: 0 came"),
        (lambda: Closed(1, rows=0), "rows: 0 came"),
        (lambda: Closed(1, seconds=3601), "seconds: 3601 came"),
        (lambda: Open(0), "rate: 0 came"),
        (lambda: Saturation(0), "p99_ms: 0 came"),
        (lambda: Plan((), rpc="Dream"), "rpc: 'Dream' came"),
        (lambda: Plan((), processes=65), "processes: 65 came"),
        (lambda: Plan((), connections=0), "connections: 0 came"),
        (lambda: Plan((), warm_up=-1), "warm_up: -1 came"),
        (lambda: Plan((), processes=3, most_calls=2), "most_calls: 2 came"),
        (lambda: Plan((), Target(timeout=0)), "timeout: 0 came"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            make()


def test_tls_and_tokens_are_spoken(tmp_path: Path) -> None:
    """A server with mTLS and tokens is loaded like any other, and refuses a wrong token at the first call."""
    authority = trustme.CA()
    pem = {}
    for name, certificate in (
        ("server", authority.issue_cert("localhost")),
        ("own", authority.issue_cert("me")),
    ):
        pem[f"{name}.key"] = certificate.private_key_pem.bytes()
        pem[f"{name}.pem"] = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    pem["ca.pem"] = authority.cert_pem.bytes()
    pem["tokens"] = f"me {hashlib.sha256(b'open-sesame').hexdigest()}\n".encode()
    for name, content in pem.items():
        (tmp_path / name).write_bytes(content)
    with serving(
        tls_cert=tmp_path / "server.pem",
        tls_key=tmp_path / "server.key",
        tls_client_ca=tmp_path / "ca.pem",
        tokens_file=tmp_path / "tokens",
    ) as running:
        target = Target(
            f"localhost:{running.address.rpartition(':')[2]}",
            tls=Tls(tmp_path / "ca.pem", tmp_path / "own.pem", tmp_path / "own.key"),
            token="open-sesame",
        )
        # 64 images of 1 KiB each way: more than a TLS record, and more than a window of HTTP/2.
        for rpc in ("Decode", "Encode"):
            plan = Plan((Closed(3, rows=100, seconds=30),), target, rpc=rpc, warm_up=0, most_calls=12)
            (result,) = session.run(plan).results
            assert result.answered == 12, result.examples
        with pytest.raises(Unauthenticated):
            session.run(Plan((Closed(1),), Target(target.address, tls=target.tls, token="wrong")))


def test_a_saturated_server_is_found(server: Running) -> None:
    """The search tries a closed loop, then open ones, and gives one of the rates that it tried, or none."""
    report = session.run(Plan((Saturation(1000, rows=4, seconds=0.25),), Target(server.address), warm_up=0.1))
    first, *rest = report.results
    assert isinstance(first.stage, Closed)
    assert all(isinstance(result.stage, Open) and result.searching for result in rest)
    (rate,) = report.saturations
    held = [result.stage.rate for result in rest]
    assert rate is None or rate in held
    assert rate is None or rate <= max(held)


def worker(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "armoire.load.worker", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_client_process_ends_when_its_parent_has_gone(server: Running) -> None:
    """The end of its input ends a process, in the middle of a stage too, within its grace."""
    first = {
        "target": Target(server.address).to_json(),
        "method": "/armoire.v1.LatentService/ListModels",
        "connections": 1,
    }
    with worker() as child:
        child.stdin.write(json.dumps(first) + "\n")
        child.stdin.write(Order(b"", time.monotonic(), 0, 600, 1 << 40, callers=1).to_line() + "\n")
        child.stdin.flush()
        assert "ready" in child.stdout.readline()
        while not json.loads(child.stdout.readline())["done"]:
            pass
        child.stdin.close()
        assert child.wait(10) == 0


def test_a_client_process_is_light() -> None:
    """Beyond gRPC it loads nothing heavy, so that a sweep with many processes begins at once."""
    program = "import sys, armoire.load.worker; print(*sys.modules, sep='\\n')"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(io.StringIO(ran.stdout).read().split())
    assert "grpc" in loaded
    assert not loaded & {"google.protobuf", "numpy", "rich", "matplotlib"}
