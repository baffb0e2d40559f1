"""`armoire serve` from its first moment on, as an operator starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ARMOIRE = (sys.executable, "-m", "armoire.cli")
TERM_BIT = 1 << (signal.SIGTERM - 1)


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        os.sched_yield()


@pytest.fixture
def starting(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A server that has just been started, at home in a folder of its own."""
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("ARMOIRE_", "XDG_"))
    }
    ports = ("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
    with subprocess.Popen(
        [*ARMOIRE, "serve", *ports],
        env=variables | {"HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_stop_is_heard_before_anything_is_loaded(starting: subprocess.Popen[str]) -> None:
    """SIGTERM is handled before ONNX Runtime is loaded (process 1 would never see it otherwise); the status is 0."""
    process = Path("/proc") / str(starting.pid)

    def handled() -> bool:
        caught = (process / "status").read_text().partition("SigCgt:")[2].split()[0]
        return bool(int(caught, 16) & TERM_BIT)

    until(handled)
    assert "onnxruntime" not in (process / "maps").read_text()
    starting.terminate()
    assert starting.wait(60) == 0


def test_a_start_reports_to_nobody(starting: subprocess.Popen[str], tmp_path: Path) -> None:
    """ONNX Runtime's telemetry is off: a server that serves has left no device id in its home."""
    assert starting.stderr
    assert any("serving fashion-mnist/1" in line for line in starting.stderr)
    assert not [*tmp_path.iterdir()]
    starting.terminate()
    assert starting.wait(60) == 0
