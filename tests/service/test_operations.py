"""What the service answers, against a bare ONNX Runtime session on the same files and the formulas."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from armoire.client import Client
from armoire.errors import InvalidArgument
from armoire.ops import bundle
from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.tensors import to_tensor
from tests.serving import FASHION, PROVIDER, Running, cpu_only, serving

GOLDEN = bundle.read(FASHION).golden
D = 16


class Bare:
    """The two graphs without a service around them."""

    def __init__(self) -> None:
        self._encoder, self._decoder = (
            ort.InferenceSession(FASHION / name, providers=["CPUExecutionProvider"])
            for name in ("encoder.onnx", "decoder.onnx")
        )

    def encode(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tuple(self._encoder.run(["mean", "log_variance"], {"pixels": pixels}))

    def decode(self, z: np.ndarray) -> np.ndarray:
        return self._decoder.run(["pixels"], {"latents": z})[0]


@pytest.fixture(scope="module")
def bare() -> Bare:
    return Bare()


@pytest.fixture(scope="module")
def z() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((7, D), np.float32)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(buffer, "PNG")
    return buffer.getvalue()


@cpu_only
def test_decode_equals_the_bare_graph(client: Client, bare: Bare, z: np.ndarray) -> None:
    """Decode gives exactly the pixels that the decoder graph gives."""
    np.testing.assert_array_equal(client.decode(z), bare.decode(z))


@cpu_only
def test_encode_equals_the_bare_graph(client: Client, bare: Bare) -> None:
    """Encode gives exactly the mean and log-variance that the encoder graph gives."""
    posterior = client.encode(GOLDEN["pixels"])
    means, log_variances = bare.encode(GOLDEN["pixels"])
    np.testing.assert_array_equal(posterior.means, means)
    np.testing.assert_array_equal(posterior.log_variances, log_variances)


def test_image_files_encode_as_their_pixels(client: Client) -> None:
    """A PNG file of the model's size has the posterior of its pixels."""
    files = [png(pixels) for pixels in GOLDEN["pixels"]]
    np.testing.assert_array_equal(client.encode(files).means, client.encode(GOLDEN["pixels"]).means)


def test_a_28_pixel_garment_is_padded(client: Client) -> None:
    """A 28 x 28 file, as Fashion-MNIST has them, encodes as the padded 32 x 32 image."""
    inner = [png(pixels[2:-2, 2:-2]) for pixels in GOLDEN["pixels"]]
    np.testing.assert_array_equal(client.encode(inner).means, client.encode(GOLDEN["pixels"]).means)


def test_linear_interpolation_is_the_formula(client: Client, bare: Bare, z: np.ndarray) -> None:
    """Interpolate decodes z_a (1 - alpha) + z_b alpha for alpha from 0 to 1, both ends included."""
    walk = client.interpolate(z[:3], z[3:6], steps=5)
    alpha = np.linspace(0, 1, 5, dtype=np.float32)[None, :, None]
    wanted = z[:3, None] * (1 - alpha) + z[3:6, None] * alpha
    np.testing.assert_allclose(walk.latents, wanted, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(walk.latents[:, 0], z[:3])
    np.testing.assert_array_equal(walk.latents[:, -1], z[3:6])
    decoded = bare.decode(walk.latents.reshape(-1, D)).reshape(3, 5, 32, 32, 1)
    np.testing.assert_array_equal(walk.images, decoded)


def test_spherical_interpolation_keeps_to_the_sphere(client: Client, z: np.ndarray) -> None:
    """Between points of one length every step of a spherical walk has that length."""
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    walk = client.interpolate(unit[:3], unit[3:6], steps=9, path="spherical")
    np.testing.assert_allclose(np.linalg.norm(walk.latents, axis=-1), 1, rtol=1e-5)


def test_interpolation_between_images_starts_at_their_means(client: Client) -> None:
    """An image stands for its posterior mean, pixels on one side and files on the other."""
    start, end = GOLDEN["pixels"][:2], [png(pixels) for pixels in GOLDEN["pixels"][2:4]]
    walk = client.interpolate(start, end, steps=3)
    means = client.encode(GOLDEN["pixels"][:4]).means
    np.testing.assert_allclose(walk.latents[:, 0], means[:2], atol=1e-5)
    np.testing.assert_allclose(walk.latents[:, -1], means[2:], atol=1e-5)


def test_a_named_attribute_moves_by_its_direction(client: Client, bare: Bare, z: np.ndarray) -> None:
    """AddAttribute decodes z + strength x direction, with the bundle's own direction."""
    directions = bundle.read(FASHION).directions
    moved = client.add_attribute(z, {"bag": 0.5, "dress": -1.25})
    wanted = z + np.float32(0.5) * directions["bag"] - np.float32(1.25) * directions["dress"]
    np.testing.assert_allclose(moved.latents, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(moved.images, bare.decode(moved.latents))


def test_the_unit_scale_moves_by_strength(client: Client, z: np.ndarray) -> None:
    """At unit scale the length of the move is the strength, whatever the direction's length is."""
    for direction in ("sandal", np.full(D, 3, np.float32)):
        moved = client.add_attribute(z, direction, 2.0, unit=True)
        np.testing.assert_allclose(np.linalg.norm(moved.latents - z, axis=1), 2.0, rtol=1e-5)


def test_a_vector_and_an_absent_strength_move_by_the_vector(
    stub: pb_grpc.LatentServiceStub, z: np.ndarray
) -> None:
    """An explicit vector without a strength is added as it is."""
    vector = np.arange(D, dtype=np.float32) / 8
    reply = stub.AddAttribute(
        pb.AddAttributeRequest(
            points=pb.Points(latents=to_tensor(z)), edits=[pb.AttributeEdit(vector=to_tensor(vector))]
        )
    )
    np.testing.assert_array_equal(np.frombuffer(reply.latents.data, "<f4").reshape(z.shape), z + vector)


def test_examples_give_the_difference_of_their_means(client: Client, z: np.ndarray) -> None:
    """A direction shown by examples is the mean of the positives minus that of the negatives."""
    positives, negatives = z[:4] + 1, GOLDEN["pixels"]
    moved = client.add_attribute(z, (positives, negatives), 0.5)
    direction = positives.mean(0) - client.encode(negatives).means.mean(0)
    np.testing.assert_allclose(moved.latents, z + 0.5 * direction, rtol=1e-4, atol=1e-5)


def test_a_move_can_be_told_to_leave_attributes_alone(client: Client, bare: Bare, z: np.ndarray) -> None:
    """What moves is the direction less its part within those of the attributes named, by least squares."""
    arrays, names = np.load(FASHION / "latent_space.npz"), list(client.models()[0].attributes)
    rows = [names.index(name) for name in ("bag", "shirt", "coat")]
    bag, *others = arrays["attribute_directions"][rows].astype(np.float64)
    basis = np.stack(others, axis=1)
    left = bag - basis @ np.linalg.solve(basis.T @ basis, basis.T @ bag)
    moved = client.add_attribute(z, "bag", 2.0, orthogonal_to=["shirt", "coat"])
    np.testing.assert_allclose(moved.latents, z + 2 * left, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(moved.images, bare.decode(moved.latents))


def test_edits_of_several_kinds_add_up(
    stub: pb_grpc.LatentServiceStub, client: Client, z: np.ndarray
) -> None:
    """Examples, vectors and names in one call each meet their own strength."""
    points = [pb.Points(latents=to_tensor(z + k)) for k in range(4)]
    vector = np.ones(D, np.float32)
    edits = [
        pb.AttributeEdit(examples=pb.Examples(positives=points[3], negatives=points[0]), strength=2),
        pb.AttributeEdit(attribute="coat", strength=-1),
        pb.AttributeEdit(examples=pb.Examples(positives=points[1], negatives=points[2]), strength=10),
        pb.AttributeEdit(vector=to_tensor(vector), strength=100),
    ]
    reply = stub.AddAttribute(pb.AddAttributeRequest(points=pb.Points(latents=to_tensor(z)), edits=edits))
    moved = np.frombuffer(reply.latents.data, "<f4").reshape(z.shape)
    coat = bundle.read(FASHION).directions["coat"]
    np.testing.assert_allclose(moved, z + 2 * 3 - coat + 10 * -1 + 100, rtol=1e-4)


@pytest.mark.parametrize("prior", ["normal", "fitted"])
def test_the_first_rows_of_a_seed_are_always_the_same(client: Client, bare: Bare, prior: str) -> None:
    """The first 8 rows of count 64 are the 8 rows of count 8, and are what the graph makes of them."""
    few, many = (client.sample(count, seed=11, prior=prior) for count in (8, 64))
    np.testing.assert_array_equal(many.latents[:8], few.latents)
    np.testing.assert_array_equal(many.images[:8], few.images)
    np.testing.assert_array_equal(many.images, bare.decode(many.latents))


def test_priors_differ_and_an_empty_one_is_the_default(client: Client) -> None:
    """The empty prior is the one that ListModels calls the default; the other one draws other points."""
    default = client.models()[0].default_prior
    drawn = {name: client.sample(4, seed=1, prior=name).latents for name in ("", "normal", "fitted")}
    np.testing.assert_array_equal(drawn[""], drawn[default])
    assert not np.array_equal(drawn["normal"], drawn["fitted"])


def test_temperature_scales_the_normal_prior(client: Client) -> None:
    """Temperature 0.5 halves every point of the normal prior, 0 is the origin."""
    one, half, none = (client.sample(4, seed=5, temperature=t, prior="normal").latents for t in (1, 0.5, 0))
    np.testing.assert_allclose(half, one / 2, rtol=1e-6)
    assert not none.any()


def test_without_a_seed_the_server_draws_one_that_repeats(client: Client) -> None:
    """The seed of the reply gives the same images again, and two calls without one differ."""
    drawn, other = client.sample(3), client.sample(3)
    assert drawn.seed != other.seed
    again = client.sample(3, seed=drawn.seed)
    np.testing.assert_array_equal(again.images, drawn.images)


def test_a_seed_outlives_the_server_and_its_batch_mates(client: Client) -> None:
    """A restarted server under load gives the rows of the first, whatever else is in the batch: on a CPU to the bit."""
    off_by, equal = (0, 1.0) if PROVIDER == "cpu" else (1, 0.999)
    wanted = [client.sample(count, seed=count) for count in range(1, 25)]
    with serving(max_batch=16) as other, Client(other.address) as again, ThreadPoolExecutor(24) as callers:
        drawn = list(callers.map(lambda count: again.sample(count, seed=count), range(1, 25)))
    for a, b in zip(wanted, drawn, strict=True):
        np.testing.assert_array_equal(a.latents, b.latents)
        gaps = np.abs(a.images.astype(int) - b.images)
        assert gaps.max() <= off_by
        assert (gaps == 0).mean() >= equal


@cpu_only
def test_a_call_larger_than_a_batch_comes_back_in_order(client: Client, bare: Bare) -> None:
    """A thousand rows are cut into batches and put together again, row by row."""
    z = np.random.default_rng(0).standard_normal((1000, D), np.float32)
    np.testing.assert_array_equal(client.decode(z), bare.decode(z))


@pytest.mark.parametrize(
    ("image_format", "kind", "tolerance"),
    [(pb.IMAGE_FORMAT_PNG, "PNG", 0), (pb.IMAGE_FORMAT_JPEG, "JPEG", 40)],
)
def test_replies_can_be_image_files(
    stub: pb_grpc.LatentServiceStub,
    bare: Bare,
    z: np.ndarray,
    image_format: pb.ImageFormat,
    kind: str,
    tolerance: int,
) -> None:
    """Every operation answers with files on demand: PNG exactly, JPEG nearly the pixels."""
    points = pb.Points(latents=to_tensor(z))
    decoded = stub.Decode(pb.DecodeRequest(latents=to_tensor(z), image_format=image_format))
    edit = pb.AttributeEdit(attribute="bag", strength=0)
    edited = stub.AddAttribute(pb.AddAttributeRequest(points=points, edits=[edit], image_format=image_format))
    walked = stub.Interpolate(
        pb.InterpolateRequest(start=points, end=points, steps=2, image_format=image_format)
    )
    sampled = stub.Sample(pb.SampleRequest(count=7, image_format=image_format))
    for reply, wanted in (
        (decoded, bare.decode(z)),
        (edited, bare.decode(z)),
        (walked, bare.decode(z.repeat(2, axis=0))),
        (sampled, bare.decode(np.frombuffer(sampled.latents.data, "<f4").reshape(7, D))),
    ):
        assert len(reply.images.encoded.images) == len(wanted)
        for file, pixels in zip(reply.images.encoded.images, wanted, strict=True):
            picture = Image.open(io.BytesIO(file))
            assert picture.format == kind
            gap = np.abs(np.asarray(picture, np.int16) - pixels[..., 0])
            assert gap.max() <= tolerance


@cpu_only
def test_list_models_tells_what_is_served(client: Client) -> None:
    """The default model comes first, with its shape, attributes, priors, limits, provider and figures."""
    models = client.models()
    first = models[0]
    assert (first.name, first.version, first.image_shape, first.latent_size) == (
        "fashion-mnist",
        "1",
        (32, 32, 1),
        D,
    )
    assert first.provider == "CPUExecutionProvider"
    assert first.precision == "fp32"
    assert set(first.priors) == {"normal", "fitted"}
    assert len(first.attributes) == 10
    assert 0.5 < first.attributes["ankle_boot"]["auc"] <= 1
    assert first.limits == {"max_rows": 1024, "max_batch": 64, "max_queue_rows": 4096, "max_message_mib": 16}
    assert first.metrics["sum"] == pytest.approx(first.metrics["distortion"] + first.metrics["rate"])
    assert first.licence == "MIT"


def test_a_model_can_be_named_with_its_version(server: Running) -> None:
    """A named model answers in its own latent space."""
    with Client(server.address, model="fashion-mnist-2d", version="1") as client:
        assert client.sample(3, seed=1).latents.shape == (3, 2)


def test_rows_of_all_kinds_of_calls_share_a_batch(z: np.ndarray) -> None:
    """While the lanes are busy, a Decode, a Sample, an Interpolate and an AddAttribute gather and run as one."""
    with (
        serving() as running,
        Client(running.address) as client,
        ThreadPoolExecutor(5) as callers,
    ):
        value = running.server._metrics.registry.get_sample_value
        labels = {"model": "fashion-mnist", "graph": "decoder"}
        one = z[:1]
        with running.holding():
            first = callers.submit(client.decode, one)
            running.until_pending("decoder", 1)
            gathered = [
                callers.submit(client.decode, one),
                callers.submit(client.sample, 1),
                callers.submit(client.interpolate, one, one, 2),
                callers.submit(client.add_attribute, one, "bag"),
            ]
            running.until_pending("decoder", 6)
        for call in (first, *gathered):
            call.result(30)
        assert value("armoire_rows_total", labels) == 6
        assert value("armoire_batch_rows_count", labels) == 1


def test_the_rows_of_examples_count(client: Client, z: np.ndarray) -> None:
    """Points and the examples of all edits together keep to max_rows."""
    many = np.zeros((600, D), np.float32)
    with pytest.raises(InvalidArgument, match=r"edits\[0\]\.examples: 1207 rows, more than max_rows = 1024"):
        client.add_attribute(z, (many, many))
