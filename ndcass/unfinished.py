"""What a change of objects leaves behind if its process dies: noted before, settled by others.

An object and its voxels are two things in the store. Whoever changes both notes it first, as a side
record of the channel, and drops the note at the end. A note that is older than any request may take
has no owner any more: `settle` then does what is left to do, so that an object is whole or not
there. Doing it twice does no harm.

Notes also keep changes of the same objects apart: whoever deletes or merges some waits for those
who update them, and the other way round (`begin_change`).

Notes are kept by the time they were made, in periods, and a channel has a list of its periods:
looking for old notes takes a look at that list, not at everything that was ever noted.
"""

import asyncio
import dataclasses
import enum
import json
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ndcass.annotation import erase_labels, merge_labels
from ndcass.errors import Conflict, NdcassError
from ndcass.model import Channel, Token, TokenView
from ndcass.store.base import CLAIM_S, Stores

log = logging.getLogger(__name__)

# A change that took longer than half of this is given up by its own process, so that nobody else
# works on it at the same time.
ABANDONED_S = CLAIM_S
LONGEST_CHANGE_S = ABANDONED_S / 2
PERIOD_S = 600.0
# How long a change waits for others of the same objects, and between looks at what they do. Random,
# since two who saw each other and stepped back would meet again.
PATIENCE_S = 10.0
LOOK_AGAIN_S = (0.02, 0.2)
# An update that dies leaves nothing to be settled: nobody waits longer for one.
LONGEST_UPDATE_S = 60.0

_PERIODS = "object-changes"


class Work(enum.StrEnum):
    """What is under way."""

    # Objects are made, changed or deleted together with their voxels: where there is no object
    # there must be no voxels either.
    WHOLE = "whole"
    UPDATE = "update"
    DELETE = "delete"
    # Objects are merged into another one.
    MERGE = "merge"


# What a change must not meet. Updates may meet each other, so may deletes, and a merge itself.
_APART = {
    Work.WHOLE: {Work.DELETE, Work.MERGE},
    Work.UPDATE: {Work.DELETE, Work.MERGE},
    Work.DELETE: {Work.UPDATE, Work.MERGE},
    Work.MERGE: {Work.UPDATE, Work.DELETE, Work.MERGE},
}


@dataclass(frozen=True, slots=True)
class Note:
    """A change of some objects that is under way; `into` is what they are merged into."""

    id: str
    made_s: float
    work: Work
    ids: tuple[int, ...]
    into: int = 0

    @property
    def objects(self) -> frozenset[int]:
        return frozenset((*self.ids, self.into)) - {0}

    @property
    def period(self) -> str:
        return f"{int(self.made_s // PERIOD_S):012d}"

    @property
    def kind(self) -> str:
        return f"{_PERIODS}-{self.period}"


async def begin_change(
    stores: Stores, channel: Channel, work: Work, ids: Sequence[int], *, into: int = 0
) -> Note:
    """Note a change as soon as nobody is about another one that it must not meet.

    Whether its objects are there is to be asked after it: they may have gone meanwhile.

    Raises
    ------
    Conflict
        If the other change took longer than `PATIENCE_S`.
    """

    async def attempt() -> Note | None:
        # First the note and then the look: of two who begin at once, one sees the other.
        note = await make_note(stores, channel, work, ids, into=into)
        meets = True
        try:
            meets = await _meets_others(stores, channel, note)
        finally:
            if meets:
                await drop_note(stores, channel, note)
        return None if meets else note

    return await _patiently(attempt)


async def wait_for_deletes(stores: Stores, channel: Channel, ids: Sequence[int]) -> None:
    """Wait until nobody deletes, or merges, objects that had some ids before they were free.

    Raises
    ------
    Conflict
        If that took longer than `PATIENCE_S`.
    """
    wanted = Note("", time.time(), Work.WHOLE, tuple(ids))

    async def attempt() -> Note | None:
        return None if await _meets_others(stores, channel, wanted) else wanted

    await _patiently(attempt)


async def _patiently(attempt: Callable[[], Awaitable[Note | None]]) -> Note:
    patient_until_s = time.monotonic() + PATIENCE_S
    while (note := await attempt()) is None:
        if time.monotonic() > patient_until_s:
            raise Conflict("somebody else is changing the same objects: try again")
        await asyncio.sleep(random.uniform(*LOOK_AGAIN_S))  # noqa: S311 - no secret
    return note


async def _meets_others(stores: Stores, channel: Channel, note: Note) -> bool:
    return any(_meets(note, other) for other in await notes_of(stores, channel))


def _meets(note: Note, other: Note) -> bool:
    """Whether a change must wait for another one."""
    if other.work not in _APART[note.work] or note.objects.isdisjoint(other.objects):
        return False
    if note.work is other.work is Work.MERGE:
        return (note.ids, note.into) != (other.ids, other.into)
    return other.work is not Work.UPDATE or note.made_s - other.made_s < LONGEST_UPDATE_S


async def make_note(
    stores: Stores,
    channel: Channel,
    work: Work,
    ids: Sequence[int],
    *,
    into: int = 0,
    now_s: Callable[[], float] = time.time,
) -> Note:
    """Note a change that is about to begin; durable when it returns."""
    note = Note(uuid.uuid4().hex, now_s(), work, tuple(ids), into)
    # First, and each time: a period that is in the list for nothing costs one look.
    await stores.records.put(channel.id, _PERIODS, note.period, b"1")
    text = json.dumps(dataclasses.asdict(note))
    await stores.records.put(channel.id, note.kind, note.id, text.encode())
    return note


async def drop_note(stores: Stores, channel: Channel, note: Note) -> None:
    """Say that a change is over."""
    await stores.records.delete(channel.id, note.kind, note.id)


async def notes_of(stores: Stores, channel: Channel) -> list[Note]:
    """What is under way or was left behind, oldest first."""
    notes: list[Note] = []
    for period in await stores.records.keys(channel.id, _PERIODS):
        kind = f"{_PERIODS}-{period}"
        for key in await stores.records.keys(channel.id, kind):
            value = await stores.records.get(channel.id, kind, key)
            if value is not None:
                notes.append(_note(value))
    return sorted(notes, key=lambda note: (note.made_s, note.id))


def _note(value: bytes) -> Note:
    found = json.loads(value)
    return Note(
        found["id"], found["made_s"], Work(found["work"]), tuple(found["ids"]), found["into"]
    )


async def settle_all(stores: Stores, *, now_s: Callable[[], float] = time.time) -> int:
    """Settle what was left behind in any channel; how many changes that was."""
    settled = 0
    for project in await stores.catalog.projects():
        channels = await stores.catalog.channels(project.project_name)
        for channel in channels:
            if not channel.is_annotation:
                continue
            try:
                settled += await settle(stores, channel, now_s=now_s)
            except NdcassError as error:  # a channel that is read-only now, or gone
                log.warning(
                    "unfinished changes in channel %s of project %s stay: %s",
                    channel.channel_name,
                    project.project_name,
                    error,
                )
    return settled


async def settle(
    stores: Stores,
    channel: Channel,
    *,
    older_than_s: float = ABANDONED_S,
    now_s: Callable[[], float] = time.time,
) -> int:
    """Settle what was left behind in one channel; how many changes that was."""
    periods = await stores.records.keys(channel.id, _PERIODS)
    before_s = now_s() - older_than_s
    notes = await notes_of(stores, channel) if periods else []
    old = [note for note in notes if note.made_s <= before_s]
    # Ids that somebody works with right now are left to them.
    busy = {i for note in notes if note.made_s > before_s for i in (*note.ids, note.into)}
    settled = 0
    for note in old:
        if busy.isdisjoint((*note.ids, note.into)):
            await _settle(stores, channel, note)
            await drop_note(stores, channel, note)
            settled += 1
    # A period that is over and has no notes left will have none again.
    kept = {note.period for note in notes} - {note.period for note in old}
    for period in periods:
        if (int(period) + 1) * PERIOD_S < before_s - PERIOD_S and period not in kept:
            left = await stores.records.keys(channel.id, f"{_PERIODS}-{period}")
            if not left:
                await stores.records.delete(channel.id, _PERIODS, period)
    return settled


async def _settle(stores: Stores, channel: Channel, note: Note) -> None:
    view = await _view_of(stores, channel)
    if note.work is Work.MERGE:
        await finish_merge(stores, view, channel, note.ids, note.into)
        return
    there = {item.id for item in await stores.objects.get(channel.id, note.ids)}
    gone = [object_id for object_id in note.ids if object_id not in there]
    if gone:
        await erase_labels(stores, view, channel, gone)
        await stores.objects.delete(channel.id, gone)  # and whoever claimed them


async def finish_merge(
    stores: Stores, view: TokenView, channel: Channel, ids: Sequence[int], into: int
) -> None:
    """Give the voxels of some objects to another one, and delete them."""
    await merge_labels(stores, view, channel, ids, into)
    await stores.objects.delete(channel.id, ids)


async def _view_of(stores: Stores, channel: Channel) -> TokenView:
    """The project of a channel as its tokens show it; it may have none at present."""
    project = await stores.catalog.project(channel.project)
    dataset = await stores.catalog.dataset(project.dataset)
    token = Token(token_name="_", user=project.user, project=project.project_name)  # noqa: S106
    channels = await stores.catalog.channels(project.project_name)
    return TokenView(token, project, dataset, tuple(channels))
