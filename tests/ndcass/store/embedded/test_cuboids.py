"""The embedded cuboid store under faults, with real files and real processes."""

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ndcass import codec, concurrency
from ndcass.errors import CorruptValue, StoreError, StoreFull
from ndcass.geometry import Zyx
from ndcass.merge import EMPTY, Cuboid, WriteOp, apply
from ndcass.store.base import CuboidAddress, CuboidWrite
from ndcass.store.embedded import cuboids as engine
from ndcass.store.embedded import entries
from ndcass.store.embedded.cuboids import EmbeddedCuboids
from tests.full_disk import file_size_limit

CUBOID: Zyx = (16, 128, 128)
SMALL: Zyx = (4, 16, 16)
Voxels = npt.NDArray[Any]


def at(morton: int, t: int = 0) -> CuboidAddress:
    return CuboidAddress(1, 0, 0, t, morton)


def random_voxels(seed: int, shape: Zyx = CUBOID, low: int = 0) -> Voxels:
    return np.random.default_rng(seed).integers(low, 256, shape, dtype=np.uint8)


def a_write(
    morton: int,
    voxels: Voxels,
    *,
    op: WriteOp = WriteOp.MERGE,
    corner: Zyx = (0, 0, 0),
    cuboid: Zyx = CUBOID,
    keeps_exceptions: bool = False,
) -> CuboidWrite:
    return CuboidWrite(at(morton), op, cuboid, corner, voxels, keeps_exceptions)


async def put(store: EmbeddedCuboids, *writes: CuboidWrite) -> None:
    async with store.batch() as batch:
        await batch.add(writes)
        await batch.commit()


async def fetch(store: EmbeddedCuboids, morton: int) -> Cuboid | None:
    async for found in store.read([at(morton)]):
        for address, rows in found:
            (row,) = rows
            identity = codec.row_identity(
                address, row.write_id, row.op, row.corner_zyx, row.shape_zyx
            )
            try:
                return Cuboid(*codec.decode(row.payload, identity=identity))
            except CorruptValue as error:
                raise CorruptValue(f"{address}: {error}") from error
    return None


async def voxels_of(store: EmbeddedCuboids, morton: int) -> Voxels:
    cuboid = await fetch(store, morton)
    assert cuboid is not None
    return cuboid.voxels


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedCuboids]:
    opened = EmbeddedCuboids.open(tmp_path)
    yield opened
    await opened.close()


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "segments").glob("*.seg"))


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in segments(folder))


# -- what a reader sees


async def test_an_uncommitted_batch_leaves_nothing_to_read(store: EmbeddedCuboids) -> None:
    async with store.batch() as batch:
        await batch.add([a_write(0, random_voxels(0))])
        assert await fetch(store, 0) is None
    assert await fetch(store, 0) is None


@pytest.mark.parametrize("cores", [1, 2, 5, 64])
async def test_threads_that_share_a_write_keep_every_cuboid(
    store: EmbeddedCuboids, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(concurrency, "CPU_CORES", cores)
    before = {morton: random_voxels(morton) for morton in range(0, 23, 2)}
    await put(store, *(a_write(morton, voxels) for morton, voxels in before.items()))
    posted = {morton: random_voxels(100 + morton) for morton in range(23)}
    shares: list[int] = []
    real = store.prepare

    def prepare(writes: Sequence[CuboidWrite], commit: entries.Commit) -> list[entries.Entry]:
        shares.append(len(writes))
        return real(writes, commit)

    monkeypatch.setattr(store, "prepare", prepare)
    await put(store, *(a_write(morton, voxels) for morton, voxels in posted.items()))
    for morton, voxels in posted.items():
        base = before.get(morton, np.zeros(CUBOID, dtype=np.uint8))
        assert np.array_equal(await voxels_of(store, morton), np.where(voxels, voxels, base))
    assert sum(shares) == 23
    assert (len(shares) > 1) == (cores > 1)


async def test_a_thread_that_fails_takes_the_whole_write_with_it(
    store: EmbeddedCuboids, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concurrency, "CPU_CORES", 4)
    voxels = random_voxels(1)
    wrong = a_write(31, voxels[:, :, :64], op=WriteOp.MERGE)

    def full(write: CuboidWrite, value: bytes | None) -> Cuboid:
        raise StoreFull("no space is left")

    monkeypatch.setattr(store, "_base", full)
    async with store.batch() as batch:
        with pytest.raises(StoreFull):
            await batch.add([*(a_write(morton, voxels) for morton in range(31)), wrong])
        assert batch._commit.entries == []
    await put(store, *(a_write(morton, voxels) for morton in range(40, 43)))
    assert [await fetch(store, morton) for morton in (0, 31)] == [None, None]
    assert np.array_equal(await voxels_of(store, 41), voxels)


async def test_zeros_that_replace_everything_leave_no_entry(store: EmbeddedCuboids) -> None:
    await put(store, a_write(0, random_voxels(0)))
    await put(store, a_write(0, np.zeros(CUBOID, dtype=np.uint8), op=WriteOp.REPLACE))
    assert await fetch(store, 0) is None
    assert [page async for page in store.scan(1)] == []


async def test_a_merge_of_zeros_stores_nothing(store: EmbeddedCuboids) -> None:
    await put(store, a_write(0, np.zeros(CUBOID, dtype=np.uint8)))
    assert await fetch(store, 0) is None


async def test_a_constant_cuboid_needs_no_segment(store: EmbeddedCuboids, tmp_path: Path) -> None:
    await put(store, a_write(0, np.full(CUBOID, 7, dtype=np.uint8)))
    assert (await voxels_of(store, 0) == 7).all()
    assert segments(tmp_path) == []


async def test_minus_zero_counts_as_nothing_posted(store: EmbeddedCuboids) -> None:
    posted = np.array([[[-0.0, 1.5]]], dtype=np.float32)
    await put(store, a_write(0, posted, cuboid=(1, 1, 2)))
    assert np.signbit(await voxels_of(store, 0)).tolist() == [[[False, False]]]


async def test_a_payload_stays_readable_while_its_segment_is_dropped(
    store: EmbeddedCuboids, tmp_path: Path
) -> None:
    first = random_voxels(1)
    await put(store, a_write(0, first))
    (found,) = [page async for page in store.read([at(0)])]
    ((address, (row,)),) = found
    await put(store, a_write(0, random_voxels(2, low=1)))
    await store.close()
    reopened = EmbeddedCuboids.open(tmp_path)
    try:
        await settle(reopened)
        identity = codec.row_identity(address, row.write_id, row.op, row.corner_zyx, row.shape_zyx)
        voxels, _ = codec.decode(row.payload, identity=identity)
        assert np.array_equal(voxels, first)
    finally:
        await reopened.close()


# -- writes that meet


OPS: list[tuple[WriteOp, bool]] = [
    (WriteOp.MERGE, False),
    (WriteOp.MERGE, True),
    (WriteOp.REPLACE, False),
    (WriteOp.PRESERVE, False),
    (WriteOp.EXCEPTION, True),
    (WriteOp.REDUCE, True),
    (WriteOp.ERASE, True),
]


@pytest.mark.parametrize(("op", "exceptions"), OPS)
@pytest.mark.parametrize("redo_bytes", [0, 1 << 20], ids=["spooled", "in memory"])
@pytest.mark.parametrize("stored_before", [False, True])
@pytest.mark.parametrize("whole", [False, True])
async def test_a_write_prepared_before_another_was_committed_is_merged_again(
    store: EmbeddedCuboids,
    monkeypatch: pytest.MonkeyPatch,
    op: WriteOp,
    exceptions: bool,
    redo_bytes: int,
    stored_before: bool,
    whole: bool,
) -> None:
    monkeypatch.setattr(engine, "REDO_BYTES", redo_bytes)
    rng = np.random.default_rng(op)
    model = Cuboid(np.zeros(SMALL, dtype=np.uint32), EMPTY)
    corner: Zyx = (0, 0, 0) if whole else (1, 2, 3)
    shape: Zyx = SMALL if whole else (2, 9, 11)
    labels = [rng.integers(0, 4, shape).astype(np.uint32) for _ in range(3)]
    if stored_before:
        base = rng.integers(0, 3, SMALL).astype(np.uint32)
        await put(store, a_write(0, base, cuboid=SMALL))
        model = apply(model, WriteOp.MERGE, (0, 0, 0), base)
    async with store.batch() as first, store.batch() as second, store.batch() as third:
        for batch, voxels in zip((first, second, third), labels, strict=True):
            await batch.add(
                [
                    a_write(
                        0, voxels, op=op, corner=corner, cuboid=SMALL, keeps_exceptions=exceptions
                    )
                ]
            )
        for batch, voxels in zip((first, second, third), labels, strict=True):
            await batch.commit()
            model = apply(model, op, corner, voxels)
    found = await fetch(store, 0) or Cuboid(np.zeros(SMALL, dtype=np.uint32), EMPTY)
    assert np.array_equal(found.voxels, model.voxels)
    assert np.array_equal(found.exceptions.offsets, model.exceptions.offsets)
    assert np.array_equal(found.exceptions.labels, model.exceptions.labels)


async def test_one_batch_may_write_a_cuboid_twice(store: EmbeddedCuboids) -> None:
    left, right = random_voxels(1, (16, 128, 64), 1), random_voxels(2, (16, 128, 64), 1)
    await put(store, a_write(0, left), a_write(0, right, corner=(0, 0, 64)))
    assert np.array_equal(await voxels_of(store, 0), np.concatenate([left, right], axis=2))


async def test_many_writers_of_one_process_lose_nothing(store: EmbeddedCuboids) -> None:
    async def writer(number: int) -> None:
        for row in range(number, 128, 8):
            voxels = np.full((16, 1, 128), number + 1, dtype=np.uint8)
            await put(store, a_write(0, voxels, corner=(0, row, 0)))

    await asyncio.gather(*map(writer, range(8)))
    rows = (await voxels_of(store, 0))[0, :, 0]
    assert rows.tolist() == [row % 8 + 1 for row in range(128)]


def _write_rows(folder: str, number: int, processes: int) -> None:
    async def main() -> None:
        store = EmbeddedCuboids.open(Path(folder))
        for row in range(number, 128, processes):
            # Overlaps what the other writes in both cuboids; each owns every second row.
            voxels = np.zeros((9, 2, 100), dtype=np.uint8)
            voxels[:, 0, :] = number + 1
            height = min(2, 128 - row)
            for morton in (0, 1):
                await put(store, a_write(morton, voxels[:, :height], corner=(3, row, 5)))
        await store.close()

    asyncio.run(main())


async def test_two_processes_with_overlapping_boxes_lose_no_voxel(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_rows, args=(str(tmp_path), n, 2)) for n in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        await asyncio.to_thread(writer.join, 60)
        assert writer.exitcode == 0
    store = EmbeddedCuboids.open(tmp_path)
    try:
        for morton in (0, 1):
            voxels = await voxels_of(store, morton)
            assert voxels[3, :, 5].tolist() == [row % 2 + 1 for row in range(128)]
            assert (voxels[3:12, :, 5:105] == voxels[3, :, 5][None, :, None]).all()
            assert np.count_nonzero(voxels) == 9 * 128 * 100
    finally:
        await store.close()


# -- crashes

_KILLED_WRITER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    import numpy as np
    from ndcass.merge import WriteOp
    from ndcass.store.base import CuboidAddress, CuboidWrite
    from ndcass.store.embedded.cuboids import EmbeddedCuboids

    async def main():
        store = EmbeddedCuboids.open(Path(sys.argv[1]))
        for version in range(1, 250):
            async with store.batch() as batch:
                for morton in range(32):
                    voxels = np.full((16, 128, 128), version, dtype=np.uint8)
                    voxels[0, 0, 0] = morton + 1
                    voxels[5] = np.random.default_rng(version).integers(1, 255, (128, 128))
                    address = CuboidAddress(1, 0, 0, 0, morton)
                    write = CuboidWrite(address, WriteOp.MERGE, (16, 128, 128), (0, 0, 0), voxels)
                    await batch.add([write])
                await batch.commit()
            print(version, flush=True)

    asyncio.run(main())
    """
)


@pytest.mark.parametrize("acknowledged_before_the_kill", [1, 4])
async def test_kill_9_keeps_what_was_acknowledged_and_tears_nothing(
    tmp_path: Path, acknowledged_before_the_kill: int
) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", _KILLED_WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    acknowledged = 0
    with writer.stdout:
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged == acknowledged_before_the_kill:
                time.sleep(0.013)  # into the middle of the next write
                writer.kill()
                break
        rest = writer.stdout.read().split()
    writer.wait(30)
    acknowledged = max([acknowledged, *map(int, rest)])
    store = EmbeddedCuboids.open(tmp_path)
    try:
        versions = set()
        for morton in range(32):
            voxels = await voxels_of(store, morton)
            version = int(voxels[1, 0, 0])
            versions.add(version)
            expected = np.full(CUBOID, version, dtype=np.uint8)
            expected[0, 0, 0] = morton + 1
            expected[5] = np.random.default_rng(version).integers(1, 255, (128, 128))
            assert np.array_equal(voxels, expected)
        assert len(versions) == 1, "a batch was published in part"
        assert versions.pop() in (acknowledged, acknowledged + 1)
        await put(store, a_write(0, random_voxels(9, low=1)))
        await settle(store)
        assert np.array_equal(await voxels_of(store, 0), random_voxels(9, low=1))
    finally:
        await store.close()


# -- damage


def damage(folder: Path, offset: int) -> None:
    """Turn a bit of the only segment."""
    (path,) = segments(folder)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize("offset", [128, 132, 140, 160, 200, 400, 5000, 250_000, 262_000])
async def test_a_turned_bit_is_an_error_that_names_the_cuboid(
    store: EmbeddedCuboids, tmp_path: Path, offset: int
) -> None:
    await put(store, a_write(77, random_voxels(0)))
    damage(tmp_path, offset)
    with pytest.raises(CorruptValue, match="morton 77"):
        await fetch(store, 77)
    ((address, reason),) = await store.verify([at(77)])
    assert address == at(77)
    assert reason


async def test_a_merge_onto_a_damaged_cuboid_fails_and_changes_nothing(
    store: EmbeddedCuboids, tmp_path: Path
) -> None:
    await put(store, a_write(5, random_voxels(0)))
    damage(tmp_path, 5000)
    with pytest.raises(CorruptValue, match="morton 5"):
        await put(store, a_write(5, random_voxels(1, (3, 3, 3), 1)))
    with pytest.raises(CorruptValue):
        await fetch(store, 5)


async def test_a_truncated_segment_is_an_error(tmp_path: Path) -> None:
    store = EmbeddedCuboids.open(tmp_path)
    await put(store, a_write(3, random_voxels(0)))
    await store.close()
    (path,) = segments(tmp_path)
    os.truncate(path, 4096)
    store = EmbeddedCuboids.open(tmp_path)
    try:
        with pytest.raises(CorruptValue, match="morton 3"):
            await fetch(store, 3)
    finally:
        await store.close()


async def test_a_lost_segment_is_an_error(tmp_path: Path) -> None:
    store = EmbeddedCuboids.open(tmp_path)
    await put(store, a_write(3, random_voxels(0)))
    await store.close()
    segments(tmp_path)[0].unlink()
    store = EmbeddedCuboids.open(tmp_path)
    try:
        with pytest.raises(StoreError):
            await fetch(store, 3)
    finally:
        await store.close()


# -- full disks


async def test_a_full_disk_refuses_the_write_and_keeps_the_old_voxels(
    store: EmbeddedCuboids, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ndcass.store.embedded.segments.GROW_BYTES", 1 << 20)
    before = random_voxels(0)
    await put(store, a_write(0, before))
    with file_size_limit(1 << 20), pytest.raises(StoreFull):
        await put(store, *(a_write(m, random_voxels(m + 1)) for m in range(8)))
    assert np.array_equal(await voxels_of(store, 0), before)
    assert await fetch(store, 7) is None
    after = random_voxels(20, low=1)
    await put(store, a_write(0, after))
    assert np.array_equal(await voxels_of(store, 0), after)


async def test_a_full_disk_under_the_index_refuses_the_write(
    store: EmbeddedCuboids, tmp_path: Path
) -> None:
    await put(store, a_write(0, np.full(CUBOID, 1, dtype=np.uint8)))
    size = (tmp_path / "index.lmdb").stat().st_size
    many = [a_write(m, np.full(CUBOID, 2, dtype=np.uint8)) for m in range(2000)]
    with file_size_limit(size), pytest.raises(StoreFull):
        await put(store, *many)
    assert (await voxels_of(store, 0) == 1).all()
    assert await fetch(store, 1) is None
    await put(store, *many)
    assert (await voxels_of(store, 1999) == 2).all()


async def test_after_a_failed_sync_the_segment_is_given_up(
    store: EmbeddedCuboids, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store, a_write(0, random_voxels(0)))
    real = os.fdatasync

    def failing(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(StoreError):
        await put(store, a_write(1, random_voxels(1)))
    monkeypatch.setattr(os, "fdatasync", real)
    assert await fetch(store, 1) is None
    await put(store, a_write(1, random_voxels(2)))
    assert len(segments(tmp_path)) == 2, "nothing may be appended to a segment whose sync failed"
    assert np.array_equal(await voxels_of(store, 1), random_voxels(2))


async def test_a_write_that_fails_takes_no_other_of_its_group_with_it(
    store: EmbeddedCuboids, tmp_path: Path
) -> None:
    await put(store, a_write(0, random_voxels(0)))
    await put(store, a_write(1, random_voxels(1)))
    async with store.batch() as good, store.batch() as bad:
        await good.add([a_write(1, random_voxels(2, (2, 2, 2), 1))])
        await bad.add([a_write(0, random_voxels(3, (2, 2, 2), 1))])
        # Another write, then damage: the second batch must merge again and cannot.
        await put(store, a_write(0, random_voxels(4)))
        (value,) = [v for _, v in store._current([at(0)])]
        assert value is not None
        damage(tmp_path, entries.AT.unpack(value)[3] + 5000)
        outcomes = await asyncio.gather(good.commit(), bad.commit(), return_exceptions=True)
    assert outcomes[0] is None
    assert isinstance(outcomes[1], CorruptValue)
    assert (await voxels_of(store, 1))[0, 0, 0] == random_voxels(2, (2, 2, 2), 1)[0, 0, 0]


# -- space


async def settle(store: EmbeddedCuboids) -> None:
    """Housekeeping until there is nothing left to do, or a bound."""
    for _ in range(20):
        await store.maintain()


@pytest.fixture
async def small_segments(tmp_path: Path) -> AsyncIterator[EmbeddedCuboids]:
    opened = EmbeddedCuboids.open(tmp_path, segment_bytes=2 << 20)
    yield opened
    await opened.close()


async def test_overwritten_cuboids_give_their_space_back(
    small_segments: EmbeddedCuboids, tmp_path: Path
) -> None:
    for version in range(12):
        await put(
            small_segments, *(a_write(m, random_voxels(version * 9 + m, low=1)) for m in range(4))
        )
    before = stored_bytes(tmp_path)
    await settle(small_segments)
    assert stored_bytes(tmp_path) < before / 2
    for morton in range(4):
        expected = random_voxels(11 * 9 + morton, low=1)
        assert np.array_equal(await voxels_of(small_segments, morton), expected)


async def test_a_deleted_channel_gives_its_space_back(
    small_segments: EmbeddedCuboids, tmp_path: Path
) -> None:
    await put(small_segments, *(a_write(m, random_voxels(m)) for m in range(32)))
    assert await small_segments.delete_channel(1) == 32
    assert await small_segments.delete_channel(1) == 0
    await settle(small_segments)
    assert stored_bytes(tmp_path) < 4 << 20


_HOUSEKEEPER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from ndcass.store.embedded.cuboids import EmbeddedCuboids

    async def main():
        store = EmbeddedCuboids.open(Path(sys.argv[1]))
        for _ in range(20):
            await store.maintain()
        await store.close()

    asyncio.run(main())
    """
)


async def test_housekeeping_leaves_a_segment_that_is_still_written_to(
    store: EmbeddedCuboids, tmp_path: Path
) -> None:
    async with store.batch() as batch:
        await batch.add([a_write(0, random_voxels(0))])
        subprocess.run([sys.executable, "-c", _HOUSEKEEPER, str(tmp_path)], timeout=60, check=True)
        await settle(store)
        await batch.commit()
    assert np.array_equal(await voxels_of(store, 0), random_voxels(0))


async def test_a_write_while_its_segment_is_copied_is_not_undone(
    small_segments: EmbeddedCuboids, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in range(3):
        await put(
            small_segments, *(a_write(m, random_voxels(version * 20 + m, low=1)) for m in range(8))
        )
    newest = random_voxels(99, low=1)
    real: Callable[..., None] = small_segments._copy
    raced: list[int] = []

    def copy_then_race(segment: int, addresses: list[CuboidAddress], commit: Any) -> None:
        real(segment, addresses, commit)
        if not raced:
            raced.append(segment)
            race = small_segments.new_commit()
            race.entries += small_segments.prepare(
                [a_write(a.morton, newest) for a in addresses], race
            )
            assert small_segments._commit_group([race]) == [None]
            small_segments.release(race)

    monkeypatch.setattr(small_segments, "_copy", copy_then_race)
    await put(small_segments, *(a_write(m, random_voxels(200 + m, low=1)) for m in range(5)))
    await settle(small_segments)
    if not raced:
        pytest.fail("no segment was copied: the test proves nothing")
    for morton in range(5, 8):
        assert np.array_equal(await voxels_of(small_segments, morton), newest)


_KILLED_COPIER = textwrap.dedent(
    """
    import asyncio, os, sys
    from pathlib import Path
    from ndcass.store.embedded.cuboids import EmbeddedCuboids

    async def main():
        store = EmbeddedCuboids.open(Path(sys.argv[1]), segment_bytes=2 << 20)
        real = getattr(store, sys.argv[2])
        def dying(*args):
            if sys.argv[3] == "after":
                real(*args)
            os.kill(os.getpid(), 9)
        setattr(store, sys.argv[2], dying)
        for _ in range(20):
            await store.maintain()

    asyncio.run(main())
    """
)


@pytest.mark.parametrize("step", ["_copy", "_drop"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_kill_while_a_segment_is_copied_loses_nothing(
    tmp_path: Path, step: str, when: str
) -> None:
    store = EmbeddedCuboids.open(tmp_path, segment_bytes=2 << 20)
    for version in range(3):
        await put(store, *(a_write(m, random_voxels(version * 20 + m, low=1)) for m in range(8)))
    await put(store, *(a_write(m, random_voxels(200 + m, low=1)) for m in range(5)))
    await store.close()
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED_COPIER, str(tmp_path), step, when], timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    store = EmbeddedCuboids.open(tmp_path, segment_bytes=2 << 20)
    try:
        await settle(store)
        for morton in range(8):
            seed = 200 + morton if morton < 5 else 40 + morton
            assert np.array_equal(await voxels_of(store, morton), random_voxels(seed, low=1))
    finally:
        await store.close()


def _read_for_a_while(folder: str, ready: Any, report: str) -> None:
    async def main() -> None:
        store = EmbeddedCuboids.open(Path(folder), segment_bytes=2 << 20)
        ready.set()
        seen = []
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            for morton in range(4):
                voxels = await voxels_of(store, morton)
                assert (voxels == voxels[0, 0, 0]).sum() >= voxels.size - 1
                seen.append(int(voxels[0, 0, 0]))
        Path(report).write_text(json.dumps(seen))
        await store.close()

    asyncio.run(main())


async def test_a_reader_in_another_process_outlives_copied_segments(tmp_path: Path) -> None:
    store = EmbeddedCuboids.open(tmp_path, segment_bytes=2 << 20)

    def version_of(number: int) -> Voxels:
        voxels = np.full(CUBOID, number, dtype=np.uint8)
        voxels[-1, -1, -1] = 0  # not constant, so that it lies in a segment
        return voxels

    monkey = codec.WORTHWHILE
    codec.WORTHWHILE = 0.0  # raw, so that segments fill
    try:
        await put(store, *(a_write(m, version_of(1)) for m in range(4)))
        context = multiprocessing.get_context("spawn")
        ready = context.Event()
        report = tmp_path / "report.json"
        reader = context.Process(target=_read_for_a_while, args=(str(tmp_path), ready, str(report)))
        reader.start()
        assert await asyncio.to_thread(ready.wait, 30)
        number = 1
        while reader.is_alive():
            number = number % 250 + 1
            await put(
                store, *(a_write(m, version_of(number), op=WriteOp.REPLACE) for m in range(4))
            )
            await store.maintain()
        await asyncio.to_thread(reader.join, 30)
        assert reader.exitcode == 0
        assert len(set(json.loads(report.read_text()))) > 3
    finally:
        codec.WORTHWHILE = monkey
        await store.close()


# -- what a reviewer broke


async def test_a_cancelled_copy_keeps_its_segments_until_its_commit_is_over(
    small_segments: EmbeddedCuboids, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in range(3):
        await put(
            small_segments, *(a_write(m, random_voxels(version * 20 + m, low=1)) for m in range(8))
        )
    await put(small_segments, *(a_write(m, random_voxels(200 + m, low=1)) for m in range(5)))
    entered, gate = threading.Event(), threading.Event()
    real = small_segments._commits._func
    pinned: list[int] = []

    def slow(commits: Any) -> Any:
        entered.set()
        gate.wait(20)
        pinned.extend(len(commit.segments) for commit in commits)
        return real(commits)

    monkeypatch.setattr(small_segments._commits, "_func", slow)
    copying = asyncio.create_task(small_segments.maintain())
    assert await asyncio.to_thread(entered.wait, 20)
    copying.cancel()
    await asyncio.sleep(0.05)
    assert not copying.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert pinned
    assert all(pinned)
    monkeypatch.setattr(small_segments._commits, "_func", real)
    await settle(small_segments)
    for morton in range(8):
        seed = 200 + morton if morton < 5 else 40 + morton
        assert np.array_equal(await voxels_of(small_segments, morton), random_voxels(seed, low=1))


async def test_a_segment_that_is_cut_while_it_is_mapped_is_mapped_again(
    store: EmbeddedCuboids, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store, a_write(0, random_voxels(0)))
    real = os.fstat
    lies = [1]

    def grown(fd: int) -> Any:
        found = real(fd)
        if lies:
            lies.pop()
            return os.stat_result((*found[:6], found.st_size + (1 << 20), *found[7:10]))
        return found

    monkeypatch.setattr(os, "fstat", grown)
    assert np.array_equal(await voxels_of(store, 0), random_voxels(0))
    assert not lies


async def test_a_damaged_record_does_not_stop_housekeeping(tmp_path: Path) -> None:
    store = EmbeddedCuboids.open(tmp_path, segment_bytes=1 << 20)
    for version in range(12):
        await put(store, *(a_write(m, random_voxels(version * 9 + m, low=1)) for m in range(4)))
        await put(store, a_write(100 + version, random_voxels(version, low=1)))
    await store.close()
    for path in segments(tmp_path)[:2]:  # every record of the first that housekeeping looks at
        content = bytearray(path.read_bytes())
        for at in range(500, len(content), 9000):
            content[at] ^= 1
        path.write_bytes(content)
    before = len(segments(tmp_path))
    store = EmbeddedCuboids.open(tmp_path, segment_bytes=1 << 20)
    try:
        await settle(store)
        assert len(segments(tmp_path)) < before - 4
    finally:
        await store.close()


async def test_a_segment_that_cannot_be_begun_leaves_no_file(
    store: EmbeddedCuboids, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreFull):
        await put(store, a_write(0, random_voxels(0)))
    assert segments(tmp_path) == []


async def test_a_batch_keeps_nothing_of_the_arrays_it_was_given(store: EmbeddedCuboids) -> None:
    async with store.batch() as batch:
        await batch.add([a_write(0, random_voxels(0, (3, 3, 3), 1), corner=(1, 1, 1))])
        (entry,) = batch._commit.entries
        assert entry.redo is not None
        assert entry.redo.write.voxels.base is None


async def test_an_error_that_nobody_foresaw_fails_one_write_of_a_group_only(
    store: EmbeddedCuboids, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(store, "_merge_again", broken)
    async with store.batch() as good, store.batch() as bad:
        await bad.add([a_write(0, random_voxels(1, (3, 3, 3), 1))])
        await put(store, a_write(0, random_voxels(2, (3, 3, 3), 1)))
        await good.add([a_write(1, random_voxels(3))])
        outcomes = store._commit_group([bad._commit, good._commit])
    assert isinstance(outcomes[0], MemoryError)
    assert outcomes[1] is None
    assert np.array_equal(await voxels_of(store, 1), random_voxels(3))


_STUCK_READER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from ndcass.store.embedded.cuboids import EmbeddedCuboids
    store = EmbeddedCuboids.open(Path(sys.argv[1]))
    with store._env.begin(store._cuboids) as txn:
        txn.get(b"x")
        print("reading", flush=True)
        time.sleep(60)
    """
)


async def test_a_reader_that_was_killed_is_forgotten(
    store: EmbeddedCuboids, tmp_path: Path
) -> None:
    await put(store, a_write(0, random_voxels(0)))
    reader = subprocess.Popen(
        [sys.executable, "-c", _STUCK_READER, str(tmp_path)], stdout=subprocess.PIPE
    )
    with reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"reading\n"
        reader.kill()
    assert str(reader.pid) in store._env.readers()
    await store.maintain()
    assert str(reader.pid) not in store._env.readers()


async def test_channels_with_cuboids_are_listed(store: EmbeddedCuboids) -> None:
    assert await store.channel_ids() == []
    for channel in (7, 1, 1 << 40):
        address = CuboidAddress(channel, 1, 2, 3, 4)
        await put(
            store, CuboidWrite(address, WriteOp.MERGE, SMALL, (0, 0, 0), random_voxels(1, SMALL))
        )
    assert await store.channel_ids() == [1, 7, 1 << 40]
