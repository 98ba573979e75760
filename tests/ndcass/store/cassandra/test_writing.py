import asyncio
import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.errors import StoreFull, StoreTimeout
from ndcass.merge import WriteOp
from ndcass.store.base import PLAIN, CuboidAddress
from ndcass.store.cassandra import writing
from ndcass.store.cassandra.cuboids import CassandraCuboids
from ndcass.store.cassandra.driver import Driver
from ndcass.store.cassandra.rows import PART_BYTES, WRITE, Bucket, Head, parts_of, unpack_header
from ndcass.store.cassandra.tiers import Tiers, Windows
from ndcass.store.cassandra.writing import MUTATION_BYTES, ROW_BYTES, RowWriter
from ndcass.store.clock import WriteClock, milliseconds_of, wall_clock_ms
from tests.store_contract import merged_cuboids, write_of

BUCKET = Bucket(9, PLAIN, 0, 0, 0)
SHAPE = (16, 32, 32)
_channel_ids = itertools.count(8_000_000)


class Recorder:
    """In the place of the driver: keeps what would be sent."""

    def __init__(self) -> None:
        self.mutations: list[Sequence[tuple[Any, Sequence[Any]]]] = []

    async def execute_batch(self, entries: Any, *, consistency: Any, size_bytes: int) -> None:
        self.mutations.append(entries)


def row_of(morton: int, size: int) -> tuple[Head, bytes]:
    payload = bytes([morton % 256]) * size
    head = Head(
        morton, WRITE, bytes(16), WriteOp.MERGE, (0, 0, 0), SHAPE, SHAPE, size, parts_of(size)
    )
    return head, payload


async def sent(rows: Sequence[tuple[Head, bytes]]) -> Recorder:
    recorder = Recorder()
    writer = RowWriter(recorder, "whole", "part")  # type: ignore[arg-type]  # stand-ins
    await writer.send(BUCKET, rows)
    return recorder


# -- what goes into one mutation

sizes = st.one_of(
    st.integers(0, 300),
    st.sampled_from([PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, MUTATION_BYTES]),
    st.integers(0, 2 * MUTATION_BYTES),
)


@given(st.lists(sizes, min_size=1, max_size=6))
def test_mutations_are_bounded_and_hold_every_byte_in_order(sizes: list[int]) -> None:
    rows = [row_of(morton, size) for morton, size in enumerate(sizes)]
    recorder = asyncio.run(sent(rows))
    parts: dict[int, dict[int, bytes]] = {}
    place: dict[int, list[int]] = {}
    for number, entries in enumerate(recorder.mutations):
        assert entries
        assert sum(ROW_BYTES + len(values[-2]) for _, values in entries) <= MUTATION_BYTES
        for statement, values in entries:
            morton, part = values[5], values[8]
            parts.setdefault(morton, {})[part] = bytes(values[-2])
            place.setdefault(morton, []).append(number)
            if statement == "whole":
                assert part == 0
                assert set(parts[morton]) == set(range(rows[morton][0].parts)), "the header is last"
                address = BUCKET.address(morton)
                header = unpack_header(values[9], kind=WRITE, write_id=bytes(16), address=address)
                assert header == rows[morton][0]
    for head, payload in rows:
        found = parts[head.morton]
        assert b"".join(found[part] for part in range(head.parts)) == payload
        if len(payload) + head.parts * ROW_BYTES <= MUTATION_BYTES:
            assert len(set(place[head.morton])) == 1, "what fits is not torn apart"


async def test_many_tiny_rows_are_not_one_huge_mutation() -> None:
    recorder = await sent([row_of(morton, 40) for morton in range(20_000)])
    assert len(recorder.mutations) > 1
    assert max(map(len, recorder.mutations)) <= MUTATION_BYTES // ROW_BYTES


async def test_a_bucket_of_whole_cuboids_is_one_mutation() -> None:
    size = (4 << 20) // 8 + 512  # eight cuboids of 512 KiB with what codecs put in front
    recorder = await sent([row_of(morton, size) for morton in range(8)])
    assert len(recorder.mutations) == 1


# -- batches on real nodes


@pytest.fixture
async def cuboids(driver: Driver, one_tier: Tiers) -> CassandraCuboids:
    return await CassandraCuboids.open(driver, one_tier, Windows(max_clock_skew_ms=0))


@pytest.fixture
def channel_id() -> int:
    return next(_channel_ids)


def noise(seed: int) -> Any:
    return np.random.default_rng(seed).integers(1, 250, SHAPE, dtype=np.uint8).astype("<u1")


def writes(channel_id: int, count: int) -> list[Any]:
    return [
        write_of(CuboidAddress(channel_id, PLAIN, 0, 0, morton), noise(morton), shape=SHAPE)
        for morton in range(count)
    ]


async def read(cuboids: CassandraCuboids, channel_id: int, count: int) -> dict[int, Any]:
    class Only:
        pass

    only: Any = Only()
    only.cuboids = cuboids
    addresses = [CuboidAddress(channel_id, PLAIN, 0, 0, morton) for morton in range(count)]
    found = await merged_cuboids(only, addresses, dtype="<u1", shape=SHAPE)
    return {address.morton: cuboid.voxels for address, cuboid in found.items()}


async def test_what_memory_does_not_hold_comes_back_from_a_file(
    cuboids: CassandraCuboids, channel_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "HELD_BYTES", 3 * np.prod(SHAPE))
    async with cuboids.batch() as batch:
        for write in writes(channel_id, 10):
            await batch.add([write])
        assert batch._spool is not None
        assert os.fstat(batch._spool.fileno()).st_size >= 7 * np.prod(SHAPE)
        await batch.commit()
    found = await read(cuboids, channel_id, 10)
    assert sorted(found) == list(range(10))
    for morton, voxels in found.items():
        np.testing.assert_array_equal(voxels, noise(morton))


async def test_batches_share_the_memory_for_what_they_hold(
    cuboids: CassandraCuboids, channel_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "HELD_BYTES", 3 * np.prod(SHAPE))
    async with cuboids.batch() as first:
        await first.add(writes(channel_id, 2))
        assert first._spool is None
        async with cuboids.batch() as second:
            await second.add(writes(channel_id, 2))
            assert second._spool is not None
        await first.commit()
    async with cuboids.batch() as third:
        await third.add(writes(channel_id, 2))
        assert third._spool is None
    assert cuboids._memory.used == 0


async def test_a_write_that_was_held_up_beyond_its_window_is_not_acknowledged(
    cuboids: CassandraCuboids, channel_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep_ms = 0
    cuboids.clock = WriteClock(lambda: wall_clock_ms() + asleep_ms)
    send = cuboids.writer.send

    async def sleeps(*args: Any) -> None:
        nonlocal asleep_ms
        await send(*args)
        asleep_ms = 60_000  # as if the machine had slept: no timer has seen it

    monkeypatch.setattr(cuboids.writer, "send", sleeps)
    async with cuboids.batch() as batch:
        await batch.add(writes(channel_id, 1))
        with pytest.raises(StoreTimeout, match="unknown"):
            await batch.commit()


async def test_what_is_written_into_a_channel_that_is_gone_is_found(
    cuboids: CassandraCuboids, channel_id: int, driver: Driver, one_tier: Tiers
) -> None:
    other = await CassandraCuboids.open(driver, one_tier, Windows(max_clock_skew_ms=0))
    async with cuboids.batch() as batch:
        await batch.add(writes(channel_id, 1))
        await batch.commit()
    await other.delete_channel(channel_id)
    async with cuboids.batch() as batch:  # which remembers that it has noted the bucket
        await batch.add(writes(channel_id, 1))
        await batch.commit()
        assert [page async for page in cuboids.occupancy.walk(channel_id)] == []
        await batch.strand()
    assert channel_id in await cuboids.occupancy.channel_ids()
    assert len([page async for page in cuboids.occupancy.walk(channel_id)]) == 1
    await cuboids.delete_channel(channel_id)
    assert await read(other, channel_id, 1) == {}


async def test_a_full_disk_refuses_the_write_and_nothing_is_sent(
    cuboids: CassandraCuboids, channel_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "HELD_BYTES", 0)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreFull):
        async with cuboids.batch() as batch:
            await batch.add(writes(channel_id, 1))
    assert await cuboids.layouts.layout(channel_id) is None
    assert await read(cuboids, channel_id, 1) == {}


async def test_a_batch_given_up_leaves_nothing_at_all(
    cuboids: CassandraCuboids, channel_id: int
) -> None:
    async with cuboids.batch() as batch:
        await batch.add(writes(channel_id, 3))
    assert await cuboids.layouts.layout(channel_id) is None
    assert await read(cuboids, channel_id, 3) == {}
    assert [page async for page in cuboids.occupancy.walk(channel_id)] == []


async def test_writes_of_one_cuboid_get_their_ids_in_the_order_of_adding(
    cuboids: CassandraCuboids, channel_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "MUTATION_BYTES", 3 * np.prod(SHAPE))  # several chunks
    address = CuboidAddress(channel_id, PLAIN, 0, 0, 0)
    async with cuboids.batch() as batch:
        for seed in range(20):
            await batch.add([write_of(address, noise(seed), WriteOp.REPLACE, shape=SHAPE)])
        await batch.commit()
    np.testing.assert_array_equal((await read(cuboids, channel_id, 1))[0], noise(19))
    (heads,) = (await cuboids.buckets.heads(Bucket.of(address, 3))).values()
    assert len(heads.writes) == 20


async def test_a_commit_returns_when_every_clock_is_past_its_ids(
    driver: Driver, one_tier: Tiers, channel_id: int
) -> None:
    cuboids = await CassandraCuboids.open(driver, one_tier, Windows(max_clock_skew_ms=150))
    ids: list[bytes] = []
    next_id = cuboids.clock.next_id

    def noted() -> bytes:
        ids.append(next_id())
        return ids[-1]

    cuboids.clock.next_id = noted  # type: ignore[method-assign]  # to look at it
    async with cuboids.batch() as batch:
        await batch.add(writes(channel_id, 2))
        await batch.commit()
    assert wall_clock_ms() > milliseconds_of(max(ids)) + 2 * 150
