"""How a cluster is: what every node says of itself, and how they see each other.

Asked for by CQL. Only where that leaves open whether a node is up, since it says nothing, the
others are asked by ``nodetool`` how they see it; nodes on other machines cannot be asked so.
"""

import contextlib
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ndcass.cluster import nodetool, process, ring
from ndcass.cluster.ring import UP_AND_NORMAL
from ndcass.cluster.site import Site
from ndcass.cluster.spec import Cluster, Node, Role
from ndcass.concurrency import run_cpu
from ndcass.errors import StoreError
from ndcass.store.cassandra.driver import ConnectSettings, Driver
from ndcass.store.cassandra.monitoring import (
    NodeFacts,
    buckets_to_fold,
    node_facts,
    view_by_gossip,
)

# A node that hangs must not hold up the news about it.
REQUEST_TIMEOUT_S, CONNECT_TIMEOUT_S, TOOL_TIMEOUT_S = 4.0, 3.0, 20.0
NOT_SEEN = "-"
"""How a node is seen that an observer does not know at all."""

_RING = 1 << 64


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node."""

    name: str
    address: str
    tier: str
    role: str
    rack: str
    seen: Mapping[str, str]
    """By the name of the observer: ``UN`` is up and normal, ``DN`` down, ``UJ`` joining, ..."""
    facts: NodeFacts | None
    """What it says of itself; None if it does not answer."""
    owns: float | None
    """Its share of its tier's ring, from 0 to 1, before replicas are counted."""
    problem: str = ""
    """Why it does not answer."""

    @property
    def is_normal(self) -> bool:
        """Whether it answers, and everybody who answers sees it up and normal."""
        return self.facts is not None and set(self.seen.values()) == {UP_AND_NORMAL}


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """All nodes that are described, and what else was found."""

    cluster: str
    nodes: tuple[NodeStatus, ...]
    strangers: tuple[str, ...]
    """Addresses of nodes that others see and nobody described."""
    to_fold: Mapping[str, int] = field(default_factory=dict)
    """Buckets that wait to be folded or swept, by keyspace."""
    to_drain: Mapping[str, int] = field(default_factory=dict)
    """Bytes of writes that wait in an ingest tier to be drained, all copies, by keyspace."""

    @property
    def schemas(self) -> frozenset[str]:
        """Versions of the schema; more than one for longer than seconds is a fault."""
        return frozenset(node.facts.schema for node in self.nodes if node.facts is not None)

    @property
    def is_healthy(self) -> bool:
        """Whether there is nothing to do."""
        return (
            all(node.is_normal for node in self.nodes)
            and len(self.schemas) == 1
            and not self.strangers
        )


async def cluster_status(
    cluster: Cluster, settings: ConnectSettings, *, site: Site | None = None
) -> ClusterStatus:
    """Ask all nodes.

    Parameters
    ----------
    settings : ConnectSettings
        How to reach them by CQL.
    site : Site, optional
        With it, nodes of this machine are asked by ``nodetool``, too, where CQL cannot say.
    """
    facts, problems, to_fold = await _facts(cluster, settings)
    names = {node.address: node.name for node in cluster.nodes}
    views = {names[address]: view_by_gossip(one, facts) for address, one in facts.items()}
    if site is not None and any(state != UP_AND_NORMAL for state in _states(cluster, views)):
        views |= await run_cpu(_views_by_tool, site, facts.keys())
    strangers = {address for view in views.values() for address in view} - names.keys()
    shares = ring_shares(cluster, {names[address]: one.tokens for address, one in facts.items()})
    nodes = []
    for node in cluster.nodes:
        tier = cluster.tier_of(node)
        nodes.append(
            NodeStatus(
                name=node.name,
                address=node.address,
                tier=tier.name,
                role=tier.role.value,
                rack=node.rack,
                seen={who: view.get(node.address, NOT_SEEN) for who, view in views.items()},
                facts=facts.get(node.address),
                owns=shares.get(node.name),
                problem=problems.get(node.address, ""),
            )
        )
    return ClusterStatus(
        cluster.name,
        tuple(nodes),
        tuple(sorted(strangers)),
        to_fold=to_fold,
        to_drain=_to_drain(cluster, facts),
    )


def _to_drain(cluster: Cluster, facts: Mapping[str, NodeFacts]) -> dict[str, int]:
    """What cuboids take in the ingest tiers; whatever was drained is not there any more."""
    found: dict[str, int] = {}
    for tier in cluster.tiers:
        if tier.role is not Role.INGEST:
            continue
        for node in tier.nodes:
            one = facts.get(node.address)
            for keyspace, size in (one.cuboid_bytes if one else {}).items():
                found[keyspace] = found.get(keyspace, 0) + size
    return found


def ring_shares(cluster: Cluster, tokens: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Share of every node in the ring of its tier, by its name; of tiers whose tokens are known.

    Keyspaces live in one tier each, and the nodes of another take no part in them.
    """
    shares: dict[str, float] = {}
    for tier in cluster.tiers:
        if not all(tokens.get(node.name) for node in tier.nodes):
            continue
        owned = sorted((token, node.name) for node in tier.nodes for token in tokens[node.name])
        shares |= dict.fromkeys((node.name for node in tier.nodes), 0.0)
        before = itertools.chain([owned[-1]], owned)
        for (last, _), (token, name) in zip(before, owned, strict=False):
            shares[name] += ((token - last) % _RING or _RING) / _RING
    return shares


async def _facts(
    cluster: Cluster, settings: ConnectSettings
) -> tuple[dict[str, NodeFacts], dict[str, str], dict[str, int]]:
    """What nodes say of themselves and why others do not, by address; what waits to be folded."""
    quick = replace(
        settings,
        request_timeout_s=REQUEST_TIMEOUT_S,
        connect_timeout_s=CONNECT_TIMEOUT_S,
    )
    facts: dict[str, NodeFacts] = {}
    problems: dict[str, str] = {}
    listening = [
        node
        for node in cluster.nodes
        if await run_cpu(ring.accepts, node.client_address, cluster.ports.native)
    ]
    problems |= {node.address: _absence(node) for node in cluster.nodes if node not in listening}
    if not listening:
        return facts, problems, {}
    points = tuple(node.client_address for node in listening)
    try:
        driver = await Driver.connect(replace(quick, contact_points=points))
    except StoreError as error:
        return facts, problems | {node.address: str(error) for node in listening}, {}
    to_fold: dict[str, int] = {}
    try:
        for node in listening:
            try:
                facts[node.address] = await node_facts(driver, node.client_address)
            except StoreError as error:
                problems[node.address] = str(error)
        with contextlib.suppress(StoreError):  # too few nodes answer, which is said already
            to_fold = await buckets_to_fold(driver, _who_holds(cluster, listening))
    finally:
        await driver.close()
    return facts, problems, to_fold


def _who_holds(cluster: Cluster, nodes: Sequence[Node]) -> dict[str, str]:
    """By keyspace, the address for CQL of one of some nodes whose tier holds it."""
    first = {cluster.tier_of(node).name: node.client_address for node in reversed(nodes)}
    return {one.name: first[one.tier] for one in cluster.keyspaces if one.tier in first}


def _absence(node: Node) -> str:
    """Why a node does not take CQL, as far as that can be seen from here."""
    if not node.is_local:
        return "does not take CQL"
    runs = process.running(node)
    return "does not run" if runs is None else f"process {runs.pid} does not take CQL"


def _states(cluster: Cluster, views: Mapping[str, Mapping[str, str]]) -> list[str]:
    return [view.get(node.address, NOT_SEEN) for view in views.values() for node in cluster.nodes]


def _views_by_tool(site: Site, answering: Collection[str]) -> dict[str, dict[str, str]]:
    """How nodes see all, by the observer's name: those that answer queries, else all that run.

    Who hangs answers neither queries nor this, and would only take time.
    """
    running = [node for node in site.cluster.nodes if process.running(node) is not None]
    asked = [node for node in running if node.address in answering] or running
    views = nodetool.views_from(site, asked, timeout_s=TOOL_TIMEOUT_S)
    return {node.name: view for node, view in views.items()}
