"""Who may call what and how often, and what a server does when the file of tokens changes under it."""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from armoire import errors
from armoire.client import Client
from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.tensors import to_tensor
from tests.service.test_server import process, ready, scrape, value
from tests.serving import Running, serving

# A debt of a hundred rows outlasts any test.
SLOW = "rows_per_second=1"


def line(name: str, secret: str, rights: str = "") -> str:
    """A line of a tokens file."""
    return f"{name} {hashlib.sha256(secret.encode()).hexdigest()} {rights}\n"


def until(true: Callable[[], bool], what: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        threading.Event().wait(0.02)


@pytest.mark.parametrize(("listen", "warned"), [("0.0.0.0:0", 1), ("127.0.0.1:0", 0)])
def test_tokens_that_would_travel_in_plain_text_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, listen: str, warned: int
) -> None:
    """With tokens, without TLS and for more than this machine a server says so as it starts, and serves."""
    (tmp_path / "tokens").write_text(line("web", "secret"))
    with (
        caplog.at_level(logging.WARNING, "armoire.server"),
        serving(listen=listen, tokens_file=tmp_path / "tokens") as running,
    ):
        assert knows(running.address.replace("0.0.0.0", "127.0.0.1"), "secret")
    assert caplog.text.count("tokens will travel in plain text") == warned


def knows(address: str, secret: str) -> bool:
    """Whether a server lets the bearer of a token in."""
    with Client(address, token=secret) as client:
        try:
            client.models()
        except errors.Unauthenticated:
            return False
    return True


def points(rows: int) -> pb.Points:
    return pb.Points(latents=to_tensor(np.zeros((rows, 16), np.float32)))


def pixels(rows: int) -> pb.Images:
    return pb.Images(pixels=to_tensor(np.zeros((rows, 32, 32, 1), np.uint8)))


def edits(*examples: tuple[int, int]) -> list[pb.AttributeEdit]:
    # Directions of zeros move nothing; at the default scale they are as good as any.
    return [
        pb.AttributeEdit(examples=pb.Examples(positives=points(a), negatives=points(b))) for a, b in examples
    ]


REQUESTS: dict[str, tuple[str, Any, int]] = {
    "encode": ("Encode", pb.EncodeRequest(images=pixels(3)), 3),
    "encode files": (
        "Encode",
        pb.EncodeRequest(images=pb.Images(encoded=pb.EncodedImages(images=[b"no image"] * 4))),
        4,
    ),
    "decode": ("Decode", pb.DecodeRequest(latents=points(5).latents), 5),
    "sample": ("Sample", pb.SampleRequest(count=6), 6),
    "interpolate": ("Interpolate", pb.InterpolateRequest(start=points(2), end=points(2), steps=4), 8),
    "add": ("AddAttribute", pb.AddAttributeRequest(points=points(3), edits=edits((1, 2), (2, 1))), 9),
}


def call(running: Running, secret: str, rpc: str, request: Any) -> grpc.RpcError | None:
    """Give the error with which a call is refused, None for an answer."""
    with grpc.insecure_channel(running.address) as channel:
        method = getattr(pb_grpc.LatentServiceStub(channel), rpc)
        try:
            method(request, metadata=(("authorization", f"Bearer {secret}"),), timeout=30)
        except grpc.RpcError as error:
            return error
    return None


@pytest.mark.parametrize("name", REQUESTS)
def test_each_rpc_counts_the_rows_that_it_asks_for(tmp_path: Path, name: str) -> None:
    """A call of n rows leaves a debt of n, whatever the RPC, and the next is refused with the seconds that are left."""
    rpc, request, rows = REQUESTS[name]
    (tmp_path / "tokens").write_text(line("slow", "s", SLOW) + line("free", "f"))
    with serving(tokens_file=tmp_path / "tokens") as running:
        began = time.monotonic()
        call(running, "s", rpc, request)
        refused = call(running, "s", rpc, request)
        took = time.monotonic() - began
        assert refused is not None
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = rpc_status.from_call(refused)
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        assert any(detail.Unpack(info) for detail in status.details)
        assert any(detail.Unpack(retry) for detail in status.details)
        assert info.reason == "RATE_LIMITED"
        # One row a second and a bucket of one: after n rows it takes n seconds until it is full again.
        assert rows - took - 0.01 < retry.retry_delay.ToTimedelta().total_seconds() <= rows
        counted = scrape(running)
        assert value(counted, 'armoire_rejected_total{reason="rate"}') == 1
        # The others are not concerned.
        answer = call(running, "f", rpc, request)
        assert answer is None or answer.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_refusal_for_the_rate_comes_before_any_work(tmp_path: Path) -> None:
    """While every lane is busy a call over its rate is refused at once, and no row of it waits."""
    (tmp_path / "tokens").write_text(line("slow", "s", SLOW))
    with serving(tokens_file=tmp_path / "tokens") as running, Client(running.address, token="s") as client:
        client.sample(100)
        with running.holding():
            for work in (
                lambda: client.sample(1),
                lambda: client.decode(np.zeros((1, 16), np.float32)),
                lambda: client.encode(np.zeros((1, 32, 32, 1), np.uint8)),
                lambda: client.encode([b"no image at all"]),
                lambda: client.interpolate(np.zeros((1, 16)), np.zeros((1, 16))),
                lambda: client.add_attribute(np.zeros((1, 16)), "dress"),
            ):
                with pytest.raises(
                    errors.RateLimited, match="may ask for 1 a second; try again in"
                ) as refused:
                    work()
                assert 0 < refused.value.retry_after <= 100
            assert (running.pending("encoder"), running.pending("decoder")) == (0, 0)
        assert client.models()  # asks for no rows


def test_rows_that_cannot_be_are_not_credited(tmp_path: Path) -> None:
    """A shape of minus a thousand rows pays no debt."""
    (tmp_path / "tokens").write_text(line("slow", "s", SLOW))
    hostile = pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[-1000, 16])
    with serving(tokens_file=tmp_path / "tokens") as running:
        call(running, "s", "Sample", pb.SampleRequest(count=100))
        for request in (
            ("Decode", pb.DecodeRequest(latents=hostile)),
            ("Interpolate", pb.InterpolateRequest(start=pb.Points(latents=hostile), end=points(1), steps=2)),
            (
                "AddAttribute",
                pb.AddAttributeRequest(
                    points=points(1),
                    edits=[
                        pb.AttributeEdit(
                            examples=pb.Examples(positives=pb.Points(latents=hostile), negatives=points(1))
                        )
                    ],
                ),
            ),
        ):
            call(running, "s", *request)
        with Client(running.address, token="s") as client, pytest.raises(errors.RateLimited):
            client.sample(1)


def test_a_token_sees_and_uses_its_own_models_only(tmp_path: Path) -> None:
    """ListModels shows the models of the scope; any other name, known or not, is PermissionDenied."""
    (tmp_path / "tokens").write_text(
        line("small", "s", "models=fashion-mnist-2d,not-here")
        + line("all", "a")
        + line("none", "n", "models=not-here")
    )
    with serving(tokens_file=tmp_path / "tokens") as running:
        with Client(running.address, token="a") as client:
            assert [model.name for model in client.models()] == ["fashion-mnist", "fashion-mnist-2d"]
        with Client(running.address, token="n") as client:
            assert client.models() == []
        with Client(running.address, token="s", model="fashion-mnist-2d") as client:
            assert [model.name for model in client.models()] == ["fashion-mnist-2d"]
            assert client.sample(1).latents.shape == (1, 2)
        for model in ("fashion-mnist", "", "no-such-model"):
            with (
                Client(running.address, token="s", model=model) as client,
                pytest.raises(errors.PermissionDenied) as refused,
            ):
                client.sample(1)
            asked = model or "fashion-mnist"  # the default of the server
            assert str(refused.value) == (
                f"token 'small' may not use model '{asked}'; it may use fashion-mnist-2d, not-here"
            )
        with (
            Client(running.address, token="s", model="not-here") as client,
            pytest.raises(errors.NotFound, match=r"there is fashion-mnist-2d$"),
        ):
            client.sample(1)
        assert value(scrape(running), 'armoire_rejected_total{reason="permission"}') == 3


@pytest.mark.parametrize("rpc", ["Encode", "Decode", "Sample", "Interpolate", "AddAttribute"])
def test_every_rpc_holds_to_the_models(tmp_path: Path, rpc: str) -> None:
    """No RPC lets a token at a model outside its scope."""
    (tmp_path / "tokens").write_text(line("small", "s", "models=fashion-mnist-2d"))
    (request,) = (
        sent for name, (method, sent, _) in REQUESTS.items() if method == rpc and "files" not in name
    )
    with serving(tokens_file=tmp_path / "tokens") as running:
        refused = call(running, "s", rpc, request)
    assert refused is not None
    assert refused.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_removed_token_is_refused_at_the_next_look(tmp_path: Path) -> None:
    """With reload_seconds a change of the file is seen by itself: the one token goes, the other comes."""
    file = tmp_path / "tokens"
    file.write_text(line("old", "old-secret"))
    with serving(tokens_file=file, reload_seconds=0.05) as running:
        assert knows(running.address, "old-secret")
        with Client(running.address, token="old-secret") as client:
            client.models()
            (tmp_path / "beside").write_text(line("new", "new-secret"))
            (tmp_path / "beside").rename(file)
            until(lambda: knows(running.address, "new-secret"), "the new token")
            # A connection that was opened with it is no use either.
            with pytest.raises(errors.Unauthenticated, match="unknown"):
                client.models()


def test_sighup_takes_the_file_and_a_damaged_one_leaves_the_tokens(tmp_path: Path) -> None:
    """With reload_seconds 0 nothing is looked at until SIGHUP; an error line names file and line, not its text."""
    file = tmp_path / "tokens"
    file.write_text(line("old", "old-secret"))
    with process("--tokens-file", str(file), "--reload-seconds", "0") as server:
        address = ready(server)
        file.write_text(line("new", "new-secret"))
        assert not knows(address, "new-secret")
        server.send_signal(signal.SIGHUP)
        assert next(text for text in server.stderr if "read again" in text).rstrip().endswith(": 1 tokens")
        assert knows(address, "new-secret")
        assert not knows(address, "old-secret")
        file.write_text("# fine\nweb tell-nobody\n")
        server.send_signal(signal.SIGHUP)
        told = next(text for text in server.stderr if "ERROR" in text)
        assert f"tokens_file {file}, line 2: " in told
        assert "tell-nobody" not in told
        assert knows(address, "new-secret")
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
