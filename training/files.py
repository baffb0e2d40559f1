"""Files and folders that are whole or not there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, content: bytes | memoryview) -> None:
    """Write beside ``path`` and rename at the end: a full disk or Ctrl-C leaves the old file as it was."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside ``folder``, which takes its place if the block ends without an error.

    The old folder is moved aside for the rename and deleted last, so that it comes back should the rename fail.
    """
    folder = folder.resolve()  # of a link, what it points to
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    unfinished.mkdir()
    try:
        yield unfinished
        try:
            if folder.exists():
                folder.rename(old)
            unfinished.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)  # it is not there if it has its place already
        raise
    if old.exists():
        shutil.rmtree(old)
