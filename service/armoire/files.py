"""Files that are whole or not there."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write beside ``path`` and rename at the end: a full disk or an error leaves the old file as it was.

    A link stays, and the file that it points to is replaced. What is no regular file (a pipe, a device such as
    /dev/stdout) is no file to replace: it is written to, once all the bytes are there.

    Raises:
        OSError: the folder is not there or cannot be written to, or ``path`` is a folder. It names ``path``.
    """
    try:
        if path.exists() and not path.is_file():
            buffer = io.BytesIO()
            yield buffer
            path.write_bytes(buffer.getbuffer())
            return
        target = Path(os.path.realpath(path))
        beside = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with beside.open("wb") as file:
                yield file
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None
