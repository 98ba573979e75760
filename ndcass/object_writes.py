"""Objects with their voxels: made, replaced, deleted and merged, whole or not at all.

An object that brings voxels is noted (``unfinished.py``), its voxels are written, then its fields,
which is when it is there for readers; then the note is dropped. If its process dies between, or the
write fails, the voxels are taken away again.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ndcass import annotation
from ndcass.annotation import ObjectVoxels
from ndcass.concurrency import bounded_map, to_its_end
from ndcass.errors import (
    AlreadyExists,
    InvalidRequest,
    Malformed,
    NotFound,
    OutOfBounds,
    StoreError,
    StoreTimeout,
)
from ndcass.geometry import Zyx
from ndcass.label_voxels import is_painted
from ndcass.merge import WriteOp
from ndcass.model import Channel, TokenView
from ndcass.objects import check_annotation, max_id, read_objects
from ndcass.place import Place, writing_place
from ndcass.propagation import check_unlocked
from ndcass.ramon import ID_KEY, RamonObject, stored_fields
from ndcass.store.base import StoredObject, Stores
from ndcass.unfinished import (
    LONGEST_CHANGE_S,
    Work,
    begin_change,
    drop_note,
    finish_merge,
    make_note,
    wait_for_deletes,
)
from ndcass.volume import Usage
from ndcass.writer import check_writable

# How often ids are assigned again because somebody chose one of them at the same time.
MOST_TRIES = 4
MIN_MERGED = 2
# Labels that the index is asked for at once.
LABELS_AT_ONCE = 16


@dataclass(frozen=True, slots=True, eq=False)
class PostedVoxels:
    """Voxels of one object as a client sent them, in dataset coordinates of a level.

    `points_zyx` is of shape (n, 3); in `blocks` each mask (order z, y, x) has its corner.
    """

    level: int
    points_zyx: npt.NDArray[np.int64] | None
    blocks: Sequence[tuple[Zyx, npt.NDArray[np.bool_]]]


@dataclass(frozen=True, slots=True)
class PostedObject:
    """One object of a request; `name` is what the request calls it."""

    name: str
    item: RamonObject
    voxels: PostedVoxels | None = None


class _Post(NamedTuple):
    """A request to write objects."""

    stores: Stores
    view: TokenView
    channel: Channel
    posted: Sequence[PostedObject]
    op: WriteOp
    usage: Usage

    @property
    def chosen_ids(self) -> list[int]:
        """The ids that the client chose."""
        return [p.item.id for p in self.posted if p.item.id]


async def create_objects(
    stores: Stores,
    view: TokenView,
    channel: Channel,
    posted: Sequence[PostedObject],
    op: WriteOp,
    *,
    usage: Usage,
) -> list[int]:
    """Make objects, all or none of them; their ids, assigned where they have none.

    Raises
    ------
    InvalidRequest
        If one of them cannot be. Nothing is changed then, and the text names it.
    AlreadyExists
        If an id is taken.
    ReadOnly, Conflict
        If nothing may be written to the channel.
    """
    post = _Post(stores, view, channel, posted, op, usage)
    await _check(post)
    chosen = post.chosen_ids
    if len(set(chosen)) < len(chosen):
        twice = next(i for i in chosen if chosen.count(i) > 1)
        raise AlreadyExists(f"object {twice} is in the file more than once")
    if chosen:
        await stores.objects.claim(channel.id, chosen)
    return await to_its_end(_create(post))


async def _create(post: _Post) -> list[int]:
    claimed = post.chosen_ids
    try:
        if claimed:
            await wait_for_deletes(post.stores, post.channel, claimed)
        ids = await _assigned(post.stores, post.channel, post.posted)
        claimed = ids
        await _write_new(post, ids)
        return ids
    except StoreTimeout:
        raise  # what became of it is settled later, by whoever finds the note
    except BaseException:
        with contextlib.suppress(StoreError):  # else the claims end by themselves
            await post.stores.objects.delete(post.channel.id, claimed)
        raise


async def _assigned(stores: Stores, channel: Channel, posted: Sequence[PostedObject]) -> list[int]:
    """The ids of all objects, in their order: a new one is the highest so far and 1."""
    chosen = {p.item.id for p in posted if p.item.id}
    ids: list[int] = []
    highest = 0
    for number, object_id in enumerate(p.item.id for p in posted):
        if object_id:
            ids.append(object_id)
            highest = max(highest, object_id)
        elif len(ids) == number:
            await _raise(stores, channel, highest)
            ids += await _new_ids(stores, channel, _run_of_new(posted[number:]), chosen)
    await _raise(stores, channel, highest)
    return ids


async def _raise(stores: Stores, channel: Channel, highest: int) -> None:
    if highest:
        await stores.catalog.raise_ids(channel.id, highest)


def _run_of_new(posted: Sequence[PostedObject]) -> int:
    return next((n for n, p in enumerate(posted) if p.item.id), len(posted))


async def _new_ids(stores: Stores, channel: Channel, count: int, chosen: set[int]) -> Sequence[int]:
    for _ in range(MOST_TRIES):
        first = await stores.catalog.reserve_ids(channel.id, count, most=max_id(channel))
        ids = range(first, first + count)
        if not chosen.isdisjoint(ids):
            raise AlreadyExists("an id that the file names is the next to be assigned")
        with contextlib.suppress(AlreadyExists):  # somebody chose one that was not assigned yet
            await stores.objects.claim(channel.id, ids)
            return ids
    raise AlreadyExists("ids are taken faster than they are assigned: try again")


async def _write_new(post: _Post, ids: Sequence[int]) -> None:
    stores, view, channel, posted, op, usage = post
    voxels = _voxels_of(view, posted, ids)
    stored = [_stored(p.item, object_id) for p, object_id in zip(posted, ids, strict=True)]
    if not voxels:
        await _put(stores, channel, stored)
        return
    began_s = time.monotonic()
    unpainted = await _unpainted(stores, view, channel, [item.label for item in voxels])
    note = await make_note(stores, channel, Work.WHOLE, unpainted)
    try:
        await annotation.write_object_voxels(stores, view, channel, voxels, op, usage=usage)
        if time.monotonic() - began_s > LONGEST_CHANGE_S:
            raise InvalidRequest("writing the voxels took too long; they are taken away again")
        await _put(stores, channel, stored)
    except StoreTimeout:
        raise  # the note stays
    except BaseException:
        with contextlib.suppress(StoreError):  # else the note stays
            await annotation.erase_labels(stores, view, channel, note.ids)
            await drop_note(stores, channel, note)
        raise
    await drop_note(stores, channel, note)


async def _unpainted(
    stores: Stores, view: TokenView, channel: Channel, labels: Sequence[int]
) -> list[int]:
    """Those of some labels that no voxel has yet: all that may be erased again."""
    unpainted = list(labels)
    for level in range(channel.resolution, view.dataset.scalinglevels + 1):
        place = Place(channel, view.level(level))
        # Most are new, and in no list.
        listed = sorted(await stores.labels.listed(channel.id, level, unpainted))
        painted = await bounded_map(
            partial(is_painted, stores, place), listed, limit=LABELS_AT_ONCE
        )
        gone = {label for label, it_is in zip(listed, painted, strict=True) if it_is}
        unpainted = [label for label in unpainted if label not in gone]
    return unpainted


async def _put(stores: Stores, channel: Channel, stored: Sequence[StoredObject]) -> None:
    await stores.objects.put(channel.id, stored)
    if not await stores.catalog.is_live(channel.id):
        await stores.objects.delete(channel.id, [item.id for item in stored])
        raise NotFound("the channel was deleted meanwhile")


def _stored(item: RamonObject, object_id: int) -> StoredObject:
    return StoredObject(object_id, {**stored_fields(item), ID_KEY: object_id})


async def update_objects(
    stores: Stores,
    view: TokenView,
    channel: Channel,
    posted: Sequence[PostedObject],
    op: WriteOp,
    *,
    usage: Usage,
) -> list[int]:
    """Replace the fields of objects as a whole, and add voxels to those that they have.

    Raises
    ------
    NotFound
        If one of them does not exist.
    InvalidRequest, ReadOnly, Conflict
        As `create_objects`.
    """
    post = _Post(stores, view, channel, posted, op, usage)
    await _check(post)
    ids = [p.item.id for p in posted]
    if 0 in ids:
        raise NotFound("what is updated needs an id")
    await read_objects(stores, channel, ids)
    return await to_its_end(_update(post, ids))


async def _update(post: _Post, ids: list[int]) -> list[int]:
    stores, view, channel, posted, op, usage = post
    note = await begin_change(stores, channel, Work.UPDATE, ids)
    try:
        await read_objects(stores, channel, ids)
        voxels = _voxels_of(view, posted, ids)
        if voxels:
            await annotation.write_object_voxels(stores, view, channel, voxels, op, usage=usage)
        await _put(stores, channel, [_stored(p.item, p.item.id) for p in posted])
    finally:
        with contextlib.suppress(StoreError):  # it says nothing once it is old
            await drop_note(stores, channel, note)
    return ids


async def write_voxels(
    stores: Stores,
    view: TokenView,
    channel: Channel,
    posted: Sequence[PostedObject],
    op: WriteOp,
    *,
    usage: Usage,
) -> None:
    """Add voxels to objects, or take them away (REDUCE), whether there are such objects or not.

    Raises
    ------
    Malformed
        If one of them has no id.
    InvalidRequest, ReadOnly, Conflict
        As `create_objects`.
    """
    for p in posted:
        if not p.item.id:
            raise Malformed(f"group {p.name[:80]!r}: whose voxels they are is an id from 1 on")
    await _check(_Post(stores, view, channel, posted, op, usage))
    voxels = _voxels_of(view, posted, [p.item.id for p in posted])
    if voxels:
        write = annotation.write_object_voxels(stores, view, channel, voxels, op, usage=usage)
        await to_its_end(write)


# -- checks, before anything is changed


async def _check(post: _Post) -> None:
    check_annotation(post.channel)
    check_writable(post.channel)
    if any(p.voxels is not None for p in post.posted):
        await check_unlocked(post.stores, post.channel)
    for p in post.posted:
        try:
            _check_one(post.view, post.channel, p, post.op)
        except InvalidRequest as error:
            raise type(error)(f"object {p.name[:80]!r}: {error}") from error


def _check_one(view: TokenView, channel: Channel, posted: PostedObject, op: WriteOp) -> None:
    most = max_id(channel)
    if posted.item.id > most:
        raise Malformed(f"ids of channel {channel.channel_name} are 1 to {most}")
    voxels = posted.voxels
    if voxels is None:
        return
    if not posted.item.type.has_voxels:
        raise InvalidRequest(f"a {posted.item.type.name.lower()} has no voxels of its own")
    if op is WriteOp.EXCEPTION and voxels.blocks and not channel.exceptions:
        raise InvalidRequest(f"channel {channel.channel_name} keeps no exceptions")
    level = writing_place(view, channel, voxels.level).level
    for corner, _ in voxels.blocks:
        _check_offset(corner, level.offset_zyx)
    if voxels.points_zyx is not None and len(voxels.points_zyx):
        _check_offset(tuple(voxels.points_zyx.min(axis=0).tolist()), level.offset_zyx)


def _check_offset(lowest_zyx: Sequence[int], offset_zyx: Zyx) -> None:
    if any(at < offset for at, offset in zip(lowest_zyx, offset_zyx, strict=True)):
        raise OutOfBounds(
            f"voxels from {lowest_zyx} on (z, y, x); the dataset begins at {offset_zyx}"
        )


def _voxels_of(
    view: TokenView, posted: Sequence[PostedObject], ids: Sequence[int]
) -> list[ObjectVoxels]:
    """The voxels of all objects, counted from zero."""
    found = []
    for p, object_id in zip(posted, ids, strict=True):
        if p.voxels is None:
            continue
        z, y, x = view.level(p.voxels.level).offset_zyx
        points = p.voxels.points_zyx
        found.append(
            ObjectVoxels(
                label=object_id,
                level=p.voxels.level,
                points_zyx=None if points is None else points - np.array((z, y, x)),
                blocks=[((a - z, b - y, c - x), mask) for (a, b, c), mask in p.voxels.blocks],
            )
        )
    return found


# -- deleting and merging


async def delete_objects(
    stores: Stores, view: TokenView, channel: Channel, ids: Sequence[int]
) -> None:
    """Delete objects and every voxel that has their label; what is not there costs nothing.

    Raises
    ------
    ReadOnly, Conflict
        If nothing may be written to the channel.
    """
    check_annotation(channel)
    check_writable(channel)
    await check_unlocked(stores, channel)
    wanted = sorted({i for i in ids if 0 < i <= max_id(channel)})
    if wanted:
        await to_its_end(_delete(stores, view, channel, wanted))


async def _delete(stores: Stores, view: TokenView, channel: Channel, ids: Sequence[int]) -> None:
    note = await begin_change(stores, channel, Work.DELETE, ids)
    await stores.objects.delete(channel.id, ids)
    await annotation.erase_labels(stores, view, channel, ids)
    await drop_note(stores, channel, note)


async def merge_objects(
    stores: Stores, view: TokenView, channel: Channel, ids: Sequence[int]
) -> None:
    """Give the voxels of objects to the first of them, at all levels, and delete the others.

    Raises
    ------
    Malformed
        If there are fewer than two.
    NotFound
        If one does not exist.
    ReadOnly, Conflict
        If nothing may be written to the channel.
    """
    check_annotation(channel)
    check_writable(channel)
    await check_unlocked(stores, channel)
    wanted = list(dict.fromkeys(ids))
    if len(wanted) < MIN_MERGED:
        raise Malformed("a merge needs two ids or more")
    await _check_merged(stores, channel, wanted)
    await to_its_end(_merge(stores, view, channel, wanted[1:], wanted[0]))


async def _merge(
    stores: Stores, view: TokenView, channel: Channel, ids: Sequence[int], into: int
) -> None:
    note = await begin_change(stores, channel, Work.MERGE, ids, into=into)
    try:
        await _check_merged(stores, channel, [into, *ids])
    except NotFound:
        await drop_note(stores, channel, note)
        raise
    await finish_merge(stores, view, channel, ids, into)
    await drop_note(stores, channel, note)


async def _check_merged(stores: Stores, channel: Channel, ids: Sequence[int]) -> None:
    try:
        await read_objects(stores, channel, ids)
    except NotFound as error:
        raise NotFound("Invalid object id used in merge") from error
