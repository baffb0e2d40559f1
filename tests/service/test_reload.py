"""Models come and go while they are served: nobody is failed, nobody gets half of each, and nothing bad is taken."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import shutil
import signal
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from armoire.client import Client
from armoire.errors import NotFound
from armoire.loading import Loader
from armoire.ops.autoencoder import Autoencoder
from armoire.ops.bundle import Bundle
from armoire.reloading import Reloader
from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.tensors import to_tensor
from tests import bundles
from tests.service.test_bad_bundles import graph, poison
from tests.service.test_server import process, ready, scrape, value
from tests.serving import Running, serving

LATENTS = np.random.default_rng(1).standard_normal((8, 16)).astype(np.float32)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    bundles.copy(folder, "1")
    return folder


@pytest.fixture
def running(models: Path) -> Iterator[Running]:
    """A server that looks at its models when it is told to."""
    with serving(models=str(models), reload_seconds="0") as running:
        yield running


def until(true: Callable[[], bool], what: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        threading.Event().wait(0.01)


def look(running: Running) -> None:
    """Have the server look at its models, and wait until it has."""
    running.run(running.server._look_at_models(True))


def served(client: Client) -> list[str]:
    return [f"{model.name}/{model.version}" for model in client.models()]


def decode(running: Running, version: str = "") -> tuple[np.ndarray, str]:
    """Decode LATENTS: the pixels, and which model the metadata says it was."""
    with grpc.insecure_channel(running.address) as channel:
        stub = pb_grpc.LatentServiceStub(channel)
        reply, call = stub.Decode.with_call(
            pb.DecodeRequest(version=version, latents=to_tensor(LATENTS)), timeout=30
        )
    pixels = np.frombuffer(reply.images.pixels.data, np.uint8).reshape(8, 32, 32, 1)
    return pixels, dict(call.trailing_metadata())["armoire-model"]


def test_a_new_version_is_taken_and_the_old_one_comes_back_when_it_is_removed(
    running: Running, models: Path
) -> None:
    """The newest version answers who names none, says so in the metadata, and removing it is the way back."""
    before, which = decode(running)
    assert which == "fashion-mnist/1"
    bundles.negative(models, "2")
    look(running)
    after, which = decode(running)
    assert which == "fashion-mnist/2"
    assert np.abs(255 - after.astype(int) - before).max() <= 1
    old, which = decode(running, "1")
    assert which == "fashion-mnist/1"
    np.testing.assert_array_equal(old, before)
    shutil.rmtree(models / "fashion-mnist" / "2")
    look(running)
    again, which = decode(running)
    assert which == "fashion-mnist/1"
    np.testing.assert_array_equal(again, before)
    with Client(running.address, version="2") as client, pytest.raises(NotFound, match="version '2'"):
        client.decode(LATENTS)
    text = scrape(running)
    assert value(text, 'armoire_model_changes_total{outcome="loaded"}') == 1
    assert value(text, 'armoire_model_changes_total{outcome="removed"}') == 1
    assert 'version="2"' not in text


def test_several_models_and_a_version_exported_anew(running: Running, models: Path) -> None:
    """A further name is served beside the first; a bundle that changes in its place is loaded again."""
    bundles.copy(models, "1", "hats")
    look(running)
    with Client(running.address) as client:
        assert served(client) == ["fashion-mnist/1", "hats/1"]
        with Client(running.address, model="hats") as hats:
            before = hats.decode(LATENTS)
        shutil.rmtree(models / "hats" / "1")
        bundles.negative(models, "1", "hats")
        look(running)
        with Client(running.address, model="hats") as hats:
            after = hats.decode(LATENTS)
    assert np.abs(255 - after.astype(int) - before).max() <= 1
    text = scrape(running)
    assert value(text, 'armoire_model_changes_total{outcome="loaded"}') == 2
    assert value(text, 'armoire_model_changes_total{outcome="removed"}') == 0
    assert text.count('armoire_model_info{model="hats"') == 1


def a_wrong_hash(folder: Path) -> None:
    content = bytearray((folder / "decoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "decoder.onnx").write_bytes(content)


def half_copied(folder: Path) -> None:
    (folder / "encoder.onnx").unlink()


def without_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def a_wrong_shape(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"latent_size": 17}))


def other_answers(folder: Path) -> None:
    """Golden outputs that are not these graphs'."""
    with np.load(folder / "golden.npz") as archive:
        golden = dict(archive)
    golden["decoded_pixels"] = 255 - golden["decoded_pixels"]
    np.savez(folder / "golden.npz", **golden)
    bundles._rewrite(folder, "fashion-mnist", folder.name)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (a_wrong_hash, "sha256"),
        (half_copied, "encoder.onnx cannot be read"),
        (without_manifest, "manifest.json cannot be read"),
        (a_wrong_shape, "latent_size 17"),
        (other_answers, "the decoder's pixels differ from its golden output"),
        (graph("encoder.onnx", poison(math.nan)), "the encoder's mean differs from its golden output by nan"),
    ],
)
def test_a_bad_bundle_is_refused_and_the_old_one_stays(
    running: Running,
    models: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    fault: str,
) -> None:
    """One log line, one count, no answer from it; mended, it is taken."""
    before, _ = decode(running)
    damage(bundles.copy(models, "2"))
    with caplog.at_level(logging.ERROR, "armoire.server"):
        look(running)
        running.run(running.server._look_at_models(False))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert "fashion-mnist/2 is refused, it is not served" in lines[0]
    assert fault in lines[0]
    assert value(scrape(running), 'armoire_model_changes_total{outcome="refused"}') == 1
    after, which = decode(running)
    assert which == "fashion-mnist/1"
    np.testing.assert_array_equal(after, before)
    shutil.rmtree(models / "fashion-mnist" / "2")
    bundles.copy(models, "2")
    look(running)
    assert decode(running)[1] == "fashion-mnist/2"


def test_who_asks_has_a_refused_bundle_tried_again(
    running: Running, models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was out of order need not show in the bundle's files; a bug over one bundle keeps no other from coming."""
    load = Loader.load

    def short_of_memory(self: Loader, bundle: Bundle) -> Autoencoder:
        if bundle.where == "fashion-mnist/2":
            raise MemoryError("no room for it")
        return load(self, bundle)

    bundles.copy(models, "2")
    bundles.copy(models, "1", "hats")
    with monkeypatch.context() as patch:
        patch.setattr(Loader, "load", short_of_memory)
        look(running)
    assert "fashion-mnist/2 is refused, it is not served: no room for it" in caplog.text
    with Client(running.address) as client:
        assert served(client) == ["fashion-mnist/1", "hats/1"]
        look(running)
        assert served(client) == ["fashion-mnist/1", "fashion-mnist/2", "hats/1"]


def test_a_served_bundle_that_is_damaged_on_disk_is_served_on(
    running: Running, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is in memory has been proven: a file that changes under it is refused and changes nothing."""
    before, _ = decode(running)
    a_wrong_hash(models / "fashion-mnist" / "1")
    with caplog.at_level(logging.ERROR, "armoire.server"):
        look(running)
    assert "the one that is served stays" in caplog.text
    after, _ = decode(running)
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("default", ["", "fashion-mnist"])
def test_the_last_model_is_never_dropped(
    models: Path, caplog: pytest.LogCaptureFixture, default: str
) -> None:
    """A folder that is emptied, or lost, leaves the server serving what it has, with one line about it."""
    with serving(models=str(models), reload_seconds="0", default_model=default) as running:
        shutil.rmtree(models)
        with caplog.at_level(logging.ERROR, "armoire.server"):
            look(running)
            look(running)
        assert [r.getMessage() for r in caplog.records] == [
            f"fashion-mnist/1 has gone from {models} and is served on: nothing is left without it"
        ]
        assert decode(running)[1] == "fashion-mnist/1"
        bundles.copy(models, "3")
        look(running)
        assert decode(running)[1] == "fashion-mnist/3"
        with Client(running.address) as client:
            assert served(client) == ["fashion-mnist/3"]


def test_the_default_model_that_was_named_is_never_dropped(models: Path) -> None:
    """While other models are there, too."""
    bundles.copy(models, "1", "hats")
    with serving(models=str(models), reload_seconds="0", default_model="fashion-mnist") as running:
        shutil.rmtree(models / "fashion-mnist")
        look(running)
        assert decode(running)[1] == "fashion-mnist/1"


def test_a_bundle_that_still_changes_is_left_alone_by_the_clock(running: Running, models: Path) -> None:
    """A look that was not asked for takes a bundle only once it has found it the same twice."""
    bundles.copy(models, "2")
    looks = [running.run(running.server._repository.refresh(settled=True)) for _ in range(1)]
    (models / "fashion-mnist" / "2" / "README.md").touch()
    looks += [running.run(running.server._repository.refresh(settled=True)) for _ in range(3)]
    assert [each is not None for each in looks] == [False, False, True, False]


def test_the_clock_finds_a_new_version(models: Path) -> None:
    """With reload_seconds nobody has to ask."""
    with serving(models=str(models), reload_seconds="0.05") as running:
        bundles.negative(models, "2")
        until(lambda: decode(running)[1] == "fashion-mnist/2", "the new version answers")


async def test_no_call_fails_and_no_answer_is_mixed_while_versions_come_and_go(
    running: Running, models: Path
) -> None:
    """Under load every answer is that of the version which its metadata names, whole, whatever comes and goes."""
    expected = {"fashion-mnist/1": (await asyncio.to_thread(decode, running))[0]}
    expected["fashion-mnist/2"] = 255 - expected["fashion-mnist/1"].astype(int)
    answers: Counter[str] = Counter()
    done = asyncio.Event()
    unlimited = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(running.address, unlimited) as channel:
        stub = pb_grpc.LatentServiceStub(channel)

        async def caller() -> None:
            while not done.is_set():
                # More rows than one batch: parts of it run before, during and after the swap.
                call = stub.Decode(pb.DecodeRequest(latents=to_tensor(np.tile(LATENTS, (32, 1)))), timeout=60)
                pixels = np.frombuffer((await call).images.pixels.data, np.uint8).reshape(32, 8, 32, 32, 1)
                which = dict(await call.trailing_metadata())["armoire-model"]
                assert np.abs(pixels.astype(int) - expected[which]).max() <= 1, which
                answers[which] += 1

        callers = [asyncio.create_task(caller()) for _ in range(4)]
        for _ in range(3):
            bundles.negative(models, "2")
            await asyncio.to_thread(look, running)
            enough = answers["fashion-mnist/2"] + 4
            await asyncio.to_thread(
                until, lambda wanted=enough: answers["fashion-mnist/2"] >= wanted, "answers"
            )
            shutil.rmtree(models / "fashion-mnist" / "2")
            await asyncio.to_thread(look, running)
            enough = answers["fashion-mnist/1"] + 4
            await asyncio.to_thread(
                until, lambda wanted=enough: answers["fashion-mnist/1"] >= wanted, "answers"
            )
        done.set()
        await asyncio.gather(*callers)
    ok = value(scrape(running), 'armoire_requests_total{code="OK",method="Decode"}')
    assert ok == sum(answers.values()) + 1


def test_a_model_that_has_gone_gives_its_memory_back_after_its_last_call(
    running: Running, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls in flight keep it; with the last of them its sessions are freed, without waiting for a collection."""
    bundles.negative(models, "2")
    look(running)
    model = next(m for m in running.server._servicer.catalogue if m.where == "fashion-mnist/2")
    graphs = [weakref.ref(queue._engine) for queue in model.queues.values()]
    del model
    gc.disable()
    try:
        with Client(running.address) as client, caplog.at_level(logging.INFO, "armoire.server"):
            with pytest.raises(NotFound):  # an error leaves nothing behind either
                client.add_attribute(LATENTS, "no such thing")
            with running.holding():
                answers: list[np.ndarray] = []
                caller = threading.Thread(target=lambda: answers.append(client.decode(LATENTS)))
                caller.start()
                until(lambda: running.pending("decoder") == 8, "the call waits")
                shutil.rmtree(models / "fashion-mnist" / "2")
                look(running)
                assert all(graph() is not None for graph in graphs)
                assert "given back" not in caplog.text
            caller.join(30)
            assert len(answers) == 1
            until(lambda: all(graph() is None for graph in graphs), "the sessions are freed")
            until(
                lambda: "the memory of the old fashion-mnist/2 is given back" in caplog.text,
                "the log says so",
            )
    finally:
        gc.enable()


def test_sighup_makes_a_server_look(models: Path) -> None:
    """A process that does not look by itself takes a new version at SIGHUP, and a bad one costs it a line."""
    with process("--models", str(models), "--reload-seconds", "0") as server:
        address = ready(server)
        bundles.negative(models, "2")
        half_copied(bundles.copy(models, "3"))
        server.send_signal(signal.SIGHUP)
        lines = []
        for line in server.stderr:
            lines.append(line)
            if "serving fashion-mnist/2" in line:
                break
        with Client(address) as client:
            assert served(client) == ["fashion-mnist/1", "fashion-mnist/2"]
        refused = [line for line in lines if " is refused" in line] or [next(server.stderr)]
        assert "fashion-mnist/3 is refused" in refused[0]
        assert "Traceback" not in "".join(lines)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_a_server_that_is_stopped_while_it_warms_up_does_not_go_on(models: Path, tmp_path: Path) -> None:
    """SIGTERM ends the start between two models, with exit status 0 and a line, and no model is ever served."""
    for version in range(2, 60):
        bundles.copy(models, str(version))
    socket = tmp_path / "socket"
    with process("--models", str(models), "--listen", f"unix:{socket}") as server:
        until(socket.exists, "the server listens")
        server.send_signal(signal.SIGHUP)  # which ends no start
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=60)
    assert server.returncode == 0
    assert "stopped before it was ready" in log
    assert "serving" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("turns", range(4))
async def test_looking_ends_when_it_is_told_to_at_the_moment_that_it_is_asked_to_look(turns: int) -> None:
    """SIGHUP and SIGTERM side by side: however many turns of the loop lie between, nothing hangs."""

    async def look(_: bool) -> None:
        await asyncio.sleep(0)

    reloader = Reloader(60, look)
    reloader.start()
    for _ in range(3):
        await asyncio.sleep(0)
    reloader.now()
    for _ in range(turns):
        await asyncio.sleep(0)
    done, _ = await asyncio.wait({asyncio.create_task(reloader.stop())}, timeout=10)
    assert done


def test_the_figures_of_a_model_are_those_of_its_newest_version(running: Running, models: Path) -> None:
    """What metrics say that a batch costs is what was measured of the version that an unversioned call gets."""

    def told() -> set[float]:
        text = scrape(running)
        return {
            value(text, f'armoire_batch_cost_seconds{{graph="decoder",model="fashion-mnist",rows="{rows}"}}')
            for rows in (1, 2)
        }

    def measured(version: str) -> set[float]:
        queue = running.server._servicer.catalogue.find("fashion-mnist", version).queues["decoder"]
        return {queue.cost.measured[rows] for rows in (1, 2)}

    assert told() == measured("1")
    bundles.copy(models, "2")
    look(running)
    assert told() == measured("2") != measured("1")
    shutil.rmtree(models / "fashion-mnist" / "2")
    look(running)
    assert told() == measured("1")
