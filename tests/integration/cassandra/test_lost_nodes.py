"""Nodes that die, hang, lose their disk or are restarted while writers write: nothing is lost."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ndcass.cluster import maintenance, membership, operations
from ndcass.cluster.spec import Node
from ndcass.store.cassandra.driver import Driver
from tests.processes import Gateway
from tests.system import System
from tests.witness import BOX_ZYX, FREE_BOX_PATH, Evidence, check, create_volume, load

pytestmark = pytest.mark.cassandra

# What a gateway of these tests waits for the store, and what it may take to say so.
REQUEST_TIMEOUT_S = 5.0
ANSWER_WITHIN_S = 15.0
RECOVERY_WITHIN_S = 60.0
PAUSE_S = 20.0
# Half of the replicas may have to time out before the third is asked.
SLOWEST_S = 15.0
_BOX_BYTES = math.prod(BOX_ZYX)


def assert_right(evidence: Evidence) -> None:
    """No reader saw anything outdated, and no request failed."""
    assert evidence.wrong_reads == []
    assert evidence.failures == []


def assert_refuses(gateway: Gateway, token: str) -> None:
    """Reads and writes are refused in time, with a reason, and the operator is told."""
    path = f"/nd/sd/{token}/c/raw/0/{FREE_BOX_PATH}"
    headers = {"X-Volume-Dtype": "|u1"}
    for method, body in (("GET", None), ("POST", b"\1" * _BOX_BYTES)):
        began_s = time.monotonic()
        answer = gateway.request(method, path, data=body, headers=headers)
        took_s = time.monotonic() - began_s
        assert answer.status_code == 503, f"{method}: {answer.status_code} {answer.text}"
        assert took_s < ANSWER_WITHIN_S, f"{method} took {took_s:.1f} s"
        assert "store" in answer.text, answer.text
        assert answer.headers["Retry-After"]
    began_s = time.monotonic()
    answer = gateway.request("GET", "/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (503, False), answer.text
    assert answer.json()["reason"], answer.text
    assert time.monotonic() - began_s < ANSWER_WITHIN_S
    assert gateway.request("GET", "/healthz").status_code == 200


def await_recovery(gateway: Gateway, token: str) -> None:
    """The same gateway reads and writes again."""
    deadline = time.monotonic() + RECOVERY_WITHIN_S
    path = f"/nd/sd/{token}/c/raw/0/{FREE_BOX_PATH}"
    while True:
        answer = gateway.request("GET", path)
        ready = gateway.request("GET", "/readyz")
        if answer.status_code == ready.status_code == 200:
            return
        assert time.monotonic() < deadline, f"{answer.status_code} {answer.text} {ready.text}"
        time.sleep(0.5)


def test_kill_9_of_one_node_during_ingest_loses_nothing(system: System, tmp_path: Path) -> None:
    node = system.nodes.nodes[2]
    with system.gateway() as gateway:
        create_volume(gateway, "killone")
        with load(tmp_path, "killone", [gateway]) as writers:
            writers.await_writes(20)
            system.nodes.kill(node)
            writers.await_writes(40)
            system.nodes.start(node)
            writers.await_writes(20)
            evidence = writers.stop()
        assert_right(evidence)  # the other two are a quorum
        check(gateway, "killone", evidence)


@pytest.mark.slow
def test_kill_9_of_all_nodes_at_once_loses_nothing(system: System, tmp_path: Path) -> None:
    with system.gateway(conf=system.conf(request_timeout_s=REQUEST_TIMEOUT_S)) as gateway:
        create_volume(gateway, "killall")
        with load(tmp_path, "killall", [gateway]) as writers:
            writers.await_writes(60)
            system.nodes.kill()
            assert_refuses(gateway, "killall")
            system.nodes.start()
            await_recovery(gateway, "killall")  # which was not restarted
            writers.await_writes(20)
            evidence = writers.stop()
        assert evidence.wrong_reads == []
        assert {failure.status for failure in evidence.failures} <= {503, 504}
        check(gateway, "killall", evidence)


def test_a_node_that_lost_its_disk_is_replaced_and_has_everything_again(
    system: System, tmp_path: Path
) -> None:
    *others, lost = system.nodes.nodes
    with system.gateway(conf=system.conf(request_timeout_s=REQUEST_TIMEOUT_S)) as gateway:
        create_volume(gateway, "replaced")
        # All that they write meanwhile is repaired and fetched, on the same two cores.
        with load(tmp_path, "replaced", [gateway], writers=2, pause_s=1.0) as writers:
            writers.await_writes(20)
            system.nodes.kill(lost)
            system.nodes.wipe(lost)
            writers.await_writes(10)
            membership.replace(system.nodes.site, lost.name)  # as an operator does it
            writers.await_writes(10)
            evidence = writers.stop()
        assert_right(evidence)
        maintenance.repair(system.nodes.site, keyspace=system.keyspace)
        check(gateway, "replaced", evidence)
        every = _rows(system, system.nodes.nodes)
        system.nodes.kill(*others)
        assert_refuses(gateway, "replaced")  # a third is no quorum, though it has everything
        assert _rows(system, [lost]) == every
        system.nodes.start()
        await_recovery(gateway, "replaced")


def _rows(system: System, nodes: Sequence[Node]) -> set[tuple[object, ...]]:
    """The keys of all rows of cuboids that some nodes have, by asking each of them."""
    cql = (
        "SELECT channel, pyramid, level, t, bucket, morton, kind, write_id, part "
        f"FROM {system.keyspace}.cuboids"
    )

    async def read(driver: Driver) -> set[tuple[object, ...]]:
        found: set[tuple[object, ...]] = set()
        for node in nodes:
            found.update(await driver.run(cql, address=node.client_address))
        return found

    return system.run(read)


@pytest.mark.slow
def test_a_node_that_hangs_makes_requests_slower_but_none_fails(
    system: System, tmp_path: Path
) -> None:
    with system.gateway() as gateway:
        create_volume(gateway, "hangs")
        with load(tmp_path, "hangs", [gateway]) as writers:
            writers.await_writes(20)
            with system.nodes.paused(system.nodes.nodes[1]):
                time.sleep(PAUSE_S)
            writers.await_writes(20)
            evidence = writers.stop()
        assert_right(evidence)
        assert evidence.slowest_s < SLOWEST_S
        check(gateway, "hangs", evidence)


@pytest.mark.slow
def test_a_rolling_restart_fails_no_request(system: System, tmp_path: Path) -> None:
    with system.gateway() as gateway:
        create_volume(gateway, "rolling")
        with load(tmp_path, "rolling", [gateway]) as writers:
            writers.await_writes(20)
            operations.rolling_restart(system.nodes.site)
            writers.await_writes(20)
            evidence = writers.stop()
        assert_right(evidence)
        check(gateway, "rolling", evidence)


@pytest.mark.slow
@pytest.mark.parametrize("away", [2, 3])
def test_without_a_quorum_of_nodes_all_is_refused_until_they_are_back(
    system: System, tmp_path: Path, away: int
) -> None:
    token = f"hang{away}"
    with system.gateway(conf=system.conf(request_timeout_s=REQUEST_TIMEOUT_S)) as gateway:
        create_volume(gateway, token)
        with load(tmp_path, token, [gateway]) as writers:
            writers.await_writes(10)
            with system.nodes.paused(*system.nodes.nodes[:away]):
                assert_refuses(gateway, token)
            await_recovery(gateway, token)
            writers.await_writes(10)
            evidence = writers.stop()
        assert evidence.wrong_reads == []
        assert {failure.status for failure in evidence.failures} <= {503, 504}
        check(gateway, token, evidence)
