"""Deciding what is to be done with a cluster; that it is done is tested with real nodes."""

import dataclasses
import os
from pathlib import Path

import pytest

from ndcass.cluster import lifecycle, process
from ndcass.cluster.distribution import Distribution
from ndcass.cluster.lifecycle import Action
from ndcass.cluster.site import Site, write_files
from ndcass.cluster.spec import Cluster
from ndcass.cluster.state import STATE_NAME, State, load_state, record_of, save_state, sole_operator
from ndcass.cluster.steps import members
from ndcass.errors import ClusterError, IncompatibleStore
from tests.ndcass.cluster.descriptions import local_cluster, remote_cluster
from tests.ndcass.cluster.sleeping import set_status, sleeping_site


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return local_cluster(tmp_path / "base")


def site_of(cluster: Cluster, tmp_path: Path, **secrets: str) -> Site:
    """A site whose nodes sleep."""
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexec sleep 100\n")
    java.chmod(0o755)
    distribution = Distribution(java, tmp_path / "jars", tmp_path / "jars" / "agent.jar")
    environ = {"PATH": os.environ["PATH"], "NDCASS_SECRET": "s"}
    return lifecycle.open_site(cluster, distribution, environ, report=print, **secrets)


def with_data(cluster: Cluster, *, has_joined: bool = True) -> State:
    """The state of a cluster whose nodes were all started before, and their data."""
    state = State(cluster.name, cluster.tokens_per_node)
    for node in cluster.nodes:
        record = dataclasses.replace(record_of(cluster, node, (1, 2)), has_joined=has_joined)
        state = state.with_node(node.name, record)
        for path in node.directories.data:
            path.mkdir(parents=True)
            (path / "system").touch()
    save_state(cluster, state)
    return state


def actions(site: Site) -> dict[str, Action]:
    changes = lifecycle.plan_changes(site, load_state(site.cluster))
    return {change.node: change.action for change in changes}


def test_first_nodes_are_created_and_planning_touches_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    site = site_of(cluster, tmp_path)
    assert actions(site) == dict.fromkeys(["local1", "local2", "local3"], Action.CREATE)
    assert actions(site) == actions(site)
    assert not cluster.folder.exists()


def test_stopped_node_is_started(cluster: Cluster, tmp_path: Path) -> None:
    with_data(cluster)
    assert set(actions(site_of(cluster, tmp_path)).values()) == {Action.START}


def test_written_files_do_not_differ(cluster: Cluster, tmp_path: Path) -> None:
    site = site_of(cluster, tmp_path)
    state = with_data(cluster)
    for node in cluster.nodes:
        write_files(site, node)
    assert [change.differences for change in lifecycle.plan_changes(site, state)] == [()] * 3


def test_running_node_is_left_unless_its_files_change(cluster: Cluster, tmp_path: Path) -> None:
    site = site_of(cluster, tmp_path)
    with_data(cluster)
    node = cluster.nodes[0]
    write_files(site, node)
    process.start(node, site.distribution.java, environ=site.environ)
    try:
        assert actions(site)["local1"] is Action.NOTHING
        hotter = dataclasses.replace(cluster.tiers[0], heap_mib=2048)
        changed = dataclasses.replace(site, cluster=dataclasses.replace(cluster, tiers=(hotter,)))
        change = lifecycle.plan_changes(changed, load_state(cluster))[0]
        assert change.action is Action.RESTART
        assert "-Xmx1024m" in change.differences[1]
        assert "+-Xmx2048m" in change.differences[1].splitlines()
    finally:
        process.kill(node)


def test_node_that_is_described_later_joins(cluster: Cluster, tmp_path: Path) -> None:
    state = with_data(cluster)
    save_state(cluster, state.without_node("local3"))
    node = cluster.node("local3")
    (node.directories.data[0] / "system").unlink()
    assert actions(site_of(cluster, tmp_path))["local3"] is Action.JOIN
    # It was started and did not get through.
    save_state(cluster, state.with_node("local3", record_of(cluster, node, None)))
    assert actions(site_of(cluster, tmp_path))["local3"] is Action.JOIN


def test_up_that_is_repeated_makes_members_of_nodes_that_run(tmp_path: Path) -> None:
    """As after an `up` that failed when it had started them."""
    cluster = local_cluster(tmp_path / "base", keyspaces={})
    site = sleeping_site(cluster, tmp_path)
    with_data(cluster, has_joined=False)
    set_status(tmp_path, {node.address: "UN" for node in cluster.nodes})
    try:
        for node in cluster.nodes:
            write_files(site, node)
            process.start(node, site.distribution.java, environ=site.environ)

        changes = lifecycle.up(site)

        assert [change.action for change in changes] == [Action.NOTHING] * 3
        assert members(site) == list(cluster.nodes)
        (cluster.folder / STATE_NAME).unlink()
        lifecycle.up(site)
        assert members(site) == list(cluster.nodes), "also of what runs and nobody remembers"
    finally:
        for node in cluster.nodes:
            process.kill(node)


def test_node_whose_files_change_while_it_joins_joins_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Simply restarted, a seed would think that it was one of the first."""
    site = site_of(cluster, tmp_path)
    state = with_data(cluster)
    node = cluster.nodes[0]
    save_state(cluster, state.with_node("local1", record_of(cluster, node, None)))
    process.start(node, site.distribution.java, environ=site.environ)
    try:
        assert actions(site)["local1"] is Action.JOIN
    finally:
        process.kill(node)


def test_node_that_is_described_no_more_is_told_and_left(cluster: Cluster, tmp_path: Path) -> None:
    former = dataclasses.replace(with_data(cluster).nodes["local1"], folder="/gone")
    save_state(cluster, load_state(cluster).with_node("former", former))
    assert actions(site_of(cluster, tmp_path))["former"] is Action.LEFT
    assert "former" in [node.name for node in lifecycle.known_nodes(cluster)]


def test_node_that_lost_its_data_does_not_start_empty(cluster: Cluster, tmp_path: Path) -> None:
    with_data(cluster)
    (cluster.nodes[1].directories.data[0] / "system").unlink()
    with pytest.raises(ClusterError, match=r"local2 had data in .*, which is empty now"):
        actions(site_of(cluster, tmp_path))


def test_node_that_never_got_through_its_first_start_may_be_empty(
    cluster: Cluster, tmp_path: Path
) -> None:
    with_data(cluster, has_joined=False)
    (cluster.nodes[1].directories.data[0] / "system").unlink()
    assert actions(site_of(cluster, tmp_path))["local2"] is Action.START


def test_data_of_somebody_else_are_not_taken_over(cluster: Cluster, tmp_path: Path) -> None:
    with_data(cluster)
    (cluster.folder / STATE_NAME).unlink()
    with pytest.raises(ClusterError, match=r"local1 is new, but .* holds data of somebody"):
        actions(site_of(cluster, tmp_path))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"cluster": {"name": "other", "tokens_per_node": 4}}, "cluster.name was c "),
        ({"cluster": {"name": "c", "tokens_per_node": 8}}, "tokens_per_node was 4"),
        (
            {"tiers": {"local": {"role": "archive", "rack": "r9", "nodes": ["127.0.5.1"]}}},
            "rack of node local1 was rack1",
        ),
        (
            {"tiers": {"local": {"role": "archive", "nodes": ["127.0.5.9"]}}},
            "address of node local1 was 127.0.5.1",
        ),
        (
            {
                "tiers": {
                    "local": {
                        "role": "archive",
                        "nodes": ["127.0.5.1"],
                        "directories": {"data": ["/elsewhere"]},
                    }
                }
            },
            "data of node local1 was ",
        ),
    ],
)
def test_what_is_fixed_once_there_are_data_cannot_change(
    tmp_path: Path, cluster: Cluster, section: dict[str, object], said: str
) -> None:
    with_data(cluster)
    changed = local_cluster(cluster.folder, **{"keyspaces": {}, **section})
    with pytest.raises(ClusterError) as failed:
        load_state(changed)
    assert said in str(failed.value)
    lifecycle.destroy(changed, lambda line: None)
    assert not cluster.folder.exists(), "after that it may be another"


def test_state_of_another_version_is_refused(cluster: Cluster) -> None:
    cluster.folder.mkdir()
    (cluster.folder / STATE_NAME).write_text('{"format": 99}')
    with pytest.raises(IncompatibleStore):
        load_state(cluster)


def test_two_do_not_change_a_cluster_at_once(cluster: Cluster) -> None:
    with (
        sole_operator(cluster),
        pytest.raises(ClusterError, match="another ndcass works on cluster c"),
        sole_operator(cluster),
    ):
        pass
    with sole_operator(cluster):
        pass


def test_up_without_the_password_of_the_superuser_changes_nothing(tmp_path: Path) -> None:
    cluster = local_cluster(tmp_path / "base", security={"authentication": True})
    with pytest.raises(ClusterError, match="NDCASS_CASSANDRA_PASSWORD"):
        lifecycle.up(site_of(cluster, tmp_path))
    assert not cluster.folder.exists()


def test_secrets_are_neither_shown_nor_given_to_nodes(cluster: Cluster, tmp_path: Path) -> None:
    site = site_of(cluster, tmp_path, superuser_password="hush", keystore_password="hushh")
    assert "hush" not in repr(site)
    assert set(site.environ) == {"PATH"}


def test_password_in_a_file_is_not_shown_by_a_plan(tmp_path: Path) -> None:
    tls = {"keystore": "/{node}.p12", "ca_file": "/ca.pem"}
    cluster = local_cluster(tmp_path / "base", security={"client_tls": tls})
    site = site_of(cluster, tmp_path, keystore_password="hush")
    (change, *_) = lifecycle.plan_changes(site, load_state(cluster))
    assert "keystore_password: (not shown)" in change.differences[0]
    assert "hush" not in "".join(change.differences)


def test_files_are_for_their_owner_only(cluster: Cluster, tmp_path: Path) -> None:
    site = site_of(cluster, tmp_path)
    write_files(site, cluster.nodes[0])
    for path in process.files_folder(cluster.nodes[0]).iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_nodes_of_other_machines_are_not_started_here(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="ndcass cluster render"):
        site_of(remote_cluster(), tmp_path)


def test_down_stops_nodes_that_run_and_keeps_what_they_store(
    cluster: Cluster, tmp_path: Path
) -> None:
    site = site_of(cluster, tmp_path)
    with_data(cluster)
    said: list[str] = []
    process.start(cluster.nodes[1], site.distribution.java, environ=site.environ)
    assert lifecycle.down(cluster, said.append) == ["local2"]
    assert said == ["local2: stopped"]
    assert process.running(cluster.nodes[1]) is None
    assert lifecycle.down(cluster, said.append) == []
    assert (cluster.nodes[1].directories.data[0] / "system").exists()


def test_destroy_removes_what_was_stored_and_nothing_else(tmp_path: Path) -> None:
    cluster = local_cluster(
        tmp_path / "base",
        tiers={
            "local": {
                "role": "archive",
                "nodes": ["127.0.5.1", "127.0.5.2", "127.0.5.3"],
                "directories": {"data": [f"{tmp_path}/disk/{{node}}"]},
            }
        },
    )
    with_data(cluster)
    site = site_of(cluster, tmp_path)
    for node in cluster.nodes:
        write_files(site, node)
    (tmp_path / "disk" / "mine").touch()
    removed = lifecycle.destroy(cluster, lambda line: None)
    assert len(removed) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "java"]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["mine"]
    assert load_state(cluster).nodes == {}
    assert lifecycle.destroy(cluster, lambda line: None) == []
