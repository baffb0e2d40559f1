"""Providers, batch sizes, warm-up: what the engine makes of a graph and of this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from armoire.engine import calibration, providers, runtime
from armoire.engine.graph import Graph
from armoire.engine.providers import CPU, CUDA, Provider
from armoire.errors import BadBundle, BadSettings
from armoire.ops import bundle
from armoire.ops.bundle import Bundle
from tests.serving import FASHION


@pytest.fixture(scope="module")
def fashion() -> Bundle:
    return bundle.read(FASHION)


def decoder(fashion: Bundle, provider: Provider) -> Graph:
    content, _ = fashion.graph("decoder", "cpu")
    return Graph(content, fashion.manifest.graphs["decoder"], ["pixels"], provider)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 12])
def test_padded_batches_give_the_same_rows(fashion: Bundle, rows: int) -> None:
    """With a closed set of batch sizes the rows are those of the unpadded graph, whatever ran before."""
    # What a GPU runs, but for the device: its buffers, and a number for each recording.
    plain, padded = (
        decoder(fashion, Provider(CPU)),
        decoder(fashion, Provider(CPU, batch_sizes=(1, 2, 4, 8, 12), cuda_graphs=True)),
    )
    z = np.random.default_rng(rows).standard_normal((rows, 16), np.float32)
    padded.prove(np.full((12, 16), 5, np.float32))
    (first,) = padded.prove(z)
    kept = first.copy()
    padded.prove(np.zeros((rows, 16), np.float32))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(first, plain.prove(z)[0])
    assert padded.padding(rows) == {3: 1, 5: 3}.get(rows, 0)
    assert plain.padding(rows) == 0


def test_more_rows_than_the_largest_padded_batch_are_proven_in_parts(fashion: Bundle) -> None:
    """The golden rows may be more than a batch holds: they are run in several."""
    z = np.random.default_rng(0).standard_normal((8, 16), np.float32)
    small = decoder(fashion, Provider(CPU, batch_sizes=(1, 2, 3)))
    np.testing.assert_array_equal(small.prove(z)[0], decoder(fashion, Provider(CPU)).prove(z)[0])


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, (1,)), (2, (1, 2)), (12, (1, 2, 4, 8, 12)), (64, (1, 2, 4, 8, 16, 32, 64))]
)
def test_batch_sizes_end_at_the_largest(most: int, sizes: tuple[int, ...]) -> None:
    """The closed set is the powers of two below the largest batch, and the largest."""
    assert providers.powers_of_two(most) == sizes


def test_warm_up_measures_what_a_batch_costs(fashion: Bundle) -> None:
    """A batch of 64 is measured to cost more than one row and less than 64 single ones."""
    cost = calibration.warm_up(decoder(fashion, Provider(CPU)), 64)
    assert 0 < cost.seconds(1) < cost.seconds(64) < 64 * cost.seconds(1)
    assert cost.seconds(128) == pytest.approx(2 * cost.seconds(64))
    assert calibration.warm_up(decoder(fashion, Provider(CPU)), 1).seconds(3) > 0


def test_cuda_is_never_replaced_in_silence(fashion: Bundle) -> None:
    """Without a GPU, cuda is refused with the reason, and auto takes the CPU and knows why."""
    if CUDA in providers.ort.get_available_providers():
        pytest.skip("this machine's ONNX Runtime has CUDA: tests/gpu looks at that")
    with pytest.raises(BadSettings, match=r"does not work here: .*armoire\[cuda\]"):
        runtime.choose_provider("cuda", fashion, 64)
    taken = runtime.choose_provider("auto", fashion, 64)
    assert (taken.name, taken.precision) == (CPU, "fp32")
    assert "auto takes the CPU" in taken.why
    assert runtime.choose_provider("cpu", fashion, 64).name == CPU


def test_a_session_on_another_provider_is_refused(fashion: Bundle) -> None:
    """A provider that ONNX Runtime would quietly replace by the CPU is an error."""
    if CUDA in providers.ort.get_available_providers():
        pytest.skip("this machine's ONNX Runtime has CUDA: tests/gpu looks at that")
    with (
        pytest.raises((BadSettings, BadBundle), match=CUDA),
        pytest.warns(UserWarning, match="not in available"),
    ):
        decoder(fashion, Provider(CUDA))


def test_bytes_that_are_no_graph_are_a_bad_bundle(fashion: Bundle) -> None:
    """A file that ONNX Runtime cannot read is refused in one line."""
    with pytest.raises(BadBundle, match=r"decoder\.onnx cannot be loaded") as refused:
        Graph(b"not a graph", fashion.manifest.graphs["decoder"], ["pixels"], Provider(CPU))
    assert "\n" not in str(refused.value)


def test_a_graph_with_other_outputs_is_a_bad_bundle(fashion: Bundle) -> None:
    """The encoder in the decoder's place is told by its inputs."""
    content, _ = fashion.graph("encoder", "cpu")
    with pytest.raises(BadBundle, match="the manifest says"):
        Graph(content, fashion.manifest.graphs["decoder"], ["pixels"], Provider(CPU))


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
@pytest.mark.parametrize(
    "folder", bundle.find(FASHION.parent.parent), ids=lambda f: f"{f.parent.name}-{f.name}"
)
def test_bundled_graphs_can_go_to_a_gpu_whole(folder: Path, graph: str) -> None:
    """No node computes shapes, which ONNX Runtime would put on the CPU; one file, opset 18, rows free."""
    model = onnx.load(folder / f"{graph}.onnx", load_external_data=False)
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Shape", "Size", "If", "Loop", "NonZero"})
    assert [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")] == [18]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    for node in (*model.graph.input, *model.graph.output):
        assert node.type.tensor_type.shape.dim[0].dim_param
