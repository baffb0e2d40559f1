"""Files that are whole or not there: beside, then renamed, and never in place of what is no file."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from armoire.files import replacing


def write(path: Path, content: bytes = b"new") -> None:
    with replacing(path) as file:
        file.write(content)


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """While the block writes, the path holds the old bytes; afterwards the new ones, and nothing else is left."""
    path = tmp_path / "z.npy"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_stays_a_link(tmp_path: Path, dangling: bool) -> None:
    """What a link points to is written, there already or not, and the link stays."""
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "z.npy", tmp_path / "link"
    link.symlink_to(target)
    if not dangling:
        target.write_bytes(b"old")
    write(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "link", "z.npy"]


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    """Who reads a named pipe gets the bytes, and the pipe is still one."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    reader.join(30)
    assert got == [b"new"]
    assert list(tmp_path.iterdir()) == [pipe]


def test_standard_output_can_be_named() -> None:
    """A pipe without a name, known by its descriptor only, gets the bytes."""
    # Not /dev/stdout, a link to it: code that is wrong would replace that, which root can.
    program = (
        "from pathlib import Path; from armoire.files import replacing\n"
        "with replacing(Path('/dev/fd/1')) as file: file.write(b'new')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert ran.stdout == b"new"


def test_a_folder_that_is_missing_is_told_with_the_path_that_came(tmp_path: Path) -> None:
    """The error names the file that the user named, and no file of ours."""
    path = tmp_path / "nowhere" / "z.npy"
    with pytest.raises(FileNotFoundError) as refused:
        write(path)
    assert refused.value.filename == str(path)
    assert ".part" not in str(refused.value)
