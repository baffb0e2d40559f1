"""The only file that knows ONNX Runtime: providers, sessions, warm-up, the golden check."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from armoire.arrays import Array
from armoire.engine.tickets import Cost, Outputs
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
# Of the best rows per second: a batch size that reaches it is large enough.
USEFUL = 0.97
# What a batch costs beside its run (hand-over to a lane and back, futures, metrics): about so much.
OVERHEAD_SECONDS = 100e-6
# The first round warms up; the rest measure.
CALIBRATION_ROUNDS = 3
CALIBRATION_SECONDS = 0.03


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

    def __init__(self, content: bytes, spec: GraphSpec, outputs: Sequence[str], provider: Provider) -> None:
        """Load a graph.

        Args:
            content: the ONNX file.
            spec: what the manifest says of it.
            outputs: the names that ``run`` gives, in order; nothing else is computed where ORT can avoid it.
            provider: where it runs.

        Raises:
            BadBundle: no graph, or one that differs from ``spec``.
            BadSettings: the provider does not work here.
        """
        options = ort.SessionOptions()
        # One core a batch: graphs this small gain more from batches side by side than from sharing each of them out.
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        if provider.name == CUDA:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        providers: list[Any] = [(CUDA, CUDA_OPTIONS)] if provider.name == CUDA else [provider.name]
        try:
            # Without its own fallback, which would go on with the CPU after a fault, then or in the middle of a run.
            self._session = ort.InferenceSession(content, options, providers=providers, enable_fallback=0)
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise _fault(provider, f"{spec.file} cannot be loaded", error) from None
        # ONNX Runtime has its own copy of the weights by now; its wrapper would keep the file for as long as it lives.
        self._session._model_bytes = None
        if self._session.get_providers()[0] != provider.name:
            raise BadSettings(
                f"{provider.name} was asked for and ONNX Runtime took {self._session.get_providers()[0]}"
            )
        self._check(spec)
        (self._input,) = spec.inputs
        self._row = spec.inputs[self._input].row
        self._dtype = np.dtype(spec.inputs[self._input].dtype)
        self._outputs = list(outputs)
        self._tensors = [spec.outputs[name] for name in outputs]
        self._file, self._provider = spec.file, provider
        try:
            self._padded = [
                _Padded(self._session, spec, self._outputs, provider, size) for size in provider.batch_sizes
            ]
        except Exception as error:
            raise _fault(provider, f"{spec.file} gets no buffers", error) from None

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
        binding = self._session.io_binding()
        # Neither side is copied: ONNX Runtime reads the rows where they lie and writes where the answer is wanted.
        binding.bind_cpu_input(self._input, parts[0] if len(parts) == 1 else np.concatenate(parts))
        for name, output in zip(self._outputs, into, strict=True):
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(output))
        self._session.run_with_iobinding(binding)

    def prove(self, rows: Array) -> Outputs:
        """Run as ``run`` does, before anybody is served.

        Raises:
            BadBundle: the graph cannot run these rows.
            BadSettings: the same, on a provider that the CPU could stand in for.
        """
        outputs = self.empty(len(rows))
        try:
            self.run([rows], outputs)
        except Exception as error:
            raise _fault(self._provider, f"{self._file} cannot run {len(rows)} rows", error) from None
        return outputs

    def prove_one_row(self) -> None:
        """Run one row of zeros; errors as in ``prove``."""
        self.prove(np.zeros((1, *self._row), self._dtype))

    def padding(self, rows: int) -> int:
        """Tell how many rows are run in vain to fill a batch of ``rows``."""
        return next((padded.size - rows for padded in self._padded if rows <= padded.size), 0)

    def warm_up(self, max_batch: int, longest: float = math.inf) -> Cost:
        """Run every batch size that will be used, measure what one costs, and choose the largest useful one.

        The largest useful batch is the smallest that gives all but 3 % of the best rows per second: a larger one
        would only make everybody wait. Among those it is one that takes at most ``longest`` seconds where there is one.
        The cost model is the line through the fastest runs of one row and of the largest useful batch.
        """
        sizes = [padded.size for padded in self._padded] or list(powers_of_two(max_batch))
        seconds = self._fastest(sizes)
        if self._provider.name == CPU:
            self._shrink()
        allowed = [size for size in sizes if seconds[size] <= longest] or sizes[:1]
        speed = {size: size / (seconds[size] + OVERHEAD_SECONDS) for size in allowed}
        most = next(size for size in allowed if speed[size] >= USEFUL * max(speed.values()))
        per_row = max(seconds[most] - seconds[1], 0.0) / (most - 1) if most > 1 else 0.0
        return Cost(max(seconds[1] - per_row, 0.0), per_row, most, seconds)

    def _fastest(self, sizes: Sequence[int]) -> dict[int, float]:
        """Give the seconds of the fastest of several runs of each size.

        All sizes take turns: other work on the machine then slows a round, not a size. On the CPU a batch runs in the
        calling thread, whose processor time leaves out what others took of the core, as they do from the long batches.
        """
        clock = time.thread_time if self._provider.name == CPU else time.perf_counter
        rows = np.zeros((max(sizes), *self._row), self._dtype)
        best = dict.fromkeys(sizes, math.inf)
        began, rounds = time.perf_counter(), 0
        while rounds < CALIBRATION_ROUNDS or time.perf_counter() - began < CALIBRATION_SECONDS:
            for size in sizes:
                started = clock()
                self.prove(rows[:size])
                best[size] = min(best[size], clock() - started)
            rounds += 1
        return best

    def _shrink(self) -> None:
        """Give back the memory of the largest batch, which the arena would keep for a graph that never sees one."""
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._session.run(self._outputs, {self._input: np.zeros((1, *self._row), self._dtype)}, options)

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


class _Padded:
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

    def run(self, parts: Sequence[Array], into: Outputs) -> None:
        rows = len(into[0])
        np.concatenate(parts, out=self._staging[:rows])
        self._input.update_inplace(self._staging)
        self._session.run_with_iobinding(self._binding)
        for value, output in zip(self._outputs, into, strict=True):
            output[:] = value.numpy()[:rows]


def load(bundle: Bundle, provider: Provider) -> tuple[Graph, Graph]:
    """Load a bundle's encoder and decoder, each with the outputs that are served; errors as in Graph."""
    specs = bundle.manifest.graphs
    return (
        Graph(bundle.graph("encoder", "cpu")[0], specs["encoder"], ["mean", "log_variance"], provider),
        Graph(bundle.graph("decoder", "cpu")[0], specs["decoder"], ["pixels"], provider),
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
        for graph in load(bundle, cuda):
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
