"""The model card: a bundle's README, written from its manifest so that no figure is typed by hand."""

from typing import Any

from training.data import celeba
from training.data.idx import EDITIONS
from training.evaluate import OF_EDITS, averaged
from training.measures import edits, few_labels


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
{_density(metrics)}| mean squared error, from the posterior mean | {metrics["mse"]:.5f} |
| the same as peak signal-to-noise ratio | {metrics["psnr"]:.2f} dB |
| active units | {metrics["active_units"]} of {manifest["latent_size"]} |
| KL of the aggregate posterior's moments from N(0, I) | {metrics["aggregate_gaussian_kl"]:.3f} |
| squared MMD of the aggregate posterior from N(0, I) | {metrics["aggregate_mmd"]:.5f} |

{_caution(manifest["likelihood"])}
{_spread(manifest["rate_per_dimension"])}
Two priors are offered: N(0, I), and {_mixture(manifest["mixture_components"])} fitted to the
encoded training images. The default is `{manifest["default_prior"]}`: under it the rate, and so the sum, is lower
on the {held_out} images.

{_evaluation(manifest["evaluation"], training)}
## Attributes

{_attributes(manifest["attributes"], manifest["evaluation"], training)}

## How it was made

    python -m training fit {training["preset"]}
    python -m training export {training["preset"]}{_out(manifest["licence"])}

{training["split"]}; seed {training["seed"]}, {training["epochs"]} epochs, {training["seconds"]} s.
Trained at commit `{training["commit"]}`.
`manifest.json` holds the whole configuration and the versions of the libraries.

{_forms(manifest["graphs"]["decoder"].get("variants", {}))}
All graphs agree with PyTorch on real images and on latents out to +-6 in batches of 1, 2, 3, 7 and 64: means and
log-variances to {parity:.1e}, {metrics["parity_unequal_pixels"]:.4%} of uint8 pixels unequal (by 1); float16 to
{metrics["parity_fp16"]:.1e} in the means.

## Use and limits

{_limits(training["data"], manifest["licence"])} Its pictures are smooth: the mean of p(x|z) averages over fine texture.

Data: {_source(training["data"], manifest["licence"])}
This model: {manifest["licence"]}.
"""


def _out(licence: str) -> str:
    """CelebA's bundles may not be where all others go by default."""
    return " --out ~/models" if licence == celeba.LICENCE else ""


def _mixture(components: int) -> str:
    return "a single Gaussian" if components == 1 else f"a mixture of {components} Gaussians"


def _forms(variants: dict[str, str]) -> str:
    """What each form of the decoder is for."""
    purposes = {"openvino": "for OpenVINO", "cuda-fp16": "for GPUs in float16"}
    own = [f"{purposes[provider]} (`{file}`)" for provider, file in variants.items()]
    if not own:
        return "The decoder is there in one form, for everybody."
    return f"The decoder is there {', '.join(own)} and for everybody else."


def _density(metrics: dict[str, Any]) -> str:
    """The line of what only a likelihood of real numbers has."""
    bits = metrics.get("bits_per_dimension")
    return "" if bits is None else f"| bits per dimension, of 255 steps of grey | {bits:.2f} |\n"


def _caution(likelihood: str) -> str:
    if likelihood == "bernoulli":
        return (
            "Binary cross-entropy on grey levels bounds no log-likelihood: compare it on the same data only."
        )
    return "The Gaussian's sigma is the one that training left, the same for every pixel."


def _spread(rates: list[float]) -> str:
    ranked = sorted(rates, reverse=True)
    return (
        f"KL per dimension, in nats: {ranked[0]:.2f} in the dimension that carries most, "
        f"{ranked[len(ranked) // 2]:.2f} in the middle one, {ranked[-1]:.2f} in the last."
    )


def _evaluation(found: dict[str, Any], training: dict[str, Any]) -> str:
    """What evaluate compared the model with; nothing where it was not run."""
    if not found:
        return ""
    lines = []
    if distances := found.get("frechet"):
        lines += [
            f"Fréchet distances from the {training['held_out']} images, in 64 features of a small classifier of the "
            "data's labels (no FID;",
            f"{distances['classifier_accuracy']:.1%} of its labels are right): reconstructions "
            f"{distances['reconstructions']:.2f}, samples of N(0, I) {distances['normal']:.2f}, of the fitted prior "
            f"{distances['fitted']:.2f};",
            f"as many training images are {distances['floor']:.2f} away.",
        ]
    if fid := found.get("fid"):
        lines.append(
            f"FID (torch-fidelity, {fid['images']:,} images on each side): reconstructions "
            f"{fid['reconstructions']:.2f}, samples of N(0, I) {fid['normal']:.2f}, of the fitted prior "
            f"{fid['fitted']:.2f}; as many training images {fid['floor']:.2f}."
        )
    if error := found.get("pca_mse"):
        lines.append(f"As many principal components have a mean squared error of {error:.5f}.")
    if near := found.get("neighbours"):
        lines.append(
            f"Samples are {near['samples_median']:.3f} from their nearest training image (median; root mean square at "
            f"16 x 16, pixels in [0, 1]),\nreconstructions of {training['held_out']} images "
            f"{near['held_out_median']:.3f}; {near['repeated']:.1%} of the samples are nearer than 99 % of those are."
        )
    if few := found.get("few_labels"):
        sizes = list(next(iter(few.values())))
        rows = [
            f"| {name} | " + " | ".join(f"{accuracy[size]:.3f}" for size in sizes) + " |"
            for name, accuracy in few.items()
        ]
        lines += [
            "",
            f"Logistic regression with few labels, balanced accuracy on {training['held_out']} images (mean over "
            f"{few_labels.DRAWS} draws of the labels, each",
            f"kind of features with the best of {len(few_labels.PENALTIES)} penalties on these very images):",
            "",
            "| features | " + " | ".join(f"{size} labels" for size in sizes) + " |",
            "|---" * (len(sizes) + 1) + "|",
            *rows,
        ]
    return "\n".join(lines) + "\n"


def _attributes(
    attributes: list[dict[str, Any]], evaluation: dict[str, Any], training: dict[str, Any]
) -> str:
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
            ", averaged\nover the strata that the manifest names, so that neither of these comes along"
        )
    edited = {name: found for name, found in evaluation.get("attributes", {}).items() if "images" in found}
    heads, rows = ["attribute", "norm", "AUC", "logistic"], []
    if edited:
        heads += OF_EDITS.values()
    for entry in attributes:
        cells = [entry["name"], f"{entry['norm']:.2f}", f"{entry['auc']:.3f}", f"{entry['auc_logistic']:.3f}"]
        if edited:
            found = edited.get(entry["name"], {})
            cells += [_at_strengths(found.get(key, {})) for key in OF_EDITS]
        rows.append("| " + " | ".join(cells) + " |")
    table = "\n".join(["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", *rows])
    return f"""\
{direction}; strength 1 is the distance between the
two. The AUC tells how well the projection on it separates them on {training["held_out"]} images
(`{best["name"]}` best), beside that of a logistic regression on the same latents.
{_of_edits(edited, evaluation, training, [entry["name"] for entry in attributes]) if edited else ""}
{table}"""


def _of_edits(
    edited: dict[str, Any], evaluation: dict[str, Any], training: dict[str, Any], names: list[str]
) -> str:
    """What the columns on edits say, and their means."""
    counts = [found["images"] for found in edited.values()]
    fewest, most = min(counts), max(counts)
    *first, last = (f"{strength:g}" for strength in edits.STRENGTHS)
    stray = (
        "share that turns into a third class"
        if training["classes"]
        else "mean share of which it changes its mind about another"
    )
    shown = averaged(names)
    means = [
        f"{label} {_at_strengths({str(each): evaluation.get(f'{key}_at_{each}') for each in edits.STRENGTHS})}"
        for key, label in OF_EDITS.items()
    ]
    return f"""
Flips, leakage and cycle cosine are at strengths {", ".join(first)} and {last}, judged on at most {edits.IMAGES} images
for each attribute (here on {fewest} to {most}): on those that lack it by a classifier's word. Flips: the share that has
it by the same word once it is added. Leakage: the {stray}, over the flips.
Cycle cosine: of the direction and the way from the encoded picture to the encoded edit.

Means over {"all" if len(shown) == len(names) else ", ".join(shown)}:
AUC {evaluation["auc"]:.3f} (logistic {evaluation["auc_logistic"]:.3f}); {"; ".join(means)}.
"""


def _at_strengths(values: dict[str, float | None]) -> str:
    """A figure at each strength; nothing leaks where nothing flips."""
    known = [values.get(str(strength)) for strength in edits.STRENGTHS]
    if all(value is None for value in known):
        return "-"
    return ", ".join("-" if value is None else f"{value:.2f}" for value in known)


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
