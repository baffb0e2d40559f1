"""The images of gigabytes: the service for GPUs, on a machine that has none, and training."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.containers.alone import HARDENED, ended, logs, python, serving, tools, uncompiled
from tests.containers.engine import ROOT, docker, inspect, until

# A build's downloads count to the first test of an image.
pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]
# Libraries make temporary files; so small a model gains nothing from a second thread.
TRAINING = ("--tmpfs", "/tmp", "--env", "OMP_NUM_THREADS=1", "--volume", f"{ROOT / 'tests/data'}:/data:ro")
# Prints what the loader finds, and what not, of all that ONNX Runtime's provider needs, in a process that has what ONNX
# Runtime loads for it, and of NVIDIA's other libraries: cuDNN opens parts of itself by name, when they are wanted.
LIBRARIES = """
import ctypes, subprocess, sysconfig
from pathlib import Path
import onnxruntime
onnxruntime.preload_dlls()
def needs(*files):
    listed = subprocess.run(["ldd", *files], capture_output=True, text=True, check=True).stdout
    return sorted({line.split()[0] for line in listed.splitlines() if "=>" in line})
packages = Path(sysconfig.get_path("purelib"))
libraries = sorted(packages.glob("nvidia/*/lib/*.so*"))
provider = packages / "onnxruntime/capi/libonnxruntime_providers_cuda.so"
for library in [*needs(provider), *libraries, *needs(*libraries)]:
    try:
        ctypes.CDLL(str(library))
        print("loaded", Path(library).name)
    except OSError as error:
        print("missing", str(error).split(":")[0])
"""
# Prints the size of a kernel that CUDA's compiler makes of a source, as cuDNN does of what it generates.
COMPILED = """
import ctypes, onnxruntime
onnxruntime.preload_dlls()
nvrtc = ctypes.CDLL("libnvrtc.so.13")
source = b"__global__ void twice(float *x) { x[threadIdx.x] *= 2; }"
program, size = ctypes.c_void_p(), ctypes.c_size_t()
assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"twice.cu", 0, None, None) == 0
options = (ctypes.c_char_p * 1)(b"--gpu-architecture=sm_90")
assert nvrtc.nvrtcCompileProgram(program, 1, options) == 0
assert nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
print(size.value)
"""
FALLBACK = """
import urllib.request
text = urllib.request.urlopen("http://127.0.0.1:9464/metrics").read().decode()
print(*(line for line in text.splitlines() if line.startswith("armoire_provider_fallback ")))
"""


def test_the_image_for_gpus_has_all_but_the_driver(cuda: str) -> None:
    """All that CUDA's provider needs is found in the image and can be loaded, save NVIDIA's driver, libcuda.so.1."""
    lines = [line.split(" ", 1) for line in python(cuda, LIBRARIES).splitlines()]
    assert {name for what, name in lines if what == "missing"} <= {"libcuda.so.1"}
    loaded = {name.partition(".so")[0] for what, name in lines if what == "loaded"}
    assert loaded >= {"libcudart", "libcublas", "libcublasLt", "libcudnn", "libcufft", "libnvrtc"}
    assert loaded >= {"libcudnn_engines_precompiled", "libcudnn_heuristic", "libcudnn_cnn"}


def test_kernels_are_compiled_in_the_image_for_gpus(cuda: str) -> None:
    """NVRTC, which cuDNN needs for what it generates, compiles without any file that was left out."""
    assert int(python(cuda, COMPILED)) > 0


def test_the_image_for_gpus_is_as_lean_as_the_other(cuda: str, base: str) -> None:
    """Neither pip nor a compiler is in it, every module has its bytecode, and it is for the same user and commands."""
    assert tools(cuda) == ""
    assert uncompiled(cuda, "/opt/armoire/lib") == ""
    image = inspect(cuda)
    print(f"base {inspect(base)['Size'] / 1e6:.0f} MB, service for GPUs {image['Size'] / 1e6:.0f} MB")
    assert image["Config"]["User"] == "65532:65532"
    assert image["Config"]["Entrypoint"] == ["armoire"]
    assert image["Config"]["Healthcheck"]["Test"][:3] == ["CMD", "armoire", "health"]


@pytest.mark.parametrize("provider", ["cuda", "cuda-fp16"])
def test_a_gpu_that_is_demanded_and_not_there_is_one_line(cuda: str, provider: str) -> None:
    """Without a GPU a demand for one ends the start with status 2 and one line that says so."""
    done = ended(cuda, "serve", "--provider", provider)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"provider is {provider}, which does not work here: NVIDIA's driver is not here" in done.stderr


@pytest.mark.parametrize(("provider", "fallback"), [("cpu", 0), ("auto", 1)])
def test_the_image_for_gpus_serves_without_one(cuda: str, provider: str, fallback: int) -> None:
    """It serves by the CPU, hardened, where that is asked for; where nothing is, too, with a warning and a metric."""
    with serving(cuda, "serve", "--provider", provider) as name:
        until(lambda: docker("exec", name, "armoire", "health") == "SERVING", 10, "it is healthy")
        assert docker("exec", name, "python", "-c", FALLBACK) == f"armoire_provider_fallback {fallback:.1f}"
        warnings = [line for line in logs(name).splitlines() if "provider auto takes the CPU" in line]
        assert len(warnings) == fallback


@pytest.fixture(scope="module")
def trained(training: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs, one of an epoch, and models, the bundle of it, both made in the image."""
    folder = tmp_path_factory.mktemp("trained")
    options = TRAINING
    for name in ("runs", "models"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
        options += ("--volume", f"{folder / name}:/{name}")
    places = ("--data", "/data", "--runs", "/runs")
    began = time.monotonic()
    for command in (
        ("fit", "fashion-2d", *places, "--epochs", "1"),
        ("export", "fashion-2d", *places, "--out", "/models", "--version", "7"),
    ):
        done = ended(training, *command, options=options)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        print(done.stdout)
    print(f"an epoch and its bundle: {time.monotonic() - began:.0f} s")
    return folder


def test_training_has_no_build_tools(training: str, base: str) -> None:
    """Neither pip nor a compiler is in the image; every module has its bytecode, and the user is a number."""
    print(f"base {inspect(base)['Size'] / 1e6:.0f} MB, training {inspect(training)['Size'] / 1e6:.0f} MB")
    assert tools(training) == "torch"
    assert uncompiled(training, "/opt/training/lib", "/app") == ""
    assert inspect(training)["Config"]["User"] == "65532:65532"


def test_a_run_knows_of_what_its_image_was_built(trained: Path, revision: str) -> None:
    """The bundle that was trained and exported in the image names the image's revision as its commit."""
    (manifest,) = trained.glob("models/*/7/manifest.json")
    assert json.loads(manifest.read_text())["training"]["commit"] == revision
    assert revision in (manifest.parent / "README.md").read_text()


def test_what_one_image_trains_the_other_serves(
    trained: Path, images: dict[str, str], tmp_path: Path
) -> None:
    """A bundle from training's image, mounted, is served by the service's, and `armoire sample` gets its pictures."""
    options = ("--publish", "127.0.0.1::50051", "--volume", f"{trained / 'models'}:/models:ro")
    with serving(images["armoire"], "serve", "--models", "/models", options=HARDENED + options) as name:
        address = docker("port", name, "50051/tcp")
        sample = (sys.executable, "-m", "armoire.cli", "sample", "--count", "16", "--address", address)
        until(lambda: docker("exec", name, "armoire", "health") == "SERVING", 10, "it is healthy")
        subprocess.run([*sample, "--out", "wall.png"], cwd=tmp_path, check=True, timeout=60)
        assert "serving fashion-mnist-slice-2d/7" in logs(name)
    assert (tmp_path / "wall.png").read_bytes().startswith(b"\x89PNG")


def test_a_stop_leaves_a_checkpoint_to_go_on_from(training: str, written: Path) -> None:
    """`docker stop` of a run, process 1 without any init, ends it with status 130, and --resume begins where it was."""
    name = "armoire-test-training"
    options = (*TRAINING, "--volume", f"{written}:/runs")
    command = ("fit", "fashion-2d", "--data", "/data", "--runs", "/runs")
    said = []
    for how in (("--epochs", "500"), ("--resume",)):
        docker("run", "--detach", "--name", name, *HARDENED, *options, training, *command, *how)
        try:
            until(lambda: " of 500: " in docker("logs", name), 300, "an epoch is done")
            began = time.monotonic()
            docker("stop", "--time", "60", name)
            print(f"docker stop of a run: {time.monotonic() - began:.1f} s")
            said.append(docker("logs", name))
            assert inspect(name)["State"]["ExitCode"] == 130
        finally:
            docker("rm", "--force", "--volumes", name)
    assert said[0].startswith("epoch 1 of 500: ")
    assert "epoch 1 of 500: " not in said[1]
