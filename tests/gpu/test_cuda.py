"""What needs a GPU: the CUDA provider gives the golden outputs and is what the server says it is."""

from __future__ import annotations

import numpy as np
import pytest

from armoire.client import Client
from armoire.engine import golden, runtime
from armoire.engine.graph import Graph
from armoire.engine.providers import CPU, CUDA, Provider
from armoire.ops import bundle
from armoire.ops.bundle import Bundle
from tests.serving import FASHION, serving

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def fashion() -> Bundle:
    return bundle.read(FASHION)


@pytest.fixture(scope="module")
def cuda(fashion: Bundle) -> Provider:
    return runtime.choose_provider("cuda", fashion, max_batch=64)


def graphs(fashion: Bundle, provider: Provider) -> tuple[Graph, Graph]:
    return runtime.load(fashion, provider)


def test_auto_takes_the_gpu(fashion: Bundle) -> None:
    """Where CUDA works, auto is CUDA."""
    assert runtime.choose_provider("auto", fashion, 64).name == CUDA


def test_the_gpu_gives_the_golden_outputs(fashion: Bundle, cuda: Provider) -> None:
    """Every node runs on the GPU, and the answers are PyTorch's up to rounding."""
    golden.check(fashion, *graphs(fashion, cuda), close_pixels=1.0)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 33, 64])
def test_padded_batches_on_the_gpu_equal_the_cpu(fashion: Bundle, cuda: Provider, rows: int) -> None:
    """Whatever the padding, pixels are within 1 of the CPU's and nearly all equal."""
    _, on_gpu = graphs(fashion, cuda)
    _, on_cpu = graphs(fashion, Provider(CPU))
    z = np.random.default_rng(rows).standard_normal((rows, fashion.manifest.latent_size), np.float32)
    gap = np.abs(on_gpu.prove(z)[0].astype(np.int16) - on_cpu.prove(z)[0])
    assert gap.max() <= 1
    assert (gap == 0).mean() >= 0.999


def test_the_server_says_that_it_runs_on_the_gpu() -> None:
    """With provider=cuda the server starts, answers, and names CUDA in ListModels."""
    with serving(provider="cuda") as running, Client(running.address) as client:
        assert client.models()[0].provider == CUDA
        assert len(client.sample(100, seed=1).images) == 100
        first, again = client.sample(8, seed=1), client.sample(64, seed=1)
        np.testing.assert_array_equal(first.latents, again.latents[:8])
