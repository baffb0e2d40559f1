"""The models of one server, by name and version."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from armoire.errors import BadSettings, NotFound, quoted
from armoire.ops.autoencoder import Autoencoder

# Served first where it is there, since the newcomer's first command names no model.
PREFERRED = "fashion-mnist"


class Catalogue:
    """Finds a model for a request."""

    def __init__(self, autoencoders: Sequence[Autoencoder], default_model: str) -> None:
        """Order the models; ``default_model`` empty chooses one.

        Raises:
            BadSettings: no model is called ``default_model``.
        """
        self._models: dict[str, dict[str, Autoencoder]] = {}
        for autoencoder in sorted(autoencoders, key=lambda a: (a.manifest.name, int(a.manifest.version))):
            self._models.setdefault(autoencoder.manifest.name, {})[autoencoder.manifest.version] = autoencoder
        if default_model and default_model not in self._models:
            raise BadSettings(
                f"default_model is {default_model!r}, which is not served; there is {', '.join(self._models)}"
            )
        self.default_model = default_model or (
            PREFERRED if PREFERRED in self._models else next(iter(self._models))
        )

    def find(self, name: str, version: str, visible: Callable[[str], bool] = lambda _: True) -> Autoencoder:
        """Give a model; an empty name is the default model, an empty version the newest.

        Raises:
            NotFound: the name or the version is unknown. It lists the names that are ``visible`` to who asks.
        """
        versions = self._models.get(name or self.default_model)
        if versions is None:
            raise NotFound(f"model {quoted(name)} is unknown", filter(visible, self._models))
        version = version or max(versions, key=int)
        if version not in versions:
            raise NotFound(
                f"version {quoted(version)} of model {name or self.default_model!r} is unknown", versions
            )
        return versions[version]

    def __iter__(self) -> Iterator[Autoencoder]:
        """Go through all models, the default one first, then by name and version."""
        names = sorted(self._models, key=lambda name: (name != self.default_model, name))
        return (autoencoder for name in names for autoencoder in self._models[name].values())
