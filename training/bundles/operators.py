"""Two ONNX operators that PyTorch has no single word for; what runs here is what ONNX Runtime runs there."""

import torch
from torch import Tensor


def depth_to_space(x: Tensor) -> Tensor:
    """Interleave four maps of each channel into one of twice the height and width: [n, 4c, h, w] -> [n, c, 2h, 2w].

    Channel (2r + s) c + o gives the pixels of channel o in rows r, r + 2 ... and columns s, s + 2 ...: the mode DCR
    of ONNX's DepthToSpace. Channels that lie last in memory, as OpenVINO keeps them, are then copied in runs of c;
    ``torch.pixel_shuffle``, the mode CRD, picks them one by one and takes twice as long there.
    """
    rows, channels, height, width = x.shape
    if torch.onnx.is_in_onnx_export():
        shape = (rows, channels // 4, 2 * height, 2 * width)
        return torch.onnx.ops.symbolic(
            "DepthToSpace", (x,), {"blocksize": 2, "mode": "DCR"}, dtype=x.dtype, shape=shape
        )
    blocks = x.reshape(rows, 2, 2, channels // 4, height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(rows, channels // 4, 2 * height, 2 * width)


def quantise(means: Tensor) -> Tensor:
    """Turn float32 in [0, 1] into grey levels: 255 times as much, rounded half to even, uint8, of the same shape.

    ONNX's QuantizeLinear is x / scale + zero point, rounded and saturated, in one pass; Mul, Round, Clip and Cast are
    four, and on images of one channel ONNX Runtime's Mul alone takes as long as a convolution: it multiplies a
    [n, h, w, 1] by a scalar pixel by pixel. Where 255 x lies within rounding of a half the two may differ by 1.
    """
    if torch.onnx.is_in_onnx_export():
        scale, zero = torch.tensor(1 / 255), torch.tensor(0, dtype=torch.uint8)
        return torch.onnx.ops.symbolic(
            "QuantizeLinear", (means, scale, zero), dtype=torch.uint8, shape=means.shape
        )
    return (means * 255).round().clamp(0, 255).to(torch.uint8)
