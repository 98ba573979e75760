"""What is refused, resumed and done in which order when nodes go; real ones: test_operations.py."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ndcass.cluster import maintenance, membership, process
from ndcass.cluster.site import Site
from ndcass.cluster.spec import Cluster, Node
from ndcass.cluster.state import load_state
from ndcass.errors import ClusterError
from tests.ndcass.cluster.descriptions import local_cluster, two_tiers
from tests.ndcass.cluster.sleeping import calls_in, set_status, sleeping_site, with_members
from tests.processes import free_port


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "_POLL_S", 0.05)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes that take part; the second and third run, as far as a sleeping one does."""
    # Whoever has nodes here may have them at the usual ports.
    cluster = local_cluster(tmp_path / "base", keyspaces={}, ports={"jmx": free_port()})
    with prepared(cluster, tmp_path, cluster.nodes[1:]):
        yield cluster


@contextlib.contextmanager
def prepared(cluster: Cluster, folder: Path, running: tuple[Node, ...]) -> Iterator[None]:
    with_members(cluster)
    site = sleeping_site(cluster, folder)
    try:
        for node in running:
            process.start(node, site.distribution.java, environ=site.environ)
        yield
    finally:
        for node in cluster.nodes:
            process.kill(node)


def see(folder: Path, cluster: Cluster, **odd: str) -> None:
    """Let nodes see each other up and normal, but for those named."""
    seen = {node.address: odd.get(node.name, "UN") for node in cluster.nodes}
    set_status(folder, {address: state for address, state in seen.items() if state != "gone"})


def keyspaces(monkeypatch: pytest.MonkeyPatch, replicas: Mapping[str, Mapping[str, int]]) -> None:
    """What a node would say of its keyspaces."""

    async def of(site: Site) -> Mapping[str, Mapping[str, int]]:
        return replicas

    monkeypatch.setattr(maintenance, "keyspaces_of", of)


def has_data(node: Node) -> bool:
    return (node.directories.data[0] / "precious").exists()


# -- replacing


def test_only_copy_is_not_wiped(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(tmp_path, cluster, local1="DN")
    keyspaces(monkeypatch, {"safe": {"local": 3}, "single": {"local": 1}})

    with pytest.raises(ClusterError, match=r"keyspace single has one copy in local.*nowhere else"):
        membership.replace(sleeping_site(cluster, tmp_path), "local1")

    assert has_data(cluster.nodes[0])


def test_copies_of_another_tier_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = two_tiers(cluster={"name": "c", "folder": str(tmp_path / "base")}, keyspaces={})
    keyspaces(monkeypatch, {"cold": {"archive": 1}})
    with prepared(cluster, tmp_path, cluster.nodes[:3]):
        see(tmp_path, cluster, archive1="DN")
        with pytest.raises(ClusterError, match=r"archive1 is the only one of tier archive"):
            membership.replace(sleeping_site(cluster, tmp_path), "archive1")
        assert has_data(cluster.nodes[3])


def test_nothing_is_wiped_when_the_others_cannot_be_repaired(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(tmp_path, cluster, local1="DN")
    keyspaces(monkeypatch, {"k": {"local": 3}})
    tool = 'case "$command" in *repair*) exit 2;; esac; cat "$here/status"'

    with pytest.raises(ClusterError, match=r"nodetool repair.*Nothing of local1 was changed"):
        membership.replace(sleeping_site(cluster, tmp_path, tool=tool), "local1")

    assert has_data(cluster.nodes[0])


def replace_one_that_ends(cluster: Cluster, folder: Path, *, repair_before: bool) -> list[str]:
    """Replace a node that does not get through its start; the repairs that were asked for."""
    see(folder, cluster, local1="DN")
    site = sleeping_site(cluster, folder, node="exit 1")
    with pytest.raises(ClusterError, match="local1 ended while it was starting"):
        membership.replace(site, "local1", repair_before=repair_before)
    assert not has_data(cluster.nodes[0])
    return [call for call in calls_in(folder) if "repair" in call]


def test_all_ranges_of_the_others_are_repaired_first_by_one_that_has_them_all(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyspaces(monkeypatch, {"k": {"local": 3}, "both": {"local": 2}, "far": {"moon": 3}})

    repairs = replace_one_that_ends(cluster, tmp_path, repair_before=True)

    assert [call for call in repairs if call.endswith(" k")] == [
        f"{cluster.nodes[1].jmx_port} repair --full --force k"
    ]
    assert not [call for call in repairs if call.endswith(" both")], "both had what is acknowledged"


def test_where_nobody_has_all_ranges_each_of_the_others_repairs_its_own_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiers = {"local": {"role": "archive", "nodes": [f"127.0.6.{n}" for n in range(1, 5)]}}
    cluster = local_cluster(
        tmp_path / "base", keyspaces={}, tiers=tiers, ports={"jmx": free_port()}
    )
    keyspaces(monkeypatch, {"k": {"local": 3}})

    with prepared(cluster, tmp_path, cluster.nodes[1:]):
        repairs = replace_one_that_ends(cluster, tmp_path, repair_before=True)

    ports = [node.jmx_port for node in cluster.nodes[1:]]
    assert repairs == [f"{port} repair --full --force k" for port in ports]


def test_repair_is_left_out_where_that_is_asked_for(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyspaces(monkeypatch, {"k": {"local": 3}})

    assert replace_one_that_ends(cluster, tmp_path, repair_before=False) == []


# -- leaving


@pytest.fixture
def running(cluster: Cluster, tmp_path: Path) -> Cluster:
    """The same, with the first node running, too."""
    site = sleeping_site(cluster, tmp_path)
    process.start(cluster.nodes[0], site.distribution.java, environ=site.environ)
    return cluster


def test_node_that_has_left_is_stopped_and_forgotten(running: Cluster, tmp_path: Path) -> None:
    see(tmp_path, running, local1="gone")

    membership.decommission(sleeping_site(running, tmp_path), "local1", wipe=True)

    assert process.running(running.nodes[0]) is None
    assert set(load_state(running).nodes) == {"local2", "local3"}
    assert not running.nodes[0].folder.exists()
    assert not [call for call in calls_in(tmp_path) if "decommission" in call]


def test_node_that_is_leaving_is_waited_for(running: Cluster, tmp_path: Path) -> None:
    see(tmp_path, running, local1="UL")
    gone = f"grep -v {running.nodes[0].address} $here/status > $here/new"
    tool = f"""
        cat "$here/status"
        [ $(wc -l < "$here/calls") -lt 7 ] || {{ {gone}; mv $here/new $here/status; }}
    """

    membership.decommission(sleeping_site(running, tmp_path, tool=tool), "local1")

    assert set(load_state(running).nodes) == {"local2", "local3"}
    assert not [call for call in calls_in(tmp_path) if "decommission" in call]


def test_node_that_stops_leaving_stays_a_member(running: Cluster, tmp_path: Path) -> None:
    see(tmp_path, running, local1="UL")
    tool = """
        cat "$here/status"
        [ $(wc -l < "$here/calls") -lt 7 ] || sed -i s/UL/DL/ "$here/status"
    """

    with pytest.raises(ClusterError, match=r"local1 does not leave any more: .*sees it DL"):
        membership.decommission(sleeping_site(running, tmp_path, tool=tool), "local1")

    assert "local1" in load_state(running).nodes
    assert process.running(running.nodes[0]) is not None


def test_no_node_leaves_while_another_is_away(running: Cluster, tmp_path: Path) -> None:
    see(tmp_path, running, local1="gone", local3="DN")

    with pytest.raises(ClusterError, match="sees local3 DN: only one node may come or go"):
        membership.decommission(sleeping_site(running, tmp_path), "local1")

    assert "local1" in load_state(running).nodes
