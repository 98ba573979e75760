"""Nodes from a command line to up and normal, watched all the way.

Seeds come first, since the others ask them; then the rest, a few at a time. A node that ends on its
way is told with what it said, at once and not when the time is over.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from ndcass.cluster import process, ring
from ndcass.cluster.layout import token_option
from ndcass.cluster.ring import UP_AND_NORMAL
from ndcass.cluster.site import Site, write_files
from ndcass.cluster.spec import Node
from ndcass.errors import ClusterError

_POLL_S = 0.25
_VIEW_POLL_S = 1.0


class NodeFailed(ClusterError):
    """A node did not start; `log` is what it said last."""

    def __init__(self, node: Node, reason: str) -> None:
        super().__init__(f"node {node.name} {reason}; its log is {node.folder / 'logs'}")
        self.node = node.name
        self.log = process.log_tail(node)


def founding_options(tokens: Sequence[int]) -> tuple[str, ...]:
    """Options for the very first start of the first nodes: no data to fetch, tokens as dealt.

    They are in no file: a node that loses its disk must not start empty, as if it were new.
    """
    return (token_option(tokens), "-Dcassandra.auto_bootstrap=false")


def start_nodes(
    site: Site, nodes: Sequence[Node], options: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Start nodes that do not run, and wait until all of them take CQL.

    Parameters
    ----------
    options : mapping, optional
        JVM options for this start alone, by the node's name.

    Raises
    ------
    NodeFailed
        If one ends, or is not there in time. The others are left as they are.
    """
    options = options or {}
    launched: dict[Node, float] = {}

    def launch(node: Node) -> None:
        launch_node(site, node, options.get(node.name, ()))
        launched[node] = time.monotonic() + site.cluster.start_timeout_s

    for seed in (node for node in nodes if node.is_seed):
        launch(seed)
        _watch(launched, lambda node: _talks(site, node), until=[seed])
    waiting = [node for node in nodes if not node.is_seed]
    busy = set(launched)
    while waiting or busy:
        busy = {node for node in launched if not _serves(site, node)}
        free = site.cluster.starts_at_once - sum(not node.is_seed for node in busy)
        for node in waiting[: max(0, free)]:
            launch(node)
            busy.add(node)
        waiting = waiting[max(0, free) :]
        _check(launched, busy)
        time.sleep(_POLL_S)
    for node in launched:
        site.report(f"{node.name}: takes CQL on {node.client_address}:{site.cluster.ports.native}")


def join_node(site: Site, node: Node, options: Sequence[str] = ()) -> None:
    """Start a node that fetches its share of the data before it takes part.

    Raises
    ------
    NodeFailed
        If it ends or takes too long.
    """
    launch_node(site, node, options)
    deadline = time.monotonic() + site.cluster.join_timeout_s
    _watch({node: deadline}, lambda node: _serves(site, node), until=[node])


def launch_node(site: Site, node: Node, options: Sequence[str] = ()) -> None:
    """Write the files of a node and start its process.

    Raises
    ------
    ClusterError
        If somebody else listens where it wants to.
    """
    for address, port in ring.sockets(site.cluster, node):
        if ring.accepts(address, port):
            raise ClusterError(
                f"node {node.name} cannot have {address}:{port}: another process listens there"
            )
    write_files(site, node)
    started = process.start(node, site.distribution.java, environ=site.environ, options=options)
    site.report(f"{node.name}: started on {node.address} as process {started.pid}")


def await_agreement(site: Site, nodes: Sequence[Node]) -> None:
    """Wait until each of the nodes sees all of them up and normal.

    Raises
    ------
    NodeFailed
        If one ends meanwhile, or they do not agree in time.
    """
    deadline = time.monotonic() + site.cluster.start_timeout_s
    for observer in nodes:
        while missing := _not_seen(site, observer, nodes):
            _check(dict.fromkeys(nodes, deadline), ())
            if time.monotonic() > deadline:
                raise NodeFailed(observer, f"does not see {', '.join(missing)} up and normal")
            time.sleep(_VIEW_POLL_S)
    site.report(f"{len(nodes)} nodes are up and normal, as seen from each of them")


def _not_seen(site: Site, observer: Node, nodes: Sequence[Node]) -> list[str]:
    seen = ring.view_from(observer, site.distribution, site.environ)
    return [node.name for node in nodes if seen.get(node.address) != UP_AND_NORMAL]


def _talks(site: Site, node: Node) -> bool:
    return ring.accepts(node.address, site.cluster.ports.storage)


def _serves(site: Site, node: Node) -> bool:
    return ring.accepts(node.client_address, site.cluster.ports.native)


def _watch(
    launched: Mapping[Node, float], is_done: Callable[[Node], bool], *, until: Sequence[Node]
) -> None:
    """Wait for some of the nodes while all of them are watched."""
    while not all(is_done(node) for node in until):
        _check(launched, until)
        time.sleep(_POLL_S)


def _check(launched: Mapping[Node, float], unfinished: Sequence[Node] | set[Node]) -> None:
    """Every node runs, and none is late that has not finished."""
    for node, deadline in launched.items():
        if process.running(node) is None:
            raise NodeFailed(node, "ended while it was starting")
        if node in unfinished and time.monotonic() > deadline:
            raise NodeFailed(node, "did not start in time")
