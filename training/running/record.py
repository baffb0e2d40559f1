"""What a run leaves behind: the checkpoint, a row of figures per epoch, and a TensorBoard log."""

import time
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from training.data import Data
from training.evaluate import losses_on
from training.model import Losses
from training.running import checkpoint
from training.running.trainer import Trainer

LOG_EVERY = 50  # steps between two points in TensorBoard


class Record:
    """Sums up steps into epochs and writes them; one process writes, the others only keep count.

    ``history`` has a dict per epoch: distortion and rate in nats per image, of the training steps (as they went, before
    each update) and of the whole test split under the averaged weights.
    """

    def __init__(self, folder: Path, data: Data, trainer: Trainer, *, writes: bool, began: float) -> None:
        """``began`` is when training did, on the monotonic clock."""
        self.folder = folder
        self.data = data
        self.trainer = trainer
        self.writes = writes
        self.history: list[dict[str, float]] = []
        self._provenance = checkpoint.provenance()
        self._fingerprint = data.fingerprint()
        self._distortion, self._rate, self._steps = 0.0, 0.0, 0
        self._seconds_before = 0.0
        self._began = began

    def __enter__(self) -> "Record":
        step = self.trainer.step_count
        log = str(self.folder / "tensorboard")
        self._writer = SummaryWriter(log, purge_step=step) if self.writes else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer:
            self._writer.close()

    @property
    def seconds(self) -> float:
        """Wall-clock time of the run so far, over all its parts."""
        return self._seconds_before + time.monotonic() - self._began

    def add(self, losses: Losses | None) -> None:
        """Count one step; None is a step that was skipped."""
        trainer = self.trainer
        if losses is not None:
            self._distortion += float(losses.distortion)
            self._rate += float(losses.rate)
            self._steps += 1
        if self._writer and losses is not None and trainer.step_count % LOG_EVERY == 0:
            figures = {"loss": losses.total, "distortion": losses.distortion, "rate": losses.rate}
            for name, value in figures.items():
                self._writer.add_scalar(f"train/{name}", float(value), trainer.step_count)
            self._writer.add_scalar("schedule/learning_rate", trainer.learning_rate, trainer.step_count)
            self._writer.add_scalar("schedule/beta", trainer.beta, trainer.step_count)
            self._writer.add_scalar("train/skipped", trainer.skipped, trainer.step_count)

    def close_epoch(self) -> str:
        """Evaluate, append the epoch's row, and return it as one line to print."""
        trainer = self.trainer
        test = losses_on(trainer.average, self.data.test) if self.writes else (0.0, 0.0)
        row = {
            "epoch": trainer.step_count // trainer.steps_per_epoch,
            "train_distortion": self._distortion / max(1, self._steps),
            "train_rate": self._rate / max(1, self._steps),
            "test_distortion": test[0],
            "test_rate": test[1],
            "seconds": self.seconds,
        }
        self.history.append(row)
        self._distortion, self._rate, self._steps = 0.0, 0.0, 0
        if self._writer:
            for name in ("distortion", "rate"):
                self._writer.add_scalar(f"test/{name}", row[f"test_{name}"], trainer.step_count)
        skipped = f", {trainer.skipped} steps skipped" if trainer.skipped else ""
        return (
            f"epoch {row['epoch']:g} of {trainer.config.epochs}: distortion + rate "
            f"{row['train_distortion']:.2f} + {row['train_rate']:.2f} in training, "
            f"{test[0]:.2f} + {test[1]:.2f} = {sum(test):.2f} on the test set, {row['seconds']:.0f} s{skipped}"
        )

    def save(self) -> None:
        """Write the checkpoint, in the process that writes."""
        if not self.writes:
            return
        unfinished = {"distortion": self._distortion, "rate": self._rate, "steps": self._steps}
        checkpoint.save(
            self.folder,
            {
                **self.trainer.state(),
                **self._provenance,
                "data": self.data.source.name,
                "fingerprint": self._fingerprint,
                "history": self.history,
                "unfinished_epoch": unfinished,
                "seconds": self.seconds,
            },
        )

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint stopped, in the middle of an epoch if need be."""
        self.history = state["history"]
        unfinished = state["unfinished_epoch"]
        self._distortion, self._rate = unfinished["distortion"], unfinished["rate"]
        self._steps = unfinished["steps"]
        self._seconds_before = state["seconds"]
        # What the first epochs came from is not forgotten.
        libraries, now = state["libraries"], self._provenance["libraries"]
        self._provenance = {
            "commit": _and_then(state["commit"], self._provenance["commit"]),
            "libraries": {name: _and_then(libraries.get(name, now[name]), now[name]) for name in now},
        }


def _and_then(before: str, now: str) -> str:
    return before if before.split(", ")[-1] == now else f"{before}, {now}"
