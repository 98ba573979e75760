"""The database file of an embedded store: connections, transactions, schema, errors.

What lives here: how SQLite is opened and asked, what its failures mean to us, the schema. What does
not: any statement about datasets, jobs, objects or labels (their modules).

A transaction runs on a thread of `run_cpu` with a connection of its own. Writers of a process queue
for an asyncio lock, so that one thread at most waits for the writers of other processes.
"""

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from ndcass.concurrency import run_cpu
from ndcass.errors import (
    AlreadyExists,
    Conflict,
    IncompatibleStore,
    InvalidRequest,
    StoreError,
    StoreFull,
    StoreTimeout,
    StoreUnavailable,
)
from ndcass.store.embedded.segments import store_error, sync_folder

T = TypeVar("T")

# STRICT tables came with it.
OLDEST_SQLITE = (3, 37, 0)
# How long a writer waits for those of other processes: a transaction takes milliseconds, and a
# request that waited longer has met its deadline anyway.
BUSY_TIMEOUT_S = 30.0
# A log that one large transaction blew up is cut back to this at the next checkpoint.
WAL_LIMIT_BYTES = 64 << 20
_RETRY_S = 0.01
# Rows of one transaction of a long delete: few enough that other writers hardly notice it.
DELETE_AT_ONCE = 20_000

# Resources are kept as the JSON of their fields, beside the columns that statements ask for. Names
# are the keys: they never change, and every answer shows them.
_FIRST_SCHEMA = """
-- Counts the changes of what a catalogue's cache may hold; see catalog.py.
CREATE TABLE catalog_version (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL
) STRICT;
INSERT INTO catalog_version VALUES (1, 1);

CREATE TABLE datasets (
    name    TEXT PRIMARY KEY,
    user_id INTEGER NOT NULL,
    fields  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE projects (
    name    TEXT PRIMARY KEY,
    dataset TEXT NOT NULL REFERENCES datasets ON DELETE CASCADE,
    user_id INTEGER NOT NULL,
    fields  TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX projects_of_dataset ON projects (dataset);

CREATE TABLE tokens (
    name    TEXT PRIMARY KEY,
    project TEXT NOT NULL REFERENCES projects ON DELETE CASCADE,
    user_id INTEGER NOT NULL,
    fields  TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_of_project ON tokens (project);

-- AUTOINCREMENT: the id of a deleted channel is never given to another one, whose voxels it would
-- then show.
CREATE TABLE channels (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    project    TEXT NOT NULL REFERENCES projects ON DELETE CASCADE,
    name       TEXT NOT NULL,
    is_default INTEGER NOT NULL CHECK (is_default IN (0, 1)),
    fields     TEXT NOT NULL,
    UNIQUE (project, name)
) STRICT;
CREATE UNIQUE INDEX one_default_a_project ON channels (project) WHERE is_default;

-- Beside `channels` and not in it: it changes with every object, and the row stays small.
CREATE TABLE object_ids (
    channel_id INTEGER PRIMARY KEY REFERENCES channels ON DELETE CASCADE,
    last       INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    name         TEXT NOT NULL UNIQUE,
    is_superuser INTEGER NOT NULL CHECK (is_superuser IN (0, 1))
) STRICT;

CREATE TABLE keys (
    hash    BLOB PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_of_user ON keys (user_id);

CREATE TABLE jobs (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT NOT NULL UNIQUE,
    kind         TEXT NOT NULL,
    channel_id   INTEGER NOT NULL,
    detail       TEXT NOT NULL,
    state        TEXT NOT NULL,
    done_units   INTEGER NOT NULL DEFAULT 0,
    total_units  INTEGER NOT NULL DEFAULT 0,
    error        TEXT NOT NULL DEFAULT '',
    created_s    REAL NOT NULL,
    owner        TEXT,
    lease_ends_s REAL,
    ended_s      REAL
) STRICT;
CREATE INDEX jobs_of_channel ON jobs (channel_id, number);
CREATE INDEX open_jobs ON jobs (number) WHERE state IN ('PENDING', 'STARTED');
CREATE INDEX ended_jobs ON jobs (ended_s) WHERE ended_s IS NOT NULL;

CREATE TABLE objects (
    channel_id INTEGER NOT NULL,
    id         INTEGER NOT NULL,
    fields     TEXT NOT NULL,
    PRIMARY KEY (channel_id, id)
) STRICT, WITHOUT ROWID;

-- What a query can ask for: every text and number among the fields of every object. ANY keeps the
-- kind, and numbers sort before texts.
CREATE TABLE object_values (
    channel_id INTEGER NOT NULL,
    field      TEXT NOT NULL,
    value      ANY NOT NULL,
    id         INTEGER NOT NULL,
    PRIMARY KEY (channel_id, field, value, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE labels (
    channel_id INTEGER NOT NULL,
    level      INTEGER NOT NULL,
    label      INTEGER NOT NULL,
    t          INTEGER NOT NULL,
    morton     INTEGER NOT NULL,
    PRIMARY KEY (channel_id, level, label, t, morton)
) STRICT, WITHOUT ROWID;
"""

# With a rowid: values may be large, and a walk over the keys reads an index without them.
_SIDE_RECORDS = """
CREATE TABLE side_records (
    channel_id INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    key        TEXT NOT NULL,
    value      BLOB NOT NULL,
    PRIMARY KEY (channel_id, kind, key)
) STRICT;
"""

# When an entry was appended last, by the monotonic clock; see labels.py.
_LABEL_AGES = """
ALTER TABLE labels ADD COLUMN noted_s REAL NOT NULL DEFAULT 0;
"""

# Ids that clients chose and whose objects may not be there yet; and which values are of lists, that
# are equal to each of their elements and neither less nor greater than anything.
_OBJECT_CLAIMS = """
ALTER TABLE object_values ADD COLUMN listed INTEGER NOT NULL DEFAULT 0;

CREATE TABLE object_claims (
    channel_id INTEGER NOT NULL,
    id         INTEGER NOT NULL,
    claimed_s  REAL NOT NULL,
    PRIMARY KEY (channel_id, id)
) STRICT, WITHOUT ROWID;
"""

# What each version adds to the one before it. An older file gets what it lacks when it is opened;
# one that is out never changes, another follows.
_STEPS = (_FIRST_SCHEMA, _SIDE_RECORDS, _LABEL_AGES, _OBJECT_CLAIMS)
SCHEMA_VERSION = len(_STEPS)


class Database:
    """One database file, for one event loop. Any number of processes may have it open."""

    def __init__(self, path: Path, watcher: sqlite3.Connection) -> None:
        self._path = path
        self._watcher = watcher
        self._writing = asyncio.Lock()
        # Connections that no thread uses at present; as many as threads ever ran at once.
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file, made if there is none. Blocks.

        Raises
        ------
        IncompatibleStore
            If it is no catalogue, or one of a newer ndcass.
        """
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            oldest = ".".join(map(str, OLDEST_SQLITE))
            raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old, ndcass needs {oldest}")
        _make_private(path)
        with sqlite_errors(), contextlib.closing(_connect(path)) as connection:
            _enter_wal(connection)
            _apply_schema(connection)
            # It waits for nobody, since it is asked on the event loop.
            watcher = _connect(path, busy_timeout_s=0)
        return cls(path, watcher)

    async def read(self, func: Callable[[sqlite3.Connection], T]) -> T:
        """`func` in one transaction: all that it reads is of one moment."""
        return await run_cpu(self._transact, "BEGIN", func)

    async def write(
        self,
        func: Callable[[sqlite3.Connection], T],
        *,
        committed: Callable[[], None] = lambda: None,
    ) -> T:
        """`func` in one transaction that is durable when this returns; undone if it raises.

        `committed` is called behind the commit, also if the caller is cancelled meanwhile.
        """
        async with self._writing:
            return await run_cpu(self._transact, "BEGIN IMMEDIATE", func, committed)

    def peek(self, select: str) -> int | None:
        """One number, asked on the calling thread; None if it cannot be had without waiting.

        Only for the event loop, and for a row that is read all the time and so is in memory.
        """
        try:
            number: int = self._watcher.execute(select).fetchone()[0]
        except sqlite3.Error:
            return None  # whoever asks in a transaction then meets the error, if there is one
        return number

    def check(self) -> None:
        """Ask for the version of the schema. Blocks; raises if the database cannot serve."""
        self._transact("BEGIN", _refuse_newer)

    def close(self) -> None:
        """Close what no thread uses at present; the others close what they have. Blocks."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        with sqlite_errors():
            for connection in (self._watcher, *idle):
                connection.close()

    def _transact(
        self,
        begin: str,
        func: Callable[[sqlite3.Connection], T],
        committed: Callable[[], None] = lambda: None,
    ) -> T:
        with sqlite_errors():
            connection = self._take()
            try:
                connection.execute(begin)
                result = func(connection)
                connection.execute("COMMIT")
                committed()
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.rollback()  # does nothing if the failure undid it all already
                self._give_back(connection)
                raise
            self._give_back(connection)
            return result

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            if self._idle:
                return self._idle.pop()
        return _connect(self._path)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed and not connection.in_transaction:
                self._idle.append(connection)
                return
        connection.close()


def _connect(path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        timeout=busy_timeout_s,
        isolation_level=None,  # transactions begin where we say so
        check_same_thread=False,  # several threads use it, one after the other
    )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
    return connection


def _make_private(path: Path) -> None:
    """An empty file that only its owner may read, if there is none: it will hold hashes of keys."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        sync_folder(path.parent)
    except OSError as error:
        raise store_error(error) from error


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log; SQLite does not wait for its lock here, so we do."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_S)


def _apply_schema(connection: sqlite3.Connection) -> None:
    """Make what a new or an older file lacks, in one transaction whoever else opens it too."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _refuse_newer(connection)
        if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise IncompatibleStore("the catalogue file is a database of another program")
        for step in _STEPS[version:]:
            for statement in step.split(";\n"):
                connection.execute(statement)
        if version < SCHEMA_VERSION:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _refuse_newer(connection: sqlite3.Connection) -> int:
    """The version of the schema; IncompatibleStore if we do not know it."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if not 0 <= version <= SCHEMA_VERSION:
        raise IncompatibleStore(
            f"the catalogue has schema version {version}, this ndcass knows up to {SCHEMA_VERSION}"
        )
    return version


# -- errors


@contextlib.contextmanager
def sqlite_errors() -> Iterator[None]:
    """Turn the errors of SQLite, and of handing values to it, into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(error) from error
    except UnicodeEncodeError as error:
        raise InvalidRequest("a text holds half of a surrogate pair, which is no text") from error
    except OverflowError as error:
        raise InvalidRequest("a number needs more than 64 bits") from error


def _translated(error: sqlite3.Error) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0)  # errors of the module itself have none
    if code in _UNIQUE:
        return AlreadyExists("the name is taken")
    if code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
        return Conflict("something that this belongs to is missing")
    if code == sqlite3.SQLITE_TOOBIG:
        return InvalidRequest("a value is too large for the store")
    if code in _NO_ROOM or _primary(code) == sqlite3.SQLITE_FULL:
        return StoreFull("no space is left in the store; nothing of this write was kept")
    if _is_busy(error):
        return StoreTimeout("the store is busy with other writes for too long")
    if _primary(code) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreError("the catalogue file is damaged")
    if isinstance(error, sqlite3.ProgrammingError) and not code:
        return StoreUnavailable("the store is closed")
    return StoreError(f"the catalogue failed: {getattr(error, 'sqlite_errorname', error)}")


_UNIQUE = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_ROWID,
}

# SQLite says FULL for a full disk only. A quota, or a limit of the size of a file, fails the write
# itself; a damaged disk does not, since that is met when the kernel writes back.
_NO_ROOM = {sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}


def _is_busy(error: sqlite3.Error) -> bool:
    code = _primary(getattr(error, "sqlite_errorcode", 0))
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _primary(code: int) -> int:
    """An extended code without its detail."""
    return code & 0xFF


# -- long deletes


class Key(NamedTuple):
    """A table whose primary key is the channel id and some more columns."""

    table: str
    columns: str  # behind the channel id, with commas


async def delete_rows(database: Database, key: Key, channel_id: int) -> int:
    """Delete every row of a channel, a bounded number a transaction; how many there were."""
    deleted = 0
    while some := await database.write(lambda db: _delete_first_rows(db, key, channel_id)):
        deleted += some
    return deleted


def _delete_first_rows(db: sqlite3.Connection, key: Key, channel_id: int) -> int:
    first_kept = db.execute(
        f"SELECT {key.columns} FROM {key.table} WHERE channel_id = ?"  # noqa: S608 - our own words
        f" ORDER BY {key.columns} LIMIT 1 OFFSET ?",
        (channel_id, DELETE_AT_ONCE),
    ).fetchone()
    delete = f"DELETE FROM {key.table} WHERE channel_id = ?"  # noqa: S608 - our own words
    if first_kept is None:
        return db.execute(delete, (channel_id,)).rowcount
    marks = ", ".join("?" * len(first_kept))
    return db.execute(
        f"{delete} AND ({key.columns}) < ({marks})", (channel_id, *first_kept)
    ).rowcount


# -- values


def signed(unsigned: int) -> int:
    """A number of 64 bits as SQLite keeps it: two's complement, so that small ones stay small.

    From 2^63 on the result is negative, and so sorts before the others.
    """
    if not 0 <= unsigned < 1 << 64:
        raise InvalidRequest(f"{unsigned} is no unsigned number of 64 bits")
    return unsigned - (1 << 64) if unsigned >> 63 else unsigned


def unsigned(signed: int) -> int:
    """The number that `signed` stands for."""
    return signed + (1 << 64) if signed < 0 else signed
