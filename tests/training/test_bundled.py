"""The bundled models on the whole of Fashion-MNIST, through their graphs alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from training import randomness
from training.data import idx as datasets

MODELS = Path(__file__).parent.parent.parent / "service" / "armoire" / "models"
PROMISES = {"fashion-mnist": 236.0, "fashion-mnist-2d": 258.5}

whole_set = pytest.mark.skipif(
    not (datasets.DEBIAN_FOLDER / datasets.TRAIN_IMAGES).exists(),
    reason="needs the whole of Fashion-MNIST: apt install dataset-fashion-mnist",
)


def manifest_of(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((MODELS / name / "1" / "manifest.json").read_text())
    return manifest


@pytest.mark.parametrize("name", PROMISES)
def test_a_bundled_model_keeps_its_promise(name: str) -> None:
    """The bundled card's binary cross-entropy + KL on 10,000 test images is no more than promised."""
    manifest = manifest_of(name)
    assert manifest["metrics"]["images"] == 10_000
    assert manifest["metrics"]["sum"] <= PROMISES[name]
    assert manifest["training"]["data"] == "Fashion-MNIST"
    assert f"| {manifest['metrics']['sum']:.2f} |" in (MODELS / name / "1" / "README.md").read_text()


@pytest.mark.parametrize("name", PROMISES)
def test_samples_of_the_fitted_prior_are_no_worse(name: str) -> None:
    """A classifier right about 92 % of the test set finds the fitted prior's samples no farther off than N(0, I)'s."""
    distances = manifest_of(name)["evaluation"]["frechet"]
    assert distances["classifier_accuracy"] >= 0.92
    assert distances["images"] == 10_000
    assert distances["fitted"] <= distances["normal"]
    card = (MODELS / name / "1" / "README.md").read_text()
    assert f"N(0, I) {distances['normal']:.2f}, of the fitted prior {distances['fitted']:.2f}" in card


def test_the_bundled_models_are_small() -> None:
    """Everybody who installs the service gets them: together they are less than 8 MB."""
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) < 8e6


@whole_set
@pytest.mark.parametrize("name", PROMISES)
def test_the_cards_figures_are_those_of_the_graphs(name: str) -> None:
    """Encoded, sampled and decoded in ONNX Runtime, the test set gives the card's distortion, rate and error."""
    manifest, images = manifest_of(name), datasets.load(datasets.DEBIAN_FOLDER).test.images.numpy()
    encoder, decoder = (
        onnxruntime.InferenceSession(
            MODELS / name / "1" / f"{graph}.onnx", providers=["CPUExecutionProvider"]
        )
        for graph in ("encoder", "decoder")
    )
    mean, log_variance = (part.astype(np.float64) for part in encoder.run(None, {"pixels": images}))
    rate = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(1).mean()
    noise = randomness.noise(
        manifest["training"]["seed"], "evaluation", len(images), manifest["latent_size"]
    ).numpy()
    latents = (mean + np.exp(0.5 * log_variance) * noise).astype(np.float32)
    distortion, error = 0.0, 0.0
    for start in range(0, len(images), 1000):
        rows = slice(start, start + 1000)
        x = images[rows] / 255.0
        means = decoder.run(["means"], {"latents": latents[rows]})[0].clip(1e-7, 1 - 1e-7).astype(np.float64)
        distortion -= (x * np.log(means) + (1 - x) * np.log1p(-means)).sum() / len(images)
        error += (
            np.square(decoder.run(["means"], {"latents": mean[rows].astype(np.float32)})[0] - x).mean() / 10
        )
    assert rate == pytest.approx(manifest["metrics"]["rate"], rel=1e-4)
    assert distortion == pytest.approx(manifest["metrics"]["distortion"], rel=1e-3)
    assert error == pytest.approx(manifest["metrics"]["mse"], rel=1e-3)
