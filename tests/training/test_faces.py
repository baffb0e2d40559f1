"""The whole path on coloured images with attributes: a folder of pictures becomes a bundle that is served."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from armoire.client import Client
from tests.serving import serving
from tests.training.processes import TORCHRUN, checkpoint_of, start
from training.__main__ import main
from training.config import PRESETS

NAMES = ("Hat", "Male", "Young")
COUNT = 160


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Round heads of every colour, half of them under a hat."""
    folder = tmp_path_factory.mktemp("heads")
    generator = np.random.default_rng(0)
    rows = []
    for index in range(COUNT):
        colour, labels = tuple(generator.integers(60, 255, 3)), generator.integers(0, 2, 3)
        picture = Image.new("RGB", (150, 180), (20, 20, 40))
        draw = ImageDraw.Draw(picture)
        draw.ellipse((40, 50, 110, 140), fill=colour)
        if labels[0]:
            draw.rectangle((35, 35, 115, 70), fill=(250, 250, 250))
        picture.save(folder / f"{index:03}.png")
        rows.append(f"{index:03}.png," + ",".join(map(str, labels)))
    (folder / "attributes.csv").write_text("\n".join(["file," + ",".join(NAMES), *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of a few epochs; the packed images lie beside it."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARMOIRE_CACHE", str(runs / "cache"))
        options = ["--epochs", "8", "--batch-size", "16", "--learning-rate", "0.003"]
        assert main(["fit", "celeba", "--data", str(folder), "--runs", str(runs), *options]) == 0
        yield runs


def test_a_folder_of_pictures_becomes_a_bundle_that_is_served(
    folder: Path, runs: Path, tmp_path: Path
) -> None:
    """Attributes, the square of the whole breadth and licence are in the manifest; a hat can be added over the wire."""
    places = ["--data", str(folder), "--runs", str(runs)]
    assert main(["export", "celeba", *places, "--out", str(tmp_path)]) == 0
    (name,) = (path.name for path in tmp_path.iterdir())
    manifest = json.loads((tmp_path / name / "1" / "manifest.json").read_text())
    assert manifest["preprocessing"] == {"crop": "square", "resize": [64, 64], "pad": 0}
    # The preset asks for ten, and so few images give one.
    assert "N(0, I), and a single Gaussian fitted" in (tmp_path / name / "1" / "README.md").read_text()
    assert [entry["name"] for entry in manifest["attributes"]] == list(NAMES)
    assert manifest["attributes"][0]["projection_quantiles"].keys() >= {"1", "50", "99"}
    assert "licence" in manifest["licence"] or folder.name in manifest["licence"]
    cosines = np.load(tmp_path / name / "1" / "latent_space.npz")["attribute_cosines"]
    np.testing.assert_allclose(np.diag(cosines), 1, rtol=1e-6)
    with serving(models=str(tmp_path)) as running, Client(running.address) as client:
        points = client.encode([(folder / "000.png").read_bytes()]).means
        edited = client.add_attribute(points, {"Hat": 1.0}).images
    assert edited.shape == (1, 64, 64, 3)


def test_a_run_keeps_the_crop_that_it_was_begun_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """148 pixels, as runs on any pictures had before there was a choice, are resumed without the option."""
    small = {"encoder_channels": (8,) * 3, "decoder_channels": (8,) * 3, "latent_size": 4, "batch_size": 16}
    monkeypatch.setitem(PRESETS, "celeba", replace(PRESETS["celeba"], image_size=32, epochs=1, **small))
    monkeypatch.setenv("ARMOIRE_CACHE", str(tmp_path / "cache"))
    places = ["--data", str(folder), "--runs", str(tmp_path)]
    assert main(["fit", "celeba", *places, "--crop", "148"]) == 0
    assert checkpoint_of(tmp_path, "celeba")["config"]["crop"] == 148
    assert main(["fit", "celeba", *places, "--resume"]) == 0
    assert main(["evaluate", "celeba", *places]) == 0
    assert main(["fit", "celeba", *places, "--resume", "--crop", "100"]) == 2
    assert "crop 148, not 100" in capsys.readouterr().err


def test_the_figures_name_the_part_that_was_held_out(folder: Path, runs: Path) -> None:
    """Evaluation is on images that were not learned from, and says which those were."""
    assert main(["evaluate", "celeba", "--data", str(folder), "--runs", str(runs)]) == 0
    figures = json.loads((runs / "celeba" / "metrics.json").read_text())
    assert figures["split"] == "held-out part"
    assert 0 < figures["images"] < COUNT / 4
    assert figures["mse"] < 0.1
    assert len(figures["rate_per_dimension"]) == 200


def test_the_report_shows_every_attribute(folder: Path, runs: Path, tmp_path: Path) -> None:
    """Strips, changed labels and the map of latents are drawn, with the names that the images came with."""
    assert main(["report", "celeba", "--data", str(folder), "--runs", str(runs), "--out", str(tmp_path)]) == 0
    drawn = {path.stem.removeprefix("celeba-") for path in tmp_path.glob("*.png")}
    assert drawn >= {"reconstructions", "samples", "fitted", "neighbours", "strips", "map", "histograms"}
    assert "garment" not in (tmp_path / "index.html").read_text()


def test_two_processes_follow_the_curve_of_one(folder: Path, runs: Path, tmp_path: Path) -> None:
    """Fifty steps with a calibrated sigma and mirrored images: two gloo processes have the losses of one, to 1e-4."""
    options = ("fit", "celeba", "--epochs", "10", "--batch-size", "28", "--runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARMOIRE_CACHE", str(runs / "cache"))
        one = start(*options, str(tmp_path / "one"), data=folder)
        two = start(*options, str(tmp_path / "two"), launcher=TORCHRUN, data=folder)
    for process in (one, two):
        _, error = process.communicate()
        assert process.returncode == 0, error
    alone, together = (checkpoint_of(tmp_path / name, "celeba") for name in ("one", "two"))
    assert alone["step"] == together["step"] == 50
    for ours, theirs in zip(alone["history"], together["history"], strict=True):
        for name in ("train_distortion", "train_rate", "test_distortion", "test_rate"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-4), (ours["epoch"], name)
    sigmas = [state["model"]["sigma_log_variance"].item() for state in (alone, together)]
    assert sigmas[0] == pytest.approx(sigmas[1], rel=1e-4)


def test_large_images_are_served_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is a field of the preset: 128 is trained, exported and served, and a photograph is brought to it."""
    small = {"encoder_channels": (8,) * 4, "decoder_channels": (8,) * 4, "latent_size": 4, "batch_size": 16}
    monkeypatch.setitem(PRESETS, "celeba", replace(PRESETS["celeba"], image_size=128, epochs=1, **small))
    monkeypatch.setenv("ARMOIRE_CACHE", str(tmp_path / "cache"))
    places = ["--data", str(folder), "--runs", str(tmp_path / "runs")]
    assert main(["fit", "celeba", *places]) == 0
    assert (
        main(["export", "celeba", *places, "--out", str(tmp_path / "models"), "--without", "openvino"]) == 0
    )
    with serving(models=str(tmp_path / "models")) as running, Client(running.address) as client:
        assert client.encode([(folder / "000.png").read_bytes()]).means.shape == (1, 4)
        assert client.decode(np.zeros((2, 4), np.float32)).shape == (2, 128, 128, 3)
