"""How long hostile input and endurance are tested: seconds in `make test`, far longer in `make test-soak`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.soak.process import server_process
from tests.soak.requests import MAX_ROWS
from tests.soak.scale import SOAK_EXAMPLES
from tests.soak.target import TOKEN, Target
from tests.soak.verdict import Verdict

# --hypothesis-profile soak
settings.register_profile(
    "soak",
    max_examples=SOAK_EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
VERDICT = pytest.StashKey[Verdict]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("soak")
    group.addoption("--soak-json", type=Path, help="write what hostile input came to here")
    group.addoption("--soak-png", type=Path, help="draw endurance here; its samples come beside it as JSON")
    group.addoption(
        "--soak-minutes", type=int, default=30, help="endurance under load, the first minute its warm-up"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[VERDICT] = Verdict()


@pytest.fixture(scope="session")
def verdict(request: pytest.FixtureRequest) -> Verdict:
    """What the run has come to so far."""
    return request.config.stash[VERDICT]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    verdict = config.stash[VERDICT]
    if verdict.cases:
        terminalreporter.section("hostile input")
        terminalreporter.write_line(verdict.table())
    if path := config.getoption("soak_json", None):
        verdict.write(path)


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokens file that knows one token."""
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(f"soak {hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    return path


@pytest.fixture(scope="module")
def target(tokens_file: Path, verdict: Verdict) -> Iterator[Target]:
    """A server process that takes little: 64 rows a call, 1 MiB a message."""
    limits = ("--max-rows", str(MAX_ROWS), "--max-message-mib", "1", "--threads", "1", "--provider", "cpu")
    # With each canary goes what a burst has left in the C library: by default, once a minute.
    limits += ("--canary-seconds", "1")
    with server_process(*limits, "--tokens-file", str(tokens_file)) as server:
        made = Target(server, verdict)
        yield made
        made.close()
