"""The two ONNX graphs of a bundle: written from a model, and compared with it before anyone else may read them."""

import logging
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from training.data import as_pixels
from training.errors import TrainingError
from training.model import Autoencoder

Floats = npt.NDArray[np.float32]

ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"
OPSET = 18
BATCHES = (1, 2, 3, 7, 64)
TOLERANCE = 1e-4  # on means and log-variances
EQUAL_PIXELS = 0.999  # this share of uint8 pixels is equal, and none is off by more than 1


class EncoderGraph(nn.Module):
    """Pixels uint8 [n, h, w, c] -> mean and log-variance float32 [n, d]."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Scale, encode."""
        mean, log_variance = self.encoder(pixels.permute(0, 3, 1, 2).to(torch.float32) / 255)
        return mean, log_variance


class DecoderGraph(nn.Module):
    """Latents float32 [n, d] -> pixels uint8 and means float32 in [0, 1], both [n, h, w, c]."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Decode; round half to even, as ONNX and NumPy do."""
        means = self.decoder(latents).sigmoid().permute(0, 2, 3, 1)
        pixels = (means * 255).round().clamp(0, 255).to(torch.uint8)
        return pixels, means


def write(model: Autoencoder, images: Tensor, folder: Path) -> None:
    """Write both graphs into ``folder``: a single file each, opset 18, any number of rows.

    There is no batch normalisation to fold: the models have none. ``images`` uint8 [n, h, w, c] only lend their shape.
    """
    latents = torch.zeros(3, model.config.latent_size)
    _write(EncoderGraph(model), images[:3], folder / ENCODER, ["pixels"], ["mean", "log_variance"])
    _write(DecoderGraph(model), latents, folder / DECODER, ["latents"], ["pixels", "means"])


def _write(graph: nn.Module, example: Tensor, path: Path, inputs: list[str], outputs: list[str]) -> None:
    # The exporter reports every optional package that it does not find; none of them matters here.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch|copyreg|onnxscript")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch|copyreg|onnxscript")
        program = torch.onnx.export(
            graph.eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("n")},),
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _forget_origins(proto)
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _forget_origins(proto: onnx.ModelProto) -> None:
    """Drop the exporter's notes, which hold stack traces with the paths of the machine that wrote them."""
    proto.ClearField("metadata_props")
    proto.graph.ClearField("metadata_props")
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for tensor in proto.graph.initializer:
        tensor.ClearField("metadata_props")


def far_and_near_latents(rows: int, size: int) -> Tensor:
    """float32 [rows, size]: the first half from N(0, I), the second spread evenly between -6 and 6."""
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(rows // 2, size, generator=generator)
    far = torch.rand(rows - rows // 2, size, generator=generator) * 12 - 6
    return torch.cat([near, far])


class Answers(NamedTuple):
    """What PyTorch gives: means and log-variances [n, d], uint8 pixels and float means [n, h, w, c]."""

    mean: Floats
    log_variance: Floats
    pixels: npt.NDArray[np.uint8]
    means: Floats


@torch.no_grad()
def answers(model: Autoencoder, images: Tensor, latents: Tensor) -> Answers:
    """Ask the model itself, by another way than the graphs go, so that a fault of theirs cannot be in both."""
    mean, log_variance = model.encoder(as_pixels(images))
    means = np.moveaxis(model.decoder(latents).sigmoid().numpy(), 1, -1)
    return Answers(
        mean.numpy(), log_variance.numpy(), np.rint(means * np.float32(255)).astype(np.uint8), means
    )


def check(model: Autoencoder, images: Tensor, folder: Path) -> dict[str, float]:
    """Compare the graphs in ``folder`` with the model on real images uint8 [64 or more, h, w, c] and on latents.

    Returns the largest difference of each graph and the largest share of unequal pixels that any batch size gave.

    Raises:
        TrainingError: a graph answers differently from PyTorch at some batch size.
    """
    images = images[: max(BATCHES)]
    latents = far_and_near_latents(max(BATCHES), model.config.latent_size)
    wanted = answers(model, images, latents)
    encoder, decoder = (_session(folder / name) for name in (ENCODER, DECODER))
    worst = {"encoder": 0.0, "decoder": 0.0, "unequal_pixels": 0.0}
    for batch in BATCHES:
        mean, log_variance = _in_batches(encoder, images, batch)
        pixels, means = _in_batches(decoder, latents, batch)
        gaps = {
            "encoder": max(_gap(mean, wanted.mean), _gap(log_variance, wanted.log_variance)),
            "decoder": _gap(means, wanted.means),
            "unequal_pixels": _unequal(pixels, wanted.pixels),
        }
        _require(gaps, batch)
        worst = {name: max(worst[name], gap) for name, gap in gaps.items()}
    return worst


def _require(gaps: dict[str, float], batch: int) -> None:
    for name in ("encoder", "decoder"):
        if gaps[name] > TOLERANCE:
            raise TrainingError(
                f"{name}.onnx is off by {gaps[name]:.2g} from PyTorch in batches of {batch}; {TOLERANCE:.0e} is allowed"
            )
    if gaps["unequal_pixels"] > 1 - EQUAL_PIXELS:
        raise TrainingError(
            f"{DECODER} gives {gaps['unequal_pixels']:.2%} of its pixels unlike PyTorch's in batches of {batch}"
        )


def _in_batches(session: onnxruntime.InferenceSession, rows: Tensor, batch: int) -> list[npt.NDArray[Any]]:
    """Run all rows, ``batch`` at a time (the last time what is left); each output in one piece."""
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: part.numpy()}) for part in torch.split(rows, batch)]
    return [np.concatenate(output) for output in zip(*parts, strict=True)]


def _session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _gap(got: Floats, wanted: Floats) -> float:
    """Return the largest difference; infinity where the shapes differ or anything is not a number."""
    if got.shape != wanted.shape:
        return float("inf")
    largest = float(np.abs(got - wanted).max())
    return largest if np.isfinite(largest) else float("inf")


def _unequal(got: npt.NDArray[np.uint8], wanted: npt.NDArray[np.uint8]) -> float:
    """Return the share of unequal pixels; all of them where the shapes differ or any is off by more than 1."""
    if got.shape != wanted.shape:
        return 1.0
    off = np.abs(got.astype(np.int16) - wanted)
    return float((off > 0).mean()) if off.max() <= 1 else 1.0
