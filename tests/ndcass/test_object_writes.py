"""Objects are whole or not there, whatever dies and whoever works beside."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndcass import annotation, object_writes, objects, unfinished
from ndcass.errors import AlreadyExists, Conflict, NotFound, StoreTimeout
from ndcass.geometry import Box
from ndcass.merge import WriteOp
from ndcass.model import Channel, Dataset, Project, Token, TokenView
from ndcass.object_writes import PostedObject, PostedVoxels
from ndcass.place import Place
from ndcass.ramon import ObjectType, from_json
from ndcass.store.base import Stores
from ndcass.store.embedded import open_embedded
from ndcass.store.memory import MemoryStores
from ndcass.volume import Usage, read_box
from ndcass.writer import write_box

NO_NOTE_IS_TOO_YOUNG_S = -1.0


class Volume:
    """A channel of labels, 40 x 200 x 200, and its store."""

    def __init__(self, stores: Stores, view: TokenView) -> None:
        self.stores = stores
        self.view = view
        self.channel: Channel = view.channels[0]

    async def create(self, *posted: PostedObject, op: WriteOp = WriteOp.MERGE) -> list[int]:
        return await object_writes.create_objects(
            self.stores, self.view, self.channel, posted, op, usage=Usage()
        )

    async def update(self, *posted: PostedObject) -> list[int]:
        return await object_writes.update_objects(
            self.stores, self.view, self.channel, posted, WriteOp.MERGE, usage=Usage()
        )

    async def merge(self, *ids: int) -> None:
        await object_writes.merge_objects(self.stores, self.view, self.channel, ids)

    async def delete(self, *ids: int) -> None:
        await object_writes.delete_objects(self.stores, self.view, self.channel, ids)

    async def labels(self) -> list[int]:
        """Every label that is painted anywhere."""
        place = Place(self.channel, self.view.level(0))
        voxels = await read_box(self.stores.cuboids, place, 0, Box((0, 0, 0), (40, 200, 200)))
        return [int(label) for label in np.unique(voxels) if label]

    async def paint(self, label: int) -> None:
        place = Place(self.channel, self.view.level(0))
        voxels = np.full((2, 2, 2), label, dtype="<u4")
        await write_box(self.stores, place, 0, Box((30, 150, 150), (32, 152, 152)), voxels)

    async def settle(self) -> int:
        return await unfinished.settle(
            self.stores, self.channel, older_than_s=NO_NOTE_IS_TOO_YOUNG_S
        )

    async def ids(self) -> list[int]:
        return list(await objects.find_objects(self.stores, self.channel, objects.Query([])))


@pytest.fixture(params=["memory", "embedded"])
async def volume(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Volume]:
    stores: Stores = (
        MemoryStores() if request.param == "memory" else await open_embedded(tmp_path / "data")
    )
    user = await stores.catalog.add_user("ann")
    dataset = Dataset("d", 200, 200, 40, user=user.id)
    await stores.catalog.create_dataset(dataset)
    await stores.catalog.create_project(Project("p", user=user.id, dataset="d"))
    await stores.catalog.create_token(Token("t", user=user.id, project="p"))
    await stores.catalog.create_channel(Channel(0, "p", "anno", "annotation", "uint32"))
    yield Volume(stores, await stores.catalog.token_view("t"))
    await stores.close()


def posted(object_id: int = 0, *, at: int = 5, **fields: Any) -> PostedObject:
    item = from_json({"ann_id": object_id, **fields})
    mask = np.ones((1, 4, 4), dtype=np.bool_)
    return PostedObject(str(object_id), item, PostedVoxels(0, None, [((at, at, at), mask)]))


async def _dies(*_: object) -> None:
    raise StoreTimeout("the process is gone, and nobody knows how far it came")


async def test_an_object_whose_writer_died_before_its_fields_is_not_there(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    await volume.create(posted(at=35))
    with monkeypatch.context() as patch:
        patch.setattr(object_writes, "_put", _dies)
        with pytest.raises(StoreTimeout):
            await volume.create(posted(7), posted(8, at=20))
    assert await volume.ids() == [1]
    assert await volume.labels() == [1, 7, 8]
    [note] = await unfinished.notes_of(volume.stores, volume.channel)
    assert note.ids == (7, 8)
    # Nobody touches it before its writer must have given up.
    assert await unfinished.settle_all(volume.stores) == 0
    assert await volume.settle() == 1
    assert await volume.labels() == [1]
    assert await unfinished.notes_of(volume.stores, volume.channel) == []
    assert await volume.settle() == 0
    assert await volume.create(posted(7)) == [7]


async def test_an_object_whose_writer_died_behind_its_fields_is_whole(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(object_writes, "drop_note", _dies)
        with pytest.raises(StoreTimeout):
            await volume.create(posted(7))
    assert await volume.settle() == 1
    assert await volume.ids() == [7]
    assert await volume.labels() == [7]


async def test_what_was_painted_before_is_not_taken_away(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    await volume.paint(7)
    with monkeypatch.context() as patch:
        patch.setattr(object_writes, "_put", _dies)
        with pytest.raises(StoreTimeout):
            await volume.create(posted(7))
    await volume.settle()
    assert await volume.labels() == [7]


async def test_a_delete_that_died_is_finished(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    await volume.create(posted(7), posted(8, at=20))
    with monkeypatch.context() as patch:
        patch.setattr(annotation, "erase_labels", _dies)
        with pytest.raises(StoreTimeout):
            await object_writes.delete_objects(volume.stores, volume.view, volume.channel, [7])
    assert (await volume.ids(), await volume.labels()) == ([8], [7, 8])
    assert await volume.settle() == 1
    assert await volume.labels() == [8]


async def test_a_merge_that_died_is_finished(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    await volume.create(posted(7), posted(8, at=20), posted(9, at=30))
    with monkeypatch.context() as patch:
        patch.setattr(object_writes, "finish_merge", _dies)
        with pytest.raises(StoreTimeout):
            await object_writes.merge_objects(volume.stores, volume.view, volume.channel, [7, 8])
    assert await volume.settle() == 1
    assert (await volume.ids(), await volume.labels()) == ([7, 9], [7, 9])


async def test_a_write_of_voxels_that_fails_leaves_nothing(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(object_writes, "_put", fails)
        with pytest.raises(RuntimeError):
            await volume.create(posted(7))
    assert (await volume.ids(), await volume.labels()) == ([], [])
    assert await unfinished.notes_of(volume.stores, volume.channel) == []
    assert await volume.create(posted(7)) == [7]


async def test_readers_see_no_object_before_its_voxels(volume: Volume) -> None:
    seen: list[tuple[int, int]] = []

    async def watch(writing: asyncio.Task[list[int]]) -> None:
        while not writing.done():
            for object_id in await volume.ids():
                points = await annotation.read_object_points(
                    volume.stores, volume.view, volume.channel, [object_id], 0, limit_bytes=9999
                )
                seen.append((object_id, len(points)))
            await asyncio.sleep(0)

    many = [posted(at=5 * n) for n in range(1, 8)]
    writing = asyncio.create_task(volume.create(*many))
    await watch(writing)
    assert await writing == [1, 2, 3, 4, 5, 6, 7]
    assert {count for _, count in seen} <= {16}


async def test_deleting_beside_an_update_leaves_an_object_that_is_whole_or_none(
    volume: Volume,
) -> None:
    await volume.create(posted(7))

    async def update() -> None:
        for n in range(5):
            try:
                await object_writes.update_objects(
                    volume.stores, volume.view, volume.channel,
                    [posted(7, at=20, ann_status=n)], WriteOp.MERGE, usage=Usage(),
                )  # fmt: skip
            except NotFound:
                return

    async def delete() -> None:
        await object_writes.delete_objects(volume.stores, volume.view, volume.channel, [7])

    await asyncio.gather(update(), delete(), update())
    assert await unfinished.notes_of(volume.stores, volume.channel) == []
    if await volume.ids():
        assert await objects.read_object(volume.stores, volume.channel, 7)
    await delete()
    assert (await volume.ids(), await volume.labels()) == ([], [])


async def test_of_two_merges_of_each_other_one_keeps_its_object(volume: Volume) -> None:
    await volume.create(posted(7), posted(8, at=20))
    answers = await asyncio.gather(
        volume.merge(7, 8), volume.merge(8, 7), volume.merge(7, 8), return_exceptions=True
    )
    assert any(isinstance(answer, NotFound) for answer in answers)
    assert len(await volume.ids()) == 1
    assert await volume.ids() == await volume.labels()
    assert await unfinished.notes_of(volume.stores, volume.channel) == []


async def test_an_update_beside_a_merge_is_part_of_it_or_comes_too_late(volume: Volume) -> None:
    await volume.create(posted(7), posted(8, at=20))
    updates = (volume.update(posted(8, at=20 + 4 * n)) for n in range(6))
    answers = await asyncio.gather(*updates, volume.merge(7, 8), return_exceptions=True)
    assert {type(answer) for answer in answers} <= {list, type(None), NotFound}
    assert (await volume.ids(), await volume.labels()) == ([7], [7])


@pytest.mark.parametrize("made_anew", [False, True])
async def test_what_is_written_beside_a_delete_waits_for_it(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, made_anew: bool
) -> None:
    await volume.create(posted(7))
    erasing, go_on = asyncio.Event(), asyncio.Event()
    erase = annotation.erase_labels

    async def slow(*args: Any) -> None:
        erasing.set()
        await go_on.wait()
        await erase(*args)

    monkeypatch.setattr(annotation, "erase_labels", slow)
    deleting = asyncio.create_task(volume.delete(7))
    await erasing.wait()
    writing = asyncio.create_task(
        volume.create(posted(7, at=20)) if made_anew else volume.update(posted(7, at=20))
    )
    await asyncio.sleep(2 * max(unfinished.LOOK_AGAIN_S))
    go_on.set()
    await deleting
    if made_anew:
        assert await writing == [7]
    else:
        with pytest.raises(NotFound):
            await writing
    labels = [7] if made_anew else []
    assert (await volume.ids(), await volume.labels()) == (labels, labels)
    if made_anew:
        points = await annotation.read_object_points(
            volume.stores, volume.view, volume.channel, [7], 0, limit_bytes=9999
        )
        assert len(points) == 16


async def test_patience_has_an_end(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    await volume.create(posted(7), posted(8, at=20))
    note = await unfinished.make_note(
        volume.stores, volume.channel, unfinished.Work.MERGE, [8], into=7
    )
    monkeypatch.setattr(unfinished, "PATIENCE_S", 0.0)
    for change in (volume.delete(7), volume.update(posted(8, at=30)), volume.merge(8, 7)):
        with pytest.raises(Conflict):
            await change
    assert await unfinished.notes_of(volume.stores, volume.channel) == [note]
    assert await volume.labels() == [7, 8]
    await volume.merge(7, 8)  # what somebody left behind may be done again
    assert await volume.labels() == [7]


async def test_nobody_waits_long_for_an_update_that_died(volume: Volume) -> None:
    await volume.create(posted(7))
    long_ago_s = time.time() - unfinished.LONGEST_UPDATE_S
    await unfinished.make_note(
        volume.stores, volume.channel, unfinished.Work.UPDATE, [7], now_s=lambda: long_ago_s
    )
    await volume.delete(7)
    assert await volume.labels() == []


async def test_an_id_in_the_file_that_would_be_assigned_next_is_refused(volume: Volume) -> None:
    with pytest.raises(AlreadyExists):
        await volume.create(posted(0), posted(1, at=20))
    assert (await volume.ids(), await volume.labels()) == ([], [])


async def test_periods_without_notes_are_forgotten(volume: Volume) -> None:
    await volume.create(posted(7))
    later_s = unfinished.ABANDONED_S + 10 * unfinished.PERIOD_S
    await unfinished.settle(volume.stores, volume.channel, now_s=lambda: time.time() + later_s)
    assert list(await volume.stores.records.keys(volume.channel.id, "object-changes")) == []


def test_seeds_and_neurons_have_no_voxels() -> None:
    without = [kind for kind in ObjectType if not kind.has_voxels]
    assert without == [ObjectType.SEED, ObjectType.NEURON]
