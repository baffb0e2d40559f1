"""``python -m tests.load.echo``: grpc.aio with nothing behind it; every Decode is answered with one 1 KB image at once.

The floor that ``make bench`` shows beside the service: what a call costs before anybody has decoded anything.
"""

from __future__ import annotations

import asyncio

import grpc
import numpy as np

from armoire.v1 import armoire_pb2 as pb
from armoire.wire.interceptor import SERVICE
from armoire.wire.tensors import to_tensor

MODEL = pb.Model(name="echo", version="1", image_height=32, image_width=32, image_channels=1, latent_size=16)
REPLIES = {
    "ListModels": pb.ListModelsResponse(models=[MODEL]).SerializeToString(),
    "Decode": pb.DecodeResponse(
        images=pb.Images(pixels=to_tensor(np.zeros((1, 32, 32, 1), np.uint8)))
    ).SerializeToString(),
}


async def main() -> None:
    """Print the port, and serve until the process ends."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {name: grpc.unary_unary_rpc_method_handler(_answer(reply)) for name, reply in REPLIES.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


def _answer(reply: bytes) -> object:
    async def answer(_request: bytes, _context: object) -> bytes:
        return reply

    return answer


if __name__ == "__main__":
    asyncio.run(main())
