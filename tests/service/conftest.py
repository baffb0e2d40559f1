"""A server that takes little, for tests of what it refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from armoire.v1 import armoire_pb2_grpc as pb_grpc
from tests.service.refused import MAX_ROWS, check_no_bug, stub_of
from tests.serving import Running, serving


@pytest.fixture(scope="module")
def small() -> Iterator[Running]:
    """A server that takes little: 32 rows a call, 1 MiB a message."""
    with serving(max_rows=MAX_ROWS, max_message_mib=1) as running:
        yield running
        check_no_bug(running)


@pytest.fixture(scope="module")
def calls(small: Running) -> Iterator[pb_grpc.LatentServiceStub]:
    with stub_of(small) as stub:
        yield stub
