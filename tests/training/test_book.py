"""The book's recipe of faces, against the recipe written out layer by layer."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from training.config import preset
from training.model import Autoencoder
from training.running.trainer import Trainer


class Keras:
    """Layers with Keras's defaults, that take their weights one after the other."""

    def __init__(self, module: nn.Module) -> None:
        self._weights: Iterator[Tensor] = module.parameters()
        #: What each batch normalisation would remember after this batch, in Keras's momentum of 0.99.
        self.remembered: list[Tensor] = []

    def left(self) -> int:
        return len(list(self._weights))

    def dense(self, rows: Tensor) -> Tensor:
        return F.linear(rows, next(self._weights), next(self._weights))

    def convolution(self, maps: Tensor, *, stride: int, padding: int = 1) -> Tensor:
        weight = next(self._weights)
        assert weight.shape[2:] == (3, 3)
        return F.conv2d(maps, weight, next(self._weights), stride=stride, padding=padding)

    def transposed(self, maps: Tensor) -> Tensor:
        weight = next(self._weights)
        assert weight.shape == (64, 64, 3, 3)
        return F.conv_transpose2d(maps, weight, next(self._weights), stride=2, padding=1, output_padding=1)

    def normalised(self, values: Tensor) -> Tensor:
        over = [0, 2, 3] if values.dim() == 4 else [0]
        mean, variance = values.mean(over, keepdim=True), values.var(over, correction=0, keepdim=True)
        self.remembered.append(0.99 * 0 + 0.01 * mean.flatten())
        scale, shift = (next(self._weights).reshape(mean.shape) for _ in range(2))
        return F.leaky_relu((values - mean) / (variance + 1e-3).sqrt() * scale + shift, 0.3)


@torch.no_grad()
def test_the_books_preset_of_faces_has_the_books_layers() -> None:
    """Five convolutions down, a dense layer and five transposed ones up, each normalised and bent as in the book."""
    torch.manual_seed(0)
    model = Autoencoder(preset("book-celeba")).train()
    for weights in model.parameters():
        weights.add_(0.05 * torch.randn_like(weights))
    pixels, latents = torch.rand(6, 3, 64, 64), torch.randn(6, 200)

    encoder, decoder = Keras(model.encoder), Keras(model.decoder)
    maps = pixels
    for _ in range(5):
        maps = encoder.normalised(encoder.convolution(maps, stride=2))
        assert maps.shape[1] == 64
    mean, log_variance = encoder.dense(maps.flatten(1)), encoder.dense(maps.flatten(1))
    maps = decoder.normalised(decoder.dense(latents)).reshape(6, 64, 2, 2)
    for _ in range(5):
        maps = decoder.normalised(decoder.transposed(maps))
    logits = decoder.convolution(maps, stride=1)
    assert (encoder.left(), decoder.left()) == (0, 0)

    posterior = model.encoder(pixels)
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(posterior.log_variance, log_variance, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model.decoder(latents), logits, rtol=1e-3, atol=1e-4)
    for part, recipe in ((model.encoder, encoder), (model.decoder, decoder)):
        known = [value for name, value in part.named_buffers() if name.endswith("running_mean")]
        for ours, theirs in zip(known, recipe.remembered, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_books_preset_of_faces_is_trained_as_in_the_book() -> None:
    """Ten epochs of batches of 128, and Adam that moves each weight by 5e-4 at first, of which no average is kept."""
    config = preset("book-celeba")
    assert (config.epochs, config.batch_size) == (10, 128)
    trainer = Trainer(config, Fabric(accelerator="cpu", devices=1), steps_per_epoch=98)
    before = [weights.detach().clone() for weights in trainer.raw_model.parameters()]
    images = torch.randint(0, 256, (4, 64, 64, 3), generator=torch.Generator().manual_seed(0)).byte()
    assert trainer.step(images, torch.ones(4, 200)) is not None
    moves = torch.cat(
        [
            (after.detach() - known).abs().flatten()
            for after, known in zip(trainer.raw_model.parameters(), before, strict=True)
        ]
    )
    assert float(moves.max()) == pytest.approx(5e-4, rel=1e-3)
    for average, weights in zip(trainer.average.parameters(), trainer.raw_model.parameters(), strict=True):
        assert torch.equal(average, weights)
    (group,) = trainer.optimizer.param_groups
    assert (group["eps"], group["betas"], group["weight_decay"]) == (1e-7, (0.9, 0.999), 0)
    trainer.step_count = trainer.steps - 1
    assert trainer.learning_rate == 5e-4
