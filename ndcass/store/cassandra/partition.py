"""The catalogue's partition: reads, and changes that are transactions.

What lives here: how rows are read and changed together. What does not: what they mean
(``catalog.py``).

A change reads the version, then the rows it needs, and writes all that it changes as one batch
that applies only while the version is still the same: whoever is overtaken starts over. The version
is read at LOCAL_SERIAL, after which a majority holds everything up to it, so that the reads that
follow at LOCAL_QUORUM miss nothing of it. What they see beyond it is of a change that overtakes.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ndcass.errors import StoreError, StoreTimeout, TooLarge, TransactionUnknown
from ndcass.shared_calls import SharedCall
from ndcass.store.cassandra.driver import Consistency
from ndcass.store.cassandra.tables import Entry, Tables, is_key, pause
from ndcass.store.values import json_text

T = TypeVar("T")

SCOPE = "catalog"
# A batch has 65,535 statements at most. Ten times what a catalogue is expected to hold.
MOST_ROWS_A_CHANGE = 60_000
# Rows of one page of a listing; a row has some hundred bytes.
PAGE_ROWS = 2000
# How long it can be told which change made a version: longer than anybody waits for an answer.
CHANGE_KEPT_S = 86_400
# How many reads of the version are under way at once in a process; more share them.
CONFIRMATIONS = 4

# After an answer that was lost, how often the store is asked what happened, if it does not say.
ATTEMPTS_TO_SETTLE = 5

_CHANGE = "change"

_STATE = (
    "SELECT DISTINCT scope, version, last_channel_id, last_user_id FROM catalog WHERE scope = ?"
)
_VERSION = "SELECT DISTINCT scope, version FROM catalog WHERE scope = ?"
_ROW = "SELECT version, fields FROM catalog WHERE scope = ? AND kind = ? AND name = ? AND part = ?"
_PARTS = "SELECT version, part, fields FROM catalog WHERE scope = ? AND kind = ? AND name = ?"
_KIND = "SELECT version, name, fields FROM catalog WHERE scope = ? AND kind = ?"

_RAISE = (
    "UPDATE catalog SET version = ?, last_channel_id = ?, last_user_id = ? WHERE scope = ?"
    " IF version = ?"
)
_PUT = "INSERT INTO catalog (scope, kind, name, part, fields) VALUES (?, ?, ?, ?, ?)"
_SIGN = f"{_PUT} USING TTL ?"
_DROP = "DELETE FROM catalog WHERE scope = ? AND kind = ? AND name = ? AND part = ?"

# What a row holds, as JSON does.
Fields = Mapping[str, Any]


class Key(NamedTuple):
    """Where a row is; rows of one kind and name are a slice."""

    kind: str
    name: str
    part: str = ""


class Reads:
    """Reads at LOCAL_QUORUM, and the versions that they met.

    Reads that all met the same version saw the partition as it was at that version: a replica
    applies a change as a whole, and one that has the version has every row of it.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.versions: set[int] = set()
        # Set by who sees that reads do not fit together.
        self.is_torn = False

    async def row(self, key: Key) -> Fields | None:
        """The fields of one row; None if there is none."""
        if not all(map(is_key, key)):
            return None
        rows = await self._tables.rows(_ROW, SCOPE, *key)
        for version, fields in rows:
            self.versions.add(version)
            return _decoded(fields)
        return None

    async def parts(self, kind: str, name: str) -> dict[str, Fields]:
        """The rows of a slice by their part, in order."""
        if not is_key(name):
            return {}
        rows = await self._tables.rows(_PARTS, SCOPE, kind, name, page_rows=PAGE_ROWS)
        self.versions.update(version for version, _, _ in rows)
        return {part: _decoded(fields) for _, part, fields in rows}

    async def kind(self, kind: str) -> dict[str, Fields]:
        """The rows of a kind whose names have one part each, by name, in order."""
        rows = await self._tables.rows(_KIND, SCOPE, kind, page_rows=PAGE_ROWS)
        self.versions.update(version for version, _, _ in rows)
        return {name: _decoded(fields) for _, name, fields in rows}


class Change(Reads):
    """A transaction that is being put together; what it reads is what was there before it."""

    def __init__(self, tables: Tables, state: tuple[int | None, int | None, int | None]) -> None:
        super().__init__(tables)
        version, last_channel_id, last_user_id = state
        self.version = version
        self.last_channel_id = last_channel_id or 0
        self.last_user_id = last_user_id or 0
        self._skipped_versions = 0
        self._rows: dict[Key, Fields | None] = {}

    def put(self, key: Key, fields: Fields) -> None:
        """Write a row, or replace it."""
        self._rows[key] = fields

    def drop(self, key: Key) -> None:
        """Delete a row."""
        self._rows[key] = None

    def new_channel_id(self) -> int:
        """An id that no channel had before."""
        self.last_channel_id += 1
        return self.last_channel_id

    def new_user_id(self) -> int:
        """An id that no user had before."""
        self.last_user_id += 1
        return self.last_user_id

    def skip_versions(self, count: int) -> None:
        """Leave out versions that there may have been, of a catalogue that is older now."""
        self._skipped_versions = count

    def skip_channel_ids(self, up_to: int) -> None:
        """Give out no id up to this one from now on."""
        self.last_channel_id = max(self.last_channel_id, up_to)

    @property
    def next_version(self) -> int:
        """The version that this change makes."""
        return (self.version or 0) + 1 + self._skipped_versions

    def entries(self, change_id: str) -> list[Entry]:
        """The change as statements of one batch, signed with an id of its own."""
        if len(self._rows) > MOST_ROWS_A_CHANGE:
            raise TooLarge(
                "one change of names",
                asked=len(self._rows),
                limit=MOST_ROWS_A_CHANGE,
                unit="names",
            )
        raised = (self.next_version, self.last_channel_id, self.last_user_id, SCOPE, self.version)
        signature = (*_signature(self.next_version), json_text({"id": change_id}), CHANGE_KEPT_S)
        return [
            (_RAISE, raised),
            (_SIGN, (SCOPE, *signature)),
            *(
                (_DROP, (SCOPE, *key))
                if fields is None
                else (_PUT, (SCOPE, *key, json_text(fields)))
                for key, fields in self._rows.items()
            ),
        ]


class Partition:
    """All rows of the catalogue, and the one version that they share."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        # Own changes one after the other: together they would only overtake one another.
        self._changing = asyncio.Lock()
        self._confirm = SharedCall(self._read_version, limit=CONFIRMATIONS)

    def reads(self) -> Reads:
        """For a question that one read answers."""
        return Reads(self._tables)

    async def version(self) -> int | None:
        """The version now: not older than any change acknowledged before this was called."""
        return await self._confirm()

    async def last_channel_id(self) -> int:
        """The highest id that a channel has or had."""
        _, last_channel_id, _ = await self._state(Consistency.LOCAL_QUORUM)
        return last_channel_id or 0

    async def snapshot(self, question: Callable[[Reads], Awaitable[T]]) -> tuple[int | None, T]:
        """The answer of several reads as of one version, and that version (None: no row found).

        Raises
        ------
        StoreUnavailable
            If changes keep coming in between.
        """
        attempt = 0
        while True:
            await pause(attempt)
            reads = self.reads()
            answer = await question(reads)
            if len(reads.versions) <= 1 and not reads.is_torn:
                return next(iter(reads.versions), None), answer
            attempt += 1

    async def change(self, func: Callable[[Change], Awaitable[T]]) -> T:
        """Carry out a transaction: all that `func` puts and drops, or nothing if it raises.

        `func` is called again, with a new `Change`, when another change came in between.

        Raises
        ------
        StoreTimeout
            If it may or may not have happened, and the store does not answer to say so.
        StoreUnavailable
            If it could not be done for all the others who change something.
        """
        async with self._changing:
            return await self._change(func)

    async def _change(self, func: Callable[[Change], Awaitable[T]]) -> T:
        change_id = os.urandom(16).hex()
        # An attempt whose answer was lost: the version that it makes, and its result. It may still
        # come to pass, as long as nobody else makes that version.
        unsettled: tuple[int, T] | None = None
        attempt = 0
        while True:
            await pause(attempt)
            attempt += 1
            try:
                change = Change(self._tables, await self._state(Consistency.LOCAL_SERIAL))
                if unsettled is not None and unsettled[0] < change.next_version:
                    if await self._signer_of(unsettled[0]) == change_id:
                        return unsettled[1]
                    unsettled = None
            except StoreError as error:
                if unsettled is None:
                    raise
                if attempt >= ATTEMPTS_TO_SETTLE:
                    raise StoreTimeout("whether the change was made is unknown") from error
                continue
            result = await func(change)
            try:
                if (await self._tables.transact(*change.entries(change_id))).applied:
                    return result
            except TransactionUnknown:
                unsettled = (change.next_version, result)

    async def drop_quietly(self, keys: Sequence[Key]) -> None:
        """Delete rows that no cache holds and no change asks for; the version stays.

        None of them, if the first is gone already: somebody else is at it.
        """
        first, *others = [(_DROP, (SCOPE, *key)) for key in keys]
        await self._tables.transact((f"{_DROP} IF EXISTS", first[1]), *others)

    async def _signer_of(self, version: int) -> str:
        """The id of the change that made a version; empty if it is too long ago."""
        key = _signature(version)
        rows = await self._tables.rows(_ROW, SCOPE, *key, consistency=Consistency.LOCAL_SERIAL)
        return next((str(_decoded(fields)["id"]) for _, fields in rows), "")

    async def _state(self, consistency: Consistency) -> tuple[int | None, int | None, int | None]:
        rows = await self._tables.rows(_STATE, SCOPE, consistency=consistency)
        for _, version, last_channel_id, last_user_id in rows:
            return version, last_channel_id, last_user_id
        return None, None, None

    async def _read_version(self) -> int | None:
        rows = await self._tables.rows(_VERSION, SCOPE)
        return next((version for _, version in rows), None)


def _signature(version: int) -> Key:
    """The row that says which change made a version."""
    return Key(_CHANGE, f"{version:016x}")


def _decoded(fields: str) -> Fields:
    decoded: Fields = json.loads(fields)
    return decoded
