"""Write the Python stubs of the wire contract, or with --check tell whether they are up to date.

The proto path equals the Python path (armoire/v1), so that the generated imports are right as they come.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent
PACKAGE = PROTO.parent / "service"
SOURCE = "armoire/v1/armoire.proto"
OUTPUTS = ("armoire_pb2.py", "armoire_pb2.pyi", "armoire_pb2_grpc.py")


def generate(target: Path) -> None:
    """Run protoc with the mypy-friendly .pyi output into ``target``."""
    well_known = resources.files("grpc_tools") / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTO}",
            f"--proto_path={well_known}",
            f"--python_out={target}",
            f"--pyi_out={target}",
            f"--grpc_python_out={target}",
            SOURCE,
        ]
    )
    if status:
        raise SystemExit(status)


def main() -> int:
    """Write the stubs, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare and exit 1 where a stub is stale")
    if not parser.parse_args().check:
        generate(PACKAGE)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        stale = [
            name
            for name in OUTPUTS
            if (Path(scratch) / "armoire/v1" / name).read_bytes()
            != (PACKAGE / "armoire/v1" / name).read_bytes()
        ]
    for name in stale:
        print(f"service/armoire/v1/{name} is not what {SOURCE} gives: run `make stubs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
