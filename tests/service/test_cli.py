"""The command line, as a person types it."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from armoire.cli import main
from armoire.client import Client
from armoire.ops import bundle
from tests.serving import FASHION, Running, serving

CALLING = ("health", "models", "sample", "encode", "decode", "interpolate", "edit", "bench")


@pytest.fixture
def type_in(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a command line in an empty folder against the test's server; gives the exit status."""
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> int:
        words = shlex.split(line)
        assert words[0] == "armoire"
        return main([words[1], "--address", server.address, *words[2:]])

    return run


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def pixels_of(file: str) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture)


def help_of(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", CALLING)
def test_the_example_of_each_help_runs(verb: str, type_in, capsys: pytest.CaptureFixture[str]) -> None:
    """The example lines that --help shows run as they stand and use the verb."""
    shown = help_of(verb, capsys).partition("example:\n")[2]
    lines = [
        line.strip().replace("--seconds 5", "--seconds 0.2 --warm-up 0")
        for line in shown.splitlines()
        if line.strip()
    ]
    assert lines[-1].startswith(f"armoire {verb}")
    for line in lines:
        status, told = type_in(line), capsys.readouterr().err
        # Whether a search of fractions of a second finds a rate is up to the machine.
        assert status == 0 or "no rate that was tried keeps a p99" in told, told


def test_sample_writes_a_wall_that_a_seed_repeats(
    type_in, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """64 samples are an 8 x 8 wall of the images that the client gets for that seed."""
    assert type_in("armoire sample --count 64 --seed 7 --out wall.png --files single --latents z.npy") == 0
    assert capsys.readouterr().out == "wall.png: 64 images, seed 7\n"
    wall = pixels_of("wall.png")
    assert wall.shape == (8 * 66 + 2, 8 * 66 + 2)
    drawn = client.sample(64, seed=7)
    for index in (0, 9, 63):
        y, x = 2 + index // 8 * 66, 2 + index % 8 * 66
        np.testing.assert_array_equal(wall[y : y + 64 : 2, x : x + 64 : 2], drawn.images[index, ..., 0])
        np.testing.assert_array_equal(pixels_of(f"single/{index}.png"), drawn.images[index, ..., 0])
    np.testing.assert_array_equal(np.load("z.npy"), drawn.latents)
    assert not list(Path().glob(".*"))


def test_encode_then_decode_gives_the_reconstruction(type_in, client: Client) -> None:
    """The .npz of encode is what decode takes, and holds the posterior."""
    type_in("armoire sample --count 2 --seed 3 --files in --out in.png")
    assert type_in("armoire encode in/0.png in/1.png --out posterior.npz") == 0
    assert type_in("armoire decode posterior.npz --out again.png --files again") == 0
    posterior = client.encode(client.sample(2, seed=3).images)
    with np.load("posterior.npz") as stored:
        np.testing.assert_array_equal(stored["means"], posterior.means)
        np.testing.assert_array_equal(stored["log_variances"], posterior.log_variances)
    wanted = client.decode(posterior.means)
    np.testing.assert_array_equal(pixels_of("again/1.png"), wanted[1, ..., 0])


def test_interpolate_shows_both_ends(type_in, client: Client) -> None:
    """The strip begins and ends with the reconstructions of the two files."""
    type_in("armoire sample --count 2 --seed 3 --files in --out in.png")
    assert (
        type_in("armoire interpolate in/0.png in/1.png --steps 5 --path spherical --files walk --out s.png")
        == 0
    )
    ends = client.decode(client.encode(client.sample(2, seed=3).images).means)
    for file, wanted in (("walk/0.png", ends[0]), ("walk/4.png", ends[1])):
        gap = np.abs(pixels_of(file).astype(np.int16) - wanted[..., 0])
        assert gap.max() <= 1
    assert pixels_of("s.png").shape == (68, 5 * 66 + 2)


def test_edit_leaves_alone_what_it_is_told_to(type_in, client: Client) -> None:
    """--orthogonal-to, said twice, reaches the service: the latents are those that a client gets."""
    type_in("armoire sample --count 1 --seed 3 --files in --out in.png")
    command = "armoire edit in/0.png --add bag=2 --orthogonal-to shirt --orthogonal-to coat --latents z.npy --out e.png"
    assert type_in(command) == 0
    means = client.encode(client.sample(1, seed=3).images).means
    wanted = client.add_attribute(means, "bag", 2.0, orthogonal_to=["shirt", "coat"]).latents
    np.testing.assert_allclose(np.load("z.npy").reshape(1, 16), wanted, rtol=1e-4, atol=1e-5)
    assert not np.allclose(wanted, client.add_attribute(means, "bag", 2.0).latents, atol=0.01)


def test_edit_walks_from_nothing_to_all_of_it(type_in, client: Client) -> None:
    """With --steps, each row of the picture goes from the image itself to the whole edit."""
    type_in("armoire sample --count 2 --seed 3 --files in --out in.png")
    command = "armoire edit in/0.png in/1.png --add bag=0.5 --add coat --steps 3 --latents z.npy --out e.png"
    assert type_in(command) == 0
    means = client.encode(client.sample(2, seed=3).images).means
    directions = bundle.read(FASHION).directions
    step = 0.5 * directions["bag"] + directions["coat"]
    z = np.load("z.npy").reshape(2, 3, 16)
    for share, column in ((0, 0), (0.5, 1), (1, 2)):
        np.testing.assert_allclose(z[:, column], means + share * step, rtol=1e-4, atol=1e-5)
    assert type_in("armoire edit in/0.png --add bag=0.5 --out one.png") == 0
    assert pixels_of("one.png").shape == (68, 68)


def test_models_and_health_print_what_there_is(type_in, capsys: pytest.CaptureFixture[str]) -> None:
    """Models shows name, provider, attributes, priors and limits; health says SERVING."""
    assert type_in("armoire models") == 0
    shown = capsys.readouterr().out
    for text in (
        "fashion-mnist version 1: 32x32x1, 16 dimensions",
        "CPUExecutionProvider",
        "ankle_boot",
        "max_rows",
    ):
        assert text in shown
    assert type_in("armoire health") == 0
    assert capsys.readouterr().out == "SERVING\n"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("armoire sample --count 0", "count: 0 came"),
        ("armoire sample --prior gaussian", "there is normal, fitted"),
        ("armoire sample --model faces", "model 'faces' is unknown"),
        ("armoire sample --out nowhere/wall.png", "No such file or directory"),
        ("armoire encode missing.png", "missing.png"),
        ("armoire decode missing.npy", "missing.npy"),
        ("armoire bench --model faces", "model 'faces' is unknown"),
        ("armoire sample --tls-ca missing.pem", "missing.pem"),
        ("armoire models --token-file missing", "missing"),
        ("armoire models --tls-cert missing.pem", "missing.pem"),
        ("armoire sample --count 1 --seed -1", "seed: -1 came"),
        ("armoire models --token-file latin1", "latin1 holds no token"),
        ("armoire models --token-file lines", "lines holds no token"),
        ("armoire models --token-file empty", "empty holds no token"),
        ("armoire models --tls-ca lines", "lines holds no PEM certificate"),
        ("armoire health --tls-ca latin1", "latin1 holds no PEM certificate"),
        ("armoire models --tls-ca empty", "empty holds no PEM certificate"),
        ("armoire models --tls-cert lines", "go together"),
        ("armoire models --tls-key lines", "go together"),
    ],
)
def test_a_users_mistake_is_one_line(
    type_in, line: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake ends with status 1 and one line that says what came and what is wanted, and shows no secret."""
    Path("latin1").write_bytes("secr\xe9t".encode("latin-1"))
    Path("lines").write_text("secret-one\nsecret-two\n")
    Path("empty").write_text("\n")
    assert type_in(line) == 1
    shown = capsys.readouterr().err
    assert text in shown
    assert shown.count("\n") == 1


def header(shape: str) -> bytes:
    """An .npy file that ends where its numbers should begin."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def damaged_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, means=np.random.default_rng(0).standard_normal((9, 16)))
    return buffer.getvalue()[:200] + bytes(20) + buffer.getvalue()[220:]


@pytest.mark.parametrize(
    "content",
    [
        b"not an array",
        b"",
        header("(10000000000000, 16)"),
        header(f"({10**30}, 16)"),
        npy(np.ones((2, 16), np.complex64)),
        npy(np.full((2, 16), "a")),
        npy(np.zeros((2, 16), bool)),
        damaged_npz(),
    ],
    ids=["text", "empty", "huge", "larger", "complex", "letters", "truths", "damaged"],
)
def test_points_that_are_none_are_one_line(
    type_in, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Decode tells what it wants when the file is not an array of points, and drops no part of a number."""
    Path("z.npy").write_bytes(content)
    assert type_in("armoire decode z.npy") == 1
    shown = capsys.readouterr().err
    assert "z.npy is no .npy of points" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        "armoire edit a.png --add bag=much",
        "armoire edit a.png --add bag --add bag=2",
        "armoire edit a.png --add bag --steps 0",
        "armoire edit a.png --add bag --steps -5",
        "armoire edit a.png --add \udcff",
        "armoire sample --model \udcff",
        "armoire sample --model-version \udcff",
        "armoire sample --prior \udcff",
        "armoire models --address \udcff",
        "armoire models --timeout nan",
        "armoire models --timeout -1",
        "armoire health --timeout inf",
        "armoire bench --rows 0",
        "armoire bench --callers many",
        "armoire bench --seconds 0",
    ],
)
def test_a_wrong_command_is_shown_its_usage(type_in, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that cannot be is argparse's usage error, status 2."""
    with pytest.raises(SystemExit) as left:
        type_in(line)
    assert left.value.code == 2
    assert "usage: armoire" in capsys.readouterr().err


def test_no_server_is_told_with_the_command_that_starts_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Every calling verb says in one line that nobody answers there."""
    for line in ("health", "models", "sample --count 1", "bench --seconds 0.1"):
        assert main([*line.split(), "--address", "127.0.0.1:1", "--timeout", "3"]) == 1
        assert "armoire serve" in capsys.readouterr().err


def test_without_the_server_packages_serve_names_the_extra() -> None:
    """In a caller's installation `armoire serve` says which extra to install, and --help still works."""
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('msgspec', 'onnxruntime', 'grpc_health', 'prometheus_client')))\n"
        "from armoire.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    for arguments, status, text in (
        (["serve"], 2, "install armoire[cpu]"),
        (["serve", "--threads", "1"], 2, "install armoire[cpu]"),
        (["serve", "--help"], 0, ""),
        (["sample", "--help"], 0, ""),
    ):
        ran = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
        )
        assert ran.returncode == status
        assert text in ran.stderr
        assert "Traceback" not in ran.stderr


def test_serve_help_shows_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """Serve --help names each flag and its environment variable."""
    from armoire import config

    shown = help_of("serve", capsys)
    for name in config.SETTINGS:
        assert config.flag(name) in shown
        assert config.variable(name) in shown.replace("\n", "")


def test_health_says_not_serving(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that is there and does not serve is NOT_SERVING, status 1, and not taken for absent."""
    with serving() as running:
        running.server._health.set(False)
        assert main(["health", "--address", running.address]) == 1
    assert capsys.readouterr().out == "NOT_SERVING\n"


def test_a_reader_that_has_seen_enough_is_no_error(server: Running) -> None:
    """When the pipe's reader goes away, armoire ends without a word."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "armoire.cli", "models", "--address", server.address]
    ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert ran.stderr == b""
