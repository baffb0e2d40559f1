"""The threads that decode and encode image files beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Generic, TypeVar

import msgspec

from armoire.arrays import Pixels
from armoire.errors import Overloaded
from armoire.ops.manifest import PreprocessingSpec
from armoire.v1 import armoire_pb2 as pb

T = TypeVar("T")
RETRY_SECONDS = 0.1


class ImageFiles:
    """As many threads as decode or encode side by side, and the files that wait for them, on one event loop."""

    def __init__(self, threads: int, most_rows: int) -> None:
        """Start no thread yet; ``most_rows`` files may wait or be worked on, as rows in front of a graph."""
        self._most_rows = most_rows
        self._rows = 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="files")

    async def decode(
        self,
        messages: Mapping[str, Sequence[bytes]],
        shape: tuple[int, int, int],
        preprocessing: PreprocessingSpec,
    ) -> list[Pixels]:
        """Decode the files of one call; see images.decode.

        Raises:
            InvalidArgument: one cannot be decoded, or they claim too many pixels.
            Overloaded: too many are waiting.
        """

        def work() -> list[Pixels]:
            from armoire.wire import images  # with Pillow, which a server without image files never needs

            return images.decode(
                messages, shape, images.Preprocessing(**msgspec.structs.asdict(preprocessing))
            )

        return await self._run(sum(map(len, messages.values())), work)

    async def encode(self, pixels: Pixels, image_format: pb.ImageFormat) -> list[bytes]:
        """Encode uint8 [n, height, width, channels] as n files.

        Raises:
            Overloaded: too many are waiting.
        """

        def work() -> list[bytes]:
            from armoire.wire import images

            return images.encode(pixels, image_format)

        return await self._run(len(pixels), work)

    def close(self) -> None:
        """Let go of the threads, once no call is in flight."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, rows: int, work: Callable[[], T]) -> T:
        if self._rows + rows > self._most_rows:
            raise Overloaded(
                f"{self._rows} image files are waiting and {rows} more pass max_queue_rows = {self._most_rows}; "
                "try again",
                retry_after=RETRY_SECONDS,
                reason="files",
            )
        job = _Job(work)
        self._rows += rows
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, job)
        finally:
            self._rows -= rows
            job.let_go()


class _Job(Generic[T]):
    """Work whose files are let go of with its caller: the pool keeps what was cancelled until a thread is free."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work: Callable[[], T] | None = work

    def __call__(self) -> T:
        work = self._work
        self.let_go()
        if work is None:
            raise CancelledError  # nobody waits for it
        return work()

    def let_go(self) -> None:
        """Keep nothing of it."""
        self._work = None
