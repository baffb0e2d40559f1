"""The ONNX graphs of a bundle, written from a model: the encoder, and the decoder in three forms."""

import copy
import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from training.bundles import subpixel
from training.bundles.folding import fold
from training.bundles.operators import quantise
from training.model import Autoencoder

OPSET = 18
# The encoder has one form: a strided convolution is already a plain one, and OpenVINO runs this graph as it is.
ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"
OPENVINO_DECODER = "decoder.openvino.onnx"
FP16_DECODER = "decoder.fp16.onnx"
# Who takes another form than DECODER, in the words of the manifest.
VARIANTS = {"openvino": OPENVINO_DECODER, "cuda-fp16": FP16_DECODER}


class EncoderGraph(nn.Module):
    """Pixels uint8 [n, h, w, c] -> mean and log-variance float32 [n, d]."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(model.encoder)
        self.encoder.features = fold(self.encoder.features)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Scale, encode."""
        mean, log_variance = self.encoder(pixels.permute(0, 3, 1, 2).to(torch.float32) / 255)
        return mean, log_variance


class DecoderGraph(nn.Module):
    """Latents float32 [n, d] -> pixels uint8 and means float32 in [0, 1], both [n, h, w, c]."""

    def __init__(self, decoder: nn.Module) -> None:
        """``decoder`` gives logits [n, c, h, w]."""
        super().__init__()
        self.decoder = decoder

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Decode."""
        means = self.decoder(latents).sigmoid().permute(0, 2, 3, 1)
        return quantise(means), means


class HalfPrecision(nn.Module):
    """A decoder that takes and gives float32 and computes in float16, as a GPU's tensor cores do."""

    def __init__(self, decoder: nn.Module) -> None:
        """Copy ``decoder`` with its weights rounded to float16."""
        super().__init__()
        self.decoder = copy.deepcopy(decoder).half()

    def forward(self, latents: Tensor) -> Tensor:
        """[n, d] -> logits [n, c, h, w]; the sigmoid and the grey levels are left to float32."""
        logits: Tensor = self.decoder(latents.half())
        return logits.float()


def write(model: Autoencoder, images: Tensor, folder: Path) -> None:
    """Write all graphs into ``folder``: a single file each, opset 18, any number of rows.

    Batch normalisation is folded into the layers before it. ``images`` uint8 [n, h, w, c] only lend their shape.
    """
    _write(EncoderGraph(model), images[:3], folder / ENCODER, ["pixels"], ["mean", "log_variance"])
    decoder, size = copy.deepcopy(model.decoder), model.config.latent_size
    decoder.layers = fold(decoder.layers)
    write_decoder(decoder, size, folder / DECODER)
    write_decoder(HalfPrecision(decoder), size, folder / FP16_DECODER)
    decoder.layers = subpixel.rewrite(decoder.layers)
    write_decoder(decoder, size, folder / OPENVINO_DECODER)


def write_decoder(decoder: nn.Module, latent_size: int, path: Path) -> None:
    """Write one form of a decoder, which takes latents [n, d] and gives logits [n, c, h, w]."""
    _write(DecoderGraph(decoder), torch.zeros(3, latent_size), path, ["latents"], ["pixels", "means"])


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
