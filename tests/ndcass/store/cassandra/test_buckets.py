import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ndcass import assemble
from ndcass.errors import CorruptValue, StoreUnavailable
from ndcass.merge import CuboidRow, WriteOp
from ndcass.store.base import PLAIN, CuboidAddress
from ndcass.store.cassandra import buckets
from ndcass.store.cassandra.buckets import Heads
from ndcass.store.cassandra.cuboids import CassandraCuboids
from ndcass.store.cassandra.driver import Consistency, Driver
from ndcass.store.cassandra.rows import BASE, WRITE, Bucket, Head, Pointer
from ndcass.store.cassandra.tiers import Tiers, Windows
from tests.store_contract import write_of

SHAPE = (4, 8, 8)
ALL = Consistency.ALL
_channel_ids = itertools.count(9_000_000)
_KEY = (
    "channel=? AND pyramid=? AND level=? AND t=? AND bucket=? "
    "AND morton=? AND kind=? AND write_id=?"
)

Voxels = npt.NDArray[Any]  # whatever type a test stores


def head(kind: int, write_id: bytes) -> Head:
    box = (1, 1, 1)
    return Head(3, kind, write_id, WriteOp.MERGE, (0, 0, 0), box, box, 99, 1)


def test_a_version_names_the_base_and_what_is_not_in_it() -> None:
    """All that a reader would merge, and nothing else."""
    ids = [bytes([number]) * 16 for number in range(1, 6)]
    empty = Heads()
    written = Heads([head(WRITE, ids[0]), head(WRITE, ids[1])])
    more = Heads([*written.writes, head(WRITE, ids[3])])
    folded = Heads(more.writes, {ids[2]: head(BASE, ids[2])}, Pointer(ids[2], ids[1], 0))
    swept = Heads(more.writes[2:], folded.bases, folded.pointer)
    folded_all = Heads(more.writes, {ids[4]: head(BASE, ids[4])}, Pointer(ids[4], ids[3], 0))
    torn = Heads(more.writes, {}, folded_all.pointer)
    assert empty.version == b""
    kinds = [found.version for found in (empty, written, more, folded, folded_all)]
    assert len(set(kinds)) == len(kinds)
    # What was folded may be swept at any time, and a base be met late.
    assert swept.version == folded.version
    assert torn.version == folded_all.version


class Volume:
    """A channel with all its cuboids in one bucket of eight."""

    def __init__(self, cuboids: CassandraCuboids, driver: Driver) -> None:
        self.cuboids = cuboids
        self.driver = driver
        self.channel_id = next(_channel_ids)

    @property
    def bucket(self) -> Bucket:
        return Bucket(self.channel_id, PLAIN, 0, 0, 0)

    async def write(self, morton: int, voxels: Voxels, op: WriteOp = WriteOp.MERGE) -> None:
        address = CuboidAddress(self.channel_id, PLAIN, 0, 0, morton)
        shape = (voxels.shape[0], voxels.shape[1], voxels.shape[2])
        async with self.cuboids.batch() as batch:
            await batch.add([write_of(address, voxels, op, shape=shape)])
            await batch.commit()

    async def read(
        self, mortons: Sequence[int] | None = None, *, checked: bool = False
    ) -> dict[int, list[CuboidRow]]:
        found = await self.cuboids.buckets.rows(
            self.bucket, mortons, cuboid_bytes=4096, checked=checked
        )
        return {morton: rows for morton, (rows, _) in found.items()}

    async def voxels(self, morton: int, like: Voxels, **options: Any) -> Voxels:
        rows = (await self.read([morton], **options))[morton]
        address = self.bucket.address(morton)
        shape = (like.shape[0], like.shape[1], like.shape[2])
        return assemble.merged(address, rows, cuboid_zyx=shape, dtype=like.dtype).voxels

    async def head(self, morton: int) -> Head:
        heads = await self.cuboids.buckets.heads(self.bucket, [morton])
        return heads[morton].valid[0]

    async def change(self, head: Head, column: str, value: bytes | None, *, part: int = 0) -> None:
        """Damage a cell of a row, on every replica."""
        cql = f"UPDATE cuboids SET {column}=? WHERE {_KEY} AND part=?"
        tier = self.cuboids.tiers.ingest
        statement = await self.driver.prepare(
            cql, keyspace=tier.keyspace, data_centre=tier.data_centre
        )
        key = (*self.bucket, head.morton, head.kind, head.write_id, part)
        await self.driver.execute(statement, (value, *key), consistency=ALL)

    async def payload(self, head: Head, part: int = 0) -> bytes:
        tier = self.cuboids.tiers.ingest
        statement = await self.driver.prepare(
            f"SELECT payload FROM cuboids WHERE {_KEY} AND part=?",
            keyspace=tier.keyspace,
            data_centre=tier.data_centre,
        )
        key = (*self.bucket, head.morton, head.kind, head.write_id, part)
        [[payload]] = await self.driver.execute(statement, key, consistency=ALL)
        return bytes(payload)


@pytest.fixture
async def volume(driver: Driver, one_tier: Tiers) -> Volume:
    windows = Windows(max_clock_skew_ms=0)
    return Volume(await CassandraCuboids.open(driver, one_tier, windows, bucket_bits=3), driver)


def noise(shape: tuple[int, int, int], dtype: str = "<u1", seed: int = 0) -> Voxels:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.random.default_rng(seed).integers(1, 255, size, dtype=np.uint8)
    return raw.view(dtype).reshape(shape)


async def test_a_payload_of_several_parts_comes_back(volume: Volume) -> None:
    large = noise((16, 128, 128), "<u8")  # 2 MiB
    larger = noise((20, 128, 256), "<u8")  # 5 MiB: more than one mutation
    await volume.write(0, large)
    await volume.write(1, larger)
    assert (await volume.head(0)).parts == 3
    assert (await volume.head(1)).parts == 6
    np.testing.assert_array_equal(await volume.voxels(0, large, checked=True), large)
    np.testing.assert_array_equal(await volume.voxels(1, larger), larger)


async def test_tiny_pages_give_the_same(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    for morton in range(8):
        for seed in range(3):
            await volume.write(morton, noise(SHAPE, seed=seed), WriteOp.REPLACE)
    expected = await volume.read()
    assert {morton: len(rows) for morton, rows in expected.items()} == dict.fromkeys(range(8), 3)
    monkeypatch.setattr(buckets, "HEADERS_A_PAGE", 2)
    monkeypatch.setattr(buckets, "PAGE_BYTES", 1)
    found = await volume.read()
    assert [row.payload for rows in found.values() for row in rows] == [
        row.payload for rows in expected.values() for row in rows
    ]


@pytest.mark.parametrize("mortons", [[0], [2, 3], [1, 3], [0, 7], [3, 4, 6], list(range(8))])
async def test_exactly_what_is_wanted_comes(volume: Volume, mortons: list[int]) -> None:
    for morton in range(0, 8, 2):
        await volume.write(morton, noise(SHAPE, seed=morton))
    assert list(await volume.read(mortons)) == [morton for morton in mortons if morton % 2 == 0]


@pytest.mark.parametrize("damage", ["gone", "cut short", "flipped"])
async def test_a_payload_that_no_node_has_whole_is_an_error_and_no_zeros(
    volume: Volume, damage: str
) -> None:
    await volume.write(3, noise(SHAPE))
    head = await volume.head(3)
    payload = await volume.payload(head)
    changed = {
        "gone": None,
        "cut short": payload[:-1],
        "flipped": bytes([*payload[:-1], payload[-1] ^ 1]),
    }
    await volume.change(head, "payload", changed[damage])
    with pytest.raises(CorruptValue, match="morton 3"):
        await volume.read([3], checked=True)
    address = volume.bucket.address(3)
    assert [found for found, _ in await volume.cuboids.verify([address])] == [address]


async def test_a_damaged_header_is_an_error(volume: Volume) -> None:
    await volume.write(3, noise(SHAPE))
    await volume.change(await volume.head(3), "header", bytes(43))
    with pytest.raises(CorruptValue):
        await volume.read([3])


async def test_a_row_whose_header_was_never_written_is_not_there(volume: Volume) -> None:
    await volume.write(3, noise(SHAPE))
    await volume.change(await volume.head(3), "header", None)
    assert await volume.read([3]) == {}


async def test_a_payload_that_the_asked_replica_lacks_comes_from_another(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    voxels = noise(SHAPE)
    await volume.write(3, voxels)
    page = volume.driver.page

    async def first_lacks_it(*args: Any, **options: Any) -> Any:
        found = await page(*args, **options)
        is_payload = "payload FROM" in args[0].cql
        if is_payload and options["consistency"] is Consistency.LOCAL_ONE:
            return found._replace(rows=[(*row[:-1], None) for row in found.rows])
        return found

    monkeypatch.setattr(volume.driver, "page", first_lacks_it)
    np.testing.assert_array_equal(await volume.voxels(3, voxels), voxels)
    assert volume.cuboids.counts["payloads_asked_again"] == 1


async def test_nodes_that_do_not_answer_are_no_damage(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    await volume.write(3, noise(SHAPE))
    page = volume.driver.page

    async def no_payloads(*args: Any, **options: Any) -> Any:
        if "payload FROM" in args[0].cql:
            raise StoreUnavailable("nobody answers")
        return await page(*args, **options)

    monkeypatch.setattr(volume.driver, "page", no_payloads)
    with pytest.raises(StoreUnavailable):
        await volume.read([3], checked=True)
    with pytest.raises(StoreUnavailable):
        await volume.cuboids.verify([volume.bucket.address(3)])


async def test_with_two_tiers_a_write_is_read_from_the_first(
    driver: Driver, two_tiers: Tiers
) -> None:
    windows = Windows(max_clock_skew_ms=0)
    cuboids = await CassandraCuboids.open(driver, two_tiers, windows, bucket_bits=3)
    volume = Volume(cuboids, driver)
    voxels = noise(SHAPE)
    await volume.write(3, voxels)
    archive_only = replace(two_tiers, ingest=two_tiers.archive)
    elsewhere = await CassandraCuboids.open(driver, archive_only, windows, bucket_bits=3)
    assert await elsewhere.buckets.heads(volume.bucket) == {}, "it has not been drained"
    np.testing.assert_array_equal(await volume.voxels(3, voxels), voxels)


async def test_a_crowded_bucket_is_read_in_pieces(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    last = {}
    for morton in range(8):
        for _ in range(3):
            last[morton] = rng.integers(1, 250, SHAPE).astype("<u1")
            await volume.write(morton, last[morton], WriteOp.REPLACE)
    monkeypatch.setattr(buckets, "BUCKET_BYTES_AT_ONCE", 4 * int(np.prod(SHAPE)))
    with pytest.raises(buckets.Crowded) as crowded:
        await volume.read()
    assert crowded.value.cuboids < 8
    addresses = [volume.bucket.address(morton) for morton in range(8)]
    found = [one async for page in volume.cuboids.read(addresses) for one in page]
    assert sorted(address.morton for address, _ in found) == list(range(8))
    for address, rows in found:
        merged = assemble.merged(address, rows, cuboid_zyx=SHAPE, dtype=np.dtype("<u1"))
        np.testing.assert_array_equal(merged.voxels, last[address.morton])
    assert await volume.cuboids.verify(addresses) == []
