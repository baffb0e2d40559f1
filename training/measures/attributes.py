"""Directions from the images without an attribute to those with it, in the latent space."""

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.data import Source

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

STRATA = ("Male", "Young")
LEAST_IN_STRATUM = 20
YARDSTICK_IMAGES = 20_000  # at most, that the logistic regression learns from
QUANTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True)
class Attribute:
    """A direction from the rest to the members of a class.

    ``direction`` [d] is the difference of the two means, so that a strength of 1 goes from one to the other; ``auc`` is
    how well the projection on it tells members from the rest, on images that it was not made from (0.5: not at all),
    and ``auc_logistic`` how well a logistic regression on the same latents does, which looks for the best direction.
    ``strata`` are those that the difference was taken within, where it was; ``quantiles`` (percent to value) say where
    the training images lie along the direction, in units of it and from their mean: the sensible range of a slider.
    """

    name: str
    direction: Floats
    auc: float
    auc_logistic: float
    positives: int
    negatives: int
    strata: tuple[str, ...] = ()
    quantiles: dict[str, float] = field(default_factory=dict)

    @property
    def norm(self) -> float:
        """Distance between the two means."""
        return float(np.linalg.norm(self.direction))

    def as_dict(self) -> dict[str, Any]:
        """What the manifest says of it; the direction itself is an array of the bundle."""
        return {
            "name": self.name,
            "norm": self.norm,
            "auc": self.auc,
            "auc_logistic": self.auc_logistic,
            "positives": self.positives,
            "negatives": self.negatives,
            "strata": list(self.strata),
            "projection_quantiles": self.quantiles,
        }


def find(source: Source, train: Floats, train_labels: Any, test: Floats, test_labels: Any) -> list[Attribute]:
    """Find the direction of each attribute from the encoder's means [n, d] and the labels of both splits."""
    search = _of_classes if source.exclusive else _stratified
    found = search(source.attributes, train, train_labels, test, test_labels)
    return [replace(each, quantiles=_quantiles(train, each.direction)) for each in found]


def _quantiles(means: Floats, direction: Floats) -> dict[str, float]:
    along = (means - means.mean(0)) @ direction / (direction @ direction)
    return {f"{percent:g}": float(np.quantile(along, percent / 100)) for percent in QUANTILES}


def _stratified(
    names: tuple[str, ...], train: Floats, train_labels: Any, test: Floats, test_labels: Any
) -> list[Attribute]:
    """Attributes that go together in the data must not go together in the directions.

    Most who smile in a photograph may be women: the plain difference of means would make faces both. So it is taken
    within each combination of the attributes ``STRATA``, the attribute itself left out, that holds at least
    ``LEAST_IN_STRATUM`` images with and as many without it, and averaged over them, each counting the same. Where none
    does, the plain difference is what there is.
    """
    found = []
    for index, name in enumerate(names):
        member = train_labels[:, index]
        strata = [other for other in STRATA if other in names and other != name]
        differences, used = [], []
        for values in itertools.product((False, True), repeat=len(strata)):
            inside = np.ones(len(member), bool)
            for other, value in zip(strata, values, strict=True):
                inside &= train_labels[:, names.index(other)] == value
            with_it, without = train[inside & member], train[inside & ~member]
            if min(len(with_it), len(without)) >= LEAST_IN_STRATUM:
                differences.append(with_it.mean(0) - without.mean(0))
                used.append(
                    " ".join(
                        f"{'+' if value else '-'}{other}" for other, value in zip(strata, values, strict=True)
                    )
                )
        used = used if strata else []
        if not differences:
            if not 0 < member.sum() < len(member):
                continue  # nobody has it, or everybody: it has no direction
            differences = [train[member].mean(0) - train[~member].mean(0)]
        direction = np.mean(differences, axis=0)
        seen = test_labels[:, index]
        found.append(_attribute(name, direction, (train, member), (test, seen), tuple(used)))
    return found


def _of_classes(
    classes: tuple[str, ...], train: Floats, train_labels: Floats, test: Floats, test_labels: Floats
) -> list[Attribute]:
    """Find the direction of each class from the encoder's means [n, d] and labels [n] of both splits.

    "The rest" is balanced: every other class counts the same, however many images it has.
    """
    centres = np.stack([train[train_labels == label].mean(0) for label in range(len(classes))])
    found = []
    for label, name in enumerate(classes):
        direction = centres[label] - np.delete(centres, label, axis=0).mean(0)
        found.append(
            _attribute(name, direction, (train, train_labels == label), (test, test_labels == label))
        )
    return found


def _attribute(
    name: str,
    direction: Floats,
    known: tuple[Floats, Bools],
    unseen: tuple[Floats, Bools],
    strata: tuple[str, ...] = (),
) -> Attribute:
    """Judge a direction on the images that it was not made from: latents [n, d] and membership [n] of both splits."""
    train, member = known
    test, seen = unseen
    auc = logistic = 0.5  # where all are members, or none, nothing can be told apart
    if 0 < seen.sum() < len(seen):
        auc = float(roc_auc_score(seen, test @ direction))
        some = np.random.default_rng(0).permutation(len(train))[:YARDSTICK_IMAGES]
        if not 0 < member[some].sum() < len(some):
            some = np.arange(len(train))
        regression = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky"))
        regression.fit(train[some], member[some])
        logistic = float(roc_auc_score(seen, regression.decision_function(test)))
    positives, negatives = int(member.sum()), int((~member).sum())
    return Attribute(name, direction, auc, logistic, positives, negatives, strata)
