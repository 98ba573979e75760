"""The table of a cluster's status."""

import pytest

from ndcass.cli.cluster_status import as_table, duration, size
from ndcass.cluster.status import ClusterStatus, NodeStatus
from ndcass.store.cassandra.monitoring import NodeFacts


def node(name: str, *, answers: bool = True, **seen: str) -> NodeStatus:
    facts = NodeFacts("127.0.9.1", "5.0.8", "s", 93.0, (1, 2), 3 << 20, 1, 4, 2, {})
    return NodeStatus(
        name,
        "127.0.9.1",
        "local",
        "archive",
        "rack1",
        seen,
        facts if answers else None,
        0.5 if answers else None,
        "" if answers else "does not run",
    )


def test_healthy_cluster_is_a_row_a_node_and_one_sentence() -> None:
    nodes = (node("n1", n1="UN", n2="UN"), node("n2", n1="UN", n2="UN"))

    heads, one, two, said = as_table(ClusterStatus("c", nodes, ())).splitlines()

    assert heads.split()[:6] == ["node", "tier", "role", "rack", "address", "state"]
    assert one.split() == (
        "n1 local archive rack1 127.0.9.1 UN 3.0 MiB 50.0% 2 1+4 2 5.0.8 1m 33s".split()
    )
    assert two.startswith("n2")
    assert said == "all 2 nodes are up and normal, as seen from each of them"


def test_views_that_differ_are_told_by_observer() -> None:
    nodes = (node("n1", n1="UN", n2="DN"), node("n2", answers=False))

    text = as_table(ClusterStatus("c", nodes, ("127.0.9.7",)))

    assert "n1:UN n2:DN" in text
    assert "\nn2: does not run\n" in text
    assert "127.0.9.7 is seen, and not described" in text
    assert "0 of 2 nodes are up and normal" in text


def test_what_waits_to_be_folded_and_drained_is_told() -> None:
    found = ClusterStatus(
        "c", (node("n1", n1="UN"),), (), to_fold={"meta": 7}, to_drain={"fast": 3 << 20}
    )

    lines = as_table(found).splitlines()

    assert "meta: 7 buckets of cuboids wait to be folded or swept" in lines
    assert "fast: 3.0 MiB on the disks of the ingest tier, to be drained" in lines


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (102_400, "100 KiB"),
        (3 << 20, "3.0 MiB"),
        (5 << 40, "5.0 TiB"),
        (5000 << 40, "5000.0 TiB"),
    ],
)
def test_sizes_are_short(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59, "59s"), (60, "1m 0s"), (3599.6, "1h 0m"), (7260, "2h 1m"), (90000, "1d 1h")],
)
def test_times_are_in_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
