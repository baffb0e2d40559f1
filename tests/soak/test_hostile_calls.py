"""Whatever a stranger sends as a call, the answer is a reply or one of README's refusals, and nothing is left of it.

Against a server process: a crash is seen, and so are its memory and its log. `make test-soak` does it 200,000 times.
"""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from armoire.v1 import armoire_pb2 as pb
from tests.soak import pictures, requests, wire_format
from tests.soak.http2 import framed, request_headers
from tests.soak.scale import SHORT_EXAMPLES, SOAK_CASES, is_soak
from tests.soak.target import ANSWERS, BEARER, CALL_SECONDS, REFUSALS, Target
from tests.soak.verdict import Verdict

# Hypothesis shows strategies in full, those of whole requests too.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
RPCS = list(requests.PATHS)
any_rpc = st.sampled_from(RPCS)
Call = tuple[str, bytes]
# Of what is sent frame by frame, so many calls on average are one example.
# Memory after all kinds, of what it was once the server was warm; a few cases do not warm it up.
MOST_GROWTH, SHORT_GROWTH = 1.05, 1.5
# Descriptors and threads that come and go; until they have, and until memory has gone back with a canary.
SPARE, SETTLE_SECONDS = 8, 3.0
LEAST_EXAMPLES, WARM_UP_PART = 5, 4
AT_ONCE = 16
EACH = 1 / AT_ONCE
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def _calls(
    of: Callable[[str], st.SearchStrategy[Any]], rpcs: Sequence[str] = RPCS
) -> st.SearchStrategy[Call]:
    """Pair RPCs with what ``of`` makes for them."""

    def named(rpc: str) -> st.SearchStrategy[Call]:
        return of(rpc).map(lambda made: (rpc, made if isinstance(made, bytes) else made.SerializeToString()))

    return st.one_of([named(rpc) for rpc in rpcs])


def _good(rpc: str) -> st.SearchStrategy[bytes]:
    return st.sampled_from(_bytes(rpc))


def _bytes(rpc: str) -> list[bytes]:
    return [request.SerializeToString() for request in requests.good()[rpc]]


def _with_tensor(rpc: str, tensor: pb.Tensor) -> bytes:
    """Put a tensor wherever the request of an RPC takes one."""
    at, seen = pb.Points(latents=tensor), pb.Images(pixels=tensor)
    made = {
        "ListModels": pb.ListModelsRequest(),
        "Encode": pb.EncodeRequest(images=seen),
        "Decode": pb.DecodeRequest(latents=tensor),
        "Sample": pb.SampleRequest(count=1),
        "Interpolate": pb.InterpolateRequest(start=at, end=pb.Points(images=seen), steps=2),
        "AddAttribute": pb.AddAttributeRequest(
            points=at,
            edits=[
                pb.AttributeEdit(vector=tensor),
                pb.AttributeEdit(examples=pb.Examples(positives=at, negatives=at)),
            ],
        ),
    }
    return bytes(made[rpc].SerializeToString())


def _numbers(rpc: str) -> st.SearchStrategy[Any]:
    count, number, enum = requests.counts, requests.floats, requests.enums
    at = pb.Points(latents=requests.latents())
    return {
        "Sample": st.builds(
            pb.SampleRequest,
            count=count,
            seed=st.integers(0, 2**64 - 1),
            temperature=number,
            image_format=enum,
            prior=st.sampled_from(["normal", "fitted"]),
        ),
        "Interpolate": st.builds(
            pb.InterpolateRequest,
            start=requests.edge_latents.map(lambda z: pb.Points(latents=z)),
            end=requests.edge_latents.map(lambda z: pb.Points(latents=z)),
            steps=count,
            path=enum,
        ),
        "AddAttribute": st.builds(
            pb.AddAttributeRequest,
            points=st.just(at),
            edits=st.lists(
                st.one_of(
                    st.builds(pb.AttributeEdit, attribute=st.just("bag"), strength=number, scale=enum),
                    st.builds(
                        pb.AttributeEdit,
                        vector=requests.tensors,
                        strength=number,
                        scale=enum,
                        orthogonal_to=st.lists(st.sampled_from(["bag", "dress", "coat"]), max_size=3),
                    ),
                ),
                min_size=1,
                max_size=3,
            ),
        ),
    }.get(rpc, _good(rpc))


def _with_files(rpc: str) -> st.SearchStrategy[Any]:
    images = st.lists(pictures.files, min_size=1, max_size=3).map(
        lambda files: pb.Images(encoded=pb.EncodedImages(images=files))
    )
    points = images.map(lambda made: pb.Points(images=made))
    return {
        "Encode": st.builds(pb.EncodeRequest, images=images),
        "Interpolate": st.builds(pb.InterpolateRequest, start=points, end=points, steps=st.just(2)),
        "AddAttribute": st.builds(
            pb.AddAttributeRequest, points=points, edits=st.just([pb.AttributeEdit(attribute="bag")])
        ),
    }[rpc]


MESSAGES: dict[str, st.SearchStrategy[Call]] = {
    "random bytes": st.tuples(any_rpc, st.binary(max_size=300)),
    "random fields": st.tuples(any_rpc, wire_format.messages),
    "flipped and cut": _calls(lambda rpc: st.one_of([wire_format.flipped(each) for each in _bytes(rpc)])),
    "mutated": _calls(lambda rpc: st.one_of([wire_format.mutated(each) for each in _bytes(rpc)])),
    "of the right type": _calls(lambda rpc: requests.of_type(type(requests.good()[rpc][0]))),
    "spoiled": _calls(requests.spoiled),
    "shape against bytes": st.builds(
        lambda rpc, tensor: (rpc, _with_tensor(rpc, tensor)), st.sampled_from(RPCS[1:]), requests.tensors
    ),
    "numbers": _calls(_numbers),
    "names": _calls(requests.misnamed),
    "many in one": _calls(requests.many_in_one),
    "pictures": _calls(_with_files, ["Encode", "Interpolate", "AddAttribute"]),
}


def run(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], examples: int) -> None:
    """Check so many examples of a strategy."""

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def case(example: Any) -> None:
        check(example)

    case()


def at_once(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Some at once: gRPC takes its time over an answer to headers that it cannot read."""
    return st.lists(strategy, min_size=1, max_size=2 * AT_ONCE)


@dataclass(frozen=True)
class Stage:
    """All kinds once: first to warm the server up, then to be measured."""

    name: str
    most: int

    def examples(self, share: float = 1.0) -> int:
        """Give how many examples of a kind are wanted; ``share`` of them for one that is dear."""
        return max(LEAST_EXAMPLES, int(self.most * share))


# A fixture of the module: every test runs in the first stage before any runs in the second.
@pytest.fixture(scope="module", params=["warm-up", "measured"])
def stage(request: pytest.FixtureRequest) -> Stage:
    """What the profile in force wants of each kind, and before that a part of it."""
    most = settings().max_examples if is_soak() else SHORT_EXAMPLES
    return Stage(request.param, most if request.param == "measured" else most // WARM_UP_PART)


# ---- messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_is_answered_or_refused(target: Target, verdict: Verdict, stage: Stage, kind: str) -> None:
    """Bytes that are any message or none are answered with a reply or a code of README's table."""

    def check(call: Call) -> None:
        assert target.call(kind, *call) in ANSWERS

    with verdict.timed(kind):
        run(MESSAGES[kind], check, stage.examples())
    target.check_well()


def test_a_crowd_is_answered_one_by_one(target: Target, verdict: Verdict, stage: Stage) -> None:
    """Of calls at once, hostile and good, each has its own answer, and the good ones are right."""
    kind = "a crowd"
    good = requests.good()["Decode"][0].SerializeToString()
    decode = target.method(requests.PATHS["Decode"])
    alone = decode(good, timeout=CALL_SECONDS, metadata=BEARER)

    def check(calls: list[Call]) -> None:
        hostile = [
            target.method(requests.PATHS[rpc]).future(message, timeout=CALL_SECONDS, metadata=BEARER)
            for rpc, message in calls
        ]
        well = decode.future(good, timeout=CALL_SECONDS, metadata=BEARER)
        for future in hostile:
            assert target.counted(kind, future.code().name, future.details()) in ANSWERS
        assert well.result() == alone

    of_any = [strategy for name, strategy in MESSAGES.items() if name not in ("many in one", "pictures")]
    with verdict.timed(kind):
        run(st.lists(st.one_of(of_any), min_size=2, max_size=8), check, stage.examples(0.2))
    target.check_well()


def test_a_call_that_is_cancelled_leaves_nothing(target: Target, verdict: Verdict, stage: Stage) -> None:
    """Calls that their callers cut off, at once or a moment later, end without an answer and leave no rows behind."""
    kind = "cancelled"

    def check(case: tuple[Call, float]) -> None:
        (rpc, message), seconds = case
        future = target.method(requests.PATHS[rpc]).future(message, timeout=CALL_SECONDS, metadata=BEARER)
        if seconds:
            threading.Event().wait(seconds)
        future.cancel()
        assert target.counted(kind, future.code().name) in ANSWERS | {"CANCELLED"}

    calls = _calls(lambda rpc: st.one_of(_good(rpc), _numbers(rpc)))
    with verdict.timed(kind):
        run(st.tuples(calls, st.sampled_from([0.0, 0.0, 0.0005, 0.002])), check, stage.examples(0.5))
    target.check_well()
    assert set(target.server.series("armoire_pending_rows").values()) == {0.0}


# ---- metadata ------------------------------------------------------------------------------------------------

printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=80).map(str.encode)
values = st.one_of(
    printable,
    st.binary(max_size=60),
    st.builds(lambda byte, times: byte * times, st.binary(min_size=1, max_size=2), st.integers(1, 9000)),
)
tokens = st.one_of(
    values,
    values.map(lambda value: b"Bearer " + value),
    st.sampled_from(
        [b"", b"Bearer", b"Bearer ", b"bearer  let-me-in", b"Basic bGV0LW1lLWlu", b"Bearer let-me-i"]
    ),
)
timeouts = st.one_of(
    st.builds(lambda n, unit: f"{n}{unit}".encode(), st.integers(-1, 10**9), st.sampled_from("HMSmunx")),
    values,
)
traces = st.one_of(
    values,
    st.sampled_from(
        [b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"ff-" + b"a" * 32 + b"-" + b"b" * 16 + b"-00"]
    ),
)
authorization = (b"authorization", BEARER[0][1].encode())
metadata = st.lists(
    st.one_of(
        st.tuples(st.just(b"x-request-id"), values),
        st.tuples(st.just(b"traceparent"), traces),
        st.tuples(st.just(b"tracestate"), values),
        st.tuples(st.just(b"grpc-timeout"), timeouts),
        st.tuples(
            st.sampled_from([b"grpc-encoding", b"grpc-accept-encoding", b"content-type", b"te"]), values
        ),
        st.tuples(st.sampled_from([b"x-bin", b"grpc-trace-bin", b"grpc-tags-bin"]), values),
        st.tuples(st.sampled_from([b":path", b":authority", b":status", b"host", b"connection"]), values),
        st.tuples(st.text("abcxyz019-_.", min_size=1, max_size=20).map(str.encode), values),
        st.tuples(st.binary(max_size=20), values),
    ),
    max_size=5,
)


def test_any_metadata_is_answered(target: Target, verdict: Verdict, stage: Stage) -> None:
    """Headers of any name and value are answered or refused by gRPC, never by a bug of ours, and none is logged raw."""
    kind = "metadata"
    path = requests.PATHS["ListModels"]

    def check(headers: list[list[tuple[bytes, bytes]]]) -> None:
        target.raw(kind, [(request_headers(path, authorization, *more), framed(b"")) for more in headers])

    with verdict.timed(kind):
        run(at_once(metadata), check, stage.examples(EACH))
    target.check_well()


def test_no_made_up_token_gets_in(target: Target, verdict: Verdict, stage: Stage) -> None:
    """Whatever stands in the authorization header, it is no way in unless it is the token."""
    kind = "tokens"
    path = requests.PATHS["ListModels"]

    def check(made_up: list[bytes]) -> None:
        calls = [(request_headers(path, (b"authorization", token)), framed(b"")) for token in made_up]
        assert "OK" not in {answer.code for answer in target.raw(kind, calls)}

    with verdict.timed(kind):
        run(at_once(tokens), check, stage.examples(EACH))
    target.check_well()


# ---- how a message is framed ---------------------------------------------------------------------------------

GIB_OF_ZEROS = gzip.compress(bytes(1 << 26), 9)
bodies = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda flag, length, rest: bytes([flag]) + length.to_bytes(4) + rest,
        st.integers(0, 255),
        st.one_of(st.integers(0, 70), st.sampled_from([2**20, 2**20 + 1, 2**31, 2**32 - 1])),
        st.binary(max_size=64),
    ),
    st.builds(
        framed,
        st.one_of(
            st.binary(max_size=60).map(gzip.compress),
            st.binary(max_size=60).map(zlib.compress),
            st.just(GIB_OF_ZEROS),
            st.just(gzip.compress(GIB_OF_ZEROS)),
            st.binary(max_size=60).map(gzip.compress).flatmap(wire_format.flipped),
        ),
        compressed=st.just(True),
    ),
    st.integers(0, 5).map(lambda times: framed(b"") * times),
    st.sampled_from([framed(bytes(1 << 20)), framed(bytes((1 << 20) + 1))]),
)


def test_any_framing_is_answered(target: Target, verdict: Verdict, stage: Stage) -> None:
    """A body that is no framed message, or a compressed one that is none or a bomb, ends its call and nothing else."""
    kind = "framing"

    def check(cases: list[tuple[str, bytes, bytes]]) -> None:
        target.raw(
            kind,
            [
                (request_headers(requests.PATHS[rpc], authorization, (b"grpc-encoding", encoding)), body)
                for rpc, encoding, body in cases
            ],
        )

    encodings = st.sampled_from([b"gzip", b"gzip", b"deflate", b"identity", b"br", b""])
    with verdict.timed(kind):
        run(at_once(st.tuples(any_rpc, encodings, bodies)), check, stage.examples(EACH))
    target.check_well()


# ---- beside the service --------------------------------------------------------------------------------------


def test_health_and_reflection_take_anything(target: Target, verdict: Verdict, stage: Stage) -> None:
    """Bytes that are no request of health or reflection are the caller's fault, and no line in the log."""
    kind = "health, reflection"

    def check(cases: list[tuple[str, bytes]]) -> None:
        answers = target.raw(
            kind, [(request_headers(path, authorization), framed(content)) for path, content in cases]
        )
        for (path, _), answer in zip(cases, answers, strict=True):
            # What its package for reflection cannot read gRPC itself calls UNKNOWN.
            assert answer.code in REFUSALS | {"OK"} | ({"UNKNOWN"} if path == REFLECTION else set())

    content = st.one_of(
        st.binary(max_size=60),
        wire_format.messages,
        requests.raw_names.map(lambda n: wire_format.field(1, n)),
    )
    with verdict.timed(kind):
        run(at_once(st.tuples(st.sampled_from([HEALTH, REFLECTION]), content)), check, stage.examples(EACH))
    target.check_well()


# ---- what is left --------------------------------------------------------------------------------------------


def test_no_memory_is_left_behind(target: Target, verdict: Verdict, stage: Stage) -> None:
    """After all kinds the server has about the memory, descriptors and threads that it had once it was warm."""
    threading.Event().wait(SETTLE_SECONDS)
    now = target.server.sample()
    if stage.name == "warm-up":
        target.warm = now
        return
    growth = now.rss_bytes / target.warm.rss_bytes
    verdict.findings["memory, measured over warm"] = round(growth, 4)
    verdict.findings["memory, MiB"] = now.rss_bytes >> 20
    verdict.findings["crashes"] = 0  # Target.counted looks at every case
    ours = target.server.answered()
    verdict.findings["INTERNAL or UNKNOWN of ours"] = ours["INTERNAL"] + ours["UNKNOWN"]
    verdict.findings["calls answered, by the server's own count"] = dict(ours)
    assert not is_soak() or verdict.cases >= SOAK_CASES
    assert growth <= (MOST_GROWTH if is_soak() else SHORT_GROWTH)
    assert now.fds <= target.warm.fds + SPARE
    assert now.threads <= target.warm.threads + SPARE
