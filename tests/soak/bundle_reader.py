"""``python -m tests.soak.bundle_reader``: reads bundles as a server that starts does, in a process that may crash.

Folders come as lines on standard input. For each a line goes out: SERVED, the name of an error of ours, or what else
was raised, and its text.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from armoire.engine import golden, runtime
from armoire.engine.providers import CPU, Provider
from armoire.errors import BadBundle, BadSettings
from armoire.ops import bundle

# A bundle that makes the server want more than this is refused by the allocator, not by the kernel's killer.
MEMORY_BYTES = 6 << 30


def outcome(folder: Path) -> tuple[str, str]:
    """Read, load and prove one bundle."""
    try:
        read = bundle.read(folder)
        encoder, decoder = runtime.load(read, Provider(CPU))
        golden.check(read, encoder, decoder, 0.99)
    except (BadBundle, BadSettings) as error:
        return type(error).__name__, str(error)
    except Exception as error:  # a finding
        return f"RAISED {type(error).__name__}", str(error)
    return "SERVED", ""


def main() -> None:
    """Answer until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for line in sys.stdin:
        print(json.dumps(outcome(Path(line.rstrip("\n")))), flush=True)


if __name__ == "__main__":
    main()
