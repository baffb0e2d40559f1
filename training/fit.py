"""``python -m training fit PRESET``: train, from the data's order to the last checkpoint."""

import argparse
import logging
import os
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Never, TextIO

import torch
from lightning_fabric import Fabric
from tqdm import tqdm

from training import progress
from training.config import Config, preset
from training.data import Data, sources
from training.errors import TrainingError
from training.running import checkpoint
from training.running.interruption import Interruption
from training.running.loader import Loader
from training.running.record import Record
from training.running.trainer import Trainer

INTERRUPTED = 130  # what a shell reports of a command that Ctrl-C ended
# Fields in which a run may differ from its preset, since an option sets them.
OPTIONS = ("epochs", "batch_size", "learning_rate", "beta", "likelihood", "accumulate", "seed", "crop")

_log = logging.getLogger(__name__)


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    folder: Path = arguments.runs / arguments.preset
    overrides = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    config = preset(arguments.preset)
    if "crop" in overrides and config.data != "images":
        raise TrainingError(
            f"{config.preset} is trained on {config.data}, which is not cropped: leave out --crop"
        )
    if arguments.resume:
        state = checkpoint.load(folder)
        with checkpoint.reading(folder):
            config = _resumed(Config.from_dict(state["config"]), overrides, folder)
    else:
        state = None
        config = replace(config, **{"crop": sources.default_crop(config, arguments.data), **overrides})
        if (folder / checkpoint.NAME).exists() and not arguments.restart:
            raise TrainingError(
                f"{folder / checkpoint.NAME} exists: go on with --resume or begin anew with --restart"
            )
    return fit(config, sources.load(config, arguments.data), folder, state)


def fit(config: Config, data: Data, folder: Path, state: dict[str, Any] | None = None) -> int:
    """Train ``config`` on ``data`` into ``folder``, from ``state`` (a checkpoint) or from the beginning.

    Returns 0 at the end of the last epoch, 130 when a signal asked to stop; a checkpoint is there in both cases.

    Raises:
        TrainingError: the batch cannot be shared among the processes, or the loss stays non-finite.
    """
    fabric = launch()
    parts = fabric.world_size * config.accumulate
    if config.batch_size % parts:
        raise TrainingError(
            f"batch size {config.batch_size} cannot be shared by {fabric.world_size} processes"
            + (f" in {config.accumulate} parts each" if config.accumulate > 1 else "")
        )
    images = data.train.images
    loader = Loader(config, images, fabric.device, fabric.global_rank, fabric.world_size)
    if not loader.steps_per_epoch:
        raise TrainingError(f"batch size {config.batch_size} is more than the {len(images)} training images")

    began = time.monotonic()  # looking for a start among the images is part of it
    trainer = Trainer(config, fabric, loader.steps_per_epoch, images if state is None else None)
    record = Record(folder, data, trainer, writes=fabric.is_global_zero, began=began)
    if state is not None:
        checkpoint.require_data(state, data, folder)
        with checkpoint.reading(folder):
            trainer.load_state(state)
            record.load_state(state)
    _require_one_step(fabric, trainer.step_count, folder)
    if trainer.step_count == trainer.steps:
        _say(fabric, f"{folder}: all {config.epochs} epochs are done")
        return 0
    total = trainer.steps * config.batch_size

    done = trainer.step_count * config.batch_size
    with Interruption() as interruption, record, _bar(fabric, total, done) as bar:
        began = time.monotonic()
        while trainer.step_count < trainer.steps:
            for batch, noise in loader.epoch(trainer.step_count):
                losses = trainer.step(batch, noise)
                record.add(losses)
                share = loader.waited / (time.monotonic() - began)
                bar.set_postfix_str(f"{share:.1%} waiting for data", refresh=False)
                bar.update(config.batch_size)
                if trainer.step_count % trainer.steps_per_epoch and _any_process(
                    fabric, interruption.requested
                ):
                    return _stopped(fabric, record)
            # An epoch that is done has its row, whoever wants to stop.
            line = record.close_epoch()
            if fabric.is_global_zero:
                bar.write(line)
            if trainer.step_count < trainer.steps and _any_process(fabric, interruption.requested):
                return _stopped(fabric, record)
            record.save()
        # Nobody leaves before the last checkpoint is written: a machine that went could not help to write it anew.
        fabric.barrier()
    return 0


def _stopped(fabric: Fabric, record: Record) -> int:
    """Save, and let nobody leave, who might be started again and look for the checkpoint, before it is written."""
    record.save()
    fabric.barrier()
    _say(fabric, f"stopped at step {record.trainer.step_count}; go on with --resume", sys.stderr)
    return INTERRUPTED


def _require_one_step(fabric: Fabric, step: int, folder: Path) -> None:
    """See that all processes go on from the same step: each has read the checkpoint for itself, or found none."""
    if fabric.world_size == 1:
        return
    ends = fabric.all_reduce(torch.tensor([step, -step], device=fabric.device), reduce_op="max")
    assert isinstance(ends, torch.Tensor)
    latest, earliest = int(ends[0]), -int(ends[1])
    if latest != earliest:
        raise TrainingError(
            f"some processes would go on from step {earliest} and others from {latest}: {folder} must be one folder "
            "for all of them, and all must be told to --resume or none"
        )


def _resumed(config: Config, overrides: dict[str, Any], folder: Path) -> Config:
    """The checkpoint's own config: a run goes on as it began, and what the preset says otherwise by now is told."""
    for name, value in overrides.items():
        if value != getattr(config, name):
            raise TrainingError(
                f"{folder / checkpoint.NAME} was begun with {name} {getattr(config, name)}, not {value}: "
                "leave the option out, or begin anew with --restart"
            )
    then, now = config.as_dict(), preset(config.preset).as_dict()
    edited = [name for name in now if name not in OPTIONS and then[name] != now[name]]
    if edited:
        _log.warning(
            "%s goes on as it was begun, and its preset has been edited since (%s): begin anew with --restart for that",
            folder / checkpoint.NAME,
            ", ".join(f"{name} was {then[name]}, is {now[name]}" for name in edited),
        )
    return config


def launch() -> Fabric:
    """This process's place among the others (torchrun tells), and the device: CUDA in bf16 where there is one."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        precision="bf16-mixed" if cuda else "32-true",
    )
    fabric.launch()
    # DistributedDataParallel remarks on the memory layout of a convolution with one input channel; it costs nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    return fabric


def _say(fabric: Fabric, text: str, file: TextIO | None = None) -> None:
    """Print in one process of all; Fabric's own print would, in one of each machine."""
    if fabric.is_global_zero:
        print(text, file=file)


def _any_process(fabric: Fabric, requested: bool) -> bool:
    """Whether a signal has reached any process: all stop after the same step, or none."""
    if fabric.world_size == 1:
        return requested
    requests = fabric.all_reduce(torch.tensor(float(requested), device=fabric.device), reduce_op="sum")
    assert isinstance(requests, torch.Tensor)
    return bool(requests > 0)


def _bar(fabric: Fabric, total: int, done: int) -> "tqdm[Never]":
    """Images done of all epochs, images/s of this part of the run and the time left."""
    return progress.bar(
        total=total, initial=done, unit=" images", unit_scale=True, disable=not fabric.is_global_zero
    )
