"""The two ONNX graphs of a bundle: written from a model, and compared with it before anyone else may read them."""

import logging
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

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


@torch.no_grad()
def check(model: Autoencoder, images: Tensor, folder: Path) -> dict[str, float]:
    """Compare the graphs in ``folder`` with the model on real images uint8 [64 or more, h, w, c] and on latents.

    Returns the largest differences met, flat names to numbers.

    Raises:
        TrainingError: a graph answers differently from PyTorch at some batch size.
    """
    images = images[: max(BATCHES)]
    latents = far_and_near_latents(max(BATCHES), model.config.latent_size)
    mean, log_variance = (part.numpy() for part in EncoderGraph(model)(images))
    pixels, means = (part.numpy() for part in DecoderGraph(model)(latents))
    encoder, decoder = (_session(folder / name) for name in (ENCODER, DECODER))
    worst = {"encoder": 0.0, "decoder": 0.0, "unequal_pixels": 0.0}
    for batch in BATCHES:
        for start in range(0, max(BATCHES) - batch + 1, batch):
            rows = slice(start, start + batch)
            got_mean, got_log_variance = encoder.run(
                ["mean", "log_variance"], {"pixels": images[rows].numpy()}
            )
            got_pixels, got_means = decoder.run(["pixels", "means"], {"latents": latents[rows].numpy()})
            worst["encoder"] = max(
                worst["encoder"], _gap(got_mean, mean[rows]), _gap(got_log_variance, log_variance[rows])
            )
            worst["decoder"] = max(worst["decoder"], _gap(got_means, means[rows]))
            if got_pixels.shape != pixels[rows].shape:
                raise TrainingError(
                    f"{DECODER} gives pixels of shape {got_pixels.shape} for a batch of {batch}"
                )
            off = np.abs(got_pixels.astype(np.int16) - pixels[rows])
            if off.max() > 1:
                raise TrainingError(f"{DECODER} is off by {off.max()} grey levels at a batch of {batch}")
            worst["unequal_pixels"] += float((off > 0).mean()) * batch / (len(BATCHES) * max(BATCHES))
    for name in ("encoder", "decoder"):
        if not worst[name] <= TOLERANCE:
            raise TrainingError(
                f"{name}.onnx is off by {worst[name]:.2g} from PyTorch; {TOLERANCE:.0e} is allowed"
            )
    if worst["unequal_pixels"] > 1 - EQUAL_PIXELS:
        raise TrainingError(f"{DECODER} has {worst['unequal_pixels']:.2%} of its pixels unequal to PyTorch's")
    return worst


def _session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _gap(got: Floats, wanted: Floats) -> float:
    """Return the largest difference; infinity where the shapes differ or anything is not a number."""
    if got.shape != wanted.shape:
        return float("inf")
    largest = float(np.abs(got - wanted).max())
    return largest if np.isfinite(largest) else float("inf")
