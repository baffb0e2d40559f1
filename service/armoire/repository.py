"""The models folder as it is served: what comes is loaded and proven, what goes is let go."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from armoire.config import Settings
from armoire.errors import BadBundle, StartError
from armoire.loading import Loader, Observers, StoppedError
from armoire.metrics import Metrics
from armoire.ops import bundle
from armoire.ops.autoencoder import Autoencoder
from armoire.ops.bundle import Bundle
from armoire.ops.catalogue import Catalogue

logger = logging.getLogger("armoire.server")
# Name, size, time of change and inode of every file of a bundle: whatever is done to it, they do not stay the same.
Fingerprint = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class _Served:
    fingerprint: Fingerprint
    model: Autoencoder


class Repository:
    """The bundles of one folder, as models.

    Every change makes a new catalogue. A call keeps the model that it began with: whoever takes the last hold off a
    model that has gone gives its memory back.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, observer: Observers, freed: Callable[[], None]
    ) -> None:
        """Read every bundle and verify its files.

        Args:
            settings: which folder, and how its models run.
            metrics: where to tell of them.
            observer: gives what is told of a graph's batches, by model and graph.
            freed: called, from any thread, when nobody holds a model any more that has gone.

        Raises:
            BadBundle: there is none, or one that cannot be served.
        """
        self._settings = settings
        self._metrics = metrics
        self._observer = observer
        self._freed = freed
        self._folder = settings.models
        self._begin: list[tuple[Fingerprint, Bundle]] = [
            (_fingerprint(folder), bundle.read(folder)) for folder in bundle.find(self._folder)
        ]
        self._served: dict[Path, _Served] = {}
        self._refused: dict[Path, Fingerprint] = {}
        self._seen: dict[Path, Fingerprint] = {}
        self._kept: set[Path] = set()
        self._loader: Loader | None = None
        self._stopped = threading.Event()

    @property
    def loader(self) -> Loader:
        """What loads models, once ``load`` has begun."""
        assert self._loader is not None, "nothing is loaded yet"
        return self._loader

    def load(self) -> Catalogue:
        """Load all of them, in this thread.

        Raises:
            BadBundle, BadSettings: one that cannot be served; then none is.
            StoppedError: ``close`` was called meanwhile.
        """
        first = self._begin[0][1]
        self._loader = Loader(self._settings, self._metrics, self._observer, first, self._stopped)
        for fingerprint, each in self._begin:
            self._served[each.folder] = _Served(fingerprint, self._loader.load(each))
        self._begin = []
        self._seen = {folder: served.fingerprint for folder, served in self._served.items()}
        catalogue = self._catalogue(self._served)
        # Only now: a start that fails says so in one line.
        if why := self._loader.provider.why:
            logger.info(why)
        self._metrics.provider_fallback.set(int(self._loader.provider.fallback))
        self._metrics.lanes.set(self._loader.lanes.count)
        for served in self._served.values():
            self._announce(served.model)
        self._calibrated(catalogue)
        return catalogue

    async def refresh(self, *, settled: bool) -> Catalogue | None:
        """Look at the folder again; give the new catalogue, None where it is the old one.

        Args:
            settled: leave a bundle alone until two looks have found it the same: it may be half copied.
        """
        found = await asyncio.to_thread(self._look)
        seen, self._seen = self._seen, found
        # Who asks has mended something, which need not show in a file.
        kept = self._refused if settled else {}
        self._refused = {folder: old for folder, old in kept.items() if folder in found}
        after = {folder: served for folder, served in self._served.items() if folder in found}
        for folder, fingerprint in found.items():
            served = self._served.get(folder)
            known = fingerprint in (served and served.fingerprint, self._refused.get(folder))
            if known or (settled and seen.get(folder) != fingerprint):
                continue
            try:
                model = await asyncio.to_thread(self._read_and_load, folder)
            except StoppedError:
                raise
            except Exception as error:
                self._refused[folder] = fingerprint
                self._metrics.model_changes.labels("refused").inc()
                instead = "the one that is served stays" if served else "it is not served"
                logger.error(
                    "%s/%s is refused, %s: %s",
                    folder.parent.name,
                    folder.name,
                    instead,
                    error,
                    exc_info=None if isinstance(error, StartError) else error,
                )
            else:
                self._refused.pop(folder, None)
                after[folder] = _Served(fingerprint, model)
        return self._swap(after)

    def close(self) -> None:
        """Let go of the threads, once no call is in flight."""
        self._stopped.set()
        if self._loader is not None:
            for served in self._served.values():
                served.model.close()
            self._loader.close()

    def _look(self) -> dict[Path, Fingerprint]:
        try:
            return {folder: _fingerprint(folder) for folder in bundle.find(self._folder)}
        except BadBundle:
            return {}  # no folder, or nothing in it

    def _read_and_load(self, folder: Path) -> Autoencoder:
        return self.loader.load(bundle.read(folder))

    def _swap(self, after: dict[Path, _Served]) -> Catalogue | None:
        """Serve ``after``, and what has gone only where nothing would be left without it."""
        gone = {folder: served for folder, served in self._served.items() if folder not in after}
        wanted = self._settings.default_model
        if not any(not wanted or served.model.manifest.name == wanted for served in after.values()):
            needed = {f: s for f, s in gone.items() if not wanted or s.model.manifest.name == wanted}
            after |= needed
            if not self._kept.issuperset(needed):
                names = ", ".join(f"{folder.parent.name}/{folder.name}" for folder in needed)
                logger.error(
                    "%s has gone from %s and is served on: nothing is left without it", names, self._folder
                )
            self._kept = set(needed)
        else:
            self._kept = set()
        before, self._served = self._served, after
        came = [served.model for folder, served in after.items() if before.get(folder) is not served]
        left = [served.model for folder, served in before.items() if after.get(folder) is not served]
        if not came and not left:
            return None
        for model in left:
            self._retire(model, replaced=model.where in {other.where for other in came})
        for model in came:
            self._announce(model)
            self._metrics.model_changes.labels("loaded").inc()
            logger.info("serving %s", model.where)
        catalogue = self._catalogue(after)
        self._calibrated(catalogue)
        return catalogue

    def _catalogue(self, served: dict[Path, _Served]) -> Catalogue:
        return Catalogue([each.model for each in served.values()], self._settings.default_model)

    def _calibrated(self, catalogue: Catalogue) -> None:
        """Publish what was measured of each model's newest version: the last of its name."""
        for model in catalogue:
            for graph, queue in model.queues.items():
                self._metrics.calibrated(
                    model.manifest.name, graph, queue.cost.measured, queue.cost.max_batch, queue.longest_delay
                )

    def _announce(self, model: Autoencoder) -> None:
        manifest = model.manifest
        self._metrics.model_info.labels(manifest.name, manifest.version, model.provider, model.precision).set(
            1
        )
        self._metrics.close_pixels.labels(manifest.name, manifest.version).set(model.deviation.close)
        if model.precision != "fp32":
            logger.info(
                "%s in %s: %.2f%% of the decoder's pixels are within 1 of 255 of the golden ones, all within %d",
                model.where,
                model.precision,
                100 * model.deviation.close,
                model.deviation.largest,
            )

    def _retire(self, model: Autoencoder, *, replaced: bool) -> None:
        manifest = model.manifest
        if not replaced:
            self._metrics.model_info.remove(manifest.name, manifest.version, model.provider, model.precision)
            self._metrics.close_pixels.remove(manifest.name, manifest.version)
            self._metrics.model_changes.labels("removed").inc()
        logger.info(
            "%s %s; its last calls are answered", model.where, "is replaced" if replaced else "is removed"
        )
        weakref.finalize(model, partial(_gone, model.where, self._freed)).atexit = False


def _gone(where: str, freed: Callable[[], None]) -> None:
    logger.info("the memory of the old %s is given back", where)
    freed()


def _fingerprint(folder: Path) -> Fingerprint:
    """Tell a bundle's files from what they were or will be, without reading them."""
    files = []
    try:
        for path in folder.iterdir():
            stat = path.stat()
            files.append((path.name, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    except OSError:  # it is being removed, or may not be read: the next look, or reading it, will tell
        return ()
    return tuple(sorted(files))
