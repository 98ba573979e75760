"""The parts of a cluster's status that are computed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.cluster.layout import initial_tokens
from ndcass.cluster.loader import cluster_from
from ndcass.cluster.spec import Cluster
from ndcass.cluster.status import ClusterStatus, NodeStatus, cluster_status, ring_shares
from ndcass.store.cassandra.driver import ConnectSettings
from ndcass.store.cassandra.monitoring import NodeFacts

TOKENS = st.integers(-(1 << 63), (1 << 63) - 1)


def described(count: int = 3, **cluster: object) -> Cluster:
    nodes = [f"127.0.9.{n + 1}" for n in range(count)]
    return cluster_from(
        {
            "cluster": {"name": "c", "folder": "/nowhere", **cluster},
            "tiers": {"local": {"role": "archive", "nodes": nodes}},
        }
    )


def status_of(name: str, schema: str | None = "s", **seen: str) -> NodeStatus:
    facts = None
    if schema is not None:
        facts = NodeFacts("127.0.9.1", "5.0.8", schema, 1.0, (1,), 0, 0, 0, 0, {})
    return NodeStatus(name, "127.0.9.1", "local", "archive", "rack1", seen, facts, None)


@pytest.mark.parametrize("tokens_per_node", [1, 4, 16])
def test_first_nodes_own_equal_shares(tokens_per_node: int) -> None:
    cluster = described(tokens_per_node=tokens_per_node)

    shares = ring_shares(cluster, initial_tokens(cluster))

    assert shares == pytest.approx(dict.fromkeys(["local1", "local2", "local3"], 1 / 3))


@given(st.sets(TOKENS, min_size=3, max_size=12))
def test_shares_add_up_to_the_whole_ring(tokens: set[int]) -> None:
    dealt = list(tokens)
    owned = {f"local{n + 1}": dealt[n::3] for n in range(3)}

    shares = ring_shares(described(), owned)

    assert sum(shares.values()) == pytest.approx(1)


def test_range_across_the_end_belongs_to_the_first_token() -> None:
    quarter = 1 << 62

    shares = ring_shares(described(2), {"local1": [-quarter], "local2": [quarter]})

    assert shares == {"local1": 0.5, "local2": 0.5}


def test_only_token_owns_everything() -> None:
    assert ring_shares(described(1), {"local1": [5]}) == {"local1": 1.0}


def test_shares_are_unknown_while_a_node_of_the_tier_says_nothing() -> None:
    assert ring_shares(described(2), {"local1": [5]}) == {}


def test_cluster_is_healthy_when_all_see_all_up_and_normal() -> None:
    one, two = status_of("n1", n1="UN", n2="UN"), status_of("n2", n1="UN", n2="UN")

    assert ClusterStatus("c", (one, two), ()).is_healthy
    assert not ClusterStatus("c", (one, two), ("127.0.9.9",)).is_healthy
    assert not ClusterStatus("c", (one, status_of("n2", n1="UN", n2="DN")), ()).is_healthy
    assert not ClusterStatus("c", (one, status_of("n2", None, n1="UN")), ()).is_healthy
    assert not ClusterStatus("c", (one, status_of("n2", "other", n1="UN")), ()).is_healthy


async def test_cluster_that_does_not_run_is_no_error(tmp_path: Path) -> None:
    cluster = cluster_from(
        {
            "cluster": {"name": "c", "folder": str(tmp_path)},
            "ports": {"native": 1, "storage": 2},
            "tiers": {"local": {"role": "archive", "nodes": ["127.0.9.1", "127.0.9.2"]}},
        }
    )

    found = await cluster_status(cluster, ConnectSettings(("127.0.9.1",)))

    assert [one.problem for one in found.nodes] == ["does not run", "does not run"]
    assert not found.is_healthy
    assert found.schemas == frozenset()
