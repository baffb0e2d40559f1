"""Figures to compare with: principal components, and Fréchet distances in a classifier's features."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.conftest import SLICE
from training.__main__ import main
from training.data import Data, Source, Split
from training.errors import TrainingError
from training.measures import classifier, references
from training.measures.inception import Inception


@given(seed=st.integers(0, 1000), shift=st.floats(-2, 2))
@settings(max_examples=20, deadline=None)
def test_the_distance_of_two_gaussians_is_known(seed: int, shift: float) -> None:
    """With covariances that share their axes it is the squared distance of means and of standard deviations."""
    generator = torch.Generator().manual_seed(seed)
    one = torch.randn(5000, 3, generator=generator, dtype=torch.float64)
    one = (one - one.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(one.T))).T
    first, second = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([0.3, 2.0, 1.5]).double()
    expected = 3 * shift**2 + float((first - second).square().sum())
    found = classifier.frechet_distance(one * first, one * second + shift)
    assert found == pytest.approx(expected, abs=1e-6)
    assert classifier.frechet_distance(one, one) == pytest.approx(0, abs=1e-6)


def test_principal_components_are_those_of_the_training_images(data: Data) -> None:
    """The error falls with every component, and is that of NumPy's singular vectors up to the solver's randomness."""
    errors = [references.principal_components(data, count, seed=1) for count in (1, 4, 16)]
    assert errors == sorted(errors, reverse=True)
    train, test = (part.images.flatten(1).numpy() / 255.0 for part in (data.train, data.test))
    _, _, axes = np.linalg.svd(train - train.mean(0), full_matrices=False)
    rest = (test - train.mean(0)) - (test - train.mean(0)) @ axes[:16].T @ axes[:16]
    assert errors[2] == pytest.approx(np.square(rest).mean(), rel=0.01)
    assert references.principal_components(data, 1501, seed=1) is None


def test_the_classifier_learns_and_is_kept(data: Data, tmp_path: Path) -> None:
    """It tells most classes of the slice, is the same from its file, and a damaged file is one line."""
    made = classifier.of(data, tmp_path)
    assert made.accuracy(data.source, data.test) > 0.6
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    again = classifier.of(data, tmp_path)
    assert path.stat().st_mtime_ns == written
    assert torch.equal(again.features(data.test.images[:9]), made.features(data.test.images[:9]))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="is damaged"):
        classifier.of(data, tmp_path)


def test_images_without_labels_have_no_classifier(tmp_path: Path) -> None:
    """No labels, no features: it is told, and the distances are left out."""
    source = Source("s", "s", "MIT", (), exclusive=False, held_out="test", preprocessing={})
    split = Split(torch.zeros(4, 8, 8, 1, dtype=torch.uint8), torch.zeros(4, 0, dtype=torch.bool))
    with pytest.raises(TrainingError, match="no labels"):
        classifier.of(Data(source, split, split), tmp_path)


def test_evaluate_tells_how_far_samples_are(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON has the distances of reconstructions and of both priors' samples, and the floor is the least of them."""
    assert main(["evaluate", "fashion", "--data", str(SLICE), "--runs", str(runs)]) == 0
    found = json.loads((runs / "fashion" / "metrics.json").read_text())
    distances = found["frechet"]
    assert distances.keys() >= {"reconstructions", "normal", "fitted", "floor"}
    assert (
        0
        < distances["floor"]
        == min(distances[name] for name in ("reconstructions", "normal", "fitted", "floor"))
    )
    assert 0 < found["pca_mse"] < 0.1
    assert "FD normal" in capsys.readouterr().out


def test_fid_without_its_package_or_weights_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asking for FID where it cannot be had says what is missing, before anything is measured."""
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"no weights")
    asked = [
        "evaluate",
        "fashion",
        "--data",
        str(SLICE),
        "--runs",
        str(tmp_path),
        "--inception",
        str(weights),
    ]
    assert main(asked) == 2
    told = capsys.readouterr().err
    wanted = (
        "holds no weights of torch-fidelity's Inception"
        if has_torch_fidelity()
        else "pip install torch-fidelity"
    )
    assert told.startswith("error: ")
    assert wanted in told
    assert told.count("\n") == 1


def test_fid_is_the_distance_in_inceptions_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grey images and colours alike have 2,048 features, and the file of weights is what makes them."""
    if not has_torch_fidelity():
        pytest.skip("torch-fidelity cannot be imported here: pip install torch-fidelity, and its torchvision")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with monkeypatch.context() as patch:  # the package makes no network without weights
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.save({}, tmp_path / "none.pth")
        torch.manual_seed(1)
        network = FeatureExtractorInceptionV3(
            "i", ["2048"], feature_extractor_weights_path=str(tmp_path / "none.pth")
        )
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    grey = torch.randint(0, 255, (3, 8, 8, 1), dtype=torch.uint8)
    one = Inception(tmp_path / "weights.pth")
    assert one.features(grey).shape == (3, 2048)
    assert torch.equal(one.features(grey), one.features(grey.expand(-1, -1, -1, 3)))
    (wanted,) = network(grey.permute(0, 3, 1, 2).expand(-1, 3, -1, -1))
    assert wanted.std(0).any()
    assert torch.equal(one.features(grey), wanted.double())


def has_torch_fidelity() -> bool:
    try:
        import torch_fidelity  # noqa: F401
    except Exception:
        return False
    return True
