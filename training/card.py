"""The model card: a bundle's README, written from its manifest so that no figure is typed by hand."""

from typing import Any


def text(manifest: dict[str, Any]) -> str:
    """Lay a manifest out for a reader, as Markdown."""
    metrics, training, image = manifest["metrics"], manifest["training"], manifest["image"]
    size = f"{image['height']}x{image['width']}x{image['channels']}"
    loss = "binary cross-entropy + KL" if manifest["likelihood"] == "bernoulli" else "Gaussian negative ELBO"
    parity = max(metrics["parity_encoder"], metrics["parity_decoder"])
    best = max(manifest["attributes"], key=lambda attribute: float(attribute["auc"]))
    return f"""\
# {manifest["name"]}, version {manifest["version"]}

A variational autoencoder of {training["data"]}: {size} images, {manifest["latent_size"]} latent dimensions. The
encoder gives q(z|x), a Gaussian with a mean and a log-variance per dimension; the decoder gives the mean image of
p(x|z).

## How good it is

On all {metrics["images"]:,} test images, in nats per image, one z per image:

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
on the test images.

## Attributes

A direction goes from the mean of all other classes to the mean of one class; strength 1 is the distance between the
two. The AUC tells how well the projection on it separates the class on test images (`{best["name"]}` best).

| attribute | norm | AUC |
|---|---|---|
{_attributes(manifest["attributes"])}

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

For demonstrations, teaching and tests. It knows small grey pictures of single items, centred on black, and turns
whatever else it is shown into one of them. Its pictures are smooth: the mean of p(x|z) averages over fine texture.

Data: {_source(training["data"])}
This model: {manifest["licence"]} licence.
"""


def _caution(likelihood: str) -> str:
    if likelihood == "bernoulli":
        return (
            "Binary cross-entropy on grey levels bounds no log-likelihood: compare it on the same data only."
        )
    return "The Gaussian's sigma is the one that training left, the same for every pixel."


def _attributes(attributes: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"| {entry['name']} | {entry['norm']:.2f} | {entry['auc']:.3f} |" for entry in attributes
    )


def _source(data: str) -> str:
    if data.startswith("Fashion-MNIST"):
        return "Fashion-MNIST, copyright 2017 Zalando SE, MIT (github.com/zalandoresearch/fashion-mnist)."
    return "MNIST, Yann LeCun and Corinna Cortes, CC BY-SA 3.0 (yann.lecun.com/exdb/mnist)."
