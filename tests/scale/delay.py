"""``python -m tests.scale.delay SECONDS``: what is in this host's queue of netfilter goes on so much later."""

from __future__ import annotations

import asyncio
import signal
import sys

from netfilterqueue import NetfilterQueue, Packet

from tests.scale.hosts import QUEUE

PACKETS = 4096  # held at once, or the kernel drops what comes


async def main(seconds: float) -> None:
    """Say that it has begun, and go on until it is told to end and holds nothing more."""
    loop, queue, empty = asyncio.get_running_loop(), NetfilterQueue(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, lambda: loop.call_later(seconds, empty.set))

    def come(packet: Packet) -> None:
        loop.call_later(seconds, packet.accept)

    queue.bind(QUEUE, come, max_len=PACKETS)
    loop.add_reader(queue.get_fd(), lambda: queue.run(block=False))
    print("delaying", flush=True)
    await empty.wait()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
