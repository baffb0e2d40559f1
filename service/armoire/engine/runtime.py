"""The only file that knows ONNX Runtime: providers, sessions, warm-up, the golden check."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from armoire.arrays import Array
from armoire.engine.batching import Cost, Outputs
from armoire.errors import BadBundle, BadSettings
from armoire.ops.bundle import Bundle
from armoire.ops.manifest import GraphSpec

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# ONNX Runtime's arena on the GPU, for each graph: they need a fraction, and the GPU may be shared.
GPU_MEMORY_BYTES = 2 << 30
CUDA_OPTIONS: dict[str, Any] = {
    # EXHAUSTIVE times every algorithm again for each new shape, in the middle of a call.
    "cudnn_conv_algo_search": "HEURISTIC",
    "gpu_mem_limit": GPU_MEMORY_BYTES,
    "arena_extend_strategy": "kSameAsRequested",
    # TF32 keeps 10 bits of mantissa: the golden outputs were computed with 23.
    "use_tf32": 0,
}
# What the golden outputs may differ by: float32 sums in another order.
GOLDEN_TOLERANCE = 1e-3
GOLDEN_EQUAL_PIXELS = 0.999


@dataclass(frozen=True)
class Provider:
    """An execution provider that was seen to work here.

    Attributes:
        name: ONNX Runtime's name of it.
        precision: the arithmetic in use.
        batch_sizes: the closed set that batches are padded to; empty: any size runs as it is.
        why: the reason that it was taken in place of another one, for the log.
    """

    name: str
    precision: str = "fp32"
    batch_sizes: tuple[int, ...] = ()
    why: str = ""


def powers_of_two(max_batch: int) -> tuple[int, ...]:
    """List 1, 2, 4 ... and ``max_batch`` itself: padding at most doubles a batch."""
    return (*(2**i for i in range((max_batch - 1).bit_length())), max_batch)


class Graph:
    """One ONNX graph in a session of its own."""

    def __init__(
        self, content: bytes, spec: GraphSpec, outputs: Sequence[str], provider: Provider, threads: int
    ) -> None:
        """Load a graph.

        Args:
            content: the ONNX file.
            spec: what the manifest says of it.
            outputs: the names that ``run`` gives, in order; nothing else is computed where ORT can avoid it.
            provider: where it runs.
            threads: CPU threads.

        Raises:
            BadBundle: no graph, or one that differs from ``spec``.
            BadSettings: the provider does not work here.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # A spinning thread takes the core from the event loop that feeds it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if provider.name == CUDA:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        providers: list[Any] = [(CUDA, CUDA_OPTIONS)] if provider.name == CUDA else [provider.name]
        try:
            # Without its own fallback, which would go on with the CPU after a fault, then or in the middle of a run.
            self._session = ort.InferenceSession(content, options, providers=providers, enable_fallback=0)
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise _fault(provider, f"{spec.file} cannot be loaded", error) from None
        if self._session.get_providers()[0] != provider.name:
            raise BadSettings(
                f"{provider.name} was asked for and ONNX Runtime took {self._session.get_providers()[0]}"
            )
        self._check(spec)
        (self._input,) = spec.inputs
        self._row = spec.inputs[self._input].row
        self._dtype = np.dtype(spec.inputs[self._input].dtype)
        self._outputs = list(outputs)
        self._file, self._provider = spec.file, provider
        try:
            self._bindings = [
                _Binding(self._session, spec, self._outputs, provider, size) for size in provider.batch_sizes
            ]
        except Exception as error:
            raise _fault(provider, f"{spec.file} gets no buffers", error) from None

    def run(self, rows: Array) -> Outputs:
        """Run [n, ...] -> arrays [n, ...] in the order of ``outputs``; safe from one thread at a time."""
        for binding in self._bindings:
            if len(rows) <= binding.size:
                return binding.run(rows)
        return tuple(self._session.run(self._outputs, {self._input: rows}))

    def prove(self, rows: Array) -> Outputs:
        """Run as ``run`` does, before anybody is served.

        Raises:
            BadBundle: the graph cannot run these rows.
            BadSettings: the same, on a provider that the CPU could stand in for.
        """
        try:
            return self.run(rows)
        except Exception as error:
            raise _fault(self._provider, f"{self._file} cannot run {len(rows)} rows", error) from None

    def prove_one_row(self) -> None:
        """Run one row of zeros; errors as in ``prove``."""
        self.prove(np.zeros((1, *self._row), self._dtype))

    def padding(self, rows: int) -> int:
        """Tell how many rows are run in vain to fill a batch of ``rows``."""
        return next((b.size - rows for b in self._bindings if rows <= b.size), 0)

    def warm_up(self, max_batch: int) -> Cost:
        """Run every batch size that will be used and measure what one costs.

        The cost model is the line through the fastest of several runs at 1 row and at ``max_batch`` rows.
        """
        sizes = [b.size for b in self._bindings] or list(powers_of_two(max_batch))
        seconds = {size: self._fastest(size) for size in sizes}
        one, most = seconds[1], seconds[max_batch]
        per_row = max(most - one, 0.0) / (max_batch - 1) if max_batch > 1 else 0.0
        return Cost(fixed=max(one - per_row, 0.0), per_row=per_row, max_batch=max_batch)

    def _fastest(self, size: int) -> float:
        rows = np.zeros((size, *self._row), self._dtype)
        times = []
        for _ in range(5):
            started = time.perf_counter()
            self.prove(rows)
            times.append(time.perf_counter() - started)
        return min(times)

    def _check(self, spec: GraphSpec) -> None:
        for kind, nodes, wanted in (
            ("input", self._session.get_inputs(), spec.inputs),
            ("output", self._session.get_outputs(), spec.outputs),
        ):
            came = {
                node.name: (_ORT_TYPES.get(node.type, node.type), (_batch(node), *node.shape[1:]))
                for node in nodes
            }
            want = {name: (tensor.dtype, tensor.shape) for name, tensor in wanted.items()}
            if came != want:
                raise BadBundle(f"{spec.file} has the {kind}s {came}; the manifest says {want}")


_ORT_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


def _batch(node: Any) -> str | int | None:
    """Give the batch axis of an input or output: "n" where any size will do, whatever the exporter called it."""
    if not node.shape:
        return None
    return node.shape[0] if isinstance(node.shape[0], int) else "n"


class _Binding:
    """Buffers on the device for one batch size, bound once: no allocation and no new address per batch."""

    def __init__(
        self,
        session: ort.InferenceSession,
        spec: GraphSpec,
        outputs: Sequence[str],
        provider: Provider,
        size: int,
    ) -> None:
        device = "cuda" if provider.name == CUDA else "cpu"
        (name,) = spec.inputs
        self.size = size
        self._on_cpu = device == "cpu"
        self._session = session
        self._staging = np.zeros((size, *spec.inputs[name].row), spec.inputs[name].dtype)
        self._input = ort.OrtValue.ortvalue_from_numpy(self._staging, device, 0)
        self._outputs = [
            ort.OrtValue.ortvalue_from_shape_and_type(
                [size, *spec.outputs[output].row], np.dtype(spec.outputs[output].dtype).type, device, 0
            )
            for output in outputs
        ]
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(name, self._input)
        for output, value in zip(outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(output, value)

    def run(self, rows: Array) -> Outputs:
        self._staging[: len(rows)] = rows
        self._input.update_inplace(self._staging)
        self._session.run_with_iobinding(self._binding)
        answers = (value.numpy()[: len(rows)] for value in self._outputs)
        # On the CPU numpy() is a view of the buffer, which the next batch writes over.
        return tuple(answer.copy() if self._on_cpu else answer for answer in answers)


def load(bundle: Bundle, provider: Provider, threads: int) -> tuple[Graph, Graph]:
    """Load a bundle's encoder and decoder, each with the outputs that are served; errors as in Graph."""
    specs = bundle.manifest.graphs
    return (
        Graph(
            bundle.graph("encoder", "cpu")[0], specs["encoder"], ["mean", "log_variance"], provider, threads
        ),
        Graph(bundle.graph("decoder", "cpu")[0], specs["decoder"], ["pixels"], provider, threads),
    )


def choose_provider(wanted: str, bundle: Bundle, max_batch: int) -> Provider:
    """Find the provider that ``wanted`` (auto, cuda, cpu) means on this machine, by trying it on ``bundle``.

    Raises:
        BadSettings: cuda was asked for and does not work; the message says why.
    """
    if wanted == "cpu":
        return Provider(CPU)
    cuda = Provider(CUDA, batch_sizes=powers_of_two(max_batch))
    try:
        if CUDA not in ort.get_available_providers():
            raise BadSettings(
                "this ONNX Runtime is a build without CUDA; install armoire[cuda] in an environment of its own"
            )
        ort.preload_dlls()
        for graph in load(bundle, cuda, threads=1):
            graph.prove_one_row()
    except BadSettings as error:
        if wanted == "cuda":
            raise BadSettings(f"provider is cuda, which does not work here: {error}") from None
        return Provider(CPU, why=f"provider auto takes the CPU: {error}")
    return cuda


def check_golden(bundle: Bundle, encoder: Graph, decoder: Graph) -> None:
    """Compare the graphs' answers with those that PyTorch gave at export.

    Raises:
        BadBundle: they differ by more than rounding.
    """
    golden, where = bundle.golden, f"{bundle.manifest.name}/{bundle.manifest.version}"
    mean, log_variance = encoder.prove(golden["pixels"])
    for name, came in (("mean", mean), ("log_variance", log_variance)):
        gap = float(np.abs(came - golden[name]).max())
        if not gap <= GOLDEN_TOLERANCE:  # a NaN is no match
            raise BadBundle(
                f"{where}: the encoder's {name} differs from its golden output by {gap:.3g}; export it again"
            )
    (pixels,) = decoder.prove(golden["latents"])
    gaps = np.abs(pixels.astype(np.int16) - golden["decoded_pixels"])
    if gaps.max() > 1 or (gaps == 0).mean() < GOLDEN_EQUAL_PIXELS:
        raise BadBundle(
            f"{where}: the decoder's pixels differ from its golden output by up to {gaps.max()} of 255 and "
            f"agree in {(gaps == 0).mean():.2%}; export it again"
        )


def _fault(provider: Provider, what: str, error: Exception) -> BadBundle | BadSettings:
    """On the CPU it is the bundle that is bad; a GPU may be the reason itself."""
    kind = BadBundle if provider.name == CPU else BadSettings
    return kind(f"{what} on {provider.name}: {(str(error).splitlines() or [type(error).__name__])[0]}")
