"""Tables whose transactions lose their answers, as when a coordinator dies."""

import asyncio
from collections import Counter

from ndcass.errors import TransactionUnknown
from ndcass.store.cassandra.driver import TransactionResult
from ndcass.store.cassandra.tables import Entry, Tables

APPLIED, LOST, LATE = "applied", "lost", "late"
# After the change was given up for lost, and before it is tried again.
LATE_BY_S = 0.15


class FlakyTables(Tables):
    """The same tables as others, with the same connections; transactions as `faults` says.

    ``APPLIED`` is made and not answered, ``LOST`` is neither, ``LATE`` is made a while after its
    caller was told that nobody knows. None, or nothing left: as ever. Of transactions whose
    statement has no `only_with` in it nothing is taken away.
    """

    def __init__(self, tables: Tables, *faults: str | None, only_with: str = "") -> None:
        vars(self).update(vars(tables))
        self.faults = list(faults)
        self.only_with = only_with
        self.counts: Counter[str] = Counter()
        self.late: list[asyncio.Task[TransactionResult]] = []

    async def transact(self, *entries: Entry) -> TransactionResult:
        concerned = self.only_with in entries[0][0]
        fault = self.faults.pop(0) if self.faults and concerned else None
        self.counts[fault or "whole"] += 1
        if fault is None:
            return await super().transact(*entries)
        if fault == APPLIED:
            await super().transact(*entries)
        if fault == LATE:
            self.late.append(asyncio.create_task(self._later(entries)))
        raise TransactionUnknown("nobody knows")

    async def _later(self, entries: tuple[Entry, ...]) -> TransactionResult:
        await asyncio.sleep(LATE_BY_S)
        return await super().transact(*entries)

    async def settled(self) -> list[bool]:
        """Wait for what comes late; whether each was made in the end."""
        return [(await task).applied for task in self.late]
