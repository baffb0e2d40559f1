"""One ONNX graph, as batches run through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from armoire.arrays import Array
from armoire.engine.buffers import Padded
from armoire.engine.providers import CPU, CUDA, Provider, powers_of_two
from armoire.engine.tickets import Outputs
from armoire.errors import BadBundle
from armoire.ops.manifest import GraphSpec


class Graph:
    """A graph in one session, or in one for each lane where a session runs one batch at a time."""

    def __init__(
        self,
        content: bytes,
        spec: GraphSpec,
        outputs: Sequence[str],
        provider: Provider,
        *,
        file: str | None = None,
        precision: str = "fp32",
        lanes: int = 1,
    ) -> None:
        """Load a graph.

        Args:
            content: the ONNX file.
            spec: what the manifest says of it.
            outputs: the names that ``run`` gives, in order; nothing else is computed where ORT can avoid it.
            provider: where it runs.
            file: the file's name, for messages; None: that of ``spec``.
            precision: fp32, or the provider's own.
            lanes: how many threads may run it side by side.

        Raises:
            BadBundle: no graph, or one that differs from ``spec``.
            BadSettings: the provider does not work here.
        """
        self.provider = provider
        self._file = file or spec.file
        self._sessions = [
            provider.open(content, self._file, precision) for _ in range(lanes if provider.alone else 1)
        ]
        self._check(spec)
        (self._input,) = spec.inputs
        self._row = spec.inputs[self._input].row
        self._dtype = np.dtype(spec.inputs[self._input].dtype)
        self._outputs = list(outputs)
        self._tensors = [spec.outputs[name] for name in outputs]
        # One for each lane: taken while a batch runs, put back after it.
        self._idle = self._sessions * (1 if provider.alone else lanes)
        try:
            self._padded = [
                Padded(self._sessions[0], spec, self._outputs, provider, size)
                for size in provider.batch_sizes
            ]
        except Exception as error:
            raise provider.fault(f"{self._file} gets no buffers", error) from None

    @property
    def in_the_calling_thread(self) -> bool:
        """Whether a batch takes the processor time of the thread that runs it, and nobody else's."""
        return self.provider.name != CUDA

    def sizes(self, max_batch: int) -> tuple[int, ...]:
        """Give the batch sizes that are worth measuring, ascending, 1 among them."""
        return tuple(padded.size for padded in self._padded) or powers_of_two(max_batch)

    def empty(self, rows: int) -> Outputs:
        """Give arrays for the outputs of ``rows`` rows, in the order of ``outputs``."""
        return tuple(np.empty((rows, *tensor.row), tensor.dtype) for tensor in self._tensors)

    def run(self, parts: Sequence[Array], into: Outputs) -> None:
        """Run the rows of ``parts``, [k, ...] each, and write their outputs into arrays as ``empty`` gives them.

        Safe from as many threads at a time as there are lanes; on a closed set of batch sizes, from one.
        """
        rows = len(into[0])
        for padded in self._padded:
            if rows <= padded.size:
                padded.run(parts, into)
                return
        # Unpadded, a session that records CUDA graphs would record this one over them.
        assert not self._padded, f"{rows} rows, more than the largest batch"
        session = self._idle.pop()
        try:
            self._run(session, parts[0] if len(parts) == 1 else np.concatenate(parts), into)
        finally:
            self._idle.append(session)

    def prove(self, rows: Array) -> Outputs:
        """Run as ``run`` does, before anybody is served.

        Raises:
            BadBundle: the graph cannot run these rows.
            BadSettings: the same, on a provider that the CPU could stand in for.
        """
        outputs = self.empty(len(rows))
        step = self._padded[-1].size if self._padded else len(rows)
        try:
            for start in range(0, len(rows), step):
                part = slice(start, start + step)
                self.run([rows[part]], tuple(output[part] for output in outputs))
        except Exception as error:
            raise self.provider.fault(f"{self._file} cannot run {len(rows)} rows", error) from None
        return outputs

    def zeros(self, rows: int) -> Array:
        """Give rows of the right shape and type."""
        return np.zeros((rows, *self._row), self._dtype)

    def padding(self, rows: int) -> int:
        """Tell how many rows are run in vain to fill a batch of ``rows``."""
        return next((padded.size - rows for padded in self._padded if rows <= padded.size), 0)

    def settle(self, max_batch: int) -> None:
        """Get ready for batches of up to ``max_batch`` rows, once it is known that none will be larger."""
        if self.provider.name == CPU:
            # Give back the memory of the largest batch, which the arena would keep for a graph that never sees one.
            options = ort.RunOptions()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            self._sessions[0].run(self._outputs, {self._input: self.zeros(1)}, options)
        if self.provider.alone:
            # OpenVINO prepares itself for every size that it meets, tens of milliseconds each.
            for session in self._sessions:
                for rows in range(1, max_batch + 1):
                    self._run(session, self.zeros(rows), self.empty(rows))

    def _run(self, session: ort.InferenceSession, rows: Array, into: Outputs) -> None:
        binding = session.io_binding()
        # Neither side is copied: ONNX Runtime reads the rows where they lie and writes where the answer is wanted.
        binding.bind_cpu_input(self._input, rows)
        for name, output in zip(self._outputs, into, strict=True):
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(output))
        session.run_with_iobinding(binding)

    def _check(self, spec: GraphSpec) -> None:
        for kind, nodes, wanted in (
            ("input", self._sessions[0].get_inputs(), spec.inputs),
            ("output", self._sessions[0].get_outputs(), spec.outputs),
        ):
            came = {
                node.name: (_ORT_TYPES.get(node.type, node.type), (_batch(node), *node.shape[1:]))
                for node in nodes
            }
            want = {name: (tensor.dtype, tensor.shape) for name, tensor in wanted.items()}
            if came != want:
                raise BadBundle(f"{self._file} has the {kind}s {came}; the manifest says {want}")


_ORT_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


def _batch(node: Any) -> str | int | None:
    """Give the batch axis of an input or output: "n" where any size will do, whatever the exporter called it."""
    if not node.shape:
        return None
    return node.shape[0] if isinstance(node.shape[0], int) else "n"
