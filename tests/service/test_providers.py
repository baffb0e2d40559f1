"""Where graphs run: forms and precisions, the golden check's bounds, and providers that are not to be had here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from armoire.client import Client
from armoire.engine import calibration, golden, providers, runtime
from armoire.engine.providers import CPU, CUDA, OPENVINO, Provider
from armoire.errors import BadBundle, BadSettings
from armoire.ops import bundle
from armoire.ops.bundle import Bundle
from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from tests.serving import FASHION, serving

FP16 = Provider(CPU, form="cuda-fp16", precision="fp16")


@pytest.fixture(scope="module")
def fashion() -> Bundle:
    return bundle.read(FASHION)


def blurred(fashion: Bundle, share: float) -> Bundle:
    """Give the bundle with that share of its golden pixels 2 of 255 off."""
    pixels = fashion.golden["decoded_pixels"].copy()
    flat = pixels.reshape(-1)
    step = flat[: round(share * flat.size)]
    step[:] = np.where(step > 127, step - 2, step + 2)
    return dataclasses.replace(fashion, golden=fashion.golden | {"decoded_pixels": pixels})


def test_less_than_fp32_is_held_to_the_setting(fashion: Bundle) -> None:
    """The fp16 form is close everywhere and not equal everywhere; the share that must be close is the setting's."""
    graphs = runtime.load(fashion, FP16)
    found = golden.check(fashion, *graphs, close_pixels=0.99)
    assert 0.98 < found.equal < 0.9999
    assert found.close > 0.999
    off = blurred(fashion, 0.05)
    assert golden.check(off, *graphs, close_pixels=0.9).close == pytest.approx(0.95, abs=0.01)
    with pytest.raises(BadSettings, match=r"in fp16 9[45]\.\d\d% .* wants 99\.00%"):
        golden.check(off, *graphs, close_pixels=0.99)


def test_fp32_is_held_to_rounding(fashion: Bundle) -> None:
    """In fp32 one pixel in a hundred that is 2 off is a bad bundle, whatever the setting allows."""
    graphs = runtime.load(fashion, Provider(CPU))
    assert golden.check(fashion, *graphs, close_pixels=0.99).equal >= 0.999
    with pytest.raises(BadBundle, match="up to 2 of 255"):
        golden.check(blurred(fashion, 0.01), *graphs, close_pixels=0.0)


def test_a_bundle_without_fp16_is_told_so(bundle_copy: Path) -> None:
    """cuda-fp16 on a bundle that has no such form is refused, not served in fp32."""
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    del manifest["graphs"]["decoder"]["variants"]["cuda-fp16"]
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadSettings, match="no decoder in fp16: export it again, or name cuda"):
        runtime.load(bundle.read(bundle_copy), FP16)


def test_a_machine_without_a_driver_is_one_line(fashion: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX Runtime for GPUs without a driver: cuda is refused and auto falls back, with that as the reason."""
    monkeypatch.setattr(providers.ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(providers, "DRIVER", "libnowhere.so.1")
    with pytest.raises(
        BadSettings, match=r"provider is cuda, .*driver is not here: libnowhere\.so\.1 cannot be"
    ):
        runtime.choose_provider("cuda", fashion, 8)
    taken = runtime.choose_provider("auto", fashion, 8)
    assert taken.name == CPU
    assert taken.fallback
    assert "driver is not here" in taken.why


def test_of_a_cuda_fault_its_reason_is_told_and_no_signature() -> None:
    """CUDA's own words come without the C++ around them, the host's name and the file; other faults as they are."""
    raised = (
        "/onnxruntime_src/cuda_call.cc:154 std::conditional_t<THRW, void, Status> CudaCall(ERRTYPE, const char*) [with "
        "ERRTYPE = cudaError] CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=vm ; "
        "file=cuda_execution_provider.cc ; line=355 ; expr=cudaSetDevice(info_.device_id); \n"
    )
    fault = Provider(CUDA).fault("encoder.onnx cannot be loaded", RuntimeError(raised))
    reason = "CUDA failure 100: no CUDA-capable device is detected"
    assert str(fault) == f"encoder.onnx cannot be loaded on {CUDA}: {reason}"
    assert str(Provider(CUDA).fault("it", RuntimeError("no memory\nat 0"))) == f"it on {CUDA}: no memory"


def test_list_models_shows_the_deviation() -> None:
    """What the golden check found is in ListModels and among the metrics."""
    with (
        serving() as running,
        Client(running.address) as client,
        grpc.insecure_channel(running.address) as channel,
    ):
        assert client.models()[0].close_pixels == 1
        for model in pb_grpc.LatentServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=30).models:
            assert model.deviation.equal_pixels >= 0.999
            assert model.deviation.close_pixels == 1
            assert model.deviation.largest <= 1
        labels = {"model": "fashion-mnist", "version": "1"}
        assert running.server._metrics.registry.get_sample_value("armoire_close_pixels_ratio", labels) == 1


def test_a_plug_in_that_cannot_be_loaded_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is not there, or is of another ONNX Runtime, is told without a traceback."""
    plugin = types.ModuleType("onnxruntime_ep_openvino")
    plugin.get_library_path = lambda: "/nowhere/libplugin.so"
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    providers._openvino_device.cache_clear()
    with pytest.raises(BadSettings, match="its plug-in cannot be loaded: ") as refused:
        providers.openvino()
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def openvino() -> Iterator[Provider]:
    try:
        yield providers.openvino()
    except BadSettings as error:
        pytest.skip(f"needs an Intel processor and OpenVINO's plug-in: {error}")


def test_openvino_where_there_is_none_is_one_line(fashion: Bundle) -> None:
    """A processor without OpenVINO, or an environment without its plug-in, is told at start, with what to do."""
    with contextlib.suppress(BadSettings):
        providers.openvino()
        pytest.skip("this machine has OpenVINO")
    command = [sys.executable, "-m", "armoire.cli", "serve", "--provider", "openvino"]
    anywhere = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
    done = subprocess.run([*command, *anywhere], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "provider is openvino, which does not work here" in done.stderr
    assert "armoire[openvino]" in done.stderr or "Intel processors only" in done.stderr


def test_openvino_is_close_to_the_golden_outputs(fashion: Bundle, openvino: Provider) -> None:
    """In bf16 99 % of the pixels are within 1 of 255; in fp32 OpenVINO is held to rounding."""
    golden.check(fashion, *runtime.load(fashion, openvino), close_pixels=0.99)


def test_openvino_runs_side_by_side(fashion: Bundle, openvino: Provider) -> None:
    """With a session for each lane, batches of all sizes from two threads give what one thread gives."""
    _, decoder = runtime.load(fashion, openvino, lanes=2)
    calibration.warm_up(decoder, 8)
    points = np.random.default_rng(0).standard_normal((64, 16), np.float32)
    sizes = [1 + i % 8 for i in range(200)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda rows: decoder.prove(points[:rows])[0], sizes))
    for rows, pixels in zip(sizes, together, strict=True):
        np.testing.assert_array_equal(pixels, decoder.prove(points[:rows])[0])


def test_the_server_says_that_it_runs_on_openvino(openvino: Provider) -> None:
    """With provider=openvino the server starts, answers, and names OpenVINO and its precision in ListModels."""
    with serving(provider="openvino", threads=2) as running, Client(running.address) as client:
        assert client.models()[0].provider == OPENVINO
        assert client.models()[0].precision == openvino.precision
        assert len(client.sample(100, seed=1).images) == 100
