"""What every engine promises, as tests: one class a protocol.

An engine subclasses all of them, each with its `stores` fixture::

    class TestCuboids(CuboidContract):
        @pytest.fixture
        async def stores(self, tmp_path: Path) -> AsyncIterator[Stores]: ...

Expected voxels come from `merge.apply`, one write after another, which has its own model in
``test_merge.py``.
"""

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ndcass import assemble
from ndcass.errors import AlreadyExists, Conflict, InvalidRequest, NotFound, TooLarge
from ndcass.merge import EMPTY, Cuboid, WriteOp, apply
from ndcass.model import Channel, Dataset, Project, Token, User
from ndcass.store.base import (
    DELETE_JOB,
    MAX_RECORD_BYTES,
    MAX_RECORD_NAME,
    NEARISO,
    PLAIN,
    VERSIONS_BYTES,
    Comparison,
    CuboidAddress,
    CuboidWrite,
    JobState,
    Predicate,
    StaleMark,
    StoredObject,
    Stores,
)

SHAPE = (4, 8, 8)
DTYPES = ["<u1", "<u2", "<u4", "<u8", "<i1", "<i2", "<i4", "<i8", "<f4", "<f8"]
LARGEST_MORTON = (1 << 63) - 1

Voxels = npt.NDArray[Any]  # whatever type a test stores


class Contract:
    """Base of all: where an engine says how it is opened."""

    @pytest.fixture
    async def stores(self) -> AsyncIterator[Stores]:
        raise NotImplementedError("a subclass opens its engine here")
        yield  # noqa: PT022 - subclasses close what they opened


def at(
    morton: int, *, channel: int = 1, level: int = 0, t: int = 0, pyramid: int = PLAIN
) -> CuboidAddress:
    return CuboidAddress(channel, pyramid, level, t, morton)


def write_of(
    address: CuboidAddress,
    voxels: Voxels,
    op: WriteOp = WriteOp.MERGE,
    *,
    corner: tuple[int, int, int] = (0, 0, 0),
    shape: tuple[int, int, int] = SHAPE,
) -> CuboidWrite:
    return CuboidWrite(address, op, shape, corner, voxels, keeps_exceptions=voxels.dtype == "<u4")


def full(value: Any, dtype: str = "<u2", shape: tuple[int, int, int] = SHAPE) -> Voxels:
    return np.full(shape, value, dtype=dtype)


async def store(stores: Stores, *writes: CuboidWrite) -> None:
    async with stores.cuboids.batch() as batch:
        await batch.add(writes)
        await batch.commit()


async def merged_cuboids(
    stores: Stores,
    addresses: Sequence[CuboidAddress],
    *,
    dtype: str = "<u2",
    shape: tuple[int, int, int] = SHAPE,
) -> dict[CuboidAddress, Cuboid]:
    """Every stored cuboid of some addresses."""
    found: dict[CuboidAddress, Cuboid] = {}
    async for page in stores.cuboids.read(addresses):
        for address, rows in page:
            assert address not in found, f"{address} came twice"
            ids = [row.write_id for row in rows]
            assert ids == sorted(set(ids))
            found[address] = assemble.merged(address, rows, cuboid_zyx=shape, dtype=np.dtype(dtype))
    return found


async def voxels_at(
    stores: Stores,
    address: CuboidAddress,
    *,
    dtype: str = "<u2",
    shape: tuple[int, int, int] = SHAPE,
) -> Voxels:
    """The voxels of one cuboid; zeros where there is none."""
    found = await merged_cuboids(stores, [address], dtype=dtype, shape=shape)
    return found[address].voxels if address in found else np.zeros(shape, dtype=dtype)


async def scanned(stores: Stores, channel_id: int, **which: Any) -> list[CuboidAddress]:
    """All of a scan; `which` are its options."""
    return [a async for page in stores.cuboids.scan(channel_id, **which) for a in page]


def pairs(cuboid: Cuboid) -> list[tuple[int, int]]:
    exceptions = cuboid.exceptions
    return list(zip(exceptions.offsets.tolist(), exceptions.labels.tolist(), strict=True))


def random_write(
    rng: np.random.Generator, address: CuboidAddress, dtype: str, ops: Sequence[WriteOp]
) -> CuboidWrite:
    """A box of few values, so that labels meet; half of it zeros."""
    starts = [int(rng.integers(0, size)) for size in SHAPE]
    stops = [int(rng.integers(a + 1, size + 1)) for a, size in zip(starts, SHAPE, strict=True)]
    if rng.random() < 0.3:
        starts, stops = [0, 0, 0], list(SHAPE)
    shape = tuple(b - a for a, b in zip(starts, stops, strict=True))
    voxels = rng.integers(0, 6, shape).astype(dtype) * (rng.random(shape) < 0.5)
    op = ops[int(rng.integers(len(ops)))]
    return write_of(address, voxels.astype(dtype), op, corner=(starts[0], starts[1], starts[2]))


class CuboidContract(Contract):
    """`CuboidStore` and `CuboidBatch`."""

    # Whether one reader may meet a write that is not acknowledged yet, and the next one not.
    shows_what_is_under_way = False

    # -- reading

    async def test_a_written_cuboid_reads_back(self, stores: Stores) -> None:
        voxels = np.arange(4 * 8 * 8, dtype="<u2").reshape(SHAPE)
        await store(stores, write_of(at(5), voxels))
        assert np.array_equal(await voxels_at(stores, at(5)), voxels)

    async def test_an_absent_cuboid_does_not_come(self, stores: Stores) -> None:
        await store(stores, write_of(at(5), full(1)))
        assert await merged_cuboids(stores, [at(4), at(6)]) == {}

    async def test_reading_nothing_gives_nothing(self, stores: Stores) -> None:
        assert await merged_cuboids(stores, []) == {}
        assert not stores.cuboids.read_now([])

    async def test_of_many_cuboids_exactly_the_stored_ones_come(self, stores: Stores) -> None:
        written = [at(morton) for morton in range(0, 3000, 3)]
        await store(stores, *(write_of(a, full(a.morton + 1)) for a in written))
        found = await merged_cuboids(stores, [at(morton) for morton in range(3000)])
        assert sorted(found) == written
        assert all((c.voxels == a.morton + 1).all() for a, c in found.items())

    @pytest.mark.parametrize("dtype", DTYPES)
    async def test_every_type_reads_back_bit_for_bit(self, stores: Stores, dtype: str) -> None:
        bits = np.random.default_rng(1).integers(0, 256, 4 * 8 * 8 * 8, dtype=np.uint8)
        voxels = bits.view(dtype)[: 4 * 8 * 8].reshape(SHAPE)
        await store(stores, write_of(at(1), voxels, WriteOp.REPLACE))
        assert (await voxels_at(stores, at(1), dtype=dtype)).tobytes() == voxels.tobytes()

    @pytest.mark.parametrize("op", [WriteOp.MERGE, WriteOp.REPLACE])
    async def test_nan_is_a_value(self, stores: Stores, op: WriteOp) -> None:
        voxels = full(np.nan, "<f4")
        voxels[0] = 1
        await store(stores, write_of(at(1), full(7, "<f4")))
        await store(stores, write_of(at(1), voxels, op))
        found = await voxels_at(stores, at(1), dtype="<f4")
        assert np.array_equal(found, voxels, equal_nan=True)

    async def test_a_posted_negative_zero_is_nothing(self, stores: Stores) -> None:
        voxels = full(-0.0, "<f4")
        voxels[1] = 2
        await store(stores, write_of(at(1), voxels))
        assert not np.signbit(await voxels_at(stores, at(1), dtype="<f4")).any()

    @pytest.mark.parametrize("noise", [False, True])
    async def test_large_cuboids_read_back(self, stores: Stores, noise: bool) -> None:
        shape = (64, 128, 128)
        z, y, x = np.indices(shape, dtype=np.float64)
        voxels = z * y - x
        if noise:
            voxels = np.random.default_rng(2).random(shape)
        await store(stores, write_of(at(3), voxels, WriteOp.REPLACE, shape=shape))
        assert np.array_equal(await voxels_at(stores, at(3), dtype="<f8", shape=shape), voxels)

    async def test_read_now_is_none_or_what_read_gives(self, stores: Stores) -> None:
        rng = np.random.default_rng(3)
        addresses = [at(morton) for morton in range(6)]
        for address in addresses[:4]:
            await store(stores, write_of(address, rng.integers(0, 9, SHAPE).astype("<u2")))
        now = stores.cuboids.read_now(addresses)
        if now is None:
            return
        slow = [item async for page in stores.cuboids.read(addresses) for item in page]
        assert sorted((a, [bytes(r.payload) for r in rows]) for a, rows in now) == sorted(
            (a, [bytes(r.payload) for r in rows]) for a, rows in slow
        )

    async def test_versions_stay_while_nothing_is_written(self, stores: Stores) -> None:
        await store(stores, write_of(at(1), full(3)), write_of(at(700), full(4)))
        addresses = [at(m) for m in (1, 2, 3, 700, 701)]
        before = await stores.cuboids.versions(addresses)
        assert len(before) == VERSIONS_BYTES
        await merged_cuboids(stores, addresses)
        await store(stores, write_of(at(4), full(5)), write_of(at(1, t=1), full(5)))
        await store(stores, write_of(at(1, channel=2), full(5)))
        await store(stores, write_of(at(1, level=1), full(5)))
        await store(stores, write_of(at(1, pyramid=NEARISO), full(5)))
        async with stores.cuboids.batch() as batch:
            await batch.add([write_of(at(1), full(9))])  # given up
        assert await stores.cuboids.versions(addresses) == before

    async def test_every_acknowledged_write_changes_the_versions(self, stores: Stores) -> None:
        addresses = [at(m) for m in (1, 2, 700)]
        seen = [await stores.cuboids.versions(addresses)]
        part = full(7, shape=(1, 2, 2))
        for write in (
            write_of(at(2), full(3)),
            write_of(at(2), part, corner=(1, 1, 1)),
            write_of(at(700), full(3)),
            write_of(at(2), full(4)),
            write_of(at(2), full(0), WriteOp.REPLACE),
            write_of(at(2), full(3)),
        ):
            await store(stores, write)
            seen.append(await stores.cuboids.versions(addresses))
        assert len(set(seen)) == len(seen)

    async def test_versions_tell_cuboids_apart(self, stores: Stores) -> None:
        await store(stores, *(write_of(at(m), full(3)) for m in (1, 2)))
        of = stores.cuboids.versions
        assert await of([at(1)]) != await of([at(2)])
        assert await of([at(1)]) == await of([at(5), at(1), at(6)])
        assert await of([at(1), at(2)]) == await of([at(2), at(1)])
        assert await of([]) == await of([at(5)])

    async def test_versions_of_very_many_cuboids(self, stores: Stores) -> None:
        addresses = [at(m) for m in range(0, 9000, 3)]
        await store(stores, *(write_of(a, full(3)) for a in addresses[::7]))
        before = await stores.cuboids.versions(addresses)
        assert await stores.cuboids.versions(addresses) == before
        await store(stores, write_of(addresses[-1], full(4)))
        assert await stores.cuboids.versions(addresses) != before

    async def test_what_is_kept_under_a_version_is_never_old(self, stores: Stores) -> None:
        """Readers ask for the version before they read, as a cache does, while others write."""
        rng = np.random.default_rng(11)
        kept: dict[bytes, Voxels] = {}
        done = asyncio.Event()

        async def look() -> None:
            version = await stores.cuboids.versions([at(1)])
            voxels = await voxels_at(stores, at(1), dtype="<u4")
            kept.setdefault(version, voxels)

        async def keep_looking() -> None:
            while not done.is_set():
                await look()
                await asyncio.sleep(0)

        async def write() -> None:
            for _ in range(6):
                await store(stores, random_write(rng, at(1), "<u4", list(WriteOp)[1:]))

        async def write_all() -> None:
            try:
                await asyncio.gather(*(write() for _ in range(4)))
            finally:
                done.set()

        await asyncio.wait_for(
            asyncio.gather(keep_looking(), keep_looking(), write_all()), timeout=120
        )
        await look()
        last = await stores.cuboids.versions([at(1)])
        voxels = await voxels_at(stores, at(1), dtype="<u4")
        assert np.array_equal(kept[last], voxels)
        await stores.maintain()
        after = await stores.cuboids.versions([at(1)])
        assert np.array_equal(kept.get(after, voxels), voxels)

    async def test_a_payload_outlives_what_happens_to_its_cuboid(self, stores: Stores) -> None:
        noise = np.random.default_rng(4).integers(1, 1 << 16, SHAPE).astype("<u2")
        await store(stores, write_of(at(1), noise))
        held = [item async for page in stores.cuboids.read([at(1)]) for item in page]
        await store(stores, write_of(at(1), full(2), WriteOp.REPLACE))
        await stores.cuboids.delete_channel(1)
        await stores.maintain()
        [(address, rows)] = held
        before = assemble.merged(address, rows, cuboid_zyx=SHAPE, dtype=noise.dtype)
        assert np.array_equal(before.voxels, noise)

    async def test_the_largest_address_is_as_good_as_any(self, stores: Stores) -> None:
        address = CuboidAddress((1 << 62) - 1, NEARISO, 20, (1 << 62) - 1, LARGEST_MORTON)
        await store(stores, write_of(address, full(9)))
        assert (await voxels_at(stores, address) == 9).all()
        assert await scanned(stores, address.channel_id) == [address]

    # -- one batch

    async def test_a_batch_is_not_visible_before_its_commit(self, stores: Stores) -> None:
        addresses = [at(1), at(2)]
        await store(stores, write_of(at(2), full(1)))
        async with stores.cuboids.batch() as batch:
            await batch.add([write_of(at(1), full(5))])
            await batch.add([write_of(at(2), full(5))])
            found = await merged_cuboids(stores, addresses)
            assert list(found) == [at(2)]
            assert (found[at(2)].voxels == 1).all()
            assert await scanned(stores, 1) == [at(2)]
            await batch.commit()
        found = await merged_cuboids(stores, addresses)
        assert sorted(found) == addresses
        assert all((cuboid.voxels == 5).all() for cuboid in found.values())

    async def test_a_batch_without_a_commit_changes_nothing(self, stores: Stores) -> None:
        await store(stores, write_of(at(1), full(1)))
        async with stores.cuboids.batch() as batch:
            await batch.add([write_of(at(1), full(5)), write_of(at(2), full(5))])
        assert (await voxels_at(stores, at(1)) == 1).all()
        assert await scanned(stores, 1) == [at(1)]

    async def test_a_batch_that_fails_half_way_changes_nothing(self, stores: Stores) -> None:
        async def fail() -> None:
            async with stores.cuboids.batch() as batch:
                await batch.add([write_of(at(1), full(5))])
                raise RuntimeError("the client left")

        with pytest.raises(RuntimeError, match="the client left"):
            await fail()
        assert await scanned(stores, 1) == []

    async def test_a_batch_whose_task_is_cancelled_changes_nothing(self, stores: Stores) -> None:
        added = asyncio.Event()

        async def wait_for_ever() -> None:
            async with stores.cuboids.batch() as batch:
                await batch.add([write_of(at(1), full(5))])
                added.set()
                await asyncio.sleep(3600)

        task = asyncio.create_task(wait_for_ever())
        await asyncio.wait_for(added.wait(), timeout=30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await scanned(stores, 1) == []
        await store(stores, write_of(at(1), full(6)))
        assert (await voxels_at(stores, at(1)) == 6).all()

    async def test_an_empty_batch_can_be_committed(self, stores: Stores) -> None:
        async with stores.cuboids.batch() as batch:
            await batch.add([])
            await batch.commit()
        assert await scanned(stores, 1) == []

    async def test_the_caller_may_use_its_array_again(self, stores: Stores) -> None:
        noise = np.random.default_rng(5).integers(1, 1 << 16, SHAPE).astype("<u2")
        buffer = noise.copy()
        async with stores.cuboids.batch() as batch:
            await batch.add(
                [
                    write_of(at(1), buffer),
                    write_of(at(2), buffer[:2], corner=(2, 0, 0)),
                    write_of(at(3), buffer, WriteOp.PRESERVE),
                ]
            )
            buffer[...] = 7
            await batch.commit()
        assert np.array_equal(await voxels_at(stores, at(1)), noise)
        assert np.array_equal((await voxels_at(stores, at(2)))[2:], noise[:2])
        assert np.array_equal(await voxels_at(stores, at(3)), noise)

    async def test_voxels_need_not_be_contiguous(self, stores: Stores) -> None:
        big = np.random.default_rng(6).integers(1, 1 << 16, (8, 16, 16)).astype("<u2")
        part = big[::2, ::2, 4:12]
        await store(stores, write_of(at(1), part))
        assert np.array_equal(await voxels_at(stores, at(1)), part)

    async def test_one_cuboid_twice_in_a_batch_is_merged_in_order(self, stores: Stores) -> None:
        await store(
            stores,
            write_of(at(1), full(1)),
            write_of(at(1), full(2, shape=(1, 8, 8)), corner=(1, 0, 0)),
            write_of(at(1), full(3, shape=(2, 8, 8)), corner=(1, 0, 0)),
        )
        assert (await voxels_at(stores, at(1)))[:, 0, 0].tolist() == [1, 3, 3, 1]

    async def test_a_write_of_zeros_makes_no_cuboid(self, stores: Stores) -> None:
        for op in WriteOp:
            if op not in (WriteOp.BASE, WriteOp.REPLACE):
                await store(stores, write_of(at(1), full(0), op))
        assert await scanned(stores, 1) == []
        assert await merged_cuboids(stores, [at(1)]) == {}

    async def test_replacing_with_zeros_leaves_zeros(self, stores: Stores) -> None:
        await store(stores, write_of(at(1), full(4)))
        await store(stores, write_of(at(1), full(0), WriteOp.REPLACE))
        assert not (await voxels_at(stores, at(1))).any()

    # -- several writes

    async def test_writes_of_parts_meet_in_one_cuboid(self, stores: Stores) -> None:
        await store(stores, write_of(at(1), full(1, shape=(2, 8, 8))))
        await store(stores, write_of(at(1), full(2, shape=(2, 8, 8)), corner=(2, 0, 0)))
        await store(stores, write_of(at(1), full(3, shape=(2, 8, 8)), corner=(1, 0, 0)))
        assert (await voxels_at(stores, at(1)))[:, 5, 5].tolist() == [1, 3, 3, 2]

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("dtype", ["<u4", "<u1", "<f4"])
    async def test_writes_one_after_another_are_merged_in_order(
        self, stores: Stores, dtype: str, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        # Exceptions are kept where the label type is that of annotations (`write_of`).
        ops = [WriteOp.MERGE, WriteOp.REPLACE, WriteOp.PRESERVE]
        if dtype == "<u4":
            ops += [WriteOp.EXCEPTION, WriteOp.REDUCE, WriteOp.ERASE]
        addresses = [at(morton) for morton in range(3)]
        expected = {a: Cuboid(np.zeros(SHAPE, dtype=dtype), EMPTY) for a in addresses}
        for _ in range(12):
            writes = [
                random_write(rng, addresses[int(rng.integers(3))], dtype, ops)
                for _ in range(int(rng.integers(1, 4)))
            ]
            await store(stores, *writes)
            for w in writes:
                expected[w.address] = apply(expected[w.address], w.op, w.corner_zyx, w.voxels)
            found = await merged_cuboids(stores, addresses, dtype=dtype)
            for address, cuboid in expected.items():
                actual = found.get(address, Cuboid(np.zeros(SHAPE, dtype=dtype), EMPTY))
                assert actual.voxels.tobytes() == cuboid.voxels.tobytes()
                assert pairs(actual) == pairs(cuboid)

    async def test_two_batches_in_flight_lose_nothing(self, stores: Stores) -> None:
        """Prepared before either is committed, committed the other way round."""
        await store(stores, write_of(at(1), full(1)))
        first = full(0, shape=(3, 8, 8))
        first[:, :4] = 2
        second = full(0, shape=(3, 8, 8))
        second[:, 4:] = 3
        async with stores.cuboids.batch() as one, stores.cuboids.batch() as other:
            await one.add([write_of(at(1), first), write_of(at(2), first)])
            await other.add([write_of(at(1), second, corner=(1, 0, 0)), write_of(at(2), second)])
            await other.commit()
            await one.commit()
        found = await voxels_at(stores, at(1))
        assert found[:, 0, 0].tolist() == [2, 2, 2, 1]
        assert found[:, 7, 7].tolist() == [1, 3, 3, 3]
        found = await voxels_at(stores, at(2))
        assert found[:, 0, 0].tolist() == [2, 2, 2, 0]
        assert found[:, 7, 7].tolist() == [3, 3, 3, 0]

    @pytest.mark.parametrize("seed", range(40))
    async def test_batches_in_flight_end_as_if_one_after_another(
        self, stores: Stores, seed: int
    ) -> None:
        """Each cuboid is what some order of the three writes makes of it, whatever their ops."""
        rng = np.random.default_rng(seed)
        addresses = [at(1), at(2)]
        ops = list(WriteOp)[1:]
        before = {a: random_write(rng, a, "<u4", [WriteOp.REPLACE]) for a in addresses}
        await store(stores, *(before[a] for a in addresses[: seed % 3]))
        in_flight = [[random_write(rng, a, "<u4", ops) for a in addresses] for _ in range(3)]

        async with contextlib.AsyncExitStack() as stack:
            batches = [await stack.enter_async_context(stores.cuboids.batch()) for _ in in_flight]
            for batch, writes in zip(batches, in_flight, strict=True):
                await batch.add(writes)
            order = rng.permutation(3)
            await asyncio.gather(*(batches[n].commit() for n in order[:2]))
            await batches[order[2]].commit()

        found = await merged_cuboids(stores, addresses, dtype="<u4")
        zeros = Cuboid(np.zeros(SHAPE, dtype="<u4"), EMPTY)
        for number, address in enumerate(addresses):
            possible = []
            for later in itertools.permutations(writes[number] for writes in in_flight):
                first = [before[address]] if number < seed % 3 else []
                cuboid = zeros
                for w in [*first, *later]:
                    cuboid = apply(cuboid, w.op, w.corner_zyx, w.voxels)
                possible.append((cuboid.voxels.tobytes(), pairs(cuboid)))
            actual = found.get(address, zeros)
            assert (actual.voxels.tobytes(), pairs(actual)) in possible

    async def test_many_writers_at_once_lose_no_voxel(self, stores: Stores) -> None:
        """Every writer has voxels of its own, in boxes that all overlap."""
        writers, addresses = 24, [at(1), at(2), at(700)]
        owner = np.random.default_rng(7).integers(0, writers, SHAPE)

        async def write(number: int) -> None:
            mine = np.where(owner == number, number + 1, 0).astype("<u2")
            for address in addresses:
                corner = (number % 2, 0, number % 3)
                part = mine[corner[0] :, :, corner[2] :]
                await store(stores, write_of(address, part, corner=corner))

        await asyncio.wait_for(asyncio.gather(*map(write, range(writers))), timeout=120)
        z, _, x = np.indices(SHAPE)
        reached = (z >= owner % 2) & (x >= owner % 3)
        for address in addresses:
            found = await voxels_at(stores, address)
            assert np.array_equal(found, np.where(reached, owner + 1, 0))

    async def test_writers_of_the_same_voxels_do_not_mix_in_a_cuboid(self, stores: Stores) -> None:
        async def write(value: int) -> None:
            await store(stores, *(write_of(at(m), full(value)) for m in range(4)))

        await asyncio.wait_for(asyncio.gather(*map(write, range(1, 17))), timeout=120)
        for address, cuboid in (await merged_cuboids(stores, [at(m) for m in range(4)])).items():
            values = np.unique(cuboid.voxels).tolist()
            assert len(values) == 1, address
            assert 1 <= values[0] <= 16

    async def test_readers_see_whole_cuboids_while_they_are_written(self, stores: Stores) -> None:
        """Never zeros, never half of a write, never an older value than was acknowledged."""
        await store(stores, write_of(at(1), full(1)))
        acknowledged, last_value = 1, 39

        async def read() -> None:
            seen = 1
            while acknowledged < last_value:
                least = acknowledged if self.shows_what_is_under_way else max(seen, acknowledged)
                values = np.unique(await voxels_at(stores, at(1))).tolist()
                assert len(values) == 1
                seen = values[0]
                assert seen >= least
                await asyncio.sleep(0)

        async def write() -> None:
            nonlocal acknowledged
            for value in range(2, last_value + 1):
                await store(stores, write_of(at(1), full(value)))
                acknowledged = value

        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for work in (read, read, write):
                group.create_task(work())

    # -- scanning, verifying, deleting

    async def test_a_scan_gives_all_addresses_of_a_channel_in_order(self, stores: Stores) -> None:
        addresses = [
            at(morton, level=level, t=t, pyramid=pyramid)
            for morton in (0, 1, 255, 256, 70_000, 1 << 40, LARGEST_MORTON)
            for level in (0, 1, 10)
            for t in (0, 1, 300)
            for pyramid in (PLAIN, NEARISO)
        ]
        others = [at(morton, channel=channel) for morton in (0, 3) for channel in (0, 2, 257)]
        shuffled = np.random.default_rng(8).permutation(len(addresses))
        await store(stores, *(write_of(addresses[i], full(1)) for i in shuffled))
        await store(stores, *(write_of(a, full(1)) for a in others))
        assert await scanned(stores, 1) == sorted(addresses)
        assert await scanned(stores, 3) == []

    async def test_a_scan_can_be_of_one_level_or_pyramid(self, stores: Stores) -> None:
        addresses = [
            at(morton, level=level, pyramid=pyramid)
            for level in range(3)
            for pyramid in (PLAIN, NEARISO)
            for morton in range(5)
        ]
        await store(stores, *(write_of(a, full(1)) for a in addresses))
        assert await scanned(stores, 1, level=1) == sorted(a for a in addresses if a.level == 1)
        assert await scanned(stores, 1, pyramid=NEARISO) == sorted(
            a for a in addresses if a.pyramid == NEARISO
        )
        assert await scanned(stores, 1, pyramid=PLAIN, level=2) == [
            at(m, level=2) for m in range(5)
        ]
        assert await scanned(stores, 1, level=9) == []

    async def test_a_scan_comes_in_pages_and_resumes_behind_any_address(
        self, stores: Stores
    ) -> None:
        addresses = [at(morton) for morton in range(0, 6000, 2)]
        await store(stores, *(write_of(a, full(1)) for a in addresses))
        pages = [page async for page in stores.cuboids.scan(1)]
        assert len(pages) > 1
        assert all(pages)
        assert [a for page in pages for a in page] == addresses
        for after in (at(0), at(1), at(2998), at(5998), at(9999)):
            assert await scanned(stores, 1, after=after) == [a for a in addresses if a > after]

    async def test_a_scan_goes_on_while_cuboids_come_and_go(self, stores: Stores) -> None:
        addresses = [at(morton) for morton in range(3000)]
        await store(stores, *(write_of(a, full(1)) for a in addresses))
        met: list[CuboidAddress] = []
        async for page in stores.cuboids.scan(1):
            if len(met) < len(addresses):  # not for ever: a scan may follow what it meets
                await store(stores, write_of(at(len(met), level=1), full(1)))
            met += page
        assert [a for a in met if a.level == 0] == addresses
        assert all(a < b for a, b in itertools.pairwise(met))

    async def test_channels_do_not_mix(self, stores: Stores) -> None:
        places = [at(1, channel=1), at(1, channel=2), at(1, level=1), at(1, t=1)]
        places.append(at(1, pyramid=NEARISO))
        for value, address in enumerate(places, start=1):
            await store(stores, write_of(address, full(value)))
        for value, address in enumerate(places, start=1):
            assert (await voxels_at(stores, address) == value).all()

    async def test_verify_finds_nothing_wrong_with_what_was_written(self, stores: Stores) -> None:
        rng = np.random.default_rng(9)
        addresses = [at(morton) for morton in range(20)]
        for address in addresses:
            await store(stores, random_write(rng, address, "<u4", [WriteOp.REPLACE]))
            await store(stores, random_write(rng, address, "<u4", [WriteOp.EXCEPTION]))
        await store(stores, write_of(at(20), rng.random((4, 8, 8)).astype("<f4")))
        assert list(await stores.cuboids.verify([*addresses, at(20), at(99)])) == []

    async def test_a_deleted_channel_is_gone_and_no_other(self, stores: Stores) -> None:
        mine = [at(m, level=level) for m in range(40) for level in (0, 1)]
        await store(stores, *(write_of(a, full(1)) for a in mine))
        await store(stores, write_of(at(1, channel=2), full(2)))
        assert await stores.cuboids.delete_channel(1) == len(mine)
        assert await scanned(stores, 1) == []
        assert await merged_cuboids(stores, mine) == {}
        assert (await voxels_at(stores, at(1, channel=2)) == 2).all()
        assert await stores.cuboids.delete_channel(1) == 0

    async def test_a_deleted_channel_can_be_written_again(self, stores: Stores) -> None:
        await store(stores, write_of(at(1), full(1)))
        await stores.cuboids.delete_channel(1)
        await store(stores, write_of(at(1), full(2, shape=(1, 8, 8))))
        assert (await voxels_at(stores, at(1)))[:, 0, 0].tolist() == [2, 0, 0, 0]

    async def test_housekeeping_changes_nothing_that_is_read(self, stores: Stores) -> None:
        rng = np.random.default_rng(10)
        addresses = [at(morton) for morton in range(5)]
        for _ in range(6):
            await store(
                stores, *(random_write(rng, a, "<u4", list(WriteOp)[1:]) for a in addresses)
            )
        before = await merged_cuboids(stores, addresses, dtype="<u4")
        for _ in range(4):
            await stores.maintain()
        after = await merged_cuboids(stores, addresses, dtype="<u4")
        assert sorted(after) == sorted(before)
        for address, cuboid in after.items():
            assert np.array_equal(cuboid.voxels, before[address].voxels)
            assert pairs(cuboid) == pairs(before[address])

    async def test_the_store_says_that_it_is_ready(self, stores: Stores) -> None:
        assert (await stores.health()).ready


# -- names


def dataset(name: str = "brain", **fields: Any) -> Dataset:
    return Dataset(name, 100, 200, 300, **{"user": 1, "zvoxelres": 2.5, **fields})


def project(name: str = "proj", of: str = "brain", **fields: Any) -> Project:
    return Project(name, **{"user": 1, "dataset": of, **fields})


def token(name: str = "tok", of: str = "proj", **fields: Any) -> Token:
    return Token(name, **{"user": 1, "project": of, **fields})


def channel(name: str = "em", of: str = "proj", **fields: Any) -> Channel:
    kind = {"channel_type": "image", "channel_datatype": "uint8", **fields}
    return Channel(id=0, project=of, channel_name=name, **kind)


class StaleContract(Contract):
    """`StaleMarks`, and the batches that set and clear marks."""

    async def test_a_marked_cuboid_is_stale(self, stores: Stores) -> None:
        await stores.stale.mark([at(1, level=1), at(5, level=2), at(5, level=1, pyramid=NEARISO)])
        asked = [at(m, level=level) for m in (1, 5) for level in (1, 2)]
        assert await stores.stale.marked(asked) == {at(1, level=1), at(5, level=2)}
        assert await stores.stale.marked([]) == set()

    async def test_marks_are_asked_for_in_any_number(self, stores: Stores) -> None:
        await stores.stale.mark([at(m, level=1) for m in range(0, 3000, 7)])
        found = await stores.stale.marked([at(m, level=1) for m in range(2500)])
        assert sorted(a.morton for a in found) == list(range(0, 2500, 7))

    async def test_a_scan_meets_the_marks_of_one_level_in_order(self, stores: Stores) -> None:
        rng = np.random.default_rng(1)
        mortons = sorted({int(m) for m in rng.integers(0, 1 << 40, 2500)})
        await stores.stale.mark([at(m, level=1, t=m % 2) for m in mortons])
        await stores.stale.mark([at(9, level=2), at(9, level=1, channel=2)])
        await stores.stale.mark([at(9, level=1, pyramid=NEARISO)])
        found = await scanned_marks(stores, 1, level=1)
        assert found == sorted(at(m, level=1, t=m % 2) for m in mortons)
        assert await scanned_marks(stores, 1, level=3) == []

    async def test_marks_are_counted_by_level(self, stores: Stores) -> None:
        await stores.stale.mark([at(m, level=1, t=m % 3) for m in range(1100)])
        await stores.stale.mark([at(m, level=1) for m in range(3)])
        await stores.stale.mark([at(0, level=2), at(0, level=2, pyramid=NEARISO)])
        counts = await stores.stale.counts(1)
        assert counts == {(PLAIN, 1): 1102, (PLAIN, 2): 1, (NEARISO, 2): 1}
        assert await stores.stale.counts(2) == {}

    async def test_channels_with_marks_are_known(self, stores: Stores) -> None:
        assert list(await stores.stale.channels()) == []
        await stores.stale.mark([at(1, channel=7, level=1), at(1, channel=3, level=1)])
        assert list(await stores.stale.channels()) == [3, 7]
        await clear_all(stores, 7, level=1)
        assert list(await stores.stale.channels()) == [3]

    async def test_a_batch_marks_with_its_commit(self, stores: Stores) -> None:
        parent = at(0, level=1)
        async with stores.cuboids.batch() as batch:
            await batch.add([write_of(at(1), full(5))])
            batch.mark_stale([parent])
            assert await stores.stale.marked([parent]) == set()
            await batch.commit()
        assert await stores.stale.marked([parent]) == {parent}

    async def test_a_batch_without_a_commit_marks_nothing(self, stores: Stores) -> None:
        async with stores.cuboids.batch() as batch:
            await batch.add([write_of(at(1), full(5))])
            batch.mark_stale([at(0, level=1)])
        assert await stores.stale.marked([at(0, level=1)]) == set()

    async def test_a_batch_of_marks_alone_can_be_committed(self, stores: Stores) -> None:
        async with stores.cuboids.batch() as batch:
            batch.mark_stale([at(0, level=1)])
            await batch.commit()
        assert await stores.stale.marked([at(0, level=1)]) == {at(0, level=1)}

    async def test_a_derivation_writes_and_clears(self, stores: Stores) -> None:
        parent = at(0, level=1)
        await stores.stale.mark([parent])
        marks = await marks_of(stores, 1, level=1)
        async with stores.stale.derivation(marks) as batch:
            await batch.add([write_of(parent, full(8), WriteOp.REPLACE)])
            assert await stores.stale.marked([parent]) == {parent}
            await batch.commit()
        assert (await voxels_at(stores, parent) == 8).all()
        assert await stores.stale.marked([parent]) == set()
        assert await scanned_marks(stores, 1, level=1) == []

    async def test_a_derivation_that_is_given_up_leaves_its_marks(self, stores: Stores) -> None:
        parent = at(0, level=1)
        await stores.stale.mark([parent])
        async with stores.stale.derivation(await marks_of(stores, 1, level=1)) as batch:
            await batch.add([write_of(parent, full(8), WriteOp.REPLACE)])
        assert await stores.stale.marked([parent]) == {parent}
        assert await merged_cuboids(stores, [parent]) == {}

    async def test_a_write_that_came_meanwhile_keeps_its_mark(self, stores: Stores) -> None:
        parent = at(0, level=1)
        await stores.stale.mark([parent])
        async with stores.stale.derivation(await marks_of(stores, 1, level=1)) as batch:
            async with stores.cuboids.batch() as edit:
                await edit.add([write_of(at(1), full(5))])
                edit.mark_stale([parent])
                await edit.commit()
            await batch.add([write_of(parent, full(8), WriteOp.REPLACE)])
            await batch.commit()
        assert await stores.stale.marked([parent]) == {parent}
        await clear_all(stores, 1, level=1)
        assert await stores.stale.marked([parent]) == set()

    async def test_of_two_who_rebuild_the_one_that_saw_more_wins(self, stores: Stores) -> None:
        parent = at(0, level=1)
        await stores.stale.mark([parent])
        async with stores.stale.derivation(await marks_of(stores, 1, level=1)) as slow:
            await stores.stale.mark([parent])
            async with stores.stale.derivation(await marks_of(stores, 1, level=1)) as quick:
                await quick.add([write_of(parent, full(9), WriteOp.REPLACE)])
                await quick.commit()
            await slow.add([write_of(parent, full(8), WriteOp.REPLACE)])
            await slow.commit()
        assert (await voxels_at(stores, parent) == 9).all()
        assert await stores.stale.marked([parent]) == set()

    async def test_a_derivation_marks_what_derives_from_it(self, stores: Stores) -> None:
        low, high = at(0, level=1), at(0, level=2)
        await stores.stale.mark([low, high])
        old = await marks_of(stores, 1, level=2)
        async with stores.stale.derivation(await marks_of(stores, 1, level=1)) as batch:
            await batch.add([write_of(low, full(8), WriteOp.REPLACE)])
            batch.mark_stale([high])
            await batch.commit()
        # Who took the mark of the upper one before the lower one was rebuilt does not clear it.
        async with stores.stale.derivation(old) as batch:
            await batch.add([write_of(high, full(7), WriteOp.REPLACE)])
            await batch.commit()
        assert await stores.stale.marked([low, high]) == {high}

    async def test_deleting_a_channel_forgets_its_marks(self, stores: Stores) -> None:
        await stores.stale.mark([at(m, level=m % 3 + 1) for m in range(1500)])
        await stores.stale.mark([at(0, channel=2, level=1)])
        assert await stores.stale.delete_channel(1) == 1500
        assert await stores.stale.counts(1) == {}
        assert list(await stores.stale.channels()) == [2]
        assert await stores.stale.delete_channel(1) == 0

    async def test_the_bell_rings_for_a_channel_that_was_written_to(self, stores: Stores) -> None:
        with stores.stale.bell.listener() as listener:
            assert await listener.wait(0) == set()
            async with stores.cuboids.batch() as batch:
                await batch.add([write_of(at(1, channel=4), full(5))])
                batch.mark_stale([at(0, channel=4, level=1)])
                await batch.commit()
            assert await listener.wait(30) == {4}


async def marks_of(stores: Stores, channel_id: int, *, level: int) -> list[StaleMark]:
    """The marks of a plain level."""
    scan = stores.stale.scan(channel_id, pyramid=PLAIN, level=level)
    return [mark async for page in scan for mark in page]


async def scanned_marks(stores: Stores, channel_id: int, *, level: int) -> list[CuboidAddress]:
    return [mark.address for mark in await marks_of(stores, channel_id, level=level)]


async def clear_all(stores: Stores, channel_id: int, *, level: int) -> None:
    """Clear the marks of a level as if it had been rebuilt, to what it was."""
    async with stores.stale.derivation(await marks_of(stores, channel_id, level=level)) as batch:
        await batch.commit()


class CatalogContract(Contract):
    """`Catalog`."""

    @pytest.fixture
    async def filled(self, stores: Stores) -> Stores:
        """A dataset, a project and a token."""
        await stores.catalog.create_dataset(dataset())
        await stores.catalog.create_project(project())
        await stores.catalog.create_token(token())
        return stores

    async def test_resources_come_back_as_they_were(self, filled: Stores) -> None:
        catalog = filled.catalog
        text = "quotes \" ' and \N{GREEK SMALL LETTER MU}m"
        described = dataset("other", dataset_description=text, public=1, xoffset=7)
        await catalog.create_dataset(described)
        assert await catalog.dataset("other") == described
        assert await catalog.dataset("brain") == dataset()
        assert await catalog.project("proj") == project()
        assert await catalog.token("tok") == token()
        stored = await catalog.create_channel(channel(startwindow=-5, header="h", default=True))
        assert stored == dataclasses.replace(
            channel(startwindow=-5, header="h", default=True), id=stored.id
        )
        assert await catalog.channel("proj", "em") == stored

    async def test_lists_are_by_name_and_by_owner(self, filled: Stores) -> None:
        catalog = filled.catalog
        await catalog.create_dataset(dataset("abc"))
        await catalog.create_project(project("aaa", "abc"))
        await catalog.create_token(token("zzz", "aaa"))
        for name in ("b", "a", "c"):
            await catalog.create_channel(channel(name))
        assert [d.name for d in await catalog.datasets()] == ["abc", "brain"]
        assert [p.name for p in await catalog.projects()] == ["aaa", "proj"]
        assert [p.name for p in await catalog.projects("abc")] == ["aaa"]
        assert [t.name for t in await catalog.tokens()] == ["tok", "zzz"]
        assert [t.name for t in await catalog.tokens("proj")] == ["tok"]
        assert sorted(c.name for c in await catalog.channels("proj")) == ["a", "b", "c"]
        assert list(await catalog.channels("aaa")) == []

    async def test_what_is_missing_is_not_found(self, filled: Stores) -> None:
        catalog = filled.catalog
        calls = [
            catalog.dataset("no"),
            catalog.project("no"),
            catalog.token("no"),
            catalog.channel("proj", "no"),
            catalog.channel("no", "em"),
            catalog.user("no"),
            catalog.user_of_id(99),
            catalog.token_view("no"),
            catalog.update_dataset(dataset("no")),
            catalog.update_project(project("no")),
            catalog.update_token(token("no")),
            catalog.update_channel(dataclasses.replace(channel("no"), id=99)),
            catalog.delete_dataset("no"),
            catalog.delete_project("no"),
            catalog.delete_token("no"),
            catalog.delete_channel("proj", "no"),
            catalog.remove_user("no"),
            catalog.add_key(99, b"k" * 32),
            catalog.create_project(project("p2", "no")),
            catalog.create_token(token("t2", "no")),
            catalog.create_channel(channel("c2", "no")),
        ]
        for call in calls:
            with pytest.raises(NotFound):
                await call
        assert [p.name for p in await catalog.projects()] == ["proj"]
        assert [t.name for t in await catalog.tokens()] == ["tok"]

    async def test_names_are_unique_and_a_refused_one_changes_nothing(self, filled: Stores) -> None:
        catalog = filled.catalog
        first = await catalog.create_channel(channel())
        calls = [
            catalog.create_dataset(dataset(public=1)),
            catalog.create_project(project(public=1)),
            catalog.create_token(token(public=1)),
            catalog.create_channel(channel(channel_datatype="uint16", default=True)),
        ]
        for call in calls:
            with pytest.raises(AlreadyExists):
                await call
        assert await catalog.dataset("brain") == dataset()
        assert await catalog.project("proj") == project()
        assert await catalog.token("tok") == token()
        assert await catalog.channels("proj") == [first]

    async def test_channels_of_two_projects_may_share_a_name(self, filled: Stores) -> None:
        await filled.catalog.create_project(project("two"))
        one = await filled.catalog.create_channel(channel())
        other = await filled.catalog.create_channel(channel(of="two"))
        assert one.id != other.id
        assert await filled.catalog.channel("two", "em") == other

    async def test_updates_replace(self, filled: Stores) -> None:
        catalog = filled.catalog
        stored = await catalog.create_channel(channel())
        await catalog.update_dataset(dataset(public=1))
        await catalog.update_project(project(public=1))
        await catalog.update_token(token(public=1))
        await catalog.update_channel(dataclasses.replace(stored, readonly=1))
        view = await catalog.token_view("tok")
        assert (view.dataset.public, view.project.public, view.token.public) == (1, 1, 1)
        assert view.channels == (dataclasses.replace(stored, readonly=1),)

    async def test_an_update_of_what_was_changed_meanwhile_is_refused(self, filled: Stores) -> None:
        catalog = filled.catalog
        stored = await catalog.create_channel(channel())
        one = dataclasses.replace(stored, readonly=1)
        other = dataclasses.replace(stored, channel_description="mine")
        await catalog.update_channel(one, expected=stored)
        old_dataset, old_project = await catalog.dataset("brain"), await catalog.project("proj")
        old_token = await catalog.token("tok")
        await catalog.update_dataset(dataclasses.replace(old_dataset, public=1))
        await catalog.update_project(dataclasses.replace(old_project, public=1))
        await catalog.update_token(dataclasses.replace(old_token, public=1))
        for refused in (
            catalog.update_channel(other, expected=stored),
            catalog.update_dataset(old_dataset, expected=old_dataset),
            catalog.update_project(old_project, expected=old_project),
            catalog.update_token(old_token, expected=old_token),
        ):
            with pytest.raises(Conflict, match="meanwhile"):
                await refused
        assert await catalog.channel("proj", "em") == one
        assert (await catalog.dataset("brain")).public == 1

    async def test_a_channel_can_go_on_under_a_new_id(self, filled: Stores) -> None:
        catalog = filled.catalog
        old = await catalog.create_channel(channel(default=True, header="h"))
        await catalog.raise_ids(old.id, 41)
        changed = dataclasses.replace(old, channel_datatype="uint16")
        stored = await catalog.update_channel(changed, expected=old, new_id=True)
        assert stored == dataclasses.replace(changed, id=stored.id)
        assert stored.id > old.id
        assert (await catalog.token_view("tok")).channels == (stored,)
        assert (await catalog.is_live(old.id), await catalog.is_live(stored.id)) == (False, True)
        assert await catalog.reserve_ids(stored.id, 1) == 42
        with pytest.raises(NotFound):
            await catalog.reserve_ids(old.id, 1)
        [job] = await filled.jobs.jobs()
        assert (job.kind, job.channel_id) == (DELETE_JOB, old.id)
        await catalog.delete_channel("proj", "em")
        assert (await catalog.create_channel(channel())).id > stored.id

    async def test_an_update_that_keeps_the_id_submits_no_job(self, filled: Stores) -> None:
        old = await filled.catalog.create_channel(channel())
        changed = dataclasses.replace(old, readonly=1)
        assert await filled.catalog.update_channel(changed) == changed
        await filled.catalog.update_dataset(dataset(public=1))
        assert await filled.catalog.channel("proj", "em") == changed
        assert list(await filled.jobs.jobs()) == []

    async def test_a_refused_update_gives_no_new_id(self, filled: Stores) -> None:
        catalog = filled.catalog
        one = await catalog.create_channel(channel("one"))
        two = await catalog.create_channel(channel("two"))
        other = dataclasses.replace(one, readonly=1)
        with pytest.raises(Conflict):
            await catalog.update_channel(other, expected=other, new_id=True)
        with pytest.raises(AlreadyExists):
            await catalog.update_channel(
                dataclasses.replace(one, channel_name="two"), expected=one, new_id=True
            )
        with pytest.raises(Conflict):
            await catalog.update_dataset(
                dataset(), expected=dataset(public=1), new_channel_ids=True
            )
        assert list(await catalog.channels("proj")) == [one, two]
        assert list(await filled.jobs.jobs()) == []

    async def test_all_channels_of_a_dataset_can_go_on_under_new_ids(self, filled: Stores) -> None:
        catalog = filled.catalog
        await catalog.create_project(project("two"))
        await catalog.create_dataset(dataset("stays"))
        await catalog.create_project(project("stays", "stays"))
        kept = await catalog.create_channel(channel(of="stays"))
        old = [
            await catalog.create_channel(channel("a", default=True)),
            await catalog.create_channel(channel("b")),
            await catalog.create_channel(channel("a", "two")),
        ]
        await catalog.reserve_ids(old[1].id, 5)
        await catalog.update_dataset(dataset(zvoxelres=9.0), new_channel_ids=True)
        assert (await catalog.dataset("brain")).zvoxelres == 9.0
        new = [*await catalog.channels("proj"), *await catalog.channels("two")]
        assert new == [dataclasses.replace(o, id=n.id) for o, n in zip(old, new, strict=True)]
        assert not {c.id for c in new} & {c.id for c in (*old, kept)}
        assert await catalog.reserve_ids(new[1].id, 1) == 6
        assert await catalog.channels("stays") == [kept]
        assert {j.channel_id for j in await filled.jobs.jobs()} == {c.id for c in old}

    async def test_what_is_written_into_a_deleted_channel_gets_a_job_of_its_own(
        self, filled: Stores
    ) -> None:
        kept = await filled.catalog.create_channel(channel("kept"))
        gone = await filled.catalog.create_channel(channel("gone"))
        await filled.catalog.delete_channel("proj", "gone")
        await store(filled, *(write_of(at(0, channel=c.id), full(1)) for c in (kept, gone)))
        await filled.maintain()
        [job] = await filled.jobs.jobs()  # the one of the deletion is still under way
        await filled.jobs.claim([DELETE_JOB], owner="w", lease_s=60)
        await filled.maintain()
        assert len(await filled.jobs.jobs()) == 1
        await filled.jobs.finish(job.id, owner="w")
        await filled.maintain()
        await filled.maintain()
        [new, _] = await filled.jobs.jobs()
        assert (new.kind, new.channel_id, new.state) == (DELETE_JOB, gone.id, JobState.PENDING)

    async def test_what_the_catalogue_never_knew_is_left_alone(self, filled: Stores) -> None:
        stored = await filled.catalog.create_channel(channel())
        await store(filled, write_of(at(0, channel=stored.id + 1), full(1)))
        await filled.maintain()
        assert list(await filled.jobs.jobs()) == []

    async def test_a_project_has_one_default_channel(self, filled: Stores) -> None:
        catalog = filled.catalog
        await catalog.create_project(project("two"))
        elsewhere = await catalog.create_channel(channel(of="two", default=True))
        one = await catalog.create_channel(channel("one", default=True))
        two = await catalog.create_channel(channel("two", default=True))
        assert [c.name for c in await catalog.channels("proj") if c.default] == ["two"]
        assert two.default
        await catalog.update_channel(dataclasses.replace(one, default=True))
        assert [c.name for c in await catalog.channels("proj") if c.default] == ["one"]
        assert await catalog.channel("two", "em") == elsewhere

    async def test_a_token_view_holds_all_that_belongs_together(self, filled: Stores) -> None:
        channels = {await filled.catalog.create_channel(channel(name)) for name in ("b", "a")}
        view = await filled.catalog.token_view("tok")
        assert (view.token, view.project, view.dataset) == (token(), project(), dataset())
        assert set(view.channels) == channels

    async def test_a_token_view_follows_every_change(self, filled: Stores) -> None:
        catalog = filled.catalog
        assert (await catalog.token_view("tok")).channels == ()
        stored = await catalog.create_channel(channel())
        assert (await catalog.token_view("tok")).channels == (stored,)
        await catalog.delete_channel("proj", "em")
        assert (await catalog.token_view("tok")).channels == ()
        await catalog.delete_token("tok")
        with pytest.raises(NotFound):
            await catalog.token_view("tok")

    async def test_channel_ids_are_never_used_twice(self, filled: Stores) -> None:
        seen = set()
        for _ in range(4):
            stored = await filled.catalog.create_channel(channel())
            assert stored.id not in seen
            assert await filled.catalog.is_live(stored.id)
            seen.add(stored.id)
            await filled.catalog.delete_channel("proj", "em")
            assert not await filled.catalog.is_live(stored.id)

    async def test_the_channel_of_an_id_is_as_it_is_now(self, filled: Stores) -> None:
        catalog = filled.catalog
        stored = await catalog.create_channel(channel())
        assert await catalog.live_channel(stored.id) == stored
        changed = await catalog.update_channel(dataclasses.replace(stored, propagate=1))
        assert await catalog.live_channel(stored.id) == changed
        await catalog.delete_channel("proj", "em")
        assert await catalog.live_channel(stored.id) is None
        assert await catalog.live_channel(1 << 70) is None

    async def test_how_levels_are_made_is_kept(self, filled: Stores) -> None:
        stored = await filled.catalog.create_channel(channel(downsampling="mean"))
        assert stored.downsampling == "mean"
        assert await filled.catalog.channel("proj", "em") == stored

    async def test_deleting_a_channel_submits_the_job_that_removes_its_voxels(
        self, filled: Stores
    ) -> None:
        stored = await filled.catalog.create_channel(channel())
        await filled.catalog.delete_channel("proj", "em")
        [job] = await filled.jobs.jobs(channel_id=stored.id)
        assert (job.kind, job.state) == ("delete", JobState.PENDING)

    @pytest.mark.parametrize("what", ["dataset", "project"])
    async def test_deletes_take_along_what_depends_on_them(self, filled: Stores, what: str) -> None:
        catalog = filled.catalog
        await catalog.create_dataset(dataset("stays"))
        await catalog.create_project(project("stays", "stays"))
        await catalog.create_token(token("stays", "stays"))
        kept = await catalog.create_channel(channel("em", "stays"))
        gone = [await catalog.create_channel(channel(name)) for name in ("a", "b")]
        await (
            catalog.delete_dataset("brain") if what == "dataset" else catalog.delete_project("proj")
        )
        assert [p.name for p in await catalog.projects()] == ["stays"]
        assert [t.name for t in await catalog.tokens()] == ["stays"]
        assert await catalog.is_live(kept.id)
        assert {j.channel_id for j in await filled.jobs.jobs()} == {c.id for c in gone}
        with pytest.raises(NotFound):
            await catalog.channel("proj", "a")
        names = [d.name for d in await catalog.datasets()]
        assert names == (["stays"] if what == "dataset" else ["brain", "stays"])

    async def test_object_ids_are_consecutive_from_one(self, filled: Stores) -> None:
        one = await filled.catalog.create_channel(channel("one"))
        two = await filled.catalog.create_channel(channel("two"))
        assert await filled.catalog.reserve_ids(one.id, 1) == 1
        assert await filled.catalog.reserve_ids(one.id, 10) == 2
        assert await filled.catalog.reserve_ids(one.id, 1) == 12
        assert await filled.catalog.reserve_ids(two.id, 1) == 1
        with pytest.raises(Conflict):
            await filled.catalog.reserve_ids(two.id, 9, most=9)
        assert await filled.catalog.reserve_ids(two.id, 8, most=9) == 2

    async def test_an_id_that_somebody_chose_is_not_reserved_later(self, filled: Stores) -> None:
        one = await filled.catalog.create_channel(channel("one"))
        two = await filled.catalog.create_channel(channel("two"))
        await filled.catalog.raise_ids(one.id, 41)
        assert await filled.catalog.reserve_ids(one.id, 2) == 42
        await filled.catalog.raise_ids(one.id, 7)
        assert await filled.catalog.reserve_ids(one.id, 1) == 44
        assert await filled.catalog.reserve_ids(two.id, 1) == 1
        with pytest.raises(NotFound):
            await filled.catalog.raise_ids(one.id + two.id + 1, 5)

    async def test_object_ids_go_to_one_asker_each(self, filled: Stores) -> None:
        stored = await filled.catalog.create_channel(channel())
        firsts = await asyncio.gather(
            *(filled.catalog.reserve_ids(stored.id, 3) for _ in range(20))
        )
        assert sorted(firsts) == list(range(1, 61, 3))

    async def test_users_come_back(self, stores: Stores) -> None:
        catalog = stores.catalog
        assert list(await catalog.users()) == []
        first = await catalog.add_user("neurodata", superuser=True)
        second = await catalog.add_user("anna")
        assert first == User(1, "neurodata", superuser=True)
        assert await catalog.user("anna") == second
        assert await catalog.user_of_id(second.id) == second
        assert {u.name for u in await catalog.users()} == {"anna", "neurodata"}
        with pytest.raises(AlreadyExists):
            await catalog.add_user("anna", superuser=True)
        assert await catalog.user("anna") == second

    async def test_a_key_leads_to_its_user_until_it_is_revoked(self, stores: Stores) -> None:
        catalog = stores.catalog
        user, other = await catalog.add_user("anna"), await catalog.add_user("ben")
        await catalog.add_key(user.id, b"a" * 32)
        await catalog.add_key(user.id, b"b" * 32)
        await catalog.add_key(other.id, b"c" * 32)
        assert await catalog.user_of_key(b"b" * 32) == user
        assert await catalog.user_of_key(b"x" * 32) is None
        assert await catalog.revoke_keys(user.id) == 2
        assert await catalog.user_of_key(b"a" * 32) is None
        assert await catalog.user_of_key(b"c" * 32) == other
        assert await catalog.revoke_keys(user.id) == 0

    @pytest.mark.parametrize("owned", ["dataset", "project", "token"])
    async def test_a_user_who_owns_something_stays(self, filled: Stores, owned: str) -> None:
        catalog = filled.catalog
        await catalog.add_user("somebody")
        user = await catalog.add_user("anna")
        await catalog.add_key(user.id, b"a" * 32)
        if owned == "dataset":
            await catalog.create_dataset(dataset("mine", user=user.id))
        elif owned == "project":
            await catalog.create_project(project("mine", user=user.id))
        else:
            await catalog.create_token(token("mine", user=user.id))
        with pytest.raises(Conflict):
            await catalog.remove_user("anna")
        assert await catalog.user_of_key(b"a" * 32) == user

    async def test_a_removed_user_is_gone_with_the_keys(self, stores: Stores) -> None:
        user = await stores.catalog.add_user("anna")
        await stores.catalog.add_key(user.id, b"a" * 32)
        await stores.catalog.remove_user("anna")
        assert await stores.catalog.user_of_key(b"a" * 32) is None
        with pytest.raises(NotFound):
            await stores.catalog.user("anna")

    async def test_of_many_who_want_a_name_one_gets_it(self, filled: Stores) -> None:
        outcomes = await asyncio.gather(
            *(filled.catalog.create_channel(channel()) for _ in range(10)), return_exceptions=True
        )
        made = [outcome for outcome in outcomes if isinstance(outcome, Channel)]
        assert len(made) == 1
        assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 9
        assert list(await filled.catalog.channels("proj")) == made


class JobsContract(Contract):
    """`Jobs`. Leases are short here, so that the tests need not set a clock."""

    LEASE_S = 60.0

    async def test_a_job_comes_back_as_submitted(self, stores: Stores) -> None:
        detail = {"level": 3, "names": ["a", "b"], "at": None}
        job = await stores.jobs.submit("propagate", 7, detail)
        assert (job.kind, job.channel_id, dict(job.detail)) == ("propagate", 7, detail)
        assert (job.state, job.done_units, job.total_units) == (JobState.PENDING, 0, 0)
        assert job.error == ""
        assert await stores.jobs.job(job.id) == job

    async def test_what_waits_already_is_not_submitted_again(self, stores: Stores) -> None:
        first = await stores.jobs.submit_once("refresh", 7)
        assert await stores.jobs.submit_once("refresh", 7) == first
        others = [
            await stores.jobs.submit_once("refresh", 8),
            await stores.jobs.submit_once("delete", 7),
        ]
        assert len({first.id, *(job.id for job in others)}) == 3
        await self._claim(stores, ["refresh"])
        # What is being worked on may have looked already.
        assert (await stores.jobs.submit_once("refresh", 7)).id != first.id

    async def test_the_bell_rings_for_a_new_job(self, stores: Stores) -> None:
        with stores.jobs.bell.listener() as listener:
            await stores.jobs.submit("delete", 1, {})
            await stores.jobs.submit_once("refresh", 1)
            assert await listener.wait(30) == {"delete", "refresh"}
            assert await listener.wait(0) == set()

    async def test_a_job_that_is_not_there_is_not_found(self, stores: Stores) -> None:
        with pytest.raises(NotFound):
            await stores.jobs.job("no-such-job")
        with pytest.raises(NotFound):
            await stores.jobs.cancel("no-such-job")

    async def test_the_oldest_job_of_the_kinds_is_claimed_first(self, stores: Stores) -> None:
        other = await stores.jobs.submit("ingest", 1, {})
        first = await stores.jobs.submit("delete", 1, {})
        second = await stores.jobs.submit("propagate", 1, {})
        kinds = ["delete", "propagate"]
        claimed = [await self._claim(stores, kinds) for _ in range(3)]
        assert [job.id if job else None for job in claimed] == [first.id, second.id, None]
        assert claimed[0] is not None
        assert claimed[0].state == JobState.STARTED
        assert (await stores.jobs.job(other.id)).state == JobState.PENDING

    async def _claim(self, stores: Stores, kinds: Sequence[str] = ("delete",)) -> Any:
        return await stores.jobs.claim(kinds, owner="me", lease_s=self.LEASE_S)

    async def test_of_no_kinds_nothing_is_claimed(self, stores: Stores) -> None:
        await stores.jobs.submit("delete", 1, {})
        assert await self._claim(stores, []) is None

    async def test_a_job_goes_to_one_of_many_askers(self, stores: Stores) -> None:
        jobs = [await stores.jobs.submit("delete", 1, {}) for _ in range(5)]
        claimed = await asyncio.gather(
            *(
                stores.jobs.claim(["delete"], owner=f"worker {n}", lease_s=self.LEASE_S)
                for n in range(12)
            )
        )
        assert sorted(job.id for job in claimed if job) == sorted(job.id for job in jobs)

    async def test_progress_is_noted(self, stores: Stores) -> None:
        await stores.jobs.submit("delete", 1, {})
        job = await self._claim(stores)
        assert await stores.jobs.heartbeat(
            job.id, owner="me", lease_s=60, done_units=2, total_units=9, detail={"after": 5}
        )
        noted = await stores.jobs.job(job.id)
        assert (noted.done_units, noted.total_units, dict(noted.detail)) == (2, 9, {"after": 5})
        assert noted.state == JobState.STARTED

    async def test_a_lease_that_ran_out_lets_another_take_over(self, stores: Stores) -> None:
        await stores.jobs.submit("delete", 1, {"from": 0})
        job = await stores.jobs.claim(["delete"], owner="dead", lease_s=0.05)
        assert job is not None
        await stores.jobs.heartbeat(
            job.id, owner="dead", lease_s=0.05, done_units=4, total_units=8, detail={"from": 4}
        )
        await asyncio.sleep(0.2)
        again = await self._claim(stores)
        assert again.id == job.id
        assert (dict(again.detail), again.done_units) == ({"from": 4}, 4)

    async def test_a_heartbeat_prolongs_the_lease(self, stores: Stores) -> None:
        await stores.jobs.submit("delete", 1, {})
        job = await stores.jobs.claim(["delete"], owner="slow", lease_s=0.3)
        assert job is not None
        assert await stores.jobs.heartbeat(
            job.id, owner="slow", lease_s=60, done_units=0, total_units=0, detail={}
        )
        await asyncio.sleep(0.5)
        assert await self._claim(stores) is None

    async def test_a_former_owner_is_refused(self, stores: Stores) -> None:
        await stores.jobs.submit("delete", 1, {})
        job = await stores.jobs.claim(["delete"], owner="dead", lease_s=0.01)
        assert job is not None
        await asyncio.sleep(0.1)
        assert (await self._claim(stores)).id == job.id
        assert not await stores.jobs.heartbeat(
            job.id, owner="dead", lease_s=60, done_units=9, total_units=9, detail={"bad": 1}
        )
        assert not await stores.jobs.finish(job.id, owner="dead", error="late")
        left = await stores.jobs.job(job.id)
        assert (left.state, left.done_units, dict(left.detail)) == (JobState.STARTED, 0, {})
        assert await stores.jobs.finish(job.id, owner="me")

    @pytest.mark.parametrize(
        ("error", "state"), [("", JobState.SUCCESS), ("no space", JobState.FAILURE)]
    )
    async def test_a_finished_job_says_how_it_ended(
        self, stores: Stores, error: str, state: JobState
    ) -> None:
        await stores.jobs.submit("delete", 1, {})
        job = await self._claim(stores)
        assert await stores.jobs.finish(job.id, owner="me", error=error)
        ended = await stores.jobs.job(job.id)
        assert (ended.state, ended.error) == (state, error)
        assert await self._claim(stores) is None
        assert not await stores.jobs.finish(job.id, owner="me")
        assert not await stores.jobs.cancel(job.id)
        assert (await stores.jobs.job(job.id)).state == state

    async def test_a_job_that_is_put_off_says_why_until_it_ends(self, stores: Stores) -> None:
        await stores.jobs.submit("delete", 1, {})
        job = await stores.jobs.claim(["delete"], owner="first", lease_s=0.5)
        assert job is not None
        assert await stores.jobs.put_off(job.id, owner="first", reason="the disk is full")
        left = await stores.jobs.job(job.id)
        assert (left.state, left.error) == (JobState.STARTED, "the disk is full")
        await asyncio.sleep(0.7)
        again = await self._claim(stores)
        assert (again.id, again.error) == (job.id, "the disk is full")
        assert await stores.jobs.heartbeat(
            job.id, owner="me", lease_s=60, done_units=1, total_units=2, detail={}
        )
        assert (await stores.jobs.job(job.id)).error == "the disk is full"
        assert await stores.jobs.finish(job.id, owner="me")
        ended = await stores.jobs.job(job.id)
        assert (ended.state, ended.error) == (JobState.SUCCESS, "")

    async def test_only_its_owner_puts_a_job_off(self, stores: Stores) -> None:
        job = await stores.jobs.submit("delete", 1, {})
        assert not await stores.jobs.put_off(job.id, owner="me", reason="no")
        await self._claim(stores)
        assert not await stores.jobs.put_off(job.id, owner="you", reason="no")
        assert await stores.jobs.finish(job.id, owner="me", error="damaged")
        assert not await stores.jobs.put_off(job.id, owner="me", reason="no")
        assert (await stores.jobs.job(job.id)).error == "damaged"

    async def test_a_cancelled_job_does_not_say_why_it_was_put_off(self, stores: Stores) -> None:
        await stores.jobs.submit("delete", 1, {})
        job = await self._claim(stores)
        assert await stores.jobs.put_off(job.id, owner="me", reason="not now")
        assert await stores.jobs.cancel(job.id)
        cancelled = await stores.jobs.job(job.id)
        assert (cancelled.state, cancelled.error) == (JobState.REVOKED, "")

    async def test_a_job_that_waits_can_be_cancelled(self, stores: Stores) -> None:
        job = await stores.jobs.submit("delete", 1, {})
        assert await stores.jobs.cancel(job.id)
        assert (await stores.jobs.job(job.id)).state == JobState.REVOKED
        assert await self._claim(stores) is None
        assert not await stores.jobs.cancel(job.id)

    async def test_a_worker_notices_that_its_job_was_cancelled(self, stores: Stores) -> None:
        await stores.jobs.submit("delete", 1, {})
        job = await self._claim(stores)
        assert await stores.jobs.cancel(job.id)
        assert not await stores.jobs.heartbeat(
            job.id, owner="me", lease_s=60, done_units=1, total_units=2, detail={}
        )
        assert not await stores.jobs.finish(job.id, owner="me")
        assert (await stores.jobs.job(job.id)).state == JobState.REVOKED

    async def test_jobs_are_listed_newest_first(self, stores: Stores) -> None:
        ids = [(await stores.jobs.submit("delete", n % 2, {})).id for n in range(6)]
        assert [job.id for job in await stores.jobs.jobs()] == ids[::-1]
        assert [job.id for job in await stores.jobs.jobs(channel_id=1)] == ids[5::-2]
        assert list(await stores.jobs.jobs(channel_id=9)) == []


class ObjectContract(Contract):
    """`ObjectStore`."""

    async def test_objects_come_back_in_the_order_asked(self, stores: Stores) -> None:
        fields = {
            "type": 2,
            "weight": 0.5,
            "author": "an\N{LATIN SMALL LETTER E WITH ACUTE}",
            "s": [1, 2],
        }
        objects = [StoredObject(n, {**fields, "n": n}) for n in (1, 5, 1 << 40)]
        await stores.objects.put(1, objects)
        found = await stores.objects.get(1, [1 << 40, 3, 1])
        assert [(o.id, dict(o.fields)) for o in found] == [
            (1 << 40, {**fields, "n": 1 << 40}),
            (1, {**fields, "n": 1}),
        ]
        assert list(await stores.objects.get(1, [])) == []

    async def test_putting_an_object_again_replaces_it(self, stores: Stores) -> None:
        await stores.objects.put(1, [StoredObject(7, {"a": 1, "b": 2})])
        await stores.objects.put(1, [StoredObject(7, {"a": 3})])
        [found] = await stores.objects.get(1, [7])
        assert dict(found.fields) == {"a": 3}
        assert list(await stores.objects.query(1, [_equal("b", 2)], limit=9)) == []

    async def test_channels_do_not_mix(self, stores: Stores) -> None:
        await stores.objects.put(1, [StoredObject(7, {"a": 1})])
        await stores.objects.put(2, [StoredObject(7, {"a": 2}), StoredObject(8, {"a": 1})])
        [found] = await stores.objects.get(1, [7, 8])
        assert dict(found.fields) == {"a": 1}
        assert list(await stores.objects.query(1, [], limit=9)) == [7]
        assert await stores.objects.delete_channel(2) == 2
        assert list(await stores.objects.get(2, [7, 8])) == []
        assert len(await stores.objects.get(1, [7])) == 1
        assert await stores.objects.delete_channel(2) == 0

    async def test_deleted_objects_are_gone(self, stores: Stores) -> None:
        await stores.objects.put(1, [StoredObject(n, {"a": 1}) for n in (1, 2, 3)])
        assert await stores.objects.delete(1, [1, 3, 9]) == 2
        assert list(await stores.objects.query(1, [_equal("a", 1)], limit=9)) == [2]
        assert await stores.objects.delete(1, [1]) == 0

    async def test_a_query_wants_every_predicate(self, stores: Stores) -> None:
        await stores.objects.put(
            1,
            [
                StoredObject(4, {"type": 2, "confidence": 0.9, "author": "anna"}),
                StoredObject(2, {"type": 2, "confidence": 0.5, "author": "ben"}),
                StoredObject(9, {"type": 3, "confidence": 0.9, "author": "anna"}),
                StoredObject(1, {"type": 2}),
            ],
        )

        async def query(*predicates: Predicate, limit: int = 99) -> list[int]:
            return list(await stores.objects.query(1, predicates, limit=limit))

        less = Predicate("confidence", Comparison.LESS, 0.9)
        greater = Predicate("confidence", Comparison.GREATER, 0.5)
        assert await query() == [1, 2, 4, 9]
        assert await query(_equal("type", 2)) == [1, 2, 4]
        assert await query(_equal("author", "anna")) == [4, 9]
        assert await query(_equal("type", 2), _equal("author", "anna")) == [4]
        assert await query(less) == [2]
        assert await query(greater) == [4, 9]
        assert await query(less, greater) == []
        assert await query(_equal("no such field", 2)) == []
        assert await query(_equal("author", "anna' OR 1=1 --")) == []
        assert await query(limit=2) == [1, 2]
        assert await query(_equal("type", 2), limit=0) == []

    async def test_several_comparisons_of_a_field_all_hold(self, stores: Stores) -> None:
        values = [1, 2, 2.5, 3, 1 << 63, (1 << 63) + 1, "a", "b", "c", [2, 3]]
        numbered = enumerate(values, start=1)
        await stores.objects.put(1, [StoredObject(i, {"f": value}) for i, value in numbered])
        above, below = Comparison.GREATER, Comparison.LESS
        for asked, hits in (
            ([(above, 1), (below, 3)], [2, 3]),
            ([(below, 3), (above, 1), (above, 2), (below, 100)], [3]),
            ([(above, 3), (below, (1 << 63) + 1)], [5]),
            ([(above, 1 << 63), (above, 2)], [6]),
            ([(above, "a"), (below, "c")], [8]),
            ([(above, "a"), (above, "b")], [9]),
            ([(above, 1), (below, "c")], []),
            ([(above, "a"), (below, 3)], []),
            ([(below, 3), (below, "c")], []),
        ):
            predicates = [Predicate("f", comparison, value) for comparison, value in asked]
            found = await stores.objects.query(1, predicates, limit=99)
            assert list(found) == hits, asked

    async def test_confidence_is_compared_as_it_is_now(self, stores: Stores) -> None:
        # Of this field an engine may know the numbers in another way than of the others.
        async def query(*bounds: tuple[Comparison, float]) -> list[int]:
            predicates = [Predicate("ann_confidence", *bound) for bound in bounds]
            return list(await stores.objects.query(1, predicates, limit=99))

        above, below = Comparison.GREATER, Comparison.LESS
        values = [0.1, 0.5, 1, (1 << 60) + 1, "0.7", [0.6]]
        numbered = enumerate(values, start=1)
        await stores.objects.put(1, [StoredObject(i, {"ann_confidence": v}) for i, v in numbered])
        assert await query((above, 0.1)) == [2, 3, 4]
        assert await query((above, 0.1), (below, 1)) == [2]
        assert await query((above, 1 << 60)) == [4]
        await stores.objects.change(1, 1, {"ann_confidence": 0.75})
        await stores.objects.change(1, 2, {"ann_confidence": "none"})
        await stores.objects.change(1, 5, {"ann_confidence": 0.7})
        assert await query((above, 0.1), (below, 1)) == [1, 5]
        assert await query((below, 0.2)) == []
        await stores.objects.put(1, [StoredObject(1, {}), StoredObject(2, {"ann_confidence": 0.9})])
        assert await query((above, 0.1), (below, 1)) == [2, 5]
        await stores.objects.delete(1, [5])
        assert await query((above, 0.1), (below, 1)) == [2]

    async def test_a_list_equals_each_of_its_elements(self, stores: Stores) -> None:
        await stores.objects.put(
            1,
            [
                StoredObject(3, {"segments": [7, 3, 7], "tags": ["a", "b"]}),
                StoredObject(5, {"segments": [3], "tags": "b"}),
                StoredObject(6, {"segments": 7}),
            ],
        )

        async def query(*predicates: Predicate) -> list[int]:
            return list(await stores.objects.query(1, predicates, limit=9))

        assert await query(_equal("segments", 7)) == [3, 6]
        assert await query(_equal("segments", 3)) == [3, 5]
        assert await query(_equal("segments", 3), _equal("segments", 7)) == [3]
        assert await query(_equal("tags", "b")) == [3, 5]
        assert await query(_equal("tags", "b"), _equal("segments", 3)) == [3, 5]
        assert await query(_equal("segments", "7")) == []
        assert await query(Predicate("segments", Comparison.GREATER, 2)) == [6]
        await stores.objects.put(1, [StoredObject(3, {"segments": [9]})])
        assert await query(_equal("segments", 3)) == [5]
        await stores.objects.delete(1, [3])
        assert await query(_equal("segments", 9)) == []

    async def test_changing_fields_leaves_the_others(self, stores: Stores) -> None:
        await stores.objects.put(1, [StoredObject(7, {"a": 1, "b": "x", "s": [1, 2], "t": [5]})])
        assert await stores.objects.change(1, 7, {"a": 2, "s": [2, 3], "new": "y"})
        [found] = await stores.objects.get(1, [7])
        assert dict(found.fields) == {"a": 2, "b": "x", "s": [2, 3], "t": [5], "new": "y"}
        for predicate, hits in (
            (_equal("a", 2), [7]),
            (_equal("a", 1), []),
            (_equal("s", 3), [7]),
            (_equal("s", 1), []),
            (_equal("t", 5), [7]),
            (_equal("new", "y"), [7]),
            (Predicate("a", Comparison.GREATER, 1), [7]),
            (Predicate("a", Comparison.LESS, 2), []),
        ):
            assert list(await stores.objects.query(1, [predicate], limit=9)) == hits, predicate
        await stores.objects.put(1, [StoredObject(7, {"a": 3})])
        [found] = await stores.objects.get(1, [7])
        assert dict(found.fields) == {"a": 3}

    async def test_what_is_not_there_cannot_be_changed(self, stores: Stores) -> None:
        assert not await stores.objects.change(1, 7, {"a": 1})
        await stores.objects.put(1, [StoredObject(7, {"b": 1})])
        await stores.objects.delete(1, [7])
        assert not await stores.objects.change(1, 7, {"a": 1})
        assert list(await stores.objects.get(1, [7])) == []
        assert list(await stores.objects.query(1, [], limit=9)) == []
        assert list(await stores.objects.query(1, [_equal("a", 1)], limit=9)) == []
        await stores.objects.put(1, [StoredObject(7, {"b": 2})])
        [found] = await stores.objects.get(1, [7])
        assert dict(found.fields) == {"b": 2}

    async def test_changes_of_different_fields_at_once_all_last(self, stores: Stores) -> None:
        await stores.objects.put(1, [StoredObject(7, {"same": 0})])
        async with asyncio.TaskGroup() as group:
            for n in range(8):
                change = {f"field{n}": n, "same": n}
                group.create_task(stores.objects.change(1, 7, change))
        [found] = await stores.objects.get(1, [7])
        assert {name: found.fields[name] for name in found.fields if name != "same"} == {
            f"field{n}": n for n in range(8)
        }
        assert found.fields["same"] in range(8)

    async def test_a_chosen_id_goes_to_one_asker(self, stores: Stores) -> None:
        async def claim(*ids: int) -> bool:
            try:
                await stores.objects.claim(1, ids)
            except AlreadyExists:
                return False
            return True

        assert sum(await asyncio.gather(*(claim(7) for _ in range(6)))) == 1
        assert not await claim(6, 7)
        assert await claim(6)
        await stores.objects.put(1, [StoredObject(7, {"a": 1})])
        assert not await claim(7)
        await stores.objects.put(1, [StoredObject(1 << 40, {"a": 1})])
        assert not await claim(8, 1 << 40)
        assert await claim(8)
        await stores.objects.delete(1, [7, 8])
        assert await claim(7, 8)

    async def test_what_is_returned_is_a_copy(self, stores: Stores) -> None:
        fields = {"list": [1]}
        await stores.objects.put(1, [StoredObject(1, fields)])
        fields["list"].append(2)
        [found] = await stores.objects.get(1, [1])
        found.fields["list"].append(3)
        [found] = await stores.objects.get(1, [1])
        assert dict(found.fields) == {"list": [1]}


def _equal(field: str, value: Any) -> Predicate:
    return Predicate(field, Comparison.EQUAL, value)


class LabelContract(Contract):
    """`LabelIndex`."""

    async def test_a_label_is_in_every_cuboid_that_was_noted(self, stores: Stores) -> None:
        await stores.labels.append(1, 0, 0, {5: [9, 3], 6: [3]})
        await stores.labels.append(1, 0, 0, {5: [3, 4, LARGEST_MORTON]})
        await stores.labels.append(1, 0, 2, {5: [1]})
        assert list(await stores.labels.mortons(1, 0, 5)) == [
            (0, 3),
            (0, 4),
            (0, 9),
            (0, LARGEST_MORTON),
            (2, 1),
        ]
        assert list(await stores.labels.mortons(1, 0, 6)) == [(0, 3)]
        assert list(await stores.labels.mortons(1, 0, 7)) == []
        assert await stores.labels.listed(1, 0, [7, 6, 5]) == {5, 6}
        assert await stores.labels.listed(1, 1, [5, 6]) == set()

    async def test_channels_levels_and_large_labels_do_not_mix(self, stores: Stores) -> None:
        large = (1 << 63) - 1
        await stores.labels.append(1, 0, 0, {large: [1]})
        await stores.labels.append(1, 1, 0, {large: [2]})
        await stores.labels.append(2, 0, 0, {large: [3], large - 1: [4]})
        assert list(await stores.labels.mortons(1, 0, large)) == [(0, 1)]
        assert list(await stores.labels.mortons(1, 1, large)) == [(0, 2)]
        assert list(await stores.labels.mortons(2, 0, large)) == [(0, 3)]

    async def test_discarded_entries_are_gone_and_no_others(self, stores: Stores) -> None:
        await stores.labels.append(1, 0, 0, {5: [1, 2, 3], 6: [2]})
        await stores.labels.append(1, 0, 1, {5: [2]})
        await stores.labels.discard(1, 0, 5, [(0, 2), (0, 99)])
        await stores.labels.discard(1, 0, 77, [(0, 2)])
        assert list(await stores.labels.mortons(1, 0, 5)) == [(0, 1), (0, 3), (1, 2)]
        assert list(await stores.labels.mortons(1, 0, 6)) == [(0, 2)]

    async def test_young_entries_stay(self, stores: Stores) -> None:
        await stores.labels.append(1, 0, 0, {5: [1, 2]})
        found = await stores.labels.mortons(1, 0, 5)
        await stores.labels.discard(1, 0, 5, found, older_than_s=600)
        assert list(await stores.labels.mortons(1, 0, 5)) == [(0, 1), (0, 2)]

    async def test_an_entry_that_is_appended_again_is_young(self, stores: Stores) -> None:
        await stores.labels.append(1, 0, 0, {5: [1, 2]})
        await asyncio.sleep(0.3)
        await stores.labels.append(1, 0, 0, {5: [2]})
        found = await stores.labels.mortons(1, 0, 5)
        await stores.labels.discard(1, 0, 5, found, older_than_s=0.25)
        assert list(await stores.labels.mortons(1, 0, 5)) == [(0, 2)]

    async def test_what_is_missing_is_told(self, stores: Stores) -> None:
        await stores.labels.append(1, 0, 0, {5: [1, 2]})
        await stores.labels.append(1, 0, 1, {6: [1]})
        missing = await stores.labels.missing(1, 0, 0, {5: [1, 2, 3], 6: [1], 5000: [7]})
        assert {label: list(codes) for label, codes in missing.items()} == {
            5: [3],
            6: [1],
            5000: [7],
        }
        assert not await stores.labels.missing(1, 0, 1, {6: [1]})

    async def test_labels_of_a_level_are_listed_once_each(self, stores: Stores) -> None:
        many = {label: [1, 2] for label in range(1, 1500)}
        await stores.labels.append(1, 0, 0, many)
        await stores.labels.append(1, 0, 1, {(1 << 64) - 1: [1], 5: [1]})
        await stores.labels.append(1, 1, 0, {9999: [1]})
        await stores.labels.append(2, 0, 0, {8888: [1]})
        found = [label async for page in stores.labels.labels(1, 0) for label in page]
        assert sorted(found) == [*many, (1 << 64) - 1]
        assert [label async for page in stores.labels.labels(3, 0) for label in page] == []

    async def test_a_deleted_channel_is_gone_and_no_other(self, stores: Stores) -> None:
        await stores.labels.append(1, 0, 0, {5: [1, 2], 6: [1]})
        await stores.labels.append(2, 0, 0, {5: [1]})
        assert await stores.labels.delete_channel(1) > 0
        assert list(await stores.labels.mortons(1, 0, 5)) == []
        assert list(await stores.labels.mortons(2, 0, 5)) == [(0, 1)]
        assert await stores.labels.delete_channel(1) == 0

    async def test_many_labels_are_noted_at_once(self, stores: Stores) -> None:
        await stores.labels.append(1, 0, 0, {label: [label % 7] for label in range(1, 3000)})
        assert list(await stores.labels.mortons(1, 0, 2999)) == [(0, 2999 % 7)]


class RecordContract(Contract):
    """`SideRecords`."""

    @pytest.mark.parametrize("size_bytes", [0, 1, (256 << 10) + 1, MAX_RECORD_BYTES])
    async def test_a_record_reads_back(self, stores: Stores, size_bytes: int) -> None:
        value = np.random.default_rng(1).bytes(size_bytes)
        await stores.records.put(1, "hist", "whole", value)
        assert await stores.records.get(1, "hist", "whole") == value

    async def test_what_was_never_put_is_none(self, stores: Stores) -> None:
        await stores.records.put(1, "hist", "whole", b"1")
        for where in ((2, "hist", "whole"), (1, "nifti", "whole"), (1, "hist", "other")):
            assert await stores.records.get(*where) is None
        assert list(await stores.records.keys(1, "nifti")) == []

    @pytest.mark.parametrize("size_bytes", [0, 2, 300 << 10, MAX_RECORD_BYTES])
    async def test_a_put_replaces_the_whole_record(self, stores: Stores, size_bytes: int) -> None:
        await stores.records.put(1, "hist", "whole", bytes(600 << 10))
        await stores.records.put(1, "hist", "whole", b"1" * size_bytes)
        assert await stores.records.get(1, "hist", "whole") == b"1" * size_bytes
        assert list(await stores.records.keys(1, "hist")) == ["whole"]

    async def test_keys_are_those_of_one_kind_in_order(self, stores: Stores) -> None:
        names = ["b", "a,1-2", "\N{LATIN SMALL LETTER E WITH ACUTE}", "B", "\U0001f9e0", "10", "9"]
        for name in names:
            await stores.records.put(1, "roi", name, b"1")
        await stores.records.put(1, "hist", "other", b"1")
        await stores.records.put(2, "roi", "other", b"1")
        assert list(await stores.records.keys(1, "roi")) == sorted(names)

    async def test_a_deleted_record_is_gone_and_no_other(self, stores: Stores) -> None:
        for name in ("a", "b"):
            await stores.records.put(1, "roi", name, bytes(300 << 10))
        await stores.records.delete(1, "roi", "a")
        await stores.records.delete(1, "roi", "never there")
        assert await stores.records.get(1, "roi", "a") is None
        assert await stores.records.get(1, "roi", "b") == bytes(300 << 10)
        assert list(await stores.records.keys(1, "roi")) == ["b"]
        await stores.records.put(1, "roi", "a", b"again")
        assert await stores.records.get(1, "roi", "a") == b"again"

    async def test_records_of_a_deleted_channel_are_gone_and_no_others(
        self, stores: Stores
    ) -> None:
        await stores.records.put(1, "hist", "whole", b"1")
        await stores.records.put(1, "roi", "a", bytes(300 << 10))
        await stores.records.put(2, "hist", "whole", b"2")
        assert await stores.records.delete_channel(1) == 2
        assert await stores.records.get(1, "hist", "whole") is None
        assert list(await stores.records.keys(1, "roi")) == []
        assert await stores.records.get(2, "hist", "whole") == b"2"
        assert await stores.records.delete_channel(1) == 0

    async def test_what_is_no_record_is_refused_and_changes_nothing(self, stores: Stores) -> None:
        await stores.records.put(1, "hist", "whole", b"1")
        for name in ("", "a" * (MAX_RECORD_NAME + 1), "a\x00b", "\ud800"):
            with pytest.raises(InvalidRequest):
                await stores.records.put(1, "hist", name, b"2")
            with pytest.raises(InvalidRequest):
                await stores.records.put(1, name, "whole", b"2")
            with pytest.raises(InvalidRequest):
                await stores.records.get(1, "hist", name)
            with pytest.raises(InvalidRequest):
                await stores.records.delete(1, "hist", name)
        with pytest.raises(TooLarge):
            await stores.records.put(1, "hist", "whole", bytes(MAX_RECORD_BYTES + 1))
        assert await stores.records.get(1, "hist", "whole") == b"1"

    async def test_of_puts_at_once_one_is_read_whole(self, stores: Stores) -> None:
        values = [bytes([n]) * ((n + 1) * 100_000) for n in range(8)]
        async with asyncio.TaskGroup() as group:
            for value in values:
                group.create_task(stores.records.put(1, "hist", "whole", value))
            for _ in range(8):
                found = await stores.records.get(1, "hist", "whole")
                assert found is None or found in values
        assert await stores.records.get(1, "hist", "whole") in values
