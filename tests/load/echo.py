"""``python -m tests.load.echo``: grpc.aio with nothing behind it; a Decode is answered at once, in black.

The floor that ``make bench`` shows beside the service: what calls and replies of that size cost before anybody has
decoded anything. It stands for the same models, so that the same client can be sent to it.
"""

from __future__ import annotations

import grpc
import numpy as np

from armoire import loop
from armoire.v1 import armoire_pb2 as pb
from armoire.wire.interceptor import SERVICE
from armoire.wire.tensors import to_tensor

MODELS = {
    "faces": pb.Model(
        name="faces", version="1", image_height=64, image_width=64, image_channels=3, latent_size=200
    ),
    "fashion-mnist": pb.Model(
        name="fashion-mnist", version="1", image_height=32, image_width=32, image_channels=1, latent_size=16
    ),
}
MODELS_REPLY = pb.ListModelsResponse(models=MODELS.values()).SerializeToString()
# By the request's length, so that none is parsed twice.
replies: dict[int, bytes] = {}


async def main() -> None:
    """Print the port, and serve until the process ends."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)])
    handlers = {
        "ListModels": grpc.unary_unary_rpc_method_handler(list_models),
        "Decode": grpc.unary_unary_rpc_method_handler(decode),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


async def list_models(_request: bytes, _context: object) -> bytes:
    return MODELS_REPLY


async def decode(content: bytes, _context: object) -> bytes:
    reply = replies.get(len(content))
    if reply is None:
        request = pb.DecodeRequest.FromString(content)
        model = MODELS[request.model]
        shape = (
            request.latents.shape[0],
            model.image_height,
            model.image_width,
            model.image_channels,
        )
        pixels = pb.Images(pixels=to_tensor(np.zeros(shape, np.uint8)))
        reply = replies[len(content)] = pb.DecodeResponse(images=pixels).SerializeToString()
    return reply


if __name__ == "__main__":
    loop.run(main())
