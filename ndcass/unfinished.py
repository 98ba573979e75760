"""What a change of objects leaves behind if its process dies: noted before, settled by others.

An object and its voxels are two things in the store. Whoever changes both notes it first, as a side
record of the channel, and drops the note at the end. A note that is older than any request may take
has no owner any more: `settle` then does what is left to do, so that an object is whole or not
there. Doing it twice does no harm.

Notes are kept by the time they were made, in periods, and a channel has a list of its periods:
looking for old notes takes a look at that list, not at everything that was ever noted.
"""

import dataclasses
import enum
import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ndcass.annotation import erase_labels, merge_labels
from ndcass.errors import NdcassError
from ndcass.model import Channel, Token, TokenView
from ndcass.store.base import CLAIM_S, Stores

log = logging.getLogger(__name__)

# A change that took longer than half of this is given up by its own process, so that nobody else
# works on it at the same time.
ABANDONED_S = CLAIM_S
LONGEST_CHANGE_S = ABANDONED_S / 2
PERIOD_S = 600.0

_PERIODS = "object-changes"


class Work(enum.StrEnum):
    """What is under way."""

    # Objects are made or deleted together with their voxels: where there is no object there must
    # be no voxels either.
    WHOLE = "whole"
    # Objects are merged into another one.
    MERGE = "merge"


@dataclass(frozen=True, slots=True)
class Note:
    """A change of some objects that is under way; `into` is what they are merged into."""

    id: str
    made_s: float
    work: Work
    ids: tuple[int, ...]
    into: int = 0

    @property
    def period(self) -> str:
        return f"{int(self.made_s // PERIOD_S):012d}"

    @property
    def kind(self) -> str:
        return f"{_PERIODS}-{self.period}"


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
