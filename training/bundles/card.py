"""The model card: a bundle's README, written from its manifest so that no figure is typed by hand."""

from typing import Any

from training.data import celeba
from training.data.idx import EDITIONS


def text(manifest: dict[str, Any]) -> str:
    """Lay a manifest out for a reader, as Markdown."""
    metrics, training, image = manifest["metrics"], manifest["training"], manifest["image"]
    size = f"{image['height']}x{image['width']}x{image['channels']}"
    loss = "binary cross-entropy + KL" if manifest["likelihood"] == "bernoulli" else "Gaussian negative ELBO"
    parity = max(metrics["parity_encoder"], metrics["parity_decoder"])
    held_out = training["held_out"]
    return f"""\
# {manifest["name"]}, version {manifest["version"]}

A variational autoencoder of {training["data"]}: {size} images, {manifest["latent_size"]} latent dimensions. The
encoder gives q(z|x), a Gaussian with a mean and a log-variance per dimension; the decoder gives the mean image of
p(x|z).

## How good it is

On all {metrics["images"]:,} {held_out} images, in nats per image, one z per image:

| figure | value |
|---|---|
| distortion | {metrics["distortion"]:.2f} |
| rate under N(0, I) | {metrics["rate"]:.2f} |
| {loss} | {metrics["sum"]:.2f} |
| rate under the fitted prior | {metrics["rate_fitted_prior"]:.2f} |
| mean squared error, from the posterior mean | {metrics["mse"]:.5f} |
| active units | {metrics["active_units"]} of {manifest["latent_size"]} |
| KL of the aggregate posterior's moments from N(0, I) | {metrics["aggregate_gaussian_kl"]:.3f} |
| squared MMD of the aggregate posterior from N(0, I) | {metrics["aggregate_mmd"]:.5f} |

{_caution(manifest["likelihood"])}
Two priors are offered: N(0, I), and a mixture of {training["config"]["mixture_components"]} Gaussians fitted to the
encoded training images. The default is `{manifest["default_prior"]}`: under it the rate, and so the sum, is lower
on the {held_out} images.

## Attributes

{_attributes(manifest["attributes"], training)}

## How it was made

    python -m training fit {training["preset"]}
    python -m training export {training["preset"]}

{training["split"]}; seed {training["seed"]}, {training["epochs"]} epochs, {training["seconds"]} s.
Trained at commit `{training["commit"]}`.
`manifest.json` holds the whole configuration and the versions of the libraries.

The decoder is there in three forms: for OpenVINO (`decoder.openvino.onnx`), for GPUs in float16 (`decoder.fp16.onnx`)
and for everybody else. All graphs agree with PyTorch on real images and on latents out to +-6 in batches of 1, 2, 3, 7
and 64: means and log-variances to {parity:.1e}, {metrics["parity_unequal_pixels"]:.4%} of uint8 pixels unequal (by 1);
float16 to {metrics["parity_fp16"]:.1e} in the means.

## Use and limits

{_limits(training["data"], manifest["licence"])} Its pictures are smooth: the mean of p(x|z) averages over fine texture.

Data: {_source(training["data"], manifest["licence"])}
This model: {manifest["licence"]}.
"""


def _caution(likelihood: str) -> str:
    if likelihood == "bernoulli":
        return (
            "Binary cross-entropy on grey levels bounds no log-likelihood: compare it on the same data only."
        )
    return "The Gaussian's sigma is the one that training left, the same for every pixel."


def _attributes(attributes: list[dict[str, Any]], training: dict[str, Any]) -> str:
    if not attributes:
        return "None: the images came without labels."
    best = max(attributes, key=lambda attribute: float(attribute["auc"]))
    direction = (
        "A direction goes from the mean of all other classes to the mean of one class"
        if training["classes"]
        else "A direction goes from the mean of the images without an attribute to the mean of those with it"
    )
    if any(entry["strata"] for entry in attributes):
        direction += (
            ", averaged\nover the strata that the manifest names, so that none brings another one along"
        )
    rows = "\n".join(
        f"| {entry['name']} | {entry['norm']:.2f} | {entry['auc']:.3f} |" for entry in attributes
    )
    return f"""\
{direction}; strength 1 is the distance between the
two. The AUC tells how well the projection on it separates them on {training["held_out"]} images
(`{best["name"]}` best).

| attribute | norm | AUC |
|---|---|---|
{rows}"""


def _limits(data: str, licence: str) -> str:
    if licence == celeba.LICENCE:
        return (
            "For non-commercial research only, and not to be passed on: the terms of CelebA hold for what was made\n"
            "from it. It knows aligned photographs of celebrities, and with them the make of that collection: who is\n"
            "in it, who is not, and what its labels call attractive or young."
        )
    if data in {edition.name for edition in EDITIONS}:
        return (
            "For demonstrations, teaching and tests. It knows small grey pictures of single items, centred on black,\n"
            "and turns whatever else it is shown into one of them."
        )
    return "It knows images like those that it was trained on, and turns whatever else it is shown into one of them."


def _source(data: str, licence: str) -> str:
    if licence == celeba.LICENCE:
        return "CelebA, Liu, Luo, Wang and Tang, ICCV 2015 (mmlab.ie.cuhk.edu.hk/projects/CelebA.html)."
    if data not in {edition.name for edition in EDITIONS}:
        return f"{data}. Licence: {licence}."
    if data.startswith("Fashion-MNIST"):
        return "Fashion-MNIST, copyright 2017 Zalando SE, MIT (github.com/zalandoresearch/fashion-mnist)."
    return "MNIST, Yann LeCun and Corinna Cortes, CC BY-SA 3.0 (yann.lecun.com/exdb/mnist)."
