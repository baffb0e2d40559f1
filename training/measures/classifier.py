"""A small classifier of a data set's own labels: its features are what samples and photographs are compared in.

It is no Inception network, and the Fréchet distance in its features is no FID: it compares models on the same data.
"""

import io
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import files, progress, randomness
from training.data import Data, Source, Split, as_pixels
from training.errors import TrainingError

FEATURES = 64
WIDTHS = (32, 64, 96, 128)
IMAGES = 300_000  # that it sees in training, or five passes where those are fewer
PASSES = 5
BATCH = 100
LEARNING_RATE = 3e-3
FORMAT = 2


class Classifier(nn.Module):
    """Pixels [n, c, h, w] to logits [n, labels], over 64 features."""

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in WIDTHS:
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, FEATURES), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(FEATURES, labels)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [n, labels]."""
        logits: Tensor = self.head(self.body(pixels))
        return logits

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features float64 [n, 64] of uint8 [n, h, w, c]."""
        parts = [self.body(as_pixels(batch)) for batch in torch.split(images, 500)]
        return torch.cat(parts).double()

    @torch.no_grad()
    def told(self, images: Tensor, source: Source) -> Tensor:
        """Which labels it gives to uint8 [n, h, w, c]: bool [n, labels], of classes exactly one."""
        logits = torch.cat([self(as_pixels(batch)) for batch in torch.split(images, 500)])
        if source.exclusive:
            return F.one_hot(logits.argmax(1), logits.shape[1]).bool()
        told: Tensor = logits > 0
        return told

    def accuracy(self, source: Source, split: Split) -> float:
        """Share of labels told rightly, of classes or of all attributes together."""
        told = self.told(split.images, source)
        right = told.gather(1, split.labels[:, None].long()) if source.exclusive else told == split.labels
        return float(right.float().mean())


def of(data: Data, runs: Path, seed: int = 1) -> Classifier:
    """Read the classifier of ``data`` from ``runs``, or train it and leave it there.

    Raises:
        TrainingError: the images have no labels, or the file is not one of ours.
    """
    if not data.source.attributes:
        raise TrainingError(f"{data.source.name} has no labels to train a classifier on")
    classifier = Classifier(data.train.images.shape[-1], len(data.source.attributes))
    path = runs / f"classifier-{data.source.slug}-{data.train.images.shape[1]}.pt"
    key = {"format": FORMAT, "data": data.fingerprint(), "seed": seed}
    if path.exists():
        try:
            state = torch.load(path, weights_only=True)
            kept = state["key"] == key
            if kept:
                classifier.load_state_dict(state["model"])
        except Exception as error:  # of a damaged file torch raises what it likes
            raise TrainingError(f"{path} is damaged ({type(error).__name__}): delete it") from None
        if kept:
            return classifier.eval()
    _train(classifier, data, seed)
    content = io.BytesIO()
    torch.save({"key": key, "model": classifier.state_dict()}, content)
    runs.mkdir(parents=True, exist_ok=True)
    files.write(path, content.getbuffer())
    return classifier.eval()


def _train(classifier: Classifier, data: Data, seed: int) -> None:
    torch.manual_seed(seed)
    for layer in classifier.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    batch = min(BATCH, len(data.train))
    per_epoch = len(data.train) // batch
    steps = max(1, min(PASSES * per_epoch, IMAGES // batch))
    optimizer = torch.optim.Adam(classifier.parameters(), lr=LEARNING_RATE)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    classifier.train()
    for step in progress.bar(range(steps), desc="classifier"):
        epoch, index = divmod(step, per_epoch)
        rows = randomness.order(seed, len(data.train), epoch)[index * batch : (index + 1) * batch]
        images, labels = data.train.images[rows], data.train.labels[rows]
        mirrored = randomness.coins(seed, "classifier", len(rows), step)
        images = torch.where(mirrored[:, None, None, None], images.flip(2), images)
        logits = classifier(as_pixels(images))
        loss = (
            F.cross_entropy(logits, labels)
            if data.source.exclusive
            else F.binary_cross_entropy_with_logits(logits, labels.float())
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rates.step()


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Distance of two Gaussians fitted to rows of features [n, k] and [m, k].

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), Dowson & Landau 1982; the trace of the root by the eigenvalues of
    S1^(1/2) S2 S1^(1/2), which are those of S1 S2.
    """
    means = one.mean(0), other.mean(0)
    first, second = torch.cov(one.T), torch.cov(other.T)
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return float((means[0] - means[1]).square().sum() + first.trace() + second.trace() - 2 * cross)
