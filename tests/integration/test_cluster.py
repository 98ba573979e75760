"""Real nodes: how they start, end, and come back."""

import asyncio
import dataclasses
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ndcass.cluster import lifecycle, nodetool, process, ring
from ndcass.cluster.access import superuser_settings
from ndcass.cluster.backup import backup, backup_together
from ndcass.cluster.lifecycle import Action
from ndcass.cluster.loader import known_settings
from ndcass.cluster.restore import Existing, restore
from ndcass.cluster.site import Site
from ndcass.cluster.startup import NodeFailed, launch_node
from ndcass.cluster.tls import with_certificates
from ndcass.errors import ClusterError, Conflict, StoreError
from ndcass.store.cassandra.driver import ConnectSettings, Driver, TlsSettings
from ndcass.store.cassandra.schema import Keyspace as SchemaKeyspace
from ndcass.store.cassandra.schema import Keyspaces, apply_schema
from tests.cassandra_nodes import CassandraNodes, nodes_or_skip
from tests.ndcass.cluster.descriptions import local_cluster


def test_every_node_sees_all_others_up_and_normal(cassandra_cluster: CassandraNodes) -> None:
    site = cassandra_cluster.site
    for node in cassandra_cluster.nodes:
        seen = ring.view_from(node, site.distribution, site.environ)
        assert seen == {other.address: "UN" for other in cassandra_cluster.nodes}


def test_up_does_nothing_with_a_cluster_that_is_up(cassandra_cluster: CassandraNodes) -> None:
    before = [process.running(node) for node in cassandra_cluster.nodes]
    changes = lifecycle.up(cassandra_cluster.site)
    assert [change.action for change in changes] == [Action.NOTHING] * 3
    assert [process.running(node) for node in cassandra_cluster.nodes] == before


def test_known_settings_are_those_of_the_pinned_cassandra(
    cassandra_cluster: CassandraNodes,
) -> None:
    distribution = cassandra_cluster.site.distribution
    printed = subprocess.run(
        [
            distribution.java.resolve().parent / "javap",
            *("-public", "-cp", f"{distribution.jars}/*", "org.apache.cassandra.config.Config"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    fields = re.findall(r"^  public (?!static)[^(\n]* (\w+);$", printed, flags=re.MULTILINE)
    assert sorted(fields) == list(known_settings())


@pytest.fixture(scope="module")
def secured() -> Iterator[CassandraNodes]:
    """One node a tier, with passwords and TLS, which tests take down and bring up again."""
    with nodes_or_skip(
        tiers={"ingest": 1, "archive": 1},
        heap_mib=320,
        security={"authentication": True, "client_tls": {"generate": True}},
        keyspaces={
            "hot": {"replication": {"ingest": 1}},
            "cold": {"replication": {"archive": 1}},
        },
    ) as nodes:
        yield nodes


def log_in(settings: ConnectSettings, cql: str, *, address: str = "") -> list[tuple[object, ...]]:
    """Run one statement over a connection of its own, at one node or any."""

    async def run() -> list[tuple[object, ...]]:
        driver = await Driver.connect(settings)
        try:
            return list(await driver.run(cql, address=address))
        finally:
            await driver.close()

    return asyncio.run(run())


@pytest.mark.cassandra
@pytest.mark.slow
def test_superuser_of_the_description_has_the_place_of_the_one_that_all_know(
    secured: CassandraNodes,
) -> None:
    assert "superuser cassandra: taken out of use" in secured.said
    own = superuser_settings(secured.site)
    roles = log_in(own, "SELECT role, can_login, is_superuser FROM system_auth.roles")
    assert sorted(roles) == [("cassandra", False, False), ("ndcass", True, True)]
    known = dataclasses.replace(own, username="cassandra", password="cassandra")
    with pytest.raises(StoreError):
        log_in(known, "SELECT * FROM system.local")
    with pytest.raises(StoreError):
        log_in(dataclasses.replace(own, password="wrong"), "SELECT * FROM system.local")


@pytest.mark.cassandra
def test_roles_are_kept_in_both_tiers(secured: CassandraNodes) -> None:
    (row,) = log_in(
        superuser_settings(secured.site),
        "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = 'system_auth'",
    )
    assert isinstance(row[0], Mapping)
    assert (row[0]["ingest"], row[0]["archive"]) == ("1", "1")


@pytest.mark.cassandra
def test_keyspace_is_in_the_tier_that_is_described(secured: CassandraNodes) -> None:
    rows = log_in(
        superuser_settings(secured.site),
        "SELECT keyspace_name, replication FROM system_schema.keyspaces",
    )
    found = {str(name): dict(what) for name, what in rows if isinstance(what, Mapping)}
    strategy = {"class": "org.apache.cassandra.locator.NetworkTopologyStrategy"}
    assert found["hot"] == {**strategy, "ingest": "1"}
    assert found["cold"] == {**strategy, "archive": "1"}


@pytest.mark.cassandra
def test_client_without_tls_or_with_another_authority_is_turned_away(
    secured: CassandraNodes, tmp_path: Path
) -> None:
    own = dataclasses.replace(superuser_settings(secured.site), connect_timeout_s=3)
    with pytest.raises(StoreError):
        log_in(dataclasses.replace(own, tls=None), "SELECT * FROM system.local")
    made = local_cluster(
        tmp_path,
        security={"client_tls": {"generate": True}},
        tiers={"local": {"role": "archive", "nodes": ["127.0.5.1"]}},
        keyspaces={},
    )
    other = with_certificates(dataclasses.replace(secured.site, cluster=made)).cluster
    assert other.security.client_tls is not None
    tls = TlsSettings(other.security.client_tls.ca_file)
    with pytest.raises(StoreError):
        log_in(dataclasses.replace(own, tls=tls), "SELECT * FROM system.local")


@pytest.mark.cassandra
@pytest.mark.slow
def test_two_tiers_are_saved_and_come_back_together(
    secured: CassandraNodes, tmp_path: Path
) -> None:
    """With the schema of a gateway in them, and a channel that the backup does not know."""
    site, own = secured.site, superuser_settings(secured.site)
    hot, cold = SchemaKeyspace("hot", "ingest", 1), SchemaKeyspace("cold", "archive", 1)
    on_ingest, on_archive = (node.client_address for node in secured.nodes)

    async def make_tables() -> None:
        driver = await Driver.connect(own)
        await apply_schema(driver, Keyspaces(ingest=hot, archive=cold, meta=cold))
        await driver.close()

    asyncio.run(make_tables())
    row = (
        "INSERT INTO {}.cuboids (channel, pyramid, level, t, bucket, morton, kind, write_id, part)"
        " VALUES ({}, 0, 0, 0, 0, 0, 0, 0x00, 0)"
    )
    state = "SELECT DISTINCT scope, version, last_channel_id FROM cold.catalog"
    names = "INSERT INTO cold.catalog (scope, version, last_channel_id) VALUES ('catalog', {}, {})"
    log_in(own, row.format("hot", 1), address=on_ingest)
    log_in(own, row.format("cold", 2), address=on_archive)
    log_in(own, names.format(7, 3), address=on_archive)
    secured.said.clear()

    backup(site, "hot", tmp_path / "one")
    assert "cold not copied" in secured.said[-1]
    made = backup_together(site, (), tmp_path / "copy")

    assert {one.keyspace for one in made} == {"hot", "cold"}
    taken = [line.split()[3] for line in secured.said if line.startswith("snapshot ndcass-")]
    assert taken == ["hot", "hot", "cold"], "the tier that rows leave comes first"

    log_in(own, row.format("hot", 90), address=on_ingest)
    log_in(own, names.format(8, 90), address=on_archive)
    with pytest.raises(Conflict, match=r"rows in cold\.catalog"):
        restore(site, tmp_path / "copy")
    restore(site, tmp_path / "copy", ["cold"], existing=Existing.REPLACE)

    [(_, version, last_id)] = log_in(own, state, address=on_archive)
    assert last_id == 90, "there are cuboids of it in the other tier"
    assert isinstance(version, int)
    assert version > 1 << 40
    restore(site, tmp_path / "copy", existing=Existing.REPLACE)
    channels = "SELECT DISTINCT channel, pyramid, level, t, bucket FROM {}.cuboids"
    assert log_in(own, channels.format("hot"), address=on_ingest) == [(1, 0, 0, 0, 0)]
    assert log_in(own, channels.format("cold"), address=on_archive) == [(2, 0, 0, 0, 0)]
    [(_, later, last_id)] = log_in(own, state, address=on_archive)
    assert last_id == 3
    assert isinstance(later, int)
    assert later > version, "no version is met again"
    for node in secured.nodes:
        assert "ndcass-" not in nodetool.ask(site, node, "listsnapshots")


@pytest.mark.cassandra
def test_replication_that_changes_in_the_description_is_refused(secured: CassandraNodes) -> None:
    cluster = secured.cluster
    moved = dataclasses.replace(cluster.keyspaces[0], tier="archive")
    changed = dataclasses.replace(cluster, keyspaces=(moved, cluster.keyspaces[1]))
    with pytest.raises(ClusterError, match=r"keyspace hot has the replicas ingest: 1, where arch"):
        lifecycle.up(dataclasses.replace(secured.site, cluster=changed))


@pytest.mark.cassandra
def test_changed_node_alone_is_restarted_and_a_bad_change_shows_what_the_node_said(
    secured: CassandraNodes,
) -> None:
    untouched = process.running(secured.cluster.node("ingest1"))
    bad = with_patch(secured, "archive", {"memtable_allocation_type": "nonsense"})
    with pytest.raises(NodeFailed, match="archive1 ended while it was starting") as failed:
        lifecycle.up(bad)
    assert any("nonsense" in line for line in failed.value.log)
    better = with_patch(secured, "archive", {"phi_convict_threshold": 9})
    actions = [change.action for change in lifecycle.up(better)]
    assert actions == [Action.NOTHING, Action.START]
    assert process.running(secured.cluster.node("ingest1")) == untouched
    actions = [change.action for change in lifecycle.up(secured.site)]
    assert actions == [Action.NOTHING, Action.RESTART]


@pytest.mark.cassandra
@pytest.mark.slow
def test_what_was_written_is_there_after_down_and_up(secured: CassandraNodes) -> None:
    own = superuser_settings(secured.site)
    # One of the tier that holds the keyspace: the other has nobody local to ask.
    address = secured.cluster.node("ingest1").client_address
    log_in(own, "CREATE TABLE hot.t (k int PRIMARY KEY, v text)")
    log_in(own, "INSERT INTO hot.t (k, v) VALUES (1, 'kept')", address=address)
    assert lifecycle.down(secured.cluster, secured.said.append) == ["ingest1", "archive1"]
    assert [process.running(node) for node in secured.nodes] == [None, None]
    actions = [change.action for change in lifecycle.up(secured.site)]
    assert actions == [Action.START, Action.START]
    assert log_in(own, "SELECT k, v FROM hot.t", address=address) == [(1, "kept")]


@pytest.mark.cassandra
def test_node_does_not_start_where_another_listens(secured: CassandraNodes) -> None:
    node = dataclasses.replace(secured.nodes[0], name="double", folder=secured.cluster.folder / "d")
    with pytest.raises(ClusterError, match="another process listens there"):
        launch_node(secured.site, node)
    assert not node.folder.exists()


def with_patch(nodes: CassandraNodes, tier: str, patch: Mapping[str, object]) -> Site:
    """The site with a tier that has another patch of cassandra.yaml."""
    tiers = tuple(
        dataclasses.replace(one, cassandra=patch) if one.name == tier else one
        for one in nodes.cluster.tiers
    )
    return dataclasses.replace(nodes.site, cluster=dataclasses.replace(nodes.cluster, tiers=tiers))
