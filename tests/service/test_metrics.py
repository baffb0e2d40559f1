"""The metrics that alerts stand on."""

from __future__ import annotations

import onnxruntime as ort
import pytest

from armoire import errors
from armoire.engine.providers import CPU, CUDA
from armoire.metrics import Metrics
from tests.serving import Running, serving

OUTCOMES = {
    "armoire_canaries_total": {"passed", "failed"},
    "armoire_model_changes_total": {"loaded", "removed", "refused"},
}


def value_of(running: Running, name: str) -> float | None:
    return running.server._metrics.registry.get_sample_value(name)


def test_what_has_not_happened_is_counted_as_zero() -> None:
    """Refusals, canaries and changes of models have their series before the first of them, so that it is a rise."""
    value = Metrics().registry.get_sample_value
    for name in errors.__all__:
        if reason := getattr(errors, name).reason:
            assert value("armoire_rejected_total", {"reason": reason}) == 0, reason
    for metric, outcomes in OUTCOMES.items():
        for outcome in outcomes:
            assert value(metric, {"outcome": outcome}) == 0, (metric, outcome)


def test_the_bound_of_the_queue_is_told() -> None:
    """What max_queue_rows and threads say is beside the pending rows; a CPU that nobody fell back to is no fallback."""
    with serving(max_queue_rows=2000, threads=3) as running:
        assert value_of(running, "armoire_max_queue_rows") == 2000
        assert value_of(running, "armoire_lanes") == 3
        assert value_of(running, "armoire_provider_fallback") == 0


@pytest.mark.parametrize(("available", "fallback"), [((CUDA, CPU), 1), ((CPU,), 0)])
def test_a_gpu_that_does_not_work_is_a_fallback(
    monkeypatch: pytest.MonkeyPatch, available: tuple[str, ...], fallback: int
) -> None:
    """Provider auto that takes the CPU is a fallback where ONNX Runtime has CUDA, and none where it has not."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(available))
    with serving(provider="auto") as running:
        assert value_of(running, "armoire_provider_fallback") == fallback
