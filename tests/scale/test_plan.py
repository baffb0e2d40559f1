"""deploy/SCALING.md is held to its own figures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from armoire.config import BUNDLED_MODELS, SETTINGS
from tests.scale import plan

PAGE = plan.PAGE.read_text()
ROOT = plan.PAGE.parents[1]
DECODER = BUNDLED_MODELS / "fashion-mnist" / "1" / "decoder.onnx"
PRICES = {"--gpu-hour": "4", "--core-hour": "0.1", "--gigabyte": "0"}


def test_what_is_derived_follows_from_what_is_measured() -> None:
    """The derived table is what the sums make of the measured figures: neither can drift."""
    assert plan.renewed(PAGE) == PAGE


def test_the_page_names_the_model_that_was_measured() -> None:
    """It says at which commit its inputs were measured; the decoder was as large then as it says and as it is today."""
    found = re.search(r"at commit `(\w{7})`.*?decoder has ([\d.]+) MB", PAGE, re.DOTALL)
    assert found
    commit, size = found.groups()
    assert size == f"{DECODER.stat().st_size / 1e6:.2f}"
    command = ["git", "cat-file", "-s", f"{commit}:{DECODER.relative_to(ROOT)}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the history is not here: {done.stderr}")
    assert size == f"{int(done.stdout) / 1e6:.2f}"


def ask(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.scale.plan", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_costs_are_told_for_the_prices_that_are_given() -> None:
    """With all prices the costs are printed, and the page's example is what its own prices make."""
    done = ask(*(word for pair in PRICES.items() for word in pair))
    assert done.returncode == 0, done.stderr
    three = 1e6 / 446_560 / 0.6 / 3600
    gpu, cpu = 1e6 / 164_800 / 0.6 / 3600, 1e6 / 14_944 / 0.6 / 3600
    assert f"| GPU pods, one process a GPU | {gpu * 4.4:.4f} |" in done.stdout
    assert f"| GPUs with three processes | {three * 4.9:.4f} |" in done.stdout
    assert f"| CPU pods | {cpu * 0.4:.4f} |" in done.stdout
    assert plan.costs(plan.measured(PAGE), plan.EXAMPLE) in PAGE


@pytest.mark.parametrize("missing", PRICES)
def test_a_price_that_is_missing_is_named(missing: str) -> None:
    """With some prices but one the command says which, by its flag, and gives no cost."""
    done = ask(*(word for pair in PRICES.items() if pair[0] != missing for word in pair))
    assert (done.returncode, done.stdout) == (2, "")
    assert f" {missing} must be told" in done.stderr


def test_a_question_leaves_the_page_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for, only --write changes the page."""
    page = tmp_path / "SCALING.md"
    page.write_text(PAGE.replace("| 14,944 |", "| 7,472 |"))
    stale = page.read_text()
    monkeypatch.setattr(plan, "PAGE", page)
    for flags in ((), tuple(word for pair in PRICES.items() for word in pair)):
        monkeypatch.setattr(sys, "argv", ["plan", *flags])
        plan.main()
        assert page.read_text() == stale
    monkeypatch.setattr(sys, "argv", ["plan", "--write"])
    plan.main()
    assert page.read_text() == plan.renewed(stale) != stale


def test_the_sums_read_every_measured_figure() -> None:
    """Each figure that the sums use stands in the page once, and a changed one changes the table."""
    found = plan.measured(PAGE)
    names = re.findall(r"^\| `([a-z0-9.]+)` \|", PAGE, re.MULTILINE)
    assert len(names) == len(set(names)) == len(found)
    for name in found:
        assert (plan.derived({**found, name: found[name] * 4}) != plan.derived(found)) == (name in USED), name


def test_the_engine_feeds_the_sums() -> None:
    """What the sums use of the engine is the table's column of 128 rows."""
    for model in plan.MODELS:
        row = re.search(rf"^\| {model} fp32 \|.*", PAGE, re.MULTILINE)
        assert row
        column = row[0].split("|")[4].strip().replace(",", "")
        assert plan.measured(PAGE)[f"{model}.cuda.engine.128"] == float(column)


def test_the_assumptions_are_the_servers() -> None:
    """The age of connections in the sums is the setting's default."""
    assert SETTINGS["connection_age"].default == plan.AGE_SECONDS


USED = {f"{model}.{provider}.grpc" for model in plan.MODELS for provider in ("cpu", "cuda")}
USED |= {f"{model}.cuda.{what}" for model in plan.MODELS for what in ("engine.128", "shared")}
USED |= {"envoy.ms.1kib", "envoy.ms.256kib", "replica.series"}
