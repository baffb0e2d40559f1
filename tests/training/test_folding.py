"""Batch normalisation folded into the layer before it is the same function."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from training.bundles import parity
from training.bundles.folding import fold
from training.bundles.graphs import write
from training.config import Config, preset
from training.data import Data
from training.measures import aggregate
from training.model import Autoencoder

BOOK = replace(
    preset("book-celeba"), image_size=32, image_channels=1, latent_size=5,
    encoder_channels=(8, 8, 8), decoder_channels=(8, 8, 8, 8),
)  # fmt: skip


def trained(config: Config, data: Data) -> Autoencoder:
    """Normalisations that have seen some images, and scales and shifts of their own."""
    torch.manual_seed(0)
    model = Autoencoder(config).train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -1, 1)
    pixels = data.train.images[:64].permute(0, 3, 1, 2).float() / 255
    for _ in range(5):
        model(pixels, torch.randn(64, config.latent_size), 1.0)
    return model.eval()


@torch.no_grad()
def test_folded_layers_are_the_same_function(data: Data) -> None:
    """Convolutions, a dense layer and transposed convolutions give the same to within rounding, without the layers."""
    model = trained(BOOK, data)
    pixels = data.test.images[:9].permute(0, 3, 1, 2).float() / 255
    latents = torch.randn(9, 5)
    for layers, rows in ((model.encoder.features, pixels), (model.decoder.layers, latents)):
        folded = fold(layers)
        assert not any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in folded)
        torch.testing.assert_close(folded(rows), layers(rows), atol=1e-4, rtol=1e-4)
        assert any(
            isinstance(layer, nn.BatchNorm2d) for layer in layers
        )  # the model itself is left as it was


@pytest.mark.parametrize(
    "config",
    [
        BOOK,
        replace(BOOK, batch_norm=False, linear_path=True),
    ],
    ids=["batch normalisation", "a linear path"],
)
def test_the_graphs_answer_as_the_model_does(config: Config, data: Data, tmp_path) -> None:
    """Export of either kind passes the parity check, and no graph holds a BatchNormalization."""
    model = trained(config, data)
    if (
        model.decoder.linear is not None
    ):  # as large as what training leaves, so that a lost path would be noticed
        nn.init.normal_(model.decoder.linear.weight, std=0.1)
    write(model, data.test.images, tmp_path)
    gaps = parity.check(model, data.test.images, tmp_path)
    assert gaps["decoder"] <= 1e-4
    for path in tmp_path.iterdir():
        assert b"BatchNormalization" not in path.read_bytes()
    assert aggregate.decode(model, torch.zeros(2, 5)).shape == (2, 32, 32, 1)
