"""``python -m tests.load.memory``: what a server of the bundled models holds, in MiB: at rest, under load, in a flood.

Peaks are the kernel's (VmHWM). The load is 32 rows x 16 callers, Decode and Encode at once. A flood is 1,024 calls of
1 MiB at once, twice what max_in_flight_mib lets in: images that could be encoded, and pixels of a wrong type.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections import Counter
from pathlib import Path

import grpc

from armoire.client import Client
from armoire.v1 import armoire_pb2 as pb
from tests.soak.process import ARMOIRE, server_process

SECONDS = "10"
CALLS, CONTENT = 1024, bytes(1 << 20)
FLOODS = {
    "images": pb.Tensor(data_type=pb.DATA_TYPE_UINT8, shape=[1024, 32, 32, 1], data=CONTENT),
    "wrong calls": pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[256, 32, 32, 1], data=CONTENT),
}


def main() -> None:
    """Measure and print."""
    with server_process("--provider", "cpu", "--threads", "2") as server:
        with Client(server.address) as client:
            client.sample(1, seed=0)
        print(f"at rest, after the first answer: {_status(server.pid, 'VmRSS')} MiB")
        _forget(server.pid)
        flags = f"--address {server.address} --callers 16 --rows 32 --warm-up 0 --seconds {SECONDS}".split()
        benches = [
            subprocess.Popen([*ARMOIRE, "bench", "--rpc", rpc, *flags], stdout=subprocess.DEVNULL)
            for rpc in ("Decode", "Encode")
        ]
        assert [bench.wait() for bench in benches] == [0, 0]
        print(f"at most under load: {_status(server.pid, 'VmHWM')} MiB")
        for kind, pixels in FLOODS.items():
            _forget(server.pid)
            codes = asyncio.run(_flood(server.address, pixels))
            print(f"at most in a flood of {kind}: {_status(server.pid, 'VmHWM')} MiB ({dict(codes)})")


async def _flood(address: str, pixels: pb.Tensor) -> Counter[str]:
    """Send everything at once and count the answers by code."""
    request = pb.EncodeRequest(images=pb.Images(pixels=pixels)).SerializeToString()

    async def call(encode: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]) -> str:
        try:
            await encode(request, timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    async with grpc.aio.insecure_channel(address) as channel:
        encode = channel.unary_unary("/armoire.v1.LatentService/Encode")
        return Counter(await asyncio.gather(*(call(encode) for _ in range(CALLS))))


def _status(pid: int, name: str) -> int:
    """Read a figure of a process (proc(5)), in MiB."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return round(int(found[1]) / 1024)


def _forget(pid: int) -> None:
    """Let the peak begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
