"""Batch normalisation in evaluation is a scale and a shift for each channel, which the layer before it can carry."""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


def fold(layers: nn.Sequential) -> nn.Sequential:
    """Give copies of the layers, in evaluation, without the batch normalisations: the same function up to rounding."""
    folded: list[nn.Module] = []
    for layer in copy.deepcopy(layers).eval():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            folded.append(_fused(folded.pop(), layer))
        else:
            folded.append(layer)
    return nn.Sequential(*folded)


def _fused(layer: nn.Module, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm)
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    return fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, nn.ConvTranspose2d))
