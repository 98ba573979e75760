"""Sweeps what pointers have left behind: writes that are in a base, and bases that nobody names.

Writes go no sooner than a read window after this process saw the pointer committed. (A reader whose
quorum answered partly before and partly after the fold could see neither writes nor base.) They go
by one range delete a cuboid with the watermark's timestamp, so that late copies of them are gone as
well. Bases go by a transaction, see ``pointers.py``, when no fold can be about to name them.

What waits here is kept in memory only. After a crash it is garbage that the next visit of the
bucket finds, and which then waits anew.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from ndcass.store.cassandra.buckets import BucketReader, Heads
from ndcass.store.cassandra.driver import Consistency, Driver, Statement
from ndcass.store.cassandra.fold import OnStep
from ndcass.store.cassandra.pointers import Pointers
from ndcass.store.cassandra.rows import WRITE, Bucket, Head, Pointer, timestamp_us
from ndcass.store.cassandra.tiers import Tier, Windows
from ndcass.store.clock import milliseconds_of, wall_clock_ms

# Clocks that count seconds differ by far less, but a node may be late as well.
SAFETY = 1.1

_DELETE = (
    "DELETE FROM cuboids USING TIMESTAMP ? "
    "WHERE channel=? AND pyramid=? AND level=? AND t=? AND bucket=? "
    "AND morton=? AND kind=? AND write_id<=?"
)


class _Seen(NamedTuple):
    """Pointers of a bucket (None: a cuboid without one) and since when they are known committed."""

    pointers: Mapping[int, Pointer | None]
    since_s: float


class Garbage(NamedTuple):
    """Rows of a cuboid that no reader needs."""

    writes: list[Head]
    bases: list[Head]


def garbage_of(cuboid: Heads) -> Garbage:
    """What of a cuboid is only left to be swept; of a base without a pointer nobody knows yet."""
    if cuboid.is_torn:
        return Garbage([], [])
    pointer = cuboid.pointer
    writes = [] if pointer is None else cuboid.writes[: -len(cuboid.unfolded) or None]
    named = pointer.base_id if pointer is not None else None
    return Garbage(writes, [base for base_id, base in cuboid.bases.items() if base_id != named])


class Sweeper:
    """What is to be swept, and doing it.

    Parameters
    ----------
    ingest : Tier
        Where writes are.
    now_ms : callable
        The wall clock, in milliseconds since 1970.
    monotonic_s : callable
        A clock that counts seconds.
    """

    def __init__(
        self,
        driver: Driver,
        ingest: Tier,
        reader: BucketReader,
        pointers: Pointers,
        windows: Windows,
        *,
        now_ms: Callable[[], int] = wall_clock_ms,
        monotonic_s: Callable[[], float] = time.monotonic,
        on_step: OnStep = lambda step: None,
    ) -> None:
        self._driver = driver
        self._ingest = ingest
        self._reader = reader
        self._pointers = pointers
        self._windows = windows
        self._now_ms = now_ms
        self._monotonic_s = monotonic_s
        self._on_step = on_step
        self._waiting: dict[Bucket, list[_Seen]] = {}
        self._busy: set[Bucket] = set()
        self.counts: Counter[str] = Counter()

    @property
    def wait_s(self) -> float:
        """How long folded writes stay after their pointer is known to be committed."""
        return self._windows.read_window_s * SAFETY + 2 * self._windows.max_clock_skew_ms / 1000

    @property
    def waiting(self) -> Collection[Bucket]:
        """Buckets with something to sweep, about in the order in which they are due."""
        return self._waiting.keys()

    def due(self) -> list[Bucket]:
        """Those that can be swept now."""
        return list(itertools.takewhile(lambda bucket: self.due_in_s(bucket) <= 0, self._waiting))

    def due_in_s(self, bucket: Bucket) -> float:
        """In how many seconds something of a bucket can be swept; 0 or less: now."""
        seen = self._waiting[bucket][0]
        return seen.since_s + self.wait_s - self._monotonic_s()

    def note_committed(self, bucket: Bucket, pointers: Mapping[int, Pointer | None]) -> None:
        """Have what these pointers left behind swept; they are committed as of now."""
        self._waiting.setdefault(bucket, []).append(_Seen(pointers, self._monotonic_s()))

    async def note_garbage(self, bucket: Bucket, mortons: Iterable[int]) -> None:
        """Have what somebody left behind swept, who has not lived to do it."""
        wanted = list(mortons)
        settled = await self._pointers.settled(bucket, wanted)
        self.note_committed(bucket, {morton: settled.get(morton) for morton in wanted})

    async def sweep(self, bucket: Bucket) -> None:
        """Sweep what is due of a bucket.

        Raises
        ------
        StoreError
            If the store fails; what was not swept stays noted.
        """
        seen = self._waiting.get(bucket, [])
        due = [one for one in seen if one.since_s + self.wait_s <= self._monotonic_s()]
        if not due or bucket in self._busy:
            return
        self._busy.add(bucket)
        try:
            await self._sweep(bucket, due)
        finally:
            self._busy.discard(bucket)
        del self._waiting[bucket]
        left = [one for one in seen if one not in due]
        if left:  # in the order in which they are due
            self._waiting[bucket] = left

    async def _sweep(self, bucket: Bucket, due: Sequence[_Seen]) -> None:
        known: dict[int, Pointer | None] = {}
        for one in due:  # the last one of a cuboid has the highest watermark
            known |= one.pointers
        heads = await self._reader.heads(bucket, sorted(known))
        settled = await self._pointers.settled(bucket, sorted(known))
        self._on_step("pointers settled")
        await self._drop_writes(bucket, known, settled, heads)
        await self._drop_bases(bucket, settled, heads)

    async def _drop_writes(
        self,
        bucket: Bucket,
        known: Mapping[int, Pointer | None],
        settled: Mapping[int, Pointer],
        heads: Mapping[int, Heads],
    ) -> None:
        statement = await self._driver.prepare(
            _DELETE, keyspace=self._ingest.keyspace, data_centre=self._ingest.data_centre
        )
        entries: list[tuple[Statement, Sequence[object]]] = []
        for morton, pointer in known.items():
            now = settled.get(morton)
            # Watermarks only grow; of a channel that was deleted there is no pointer any more.
            if pointer is None or now is None or now.watermark < pointer.watermark:
                continue
            stamp = timestamp_us(pointer.watermark)
            entries.append((statement, (stamp, *bucket, morton, WRITE, pointer.watermark)))
            if morton in heads:
                gone = [h for h in heads[morton].writes if h.write_id <= pointer.watermark]
                self.counts["rows"] += len(gone)
                self.counts["bytes"] += sum(head.size_bytes for head in gone)
        if entries:
            await self._driver.execute_batch(entries, consistency=Consistency.LOCAL_QUORUM)
            self._on_step("writes deleted")

    async def _drop_bases(
        self, bucket: Bucket, settled: Mapping[int, Pointer], heads: Mapping[int, Heads]
    ) -> None:
        """Drop the bases that no pointer names, but one that a fold may be about to name."""
        keep_s = self._windows.write_window_s + self._windows.read_window_s
        before_ms = self._now_ms() - keep_s * 1000 - 2 * self._windows.max_clock_skew_ms
        bases: list[tuple[int, bytes]] = []
        for morton, cuboid in heads.items():
            pointer = settled.get(morton)
            named = pointer.base_id if pointer is not None else None
            bases += [
                (morton, base_id)
                for base_id in cuboid.bases
                if base_id != named and milliseconds_of(base_id) < before_ms
            ]
        if not bases:
            return
        if await self._pointers.drop_bases(bucket, settled, bases):
            self.counts["bases"] += len(bases)
            self._on_step("bases deleted")
