"""A trained model on its data, and what several figures and pictures are made from: each computed once."""

from functools import cached_property
from pathlib import Path

from torch import Tensor

from training import randomness
from training.data import Data
from training.measures import aggregate, attributes, classifier
from training.measures.attributes import Attribute
from training.measures.classifier import Classifier
from training.measures.mixture import Mixture
from training.measures.mixture import fit as fit_mixture
from training.model import Autoencoder, Posterior


class Subject:
    """``runs`` is where the classifier of the data's labels is kept."""

    def __init__(self, model: Autoencoder, data: Data, runs: Path) -> None:
        self.model = model
        self.data = data
        self._runs = runs

    @cached_property
    def train(self) -> Posterior:
        """All training images, encoded."""
        return aggregate.encode(self.model, self.data.train.images)

    @cached_property
    def test(self) -> Posterior:
        """All held-out images, encoded."""
        return aggregate.encode(self.model, self.data.test.images)

    @cached_property
    def reconstructions(self) -> Tensor:
        """All held-out images decoded from their posterior means: uint8 [n, h, w, c]."""
        return aggregate.decode(self.model, self.test.mean)

    @cached_property
    def mixture(self) -> Mixture:
        """The fitted prior."""
        config = self.model.config
        return fit_mixture(self.train, config.mixture_components, config.seed)

    @cached_property
    def attributes(self) -> list[Attribute]:
        """The direction of each attribute."""
        train, test = (part.mean.double().numpy() for part in (self.train, self.test))
        labels = (self.data.train.labels.numpy(), self.data.test.labels.numpy())
        return attributes.find(self.data.source, train, labels[0], test, labels[1])

    @cached_property
    def judge(self) -> Classifier | None:
        """The classifier of the data's labels; None where the images have none."""
        return classifier.of(self.data, self._runs) if self.data.source.attributes else None

    def normal_latents(self, count: int, purpose: str) -> Tensor:
        """Draws from N(0, I), float32 [count, d]: the same ones each time for the same purpose."""
        config = self.model.config
        return randomness.noise(config.seed, purpose, count, config.latent_size)
