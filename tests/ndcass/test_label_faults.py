"""Writers of labels that meet, die or are late: voxels as one after the other, the index whole."""

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ndcass import label_index
from ndcass.annotation import (
    ObjectVoxels,
    erase_labels,
    merge_labels,
    read_object_points,
    write_object_voxels,
)
from ndcass.errors import TooLarge
from ndcass.geometry import Box
from ndcass.jobs.index import INDEX_JOB, index_channel
from ndcass.merge import WriteOp
from ndcass.place import Place
from ndcass.store.base import Stores
from ndcass.store.embedded import labels as embedded_labels
from ndcass.store.embedded import open_embedded
from ndcass.volume import Usage, read_box
from ndcass.writer import write_box
from tests.labelled import Model, Volume, annotated

SMALL = (4, 8, 8)
BOX = Box((0, 0, 0), SMALL)
OPS = (WriteOp.MERGE, WriteOp.PRESERVE, WriteOp.EXCEPTION, WriteOp.REDUCE)


@pytest.fixture
async def volume(tmp_path: Path) -> AsyncIterator[Volume]:
    stores = await open_embedded(tmp_path)
    yield await annotated(stores, exceptions=1)
    await stores.close()


async def write(volume: Volume, label: int, mask: npt.NDArray[np.bool_], op: WriteOp) -> None:
    item = ObjectVoxels(label, 0, None, (((0, 0, 0), mask),))
    await write_object_voxels(*volume.target, [item], op, usage=Usage())


async def points(volume: Volume, label: int) -> set[tuple[int, ...]]:
    found = await read_object_points(*volume.target, [label], 0, limit_bytes=1 << 24)
    return set(map(tuple, found.tolist()))


async def missing(volume: Volume) -> int:
    """How many labels of cuboids the index does not have."""
    job = await volume.stores.jobs.submit(INDEX_JOB, volume.channel.id, {"check": True})
    notes: list[Any] = []

    async def progress(done_units: int, total_units: int, detail: Any) -> None:
        notes.append(detail["missing"])

    await index_channel(volume.stores, job, progress)
    return int(notes[-1])


@pytest.mark.parametrize("seed", range(6))
async def test_writers_of_one_cuboid_are_as_if_one_after_the_other(
    volume: Volume, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    before = rng.random(SMALL) < 0.5
    await write(volume, 1, before, WriteOp.MERGE)
    writes = [
        (int(rng.integers(1, 4)), rng.random(SMALL) < 0.6, OPS[rng.integers(len(OPS))])
        for _ in range(4)
    ]
    await asyncio.gather(*(write(volume, *item) for item in writes))
    place = Place(volume.channel, volume.view.level(0))
    painted = await read_box(volume.stores.cuboids, place, 0, BOX)
    found = [await points(volume, label) for label in (1, 2, 3)]

    def is_so(order: tuple[Any, ...]) -> bool:
        model = Model(SMALL)
        model.write(WriteOp.MERGE, 1, before)
        for label, mask, op in order:
            model.write(op, label, mask)
        own = [set(map(tuple, np.argwhere(model.mask([n])).tolist())) for n in (1, 2, 3)]
        return np.array_equal(model.cuboid.voxels, painted) and own == found

    assert any(map(is_so, itertools.permutations(writes)))
    assert await missing(volume) == 0


KILLED = """
import asyncio, os, sys
from pathlib import Path
import numpy as np
from ndcass.annotation import ObjectVoxels, write_object_voxels
from ndcass.merge import WriteOp
from ndcass.store.embedded import cuboids, open_embedded
from ndcass.volume import Usage

async def die(self):
    os._exit(9)

async def run():
    stores = await open_embedded(Path(sys.argv[1]))
    view = await stores.catalog.token_view("t")
    cuboids.EmbeddedBatch.commit = die
    item = ObjectVoxels(7, 0, np.array([(0, 0, 0), (0, 0, 200)]), ())
    await write_object_voxels(stores, view, view.channel("anno"), [item], WriteOp.MERGE,
                              usage=Usage())

asyncio.run(run())
"""


async def test_a_writer_killed_between_index_and_voxels_leaves_a_superset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = await open_embedded(tmp_path)
    volume = await annotated(stores)
    await write(volume, 5, np.ones((1, 1, 1), dtype=np.bool_), WriteOp.MERGE)
    died = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=100
    )
    assert died.returncode == 9
    assert len(await stores.labels.mortons(volume.channel.id, 0, 7)) == 2
    assert await points(volume, 7) == set()
    assert len(await stores.labels.mortons(volume.channel.id, 0, 7)) == 2  # it may be alive yet
    assert await points(volume, 5) == {(0, 0, 0)}
    assert await missing(volume) == 0
    monkeypatch.setattr(embedded_labels, "LABEL_WINDOW_S", 0.0)
    await asyncio.sleep(0.01)
    assert await points(volume, 7) == set()
    assert list(await stores.labels.mortons(volume.channel.id, 0, 7)) == []
    await stores.close()


async def test_a_write_that_fails_changes_no_voxel(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_index, "MOST_ENTRIES", 3)
    noise = np.arange(1, 6, dtype="<u4").reshape(1, 1, 5)
    place = Place(volume.channel, volume.view.level(0))
    with pytest.raises(TooLarge, match="labels in cuboids"):
        await write_box(volume.stores, place, 0, Box((0, 0, 0), (1, 1, 5)), noise)
    assert not (await read_box(volume.stores.cuboids, place, 0, BOX)).any()


@pytest.mark.parametrize("window_s", [30.0, 0.2])
async def test_an_object_that_is_deleted_while_it_is_written_is_where_the_index_says(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, window_s: float
) -> None:
    monkeypatch.setattr(embedded_labels, "LABEL_WINDOW_S", window_s)
    rng = np.random.default_rng(7)
    other = rng.random((4, 8, 200)) < 0.5
    await write(volume, 6, other, WriteOp.MERGE)

    async def writing() -> None:
        for _ in range(12):
            await write(volume, 5, rng.random((4, 8, 200)) < 0.3, WriteOp.EXCEPTION)

    async def deleting() -> None:
        for _ in range(8):
            await erase_labels(*volume.target, [5])

    await asyncio.gather(writing(), deleting())
    assert await missing(volume) == 0
    assert await points(volume, 6) == set(map(tuple, np.argwhere(other).tolist()))
    await erase_labels(*volume.target, [5])
    assert await points(volume, 5) == set()
    place = Place(volume.channel, volume.view.level(0))
    left = await read_box(volume.stores.cuboids, place, 0, Box((0, 0, 0), (4, 8, 200)))
    assert set(np.unique(left).tolist()) == {0, 6}


async def test_a_label_painted_over_while_it_is_merged_stays_painted(
    volume: Volume,
) -> None:
    whole = np.ones((1, 8, 200), dtype=np.bool_)
    await write(volume, 5, whole, WriteOp.MERGE)
    over = np.zeros_like(whole)
    over[0, :4] = True
    await asyncio.gather(
        merge_labels(*volume.target, [5], 4), write(volume, 9, over, WriteOp.MERGE)
    )
    assert await points(volume, 9) == set(map(tuple, np.argwhere(over).tolist()))
    assert await points(volume, 4) >= set(map(tuple, np.argwhere(whole & ~over).tolist()))
    assert await points(volume, 5) == set()
    assert await missing(volume) == 0


async def test_entries_of_a_late_write_are_appended_again(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_labels, "LABEL_WINDOW_S", 0.0)
    stores: Stores = volume.stores
    real = type(stores.cuboids.batch()).commit

    async def slow(self: Any) -> None:
        await asyncio.sleep(0.01)
        assert await points(volume, 5) == set()  # a reader that takes the entry for dead
        await real(self)

    monkeypatch.setattr(type(stores.cuboids.batch()), "commit", slow)
    await write(volume, 5, np.ones((1, 1, 1), dtype=np.bool_), WriteOp.MERGE)
    assert await points(volume, 5) == {(0, 0, 0)}
