"""Voxels whose label is no object are found, and no others."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from ndcass.geometry import Box
from ndcass.merge import WriteOp
from ndcass.object_writes import PostedObject, PostedVoxels, create_objects, delete_objects
from ndcass.place import Place
from ndcass.ramon import from_json
from ndcass.store.base import Stores
from ndcass.store.embedded import open_embedded
from ndcass.store.memory import MemoryStores
from ndcass.stray_labels import stray_labels
from ndcass.volume import Usage
from ndcass.writer import write_box
from tests.labelled import Volume, annotated


@pytest.fixture(params=["memory", "embedded"])
async def volume(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Volume]:
    stores: Stores = (
        MemoryStores() if request.param == "memory" else await open_embedded(tmp_path / "data")
    )
    yield await annotated(stores, exceptions=1)
    await stores.close()


async def paint(volume: Volume, label: int, at: int, level: int = 0) -> None:
    place = Place(volume.channel, volume.view.level(level))
    box = Box((at, at, at), (at + 1, at + 2, at + 2))
    await write_box(volume.stores, place, 0, box, np.full((1, 2, 2), label, dtype="<u4"))


async def create(volume: Volume, *ids: int, op: WriteOp = WriteOp.MERGE, at: int = 0) -> None:
    mask = np.ones((1, 2, 2), dtype=np.bool_)
    posted = [
        PostedObject(
            str(i), from_json({"ann_id": i}), PostedVoxels(0, None, [((at or i,) * 3, mask)])
        )
        for i in ids
    ]
    await create_objects(*volume.target, posted, op, usage=Usage())


async def strays(volume: Volume, *but: int) -> list[int]:
    pages = stray_labels(*volume.target, but=frozenset(but))
    return sorted({label async for page in pages for label in page})


async def test_objects_with_their_voxels_are_no_strays(volume: Volume) -> None:
    await create(volume, 3, 5)
    assert await strays(volume) == []


async def test_painted_labels_without_an_object_are_strays_at_any_level(volume: Volume) -> None:
    await create(volume, 3)
    await paint(volume, 9, 20)
    await paint(volume, 4, 10, level=1)
    assert await strays(volume) == [4, 9]
    assert await strays(volume, 9) == [4]


async def test_an_exception_without_an_object_is_a_stray(volume: Volume) -> None:
    await create(volume, 3)
    await create(volume, 6, op=WriteOp.EXCEPTION, at=3)
    await volume.stores.objects.delete(volume.channel.id, [6])
    assert await strays(volume) == [6]


async def test_entries_of_the_index_without_voxels_are_no_strays(volume: Volume) -> None:
    await create(volume, 3, 5)
    await delete_objects(*volume.target, [3])
    await volume.stores.labels.append(volume.channel.id, 0, 0, {77: [0]})
    assert await strays(volume) == []
