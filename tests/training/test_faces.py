"""The whole path on coloured images with attributes: a folder of pictures becomes a bundle that is served."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from armoire.client import Client
from tests.serving import serving
from tests.training.processes import TORCHRUN, checkpoint_of, start
from training.__main__ import main
from training.config import PRESETS
from training.data import celeba

NAMES = ("Hat", "Male", "Young")
COUNT = 160
SMALL = {
    "image_size": 32,
    "encoder_channels": (8,) * 3,
    "decoder_channels": (8,) * 3,
    "latent_size": 4,
    "epochs": 1,
    "batch_size": 16,
}


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
    assert "interpolation" in drawn
    assert "garment" not in (tmp_path / "index.html").read_text()


def test_two_processes_follow_the_curve_of_one(folder: Path, runs: Path, tmp_path: Path) -> None:
    """In each of fifty steps, with a calibrated sigma and mirroring, two gloo processes have one's loss, to 1e-4."""
    options = ("fit", "celeba", "--epochs", "10", "--batch-size", "28", "--runs")
    program = "tests.training.each_step"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARMOIRE_CACHE", str(runs / "cache"))
        one = start(*options, str(tmp_path / "one"), data=folder, module=program)
        two = start(*options, str(tmp_path / "two"), launcher=TORCHRUN, data=folder, module=program)
    for process in (one, two):
        _, error = process.communicate()
        assert process.returncode == 0, error
    alone, together = (checkpoint_of(tmp_path / name, "celeba") for name in ("one", "two"))
    assert alone["step"] == together["step"] == 50
    for name in ("loss", "distortion", "rate"):
        curves = [logged(tmp_path / run / "celeba", f"train/{name}") for run in ("one", "two")]
        assert curves[0].keys() == set(range(1, 51))
        assert curves[1] == pytest.approx(curves[0], rel=1e-4), name
    for ours, theirs in zip(alone["history"], together["history"], strict=True):
        for name in ("train_distortion", "train_rate", "test_distortion", "test_rate"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-4), (ours["epoch"], name)
    sigmas = [state["model"]["sigma_log_variance"].item() for state in (alone, together)]
    assert sigmas[0] == pytest.approx(sigmas[1], rel=1e-4)


def logged(run: Path, name: str) -> dict[int, float]:
    """A figure of a run's TensorBoard log at each step that has it."""
    (log,) = (run / "tensorboard").glob("events.*")
    return {
        event.step: value.tensor.float_val[0]
        for event in EventFileLoader(str(log)).Load()
        for value in event.summary.value
        if value.tag == name
    }


@pytest.fixture(scope="module")
def celebrities(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The heads as CelebA has its photographs: a small model of them, what evaluate said, its bundle and its report.

    In each half of those to learn from, the young men and the others, as many wear a hat as do not.
    """
    made = tmp_path_factory.mktemp("celebrities")
    layout, seen = made / "celeba", [0, 0]
    layout.mkdir()
    (layout / celeba.IMAGES).symlink_to(folder)
    rows = []
    for line in (folder / "attributes.csv").read_text().splitlines()[1:]:
        file, hat, *_ = line.split(",")
        young_man = seen[int(hat)] % 2
        seen[int(hat)] += 1
        rows.append(
            f"{file} " + " ".join("1" if value else "-1" for value in (int(hat), young_man, young_man))
        )
    (layout / celeba.ATTRIBUTES).write_text("\n".join([str(COUNT), " ".join(NAMES), *rows]) + "\n")
    parts = (f"{row.split()[0]} {int(index >= 96)}\n" for index, row in enumerate(rows))
    (layout / celeba.PARTITION).write_text("".join(parts))
    places = ["--data", str(layout), "--runs", str(made / "runs")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "celeba", replace(PRESETS["celeba"], **SMALL))
        patch.setenv("ARMOIRE_CACHE", str(made / "cache"))
        assert main(["fit", "celeba", *places]) == 0
        assert main(["evaluate", "celeba", *places]) == 0
        without = ["--without", "openvino", "--without", "cuda-fp16"]
        assert main(["export", "celeba", *places, "--out", str(made / "models"), *without]) == 0
        assert main(["report", "celeba", *places, "--out", str(made / "report")]) == 0
    return made


def test_a_model_of_celeba_says_what_it_may_be_used_for(celebrities: Path) -> None:
    """Manifest and card carry CelebA's terms, and the card says so in words: for research, and not to be passed on."""
    folder = celebrities / "models" / "celeba" / "1"
    card, manifest = (folder / "README.md").read_text(), json.loads((folder / "manifest.json").read_text())
    assert manifest["licence"] == celeba.LICENCE
    assert f"This model: {celeba.LICENCE}." in card
    assert "For non-commercial research only, and not to be passed on" in card
    assert "Data: CelebA, Liu, Luo, Wang and Tang" in card
    assert "MIT" not in card
    assert f"of {manifest['training']['data']}: 32x32x3 images" in card
    assert "96 training and 64 validation images" in card


def test_the_card_has_the_figures_of_a_density(celebrities: Path) -> None:
    """Of a Gaussian likelihood the card tells bits per dimension, as evaluate did."""
    folder = celebrities / "models" / "celeba" / "1"
    card, manifest = (folder / "README.md").read_text(), json.loads((folder / "manifest.json").read_text())
    told = json.loads((celebrities / "runs" / "celeba" / "metrics.json").read_text())
    assert manifest["metrics"]["bits_per_dimension"] == pytest.approx(told["bits_per_dimension"])
    assert f"grey | {told['bits_per_dimension']:.2f} |" in card
    assert f"| {told['psnr']:.2f} dB |" in card


def test_the_manifest_names_the_strata_of_each_attribute(celebrities: Path) -> None:
    """Those that hold 20 images with and without it, the attribute itself left out; none where there are none."""
    folder = celebrities / "models" / "celeba" / "1"
    attributes = json.loads((folder / "manifest.json").read_text())["attributes"]
    strata = {entry["name"]: entry["strata"] for entry in attributes}
    # All who are young are men, and the other way round.
    assert strata == {"Hat": ["-Male -Young", "+Male +Young"], "Male": [], "Young": []}
    assert "averaged\nover the strata that the manifest names" in (folder / "README.md").read_text()


def test_the_report_shows_what_comes_along_and_morphs(celebrities: Path) -> None:
    """The heat map of changed labels and the ways from face to face are drawn, and are on the page."""
    drawn = {path.stem.removeprefix("celeba-") for path in (celebrities / "report").glob("*.png")}
    assert drawn >= {"changes", "interpolation", "strips", "map"}
    page = (celebrities / "report" / "index.html").read_text()
    assert "labels changed by each attribute, celeba" in page
    assert "interpolation strip, celeba" in page
    assert "Five straight lines in latent space, each from an image\nto another" in page


def test_pictures_without_labels_go_all_the_way(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of pictures alone is learnt, measured, drawn, exported and served, and nobody speaks of attributes."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for picture in folder.glob("*.png"):
        (pictures / picture.name).symlink_to(picture)
    monkeypatch.setitem(PRESETS, "celeba", replace(PRESETS["celeba"], **SMALL))
    monkeypatch.setenv("ARMOIRE_CACHE", str(tmp_path / "cache"))
    places = ["--data", str(pictures), "--runs", str(tmp_path / "runs")]
    assert main(["fit", "celeba", *places]) == 0
    assert main(["evaluate", "celeba", *places]) == 0
    told = json.loads((tmp_path / "runs" / "celeba" / "metrics.json").read_text())
    assert (told["attributes"], told["frechet"], told["few_labels"]) == ({}, {}, None)
    assert told["neighbours"]["samples_median"] > 0
    assert main(["report", "celeba", *places, "--out", str(tmp_path / "report")]) == 0
    drawn = {path.stem.removeprefix("celeba-") for path in (tmp_path / "report").glob("*.png")}
    assert drawn >= {"reconstructions", "samples", "fitted", "interpolation", "histograms"}
    assert not drawn & {"strips", "changes", "map"}
    without = ["--without", "openvino", "--without", "cuda-fp16"]
    assert main(["export", "celeba", *places, "--out", str(tmp_path / "models"), *without]) == 0
    card = (tmp_path / "models" / "pictures" / "1" / "README.md").read_text()
    assert "None: the images came without labels." in card
    assert "This model: that of the images in pictures." in card
    with serving(models=str(tmp_path / "models")) as running, Client(running.address) as client:
        (model,) = client.models()
        assert model.attributes == {}
        points = client.encode([(folder / "000.png").read_bytes()]).means
        assert client.decode(points).shape == (1, 32, 32, 3)
        assert client.sample(2, seed=1).images.shape == (2, 32, 32, 3)


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
