"""The command line itself: help and options."""

import pytest

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
