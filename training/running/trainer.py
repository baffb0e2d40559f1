"""One optimiser step, and the state that a run carries from step to step."""

import copy
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from training.config import Config
from training.data import as_pixels
from training.errors import TrainingError
from training.model import Autoencoder, Losses
from training.running import schedule
from training.running.start import begin_at_principal_components

PATIENCE = 10  # so many losses in a row that are not finite, and the run stops


def adam(model: Autoencoder) -> torch.optim.Adam:
    """The optimiser of every preset; 1e-7 is the epsilon of Keras, and so of the book's recipe."""
    return torch.optim.Adam(model.parameters(), lr=model.config.learning_rate, eps=1e-7, fused=True)


class Trainer:
    """Model, averaged model, optimiser and counters.

    ``average`` is the exponential moving average of the weights: what is evaluated and exported.
    """

    def __init__(
        self, config: Config, fabric: Fabric, steps_per_epoch: int, images: Tensor | None = None
    ) -> None:
        """Begin with random weights; where the config wants a linear path, with the principal components of ``images``.

        ``images`` uint8 [n, h, w, c] are not needed where a checkpoint's state is loaded next.
        """
        self.config = config
        self.fabric = fabric
        self.steps_per_epoch = steps_per_epoch
        self.steps = config.epochs * steps_per_epoch
        self.step_count = 0
        self.skipped = 0
        self._skipped_in_a_row = 0
        torch.manual_seed(config.seed)
        self.raw_model = Autoencoder(config)
        if config.linear_path and images is not None:
            begin_at_principal_components(self.raw_model, images)
        # Images come with their channels last. Tensor cores want the weights so too; on CPUs it made the book's recipe,
        # of wide maps and batch normalisation, 1.5 times as fast, and the other presets no faster.
        if fabric.device.type == "cuda" or config.batch_norm:
            self.raw_model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if fabric.device.type == "cuda" and fabric.world_size > 1:
            # A batch's mean is that of all processes' shares.
            synchronised = torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.raw_model)  # type: ignore[no-untyped-call]
            self.raw_model = synchronised
        self.average = copy.deepcopy(self.raw_model).requires_grad_(False).to(fabric.device).eval()
        self.model, self.optimizer = fabric.setup(self.raw_model, adam(self.raw_model))

    @property
    def learning_rate(self) -> float:
        """What the next step uses."""
        return schedule.learning_rate(self.config, self.step_count, self.steps)

    @property
    def beta(self) -> float:
        """What the next step uses."""
        return schedule.beta(self.config, self.step_count, self.steps_per_epoch)

    def step(self, images: Tensor, noise: Tensor) -> Losses | None:
        """Learn from this process's share of a batch: uint8 [n, h, w, c] and N(0, I) noise [n, d].

        Where it is taken in parts, each part has its own best sigma.

        Returns the losses averaged over all processes, or None where they (or their gradient) are not finite: then
        the weights stay as they were and the step is counted in ``skipped``.

        Raises:
            TrainingError: that has happened ``PATIENCE`` times in a row.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        # Normalisation takes a batch in while it looks at it, so what it knew is kept in case the batch is no good.
        known = {name: value.clone() for name, value in self.raw_model.named_buffers()}
        parts = self.config.accumulate
        taken = [
            self._learn(*part, last=number == parts)
            for number, part in enumerate(zip(images.chunk(parts), noise.chunk(parts), strict=True), start=1)
        ]
        losses = torch.stack(taken).mean(0)
        weights = list(self.raw_model.parameters())
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        # One message per step: every process sees the same averages, and so takes the same branch below.
        averages = self.fabric.all_reduce(torch.cat([losses, norm[None]]), reduce_op="mean")
        assert isinstance(averages, Tensor)
        finite = bool(averages.isfinite().all())
        if finite:
            limit = self.config.gradient_clip
            if limit is not None and averages[4] > limit:
                torch.nn.utils.clip_grads_with_norm_(weights, limit, averages[4])
            self.optimizer.step()
            if self.config.likelihood == "gaussian":
                self.raw_model.follow_sigma(averages[3], self.step_count - self.skipped)
            self._update_average()
        else:
            for name, value in self.raw_model.named_buffers():
                value.copy_(known[name])
        self.optimizer.zero_grad()
        self.step_count += 1
        self._count(finite)
        return Losses(*averages[:4]) if finite else None

    def _learn(self, images: Tensor, noise: Tensor, *, last: bool) -> Tensor:
        """Add one part's share to the gradient; processes exchange theirs with the last. Gives the losses as a row."""
        with self.fabric.no_backward_sync(self.model, enabled=not last):
            losses: Losses = self.model(as_pixels(images), noise, self.beta)
            self.fabric.backward(losses.total / self.config.accumulate)
        return torch.stack([*losses]).detach()

    def state(self) -> dict[str, Any]:
        """All that ``load_state`` needs to go on to the same numbers."""
        return {
            "config": self.config.as_dict(),
            "step": self.step_count,
            "skipped": self.skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
            "model": self.raw_model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Undo ``state``."""
        self.step_count = state["step"]
        self.skipped = state["skipped"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        self.raw_model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def _update_average(self) -> None:
        weight = 1 - schedule.average_decay(self.config, self.step_count)
        averages, currents = (list(model.state_dict().values()) for model in (self.average, self.raw_model))
        floating = [number for number, value in enumerate(averages) if value.is_floating_point()]
        torch._foreach_lerp_([averages[n] for n in floating], [currents[n] for n in floating], weight)
        for average, current in zip(averages, currents, strict=True):
            if not average.is_floating_point():  # a count of batches, in batch normalisation
                average.copy_(current)

    def _count(self, finite: bool) -> None:
        if finite:
            self._skipped_in_a_row = 0
            return
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= PATIENCE:
            raise TrainingError(
                f"the loss was not finite in {PATIENCE} steps in a row, up to step {self.step_count} of {self.steps}: "
                "lower --learning-rate"
            )
