"""Write prometheusrule.yaml from the rules of compose's Prometheus, or with --check tell whether it is up to date.

A PrometheusRule has the groups within it, and kustomize can put no file there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
RULES = ROOT / "docker/monitoring/prometheus/rules/armoire.yaml"
OUTPUT = HERE / "prometheusrule.yaml"
HEADER = f"# Written by {(HERE / 'generate.py').relative_to(ROOT)} from {RULES.relative_to(ROOT)}.\n"


class _Dumper(yaml.SafeDumper):
    """Writes expressions of several lines as such."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def manifest() -> str:
    """Give the manifest."""
    content = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "armoire", "labels": {"app.kubernetes.io/name": "armoire"}},
        "spec": yaml.safe_load(RULES.read_text()),
    }
    return HEADER + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1000)


def main() -> int:
    """Write it, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare and exit 1 where it is stale")
    if not parser.parse_args().check:
        OUTPUT.write_text(manifest())
        return 0
    stale = not OUTPUT.exists() or OUTPUT.read_text() != manifest()
    if stale:
        print(f"{OUTPUT.relative_to(ROOT)} is stale: run `make rules`", file=sys.stderr)
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
