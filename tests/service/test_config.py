"""Every setting by flag and by variable, and one line for each that cannot be."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from armoire import config
from armoire.config import Settings
from armoire.errors import BadSettings

# For each setting: a text that a user may give, and the value that it means.
GIVEN: dict[str, tuple[str, Any]] = {
    "listen": ("0.0.0.0:1234", "0.0.0.0:1234"),
    "metrics_listen": ("[::1]:80", "[::1]:80"),
    "models": ("/srv/models", Path("/srv/models")),
    "default_model": ("fashion-mnist-2d", "fashion-mnist-2d"),
    "provider": ("cpu", "cpu"),
    "close_pixels": ("0.95", 0.95),
    "threads": ("3", 3),
    "latency_goal_ms": ("7.5", 7.5),
    "max_rows": ("17", 17),
    "max_batch": ("128", 128),
    "max_queue_rows": ("9000", 9000),
    "max_in_flight_mib": ("99", 99),
    "max_message_mib": ("5", 5),
    "reload_seconds": ("2.5", 2.5),
    "canary_seconds": ("30", 30.0),
    "stuck_seconds": ("5", 5.0),
    "connection_age": ("60", 60.0),
    "grace": ("1.5", 1.5),
    "tls_cert": ("cert.pem", Path("cert.pem")),
    "tls_key": ("key.pem", Path("key.pem")),
    "tls_client_ca": ("ca.pem", Path("ca.pem")),
    "tokens_file": ("tokens", Path("tokens")),
    "health": ("token", "token"),
    "reflection": ("off", "off"),
    "log_format": ("json", "json"),
}
# What has to come along with a setting.
WITH = {"tls_cert": ["tls_key"], "tls_key": ["tls_cert"], "tls_client_ca": ["tls_cert", "tls_key"]}
WITH["health"] = ["tokens_file"]
BAD = {
    "listen": [
        "",
        "50051",
        "localhost",
        "localhost:",
        ":50051",
        "localhost:65536",
        "localhost:-1",
        "a b:1",
        "::1",
        "unix:",
    ],
    "metrics_listen": ["9464", "localhost:x", "unix:/tmp/metrics", "::1:9464"],
    "provider": ["gpu", "CPU", "tensorrt"],
    "close_pixels": ["-0.1", "1.1", "nan", "99%"],
    "threads": ["-1", "two", "1025", "1.5"],
    "latency_goal_ms": ["-1", "nan", "inf", "60001", "fast"],
    "max_rows": ["0", "-1", "65537", "many", "1.5", "nan"],
    "max_batch": ["0", "4097", "x"],
    "max_queue_rows": ["0", "1048577", "x"],
    "max_in_flight_mib": ["0", "1048577", "x"],
    "max_message_mib": ["0", "1025", "1 MiB"],
    "reload_seconds": ["-1", "86401", "often"],
    "canary_seconds": ["-1", "86401", "never"],
    "stuck_seconds": ["0", "0.05", "86401", "x"],
    "connection_age": ["-1", "86401", "old"],
    "grace": ["-1", "3601", "nan", "inf", "soon"],
    "health": ["off", "closed"],
    "reflection": ["on", "none"],
    "log_format": ["xml", "JSON"],
}
KUBERNETES = {
    "ARMOIRE_SERVICE_HOST": "10.0.0.1",
    "ARMOIRE_SERVICE_PORT": "50051",
    "ARMOIRE_SERVICE_PORT_GRPC": "50051",
    "ARMOIRE_PORT": "tcp://10.0.0.1:50051",
    "ARMOIRE_PORT_50051_TCP": "tcp://10.0.0.1:50051",
    "ARMOIRE_PORT_50051_TCP_ADDR": "10.0.0.1",
    "ARMOIRE_PORT_50051_TCP_PORT": "50051",
    "ARMOIRE_PORT_50051_TCP_PROTO": "tcp",
}
# The same for a Service called armoire-metrics.
OTHER = {name.replace("ARMOIRE_", "ARMOIRE_METRICS_"): value for name, value in KUBERNETES.items()}


def parse(*arguments: str) -> dict[str, Any]:
    """What the command line makes of flags."""
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    return vars(parser.parse_args(arguments))


def refusal(flags: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    with pytest.raises(BadSettings) as caught:
        config.load(flags, environ)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_every_setting_has_a_row_in_these_tests() -> None:
    """A new setting comes with a value that it takes, and one that it refuses unless any text will do."""
    assert set(GIVEN) == set(config.SETTINGS)
    free = {"models", "default_model", "tls_cert", "tls_key", "tls_client_ca", "tokens_file"}
    assert set(BAD) == set(GIVEN) - free


def test_without_anything_the_defaults_hold_and_only_this_machine_is_listened_to() -> None:
    """The defaults are valid, serve the bundled models, and open the loopback only."""
    settings = config.load({}, {})
    assert settings == Settings()
    assert (settings.listen, settings.metrics_listen) == ("127.0.0.1:50051", "127.0.0.1:9464")
    assert (settings.max_rows, settings.models) == (1024, config.BUNDLED_MODELS)


@pytest.mark.parametrize("name", GIVEN)
def test_a_flag_sets_a_setting(name: str) -> None:
    """--max-rows 17 is max_rows = 17, and so for each setting."""
    text, value = GIVEN[name]
    companions = [part for other in WITH.get(name, []) for part in (config.flag(other), GIVEN[other][0])]
    flags = parse(config.flag(name), text, *companions)
    assert flags[name] == text
    assert getattr(config.load(flags, {}), name) == value


@pytest.mark.parametrize("name", GIVEN)
def test_a_variable_sets_a_setting(name: str) -> None:
    """ARMOIRE_MAX_ROWS=17 is max_rows = 17, and so for each setting."""
    environ = {config.variable(each): GIVEN[each][0] for each in (name, *WITH.get(name, []))}
    settings = config.load({}, environ)
    assert getattr(settings, name) == GIVEN[name][1]
    untouched = set(config.SETTINGS) - {name, *WITH.get(name, [])}
    assert all(getattr(settings, each) == getattr(Settings(), each) for each in untouched)


def test_the_process_environment_is_read_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """load(flags) reads the variables of this process."""
    monkeypatch.setenv("ARMOIRE_MAX_ROWS", "23")
    assert config.load({}).max_rows == 23
    assert config.load({}, {}).max_rows == 1024


def test_a_flag_wins_over_a_variable() -> None:
    """Where both are given the flag counts, and a bad variable under it does no harm."""
    assert config.load(parse("--max-rows", "5"), {"ARMOIRE_MAX_ROWS": "6"}).max_rows == 5
    assert config.load(parse("--max-rows", "5"), {"ARMOIRE_MAX_ROWS": "six"}).max_rows == 5


def test_an_empty_variable_is_an_unset_one() -> None:
    """ARMOIRE_X= leaves the default, as compose files and charts write it."""
    assert config.load({}, {config.variable(name): "" for name in config.SETTINGS}) == Settings()


def test_flags_that_are_not_given_are_not_there() -> None:
    """Without arguments the flags set nothing, so that a variable can."""
    assert parse() == {}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_a_bad_flag_is_named_with_its_value(name: str, text: str) -> None:
    """The line names the flag and what came, and the variable is not mentioned."""
    flags = parse(f"{config.flag(name)}={text}")
    line = refusal(flags, {})
    assert line.startswith(f"{config.flag(name)} is {text!r}: ")
    assert "ARMOIRE_" not in line


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts if text]
)
def test_a_bad_variable_is_named_with_its_value(name: str, text: str) -> None:
    """The line names the variable and what came, and the flag is not mentioned."""
    line = refusal({}, {config.variable(name): text})
    assert line.startswith(f"{config.variable(name)} is {text!r}: ")
    assert "--" not in line


def test_all_bad_settings_are_named_at_once() -> None:
    """Two faults are told in one line, each by where it came from."""
    line = refusal(parse("--threads", "-1"), {"ARMOIRE_GRACE": "soon"})
    assert "--threads is '-1'" in line
    assert "ARMOIRE_GRACE is 'soon'" in line


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"ARMOIRE_MAX_ROWS": "5000"}, ["max_queue_rows (4096)", "max_rows (5000)"]),
        ({"ARMOIRE_TLS_CERT": "c"}, ["tls_cert and tls_key go together"]),
        ({"ARMOIRE_TLS_KEY": "k"}, ["tls_cert and tls_key go together"]),
        ({"ARMOIRE_TLS_CLIENT_CA": "a"}, ["tls_client_ca needs tls_cert and tls_key"]),
        ({"ARMOIRE_HEALTH": "token"}, ["health is token, and there is no tokens_file"]),
    ],
)
def test_settings_that_cannot_go_together_are_named(environ: dict[str, str], words: list[str]) -> None:
    """A fault between settings names them all."""
    line = refusal({}, environ)
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    ("came", "nearest"),
    [
        ("ARMOIRE_MAXROWS", "ARMOIRE_MAX_ROWS"),
        ("ARMOIRE_LISTENS", "ARMOIRE_LISTEN"),
        ("ARMOIRE_METRIC_LISTEN", "ARMOIRE_METRICS_LISTEN"),
        ("ARMOIRE_MODEL", "ARMOIRE_MODELS"),
        ("ARMOIRE_TOKEN_FILE", "ARMOIRE_TOKENS_FILE"),
        ("ARMOIRE_max_rows", "ARMOIRE_"),
        ("ARMOIRE_", "ARMOIRE_"),
        ("ARMOIRE_DATABASE", "ARMOIRE_"),
        ("ARMOIRE_PORTS", "ARMOIRE_"),
        ("ARMOIRE_METRICS_PORT", "ARMOIRE_METRICS_LISTEN"),
        ("ARMOIRE_LISTEN_PORT", "ARMOIRE_LISTEN"),
        ("ARMOIRE_METRICS_SERVICE_PORT", "ARMOIRE_METRICS_LISTEN"),
    ],
)
def test_an_unknown_variable_is_an_error_that_names_the_nearest(came: str, nearest: str) -> None:
    """A misspelt variable stops the start and tells the setting that was probably meant."""
    line = refusal({}, {came: "1"})
    assert line.startswith(f"the environment has {came}, which is no setting; the nearest is {nearest}")
    assert line.rpartition(" ")[2] in {config.variable(name) for name in config.SETTINGS}


@pytest.mark.parametrize(
    "name",
    [
        *KUBERNETES,
        "ARMOIRE_SERVICE_MODELS",
        "ARMOIRE_DATA",
        "ARMOIRE_CELEBA",
        "ARMOIRE_CACHE",
        "ARMOIRE_INCEPTION",
        "ARMOIRE_REVISION",
        "PATH",
        "armoire_max_rows",
        "OTHER",
    ],
)
def test_variables_of_others_pass(name: str) -> None:
    """What Kubernetes injects for a Service called armoire, training's own and everybody else's are left alone."""
    assert config.load({}, {name: KUBERNETES.get(name, "x")}) == Settings()


def test_variables_of_a_service_called_armoire_something_pass() -> None:
    """What Kubernetes injects for another Service of our prefix is left alone, all of it together."""
    assert config.load({}, KUBERNETES | OTHER) == Settings()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ARMOIRE_METRICS_PORT", "9000"),
        ("ARMOIRE_METRICS_PORT", "0.0.0.0:9000"),
        ("ARMOIRE_METRICS_SERVICE_HOST", "my host"),
        ("ARMOIRE_METRICS_SERVICE_PORT_GRPC", "many"),
        ("ARMOIRE_LISTEN_SERVICE_PORT", "50051"),
    ],
)
def test_a_value_that_kubernetes_would_not_give_is_a_mistake(name: str, text: str) -> None:
    """Beside such a Service too a variable of another value, or of no Service's, stops the start."""
    assert f"has {name}" in refusal({}, OTHER | {name: text})


def test_unix_sockets_can_be_listened_to() -> None:
    """The gRPC port may be a socket file."""
    assert config.load({"listen": "unix:/run/armoire.sock"}, {}).listen == "unix:/run/armoire.sock"


def test_the_help_describes_every_setting() -> None:
    """--help shows for each setting its flag, what it is, its variable and its default."""
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    text = "".join(parser.format_help().split())  # argparse breaks lines where it likes
    for name, field in config.SETTINGS.items():
        assert config.flag(name) in text
        assert f"[{config.variable(name)};default:" in text
        assert "".join(field.description.split()) in text
    for name in ("provider", "log_format"):
        assert "{" + ",".join(config.SETTINGS[name].choices) + "}" in text


def test_settings_cannot_be_changed_afterwards() -> None:
    """What the server started with is what it runs with."""
    with pytest.raises(AttributeError, match="immutable"):
        config.load({}, {}).max_rows = 3
