"""The models that a server holds, and their replacement by new versions while it serves. Imports the standard library.

A folder is looked at once in a while. When its manifest changed, the new version is loaded and compiled beside the old
one, which answers until then. A folder that cannot be read is tried again at the next look, since a save is two
renames and a copy takes time; if nothing has changed by then, it is refused, the old version stays, and `/ready` and
the log say so.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from probinfer.deploy.batcher import Batcher
from probinfer.deploy.forecasts import ServedForecaster
from probinfer.deploy.meter import Meter
from probinfer.deploy.refusals import NotReady, Unknown
from probinfer.deploy.served import Model, Several, load, signature, version_of
from probinfer.errors import ArtifactError, ProbinferError

logger = logging.getLogger("probinfer.serve")

_COMPILING = 4  # threads at most, since each takes memory
_ABSENT_LOOKS = 5  # a folder that is away for so many looks is not being replaced


class Slot:
    """The place of one model: the version that answers, its queue, and what is wrong with the folder.

    problem  why the folder's present content is not served; None if it is
    ready    the version is compiled
    """

    def __init__(self, served: Model, batcher: Batcher) -> None:
        self.served = served
        self.batcher = batcher
        self.ready = False
        self.problem: str | None = None
        self.seen = signature(served.path)
        self._refused: tuple[int, int, int] | None = None
        self._looks = 0  # that failed on what is there now
        self._failing: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        """Whether the folder holds something else than what is served or was refused."""
        found = signature(self.served.path)
        if found == self.seen:
            self.problem, self._refused, self._looks = None, None, 0
            return False
        return found is None or found != self._refused

    def failed(self, error: Exception) -> bool:
        """Remember that the folder could not be loaded; True if that is final until it changes again."""
        found = signature(self.served.path)
        self._looks = self._looks + 1 if found == self._failing else 1
        self._failing = found
        if self._looks < (_ABSENT_LOOKS if found is None else 2):
            return False
        news = self.problem is None or found != self._refused
        self._refused, self.problem = found, str(error)
        return news

    def replaced(self, served: Model, seen: tuple[int, int, int] | None) -> None:
        """Serve this version from now on. Questions that wait are answered by the version that they were asked of."""
        self.served, self.seen = served, seen
        self.problem, self._refused, self._looks = None, None, 0


class Models:
    """All models of a server by name; the first is the one meant where none is named."""

    def __init__(self, slots: Mapping[str, Slot], meter: Meter, most_rows: int) -> None:
        self.slots = dict(slots)
        self._meter, self._most_rows = meter, most_rows

    def slot(self, name: str | None) -> Slot:
        """Raises Unknown for a name that is none."""
        found = self.slots.get(name) if name is not None else next(iter(self.slots.values()))
        if found is None:
            raise Unknown(f"There is no model called {str(name)[:100]!r}; there are {', '.join(self.slots)}.")
        return found

    def answering(self, name: str | None, version: str | None = None) -> Slot:
        """The slot of a model that can be asked. Raises Unknown, and NotReady while it is compiled."""
        slot = self.slot(name)
        if version is not None and version != slot.served.version:
            raise Unknown(
                f"{slot.served.name} has no version {version[:100]!r}; the one served is {slot.served.version}."
            )
        if not slot.ready:
            raise NotReady(f"{slot.served.name} is being compiled; try again in a second.", retry_after=1)
        return slot

    @property
    def ready(self) -> bool:
        """Every model can be asked."""
        return all(slot.ready for slot in self.slots.values())

    async def warm(self) -> None:
        """Compile what is not compiled yet, one model after the other, while nobody is answered: with all cores."""
        threads = min(os.cpu_count() or 1, _COMPILING)
        for name, slot in self.slots.items():
            await asyncio.to_thread(slot.served.answers.compile, self._most_rows, threads)
            slot.ready = True
            logger.info("ready", extra={"model": name, "version": slot.served.version})

    async def watch(self, seconds: float) -> None:
        """Look for new versions for ever."""
        while True:
            await asyncio.sleep(seconds)
            for name in self.slots:
                await self.look(name)

    async def look(self, name: str) -> None:
        """Replace a model's version if there is a new one."""
        slot = self.slots[name]
        if not slot.changed():
            return
        seen = signature(slot.served.path)
        try:
            served = await asyncio.to_thread(self._loaded, name, slot.served.path)
        except (ProbinferError, OSError) as error:
            self._refuse(name, slot, error)
            return
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a new version, the old one goes on serving
            self._refuse(name, slot, error)
            return
        # if the folder was replaced meanwhile, the next look sees it: new versions may come faster than one is loaded
        known = [(entry.name, entry.dtype, entry.shape) for entry in slot.served.fields]
        if known != [(entry.name, entry.dtype, entry.shape) for entry in served.fields]:
            logger.warning("inputs changed", extra={"model": name, "version": served.version})
        older = slot.served.version
        slot.replaced(served, seen)
        await asyncio.to_thread(_give_back)
        self._meter.add("probinfer_reloads_total", name, "loaded")
        logger.info("reloaded", extra={"model": name, "version": served.version, "older": older})

    def _loaded(self, name: str, path: Path) -> Model:
        if signature(path) is None:
            raise ArtifactError(f"{path} is gone. The version loaded before goes on serving; put one there again.")
        version_of(path)
        served, older = load(name, path), self.slots[name].served
        if served.parts.keys() != older.parts.keys() or type(served) is not type(older):
            came, wanted = map(_what, (served, older))
            raise ArtifactError(f"{path} has {came}, and {name} is served with {wanted}. Start the server again.")
        served.answers.share(older.answers)
        served.answers.compile(self._most_rows, 1)  # beside what answers
        return served

    def _refuse(self, name: str, slot: Slot, error: Exception) -> None:
        if slot.failed(error):
            self._meter.add("probinfer_reloads_total", name, "refused")
            extra = {"model": name, "version": slot.served.version, "problem": str(error)}
            logger.error("new version refused", extra=extra)


def _what(served: Model) -> str:
    if isinstance(served, ServedForecaster):
        return "a forecaster"
    return f"the outcomes {', '.join(served.parts)}" if isinstance(served, Several) else "one outcome"


def _give_back() -> None:
    """Return what loading and compiling have freed to the system: glibc would keep it for good."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
