"""A real server on a real channel: every test of the service goes through these."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import settings

from armoire.client import Client
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from tests.serving import FASHION, Running, serving

# A slow machine makes an example slow, not wrong.
settings.register_profile("armoire", deadline=None)
settings.load_profile("armoire")
# In a background job of a shell SIGINT is ignored, and so it would be in every process that a test sends Ctrl-C to.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """One server with the default settings, shared by the tests that do not change it.

    But without canaries: the rows of one would count as a test's.
    """
    with serving(canary_seconds=0.0) as running:
        yield running


@pytest.fixture(scope="session")
def stub(server: Running) -> Iterator[pb_grpc.LatentServiceStub]:
    """The generated stub, on a plain channel."""
    with grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", -1)]) as channel:
        yield pb_grpc.LatentServiceStub(channel)


@pytest.fixture(scope="session")
def client(server: Running) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


@pytest.fixture
def bundle_copy(tmp_path: Path) -> Path:
    """A copy of the bundled model to damage: tmp_path/models/fashion-mnist/1."""
    folder = tmp_path / "models" / "fashion-mnist" / "1"
    folder.mkdir(parents=True)
    for file in FASHION.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder
