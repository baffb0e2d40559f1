"""Memory that stays where it is: what a closed set of batch sizes is run from and into."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from armoire.arrays import Array
from armoire.engine.providers import CUDA, Provider
from armoire.engine.tickets import Outputs
from armoire.ops.manifest import GraphSpec, TensorSpec

logger = logging.getLogger(__name__)
# Of the CUDA runtime that onnxruntime-gpu has loaded, by its major version.
CUDA_RUNTIMES = ("libcudart.so.13", "libcudart.so.12")


class Padded:
    """The buffers of one batch size, bound once: no allocation and no new address for a batch.

    That is also what a CUDA graph asks for: the first run of a size records its kernels, and every later one replays
    them as one launch. The rows go over page-locked memory, which the GPU reads and writes by itself.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        spec: GraphSpec,
        outputs: Sequence[str],
        provider: Provider,
        size: int,
    ) -> None:
        ((name, rows),) = spec.inputs.items()
        self.size = size
        self._session = session
        self._gpu = _Gpu() if provider.name == CUDA else None
        self._staging = self._array(rows)
        self._results = [self._array(spec.outputs[output]) for output in outputs]
        self._input = self._value(self._staging)
        self._outputs = [self._value(array) for array in self._results]
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(name, self._input)
        for output, value in zip(outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(output, value)
        self._options = ort.RunOptions()
        if provider.cuda_graphs:
            # Every recording of a session has a number of its own.
            self._options.add_run_config_entry("gpu_graph_id", str(size))

    def run(self, parts: Sequence[Array], into: Outputs) -> None:
        """Run the rows of ``parts`` and write their outputs; one thread at a time."""
        rows = len(into[0])
        np.concatenate(parts, out=self._staging[:rows])
        if self._gpu:
            self._gpu.copy_in(self._staging, self._input)
        self._session.run_with_iobinding(self._binding, self._options)
        for result, value, output in zip(self._results, self._outputs, into, strict=True):
            if self._gpu:
                self._gpu.copy_out(value, result)
            output[:] = result[:rows]

    def _array(self, tensor: TensorSpec) -> Array:
        array: Array = np.zeros((self.size, *tensor.row), tensor.dtype)
        if self._gpu:
            self._gpu.lock_pages(array)
        return array

    def _value(self, array: Array) -> ort.OrtValue:
        """Give a tensor of the device; on the CPU it is the array itself."""
        if self._gpu:
            return ort.OrtValue.ortvalue_from_shape_and_type(list(array.shape), array.dtype.type, "cuda", 0)
        return ort.OrtValue.ortvalue_from_numpy(array)


class _Gpu:
    """The calls of the CUDA runtime that ONNX Runtime has no words for in Python.

    https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__MEMORY.html. Its own ``OrtValue.numpy`` makes a new
    array for each batch, in pages that may move, so that the driver copies everything twice.
    """

    _HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2

    def __init__(self) -> None:
        """Find the runtime that onnxruntime-gpu has loaded.

        Raises:
            OSError: there is none.
        """
        self._runtime = _cuda_runtime()
        self._locked = True
        self._runtime.cudaHostRegister.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
        self._runtime.cudaHostUnregister.argtypes = (ctypes.c_void_p,)
        self._runtime.cudaMemcpy.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def lock_pages(self, array: Array) -> None:
        """Keep an array's pages in place for as long as it lives: the GPU then copies by itself."""
        if self._runtime.cudaHostRegister(array.ctypes.data, array.nbytes, 0) != 0:
            logger.warning(
                "%d bytes for the GPU could not be page-locked: copies take a detour", array.nbytes
            )
            self._runtime.cudaGetLastError()  # else ONNX Runtime takes the failure for its own
            self._locked = False
            return
        weakref.finalize(array, self._runtime.cudaHostUnregister, array.ctypes.data)

    def copy_in(self, array: Array, value: ort.OrtValue) -> None:
        """Copy to the device, before the run that reads it."""
        self._copy(value.data_ptr(), array.ctypes.data, array.nbytes, self._HOST_TO_DEVICE)
        if not self._locked:  # then the call returns before the copy has ended
            self._runtime.cudaDeviceSynchronize()

    def copy_out(self, value: ort.OrtValue, array: Array) -> None:
        """Copy from the device, after the run that wrote it (ONNX Runtime waits for the device at its end)."""
        self._copy(array.ctypes.data, value.data_ptr(), array.nbytes, self._DEVICE_TO_HOST)

    def _copy(self, to: int, source: int, count: int, kind: int) -> None:
        if fault := self._runtime.cudaMemcpy(to, source, count, kind):
            raise RuntimeError(f"cudaMemcpy of {count} bytes failed with CUDA error {fault}")


def _cuda_runtime() -> Any:
    for name in CUDA_RUNTIMES:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name, mode=os.RTLD_NOLOAD)
    raise OSError(f"none of {', '.join(CUDA_RUNTIMES)} is loaded")
