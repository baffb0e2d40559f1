"""Calls that a balancer should pass on, answer or refuse, made from where it runs; prints what came back as JSON.

`python -m tests.scale.strange_calls ADDRESS`
"""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.channel import SERVICE
from armoire.wire.tensors import to_tensor

MISTAKES = 30  # of each kind, in a row
MIB = 1 << 20
# Plain: nothing tries again, nothing asks for health.
OPTIONS = [
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]


def code(call: Any, *arguments: Any, timeout: float = 30.0) -> str:
    """Make a call and give its status code."""
    try:
        call(*arguments, timeout=timeout)
    except grpc.RpcError as error:
        name: str = error.code().name
        return name
    return "OK"


def codes(call: Any, *arguments: Any, timeout: float = 30.0) -> list[str]:
    """Make it often, and give the codes that came."""
    return sorted({code(call, *arguments, timeout=timeout) for _ in range(MISTAKES)})


def request_id(stub: pb_grpc.LatentServiceStub, *metadata: tuple[str, str]) -> str:
    """Ask for something, and give the id under which it is in the server's log."""
    _, call = stub.ListModels.with_call(pb.ListModelsRequest(), metadata=metadata)
    trailing = dict(call.trailing_metadata())
    return str(trailing["x-request-id"])


def main() -> None:
    """Make them all."""
    with grpc.insecure_channel(sys.argv[1], OPTIONS) as channel:
        stub: Any = pb_grpc.LatentServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        points = pb.DecodeRequest(latents=to_tensor(np.zeros((1024, 16), np.float32)))
        images = pb.EncodeRequest(images=pb.Images(pixels=to_tensor(np.zeros((1024, 32, 32, 1), np.uint8))))
        unfit = to_tensor(np.zeros((1, 16), np.float32))
        unfit.data = bytes(15 * MIB)
        huge = to_tensor(np.zeros((1, 16), np.float32))
        huge.data = bytes(17 * MIB)
        unknown: Any = channel.unary_unary("/some.Service/Call")
        misspelt: Any = channel.unary_unary(f"/{SERVICE}/Decod")
        of_service = health_pb2.HealthCheckRequest(service=SERVICE)

        def watch(timeout: float) -> None:
            list(health.Watch(of_service, timeout=timeout))

        print(
            json.dumps(
                {
                    "check": code(health.Check, of_service),
                    "watch": code(watch),
                    "services": sorted(ProtoReflectionDescriptorDatabase(channel).get_services()),
                    "unknown service": codes(unknown, b""),
                    "unknown method": codes(misspelt, b""),
                    "bad request": codes(stub.Decode, pb.DecodeRequest()),
                    "too short a deadline": codes(stub.Decode, points, timeout=0.02),
                    "1024 images": code(stub.Encode, images),
                    "1024 points": code(stub.Decode, points),
                    "15 MiB": code(stub.Decode, pb.DecodeRequest(latents=unfit)),
                    "17 MiB": code(stub.Decode, pb.DecodeRequest(latents=huge)),
                    "own id": request_id(stub, ("x-request-id", "of-the-caller")),
                    "given id": request_id(stub),
                }
            )
        )


if __name__ == "__main__":
    main()
