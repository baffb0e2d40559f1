"""A client as armoire.client's, round robin over replicas without anything in between, in an open loop.

`python -m tests.scale.balancing ADDRESS RATE SECONDS` prints, at the end, codes and the longest call as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter

import grpc
import numpy as np

from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.channel import options
from armoire.wire.tensors import to_tensor

REQUEST = pb.DecodeRequest(latents=to_tensor(np.zeros((8, 16), np.float32)))
CALL_SECONDS = 15.0  # far more than any call needs


async def call(address: str, rate: float, seconds: float) -> None:
    """Call, and print what came of it."""
    codes: Counter[str] = Counter()
    longest = 0.0
    async with grpc.aio.insecure_channel(address, options()) as channel:
        decode = pb_grpc.LatentServiceStub(channel).Decode
        await decode(REQUEST, timeout=CALL_SECONDS)

        async def one() -> None:
            nonlocal longest
            began = time.monotonic()
            codes[(await decode(REQUEST, timeout=CALL_SECONDS).code()).name] += 1
            longest = max(longest, time.monotonic() - began)

        print("calling", flush=True)
        began = time.monotonic()
        async with asyncio.TaskGroup() as calls:
            for number in range(round(rate * seconds)):
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
                calls.create_task(one())
    print(json.dumps({"codes": codes, "longest_ms": round(longest * 1e3)}), flush=True)


if __name__ == "__main__":
    asyncio.run(call(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
