"""Operations on real nodes, one after the other on one cluster, while somebody writes and reads.

The order of the tests is that of a cluster's life: it serves, is looked after, saved, grows,
shrinks, loses a node and gets it back.
"""

import asyncio
import contextlib
import dataclasses
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ndcass.cluster import maintenance, membership, nodetool, operations, process
from ndcass.cluster.access import superuser_settings
from ndcass.cluster.backup import backup
from ndcass.cluster.restore import Existing, restore
from ndcass.cluster.site import Site, full_directories
from ndcass.cluster.spec import Directories, Node
from ndcass.cluster.state import load_state
from ndcass.cluster.status import ClusterStatus, cluster_status
from ndcass.cluster.steps import StepFailed, refuse_if_away
from ndcass.errors import ClusterError, Conflict, CorruptValue, MissingTool
from ndcass.store.cassandra.driver import Consistency, Driver
from ndcass.store.cassandra.structure import empty
from tests.cassandra_nodes import DATA_CENTRE, CassandraNodes, cassandra_nodes
from tests.processes import free_port

pytestmark = [pytest.mark.cassandra, pytest.mark.slow, pytest.mark.timeout(600)]

KEYSPACE = "kept"
ROWS = 300
PAYLOAD = os.urandom(2048)


@pytest.fixture(scope="module")
def cluster_() -> Iterator[CassandraNodes]:
    """Three nodes that nobody else uses; what is described of them changes below."""
    with contextlib.ExitStack() as stack:
        try:
            nodes = stack.enter_context(cassandra_nodes())
        except MissingTool as error:
            if os.environ.get("CI") == "true":
                pytest.fail(str(error))
            pytest.skip(str(error))
        asyncio.run(_fill(nodes.site))
        yield nodes


@pytest.fixture
def site(cluster_: CassandraNodes) -> Site:
    cluster_.said.clear()
    return cluster_.site


@contextlib.asynccontextmanager
async def connected(site: Site) -> AsyncIterator[Driver]:
    driver = await Driver.connect(superuser_settings(site))
    try:
        yield driver
    finally:
        await driver.close()


async def _fill(site: Site) -> None:
    async with connected(site) as driver:
        await driver.run(
            f"CREATE KEYSPACE {KEYSPACE} WITH replication = "
            f"{{'class': 'NetworkTopologyStrategy', '{DATA_CENTRE}': 3}}"
        )
        await driver.run(f"CREATE TABLE {KEYSPACE}.rows (k int PRIMARY KEY, tag text, v blob)")
        await driver.run(f"CREATE INDEX by_tag ON {KEYSPACE}.rows (tag) USING 'sai'")
        await driver.run(f"CREATE TABLE {KEYSPACE}.live (k int PRIMARY KEY, n int)")
        insert = await driver.prepare(
            "INSERT INTO rows (k, tag, v) VALUES (?, ?, ?)",
            keyspace=KEYSPACE,
            data_centre=DATA_CENTRE,
        )
        for k in range(ROWS):
            values = (k, f"tag{k % 3}", PAYLOAD)
            await driver.execute(insert, values, consistency=Consistency.LOCAL_QUORUM)


async def stored(site: Site, *, consistency: Consistency = Consistency.ALL) -> set[tuple[int, int]]:
    """Key and length of every row that a read of all copies finds."""
    async with connected(site) as driver:
        select = await driver.prepare(
            "SELECT k, v FROM rows WHERE k = ?", keyspace=KEYSPACE, data_centre=DATA_CENTRE
        )
        found = [await driver.execute(select, (k,), consistency=consistency) for k in range(ROWS)]
        return {(k, len(v)) for rows in found for k, v in rows}


ALL = {(k, len(PAYLOAD)) for k in range(ROWS)}


async def status_of(site: Site) -> ClusterStatus:
    return await cluster_status(site.cluster, superuser_settings(site), site=site)


async def test_status_says_that_all_is_well(site: Site) -> None:
    found = await status_of(site)

    assert found.is_healthy
    assert [one.name for one in found.nodes] == ["local1", "local2", "local3"]
    assert sum(one.owns or 0 for one in found.nodes) == pytest.approx(1)
    for one in found.nodes:
        assert one.facts is not None
        assert set(one.seen) == {"local1", "local2", "local3"}
        assert len(one.facts.tokens) == site.cluster.tokens_per_node
        assert one.facts.version.startswith("5.0")
        assert 0 < one.facts.uptime_s < 3600


async def test_view_by_gossip_is_that_of_nodetool(site: Site) -> None:
    found = await status_of(site)

    views = nodetool.views_from(site, site.cluster.nodes)

    for one in found.nodes:
        assert {view[one.address] for view in views.values()} == set(one.seen.values())


def test_failing_command_says_what_nodetool_said(site: Site) -> None:
    with pytest.raises(nodetool.ToolFailed, match=r"local1.*nokeyspace"):
        nodetool.ask(site, site.cluster.nodes[0], "flush", "nokeyspace")


async def test_flush_and_compact_leave_few_files(site: Site) -> None:
    await asyncio.to_thread(maintenance.flush, site, keyspace=KEYSPACE)
    await asyncio.to_thread(maintenance.compact, site, ["local1"], keyspace=KEYSPACE)

    tables = full_directories(site.cluster.nodes[0])[0].glob(f"{KEYSPACE}/rows-*/*-Data.db")
    assert len(list(tables)) == 1


def test_unknown_keyspace_is_told_with_those_that_are_there(site: Site) -> None:
    with pytest.raises(Exception, match="no keyspace 'keep'; there is kept"):
        maintenance.flush(site, keyspace="keep")


async def test_rolling_restart_fails_no_request(site: Site) -> None:
    before = {node: process.running(node) for node in site.cluster.nodes}
    count = 0
    async with connected(site) as driver:
        write = await driver.prepare(
            "INSERT INTO live (k, n) VALUES (?, ?)", keyspace=KEYSPACE, data_centre=DATA_CENTRE
        )
        read = await driver.prepare(
            "SELECT n FROM live WHERE k = ?", keyspace=KEYSPACE, data_centre=DATA_CENTRE
        )
        restarting = asyncio.create_task(asyncio.to_thread(operations.rolling_restart, site))
        while not restarting.done():
            await driver.execute(write, (count % 50, count), consistency=Consistency.LOCAL_QUORUM)
            [(n,)] = await driver.execute(read, (count % 50,), consistency=Consistency.LOCAL_QUORUM)
            assert n == count
            count += 1
            await asyncio.sleep(0.01)
        await restarting

    assert count > 100
    for node, old in before.items():
        now = process.running(node)
        assert now is not None
        assert now != old
    assert (await status_of(site)).is_healthy


async def test_second_node_is_not_stopped(site: Site) -> None:
    one, two, _ = site.cluster.nodes
    await asyncio.to_thread(operations.stop, site, one.name)

    with pytest.raises(ClusterError, match=r"local1 does not run.*--force"):
        await asyncio.to_thread(operations.stop, site, two.name)
    with pytest.raises(ClusterError, match="local1 does not run"):
        await asyncio.to_thread(operations.rolling_restart, site)

    found = await status_of(site)
    assert process.running(two) is not None
    assert not found.is_healthy
    assert found.nodes[0].problem == "does not run"
    assert dict(found.nodes[0].seen) == {"local2": "DN", "local3": "DN"}
    await asyncio.to_thread(operations.start, site, one.name)
    assert (await status_of(site)).is_healthy


async def test_hanging_node_is_told_of(cluster_: CassandraNodes) -> None:
    site = cluster_.site
    with cluster_.paused(site.cluster.nodes[2]):
        found = await status_of(site)

    assert not found.is_healthy
    assert found.nodes[2].facts is None
    assert found.nodes[2].problem
    assert set(found.nodes[2].seen) == {"local1", "local2"}
    cluster_.settle()


async def test_backup_comes_back_after_truncation_and_drop(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    made = await asyncio.to_thread(backup, site, KEYSPACE, folder)
    assert {node.name for node in made.nodes} == {"local1", "local2", "local3"}

    with pytest.raises(Conflict, match=r"rows in .*kept\.rows.*--replace.*--merge"):
        await asyncio.to_thread(restore, site, folder)
    async with connected(site) as driver:
        await empty(driver, KEYSPACE, "rows")
    assert await stored(site) == set()
    await asyncio.to_thread(restore, site, folder, existing=Existing.REPLACE)
    assert await stored(site) == ALL

    async with connected(site) as driver:
        await driver.run(f"DROP KEYSPACE {KEYSPACE}")
    await asyncio.to_thread(restore, site, folder)
    assert await stored(site) == ALL
    async with connected(site) as driver:  # and the index works
        rows = await driver.run(f"SELECT k FROM {KEYSPACE}.rows WHERE tag = 'tag1'")
        assert len(rows) == ROWS // 3
    assert nodetool.ask(site, site.cluster.nodes[0], "listsnapshots").count("ndcass-") == 0
    assert not list(site.cluster.nodes[0].folder.glob("restore-*"))


async def test_damaged_or_half_made_backup_changes_nothing(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    made = await asyncio.to_thread(backup, site, KEYSPACE, folder)
    largest = max(made.nodes[1].files, key=lambda file: file.size_bytes)
    path = folder / largest.path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(CorruptValue, match=path.name):
        await asyncio.to_thread(restore, site, folder, existing=Existing.REPLACE)
    (folder / "manifest.json").unlink()
    with pytest.raises(ClusterError, match="half made"):
        await asyncio.to_thread(restore, site, folder, existing=Existing.REPLACE)

    assert await stored(site) == ALL
    with pytest.raises(ClusterError, match="there already"):
        await asyncio.to_thread(backup, site, KEYSPACE, folder)


@pytest.fixture(scope="module")
def grown(cluster_: CassandraNodes) -> Site:
    """The same cluster, described with a fourth node that is a seed, too."""
    cluster = cluster_.cluster
    [tier] = cluster.tiers
    last = tier.nodes[-1]
    network, _, host = last.address.rpartition(".")
    address = f"{network}.{int(host) + 1}"
    folder = cluster.folder / "local4"
    node = Node(
        name="local4",
        address=address,
        client_address=address,
        rack=last.rack,
        is_seed=True,
        jmx_port=free_port(),
        folder=folder,
        directories=Directories(
            folder / "commitlog", (folder / "data",), folder / "hints", folder / "saved_caches"
        ),
    )
    larger = dataclasses.replace(tier, nodes=(*tier.nodes, node))
    return dataclasses.replace(cluster_.site, cluster=dataclasses.replace(cluster, tiers=(larger,)))


async def test_added_node_fetches_its_share(grown: Site, cluster_: CassandraNodes) -> None:
    await asyncio.to_thread(membership.add, grown, "local4")

    found = await status_of(grown)
    assert found.is_healthy
    assert (found.nodes[3].owns or 0) > 0.05
    # A seed would have started empty.
    held = full_directories(grown.cluster.nodes[3])[0].glob(f"{KEYSPACE}/rows-*/*-Data.db")
    assert sum(path.stat().st_size for path in held) > 0
    assert await stored(grown) == ALL
    assert (await status_of(cluster_.site)).strangers == (grown.cluster.nodes[3].address,)
    with pytest.raises(ClusterError, match="takes part already"):
        await asyncio.to_thread(membership.add, grown, "local4")


async def test_decommission_that_lost_its_session_goes_on(grown: Site) -> None:
    node = grown.cluster.nodes[3]
    asked = subprocess.Popen(
        nodetool.local_tool(grown, node).command(["decommission"]), env=dict(grown.environ)
    )
    try:
        observer = grown.cluster.nodes[0]
        deadline = time.monotonic() + 60
        while nodetool.views_from(grown, [observer])[observer].get(node.address) == "UN":
            assert time.monotonic() < deadline
    finally:
        asked.kill()
        asked.wait()

    await asyncio.to_thread(membership.decommission, grown, "local4", wipe=True)

    assert "local4" not in load_state(grown.cluster).nodes
    assert process.running(node) is None
    assert await stored(grown) == ALL
    await asyncio.to_thread(membership.add, grown, "local4")


async def test_backup_fits_another_ring(
    grown: Site, cluster_: CassandraNodes, tmp_path: Path
) -> None:
    made = await asyncio.to_thread(backup, grown, KEYSPACE, tmp_path / "four")
    assert len(made.nodes) == 4

    await asyncio.to_thread(membership.decommission, grown, "local4", wipe=True)

    site = cluster_.site
    assert "local4" not in load_state(site.cluster).nodes
    assert process.running(grown.cluster.nodes[3]) is None
    assert not full_directories(grown.cluster.nodes[3])
    assert (await status_of(site)).is_healthy
    assert await stored(site) == ALL
    await asyncio.to_thread(restore, site, tmp_path / "four", existing=Existing.REPLACE)
    assert await stored(site) == ALL


async def test_no_node_leaves_that_copies_need(site: Site) -> None:
    with pytest.raises(ClusterError, match="3 copies in local, and without local3"):
        await asyncio.to_thread(membership.decommission, site, "local3")


@pytest.fixture
async def shared_with_one(site: Site) -> int:
    """The key of a row that the first two nodes have acknowledged, and the third never got."""
    one, two, three = site.cluster.nodes
    k = ROWS + 1
    nodetool.ask_all(site, [one, two], "disablehandoff")
    await asyncio.to_thread(operations.stop, site, three.name)
    async with connected(site) as driver:
        insert = await driver.prepare(
            "INSERT INTO rows (k, tag, v) VALUES (?, ?, ?)",
            keyspace=KEYSPACE,
            data_centre=DATA_CENTRE,
        )
        values = (k, "rare", PAYLOAD)
        await driver.execute(insert, values, consistency=Consistency.LOCAL_QUORUM)
    await asyncio.to_thread(operations.start, site, three.name)
    nodetool.ask(site, two, "enablehandoff")
    return k


def has_row(site: Site, node: Node, k: int) -> bool:
    """Whether a node itself has a row."""
    nodetool.ask(site, node, "flush", KEYSPACE, "rows")
    return "-Data.db" in nodetool.ask(site, node, "getsstables", KEYSPACE, "rows", str(k))


async def test_dead_node_is_replaced(
    site: Site, cluster_: CassandraNodes, shared_with_one: int
) -> None:
    dead, two, three = site.cluster.nodes  # a seed, which would not fetch anything by itself
    assert has_row(site, two, shared_with_one)
    assert not has_row(site, three, shared_with_one)
    with pytest.raises(ClusterError, match="local1 runs"):
        await asyncio.to_thread(membership.replace, site, "local1")
    cluster_.kill(dead)
    cluster_.wipe(dead)
    with pytest.raises(ClusterError, match="local1 had data in"):
        await asyncio.to_thread(operations.start, site, "local1")

    await asyncio.to_thread(membership.replace, site, "local1")

    assert (await status_of(site)).is_healthy
    assert await stored(site) == ALL
    # Whichever of the two it was fetched from, and whichever two are a quorum.
    assert [has_row(site, node, shared_with_one) for node in site.cluster.nodes] == [True] * 3


async def test_only_copy_is_not_wiped(site: Site, cluster_: CassandraNodes) -> None:
    node = site.cluster.nodes[2]
    async with connected(site) as driver:
        await driver.run(
            "CREATE KEYSPACE single WITH replication = "
            f"{{'class': 'NetworkTopologyStrategy', '{DATA_CENTRE}': 1}}"
        )
    cluster_.kill(node)
    with pytest.raises(ClusterError, match="keyspace single has one copy in local"):
        await asyncio.to_thread(membership.replace, site, node.name)
    assert full_directories(node)
    async with connected(site) as driver:
        await driver.run("DROP KEYSPACE single")
    await asyncio.to_thread(operations.start, site, node.name)


async def test_node_that_does_not_start_is_told_with_its_log(
    site: Site, cluster_: CassandraNodes
) -> None:
    node = site.cluster.nodes[1]
    await asyncio.to_thread(operations.stop, site, node.name)
    [tier] = site.cluster.tiers
    broken = dataclasses.replace(tier, cassandra={"commitlog_segment_size": "wrong"})
    bad = dataclasses.replace(site, cluster=dataclasses.replace(site.cluster, tiers=(broken,)))

    with pytest.raises(StepFailed, match="local2 does not run; local3 runs") as caught:
        await asyncio.to_thread(operations.start, bad, node.name)

    log = "\n".join(caught.value.log)
    assert "commitlog_segment_size" in log, f"{caught.value}: {log}"
    assert "ndcass cluster start local2" in str(caught.value)
    await asyncio.to_thread(operations.start, site, node.name)
    refuse_if_away(site, site.cluster.nodes, why="")
