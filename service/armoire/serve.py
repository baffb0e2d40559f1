"""``armoire serve``, apart from the other verbs: a server starts without what only callers need."""

from __future__ import annotations

import argparse
import gc
import signal
import sys

from armoire import loop, memory
from armoire.errors import StartError


def serve(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    # Until the server handles it: from process 1, which this is in a container, the kernel keeps a signal that nobody
    # handles, and a stop would wait for SIGKILL.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # What a start makes stays: looking for garbage in it finds none. The server turns the collector on again.
    gc.disable()
    memory.one_heap()
    try:
        from armoire import config, logs, process
    except ModuleNotFoundError as error:
        raise StartError(
            f"the server needs {error.name}; install armoire[cpu], or armoire[cuda] for a GPU"
        ) from None
    flags = {name: value for name, value in vars(arguments).items() if name in config.SETTINGS}
    settings = config.load(flags)
    logs.configure(settings.log_format)
    loop.run(process.serve(settings))
    return 0
