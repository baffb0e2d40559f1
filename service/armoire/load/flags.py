"""The flags of armoire bench, and the plan that they make."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from armoire.load.plan import RPCS, Closed, Open, Plan, Saturation, Target, Tls

T = TypeVar("T", int, float)
CALLERS = (16,)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add them, beside those of the connection."""
    group = parser.add_argument_group("load")
    group.add_argument("--rpc", choices=RPCS, default="Decode", help="(default: Decode)")
    group.add_argument(
        "--rows",
        type=_several(_whole),
        default=(8,),
        metavar="N[,N...]",
        help="images a call, given or answered (default: 8); of several, each in turn",
    )
    loops = group.add_mutually_exclusive_group()
    loops.add_argument(
        "--callers",
        type=_several(_whole),
        metavar="N[,N...]",
        help="closed loop: so many calls in flight, each followed by the next (default: 16); of several, each in turn",
    )
    loops.add_argument(
        "--rate",
        type=_several(_number),
        metavar="R[,R...]",
        help="open loop: so many calls a second, answered or not; latency counts from when a call was due",
    )
    loops.add_argument(
        "--saturate",
        type=_number,
        metavar="MS",
        help="search the highest rate whose p99 stays within MS milliseconds",
    )
    group.add_argument(
        "--arrivals",
        choices=("poisson", "fixed"),
        default="poisson",
        help="of an open loop (default: poisson)",
    )
    group.add_argument("--seconds", type=_number, default=5.0, help="of each stage (default: 5)")
    group.add_argument(
        "--warm-up",
        type=_number_or_zero,
        default=1.0,
        metavar="SECONDS",
        help="before each, not counted (default: 1)",
    )
    group.add_argument(
        "--calls", type=_whole, default=Plan.most_calls, help="most calls of a stage (default: 10 million)"
    )
    group.add_argument("--processes", type=_whole, default=1, help="client processes (default: 1)")
    group.add_argument(
        "--connections", type=_whole, default=1, help="connections of each process (default: 1)"
    )
    results = parser.add_argument_group("results")
    results.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    results.add_argument("--plot", type=Path, metavar="FILE.png", help="draw throughput against latency")
    results.add_argument(
        "--allow-failures", action="store_true", help="exit with status 0 even if calls failed"
    )


def to_plan(arguments: argparse.Namespace, token: str | None) -> Plan:
    """Make the plan; errors as Plan's."""
    loads: list[Closed | Open | Saturation] = []
    for rows in arguments.rows:
        if arguments.saturate:
            loads.append(Saturation(arguments.saturate, rows, arguments.seconds, arguments.arrivals))
        elif arguments.rate:
            loads += [Open(rate, rows, arguments.seconds, arguments.arrivals) for rate in arguments.rate]
        else:
            loads += [Closed(callers, rows, arguments.seconds) for callers in arguments.callers or CALLERS]
    files = (arguments.tls_ca, arguments.tls_cert, arguments.tls_key)
    return Plan(
        loads=tuple(loads),
        target=Target(
            address=arguments.address,
            timeout=arguments.timeout,
            tls=Tls(*files) if arguments.tls or any(files) else None,
            token=token,
            model=arguments.model,
            version=arguments.model_version,
        ),
        rpc=arguments.rpc,
        warm_up=arguments.warm_up,
        processes=arguments.processes,
        connections=arguments.connections,
        most_calls=arguments.calls,
    )


def _several(one: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    def parse(text: str) -> tuple[T, ...]:
        return tuple(one(part) for part in text.split(","))

    return parse


def _whole(text: str) -> int:
    return _checked(text, int, "a whole number from 1", lambda value: value >= 1)


def _number(text: str) -> float:
    return _checked(text, float, "a number above 0", lambda value: value > 0)


def _number_or_zero(text: str) -> float:
    return _checked(text, float, "a number from 0", lambda value: value >= 0)


def _checked(text: str, read: Callable[[str], T], wanted: str, good: Callable[[T], bool]) -> T:
    try:
        value = read(text)
        if good(value):
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} came; {wanted} is wanted")
