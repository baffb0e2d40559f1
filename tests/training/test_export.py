"""Bundles: what is in them, that they answer as the model does, and that a wrong one is never left behind."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from tests.training.conftest import SLICE
from training.__main__ import main
from training.bundles import card, parity
from training.data import Data, celeba
from training.errors import TrainingError
from training.running import checkpoint

DECODERS = ("decoder.onnx", "decoder.openvino.onnx", "decoder.fp16.onnx")
GRAPHS = ("encoder.onnx", *DECODERS)
FILES = {*GRAPHS, "manifest.json", "latent_space.npz", "golden.npz", "README.md"}


NAME = "fashion-mnist-slice"


def export(preset: str, runs: Path, models: Path, *options: str) -> int:
    places = ["--data", str(SLICE), "--runs", str(runs), "--out", str(models)]
    return main(["export", preset, *places, "--version", "3", *options])


def content(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def bundle(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    assert export("fashion", runs, models) == 0
    return models / NAME / "3"


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """The bundle again: tmp_path/models/NAME/3."""
    return Path(shutil.copytree(bundle, tmp_path / "models" / NAME / "3"))


@pytest.fixture(scope="session")
def manifest(bundle: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    return content


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_a_bundle_lists_and_hashes_every_file(bundle: Path, manifest: dict[str, Any]) -> None:
    """The manifest names every other file with its size and SHA-256, and nothing else is there."""
    assert {path.name for path in bundle.iterdir()} == FILES
    assert manifest["files"].keys() == FILES - {"manifest.json"}
    for name, entry in manifest["files"].items():
        content = (bundle / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert list(bundle.parent.iterdir()) == [bundle]


def test_a_manifest_says_what_the_model_is_and_where_it_comes_from(manifest: dict[str, Any]) -> None:
    """Name, version, shapes, preprocessing, attributes, priors, metrics, provenance and licence are all there."""
    assert (manifest["format"], manifest["name"], manifest["version"]) == (1, NAME, "3")
    assert manifest["image"] == {"height": 32, "width": 32, "channels": 1}
    assert (manifest["latent_size"], manifest["likelihood"], manifest["licence"]) == (16, "bernoulli", "MIT")
    assert manifest["preprocessing"] == {"crop": None, "resize": [28, 28], "pad": 2}
    assert [entry["name"] for entry in manifest["attributes"]] == [
        *(
            "t_shirt",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle_boot",
        )
    ]
    assert {(entry["positives"], entry["negatives"]) for entry in manifest["attributes"]} == {(150, 1350)}
    assert manifest["priors"] == ["normal", "fitted"]
    assert all(isinstance(value, int | float) for value in manifest["metrics"].values())
    assert {"distortion", "rate", "sum", "mse", "active_units", "rate_fitted_prior"} <= manifest[
        "metrics"
    ].keys()
    assert manifest["training"]["preset"] == manifest["training"]["config"]["preset"] == "fashion"
    assert (manifest["training"]["seed"], manifest["training"]["epochs"]) == (1, 6)
    assert {"data", "split", "commit", "libraries"} <= manifest["training"].keys()


def test_the_default_prior_is_the_one_with_the_lower_rate(manifest: dict[str, Any]) -> None:
    """What the manifest proposes is what its own figures say."""
    lower = "fitted" if manifest["metrics"]["rate_fitted_prior"] < manifest["metrics"]["rate"] else "normal"
    assert manifest["default_prior"] == lower


def test_the_manifest_says_which_provider_takes_which_file(manifest: dict[str, Any]) -> None:
    """The decoder has a form of its own for OpenVINO, the encoder has one form."""
    files = {name: (entry["file"], entry.get("variants")) for name, entry in manifest["graphs"].items()}
    assert files == {
        "encoder": ("encoder.onnx", None),
        "decoder": ("decoder.onnx", {"openvino": "decoder.openvino.onnx", "cuda-fp16": "decoder.fp16.onnx"}),
    }


def test_forms_can_be_left_out(runs: Path, tmp_path: Path) -> None:
    """A bundle without a provider's own form is smaller by it, and says nowhere that it is there."""
    assert export("fashion", runs, tmp_path, "--without", "openvino", "--without", "cuda-fp16") == 0
    folder = tmp_path / NAME / "3"
    assert {path.name for path in folder.glob("*.onnx")} == {"encoder.onnx", "decoder.onnx"}
    told = json.loads((folder / "manifest.json").read_text())
    assert told["graphs"]["decoder"]["variants"] == {}
    assert not {name for name in told["files"] if "openvino" in name or "fp16" in name}
    assert "in one form, for everybody" in (folder / "README.md").read_text()


@pytest.mark.parametrize("file", GRAPHS)
def test_a_graph_is_what_the_manifest_says(file: str, bundle: Path, manifest: dict[str, Any]) -> None:
    """One file of opset 18 with the manifest's inputs and outputs in its order, and no trace of where it was made."""
    entry = manifest["graphs"][file.partition(".")[0]]
    loaded = session(bundle / file)
    for kind, nodes in (("inputs", loaded.get_inputs()), ("outputs", loaded.get_outputs())):
        assert [node.name for node in nodes] == list(entry[kind])
        for node in nodes:
            types = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
            assert {"dtype": types[node.type], "shape": node.shape} == entry[kind][node.name]
    proto = onnx.load(bundle / file, load_external_data=False)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 18)]
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    content = (bundle / file).read_bytes()
    assert b".py" not in content
    assert str(Path.cwd()).encode() not in content


def test_golden_outputs_are_what_the_graphs_answer(bundle: Path, data: Data) -> None:
    """Eight real images and eight latents, some far out, with PyTorch's answers to them."""
    golden = np.load(bundle / "golden.npz", allow_pickle=False)
    assert np.array_equal(golden["pixels"], data.test.images[:8].numpy())
    assert 4 < np.abs(golden["latents"]).max() <= 6
    mean, log_variance = session(bundle / "encoder.onnx").run(None, {"pixels": golden["pixels"]})
    np.testing.assert_allclose(mean, golden["mean"], atol=1e-4)
    np.testing.assert_allclose(log_variance, golden["log_variance"], atol=1e-4)
    for file in DECODERS:
        pixels, means = session(bundle / file).run(None, {"latents": golden["latents"]})
        np.testing.assert_allclose(means, golden["decoded_means"], atol=5e-3 if "fp16" in file else 1e-4)
        assert np.abs(pixels.astype(int) - golden["decoded_pixels"]).max() <= 1


@pytest.mark.parametrize("file", DECODERS)
def test_pixels_are_the_means_rounded_to_grey_levels(file: str, bundle: Path) -> None:
    """The uint8 output is the whole number nearest to 255 times the means, and the means lie in [0, 1]."""
    latents = np.random.default_rng(0).uniform(-6, 6, (50, 16)).astype(np.float32)
    pixels, means = session(bundle / file).run(None, {"latents": latents})
    # Half a grey level, and the rounding of a float32 below 256.
    assert np.abs(pixels - means.astype(np.float64) * 255).max() <= 0.5 + 2**-15
    assert means.min() >= 0
    assert means.max() <= 1
    assert len(np.unique(pixels)) > 100


def test_the_latent_space_is_plain_arrays_of_the_right_kind(bundle: Path, data: Data) -> None:
    """Directions are differences of class means of the bundle's own encoder, the mixture is a proper one."""
    space = np.load(bundle / "latent_space.npz", allow_pickle=False)
    means = session(bundle / "encoder.onnx").run(["mean"], {"pixels": data.train.images.numpy()})[0]
    labels = data.train.labels.numpy()
    for label, direction in enumerate(space["attribute_directions"]):
        expected = means[labels == label].mean(0) - means[labels != label].mean(0)
        np.testing.assert_allclose(direction, expected, atol=1e-4)
    np.testing.assert_allclose(space["posterior_mean"], means.mean(0), atol=1e-4)
    np.testing.assert_allclose(space["posterior_std"], means.std(0), atol=1e-4)
    assert space["mixture_weights"].sum() == pytest.approx(1)
    assert np.array_equal(space["mixture_choleskys"], np.tril(space["mixture_choleskys"]))
    kinds = {name: space[name].dtype.name for name in space.files}
    assert kinds == {
        "attribute_directions": "float32",
        "attribute_cosines": "float32",
        "posterior_mean": "float32",
        "posterior_std": "float32",
        "mixture_weights": "float64",
        "mixture_means": "float64",
        "mixture_choleskys": "float64",
    }


def test_the_card_carries_the_figures(bundle: Path, manifest: dict[str, Any]) -> None:
    """The model card shows the manifest's sum and every attribute's AUC, and the command that trains the model."""
    card = (bundle / "README.md").read_text()
    assert f"| {manifest['metrics']['sum']:.2f} |" in card
    assert f"| {manifest['metrics']['psnr']:.2f} dB |" in card
    assert "python -m training fit fashion" in card
    assert "a mixture of 30 Gaussians" in card
    for entry in manifest["attributes"]:
        figures = f"{entry['norm']:.2f} | {entry['auc']:.3f} | {entry['auc_logistic']:.3f}"
        assert f"| {entry['name']} | {figures} |" in card


def test_the_card_of_a_model_of_celeba_exports_it_elsewhere(manifest: dict[str, Any]) -> None:
    """Its command names a folder, since without one it would be refused; other cards' commands name none."""
    assert "python -m training export fashion\n" in card.text(manifest)
    assert "python -m training export fashion --out ~/models\n" in card.text(
        manifest | {"licence": celeba.LICENCE}
    )


def test_the_card_carries_what_evaluate_found_of_the_same_run(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Export after evaluate has its comparisons, figure by figure; of another run they are left out, and it is said."""
    shutil.copytree(
        runs / "fashion", tmp_path / "fashion" / "fashion", ignore=shutil.ignore_patterns("metrics.json")
    )
    places = ["--data", str(SLICE), "--runs", str(tmp_path / "fashion")]
    assert main(["evaluate", "fashion", *places]) == 0
    assert export("fashion", tmp_path / "fashion", tmp_path / "models") == 0
    assert "run it first" not in capsys.readouterr().out
    folder = tmp_path / "models" / NAME / "3"
    card, found = (folder / "README.md").read_text(), json.loads((folder / "manifest.json").read_text())
    evaluation = found["evaluation"]
    assert f"samples of N(0, I) {evaluation['frechet']['normal']:.2f}" in card
    assert f"error of {evaluation['pca_mse']:.5f}" in card
    assert f"| pixels | {evaluation['few_labels']['pixels']['10']:.3f} |" in card
    trouser = evaluation["attributes"]["trouser"]
    figures = [
        ", ".join(f"{trouser[key][strength]:.2f}" for strength in ("0.5", "1.0", "2.0"))
        for key in ("flip_rate", "leakage", "cycle_cosine")
    ]
    assert f"| {' | '.join(figures)} |" in card
    assert "on at most 250 images" in card
    metrics = tmp_path / "fashion" / "fashion" / "metrics.json"
    other = json.loads(metrics.read_text())
    other["run"]["seconds"] += 1
    metrics.write_text(json.dumps(other))
    assert export("fashion", tmp_path / "fashion", tmp_path / "models", "--force") == 0
    assert "run it first" in capsys.readouterr().out
    assert "Fréchet" not in (folder / "README.md").read_text()


def disturb(path: Path, amount: float) -> None:
    """Add ``amount`` to the last bias of a graph."""
    proto = onnx.load(path)
    bias = [tensor for tensor in proto.graph.initializer if tensor.name.endswith("bias")][-1]
    values = numpy_helper.to_array(bias)
    bias.CopyFrom(numpy_helper.from_array(values + values.dtype.type(amount), bias.name))
    onnx.save(proto, path)


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_that_is_slightly_wrong_is_refused(graph: str, copy: Path, runs: Path, data: Data) -> None:
    """The check passes the graphs as written and fails one whose last bias is off by a little, in its precision."""
    model, _ = checkpoint.load_model(runs / "fashion")
    parity.check(model, data.test.images, copy)
    disturb(copy / graph, 3e-2 if "fp16" in graph else 1e-3)
    with pytest.raises(TrainingError, match=graph):
        parity.check(model, data.test.images, copy)


@pytest.mark.parametrize("file", DECODERS)
def test_pixels_that_are_laid_out_otherwise_are_refused(
    file: str, copy: Path, runs: Path, data: Data
) -> None:
    """Height and width exchanged keep every shape; the check notices all the same."""
    proto = onnx.load(copy / file)
    (transpose,) = [node for node in proto.graph.node if node.op_type == "Transpose"]
    transpose.attribute[0].ints[:] = [0, 3, 2, 1]
    onnx.save(proto, copy / file)
    model, _ = checkpoint.load_model(runs / "fashion")
    with pytest.raises(TrainingError, match=file):
        parity.check(model, data.test.images, copy)


def test_a_graph_of_other_weights_is_refused(copy: Path, data: Data, runs: Path) -> None:
    """A bundle is checked against its own model: another one's graphs fail."""
    model, _ = checkpoint.load_model(runs / "fashion")
    torch.manual_seed(9)
    other = type(model)(model.config).eval()
    with pytest.raises(TrainingError):
        parity.check(other, data.test.images, copy)


def test_a_failed_export_leaves_the_old_bundle_alone(
    copy: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model whose outputs are not numbers gets exit code 2 and one line, and the bundle that was there stays."""
    state = checkpoint.load(runs / "fashion")
    state["average"]["encoder.mean.bias"].fill_(float("nan"))
    checkpoint.save(tmp_path / "runs" / "fashion", state)
    before = content(tmp_path / "models")
    assert export("fashion", tmp_path / "runs", tmp_path / "models", "--force") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert content(tmp_path / "models") == before
    assert list(copy.parent.iterdir()) == [copy]


def test_a_bundle_that_is_there_is_replaced_by_force_only(
    copy: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --force it stays and one line names both ways out; with it nothing of the old one is left."""
    (copy / "decoder.gpu.onnx").write_bytes(b"of the old one")
    before = content(tmp_path)
    assert export("fashion", runs, tmp_path / "models") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--version" in error
    assert "--force" in error
    assert content(tmp_path) == before
    assert export("fashion", runs, tmp_path / "models", "--force") == 0
    assert {path.name for path in copy.iterdir()} == FILES
    assert list(copy.parent.iterdir()) == [copy]


def test_what_is_no_bundle_is_never_deleted(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder without a manifest in the bundle's place is left alone, --force or not."""
    folder = tmp_path / NAME / "3"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    for options in ((), ("--force",)):
        assert export("fashion", runs, tmp_path, *options) == 2
        assert "is no bundle" in capsys.readouterr().err
    assert content(tmp_path) == {Path(NAME, "3", "thesis.txt"): b"years of work"}


def test_a_folder_that_cannot_be_made_is_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file where the folder of models should be gives exit code 2 and its name, and the file stays."""
    (tmp_path / "file").write_text("mine")
    assert export("fashion", runs, tmp_path / "file") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path / "file") in error
    assert content(tmp_path) == {Path("file"): b"mine"}


def test_a_plain_autoencoder_is_refused_in_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has no prior to sample from: exit code 2, one line, no bundle."""
    assert export("fashion-autoencoder-2d", runs, tmp_path / "models") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "plain autoencoder" in error
    assert not list(tmp_path.iterdir())


def test_exporting_twice_gives_the_same_graphs(bundle: Path, runs: Path, tmp_path: Path) -> None:
    """Graphs and golden outputs depend on the checkpoint alone."""
    assert export("fashion", runs, tmp_path) == 0
    again = json.loads((tmp_path / NAME / "3" / "manifest.json").read_text())
    first = json.loads((bundle / "manifest.json").read_text())
    for name in (*GRAPHS, "golden.npz"):
        assert again["files"][name] == first["files"][name]
