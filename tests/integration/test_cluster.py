"""Real nodes: how they start, end, and come back."""

from ndcass.cluster import lifecycle, process, ring
from ndcass.cluster.lifecycle import Action
from tests.cassandra_nodes import CassandraNodes


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
