"""Training commands in processes of their own, and what they leave behind."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.training.conftest import SLICE

ROOT = SLICE.parent.parent
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def checkpoint_of(runs: Path, name: str = "fashion-2d") -> dict[str, Any]:
    state: dict[str, Any] = torch.load(runs / name / "checkpoint.pt", weights_only=True)
    return state


def start(
    *arguments: str, launcher: tuple[str, ...] = (), data: Path = SLICE, module: str = "training"
) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", module, *arguments, "--data", str(data)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
