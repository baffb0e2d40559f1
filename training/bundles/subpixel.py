"""The decoder in a second form, equal up to rounding: its transposed convolutions as convolutions of half the size."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.bundles.operators import depth_to_space


class SubpixelConvolution(nn.Module):
    """The function of a transposed convolution k3 s2 p1 op1: [n, i, h, w] -> [n, o, 2h, 2w].

    By definition (``torch.nn.ConvTranspose2d``), with W [i, o, 3, 3], b [o] and all indices from 0,

        y[o, Y, X] = b[o] + sum of W[i, o, k, l] x[i, (Y + 1 - k) / 2, (X + 1 - l) / 2]

    over all i, k, l where both divisions are without remainder and lead to a place inside x. Let Y = 2u + r, r in
    {0, 1}, and let u + p be the row of x that is read: then k = r + 1 - 2p. As k is 0, 1 or 2, the row above (p = -1)
    is never read, the same row (p = 0) with k = r + 1, and the row below (p = 1) with k = 0, for r = 1 only. The same
    holds for X = 2v + s, column v + q and l. So the pixels of one phase (r, s) are a convolution of x,

        y[o, 2u + r, 2v + s] = b[o] + sum over i, p, q in {0, 1} of K[r, s, o, i, p, q] x[i, u + p, v + q],
        K[r, s, o, i, p, q] = W[i, o, r + 1 - 2p, s + 1 - 2q], or 0 where p > r or q > s,

    that reads one row past the bottom and one column past the right edge: zeros are padded there and nowhere else. The
    four phases are one convolution with 4o channels in the order (r, s, o), and DepthToSpace lays them out; 7 of its
    16 taps are zero. The idea is that of Shi et al. 2016, "Is the deconvolution layer the same as a convolutional
    layer?", arXiv:1609.07009.
    """

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        """Take the weights of ``layer``.

        Raises:
            ValueError: the layer has another geometry.
        """
        super().__init__()
        geometry = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.dilation)
        if geometry != ((3, 3), (2, 2), (1, 1), (1, 1), (1, 1)) or layer.groups != 1 or layer.bias is None:
            raise ValueError(f"{layer} is no transposed convolution k3 s2 p1 op1 with one group and a bias")
        weight = layer.weight.detach()
        kernel = weight.new_zeros(2, 2, layer.out_channels, layer.in_channels, 2, 2)
        for r, s, p, q in product((0, 1), repeat=4):
            if p <= r and q <= s:
                kernel[r, s, :, :, p, q] = weight[:, :, r + 1 - 2 * p, s + 1 - 2 * q].T
        self.convolution = nn.Conv2d(layer.in_channels, 4 * layer.out_channels, kernel_size=2)
        self.convolution.weight = nn.Parameter(kernel.flatten(0, 2))
        self.convolution.bias = nn.Parameter(layer.bias.detach().repeat(4))

    def forward(self, x: Tensor) -> Tensor:
        """[n, i, h, w] -> [n, o, 2h, 2w]."""
        return depth_to_space(self.convolution(F.pad(x, (0, 1, 0, 1))))


@torch.no_grad()
def rewrite(layers: nn.Sequential) -> nn.Sequential:
    """Give the layers with every transposed convolution in its other form; the rest is shared.

    Raises:
        ValueError: a transposed convolution is not k3 s2 p1 op1.
    """
    return nn.Sequential(
        *(SubpixelConvolution(layer) if isinstance(layer, nn.ConvTranspose2d) else layer for layer in layers)
    )
