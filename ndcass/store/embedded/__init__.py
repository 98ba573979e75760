"""The embedded engine: one folder on a local disk, for any number of processes of one machine.

::

    ndcass-store.json    what this folder is, and of which version
    catalog.token        changes whenever the names do
    catalog.sqlite       names, users, jobs, annotation objects, the label index, side records
    index.lmdb           where each cuboid is
    segments/            the cuboids

`open_embedded` opens it, made if the folder is new or empty.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ndcass.concurrency import run_cpu
from ndcass.errors import IncompatibleStore, StoreError, StoreTimeout
from ndcass.store.base import Health
from ndcass.store.embedded.catalog import EmbeddedCatalog
from ndcass.store.embedded.cuboids import EmbeddedCuboids
from ndcass.store.embedded.jobs import EmbeddedJobs
from ndcass.store.embedded.labels import EmbeddedLabels
from ndcass.store.embedded.objects import EmbeddedObjects
from ndcass.store.embedded.records import EmbeddedRecords
from ndcass.store.embedded.segments import store_error, sync_folder
from ndcass.store.embedded.sqlite import Database
from ndcass.store.embedded.token import ChangeToken

FORMAT = "ndcass embedded"
FORMAT_VERSION = 1
MARKER_NAME = "ndcass-store.json"
DATABASE_NAME = "catalog.sqlite"
TOKEN_NAME = "catalog.token"  # noqa: S105 - a file's name

# With less the next large write would fail half-way: a body of the usual limit and its copy.
FREE_FLOOR_BYTES = 256 << 20
# How long somebody may ask how a job ended.
KEEP_ENDED_JOBS_S = 30 * 86400.0
# Another process that opens the folder takes milliseconds.
OPEN_TIMEOUT_S = 30.0

_NEW_MARKER_NAME = f"{MARKER_NAME}.new"
# What may be in a folder that is new all the same.
_NOT_CONTENT = {_NEW_MARKER_NAME, "lost+found"}
_RETRY_S = 0.01


class EmbeddedStores:
    """One of each store on a folder; see `store.base.Stores`. For one event loop."""

    def __init__(
        self,
        folder: Path,
        database: Database,
        token: ChangeToken,
        cuboids: EmbeddedCuboids,
        *,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._database = database
        self.cuboids = cuboids
        self.stale = cuboids.stale
        self.jobs = EmbeddedJobs(database, now_s=now_s)
        self.catalog = EmbeddedCatalog(database, self.jobs, token)
        self.objects = EmbeddedObjects(database, now_s=now_s)
        self.labels = EmbeddedLabels(database)
        self.records = EmbeddedRecords(database)
        self.counts: Mapping[str, float] = {}

    async def health(self) -> Health:
        """As `Stores.health`."""
        return await run_cpu(self._health)

    def _health(self) -> Health:
        try:
            self._database.check()
            reason = self.cuboids.health()
            free_bytes = shutil.disk_usage(self._folder).free
        except StoreError as error:
            return Health(ready=False, reason=str(error))
        except OSError as error:
            return Health(ready=False, reason=str(store_error(error)))
        details = {"free_bytes": free_bytes}
        if not reason and free_bytes < FREE_FLOOR_BYTES:
            reason = f"less than {FREE_FLOOR_BYTES >> 20} MiB of disk are free"
        return Health(ready=not reason, reason=reason, details=details)

    async def maintain(self) -> None:
        """As `Stores.maintain`."""
        try:
            await self.cuboids.maintain()
        finally:  # on a full disk it may fail until what is left over is deleted, and the reverse
            await self._delete_left_over()
            await self.jobs.prune(older_than_s=KEEP_ENDED_JOBS_S)

    async def _delete_left_over(self) -> None:
        """See to the cuboids of a write that ended after its channel was deleted."""
        # In this order: a channel is in the catalogue before any voxel of it is in the index.
        stored = await self.cuboids.channel_ids()
        await self.catalog.delete_unknown(stored)

    async def close(self) -> None:
        """As `Stores.close`."""
        try:
            await self.cuboids.close()
        finally:
            await run_cpu(self._database.close)


async def open_embedded(folder: Path, *, now_s: Callable[[], float] = time.time) -> EmbeddedStores:
    """Open the store in a folder; a new or empty folder becomes one.

    Parameters
    ----------
    folder : Path
        On a local disk: the processes that share it lock each other out through the kernel.
    now_s : callable
        The wall clock of background jobs, in seconds since 1970.

    Raises
    ------
    IncompatibleStore
        If the folder holds something else, or a store of a newer ndcass.
    """
    return await run_cpu(_open, folder, now_s)


def _open(folder: Path, now_s: Callable[[], float]) -> EmbeddedStores:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder), contextlib.ExitStack() as undo:
            _check_marker(folder)
            database = Database.open(folder / DATABASE_NAME)
            undo.callback(database.close)
            token = ChangeToken.open(folder / TOKEN_NAME)
            cuboids = EmbeddedCuboids.open(folder)
            undo.pop_all()
            return EmbeddedStores(folder, database, token, cuboids, now_s=now_s)
    except OSError as error:
        raise store_error(error) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other openers of the folder out; a process that dies lets go of it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + OPEN_TIMEOUT_S
        while not _lock_now(fd):
            if time.monotonic() > deadline:
                raise StoreTimeout("another process is opening the store for too long")
            time.sleep(_RETRY_S)
        yield
    finally:
        os.close(fd)


def _lock_now(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_marker(folder: Path) -> None:
    """Make sure that the folder is a store of ours, or make it one if it is empty."""
    try:
        text = (folder / MARKER_NAME).read_bytes()
    except FileNotFoundError:
        if any(path.name not in _NOT_CONTENT for path in folder.iterdir()):
            raise IncompatibleStore(
                f"the folder is neither empty nor an ndcass store: it has no {MARKER_NAME}"
            ) from None
        _write_marker(folder)
        return
    format_name, version = _parsed_marker(text)
    if format_name != FORMAT:
        raise IncompatibleStore(f"the folder is a store of format {format_name!r}, not {FORMAT!r}")
    if version != FORMAT_VERSION:
        raise IncompatibleStore(
            f"the folder is a store of version {version}, this ndcass knows {FORMAT_VERSION}"
        )


def _parsed_marker(text: bytes) -> tuple[str, int]:
    try:
        marker = json.loads(text)
        return str(marker["format"]), int(marker["version"])
    except (ValueError, TypeError, KeyError) as error:
        raise IncompatibleStore(f"{MARKER_NAME} does not say what the folder is") from error


def _write_marker(folder: Path) -> None:
    """All of the file or nothing of it, whenever we are interrupted."""
    marker = json.dumps({"format": FORMAT, "version": FORMAT_VERSION})
    with (folder / _NEW_MARKER_NAME).open("w", encoding="ascii") as file:
        file.write(f"{marker}\n")
        file.flush()
        os.fsync(file.fileno())
    (folder / _NEW_MARKER_NAME).replace(folder / MARKER_NAME)
    sync_folder(folder)
