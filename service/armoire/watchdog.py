"""Health that tells the truth: whether batches end, and whether the graphs still answer as at export."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from armoire import memory
from armoire.config import Settings
from armoire.engine import golden
from armoire.engine.lanes import Lanes
from armoire.engine.providers import CUDA
from armoire.engine.tickets import Call
from armoire.errors import Internal, Overloaded, StartError
from armoire.metrics import Metrics
from armoire.ops.autoencoder import Autoencoder

logger = logging.getLogger("armoire.server")
TICK_SECONDS = 0.5
LANE = "a lane"
# A step of a model's warm-up runs many batches.
WARM_UP_TIMES = 12
# A model that failed its canary is asked again so soon, and then after twice the time each time, until it passes.
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 10.0
# So many canaries in a row that a GPU could not even run: no error of CUDA's that lasts so long goes by itself.
LOST_AFTER = 3


class Watchdog:
    """Looks after lanes and models, on the server's event loop.

    The load on a queue is no fault: a canary that is refused for it says nothing, and one that waits, waits.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        lanes: Lanes,
        models: Callable[[], Iterable[Autoencoder]],
        report: Callable[[bool], None],
        lost: Callable[[], None],
    ) -> None:
        """Wire it.

        Args:
            settings: stuck_seconds, canary_seconds and close_pixels.
            metrics: where to count.
            lanes: which of them may be stuck.
            models: those that are served, now.
            report: told each time when all is well again, or no longer.
            lost: called when the device is gone for good.
        """
        self._settings = settings
        self._metrics = metrics
        self._lanes = lanes
        self._models = models
        self._report = report
        self._lost = lost
        self._faults: dict[str, str] = {}  # by what is at fault
        self._unrunnable = 0  # canaries in a row that could not run
        self._failures = 0  # of batches, that the last canary knew of
        self._healthy = True
        self._due = 0.0
        self._retry = RETRY_SECONDS
        self._canary: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the models have just been proven."""
        self._plan(self._settings.canary_seconds)
        self._metrics.serving.set(1)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End."""
        self._metrics.serving.set(0)
        for task in (self._task, self._canary):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])

    async def _run(self) -> None:
        stuck, canary = self._settings.stuck_seconds, self._settings.canary_seconds
        tick = min(TICK_SECONDS, stuck / 4, canary / 4 or TICK_SECONDS)
        while True:
            await asyncio.sleep(tick)
            try:
                self._look()
            except Exception:
                logger.exception("the watchdog stumbled and goes on")

    def _look(self) -> None:
        self._judge(LANE, self._stuck())
        failures = self._failed_batches()
        # Models that have gone took theirs along.
        self._failures = min(self._failures, failures)
        # What callers meet while a model is known to be at fault is no news.
        hurried = failures > self._failures and not self._faults.keys() - {LANE}
        due = time.monotonic() >= self._due or hurried
        if self._canary is not None and self._canary.done():
            canary, self._canary = self._canary, None
            if bug := canary.exception():  # told, not swallowed
                self._plan(self._retry)
                logger.error("the canary stumbled and is asked again", exc_info=bug)
        if due and self._canary is None:
            self._failures = failures
            self._canary = asyncio.get_running_loop().create_task(self._prove())
        healthy = not self._faults
        if healthy != self._healthy:
            self._healthy = healthy
            self._metrics.serving.set(int(healthy))
            self._report(healthy)

    async def _prove(self) -> None:
        """Ask every model for its golden outputs."""
        models = list(self._models())
        names = {model.where for model in models}
        for gone in self._faults.keys() - names - {LANE}:
            self._judge(gone, "")
        ran = unrunnable = False
        for model in models:
            gpu = model.provider == CUDA
            try:
                fault = await self._canary_of(model)
                ran |= gpu
            except Internal as error:
                fault = str(error)
                unrunnable |= gpu
                self._failures += 1  # its own, which is to ask for no other canary
            except Overloaded:
                continue
            self._metrics.canaries.labels("failed" if fault else "passed").inc()
            self._judge(model.where, f"the canary failed: {fault}" if fault else "")
        # What a burst has left. Who allocates meanwhile waits, so it is done seldom, and not with each burst.
        await asyncio.to_thread(memory.trim)
        # What runs another model is not lost.
        self._unrunnable = self._unrunnable + 1 if unrunnable and not ran else 0
        if self._unrunnable >= LOST_AFTER:
            self._lost()
        if self._faults.keys() & names:
            self._plan(self._retry)
            self._retry = min(2 * self._retry, LONGEST_RETRY_SECONDS)
        else:
            self._plan(self._settings.canary_seconds)
            self._retry = RETRY_SECONDS

    async def _canary_of(self, model: Autoencoder) -> str:
        """Say how a model's answers differ from the golden ones; empty: by rounding only."""
        bundle, encoder, decoder = model.bundle, model.queues["encoder"], model.queues["decoder"]
        mean, log_variance = await encoder.submit(bundle.golden["pixels"], Call())
        (pixels,) = await decoder.submit(bundle.golden["latents"], Call())
        try:
            golden.compare_points(bundle, mean, log_variance)
            golden.compare_pixels(bundle, pixels, model.precision, self._settings.close_pixels)
        except StartError as error:
            return str(error)
        return ""

    def _stuck(self) -> str:
        allowed = self._settings.stuck_seconds
        if (batch := self._lanes.longest()) > allowed:
            return f"a batch has been running for {batch:.1f} s"
        if (other := self._lanes.longest_call()) > WARM_UP_TIMES * allowed:
            return f"a model has been warming up for {other:.1f} s"
        return ""

    def _failed_batches(self) -> int:
        return sum(queue.failures for model in self._models() for queue in model.queues.values())

    def _plan(self, seconds: float) -> None:
        self._due = time.monotonic() + seconds if seconds else float("inf")

    def _judge(self, what: str, fault: str) -> None:
        """Note a fault, or that there is none."""
        if fault and what not in self._faults:
            logger.error("%s: %s", what, fault)
        elif not fault and what in self._faults:
            logger.info("%s: all is well again", what)
        if fault:
            self._faults[what] = fault
        else:
            self._faults.pop(what, None)
