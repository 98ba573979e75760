"""Folding in the background and by command: which buckets, when, and how fast.

A visit of a bucket folds what is to be folded and sweeps what is to be swept; any process may make
it at any time. Visited are buckets of the queue (``fold_queue.py``), with two tiers all that have
writes in ``ingest`` for too long, and by command all of a channel.
"""

import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from ndcass.errors import ConfigError, CorruptValue, StoreError
from ndcass.store.cassandra.buckets import Heads
from ndcass.store.cassandra.crowding import CROWDED_ROWS
from ndcass.store.cassandra.cuboids import CassandraCuboids
from ndcass.store.cassandra.driver import Consistency, Driver
from ndcass.store.cassandra.fold import (
    BucketFolder,
    IsLive,
    OnStep,
    Outcome,
    Pace,
    always_live,
    refuse_wrong_clock,
    settled_after_ms,
)
from ndcass.store.cassandra.fold_queue import SHARDS, FoldQueue, Noted
from ndcass.store.cassandra.pointers import Pointers
from ndcass.store.cassandra.rows import Bucket, Head
from ndcass.store.cassandra.sweep import Sweeper, garbage_of
from ndcass.store.cassandra.tables import Tables
from ndcass.store.cassandra.writing import RowWriter
from ndcass.store.clock import SteadyClock, milliseconds_of
from ndcass.store.folding import Amount, FoldedPart, Whereabouts

logger = logging.getLogger(__name__)

MIB = 1 << 20
# A process that died is replaced after this time.
LEASE_S = 120
# Buckets of `ingest` that are looked at together.
PATROL_ROWS = 64
PATROL = "patrol"
# Visits that are remembered as "not before"; forgetting one costs a visit.
MOST_REMEMBERED = 100_000

# How often one visit begins anew because others fold the same bucket.
MOST_LOST = 3
LOOK_AGAIN_S = 60.0

_IN_INGEST = "SELECT DISTINCT channel, pyramid, level, t, bucket FROM cuboids"


@dataclass(frozen=True, slots=True)
class FoldSettings:
    """When and how fast to fold; see ``conf/README.md``.

    Attributes
    ----------
    rows : int
        A cuboid with more unfolded writes is folded.
    drain_after_s : float
        With two tiers: a write is drained when it is older.
    bytes_per_s : float
        The most that one process reads and writes for folding.
    step_s : float
        The longest that one step in the background works before others of its process may.
    """

    rows: int = CROWDED_ROWS
    drain_after_s: float = 300.0
    bytes_per_s: float = 64.0 * MIB
    step_s: float = 20.0

    def __post_init__(self) -> None:
        if self.rows < 1 or min(self.drain_after_s, self.bytes_per_s, self.step_s) <= 0:
            raise ConfigError("the settings of folding must be above 0")


class CassandraFolding:
    """See `store.folding.Folding`.

    Attributes
    ----------
    folder : BucketFolder
    sweeper : Sweeper
    queue : FoldQueue
    """

    def __init__(
        self,
        driver: Driver,
        cuboids: CassandraCuboids,
        writer: RowWriter,
        settings: FoldSettings,
        *,
        is_live: IsLive = always_live,
        now_ms: Callable[[], int] | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
        on_step: OnStep = lambda step: None,
    ) -> None:
        tiers, windows = cuboids.tiers, cuboids.windows
        tables = Tables(driver, keyspace=tiers.meta.keyspace, data_centre=tiers.meta.data_centre)
        pointers = Pointers(driver, tiers.archive)
        self._driver = driver
        cuboids.crowding.more_than = settings.rows
        self._cuboids = cuboids
        self._settings = settings
        # A watermark from a clock that was set ahead would pass over writes under way.
        self._steady = SteadyClock()
        now_ms = now_ms or self._steady
        self._now_ms = now_ms
        self._monotonic_s = monotonic_s
        self._on_step = on_step
        self.folder = BucketFolder(
            cuboids.buckets,
            writer,
            pointers,
            cuboids.clock,
            windows,
            is_checked=not tiers.is_single,
            pace=Pace(settings.bytes_per_s),
            is_live=is_live,
            now_ms=now_ms,
            on_step=on_step,
        )
        self.sweeper = Sweeper(
            driver,
            tiers.ingest,
            cuboids.buckets,
            pointers,
            windows,
            now_ms=now_ms,
            monotonic_s=monotonic_s,
            on_step=on_step,
        )
        self.queue = FoldQueue(tables, owner=f"{os.getpid()}-{os.urandom(8).hex()}")
        self._not_before_s: dict[Bucket, float] = {}
        self._patrol_state: bytes | None = None

    @classmethod
    async def open(
        cls,
        driver: Driver,
        cuboids: CassandraCuboids,
        settings: FoldSettings,
        *,
        is_live: IsLive = always_live,
        now_ms: Callable[[], int] | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
        on_step: OnStep = lambda step: None,
    ) -> "CassandraFolding":
        """On tables that exist."""
        archive = cuboids.tiers.archive
        writer = await RowWriter.prepare(driver, archive.keyspace, archive.data_centre)
        return cls(
            driver,
            cuboids,
            writer,
            settings,
            is_live=is_live,
            now_ms=now_ms,
            monotonic_s=monotonic_s,
            on_step=on_step,
        )

    def clock_is_right(self) -> None:
        """Note that the wall clock was just compared with those of the nodes."""
        self._steady.checked()

    @property
    def counts(self) -> Counter[str]:
        """What was folded and swept by this process, and what waits in it."""
        folded, swept = self.folder.counts, self.sweeper.counts
        counts: Counter[str] = Counter()
        counts.update({f"folded_{name}": count for name, count in folded.items()})
        counts.update({f"swept_{name}": count for name, count in swept.items()})
        counts["sweeps_pending"] = len(self.sweeper.waiting)
        counts["buckets_waiting"] = len(self._not_before_s) + len(self._cuboids.crowding)
        if not self._cuboids.tiers.is_single:
            counts["drained_bytes"] = folded["bytes"]
        return counts

    # -- one bucket

    async def visit(
        self, bucket: Bucket, *, more_than: int, when_older_than_ms: int = 0
    ) -> tuple[Outcome, float | None]:
        """Fold and sweep what can be; the sum of it, and in how many seconds to come again.

        None means that nothing is left to do for now. Other parameters as `BucketFolder.fold`.
        """
        refuse_wrong_clock(self._cuboids.clock_fault)
        await self.sweeper.sweep(bucket)
        whole = Outcome({})
        lost = 0
        while True:
            part = await self.folder.fold(
                bucket, more_than=more_than, when_older_than_ms=when_older_than_ms
            )
            if part.moved:
                self.sweeper.note_committed(bucket, part.moved)
            whole.heads = part.heads
            whole.moved |= part.moved
            whole.rows += part.rows
            whole.size_bytes += part.size_bytes
            lost += part.is_lost
            if part.is_complete or lost >= MOST_LOST:
                break
        if bucket not in self.sweeper.waiting:
            mortons = [m for m, cuboid in part.heads.items() if any(garbage_of(cuboid))]
            if mortons:
                await self.sweeper.note_garbage(bucket, mortons)
        return whole, self._again_in_s(bucket, part, more_than)

    def _again_in_s(self, bucket: Bucket, last: Outcome, more_than: int) -> float | None:
        """When there is something to do: a sweep, or writes that are too young at present."""
        waits: list[float] = []
        if bucket in self.sweeper.waiting:
            waits.append(self.sweeper.due_in_s(bucket))
        for morton, cuboid in last.heads.items():
            young = cuboid.unfolded
            moved = last.moved.get(morton)
            if moved is not None:
                young = [head for head in young if head.write_id > moved.watermark]
            if len(young) > more_than:
                ready_ms = milliseconds_of(young[more_than].write_id)
                ready_ms += settled_after_ms(self._cuboids.windows)
                wait_s = (ready_ms - self._now_ms()) / 1000
                # What is ready and was not folded is damaged, or another is at it.
                waits.append(wait_s if wait_s > 0 else LOOK_AGAIN_S)
        return max(0.0, min(waits)) if waits else None

    # -- a channel, by command

    async def count(self, channel_id: int) -> int:
        """As `Folding.count`."""
        return sum([len(page) async for page in self._cuboids.occupancy.walk(channel_id)])

    async def fold_channel(
        self, channel_id: int, *, drain: bool, after: Sequence[int] = ()
    ) -> AsyncIterator[FoldedPart]:
        """As `Folding.fold_channel`."""
        last = Bucket(*after) if after else None
        more_than = 0 if drain else self._settings.rows
        async for page in self._cuboids.occupancy.walk(channel_id, after=last):
            for bucket in page:
                if bucket == last:  # a walk begins with it
                    continue
                # Before it is folded: whatever happens then, somebody will sweep.
                await self.queue.note([bucket])
                self._on_step("bucket noted")
                try:
                    done, _ = await self.visit(bucket, more_than=more_than)
                except CorruptValue as error:
                    # Those behind it are worth folding all the same.
                    logger.warning("a bucket cannot be folded: %s", error)
                    self.folder.counts["buckets_damaged"] += 1
                    yield FoldedPart(bucket, 1, 0, 0, 0, damage=str(error))
                    continue
                await self._sweep_due(time.monotonic() + self._settings.step_s)
                yield FoldedPart(bucket, 1, len(done.moved), done.rows, done.size_bytes)

    async def whereabouts(self, channel_id: int) -> Whereabouts:
        """As `Folding.whereabouts`."""
        unfolded = folded = to_sweep = Amount()
        newest_ms = last_moved_ms = 0
        async for page in self._cuboids.occupancy.walk(channel_id):
            for bucket in page:
                for cuboid in (await self._cuboids.buckets.heads(bucket)).values():
                    writes, garbage, base = cuboid.unfolded, garbage_of(cuboid), cuboid.base
                    unfolded += _amount(writes)
                    if writes:
                        newest_ms = max(newest_ms, milliseconds_of(writes[-1].write_id))
                    if base is not None:
                        folded += Amount(1, 1, base.size_bytes)
                    to_sweep += _amount([*garbage.writes, *garbage.bases])
                    if any(garbage):
                        last_moved_ms = max(last_moved_ms, self._garbage_since_ms(cuboid))
        windows = self._cuboids.windows
        return Whereabouts(
            has_tiers=not self._cuboids.tiers.is_single,
            unfolded=unfolded,
            foldable_from_s=(newest_ms + settled_after_ms(windows)) / 1000 if newest_ms else 0,
            folded=folded,
            to_sweep=to_sweep,
            sweep_from_s=last_moved_ms / 1000 + self.sweeper.wait_s if last_moved_ms else 0,
        )

    def _garbage_since_ms(self, cuboid: Heads) -> int:
        """When what is to be swept of a cuboid began to be that."""
        if cuboid.pointer is not None:
            return cuboid.pointer.moved_ms
        # Bases of folds that came to nothing, which may be running yet.
        newest = max(milliseconds_of(base_id) for base_id in cuboid.bases)
        return newest + int(self._cuboids.windows.write_window_s * 1000)

    # -- in the background

    async def step(self) -> None:
        """As `Folding.step`."""
        refuse_wrong_clock(self._cuboids.clock_fault)
        until_s = time.monotonic() + self._settings.step_s
        crowded = self._cuboids.crowding.take()
        if crowded:
            await self.queue.note(crowded)
        await self._sweep_due(until_s)
        for shard in range(SHARDS):
            if time.monotonic() < until_s and await self.queue.hold(f"shard-{shard}", LEASE_S):
                await self._work_off(shard, until_s)
        if not self._cuboids.tiers.is_single and await self.queue.hold(PATROL, LEASE_S):
            await self._patrol(until_s)

    async def close(self) -> None:
        """Let others go on at once with what this process has held."""
        with contextlib.suppress(StoreError):
            await self.queue.let_go()

    async def _sweep_due(self, until_s: float) -> None:
        for bucket in self.sweeper.due():
            if time.monotonic() > until_s:
                return
            await self._attempt(self.sweeper.sweep(bucket), bucket)

    async def _work_off(self, shard: int, until_s: float) -> None:
        """Visit the buckets of a shard that are due."""
        async for page in self.queue.noted(shard):
            for noted in page:
                if time.monotonic() > until_s:
                    return
                if self._not_before_s.get(noted.bucket, 0.0) <= self._monotonic_s():
                    await self._attempt(self._work_on(noted), noted.bucket)

    async def _work_on(self, noted: Noted) -> None:
        _, again_s = await self.visit(noted.bucket, more_than=self._settings.rows)
        self._on_step("bucket visited")
        if again_s is None:
            self._not_before_s.pop(noted.bucket, None)
            await self.queue.forget(noted)
            return
        if len(self._not_before_s) >= MOST_REMEMBERED:
            self._not_before_s.clear()
        self._not_before_s[noted.bucket] = self._monotonic_s() + again_s

    async def _patrol(self, until_s: float) -> None:
        """Drain writes that have been in ``ingest`` for long; goes on where it stopped."""
        ingest = self._cuboids.tiers.ingest
        statement = await self._driver.prepare(
            _IN_INGEST, keyspace=ingest.keyspace, data_centre=ingest.data_centre
        )
        older_ms = int(self._settings.drain_after_s * 1000)
        while time.monotonic() < until_s:
            state, self._patrol_state = self._patrol_state, None  # it may be why this fails
            page = await self._driver.page(
                statement,
                (),
                consistency=Consistency.LOCAL_QUORUM,
                page_rows=PATROL_ROWS,
                state=state,
            )
            for row in page.rows:
                bucket = Bucket(*row)
                visit = self.visit(bucket, more_than=0, when_older_than_ms=older_ms)
                await self._attempt(visit, bucket)
            self._patrol_state = page.state
            if page.state is None:
                return

    async def _attempt(self, work: Coroutine[Any, Any, object], bucket: Bucket) -> None:
        """One of many buckets; what fails is tried again at the next step."""
        try:
            await work
        except StoreError as error:
            self.folder.counts["failures"] += 1
            logger.warning("%s was not folded: %s", bucket.address(bucket.bucket), error)


def _amount(heads: Sequence[Head]) -> Amount:
    """Rows of one cuboid."""
    return Amount(int(bool(heads)), len(heads), sum(head.size_bytes for head in heads))
