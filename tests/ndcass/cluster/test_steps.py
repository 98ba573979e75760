"""Who takes part, as far as that can be told without Cassandra."""

import dataclasses
from pathlib import Path

import pytest

from ndcass.cluster import maintenance, process
from ndcass.cluster.state import load_state, save_state
from ndcass.cluster.steps import members
from ndcass.errors import ClusterError
from tests.ndcass.cluster.descriptions import local_cluster
from tests.ndcass.cluster.sleeping import sleeping_site, with_members


def test_node_that_runs_and_is_no_member_is_not_passed_over(tmp_path: Path) -> None:
    cluster = local_cluster(tmp_path / "base")
    state = with_members(cluster)
    known = dataclasses.replace(state.nodes["local2"], has_joined=False)
    save_state(cluster, state.with_node("local2", known))
    site = sleeping_site(cluster, tmp_path)
    node = cluster.node("local2")
    assert [one.name for one in members(site)] == ["local1", "local3"]
    process.start(node, site.distribution.java, environ=site.environ)
    try:
        for call in (members, maintenance.repair, maintenance.cleanup, maintenance.flush):
            with pytest.raises(ClusterError, match=r"local2 runs.*ndcass cluster up"):
                call(site)
        assert [one.name for one in members(site, but=node)] == ["local1", "local3"]
    finally:
        process.kill(node)
    assert not load_state(cluster).nodes["local2"].has_joined
