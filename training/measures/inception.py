"""FID proper: the Fréchet distance in the features of Inception-v3, as torch-fidelity computes them.

Neither the package nor its weights come with this one: `pip install torch-fidelity`, with the torchvision that belongs
to the torch that is installed, and the file of weights that torch-fidelity's documentation names.
"""

from pathlib import Path

import torch
from torch import Tensor

from training import progress
from training.errors import TrainingError

FEATURES = 2048  # as many images are the fewest whose covariance has full rank
ROWS = 50


class Inception:
    """The network, with its weights from a file."""

    def __init__(self, weights: Path) -> None:
        """Load it.

        Raises:
            TrainingError: no torch-fidelity here, or no weights of its Inception in the file.
        """
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except Exception as error:  # torchvision beside another torch raises RuntimeError
            raise TrainingError(
                f"--inception needs torch-fidelity, which cannot be imported here ({error}): pip install torch-fidelity"
            ) from None
        try:
            # The package would unpickle whatever the file holds: so it is read as tensors alone first.
            torch.load(weights, weights_only=True)
            self._network = FeatureExtractorInceptionV3(
                "inception-v3-compat", [str(FEATURES)], feature_extractor_weights_path=str(weights)
            )
        except Exception as error:  # of a damaged file torch raises what it likes
            raise TrainingError(
                f"{weights} holds no weights of torch-fidelity's Inception ({type(error).__name__}): "
                "--inception wants its weights-inception-2015-12-05-6726825d.pth"
            ) from None

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features float64 [n, 2048] of uint8 [n, h, w, c]; grey images are seen as colours."""
        parts = []
        for batch in progress.bar(torch.split(images, ROWS), desc="inception"):
            pixels = batch.permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
            (found,) = self._network(pixels)
            parts.append(found)
        return torch.cat(parts).double()
