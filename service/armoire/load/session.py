"""A load test from beginning to end: run(Plan) -> Report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import grpc

from armoire.client import Client, Model
from armoire.load import request, saturation
from armoire.load.order import Order
from armoire.load.plan import Closed, Plan, Saturation, Stage, Target, Tls
from armoire.load.processes import Processes
from armoire.load.report import Report
from armoire.load.result import Result
from armoire.wire.channel import SERVICE
from armoire.wire.credentials import read_credentials

# From the order to its start, so that all processes have it.
LEAD_SECONDS = 0.05


class Progress(NamedTuple):
    """Where a test is: the stage, when it began (time.monotonic) and how long it takes, and what it has counted."""

    stage: Stage
    number: int  # from 1
    start: float
    seconds: float
    done: int
    failed: int


def run(plan: Plan, watch: Callable[[Progress], None] | None = None) -> Report:
    """Run a load test, which Ctrl-C ends early with what there is.

    Raises:
        ArmoireError: the server is not there, or refuses the first call of a stage: nothing is measured then.
    """
    return _Session(plan, watch).run()


class _Session:
    def __init__(self, plan: Plan, watch: Callable[[Progress], None] | None) -> None:
        self._plan, self._watch = plan, watch
        self._credentials = _credentials(plan.target.tls)
        self._model = _find(plan.target, self._credentials)
        self._messages = {rows: self._message(rows) for rows in sorted({load.rows for load in plan.loads})}
        self._results: list[Result] = []
        self._saturations: list[float | None] = []

    def run(self) -> Report:
        started = datetime.now(UTC)
        plan, interrupted = self._plan, False
        method = f"/{SERVICE}/{plan.rpc}"
        with Processes(plan.processes, plan.target, method, plan.connections) as self._processes:
            try:
                for load in plan.loads:
                    if isinstance(load, Saturation):
                        self._saturations.append(
                            saturation.search(load, partial(self._stage, searching=True))
                        )
                    else:
                        self._stage(load)
            except KeyboardInterrupt:
                interrupted = True
        return Report(plan, self._model, started, tuple(self._results), tuple(self._saturations), interrupted)

    def _stage(self, stage: Stage, *, searching: bool = False) -> Result:
        start = time.monotonic() + LEAD_SECONDS
        seconds = self._plan.warm_up + stage.seconds

        def watch(done: int, failed: int) -> None:
            if self._watch:
                self._watch(Progress(stage, len(self._results) + 1, start, seconds, done, failed))

        tally = self._processes.run(self._orders(stage, start), watch)
        images = 0 if self._plan.rpc == "ListModels" else stage.rows
        result = Result.of(stage, tally, images, searching=searching)
        self._results.append(result)
        if self._processes.interrupted:
            raise KeyboardInterrupt
        return result

    def _orders(self, stage: Stage, start: float) -> list[Order]:
        """Share a stage out evenly; processes for which no caller is left get no order."""
        plan, shares = self._plan, self._plan.processes
        if isinstance(stage, Closed):
            shares = min(shares, stage.callers)
        message, answer_bytes = self._messages[stage.rows]
        orders = []
        for index in range(shares):
            order = Order(
                message=message,
                start=start,
                warm_up=plan.warm_up,
                seconds=stage.seconds,
                most_calls=_share(plan.most_calls, shares, index),
                answer_bytes=answer_bytes,
            )
            if isinstance(stage, Closed):
                order = replace(order, callers=_share(stage.callers, shares, index))
            else:
                poisson = stage.arrivals == "poisson"
                order = replace(
                    order, rate=stage.rate / shares, poisson=poisson, seed=index, share=index / shares
                )
            orders.append(order)
        return orders

    def _message(self, rows: int) -> tuple[bytes, int | None]:
        """Build a request and try it; give it, and the bytes of its answer where they are fixed."""
        plan = self._plan
        message = request.build(plan.rpc, self._model, plan.target, rows)
        size = request.probe(plan.rpc, plan.target, message, rows, self._credentials)
        # What ListModels tells may change from call to call.
        return message, None if plan.rpc == "ListModels" else size


def _share(whole: int, shares: int, index: int) -> int:
    return whole // shares + (index < whole % shares)


def _credentials(tls: Tls | None) -> grpc.ChannelCredentials | None:
    return read_credentials(tls.ca, tls.key, tls.cert) if tls else None


def _find(target: Target, channel_credentials: grpc.ChannelCredentials | None) -> Model:
    """Ask what is served, and take the model that is to be called."""
    with Client(
        target.address, timeout=target.timeout, credentials=channel_credentials, token=target.token
    ) as client:
        served = client.models()
    named = [model for model in served if target.model in ("", model.name)]
    # An unknown name is for the server to refuse, which lists those there are.
    return named[0] if named else served[0]
