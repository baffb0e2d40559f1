"""The README is held to the code: its tables are the definitions, its commands run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format
from PIL import Image

from armoire import config, errors, metrics
from armoire.cli import main
from armoire.metrics import Metrics
from armoire.server import RPCS
from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.tokens import Tokens
from tests.serving import Running

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line.strip()]


def test_every_setting_has_its_row() -> None:
    """The table of settings is what config.py defines: flag, variable, default, meaning, and no others."""
    rows = [line for line in README.splitlines() if line.startswith("| `--")]
    assert rows == [config.row(name) for name in config.SETTINGS]


def test_every_metric_has_its_row_with_its_labels() -> None:
    """The table of metrics names every metric of ours with its labels, and no other."""
    rows = dict(re.findall(r"^\| `(armoire_\w+)` \| ([\w, ]*?) ?\|", README, re.MULTILINE))
    defined = {}
    for collector in Metrics().registry._collector_to_names:
        if hasattr(collector, "_labelnames"):
            name = collector._name + ("_total" if collector._type == "counter" else "")
            defined[name] = ", ".join(collector._labelnames)
    assert rows == defined


def test_every_rpc_and_error_is_told() -> None:
    """The tables of RPCs and errors are complete."""
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", README, re.MULTILINE)) == RPCS
    told = re.findall(r"^\| .* \| ?([A-Z_]*).* \| `(\w+)` \|$", README, re.MULTILINE)
    for code, name in told:
        kind = getattr(errors, name)
        never_sent = issubclass(kind, errors.StartError | errors.DeviceLost)
        assert code == ("" if never_sent else kind.code.name), name
    assert {name for _, name in told} == set(errors.__all__) - {"ArmoireError", "StartError"}


def test_every_refusal_reason_is_told() -> None:
    """The labels of armoire_rejected_total are told, each with what it stands for or by a name that says it."""
    row = next(line for line in README.splitlines() if line.startswith("| `armoire_rejected_total`"))
    told = set(row.rpartition("refused: ")[2].rstrip(" |").split(", "))
    assert told == set(metrics.REASONS)


def test_the_tokens_file_can_be_read(tmp_path: Path) -> None:
    """The file of tokens that the README shows is one, and its lines give the rights that it describes."""
    (text,) = (text for kind, text in BLOCKS if kind == "" and "# who may call" in text)
    (tmp_path / "tokens").write_text(text)
    tokens = Tokens(tmp_path / "tokens", RPCS)
    assert tokens.check("Bearer hello", "Decode").models is None
    gallery = tokens.check("Bearer world", "Sample")
    assert gallery.models == {"fashion-mnist"}
    assert gallery.rate is not None
    assert gallery.rate.rows_per_second == 500
    with pytest.raises(errors.PermissionDenied):
        tokens.check("Bearer armoire", "Decode")


def test_the_python_client_runs_as_it_stands(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """The client of the README runs against a real server and prints what it did."""
    (program,) = (text for kind, text in BLOCKS if kind == "python")
    exec(compile(program.replace("127.0.0.1:50051", server.address), "README.md", "exec"), {})
    assert re.fullmatch(r"64 boots, 8 steps, \d+\.\d of 255 off\n", capsys.readouterr().out)
    assert len(program.splitlines()) <= 14


def test_every_client_command_runs_in_its_order(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The armoire commands run one after the other in an empty folder, and write the pictures shown."""
    monkeypatch.chdir(tmp_path)
    ours = [shlex.split(line)[1:] for line in COMMANDS if line.startswith(".venv/bin/armoire ")]
    assert {words[0] for words in ours} >= {
        "sample",
        "models",
        "interpolate",
        "edit",
        "encode",
        "decode",
        "health",
    }
    for verb, *words in ours:
        words = ["0.3" if verb == "bench" and word == "5" else word for word in words]
        words += ["--warm-up", "0"] if verb == "bench" else []
        # In stages this short a search may find no rate that holds, which is exit status 1.
        allowed = {0, 1} if "--saturate" in words else {0}
        assert main([verb, "--address", server.address, *words]) in allowed, (verb, words)
    for written, shown in (("wall", "samples"), ("strip", "strip"), ("edited", "edited")):
        with (
            Image.open(tmp_path / f"{written}.png") as ours,
            Image.open(ROOT / f".github/{shown}.png") as picture,
        ):
            gap = np.abs(np.asarray(ours, np.int16) - np.asarray(picture))
        assert gap.max() <= 1, f"{shown}.png is not what the command writes"


def test_the_recipes_send_a_request_that_the_server_answers(
    stub: pb_grpc.LatentServiceStub, tmp_path: Path
) -> None:
    """The request that the README makes for ghz and k6 is a DecodeRequest in JSON, answered with an image."""
    (line,) = (line for line in COMMANDS if line.startswith("printf '{"))
    subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True)
    request = json_format.Parse((tmp_path / "request.json").read_text(), pb.DecodeRequest())
    assert list(stub.Decode(request).images.pixels.shape) == [1, 32, 32, 1]
    recipes = [text for kind, text in BLOCKS if kind in ("", "js") and "request.json" in text]
    method = pb.DESCRIPTOR.services_by_name["LatentService"].methods_by_name["Decode"]
    assert len(recipes) == 2
    assert all(f"{method.containing_service.full_name}/{method.name}" in text for text in recipes)


def test_every_make_command_is_a_target() -> None:
    """What the README makes, the Makefile has."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    typed = [*COMMANDS, *re.findall(r"`(make [a-z-]+)`", README)]
    made = {line.split()[1] for line in typed if line.startswith("make ")}
    assert {"serve", "test", "test-gpu"} <= made <= targets


def test_every_training_command_is_understood() -> None:
    """The training command line takes what the README types; its own tests run it."""
    from training.__main__ import _parser

    lines = [line.partition("-m training ")[2] for line in COMMANDS if "-m training " in line]
    verbs = {_parser().parse_args(shlex.split(line.partition("#")[0])).command for line in lines}
    assert verbs == {"fit", "evaluate", "export", "report"}


@pytest.mark.parametrize(
    ("preset", "model"), [("fashion", "fashion-mnist"), ("fashion-2d", "fashion-mnist-2d")]
)
def test_the_figures_are_those_of_the_bundled_models(preset: str, model: str) -> None:
    """A bundled model's row in the table of figures is what its manifest holds."""
    manifest = json.loads((config.BUNDLED_MODELS / model / "1" / "manifest.json").read_text())
    figures = manifest["metrics"]
    digits = {"distortion": 2, "rate": 2, "sum": 2, "mse": 5, "active_units": 0}
    digits |= {"aggregate_gaussian_kl": 3, "aggregate_mmd": 5}
    row = " | ".join(f"{figures[name]:.{places}f}" for name, places in digits.items())
    assert f"| `{preset}` | {row} |" in README.splitlines()


def test_every_path_exists() -> None:
    """Links, pictures and the annotated tree lead somewhere."""
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README):
        target = target[0] or target[1]
        assert target.startswith("https://") or (ROOT / target).exists(), target
    tree = next(text for kind, text in BLOCKS if kind == "" and text.startswith("proto/"))
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        for name in re.findall(r"[\w./]+", re.split(r" {2,}", line.strip())[0]):
            path = ROOT.joinpath(*folders[:depth], name)
            assert path.exists(), path
            if name.endswith("/"):
                folders[depth:] = [name]
