"""What nodes say about themselves over CQL: their virtual and system tables, nothing of ours."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ndcass.errors import StoreError
from ndcass.store.cassandra.driver import ConnectSettings, Driver

ROLES_KEYSPACE = "system_auth"
"""The only one of Cassandra's own that holds what users put there."""

_COMPACTIONS = "CompactionExecutor"
_NORMAL = "NORMAL"
# A node counts its heartbeats about once a second, and gossip brings them to the others in a few.
# One who lags further behind has not been heard of for as long as makes Cassandra think it is down.
MOST_BEATS_BEHIND = 20


@dataclass(frozen=True, slots=True)
class Gossip:
    """How a node sees another one (or itself)."""

    address: str
    status: str
    """``NORMAL``, ``BOOT``, ``LEAVING``, ``LEFT``, ``shutdown``, ..."""
    generation: int
    """When the other one started, in seconds since 1970."""
    heartbeat: int
    load_bytes: int


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What one node says of itself, and how it sees the others."""

    address: str
    version: str
    schema: str
    uptime_s: float
    tokens: tuple[int, ...]
    load_bytes: int
    compactions_running: int
    compactions_waiting: int
    hint_files: int
    """Files of writes that it keeps for nodes which were away."""
    gossip: Mapping[str, Gossip]
    cuboid_bytes: Mapping[str, int] = field(default_factory=dict)
    """What its files of cuboids take, by keyspace; what is in its memory only does not count."""


async def node_facts(driver: Driver, address: str) -> NodeFacts:
    """Ask the node that takes CQL at an address.

    Raises
    ------
    StoreError
        If it does not answer.
    """

    async def rows(cql: str, *values: object) -> Sequence[tuple[Any, ...]]:  # of any columns
        return await driver.run(cql, values, address=address)

    [(own, version, schema, tokens)] = await rows(
        "SELECT broadcast_address, release_version, schema_version, tokens FROM system.local"
    )
    found = await rows(
        "SELECT address, status, status_with_port, generation, heartbeat, load "
        "FROM system_views.gossip_info"
    )
    gossip = {
        str(seen): Gossip(
            str(seen), _status(new or old or ""), int(born), int(beat), round(float(load or 0))
        )
        for seen, old, new, born, beat, load in found
    }
    kinds = await rows("SELECT kind FROM system_views.sstable_tasks")
    [(waiting,)] = await rows(
        "SELECT pending_tasks FROM system_views.thread_pools WHERE name = %s", _COMPACTIONS
    )
    hints = await rows("SELECT files FROM system_views.pending_hints")
    usage = await rows(
        "SELECT keyspace_name, mebibytes FROM system_views.disk_usage "
        "WHERE table_name = 'cuboids' ALLOW FILTERING"
    )
    return NodeFacts(
        address=str(own),
        version=str(version),
        schema=str(schema),
        uptime_s=max(0.0, time.time() - gossip[str(own)].generation),
        tokens=tuple(sorted(int(token) for token in tokens)),
        load_bytes=gossip[str(own)].load_bytes,
        compactions_running=len(kinds),
        compactions_waiting=int(waiting),
        hint_files=sum(int(files) for (files,) in hints),
        gossip=gossip,
        cuboid_bytes={str(keyspace): int(mebibytes) << 20 for keyspace, mebibytes in usage},
    )


async def buckets_to_fold(driver: Driver, addresses: Mapping[str, str]) -> dict[str, int]:
    """How many buckets wait to be folded or swept, by keyspace; of keyspaces with our tables.

    Parameters
    ----------
    addresses : mapping
        By keyspace, a node to ask: one whose data centre holds it. Any node, where there is none.
    """
    found = await driver.run(
        "SELECT keyspace_name FROM system_schema.tables "
        "WHERE table_name = 'fold_queue' ALLOW FILTERING"
    )
    counts: dict[str, int] = {}
    for (keyspace,) in found:
        # Not from a client, and checked by those who made it: no more than letters and digits.
        cql = f"SELECT COUNT(*) FROM {keyspace}.fold_queue"
        [(count,)] = await driver.run(cql, address=addresses.get(str(keyspace), ""))
        counts[str(keyspace)] = int(count)
    return counts


async def is_answering(settings: ConnectSettings, address: str) -> bool:
    """Whether the node at an address answers a query, and not only a knock at its port."""
    try:
        driver = await Driver.connect(replace(settings, contact_points=(address,)))
        try:
            return bool(await driver.run("SELECT key FROM system.local", address=address))
        finally:
            await driver.close()
    except StoreError:
        return False


def view_by_gossip(observer: NodeFacts, others: Mapping[str, NodeFacts]) -> dict[str, str]:
    """How a node sees all: address -> two letters as ``nodetool status`` has them.

    Whether a node that says nothing itself (it is not among `others`) is up cannot be told so: its
    first letter is ``?``.
    """
    return {
        address: _liveness(seen, others.get(address)) + _mode(seen.status)
        for address, seen in observer.gossip.items()
        if seen.status not in _GONE
    }


async def replicas_by_keyspace(driver: Driver) -> dict[str, dict[str, int]]:
    """Copies in each data centre of every keyspace; of Cassandra's own that of the roles alone."""
    found = await driver.run("SELECT keyspace_name, replication FROM system_schema.keyspaces")
    return {
        str(name): {
            centre: int(count) for centre, count in replication.items() if centre != "class"
        }
        for name, replication in found
        if name == ROLES_KEYSPACE or not name.startswith("system")
    }


_GONE = ("LEFT", "REMOVED", "removed")
_MODES = {
    _NORMAL: "N",
    "shutdown": "N",
    "LEAVING": "L",
    "MOVING": "M",
    "BOOT": "J",
    "BOOT_REPLACE": "J",
}


def _status(value: str) -> str:
    return value.partition(",")[0]


def _mode(status: str) -> str:
    return _MODES.get(status, "?")


def _liveness(seen: Gossip, own: NodeFacts | None) -> str:
    if seen.status == "shutdown":
        return "D"
    if own is None:
        return "?"
    itself = own.gossip[own.address]
    heard = seen.generation == itself.generation
    return "U" if heard and itself.heartbeat - seen.heartbeat <= MOST_BEATS_BEHIND else "D"
