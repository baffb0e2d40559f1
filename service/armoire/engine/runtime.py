"""A bundle's graphs on this machine: which provider takes them, and how they are loaded on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from armoire.engine import providers
from armoire.engine.graph import Graph
from armoire.engine.providers import CPU, Provider
from armoire.errors import BadSettings
from armoire.ops.bundle import Bundle


def load(bundle: Bundle, provider: Provider, lanes: int = 1) -> tuple[Graph, Graph]:
    """Load a bundle's encoder and decoder, each with the outputs that are served; errors as in Graph.

    Raises:
        BadSettings: the bundle has no decoder in the provider's precision.
    """

    def graph(name: Literal["encoder", "decoder"], outputs: list[str], precision: str) -> Graph:
        content, file = bundle.graph(name, provider.form)
        spec = bundle.manifest.graphs[name]
        return Graph(content, spec, outputs, provider, file=file, precision=precision, lanes=lanes)

    manifest = bundle.manifest
    if provider.precision == "fp16" and provider.form not in manifest.graphs["decoder"].variants:
        raise BadSettings(
            f"{manifest.name}/{manifest.version} has no decoder in fp16: export it again, or name cuda"
        )
    return (
        graph("encoder", ["mean", "log_variance"], "fp32"),
        graph("decoder", ["pixels"], provider.precision),
    )


def choose_provider(wanted: str, bundle: Bundle, max_batch: int) -> Provider:
    """Find the provider that ``wanted`` (auto, cpu, cuda, cuda-fp16, openvino) means here, by trying it on ``bundle``.

    Raises:
        BadSettings: it was named and does not work; the message says why.
    """
    if wanted == "cpu":
        return Provider(CPU)
    try:
        if wanted == "openvino":
            return _tried(providers.openvino, bundle)
        return _tried(lambda: providers.cuda(max_batch, fp16=wanted == "cuda-fp16"), bundle)
    except BadSettings as error:
        if wanted != "auto":
            raise BadSettings(f"provider is {wanted}, which does not work here: {error}") from None
        return Provider(
            CPU, why=f"provider auto takes the CPU: {error}", fallback=providers.built_with_cuda()
        )


def _tried(provider: Callable[[], Provider], bundle: Bundle) -> Provider:
    taken = provider()
    for graph in load(bundle, taken):
        graph.prove(graph.zeros(1))
    return taken
