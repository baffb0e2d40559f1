"""Somebody else's server of armoire.v1: grpcio's threaded one, with a Decode that a test brings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from armoire.v1 import armoire_pb2 as pb

SERVICE = "armoire.v1.LatentService"
Decode = Callable[[int, grpc.ServicerContext], pb.DecodeResponse]
MODEL = pb.Model(name="stranger", version="3", image_height=2, image_width=2, image_channels=1, latent_size=2)


def images(rows: int, side: int = 2) -> pb.DecodeResponse:
    """A reply of black images."""
    pixels = pb.Tensor(
        data_type=pb.DATA_TYPE_UINT8, shape=[rows, side, side, 1], data=bytes(rows * side * side)
    )
    return pb.DecodeResponse(images=pb.Images(pixels=pixels))


class Stranger:
    """The server. ``decode`` gets the number of the call, from 0, and its context."""

    def __init__(self, decode: Decode, port: int = 0, **options: int) -> None:
        self.calls = 0
        self._decode = decode
        self._lock = threading.Lock()
        self._server = grpc.server(
            ThreadPoolExecutor(16), options=[(f"grpc.{name}", value) for name, value in options.items()]
        )
        handlers = {
            "ListModels": self._handler(lambda *_: pb.ListModelsResponse(models=[MODEL])),
            "Decode": self._handler(self._count),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def _count(self, _: bytes, context: grpc.ServicerContext) -> pb.DecodeResponse:
        with self._lock:
            number, self.calls = self.calls, self.calls + 1
        return self._decode(number, context)

    @staticmethod
    def _handler(behaviour: Callable[..., object]) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            behaviour, response_serializer=lambda message: message.SerializeToString()
        )

    def close(self) -> None:
        self._server.stop(0).wait(10)


@contextmanager
def stranger(decode: Decode, port: int = 0, **options: int) -> Iterator[Stranger]:
    """Serve while the block runs."""
    running = Stranger(decode, port, **options)
    try:
        yield running
    finally:
        running.close()
