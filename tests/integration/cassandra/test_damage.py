"""Bytes that rot on a disk, and payloads that fit nowhere: reported, and never zeros."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import requests

from ndcass.cluster.spec import Node
from ndcass.store.cassandra.driver import Consistency, Driver
from tests.processes import Gateway
from tests.system import System

pytestmark = pytest.mark.cassandra

Voxels = npt.NDArray[np.uint8]

# Sixteen cuboids: two partitions of 2 MiB.
SIZE_ZYX = (16, 512, 512)
CUBOID_BYTES = 16 * 128 * 128
WHOLE = "0,512/0,512/0,16"
READS = 20
FLIP_EVERY_BYTES = 300_000


def path_of(token: str, box: str = WHOLE) -> str:
    return f"/nd/sd/{token}/c/raw/0/{box}/0,1/"


def random_voxels(seed: int) -> Voxels:
    return np.random.default_rng(seed).integers(1, 256, SIZE_ZYX, dtype=np.uint8)


def fill(running: Gateway, token: str, voxels: Voxels) -> None:
    running.create_channel(size_zyx=SIZE_ZYX, token=token)
    headers = {"X-Volume-Dtype": "|u1"}
    path = f"{path_of(token)}?write=replace"
    answer = running.request("POST", path, data=voxels.tobytes(), headers=headers)
    assert answer.status_code == 200, answer.text


def read(running: Gateway, token: str) -> Voxels:
    answer = running.request("GET", path_of(token))
    assert answer.status_code == 200, answer.text
    return np.frombuffer(answer.content, dtype=np.uint8).reshape(SIZE_ZYX)


# -- a damaged file


@pytest.mark.slow
def test_bytes_flipped_in_an_sstable_are_read_from_another_replica_and_reported(
    system: System,
) -> None:
    victim = system.nodes.nodes[1]
    voxels = random_voxels(1)
    with system.gateway() as running:
        fill(running, "flipped", voxels)
    system.nodes.stop(victim)  # which writes down what it has in memory
    flipped = flip_bytes(system, victim)
    assert flipped, "the node has no sstable of cuboids"
    try:
        system.nodes.start(victim)
        with system.gateway() as running:
            for _ in range(READS):
                assert np.array_equal(read(running, "flipped"), voxels)
            assert damage_reported(running) > 0, running.said()
    finally:
        system.nodes.stop(victim)
        flip_bytes(system, victim, flipped)


def damage_reported(running: Gateway) -> float:
    """How many answers of replicas an operator sees that were no good."""
    events = ("ReadFailure", "replicas_failed", "damaged_payloads")
    wanted = tuple(f'ndcass_store_events_total{{event="{event}"}}' for event in events)
    lines = running.request("GET", "/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(wanted))


def flip_bytes(
    system: System, node: Node, where: dict[Path, list[int]] | None = None
) -> dict[Path, list[int]]:
    """Change bytes in the files of cuboids of a node that does not run; where that was.

    The same places again undo it.
    """
    folders = [
        path
        for data in node.directories.data
        for path in (data / system.keyspace).glob("cuboids-*")
    ]
    files = [path for folder in folders for path in folder.glob("*-Data.db")]
    where = where or {
        path: list(range(FLIP_EVERY_BYTES // 2, path.stat().st_size, FLIP_EVERY_BYTES))
        for path in files
    }
    for path, offsets in where.items():
        if not path.exists():
            continue  # it was compacted away
        with path.open("r+b") as file:
            for offset in offsets:
                file.seek(offset)
                value = file.read(1)[0]
                file.seek(offset)
                file.write(bytes([value ^ 0xFF]))
    return where


# -- a payload that is wrong everywhere


class Row(NamedTuple):
    """The key of a row of ``cuboids``, and its payload."""

    channel: int
    pyramid: int
    level: int
    t: int
    bucket: int
    morton: int
    kind: int
    write_id: bytes
    part: int
    payload: bytes


def rows_of(system: System, channel: int) -> list[Row]:
    """All rows of a channel."""
    keys = f"SELECT DISTINCT channel, pyramid, level, t, bucket FROM {system.keyspace}.cuboids"
    where = "channel=%s AND pyramid=%s AND level=%s AND t=%s AND bucket=%s"
    cql = f"SELECT {', '.join(Row._fields)} FROM {system.keyspace}.cuboids WHERE {where}"

    async def select(driver: Driver) -> list[Row]:
        buckets = [key for key in await driver.run(keys) if key[0] == channel]
        return [Row(*row) for bucket in buckets for row in await driver.run(cql, bucket)]

    return system.run(select)


def overwrite(system: System, row: Row, payload: bytes | None) -> None:
    """Put another payload into a row, at all replicas."""
    cql = (
        "UPDATE cuboids USING TIMESTAMP ? SET payload=? WHERE channel=? AND pyramid=? AND level=? "
        "AND t=? AND bucket=? AND morton=? AND kind=? AND write_id=? AND part=?"
    )

    async def update(driver: Driver) -> None:
        statement = await driver.prepare(
            cql, keyspace=system.keyspace, data_centre=system.nodes.data_centre
        )
        values = (time.time_ns() // 1000, payload, *row[:-1])
        await driver.execute(statement, values, consistency=Consistency.ALL)

    system.run(update)


def channel_id_of(system: System, token: str) -> int:
    """The number that the channel of a token has in the store."""
    cql = f"SELECT kind, name, fields FROM {system.keyspace}.catalog"
    project = f'"project":"{token}p"'

    async def select(driver: Driver) -> int:
        rows = await driver.run(cql)
        [name] = [name for kind, name, fields in rows if kind == "live" and project in fields]
        return int(name, 16)

    return system.run(select)


def test_payload_that_fits_no_checksum_anywhere_is_an_error_that_names_the_cuboid(
    system: System,
) -> None:
    voxels = random_voxels(2)
    with system.gateway() as running:
        fill(running, "wrong", voxels)
        channel = channel_id_of(system, "wrong")
        rows = rows_of(system, channel)
        assert len(rows) == voxels.nbytes // CUBOID_BYTES
        victim, other = rows[5], rows[6]
        flipped = victim.payload[:-1] + bytes([victim.payload[-1] ^ 1])
        for payload in (flipped, victim.payload[:-1], b"", other.payload, None):
            overwrite(system, victim, payload)
            assert_names_the_cuboid(running, channel, victim.morton)
        overwrite(system, victim, victim.payload)
        assert np.array_equal(read(running, "wrong"), voxels)


def assert_names_the_cuboid(running: Gateway, channel: int, morton: int) -> None:
    """One cuboid cannot be read, by itself or in a large box; its neighbour can."""
    y, x = _place_of(morton)
    own = f"{x},{x + 128}/{y},{y + 128}/0,16"
    answer = running.request("GET", path_of("wrong", own))
    assert answer.status_code == 500, answer.text
    assert f"channel {channel} level 0 timestep 0 morton {morton}" in answer.text, answer.text
    try:
        answer = running.request("GET", path_of("wrong"))
    except requests.RequestException:
        pass  # it had begun, and was broken off
    else:
        assert answer.status_code == 500, "damaged voxels were answered"
    y, x = _place_of(morton ^ 1)
    beside = f"{x},{x + 128}/{y},{y + 128}/0,16"
    assert running.request("GET", path_of("wrong", beside)).status_code == 200


def _place_of(morton: int) -> tuple[int, int]:
    """Corner of a cuboid on the first slab: bits of x and y take turns, every third is z's."""
    x = (morton & 1) | (morton >> 3 & 1) << 1
    y = (morton >> 1 & 1) | (morton >> 4 & 1) << 1
    return y * 128, x * 128
