"""A client process: orders come as lines of JSON on standard input, counts go out on standard output.

Beyond gRPC it loads nothing heavy. The end of its input, when the parent is gone, ends it too.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from armoire import loop
from armoire.load.channels import Channels
from armoire.load.generator import Generator
from armoire.load.order import Order
from armoire.load.plan import Target

STOP = "stop"
# No line is longer than an order, whose message is as large as the server lets it be.
MOST_LINE_BYTES = 1 << 40


def say(**values: Any) -> None:
    """Tell the parent."""
    print(json.dumps(values), flush=True)


def tell_progress(done: int, failed: int) -> None:
    """Tell the parent how far the stage is."""
    say(done=done, failed=failed)


async def work() -> None:
    """Connect, then carry out one order after the other."""
    orders = asyncio.StreamReader(MOST_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    first = json.loads(await orders.readline())
    target = Target.from_json(first["target"])
    channels = Channels(target, first["method"], first["connections"])
    try:
        await channels.connect()
        say(ready=True)
    except TimeoutError:
        say(unavailable=f"no connection to {target.address} within {target.timeout:g} s")
    line = await orders.readline()
    while line:
        following = asyncio.create_task(orders.readline())
        if line.decode().strip() != STOP:
            await carry_out(Generator(channels, Order.from_line(line.decode()), tell_progress), following)
        line = await following
    await channels.close()


async def carry_out(generator: Generator, following: asyncio.Task[bytes]) -> None:
    """Run a stage; the only line in the middle of it is to stop, as is the end."""

    def interrupt(_: asyncio.Task[bytes]) -> None:
        generator.interrupt()

    following.add_done_callback(interrupt)
    tally = await generator.run()
    following.remove_done_callback(interrupt)
    say(tally=tally.to_json())


def main() -> None:
    """Work until the input ends."""
    loop.run(work())


if __name__ == "__main__":
    main()
