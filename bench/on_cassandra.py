"""Measures the engine on Cassandra against the bare driver, on nodes of its own.

``python -m bench.on_cassandra --output build/bench-cassandra.json`` starts three nodes on this
machine, measures, prints a table and writes it as JSON. As in `bench.end_to_end` both sides of a
ratio run in turns. Every case is measured with noise and with voxels that look like an electron
micrograph.
"""

import argparse
import asyncio
import dataclasses
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from bench import labels, objects
from bench.bare_driver import BareDriver
from bench.clients import KEY, Client, Server, free_port, running
from bench.end_to_end import Result, cutout_path, line, machine, prepare, table, timed
from ndcass import codec, volume
from ndcass.config import CassandraSettings, load
from ndcass.geometry import Box
from ndcass.merge import WriteOp
from ndcass.model import Channel, Dataset, Project
from ndcass.place import Place, Slab
from ndcass.store.cassandra import (
    CassandraStores,
    connected,
    keyspaces_of,
    meta_tables,
    open_cassandra,
    tiers_of,
    windows_of,
)
from ndcass.store.cassandra.agreement import change_windows
from ndcass.store.cassandra.rows import Bucket
from ndcass.store.cassandra.schema import apply_schema
from ndcass.store.cassandra.tables import batched
from ndcass.writer import CutoutWriter
from tests.cassandra_nodes import cassandra_nodes

# z, y, x of the box of 64 MiB of uint8.
BOX = (256, 512, 512)
WARM_UPS = 3
# 4 MiB of noise: the best that the bare driver does.
BATCH_ROWS = 16
UNFOLDED_ROWS = (1, 4, 16)
# What is younger than the write window is left alone, and swept only when the last reader has gone.
FOLDED_WITHIN_S = 180.0
CUBOID_VOXELS = 16 * 128 * 128
# Those among which some are looked for: eight shards; filling takes a minute a hundred thousand.
MANY_OBJECTS = 250_000
BUCKET_BITS = (0, 3, 6)
Voxels = npt.NDArray[Any]


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("build/bench-cassandra.json"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--conf", type=Path, help="settings of a cluster that runs already")
    parser.add_argument("--only", action="append", help="part of a name; may be repeated")
    options = parser.parse_args()
    results: list[Result] = []
    with settings_of(options.conf) as settings:
        for name, measure in MEASURES.items():
            if options.only and not any(part in name for part in options.only):
                continue
            for result in measure(settings, options.rounds):
                results.append(result)
                print(line(result), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "results": [{**asdict(r), "holds": r.holds} for r in results]}
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{table(results)}")
    return 0


@contextmanager
def settings_of(conf: Path | None) -> Iterator[CassandraSettings]:
    """A cluster with the schema: the one of a file of settings, or three nodes of our own."""
    if conf is not None:
        settings = load(conf, os.environ).cassandra
        asyncio.run(_apply(settings))
        yield settings
        return
    with cassandra_nodes(count=3, heap_mib=1024) as nodes:
        settings = CassandraSettings(
            contact_points=nodes.contact_points,
            port=nodes.port,
            archive_data_centre=nodes.data_centre,
            archive_keyspace="bench",
            max_clock_skew_ms=0,
        )
        asyncio.run(_apply(settings))
        yield settings


async def _apply(settings: CassandraSettings) -> None:
    async with connected(settings) as driver:
        await apply_schema(driver, keyspaces_of(settings))


# -- what is stored


def noise(shape_zyx: tuple[int, int, int], dtype: str = "u1") -> Voxels:
    """Voxels that do not compress."""
    rng = np.random.default_rng(7)
    return rng.integers(1, 255, shape_zyx, dtype=np.uint8).astype(f"<{dtype}", copy=False) + (
        0 if dtype == "u1" else rng.integers(1, 1 << 24, shape_zyx, dtype=f"<{dtype}")
    )


def micrograph(shape_zyx: tuple[int, int, int]) -> Voxels:
    """Grey with soft structures and the noise of a detector: compresses a little, as EM does."""
    rng = np.random.default_rng(8)
    small = rng.integers(90, 180, tuple(-(-n // 8) for n in shape_zyx), dtype=np.uint8)
    soft = small.repeat(8, 0).repeat(8, 1).repeat(8, 2)[tuple(slice(n) for n in shape_zyx)]
    return (soft + rng.integers(0, 12, shape_zyx, dtype=np.uint8)).astype(np.uint8)


KINDS: dict[str, Callable[[tuple[int, int, int]], Voxels]] = {
    "noise": noise,
    "EM-like": micrograph,
}


def dataset_of(name: str) -> Dataset:
    """One that is as large as the box."""
    z, y, x = BOX
    return Dataset(name, ximagesize=x, yimagesize=y, zimagesize=z, user=1, zvoxelres=10.0)


def place_of(channel_id: int, dtype: str = "uint8") -> Place:
    """A channel that only the voxel store knows."""
    dataset = dataset_of("b")
    channel = Channel(
        id=channel_id, project="b", channel_name="b", channel_type="image", channel_datatype=dtype
    )
    return Place(channel, dataset.level(0))


async def known_place(stores: CassandraStores) -> Place:
    """A channel that the catalogue knows, too: no other is folded."""
    name = f"b{next(_next_channel)}"
    dataset = dataset_of(name)
    await stores.catalog.create_dataset(dataset)
    await stores.catalog.create_project(Project(name, 1, name))
    channel = await stores.catalog.create_channel(Channel(0, name, "em", "image", "uint8"))
    return Place(channel, dataset.level(0))


async def fold(stores: CassandraStores, place: Place) -> None:
    """Fold all of a channel as soon as it may be, and take away what was folded."""
    channel_id = place.channel.id
    give_up_at = time.monotonic() + FOLDED_WITHIN_S
    while not (where := await stores.folding.whereabouts(channel_id)).is_clean:
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"the channel was not folded in time: {where}")
        async for _ in stores.folding.fold_channel(channel_id, drain=True):
            pass
        await asyncio.sleep(0.5)
    if where.folded.cuboids != math.prod(BOX) // CUBOID_VOXELS:
        raise RuntimeError(f"not all of the channel was folded: {where}")


async def write(stores: CassandraStores, place: Place, voxels: Voxels) -> float:
    """Seconds for a box, acknowledged."""
    box = Box((0, 0, 0), voxels.shape)
    began = time.perf_counter()
    async with stores.cuboids.batch() as batch:
        writer = CutoutWriter(stores, batch, WriteOp.REPLACE, volume.Usage())
        await writer.write(place, 0, box, voxels)
        await batch.commit()
    return time.perf_counter() - began


async def read(stores: CassandraStores, place: Place, out: Voxels) -> float:
    """Seconds for a box, put together."""
    box = Box((0, 0, 0), out.shape)
    began = time.perf_counter()
    slab = Slab(place, 0, box)
    await volume.read_slab(stores.cuboids, slab, out, usage=volume.Usage())
    return time.perf_counter() - began


async def buckets_of(stores: CassandraStores, channel_id: int) -> list[Bucket]:
    """Every partition that a channel has."""
    return [bucket async for page in stores.cuboids.occupancy.walk(channel_id) for bucket in page]


_next_channel = iter(range(int(time.time()), 1 << 40))


# -- measures


def store_reads(settings: CassandraSettings, rounds: int) -> Iterator[Result]:
    """A box through the store, against the bare driver at ONE and at QUORUM."""
    for kind, make in KINDS.items():
        yield from asyncio.run(_store_reads(settings, rounds, kind, make(BOX)))


async def _store_reads(
    settings: CassandraSettings, rounds: int, kind: str, voxels: Voxels
) -> list[Result]:
    stores = await open_cassandra(settings)
    bare = _bare(settings)
    try:
        place = place_of(next(_next_channel))
        await write(stores, place, voxels)
        buckets = await buckets_of(stores, place.channel.id)
        out = np.empty_like(voxels)
        for _ in range(WARM_UPS):
            await read(stores, place, out)
            bare.read(buckets, at_once=4, quorum=False)
        assert np.array_equal(out, voxels)
        one = bare.best_of_reads(buckets, quorum=False)
        quorum = bare.best_of_reads(buckets, quorum=True)
        ours, ones, quorums = [], [], []
        for _ in range(rounds * 3):
            ours.append(await read(stores, place, out))
            ones.append(bare.read(buckets, at_once=one, quorum=False))
            quorums.append(bare.read(buckets, at_once=quorum, quorum=True))
        await stores.cuboids.delete_channel(place.channel.id)
    finally:
        bare.close()
        await stores.close()
    return [
        against_bare(
            f"64 MiB box ({kind}) through the store / bare driver at ONE",
            (ours, ones),
            at_once=one,
            least=0.7,
            aim=0.9,
        ),
        against_bare(
            f"64 MiB box ({kind}) with quorum's guarantee / bare driver at QUORUM",
            (ours, quorums),
            at_once=quorum,
            least=1.8,
            aim=2.5,
        ),
    ]


def against_bare(
    name: str,
    times: tuple[Sequence[float], Sequence[float]],
    *,
    at_once: int,
    least: float,
    aim: float,
) -> Result:
    """Our times for 64 MiB and those of the bare driver, measured in turns."""
    ours, bare = times
    return Result(
        name,
        statistics.median(b / a for a, b in zip(ours, bare, strict=True)),
        least,
        aim,
        smaller_is_better=False,
        detail={
            "ours_mib_s": 64 / statistics.median(ours),
            "bare_mib_s": 64 / statistics.median(bare),
            "at_once": at_once,
        },
    )


def rest(settings: CassandraSettings, rounds: int) -> Iterator[Result]:
    """The same box over REST, and writes of it."""
    for kind, make in KINDS.items():
        yield from _rest(settings, rounds, kind, make(BOX))


def _rest(settings: CassandraSettings, rounds: int, kind: str, voxels: Voxels) -> Iterator[Result]:
    bare = _bare(settings)
    name = f"bench{next(_next_channel)}"
    with serve_on(settings) as server:
        client = Client(server)
        prepare(client, token=name)
        path = cutout_path(BOX, token=name)
        client.post(path, voxels.data)
        buckets = asyncio.run(_buckets_of_token(settings, name))
        buffer = bytearray(voxels.nbytes)
        for _ in range(WARM_UPS):
            client.get(path, buffer)
        assert bytes(buffer) == voxels.tobytes()
        one = bare.best_of_reads(buckets, quorum=False)
        ours, ones = [], []
        for _ in range(rounds * 3):
            ours.append(timed(lambda: client.get(path, buffer)))
            ones.append(bare.read(buckets, at_once=one, quorum=False))
        yield against_bare(
            f"64 MiB box ({kind}) over REST raw / bare driver at ONE",
            (ours, ones),
            at_once=one,
            least=0.5,
            aim=0.75,
        )
        batches = _batches(voxels, buckets)
        writes_at_once = bare.best_of_writes(batches)
        posts, bares = [], []
        for turn in range(rounds):
            posted = cutout_path(BOX, token=name, t=turn + 1)
            posts.append(timed(partial(client.post, posted, voxels.data)))
            bares.append(bare.write(_batches(voxels, buckets), at_once=writes_at_once))
        yield against_bare(
            f"64 MiB POST ({kind}), acknowledged at quorum / bare driver's best batches",
            (posts, bares),
            at_once=writes_at_once,
            least=0.7,
            aim=0.9,
        )
    bare.close()


async def _buckets_of_token(settings: CassandraSettings, token: str) -> list[Bucket]:
    stores = await open_cassandra(settings)
    try:
        view = await stores.catalog.token_view(token)
        (channel,) = view.channels
        return await buckets_of(stores, channel.id)
    finally:
        await stores.close()


def _batches(
    voxels: Voxels, buckets: Sequence[Bucket]
) -> list[list[tuple[Bucket, int, bytes, bytes]]]:
    """The cuboids of a box, encoded as the store does, in batches of one bucket and some MiB."""
    channel_id = next(_next_channel)
    cuboids = voxels.reshape(-1, 16, 128, 128)
    each = -(-len(cuboids) // len(buckets))
    rows = [
        [
            (
                bucket._replace(channel_id=channel_id),
                bucket.bucket * each + n,
                os.urandom(16),
                codec.encode(cuboid, identity=b""),
            )
            for n, cuboid in enumerate(cuboids[at * each : (at + 1) * each])
        ]
        for at, bucket in enumerate(buckets)
    ]
    return [list(some) for found in rows for some in batched(found, BATCH_ROWS)]


def unfolded(settings: CassandraSettings, rounds: int) -> Iterator[Result]:
    """Reads of cuboids that were written several times, before and after folding."""
    yield from asyncio.run(_unfolded(settings, rounds))


async def _unfolded(settings: CassandraSettings, rounds: int) -> list[Result]:
    quick = dataclasses.replace(settings, write_window_s=20.0, read_window_s=1.0)
    await _keep_to_windows(quick)
    stores = await open_cassandra(quick)
    results: list[Result] = []
    try:
        voxels = micrograph(BOX)
        out = np.empty_like(voxels)
        once: list[float] = []
        for rows in UNFOLDED_ROWS:
            place = await known_place(stores)
            for _ in range(rows):
                await write(stores, place, voxels)
            times = [await read(stores, place, out) for _ in range(rounds + WARM_UPS)][WARM_UPS:]
            once = once or times
            results.append(_slower(f"box of cuboids with {rows} rows", times, once))
            if rows == UNFOLDED_ROWS[-1]:
                await fold(stores, place)
                for _ in range(WARM_UPS):
                    await read(stores, place, out)
                times = [await read(stores, place, out) for _ in range(rounds)]
                assert np.array_equal(out, voxels)
                results.append(_slower(f"the same, {rows} rows folded", times, once))
            await stores.cuboids.delete_channel(place.channel.id)
    finally:
        await stores.close()
        await _keep_to_windows(settings)
    return results


def drained(settings: CassandraSettings, rounds: int) -> Iterator[Result]:
    """What it would save to read a channel that has left the ingest tier from the archive alone."""
    yield asyncio.run(_drained(settings, rounds))


async def _drained(settings: CassandraSettings, rounds: int) -> Result:
    alone = dataclasses.replace(settings, write_window_s=20.0, read_window_s=1.0)
    both = dataclasses.replace(
        alone,
        ingest_keyspace=f"{alone.archive_keyspace}_ingest",
        ingest_data_centre=alone.archive_data_centre,
    )
    await _apply(both)
    await _keep_to_windows(alone)
    voxels = noise(BOX)
    out = np.empty_like(voxels)
    opened = [await open_cassandra(each) for each in (both, alone)]
    try:
        place = await known_place(opened[0])
        await write(opened[0], place, voxels)
        await fold(opened[0], place)
        times: list[list[float]] = [[], []]
        for turn in range(rounds * 3 + WARM_UPS):
            for stores, taken in zip(opened, times, strict=True):
                took = await read(stores, place, out)
                assert np.array_equal(out, voxels)
                if turn >= WARM_UPS:
                    taken.append(took)
        await opened[0].cuboids.delete_channel(place.channel.id)
    finally:
        for stores in opened:
            await stores.close()
        await _keep_to_windows(settings)
    tiers, archive = times
    return Result(
        "64 MiB box of a drained channel, both tiers asked / the archive alone",
        statistics.median(a / b for a, b in zip(tiers, archive, strict=True)),
        None,
        None,
        smaller_is_better=True,
        detail={
            "both_mib_s": 64 / statistics.median(tiers),
            "archive_mib_s": 64 / statistics.median(archive),
        },
    )


async def _keep_to_windows(settings: CassandraSettings) -> None:
    async with connected(settings) as driver:
        await change_windows(meta_tables(driver, settings), windows_of(settings))


def _slower(name: str, times: Sequence[float], once: Sequence[float]) -> Result:
    return Result(
        f"{name} / with one row",
        statistics.median(times) / statistics.median(once),
        None,
        None,
        smaller_is_better=True,
        detail={"mib_s": 64 / statistics.median(times)},
    )


def bucket_bits(settings: CassandraSettings, rounds: int) -> Iterator[Result]:
    """How many low bits of the Morton code to leave out of the partition key."""
    yield from asyncio.run(_bucket_bits(settings, rounds))


async def _bucket_bits(settings: CassandraSettings, rounds: int) -> list[Result]:
    results: list[Result] = []
    for dtype, size in (("uint8", "256 KiB"), ("uint32", "1 MiB")):
        voxels = noise((BOX[0] // np.dtype(dtype).itemsize, *BOX[1:]), np.dtype(dtype).str[1:])
        out = np.empty_like(voxels)
        reads: dict[int, list[float]] = {bits: [] for bits in BUCKET_BITS}
        writes: dict[int, list[float]] = {bits: [] for bits in BUCKET_BITS}
        opened = {
            bits: await open_cassandra(dataclasses.replace(settings, bucket_bits=bits))
            for bits in BUCKET_BITS
        }
        try:
            for turn in range(rounds):
                for bits, stores in opened.items():
                    place = place_of(next(_next_channel), dtype)
                    writes[bits].append(await write(stores, place, voxels))
                    times = [await read(stores, place, out) for _ in range(4)][1:]
                    if turn:
                        reads[bits] += times
                    await stores.cuboids.delete_channel(place.channel.id)
        finally:
            for stores in opened.values():
                await stores.close()
        for bits in BUCKET_BITS:
            for what, times in (("read", reads[bits]), ("write", writes[bits])):
                base = reads[0] if what == "read" else writes[0]
                results.append(
                    Result(
                        f"{what}, cuboids of {size}, bucket_bits {bits} / 0",
                        statistics.median(base) / statistics.median(times),
                        None,
                        None,
                        smaller_is_better=False,
                        detail={"mib_s": 64 / statistics.median(times)},
                    )
                )
    return results


def _bare(settings: CassandraSettings) -> BareDriver:
    tier = tiers_of(settings).archive
    return BareDriver(
        settings.contact_points,
        settings.port,
        keyspace=tier.keyspace,
        data_centre=tier.data_centre,
    )


@contextmanager
def serve_on(settings: CassandraSettings) -> Iterator[Server]:
    """The gateway on the cluster."""
    fields = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings) if f.repr}
    fields["contact_points"] = list(settings.contact_points)
    content = {"store": {"engine": "cassandra"}, "cassandra": fields}
    port = free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as conf:
        yaml.safe_dump(content, conf)
        conf.flush()
        command = [sys.executable, "-m", "ndcass.cli.main", "serve", "--conf", conf.name]
        command += ["--port", str(port), "--workers", "2", "--host", "127.0.0.1"]
        with running(command, port, {"NDCASS_ADMIN_TOKEN": KEY}) as server:
            yield server


def label_index(settings: CassandraSettings, rounds: int) -> Iterator[Result]:
    """What the label index costs, and what it saves."""

    async def measure() -> list[Result]:
        stores = await open_cassandra(settings)
        try:
            return await labels.measured(stores, rounds)
        finally:
            await stores.close()

    yield from asyncio.run(measure())


def annotation_objects(settings: CassandraSettings, rounds: int) -> Iterator[Result]:
    """Objects posted, read and found by field, as on the embedded engine but fewer."""
    engine = objects.Engine(
        partial(serve_on, settings), partial(open_cassandra, settings), MANY_OBJECTS
    )
    for measure in objects.MEASURES.values():
        yield from measure(engine, rounds)


MEASURES = {
    "store": store_reads,
    "rest": rest,
    "unfolded": unfolded,
    "drained": drained,
    "bits": bucket_bits,
    "labels": label_index,
    "objects": annotation_objects,
}


if __name__ == "__main__":
    raise SystemExit(main())
