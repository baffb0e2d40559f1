"""``python -m tests.load.lanes FILE...``: batches side by side on a core each, against each batch on all cores.

For every decoder that is named and every batch size: images/s of as many threads as there are cores, each running
whole batches in a session of one thread, and of one thread running batches in a session of as many; in turn, medians.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time

import numpy as np
import onnxruntime as ort

BATCHES = (1, 8, 16, 32, 64)
ROUNDS, SECONDS = 3, 1.0


def main() -> None:
    """Measure, and print a table in Markdown."""
    cores = len(os.sched_getaffinity(0))
    print(f"| decoder | rows a batch | {cores} batches on a core each | one batch on {cores} cores | ratio |")
    print("|---|---|---|---|---|")
    for file in sys.argv[1:]:
        for batch in BATCHES:
            rounds = [(measure(file, batch, cores, 1), measure(file, batch, 1, cores)) for _ in range(ROUNDS)]
            apart, together = (statistics.median(each) for each in zip(*rounds, strict=True))
            print(f"| {file} | {batch} | {apart:,.0f}/s | {together:,.0f}/s | {apart / together:.2f} |")


def measure(file: str, batch: int, lanes: int, threads: int) -> float:
    """Give images/s of ``lanes`` threads that share a session of ``threads`` threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (latents,) = session.get_inputs()
    rows = np.random.default_rng(0).standard_normal((batch, latents.shape[1]), np.float32)
    session.run(["pixels"], {latents.name: rows})
    done = [0] * lanes
    began = time.perf_counter()

    def work(lane: int) -> None:
        while time.perf_counter() - began < SECONDS:
            session.run(["pixels"], {latents.name: rows})
            done[lane] += batch

    workers = [threading.Thread(target=work, args=(lane,)) for lane in range(lanes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(done) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
