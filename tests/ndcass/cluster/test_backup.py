"""The order of snapshots; that they hold what they should is tested in test_operations.py."""

from ndcass.cluster.backup import Source, in_order
from tests.ndcass.cluster.descriptions import two_tiers


def source(keyspace: str, tier: str) -> Source:
    nodes = tuple(one for one in two_tiers().nodes if one.name.startswith(tier))
    return Source(keyspace, nodes, (), {}, is_for_writes=tier == "ingest")


def test_tier_that_rows_leave_comes_first() -> None:
    sources = [source("a", "archive"), source("b", "ingest"), source("c", "archive")]
    assert [one.keyspace for one in in_order(sources)] == ["b", "a", "c"]
