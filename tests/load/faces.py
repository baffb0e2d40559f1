"""``python -m tests.load.faces OUTDIR``: OUTDIR/faces/1, a bundle for faces, to measure servers with.

200 latent dimensions to 64x64x3, transposed convolutions k3 s2, 1.5 million parameters in the decoder: less the linear
path of the preset celeba, whose decoder has 3.7 million and an eighth more multiplications. All weights are
random, from a fixed seed: nobody's face was ever near it, and what it decodes is noise. A server cannot tell.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from training import files, randomness
from training.bundles import bundle, latent_space
from training.config import Config
from training.errors import TrainingError
from training.measures import aggregate
from training.measures.attributes import Attribute
from training.model import Autoencoder

CONFIG = Config(
    preset="faces",
    latent_size=200,
    image_size=64,
    image_channels=3,
    encoder_channels=(32, 64, 128, 256),
    decoder_hidden=(256,),
    decoder_channels=(256, 128, 64, 32),
)
CARD = """\
# faces, version 1

Random weights, for load tests only: `python -m tests.load.faces`. It has the shapes of a variational autoencoder of
64x64x3 faces with 200 latent dimensions and knows none; its attributes are random directions.
"""


def main() -> None:
    """Write the bundle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("outdir", type=Path, metavar="OUTDIR", help="folder for `armoire serve --models`")
    try:
        folder = write(parser.parse_args().outdir)
    except TrainingError as error:
        parser.error(str(error))
    counts = {name: parameters(part) for name, part in model().named_children()}
    print(f"{folder}: {', '.join(f'{count:,} parameters in the {name}' for name, count in counts.items())}")


def write(models: Path) -> Path:
    """Write faces/1 into ``models``, in place of an older one; gives its folder.

    Raises:
        TrainingError: something else is there.
    """
    target = models / CONFIG.preset / "1"
    bundle.require_replaceable(target, force=True)
    autoencoder, images = model(), noise_images()
    with files.replacing(target) as folder:
        gaps = bundle.write_graphs(autoencoder, images, folder)
        directions = randomness.noise(CONFIG.seed, "directions", 2, CONFIG.latent_size).double().numpy()
        attributes = [
            # Their AUC is that of a guess.
            Attribute(f"random_{index}", direction, auc=0.5, auc_logistic=0.5, positives=0, negatives=0)
            for index, direction in enumerate(directions)
        ]
        means = aggregate.encode(autoencoder, images).mean.double().numpy()
        latent_space.save(folder / bundle.LATENT_SPACE, means, attributes, mixture=None)
        manifest = {
            "name": CONFIG.preset,
            "version": "1",
            **bundle.interface(autoencoder, images),
            "preprocessing": {"crop": None, "resize": [CONFIG.image_size] * 2, "pad": 0},
            "attributes": [attribute.as_dict() for attribute in attributes],
            "priors": ["normal"],
            "default_prior": "normal",
            "metrics": gaps,
            "training": {"data": "none: random weights", "seed": CONFIG.seed},
            "licence": "MIT",
        }
        bundle.finish(folder, manifest, CARD)
    return target


def model() -> Autoencoder:
    """The model with its random weights, in evaluation mode."""
    torch.manual_seed(CONFIG.seed)
    autoencoder = Autoencoder(CONFIG).eval()
    # Untrained logits hardly leave 0, and all pixels would be grey 128: give them the spread of trained ones.
    latents = randomness.noise(CONFIG.seed, "spread", 64, CONFIG.latent_size)
    with torch.no_grad():
        last = autoencoder.decoder.layers[-1]
        assert isinstance(last, nn.ConvTranspose2d)
        last.weight /= autoencoder.decoder(latents).std()
    return autoencoder


def noise_images() -> Tensor:
    """uint8 [64, 64, 64, 3], uniform."""
    generator = randomness.generator(CONFIG.seed, "images")
    return torch.randint(
        256,
        (64, CONFIG.image_size, CONFIG.image_size, CONFIG.image_channels),
        generator=generator,
        dtype=torch.uint8,
    )


def parameters(part: nn.Module) -> int:
    """How many numbers were to be learned."""
    return sum(parameter.numel() for parameter in part.parameters())


if __name__ == "__main__":
    main()
