"""``make bench-gpu``: what Decode costs on the GPU, from the request's rows to the reply's, by rows and provider.

What is measured is the engine as the server runs it, copies to and from the device among it, and no gRPC: ``armoire
bench`` against ``armoire serve --provider cuda`` measures the rest. Batches of 512 rows are allowed here, so that a
row of the table is one batch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from armoire.config import BUNDLED_MODELS
from armoire.engine import golden, providers, runtime
from armoire.engine.graph import Graph
from armoire.engine.providers import CPU, Provider
from armoire.ops import bundle

ROWS = (1, 32, 128, 512)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=BUNDLED_MODELS / "fashion-mnist" / "1")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure (default: 3)")
    parser.add_argument("--cpu", action="store_true", help="the CPU alone, to see that this runs")
    asked = parser.parse_args(arguments)
    read = bundle.read(asked.bundle)
    kinds = [("cpu, one core", Provider(CPU))]
    if not asked.cpu:
        for fp16 in (False, True):
            for recorded in (False, True):
                taken = providers.cuda(max(asked.rows), fp16=fp16, cuda_graphs=recorded)
                kinds.append((f"{taken.precision}, CUDA graphs {'on' if recorded else 'off'}", taken))
    print(f"{read.manifest.name}/{read.manifest.version}, Decode, medians of {asked.seconds:g} s each\n")
    print("| | pixels within 1 of 255 |", " | ".join(f"{rows} rows" for rows in asked.rows), "|")
    print("|" + "---|" * (2 + len(asked.rows)))
    for name, provider in kinds:
        encoder, decoder = runtime.load(read, provider)
        close = golden.check(read, encoder, decoder, close_pixels=0.0).close
        cells = [cell(decoder, rows, read.manifest.latent_size, asked.seconds) for rows in asked.rows]
        print(f"| {name} | {close:.2%} |", " | ".join(cells), "|")
    return 0


def cell(decoder: Graph, rows: int, size: int, seconds: float) -> str:
    """Give milliseconds a batch and images a second."""
    points = np.random.default_rng(0).standard_normal((rows, size), np.float32)
    into, times = decoder.empty(rows), []
    for _ in range(3):
        decoder.run([points], into)
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        decoder.run([points], into)
        times.append(time.perf_counter() - started)
    median = statistics.median(times)
    return f"{median * 1e3:.2f} ms, {rows / median:,.0f}/s"


if __name__ == "__main__":
    sys.exit(main())
