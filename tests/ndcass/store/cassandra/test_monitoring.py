"""How a node sees others, from what gossip says."""

import pytest

from ndcass.store.cassandra.driver import Driver
from ndcass.store.cassandra.fold_queue import FoldQueue
from ndcass.store.cassandra.monitoring import (
    MOST_BEATS_BEHIND,
    Gossip,
    NodeFacts,
    buckets_to_fold,
    node_facts,
    view_by_gossip,
)
from ndcass.store.cassandra.rows import Bucket
from ndcass.store.cassandra.tables import Tables
from tests.cassandra_nodes import CassandraNodes


def facts(address: str, *gossip: Gossip) -> NodeFacts:
    seen = {one.address: one for one in gossip}
    return NodeFacts(address, "5.0.8", "s", 1.0, (1,), 0, 0, 0, 0, seen)


def gossip(address: str, status: str = "NORMAL", *, generation: int = 7, heartbeat: int) -> Gossip:
    return Gossip(address, status, generation, heartbeat, 0)


def seen_by_b(of_a: Gossip, *, a_itself: Gossip | None) -> str | None:
    """How b sees a."""
    b = facts("b", gossip("b", heartbeat=50), of_a)
    others = {"b": b}
    if a_itself is not None:
        others["a"] = facts("a", a_itself)
    return view_by_gossip(b, others).get("a")


@pytest.mark.parametrize(
    ("behind", "state"), [(0, "UN"), (MOST_BEATS_BEHIND, "UN"), (MOST_BEATS_BEHIND + 1, "DN")]
)
def test_node_is_up_while_its_heartbeats_arrive(behind: int, state: str) -> None:
    itself = gossip("a", heartbeat=1000)

    assert seen_by_b(gossip("a", heartbeat=1000 - behind), a_itself=itself) == state


def test_node_that_started_again_unheard_is_down() -> None:
    itself = gossip("a", generation=8, heartbeat=3)

    assert seen_by_b(gossip("a", heartbeat=1000), a_itself=itself) == "DN"


@pytest.mark.parametrize(
    ("status", "state"),
    [("BOOT", "UJ"), ("BOOT_REPLACE", "UJ"), ("LEAVING", "UL"), ("MOVING", "UM"), ("new", "U?")],
)
def test_second_letter_is_what_it_does(status: str, state: str) -> None:
    itself = gossip("a", heartbeat=10)

    assert seen_by_b(gossip("a", status, heartbeat=10), a_itself=itself) == state


def test_node_that_said_good_bye_is_down() -> None:
    assert seen_by_b(gossip("a", "shutdown", heartbeat=10), a_itself=None) == "DN"


def test_silent_node_may_be_up_or_not() -> None:
    assert seen_by_b(gossip("a", heartbeat=10), a_itself=None) == "?N"


def test_node_that_left_is_not_there() -> None:
    assert seen_by_b(gossip("a", "LEFT", heartbeat=10), a_itself=None) is None


# -- on real nodes


async def test_buckets_that_wait_are_counted_by_keyspace(driver: Driver, tables: Tables) -> None:
    buckets = [Bucket(1, 0, 0, 0, n) for n in range(9)]
    await FoldQueue(tables, owner="a").note(buckets)

    found = await buckets_to_fold(driver, {})

    assert found[tables._keyspace] == len(buckets)


async def test_a_node_tells_of_itself(
    driver: Driver, tables: Tables, cassandra_cluster: CassandraNodes
) -> None:
    facts = await node_facts(driver, cassandra_cluster.nodes[1].client_address)

    assert facts.address == cassandra_cluster.nodes[1].address
    assert len(facts.gossip) == 3
    assert facts.cuboid_bytes[tables._keyspace] >= 0
