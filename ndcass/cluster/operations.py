"""Stopping, starting and restarting nodes of this machine without anybody noticing.

Stopping is drain, then the signal to end, then waiting; a start is over when every node that runs
sees the node up and normal and it answers queries. One node at a time: with the next one away as
well, quorums fail.
"""

from collections.abc import Sequence

from ndcass.cluster import nodetool, process
from ndcass.cluster.access import refuse_no_password
from ndcass.cluster.site import Site, empty_directories
from ndcass.cluster.spec import Node
from ndcass.cluster.startup import await_agreement, start_nodes
from ndcass.cluster.state import load_state, sole_operator
from ndcass.cluster.steps import await_cql, members, refuse_if_away, running_nodes, step
from ndcass.errors import ClusterError

# Everything in memory goes to disk: at most a few hundred MiB.
DRAIN_TIMEOUT_S = 300.0
_TWO_AWAY = "with two nodes away there may be no quorum"


def stop(site: Site, name: str, *, force: bool = False) -> None:
    """Stop a node: drain it, ask it to end, wait.

    Parameters
    ----------
    force : bool
        Also if another node is away, or the node does not answer.

    Raises
    ------
    ClusterError
        If it is not done.
    """
    node = site.cluster.node(name)
    with sole_operator(site.cluster):
        if process.running(node) is None:
            site.report(f"{name}: does not run")
            return
        if not force:
            refuse_if_away(site, _others(site, node), why=f"{_TWO_AWAY}; --force does it anyway")
        _stop(site, node, force=force)


def start(site: Site, name: str) -> None:
    """Start a node that took part before, and wait until the others see it and it answers.

    Raises
    ------
    ClusterError
        If it must not start, or does not.
    """
    node = site.cluster.node(name)
    refuse_no_password(site)
    with sole_operator(site.cluster):
        if process.running(node) is not None:
            site.report(f"{name}: runs already")
            return
        _refuse_unfit(site, node)
        _start(site, node)


def rolling_restart(site: Site, names: Sequence[str] = (), *, force: bool = False) -> None:
    """Restart nodes one after the other, by default all.

    Parameters
    ----------
    force : bool
        Kill a node that cannot be drained.

    Raises
    ------
    ClusterError
        If a node is away before the first is touched, or one does not come back; the rest is then
        left as it is.
    """
    cluster = site.cluster
    refuse_no_password(site)
    nodes = [cluster.node(name) for name in names] or members(site)
    with sole_operator(cluster):
        refuse_if_away(site, members(site), why=f"a restart takes one more away, and {_TWO_AWAY}")
        for n, node in enumerate(nodes, start=1):
            site.report(f"{node.name}: restarting, {n} of {len(nodes)}")
            _stop(site, node, force=force)
            _start(site, node)


def _others(site: Site, node: Node) -> list[Node]:
    return members(site, but=node)


def _refuse_unfit(site: Site, node: Node) -> None:
    """Only a node that took part, and has its data still, may simply start."""
    record = load_state(site.cluster).nodes.get(node.name)
    if record is None or not record.has_joined:
        raise ClusterError(
            f"node {node.name} never took part: `ndcass cluster add-node` lets it fetch its share"
        )
    for path in empty_directories(node):
        raise ClusterError(
            f"node {node.name} had data in {path}, which is empty now: mount what belongs there, "
            "or replace the node (`ndcass cluster replace`)"
        )


def _stop(site: Site, node: Node, *, force: bool) -> None:
    """Drain, end, wait."""
    name = node.name
    advice = f"`ndcass cluster stop {name} --force` ends it; its commit log keeps what it has."
    try:
        with step(site, node, then=advice):
            nodetool.ask(site, node, "drain", timeout_s=DRAIN_TIMEOUT_S)
            site.report(f"{name}: drained")
    except ClusterError as error:
        if not force:
            raise
        site.report(f"{name}: not drained: {error}")
    by_itself = process.stop(node, timeout_s=site.cluster.stop_timeout_s)
    site.report(f"{name}: stopped" if by_itself else f"{name}: killed, it did not end by itself")


def _start(site: Site, node: Node) -> None:
    """Start, and wait until all that run see each other and it answers."""
    name = node.name
    advice = f"Nothing else was touched; when the reason is gone: `ndcass cluster start {name}`."
    with step(site, node, then=advice):
        start_nodes(site, [node])
        await_cql(site, node)
        await_agreement(site, running_nodes(site))
