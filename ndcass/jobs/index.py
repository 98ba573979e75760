"""The job that makes the label index of a channel anew from its voxels, or compares the two.

It walks over the stored cuboids, level by level along the curve. Rebuilding appends every label
that it meets, which makes those entries young, and then drops the entries that are older than its
own start by more than a write can take: what it did not meet, and nobody has written since.
"""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from ndcass.concurrency import bounded_map
from ndcass.errors import InvalidRequest, NotFound
from ndcass.geometry import level_of
from ndcass.jobs.pyramid import Turn, at_once
from ndcass.jobs.runner import Progress
from ndcass.label_index import Noted, entries_of
from ndcass.label_values import Labels
from ndcass.label_voxels import labels_of, look_at
from ndcass.merge import Cuboid
from ndcass.model import Channel
from ndcass.place import Place
from ndcass.propagation import geometry_of
from ndcass.store.base import PLAIN, CuboidAddress, Job, Stores

INDEX_JOB = "index"
# Cuboids that are read in one go: a unit.
UNIT_CUBOIDS = 64
# Lists of labels that are looked at, at once.
LABELS_AT_ONCE = 32
# A note of progress is a transaction; more often nobody looks.
NOTE_EVERY_S = 1.0


@dataclass
class _Tally:
    """How far the job is, and what it has found: the job's detail.

    `present` are labels in cuboids, `missing` those that the index did not have, `entries` what the
    index had, `dropped` what of it is gone.
    """

    check: bool
    began_s: float = field(default_factory=time.time)
    place: Sequence[int] = ()  # level, timestep and Morton code of the last cuboid
    cuboids: int = 0
    present: int = 0
    missing: int = 0
    entries: int = 0
    dropped: int = 0

    @property
    def dead(self) -> int:
        """Entries without voxels, as far as nobody wrote meanwhile."""
        return max(0, self.entries - (self.present - self.missing))

    def detail(self) -> Mapping[str, Any]:
        """For the job: what is needed to go on, and the result."""
        return {**vars(self), "place": list(self.place), "dead": self.dead}

    @classmethod
    def of(cls, job: Job) -> "_Tally":
        """What a worker before this one noted, or nothing."""
        known = {name: job.detail[name] for name in cls.__annotations__ if name in job.detail}
        return cls(**{"check": False, **known})


async def index_channel(
    stores: Stores, job: Job, progress: Progress, *, turn: Turn = at_once
) -> None:
    """Rebuild the index of the job's channel; with ``check`` in its detail only compare.

    May stop anywhere and be run again: it goes on behind the last unit that was noted.

    Raises
    ------
    NotFound
        If the channel is gone.
    InvalidRequest
        If it is no annotation channel.
    """
    channel = await stores.catalog.live_channel(job.channel_id)
    if channel is None:
        raise NotFound(f"there is no channel {job.channel_id} any more")
    if not channel.is_annotation:
        raise InvalidRequest(f"channel {channel.channel_name} is no annotation channel")
    tally = _Tally.of(job)
    began_s = time.monotonic()
    geometry = await geometry_of(stores, channel)
    levels = range(channel.resolution, geometry.scaling_levels + 1)
    places = [Place(channel, level_of(geometry, level)) for level in levels]
    noted_s = time.monotonic()
    await progress(tally.cuboids, max(job.total_units, tally.cuboids), tally.detail())
    for place in places:
        if tally.place and place.level.level < tally.place[0]:
            continue
        async for unit in _units(stores, place, tally):
            async with turn():
                await _look_through(stores, place, unit, tally)
            if time.monotonic() - noted_s >= NOTE_EVERY_S:
                noted_s = time.monotonic()
                await progress(tally.cuboids, max(job.total_units, tally.cuboids), tally.detail())
    tally.entries = tally.dropped = 0  # counted from the start by whoever comes this far
    # The wall clock knows of workers before this one, and may be set back.
    began_s -= max(0.0, (time.time() - tally.began_s) - (time.monotonic() - began_s))
    for place in places:
        await _weed(stores, channel, place.level.level, tally, began_s)
    await progress(tally.cuboids, tally.cuboids, tally.detail())


async def _units(
    stores: Stores, place: Place, tally: _Tally
) -> AsyncIterator[Sequence[CuboidAddress]]:
    """The stored cuboids of a level that are not noted yet, each unit of one timestep."""
    level = place.level.level
    after: CuboidAddress | None = None
    if tally.place and tally.place[0] == level:
        after = place.address(tally.place[1], tally.place[2])
    scan = stores.cuboids.scan(place.channel.id, pyramid=PLAIN, level=level, after=after)
    async for page in scan:
        for _, found in groupby(page, key=lambda address: address.t):
            addresses = list(found)
            for first in range(0, len(addresses), UNIT_CUBOIDS):
                yield addresses[first : first + UNIT_CUBOIDS]


async def _look_through(
    stores: Stores, place: Place, unit: Sequence[CuboidAddress], tally: _Tally
) -> None:
    """Append what some cuboids hold, or count what of it is missing."""
    level, t = place.level.level, unit[0].t
    noted = await _noted(stores, place, unit)
    tally.present += sum(len(one.labels) for one in noted)
    for mortons_of in entries_of(noted) if noted else ():
        missing = await stores.labels.missing(place.channel.id, level, t, mortons_of)
        if missing and tally.check:
            # A label that was erased meanwhile is missing in the index, and is to be.
            gone = {code for codes in missing.values() for code in codes}
            again = await _noted(stores, place, [a for a in unit if a.morton in gone])
            held = {(int(label), one.address.morton) for one in again for label in one.labels}
            missing = {
                label: [code for code in codes if (int(label), int(code)) in held]
                for label, codes in missing.items()
            }
        tally.missing += sum(len(codes) for codes in missing.values())
        if not tally.check:
            await stores.labels.append(place.channel.id, level, t, mortons_of)
    tally.cuboids += len(unit)
    tally.place = (level, t, unit[-1].morton)


async def _noted(stores: Stores, place: Place, unit: Sequence[CuboidAddress]) -> list[Noted]:
    def look(code: int, cuboid: Cuboid) -> tuple[int, Labels]:
        return code, labels_of(cuboid)

    if not unit:
        return []
    t = unit[0].t
    codes = [address.morton for address in unit]
    looked = [one async for page in look_at(stores, place, codes, look, t=t) for one in page]
    return [Noted(place.address(t, code), labels) for code, labels in looked if len(labels)]


async def _weed(
    stores: Stores, channel: Channel, level: int, tally: _Tally, began_s: float
) -> None:
    """Count the entries of a level and, unless it is only compared, drop the dead ones.

    `began_s` is when the job was begun, by the monotonic clock.
    """
    index = stores.labels

    async def weed(label: int) -> tuple[int, int]:
        entries = await index.mortons(channel.id, level, label)
        if tally.check or not entries:
            return len(entries), 0
        older_than_s = index.window_s + time.monotonic() - began_s
        await index.discard(channel.id, level, label, entries, older_than_s=older_than_s)
        return len(entries), len(entries) - len(await index.mortons(channel.id, level, label))

    async for labels in index.labels(channel.id, level):
        for entries, dropped in await bounded_map(weed, labels, limit=LABELS_AT_ONCE):
            tally.entries += entries
            tally.dropped += dropped
