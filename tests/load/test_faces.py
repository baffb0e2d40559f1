"""The bundle that servers are measured with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from armoire.client import Client
from armoire.ops import bundle
from tests.load import faces
from tests.serving import serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faces.write(tmp_path_factory.mktemp("models"))


def test_it_is_served_as_any_bundle(folder: Path) -> None:
    """A server decodes the golden latents to PyTorch's pixels, encodes, samples and edits."""
    golden = bundle.read(folder).golden
    with serving(models=str(folder.parent.parent)) as running, Client(running.address) as client:
        pixels = client.decode(golden["latents"])
        assert pixels.shape == (8, 64, 64, 3)
        assert np.abs(pixels.astype(int) - golden["decoded_pixels"]).max() <= 1
        assert client.encode(golden["pixels"]).means.shape == (8, 200)
        assert client.sample(2, seed=1).latents.shape == (2, 200)
        assert client.add_attribute(golden["latents"], "random_0", 0.1).images.shape == pixels.shape


def test_both_forms_of_the_decoder_are_there(folder: Path) -> None:
    """OpenVINO gets another file than the other providers."""
    read = bundle.read(folder)
    files = {
        provider: read.graph("decoder", provider)[1] for provider in ("cpu", "cuda", "cuda-fp16", "openvino")
    }
    assert files == {
        "cpu": "decoder.onnx",
        "cuda": "decoder.onnx",
        "cuda-fp16": "decoder.fp16.onnx",
        "openvino": "decoder.openvino.onnx",
    }


def test_it_has_the_size_and_the_contrast_of_a_real_one(folder: Path) -> None:
    """1.5 million parameters decode, and pixels use the whole range."""
    assert 1.4e6 < faces.parameters(faces.model().decoder) < 1.6e6
    decoded = bundle.read(folder).golden["decoded_pixels"]
    low, high = np.quantile(decoded[:4], (0.05, 0.95))
    assert low < 64
    assert high > 192


def test_what_is_no_bundle_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of somebody's own in the bundle's place is named in one line and not deleted."""
    own = tmp_path / "faces" / "1" / "holiday.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"memories")
    monkeypatch.setattr("sys.argv", ["faces", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        faces.main()
    assert ended.value.code == 2
    assert f"{own.parent} is there and is no bundle" in capsys.readouterr().err
    assert own.read_bytes() == b"memories"


def test_everybody_gets_the_same_weights() -> None:
    """The seed is fixed, whatever was drawn before."""
    first = faces.model().state_dict()
    torch.manual_seed(99)
    second = faces.model().state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
