"""A child process that reads bundles, and another where it dies: a crash is a finding and not the end."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path

ANSWER_SECONDS = 60.0


class BundleReader:
    """Starts its child when it is first asked."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None

    def read(self, folder: Path) -> tuple[str, str]:
        """Give what became of a bundle: SERVED, BadBundle, BadSettings, RAISED ..., CRASHED or STUCK, and the text."""
        child = self._child = self._child or self._start()
        assert child.stdin
        assert child.stdout
        with contextlib.suppress(BrokenPipeError):  # dead already: told below
            child.stdin.write(f"{folder}\n")
            child.stdin.flush()
        watch = threading.Timer(ANSWER_SECONDS, child.kill)
        watch.start()
        line = child.stdout.readline()
        stuck = not watch.is_alive()
        watch.cancel()
        if line:
            code, text = json.loads(line)
            return code, text
        self._child = None
        status = child.wait()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        child.stdout.close()
        return ("STUCK", f"no answer in {ANSWER_SECONDS:g} s") if stuck else ("CRASHED", f"status {status}")

    @property
    def pid(self) -> int | None:
        """The child's, where there is one."""
        return self._child.pid if self._child else None

    def close(self) -> None:
        """End the child."""
        if self._child:
            self._child.communicate()

    @staticmethod
    def _start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.soak.bundle_reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
