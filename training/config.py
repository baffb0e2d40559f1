"""Presets: every choice of a training run in one frozen object, which travels inside its checkpoint."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from training.errors import TrainingError

Likelihood = Literal["bernoulli", "gaussian"]
DataName = Literal["fashion-mnist", "images"]
LIKELIHOODS: tuple[str, ...] = get_args(Likelihood)
# What is cut out of a picture: the centred square of so many pixels (of a smaller picture the largest), the largest
# centred square, or the whole picture.
Crop = int | Literal["square"] | None


@dataclass(frozen=True)
class Config:
    """One training run.

    ``beta`` weighs the rate against the distortion when both are sums (over pixels, over dimensions): 1 is the
    evidence lower bound itself. ``decoder_channels`` starts with the map that the dense layer makes, as large as the
    one that the encoder ends with; each further entry doubles height and width.
    """

    preset: str
    latent_size: int
    data: DataName = "fashion-mnist"
    image_size: int = 32  # height and width
    image_channels: int = 1
    crop: Crop = None  # what of a picture becomes the image; pixels are those of CelebA's photographs
    flips: bool = False  # half of the images are seen mirrored, anew in each step
    variational: bool = True
    likelihood: Likelihood = "bernoulli"
    calibrated: bool = (
        True  # the Gaussian's sigma is the best for each batch; else 1, as in a mean squared error
    )
    beta: float = 1.0
    kl_warmup_epochs: float = 1.0

    encoder_channels: tuple[int, ...] = (32, 64, 128)
    encoder_hidden: int = 256
    decoder_hidden: tuple[int, ...] = ()
    decoder_channels: tuple[int, ...] = (128, 64, 32)
    linear_path: bool = False  # beside the convolutions, begun as the data's principal components
    batch_norm: bool = False  # and LeakyReLU of slope 0.3, in place of ReLU alone

    epochs: int = 25
    batch_size: int = 120
    accumulate: int = 1  # parts in which a process takes its share of a batch, one after the other
    learning_rate: float = 2e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 250
    gradient_clip: float | None = 200.0
    ema_decay: float = 0.999
    seed: int = 1

    mixture_components: int = 30

    @property
    def values(self) -> int:
        """How many numbers an image is."""
        return self.image_channels * self.image_size**2

    def as_dict(self) -> dict[str, Any]:
        """Plain values only, as the checkpoint and the manifest store them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """Undo ``as_dict`` (JSON and torch.load give lists where the fields are tuples)."""
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fields)


def with_mean_distortion(config: Config, weight: float) -> Config:
    """The same with the loss ``weight`` x distortion + rate, where the distortion is a mean over an image's D values.

    With the distortion as a sum that is beta = D / weight, up to a factor that Adam does not see.
    """
    return replace(config, beta=config.values / weight)


# One layer of weights after the convolutions, and Adam without anything around it.
AS_IN_THE_BOOK: dict[str, Any] = {
    "kl_warmup_epochs": 0.0,
    "encoder_hidden": 0,
    "learning_rate": 5e-4,
    "schedule": "constant",
    "warmup_steps": 0,
    "gradient_clip": None,
    "ema_decay": 0.0,
}
PRESETS: dict[str, Config] = {
    config.preset: config
    for config in (
        Config(
            preset="fashion",
            latent_size=16,
            encoder_hidden=128,
            decoder_hidden=(64,),
            decoder_channels=(192, 96, 48),
            linear_path=True,
            epochs=40,
        ),
        Config(
            preset="fashion-2d",
            latent_size=2,
            encoder_hidden=64,
            decoder_hidden=(256, 128),
            linear_path=True,
        ),
        Config(
            preset="fashion-autoencoder-2d",
            latent_size=2,
            variational=False,
            beta=0.0,
            decoder_hidden=(256, 256),
        ),
        # Foster, "Generative Deep Learning", 2nd ed., chapter 3. Its loss is 500 x mean cross-entropy + KL.
        with_mean_distortion(
            Config(
                preset="book-fashion-2d",
                latent_size=2,
                decoder_channels=(128, 128, 64, 32),
                epochs=5,
                batch_size=100,
                **AS_IN_THE_BOOK,
            ),
            weight=500,
        ),
        Config(
            preset="celeba",
            latent_size=200,
            data="images",
            image_size=64,
            image_channels=3,
            crop=148,
            flips=True,
            likelihood="gaussian",
            # Against the calibrated sigma, which is small: at beta 1 the rate is 500 nats, and decoded draws from
            # N(0, I) are no faces; the book's recipe amounts to 145, at the error that it ends with. README shows
            # error and samples over beta.
            beta=20.0,
            encoder_channels=(32, 64, 128, 256),
            encoder_hidden=0,
            decoder_channels=(256, 128, 64, 32),
            linear_path=True,
            epochs=16,
            batch_size=64,
            learning_rate=1e-3,
            gradient_clip=None,
            mixture_components=10,
        ),
        # Foster, chapter 3 again: 2000 x mean squared error + KL. A Gaussian of unit variance has half of that error.
        with_mean_distortion(
            Config(
                preset="book-celeba",
                latent_size=200,
                data="images",
                image_size=64,
                image_channels=3,
                crop=148,
                likelihood="gaussian",
                calibrated=False,
                encoder_channels=(64,) * 5,
                decoder_channels=(64,) * 6,
                batch_norm=True,
                epochs=10,
                batch_size=128,
                mixture_components=10,
                **AS_IN_THE_BOOK,
            ),
            weight=2 * 2000,
        ),
    )
}


def preset(name: str) -> Config:
    """Return the preset of that name.

    Raises:
        TrainingError: there is none of that name.
    """
    if name not in PRESETS:
        raise TrainingError(f"preset {name!r} does not exist; there are: {', '.join(PRESETS)}")
    return PRESETS[name]
