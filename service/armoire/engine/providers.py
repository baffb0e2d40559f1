"""Where graphs run: ONNX Runtime's execution providers, as sessions are opened on them."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import sys
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort

from armoire.errors import BadBundle, BadSettings
from armoire.ops.manifest import ProviderName

CPU, CUDA, OPENVINO = "CPUExecutionProvider", "CUDAExecutionProvider", "OpenVINOExecutionProvider"
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
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


_FATAL = 4  # of ONNX Runtime's severities


@dataclass(frozen=True)
class Provider:
    """An execution provider as graphs are loaded on it.

    Attributes:
        name: ONNX Runtime's name of it.
        form: whose form of a graph it takes, where a bundle has several.
        precision: the arithmetic of the decoder. The encoder computes in fp32 everywhere: a point should not depend on
            the machine that gave it.
        batch_sizes: the closed set that batches are padded to; empty: any size runs as it is.
        cuda_graphs: whether each batch size is recorded once and replayed.
        alone: whether a session runs one batch at a time, so that every lane needs its own.
        devices: for a plug-in, ONNX Runtime's handles of the devices that it offers.
        why: the reason that it was taken in place of another one, or a warning, for the log.
        fallback: whether it was taken in place of CUDA, which this ONNX Runtime has.
    """

    name: str
    form: ProviderName = "cpu"
    precision: str = "fp32"
    batch_sizes: tuple[int, ...] = ()
    cuda_graphs: bool = False
    alone: bool = False
    devices: tuple[Any, ...] = ()
    why: str = ""
    fallback: bool = False

    def open(self, content: bytes, file: str, precision: str) -> ort.InferenceSession:
        """Open a session of a graph.

        Raises:
            BadBundle: no graph.
            BadSettings: the provider does not work here.
        """
        options = ort.SessionOptions()
        # One core a batch: graphs this small gain more from batches side by side than from sharing each of them out.
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        # A graph given as bytes may name files with its weights, by default below the working directory of the server.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        if self.name != CPU:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        providers: list[Any] | None = [self.name]
        if self.name == CUDA:
            providers = [(CUDA, CUDA_OPTIONS | {"enable_cuda_graph": int(self.cuda_graphs)})]
        elif self.devices:
            providers = None
        try:
            if self.devices:
                options.add_provider_for_devices(list(self.devices), _openvino_options(precision))
            # Without its own fallback, which would go on with the CPU after a fault, then or in the middle of a run.
            session = ort.InferenceSession(content, options, providers=providers, enable_fallback=0)
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise self.fault(f"{file} cannot be loaded", error) from None
        # ONNX Runtime has its own copy of the weights by now; its wrapper would keep the file for as long as it lives.
        session._model_bytes = None
        if (taken := session.get_providers()[0]) != self.name:
            raise BadSettings(f"{self.name} was asked for and ONNX Runtime took {taken}")
        if self.name == CUDA:
            # It logs an error for each way to run a node that cuDNN does not have, dozens in fp16, and takes another.
            # Not before a session is open: of a library of CUDA's that is missing nothing but the log tells.
            ort.set_default_logger_severity(_FATAL)
        return session

    def fault(self, what: str, error: Exception) -> BadBundle | BadSettings:
        """Say what failed. On the CPU it is the bundle that is bad; another provider may be the reason itself."""
        kind = BadBundle if self.name == CPU else BadSettings
        return kind(f"{what} on {self.name}: {_reason(error)}")


def _reason(error: Exception) -> str:
    # What CUDA's libraries say stands in the middle of the signatures and the host's name.
    if said := re.search(r"\b(CUDA|CUDNN|CUBLAS) failure \d+: [^;\n]+", str(error)):
        return said[0].strip()
    return (str(error).splitlines() or [type(error).__name__])[0]


def powers_of_two(max_batch: int) -> tuple[int, ...]:
    """List 1, 2, 4 ... and ``max_batch`` itself: padding at most doubles a batch."""
    return (*(2**i for i in range((max_batch - 1).bit_length())), max_batch)


def built_with_cuda() -> bool:
    """Tell whether this ONNX Runtime is one for GPUs, working or not."""
    return CUDA in ort.get_available_providers()


def cuda(max_batch: int, *, fp16: bool, cuda_graphs: bool = True) -> Provider:
    """Give the provider for an NVIDIA GPU, to be tried.

    Raises:
        BadSettings: this ONNX Runtime has none, or the machine has no driver.
    """
    if not built_with_cuda():
        raise BadSettings(
            "this ONNX Runtime is a build without CUDA; install armoire[cuda] in an environment of its own"
        )
    # Of that ONNX Runtime writes three lines of its own, and what it raises is about something else.
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        raise BadSettings(
            f"NVIDIA's driver is not here: {DRIVER} cannot be loaded; containers get it from NVIDIA's container toolkit"
        ) from None
    ort.preload_dlls()
    return Provider(
        CUDA,
        form="cuda-fp16" if fp16 else "cuda",
        precision="fp16" if fp16 else "fp32",
        batch_sizes=powers_of_two(max_batch),
        cuda_graphs=cuda_graphs,
    )


def openvino() -> Provider:
    """Give OpenVINO on this processor: in bf16 where the processor has instructions for it, else in fp32.

    Raises:
        BadSettings: the plug-in is not installed, or has nothing for this processor.
    """
    device = _openvino_device()
    if device is None:
        raise BadSettings(
            "OpenVINO's plug-in offers no CPU here: it takes Intel processors only; provider cpu runs everywhere"
        )
    if "BF16" in str(device.ep_metadata.get("OPTIMIZATION_CAPABILITIES", "")).split():
        return Provider(OPENVINO, form="openvino", precision="bf16", alone=True, devices=(device,))
    return Provider(
        OPENVINO,
        form="openvino",
        alone=True,
        devices=(device,),
        why="this processor has neither AMX nor AVX512-BF16: openvino computes in fp32 and gains nothing over cpu",
    )


@functools.cache  # a library can be registered once in a process
def _openvino_device() -> Any:
    try:
        import onnxruntime_ep_openvino as plugin  # noqa: PLC0415, RUF100 - in the extra openvino only
    except ImportError:
        raise BadSettings(
            "its plug-in is not installed; install armoire[openvino] beside armoire[cpu]"
        ) from None
    try:
        ort.register_execution_provider_library("armoire-openvino", plugin.get_library_path())
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        raise BadSettings(f"its plug-in cannot be loaded: {_reason(error)}") from None
    offered = (device for device in ort.get_ep_devices() if device.ep_name == OPENVINO)
    return next((device for device in offered if device.ep_metadata.get("ov_device") == "CPU"), None)


def _openvino_options(precision: str) -> dict[str, str]:
    # One thread and one stream: OpenVINO then runs a batch in the thread that asks, which is a lane of ours.
    hint = "bf16" if precision == "bf16" else "f32"
    cpu = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": hint}
    return {"load_config": json.dumps({"CPU": cpu})}
