"""What comes below the level of messages: HTTP/2 that no client library would send, at a server of its own process."""

from __future__ import annotations

import pytest

from tests.soak.http2 import Connection, framed, request_headers
from tests.soak.process import server_process
from tests.soak.requests import PATHS

LIST_MODELS = PATHS["ListModels"]


@pytest.mark.parametrize("path", [b"\xff", b"/armoire.v1.LatentService/Decode\xc3"])
def test_a_path_that_is_no_utf8_ends_its_call_and_nothing_else(path: bytes) -> None:
    """A call whose path is not UTF-8 is refused, and the next is answered."""
    with server_process("--threads", "1") as server, Connection(server.port) as connection:
        headers = [(name, path if name == b":path" else value) for name, value in request_headers("/")]
        refused = connection.call(headers, framed(b""))
        assert refused.code not in ("OK", "TIMEOUT")
        with Connection(server.port) as other:
            assert other.call(request_headers(LIST_MODELS), framed(b"")).code == "OK"
