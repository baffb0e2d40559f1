"""A server under attack, as its attackers and its next good caller see it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from armoire.v1 import armoire_pb2 as pb
from tests.soak import requests
from tests.soak.http2 import TIMEOUT, Answer, Connection, Headers, is_whole
from tests.soak.process import ServerProcess
from tests.soak.verdict import Verdict

# The table of README: no other answer is right, whatever comes. What gRPC itself refuses is RESOURCE_EXHAUSTED.
REFUSALS = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"})
ANSWERS = REFUSALS | {"OK"}
TOKEN = "let-me-in"
BEARER = (("authorization", f"Bearer {TOKEN}"),)
CALL_SECONDS, RAW_SECONDS, HELD_SECONDS = 30.0, 10.0, 0.5
MOST_TEXT = 3000
# Of the next good call, on a busy machine.
WELL_SECONDS = 5.0


class Target:
    """A server process, the channels to it, and the count of what it answered."""

    def __init__(self, server: ServerProcess, verdict: Verdict) -> None:
        self.server, self.verdict = server, verdict
        self._channel = grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", -1)])
        #: What the server held once it was warm.
        self.warm = server.sample()
        self._raw: Connection | None = None
        self._raw_kind = ""
        self._expected = self._decode()
        self._answered = server.answered()

    def close(self) -> None:
        self._channel.close()
        if self._raw:
            self._raw.close()

    def method(self, path: str) -> Any:
        """Give a method that takes bytes and gives bytes."""
        return self._channel.unary_unary(path)

    def call(self, kind: str, rpc: str, message: bytes) -> str:
        """Send bytes as a message, count the answer and give its code.

        An answer that is OK must be a reply with rows, and a refusal one line that can be printed.
        """
        code, text = "OK", ""
        try:
            reply = self.method(requests.PATHS[rpc])(message, timeout=CALL_SECONDS, metadata=BEARER)
        except grpc.RpcError as error:
            code, text = error.code().name, error.details() or ""
            assert text.isprintable(), f"{rpc} answers {code} with {text!r}"
        else:
            assert _rows(rpc, reply), f"{rpc} is answered with nothing: {message[:200]!r}"
        return self.counted(kind, code, text)

    def raw(self, kind: str, calls: Sequence[tuple[Headers, bytes]]) -> list[Answer]:
        """Make calls frame by frame, at once, on a connection of the kind that lasts until the server closes it.

        A call without a whole message may have no end: gRPC waits for the rest of it, as long as its caller does.
        """
        if self._raw is None or not self._raw.is_open or kind != self._raw_kind:
            if self._raw:
                self._raw.close()
            self._raw, self._raw_kind = Connection(self.server.port), kind
        whole = all(is_whole(body) for _, body in calls)
        answers = self._raw.calls(calls, seconds=RAW_SECONDS if whole else HELD_SECONDS)
        for answer, (headers, body) in zip(answers, calls, strict=True):
            held = answer.code == TIMEOUT and not whole
            self.counted(kind, "HELD" if held else answer.code, answer.text)
            assert held or answer.code != TIMEOUT, (headers, body)
        return answers

    def counted(self, kind: str, code: str, text: str = "") -> str:
        """Count an answer; the server still runs."""
        self.verdict.count(kind, code)
        assert self.server.exit_status is None, f"the server ended with {self.server.exit_status}: {text}"
        return code

    def check_well(self) -> None:
        """See that the next good call is answered in time, with what it was answered before."""
        began = time.monotonic()
        assert self._decode() == self._expected
        took = time.monotonic() - began
        assert took < WELL_SECONDS, f"the next good call took {took:.1f} s"
        # Each fault is told once, by the test that met it.
        complaints, answered = self.server.complaints()[:MOST_TEXT], self.server.answered()
        self.server.strange_lines.clear()
        bugs = {code: answered[code] - self._answered[code] for code in ("INTERNAL", "UNKNOWN")}
        self._answered = answered
        assert not any(bugs.values()), f"{bugs}; the log has {complaints}"
        assert not complaints, complaints

    def _decode(self) -> bytes:
        request = requests.good()["Decode"][0].SerializeToString()
        reply: bytes = self.method(requests.PATHS["Decode"])(request, timeout=CALL_SECONDS, metadata=BEARER)
        return reply


def _rows(rpc: str, content: bytes) -> int:
    """Count the rows of a reply, or the models."""
    reply: Any = getattr(pb, f"{rpc}Response").FromString(content)
    if rpc == "ListModels":
        return len(reply.models)
    if rpc == "Encode":
        return int(reply.means.shape[0])
    images = reply.images
    return len(images.encoded.images) or int(np.prod(images.pixels.shape[:-3]))
