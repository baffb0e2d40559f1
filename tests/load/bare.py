"""``python -m tests.load.bare FILE...``: what ONNX Runtime alone gives on this core, images/s by batch size, as JSON.

The yardstick of ``make bench``: the same graph in the same process settings, with nothing around it.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime as ort

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
SECONDS = 0.4  # for each batch size


def main() -> None:
    """Measure each decoder that is named and print one object: file to batch size to images/s."""
    print(json.dumps({file: measure(file) for file in sys.argv[1:]}))


def measure(file: str) -> dict[int, float]:
    """Run a decoder on latents from N(0, I), all batch sizes in turn until each has had its time."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (latents,) = session.get_inputs()
    generator = np.random.default_rng(0)
    rows = {batch: generator.standard_normal((batch, latents.shape[1]), np.float32) for batch in BATCHES}
    spent, done = dict.fromkeys(BATCHES, 0.0), dict.fromkeys(BATCHES, 0)
    for batch in BATCHES:
        session.run(["pixels"], {latents.name: rows[batch]})
    while min(spent.values()) < SECONDS:
        for batch in BATCHES:
            started = time.perf_counter()
            session.run(["pixels"], {latents.name: rows[batch]})
            spent[batch] += time.perf_counter() - started
            done[batch] += batch
    return {batch: done[batch] / spent[batch] for batch in BATCHES}


if __name__ == "__main__":
    main()
