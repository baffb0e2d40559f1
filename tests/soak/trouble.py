"""Callers that cut their calls off, and callers whose calls are bad, beside a load of good ones."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Self

import grpc
import numpy as np

from armoire.v1 import armoire_pb2 as pb
from armoire.wire.tensors import to_tensor
from tests.soak.requests import PATHS

CALL_SECONDS = 30.0
# A caller cuts its call off so soon.
LONGEST_PATIENCE = 0.02
ROWS = 64


def _latents(rows: int, size: int = 16) -> pb.Tensor:
    return to_tensor(np.zeros((rows, size), np.float32))


BAD: tuple[tuple[str, bytes], ...] = (
    ("Decode", b"\xff\xff\xff"),
    ("Decode", pb.DecodeRequest(latents=_latents(1, 3)).SerializeToString()),
    ("Decode", pb.DecodeRequest(latents=_latents(1), model="nobody").SerializeToString()),
    ("Sample", pb.SampleRequest(count=1 << 20).SerializeToString()),
    (
        "Encode",
        pb.EncodeRequest(images=pb.Images(encoded=pb.EncodedImages(images=[b"GIF89a"]))).SerializeToString(),
    ),
)


class Trouble:
    """Makes ``rate`` such calls a second from a thread while its block runs, half of them cut off.

    Attributes:
        codes: of the calls that were waited for and of those that were cut off, as their callers saw them.
    """

    def __init__(self, address: str, rate: float, seed: int = 0) -> None:
        self.codes: Counter[str] = Counter()
        self._rate = rate
        self._random = random.Random(seed)
        self._channel = grpc.insecure_channel(address, [("grpc.enable_retries", 0)])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._channel.close()

    def _work(self) -> None:
        while not self._over.wait(self._random.expovariate(self._rate)):
            if self._random.random() < 0.5:
                self._cut_off()
            else:
                rpc, message = self._random.choice(BAD)
                self._count(self._call(rpc, message))

    def _cut_off(self) -> None:
        call = self._call("Decode", pb.DecodeRequest(latents=_latents(ROWS)).SerializeToString())
        self._over.wait(self._random.uniform(0, LONGEST_PATIENCE))
        call.cancel()
        self._count(call)

    def _call(self, rpc: str, message: bytes) -> grpc.Future:
        return self._channel.unary_unary(PATHS[rpc]).future(message, timeout=CALL_SECONDS)

    def _count(self, call: grpc.Future) -> None:
        self.codes[call.code().name] += 1  # type: ignore[attr-defined]
