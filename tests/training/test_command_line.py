"""The command line itself: help and options."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.conftest import SLICE
from training.__main__ import main


@pytest.mark.parametrize("command", ["fit", "evaluate", "export", "report"])
def test_help_explains_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--help of each command exits 0 and names the preset, the data folder and the folder of the runs."""
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for part in ("PRESET", "--data", "ARMOIRE_DATA", "--runs"):
        assert part in shown


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fit"],
        ["fit", "fashion", "--epochs", "0"],
        ["fit", "fashion", "--batch-size", "-5"],
        ["fit", "fashion", "--likelihood", "poisson"],
        ["fit", "fashion", "--learning-rate", "-1"],
        ["fit", "fashion", "--learning-rate", "0"],
        ["fit", "fashion", "--learning-rate", "nan"],
        ["fit", "fashion", "--learning-rate", "inf"],
        ["fit", "fashion", "--seed", "-1"],
        ["fit", "celeba", "--crop", "0"],
        ["fit", "celeba", "--crop", "65537"],
        ["fit", "fashion", "--seed", "9223372036854775808"],
        ["fit", "fashion", "--resume", "--restart"],
        ["export", "fashion", "--version", "0"],
        ["export", "fashion", "--version", "one"],
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and a usage line, before anything is read or written."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: python -m training" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_ctrl_c_is_no_traceback(command: str, runs: Path, tmp_path: Path) -> None:
    """Interrupted while it reads its data, a command ends with exit code 130 and without a word."""
    # A data file that is a pipe nobody writes to: the command waits in it, whatever the machine's speed.
    for file in SLICE.glob("*.gz"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    pipe = tmp_path / "t10k-labels-idx1-ubyte.gz"
    pipe.unlink()
    os.mkfifo(pipe)
    where = tmp_path / "runs" if command == "fit" else runs
    arguments = [command, "fashion", "--data", str(tmp_path), "--runs", str(where)]
    program = [sys.executable, "-m", "training", *arguments]
    with (
        subprocess.Popen(program, cwd=SLICE.parent.parent, stderr=subprocess.PIPE, text=True) as process,
        pipe.open("wb"),  # opens once the command has opened its end
    ):
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert error == ""
