"""The second form of the decoder: the same function, in the operators that it was made for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from training import model
from training.bundles import graphs, subpixel
from training.bundles.subpixel import SubpixelConvolution
from training.config import preset

few = st.integers(1, 5)
edge = st.integers(1, 7)


@settings(deadline=None, max_examples=60)
@given(rows=few, channels=few, width=few, height=edge, breadth=edge, seed=st.integers(0, 999))
def test_it_is_the_transposed_convolution(
    rows: int, channels: int, width: int, height: int, breadth: int, seed: int
) -> None:
    """Any input and any weights give the transposed convolution's output to the rounding of float32."""
    torch.manual_seed(seed)
    layer = model.upsampling(channels, width)
    x = torch.randn(rows, channels, height, breadth)
    wanted, came = layer(x), SubpixelConvolution(layer)(x)
    assert came.shape == (rows, width, 2 * height, 2 * breadth)
    torch.testing.assert_close(came, wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("taps", range(9))
def test_every_tap_is_in_its_place(taps: int) -> None:
    """A kernel with one tap spreads exact copies of the input, no rounding anywhere."""
    layer = model.upsampling(1, 1)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight.flatten()[taps] = 1
        layer.bias.zero_()
    x = torch.arange(1.0, 13).reshape(1, 1, 3, 4)
    assert torch.equal(SubpixelConvolution(layer)(x), layer(x))


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1),
        nn.ConvTranspose2d(2, 2, 3, stride=2, padding=1),
        nn.ConvTranspose2d(2, 2, 3, stride=2, output_padding=1),
        nn.ConvTranspose2d(2, 2, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.ConvTranspose2d(2, 2, 3, stride=2, padding=1, output_padding=1, bias=False),
    ],
    ids=["k4", "no output padding", "no padding", "groups", "no bias"],
)
def test_another_geometry_is_refused(layer: nn.ConvTranspose2d) -> None:
    """A transposed convolution that has no such form is named, not rewritten into something else."""
    with pytest.raises(ValueError, match="k3 s2 p1 op1"):
        subpixel.rewrite(nn.Sequential(layer))


@pytest.mark.parametrize(("name", "upsamplings"), [("fashion", 3), ("book-fashion-2d", 3)])
def test_the_graph_has_one_depth_to_space_per_layer(name: str, upsamplings: int, tmp_path: Path) -> None:
    """Each layer is Conv, DepthToSpace, activation; nothing is transposed or reshaped but the grid and the image."""
    config = preset(name)
    torch.manual_seed(1)
    layers = model.Decoder(config).layers
    graphs.write_decoder(subpixel.rewrite(layers), config.latent_size, tmp_path / "decoder.onnx")
    proto = onnx.load(tmp_path / "decoder.onnx")
    dense = ["Gemm", "Relu"] * (len(config.decoder_hidden) + 1)
    last = [] if name == "fashion" else ["Relu", "Conv"]
    body = ["Conv", "DepthToSpace", "Relu"] * upsamplings
    image = ["Sigmoid", "Transpose", "QuantizeLinear"]
    assert [node.op_type for node in proto.graph.node] == [*dense, "Reshape", *body[:-1], *last, *image]
    for node in proto.graph.node:
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        if node.op_type == "DepthToSpace":
            assert attributes == {"blocksize": 2, "mode": b"DCR"}
        if node.op_type == "Conv" and attributes["kernel_shape"] == [2, 2]:
            assert (attributes["pads"], attributes["strides"]) == ([0, 0, 1, 1], [1, 1])


def test_what_runs_here_is_what_runs_there(tmp_path: Path) -> None:
    """In PyTorch and in ONNX Runtime the rewritten decoder gives the same means and pixels."""
    config = preset("fashion-2d")
    torch.manual_seed(1)
    layers = subpixel.rewrite(model.Decoder(config).layers)
    graphs.write_decoder(layers, config.latent_size, tmp_path / "decoder.onnx")
    latents = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)) * 40
    with torch.no_grad():
        pixels, means = graphs.DecoderGraph(layers)(latents)
    session = onnxruntime.InferenceSession(tmp_path / "decoder.onnx", providers=["CPUExecutionProvider"])
    came_pixels, came_means = session.run(None, {"latents": latents.numpy()})
    np.testing.assert_allclose(came_means, means.numpy(), atol=1e-5)
    assert len(np.unique(came_pixels)) > 100
    gaps = np.abs(came_pixels.astype(int) - pixels.numpy())
    assert gaps.max() <= 1
    assert (gaps > 0).mean() < 1e-3
