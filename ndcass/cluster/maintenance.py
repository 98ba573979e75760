"""Chores of nodes that run: flush, compact, clean up, repair. One node after the other."""

import asyncio
from collections.abc import Mapping, Sequence

from ndcass.cluster import nodetool
from ndcass.cluster.access import superuser_settings
from ndcass.cluster.site import Site
from ndcass.cluster.spec import Node
from ndcass.cluster.state import sole_operator
from ndcass.cluster.steps import members, refuse_if_away, running_nodes, step
from ndcass.errors import ClusterError, ConfigError
from ndcass.store.cassandra.driver import Driver
from ndcass.store.cassandra.monitoring import ROLES_KEYSPACE, replicas_by_keyspace

_AGAIN = "What was done stays done; the command may be given again."


def flush(site: Site, names: Sequence[str] = (), *, keyspace: str | None = None) -> None:
    """Write what nodes hold in memory to their disks.

    Raises
    ------
    ClusterError
        If a node does not run, or fails.
    """
    _chore(site, "flush", names, keyspace)


def compact(site: Site, names: Sequence[str] = (), *, keyspace: str | None = None) -> None:
    """Make few large sstables of many, whatever the strategy thinks.

    Raises
    ------
    ClusterError
        If a node does not run, or fails.
    """
    _chore(site, "compact", names, keyspace)


def cleanup(site: Site, names: Sequence[str] = (), *, keyspace: str | None = None) -> None:
    """Drop what nodes keep of ranges that others have taken over.

    Raises
    ------
    ClusterError
        If not all nodes are up and normal: a node that is on its way takes ranges over only when it
        has arrived.
    """
    with sole_operator(site.cluster):
        refuse_if_away(site, members(site), why="ranges may be on their way to other nodes")
        clean(site, chosen(site, names), keyspace=keyspace)


def clean(site: Site, nodes: Sequence[Node], *, keyspace: str | None = None) -> None:
    """As `cleanup`, for who works on the cluster already and has looked at it."""
    _each(site, nodes, ["cleanup", *_if_given(keyspace)])


def repair(site: Site, *, keyspace: str | None = None) -> None:
    """Bring all copies to the same state: every node repairs the ranges that it is the first of.

    Parameters
    ----------
    keyspace : str, optional
        By default all, with that of the roles where there are some.

    Raises
    ------
    ClusterError
        If a node is away: what it missed would stay missing.
    """
    with sole_operator(site.cluster):
        refuse_if_away(site, members(site), why="a repair needs all copies")
        repair_all(site, keyspace=keyspace)


def repair_all(site: Site, *, keyspace: str | None = None) -> None:
    """As `repair`, for who works on the cluster already and has looked at it."""
    known = asyncio.run(keyspaces_of(site))
    if keyspace is not None and keyspace not in known:
        raise ConfigError(f"there is no keyspace {keyspace!r}; there is {', '.join(sorted(known))}")
    for name in [keyspace] if keyspace is not None else sorted(known):
        nodes = holders(site, known[name])
        if sum(known[name].values()) > 1:
            _each(site, nodes, ["repair", "--full", "-pr", name])
        else:
            site.report(f"keyspace {name}: has one copy only, nothing to compare")


def repair_survivors(site: Site, nodes: Sequence[Node], keyspace: str) -> None:
    """Bring the copies that these nodes have to the same state, while another one is down.

    All ranges of each, not only those that it is the first of: the first of some is the one that is
    down.
    """
    _each(site, nodes, ["repair", "--full", "--force", keyspace])


async def keyspaces_of(site: Site) -> dict[str, dict[str, int]]:
    """Copies by data centre of every keyspace, with that of the roles where they are used."""
    driver = await Driver.connect(superuser_settings(site))
    try:
        known = await replicas_by_keyspace(driver)
    finally:
        await driver.close()
    is_used = site.cluster.security.authentication
    return {name: on for name, on in known.items() if is_used or name != ROLES_KEYSPACE}


def holders(site: Site, replicas: Mapping[str, int]) -> list[Node]:
    """The nodes that may keep a keyspace with these copies."""
    tiers = [tier for tier in site.cluster.tiers if tier.name in replicas]
    described = [node for tier in tiers or site.cluster.tiers for node in tier.nodes]
    return [node for node in members(site) if node in described]


def chosen(site: Site, names: Sequence[str]) -> list[Node]:
    """The nodes of those names, by default all.

    Raises
    ------
    ConfigError
        If one does not exist.
    ClusterError
        If one does not run.
    """
    nodes = [site.cluster.node(name) for name in names] or members(site)
    running = running_nodes(site)
    for node in nodes:
        if node not in running:
            raise ClusterError(f"node {node.name} does not run")
    return nodes


def _chore(site: Site, command: str, names: Sequence[str], keyspace: str | None) -> None:
    nodes = chosen(site, names)
    if keyspace is not None:
        known = asyncio.run(keyspaces_of(site))
        if keyspace not in known:
            there = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"there is no keyspace {keyspace!r}; there is {there}")
        nodes = [node for node in nodes if node in holders(site, known[keyspace])]
    _each(site, nodes, [command, *_if_given(keyspace)])


def _each(site: Site, nodes: Sequence[Node], arguments: Sequence[str]) -> None:
    """One after the other: each takes a part of the disks' and the network's time."""
    for node in nodes:
        with step(site, node, then=_AGAIN):
            nodetool.ask(site, node, *arguments, timeout_s=site.cluster.join_timeout_s)
        site.report(f"{node.name}: {' '.join(arguments)}: done")


def _if_given(keyspace: str | None) -> list[str]:
    return [] if keyspace is None else [keyspace]
