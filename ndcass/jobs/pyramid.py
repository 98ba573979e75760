"""The jobs that build the levels of a channel: all of them, or what of them is old.

Both do the same: rebuild cuboids that are marked as stale, finest level first. The one that builds
all marks everything before. Marks are what is left to do, so a job that is killed goes on where it
was, two that work at once do no harm, and a write that comes meanwhile leaves its marks for another
round.

A cuboid is rebuilt only while none of its sources is stale, and rebuilding it marks anew what
derives from it. So one without a mark is made from sources that are themselves as new as every
acknowledged write (`StaleMarks`).
"""

import contextlib
import logging
import math
import time
from collections.abc import (
    AsyncGenerator,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from itertools import groupby
from typing import Any, NamedTuple

import numpy.typing as npt

from ndcass.concurrency import OneBehind, run_cpu
from ndcass.derivation import Derivation
from ndcass.downsample import Rule
from ndcass.errors import CorruptValue, NotFound
from ndcass.geometry import Geometry
from ndcass.jobs.runner import JobLost, Progress, is_passing
from ndcass.label_index import IndexEntries
from ndcass.model import (
    DEFAULT_DOWNSAMPLING,
    NOT_PROPAGATED,
    PROPAGATED,
    UNDER_PROPAGATION,
    Channel,
)
from ndcass.propagation import change_state, geometry_of
from ndcass.pyramid import Stage, stages
from ndcass.store.base import (
    REFRESH_JOB,
    CuboidAddress,
    CuboidBatch,
    CuboidWrite,
    Job,
    StaleMark,
    Stores,
)
from ndcass.store.derived import children_of, derived_from, pyramid_of, sources_of

log = logging.getLogger(__name__)

# Cuboids that are made visible together: a commit takes a sync of the disk.
UNIT_CUBOIDS = 128
# Cuboids of all levels that are rebuilt in one batch take so many bytes, or are so few.
TOGETHER_BYTES = 32 << 20
LEAST_TOGETHER = 8
# Source voxels of a step, between which readers get their turn: of what keeps a core busy for a
# millisecond or two while there are any, else of what makes the changes of thread cost little
# (`python -m bench.pyramid`). Reading, halving and storing a long step each take all cores; two
# steps at a time were slower, and by more than steps of a quarter of this.
SHORT_STEP_BYTES = 2 << 20
STEP_BYTES = 32 << 20
# A note of progress is a transaction; more often nobody looks.
NOTE_EVERY_S = 1.0
# Then a refresh leaves the rest to another job, so that other channels have their turn. A job costs
# some milliseconds (Cassandra: tens of them).
LONGEST_REFRESH_S = 2.0
# A build ends with what was written meanwhile; the rest is for refreshing.
MOST_ROUNDS = 1000

Voxels = npt.NDArray[Any]  # which type is only known at run time
# Waits for a moment in which nobody else needs the machine, and learns how long a piece took; says
# whether nobody else is there.
Turn = Callable[[], AbstractAsyncContextManager[bool]]


def at_once() -> AbstractAsyncContextManager[bool]:
    """Waits for nobody."""
    return contextlib.nullcontext(True)


async def propagate_channel(
    stores: Stores, job: Job, progress: Progress, *, turn: Turn = at_once
) -> None:
    """Build every level of the job's channel, which is under propagation until then.

    Raises
    ------
    NotFound
        If the channel is gone.
    """
    channel = await _channel_of(stores, job)
    if channel.propagate == PROPAGATED:
        return  # another job was quicker
    await change_state(stores, channel.id, NOT_PROPAGATED, UNDER_PROPAGATION)
    try:
        await _build_all(stores, channel, job, progress, turn)
        await change_state(stores, channel.id, UNDER_PROPAGATION, PROPAGATED)
    except Exception as error:
        if not (isinstance(error, JobLost | NotFound) or is_passing(error)):
            await change_state(stores, channel.id, UNDER_PROPAGATION, NOT_PROPAGATED)
        raise
    if await stores.stale.counts(channel.id):
        await stores.jobs.submit_once(REFRESH_JOB, channel.id)


async def refresh_channel(
    stores: Stores, job: Job, progress: Progress, *, turn: Turn = at_once
) -> None:
    """Rebuild what is old of a propagated channel; nothing to do for others.

    What is left after a while goes to another job, behind those of channels that wait.
    """
    channel = await stores.catalog.live_channel(job.channel_id)
    if channel is None or channel.propagate != PROPAGATED:
        return
    until_s = time.monotonic() + LONGEST_REFRESH_S
    work = _Work(stores, channel, await geometry_of(stores, channel), turn, {}, until_s)
    note = _Notes(progress, job)
    while await _round(work, note):
        if work.is_over and await stores.stale.counts(channel.id):
            await note.now()
            await stores.jobs.submit_once(REFRESH_JOB, channel.id)
            return
    await note.now()
    work.check_damage()


async def _channel_of(stores: Stores, job: Job) -> Channel:
    channel = await stores.catalog.live_channel(job.channel_id)
    if channel is None:
        raise NotFound(f"there is no channel {job.channel_id} any more")
    return channel


# -- all of a channel


async def _build_all(
    stores: Stores, channel: Channel, job: Job, progress: Progress, turn: Turn
) -> None:
    geometry = await geometry_of(stores, channel)
    work = _Work(stores, channel, geometry, turn, {})
    note = _Notes(progress, job)
    if not job.detail.get("marked"):
        await _mark_all(work, note)
        note.detail = {"marked": True}
        note.total = 0
    left = sum((await stores.stale.counts(channel.id)).values())
    note.total = max(note.total, left)
    note.done = note.total - left
    await note.now()
    for _ in range(MOST_ROUNDS):
        if not await _round(work, note):
            break
    await note.now()
    work.check_damage()


async def _mark_all(work: "_Work", note: "_Notes") -> None:
    """Mark what derives from any stored cuboid of the base, and every derived one that is stored.

    Those are cleared where nothing is left below them.
    """
    channel, stores = work.channel, work.stores
    scan = stores.cuboids.scan
    async for page in scan(channel.id, pyramid=0, level=channel.resolution):
        for t, codes in _by_timestep(page):
            async with work.turn():
                derived = await run_cpu(
                    derived_from, work.geometry, channel.resolution, channel.id, t, codes
                )
                await stores.stale.mark(derived)
        await note.now_and_then()
    for stage in stages(work.geometry, channel.resolution):
        level = stage.level.level
        async for page in scan(channel.id, pyramid=pyramid_of(stage), level=level):
            await stores.stale.mark(page)
            await note.now_and_then()


def _by_timestep(addresses: Sequence[CuboidAddress]) -> Iterator[tuple[int, list[int]]]:
    for t, found in groupby(addresses, key=lambda address: address.t):
        yield t, [address.morton for address in found]


# -- what is marked


class _Work(NamedTuple):
    """What is to be rebuilt."""

    stores: Stores
    channel: Channel
    geometry: Geometry
    turn: Turn
    damage: dict[CuboidAddress, str]
    """Why cuboids could not be rebuilt: a source of theirs is damaged. Their marks stay."""
    until_s: float = math.inf

    @property
    def is_over(self) -> bool:
        """Whether it has taken as long as it may."""
        return time.monotonic() >= self.until_s

    def check_damage(self) -> None:
        """CorruptValue if some cuboids were left as they are."""
        if self.damage:
            raise CorruptValue(f"{next(iter(self.damage.values()))} ({len(self.damage)} in all)")

    @property
    def few(self) -> int:
        """How many cuboids may be rebuilt together."""
        sizes = (math.prod(stage.level.cuboid_zyx) for stage in stages(self.geometry, 0))
        voxels = max(sizes, default=1)
        return max(LEAST_TOGETHER, TOGETHER_BYTES // (voxels * self.channel.dtype.itemsize))

    @property
    def rule(self) -> Rule:
        """How the levels of the channel are made."""
        if self.channel.downsampling == DEFAULT_DOWNSAMPLING:
            return Rule.LABEL if self.channel.is_annotation else Rule.NEAREST
        return Rule.MODE if self.channel.is_annotation else Rule.MEAN


async def _round(work: _Work, note: "_Notes") -> int:
    """Rebuild what is marked, finest level first; how many cuboids that were.

    Whatever the time, something is rebuilt if anything can be.
    """
    done = 0
    # What is rebuilt marks what derives from it, but that is marked already.
    counts = await work.stores.stale.counts(work.channel.id)
    if 0 < sum(counts.values()) <= work.few:
        # If a source is damaged, the others are rebuilt one by one.
        with contextlib.suppress(CorruptValue):
            done = await _rebuild_together(work, counts)
            note.done += done
            return done
    for stage in stages(work.geometry, work.channel.resolution):
        if not counts.get((pyramid_of(stage), stage.level.level)):
            continue
        async with (
            OneBehind() as behind,
            contextlib.aclosing(_rebuilt(work, stage, behind)) as units,
        ):
            async for count in units:
                done += count
                note.done += count
                await note.now_and_then(stage)
                if done and work.is_over:
                    return done
    return done


async def _rebuilt(work: _Work, stage: Stage, behind: OneBehind) -> AsyncGenerator[int, None]:
    """Rebuild the marked cuboids of a level, unit by unit; how many each had.

    While one unit is made durable the next is made; so the last commit is still `behind`.
    """
    scan = work.stores.stale.scan(
        work.channel.id, pyramid=pyramid_of(stage), level=stage.level.level
    )
    async for page in scan:
        for first in range(0, len(page), UNIT_CUBOIDS):
            marks = [m for m in page[first : first + UNIT_CUBOIDS] if m.address not in work.damage]
            try:
                unit = await _made(work, stage, marks)
            except CorruptValue:
                for mark in marks:
                    yield await _publish(await _made_alone(work, stage, mark), behind)
            else:
                yield await _publish(unit, behind)


async def _rebuild_together(work: _Work, counts: Mapping[tuple[int, int], int]) -> int:
    """Rebuild a few cuboids of all levels in one batch: after an edit there is one a level.

    What is rebuilt is a source of the next level as it is, before anybody else sees it.
    """
    stale = work.stores.stale
    marked: list[tuple[Stage, StaleMark]] = []
    for stage in stages(work.geometry, work.channel.resolution):
        pyramid, level = pyramid_of(stage), stage.level.level
        if counts.get((pyramid, level)):
            async for page in stale.scan(work.channel.id, pyramid=pyramid, level=level):
                marked += [(stage, mark) for mark in page]
    sources = {mark.address: sources_of(stage, mark.address) for stage, mark in marked}
    old = await stale.marked({source for found in sources.values() for source in found})
    ready: dict[CuboidAddress, tuple[Stage, StaleMark]] = {}
    for stage, mark in marked:
        if all(source in ready for source in old & set(sources[mark.address])):
            ready[mark.address] = (stage, mark)
    if not ready:
        return 0
    async with stale.derivation([mark for _, mark in ready.values()]) as batch:
        entries = IndexEntries(work.stores.labels)
        made: dict[CuboidAddress, Voxels] = {}
        for stage, mark in ready.values():
            async with work.turn():
                how = Derivation(work.channel, stage, work.rule)
                writes = await how.writes(work.stores.cuboids, [mark.address], made)
                await _add(work, writes, batch, entries)
            made |= {write.address: write.voxels for write in writes}
            further = children_of(work.geometry, stage, [mark.address])
            batch.mark_stale(further - ready.keys())
        await entries.append()
        await batch.commit()
        await entries.append_late()
    return len(ready)


class _Unit(NamedTuple):
    """Cuboids that are rebuilt, and become visible together."""

    batch: CuboidBatch
    entries: IndexEntries
    cuboids: int
    stack: contextlib.AsyncExitStack  # which the batch was entered into

    async def commit(self) -> None:
        """Make them visible, and let go of the batch."""
        async with self.stack:
            await self.entries.append()
            await self.batch.commit()
            await self.entries.append_late()


async def _publish(unit: _Unit | None, behind: OneBehind) -> int:
    """Have a unit committed `behind`, once the one before is; how many cuboids it has."""
    if unit is None:
        return 0
    try:
        await behind.drained()
    except BaseException:
        await unit.stack.aclose()
        raise
    await behind.run(unit.commit())
    return unit.cuboids


async def _made_alone(work: _Work, stage: Stage, mark: StaleMark) -> _Unit | None:
    """As `_made` of one cuboid; if it cannot be made, that is noted."""
    try:
        return await _made(work, stage, [mark])
    except CorruptValue as error:
        work.damage[mark.address] = str(error)
        return None


async def _made(work: _Work, stage: Stage, marks: Sequence[StaleMark]) -> _Unit | None:
    """Some cuboids, made from their sources; without those whose sources are stale.

    Raises
    ------
    CorruptValue
        If a source is damaged.
    """
    stale = work.stores.stale
    if stage.source.level != work.channel.resolution:
        sources = {mark.address: sources_of(stage, mark.address) for mark in marks}
        old = await stale.marked({source for found in sources.values() for source in found})
        marks = [mark for mark in marks if old.isdisjoint(sources[mark.address])]
    if not marks:
        return None
    addresses = [mark.address for mark in marks]
    async with contextlib.AsyncExitStack() as stack:
        batch = await stack.enter_async_context(stale.derivation(marks))
        entries = IndexEntries(work.stores.labels)
        await _make(work, stage, addresses, batch, entries)
        batch.mark_stale(children_of(work.geometry, stage, addresses))
        return _Unit(batch, entries, len(marks), stack.pop_all())


async def _make(
    work: _Work,
    stage: Stage,
    addresses: Sequence[CuboidAddress],
    batch: CuboidBatch,
    entries: IndexEntries,
) -> None:
    """Make the cuboids of a unit, step by step."""
    how = Derivation(work.channel, stage, work.rule)
    done = 0
    while done < len(addresses):
        async with work.turn() as is_alone:
            count = _in_step(work, stage, STEP_BYTES if is_alone else SHORT_STEP_BYTES)
            writes = await how.writes(work.stores.cuboids, addresses[done : done + count])
            await _add(work, writes, batch, entries)
        done += count


async def _add(
    work: _Work, writes: Sequence[CuboidWrite], batch: CuboidBatch, entries: IndexEntries
) -> None:
    """Take cuboids for the store, and their labels for the index, at every level."""
    if work.channel.is_annotation:
        writes = await entries.note(writes)
    await batch.add(writes)


def _in_step(work: _Work, stage: Stage, source_bytes: int) -> int:
    """How many cuboids have sources of so many bytes, at least one."""
    voxels = math.prod(stage.level.cuboid_zyx) * math.prod(stage.factor_zyx)
    return max(1, source_bytes // (voxels * work.channel.dtype.itemsize))


# -- progress


class _Notes:
    """Says how far a job is, now and then."""

    def __init__(self, progress: Progress, job: Job) -> None:
        self._progress = progress
        self._noted_s = time.monotonic()
        self.done = job.done_units
        self.total = job.total_units
        self.detail: Mapping[str, Any] = job.detail

    async def now(self) -> None:
        """Say it."""
        self._noted_s = time.monotonic()
        # Writes come while a channel is refreshed.
        self.total = max(self.total, self.done)
        await self._progress(self.done, self.total, self.detail)

    async def now_and_then(self, stage: Stage | None = None) -> None:
        """Say it if it was not said for a while."""
        if stage is not None:
            self.detail = {**self.detail, "level": stage.level.level, "neariso": stage.neariso}
        if time.monotonic() - self._noted_s >= NOTE_EVERY_S:
            await self.now()
