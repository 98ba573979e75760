"""``ndcass fold`` and ``ndcass drain`` on real nodes."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import yaml

from ndcass.cli.main import DONE, FAILED, WRONG_CALL, main
from ndcass.config import CassandraSettings, load
from ndcass.model import Channel, Dataset, Project
from ndcass.store.base import CuboidAddress, JobState
from ndcass.store.cassandra import (
    CassandraStores,
    connected,
    meta_tables,
    open_cassandra,
    windows_of,
)
from ndcass.store.cassandra.agreement import change_windows
from ndcass.store.cassandra.tiers import Tiers, Windows
from ndcass.store.folding import FOLD_JOB
from tests.cassandra_nodes import CassandraNodes
from tests.folding import labels, read, write

T = TypeVar("T")

WINDOW_S = 1.0


@pytest.fixture
def conf(cassandra_cluster: CassandraNodes, tiers: Tiers, tmp_path: Path) -> Iterator[Path]:
    """Settings with short windows, which other tests have not."""
    settings = {
        "contact_points": list(cassandra_cluster.contact_points),
        "port": cassandra_cluster.port,
        "archive_keyspace": tiers.archive.keyspace,
        "archive_data_centre": tiers.archive.data_centre,
        "max_clock_skew_ms": 0,
        "write_window_s": WINDOW_S,
        "request_timeout_s": WINDOW_S,
        "read_window_s": WINDOW_S,
        "bucket_bits": 3,  # the two cuboids of `_made` are in two buckets
    }
    if not tiers.is_single:
        settings["ingest_keyspace"] = tiers.ingest.keyspace
        settings["ingest_data_centre"] = tiers.ingest.data_centre
    path = tmp_path / "conf.yaml"
    path.write_text(yaml.safe_dump({"store": {"engine": "cassandra"}, "cassandra": settings}))
    short = load(path, {}).cassandra
    asyncio.run(_keep_to(windows_of(short), short))
    yield path
    asyncio.run(_keep_to(Windows(max_clock_skew_ms=0), short))


async def _keep_to(windows: Windows, settings: CassandraSettings) -> None:
    async with connected(settings) as driver:
        await change_windows(meta_tables(driver, settings), windows)


def with_stores(conf: Path, func: Callable[[CassandraStores], Awaitable[T]]) -> T:
    """Do something with the stores of some settings."""

    async def opened() -> T:
        stores = await open_cassandra(load(conf, {}).cassandra)
        try:
            # Machines that are busy answer late; the windows of the test are short.
            stores.cuboids.clock_fault = ""
            return await func(stores)
        finally:
            await stores.close()

    return asyncio.run(opened())


async def _made(stores: CassandraStores) -> Channel:
    """A channel with three writes in each of two cuboids."""
    name = f"p{uuid.uuid4().hex[:8]}"
    await stores.catalog.create_dataset(Dataset(name, 512, 512, 64, 1))
    await stores.catalog.create_project(Project(name, 1, name))
    channel = await stores.catalog.create_channel(Channel(0, name, "c", "annotation", "uint32"))
    rng = np.random.default_rng(channel.id)
    for _ in range(3):
        for morton in (0, 9):
            await write(stores.cuboids, CuboidAddress(channel.id, 0, 0, 0, morton), labels(rng))
    return channel


def test_a_drain_that_waits_leaves_nothing_to_do(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    channel = with_stores(conf, _made)
    addresses = [CuboidAddress(channel.id, 0, 0, 0, morton) for morton in (0, 9)]
    before = with_stores(conf, lambda stores: read(stores.cuboids, addresses))
    target = f"{channel.project}/{channel.name}"
    assert main(["drain", target, "--conf", str(conf), "--wait", "--json"]) == DONE
    [said] = json.loads(capsys.readouterr().out)["channels"]
    assert said["channel"] == target
    where = said["where"]
    assert (where["unfolded"]["rows"], where["to_sweep"]["rows"]) == (0, 0)
    assert where["folded"]["cuboids"] == 2
    after = with_stores(conf, lambda stores: read(stores.cuboids, addresses))
    for address in addresses:
        assert np.array_equal(before[address].voxels, after[address].voxels)


def test_a_fold_that_was_interrupted_is_taken_up_and_says_what_is_where(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    channel = with_stores(conf, _made)

    async def submit(stores: CassandraStores) -> str:
        return (await stores.jobs.submit(FOLD_JOB, channel.id, {"drain": False})).id

    job_id = with_stores(conf, submit)
    target = f"{channel.project}/{channel.name}"
    assert main(["fold", target, "--conf", str(conf), "--quiet"]) == DONE
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{target}:"
    assert "2 cuboids, 6 rows" in said[1]
    job = with_stores(conf, lambda stores: stores.jobs.job(job_id))
    assert (job.state, job.done_units) == (JobState.SUCCESS, 2)


def test_what_does_not_exist_is_said_and_nothing_is_done(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drain", "nowhere/c", "--conf", str(conf)]) == FAILED
    assert "there is no channel" in capsys.readouterr().err
    assert main(["drain", "--conf", str(conf)]) == WRONG_CALL
    assert main(["drain", "a/b", "--all", "--conf", str(conf)]) == WRONG_CALL
