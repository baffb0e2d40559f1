"""Image files that wait for a thread: how many, and for how long they are kept."""

from __future__ import annotations

import asyncio
import gc
import io
import weakref

import pytest
from PIL import Image

from armoire.errors import Overloaded
from armoire.ops.manifest import PreprocessingSpec
from armoire.wire.image_files import ImageFiles

AS_IT_IS = PreprocessingSpec(crop=None, resize=(8, 8), pad=0)


class Files(list[bytes]):
    """Files that can be watched."""


def files(count: int, side: int = 8) -> Files:
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "PNG")
    return Files([buffer.getvalue()] * count)


def decoding(pool: ImageFiles, content: Files) -> asyncio.Task[object]:
    return asyncio.create_task(pool.decode({"images": content}, (8, 8, 1), AS_IT_IS))


async def test_more_files_than_may_wait_are_refused() -> None:
    """What passes the bound is refused, told to come back and never decoded; the others are answered."""
    pool = ImageFiles(1, 8)
    waiting = [decoding(pool, files(4)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="8 image files are waiting and 1 more") as refused:
        await decoding(pool, files(1))
    assert refused.value.retry_after
    assert refused.value.reason == "files"
    await asyncio.gather(*waiting)
    await decoding(pool, files(8))
    pool.close()


async def test_files_of_a_caller_that_has_gone_are_let_go() -> None:
    """While a thread is at work on a large picture, what was cancelled behind it is in memory no more."""
    pool = ImageFiles(1, 8)
    large = decoding(pool, files(1, 4096))
    content = files(1)
    kept = weakref.ref(content)
    gone = decoding(pool, content)
    del content
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    del gone
    gc.collect()
    assert not large.done()
    assert kept() is None
    await large
    pool.close()
