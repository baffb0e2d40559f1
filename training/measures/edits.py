"""What adding an attribute does to a picture, as a classifier sees it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from training import randomness
from training.measures import aggregate
from training.measures.classifier import Classifier
from training.measures.subject import Subject

STRENGTHS = (0.5, 1.0, 2.0)
IMAGES = 250  # at most, for each attribute: each is edited, decoded, judged and encoded at every strength
LEAST = 20  # fewer images say little about a rate


def quality(subject: Subject) -> dict[str, Any]:
    """Add each attribute to held-out images that lack it, of 250 at random; empty where the images have no labels.

    An image lacks it where the classifier says so of its unedited reconstruction. Per attribute, at each strength:

    ``flip_rate``: the share of them of which the classifier says, once edited, that they have it.
    ``leakage``: the share of images of which it changes its mind about another attribute, averaged over the others,
    divided by the flip rate. Of classes, which exclude each other: the share that turns into a third one.
    ``changes``: at strength 1 only, the share of images of which it changes its mind about each label, in the order
    of the source's attributes.
    ``cycle_cosine``: how far the encoder sees the edit as what it was: the mean cosine between the direction and the
    way from the encoded reconstruction to the encoded edit.

    Attributes that fewer than 20 images lack are left out.
    """
    model, source, judge = subject.model, subject.data.source, subject.judge
    if judge is None:
        return {}
    rows = randomness.order(model.config.seed, len(subject.data.test), 0)[:IMAGES]
    latents, plain = subject.test.mean[rows], subject.reconstructions[rows]
    before, origin = judge.told(plain, source), aggregate.encode(model, plain).mean
    found = {}
    for attribute in subject.attributes:
        index = source.attributes.index(attribute.name)
        lacking = ~before[:, index]
        if lacking.sum() < LEAST:
            continue
        direction = torch.from_numpy(attribute.direction).float()
        edits = [
            _edit(
                subject,
                judge,
                index,
                latents[lacking],
                before[lacking],
                origin[lacking],
                strength * direction,
            )
            for strength in STRENGTHS
        ]
        found[attribute.name] = {
            "images": int(lacking.sum()),
            "changes": edits[STRENGTHS.index(1.0)].changes,
        } | {
            key: {str(strength): getattr(edit, key) for strength, edit in zip(STRENGTHS, edits, strict=True)}
            for key in ("flip_rate", "leakage", "cycle_cosine")
        }
    return found


class _Edit(NamedTuple):
    flip_rate: float
    leakage: float | None
    cycle_cosine: float
    changes: list[float]


def _edit(
    subject: Subject,
    judge: Classifier,
    index: int,
    latents: Tensor,
    before: Tensor,
    origin: Tensor,
    step: Tensor,
) -> _Edit:
    source = subject.data.source
    edited = aggregate.decode(subject.model, latents + step)
    after = judge.told(edited, source)
    flips = float(after[:, index].float().mean())
    changes = (after != before).float().mean(0)
    others = torch.arange(before.shape[1]) != index
    stray = (after & ~before)[:, others].any(1).float().mean() if source.exclusive else changes[others].mean()
    way = aggregate.encode(subject.model, edited).mean - origin
    cosine = torch.nn.functional.cosine_similarity(way, step[None]).mean()
    return _Edit(flips, float(stray) / flips if flips else None, float(cosine), changes.tolist())
