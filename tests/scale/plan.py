"""deploy/SCALING.md's sums: what follows from its measured figures, computed from the page itself.

`python -m tests.scale.plan` prints the derived table, `--write` puts it into the page; with prices it says what a
million images cost: `python -m tests.scale.plan --gpu-hour P --core-hour P --gigabyte P`.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).resolve().parents[2] / "deploy" / "SCALING.md"
BEGIN, END = "<!-- derived: python -m tests.scale.plan --write -->\n", "<!-- end -->\n"
COSTS = "<!-- example: python -m tests.scale.plan --write -->\n"
RATE = 1_000_000  # images a second
LOAD = 0.6  # of what was measured: a third of the replicas may go, and the rest still holds
ROWS = 64  # a call, as measured over gRPC
CORES = 4  # of a process, as measured
SHARING, SHARED_CORES = 3, 9  # processes on one GPU, and the cores of all of them, as measured
CLIENTS = 1_000
SCRAPE_SECONDS, AGE_SECONDS = 15, 300
MODELS = ("fashion", "faces")
LATENTS = {"fashion": 16, "faces": 200}
FLOAT_BYTES = 4
PIXEL_BYTES = {"fashion": 32 * 32, "faces": 64 * 64 * 3}
NAME = "armoire.armoire.svc.cluster.local"
# RFC 1035: header, the question (its name and four bytes more), sixteen bytes for each address of the name in it; the
# sizes are plain DNS, and EDNS0 as resolvers ask for it, with its own record of eleven bytes.
PLAIN, EDNS, HEADER, RECORD, OPT = 512, 1232, 12, 16, 11
Figures = Mapping[str, float]


class Prices(NamedTuple):
    """What is paid, in any currency."""

    gpu_hour: float
    core_hour: float
    gigabyte: float


EXAMPLE = Prices(gpu_hour=3.0, core_hour=0.04, gigabyte=0.08)


def measured(page: str) -> dict[str, float]:
    """Read the measured figures: rows of `name` and a number."""
    rows = re.findall(r"^\| `([a-z0-9.]+)` \| ([\d,.]+) \|", page, re.MULTILINE)
    return {name: float(value.replace(",", "")) for name, value in rows}


def processes(m: Figures, model: str, provider: str) -> int:
    """How many server processes answer RATE at LOAD."""
    return math.ceil(RATE / (m[f"{model}.{provider}.grpc"] * LOAD))


def shared_gpus(m: Figures, model: str) -> int:
    """How many GPUs with SHARING processes each answer RATE at LOAD."""
    return math.ceil(RATE / (m[f"{model}.cuda.shared"] * LOAD))


def of_engine(m: Figures, model: str) -> float:
    """What SHARING processes make of what the engine alone can do with one GPU."""
    return m[f"{model}.cuda.shared"] / m[f"{model}.cuda.engine.128"]


def hours(m: Figures, model: str, how: str) -> float:
    """Hours for a million images: of one process, or of the processes that share a GPU."""
    return 1e6 / (m[f"{model}.{how}"] * LOAD) / 3600


def envoy_ms(m: Figures, model: str) -> float:
    """Envoy's processor time for a call: a part for the call, another for each KiB of its answer."""
    per_kib = (m["envoy.ms.256kib"] - m["envoy.ms.1kib"]) / 255
    return m["envoy.ms.1kib"] + per_kib * (ROWS * PIXEL_BYTES[model] / 1024 - 1)


def gigabits(bytes_per_image: float, rate: float = RATE) -> float:
    """Bandwidth of so many images a second."""
    return bytes_per_image * rate * 8 / 1e9


def addresses(size: int, extra: int = 0) -> int:
    """How many addresses fit into a DNS answer."""
    return (size - HEADER - len(NAME) - 2 - 4 - extra) // RECORD


def sums(m: Figures, model: str) -> dict[str, str]:
    """Give what RATE of one model takes, by what it is."""
    gpu, cpu = processes(m, model, "cuda"), processes(m, model, "cpu")
    shared = shared_gpus(m, model)
    pixels, calls = PIXEL_BYTES[model], RATE / ROWS
    one = gigabits(pixels, m[f"{model}.cuda.grpc"])
    series = m["replica.series"] * cpu
    return {
        "calls a second, of 64 rows": f"{calls:,.0f}",
        "answers on the network, Gbit/s": f"{gigabits(pixels):,.1f}",
        "requests on the network, Gbit/s": f"{gigabits(FLOAT_BYTES * LATENTS[model]):,.1f}",
        "**on GPUs:** processes, at 60 % of what was measured": f"{gpu}",
        "their cores": f"{CORES * gpu}",
        "GPUs, one process each": f"{gpu}",
        "GPUs, three processes each": f"{shared}",
        "the cores of all these": f"{SHARED_CORES * shared}",
        "three processes on a GPU, of the engine alone at 128 rows": f"{of_engine(m, model):.0%}",
        "answers of one process, Gbit/s": f"{one:,.1f}",
        "processes at full load behind a 25 Gbit/s interface": f"{25 // one:.0f}",
        "GPU-hours for a million images, one process each": f"{hours(m, model, 'cuda.grpc'):.4f}",
        "core-hours beside them": f"{CORES * hours(m, model, 'cuda.grpc'):.4f}",
        "GPU-hours for a million images, three processes each": f"{hours(m, model, 'cuda.shared'):.4f}",
        "core-hours beside those": f"{SHARED_CORES * hours(m, model, 'cuda.shared'):.4f}",
        "**on CPUs:** processes of 4 cores, at 60 %": f"{cpu}",
        "cores": f"{CORES * cpu}",
        "core-hours for a million images": f"{CORES * hours(m, model, 'cpu.grpc'):.3f}",
        "**either way:** GB of answers for a million images": f"{pixels / 1e3:.2f}",
        "Envoy's processor time for a call, ms, *extrapolated*": f"{envoy_ms(m, model):.1f}",
        "cores for Envoy in front of it all": f"{math.ceil(envoy_ms(m, model) / 1e3 * calls / LOAD):,}",
        "connections, GPU pods, 1,000 clients straight": f"{CLIENTS * gpu:,}",
        "connections made anew a second (age 300 s)": f"{CLIENTS * gpu / AGE_SECONDS:,.0f}",
        "series in Prometheus, CPU pods": f"{series:,.0f}",
        "samples a second, scraped every 15 s": f"{series / SCRAPE_SECONDS:,.0f}",
        "addresses in a DNS answer of 512 bytes": f"{addresses(PLAIN)}",
        "and of 1,232 bytes (EDNS0)": f"{addresses(EDNS, OPT)}",
    }


def derived(m: Figures) -> str:
    """Give the derived table."""
    columns = [sums(m, model) for model in MODELS]
    head = "| 1,000,000 images a second | fashion, 32x32x1 | faces, 64x64x3 |\n|---|---|---|\n"
    rows = (f"| {what} | {' | '.join(column[what] for column in columns)} |\n" for what in columns[0])
    return head + "".join(rows)


def costs(m: Figures, prices: Prices) -> str:
    """Give the table of what a million images cost."""
    names = (
        "GPU pods, one process a GPU",
        "GPUs with three processes",
        "CPU pods",
        "of each, for the network",
    )
    rows = {name: f"| {name} |" for name in names}
    for model in MODELS:
        out = PIXEL_BYTES[model] / 1e3 * prices.gigabyte
        alone = hours(m, model, "cuda.grpc") * (prices.gpu_hour + CORES * prices.core_hour) + out
        shared = hours(m, model, "cuda.shared") * (prices.gpu_hour + SHARED_CORES * prices.core_hour) + out
        cpu = hours(m, model, "cpu.grpc") * CORES * prices.core_hour + out
        for name, cost in zip(names, (alone, shared, cpu, out), strict=True):
            rows[name] += f" {cost:.4f} |"
    head = (
        f"| at {prices.gpu_hour:g} a GPU-hour, {prices.core_hour:g} a core-hour, {prices.gigabyte:g} a GB "
        "| fashion | faces |\n|---|---|---|\n"
    )
    return head + "".join(f"{row}\n" for row in rows.values())


def renewed(page: str) -> str:
    """Give the page with what follows from its measured figures as it does."""
    m = measured(page)
    for begin, table in ((BEGIN, derived(m)), (COSTS, costs(m, EXAMPLE))):
        before, rest = page.split(begin)
        page = before + begin + table + END + rest.split(END, 1)[1]
    return page


def main() -> None:
    """Renew the page, or print the derived table or, with prices, costs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put what is derived into the page")
    for name, what in (("gpu-hour", "a GPU"), ("core-hour", "a core"), ("gigabyte", "a GB that leaves")):
        parser.add_argument(f"--{name}", type=float, metavar="P", help=f"the price of {what}")
    arguments = vars(parser.parse_args())
    write = arguments.pop("write")
    missing = [f"--{name.replace('_', '-')}" for name, price in arguments.items() if price is None]
    page = PAGE.read_text()
    if write:
        PAGE.write_text(renewed(page))
    elif len(missing) == len(arguments):
        print(derived(measured(page)), end="")
    elif missing:
        parser.error(f"for a cost {' and '.join(missing)} must be told, too; 0 for what costs nothing")
    else:
        print(costs(measured(page), Prices(**arguments)), end="")


if __name__ == "__main__":
    main()
