"""The tables of the store: from the numbered files in ``schema/`` to the keyspaces, once each.

A file begins with ``-- keyspace: ROLE...``: in which keyspaces it is applied, `ingest`, `archive`
and `meta`, some of which may be the same one. What was applied stands in the table
``schema_versions`` of the meta keyspace, with a checksum, so a file never changes once it is out:
another one follows.

Two who apply at once take turns by a lock in that table, a cell that goes by itself if its owner
dies. The table itself is made before anybody can hold a lock. Made twice at once under two ids a
table breaks the schema of the nodes, so its id is derived from what both see: when the keyspace was
made.
"""

import asyncio
import contextlib
import enum
import hashlib
import importlib.resources
import itertools
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ndcass.errors import (
    ConfigError,
    IncompatibleStore,
    StoreError,
    StoreTimeout,
    TransactionUnknown,
)
from ndcass.store.cassandra.driver import Consistency, Driver
from ndcass.store.cassandra.tables import Tables, pause

ROLES = ("ingest", "archive", "meta")
# Every node writes a change to its disk, one after the other: on busy disks that takes its time.
CHANGE_TIMEOUT_S = 60.0
# Longer than one change may take, and renewed before each: nobody else takes over meanwhile.
LOCK_S = 120
# How long another's turn is waited for.
MOST_WAITED_S = 600
_LOOK_AGAIN_S = 0.5
# How often a change is tried whose answer gets lost.
MOST_TRIES = 3

_FILE = re.compile(r"(\d{3})_([a-z0-9_]+)\.cql")
_HEADER = re.compile(r"-- keyspace: ([a-z ]+)\n")
_PIECE = re.compile(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/|;|.", re.DOTALL)
# What a file may do: it can be done twice, as happens if somebody dies between a statement and its
# entry in the table of versions.
_FORMS = re.compile(
    r"(CREATE TABLE IF NOT EXISTS|ALTER TABLE IF EXISTS|DROP TABLE IF EXISTS"
    r"|CREATE INDEX IF NOT EXISTS [a-z_]+ ON) ([a-z_]+)\b"
)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")

_CREATE_KEYSPACE = (
    "CREATE KEYSPACE IF NOT EXISTS {name} WITH replication ="
    " {{'class': 'NetworkTopologyStrategy', '{data_centre}': {replicas}}}"
)
_REPLICATION = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s"
_MADE_AT = "SELECT WRITETIME(durable_writes) FROM system_schema.keyspaces WHERE keyspace_name = %s"
_VERSION = "SELECT schema_version FROM system.local"
_TABLE = (
    "SELECT table_name FROM system_schema.tables"
    " WHERE keyspace_name = %s AND table_name = 'schema_versions'"
)
# Partition: one for all (scope is always 'schema'), so that the lock and what its owner notes are
# one transaction. Clustering: where and what. Static: the lock.
_CREATE_VERSIONS = (
    "CREATE TABLE IF NOT EXISTS {name}.schema_versions (scope text, keyspace_name text,"
    " version int, name text, checksum text, applied_at timestamp, lock_owner text static,"
    " PRIMARY KEY ((scope), keyspace_name, version))"
    " WITH ID = {table_id} AND comment = 'Files of schema/ that were applied'"
)
_SCOPE = "schema"
_APPLIED = "SELECT keyspace_name, version, name, checksum FROM schema_versions WHERE scope = ?"
_TAKE = "UPDATE schema_versions USING TTL ? SET lock_owner = ? WHERE scope = ? IF lock_owner = null"
_KEEP = "UPDATE schema_versions USING TTL ? SET lock_owner = ? WHERE scope = ? IF lock_owner = ?"
_LEAVE = "UPDATE schema_versions SET lock_owner = null WHERE scope = ? IF lock_owner = ?"
_OWNER = "SELECT DISTINCT scope, lock_owner FROM schema_versions WHERE scope = ?"
_NOTE = (
    "UPDATE schema_versions SET name = ?, checksum = ?, applied_at = toTimestamp(now())"
    " WHERE scope = ? AND keyspace_name = ? AND version = ? IF lock_owner = ?"
)


@dataclass(frozen=True, slots=True)
class Keyspace:
    """A keyspace, the one data centre it lives in, and on how many of its nodes each row is."""

    name: str
    data_centre: str
    replicas: int

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"{self.name!r} is no name of a keyspace")
        if self.replicas < 1:
            raise ConfigError(f"keyspace {self.name} must have at least 1 replica")


@dataclass(frozen=True, slots=True)
class Keyspaces:
    """Which keyspace has which role; with one tier all three are the same."""

    ingest: Keyspace
    archive: Keyspace
    meta: Keyspace

    def of_roles(self, roles: Sequence[str]) -> list[Keyspace]:
        """The keyspaces of some roles, each once."""
        return list(dict.fromkeys(getattr(self, role) for role in roles))


@dataclass(frozen=True, slots=True)
class SchemaFile:
    """One file of ``schema/``; statements name their tables without a keyspace."""

    version: int
    name: str
    roles: tuple[str, ...]
    statements: tuple[str, ...]

    @property
    def checksum(self) -> str:
        """Of what is done; comments and line breaks do not count."""
        return hashlib.sha256("\n".join(self.statements).encode()).hexdigest()


class State(enum.StrEnum):
    """What became of a file in a keyspace."""

    APPLIED = "applied"
    PENDING = "pending"
    CHANGED = "changed"  # since it was applied
    UNKNOWN = "unknown"  # to this ndcass


class Step(NamedTuple):
    """A file in one of its keyspaces; `file` is None for one that this ndcass does not have."""

    keyspace: str
    version: int
    name: str
    state: State
    file: SchemaFile | None


# -- files


def read_files() -> list[SchemaFile]:
    """The files that came with this ndcass, in order."""
    folder = importlib.resources.files("ndcass.schema")
    texts = {
        entry.name: entry.read_text("utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".cql")
    }
    return parse_files(texts)


def parse_files(texts: Mapping[str, str]) -> list[SchemaFile]:
    """Files by their names, in order.

    Raises
    ------
    ConfigError
        If two have one number, or one is not as a file must be.
    """
    files = sorted((_parse(name, text) for name, text in texts.items()), key=lambda f: f.version)
    for one, following in itertools.pairwise(files):
        if one.version == following.version:
            raise ConfigError(f"schema: {one.name} and {following.name} have one number")
    return files


def _parse(filename: str, text: str) -> SchemaFile:
    named, header = _FILE.fullmatch(filename), _HEADER.match(text)
    if named is None:
        raise ConfigError(f"schema: {filename} is not named NNN_name.cql")
    roles = tuple(header[1].split()) if header else ()
    if not roles or not set(roles) <= set(ROLES):
        raise ConfigError(f"schema: {filename} must begin with `-- keyspace:` and some of {ROLES}")
    statements = _statements(text)
    for statement in statements:
        if not _FORMS.match(statement):
            raise ConfigError(f"schema: {filename} must not do: {statement[:60]}")
    return SchemaFile(int(named[1]), named[0].removesuffix(".cql"), roles, statements)


def _statements(text: str) -> tuple[str, ...]:
    """Statements without their comments, each on one line."""
    pieces = [p for p in _PIECE.findall(text) if not p.startswith(("--", "/*"))]
    statements: list[list[str]] = [[]]
    for piece in pieces:
        if piece == ";":
            statements.append([])
        else:
            statements[-1].append(piece)
    on_one_line = (" ".join("".join(statement).split()) for statement in statements)
    return tuple(statement for statement in on_one_line if statement)


# -- what was applied


async def schema_status(driver: Driver, keyspaces: Keyspaces) -> list[Step]:
    """What became of every file, in order; changes nothing."""
    applied: dict[tuple[str, int], tuple[str, str]] = {}
    if await driver.run(_TABLE, (keyspaces.meta.name,)):
        rows = await _tables(driver, keyspaces).rows(_APPLIED, _SCOPE)
        # A row of nulls but its scope stands for the lock, where nothing was applied yet.
        applied = {(row[0], row[1]): (row[2], row[3]) for row in rows if row[0] is not None}
    steps = []
    for file in read_files():
        for keyspace in keyspaces.of_roles(file.roles):
            _, checksum = applied.pop((keyspace.name, file.version), ("", ""))
            state = State.CHANGED if checksum != file.checksum else State.APPLIED
            state = state if checksum else State.PENDING
            steps.append(Step(keyspace.name, file.version, file.name, state, file))
    used = {keyspace.name for keyspace in keyspaces.of_roles(ROLES)}
    steps += [
        Step(keyspace, version, name, State.UNKNOWN, None)
        for (keyspace, version), (name, _) in sorted(applied.items())
        if keyspace in used
    ]
    return steps


async def check_schema(driver: Driver, keyspaces: Keyspaces) -> None:
    """Make sure that the keyspaces and tables are those that this ndcass needs.

    Raises
    ------
    IncompatibleStore
        If a file is not applied, was changed since, or is unknown, or a keyspace has its copies
        elsewhere.
    """
    for keyspace in keyspaces.of_roles(ROLES):
        rows = await driver.run(_REPLICATION, (keyspace.name,))
        if rows:  # else its files are pending, too
            _refuse_other_copies(keyspace, rows[0][0])
    steps = await schema_status(driver, keyspaces)
    _refuse_foreign(steps)
    if any(step.state is State.PENDING for step in steps):
        raise IncompatibleStore("the store's schema is not complete: run `ndcass schema apply`")


def _refuse_foreign(steps: Sequence[Step]) -> None:
    for step in steps:
        if step.state is State.UNKNOWN:
            raise IncompatibleStore(
                f"the store's schema is newer than this ndcass: it has {step.name}"
            )
        if step.state is State.CHANGED:
            raise IncompatibleStore(
                f"the store's schema is another one: {step.name} was applied with other contents"
            )


# -- applying


async def apply_schema(
    driver: Driver,
    keyspaces: Keyspaces,
    *,
    report: Callable[[str], None] = lambda line: None,
) -> list[Step]:
    """Make the keyspaces and apply what is pending; what was done.

    Parameters
    ----------
    report : callable
        Is told what is being done, a line a step.

    Raises
    ------
    ConfigError
        If the cluster has no such data centre, or not enough nodes for the replicas.
    IncompatibleStore
        If the database is newer, has other contents, or has its copies elsewhere.
    StoreTimeout
        If somebody else is at it for too long, or took over.
    """
    for keyspace in keyspaces.of_roles(ROLES):
        await _make_keyspace(driver, keyspace, report)
    await _make_versions(driver, keyspaces.meta.name)
    lock = _Lock(_tables(driver, keyspaces))
    await lock.take(report)
    try:
        done = []
        steps = await schema_status(driver, keyspaces)
        _refuse_foreign(steps)
        for step in steps:
            if step.state is State.PENDING and step.file is not None:
                report(f"{step.keyspace}: {step.name}")
                for statement in step.file.statements:
                    await lock.keep()
                    cql = _FORMS.sub(rf"\1 {step.keyspace}.\2", statement, count=1)
                    await driver.run(cql, timeout_s=CHANGE_TIMEOUT_S)
                await lock.note(step.keyspace, step.file)
                done.append(step._replace(state=State.APPLIED))
        return done
    finally:
        await lock.leave()


async def _make_keyspace(driver: Driver, keyspace: Keyspace, report: Callable[[str], None]) -> None:
    rows = await driver.run(_REPLICATION, (keyspace.name,))
    if not rows:
        _check_nodes(driver, keyspace)
        report(f"{keyspace.name}: a keyspace in {keyspace.data_centre}")
        quoted = keyspace.data_centre.replace("'", "''")
        cql = _CREATE_KEYSPACE.format(
            name=keyspace.name, data_centre=quoted, replicas=keyspace.replicas
        )
        await driver.run(cql, timeout_s=CHANGE_TIMEOUT_S)
        # If somebody else was quicker, the node that is asked next may not have heard of it.
        await _agreement(driver)
        rows = await driver.run(_REPLICATION, (keyspace.name,))
    _refuse_other_copies(keyspace, rows[0][0])


def _refuse_other_copies(keyspace: Keyspace, replication: Mapping[str, str]) -> None:
    """The copies of a keyspace are where they are described, as many as that.

    Quorums are counted by the number that the keyspace has: with one copy every node alone is one.
    """
    found = {name: count for name, count in replication.items() if name != "class"}
    name, centre, replicas = keyspace.name, keyspace.data_centre, keyspace.replicas
    if set(found) != {centre}:
        raise IncompatibleStore(
            f"keyspace {name} is in {', '.join(found)} and must be in {centre} alone, so that "
            "transactions and quorums meet"
        )
    if found[centre] != str(replicas):
        raise IncompatibleStore(
            f"keyspace {name} has {found[centre]} copies in {centre}, where the settings say "
            f"{replicas}: change the settings, or, with the gateways stopped, run ALTER KEYSPACE "
            f"{name} WITH replication = {{'class': 'NetworkTopologyStrategy', '{centre}': "
            f"{replicas}}} and then a full repair (`ndcass cluster repair --keyspace {name}`)"
        )


async def _make_versions(driver: Driver, meta: str) -> None:
    """Make the table that holds the lock, so without one."""
    await _agreement(driver)  # on when the keyspace was made, by whomever
    if not await driver.run(_TABLE, (meta,)):
        [[made_at]] = await driver.run(_MADE_AT, (meta,))
        table_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{meta} {made_at} schema_versions")
        cql = _CREATE_VERSIONS.format(name=meta, table_id=table_id)
        await driver.run(cql, timeout_s=CHANGE_TIMEOUT_S)
    await _agreement(driver)  # for what one node knows another may not


async def _agreement(driver: Driver) -> None:
    """Wait until all nodes that are up have one schema, whoever changed it."""
    give_up_at = asyncio.get_running_loop().time() + CHANGE_TIMEOUT_S
    while True:
        addresses = [host.address for host in driver.hosts() if host.is_up]
        versions = {(await driver.run(_VERSION, address=a))[0] for a in addresses}
        if len(versions) == 1:
            return
        if asyncio.get_running_loop().time() > give_up_at:
            raise StoreTimeout("the nodes do not agree on the schema")
        await asyncio.sleep(_LOOK_AGAIN_S)


def _check_nodes(driver: Driver, keyspace: Keyspace) -> None:
    centres = [host.data_centre for host in driver.hosts()]
    found = centres.count(keyspace.data_centre)
    if not found:
        raise ConfigError(
            f"the cluster has no data centre {keyspace.data_centre}, where keyspace "
            f"{keyspace.name} is to be; it has {', '.join(sorted(set(centres)))}"
        )
    if found < keyspace.replicas:
        raise ConfigError(
            f"keyspace {keyspace.name} is to have {keyspace.replicas} replicas, but "
            f"{keyspace.data_centre} has {found} nodes"
        )


def _tables(driver: Driver, keyspaces: Keyspaces) -> Tables:
    meta = keyspaces.meta
    return Tables(driver, keyspace=meta.name, data_centre=meta.data_centre)


class _Lock:
    """The right to change the schema: of one owner at a time, for a while."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._owner = os.urandom(8).hex()

    async def take(self, report: Callable[[str], None]) -> None:
        """Wait for one's turn."""
        give_up_at = asyncio.get_running_loop().time() + MOST_WAITED_S
        told = False
        while not await self._changed(_TAKE, LOCK_S, self._owner, _SCOPE):
            if asyncio.get_running_loop().time() > give_up_at:
                raise StoreTimeout("somebody else is changing the schema for too long")
            if not told:
                report("waiting for somebody else who is changing the schema")
                told = True
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def keep(self) -> None:
        """Prolong it; StoreTimeout if it ran out."""
        if not await self._changed(_KEEP, LOCK_S, self._owner, _SCOPE, self._owner):
            raise StoreTimeout("it took so long that somebody else may be changing the schema")

    async def note(self, keyspace: str, file: SchemaFile) -> None:
        """Write down that a file was applied, if it is still one's turn."""
        values = (file.name, file.checksum, _SCOPE, keyspace, file.version, self._owner)
        # It may be written twice: it says the same.
        if not await self._changed(_NOTE, *values):
            raise StoreTimeout("it took so long that somebody else may be changing the schema")

    async def leave(self) -> None:
        """Let the next one; if that fails, the lock goes by itself."""
        with contextlib.suppress(StoreError):
            await self._tables.transact((_LEAVE, (_SCOPE, self._owner)))

    async def _changed(self, cql: str, *values: object) -> bool:
        """Whether a change was made, all of which may be made again by the owner of the lock."""
        for attempt in range(MOST_TRIES):
            await pause(attempt)
            with contextlib.suppress(TransactionUnknown):
                if (await self._tables.transact((cql, values))).applied:
                    return True
                return attempt > 0 and cql == _TAKE and await self._is_ours()
        raise StoreTimeout("whether the store made a change is unknown")

    async def _is_ours(self) -> bool:
        rows = await self._tables.rows(_OWNER, _SCOPE, consistency=Consistency.LOCAL_SERIAL)
        return any(owner == self._owner for _, owner in rows)
