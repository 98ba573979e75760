"""Voxels of objects and their index on real nodes, beside the model that is one large array."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import pytest

from ndcass.annotation import (
    ObjectVoxels,
    erase_labels,
    labels_in_box,
    merge_labels,
    read_object_points,
    write_object_voxels,
)
from ndcass.config import CassandraSettings
from ndcass.geometry import Box
from ndcass.jobs.index import INDEX_JOB, index_channel
from ndcass.merge import WriteOp
from ndcass.store.cassandra import open_cassandra
from ndcass.store.cassandra.driver import ConnectSettings
from ndcass.store.cassandra.tiers import Tiers
from ndcass.volume import Usage
from tests.labelled import SIZE_ZYX, Model, Volume, annotated

OPS = (WriteOp.MERGE, WriteOp.PRESERVE, WriteOp.EXCEPTION, WriteOp.REDUCE)


@pytest.fixture
async def volume(cassandra_settings: ConnectSettings, one_tier: Tiers) -> AsyncIterator[Volume]:
    stores = await open_cassandra(
        CassandraSettings(
            contact_points=cassandra_settings.contact_points,
            port=cassandra_settings.port,
            archive_keyspace=one_tier.archive.keyspace,
            archive_data_centre=one_tier.archive.data_centre,
            archive_replicas=3,
            max_clock_skew_ms=0,
        )
    )
    yield await annotated(stores, exceptions=1)
    await stores.catalog.delete_dataset("d")
    await stores.close()


async def write(volume: Volume, label: int, points: Any, op: WriteOp) -> None:
    item = ObjectVoxels(label, 0, points.astype(np.int64), ())
    await write_object_voxels(*volume.target, [item], op, usage=Usage())


async def points(volume: Volume, *labels: int) -> set[tuple[int, ...]]:
    found = await read_object_points(*volume.target, labels, 0, limit_bytes=1 << 26)
    assert len(found) == len(set(map(tuple, found.tolist())))
    return set(map(tuple, found.tolist()))


async def checked(volume: Volume, *, check: bool) -> Mapping[str, Any]:
    job = await volume.stores.jobs.submit(INDEX_JOB, volume.channel.id, {"check": check})
    notes: list[Mapping[str, Any]] = []

    async def progress(done_units: int, total_units: int, detail: Mapping[str, Any]) -> None:
        notes.append(detail)

    await index_channel(volume.stores, job, progress)
    return notes[-1]


def where(model: Model, *labels: int) -> set[tuple[int, ...]]:
    return set(map(tuple, np.argwhere(model.mask(labels)).tolist()))


async def test_objects_are_as_if_written_into_one_array(volume: Volume) -> None:
    rng = np.random.default_rng(5)
    model = Model()
    for _ in range(10):
        label, op = int(rng.integers(1, 5)), OPS[rng.integers(len(OPS))]
        some = rng.integers((10, 100, 100), (20, 150, 150), (2000, 3))
        mask = np.zeros(SIZE_ZYX, dtype=np.bool_)
        mask[tuple(some.T)] = True
        await write(volume, label, some, op)
        model.write(op, label, mask)
    assert len(model.cuboid.exceptions)
    for label in (1, 2, 3, 4):
        assert await points(volume, label) == where(model, label)
    box = Box((12, 110, 120), (18, 140, 145))
    assert (await labels_in_box(*volume.target, 0, box)).tolist() == model.labels(box)
    assert (await checked(volume, check=True))["missing"] == 0
    await merge_labels(*volume.target, [2], 1)
    assert await points(volume, 1) == where(model, 1, 2)
    await erase_labels(*volume.target, [1])
    assert await points(volume, 1, 2) == set()
    assert await points(volume, 3) == where(model, 3)
    await volume.stores.labels.delete_channel(volume.channel.id)
    assert (await checked(volume, check=False))["missing"] > 0
    assert await points(volume, 3) == where(model, 3)


async def test_writers_and_a_deleter_side_by_side_leave_the_index_whole(volume: Volume) -> None:
    rng = np.random.default_rng(6)
    kept = rng.integers((0, 0, 0), (16, 100, 250), (3000, 3))
    await write(volume, 9, kept, WriteOp.MERGE)

    async def writing(label: int) -> None:
        for _ in range(4):
            some = rng.integers((0, 0, 0), (16, 100, 250), (1000, 3))
            await write(volume, label, some, WriteOp.EXCEPTION)

    async def deleting() -> None:
        for _ in range(4):
            await erase_labels(*volume.target, [5])

    await asyncio.gather(writing(5), writing(6), writing(7), deleting())
    assert (await checked(volume, check=True))["missing"] == 0
    assert await points(volume, 9) == set(map(tuple, kept.tolist()))
    await erase_labels(*volume.target, [5])
    assert await points(volume, 5) == set()
