"""``python -m tests.load.versus OLD NEW``: what a decoder costs of another, as ratios of processor time by batch size.

ONNX Runtime alone, one thread, the two in turn; processor time, so that other work on the machine changes little.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import onnxruntime as ort

from armoire.arrays import Array

BATCHES = (8, 32, 64, 128)
ROUNDS, ROWS = 30, 256  # rows of each decoder in a round


def main() -> None:
    """Measure, and print median and quartiles for each batch size."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    old, new = (ort.InferenceSession(file, options, providers=providers) for file in sys.argv[1:])
    (latents,) = old.get_inputs()
    generator = np.random.default_rng(0)
    for batch in BATCHES:
        rows = generator.standard_normal((batch, latents.shape[1]), np.float32)
        _seconds(old, rows), _seconds(new, rows)
        ratios = []
        for _ in range(ROUNDS // 2):
            first = _seconds(old, rows)
            ratios += [_seconds(new, rows) / first, _seconds(new, rows) / _seconds(old, rows)]
        low, median, high = statistics.quantiles(ratios)
        print(f"{batch} rows: {median:.3f} of the old one's processor time (quartiles {low:.3f}, {high:.3f})")


def _seconds(session: ort.InferenceSession, rows: Array) -> float:
    """Decode ROWS rows and give the processor time."""
    (latents,) = session.get_inputs()
    began = time.process_time()
    for _ in range(max(1, ROWS // len(rows))):
        session.run(["pixels"], {latents.name: rows})
    return time.process_time() - began


if __name__ == "__main__":
    main()
